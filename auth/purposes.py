"""Why a client asks: its purpose of use follows from its role, and stands in each of its tokens and audit records.

With each token it may ask for another purpose of its role (IHE IUA, `purpose_of_use`). That is a statement for the
record: no purpose gives rights.

Codes are of http://terminology.hl7.org/CodeSystem/v3-ActReason, below PurposeOfUse (value set v3-PurposeOfUse, to which
R4 binds AuditEvent.purposeOfEvent, extensibly). A client serves the care of patients unless its role says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping

SYSTEM = "http://terminology.hl7.org/CodeSystem/v3-ActReason"
TREATMENT = "TREAT"
"""To perform operations on information for the provision of health care."""
EMERGENCY = "ETREAT"
"""The same, for immediately needed care of an emergent condition."""

OF_ROLE: Mapping[str, str] = {
    # health compliance: activities required to comply with a mandate. Who looks through the log treats nobody.
    "auditor": "HCOMPL",
    "dpo": "HCOMPL",
    # health system administration: to administer the electronic systems used for the delivery of health care.
    "admin": "HSYSADMIN",
    "operator": "HSYSADMIN",
    "rssi": "HSYSADMIN",
    # healthcare operations: administrative activities related to the provision of health care.
    "planner": "HOPERAT",
    # health quality improvement.
    "manager": "HQUALIMP",
    "quality": "HQUALIMP",
}
"""Role of a client → purpose; every other role (hospital, radiologist, viewer, modality, …): treatment."""


FURTHER: Mapping[str, frozenset[str]] = {
    "auditor": frozenset(),
    "dpo": frozenset({"PATRQT"}),  # patient requested: what a patient asked for of his own data
    "admin": frozenset(),
    "operator": frozenset(),
    "rssi": frozenset({"HCOMPL"}),
    "planner": frozenset(),
    "manager": frozenset({"HOPERAT"}),
    "quality": frozenset({"HOPERAT", "PATSFTY"}),  # patient safety
}
"""Role of a client → purposes that it may ask for beside its own; every other role: emergency treatment."""


def of_role(role: str) -> str:
    """The purpose of use of a client with this role, where it asks for none."""
    return OF_ROLE.get(role, TREATMENT)


def allowed(role: str) -> frozenset[str]:
    """All purposes that a client with this role may ask for."""
    return FURTHER.get(role, frozenset({EMERGENCY})) | {of_role(role)}
