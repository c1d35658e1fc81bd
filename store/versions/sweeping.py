"""How far the index rows of ended versions are swept (`store.loops`), and the lock of whoever removes or makes them."""

from __future__ import annotations

from sqlalchemy import Connection

from store.versions.kept import kept

SETTING = "swept_to"
LOCK = "index rows"


def swept_to(connection: Connection) -> tuple[int, int]:
    """(valid_to, pk) of the last ended version that has no rows any more."""
    valid_to, pk = (int(part) for part in (kept(connection, SETTING) or "0 0").split())
    return valid_to, pk
