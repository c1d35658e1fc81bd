"""Answers: carry out a request on the core, send what it gives, and hold neither thread nor memory for a slow reader.

An answer that is small is handed to Granian in one piece. A longer one is pulled from the core piece by piece, and only
as the client takes it. Granian's own stream knows no back-pressure (2.8.7: 200 readers that do not read a study of
500 MB cost 100 GB of memory), its files do: so the pieces go through a pipe that Granian reads as a file. A thread
fills the pipe and is free again; the event loop waits until there is room, but no longer than `grace_s` and a minimum
rate allow.
"""

from __future__ import annotations

import array
import asyncio
import fcntl
import os
import termios
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import structlog

from fhir_server.server.front.protocol import Application, Environ, Headers, HttpProtocol

log = structlog.get_logger("vigie.front")

DIRECT_BYTES = 512 * 1024
"""An answer of at most this length is handed over in one piece (a frame of a CT, say)."""
_TURN_BYTES = 4 * 1024 * 1024
"""A thread fills the pipe of a reader that is fast with so much, then somebody else's turn comes."""
_OPENED_POLL_S = 0.002


@dataclass(frozen=True, slots=True)
class WriteLimits:
    """How slowly an answer may be taken."""

    grace_s: float = 30.0
    """Time that the client has anyway, for the whole answer; and the longest that he may take nothing."""
    min_rate: int = 16 * 1024
    """Bytes a second that he has to take besides."""


@dataclass(slots=True)
class Reply:
    """What the core answers. `rest`: further pieces, to be pulled in a thread. Close it."""

    status: int
    headers: Headers
    body: bytes
    rest: Iterator[bytes] | None = None
    closers: list[Callable[[], None]] = field(default_factory=list)

    def close(self) -> None:
        """Let go of what the answer holds."""
        while self.closers:
            self.closers.pop()()


def carry_out(application: Application, environ: Environ) -> Reply:
    """Ask the core (PEP 3333); of a long answer, its first pieces."""
    told: list[Any] = []

    def start(status: str, headers: Headers, exc_info: Any = None) -> Callable[[bytes], object]:
        told[:] = (int(status[:3]), headers)
        return _no_write

    result = application(environ, start)
    closers = [result.close] if hasattr(result, "close") else []
    try:
        if type(result) is list and len(result) == 1:
            pieces, rest, size = result, None, len(result[0])
        else:
            rest = iter(result)
            pieces, size = [], 0
            for piece in rest:
                pieces.append(piece)
                size += len(piece)
                if size > DIRECT_BYTES:
                    break
            else:
                rest = None
    except BaseException:
        for close in closers:
            close()
        raise
    status, headers = told
    body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    if rest is None and size > DIRECT_BYTES:
        rest = iter(())
    if rest is None:
        for close in closers:
            close()
        closers = []
    return Reply(status, headers, body, rest, closers)


async def send(
    proto: HttpProtocol, reply: Reply, run: Callable[[Callable[[], bool]], asyncio.Future[bool]], limits: WriteLimits
) -> None:
    """Send an answer. `run`: carries a function out in a thread, and gives what it returns."""
    try:
        if reply.rest is not None:
            await _pour(proto, reply, run, limits)
        elif reply.body:
            proto.response_bytes(reply.status, reply.headers, reply.body)
        else:
            proto.response_empty(reply.status, reply.headers)
    finally:
        reply.close()


async def _pour(
    proto: HttpProtocol, reply: Reply, run: Callable[[Callable[[], bool]], asyncio.Future[bool]], limits: WriteLimits
) -> None:
    loop = asyncio.get_running_loop()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    pump = _Pump(reply, writer)
    began = loop.time()
    turn: asyncio.Future[bool] | None = None
    try:
        proto.response_file(reply.status, reply.headers, f"/proc/self/fd/{reader}")
        while True:
            turn = run(pump.turn)
            if await asyncio.shield(turn):
                break
            turn = None
            allowed_s = limits.grace_s + pump.written / limits.min_rate - (loop.time() - began)
            await _writable(loop, writer, min(allowed_s, limits.grace_s))
            if reader >= 0 and pump.is_full:
                os.close(reader)  # somebody else reads: Granian has opened it. Its end is now the only one
                reader = -1
        if reader >= 0:
            await _until_opened(reader, began + limits.grace_s)
    except (TimeoutError, BrokenPipeError):
        pass  # he does not read, or has gone; the connection ends with the pipe
    except Exception as error:
        log.error("an answer broke off", exc_info=error)
    finally:
        if turn is not None and not turn.done():
            turn.add_done_callback(lambda _: _closed(writer, reader, reply))
        else:
            _closed(writer, reader, reply)


def _closed(writer: int, reader: int, reply: Reply) -> None:
    os.close(writer)
    if reader >= 0:
        os.close(reader)
    reply.close()


class _Pump:
    """Fills a pipe from an answer."""

    def __init__(self, reply: Reply, writer: int) -> None:
        self._left = memoryview(reply.body)
        self._rest = reply.rest or iter(())
        self._writer = writer
        self.written = 0
        self.is_full = False

    def turn(self) -> bool:
        """Write until the pipe is full or the turn is over; whether all is written."""
        until = self.written + _TURN_BYTES
        while self.written < until:
            if not self._left:
                piece = next(self._rest, None)
                if piece is None:
                    return True
                self._left = memoryview(piece)
                continue
            try:
                count = os.write(self._writer, self._left)
            except BlockingIOError:
                self.is_full = True
                return False
            self.written += count
            self._left = self._left[count:]
        return False


async def _writable(loop: asyncio.AbstractEventLoop, descriptor: int, timeout_s: float) -> None:
    room: asyncio.Future[None] = loop.create_future()
    loop.add_writer(descriptor, _settle, room)
    try:
        async with asyncio.timeout(max(0.0, timeout_s)):
            await room
    finally:
        loop.remove_writer(descriptor)


def _settle(room: asyncio.Future[None]) -> None:
    if not room.done():
        room.set_result(None)


async def _until_opened(reader: int, deadline: float) -> None:
    """Wait until Granian has opened the pipe: until then our end of it must stay."""
    waiting = array.array("i", [0])
    while True:
        fcntl.ioctl(reader, termios.FIONREAD, waiting)
        if waiting[0] == 0 or time.monotonic() > deadline:
            return
        await asyncio.sleep(_OPENED_POLL_S)


def _no_write(data: bytes) -> object:
    raise RuntimeError("The core gives its answers as iterables (PEP 3333's write() is not for it)")
