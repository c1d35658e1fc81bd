"""Rejection notes: pure. Which instances a key object document takes back, and why.

IHE RAD TF-1 §36 (IOCM), DICOM PS3.16 CID 7011, PS3.3 §C.17.6.2
"""

from __future__ import annotations

from dataclasses import dataclass

from dicomweb.attributes import text
from resources.json import Json

CODES = {
    113001: "Rejected for Quality Reasons",
    113037: "Rejected for Patient Safety Reasons",
    113038: "Incorrect Modality Worklist Entry",
    113039: "Data Retention Policy Expired",
}
"""Titles of a rejection note: codes of DCM, with their meaning."""
QUALITY, SAFETY, WORKLIST, EXPIRED = CODES
STATUS = {QUALITY: "cancelled", SAFETY: "entered-in-error", WORKLIST: "entered-in-error", EXPIRED: "cancelled"}
"""ImagingStudy.status of a study of which nothing is left."""
CODE_OF_STATUS = {"cancelled": QUALITY, "entered-in-error": SAFETY}
"""What a person says who gives an ImagingStudy one of these statuses, or (safety) deletes it."""
KEY_OBJECTS = "1.2.840.10008.5.1.4.1.1.88.59"


@dataclass(frozen=True, slots=True)
class Note:
    """A rejection note: which instances it takes back, and why."""

    code: int
    studies: dict[str, set[str]]
    """StudyInstanceUID → SOPInstanceUIDs."""


def note_of(json: Json) -> Note | None:
    """The rejection note that an instance is (DICOM JSON); None where it is none."""
    if text(json, "00080016") != KEY_OBJECTS:
        return None
    for title in _items(json, "0040A043"):
        value = text(title, "00080100")
        if text(title, "00080102") == "DCM" and value.isdigit() and int(value) in CODES:
            break
    else:
        return None
    studies: dict[str, set[str]] = {}
    for tag in ("0040A375", "0040A385"):  # current and pertinent other evidence
        for study in _items(json, tag):
            named = studies.setdefault(text(study, "0020000D"), set())
            for series in _items(study, "00081115"):
                named |= {text(one, "00081155") for one in _items(series, "00081199")}
    return Note(int(value), studies)


def _items(json: Json, tag: str) -> list[Json]:
    return [item for item in json.get(tag, {}).get("Value") or [] if isinstance(item, dict)]
