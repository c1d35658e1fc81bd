"""The store's maintenance loops.

*Sweep*: the index rows of versions that no page token can still reach are removed. The versions themselves stay for
ever (history, vread); only what searches them goes. A token lives an hour, so rows of a version that ended longer ago
serve nobody. So do the times of transactions, which say what is that old; the newest stays, as numbers go on from it.

*Statistics* (PostgreSQL): the planner's statistics are kept up with growth. Autovacuum looks once a minute; until it
has, a table that was just filled looks empty to the planner, and a search that takes 20 ms took 6 s in a bench right
after its load. SQLite's plans are written down by `store.search.compile` and need none.
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import Connection, delete, func, select, text, tuple_

from resources.times import microseconds
from store.access import Loop
from store.engine.database import Database
from store.engine.locks import lock
from store.engine.statements import Prepared
from store.search.pages import LIFETIME
from store.unit_of_work import Store
from store.versions.kept import keep
from store.versions.sweeping import LOCK, SETTING, swept_to
from store.versions.tables import CURRENT, INDEX_TABLES, MAX, audience_member, resource_version, tx

BATCH = 200
"""Versions of one transaction: on SQLite every writer waits for it."""
TIMES = 2000
"""Times of transactions that go in one: far more than a minute brings."""
MARGIN = timedelta(minutes=5)
SWEEP_INTERVAL_S = 60.0
STATISTICS_INTERVAL_S = 3.0
_GROWTH = 1.3
_AT_LEAST = 200
"""Versions more than at the last analysis, beside the factor."""

CURRENT_TX = MAX - 1
"""Every transaction."""


def sweeper(store: Store) -> Loop:
    """The loop that sweeps."""
    return Loop("sweep", lambda: sweep(store), SWEEP_INTERVAL_S)


def sweep(store: Store) -> bool:
    """Sweep one batch; True when there may be more."""
    now = store.now()
    cutoff_us, future_us = microseconds(now - LIFETIME - MARGIN), microseconds(now + LIFETIME)
    with store.database.read() as connection:
        # Time may step back: what lies below the first transaction that is not old enough. A page of a time that is
        # still to come is refused, so a transaction of such a time holds nothing up.
        recent = select(tx.c.tx_id).where(tx.c.at > cutoff_us, tx.c.at <= future_us).offset(0).subquery()
        young = connection.execute(select(func.min(recent.c.tx_id))).scalar()
        ended = _ended(connection, CURRENT_TX if young is None else int(young) - 1)
        newest = select(func.max(tx.c.tx_id)).scalar_subquery()
        old = select(tx.c.tx_id).where(tx.c.at <= cutoff_us, tx.c.tx_id < newest).order_by(tx.c.at).limit(TIMES)
        times = list(connection.execute(old).scalars())
    if not ended and not times:
        return False
    with store.database.write() as connection:
        lock(connection, LOCK)
        if ended:
            keys = [pk for _, pk in ended]
            for table in INDEX_TABLES:
                connection.execute(delete(table).where(table.c.version_pk.in_(keys)))
            keep(connection, SETTING, f"{ended[-1][0]} {ended[-1][1]}")
        connection.execute(delete(tx).where(tx.c.tx_id.in_(times)))
    return len(ended) == BATCH or len(times) == TIMES


def _ended(connection: Connection, boundary: int) -> list[tuple[int, int]]:
    """(valid_to, pk) of versions that ended by `boundary` and are not swept, oldest first."""
    version = resource_version
    swept = swept_to(connection)
    rows = connection.execute(
        select(version.c.valid_to, version.c.pk)
        .where(
            tuple_(version.c.valid_to, version.c.pk) > tuple_(*swept),
            version.c.valid_to >= swept[0],
            version.c.valid_to <= boundary,
            version.c.valid_to < CURRENT,
        )
        .order_by(version.c.valid_to, version.c.pk)
        .limit(BATCH)
    )
    return [(int(row[0]), int(row[1])) for row in rows]


_NEWEST = Prepared(select(func.coalesce(func.max(resource_version.c.pk), 0)))


def statistician(database: Database) -> Loop:
    """The loop that analyses."""
    return Loop("statistics", Statistics(database).step, STATISTICS_INTERVAL_S)


class Statistics:
    """Remembers how large the store was when it was last analysed; a new process looks once."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._analysed_at = 0

    def step(self) -> bool:
        """Analyse if the store has grown by much; never asks to be called again at once."""
        if self._database.is_sqlite:
            return False
        with self._database.glance() as connection:
            row = _NEWEST.first(connection, {})
        newest = 0 if row is None else int(row[0])
        if newest < self._analysed_at * _GROWTH + _AT_LEAST:
            return False
        names = ", ".join(f'"{table.name}"' for table in (resource_version, audience_member, *INDEX_TABLES))
        with self._database.write() as connection:
            connection.execute(text(f"ANALYZE {names}"))
        self._analysed_at = newest
        return False
