"""The schema's versions, by Alembic: `upgrade` brings a database to this code's, each revision in its own transaction.

What a revision locks is free when it is done: in one transaction a lock of a moment, as ALTER TABLE takes it, would
last for as long as the slowest of the revisions behind it, which may copy the log. An upgrade that was ended in between
goes on where it was.

Every package declares its tables on `store.tables.metadata`; whoever calls `revise` must have imported them all.

https://alembic.sqlalchemy.org/
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from store.engine.database import MIGRATING, Database, open_engine
from store.engine.faults import driver_error
from store.engine.locks import lock

if TYPE_CHECKING:
    from sqlalchemy import Connection

_FOLDER = Path(__file__).parent
_LOCK = "schema migration"
_LOCK_NOT_AVAILABLE = "55P03"


class SchemaFault(Exception):
    """The database's schema is not one that this code can use; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How a revision waits for tables that others hold (PostgreSQL), in seconds.

    Whoever waits for a table alone stops everybody who comes after, readers too: so it is asked for by moments.
    """

    lock_s: float = 2.0
    """For one lock; then what the revision has done is undone, and all who waited behind it go on."""
    between_s: float = 2.0
    """Until it is tried again."""
    whole_s: float = 600.0
    """In all, of one revision."""


PATIENCE = Patience()


def upgrade(url: str, to: str | None = None, *, patience: Patience = PATIENCE) -> None:
    """Bring the schema to this version's. Safe to run at every start, by several processes at once.

    `to`: no further than to this revision. Raises SchemaFault where it is a newer version's, and where others held a
    table for longer than `patience`: what was done until then stays, and the next call goes on there.
    """
    database = open_engine(url, MIGRATING)
    try:
        current, _ = _state(database)
        last = to or _revisions()[0]
        since = time.monotonic()
        while current != last:
            _refuse_newer(current)
            try:
                with database.write() as connection:
                    lock(connection, _LOCK)
                    _limit_locks(connection, patience)
                    current = _upgraded(connection, last)
            except OperationalError as fault:
                if getattr(driver_error(fault), "sqlstate", None) != _LOCK_NOT_AVAILABLE:
                    raise
                if time.monotonic() - since > patience.whole_s:
                    raise SchemaFault(_in_the_way(database, current)) from fault
                time.sleep(patience.between_s)
            else:
                since = time.monotonic()
    finally:
        database.dispose()


def _limit_locks(connection: Connection, patience: Patience) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SET LOCAL lock_timeout = {max(1, int(patience.lock_s * 1000))}"))


def _in_the_way(database: Database, current: str | None) -> str:
    """The sessions whose transactions have been open for longest."""
    with database.read() as connection:
        name = connection.scalar(text("SELECT current_database()"))
        found = connection.execute(text(
            "SELECT pid, xact_start FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid() AND xact_start IS NOT NULL ORDER BY xact_start LIMIT 5"
        )).all()  # fmt: skip
    told = ", ".join(f"process {row.pid} since {row.xact_start:%H:%M:%S}" for row in found) or "none is open now"
    return (
        f"the step after schema {current} waited for tables that other sessions hold; open transactions: {told}, in "
        f"database {name}. End them and run it again: it goes on there"
    )


def _upgraded(connection: Connection, last: str) -> str:
    """Run the next revision, of a database without any all of them; another process may have run it meanwhile."""
    current = MigrationContext.configure(connection).get_current_revision()
    known = _revisions()
    if current not in known and current is not None:
        return current
    ahead = known[known.index(last) : known.index(current) if current is not None else None]
    if not ahead:
        return last
    following = ahead[-1] if current is not None else last
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, following)
    return following


def state(url: str) -> tuple[str | None, str | None]:
    """(revision of the database, revision of this code)."""
    database = open_engine(url)
    try:
        return _state(database)
    finally:
        database.dispose()


def require_current(url: str) -> None:
    """Raise SchemaFault unless the schema is this code's."""
    current, head = state(url)
    if current is None:
        raise SchemaFault("there is no deployment in this database yet: ./vigie platform init")
    if current != head:
        _refuse_newer(current)
        raise SchemaFault("the database is not at this version's schema: ./vigie db upgrade")


def revise(url: str, message: str) -> None:
    """Write a new revision from what the metadata has and the database at `url` has not."""
    database = open_engine(url)
    try:
        with database.write() as connection:
            config = _config()
            config.attributes["connection"] = connection
            command.revision(config, message=message, autogenerate=True)
    finally:
        database.dispose()


def standing(database: Database) -> Literal["current", "older", "newer"]:
    """How the database's schema stands to this code's; one that this code does not know counts as newer."""
    current, head = _state(database)
    if current == head:
        return "current"
    return "older" if current is None or current in _revisions() else "newer"


def _refuse_newer(current: str | None) -> None:
    if current is not None and current not in _revisions():
        raise SchemaFault("the database has the schema of a newer version: run that version, or restore a backup")


def _state(database: Database) -> tuple[str | None, str | None]:
    with database.read() as connection:
        return MigrationContext.configure(connection).get_current_revision(), _revisions()[0]


@cache
def _revisions() -> tuple[str, ...]:
    """The revisions of this code, the newest first."""
    return tuple(script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions())


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
