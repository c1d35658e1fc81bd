"""A question that is never waited for longer than its limit, however silent whoever is asked may be.

It is asked in a thread of its own, one at a time; its answer is kept for a moment, so that many who ask at once cost
one question. A thread that hangs is waited for by nobody a second time: until it comes back, the answer is "no answer".
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Generic, TypeVar

from store.engine import process

T = TypeVar("T")


class Timed(Generic[T]):
    """`function`, asked so. Each process, also a forked one, has a thread of its own for it."""

    def __init__(self, name: str, function: Callable[[], T], *, limit_s: float = 2.0, keep_s: float = 1.0) -> None:
        self._name = name
        self._function = function
        self._limit_s = limit_s
        self._keep_s = keep_s
        self._lock = threading.Lock()
        self._pid = -1
        self._asked: SimpleQueue[Future[T]] = SimpleQueue()
        self._future: Future[T] = Future()
        self._began = self._ended = 0.0

    def begin(self) -> None:
        """Ask, unless it is being asked or has just been answered."""
        with self._lock:
            if self._pid != process.pid():
                self._pid, self._asked = process.pid(), SimpleQueue()
                # A daemon: one that hangs must not hold up the end of the process.
                threading.Thread(target=self._run, args=(self._asked,), name=self._name, daemon=True).start()
            elif not self._future.done() or time.monotonic() - self._ended < self._keep_s:
                return
            self._future, self._began = Future(), time.monotonic()
            self._asked.put(self._future)

    def answer(self) -> T:
        """What was answered; TimeoutError `limit_s` after it was asked; or what `function` raised."""
        self.begin()
        left_s = self._began + self._limit_s - time.monotonic()
        return self._future.result(timeout=max(0.0, left_s))

    def _run(self, asked: SimpleQueue[Future[T]]) -> None:
        while True:
            future = asked.get()
            try:
                answer = self._function()
            except Exception as error:  # noqa: BLE001 - whoever asked is told
                self._ended = time.monotonic()
                future.set_exception(error)
            else:
                self._ended = time.monotonic()
                future.set_result(answer)
