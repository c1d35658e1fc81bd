"""Waking whoever waits for work, on PostgreSQL: after the commit, by name, on a connection of its own.

NOTIFY takes a lock that makes every commit that notifies wait for every other in the cluster. So no transaction of
ours notifies: whoever has committed leaves the names to a thread, which says them all at most every 10 ms in a
transaction that holds nothing else. A word that is lost costs no more than the wait for the next look: waiting ends
after its time in any case.

https://www.postgresql.org/docs/15/sql-notify.html
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import structlog
from sqlalchemy import Connection

from store.engine.faults import DRIVER_ERRORS

CHANNEL = "vigie_wake"
COALESCE_S = 0.01
AGAIN_AFTER_S = 1.0
"""After the connection was lost."""
CLOSE_S = 5.0
_LOOK_S = 10
_ANNOUNCED = "vigie_announced"

log = structlog.get_logger("vigie.database")


def announce(connection: Connection, name: str) -> None:
    """Once this write transaction has committed, wake whoever waits for `name`. SQLite: each commit wakes everybody."""
    if connection.dialect.name != "sqlite":
        connection.info.setdefault(_ANNOUNCED, set()).add(name)


def begin(connection: Connection) -> None:
    """A write transaction begins: what an earlier one announced that was rolled back is nobody's affair."""
    connection.info.pop(_ANNOUNCED, None)


def announced(connection: Connection) -> set[str]:
    """What the transaction has announced so far."""
    found: set[str] = connection.info.get(_ANNOUNCED, set())
    return found


class Wakes:
    """One process: who waits for which name, and the two threads that speak with the other processes."""

    def __init__(self, connect: Callable[[], Any]) -> None:
        """`connect`: opens a connection of psycopg of its own, in autocommit."""
        self._connect = connect
        self._changed = threading.Condition()
        self._counts: Counter[str] = Counter()
        self._seen = threading.local()
        self._untold: set[str] = set()
        self._to_tell = threading.Event()
        self._threads: dict[Callable[[], None], threading.Thread] = {}
        self._end_of_listening: tuple[int, int] | None = None
        """A pipe whose closing ends the listener's wait."""
        self._own = 0
        """The session that this process speaks in: what it says it has told itself already."""
        self._has_ended = self._closed = False

    def tell(self, names: Iterable[str]) -> None:
        """Something is committed that concerns these names."""
        told = set(names)
        if not told:
            return
        self._arrived(told)
        with self._changed:
            self._untold |= told
            self._start(self._speak, "wake-speaker")
        self._to_tell.set()

    def wait(self, name: str, timeout_s: float) -> bool:
        """Return True once `name` was told since this thread last waited for it; False after `timeout_s`, or after
        `end`."""
        seen: dict[str, int] = self._seen.__dict__
        with self._changed:
            if self._end_of_listening is None and not self._closed:
                self._end_of_listening = os.pipe()
                self._start(self._listen, "wake-listener")
            last = seen.get(name, 0)
            self._changed.wait_for(lambda: self._has_ended or self._counts[name] != last, timeout_s)
            seen[name] = self._counts[name]
        return seen[name] != last

    def end(self) -> None:
        """Whoever waits goes on, and nobody waits any more."""
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()

    def close(self) -> None:
        """End the threads; they close their connections."""
        with self._changed:
            self._closed = True
            threads, self._threads = list(self._threads.values()), {}
            self._changed.notify_all()
        self._to_tell.set()
        if self._end_of_listening is not None:
            os.close(self._end_of_listening[1])
        for thread in threads:
            thread.join(CLOSE_S)
        if self._end_of_listening is not None:
            os.close(self._end_of_listening[0])

    def _arrived(self, names: Iterable[str]) -> None:
        with self._changed:
            self._counts.update(names)
            self._changed.notify_all()

    def _start(self, run: Callable[[], None], name: str) -> None:
        """Start a thread once."""
        if run not in self._threads and not self._closed:
            self._threads[run] = threading.Thread(target=run, name=name, daemon=True)
            self._threads[run].start()

    def _speak(self) -> None:
        connection: Any = None
        while True:
            self._to_tell.wait()
            if self._closed:
                break
            self._to_tell.clear()
            with self._changed:
                names, self._untold = self._untold, set()
            try:
                connection = connection or self._connect()
                self._own = connection.pgconn.backend_pid
                connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, " ".join(sorted(names))))
            except DRIVER_ERRORS as fault:
                self._lost(connection, fault)
                connection = None
            else:
                time.sleep(COALESCE_S)
        _close(connection)

    def _listen(self) -> None:
        connection: Any = None
        while not self._closed:
            try:
                if connection is None:
                    connection = self._connect()
                    connection.execute(f"LISTEN {CHANNEL}")
                for session, text in self._heard(connection):
                    if session != self._own:
                        self._arrived(text.split())
            except DRIVER_ERRORS as fault:
                self._lost(connection, fault)
                connection = None
        _close(connection)

    def _heard(self, connection: Any) -> list[tuple[int, str]]:
        """What was said, and by which session; waits for a while."""
        driver, poll, ends = connection.pgconn, select.poll(), self._end_of_listening
        poll.register(driver.socket, select.POLLIN)
        if ends is not None:
            poll.register(ends[0], select.POLLIN)
        if poll.poll(1000 * _LOOK_S) and not self._closed:
            driver.consume_input()
        found = []
        while (note := driver.notifies()) is not None:
            found.append((note.be_pid, note.extra.decode()))
        return found

    def _lost(self, connection: Any, fault: Exception) -> None:
        _close(connection)
        if not self._closed:
            log.warning("waking each other rests", reason=type(fault).__name__)
            with self._changed:
                self._changed.wait_for(lambda: self._closed, AGAIN_AFTER_S)


def _close(connection: Any) -> None:
    if connection is not None:
        with suppress(*DRIVER_ERRORS):
            connection.close()
