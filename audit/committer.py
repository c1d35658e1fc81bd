"""Group commit: the records of all readers that wait go into one transaction, then each goes on.

Whoever comes first leads: it commits for itself and for all that came until the transaction had begun, then hands the
lead to one that came later. A thread of its own for this would cost every read two changes of thread, which is more
than the commit. A record is acknowledged only once its commit has returned; who has waited longer than its timeout is
told Unavailable, and so discloses nothing.

An event loop cannot lead, nor wait: it gives its rows by `submit_soon` and awaits a future. Where such a one would
lead, a thread of the committer does, and a group's futures are settled by one call into the loop.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import Generic, TypeVar

import structlog

from resources.outcomes import Unavailable
from store.engine import process

log = structlog.get_logger("vigie.audit")
Row = TypeVar("Row")

Drain = Callable[[], Sequence[Row]]
"""Gives the rows to write; called once the transaction has begun, so that none who waits meanwhile is left behind."""


class GroupCommitter(Generic[Row]):
    """`submit` returns once `commit` has made the rows durable, together with those of whoever came meanwhile."""

    def __init__(self, commit: Callable[[Drain[Row]], None], *, limit: int = 1024) -> None:
        """`commit` begins a transaction, writes what its argument gives, commits. `limit`: rows of one, about."""
        self._commit = commit
        self._limit = limit
        self._line: _Line[Row] = _Line()
        self._starting = threading.Lock()

    def submit(self, rows: Sequence[Row], timeout_s: float) -> None:
        """Raise Unavailable where the rows cannot be shown to be durable within `timeout_s`."""
        line = self._line
        if line.pid != process.pid():  # a fork: those who wait in the parent are not ours
            line = self._fresh()
        ticket = _Ticket(rows)
        leads = line.join(ticket)
        if not leads:
            leads = line.wait(ticket, timeout_s)
        if leads:
            self._lead(line, ticket)
        if ticket.error is not None:
            raise Unavailable("The audit record could not be written", retry_after_s=1) from ticket.error

    def submit_soon(self, rows: Sequence[Row]) -> asyncio.Future[None]:
        """As `submit`, for the running event loop: done once the rows are durable, or fails with Unavailable.

        All that comes in one turn of the loop gets the same future.
        """
        line = self._line
        if line.pid != process.pid():
            line = self._fresh()
        future = line.future
        if future is None:
            loop = asyncio.get_running_loop()
            future = line.future = _Shared(loop=loop)
            loop.call_soon(self._begin, line)
        line.rows += rows
        return future

    def _begin(self, line: _Line[Row]) -> None:
        """All that the event loop had to do at once is done: one commit for all of it.

        To begin with the first would have the thread contend with the loop for the interpreter, for one.
        """
        ticket = _Ticket(line.rows, line.future)
        line.rows, line.future = [], None
        if line.join(ticket):
            self._have_led(line)

    def close(self) -> None:
        """End the committer's own thread, once it has led whatever it was asked for."""
        with self._starting:
            line = self._line
            if line.pid == process.pid() and line.thread is not None:
                line.thread = None
                line.turn.put(True)

    @property
    def waiting(self) -> int:
        """How many requests wait for the next commit."""
        return len(self._line.queue)

    def _fresh(self) -> _Line[Row]:
        with self._starting:
            if self._line.pid != process.pid():
                self._line = _Line()
            return self._line

    def _have_led(self, line: _Line[Row]) -> None:
        """Have the committer's own thread lead."""
        if line.thread is None:
            line.thread = threading.Thread(target=self._lead_for_loops, args=(line,), name="audit", daemon=True)
            line.thread.start()
        line.turn.put(False)

    def _lead_for_loops(self, line: _Line[Row]) -> None:
        while not line.turn.get():
            # What the loop and those who bring it requests can do at once is done first, and shares the commit. Where
            # they have a processor of their own this halves the commits; where nothing waits for it, it is nothing.
            os.sched_yield()
            self._lead(line, None)

    def _lead(self, line: _Line[Row], mine: _Ticket[Row] | None) -> None:
        """Commit for everyone in line, `mine` first, then hand the lead on."""
        taken: list[_Ticket[Row]] = []

        def drain() -> list[Row]:
            taken.extend(line.take(self._limit))
            return [row for ticket in taken for row in ticket.rows]

        error: Exception | None = None
        try:
            self._commit(drain)
        except Exception as raised:
            # Whatever it was, everyone in the group must hear of it and the lead must be handed on.
            log.exception("audit records could not be committed")
            error = raised
            if not taken:
                taken.extend(line.take(self._limit))
        finally:
            futures: list[asyncio.Future[None]] = []
            for ticket in taken:
                ticket.error = error
                if ticket.future is not None:
                    futures.append(ticket.future)
                elif ticket is not mine:
                    ticket.done.release()
            if line.hand_on():
                self._have_led(line)
            if futures:
                with suppress(RuntimeError):  # the loop has ended, and nobody waits any more
                    futures[0].get_loop().call_soon_threadsafe(_settle, futures, error)


class _Shared(asyncio.Future[None]):
    """For several: whoever of them is cancelled goes alone."""

    def cancel(self, msg: object = None) -> bool:
        return False


def _settle(futures: Sequence[asyncio.Future[None]], error: Exception | None) -> None:
    for future in futures:
        if future.done():  # who waited has given up
            continue
        if error is None:
            future.set_result(None)
        else:
            fault = Unavailable("The audit record could not be written", retry_after_s=1)
            fault.__cause__ = error
            future.set_exception(fault)


class _Ticket(Generic[Row]):
    __slots__ = ("done", "error", "future", "leads", "rows")

    def __init__(self, rows: Sequence[Row], future: asyncio.Future[None] | None = None) -> None:
        self.rows = rows
        self.future = future
        """Of an event loop, for which it waits; None: a thread does."""
        self.error: Exception | None = None
        self.leads = False
        # A bare lock, released once: by the leader, or to make this one the leader. A third of the price of an Event.
        self.done = threading.Lock()
        self.done.acquire()


class _Line(Generic[Row]):
    """Those who wait, and whether one of them leads."""

    def __init__(self) -> None:
        self.pid = process.pid()
        self.queue: list[_Ticket[Row]] = []
        self.rows: list[Row] = []
        self.future: asyncio.Future[None] | None = None
        """Of an event loop, for the rows of the turn that it is in: they join at its end, as one."""
        self._mutex = threading.Lock()
        self._led = False
        self.thread: threading.Thread | None = None
        """Leads for event loops, at each entry of `turn`; a true one is its last."""
        self.turn: SimpleQueue[bool] = SimpleQueue()

    def join(self, ticket: _Ticket[Row]) -> bool:
        """Stand in line; True if there is no leader: then this one leads."""
        with self._mutex:
            self.queue.append(ticket)
            if self._led:
                return False
            self._led = True
            return True

    def wait(self, ticket: _Ticket[Row], timeout_s: float) -> bool:
        """Wait for the commit; True if this one is to lead instead. Raises Unavailable after `timeout_s`."""
        if ticket.done.acquire(timeout=timeout_s):
            return ticket.leads
        with self._mutex:
            if ticket.leads:  # made the leader at this very moment: somebody must
                return True
            if ticket in self.queue:
                self.queue.remove(ticket)
        raise Unavailable("The audit record could not be written in time", retry_after_s=1)

    def take(self, limit: int) -> list[_Ticket[Row]]:
        """The first in line, about `limit` rows of them."""
        with self._mutex:
            taken, count = 0, 0
            while taken < len(self.queue) and count < limit:
                count += len(self.queue[taken].rows)
                taken += 1
            group, self.queue = self.queue[:taken], self.queue[taken:]
            return group

    def hand_on(self) -> bool:
        """Make the first in line the leader; if there is none, whoever comes next leads. True: the thread must lead."""
        with self._mutex:
            if not self.queue:
                self._led = False
                return False
            if self.queue[0].future is not None:
                return True
            self.queue[0].leads = True
            self.queue[0].done.release()
            return False
