"""Locks by name, held to the end of the transaction.

On PostgreSQL an advisory lock; on SQLite nothing, since a write transaction already excludes every other.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import BigInteger, Connection, bindparam, func, select
from sqlalchemy.dialects.postgresql import ARRAY

from resources.hashing import hash64
from store.engine.statements import Prepared

_EXCLUSIVE = Prepared(select(func.pg_advisory_xact_lock(bindparam("key", type_=BigInteger))))
_SHARED = Prepared(
    select(
        func.pg_advisory_xact_lock_shared(
            func.unnest(bindparam("keys", type_=ARRAY(BigInteger))),
        )
    )
)


_TRIED = Prepared(select(func.pg_try_advisory_xact_lock(bindparam("key", type_=BigInteger))))


def lock(connection: Connection, key: str) -> None:
    """Hold `key` alone."""
    if connection.dialect.name == "postgresql":
        _EXCLUSIVE.first(connection, {"key": hash64(key)})


def lock_shared(connection: Connection, keys: Iterable[str]) -> None:
    """Hold `keys` together with others who share them, in one order for everybody, so that none waits in a circle."""
    if connection.dialect.name == "postgresql":
        numbers = sorted({hash64(key) for key in keys})
        if numbers:
            _SHARED.all(connection, {"keys": numbers})


def try_lock(connection: Connection, key: str) -> bool:
    """Hold `key` alone if nobody holds it now. Nobody queues behind whoever only tries."""
    if connection.dialect.name != "postgresql":
        return True
    row = _TRIED.first(connection, {"key": hash64(key)})
    return bool(row and row[0])
