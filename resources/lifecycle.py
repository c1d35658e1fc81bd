"""Which status may follow which, as tables; and the elements that must not change once something is done.

The tables of `TRANSITIONS` hold for every resource of the type, whoever sent it. The Tasks of the teleradiology
workflow have a closed table of their own, `STEPS`, of states × roles: what is not in it is refused. Staying in a status
is always allowed here; what else may change meanwhile is for the rules of the type.

FHIR R4: Request §12.2 http://hl7.org/fhir/R4/request.html, Task §12.4 http://hl7.org/fhir/R4/task.html,
DiagnosticReport §10.3 http://hl7.org/fhir/R4/diagnosticreport.html
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from resources.codes import TaskKind
from resources.json import Json
from resources.outcomes import ForbiddenTransition

Table = Mapping[str, frozenset[str]]

IN_ERROR = "entered-in-error"


def _table(rows: Mapping[str, str]) -> Table:
    return {status: frozenset(following.split()) for status, following in rows.items()}


TRANSITIONS: Mapping[str, Table] = {
    "ServiceRequest": _table({
        "draft": f"active on-hold revoked completed unknown {IN_ERROR}",
        "active": f"on-hold revoked completed unknown {IN_ERROR}",
        "on-hold": f"active revoked completed unknown {IN_ERROR}",
        "unknown": f"draft active on-hold revoked completed {IN_ERROR}",
        "revoked": IN_ERROR,
        "completed": IN_ERROR,
        IN_ERROR: "",
    }),
    "DiagnosticReport": _table({
        "registered": f"partial preliminary final cancelled unknown {IN_ERROR}",
        "partial": f"registered preliminary final cancelled unknown {IN_ERROR}",
        "preliminary": f"registered partial final cancelled unknown {IN_ERROR}",
        "unknown": f"registered partial preliminary final cancelled {IN_ERROR}",
        "final": f"amended corrected appended {IN_ERROR}",
        "amended": f"corrected appended {IN_ERROR}",
        "corrected": f"amended appended {IN_ERROR}",
        "appended": f"amended corrected {IN_ERROR}",
        "cancelled": IN_ERROR,
        IN_ERROR: "",
    }),
    "Task": _table({
        "draft": "requested received accepted rejected ready cancelled in-progress on-hold failed completed "
        + IN_ERROR,
        "requested": "received accepted rejected ready cancelled in-progress on-hold failed completed " + IN_ERROR,
        "received": "requested accepted rejected ready cancelled in-progress on-hold failed completed " + IN_ERROR,
        "accepted": "ready rejected cancelled in-progress on-hold failed completed " + IN_ERROR,
        "ready": "requested rejected cancelled in-progress on-hold failed completed " + IN_ERROR,
        "in-progress": "ready requested rejected on-hold cancelled failed completed " + IN_ERROR,
        "on-hold": "requested received accepted ready rejected in-progress cancelled failed completed " + IN_ERROR,
        "rejected": IN_ERROR,
        "cancelled": IN_ERROR,
        "failed": f"ready in-progress cancelled {IN_ERROR}",
        "completed": IN_ERROR,
        IN_ERROR: "",
    }),
    "Appointment": _table({
        "proposed": f"pending booked cancelled waitlist {IN_ERROR}",
        "pending": f"proposed booked cancelled waitlist {IN_ERROR}",
        "waitlist": f"proposed pending booked cancelled {IN_ERROR}",
        "booked": f"pending arrived checked-in fulfilled noshow cancelled {IN_ERROR}",
        "arrived": f"checked-in fulfilled cancelled {IN_ERROR}",
        "checked-in": f"arrived fulfilled cancelled {IN_ERROR}",
        "fulfilled": IN_ERROR,
        "noshow": IN_ERROR,
        "cancelled": IN_ERROR,
        IN_ERROR: "",
    }),
    "Slot": _table({
        "free": f"busy busy-unavailable busy-tentative {IN_ERROR}",
        "busy-tentative": f"free busy busy-unavailable {IN_ERROR}",
        "busy": f"free busy-unavailable {IN_ERROR}",
        "busy-unavailable": f"free busy busy-tentative {IN_ERROR}",
        IN_ERROR: "",
    }),
}



class Role(StrEnum):
    """Who takes a step on a Task of the workflow. One person may have several."""

    SERVER = "server"
    """A consequence of something else: images, a signature, a revoked order."""
    HOSPITAL = "hospital"
    """A client of the hospital that ordered."""
    PLATFORM = "platform"
    """Any client of the platform."""
    REGULATOR = "regulator"
    """A radiologist on duty for regulation."""
    READER = "reader"
    """A radiologist on duty for reading."""
    OWNER = "owner"
    """The radiologist who claimed the reading."""
    RADIOLOGIST = "radiologist"
    """Any radiologist of the platform, on duty or not: who was to be called is called."""


@dataclass(frozen=True, slots=True)
class Step:
    """A row of the state table: who may bring a Task of that part from one status to another, and what it asks."""

    kind: TaskKind
    name: str
    before: str
    after: str
    by: frozenset[Role]
    asks: str = ""
    """What must be there, in words; checked by `workflow`."""


_S, _H, _P, _R, _L, _O, _D = (
    Role.SERVER, Role.HOSPITAL, Role.PLATFORM, Role.REGULATOR, Role.READER, Role.OWNER, Role.RADIOLOGIST
)  # fmt: skip


def _steps(kind: TaskKind, *rows: tuple[str, str, str, tuple[Role, ...], str]) -> Iterator[Step]:
    for name, before, after, by, asks in rows:
        for one in before.split():
            yield Step(kind, name, one, after, frozenset(by), asks)


STEPS: tuple[Step, ...] = (
    *_steps(
        TaskKind.ORDER,  # it follows its parts and its order
        ("taken", "requested on-hold", "received", (_S,), ""),
        ("given back", "received", "requested", (_S,), ""),
        ("held", "requested received", "on-hold", (_S,), ""),
        ("answered", "on-hold", "requested", (_S,), "the hospital's answer; who asked is off duty"),
        ("accepted", "requested received on-hold", "accepted", (_S,), ""),
        ("refused", "requested received on-hold", "rejected", (_S,), ""),
        ("images", "accepted", "in-progress", (_S,), ""),
        ("signed", "in-progress", "completed", (_S,), ""),
        ("cancelled", "requested received on-hold accepted in-progress", "cancelled", (_S,), ""),
        ("reopened", "completed", "in-progress", (_S,), "its report was withdrawn"),
        ("exam changed", "accepted in-progress", "requested", (_S,), "another exam after its protocol"),
    ),
    *_steps(
        TaskKind.REGULATE,
        ("take", "requested on-hold", "in-progress", (_R,), ""),
        ("give back", "in-progress", "requested", (_R,), "the owner, or the owner is off duty"),
        ("lapse", "in-progress", "requested", (_S,), "no sign of life of the owner, or the garde has ended"),
        ("ask", "requested in-progress", "on-hold", (_R,), "a question in words"),
        ("answered", "on-hold", "in-progress", (_S,), "the hospital's answer"),
        ("answered", "on-hold", "requested", (_S,), "the hospital's answer; who asked is off duty"),
        ("accept", "requested in-progress on-hold", "completed", (_R,), "a protocol in output"),
        ("refuse", "requested in-progress on-hold", "rejected", (_R,), "statusReason, coded and in words"),
        ("cancelled", "requested in-progress on-hold", "cancelled", (_S,), "the order was revoked"),
    ),
    *_steps(
        TaskKind.ACQUIRE,
        ("start", "requested on-hold failed", "in-progress", (_S, _H, _P), ""),
        ("stop", "requested in-progress", "on-hold", (_S, _H, _P), "statusReason"),
        ("give up", "requested in-progress on-hold", "failed", (_H, _P), "statusReason"),
        ("complete", "requested", "completed", (_S,), "images; of a retake new ones"),
        ("complete", "in-progress on-hold", "completed", (_S, _H, _P), "images; of a retake new ones"),
        ("cancelled", "requested in-progress on-hold failed", "cancelled", (_S,), "the order ended"),
    ),
    *_steps(
        TaskKind.READ,
        ("claim", "ready on-hold", "in-progress", (_L,), ""),
        ("give back", "in-progress", "ready", (_O, _R), ""),
        ("lapse", "in-progress", "ready", (_S,), "no sign of life of the owner, or the garde has ended"),
        ("hold", "ready", "on-hold", (_R,), ""),
        ("hold", "in-progress", "on-hold", (_O, _R), ""),
        ("ask for a retake", "in-progress", "on-hold", (_O,), "statusReason of retake-reason, and in words"),
        ("release", "on-hold", "ready", (_S, _R), ""),
        ("take note of images", "in-progress", "in-progress", (_O,), "businessStatus new-images removed"),
        ("sign", "in-progress", "completed", (_O,), "the signed report, or its revision"),
        ("no change", "in-progress", "completed", (_O,), "after the signature; statusReason no-change, and in words"),
        ("cancelled", "ready in-progress on-hold", "cancelled", (_S,), "the order was revoked"),
    ),
    *_steps(
        TaskKind.COMMUNICATE_CRITICAL,
        ("take", "requested on-hold", "in-progress", (_D,), ""),
        ("give back", "in-progress", "requested", (_D,), ""),
        ("hold", "in-progress", "on-hold", (_D,), ""),
        ("close", "requested in-progress on-hold", "completed", (_D,), "the Communication in output"),
        ("cancelled", "requested in-progress on-hold", "cancelled", (_S,), "the order ended without a report"),
    ),
    *_steps(
        TaskKind.CANCEL,
        ("grant", "requested", "completed", (_R, _O), ""),
        ("refuse", "requested", "rejected", (_S, _R, _O), "statusReason, coded and in words"),
        ("withdrawn", "requested", "cancelled", (_S,), "the hospital took its request back, or the order ended"),
    ),
    *_steps(
        TaskKind.UNEXPECTED_IMAGES,
        ("take", "requested", "in-progress", (_R,), ""),
        ("give back", "in-progress", "requested", (_R,), ""),
        ("settle", "requested in-progress", "completed", (_S, _R), "statusReason in words: what was done"),
    ),
)
"""The state table of the workflow's Tasks: who may bring which Task where. What is not in it is refused."""

PERSONS = frozenset(Role) - {Role.SERVER}


def _transitions(steps: Iterable[Step]) -> Mapping[TaskKind, Table]:
    found: dict[TaskKind, dict[str, set[str]]] = {}
    for step in steps:
        table = found.setdefault(step.kind, {})
        table.setdefault(step.after, set())
        following = table.setdefault(step.before, set())
        if step.before != step.after:
            following.add(step.after)
    return {
        kind: {status: frozenset(following) for status, following in table.items()} for kind, table in found.items()
    }


TASK_TRANSITIONS: Mapping[TaskKind, Table] = _transitions(STEPS)
"""The same by status: what may follow."""


def roles_of_step(kind: TaskKind, before: str, after: str) -> frozenset[Role]:
    """Who may take some step from one status to the other; empty where there is none."""
    return frozenset().union(
        *(step.by for step in STEPS if (step.kind, step.before, step.after) == (kind, before, after))
    )

SIGNED = frozenset({"final", "amended", "corrected", "appended"})
"""DiagnosticReport.status of a signed report."""
REVISED = frozenset({"amended", "corrected", "appended"})
UNSIGNED = frozenset({"registered", "partial", "preliminary", "unknown"})

FINISHED_TASK = frozenset({"completed", "cancelled", "rejected", "failed", IN_ERROR})

_MEANING: Mapping[tuple[str, str], str] = {
    ("DiagnosticReport", "final"): "A signed report can only become amended, corrected, appended or entered-in-error",
    ("DiagnosticReport", "amended"): "A signed report never goes back to a draft",
    ("DiagnosticReport", "corrected"): "A signed report never goes back to a draft",
    ("DiagnosticReport", "appended"): "A signed report never goes back to a draft",
    ("ServiceRequest", "completed"): "An order that is completed is not opened again: send a new order",
    ("ServiceRequest", "revoked"): "An order that is revoked is not opened again: send a new order",
    ("Appointment", "fulfilled"): "A garde that was worked can only be entered-in-error",
}


def may_follow(table: Table, before: str, after: str) -> bool:
    """Whether a status may follow another by this table. A status that the table does not know may not."""
    return before == after or after in table.get(before, frozenset())


def check_transition(type_name: str, before: str | None, after: str | None, *, kind: TaskKind | None = None) -> None:
    """Raise ForbiddenTransition unless status `after` may follow `before` (None: there was no resource)."""
    table = TASK_TRANSITIONS.get(kind) if kind else None
    table = table or TRANSITIONS.get(type_name)
    if table is None or before is None or after is None or may_follow(table, before, after):
        return
    following = sorted(table.get(before, frozenset()))
    allowed = f"from {before} to {', '.join(following)}" if following else f"none from {before}"
    name = f"Task {kind.value}" if kind else type_name
    meaning = _MEANING.get((type_name, before))
    text = f"{name}.status cannot go from {before} to {after} (allowed: {allowed})"
    raise ForbiddenTransition(f"{text}. {meaning}" if meaning else text, expression=f"{type_name}.status")


_STAMPED = frozenset({"id", "meta"})


def content(resource: Json) -> Json:
    """What a resource says, without what the server stamps on it: for "has anything changed?"."""
    return {name: value for name, value in resource.items() if name not in _STAMPED}


def differing(before: Json, after: Json) -> set[str]:
    """The elements in which two contents differ, but for what the server stamps on a resource."""
    names = {*before, *after} - _STAMPED
    return {name for name in names if before.get(name) != after.get(name)}


def changed_elements(before: Json, after: Json, elements: tuple[str, ...]) -> list[str]:
    """Those of `elements` whose values differ."""
    return [name for name in elements if before.get(name) != after.get(name)]
