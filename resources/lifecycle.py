"""Which status may follow which, as tables; and the elements that must not change once something is done.

The tables of `TRANSITIONS` hold for every resource of the type, whoever sent it. Those of `TASK_TRANSITIONS` hold for
the Tasks of the teleradiology workflow and are closed: what is not in them is refused. Staying in a status is always
allowed here; what else may change meanwhile is for the rules of the type.

FHIR R4: Request §12.2 http://hl7.org/fhir/R4/request.html, Task §12.4 http://hl7.org/fhir/R4/task.html,
DiagnosticReport §10.3 http://hl7.org/fhir/R4/diagnosticreport.html
"""

from __future__ import annotations

from collections.abc import Mapping

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

TASK_TRANSITIONS: Mapping[TaskKind, Table] = {
    # T0 follows its children and its order; only the server moves it.
    TaskKind.ORDER: _table({
        "requested": "received accepted rejected on-hold in-progress cancelled completed",
        "received": "requested accepted rejected on-hold in-progress cancelled completed",
        "on-hold": "requested received accepted rejected in-progress cancelled completed",
        "accepted": "on-hold in-progress cancelled completed",
        "in-progress": "on-hold completed cancelled",
        "rejected": "",
        "cancelled": "",
        "completed": "",
    }),
    TaskKind.REGULATE: _table({
        "requested": "in-progress on-hold completed rejected cancelled",
        "in-progress": "requested on-hold completed rejected cancelled",
        "on-hold": "in-progress completed rejected cancelled",
        "completed": "",
        "rejected": "",
        "cancelled": "",
    }),
    TaskKind.ACQUIRE: _table({
        "requested": "in-progress on-hold completed failed cancelled",
        "in-progress": "on-hold completed failed cancelled",
        "on-hold": "in-progress completed failed cancelled",
        "failed": "in-progress cancelled",
        "completed": "",
        "cancelled": "",
    }),
    TaskKind.READ: _table({
        "ready": "in-progress on-hold cancelled",
        "in-progress": "ready on-hold completed cancelled",
        "on-hold": "ready in-progress cancelled",
        "completed": "",
        "cancelled": "",
    }),
    TaskKind.COMMUNICATE_CRITICAL: _table({
        "requested": "in-progress completed cancelled",
        "in-progress": "requested on-hold completed cancelled",
        "on-hold": "in-progress completed cancelled",
        "completed": "",
        "cancelled": "",
    }),
}

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


def content(resource: Json) -> Json:
    """What a resource says, without what the server stamps on it: for "has anything changed?"."""
    return {name: value for name, value in resource.items() if name not in ("id", "meta")}


def changed_elements(before: Json, after: Json, elements: tuple[str, ...]) -> list[str]:
    """Those of `elements` whose values differ."""
    return [name for name in elements if before.get(name) != after.get(name)]
