"""Rules of a Communication about an order: what it is, whether it was spoken, whether anybody has read it.

FHIR R4 Communication  http://hl7.org/fhir/R4/communication.html
"""

from __future__ import annotations

from resources.codes import DIALOGUE, V3_PARTICIPATION_MODE, codings, concept, has_coding
from resources.json import Json
from resources.outcomes import Issue

QUESTION, ANSWER = "question", "answer"
PROTOCOL_WITHDRAWN, REPRIORITISED = "protocol-withdrawn", "reprioritised"

_SPOKEN = frozenset((V3_PARTICIPATION_MODE, code) for code in ("PHONE", "VERBAL", "FACE", "VIDEOCONF"))

RECEIPT = frozenset({"received", "status"})
"""What whoever receives a message may write into it."""
SAID = ("payload", "recipient", "sender", "sent", "subject", "basedOn", "about", "inResponseTo")
"""What does not change once the message was received."""


def category(code: str) -> Json:
    """An entry of Communication.category."""
    return concept(DIALOGUE, code)


def is_of(communication: Json, code: str) -> bool:
    """Whether the Communication has that category of the dialogue."""
    return has_coding(communication.get("category", []), [(DIALOGUE, code)])


def mark(communication: Json, code: str) -> None:
    """Put a Communication into a category of the dialogue, once."""
    if not is_of(communication, code):
        communication["category"] = [*communication.get("category", []), category(code)]


def is_spoken(communication: Json) -> bool:
    """Whether it was said and heard at once: by telephone, face to face (v3-ParticipationMode)."""
    return not _SPOKEN.isdisjoint(codings(communication.get("medium", [])))


def is_attempt(communication: Json) -> bool:
    """Whether nobody was reached: it reached nobody, so it waits for no receipt."""
    return communication.get("status") in ("not-done", "stopped", "entered-in-error", "preparation", "on-hold")


def text_of(communication: Json) -> str:
    """What it says, as one text; empty: nothing in words."""
    parts = [str(part.get("contentString", "")).strip() for part in communication.get("payload", [])]
    return "\n".join(part for part in parts if part)


def references(communication: Json, *elements: str) -> list[str]:
    """The literal references in these elements, each once."""
    held = [one for element in elements for one in communication.get(element, [])]
    return list(dict.fromkeys(one["reference"] for one in held if isinstance(one.get("reference"), str)))


def check(communication: Json) -> list[Issue]:
    """The faults of a message about an order: an attempt says why it failed, a message says something."""
    if communication.get("status") == "not-done":
        reason = communication.get("statusReason", {})
        if not (reason.get("coding") or str(reason.get("text", "")).strip()):
            text = "A call that reached nobody says why"
            return [Issue("error", "required", text, ("Communication.statusReason",))]
    elif not is_attempt(communication) and not communication.get("payload") and not is_spoken(communication):
        return [Issue("error", "required", "A message says something", ("Communication.payload",))]
    return []
