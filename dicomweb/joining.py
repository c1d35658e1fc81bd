"""Which orders a study belongs to: asks the store for those that carry its accession number.

docs/decisions/0006-images.md (matching, quarantine)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice

from dicomweb import identities
from dicomweb.attributes import text
from dicomweb.matching import Evidence, Join, Matching, Traits, chosen, is_of_two, judged, of_images, of_patient
from dicomweb.tables import Row
from resources.json import Json
from resources.outcomes import Gone, NotFound
from store.access import Resources, Version, Work

ORDERS_MAX = 100
"""An accession number that more orders of one hospital carry tells none of them: the study is kept apart."""
NUMBERS_MAX = 8
"""Accession numbers of one study that orders are looked for by."""
NOT_AN_ORDER = frozenset({"entered-in-error", "revoked", "draft"})
"""Statuses of a ServiceRequest that images are not joined to."""


def join(uow: Work, resources: Resources, row: Row) -> Join:
    """The orders of the same hospital that carry one of the study's accession numbers, and whether their patient is the
    images'. Among several patients the one that agrees is taken, with all of that patient's orders."""
    said = identities.of_study(uow.connection, row)
    images = [of_images(one) for one in said]
    numbers = list(dict.fromkeys(filter(None, (text(one, "00080050") for one in said))))
    alone = Matching.MISMATCH if is_of_two(images) else Matching.UNMATCHED
    found = _orders(resources, row.owner, numbers)
    if len(found) > ORDERS_MAX:
        return Join(Matching.MISMATCH)
    if not found:
        return Join(alone)
    by_subject: dict[str, list[Version]] = {}
    for order in found:
        by_subject.setdefault(str(order.json().get("subject", {}).get("reference", "")), []).append(order)
    verdicts = {subject: _judged(uow, resources, row, subject, images) for subject in by_subject}
    matching, subjects, evidence = chosen(verdicts)
    taken = sorted((order for subject in subjects for order in by_subject[subject]), key=lambda order: order.id)
    is_hers = len(subjects) == 1 and matching is not Matching.MISMATCH
    return Join(
        matching, tuple(order.reference for order in taken), {"reference": subjects[0]} if is_hers else None,
        _system_of(taken[0], numbers), evidence,
    )


def _orders(resources: Resources, owner: str, numbers: Sequence[str]) -> list[Version]:
    """Each order once, by id; more than ORDERS_MAX stand for any number."""
    found: dict[str, Version] = {}
    for number in numbers[:NUMBERS_MAX]:
        carrying = (
            order
            for order in resources.each("ServiceRequest", [("identifier", _token(number))], owner=owner,
                                        portion=ORDERS_MAX + 1)
            if order.json().get("status") not in NOT_AN_ORDER and number in accession_numbers(order)
        )
        found.update((order.id, order) for order in islice(carrying, ORDERS_MAX + 1))
    return sorted(found.values(), key=lambda order: order.id)


def _judged(
    uow: Work, resources: Resources, row: Row, subject: str, images: Sequence[Traits]
) -> tuple[Matching, Evidence]:
    patient = patient_of(resources, subject)
    if patient is None:
        return Matching.MISMATCH, {}
    return judged(images, of_patient(patient))


def patient_of(resources: Resources, reference: str) -> Json | None:
    """The Patient that a subject refers to; None where it is none of this server."""
    type_name, _, id_ = reference.partition("/")
    if type_name != "Patient" or not id_:
        return None
    try:
        return resources.read("Patient", id_.partition("/")[0]).json()
    except (NotFound, Gone):
        return None


def accession_numbers(order: Version) -> list[str]:
    """The values that may be the accession number of an order: its identifiers', whatever their type."""
    if order.deleted:
        return []
    return [
        str(identifier["value"]).strip() for identifier in order.json().get("identifier", []) if identifier.get("value")
    ]


def _system_of(order: Version, numbers: Sequence[str]) -> str:
    """The system under which the order has one of these numbers."""
    for identifier in order.json().get("identifier", []):
        if str(identifier.get("value", "")).strip() in numbers:
            return str(identifier.get("system", ""))
    return ""


def _token(value: str) -> str:
    """A value as a search parameter: what separates there is escaped (FHIR R4 §3.1.1.5.7)."""
    return re.sub(r"([\\,$|])", r"\\\1", value)
