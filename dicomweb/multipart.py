"""multipart/related, both ways, streamed: a part is in memory only while it is small.

Reading tolerates what senders do (LF-only headers, preamble, missing final delimiter, any order of parameters) and
bounds what they may cost: length of boundary and headers, number of parts, bytes of the request. Writing spells headers
``Content-Type:`` exactly, since Cornerstone finds them by that text.

RFC 2046 §5.1, RFC 2387, PS3.18 §8.6.1.2.
"""

from __future__ import annotations

import mmap
import re
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, Protocol

from resources.outcomes import Malformed, TooLarge

MAX_BOUNDARY = 70
MAX_HEADER_BYTES = 8192
MAX_PARTS = 2000
SPOOL_BYTES = 4 * 1024 * 1024
CHUNK = 256 * 1024
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")


class Source(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


@dataclass(slots=True)
class Body:
    """The bytes of one part, in memory or mapped from a spool file; valid until it is closed."""

    headers: dict[str, str]
    data: bytes | mmap.mmap
    _file: IO[bytes] | None = None

    def close(self) -> None:
        if isinstance(self.data, mmap.mmap):
            with suppress(BufferError):  # a view may still be held by a traceback; the mapping goes with it
                self.data.close()
        if self._file is not None:
            self._file.close()


def check_boundary(text: str | None) -> bytes:
    """The delimiter of this boundary; 400 where it is missing or not of RFC 2046's grammar."""
    if not text or len(text) > MAX_BOUNDARY or not _BOUNDARY.fullmatch(text):
        raise Malformed("The boundary parameter of multipart/related is missing or not a boundary (RFC 2046 §5.1.1)")
    return b"--" + text.encode("ascii")


class _Counted:
    """Read from a source, never more than the cap."""

    def __init__(self, source: Source, max_bytes: int) -> None:
        self._source, self._left = source, max_bytes

    def read(self) -> bytes:
        data = self._source.read(CHUNK)
        self._left -= len(data)
        if self._left < 0:
            raise TooLarge("The request body is larger than this server takes in one request")
        return data


class _Spool:
    """Collect bytes in memory, and on disk once they are many."""

    def __init__(self, folder: str | None) -> None:
        self._pieces: list[bytes] = []
        self._size = 0
        self._folder = folder
        self._file: IO[bytes] | None = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not len(data):
            return
        self._size += len(data)
        if self._file is None and self._size > SPOOL_BYTES:
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - `Body.close` closes it
            for piece in self._pieces:
                self._file.write(piece)
            self._pieces = []
        if self._file is not None:
            self._file.write(data)
        else:
            self._pieces.append(bytes(data))

    def body(self, headers: dict[str, str]) -> Body:
        if self._file is None:
            return Body(headers, b"".join(self._pieces))
        self._file.flush()
        return Body(headers, mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ), self._file)

    def discard(self) -> None:
        if self._file is not None:
            self._file.close()


def whole(source: Source, *, max_bytes: int, folder: str | None = None) -> Body:
    """The whole body as one part: a request that is a single application/dicom."""
    counted, spool = _Counted(source, max_bytes), _Spool(folder)
    try:
        while data := counted.read():
            spool.write(data)
    except BaseException:
        spool.discard()
        raise
    return spool.body({})


def parts(source: Source, boundary: str | None, *, max_bytes: int, folder: str | None = None) -> Iterator[Body]:
    """The parts of a multipart body, one at a time. The caller closes each."""
    delimiter = check_boundary(boundary)
    scanner = _Scanner(_Counted(source, max_bytes), delimiter, folder)
    if not scanner.skip_preamble():
        raise Malformed("The body holds no part: its boundary never occurs")
    for number in range(MAX_PARTS + 1):
        headers = scanner.headers()
        if headers is None:
            return
        if number == MAX_PARTS:
            raise TooLarge(f"More than {MAX_PARTS} parts in one request")
        yield scanner.content(headers)


class _Scanner:
    def __init__(self, source: _Counted, delimiter: bytes, folder: str | None) -> None:
        self._source, self._folder = source, folder
        self._delimiter = delimiter
        self._buffer = bytearray()
        self._ended = False

    def _fill(self) -> bool:
        data = self._source.read()
        if not data:
            self._ended = True
            return False
        self._buffer += data
        return True

    def skip_preamble(self) -> bool:
        """Go past the first delimiter; it stands at the start or after a line end."""
        while True:
            at = self._buffer.find(self._delimiter)
            if at == 0 or (at > 0 and self._buffer[at - 1 : at] == b"\n"):
                del self._buffer[: at + len(self._delimiter)]
                return True
            if at > 0:
                del self._buffer[: at + 1]
                continue
            del self._buffer[: max(0, len(self._buffer) - len(self._delimiter) - 2)]
            if not self._fill():
                return False

    def headers(self) -> dict[str, str] | None:
        """Headers of the part that begins after a delimiter; None after the final one."""
        while (len(self._buffer) < 2 or not self._buffer.strip()) and self._fill():
            pass
        if self._buffer[:2] == b"--" or not self._buffer.strip():
            return None
        while True:
            end, size = self._blank_line()
            if end >= 0:
                break
            if len(self._buffer) > MAX_HEADER_BYTES:
                raise TooLarge(f"The headers of a part are longer than {MAX_HEADER_BYTES} bytes")
            if not self._fill():
                raise Malformed("The body ends within the headers of a part")
        if end > MAX_HEADER_BYTES:
            raise TooLarge(f"The headers of a part are longer than {MAX_HEADER_BYTES} bytes")
        lines = bytes(self._buffer[:end]).decode("latin-1").splitlines()
        del self._buffer[: end + size]
        found: dict[str, str] = {}
        for line in lines:
            name, colon, value = line.partition(":")
            if colon:
                found[name.strip().lower()] = value.strip()
        return found

    def _blank_line(self) -> tuple[int, int]:
        """Where the header block ends and how long its end is. A part may have no header at all."""
        line_end = self._buffer.find(b"\n")
        if line_end < 0:
            return -1, 0
        rest = self._buffer[line_end + 1 : line_end + 3]
        if rest[:1] == b"\n" or rest == b"\r\n":
            return line_end + 1, 1 if rest[:1] == b"\n" else 2
        candidates = [(at, len(mark)) for mark in (b"\r\n\r\n", b"\n\n") if (at := self._buffer.find(mark)) >= 0]
        return min(candidates) if candidates else (-1, 0)

    def content(self, headers: dict[str, str]) -> Body:
        """The bytes up to the next delimiter at a line start; to the end of the body where the last one is missing."""
        spool = _Spool(self._folder)
        mark = b"\n" + self._delimiter
        keep = len(mark) + 1
        try:
            while True:
                if self._buffer.startswith(self._delimiter):  # an empty part
                    del self._buffer[: len(self._delimiter)]
                    return spool.body(headers)
                at = self._buffer.find(mark)
                if at >= 0:
                    end = at - 1 if at and self._buffer[at - 1 : at] == b"\r" else at
                    spool.write(memoryview(self._buffer)[:end].tobytes())
                    del self._buffer[: at + len(mark)]
                    return spool.body(headers)
                if len(self._buffer) > keep:
                    spool.write(bytes(self._buffer[:-keep]))
                    del self._buffer[:-keep]
                if not self._fill():
                    spool.write(bytes(self._buffer))
                    self._buffer.clear()
                    return spool.body(headers)
        except BaseException:
            spool.discard()
            raise


def new_boundary() -> str:
    return secrets.token_hex(16)


@dataclass(frozen=True, slots=True)
class Part:
    """One part to write: its content type, its length where known, its bytes as they are produced."""

    content_type: str
    chunks: Iterable[bytes]
    size_bytes: int | None = None
    location: str | None = None


def write(boundary: str, items: Iterable[Part]) -> Iterator[bytes]:
    """The body of a multipart/related answer."""
    for item in items:
        head = _head(boundary, item)
        pending: bytes = head
        for chunk in item.chunks:
            if pending:
                chunk, pending = pending + chunk, b""  # one send for header and first bytes (TCP_NODELAY or not)
            yield chunk
        if pending:
            yield pending
        yield b"\r\n"
    yield f"--{boundary}--\r\n".encode()


def length(boundary: str, items: Iterable[Part]) -> int | None:
    """Content-Length of what `write` gives, where every size is known."""
    total = len(boundary) + 6
    for item in items:
        if item.size_bytes is None:
            return None
        total += len(_head(boundary, item)) + item.size_bytes + 2
    return total


def _head(boundary: str, item: Part) -> bytes:
    location = f"Content-Location: {item.location}\r\n" if item.location else ""
    return f"--{boundary}\r\nContent-Type: {item.content_type}\r\n{location}\r\n".encode()


@contextmanager
def closing(body: Body) -> Iterator[Body]:
    try:
        yield body
    finally:
        body.close()
