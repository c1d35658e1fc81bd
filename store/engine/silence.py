"""A PostgreSQL that is silent: a partition, a stopped process, a hung disk. Nobody waits for it longer than seconds.

The server's own time limits are the server's: it does not keep them while it is stopped, and its kernel goes on to
acknowledge what is sent. So where a transaction of this process takes long, PostgreSQL is asked something that takes
it no time, on a connection of its own. Where it does not answer that either, the sockets of all who wait are shut down,
so that their threads are free and say Unavailable; and whoever comes is told so at once, until it answers again.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
import structlog

from resources.outcomes import Unavailable
from store.engine.faults import DRIVER_ERRORS, driver_error

LATE_S = 1.0
"""A transaction that takes longer has PostgreSQL asked."""
SILENT_S = 2.0
"""Time that it has to answer."""
_TICK_S = 0.25

log = structlog.get_logger("vigie.database")


class Silent(Unavailable):
    """The database says nothing at all."""

    def __init__(self) -> None:
        super().__init__("The database does not answer", retry_after_s=5)


class Silence:
    """One process: which of its connections wait, and a thread that looks after them."""

    def __init__(self, connect: Callable[[], Any]) -> None:
        """`connect`: opens a connection of psycopg of its own, in autocommit, within `SILENT_S` or not at all."""
        self._connect = connect
        self._lock = threading.Lock()
        self._waiting: dict[int, tuple[Any, float]] = {}
        self._cut: set[int] = set()
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._asking: Any = None
        self._suspected = False
        self.is_silent = False

    @contextmanager
    def connecting(self) -> Iterator[None]:
        """`with` whatever may open a connection. Raises Silent where the database is."""
        if self.is_silent:
            raise Silent
        try:
            yield
        except Exception as error:
            if isinstance(driver_error(error), psycopg.errors.ConnectionTimeout):
                self._suspected = True
                self._start()
                raise Silent from error
            raise

    def watched(self, driver: Any) -> _Watched:
        """`with` a transaction or a statement on a connection of psycopg. Raises Silent where the database is."""
        return _Watched(self, driver)

    def close(self) -> None:
        """End the thread."""
        self._closing.set()
        with self._lock:  # whoever is just starting it has started it then
            thread = self._thread
        if thread is not None:
            thread.join(2 * SILENT_S)

    def begin(self, driver: Any) -> None:
        """`driver` is used from now on."""
        if self.is_silent:
            raise Silent
        self._waiting[id(driver)] = driver, time.monotonic()
        self._start()

    def end(self, driver: Any) -> bool:
        """It is not used any more; whether it was cut off."""
        with self._lock:
            self._waiting.pop(id(driver), None)
            was_cut = id(driver) in self._cut
            self._cut.discard(id(driver))
        return was_cut

    def _start(self) -> None:
        if self._thread is None:
            with self._lock:
                if self._thread is None and not self._closing.is_set():
                    self._thread = threading.Thread(target=self._look, name="silence", daemon=True)
                    self._thread.start()

    def _look(self) -> None:
        while not self._closing.wait(self._tick_s):
            late = time.monotonic() - LATE_S
            asks = self.is_silent or self._suspected
            if not asks and not any(since < late for _, since in list(self._waiting.values())):
                continue
            self._suspected = False
            if self._answers():
                if self.is_silent:
                    log.warning("the database answers again")
                self.is_silent = False
                self._closing.wait(LATE_S)
                continue
            if not self.is_silent:
                log.error("the database is silent", count=len(self._waiting))
            self.is_silent = True
            self._cut_off()
        self._drop()

    @property
    def _tick_s(self) -> float:
        """Until the next look. While nobody waits: what begins meanwhile is not late before it."""
        return _TICK_S if self._waiting or self.is_silent or self._suspected else LATE_S

    def _answers(self) -> bool:
        """Whether PostgreSQL answers at all, be it that it cannot serve."""
        try:
            if self._asking is None:
                self._asking = self._connect()
            driver = self._asking.pgconn
            driver.send_query(b"SELECT 1")
            poll = select.poll()
            poll.register(driver.socket, select.POLLIN)
            if not poll.poll(1000 * SILENT_S):
                self._drop()
                return False
            driver.consume_input()
            while driver.get_result() is not None:
                pass
        except psycopg.errors.ConnectionTimeout:
            self._drop()
            return False
        except DRIVER_ERRORS:
            self._drop()
        return True

    def _drop(self) -> None:
        asking, self._asking = self._asking, None
        if asking is not None:
            with suppress(*DRIVER_ERRORS):
                asking.close()

    def _cut_off(self) -> None:
        with self._lock:
            for key, (driver, _since) in list(self._waiting.items()):
                # A duplicate of the descriptor: psycopg keeps and closes its own.
                with suppress(OSError, *DRIVER_ERRORS), socket.socket(fileno=os.dup(driver.fileno())) as shut:
                    self._cut.add(key)
                    shut.shutdown(socket.SHUT_RDWR)


class _Watched:
    __slots__ = ("_driver", "_silence")

    def __init__(self, silence: Silence, driver: Any) -> None:
        self._silence = silence
        self._driver = driver

    def __enter__(self) -> None:
        self._silence.begin(self._driver)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self._silence.end(self._driver) and error is not None:
            raise Silent from error
