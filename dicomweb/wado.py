"""WADO-RS: what is stored → the bytes of an answer, in constant memory.

Frames, bulk data and instances as stored are byte ranges of the stored file; only what was asked in another form goes
through the pixel workers. Nothing here decides who may: the rows come from `disclosure`.

DICOM PS3.18 §10.4.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from dicomweb import corrections, part10, reader
from dicomweb.media_types import Choice
from dicomweb.multipart import Part
from dicomweb.queries import InstanceRow
from dicomweb.reader import BULK_PREFIX
from dicomweb.tables import Row
from dicomweb.workers import Workers
from dicomweb.writes import unpack
from resources.budgets import FRAMES_LISTED
from resources.json import Json
from resources.outcomes import BadRequest, NotFound

_MARK = f'"BulkDataURI":"{BULK_PREFIX}'.encode()


class Objects(Protocol):
    """What is asked of the object store (`store.objects`)."""

    def range(self, digest: str, offset: int, length: int, /) -> bytes: ...
    def chunks(self, digest: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]: ...
    def path(self, digest: str, /) -> Any: ...


class Span:
    """Bytes of a stored object. The object is opened when they are read: a list of frames may be of many spans."""

    __slots__ = ("_digest", "_objects", "_offset", "_size")

    def __init__(self, objects: Objects, digest: str, offset: int, size: int) -> None:
        self._objects, self._digest, self._offset, self._size = objects, digest, offset, size

    def __iter__(self) -> Iterator[bytes]:
        return self._objects.chunks(self._digest, self._offset, self._size)

    def part(self, first: int, end: int) -> Span:
        """The bytes from `first` to before `end`."""
        return Span(self._objects, self._digest, self._offset + first, end - first)


@dataclass(frozen=True, slots=True)
class Payload:
    """Bytes of one part and how many they are."""

    chunks: Iterable[bytes]
    size_bytes: int

    def bytes_of(self, first: int, end: int) -> Iterator[bytes]:
        """The bytes from `first` to before `end`. A stored object that is not there is found missing here."""
        if isinstance(self.chunks, Span):
            return iter(self.chunks.part(first, end))
        return _cut(self.chunks, first, end)


class Retrieval:
    """Reads stored objects."""

    def __init__(self, objects: Objects, workers: Workers) -> None:
        self._objects = objects
        self._workers = workers

    def instance(self, row: Row | InstanceRow, choice: Choice) -> Payload:
        """A whole instance, as stored or in Explicit VR Little Endian."""
        corrected = getattr(row, "corrected", None)
        is_stored = choice.transfer_syntax == row.transfer_syntax_uid
        if is_stored and corrected is None:
            return self._stored(row, 0, row.size_bytes)
        task: Json = {"task": "corrected" if is_stored else "explicit", "path": str(self._objects.path(row.digest))}
        if corrected is not None:
            task["corrected"] = unpack(corrected)
        result = self._workers.run(task)
        return Payload(result.chunks(), result.size_bytes)

    def instance_parts(self, rows: Sequence[Row], choices: Sequence[Choice], base: str) -> Iterator[Part]:
        """Parts made one by one, as the answer is sent."""
        for row, choice in zip(rows, choices, strict=True):
            payload = self.instance(row, choice)
            kind = f"{choice.type}; transfer-syntax={choice.transfer_syntax}"
            yield Part(kind, payload.chunks, payload.size_bytes, address(base, row))

    def frames(self, row: Row | InstanceRow, numbers: Sequence[int], choice: Choice) -> list[Payload]:
        """Frames by number, from 1. Raises NotFound where there is no such frame (PS3.18 §10.4.3)."""
        layout: Json = unpack(row.layout)
        if not row.frame_count or any(not 1 <= number <= row.frame_count for number in numbers):
            raise NotFound("The instance has no such frame")
        if is_encapsulated(layout) and choice.transfer_syntax != row.transfer_syntax_uid:
            return self._decoded(row, numbers)
        return [self._frame(row, layout, number) for number in numbers]

    def _decoded(self, row: Row | InstanceRow, numbers: Sequence[int]) -> list[Payload]:
        task = {"task": "frames", "path": str(self._objects.path(row.digest)), "frames": list(numbers)}
        result = self._workers.run(task)
        payloads, offset = [], 0
        for size in result.sizes:
            payloads.append(Payload(result.chunks(offset, size), size))
            offset += size
        return payloads

    def _frame(self, row: Row | InstanceRow, layout: Json, number: int) -> Payload:
        if "native" in layout:
            offset, size, _ = layout["native"]
            return self._little(row, layout, offset + (number - 1) * size, size)
        spans = layout["frames"][number - 1]
        bits = layout.get("bits", 0)
        if bits:
            data = b"".join(self._span(row, layout, *span) for span in spans)
            data = _aligned(data, (number - 1) * bits % 8, bits)
            return Payload([data], len(data))
        if len(spans) == 1 and spans[0][1] > reader.MAX_KEPT_BYTES and not layout.get("deflated"):
            return self._stored(row, *spans[0])
        data = b"".join(self._span(row, layout, *span) for span in spans)
        return Payload([data], len(data))

    def _little(self, row: Row | InstanceRow, layout: Json, offset: int, size: int) -> Payload:
        if size > reader.MAX_KEPT_BYTES and not layout.get("deflated") and not layout.get("bigEndian"):
            return self._stored(row, offset, size)
        data = self._span(row, layout, offset, size)
        if layout.get("bigEndian"):
            data = reader.swapped(data, layout["bigEndian"])
        return Payload([data], len(data))

    def _span(self, row: Row | InstanceRow, layout: Json, offset: int, size: int) -> bytes:
        if layout.get("deflated"):
            stored = self._objects.range(row.digest, layout["head"], row.size_bytes)
            return part10.inflate(stored)[offset : offset + size]
        return self._objects.range(row.digest, offset, size)

    def _stored(self, row: Row | InstanceRow, offset: int, size: int) -> Payload:
        return Payload(Span(self._objects, row.digest, offset, size), size)

    def bulk(self, row: Row | InstanceRow, path: str) -> tuple[str, Payload]:
        """VR and bytes of a bulk attribute. Raises NotFound."""
        layout: Json = unpack(row.layout)
        where = layout.get("bulk", {}).get(path)
        if where is None:
            raise NotFound("The instance has no such bulk data")
        offset, size, vr = where
        if layout.get("deflated") or "bigEndian" in layout:
            data = self._span(row, layout, offset, size)
            data = reader.swapped(data, vr) if "bigEndian" in layout else data
            return vr, Payload([data], len(data))
        return vr, self._stored(row, offset, size)

    def rendered(self, row: Row | InstanceRow, task: Json) -> bytes:
        """A picture of one frame. Raises NotFound, NotAcceptable where the instance has no pixels."""
        result = self._workers.run({"task": "render", "path": str(self._objects.path(row.digest)), **task})
        return result.read()


def _cut(chunks: Iterable[bytes], first: int, end: int) -> Iterator[bytes]:
    """The bytes from `first` to before `end` of a stream."""
    at = 0
    for chunk in chunks:
        if at >= end:
            return
        piece = chunk[max(0, first - at) : end - at]
        if piece:
            yield piece
        at += len(chunk)


def is_encapsulated(layout: Json) -> bool:
    """Whether the pixels are compressed."""
    pixels = layout.get("pixels")
    return bool(pixels and pixels[3])


def is_pixel_path(row: Row | InstanceRow, path: str) -> bool:
    """Whether a bulk path names encapsulated pixel data, which is served frame by frame."""
    layout: Json = unpack(row.layout)
    pixels = layout.get("pixels")
    return bool(pixels and pixels[0] == path and pixels[3])


def root(base: str, owner: str) -> str:
    """Where the studies of an owner are, below the URL of /dicom-web: a UID alone may mean another hospital's."""
    return f"{base}/owners/{owner}"


def address(base: str, row: Row | InstanceRow) -> str:
    """The URL of an instance. `base`: URL of /dicom-web."""
    study, series = row.study_instance_uid, row.series_instance_uid
    return f"{root(base, row.owner)}/studies/{study}/series/{series}/instances/{row.sop_instance_uid}"


IDENTIFYING = frozenset({"00080016", "00080018", "0020000D", "0020000E"})
"""UIDs that are in every answer: without them a client cannot tell whose the other attributes are."""


def included(asked: Iterable[tuple[str, ...]]) -> frozenset[str] | None:
    """The tags that metadata is reduced to; None: none was asked, or all."""
    tags = {tag for one in asked for tag in one}
    return None if not tags or "all" in tags else frozenset(tags) | IDENTIFYING


def metadata(rows: Iterable[Row], base: str, include: frozenset[str] | None = None) -> Iterator[bytes]:
    """The stored headers of instances as one JSON array: joined as they lie, with BulkDataURIs made absolute."""
    first = True
    for row in rows:
        yield (b"[" if first else b",") + header(row, base, include)
        first = False
    yield b"]"


def header(row: Row, base: str, include: frozenset[str] | None = None) -> bytes:
    """The stored header of an instance as a JSON object, or what is asked of it."""
    text = absolute(row.metadata, address(base, row))
    if include is None and row.corrected is None:
        return text
    found: Json = orjson.loads(text)
    if row.corrected is not None:
        found = corrections.over(found, unpack(row.corrected))
    return orjson.dumps({tag: element for tag, element in found.items() if include is None or tag in include})


def absolute(metadata: bytes, url: str) -> bytes:
    """A stored header with BulkDataURIs under `url`. A text value cannot hold the mark: its quotes are escaped."""
    return zlib.decompress(metadata).replace(_MARK, f'"BulkDataURI":"{url}/{BULK_PREFIX}'.encode())


def etag(rows: Iterable[Row], base: str, kind: str) -> str:
    """Changes with every batch stored into one of the series, and with the address that the URIs are built on."""
    digest = hashlib.blake2b(f"{base} {kind}".encode(), digest_size=16)
    for row in rows:
        digest.update(f" {row.pk}:{row.revision}".encode())
    return digest.hexdigest()


def one_frame_number(text: str) -> int:
    """The frame of an address whose answer is one picture. BadRequest for a list."""
    numbers = frame_numbers(text)
    if len(numbers) != 1:
        raise BadRequest("One frame at a time is rendered here")
    return numbers[0]


def frame_numbers(text: str) -> list[int]:
    """The frame list of an address (PS3.18 §10.4.1.1.5): numbers from 1, in the order asked, repeated if asked."""
    parts = text.split(",")
    FRAMES_LISTED.check(len(parts))
    if not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        raise BadRequest("The frame list holds something other than frame numbers")
    numbers = [int(part) for part in parts]
    if 0 in numbers:
        raise BadRequest("Frames are numbered from 1")
    return numbers


def _aligned(data: bytes, shift: int, bits: int) -> bytes:
    """The bits of one frame, moved to the start of a byte."""
    number = int.from_bytes(data, "little") >> shift & ((1 << bits) - 1)
    return number.to_bytes((bits + 7) // 8, "little")


