"""The threads that send: those for healthy endpoints and those for failing ones wait for nobody else's."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

import structlog

from subscriptions.leases import Lane, Lease

log = structlog.get_logger("vigie.subscriptions")


class Threads:
    """Threads for one kind of endpoint, and how many requests each origin has under way."""

    def __init__(self, name: str, size: int, per_origin: int, *, failing: bool) -> None:
        self._size = size
        self._per_origin = per_origin
        self._failing = failing
        self._pool = ThreadPoolExecutor(size, thread_name_prefix=name)
        self._busy: Counter[str] = Counter()
        self._futures: set[Future[None]] = set()
        self._lock = threading.Lock()

    @property
    def free(self) -> int:
        """How many threads have nothing to do."""
        with self._lock:
            return self._size - len(self._futures)

    @property
    def lane(self) -> Lane:
        """What may be leased for these threads now."""
        with self._lock:
            return Lane(self._failing, self._per_origin, dict(+self._busy))

    def submit(self, held: Lease, function: Callable[[Lease], None]) -> None:
        """Hand a lease to a thread."""
        origin = held.state.origin
        with self._lock:
            self._busy[origin] += 1
            future = self._pool.submit(function, held)
            self._futures.add(future)
        future.add_done_callback(lambda done: self._done(done, origin))

    def drain(self) -> None:
        """Wait until all have ended what they do."""
        with self._lock:
            waiting = list(self._futures)
        wait(waiting)

    def close(self) -> None:
        """Let them end what they do, then stop."""
        self._pool.shutdown(wait=True)

    def _done(self, future: Future[None], origin: str) -> None:
        with self._lock:
            self._busy[origin] -= 1
            self._futures.discard(future)
        fault = future.exception()
        if fault is not None:  # the lease runs out, and it is tried again
            log.error("a delivery ended by an exception", exc_info=fault)
