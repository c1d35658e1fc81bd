"""What became of an instance, and how each protocol says it: one table.

PS3.4 Table B.2-1 and PS3.7 §9.1.1.1.9 (C-STORE status), PS3.18 Annex I.2 (Failure Reason, Warning Reason),
PS3.18 Table 10.5.3-1 (HTTP status).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum

C_STORE_STATUSES: tuple[tuple[int, int, str], ...] = (
    (0x0000, 0x0000, "PS3.4 Table B.2-1 Success"),
    (0xB000, 0xB000, "PS3.4 Table B.2-1 Warning: coercion of data elements"),
    (0xB006, 0xB006, "PS3.4 Table B.2-1 Warning: elements discarded"),
    (0xB007, 0xB007, "PS3.4 Table B.2-1 Warning: data set does not match SOP Class"),
    (0xA700, 0xA7FF, "PS3.4 Table B.2-1 Refused: out of resources"),
    (0xA900, 0xA9FF, "PS3.4 Table B.2-1 Error: data set does not match SOP Class"),
    (0xC000, 0xCFFF, "PS3.4 Table B.2-1 Error: cannot understand"),
    (0x0117, 0x0117, "PS3.7 §9.1.1.1.9 Invalid object instance"),
    (0x0122, 0x0122, "PS3.7 §9.1.1.1.9 Refused: SOP Class not supported"),
    (0x0124, 0x0124, "PS3.7 §9.1.1.1.9 Refused: not authorised"),
    (0x0210, 0x0210, "PS3.7 §9.1.1.1.9 Duplicate invocation"),
    (0x0211, 0x0211, "PS3.7 §9.1.1.1.9 Unrecognised operation"),
    (0x0212, 0x0212, "PS3.7 §9.1.1.1.9 Mistyped argument"),
)
"""(first, last, clause): every status that a C-STORE response may have. 0110 and 0111 are none of them."""


def clause_of(status: int) -> str | None:
    """Where C-STORE has this status; None where it has not."""
    return next((clause for first, last, clause in C_STORE_STATUSES if first <= status <= last), None)


@dataclass(frozen=True, slots=True)
class Answer:
    """What each door says of an outcome."""

    dimse: int
    """C-STORE response status."""
    failure_reason: int | None = None
    """(0008,1197) of STOW's FailedSOPSequence."""
    warning_reason: int | None = None
    """(0008,1196) of STOW's ReferencedSOPSequence."""
    is_syntax: bool = False
    """The fault is in the bytes themselves: HTTP 400 when nothing else was stored."""

    def __post_init__(self) -> None:
        if clause_of(self.dimse) is None:
            raise ValueError("C-STORE has no such status")


class Result(Enum):
    """What became of one instance."""

    STORED = Answer(0x0000)
    """Now, or before as the same object (idempotent: `StoredOutcome.is_new` tells)."""
    STORED_INCOMPLETE = Answer(0xB007, warning_reason=0xB007)
    """Stored as it came, but its parts do not agree: fewer pixels than the header says, or other UIDs in the file meta
    information than in the data set."""
    OUT_OF_RESOURCES = Answer(0xA700, 0xA700)
    MISMATCH = Answer(0xA900, 0xA900)
    """UIDs of the message, the file and the address do not agree."""
    NOT_UNDERSTOOD = Answer(0xC000, 0xC000, is_syntax=True)
    DUPLICATE_DIFFERS = Answer(0xC111, 0xC111)
    """Another object is stored under this SOP Instance UID: it is never overwritten. C-STORE has no status of its own
    for it (0111 is one of N-CREATE), so it is one of the range that is the implementation's."""
    SOP_CLASS_NOT_SUPPORTED = Answer(0x0122, 0x0122)
    """No storage class, or none that this AE title may store."""
    NOT_AUTHORISED = Answer(0x0124, 0x0124)

    @property
    def is_stored(self) -> bool:
        """Whether the instance is kept."""
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
