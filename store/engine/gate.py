"""The fair write gate of SQLite: writers pass one at a time, in the order in which they came.

SQLite's busy handler polls and starves: a reader's audit record waited 1.8 s behind eight saturating writers, 20 ms
behind this gate. Inside a process a queue of threads; between processes two file locks, a *turn* held while waiting for
the *gate*, so that the process that has just left cannot overtake the one that waits. The kernel frees both when a
process dies. Nobody waits for ever: a process that was stopped inside holds the gate, and whoever waits longer than
`wait_s` is told Unavailable.
"""

from __future__ import annotations

import fcntl
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from resources.outcomes import Unavailable

PATIENCE_S = 30.0


class WriteGate:
    """`with gate.passage():` only one thread of one process is inside."""

    def __init__(self, folder: Path, name: str, wait_s: float = PATIENCE_S) -> None:
        """`wait_s`: after it, `passage` raises Unavailable."""
        self.wait_s = wait_s
        self._turn_path = folder / f"{name}.turn"
        self._gate_path = folder / f"{name}.gate"
        self._mutex = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()
        self._holder: int | None = None
        self._turn_fd = -1
        self._gate_fd = -1
        self._porter: threading.Thread | None = None
        self._porter_waits = False
        self._expecting: threading.Lock | None = None
        """Released by the porter once the files are this process's; None: nobody waits for it any more."""
        self._orders: queue.SimpleQueue[bool | None] = queue.SimpleQueue()

    @contextmanager
    def passage(self) -> Iterator[None]:
        """Wait for the turn, hold the gate. Raises Unavailable after `wait_s`."""
        deadline = time.monotonic() + self.wait_s
        self._enter_queue(deadline)
        try:
            self._lock_files(deadline)
            try:
                yield
            finally:
                fcntl.flock(self._gate_fd, fcntl.LOCK_UN)
        finally:
            self._leave_queue()

    @property
    def waiting(self) -> int:
        """How many threads of this process wait."""
        return len(self._waiting)

    def close(self) -> None:
        """Let go of the lock files."""
        self._orders.put(None)
        for fd in (self._turn_fd, self._gate_fd):
            if fd >= 0:
                os.close(fd)
        self._turn_fd = self._gate_fd = -1

    def _enter_queue(self, deadline: float) -> None:
        me = threading.get_ident()
        with self._mutex:
            if self._holder is None:
                self._holder = me
                return
            if self._holder == me:
                raise RuntimeError("A thread opened a write transaction inside its own write transaction")
            ticket = threading.Lock()
            ticket.acquire()
            self._waiting.append(ticket)
        try:
            # Released by the one who leaves; the gate is then ours.
            if not ticket.acquire(timeout=max(0.0, deadline - time.monotonic())):
                raise _busy()
        except BaseException:
            # An interrupt or the deadline while waiting: either still queued, or the gate was just handed over.
            with self._mutex:
                queued = ticket in self._waiting
                if queued:
                    self._waiting.remove(ticket)
            if not queued:
                self._leave_queue()
            raise
        self._holder = me

    def _leave_queue(self) -> None:
        with self._mutex:
            if self._waiting:
                self._holder = -1
                self._waiting.popleft().release()
            else:
                self._holder = None

    def _lock_files(self, deadline: float) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        if self._turn_fd < 0:  # each apart: the one that could be opened is kept where the other cannot
            self._turn_fd = os.open(self._turn_path, flags, 0o600)
        if self._gate_fd < 0:
            self._gate_fd = os.open(self._gate_path, flags, 0o600)
        with self._mutex:
            porter_waits = self._porter_waits
        if porter_waits or not _taken(self._turn_fd):
            self._await_files(deadline, has_turn=False)
        elif not _taken(self._gate_fd):
            self._await_files(deadline, has_turn=True)
        else:
            fcntl.flock(self._turn_fd, fcntl.LOCK_UN)

    def _await_files(self, deadline: float, *, has_turn: bool) -> None:
        """Have the porter wait for the files: the kernel's queue is fair, but its wait has no deadline."""
        arrived = threading.Lock()
        arrived.acquire()
        with self._mutex:
            self._expecting = arrived
            begins, self._porter_waits = not self._porter_waits, True
            if self._porter is None:
                self._porter = threading.Thread(target=self._carry, name="gate", daemon=True)
                self._porter.start()
        if begins:
            self._orders.put(has_turn)
        if arrived.acquire(timeout=max(0.0, deadline - time.monotonic())):
            return
        with self._mutex:
            if self._expecting is not arrived:
                return  # it came at this very moment
            self._expecting = None
        raise _busy()  # the porter goes on waiting, for whoever comes next

    def _carry(self) -> None:
        while (has_turn := self._orders.get()) is not None:
            if not has_turn:
                fcntl.flock(self._turn_fd, fcntl.LOCK_EX)
            fcntl.flock(self._gate_fd, fcntl.LOCK_EX)
            fcntl.flock(self._turn_fd, fcntl.LOCK_UN)
            with self._mutex:
                self._porter_waits = False
                if self._expecting is None:
                    fcntl.flock(self._gate_fd, fcntl.LOCK_UN)
                else:
                    self._expecting.release()
                    self._expecting = None


def _taken(descriptor: int) -> bool:
    """Take the lock of an open file if nobody has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _busy() -> Unavailable:
    return Unavailable("The database is busy writing for others", retry_after_s=2)
