"""Ids that nobody can guess."""

from __future__ import annotations

import os
import time

_BYTES = 16
_DRAWN = 256
_drawn: list[str] = []
"""Random digits drawn ahead: asking the kernel at each id gives up the interpreter's lock, twice in every request."""
os.register_at_fork(after_in_child=_drawn.clear)


def random_digits() -> str:
    """128 random bits in 32 hexadecimal digits."""
    try:
        return _drawn.pop()
    except IndexError:
        digits = os.urandom(_BYTES * _DRAWN).hex()
        size = 2 * _BYTES
        _drawn.extend(digits[start : start + size] for start in range(size, len(digits), size))
        return digits[:size]


def random_id() -> str:
    """A version 4 UUID as text (RFC 9562 §5.4)."""
    digits = random_digits()
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def ordered_id() -> str:
    """A version 7 UUID as text (RFC 9562 §5.7): the time in ms, then 74 random bits.

    For rows that are found by their id and are never few: an index over such ids grows at its end.
    """
    digits = random_digits()
    at = f"{time.time_ns() // 1_000_000:012x}"
    variant = "89ab"[int(digits[0], 16) & 3]
    return f"{at[:8]}-{at[8:]}-7{digits[1:4]}-{variant}{digits[4:7]}-{digits[7:19]}"
