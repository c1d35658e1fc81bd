"""What became of an instance, and how each protocol says it: one table.

PS3.4 §B.2.3 (C-STORE status), PS3.18 Annex I.2 (Failure Reason, Warning Reason), PS3.18 Table 10.5.3-1 (HTTP status).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum


@dataclass(frozen=True, slots=True)
class Answer:
    dimse: int
    """C-STORE response status."""
    failure_reason: int | None = None
    """(0008,1197) of STOW's FailedSOPSequence."""
    warning_reason: int | None = None
    """(0008,1196) of STOW's ReferencedSOPSequence."""
    is_syntax: bool = False
    """The fault is in the bytes themselves: HTTP 400 when nothing else was stored."""


class Result(Enum):
    """What became of one instance."""

    STORED = Answer(0x0000)
    """Now, or before with the same bytes (idempotent: `StoredOutcome.is_new` tells)."""
    STORED_INCOMPLETE = Answer(0xB007, warning_reason=0xB007)
    """Stored as it came, but its parts do not agree: fewer pixels than the header says, or other UIDs in the file meta
    information than in the data set."""
    OUT_OF_RESOURCES = Answer(0xA700, 0xA700)
    MISMATCH = Answer(0xA900, 0xA900)
    """UIDs of the message, the file and the address do not agree."""
    NOT_UNDERSTOOD = Answer(0xC000, 0xC000, is_syntax=True)
    DUPLICATE_DIFFERS = Answer(0x0111, 0x0111)
    """Another object is stored under this SOP Instance UID: it is never overwritten."""
    NOT_AUTHORISED = Answer(0x0124, 0x0124)
    PROCESSING_FAILURE = Answer(0x0110, 0x0110)

    @property
    def is_stored(self) -> bool:
        return self.value.failure_reason is None


@dataclass(frozen=True, slots=True)
class StoredOutcome:
    """The acknowledgement, or refusal, of one instance. Success means: the bytes are durable and the row committed."""

    result: Result
    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    study_instance_uid: str = ""
    series_instance_uid: str = ""
    reason: str = ""
    """Machine text; names the rule and never a patient."""
    is_new: bool = False
    owner: str = ""


def refused(outcome: StoredOutcome, result: Result, reason: str) -> StoredOutcome:
    """`outcome` with another result (a refusal, or a warning) and its reason."""
    return replace(outcome, result=result, reason=reason, is_new=result.is_stored)


def http_status(outcomes: Iterable[StoredOutcome]) -> int:
    """Table 10.5.3-1: never an error status when something was stored."""
    results = [outcome.result for outcome in outcomes]
    if not results:
        return 400
    stored = [result for result in results if result.is_stored]
    if len(stored) == len(results):
        return 202 if any(result.value.warning_reason for result in results) else 200
    if stored:
        return 202
    if all(result.value.is_syntax for result in results):
        return 400
    if all(result is Result.OUT_OF_RESOURCES for result in results):
        return 503
    return 409
