"""Search parameters of our own, beside those of the standard: a row each.

A row is indexed, searched, included by and declared as the standard's are. Its number is written by hand and stands in
every index row on disk: it is never altered nor given to another. What was stored before a row was added has no index
rows of it until `./vigie reindex` has been there (a search says so meanwhile).

http://hl7.org/fhir/R4/searchparameter.html
"""

from __future__ import annotations

from dataclasses import dataclass

FIRST = 50_000
"""Numbers from here on, and below `search_parameters.TEXT`, are ours."""


@dataclass(frozen=True, slots=True)
class OwnParameter:
    """A SearchParameter that R4 does not have."""

    number: int
    base: str
    """The resource type, or ``DomainResource`` for all."""
    code: str
    """As it stands in a URL; none that R4 gives the type."""
    type: str
    """token, string, date, number, quantity, reference or uri."""
    expression: str
    """FHIRPath as the standard's file writes it, within what `resources.paths` understands; begins at the base."""
    url: str
    """Its canonical, for the CapabilityStatement."""
    target: tuple[str, ...] = ()
    """Of a reference: the types that it may point to."""
    via: str = ""
    """Name of a row of `resources.derived_values`: what is indexed is derived from the value (a rank from a code)."""


_URL = "https://vigie.example/SearchParameter/"
_REGION = "http://snomed.info/sct"
_MODALITY = "http://dicom.nema.org/resources/ontology/DCM"
_ORDER = "https://vigie.example/NamingSystem/order"
_ESCALATION = "https://vigie.example/CodeSystem/escalation"

_NOT_ENDED = ("draft", "requested", "received", "accepted", "ready", "in-progress", "on-hold")
"""Task.status of what is still to be done. Only that has a deadline: a list in its order would walk through all that
was ever done before it came to what is open."""

TABLE: tuple[OwnParameter, ...] = (
    # Which report is of this study: R5 has it as `study`, R4 indexes the order alone.
    OwnParameter(
        50_001,
        "DiagnosticReport",
        "imaging-study",
        "reference",
        "DiagnosticReport.imagingStudy",
        f"{_URL}DiagnosticReport-imaging-study",
        ("ImagingStudy",),
    ),
    # Worklists: what is due next, of which hospital, of which kind. R4 sorts `priority` by the letters of its codes
    # and has no parameter for restriction.
    OwnParameter(
        50_002, "Task", "deadline", "date",
        " | ".join(f"Task.where(status='{status}').restriction.period.end" for status in _NOT_ENDED),
        f"{_URL}Task-deadline",
    ),
    OwnParameter(
        50_003, "Task", "priority-rank", "number", "Task.priority", f"{_URL}Task-priority-rank", via="priority-rank"
    ),
    OwnParameter(
        50_004,
        "Task",
        "owner-hospital",
        "reference",
        "Task.requester.where(resolve() is Organization)",
        f"{_URL}Task-owner-hospital",
        ("Organization",),
    ),
    OwnParameter(
        50_005, "Task", "escalation", "token", f"Task.meta.tag.where(system='{_ESCALATION}')",
        f"{_URL}Task-escalation",
    ),
    OwnParameter(
        50_006, "Task", "modality", "token", f"Task.input.value.ofType(Coding).where(system='{_MODALITY}')",
        f"{_URL}Task-modality",
    ),
    OwnParameter(
        50_007, "Task", "region", "token", f"Task.input.value.ofType(Coding).where(system='{_REGION}')",
        f"{_URL}Task-region",
    ),
    OwnParameter(
        50_008, "ServiceRequest", "priority-rank", "number", "ServiceRequest.priority",
        f"{_URL}ServiceRequest-priority-rank", via="priority-rank",
    ),
    OwnParameter(
        50_009,
        "ServiceRequest",
        "owner-hospital",
        "reference",
        f"ServiceRequest.identifier.where(system='{_ORDER}').assigner",
        f"{_URL}ServiceRequest-owner-hospital",
        ("Organization",),
    ),
    OwnParameter(
        50_010, "ServiceRequest", "modality", "token", "ServiceRequest.code | ServiceRequest.category",
        f"{_URL}ServiceRequest-modality", via="modality",
    ),
    OwnParameter(
        50_011, "ServiceRequest", "region", "token", "ServiceRequest.code | ServiceRequest.bodySite",
        f"{_URL}ServiceRequest-region", via="region",
    ),
)  # fmt: skip
"""Our own, in the order in which they were added."""

BY_RANK = frozenset({("Task", "priority"), ("ServiceRequest", "priority")})
"""(type, code) of parameters that `_sort` orders by their rank, not by the letters of their codes: stat before asap."""
RANK = "priority-rank"
"""What they are sorted by."""
