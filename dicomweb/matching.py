"""Whether a study is the order's patient's: pure.

docs/decisions/0006-images.md (matching, quarantine)
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from resources.codes import CANONICAL
from resources.json import Json

MATCHING = f"{CANONICAL}/CodeSystem/study-matching"
"""Local code system of meta.tag: whether the study was joined to its order (docs/decisions/0006-images.md)."""
_DISPLAY = {
    "matched": "Joined to its order by accession number",
    "unmatched": "No order with this accession number",
    "mismatch": "The patient of the images is not the patient of the order",
}



class Matching(StrEnum):
    """Whether a study was joined to its order."""

    MATCHED = "matched"
    UNMATCHED = "unmatched"
    MISMATCH = "mismatch"
    """The demographics differ from the order's: it is named, its patient is not, until a person decides (S4x)."""


@dataclass(frozen=True, slots=True)
class Join:
    """What the accession number led to."""

    matching: Matching
    orders: tuple[str, ...] = ()
    """``ServiceRequest/id`` of the orders."""
    subject: Json | None = None
    """Their subject, where the study is joined."""
    accession_system: str = ""
    """Under which system the order has the accession number."""


def tag(matching: Matching) -> Json:
    """The ImagingStudy.meta.tag of an outcome."""
    return {"system": MATCHING, "code": matching.value, "display": _DISPLAY[matching]}
