"""Threads that carry out requests, shared fairly: nobody's requests take the last thread from the others.

A lane is a few threads and the work that waits for one. All of its state belongs to the event loop, which hands out the
work; the threads know only what they were given. Work has a key, the organisation (or the address) that it is for: at
most `per_key` of one key run at once, and keys take turns, so who sends a thousand requests waits for himself alone.

Whoever waits for work may give up (a deadline): what has not begun then never begins; what runs goes on, its place
stays taken until the thread comes back, and its result is thrown away.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from fhir_server.server.front.processors import roam

T = TypeVar("T")


class _Task(Generic[T]):
    __slots__ = ("after", "begun", "function", "future", "key")

    def __init__(
        self, key: str, function: Callable[[], T], future: asyncio.Future[T], after: Callable[[bool], None] | None
    ) -> None:
        self.key, self.function, self.future, self.after = key, function, future, after
        self.begun = False


class Lane:
    """`threads` threads of this process. Made in the event loop; every method is called there."""

    def __init__(self, name: str, threads: int, *, per_key: int | None = None) -> None:
        self.threads = threads
        self.per_key = threads if per_key is None else max(1, per_key)
        self.abandoned = 0
        """Threads at work for somebody who has given up."""
        self._loop = asyncio.get_running_loop()
        self._idle = threads
        self._running: dict[str, int] = {}
        self._waiting: OrderedDict[str, deque[_Task[Any]]] = OrderedDict()
        self._queue: queue.SimpleQueue[_Task[Any] | None] = queue.SimpleQueue()
        for number in range(threads):
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True).start()

    def run(
        self, key: str, function: Callable[[], T], after: Callable[[bool], None] | None = None
    ) -> asyncio.Future[T]:
        """What `function` gives, once a thread has carried it out. Cancel it to give up.

        `after` is called in the loop once `function` has returned (True), or will never be called (False).
        """
        task = _Task(key, function, self._loop.create_future(), after)
        task.future.add_done_callback(lambda future: self._gave_up(task) if future.cancelled() else None)
        if self._idle and not self._waiting and self._running.get(key, 0) < self.per_key:
            self._begin(task)
        else:
            self._waiting.setdefault(key, deque()).append(task)
            self._hand_out()
        return task.future

    @property
    def waiting(self) -> int:
        """How much work waits for a thread."""
        return sum(len(tasks) for tasks in self._waiting.values())

    @property
    def busy(self) -> int:
        """How many threads are at work."""
        return self.threads - self._idle

    def close(self) -> None:
        """Let the threads end after what they have."""
        for _ in range(self.threads):
            self._queue.put(None)

    def _hand_out(self) -> None:
        """Give idle threads what waits, key by key in turn."""
        for key in list(self._waiting):
            tasks = self._waiting[key]
            while tasks and tasks[0].future.done():
                tasks.popleft()
            if tasks and self._idle and self._running.get(key, 0) < self.per_key:
                self._begin(tasks.popleft())
                self._waiting.move_to_end(key)
            if not tasks:
                del self._waiting[key]

    def _begin(self, task: _Task[Any]) -> None:
        task.begun = True
        self._idle -= 1
        self._running[task.key] = self._running.get(task.key, 0) + 1
        self._queue.put(task)

    def _gave_up(self, task: _Task[Any]) -> None:
        if task.begun:
            self.abandoned += 1
        elif task.after is not None:
            task.after(False)

    def _work(self) -> None:
        roam()
        while (task := self._queue.get()) is not None:
            result, error = None, None
            try:
                result = task.function()
            except BaseException as raised:  # noqa: BLE001 - the one who waits for it raises it
                error = raised
            try:
                self._loop.call_soon_threadsafe(self._done, task, result, error)
            except RuntimeError:  # the loop has ended, and with it whoever waited
                return
            del task, result, error

    def _done(self, task: _Task[Any], result: Any, error: BaseException | None) -> None:
        self._idle += 1
        left = self._running[task.key] - 1
        if left:
            self._running[task.key] = left
        else:
            del self._running[task.key]
        if task.after is not None:
            task.after(True)
        if task.future.cancelled():
            self.abandoned -= 1
            getattr(result, "close", lambda: None)()
        elif error is not None:
            task.future.set_exception(error)
        else:
            task.future.set_result(result)
        if self._waiting:
            self._hand_out()
