"""Reads of one resource, carried out in the event loop: one prepared select, then the wait for the shared sync.

Handing a request to a thread and back costs more than such a read. So it is carried out where it came in, by the same
core as everywhere; only its audit record is not waited for there but awaited, before the first byte leaves. Only on
SQLite, where a read asks nobody else, and only while reads are as quick as they should be.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

from fhir_server.server.front.answers import Reply, carry_out
from fhir_server.server.front.protocol import Application, Environ
from fhir_server.server.recorder import DEFERRED
from resources.outcomes import Unavailable

BOUND_S = 0.01
"""If reads take longer than this (the running mean of about sixteen) they go to threads until the pause is over: the
disk is slow. One alone may be longer: a busy machine takes the processor away for some 10 ms now and then."""
BOUND_OF_ONE_S = 0.25
PAUSE_S = 1.0
_WEIGHT = 1 / 16
DURABLE_WITHIN_S = 10.0
_TICK_S = 0.25
AT_ONCE = 256
"""Reads that may wait for their records at once; further ones go to threads, where organisations take turns."""

# A log that is behind is caught up with first, and the bytes of a Binary may be many.
PLAIN = r"/fhir/(?!AuditEvent/|Binary/)([A-Z][A-Za-z]+)/([A-Za-z0-9\-.]{1,64})"
"""The path of a read that may be carried out here: type, id."""
_READ = re.compile(PLAIN + r"(?:/_history/[0-9]{1,18})?", re.ASCII)


class Trail(Protocol):
    """Where deferred records are made durable. Implemented by `audit.service.Ledger`."""

    def settle_soon(self, deferred: Sequence[Any], /) -> asyncio.Future[None]: ...


class Settling:
    """Waits in the event loop until records are durable, no longer than a time that all have."""

    def __init__(self, trail: Trail) -> None:
        self._trail = trail
        self.waiting = 0
        """How many requests are `settled`."""
        self._due: deque[tuple[float, asyncio.Future[None]]] = deque()
        """Until when each may wait, in order. A timer for each would cost a read more than its log line."""
        self._ticks = False

    async def settled(self, deferred: Sequence[Any], began: float) -> None:
        """Return once these records are durable, of a read that `began` then (monotonic s). Raises Unavailable."""
        self.waiting += 1
        try:
            await self.soon(deferred, began)
        finally:
            self.waiting -= 1

    def soon(self, deferred: Sequence[Any], began: float) -> asyncio.Future[None]:
        """As `settled`. The future is that of several: whoever may be cancelled shields it."""
        durable = self._trail.settle_soon(deferred)
        if not self._due or self._due[-1][1] is not durable:  # of others of this turn
            self._due.append((began + DURABLE_WITHIN_S, durable))
            if not self._ticks:
                self._tick()
        return durable

    def _tick(self) -> None:
        """Tell whoever has waited too long, and come again while anybody waits."""
        now = time.monotonic()
        while self._due and (self._due[0][1].done() or self._due[0][0] <= now):
            _give_up(self._due.popleft()[1])
        self._ticks = bool(self._due)
        if self._ticks:
            asyncio.get_running_loop().call_later(_TICK_S, self._tick)


class Inline:
    """Carries out reads in the running event loop."""

    def __init__(self, core: Application, settling: Settling, *, bound_s: float = BOUND_S) -> None:
        self._core = core
        self._settling = settling
        self._bound_s = bound_s
        self._paused_until = 0.0
        self._mean_s = 0.0

    def takes(self, environ: Environ) -> bool:
        """Whether this request is one, and may be carried out here now."""
        return (
            environ["REQUEST_METHOD"] in ("GET", "HEAD")
            and not environ["QUERY_STRING"]
            and "HTTP_ORIGIN" not in environ  # whose origins are looked up
            and _READ.fullmatch(environ["PATH_INFO"]) is not None
            and self.is_open
        )

    @property
    def is_open(self) -> bool:
        """Whether a read may be carried out here now."""
        return self._settling.waiting < AT_ONCE and time.monotonic() >= self._paused_until

    async def reply(self, environ: Environ) -> Reply:
        """The answer, its record being durable. Raises Unavailable where that cannot be shown."""
        deferred: list[Any] = []
        environ[DEFERRED] = deferred
        began = time.monotonic()
        reply = carry_out(self._core, environ)
        if deferred:
            await self.settled(deferred, began)
        else:
            self._took(time.monotonic() - began)
        return reply

    async def settled(self, deferred: Sequence[Any], began: float) -> None:
        """Return once these records are durable, of a read that `began` then (monotonic s). Raises Unavailable."""
        self._took(time.monotonic() - began)
        await self._settling.settled(deferred, began)

    def _took(self, seconds: float) -> None:
        self._mean_s += (seconds - self._mean_s) * _WEIGHT
        if self._mean_s > self._bound_s or seconds > BOUND_OF_ONE_S:
            self._mean_s = 0.0
            self._paused_until = time.monotonic() + PAUSE_S


def _give_up(durable: asyncio.Future[None]) -> None:
    if not durable.done():
        durable.set_exception(Unavailable("The audit record could not be written in time", retry_after_s=1))
