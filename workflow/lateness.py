"""Watches the deadlines: a task that runs late is logged once, with no personal data.

It reads and writes nothing but the log: a late task stays as it is, so that a claim in the same moment does not lose
its version to the watch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

import structlog

from resources import task as tasks
from resources.codes import TELERADIOLOGY_TASK, TaskKind
from resources.times import microseconds
from store import items
from store.access import Caller, Waiting, Work
from store.unit_of_work import Store
from workflow.deadlines import deadline_of, is_late

log = structlog.get_logger("vigie.workflow")

PORTION = 1000
"""Tasks read at once."""
NAME = "workflow-lateness"

_WATCHED = (TaskKind.REGULATE, TaskKind.ACQUIRE, TaskKind.READ, TaskKind.COMMUNICATE_CRITICAL)
_OPEN = ("requested", "ready", "in-progress", "on-hold")


@dataclass(slots=True)
class LatenessWatch:
    """Finds late tasks; `step` returns False, since it is a look and not a queue."""

    store: Store
    platform: str
    seen: Mapping[TaskKind, Waiting] = field(default_factory=dict)
    """What the last step found: of each kind how many are late, and the oldest deadline."""
    _told: set[str] = field(default_factory=set)

    def step(self) -> bool:
        """Look once through all open tasks."""
        caller = Caller.system(self.platform)
        with self.store.work(caller, write=False) as uow:
            late = self.late(uow)
        for task_id, (kind, _) in late.items():
            if task_id not in self._told:
                log.warning("a task is past its deadline", task=task_id, kind=kind.value)
        self._told = set(late)
        self.seen = _by_kind(late.values())
        return False

    def late(self, uow: Work) -> dict[str, tuple[TaskKind, datetime]]:
        """Kind and deadline of the unfinished tasks that are past it, by id."""
        codes = ",".join(f"{TELERADIOLOGY_TASK}|{kind.value}" for kind in _WATCHED)
        found = {}
        asked = [("code", codes), ("status", ",".join(_OPEN))]
        for version in uow.system.each("Task", asked, portion=PORTION):
            with items.apart(NAME):
                kind, end = tasks.kind_of(version.json()), deadline_of(version.json())
                if kind is not None and end is not None and is_late(version.json(), uow.now):
                    found[version.id] = (kind, end)
        return found


def _by_kind(late: Iterable[tuple[TaskKind, datetime]]) -> dict[TaskKind, Waiting]:
    ends: dict[TaskKind, list[datetime]] = {}
    for kind, end in late:
        ends.setdefault(kind, []).append(end)
    return {kind: Waiting(len(found), microseconds(min(found))) for kind, found in ends.items()}
