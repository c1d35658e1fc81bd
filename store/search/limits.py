"""How long one unit of work may search.

A search holds a thread and, inside a write transaction on SQLite, every other writer. SQLite asks a progress handler
every `STEPS` steps of its machine, which a selective search does not reach; PostgreSQL is told a statement timeout for
the rest of the (read) transaction. A search that was stopped leaves nothing behind: its unit of work rolls back.

https://www.sqlite.org/c3ref/progress_handler.html,
https://www.postgresql.org/docs/current/runtime-config-client.html#GUC-STATEMENT-TIMEOUT
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg
from sqlalchemy import Connection

from resources.budgets import SEARCH_MS, Budget
from store.engine.faults import DRIVER_ERRORS, driver_error

T = TypeVar("T")

STEPS = 100_000
"""Steps of SQLite's machine between two looks at the clock: some ms. Each look takes the interpreter's lock."""

WALK_LOOKS = 3
"""Looks after which a walk along a sort index is given up for the driver: some ten thousand entries, some 10 ms."""

clock = time.monotonic


class Deadline:
    """The time that all searches of one unit of work may take together."""

    def __init__(self, seconds: float, budget: Budget = SEARCH_MS) -> None:
        self._left_s = seconds
        self._budget = budget
        self._until = 0.0
        self._is_armed = False
        self._looks_left: int | None = None

    @staticmethod
    def of(budget: Budget = SEARCH_MS) -> Deadline:
        """A deadline of as many ms as the budget says."""
        return Deadline(budget.value / 1000, budget)

    @contextmanager
    def running(self, connection: Connection, *, write: bool) -> Iterator[None]:
        """Search inside of this. Raises BadRequest (too-costly) where the time has run out.

        `write`: in a write transaction. There PostgreSQL keeps the timeout of its connection, since one that is set
        here would hold for what is written and locked afterwards too.
        """
        start = clock()
        self._until = start + self._left_s
        self.check()
        driver: Any = connection.connection.driver_connection
        is_sqlite = isinstance(driver, sqlite3.Connection)
        if is_sqlite:
            driver.set_progress_handler(self._look, STEPS)
            self._is_armed = True
        elif not write:
            driver.execute(f"SET LOCAL statement_timeout = {max(1, int(self._left_s * 1000))}")
        try:
            yield
        except DRIVER_ERRORS as error:
            if _was_stopped(error):
                raise self._budget.fault() from error
            raise
        finally:
            if is_sqlite:
                driver.set_progress_handler(None, 0)
                self._is_armed = False
            self._left_s -= clock() - start

    def check(self) -> None:
        """Raise BadRequest where the time has run out: between two statements."""
        if self._is_over():
            raise self._budget.fault()

    def tried(self, function: Callable[[], T]) -> T | None:
        """What `function` finds, or None where that takes SQLite more than WALK_LOOKS: there is a surer way.

        Only inside of `running`. PostgreSQL counts no steps: there `function` has all the time that is left.
        """
        if not self._is_armed:
            return function()
        self._looks_left = WALK_LOOKS
        try:
            return function()
        except DRIVER_ERRORS as error:
            if not _was_stopped(error) or self._looks_left > 0:
                raise
            return None
        finally:
            self._looks_left = None

    def _look(self) -> bool:
        if self._is_over():
            return True
        if self._looks_left is None:
            return False
        self._looks_left -= 1
        return self._looks_left <= 0

    def _is_over(self) -> bool:
        return clock() > self._until


def _was_stopped(error: BaseException) -> bool:
    original = driver_error(error)
    if isinstance(original, psycopg.Error):
        return original.sqlstate == "57014"  # query_canceled
    return getattr(original, "sqlite_errorcode", 0) == sqlite3.SQLITE_INTERRUPT
