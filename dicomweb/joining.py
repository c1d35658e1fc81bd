"""Which orders a study belongs to: asks the store for those that carry its accession number.

docs/decisions/0006-images.md (matching, quarantine)
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from dicomweb import decisions, identities
from dicomweb.attributes import text
from dicomweb.matching import (
    Evidence,
    Join,
    Matching,
    Traits,
    chosen,
    compare,
    is_of_two,
    judged,
    judged_beside,
    of_images,
    of_patient,
    together,
    with_links,
)
from dicomweb.tables import Row
from resources.codes import CANONICAL
from resources.identifiers import accession_number as given_number
from resources.identifiers import is_accession
from resources.json import Json
from resources.outcomes import Conflict, Gone, NotFound
from resources.policies import where_of
from resources.search_values import escape
from store import policies
from store.access import Draft, Resources, Version, Work

ORDERS_MAX = 100
"""An accession number that more orders of one hospital carry tells none of them: the study is kept apart."""
REPLACED_MAX = 8
"""Patients of a chain of replacements."""
NUMBERS_MAX = 8
"""Accession numbers of one study that orders are looked for by."""
NOT_AN_ORDER = frozenset({"entered-in-error", "revoked", "draft"})
"""Statuses of a ServiceRequest that images are not joined to."""


_OPEN = frozenset({"active", "on-hold"})


def join(uow: Work, resources: Resources, row: Row) -> Join:
    """The orders of the same hospital that carry one of the study's accession numbers, and whether their patient is the
    images'. Among several patients the one that agrees is taken, with all of that patient's orders."""
    told = identities.of_study(uow.connection, row)
    decision = decisions.of_study(uow.connection, row.pk)
    if decision is not None:
        return _decided(uow, resources, row, decision, told)
    said = [one for _, one in told]
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


def _decided(
    uow: Work, resources: Resources, row: Row, decision: Row, told: Sequence[tuple[int, Json]]
) -> Join:
    """What a person decided holds for what that person could see; what came later must be like it."""
    seen_numbers = decisions.covered(decision)
    seen = [of_images(one) for number, one in told if number in seen_numbers]
    later = [of_images(one) for number, one in told if number not in seen_numbers]
    action = str(decision.action)
    if action == decisions.DETACH:
        is_mixed = any(is_of_two([one, *seen]) for one in later)
        return Join(Matching.MISMATCH if is_mixed else Matching.UNMATCHED, decision=action)
    reference, patient = current_patient(resources, decision.patient)
    if patient is None:
        return Join(Matching.UNMATCHED, decision=action)
    traits = known_traits(uow, resources, row, reference, patient, [*seen, *later])
    matching = judged_beside(later, seen, traits)
    evidence = together([compare(one, traits) for one in (*seen, *later)])
    order = order_of(resources, decision.order_id)
    orders = () if order is None else (order.reference,)
    system = _system_of(order, [accession_number(order)]) if order is not None else ""
    subject = None if matching is Matching.MISMATCH else {"reference": reference}
    return Join(matching, orders, subject, system, evidence, action)


def order_of(resources: Resources, id_: str) -> Version | None:
    """An order that images can be joined to."""
    if not id_:
        return None
    try:
        order = resources.read("ServiceRequest", id_)
    except (NotFound, Gone):
        return None
    return None if order.json().get("status") in NOT_AN_ORDER else order


def known_traits(
    uow: Work, resources: Resources, row: Row, reference: str, patient: Json, images: Sequence[Traits]
) -> Traits:
    """The patient's traits, with the numbers of these images that people have said to be hers or another's."""
    numbers = [number for one in images for number in (*one.numbers, *one.others)]
    whose, _ = current_patient(resources, reference)
    said = [
        (number, current_patient(resources, other)[0] == whose)  # records that were merged are one person
        for number, other in decisions.links(uow.connection, row.owner_id, numbers)
    ]
    hers, others = ([number for number, is_hers in said if is_hers is wanted] for wanted in (True, False))
    return with_links(of_patient(patient), hers, others)


def current_patient(resources: Resources, reference: str) -> tuple[str, Json | None]:
    """The Patient behind a reference, or the one that replaced it (R4 Patient.link)."""
    for _ in range(REPLACED_MAX):
        patient = patient_of(resources, reference)
        following = next((str(link.get("other", {}).get("reference", "")) for link in (patient or {}).get("link", [])
                          if link.get("type") == "replaced-by"), "")
        if not following:
            return reference, patient
        reference = following
    return reference, None


def _orders(resources: Resources, owner: str, numbers: Sequence[str]) -> list[Version]:
    """Each order once, by id; more than ORDERS_MAX stand for any number."""
    found: dict[str, Version] = {}
    for number in numbers[:NUMBERS_MAX]:
        carrying = (
            order
            for order in resources.each("ServiceRequest", [("identifier", escape(number))], owner=owner,
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
    return judged(images, known_traits(uow, resources, row, subject, patient, images))


def patient_of(resources: Resources, reference: str) -> Json | None:
    """The Patient that a subject refers to; None where it is none of this server."""
    type_name, _, id_ = reference.partition("/")
    if type_name != "Patient" or not id_:
        return None
    try:
        return resources.read("Patient", id_.partition("/")[0]).json()
    except (NotFound, Gone):
        return None


WARNING = f"{CANONICAL}/CodeSystem/order-warning"
"""Of ServiceRequest.meta.tag: what an order was accepted with, by policy."""


def check_number(uow: Work, draft: Draft) -> None:
    """An accession number that is open for another patient of the same hospital is refused at order time (409), or
    marked, as the policy `duplicate-accession` says."""
    order = draft.resource
    if order is None or order.get("status") not in _OPEN or uow.caller.is_system:
        return
    before = draft.before.json() if draft.before is not None and not draft.before.deleted else {}
    known = {one.get("value") for one in before.get("identifier", [])} if before.get("status") in _OPEN else set()
    numbers = [
        str(one["value"]).strip() for one in order.get("identifier", [])
        if one.get("value") and is_accession(one) and one["value"] not in known
    ]
    owner = draft.before.owner if draft.before is not None else uow.caller.organization
    subject = str(order.get("subject", {}).get("reference", ""))
    if not any(number != given_number(draft.id) and _is_of_another(uow, owner, number, subject) for number in numbers):
        return
    if policies.value(uow, "duplicate-accession", where_of(order, owner)) == "refuse":
        raise Conflict(
            "The accession number is that of an open order of another patient", expression="ServiceRequest.identifier"
        )
    tags = order.setdefault("meta", {}).setdefault("tag", [])
    if not any(one.get("system") == WARNING for one in tags):
        tags.append({"system": WARNING, "code": "duplicate-accession",
                     "display": "The accession number is also that of an order of another patient"})


def _is_of_another(uow: Work, owner: str, number: str, subject: str) -> bool:
    uow.flush()
    resources = uow.acting_for(owner)
    whose, _ = current_patient(resources, subject)
    for order in resources.each("ServiceRequest", [("identifier", escape(number))], owner=owner, portion=ORDERS_MAX):
        other = str(order.json().get("subject", {}).get("reference", ""))
        is_open = order.json().get("status") in _OPEN and number in accession_numbers(order)
        if is_open and other != subject and current_patient(resources, other)[0] != whose:
            return True
    return False


def accession_numbers(order: Version) -> list[str]:
    """The values that may be the accession number of an order: its identifiers', whatever their type."""
    if order.deleted:
        return []
    return [
        str(identifier["value"]).strip() for identifier in order.json().get("identifier", []) if identifier.get("value")
    ]


def accession_number(order: Version) -> str:
    """The accession number of an order: typed so, else its first identifier; empty without any."""
    identifiers = [one for one in order.json().get("identifier", []) if one.get("value")]
    typed = [one for one in identifiers if is_accession(one)]
    return next((str(one["value"]).strip() for one in (*typed, *identifiers)), "")


def _system_of(order: Version, numbers: Sequence[str]) -> str:
    """The system under which the order has one of these numbers."""
    for identifier in order.json().get("identifier", []):
        if str(identifier.get("value", "")).strip() in numbers:
            return str(identifier.get("system", ""))
    return ""
