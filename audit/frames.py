"""A file of the spool as bytes: a header, then frames, each authenticated and chained to the one before. Pure.

    file   = header ‖ frame* ‖ zeros
    header = magic ‖ id of the key ‖ 16 random bytes ‖ created (µs) ‖ size of the file ‖ MAC
    frame  = mark ‖ length of body ‖ records ‖ records before ‖ MAC of the frame before ‖ CRC-32 of these ‖ MAC ‖ body
    body   = (recorded (µs) ‖ length of the id ‖ length of the entry ‖ id ‖ entry)*

A frame holds what one commit made durable. Its MAC (HMAC-SHA-256 under the file's key, which comes of the header and of
the deployment's) covers its offset and all of it but itself: so a frame verifies alone, and nowhere else. Marks are
not zero, and no byte of a mark can stand in UTF-8: behind what does not verify the next frame is found.

What ends a file is zeros. A frame that was cut (its end is zeros) is what a writer that died in the middle leaves, and
was never acknowledged; the CRC says how long it was to be. Everything else that does not verify was altered.
"""

from __future__ import annotations

import hmac
import re
import secrets
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

MAGIC = b"\xf5VSPOOL2"
MARK = b"\xf5VG2"
_HEADER = struct.Struct(">8s8s16sQI")
_HEAD = struct.Struct(">4sIIQ32s")
_CRC = struct.Struct(">I")
_ROW = struct.Struct(">QBI")
_OFFSET = struct.Struct(">Q")
MAC_BYTES = 32
HEADER_BYTES = _HEADER.size + MAC_BYTES
_SAID_BYTES = _HEAD.size + _CRC.size
HEAD_BYTES = _SAID_BYTES + MAC_BYTES
MAX_BODY_BYTES = 64 * 1024 * 1024
SECTOR = 512
"""What a disk writes wholly or not at all: no text of ours holds as many zeros."""
_NOT_ZERO = re.compile(rb"[^\0]")


@dataclass(frozen=True, slots=True)
class Key:
    """The deployment's key of the spool."""

    secret: bytes
    former: tuple[bytes, ...] = ()
    """Secrets that files of before may have; nothing new is made with them."""

    @property
    def id(self) -> bytes:
        """Tells keys apart, and nothing of them."""
        return hmac.digest(self.secret, b"id", "sha256")[:8]

    def header(self, created: int, size: int) -> bytes:
        """The header of a new file of `size` bytes."""
        text = _HEADER.pack(MAGIC, self.id, secrets.token_bytes(16), created, size)
        return text + hmac.digest(self.secret, text, "sha256")

    def opened(self, header: bytes) -> Opened | None:
        """What a header of ours says; None for any other bytes."""
        if len(header) != HEADER_BYTES:
            return None
        text, mac = header[: _HEADER.size], header[_HEADER.size :]
        for secret in (self.secret, *self.former):
            if hmac.compare_digest(hmac.digest(secret, text, "sha256"), mac):
                size: int = _HEADER.unpack(text)[-1]
                return Opened(hmac.digest(secret, b"file" + text, "sha256"), mac, size)
        return None


class Opened(NamedTuple):
    """Of a file: its key, the begin of its chain, how long it was made."""

    key: bytes
    start: bytes
    size: int


class Entry(NamedTuple):
    """One record: its id, when it was recorded (µs), what was written down."""

    event_id: str
    recorded: int
    entry: str


class Place(NamedTuple):
    """Between two frames: offset, records before it, MAC of the frame before."""

    offset: int
    records: int
    mac: bytes


class Group(NamedTuple):
    """A frame that verifies."""

    begin: int
    end: Place
    before: int
    previous: bytes
    body: bytes

    def rows(self) -> list[Entry]:
        """Its records."""
        found, at, body = [], 0, self.body
        while at < len(body):
            recorded, id_length, length = _ROW.unpack_from(body, at)
            at += _ROW.size
            key = body[at : at + id_length].decode()
            at += id_length
            found.append(Entry(key, recorded, body[at : at + length].decode()))
            at += length
        return found


def frame(opened: Opened, place: Place, rows: Sequence[Entry | tuple[str, int, str]]) -> tuple[bytes, Place]:
    """The frame of these records at `place`, and where it ends."""
    pieces: list[bytes] = []
    for event_id, recorded, entry in rows:
        key, text = event_id.encode(), entry.encode()
        pieces += (_ROW.pack(recorded, len(key), len(text)), key, text)
    body = b"".join(pieces)
    head = _HEAD.pack(MARK, len(body), len(rows), place.records, place.mac)
    head += _CRC.pack(zlib.crc32(head))
    mac = hmac.digest(opened.key, b"".join((_OFFSET.pack(place.offset), head, body)), "sha256")
    content = b"".join((head, mac, body))
    return content, Place(place.offset + len(content), place.records + len(rows), mac)


def group_at(opened: Opened, content: bytes, at: int, base: int) -> Group | None:
    """The frame at `at` of `content`, which begins at offset `base` of the file; None where none verifies there."""
    length = length_at(content, at)
    if length is None or at + length > len(content):
        return None
    _, _, records, before, previous = _HEAD.unpack_from(content, at)
    mac = content[at + _SAID_BYTES : at + HEAD_BYTES]
    body = content[at + HEAD_BYTES : at + length]
    said = b"".join((_OFFSET.pack(base + at), content[at : at + _SAID_BYTES], body))
    if not hmac.compare_digest(hmac.digest(opened.key, said, "sha256"), mac):
        return None
    return Group(base + at, Place(base + at + length, before + records, mac), before, previous, body)


def length_at(content: bytes, at: int) -> int | None:
    """How long the frame at `at` says it is; None where there is no whole head of one. Nothing is authenticated."""
    if at + HEAD_BYTES > len(content) or content[at : at + 4] != MARK:
        return None
    if zlib.crc32(content[at : at + _HEAD.size]) != _CRC.unpack_from(content, at + _HEAD.size)[0]:
        return None
    length: int = _HEAD.unpack_from(content, at)[1]
    return HEAD_BYTES + length if 0 < length <= MAX_BODY_BYTES else None


def records_at(head: bytes) -> tuple[int, int] | None:
    """(bytes, records) of the frame that begins with `head`, unverified: to count what waits."""
    length = length_at(head, 0)
    return None if length is None else (length, int(_HEAD.unpack_from(head)[2]))


def next_group(opened: Opened, content: bytes, at: int, base: int) -> Group | None:
    """The first frame that verifies behind `at`."""
    while True:
        at = content.find(MARK, at)
        if at < 0:
            return None
        found = group_at(opened, content, at, base)
        if found is not None:
            return found
        at += 1


def is_zero(content: bytes, begin: int = 0) -> bool:
    """Whether nothing but zeros stands from `begin` on."""
    return _NOT_ZERO.search(content, begin) is None


def is_torn(content: bytes, base: int) -> bool:
    """Whether `content`, the rest of a file from offset `base` on, is a frame that was cut, and then zeros.

    Cut: its head, or its last byte, or a sector of it is not there. A change of some bits makes none of these.
    """
    length = length_at(content, 0)
    if length is None:  # a head that was cut: its beginning, then zeros
        head = content[:HEAD_BYTES].rstrip(b"\0")
        is_begun = MARK.startswith(head) or head.startswith(MARK)
        return is_begun and 0 < len(head) < HEAD_BYTES and is_zero(content, HEAD_BYTES)
    if not is_zero(content, length):
        return False
    extent = content[:length]
    if len(extent) < length or not extent[-1]:
        return True
    first = SECTOR - base % SECTOR
    return any(is_zero(extent[at : at + SECTOR]) for at in range(first, length - SECTOR + 1, SECTOR))


# --- files of before: a frame is length, CRC-32, then one record; nothing is authenticated

_OLD_FRAME = struct.Struct(">II")
_OLD_HEAD = struct.Struct(">QB")


def old_rows(content: bytes, base: int) -> Iterator[tuple[int, Entry]]:
    """(offset behind it, record) of each whole frame of a file of the first format."""
    at = 0
    while at + _OLD_FRAME.size <= len(content):
        length, checksum = _OLD_FRAME.unpack_from(content, at)
        body = content[at + _OLD_FRAME.size : at + _OLD_FRAME.size + length]
        if not _OLD_HEAD.size < length <= MAX_BODY_BYTES or len(body) < length or zlib.crc32(body) != checksum:
            return
        at += _OLD_FRAME.size + length
        recorded, id_length = _OLD_HEAD.unpack_from(body)
        text = body[_OLD_HEAD.size :]
        yield base + at, Entry(text[:id_length].decode(), recorded, text[id_length:].decode())


def is_old_torn(content: bytes) -> bool:
    """As `is_torn`, of the first format: at the end of its claimed extent are zeros."""
    if len(content) < _OLD_FRAME.size:
        return True
    length, _ = _OLD_FRAME.unpack_from(content)
    end = _OLD_FRAME.size + length
    return len(content) < end or (not content[end - 1] and is_zero(content, end))
