"""One committer per process: the records of all its readers go into one transaction, then each reader goes on.

A record is acknowledged only once its commit has returned. A reader that waits longer than its timeout is told
Unavailable, and so discloses nothing. Started by the first record; a forked child starts its own.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from resources.outcomes import Unavailable

logger = logging.getLogger("vigie.audit")
Row = TypeVar("Row")


class GroupCommitter(Generic[Row]):
    """`submit` returns once `commit` has made the rows durable, together with those of whoever came meanwhile."""

    def __init__(self, commit: Callable[[Sequence[Row]], None], *, limit: int = 1024) -> None:
        """`limit`: rows of one transaction, about; what comes later waits for the next."""
        self._commit = commit
        self._limit = limit
        self._process: _Process[Row] | None = None
        self._starting = threading.Lock()

    def submit(self, rows: Sequence[Row], timeout_s: float) -> None:
        """Raise Unavailable where the rows cannot be shown to be durable within `timeout_s`."""
        ticket = _Ticket(rows)
        self._running().queue.put(ticket)
        if not ticket.done.acquire(timeout=timeout_s):
            ticket.abandoned = True
            raise Unavailable("The audit record could not be written in time", retry_after_s=1)
        if ticket.error is not None:
            raise Unavailable("The audit record could not be written", retry_after_s=1) from ticket.error

    @property
    def waiting(self) -> int:
        """How many requests wait for the next commit."""
        process = self._process
        return process.queue.qsize() if process is not None else 0

    def close(self) -> None:
        """Commit what waits and end the thread."""
        process, self._process = self._process, None
        if process is not None and process.pid == os.getpid() and process.thread.is_alive():
            process.queue.put(None)
            process.thread.join()

    def _running(self) -> _Process[Row]:
        process = self._process
        if process is not None and process.pid == os.getpid():
            return process
        with self._starting:
            process = self._process
            if process is None or process.pid != os.getpid():
                process = self._process = _Process(self._work)
                process.thread.start()
            return process

    def _work(self, queue: SimpleQueue[_Ticket[Row] | None]) -> None:
        going = True
        while going:
            first = queue.get()
            if first is None:
                return
            tickets = [first]
            count = len(first.rows)
            while count < self._limit:
                try:
                    ticket = queue.get_nowait()
                except Empty:
                    break
                if ticket is None:
                    going = False
                    break
                tickets.append(ticket)
                count += len(ticket.rows)
            self._settle(tickets)

    def _settle(self, tickets: list[_Ticket[Row]]) -> None:
        # Whoever gave up was told 503 and disclosed nothing: there is nothing to record.
        waiting = [ticket for ticket in tickets if not ticket.abandoned]
        rows = [row for ticket in waiting for row in ticket.rows]
        error: Exception | None = None
        if rows:
            try:
                self._commit(rows)
            except Exception as raised:
                # Whatever it was, every reader must hear of it and the thread must live on.
                logger.exception("audit records could not be committed")
                error = raised
        for ticket in waiting:
            ticket.error = error
            ticket.done.release()


class _Ticket(Generic[Row]):
    __slots__ = ("abandoned", "done", "error", "rows")

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.error: Exception | None = None
        self.abandoned = False
        # A bare lock, released once by the committer: a third of the price of an Event.
        self.done = threading.Lock()
        self.done.acquire()


class _Process(Generic[Row]):
    """The queue and the thread of one process: after a fork the parent's are not ours."""

    def __init__(self, work: Callable[[SimpleQueue[_Ticket[Row] | None]], None]) -> None:
        self.pid = os.getpid()
        self.queue: SimpleQueue[_Ticket[Row] | None] = SimpleQueue()
        self.thread = threading.Thread(target=work, args=(self.queue,), name="audit-committer", daemon=True)
