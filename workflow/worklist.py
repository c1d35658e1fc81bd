"""Worklists: what each Task and order says of where it is from and what it is, and whose turn comes next.

A Task says in standard elements what a worklist asks: `requester` is the hospital's Organization, `input` has the
modality and the regions of the exam (as Codings), `performerType` the subspecialty that the order asks for,
`restriction.period.end` the deadline. An order has the hospital as
`assigner` of its number here. What was stored before these facts were written gets them at its next write.

`$next` gives the caller the case with the least slack (deadline minus now), weighed by subspecialty and proposal, and
claims it in the same commit.

FHIR R4 §12.4  http://hl7.org/fhir/R4/task.html
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from resources import exams, search
from resources import task as tasks
from resources.codes import DCM, SNOMED, TASK_PART, TELERADIOLOGY_TASK, DutyFunction, TaskKind, codings, concept
from resources.identifiers import ORDER, hospital_identifier
from resources.json import Json, copy_json
from resources.outcomes import ForbiddenTransition, PreconditionFailed
from store.access import Draft, Version, Work
from store.engine.faults import LostRace
from workflow.context import Context, look_up
from workflow.deadlines import deadline_of
from workflow.people import People
from workflow.rota import Duty

LOOKED_AT = 100
"""Tasks that one `$next` weighs: those that are due first."""

_SUBSPECIALTY = timedelta(minutes=15)
"""So much nearer is the deadline of a case that asks for the caller's subspecialty."""
_PROPOSED = timedelta(minutes=5)
"""So much nearer is the deadline of a case that was proposed to the caller."""
_OTHERS = timedelta(minutes=10)
"""So much later is the deadline of what was proposed to somebody else who is on duty."""

_WAITING = {DutyFunction.REGULATION: (TaskKind.REGULATE, "requested"), DutyFunction.READING: (TaskKind.READ, "ready")}
"""Function → the kind of Task that waits for it, and the status in which it waits."""


def name_hospital(uow: Work, draft: Draft, order: Json) -> None:
    """Have an order say which hospital it is from: the one that owns it, whatever was sent."""
    kept = [one for one in order.get("identifier", []) if one.get("system") != ORDER]
    hospital = _hospital(uow, draft.before.owner if draft.before is not None else uow.caller.organization)
    if hospital:
        kept.append(hospital_identifier(draft.id, hospital))
    if kept:
        order["identifier"] = kept


def facts(uow: Work, order: Version, task: Json) -> Json:
    """The elements of a Task of that order which do not say yet what a worklist asks; empty: all do."""
    told: Json = {}
    if task.get("requester", {}).get("reference") != f"Organization/{order.owner}":
        hospital = _hospital(uow, order.owner)
        if hospital:
            told["requester"] = {"reference": hospital}
    inputs = task.get("input") or []
    wanted = _exam_parts(order.json())
    if [one for one in inputs if _is_exam_part(one)] != wanted:
        told["input"] = [*wanted, *(one for one in inputs if not _is_exam_part(one))] or None
    specialty = order.json().get("performerType")
    if specialty and task.get("performerType") != [specialty]:
        told["performerType"] = [specialty]
    return told


def complete(uow: Work, order: Version, task: Json) -> None:
    """Put `facts` into a Task that is about to be written."""
    for name, value in facts(uow, order, task).items():
        if value is None:
            task.pop(name, None)
        else:
            task[name] = value


def _hospital(uow: Work, owner: str) -> str | None:
    """``Organization/id`` of the hospital that owns an order; None: the platform's own, or one that is not here."""
    if owner == uow.platform or look_up(uow, f"Organization/{owner}") is None:
        return None
    return f"Organization/{owner}"


def _exam_parts(order: Json) -> list[Json]:
    parts = [
        _part("modality", DCM, code, exams.MODALITIES[code]) for code in exams.modalities_of(order)
    ]
    return parts + [_part("region", SNOMED, code, exams.REGIONS[code]) for code in exams.regions_of(order)]


def _part(name: str, system: str, code: str, display: str) -> Json:
    return {"type": concept(TASK_PART, name), "valueCoding": {"system": system, "code": code, "display": display}}


def _is_exam_part(part: Json) -> bool:
    return not {(TASK_PART, "modality"), (TASK_PART, "region")}.isdisjoint(codings(part.get("type", {})))


@dataclass(frozen=True, slots=True)
class Next:
    """Gives the caller the next case."""

    context: Context
    people: People

    def claim(self, uow: Work, wanted: DutyFunction | None = None) -> Version | None:
        """Claim for the caller the Task with the least slack, of `wanted` or of what the caller is on duty for.

        None where nothing waits. Raises ForbiddenTransition where the caller is not on duty for it.
        """
        duties = self._duties(uow, wanted)
        # Two callers never get the same: the second looks when the first has committed.
        for function in sorted({duty.function for duty in duties}):
            uow.lock(f"next:{function}")
        waiting = [pair for duty in duties for pair in self._waiting(uow, duty)]
        if not waiting:
            return None
        _, _, version = min(waiting, key=lambda one: one[:2])
        task = copy_json(version.json())
        task["status"] = "in-progress"
        try:
            return uow.resources.update("Task", version.id, task, if_match=version.version)
        except PreconditionFailed as error:  # claimed by its number meanwhile: the whole unit starts anew
            raise LostRace from error

    def _duties(self, uow: Work, wanted: DutyFunction | None) -> list[Duty]:
        functions = [wanted] if wanted is not None else list(_WAITING)
        practitioner = uow.caller.practitioner
        if wanted is not None:
            self.people.require_duty(uow, wanted, "Taking the next case")
        found = [
            duty
            for function in functions
            for duty in self.people.rota.on_duty(uow, uow.now, function)
            if duty.practitioner == practitioner
        ]
        if not self.people.is_radiologist(uow) or (not found and self.context.require_duty):
            raise ForbiddenTransition(
                "The next case is given to a radiologist on duty for regulation or reading", code="forbidden"
            )
        return found

    def _waiting(self, uow: Work, duty: Duty) -> Iterator[tuple[float, str, Version]]:
        """(weighed slack in seconds, when asked, Task) of the first that wait for this duty."""
        kind, status = _WAITING[duty.function]
        asked = [
            ("code", f"{TELERADIOLOGY_TASK}|{kind}"), ("status", status),
            ("_sort", "deadline"), ("_count", str(LOOKED_AT)),
        ]  # fmt: skip
        query = search.parse("Task", asked, base_urls=uow.base_urls)
        others: set[str] | None = None
        for version in uow.system.search(query).matches:
            task = version.json()
            if others is None:
                others = {one.practitioner for one in self.people.rota.on_duty(uow, uow.now, duty.function)}
            yield slack_s(task, uow.now, duty, others), str(task.get("authoredOn", "")), version


def slack_s(task: Json, now: datetime, duty: Duty, present: Collection[str]) -> float:
    """Seconds until the deadline (negative: past it), weighed for this person; `present`: everyone on duty for it."""
    end = deadline_of(task)
    slack = (end - now) if end is not None else timedelta(days=31)
    if not duty.specialties.isdisjoint(codings(task.get("performerType", []))):
        slack -= _SUBSPECIALTY
    owner = tasks.owner(task)
    if owner == duty.practitioner:
        slack -= _PROPOSED
    elif owner is not None and owner in present:
        slack += _OTHERS
    return slack.total_seconds()
