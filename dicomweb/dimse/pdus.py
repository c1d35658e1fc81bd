"""The few PDUs that are read and written before an association exists, as bytes.

PS3.8 §9.3.2 (A-ASSOCIATE-RQ), §9.3.4 (A-ASSOCIATE-RJ), §9.3.8 (A-ABORT).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import Enum

HEADER_BYTES = 6
ASSOCIATE_RQ = 0x01
_FIXED_BYTES = 68
"""Of an A-ASSOCIATE-RQ after the header, before its items."""
_TITLES = slice(10, 26), slice(26, 42)


class Reject(Enum):
    """(result, source, reason) of an A-ASSOCIATE-RJ (PS3.8 Table 9-21)."""

    PROTOCOL_VERSION = (1, 2, 2)
    CALLING_AE_NOT_RECOGNISED = (1, 1, 3)
    CALLED_AE_NOT_RECOGNISED = (1, 1, 7)
    TEMPORARY_CONGESTION = (2, 3, 1)
    LOCAL_LIMIT_EXCEEDED = (2, 3, 2)

    @property
    def pdu(self) -> bytes:
        return struct.pack(">BBIBBBB", 0x03, 0, 4, 0, *self.value)


class Abort(Enum):
    """(source, reason) of an A-ABORT (PS3.8 Table 9-26)."""

    UNRECOGNISED_PDU = (2, 1)
    INVALID_PDU_PARAMETER = (2, 6)

    @property
    def pdu(self) -> bytes:
        return struct.pack(">BBIBBBB", 0x07, 0, 4, 0, 0, *self.value)


@dataclass(frozen=True, slots=True)
class Titles:
    """What an A-ASSOCIATE-RQ says before its items."""

    called: str
    calling: str
    speaks_version_1: bool


def length_of(header: bytes | bytearray) -> tuple[int, int]:
    """(type, length of what follows) of a PDU header."""
    kind, _, length = struct.unpack(">BBI", header[:HEADER_BYTES])
    return kind, length


def titles_of(request: bytes | bytearray) -> Titles | None:
    """AE titles and version of an A-ASSOCIATE-RQ PDU; None where it is too short to have them."""
    if len(request) < HEADER_BYTES + _FIXED_BYTES:
        return None
    version = int.from_bytes(request[6:8], "big")
    called, calling = (bytes(request[place]).decode("latin-1").strip(" \0") for place in _TITLES)
    return Titles(called, calling, bool(version & 1))
