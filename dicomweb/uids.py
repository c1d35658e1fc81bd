"""UIDs as data: nothing that is not a UID is ever used as one.

The grammar is that of PS3.5 §9.1 but for leading zeros, which real equipment writes and which harm nothing. A UID never
becomes part of a file name (objects are named by digest), so this check keeps queries and answers clean.
"""

from __future__ import annotations

import hashlib
import re
import uuid

from resources.outcomes import BadRequest

_UID = re.compile(r"[0-9]+(?:\.[0-9]+)+", re.ASCII)
MAX_LENGTH = 64


def is_uid(text: str) -> bool:
    """Whether `text` may be used as a UID (PS3.5 §9.1: digits and dots, at most 64 characters)."""
    return len(text) <= MAX_LENGTH and _UID.fullmatch(text) is not None


def require(text: str, name: str) -> str:
    """`text`, or 400 naming the attribute: a foreign string is not echoed."""
    if not is_uid(text):
        raise BadRequest(f"{name} is not a UID: digits and dots, at most 64 characters (PS3.5 §9.1)", code="value")
    return text


def derived(*parts: str) -> str:
    """The UID under 2.25 (PS3.5 §B.2) that these words name: the same words give the same UID."""
    digest = hashlib.blake2b("\x1f".join(parts).encode(), digest_size=16).digest()
    return f"2.25.{uuid.UUID(bytes=digest, version=4).int}"
