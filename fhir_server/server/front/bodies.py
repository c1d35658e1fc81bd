"""Request bodies, received by the event loop: no thread waits for a client.

A body is in memory while it is small, then in a temporary file of the data folder. It is counted while it comes, and
it has to come: `grace_s` and then `min_rate` bytes a second, whatever the pauses, else 408. All bodies on their way
share a budget of memory (beyond it they go to files), of disk and of their number, so that neither can run out.

RFC 9110 §15.5.9 (408), §15.5.14 (413)
"""

from __future__ import annotations

import asyncio
import io
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from granian._granian import RSGIProtocolClosed as ProtocolClosed
from granian._granian import RSGIProtocolError as ProtocolError

from fhir_server.server.front.lanes import Lane
from fhir_server.server.front.protocol import HttpProtocol
from resources.outcomes import FhirError, RequestTimeout, TooLarge, TooManyRequests, Unavailable

_AT_ONCE = 64 * 1024
"""A body of at most this declared length is taken in one piece."""


class Disconnected(Exception):
    """The client left before the end of its body: there is nobody to answer."""


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """What bodies may cost one process."""

    grace_s: float = 10.0
    """Time that a body has anyway."""
    min_rate: int = 16 * 1024
    """Bytes a second that it has to come with besides."""
    in_memory: int = 4 * 1024 * 1024
    """Bytes of one body in memory; what is larger goes to a file."""
    memory: int = 64 * 1024 * 1024
    """Bytes of all bodies in memory."""
    disk: int = 16 * 1024**3
    """Bytes of all bodies in files."""
    count: int = 1024
    """Bodies on their way at once."""
    per_key: int = 256
    """Bodies on their way at once of one organisation, or of one address that has not shown a token."""


class Body:
    """A received body, to be read by the core. Close it: what it takes of the budget is given back."""

    __slots__ = ("_release", "size", "stream")

    def __init__(self, stream: IO[bytes], size: int, release: Callable[[], None]) -> None:
        self.stream, self.size, self._release = stream, size, release

    def close(self) -> None:
        """Let go of the body and of its share of the budget."""
        self.stream.close()
        self._release()


class NotReceived(io.RawIOBase):
    """The input of a request whose body was not received: reading it raises why. The core refuses in its own words."""

    def __init__(self, fault: FhirError) -> None:
        self._fault = fault

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        raise self._fault

    def readinto(self, buffer: object, /) -> int:
        raise self._fault


class Bodies:
    """The bodies on their way to one process."""

    def __init__(self, limits: BodyLimits, folder: Path, disk: Lane) -> None:
        self.limits = limits
        self._folder = folder
        self._lane = disk
        self.in_memory = self.in_files = self.count = 0
        self._by_key: dict[str, int] = {}

    async def receive(self, proto: HttpProtocol, declared: int | None, limit: int, key: str) -> Body:
        """The body of a request of `key`. `declared`: its Content-Length; None: it is chunked. `limit`: most bytes.

        Raises TooLarge, RequestTimeout, TooManyRequests, Unavailable, Disconnected.
        """
        if declared is not None and declared > limit:
            raise TooLarge(f"A body holds at most {limit} bytes here")
        if self.count >= self.limits.count:
            raise Unavailable("Too many requests are on their way at present", retry_after_s=2)
        mine = self._by_key.get(key, 0)
        if mine >= self.limits.per_key:
            raise TooManyRequests("Too many requests of yours are on their way", retry_after_s=2)
        self.count += 1
        self._by_key[key] = mine + 1
        coming = _Coming(self, limit)
        try:
            async with asyncio.timeout(self.limits.grace_s) as patience:
                if declared is not None and declared <= _AT_ONCE:
                    patience.reschedule(self._until(patience, declared))
                    await coming.add(await proto())
                else:
                    await self._pieces(proto, declared, coming, patience)
        except TimeoutError:
            coming.discard()
            raise RequestTimeout("The body of the request did not come in time") from None
        except (ProtocolClosed, ProtocolError):
            coming.discard()
            raise Disconnected from None
        except BaseException:
            coming.discard()
            raise
        finally:
            self.count -= 1
            left = self._by_key[key] - 1
            if left:
                self._by_key[key] = left
            else:
                del self._by_key[key]
        return coming.body()

    async def _pieces(
        self, proto: HttpProtocol, declared: int | None, coming: _Coming, patience: asyncio.Timeout
    ) -> None:
        ends = 0
        start = asyncio.get_running_loop().time()
        async for piece in proto:
            if not piece:
                # The end. Where the body breaks off, RSGI gives the end twice instead of raising (Granian 2.8).
                ends += 1
                continue
            await coming.add(piece)
            patience.reschedule(start + self.limits.grace_s + coming.size / self.limits.min_rate)
        if ends > 1 or (declared is not None and coming.size != declared):
            raise Disconnected

    def _until(self, patience: asyncio.Timeout, size: int) -> float:
        return (patience.when() or 0.0) + size / self.limits.min_rate

    def write(self, file: IO[bytes] | None, pieces: list[bytes]) -> asyncio.Future[IO[bytes]]:
        """Append to the file of a body (None: make it), in a thread: a disk may be slow."""
        return self._lane.run("", lambda: _appended(file, pieces, self._folder))


class _Coming:
    """A body of which some has come."""

    __slots__ = ("_bodies", "_file", "_in_file", "_in_memory", "_limit", "_pieces", "size")

    def __init__(self, bodies: Bodies, limit: int) -> None:
        self._bodies = bodies
        self._limit = limit
        self._pieces: list[bytes] = []
        self._file: IO[bytes] | None = None
        self._in_memory = self._in_file = self.size = 0

    async def add(self, piece: bytes) -> None:
        bodies, limits = self._bodies, self._bodies.limits
        self.size += len(piece)
        if self.size > self._limit:
            raise TooLarge(f"A body holds at most {self._limit} bytes here")
        self._pieces.append(piece)
        self._in_memory += len(piece)
        bodies.in_memory += len(piece)
        if self._file is None:
            if self._in_memory <= limits.in_memory and bodies.in_memory <= limits.memory:
                return
        elif self._in_memory < _WRITTEN_AT_ONCE and bodies.in_memory <= limits.memory:
            return
        await self._to_file()

    async def _to_file(self) -> None:
        bodies = self._bodies
        if bodies.in_files + self._in_memory > bodies.limits.disk:
            raise Unavailable("There is no room for a request of this size at present", retry_after_s=10)
        moved, pieces = self._in_memory, self._pieces
        self._in_file += moved
        bodies.in_files += moved
        self._pieces = []
        try:
            self._file = await bodies.write(self._file, pieces)
        except OSError:
            raise Unavailable("The body of the request cannot be kept at present", retry_after_s=10) from None
        self._in_memory -= moved
        bodies.in_memory -= moved

    def body(self) -> Body:
        if self._file is None:
            return Body(io.BytesIO(b"".join(self._pieces)), self.size, self._release)
        self._file.seek(0)
        if not self._pieces:
            return Body(self._file, self.size, self._release)
        rest = io.BytesIO(b"".join(self._pieces))
        return Body(_Joined(self._file, rest), self.size, self._release)  # type: ignore[arg-type]

    def discard(self) -> None:
        if self._file is not None:
            self._file.close()
        self._release()

    def _release(self) -> None:
        self._bodies.in_memory -= self._in_memory
        self._bodies.in_files -= self._in_file
        self._in_memory = self._in_file = 0


_WRITTEN_AT_ONCE = 1024 * 1024


class _Joined(io.RawIOBase):
    """A file, then its last bytes, which are still in memory."""

    def __init__(self, first: IO[bytes], second: IO[bytes]) -> None:
        self._parts = [first, second]

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        if size is None or size < 0:
            return b"".join(part.read() for part in self._parts)
        found = b""
        for part in self._parts:
            found += part.read(size - len(found))
            if len(found) == size:
                break
        return found

    def close(self) -> None:
        for part in self._parts:
            part.close()
        super().close()


def _appended(file: IO[bytes] | None, pieces: list[bytes], folder: Path) -> IO[bytes]:
    if file is None:
        # Nameless from the start: it is gone with its last descriptor, also where the process is killed.
        file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed with its body
    try:
        file.writelines(pieces)
        file.flush()
    except BaseException:
        file.close()
        raise
    return file
