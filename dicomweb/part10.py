"""A DICOM file taken apart: file meta information, data set, digest; and put together again for the object store.

What is stored is what came, byte for byte, but for the 128 bytes of preamble, which are zeroed: they can make one file
both an image and a program (CVE-2019-11687), and nothing here needs them. A deflated data set is inflated within a
budget before it is read.

PS3.10 §7.1, PS3.5 §A.5.
"""

from __future__ import annotations

import hashlib
import io
import mmap
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from dicomweb import reader, uids
from dicomweb.reader import Buffer, DataSet, Unreadable

IMPLICIT_LE = "1.2.840.10008.1.2"
EXPLICIT_LE = "1.2.840.10008.1.2.1"
DEFLATED_LE = "1.2.840.10008.1.2.1.99"
EXPLICIT_BE = "1.2.840.10008.1.2.2"
NATIVE = frozenset({IMPLICIT_LE, EXPLICIT_LE, DEFLATED_LE, EXPLICIT_BE})

MAX_META_BYTES = 64 * 1024
MAX_INFLATED_BYTES = 256 * 1024 * 1024
MAX_RATIO = 200
"""Inflated to deflated size; a header with little text stays under 20, an empty phantom slice under 200."""
FREE_BYTES = 16 * 1024 * 1024
"""Up to this size the ratio is not looked at."""
_CHUNK = 1024 * 1024
_PREAMBLE = bytes(128)


@dataclass(frozen=True)
class Part10:
    """One instance as it came: `head` (preamble, prefix, file meta information) and `body` (the encoded data set)."""

    head: bytes
    body: Buffer
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str

    @property
    def size_bytes(self) -> int:
        """Length of the file."""
        return len(self.head) + len(self.body)

    @cached_property
    def dataset_digest(self) -> str:
        """SHA-256 of transfer syntax and data set: the same object by whatever door it came."""
        digest = hashlib.sha256(self.transfer_syntax_uid.encode() + b"\0")
        view = memoryview(self.body)
        for start in range(0, len(view), 8 * _CHUNK):
            digest.update(view[start : start + 8 * _CHUNK])
            release(view)
        return digest.hexdigest()

    def stream(self) -> Joined:
        """The file as a stream."""
        return Joined(self.head, self.body)

    def dataset(self) -> DataSet:
        """The header, read once within the budgets of `reader`. Offsets are those of the stored file, except for a
        deflated data set: there they count in the inflated one."""
        syntax = self.transfer_syntax_uid
        if syntax == DEFLATED_LE:
            return reader.read(inflate(self.body), explicit=True, little=True)
        return reader.read(self.body, explicit=syntax != IMPLICIT_LE, little=syntax != EXPLICIT_BE, base=len(self.head))


def release(view: memoryview) -> None:
    """Give back the memory of what was read of a mapped file: it can be read again from the file.

    Else a process that reads a 1 GB object once would hold 1 GB of it.
    """
    if isinstance(view.obj, mmap.mmap):
        view.obj.madvise(mmap.MADV_DONTNEED)


def parse(data: Buffer) -> Part10:
    """Take a DICOM file apart. Raises Unreadable where it is none."""
    if len(data) < 144 or bytes(data[128:132]) != b"DICM":
        raise Unreadable("not a DICOM file: the prefix DICM is missing (PS3.10 §7.1)")
    meta, end = _meta(data)
    view = memoryview(data)
    syntax = meta.get(0x0010, "")
    if not syntax:
        raise Unreadable("the file meta information names no transfer syntax")
    head = _PREAMBLE + bytes(view[128:end])
    return _checked(head, view[end:], meta.get(0x0002, ""), meta.get(0x0003, ""), syntax)


def compose(
    meta: bytes, body: Buffer, *, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str
) -> Part10:
    """The file of a data set received over DIMSE, where `meta` is its encoded file meta information."""
    return _checked(_PREAMBLE + b"DICM" + meta, body, sop_class_uid, sop_instance_uid, transfer_syntax_uid)


def _checked(head: bytes, body: Buffer, sop_class: str, sop_instance: str, syntax: str) -> Part10:
    for name, uid in (("TransferSyntaxUID", syntax), ("MediaStorageSOPInstanceUID", sop_instance),
                      ("MediaStorageSOPClassUID", sop_class)):
        if uid and not uids.is_uid(uid):
            raise Unreadable(f"{name} is not a UID")
    return Part10(head, body, sop_class, sop_instance, syntax)


def _meta(data: Buffer) -> tuple[dict[int, str], int]:
    """Text of the group 2 elements by element number, and where the data set begins."""
    values: dict[int, str] = {}
    position, end = 132, min(len(data), 132 + MAX_META_BYTES)
    try:
        while position < end and struct.unpack_from("<H", data, position)[0] == 0x0002:
            number = struct.unpack_from("<H", data, position + 2)[0]
            vr = bytes(data[position + 4 : position + 6]).decode("latin-1")
            if vr in reader.LONG_FORM:
                length, at = struct.unpack_from("<I", data, position + 8)[0], position + 12
            else:
                length, at = struct.unpack_from("<H", data, position + 6)[0], position + 8
            if length > end - at:
                raise Unreadable("an element of the file meta information claims more bytes than there are")
            if vr == "UI":
                values[number] = bytes(data[at : at + length]).decode("latin-1").strip("\0 ")
            position = at + length
    except struct.error as error:
        raise Unreadable("the file meta information is cut off") from error
    if position >= 132 + MAX_META_BYTES:
        raise Unreadable(f"the file meta information is longer than {MAX_META_BYTES} bytes")
    return values, position


def inflate(body: Buffer) -> bytes:
    """The data set of deflated explicit VR little endian, or Unreadable once it passes the budget (a bomb)."""
    allowed = max(FREE_BYTES, min(MAX_INFLATED_BYTES, len(body) * MAX_RATIO))
    engine = zlib.decompressobj(-zlib.MAX_WBITS)
    pieces: list[bytes] = []
    total = 0
    view = memoryview(body)
    try:
        for start in range(0, len(view), _CHUNK):
            piece = view[start : start + _CHUNK]
            pending: bytes | memoryview = piece
            while len(pending) and not engine.eof:
                part = engine.decompress(pending, _CHUNK)
                total += len(part)
                if total > allowed:
                    raise Unreadable("the deflated data set inflates beyond its budget")
                pieces.append(part)
                pending = engine.unconsumed_tail
            if engine.eof:
                break
        pieces.append(engine.flush())
    except zlib.error as error:
        raise Unreadable("the data set is not deflated as its transfer syntax says") from error
    if not engine.eof:
        raise Unreadable("the deflated data set is cut off")
    return b"".join(pieces)


class Joined(io.RawIOBase):
    """Read several buffers as one stream, without joining them in memory."""

    def __init__(self, *parts: Buffer) -> None:
        self._parts: Iterator[memoryview] = iter([memoryview(part) for part in parts])
        self._current: memoryview = memoryview(b"")
        self._unreleased = 0

    def readable(self) -> bool:
        return True

    def readinto(self, target: bytearray | memoryview) -> int:  # type: ignore[override]
        while not len(self._current):
            release(self._current)
            following = next(self._parts, None)
            if following is None:
                return 0
            self._current = following
        count = min(len(target), len(self._current))
        memoryview(target)[:count] = self._current[:count]
        self._current = self._current[count:]
        self._unreleased += count
        if self._unreleased >= 8 * _CHUNK:
            release(self._current)
            self._unreleased = 0
        return count
