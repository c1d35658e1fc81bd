"""Search parameters of our own, beside those of the standard: a row each.

A row is indexed, searched, included by and declared as the standard's are. Its number is written by hand and stands in
every index row on disk: it is never altered nor given to another. What was stored before a row was added has no index
rows of it yet, and is not found by it until it is stored again.

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


_URL = "https://vigie.example/SearchParameter/"

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
)
