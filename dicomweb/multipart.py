"""multipart/related, both ways, streamed: a part is in memory only while it is small.

Reading is python-multipart's push parser, whose work is linear in the bytes it is given. Around it stand what
multipart/related needs beyond forms: a bounded preamble, bare line feeds, bounds on headers and number of parts, and a
body that ends without its final delimiter: its last part is given with `Body.ended` false. Writing spells headers
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

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, MultipartState

from resources.budgets import PART_HEADER_BYTES, PREAMBLE_BYTES, STOW_PARTS
from resources.outcomes import Malformed, TooLarge, Unavailable

MAX_BOUNDARY = 70
MAX_HEADERS = 32
MAX_PADDING = 64
"""Blanks after a delimiter, in a body whose lines end in LF alone."""
SPOOL_BYTES = 4 * 1024 * 1024
CHUNK = 256 * 1024
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")


class Source(Protocol):
    """Where a body comes from."""

    def read(self, size: int = -1, /) -> bytes: ...


@dataclass(slots=True)
class Body:
    """The bytes of one part, in memory or mapped from a spool file; valid until it is closed."""

    headers: dict[str, str]
    data: bytes | mmap.mmap
    ended: bool = True
    """Whether a delimiter followed. If not, the sender may have stopped in the middle of the part."""
    _file: IO[bytes] | None = None

    def close(self) -> None:
        """Let go of the mapping."""
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
        with _no_room():
            if self._file is None and self._size > SPOOL_BYTES:
                self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - `Body.close` closes it
                for piece in self._pieces:
                    self._file.write(piece)
                self._pieces = []
            if self._file is not None:
                self._file.write(data)
            else:
                self._pieces.append(bytes(data))

    def body(self, headers: dict[str, str], *, ended: bool = True) -> Body:
        if self._file is None:
            return Body(headers, b"".join(self._pieces), ended)
        try:
            with _no_room():
                self._file.flush()
                mapped = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        except BaseException:
            self.discard()
            raise
        return Body(headers, mapped, ended, self._file)

    def discard(self) -> None:
        if self._file is not None:
            with suppress(OSError):  # what it still held back is not wanted; its descriptor is closed all the same
                self._file.close()


@contextmanager
def _no_room() -> Iterator[None]:
    """A part that cannot be kept is no fault of whoever sent it."""
    try:
        yield
    except OSError:
        raise Unavailable("The body of the request cannot be kept at present", retry_after_s=10) from None


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


def parts(
    source: Source, boundary: str | None, *, max_bytes: int, folder: str | None = None,
    max_parts: int = STOW_PARTS.value,
) -> Iterator[Body]:
    """The parts of a multipart body, one at a time; the caller closes each. `folder`: where large parts are spooled.

    Raises Malformed and TooLarge; parts that were complete before the fault have been given by then.
    """
    delimiter = check_boundary(boundary)
    reader = _Reader(delimiter, folder, max_parts)
    try:
        for piece in _lines_in_crlf(_Counted(source, max_bytes), delimiter):
            try:
                reader.feed(piece)
            finally:
                yield from reader.taken()
            if reader.is_at_end:
                return
        last = reader.last()
        if last is not None:
            yield last
    finally:
        reader.discard()


class _Reader:
    """Collects the parts that the parser announces."""

    def __init__(self, delimiter: bytes, folder: str | None, max_parts: int) -> None:
        self._folder, self._max_parts = folder, max_parts
        self._done: list[Body] = []
        self._spool = _Spool(folder)
        self._headers: dict[str, str] = {}
        self._name, self._value = b"", b""
        self._header_bytes = self._count = 0
        self._parser = MultipartParser(
            delimiter[2:],
            {
                "on_part_begin": self._begin,
                "on_header_field": self._on_name,
                "on_header_value": self._on_value,
                "on_header_end": self._on_header,
                "on_part_data": self._on_data,
                "on_part_end": self._end,
            },
            max_header_count=MAX_HEADERS,
            max_header_size=PART_HEADER_BYTES.value + CHUNK,  # of one header in one piece; all are counted below
        )

    @property
    def is_at_end(self) -> bool:
        """Whether the final delimiter was read: what follows is epilogue."""
        return self._parser.state == MultipartState.END

    def feed(self, data: bytes) -> None:
        """Read on. Raises Malformed, TooLarge."""
        was_padding = self._parser.state == MultipartState.BOUNDARY_PADDING
        try:
            self._parser.write(data)
        except MultipartParseError:
            raise Malformed("The body is no well-formed multipart (RFC 2046 §5.1.1)") from None
        if was_padding and len(data) >= CHUNK and self._parser.state == MultipartState.BOUNDARY_PADDING:
            raise Malformed("A delimiter line of the body does not end")

    def taken(self) -> Iterator[Body]:
        """The parts that are complete, each once."""
        while self._done:
            yield self._done.pop(0)

    def last(self) -> Body | None:
        """The part that was open when the body ended. Raises Malformed where not even its headers were complete."""
        parser = self._parser
        if parser.state == MultipartState.START or (
            parser.state == MultipartState.HEADER_FIELD_START and not self._header_bytes
        ):
            return None  # a delimiter, and nothing after it
        if parser.state not in (MultipartState.PART_DATA, MultipartState.BOUNDARY_PADDING):
            raise Malformed("The body ends within the headers of a part")
        ended = parser.state == MultipartState.BOUNDARY_PADDING or parser.index >= len(parser.boundary)
        spool, self._spool = self._spool, _Spool(self._folder)
        return spool.body(self._headers, ended=ended)

    def discard(self) -> None:
        """Close what was not handed over."""
        self._spool.discard()
        for body in self.taken():
            body.close()

    def _begin(self) -> None:
        self._count += 1
        if self._count > self._max_parts:
            raise TooLarge(STOW_PARTS.told.format(limit=self._max_parts))
        self._spool = _Spool(self._folder)
        self._headers, self._header_bytes = {}, 0

    def _on_name(self, data: bytes, start: int, end: int) -> None:
        self._name += self._counted_header(data, start, end)

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += self._counted_header(data, start, end)

    def _counted_header(self, data: bytes, start: int, end: int) -> bytes:
        self._header_bytes += end - start
        PART_HEADER_BYTES.check(self._header_bytes)
        return data[start:end]

    def _on_header(self) -> None:
        name, value = self._name.decode("latin-1").lower(), self._value.decode("latin-1").strip()
        self._headers.setdefault(name, value)
        self._name, self._value = b"", b""

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        self._spool.write(memoryview(data)[start:end])

    def _end(self) -> None:
        spool, self._spool = self._spool, _Spool(self._folder)
        self._done.append(spool.body(self._headers))


def _lines_in_crlf(source: _Counted, delimiter: bytes) -> Iterator[bytes]:
    """The body from its first delimiter on, as the parser wants it: no preamble, lines ended by CRLF."""
    first = re.compile(rb"(?:\A|\n)" + re.escape(delimiter) + rb"(?:(--)|[ \t]*(\r?)\n)")
    buffer = b""
    while (found := first.search(buffer)) is None and len(buffer) < PREAMBLE_BYTES.value:
        data = source.read()
        if not data:
            raise Malformed("The body holds no part: its boundary never occurs")
        buffer += data
    if found is None or found.end() > PREAMBLE_BYTES.value:
        raise PREAMBLE_BYTES.fault()
    is_final, return_ = found.groups()
    if is_final:
        return
    yield delimiter + b"\r\n"
    rest = buffer[found.end() :]
    if return_:
        yield rest
        while data := source.read():
            yield data
        return
    lines = _LineFeeds(delimiter)
    yield lines.feed(rest)
    while data := source.read():
        yield lines.feed(data)
    yield lines.finish()


class _LineFeeds:
    """Gives a body whose lines end in LF, as scripts write them, lines that end in CRLF. What a part holds is kept.

    It begins after the first delimiter line.
    """

    def __init__(self, delimiter: bytes) -> None:
        self._delimiter, self._mark = delimiter, b"\n" + delimiter
        self._tail = re.compile(rb"(--)|[ \t]{0,%d}\r?\n" % MAX_PADDING)
        self._kept = b""
        self._in_headers = True
        self._is_at_end = False

    def feed(self, data: bytes) -> bytes:
        if self._is_at_end:
            return b""
        buffer, at = self._kept + data, 0
        out: list[bytes] = []
        while at >= 0 and not self._is_at_end:
            rest, at = at, (self._headers if self._in_headers else self._content)(buffer, at, out)
        if self._is_at_end:  # what follows is epilogue
            self._kept = b""
            return b"".join(out)
        self._kept = buffer[rest:] if self._in_headers else self._content_tail(buffer, rest, out)
        if self._in_headers:
            PART_HEADER_BYTES.check(len(self._kept))
        return b"".join(out)

    def finish(self) -> bytes:
        """What was held back, when no more comes."""
        if self._kept.endswith(self._mark):
            return self._kept.removesuffix(self._mark).removesuffix(b"\r") + b"\r\n" + self._delimiter
        return self._kept

    def _headers(self, buffer: bytes, at: int, out: list[bytes]) -> int:
        """Rewrite one header line; where the next begins, or -1 where the line is not complete."""
        end = buffer.find(b"\n", at)
        if end < 0:
            return -1
        line = buffer[at:end].removesuffix(b"\r")
        out += (line, b"\r\n")
        self._in_headers = bool(line)
        return end + 1

    def _content(self, buffer: bytes, at: int, out: list[bytes]) -> int:
        """Pass on the bytes up to the next delimiter line, and that line; -1 where none is complete."""
        mark_at = buffer.find(self._mark, at)
        while mark_at >= 0:
            tail = self._tail.match(buffer, mark_at + len(self._mark))
            if tail is not None:
                end = mark_at - 1 if mark_at > at and buffer[mark_at - 1 : mark_at] == b"\r" else mark_at
                out += (buffer[at:end], b"\r\n", self._delimiter, tail[1] or b"", b"\r\n")
                self._in_headers, self._is_at_end = True, tail[1] is not None
                return tail.end()
            mark_at = buffer.find(self._mark, mark_at + 1)
        return -1

    def _content_tail(self, buffer: bytes, at: int, out: list[bytes]) -> bytes:
        """Pass on what no delimiter line can begin in any more; the rest."""
        safe = max(at, len(buffer) - len(self._mark) - MAX_PADDING - 3)
        out.append(buffer[at:safe])
        return buffer[safe:]


def new_boundary() -> str:
    """A boundary that no content has (RFC 2046 §5.1.1)."""
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
    """Close the body in the end."""
    try:
        yield body
    finally:
        body.close()
