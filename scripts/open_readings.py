"""Measure what opening, claiming and listing a reading costs among few and many open readings.

    python -m scripts.open_readings [--few 50] [--many 5000] [--rounds 5] [--ended 0]

In one process, on a SQLite file of its own: SQLite's steps (in hundreds), statements, and CPU milliseconds of each, the
median of the rounds. Steps do not depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from sqlalchemy import event

from auth.policy import Policy
from resources import search
from resources.codes import TELERADIOLOGY_TASK, TaskKind, concept
from store.engine.database import open_engine
from store.engine.keyring import Fixed
from store.engine.statements import Prepared
from store.search import limits, planning
from store.unit_of_work import Store, UnitOfWork
from tests.support import PLATFORM, Clock, Ids, MemoryTrail
from tests.workflow.conftest import Scene
from workflow import loads
from workflow.service import Workflow

LIST = [("code", f"{TELERADIOLOGY_TASK}|read"), ("status", "ready"), ("_sort", "deadline"), ("_count", "20")]


class Meter:
    """Counts what the database does."""

    def __init__(self, store: Store) -> None:
        self.steps = self.statements = 0
        for name in ("read", "write", "glance"):
            setattr(store.database, name, self._watched(getattr(store.database, name)))
        planning.REMEMBERED_S = -1.0  # estimates are kept for a while, in which nothing grows so fast
        limits.Deadline.running = lambda *_, **__: nullcontext()  # type: ignore[method-assign,assignment]
        event.listen(store.database.engine, "before_cursor_execute", self._statement)
        execute = Prepared._execute

        def counted(*given: Any) -> Any:
            self._statement()
            return execute(*given)

        Prepared._execute = counted  # type: ignore[method-assign]

    def _statement(self, *_: object) -> None:
        self.statements += 1

    def _look(self) -> int:
        self.steps += 1
        return 0

    def _watched(self, opening: Callable[[], Any]) -> Callable[[], Any]:
        @contextmanager
        def opened() -> Iterator[Any]:
            with opening() as connection:
                driver = connection.connection.driver_connection
                driver.set_progress_handler(self._look, 100)
                try:
                    yield connection
                finally:
                    driver.set_progress_handler(None, 0)

        return opened

    def of(self, work: Callable[[], object]) -> dict[str, float]:
        """What one piece of work takes."""
        self.steps = self.statements = 0
        began = time.process_time()
        work()
        cpu_ms = 1000 * (time.process_time() - began)
        return {"hundred_steps": self.steps, "statements": self.statements, "cpu_ms": cpu_ms}


def laid(scene: Scene, count: int, made: int, *, status: str = "ready", month: str = "2026-06") -> None:
    """So many readings, of two readers."""
    def write(uow: UnitOfWork) -> None:
        for number in range(made, count):
            end = f"{month}-0{2 + number % 7}T{number % 24:02d}:{number % 60:02d}:00Z"
            uow.system.create("Task", {
                "resourceType": "Task", "status": status, "intent": "order",
                "code": concept(TELERADIOLOGY_TASK, TaskKind.READ),
                "owner": {"reference": f"Practitioner/lec{1 + number % 2}"},
                "restriction": {"period": {"end": end}},
            })  # fmt: skip

    scene.store.transact(scene.server, write)


def measured(few: int, many: int, rounds: int, ended: int, folder: Path) -> dict[str, Any]:
    """The figures."""
    database = open_engine(f"sqlite:///{folder}/open.sqlite")
    database.create_all()
    workflow = Workflow(platform=PLATFORM)
    store = Store(
        database, permit=Policy(PLATFORM), trail=MemoryTrail(), observers=workflow.observers, clock=Clock(), ids=Ids(),
        platform=PLATFORM, keys=Fixed(b"k" * 32),
    )  # fmt: skip
    scene = Scene(store, workflow)
    scene.furnish()
    for first in range(0, ended, 1000):
        laid(scene, min(first + 1000, ended), first, status="completed", month="2025-11")
    loads.recount(store)
    meter = Meter(store)
    asked = search.parse("Task", LIST)
    found: dict[str, Any] = {}
    made = 0
    for size in (few, many):
        laid(scene, size, made)
        made = size
        taken: dict[str, list[dict[str, float]]] = {}
        for _ in range(rounds):
            scene.accepted()
            for name, work in (
                ("open", scene.images),
                ("claim", lambda: scene.update(scene.reader, scene.task_ref("read"), status="in-progress")),
                ("list", lambda: store.look(scene.reader, lambda uow: uow.resources.search(asked))),
            ):
                taken.setdefault(name, []).append(meter.of(work))
        found[str(size)] = {
            name: {what: round(statistics.median(one[what] for one in each), 2) for what in each[0]}
            for name, each in taken.items()
        }
    database.dispose()
    least, most = found[str(few)], found[str(many)]
    ratios = {
        name: {what: round(most[name][what] / max(least[name][what], 0.01), 2) for what in most[name]} for name in most
    }
    return {"engine": "sqlite", "rounds": rounds, "ended": ended, "open": found, "ratio": ratios}


def main() -> None:
    """The command."""
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("--few", type=int, default=50)
    given.add_argument("--many", type=int, default=5000)
    given.add_argument("--rounds", type=int, default=5)
    given.add_argument("--ended", type=int, default=0, help="readings that are done, of earlier months")
    arguments = given.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measured(arguments.few, arguments.many, arguments.rounds, arguments.ended, Path(folder))
    json.dump(figures, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
