"""Waiting for commits of others, on SQLite: each wakes whoever waits.

``PRAGMA data_version`` says whether another connection has committed, and must be asked. While commits come it is asked
every 10 ms. When none has come for a while, the kernel is asked to say when the write-ahead log is written to
(inotify(7)), and nothing happens until then. It says so when a commit begins, so that is only when to ask again. Where
it cannot be asked (another system, no watches left), `data_version` is asked less often instead.
"""

from __future__ import annotations

import ctypes
import os
import select
import struct
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from sqlalchemy import Engine

from store.engine.faults import DRIVER_ERRORS

POLL_INTERVAL_S, IDLE_POLL_INTERVAL_S = 0.01, 0.04
IDLE_AFTER_S = 1.0
BEGUN_S = 1.0
"""How long the commit is looked for whose write the kernel has told of."""
CLOSE_WITHIN_S = 1.0
_IN_MODIFY, _IN_IGNORED = 0x2, 0x8000
_EVENT = struct.Struct("iIII")
_EVENTS_BYTES = 4096


class Commits:
    """One process: its threads that wait for commits."""

    def __init__(self, engine: Engine, file: Path) -> None:
        self._engine = engine
        self._log = Path(f"{file}-wal")
        self._local = threading.local()
        self._watchers: list[_Watcher] = []
        self._opening = threading.Lock()
        self._end: tuple[int, int] | None = None
        """A pipe whose closing ends the waits."""
        self._has_ended = False

    def wait(self, timeout_s: float) -> bool:
        """Return True soon after a commit since this thread last waited, False after `timeout_s`, or after `end`."""
        if self._has_ended:
            return False
        watcher = self._watcher()
        try:
            with watcher.using:
                return watcher.wait(timeout_s)
        except DRIVER_ERRORS:
            del self._local.watcher
            self._watchers.remove(watcher)
            watcher.close()
            raise

    def end(self) -> None:
        """Whoever waits goes on, and nobody waits any more."""
        with self._opening:
            if self._end is not None and not self._has_ended:
                os.close(self._end[1])
            self._has_ended = True

    def close(self) -> None:
        """End the waits, and close what they had open, each once its thread has left it."""
        self.end()
        for watcher in self._watchers:
            if watcher.using.acquire(timeout=CLOSE_WITHIN_S):
                watcher.close()
        if self._end is not None:
            os.close(self._end[0])

    def _watcher(self) -> _Watcher:
        watcher: _Watcher | None = getattr(self._local, "watcher", None)
        if watcher is None:
            with self._opening:
                if self._end is None:
                    self._end = os.pipe()
                watcher = self._local.watcher = _Watcher(self._engine, self._log, self._end[0])
                self._watchers.append(watcher)
        return watcher


class _Watcher:
    """Of one thread."""

    def __init__(self, engine: Engine, log: Path, end: int) -> None:
        self.using = threading.Lock()
        """Held while its thread waits: no other may close what it has open then, or the driver crashes."""
        self._raw = engine.raw_connection()
        self._cursor = self._raw.cursor()
        self._seen = self._version()
        self._idle_from_s = time.monotonic() + IDLE_AFTER_S
        self._writes = Writes(log)  # the file is there, as this connection has read
        self._end = select.poll()
        self._end.register(end, select.POLLIN)
        self._stir = select.poll()
        self._stir.register(end, select.POLLIN)
        if self._writes.descriptor >= 0:
            self._stir.register(self._writes.descriptor, select.POLLIN)

    def wait(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while True:
            current, now_s = self._version(), time.monotonic()
            if current != self._seen:
                self._seen, self._idle_from_s = current, now_s + IDLE_AFTER_S
                return True
            left_s = deadline - now_s
            if left_s <= 0 or self._end.poll(0):
                return False
            if now_s <= self._idle_from_s:
                self._end.poll(1000 * min(POLL_INTERVAL_S, left_s))
            elif self._writes.descriptor < 0:
                self._end.poll(1000 * min(IDLE_POLL_INTERVAL_S, left_s))
            elif self._stir.poll(1000 * left_s):
                self._idle_from_s = time.monotonic() + BEGUN_S  # the commit may only have begun
                if not self._writes.drain():
                    self._stir.unregister(self._writes.descriptor)
                    self._writes.close()

    def close(self) -> None:
        self._writes.close()
        with suppress(*DRIVER_ERRORS):
            self._cursor.close()
            self._raw.close()

    def _version(self) -> int:
        self._cursor.execute("PRAGMA data_version")
        return int(self._cursor.fetchone()[0])  # type: ignore[index]


class Writes:
    """What the kernel tells of writes to a file, by whatever process of this machine."""

    def __init__(self, file: Path) -> None:
        self.descriptor = -1
        """Can be read once there was a write; -1: it cannot be told."""
        if sys.platform != "linux":
            return
        libc = ctypes.CDLL(None)
        descriptor = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)  # IN_CLOEXEC, IN_NONBLOCK: the same
        if descriptor >= 0 and libc.inotify_add_watch(descriptor, os.fsencode(file), _IN_MODIFY) < 0:
            os.close(descriptor)
            descriptor = -1
        self.descriptor = descriptor

    def drain(self) -> bool:
        """Forget what was told; False where nothing more will be, as the file is gone."""
        with suppress(BlockingIOError):
            while told := os.read(self.descriptor, _EVENTS_BYTES):
                # Events of a file have no name, so they are all of one size.
                if any(mask & _IN_IGNORED for _, mask, _, _ in _EVENT.iter_unpack(told)):
                    return False
        return True

    def close(self) -> None:
        """Be told nothing more."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
