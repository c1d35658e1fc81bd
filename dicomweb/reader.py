"""Read the header of one data set, once, within budgets: DICOM JSON, where the bulk lies, where the pixels lie.

It is used on every instance before anything else looks at it. It allocates for what it keeps and never for what a
length field claims; nesting, number of elements and kept bytes are bounded; a length that runs past the end is refused.
pydicom gives the dictionary and the character sets; it parses only what has passed here.

PS3.5 §7 (data elements), §7.5 (nesting), PS3.18 Annex F (DICOM JSON Model).
"""

from __future__ import annotations

import base64
import math
import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from pydicom._dicom_dict import DicomDictionary
from pydicom.charset import convert_encodings, decode_bytes

from resources.json import Json

Buffer = bytes | mmap.mmap | memoryview

MAX_DEPTH = 32
"""Sequences within sequences; the standard's own objects stay under ten."""
MAX_ELEMENTS = 500_000
MAX_KEPT_BYTES = 32 * 1024 * 1024
"""Value bytes that go into DICOM JSON, over the whole data set."""
INLINE_BYTES = 1024
"""Binary values up to this size are InlineBinary; longer ones have a BulkDataURI (PS3.18 §F.2.6, §F.2.7)."""
TEXT_BYTES = 65536
"""Values of other VRs up to this size are given as Value."""

UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
PIXEL_DATA = 0x7FE00010
PIXELS = {0x7FE00008: "OF", 0x7FE00009: "OD", PIXEL_DATA: "OW"}
ALWAYS_BULK = {0x00420011, *PIXELS}
BULK_PREFIX = "bulkdata/"
"""What a stored BulkDataURI begins with; the base of the request is put in front when it is served."""

LONG_FORM = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})
BINARY = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
NUMBERS = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d", "UV": "Q", "SV": "q"}
WIDTHS = {"OW": 2, "OL": 4, "OF": 4, "OD": 8, "OV": 8}
ONE_TEXT = frozenset({"LT", "ST", "UT", "UR"})
CHARSET_TEXT = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
KNOWN = LONG_FORM | frozenset(NUMBERS) | CHARSET_TEXT | {"AE", "AS", "AT", "CS", "DA", "DS", "DT", "IS", "TM", "UI"}
MAY_BE_BULK = BINARY | frozenset(NUMBERS) | ONE_TEXT | {"DS", "IS", "UC"}
_DELIMITERS = {0x5C, 0x5E, 0x3D}


class Unreadable(Exception):
    """The bytes are not a data set that can be understood: DIMSE 0xC000, STOW failure reason 49152."""


@dataclass(slots=True)
class Pixels:
    """Where the value of a pixel data element lies: native, or as fragments (PS3.5 §A.4)."""

    tag: int
    vr: str
    offset: int
    length: int
    basic_offsets: tuple[int, ...] = ()
    fragments: tuple[tuple[int, int], ...] | None = None
    """(offset, length) of each fragment's value; None when native."""


@dataclass(slots=True)
class DataSet:
    """What was read of a data set: its DICOM JSON, and where its bulk values lie."""

    json: Json = field(default_factory=dict)
    bulk: dict[str, tuple[int, int, str]] = field(default_factory=dict)
    """Path of the attribute → (offset, length, VR) of its value."""
    pixels: Pixels | None = None


def read(data: Buffer, *, explicit: bool, little: bool, base: int = 0) -> DataSet:
    """The data set in `data`; offsets are given with `base` added. Raises Unreadable."""
    return Reader(data, explicit=explicit, little=little, base=base).read()


@dataclass(slots=True)
class Scope:
    """What an item inherits from the data set around it."""

    path: str
    depth: int
    encodings: list[str]
    signed: bool


def _outermost() -> Scope:
    return Scope("", 0, ["iso8859"], False)


@contextmanager
def _cut_off() -> Iterator[None]:
    try:
        yield
    except (struct.error, IndexError, RecursionError, UnicodeError) as error:
        raise Unreadable("a data element does not end within the data set") from error


class Reader:
    """Walks the elements of a data set; `read` gives what it finds. A subclass may keep other things of a value."""

    def __init__(self, data: Buffer, *, explicit: bool, little: bool, base: int) -> None:
        self.data, self.base = data, base
        self.explicit, self.little = explicit, little
        self.order = "<" if little else ">"
        self.elements = 0
        self.kept = 0
        self.result = DataSet()
        if explicit and len(data) >= 6 and not bytes(data[4:6]).isalpha():
            self.explicit = False  # some senders claim explicit VR and write implicit; the first element tells

    def read(self) -> DataSet:
        """The whole data set. Raises Unreadable."""
        with _cut_off():
            self.dataset(0, len(self.data), self.result.json, _outermost())
        return self.result

    def items(self) -> list[Json]:
        """The bytes read as the items of a sequence. Raises Unreadable."""
        found: Json = {}
        with _cut_off():
            self._sequence(ITEM, "SQ", 0, len(self.data), found, _outermost(), open_ended=False)
        items: list[Json] = found[f"{ITEM:08X}"].get("Value", [])
        return items

    def dataset(self, position: int, end: int, into: Json, scope: Scope, *, open_ended: bool = False) -> int:
        """Read elements from `position` into `into`; stop at `end`, or at an item delimiter when `open_ended`."""
        data, order, explicit = self.data, self.order, self.explicit
        head = struct.Struct(order + "HH")
        word, long_word = struct.Struct(order + "H"), struct.Struct(order + "I")
        while position < end:
            if end - position < 8:
                if not any(data[position:end]):
                    return end  # trailing zero padding, as some archives write
                raise Unreadable("a data element is cut off")
            group, number = head.unpack_from(data, position)
            tag = group << 16 | number
            if tag == ITEM_END:
                if not open_ended:
                    raise Unreadable("an item delimiter stands outside an item")
                return position + 8
            self.elements += 1
            if self.elements > MAX_ELEMENTS:
                raise Unreadable(f"more than {MAX_ELEMENTS} data elements")
            if explicit:
                vr = str(data[position + 4 : position + 6], "latin-1")
                if vr in LONG_FORM:
                    (length,) = long_word.unpack_from(data, position + 8)
                    position += 12
                else:
                    (length,) = word.unpack_from(data, position + 6)
                    position += 8
                    if vr not in KNOWN:
                        vr = "UN"
            else:
                (length,) = long_word.unpack_from(data, position + 4)
                position += 8
                vr = "UN"
            if vr == "UN":
                vr = self._looked_up(tag, scope)
                if vr == "SQ" and explicit and not self._item_is_explicit(position):
                    vr = "UN SQ"
            position = self._element(tag, vr, position, length, end, into, scope)
        if open_ended:
            raise Unreadable("an item of undefined length is not ended")
        return position

    def _looked_up(self, tag: int, scope: Scope) -> str:
        vr = dictionary_vr(tag)
        if " or " in vr:
            if vr == "US or SS":
                return "SS" if scope.signed else "US"
            return "OW"
        return vr

    def _item_is_explicit(self, at: int) -> bool:
        """Some senders keep explicit VR inside a sequence that they write as UN."""
        return str(bytes(self.data[at + 12 : at + 14]), "latin-1") in KNOWN

    def _element(self, tag: int, vr: str, at: int, length: int, end: int, into: Json, scope: Scope) -> int:
        """Take the element whose value begins at `at`; return where the next one begins."""
        if length == UNDEFINED:
            if tag in PIXELS and scope.depth == 0:
                return self._encapsulated(tag, at, end, into)
            if vr not in {"SQ", "UN SQ", "UN"}:
                raise Unreadable("an element other than a sequence has undefined length")
            return self._sequence(tag, vr, at, end, into, scope, open_ended=True)
        if length > end - at:
            raise Unreadable("a data element claims more bytes than the data set has")
        if tag & 0xFFFF == 0 or tag == 0xFFFCFFFC:
            return at + length  # group lengths and trailing padding are no content (PS3.18 §F.2.2)
        if vr in {"SQ", "UN SQ"}:
            return self._sequence(tag, vr, at, at + length, into, scope, open_ended=False)
        self._value(tag, vr, at, length, into, scope)
        return at + length

    def _sequence(self, tag: int, vr: str, at: int, end: int, into: Json, scope: Scope, *, open_ended: bool) -> int:
        if scope.depth >= MAX_DEPTH:
            raise Unreadable(f"sequences are nested more than {MAX_DEPTH} deep")
        name = f"{tag:08X}"
        if vr in {"UN", "UN SQ"} and self.explicit:
            # PS3.5 §6.2.2: a sequence written as UN holds items in implicit VR little endian.
            outer = self.explicit, self.little, self.order
            self.explicit, self.little, self.order = False, True, "<"
            try:
                return self._sequence(tag, "SQ", at, end, into, scope, open_ended=open_ended)
            finally:
                self.explicit, self.little, self.order = outer
        items: list[Json] = []
        layout = struct.Struct(self.order + "HHI")
        while at < end:
            if end - at < 8:
                raise Unreadable("a sequence item is cut off")
            group, number, length = layout.unpack_from(self.data, at)
            marker = group << 16 | number
            at += 8
            if marker == SEQUENCE_END:
                break
            if marker != ITEM:
                raise Unreadable("a sequence holds something other than items")
            self.elements += 1
            item: Json = {}
            inner = Scope(f"{scope.path}{name}/{len(items)}/", scope.depth + 1, scope.encodings, scope.signed)
            if length == UNDEFINED:
                at = self.dataset(at, end, item, inner, open_ended=True)
            else:
                if length > end - at:
                    raise Unreadable("a sequence item claims more bytes than the sequence has")
                at = self.dataset(at, at + length, item, inner)
            items.append(item)
        else:
            if open_ended:
                raise Unreadable("a sequence of undefined length is not ended")
        into[name] = {"vr": "SQ", "Value": items} if items else {"vr": "SQ"}
        return at

    def _encapsulated(self, tag: int, at: int, end: int, into: Json) -> int:
        """Fragments of encapsulated pixel data, the Basic Offset Table first (PS3.5 §A.4)."""
        table: tuple[int, ...] = ()
        fragments: list[tuple[int, int]] = []
        first = True
        start = at
        while True:
            if end - at < 8:
                raise Unreadable("encapsulated pixel data is not ended")
            group, number, length = struct.unpack_from("<HHI", self.data, at)
            marker = group << 16 | number
            at += 8
            if marker == SEQUENCE_END:
                break
            if marker != ITEM or length > end - at:
                raise Unreadable("encapsulated pixel data holds something other than whole fragments")
            if first:
                if length % 4 == 0 and length <= 4 * MAX_ELEMENTS:
                    table = struct.unpack_from(f"<{length // 4}I", self.data, at)
                first = False
            else:
                fragments.append((at + self.base, length))
                if len(fragments) > MAX_ELEMENTS:
                    raise Unreadable(f"more than {MAX_ELEMENTS} fragments")
            at += length
        name = f"{tag:08X}"
        into[name] = {"vr": "OB", "BulkDataURI": BULK_PREFIX + name}
        self.result.pixels = Pixels(tag, "OB", start + self.base, at - start, table, tuple(fragments))
        return at

    def _value(self, tag: int, vr: str, at: int, length: int, into: Json, scope: Scope) -> None:
        name = f"{tag:08X}"
        if length == 0:
            into[name] = {"vr": vr}
            return
        limit = INLINE_BYTES if vr in BINARY else TEXT_BYTES
        if (length > limit and vr in MAY_BE_BULK) or tag in ALWAYS_BULK:
            path = scope.path + name
            self.result.bulk[path] = (at + self.base, length, vr)
            into[name] = {"vr": vr, "BulkDataURI": BULK_PREFIX + path}
            if tag in PIXELS and scope.depth == 0:
                self.result.pixels = Pixels(tag, vr, at + self.base, length)
            return
        if length > limit:
            raise Unreadable("a short text element is longer than its VR allows")
        self.kept += length
        if self.kept > MAX_KEPT_BYTES:
            raise Unreadable(f"the header holds more than {MAX_KEPT_BYTES} bytes")
        raw = bytes(self.data[at : at + length])
        if vr in BINARY:
            raw = swapped(raw, vr) if not self.little else raw
            into[name] = {"vr": vr, "InlineBinary": base64.b64encode(raw).decode("ascii")}
            return
        values = self._values(vr, raw, scope.encodings)
        into[name] = {"vr": vr, "Value": values} if values else {"vr": vr}
        if tag == 0x00080005:
            scope.encodings = encodings_of(tuple(str(v or "") for v in values))
        elif tag == 0x00280103:
            scope.signed = values[:1] == [1]

    def _values(self, vr: str, raw: bytes, encodings: list[str]) -> list[Any]:
        layout = NUMBERS.get(vr)
        if layout:
            width = struct.calcsize(layout)
            count = len(raw) // width
            numbers = struct.unpack_from(f"{self.order}{count}{layout}", raw)
            return [_finite(n) for n in numbers] if layout in "fd" else list(numbers)
        if vr == "AT":
            words = struct.unpack_from(f"{self.order}{len(raw) // 4 * 2}H", raw)
            return [f"{words[i]:04X}{words[i + 1]:04X}" for i in range(0, len(words), 2)]
        text = _decoded(raw, encodings if vr in CHARSET_TEXT else ["iso8859"])
        if vr in ONE_TEXT:
            text = text.rstrip(" \0")
            return [text] if text else []
        parts = [part.strip(" \0") for part in text.rstrip(" \0").split("\\")]
        if not any(parts):
            return []
        if vr == "PN":
            return [_person(part) for part in parts]
        if vr == "IS":
            return [_whole(part) for part in parts]
        if vr == "DS":
            return [_decimal(part) for part in parts]
        return [part or None for part in parts]


@lru_cache(maxsize=8192)
def dictionary_vr(tag: int) -> str:
    """VR of a standard attribute; UN for private and unknown ones (PS3.6)."""
    if tag >> 16 & 1:
        return "LO" if 0x10 <= tag & 0xFFFF <= 0xFF else "UN"
    entry = DicomDictionary.get(tag)
    if entry is None:
        if tag >> 24 == 0x60:  # repeating overlay groups (PS3.5 §7.6)
            entry = DicomDictionary.get(0x60000000 | tag & 0xFFFF)
            known = {0x3000: "OW", 0x10: "US", 0x11: "US", 0x22: "LO", 0x40: "CS", 0x50: "SS", 0x100: "US", 0x102: "US",
                     0x1500: "LO", 0x45: "LO", 0x15: "IS"}
            return known.get(tag & 0xFFFF, "UN") if entry is None else entry[0]
        return "UN"
    return "UN" if entry[0] == "NONE" else entry[0]


@lru_cache(maxsize=256)
def _encodings(names: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return tuple(convert_encodings(list(names)))
    except (LookupError, ValueError, UserWarning):
        return ("iso8859",)


def encodings_of(names: tuple[str, ...]) -> list[str]:
    """Python encodings for the values of SpecificCharacterSet (PS3.3 §C.12.1.1.2)."""
    return list(_encodings(names)) or ["iso8859"]


def _decoded(raw: bytes, encodings: list[str]) -> str:
    if raw.isascii() and b"\x1b" not in raw:
        return raw.decode("ascii")
    try:
        if len(encodings) == 1 and b"\x1b" not in raw:
            return raw.decode(encodings[0])
        return decode_bytes(raw, encodings, _DELIMITERS)
    except (LookupError, UnicodeError, UserWarning):
        try:
            return raw.decode("utf-8")
        except UnicodeError:
            return raw.decode("latin-1")


def _person(text: str) -> Json | None:
    groups = zip(("Alphabetic", "Ideographic", "Phonetic"), text.split("="), strict=False)
    return {name: group.rstrip() for name, group in groups if group.strip()} or None


def _whole(text: str) -> int | str | None:
    try:
        return int(text) if len(text) <= 16 else text
    except ValueError:
        return text or None


def _decimal(text: str) -> float | int | str | None:
    try:
        number = float(text)
    except ValueError:
        return text or None
    if not math.isfinite(number) or "_" in text:
        return text
    return int(number) if number.is_integer() and text.lstrip("+-").isdigit() and len(text) < 16 else number


def _finite(number: float) -> float | str:
    """Numbers that JSON has no token for are given as text."""
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else ("Infinity" if number > 0 else "-Infinity")


def swapped(raw: bytes, vr: str) -> bytes:
    """Big-endian words as little-endian ones: bulk data is always served little endian (PS3.18 §8.7.3)."""
    width = WIDTHS.get(vr, 1)
    if width == 1:
        return raw
    usable = len(raw) // width * width
    whole = bytearray(raw)
    for index in range(width):
        whole[index:usable:width] = raw[width - 1 - index : usable : width]
    return bytes(whole)
