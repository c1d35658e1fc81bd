"""Ids that nobody can guess."""

from __future__ import annotations

import os


def random_id() -> str:
    """A version 4 UUID as text (RFC 9562 §5.4), at a quarter of the price of `uuid.uuid4`: each access has one."""
    digits = os.urandom(16).hex()
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"
