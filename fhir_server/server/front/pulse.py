"""Whether the database answers at all.

A request may take long for good reasons, so its own deadline is generous. A database that is silent (a partition, a
stopped process, a hung disk) is another thing: every thread waits for it, and nobody is told. So when requests are late
the database is asked something that takes it no time, on a thread and a connection of its own; where it does not
answer that either, all who wait are told, and whoever comes is told at once, until it answers again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog

from fhir_server.server.front.lanes import Lane
from store.engine.silence import Silent

log = structlog.get_logger("vigie.front")

LATE_S = 1.0
"""A request that waits longer has the database asked."""
SILENT_S = 2.0
"""Time that it has to answer."""
_TICK_S = 0.25


class Pulse:
    """Made in the event loop; every method is called there."""

    def __init__(self, ask: Callable[[], None]) -> None:
        """`ask`: asks the database for nothing, and returns or raises once it has answered."""
        self.is_silent = False
        self._ask = ask
        self._lane = Lane("pulse", 1)
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[asyncio.Timeout, float] = {}
        self._asked_at: float | None = None
        self._ticks = False

    @asynccontextmanager
    async def waiting(self, seconds: float) -> AsyncIterator[None]:
        """Wait for an answer. Raises TimeoutError after so long, or once the database is silent."""
        async with asyncio.timeout(seconds) as deadline:
            self._waiting[deadline] = self._loop.time()
            if not self._ticks:
                self._ticks = True
                self._loop.call_later(_TICK_S, self._tick)
            try:
                yield
            finally:
                self._waiting.pop(deadline, None)

    def close(self) -> None:
        self._lane.close()

    def _tick(self) -> None:
        now = self._loop.time()
        late = [deadline for deadline, since in self._waiting.items() if now - since > LATE_S]
        if self._asked_at is None:
            if late or self.is_silent:
                self._asked_at = now
                self._lane.run("", self._ask).add_done_callback(self._answered)
        elif now - self._asked_at > SILENT_S:
            if not self.is_silent:
                self.is_silent = True
                log.error("the database is silent", count=len(self._waiting))
            for deadline in late:
                del self._waiting[deadline]
                deadline.reschedule(now)
        if self._waiting or self.is_silent or self._asked_at is not None:
            self._loop.call_later(_TICK_S, self._tick)
        else:
            self._ticks = False

    def _answered(self, future: asyncio.Future[None]) -> None:
        self._asked_at = None
        if isinstance(future.exception(), Silent):  # found out by whoever waited before
            return
        # That it cannot serve it says itself, to each request.
        if self.is_silent:
            self.is_silent = False
            log.warning("the database answers again")
