"""How long each part of the work may take: minutes by policy, counted from the moment the task is made.

`deadline-KIND` of `resources.policies` gives them by the order's priority (of a critical result by its category). The
root task's target is the sum of its parts'. A deadline stands in Task.restriction.period.end.

FHIR R4 §12.4.9.6 Task.restriction http://hl7.org/fhir/R4/task-definitions.html#Task.restriction
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from resources.codes import TaskKind
from resources.json import Json
from resources.policies import CRITICAL_CATEGORIES, POLICIES, where_of
from resources.service_request import PRIORITIES
from resources.times import parse_instant
from store import policies
from store.access import Version, Work

PARTS = (TaskKind.REGULATE, TaskKind.ACQUIRE, TaskKind.READ)
"""What an order's own target is the sum of."""


_AS = {TaskKind.CANCEL: TaskKind.REGULATE, TaskKind.UNEXPECTED_IMAGES: TaskKind.REGULATE}
"""Parts that a regulator decides have the target of a regulation."""


def policy_of(kind: TaskKind) -> str:
    """The name of the policy that sets the target of a part."""
    return f"deadline-{_AS.get(kind, kind).value}"


def _of_order(value: Callable[[str], Mapping[str, int]]) -> Mapping[str, int]:
    return {priority: sum(value(policy_of(part))[priority] for part in PARTS) for priority in PRIORITIES}


TARGET_MINUTES: Mapping[TaskKind, Mapping[str, int]] = {
    **{kind: POLICIES[policy_of(kind)].default for kind in TaskKind if policy_of(kind) in POLICIES},
    TaskKind.ORDER: _of_order(lambda name: POLICIES[name].default),
}
"""What holds where no policy says otherwise: minutes by priority, of a critical result by category."""


def targets(uow: Work, kind: TaskKind, order: Version) -> Mapping[str, int]:
    """Minutes by priority (of a critical result by category) that hold for this order."""
    where = where_of(order.json(), order.owner)
    if kind is TaskKind.ORDER:
        return _of_order(lambda name: policies.value(uow, name, where))
    found: Mapping[str, int] = policies.value(uow, policy_of(kind), where)
    return found


def deadline(
    uow: Work, kind: TaskKind, order: Version, since: datetime, *, category: str = CRITICAL_CATEGORIES[0]
) -> datetime:
    """When a task of this kind must be done. An unknown priority counts as routine (R4's default)."""
    found = targets(uow, kind, order)
    if kind is TaskKind.COMMUNICATE_CRITICAL:
        return since + timedelta(minutes=found.get(category, found[CRITICAL_CATEGORIES[0]]))
    return since + timedelta(minutes=found.get(str(order.json().get("priority")), found["routine"]))


def deadline_of(task: Json) -> datetime | None:
    """The deadline that a Task carries."""
    return parse_instant(task.get("restriction", {}).get("period", {}).get("end"))
