"""Watches the deadlines: a task that runs late is logged once, with no personal data.

It reads and writes nothing but the log: a late task stays as it is, so that a claim in the same moment does not lose
its version to the watch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import structlog

from resources import task as tasks
from resources.codes import TELERADIOLOGY_TASK, TaskKind
from store.access import Caller, Work
from store.unit_of_work import Store
from workflow.deadlines import is_late

log = structlog.get_logger("vigie.workflow")

_WATCHED = (TaskKind.REGULATE, TaskKind.ACQUIRE, TaskKind.READ, TaskKind.COMMUNICATE_CRITICAL)
_OPEN = ("requested", "ready", "in-progress", "on-hold")


@dataclass(slots=True)
class LatenessWatch:
    """Finds late tasks; `step` returns False, since it is a look and not a queue."""

    store: Store
    platform: str
    _told: set[str] = field(default_factory=set)

    def step(self) -> bool:
        """Look once through all open tasks."""
        caller = Caller.system(self.platform)
        with self.store.work(caller, write=False) as uow:
            late = self.late(uow)
        for task_id, kind in late.items():
            if task_id not in self._told:
                log.warning("a task is past its deadline", task=task_id, kind=kind.value)
        self._told = set(late)
        return False

    def late(self, uow: Work) -> dict[str, TaskKind]:
        """Ids and kinds of the unfinished tasks that are past their deadline."""
        codes = ",".join(f"{TELERADIOLOGY_TASK}|{kind.value}" for kind in _WATCHED)
        found = {}
        for version in uow.system.each("Task", [("code", codes), ("status", ",".join(_OPEN))]):
            kind = tasks.kind_of(version.json())
            if kind is not None and is_late(version.json(), uow.now):
                found[version.id] = kind
        return found
