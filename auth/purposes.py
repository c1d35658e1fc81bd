"""Why a client asks: its purpose of use follows from its role, and stands in each of its tokens and audit records.

Codes are of http://terminology.hl7.org/CodeSystem/v3-ActReason, below PurposeOfUse (value set v3-PurposeOfUse, to which
R4 binds AuditEvent.purposeOfEvent, extensibly). A client serves the care of patients unless its role says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping

TREATMENT = "TREAT"
"""To perform operations on information for the provision of health care."""

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


def of_role(role: str) -> str:
    """The purpose of use of a client with this role."""
    return OF_ROLE.get(role, TREATMENT)
