"""What the tests of the log share: a filled log, the verdict on it, and a hand that alters rows."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import delete, update

from audit import merkle, offline, queries
from audit.checkpoint import Signer
from audit.service import Ledger
from audit.verify import verify
from store.access import Access, Interaction
from store.engine.database import Database
from store.versions.tables import resource_version
from tests.support import PLATFORM, caller

AT = datetime(2026, 6, 1, 8, 0, tzinfo=UTC)
SIZE = 23


def fill(ledger: Ledger, count: int = SIZE, batch: int = 5) -> None:
    """`count` records in batches of `batch`, each with a checkpoint of its own."""
    done = 0
    while done < count:
        size = min(batch, count - done)
        names = [f"p-{done + number + 1}" for number in range(size)]
        ledger.disclose(caller(), [Access(Interaction.READ, "Patient", name, 1) for name in names], AT)
        assert ledger.catch_up()
        done += size


def judged(database: Database, signer: Signer, elsewhere: list[str] | None = None) -> offline.Report:
    return verify(database, signer.verifier, platform=PLATFORM, elsewhere=elsewhere or ())


def alter(database: Database, statement: Any) -> None:
    with database.write() as connection:
        assert connection.execute(statement).rowcount


def event_ids(database: Database) -> list[str]:
    with database.read() as connection:
        return [row.event_id for row in queries.stored(connection, 0)]


def cut(database: Database, size: int) -> None:
    """Remove everything after `size` so that the database is consistent in itself."""
    gone = event_ids(database)[size:]
    log, checkpoint = queries.audit_log, queries.audit_checkpoint
    with database.read() as connection:
        leaves = queries.leaves(connection, size)
    frontier = merkle.Frontier.empty()
    for leaf in leaves:
        frontier.append(leaf)
    with database.write() as connection:
        connection.execute(delete(log).where(log.c.seq > size))
        connection.execute(delete(checkpoint).where(checkpoint.c.size > size))
        connection.execute(delete(resource_version).where(resource_version.c.resource_id.in_(gone)))
        connection.execute(update(queries.audit_tree).values(size=size, frontier=frontier.encode()))
