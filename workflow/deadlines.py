"""How long each part of the work may take, by the order's priority; and what is late.

The targets are this project's own (no French text fixes any for emergencies): minutes from the moment the task is made.
The root task's target is the sum of its parts'. A deadline stands in Task.restriction.period.end.

FHIR R4 §12.4.9.6 Task.restriction http://hl7.org/fhir/R4/task-definitions.html#Task.restriction
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from resources.codes import TaskKind
from resources.json import Json
from resources.lifecycle import FINISHED_TASK
from resources.times import parse_instant

_PARTS: Mapping[TaskKind, Mapping[str, int]] = {
    TaskKind.REGULATE: {"stat": 5, "asap": 10, "urgent": 15, "routine": 240},
    TaskKind.ACQUIRE: {"stat": 30, "asap": 60, "urgent": 120, "routine": 1440},
    TaskKind.READ: {"stat": 20, "asap": 30, "urgent": 60, "routine": 1440},
    TaskKind.COMMUNICATE_CRITICAL: {"stat": 15, "asap": 15, "urgent": 15, "routine": 15},
}
_TOTAL = (TaskKind.REGULATE, TaskKind.ACQUIRE, TaskKind.READ)

TARGET_MINUTES: Mapping[TaskKind, Mapping[str, int]] = {
    **_PARTS,
    TaskKind.ORDER: {
        priority: sum(_PARTS[part][priority] for part in _TOTAL) for priority in _PARTS[TaskKind.READ]
    },
}


def deadline(kind: TaskKind, priority: str, since: datetime) -> datetime:
    """When a task of this kind must be done. An unknown priority counts as routine (R4's default)."""
    targets = TARGET_MINUTES[kind]
    return since + timedelta(minutes=targets.get(priority, targets["routine"]))


def deadline_of(task: Json) -> datetime | None:
    """The deadline that a Task carries."""
    return parse_instant(task.get("restriction", {}).get("period", {}).get("end"))


def is_late(task: Json, now: datetime) -> bool:
    """Whether an unfinished Task is past its deadline."""
    end = deadline_of(task)
    return task.get("status") not in FINISHED_TASK and end is not None and end < now
