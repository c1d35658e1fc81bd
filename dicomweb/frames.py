"""Where each frame lies in the stored file: known at ingest, so that a frame is served as a byte range.

PS3.5 §A.4 (encapsulation, Basic Offset Table), PS3.3 §C.7.6.3.1.8 (Extended Offset Table), PS3.5 §8.1.1 (bits).
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dicomweb.reader import DataSet, Pixels
from resources.json import Json

Spans = tuple[tuple[int, int], ...]
"""(offset, length) in the stored file; a frame is their concatenation."""

SOI = (b"\xff\xd8", b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP", b"\xff\x0a", b"\x00\x00\x00\x0cJXL")
"""How a compressed frame begins: JPEG and JPEG-LS, JPEG 2000 codestream, JP2, JPEG XL."""


@dataclass(frozen=True, slots=True)
class FrameIndex:
    """The frames of one instance, and whether the header and the pixels agree."""

    frames: tuple[Spans, ...]
    complete: bool
    bit_offset: int = 0
    """Frames of 1-bit pixels are packed without regard to bytes: the size of one in bits, else 0."""


def first(json: Json, tag: str, default: int) -> int:
    """The first value as a whole number, else `default`."""
    value = (json.get(tag, {}).get("Value") or [default])[0]
    return value if isinstance(value, int) else default


def index(dataset: DataSet, read: Callable[[int, int], bytes]) -> FrameIndex:
    """Frame spans of `dataset`; `read(offset, length)` gives bytes of the stored file."""
    pixels = dataset.pixels
    if pixels is None:
        return FrameIndex((), complete=True)
    count = max(1, first(dataset.json, "00280008", 1))
    if pixels.fragments is None:
        return _native(dataset.json, pixels, count)
    frames = _encapsulated(dataset, pixels, count, read)
    return FrameIndex(frames, complete=len(frames) == count)


def frame_bits(json: Json) -> int:
    """Bits of one native frame: Rows × Columns × SamplesPerPixel × BitsAllocated (PS3.5 §8.1)."""
    rows, columns = first(json, "00280010", 0), first(json, "00280011", 0)
    samples = first(json, "00280002", 1)
    allocated = first(json, "00280100", 0) or (32 if "7FE00008" in json else 64 if "7FE00009" in json else 0)
    interpretation = (json.get("00280004", {}).get("Value") or [""])[0]
    if interpretation in {"YBR_FULL_422", "YBR_PARTIAL_422"} and samples == 3:
        samples = 2
    return rows * columns * samples * allocated


def _native(json: Json, pixels: Pixels, count: int) -> FrameIndex:
    bits = frame_bits(json)
    if bits <= 0:
        return FrameIndex((), complete=False)
    if bits % 8:
        size_ok = pixels.length * 8 >= bits * count
        spans = []
        for number in range(count if size_ok else 0):
            begin, end = number * bits, (number + 1) * bits
            spans.append(((pixels.offset + begin // 8, (end + 7) // 8 - begin // 8),))
        return FrameIndex(tuple(spans), complete=size_ok, bit_offset=bits)
    size = bits // 8
    there = min(count, pixels.length // size)
    frames = tuple((((pixels.offset + number * size, size)),) for number in range(there))
    return FrameIndex(frames, complete=there == count)


def _encapsulated(dataset: DataSet, pixels: Pixels, count: int, read: Callable[[int, int], bytes]) -> tuple[Spans, ...]:
    fragments = pixels.fragments or ()
    if not fragments:
        return ()
    if count == 1:
        return (fragments,)
    table = _extended_table(dataset, read) or (pixels.basic_offsets if len(pixels.basic_offsets) == count else ())
    if table:
        grouped = _by_table(fragments, table)
        if grouped is not None:
            return grouped
    if len(fragments) == count:
        return tuple((fragment,) for fragment in fragments)
    return _by_markers(fragments, read)


def _extended_table(dataset: DataSet, read: Callable[[int, int], bytes]) -> tuple[int, ...]:
    inline = dataset.json.get("7FE00001", {}).get("InlineBinary")
    if inline:
        raw = base64.b64decode(inline)
    elif "7FE00001" in dataset.bulk:
        raw = read(*dataset.bulk["7FE00001"][:2])
    else:
        return ()
    return struct.unpack(f"<{len(raw) // 8}Q", raw[: len(raw) // 8 * 8])


def _by_table(fragments: Spans, table: Sequence[int]) -> tuple[Spans, ...] | None:
    """Offsets count from the first byte of the first fragment's item tag."""
    origin = fragments[0][0] - 8
    starts = {offset: position for position, offset in enumerate(table)}
    if len(starts) != len(table):
        return None
    frames: list[list[tuple[int, int]]] = []
    for offset, length in fragments:
        if offset - 8 - origin in starts:
            frames.append([])
        if not frames:
            return None
        frames[-1].append((offset, length))
    if len(frames) != len(table):
        return None
    return tuple(tuple(frame) for frame in frames)


def _by_markers(fragments: Spans, read: Callable[[int, int], bytes]) -> tuple[Spans, ...]:
    """A frame begins with the start of a codestream: what is left when there is no offset table."""
    frames: list[list[tuple[int, int]]] = []
    for offset, length in fragments:
        if not frames or read(offset, min(12, length)).startswith(SOI):
            frames.append([])
        frames[-1].append((offset, length))
    return tuple(tuple(frame) for frame in frames)
