"""Sweeping: the index rows of versions that no page token can still reach are removed.

The versions themselves stay for ever (history, vread); only what searches them goes. A token lives an hour, so rows of
a version that ended longer ago serve nobody.
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import Connection, delete, func, select, tuple_
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from store.loops import Loop
from store.pages import LIFETIME
from store.tables import CURRENT, INDEX_TABLES, resource_version, store_setting, tx
from store.unit_of_work import Store
from store.versions import microseconds

BATCH = 200
"""Versions of one transaction: on SQLite every writer waits for it."""
MARGIN = timedelta(minutes=5)
INTERVAL_S = 60.0

_SETTING = "swept_to"


def sweeper(store: Store) -> Loop:
    """The maintenance loop."""
    return Loop("sweep", lambda: sweep(store), INTERVAL_S)


def sweep(store: Store) -> bool:
    """Sweep one batch; True when there may be more."""
    cutoff_us = microseconds(store.now() - LIFETIME - MARGIN)
    with store.database.read() as connection:
        boundary = connection.execute(select(func.max(tx.c.tx_id)).where(tx.c.at <= cutoff_us)).scalar()
        if boundary is None:
            return False
        ended = _ended(connection, int(boundary))
    if not ended:
        return False
    with store.database.write() as connection:
        keys = [pk for _, pk in ended]
        for table in INDEX_TABLES:
            connection.execute(delete(table).where(table.c.version_pk.in_(keys)))
        _remember(connection, ended[-1])
    return len(ended) == BATCH


def _ended(connection: Connection, boundary: int) -> list[tuple[int, int]]:
    """(valid_to, pk) of versions that ended by `boundary` and are not swept, oldest first."""
    version = resource_version
    kept = connection.execute(select(store_setting.c.value).where(store_setting.c.name == _SETTING)).scalar()
    swept_to = tuple(int(part) for part in (kept or "0 0").split())
    rows = connection.execute(
        select(version.c.valid_to, version.c.pk)
        .where(
            tuple_(version.c.valid_to, version.c.pk) > tuple_(*swept_to),
            version.c.valid_to >= swept_to[0],
            version.c.valid_to <= boundary,
            version.c.valid_to < CURRENT,
        )
        .order_by(version.c.valid_to, version.c.pk)
        .limit(BATCH)
    )
    return [(int(row[0]), int(row[1])) for row in rows]


def _remember(connection: Connection, last: tuple[int, int]) -> None:
    insert = sqlite_insert if connection.dialect.name == "sqlite" else postgresql_insert
    value = f"{last[0]} {last[1]}"
    connection.execute(
        insert(store_setting)
        .values(name=_SETTING, value=value)
        .on_conflict_do_update(index_elements=["name"], set_={"value": value})
    )
