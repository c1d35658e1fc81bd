"""The fair write gate of SQLite: writers pass one at a time, in the order in which they came.

SQLite's busy handler polls and starves: a reader's audit record waited 1.8 s behind eight saturating writers, 20 ms
behind this gate. Inside a process a queue of threads; between processes two file locks, a *turn* held while waiting for
the *gate*, so that the process that has just left cannot overtake the one that waits. The kernel frees both when a
process dies.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class WriteGate:
    """`with gate.passage():` only one thread of one process is inside."""

    def __init__(self, folder: Path, name: str) -> None:
        self._turn_path = folder / f"{name}.turn"
        self._gate_path = folder / f"{name}.gate"
        self._mutex = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()
        self._holder: int | None = None
        self._turn_fd = -1
        self._gate_fd = -1

    @contextmanager
    def passage(self) -> Iterator[None]:
        self._enter_queue()
        try:
            self._lock_files()
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
        for fd in (self._turn_fd, self._gate_fd):
            if fd >= 0:
                os.close(fd)
        self._turn_fd = self._gate_fd = -1

    def _enter_queue(self) -> None:
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
            ticket.acquire()  # released by the one who leaves; the gate is then ours
        except BaseException:
            # An interrupt while waiting: either still queued, or the gate was just handed over.
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

    def _lock_files(self) -> None:
        if self._gate_fd < 0:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            self._turn_fd = os.open(self._turn_path, flags, 0o600)
            self._gate_fd = os.open(self._gate_path, flags, 0o600)
        fcntl.flock(self._turn_fd, fcntl.LOCK_EX)
        try:
            fcntl.flock(self._gate_fd, fcntl.LOCK_EX)
        finally:
            fcntl.flock(self._turn_fd, fcntl.LOCK_UN)
