"""A question that is never waited for longer than its limit, however silent whoever is asked may be.

It is asked in a thread of its own, one at a time; its answer is kept for a moment, so that many who ask at once cost
one question. A thread that hangs is waited for by nobody a second time: until it comes back, the answer is "no answer".
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Generic, TypeVar

from store.engine import process

T = TypeVar("T")


class Timed(Generic[T]):
    """`function`, asked so. Each process, also a forked one, has a thread of its own for it, which ends with this."""

    def __init__(self, name: str, function: Callable[[], T], *, limit_s: float = 2.0, keep_s: float = 1.0) -> None:
        self._name = name
        self.function = function
        self._limit_s = limit_s
        self._keep_s = keep_s
        self._lock = threading.Lock()
        self._pid = -1
        self._asked: SimpleQueue[_Question[T] | None] = SimpleQueue()
        self._question: _Question[T] = _Question()

    def begin(self) -> None:
        """Ask, unless it is being asked or has just been answered."""
        with self._lock:
            if self._pid != process.pid():
                self._pid, self._asked = process.pid(), SimpleQueue()
                # A daemon: one that hangs must not hold up the end of the process.
                threading.Thread(
                    target=_answering, args=(self._asked, weakref.ref(self)), name=self._name, daemon=True
                ).start()
                weakref.finalize(self, self._asked.put, None).atexit = False
            elif not self._question.future.done() or time.monotonic() - self._question.ended < self._keep_s:
                return
            self._question = _Question()
            self._asked.put(self._question)

    def answer(self) -> T:
        """What was answered; TimeoutError `limit_s` after it was asked; or what `function` raised."""
        self.begin()
        question = self._question
        left_s = question.began + self._limit_s - time.monotonic()
        return question.future.result(timeout=max(0.0, left_s))


class _Question(Generic[T]):
    """One time that it is asked; monotonic s."""

    def __init__(self) -> None:
        self.future: Future[T] = Future()
        self.began = time.monotonic()
        self.ended = 0.0


def _answering(asked: SimpleQueue[_Question[T] | None], of: weakref.ref[Timed[T]]) -> None:
    """Of a thread: answer, until nobody can ask any more. Between two answers it holds nothing of whoever asks, nor of
    whom its function belongs to, so that this comes."""
    while (question := asked.get()) is not None:
        timed = of()
        if timed is None:
            return
        function = timed.function
        del timed
        try:
            answer = function()
        except Exception as error:  # noqa: BLE001 - whoever asked is told
            question.ended = time.monotonic()
            question.future.set_exception(error)
        else:
            question.ended = time.monotonic()
            question.future.set_result(answer)
            del answer
        del question, function
