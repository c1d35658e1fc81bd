"""The deadline while the hospital is asked: it stops, and goes on with what was left once there is an answer.

What was left stands in Task.input (`remaining-time`, a Duration); meanwhile `restriction.period.end` is when the answer
is due, so that a question that nobody answers is late like anything else.

FHIR R4 §12.4.9.6 Task.restriction http://hl7.org/fhir/R4/task-definitions.html#Task.restriction
"""

from __future__ import annotations

from datetime import timedelta

from resources.codes import TASK_PART, TaskKind, concept, has_coding
from resources.json import Json
from resources.times import instant_text
from workflow.cases import Case
from workflow.deadlines import deadline_of

_PART = "remaining-time"
_STOPPED = (TaskKind.REGULATE, TaskKind.ORDER)
"""The regulation waits, and with it the order as a whole."""


def stop(case: Case) -> None:
    """The hospital was asked. Where policy says so the deadline stops; once."""
    if not case.policy("question-stops-deadline"):
        return
    within = case.policy("deadline-answer")
    answer = timedelta(minutes=within.get(case.priority, within["routine"]))
    for kind in _STOPPED:
        task = case.task(kind) or {}
        end = deadline_of(task)
        if end is None or remaining(task) is not None:
            continue
        left = max(timedelta(), end - case.uow.now)
        due = case.uow.now + answer + (left if kind is TaskKind.ORDER else timedelta())
        case.move(kind, input=[*_others(task), _remaining(left)], restriction=_until(task, instant_text(due)))


def resume(case: Case) -> None:
    """The hospital has answered, or the regulator goes on without: what was left begins to run."""
    for kind in _STOPPED:
        task = case.task(kind) or {}
        left = remaining(task)
        if left is not None:
            end = instant_text(case.uow.now + left)
            case.move(kind, input=_others(task) or None, restriction=_until(task, end))


def remaining(task: Json) -> timedelta | None:
    """What was left when the deadline stopped; None: it runs."""
    for part in task.get("input", []):
        if _is_remaining(part):
            return timedelta(seconds=float(part.get("valueDuration", {}).get("value", 0)))
    return None


def moved(task: Json, by: timedelta) -> Json:
    """The elements of a Task whose deadline moves by `by`: the deadline, or what is left of it while it stops."""
    left = remaining(task)
    if left is not None:
        return {"input": [*_others(task), _remaining(max(timedelta(), left + by))]}
    known = deadline_of(task)
    return {} if known is None else {"restriction": _until(task, instant_text(known + by))}


def _others(task: Json) -> list[Json]:
    return [part for part in task.get("input", []) if not _is_remaining(part)]


def _is_remaining(part: Json) -> bool:
    return has_coding(part.get("type", {}), [(TASK_PART, _PART)])


def _remaining(left: timedelta) -> Json:
    seconds = int(left.total_seconds())
    return {
        "type": concept(TASK_PART, _PART),
        "valueDuration": {"value": seconds, "unit": "s", "system": "http://unitsofmeasure.org", "code": "s"},
    }


def _until(task: Json, end: str) -> Json:
    restriction: Json = task.get("restriction", {})
    return {**restriction, "period": {**restriction.get("period", {}), "end": end}}
