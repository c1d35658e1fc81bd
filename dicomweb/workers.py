"""A bounded pool of pixel workers: few processes, each task timed, identical tasks in flight done once.

A worker that is late, or dies, is replaced; the request gets an error and nothing else is disturbed.
"""

from __future__ import annotations

import json
import os
import queue
import select
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from dicomweb import pixelworker
from resources.json import Json
from resources.outcomes import FhirError, NotAcceptable, Unavailable

_ROOT = Path(__file__).resolve().parent.parent
CHUNK = 1024 * 1024


@dataclass
class Result:
    """What a worker made: an unlinked file, read by position, so that several requests can share it."""

    descriptor: int
    size_bytes: int
    sizes: tuple[int, ...] = field(default=())

    def chunks(self, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Bytes from `offset`, in pieces."""
        left = self.size_bytes - offset if length is None else length
        while left > 0:
            piece = os.pread(self.descriptor, min(left, CHUNK), offset)
            if not piece:
                return
            offset += len(piece)
            left -= len(piece)
            yield piece

    def read(self) -> bytes:
        """The whole result in memory."""
        return b"".join(self.chunks())

    def __del__(self) -> None:
        os.close(self.descriptor)


class Workers:
    """Runs tasks in worker processes; safe to share between threads. Workers start when they are first needed."""

    def __init__(
        self, count: int = 2, *, timeout_s: float = 30.0, memory_bytes: int = 4 * 1024**3, folder: Path | None = None
    ) -> None:
        """`folder`: where results lie while they are read. `memory_bytes`: address space of a worker."""
        self._timeout_s = timeout_s
        self._memory_bytes = memory_bytes
        self._folder = folder
        self._idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(count):
            self._idle.put(None)
        self._flights: dict[str, Future[Result]] = {}
        self._lock = threading.Lock()

    def run(self, task: Json) -> Result:
        """The result of `task`. Raises NotAcceptable where the pixels cannot be decoded, Unavailable when late."""
        key = json.dumps(task, sort_keys=True)
        with self._lock:
            flight = self._flights.get(key)
            mine = flight is None
            if flight is None:
                flight = self._flights[key] = Future()
        if not mine:
            return flight.result()
        try:
            result = self._run(task)
        except BaseException as error:
            flight.set_exception(error)
            flight.exception()
            raise
        else:
            flight.set_result(result)
            return result
        finally:
            with self._lock:
                del self._flights[key]

    def close(self) -> None:
        """End the idle workers."""
        while True:
            try:
                worker = self._idle.get_nowait()
            except queue.Empty:
                return
            if worker is not None:
                worker.close()

    def _run(self, task: Json) -> Result:
        try:
            worker = self._idle.get(timeout=self._timeout_s)
        except queue.Empty:
            raise Unavailable("All pixel workers are busy", retry_after_s=5) from None
        try:
            descriptor, name = tempfile.mkstemp(prefix="vigie-pixels-", dir=self._folder)
        except OSError:
            self._idle.put(worker)
            raise _no_room() from None
        try:
            if worker is None:
                worker = _Worker(self._memory_bytes)
            answer = worker.ask(task | {"output": name}, self._timeout_s)
        except _Late:
            if worker is not None:
                worker.close()
            worker = None
            os.close(descriptor)
            raise Unavailable("The pixels could not be decoded in time", retry_after_s=5) from None
        except BaseException:
            os.close(descriptor)
            raise
        finally:
            Path(name).unlink(missing_ok=True)
            self._idle.put(worker)
        fault = _fault(answer)
        if fault is not None:
            os.close(descriptor)
            raise fault
        return Result(descriptor, os.fstat(descriptor).st_size, tuple(answer.get("sizes", ())))


def _no_room() -> Unavailable:
    return Unavailable("There is no room for the result at present", retry_after_s=10)


def _fault(answer: Json) -> FhirError | None:
    if answer.get("error") == pixelworker.NO_ROOM:
        return _no_room()
    if "error" in answer:
        return NotAcceptable("The pixel data cannot be decoded into this representation")
    return None


class _Late(Exception):
    pass


class _Worker:
    def __init__(self, memory_bytes: int) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(  # noqa: S603 - our own module, no input of others
            [sys.executable, "-m", "dicomweb.pixelworker", str(memory_bytes)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=_ROOT, env=environment,
        )

    def ask(self, task: Json, timeout_s: float) -> Json:
        source, target = self._process.stdout, self._process.stdin
        assert source is not None and target is not None  # noqa: S101, PT018 - both are pipes
        try:
            target.write(json.dumps(task).encode() + b"\n")
            target.flush()
        except OSError:
            raise _Late from None
        waiting = select.poll()  # not select(2), which takes no descriptor above 1,023
        waiting.register(source, select.POLLIN)
        line = source.readline() if waiting.poll(timeout_s * 1000) else b""
        if not line:
            raise _Late
        answer: Json = json.loads(line)
        return answer

    def close(self) -> None:
        """Kill it: it holds nothing that would be lost."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
