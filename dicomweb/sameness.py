"""Whether two instances are the same object in two encodings.

The same object keeps its SOP Instance UID whatever the transfer syntax is (PS3.4 §B.2.2.2), so a modality that sends
through another gateway, or negotiates anew, sends the same object in other bytes. What is compared is what the bytes
mean: elements with their values, without group lengths, file meta information, undefined lengths, padding, byte order
and explicit or implicit VR; pixels without encapsulation, and decoded where the encodings differ. Other pixels, for
instance those of lossy compression, are another object (PS3.4 §B.4.1.3: it would have a new UID).

Runs outside any transaction: it may read both objects whole. PS3.5 §6.2, §7 (elements), §8.2, Annex A (pixels).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from dicomweb import frames, part10
from dicomweb.frames import first
from dicomweb.part10 import DEFLATED_LE, EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE, Part10, release
from dicomweb.reader import BINARY, NUMBERS, PIXEL_DATA, WIDTHS, Buffer, DataSet, Pixels, Reader, Scope, Unreadable
from resources.json import Json
from resources.outcomes import FhirError

MAX_DECODED_BYTES = 1024**3
"""Pixels decoded for one comparison; objects with more are only the same if their bytes are."""
_DECODED_AT_ONCE = 64 * 1024 * 1024
_CHUNK = 8 * 1024 * 1024

_PIXEL_TAGS = frozenset({"7FE00001", "7FE00002", "7FE00008", "7FE00009", "7FE00010"})
"""Compared as pixels: the offset tables are part of an encoding (PS3.3 §C.7.6.3.1.8)."""
_REVERSIBLE = frozenset({
    "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.4.92", "1.2.840.10008.1.2.4.110", "1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.202",
    "1.2.840.10008.1.2.5", EXPLICIT_LE, IMPLICIT_LE, EXPLICIT_BE, DEFLATED_LE,
})
"""Transfer syntaxes in which other bytes may be the same pixels; in a lossy one they are another image."""
_INTERPRETATION, _PLANES = "00280004", "00280006"
_COLOURS = frozenset({"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_PARTIAL_422", "YBR_ICT", "YBR_RCT"})
"""Photometric interpretations that say how colours are encoded (PS3.5 §8.2): compared decoded, as RGB."""
_NUMBER_WIDTHS = {"US": 2, "SS": 2, "AT": 2, "UL": 4, "SL": 4, "FL": 4, "FD": 8, "UV": 8, "SV": 8, **WIDTHS}


class Decoder(Protocol):
    """What is asked of the pixel workers (`dicomweb.workers`)."""

    def run(self, task: Json, /) -> Any: ...


@dataclass(frozen=True, slots=True)
class _Value:
    """An undecoded value: where it lies and how it is written."""

    data: Buffer
    vr: str
    at: int
    length: int
    little: bool


class _Values(Reader):
    """Reads a data set into undecoded values, within the same budgets."""

    def _value(self, tag: int, vr: str, at: int, length: int, into: Json, scope: Scope) -> None:
        into[f"{tag:08X}"] = _Value(self.data, vr, at, length, self.little)


@dataclass(frozen=True, slots=True)
class _Instance:
    path: Path
    part: Part10
    body: Buffer
    """The data set, inflated where it was deflated."""
    header: DataSet
    values: Json


def same(one: Path, other: Path, decoder: Decoder) -> bool:
    """Whether two stored or staged files hold the same object. What cannot be compared within its budget does not."""
    with ExitStack() as stack:
        try:
            first_, second = (_opened(path, stack) for path in (one, other))
            return _same_elements(first_, second) and _same_pixels(first_, second, decoder)
        except (Unreadable, FhirError):
            return False


def _opened(path: Path, stack: ExitStack) -> _Instance:
    file = stack.enter_context(path.open("rb"))
    data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # closed with its last view
    part = part10.parse(data)
    syntax = part.transfer_syntax_uid
    body: Buffer = part10.inflate(part.body) if syntax == DEFLATED_LE else part.body
    explicit, little = syntax != IMPLICIT_LE, syntax != EXPLICIT_BE
    header = Reader(body, explicit=explicit, little=little, base=0).read()
    values = _Values(body, explicit=explicit, little=little, base=0).read().json
    return _Instance(path, part, body, header, values)


# Elements


def _same_elements(one: _Instance, other: _Instance) -> bool:
    left, right = ({tag: value for tag, value in each.values.items() if tag not in _PIXEL_TAGS}
                   for each in (one, other))
    shown = [_text(each, _INTERPRETATION) for each in (one, other)]
    if shown[0] != shown[1] and set(shown) <= _COLOURS:
        left.pop(_INTERPRETATION)
        right.pop(_INTERPRETATION)
    left.pop(_PLANES, None)
    right.pop(_PLANES, None)
    return _same_items(left, right)


def _same_items(left: Json, right: Json) -> bool:
    return left.keys() == right.keys() and all(_same_value(value, right[tag]) for tag, value in left.items())


def _same_value(left: Any, right: Any) -> bool:
    if isinstance(left, _Value) and isinstance(right, _Value):
        return _same_bytes(left, right)
    items = [_items(left), _items(right)]
    return len(items[0]) == len(items[1]) and all(map(_same_items, *items))


def _items(value: Any) -> list[Json]:
    """Items of a sequence. A private one, of defined length in implicit VR, was read as a value: the other side tells
    that it is a sequence."""
    if not isinstance(value, _Value):
        found: list[Json] = value.get("Value", [])
        return found
    if not value.length:
        return []
    window = memoryview(value.data)[value.at : value.at + value.length]
    items: list[Json] = _Values(window, explicit=False, little=True, base=0).items()
    return items


def _same_bytes(left: _Value, right: _Value) -> bool:
    vr = right.vr if left.vr == "UN" else left.vr
    is_text = vr not in BINARY and vr not in NUMBERS and vr != "AT"
    if left.length != right.length and not is_text:
        return False
    pieces = zip(_pieces(left), _pieces(right), strict=False)
    if max(left.length, right.length) <= _CHUNK and is_text:
        return b"".join(_pieces(left)).rstrip(b" \0") == b"".join(_pieces(right)).rstrip(b" \0")
    return left.length == right.length and all(a == b for a, b in pieces)


def _pieces(value: _Value) -> Iterator[bytes]:
    """The bytes in little endian."""
    view = memoryview(value.data)
    width = 1 if value.little else _NUMBER_WIDTHS.get(value.vr, 1)
    for start in range(value.at, value.at + value.length, _CHUNK):
        piece = bytes(view[start : min(start + _CHUNK, value.at + value.length)])
        yield _turned(piece, width) if width > 1 else piece
        if value.length > _CHUNK:
            release(view)


def _turned(raw: bytes, width: int) -> bytes:
    """The bytes of each word in the other order; what is no whole word stays."""
    usable = len(raw) // width * width
    turned = bytearray(raw)
    for index in range(width):
        turned[index:usable:width] = raw[width - 1 - index : usable : width]
    return bytes(turned)


# Pixels


def _same_pixels(one: _Instance, other: _Instance, decoder: Decoder) -> bool:
    left, right = one.header.pixels, other.header.pixels
    if left is None or right is None:
        return left is right
    if left.tag != right.tag:
        return False
    native = left.fragments is None, right.fragments is None
    if all(native) and _planes(one) == _planes(other):
        return _same_native(one, left, other, right)
    if one.part.transfer_syntax_uid == other.part.transfer_syntax_uid:
        if not any(native) and _same_frames(one, other):
            return True
        if one.part.transfer_syntax_uid not in _REVERSIBLE:
            return False
    return left.tag == PIXEL_DATA and _same_decoded(one, other, decoder)


def _same_native(one: _Instance, left: Pixels, other: _Instance, right: Pixels) -> bool:
    if abs(left.length - right.length) > 1:
        return False
    common = min(left.length, right.length)
    values = [
        _Value(each.body, pixels.vr, pixels.offset, common, each.part.transfer_syntax_uid != EXPLICIT_BE)
        for each, pixels in ((one, left), (other, right))
    ]
    return all(a == b for a, b in zip(*map(_pieces, values), strict=True))


def _same_frames(one: _Instance, other: _Instance) -> bool:
    """Whether the compressed frames are equal, however they are cut into fragments (PS3.5 §A.4)."""
    found = [list(_frames(each)) for each in (one, other)]
    if len(found[0]) != len(found[1]):
        return False
    return all(_frame(one, a) == _frame(other, b) for a, b in zip(*found, strict=True))


def _frames(each: _Instance) -> Iterator[frames.Spans]:
    view = memoryview(each.body)
    yield from frames.index(each.header, lambda offset, size: bytes(view[offset : offset + size])).frames


def _frame(each: _Instance, spans: frames.Spans) -> bytes:
    view = memoryview(each.body)
    frame = b"".join(view[offset : offset + size] for offset, size in spans)
    release(view)
    return frame.rstrip(b"\0")


def _same_decoded(one: _Instance, other: _Instance, decoder: Decoder) -> bool:
    count = max(1, first(one.header.json, "00280008", 1))
    size = max(1, frames.frame_bits(one.header.json) // 8)
    if size * count > MAX_DECODED_BYTES:
        return False
    at_once = max(1, _DECODED_AT_ONCE // size)
    for start in range(1, count + 1, at_once):
        wanted = list(range(start, min(start + at_once, count + 1)))
        decoded = [
            decoder.run({"task": "frames", "path": str(each.path), "frames": wanted}) for each in (one, other)
        ]
        if decoded[0].size_bytes != decoded[1].size_bytes:
            return False
        if any(a != b for a, b in zip(*(each.chunks() for each in decoded), strict=True)):
            return False
    return True


def _text(each: _Instance, tag: str) -> str:
    return str((each.header.json.get(tag, {}).get("Value") or [""])[0])


def _planes(each: _Instance) -> int:
    """PlanarConfiguration where there are planes at all."""
    return first(each.header.json, _PLANES, 0) if first(each.header.json, "00280002", 1) > 1 else 0
