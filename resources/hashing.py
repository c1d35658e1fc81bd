"""Stable 63-bit names for long texts: code systems, organisations, audiences.

A hash needs no dictionary table, so no writer waits for another to give a system its number. Two systems would have
to collide in 63 bits *and* share a code to be confused; 0 is kept for "no system" (`|code`, FHIR R4 §3.1.1.5.11).
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b

NO_SYSTEM = 0
"""The hash of absence: a coding without a system."""

CODE_LIMIT = 255
"""Longest code kept as it is, in code points; a longer one is stored by its digest: index entries have a size limit."""


@lru_cache(maxsize=65536)
def hash64(text: str) -> int:
    """A positive 63-bit integer for `text`, the same in every process for ever; 0 for the empty text."""
    if not text:
        return NO_SYSTEM
    number = int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") >> 1
    return number or 1


def bounded(code: str, limit: int = CODE_LIMIT) -> str:
    """`code` itself, or a fixed-length stand-in where it is longer than `limit` (equality is kept, order is not)."""
    if len(code) <= limit:
        return code
    return "#" + blake2b(code.encode("utf-8", "surrogatepass"), digest_size=32).hexdigest()
