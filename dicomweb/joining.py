"""Which orders a study belongs to: asks the store for those that carry its accession number.

docs/decisions/0006-images.md (matching, quarantine)
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import islice

from dicomweb import writes
from dicomweb.matching import Join, Matching
from dicomweb.tables import Row
from resources.outcomes import Gone, NotFound
from store.access import Resources, Version, Work

ORDERS_MAX = 100
"""An accession number that more orders of one hospital carry tells none of them: the study is kept apart."""
NOT_AN_ORDER = frozenset({"entered-in-error", "revoked", "draft"})
"""Statuses of a ServiceRequest that images are not joined to."""


def join(uow: Work, resources: Resources, row: Row) -> Join:
    """The orders of the same hospital that carry the accession number, and whether the patient is theirs."""
    if not row.accession_number:
        return Join(Matching.UNMATCHED)
    asked = [("identifier", _token(row.accession_number))]
    carrying = (
        order
        for order in resources.each("ServiceRequest", asked, owner=row.owner, portion=ORDERS_MAX + 1)
        if order.json().get("status") not in NOT_AN_ORDER and row.accession_number in accession_numbers(order)
    )
    found = sorted(islice(carrying, ORDERS_MAX + 1), key=lambda order: order.id)
    if len(found) > ORDERS_MAX:
        return Join(Matching.MISMATCH)
    if not found:
        return Join(Matching.UNMATCHED)
    references = tuple(order.reference for order in found)
    system = _system_of(found[0], row.accession_number)
    subjects = {str(order.json().get("subject", {}).get("reference", "")) for order in found}
    patients = {row.patient_id for row in writes.patient_ids(uow.connection, row.pk)} - {""}
    if len(subjects) > 1 or len(patients) > 1 or not _is_patient(resources, subjects, row):
        return Join(Matching.MISMATCH, references, None, system)
    return Join(Matching.MATCHED, references, {"reference": next(iter(subjects))}, system)


def _is_patient(resources: Resources, subjects: Iterable[str], row: Row) -> bool:
    """PatientID is one of the patient's identifiers and the birth dates agree, where both are known."""
    type_name, _, id_ = next(iter(subjects)).partition("/")
    if type_name != "Patient" or not id_:
        return False
    try:
        patient = resources.read("Patient", id_.partition("/")[0]).json()
    except (NotFound, Gone):
        return False
    values = {_bare(str(identifier.get("value", ""))) for identifier in patient.get("identifier", [])}
    if row.patient_id and _bare(row.patient_id) not in values:
        return False
    born = str(patient.get("birthDate", "")).replace("-", "")
    sent = re.sub(r"\D", "", row.patient_birth_date)
    return not born or not sent or sent.startswith(born) or born.startswith(sent)


def accession_numbers(order: Version) -> list[str]:
    """The values that may be the accession number of an order: its identifiers', whatever their type."""
    if order.deleted:
        return []
    return [
        str(identifier["value"]).strip() for identifier in order.json().get("identifier", []) if identifier.get("value")
    ]


def _system_of(order: Version, accession_number: str) -> str:
    """The system under which the order has this number."""
    for identifier in order.json().get("identifier", []):
        if str(identifier.get("value", "")).strip() == accession_number:
            return str(identifier.get("system", ""))
    return ""


def _token(value: str) -> str:
    """A value as a search parameter: what separates there is escaped (FHIR R4 §3.1.1.5.7)."""
    return re.sub(r"([\\,$|])", r"\\\1", value)


def _bare(value: str) -> str:
    return value.replace(" ", "").upper()
