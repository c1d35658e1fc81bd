"""What the tests of the log share: a filled log, the verdict on it, and a hand that alters rows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import delete, update

from audit import entry, form2, merkle, offline, queries
from audit.checkpoint import Signer
from audit.forms import Row
from audit.service import Ledger
from audit.tables import audit_month
from audit.verify import verify
from resources import search
from store.access import Access, Caller, Interaction, Outcome, Visibility
from store.engine.database import Database
from tests.support import BASE_URL, PLATFORM, caller

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


def rich(ledger: Ledger) -> None:
    """Records with all that there can be in one, in two batches with checkpoints of their own."""
    person = caller("hospital-a", practitioner="Practitioner/rad-1", token_ref="t", address="::1", request_id="r")
    patients = ("Patient/p-1", "Patient/p-2", "Patient/p-3")
    ledger.disclose(person, [
        Access(Interaction.SEARCH_TYPE, "Patient", patients=patients, query="GET /fhir/Patient?name=Zoé\\"),
        Access(Interaction.READ, "Patient", "p-1", 1, ("Patient/p-1",), "hospital-a"),
        Access(Interaction.READ, "Patient", "p-9", outcome=Outcome.SERIOUS, reason="404 not-found"),
    ], AT)  # fmt: skip
    assert ledger.catch_up()
    ledger.disclose(Caller.system(PLATFORM), [
        Access(Interaction.UPDATE, "Task", "t-1", 2, derived=True),
        Access(Interaction.DICOM_STORE, "ImagingStudy", "s-1", 1, patients[:1], "hospital-a",
               detail=(("StudyInstanceUID", "1.2.3"), ("instances", "4")), context=("ServiceRequest/o-1/_history/1",)),
    ], AT)  # fmt: skip
    assert ledger.catch_up()


def judged(database: Database, signer: Signer, elsewhere: list[str] | None = None) -> offline.Report:
    return verify(database, signer.verifier, platform=PLATFORM, elsewhere=elsewhere or ())


def alter(database: Database, statement: Any) -> None:
    with database.write() as connection:
        assert connection.execute(statement).rowcount


def logged(database: Database) -> list[Row]:
    """The rows of the log in order."""
    with database.read() as connection:
        return list(queries.stored(connection))


def event_ids(database: Database) -> list[str]:
    """The ids of the records, in order."""
    return [row.event_id for row in logged(database)]


def events(ledger: Ledger, database: Database) -> list[dict[str, Any]]:
    """The AuditEvents in the order of the log, as an auditor sees them."""
    assert ledger.shelf is not None
    everything = Visibility(None)
    with database.read() as connection:
        found = ledger.shelf.some(
            connection, everything, search.parse("AuditEvent", [("_sort", "_lastUpdated")]),
            upto=ledger.shelf.end(connection), after=None, limit=10_000, check=lambda: None,
        )  # fmt: skip
    return [version.json() for version in found.versions]


def audit_event(written: str, event_id: str) -> dict[str, Any]:
    """The AuditEvent of an entry of at most one patient."""
    record = entry.split(written)
    (patient,) = record.patients or (None,)
    site = {"observer": "Device/platform", "base_url": BASE_URL, "platform": PLATFORM}
    return form2.event(event_id, record.head, record.particulars, patient, site, 0, 0)


def cut(database: Database, size: int) -> None:
    """Remove everything after `size` so that the database is consistent in itself."""
    log, checkpoint = queries.audit_log, queries.audit_checkpoint
    with database.read() as connection:
        leaves = queries.leaves(connection, size)
    frontier = merkle.Frontier.empty()
    for leaf in leaves:
        frontier.append(leaf)
    with database.write() as connection:
        connection.execute(delete(log).where(log.c.seq > size))
        connection.execute(delete(checkpoint).where(checkpoint.c.size > size))
        connection.execute(delete(queries.audit_index).where(queries.audit_index.c.seq > size))
        connection.execute(delete(audit_month))
        connection.execute(update(queries.audit_tree).values(size=size, frontier=frontier.encode()))


def root_of(leaves: Sequence[bytes], start: int = 0, end: int | None = None) -> bytes:
    """MTH of leaves[start:end] (RFC 6962 §2.1)."""
    end = len(leaves) if end is None else end
    return merkle.roots(leaves, [(start, end)])[0] if start < end else merkle.EMPTY_ROOT
