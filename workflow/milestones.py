"""When each step of a case happened: one row a milestone and round, written in the commit of what happened.

The first time counts: a claim that is given back and taken again moves nothing. A case that is taken up again after a
signature (a retake, images that came later, a report that was withdrawn or revised) begins another round with the first
milestone that it reaches a second time; what is not reached again holds from the round before.

T0 request received, T1 regulator's decision, T2 protocol given, T3 acquisition started, T4 first image here, T5 images
complete, T6 claimed by a reader, T7 signed, T8 notification accepted by the hospital, T9 opened by the hospital, Tc
critical result communicated (docs/workflow.md).
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import insert, select

from resources import task as tasks
from resources.codes import TaskKind
from resources.diagnostic_report import based_on, is_revision, is_signature
from resources.json import Json
from resources.times import instant_text, microseconds, of_microseconds, parse_instant
from store.access import Change, Version, Work
from workflow.context import before_of
from workflow.tables import milestone

NAMES = {
    "T0": "request received",
    "T1": "regulator's decision",
    "T2": "protocol given",
    "T3": "acquisition started",
    "T4": "first image here",
    "T5": "images complete",
    "T6": "claimed by a reader",
    "T7": "signed",
    "T8": "notification accepted by the hospital",
    "T9": "opened by the hospital",
    "Tc": "critical result communicated",
}
_AGAIN = frozenset({"T3", "T4", "T5", "T6", "T7"})
"""What begins another round where it happens again after a signature."""
_OF_TASK = {
    (TaskKind.REGULATE, "completed"): ("T1",),
    (TaskKind.REGULATE, "rejected"): ("T1",),
    (TaskKind.ACQUIRE, "requested"): ("T2",),
    (TaskKind.ACQUIRE, "in-progress"): ("T3",),
    (TaskKind.ACQUIRE, "completed"): ("T3", "T5"),
    (TaskKind.READ, "in-progress"): ("T6",),
    (TaskKind.COMMUNICATE_CRITICAL, "completed"): ("Tc",),
}


def reached(uow: Work, order_reference: str, name: str, source: str, at: datetime | None = None) -> None:
    """Write that a case reached a milestone (now, unless `at`); nothing where this round has it. Raises KeyError."""
    if name not in NAMES:
        raise KeyError(name)
    case_id = order_reference.removeprefix("ServiceRequest/")
    table = milestone.c
    rows = uow.connection.execute(select(table.round, table.name).where(table.case_id == case_id)).all()
    number = max((row.round for row in rows), default=1)
    known = {row.name for row in rows if row.round == number}
    if name in known:
        signed = "T7" in known
        if not (signed and name in _AGAIN):
            return
        number += 1
    made = microseconds(at or uow.now)
    uow.connection.execute(
        insert(milestone).values(case_id=case_id, round=number, name=name, at=made, source=source)
    )


def of_case(uow: Work, case_id: str) -> list[tuple[int, str, datetime, str]]:
    """(round, name, when, source) of a case, in the order of rounds and names."""
    table = milestone.c
    rows = uow.connection.execute(select(milestone).where(table.case_id == case_id).order_by(table.round, table.name))
    return [(row.round, row.name, of_microseconds(row.at), row.source) for row in rows]


def told(uow: Work, order: Version) -> Json:
    """Parameters: one `milestone` for each that the case has reached (name, round, at, source)."""
    found = []
    for number, name, at, source in of_case(uow, order.id):
        parts = [
            {"name": "name", "valueCode": name},
            {"name": "display", "valueString": NAMES[name]},
            {"name": "round", "valuePositiveInt": number},
            {"name": "at", "valueInstant": instant_text(at)},
            {"name": "source", "valueReference": {"reference": source}},
        ]
        found.append({"name": "milestone", "part": parts})
    return {"resourceType": "Parameters", **({"parameter": found} if found else {})}


class Milestones:
    """Sequel of what shows that a milestone was reached."""

    def __init__(self, platform: str) -> None:
        self._platform = platform

    def changed(self, uow: Work, change: Change) -> None:
        """A Task of the workflow moved, images came, a report was signed."""
        after = change.after
        if after.deleted:
            return
        before = before_of(change)
        if after.type == "Task":
            self._task(uow, before, after)
        elif after.type == "ImagingStudy":
            self._study(uow, after)
        elif after.type == "DiagnosticReport":
            report = after.json()
            if is_signature(before, report) or is_revision(before, report):
                for order in self._orders(uow, based_on(report)):
                    reached(uow, order, "T7", after.reference)

    def _task(self, uow: Work, before: Json | None, after: Version) -> None:
        task = after.json()
        kind, order = tasks.kind_of(task), task.get("focus", {}).get("reference", "")
        if kind is None or after.owner != self._platform or not order.startswith("ServiceRequest/"):
            return
        if kind is TaskKind.ORDER and before is None:
            reached(uow, order, "T0", order)
        status = str(task.get("status"))
        if (before or {}).get("status") != status:
            for name in _OF_TASK.get((kind, status), ()):
                at = self._began(uow, task) if name == "T3" else None
                reached(uow, order, name, after.reference, at)

    def _began(self, uow: Work, task: Json) -> datetime | None:
        """When the first study of an acquisition was started, as far as the scanner's clock can be believed."""
        since = parse_instant(task.get("authoredOn"))
        for study in tasks.references(task.get("output", []), "ImagingStudy"):
            version = uow.system.read(*study.split("/", 1))
            started = parse_instant(version.json().get("started"))
            if started is not None and since is not None and since <= started <= uow.now:
                return started
        return None

    def _study(self, uow: Work, after: Version) -> None:
        study = after.json()
        if int(study.get("numberOfInstances", 0)) <= 0 or study.get("status") in ("cancelled", "entered-in-error"):
            return
        for order in self._orders(uow, based_on(study)):
            table = milestone.c
            asked = select(table.name).where(table.case_id == order.removeprefix("ServiceRequest/"), table.name == "T4")
            if uow.connection.execute(asked.limit(1)).first() is None:
                reached(uow, order, "T4", after.reference)

    def _orders(self, uow: Work, orders: list[str]) -> list[str]:
        """Those of the orders that have a case: T0 was written."""
        table = milestone.c
        return [
            order
            for order in dict.fromkeys(orders)
            if uow.connection.execute(
                select(table.name).where(
                    table.case_id == order.removeprefix("ServiceRequest/"), table.round == 1, table.name == "T0"
                )
            ).first()
            is not None
        ]
