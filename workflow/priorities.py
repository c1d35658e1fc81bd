"""A priority is said in one place, the order: what follows when the hospital or the regulator alters it.

Every open Task of the case gets the order's priority, and its deadline moves by as much as the targets of the two
priorities differ: what was waited for the hospital, and what a regulator has moved by hand, stays counted.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import timedelta

from resources.codes import TaskKind
from resources.json import Json
from resources.lifecycle import FINISHED_TASK
from workflow import context, waiting
from workflow.cases import Case
from workflow.deadlines import targets


def follow(case: Case, before: str, *, kept: Collection[TaskKind] = ()) -> None:
    """Give all open Tasks the priority of the order, which was `before`; of those `kept` the deadline stays."""
    for kind, version in list(case.tasks.items()):
        task = version.json()
        if task.get("status") in FINISHED_TASK:
            continue
        changes: Json = {"priority": case.priority}
        if kind not in kept and kind is not TaskKind.COMMUNICATE_CRITICAL:
            # A critical finding's deadline is that of the finding, whatever the exam's priority was.
            changes |= waiting.moved(task, _difference(case, kind, before))
        case.move(kind, **changes)


def set_order(case: Case, priority: str) -> None:
    """Alter the order's priority on the server's behalf: the one place where it stands."""
    case.order = context.update(case.uow, case.order, priority=priority)


def _difference(case: Case, kind: TaskKind, before: str) -> timedelta:
    found = targets(case.uow, kind, case.order)
    return timedelta(minutes=_of(found, case.priority) - _of(found, before))


def _of(minutes: Mapping[str, int], priority: str) -> int:
    return minutes.get(priority, minutes["routine"])
