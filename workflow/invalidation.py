"""A protocol holds for the exam that it was given for: the hospital changes the exam, and it is regulated anew.

The protocol is revoked, the acquisition that asked for it ends, there is a further `regulate` Task. Once the images are
complete the exam has been made: then it is not changed any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resources import task as tasks
from resources.codes import STATUS_REASON_EXTENSION, TaskKind, codings
from resources.exams import display
from resources.json import Json
from resources.lifecycle import FINISHED_TASK
from resources.outcomes import Conflict
from store.access import Work
from workflow import context
from workflow.cases import Case, reason
from workflow.context import look_up

_EXAM: Mapping[str, str] = {
    "code": "l'examen",
    "bodySite": "la région ou le côté",
    "orderDetail": "les précisions de l'examen",
    "reasonCode": "l'indication",
    "reasonReference": "l'indication",
}
"""Elements of an order that a protocol answers, and how they are called in French."""


def changed(before: Json, after: Json) -> list[str]:
    """Those elements of an order in which another exam is asked for; a display or a text beside a code is none."""
    return [name for name in _EXAM if _asked(before.get(name)) != _asked(after.get(name))]


def _asked(value: Any) -> Any:
    """What an element asks for: codes, else words; references."""
    if isinstance(value, list):
        return [_asked(one) for one in value]
    if not isinstance(value, dict) or "reference" in value:
        return value
    coded = sorted(pair for pair in codings(value) if pair[1])
    return coded or " ".join(str(value.get("text", "")).split())


def refused() -> Conflict:
    """The images are complete: what was made is not another exam."""
    return Conflict(
        "The exam can no longer be changed: its images are complete. Send a new order for another exam, or write a "
        "Communication about this one to its reader",
        expression="ServiceRequest.code",
    )


def invalidate(uow: Work, case: Case) -> bool:
    """Withdraw the protocol of an order whose exam was changed. False where none was given: a regulator who looks at
    the order is told by its Task."""
    regulation = case.status(TaskKind.REGULATE)
    if regulation not in FINISHED_TASK:
        if regulation != "requested":
            case.move(TaskKind.REGULATE, business="order-changed")
        return False
    if regulation != "completed":
        return False
    why = reason("exam-changed")
    for reference in _given(case):
        version = look_up(uow, reference)
        protocol = version.json() if version is not None else {}
        if version is not None and protocol.get("status") in ("active", "on-hold", "draft"):
            extensions = [one for one in protocol.get("extension", []) if one.get("url") != STATUS_REASON_EXTENSION]
            extensions.append({"url": STATUS_REASON_EXTENSION, "valueCodeableConcept": why})
            context.update(uow, version, status="revoked", extension=extensions)
    case.move(TaskKind.ACQUIRE, "cancelled", statusReason=why)
    case.move(TaskKind.ORDER, "requested", business="order-changed", statusReason=why, output=None)
    case.open_again(TaskKind.REGULATE)
    return True


def told(before: Json, after: Json) -> str:
    """What the two sides read of it."""
    names = ", ".join(dict.fromkeys(_EXAM[name] for name in changed(before, after)))
    old, new = display(before.get("code", {})), display(after.get("code", {}))
    exams = f" ({old} → {new})" if old and new and old != new else ""
    return (
        f"L'établissement a modifié {names}{exams} : le protocole donné est retiré, la demande est de nouveau en "
        "régulation. Ne pas réaliser l'examen selon l'ancien protocole."
    )


def _given(case: Case) -> list[str]:
    return tasks.references((case.task(TaskKind.REGULATE) or {}).get("output", []), "ServiceRequest")
