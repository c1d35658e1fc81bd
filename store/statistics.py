"""Planner statistics on PostgreSQL, kept up with growth.

Autovacuum looks once a minute; until it has, a table that was just filled looks empty to the planner, and a search that
takes 20 ms took 6 s in a bench right after its load. SQLite's plans are written down by `query` and need none.
"""

from __future__ import annotations

from sqlalchemy import func, select, text

from store.engine import Database
from store.loops import Loop
from store.tables import INDEX_TABLES, audience_member, resource_version

INTERVAL_S = 3.0
_GROWTH = 1.3
_AT_LEAST = 200
"""Versions more than at the last time, beside the factor."""


def statistician(database: Database) -> Loop:
    """The maintenance loop."""
    return Loop("statistics", Statistics(database).step, INTERVAL_S)


class Statistics:
    """Remembers how large the store was when it was last analysed; a new process looks once."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._analysed_at = 0

    def step(self) -> bool:
        """Analyse if the store has grown by much; never asks to be called again at once."""
        if self._database.is_sqlite:
            return False
        with self._database.read() as connection:
            newest = int(connection.execute(select(func.coalesce(func.max(resource_version.c.pk), 0))).scalar_one())
        if newest < self._analysed_at * _GROWTH + _AT_LEAST:
            return False
        names = ", ".join(f'"{table.name}"' for table in (resource_version, audience_member, *INDEX_TABLES))
        with self._database.write() as connection:
            connection.execute(text(f"ANALYZE {names}"))
        self._analysed_at = newest
        return False
