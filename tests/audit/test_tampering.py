"""Whatever is altered, removed, moved or forged in the database is found, at its own position.

RFC 6962 §2.1, https://c2sp.org/tlog-checkpoint; DESIGN §7

"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, insert, select, update

from audit import merkle, queries
from audit.checkpoint import Checkpoint, Signer
from audit.service import Ledger
from audit.verify import verify
from store.access import Access, Interaction
from store.engine.database import Database
from store.unit_of_work import Store
from store.versions.tables import resource_version
from tests.audit.logbook import AT, SIZE, alter, cut, event_ids, fill, judged
from tests.support import PLATFORM, caller, patient


def test_one_altered_byte_of_an_event_is_found_at_its_position(
    ledger: Ledger, database: Database, signer: Signer
):
    """Any byte of any record: DESIGN §7."""
    fill(ledger)
    ids = event_ids(database)
    version = resource_version

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.data())
    def check(data: st.DataObject) -> None:
        at = data.draw(st.integers(1, SIZE))
        with database.read() as connection:
            content = connection.execute(
                select(version.c.content).where(version.c.resource_id == ids[at - 1])).scalar_one()
        where = data.draw(st.integers(0, len(content) - 1))
        forged = content[:where] + ("0" if content[where] != "0" else "1") + content[where + 1:]
        row = version.c.resource_id == ids[at - 1]
        alter(database, update(version).where(row).values(content=forged))
        report = judged(database, signer)
        alter(database, update(version).where(row).values(content=content))
        assert report.first is not None
        assert (report.first.position, report.first.kind in ("altered", "misplaced")) == (at, True)
        assert len(report.findings) == 1

    check()
    assert judged(database, signer).ok


COLUMNS = ["leaf", "salt", "event_id"]


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("at", [1, 12, SIZE])
def test_an_altered_row_of_the_log_is_found_at_its_position(
    ledger: Ledger, database: Database, signer: Signer, column: str, at: int
):
    fill(ledger)
    value: Any = "00000000-0000-4000-8000-00000000dead" if column == "event_id" else bytes(32)
    alter(database, update(queries.audit_log).where(queries.audit_log.c.seq == at).values({column: value}))
    report = judged(database, signer)
    assert report.first is not None
    assert report.first.position == at


@pytest.mark.parametrize("at", [1, 12, SIZE])
def test_a_deleted_event_is_found_at_its_position(ledger: Ledger, database: Database, signer: Signer, at: int):
    fill(ledger)
    gone = event_ids(database)[at - 1]
    alter(database, delete(resource_version).where(resource_version.c.resource_id == gone))
    report = judged(database, signer)
    assert report.first is not None
    assert (report.first.position, report.first.kind) == (at, "missing")
    assert gone in report.first.text


@pytest.mark.parametrize("at", [1, 12, 17])
def test_a_deleted_row_of_the_log_is_found_at_its_position(
    ledger: Ledger, database: Database, signer: Signer, at: int
):
    fill(ledger)
    alter(database, delete(queries.audit_log).where(queries.audit_log.c.seq == at))
    report = judged(database, signer)
    assert report.first is not None
    assert (report.first.position, report.first.kind) == (at, "missing")
    assert "outside" in {finding.kind for finding in report.findings}


@pytest.mark.parametrize("values", [{"valid_to": 1}, {"deleted": 1}, {"audience_id": 1}, {"version": 2}])
def test_an_event_that_is_hidden_from_auditors_is_found(
    ledger: Ledger, database: Database, signer: Signer, values: dict[str, int]
):
    """An event that no search shows any more is as good as deleted."""
    fill(ledger)
    hidden = event_ids(database)[6]
    alter(database, update(resource_version).where(resource_version.c.resource_id == hidden).values(values))
    report = judged(database, signer)
    assert report.first is not None
    assert report.first.position == 7


def _renumber(database: Database, one: int, other: int) -> None:
    log = queries.audit_log
    for old, new in ((one, -1), (other, one), (-1, other)):
        alter(database, update(log).where(log.c.seq == old).values(seq=new))


def test_two_records_that_changed_places_are_found_at_the_first(ledger: Ledger, database: Database, signer: Signer):
    """With leaf and salt and all: the position is in the commitment."""
    fill(ledger)
    _renumber(database, 9, 14)
    report = judged(database, signer)
    assert report.first is not None
    assert report.first.position == 9


def test_two_events_that_changed_places_are_found_at_the_first(ledger: Ledger, database: Database, signer: Signer):
    fill(ledger)
    ids, version = event_ids(database), resource_version
    for old, new in ((ids[2], "aside"), (ids[19], ids[2]), ("aside", ids[19])):
        alter(database, update(version).where(version.c.resource_id == old).values(resource_id=new))
    report = judged(database, signer)
    assert report.first is not None
    assert (report.first.position, report.first.kind) == (3, "misplaced")


def test_a_record_given_another_number_leaves_a_gap_that_is_found(
    ledger: Ledger, database: Database, signer: Signer
):
    fill(ledger)
    alter(database, update(queries.audit_log).where(queries.audit_log.c.seq == 4).values(seq=99))
    report = judged(database, signer)
    assert report.first is not None
    assert (report.first.position, report.first.kind) == (4, "missing")


def test_a_log_cut_after_a_checkpoint_is_found_by_the_checkpoint(ledger: Ledger, database: Database, signer: Signer):
    fill(ledger)
    alter(database, delete(queries.audit_log).where(queries.audit_log.c.seq > 18))
    report = judged(database, signer)
    assert report.first is not None
    assert (report.first.position, report.first.kind) == (19, "truncated")


def test_a_log_cut_with_its_checkpoints_is_found_by_one_kept_elsewhere(
    ledger: Ledger, database: Database, signer: Signer
):
    fill(ledger)
    with database.read() as connection:
        kept = [note for _size, note in queries.checkpoints(connection)]
    cut(database, 15)
    assert judged(database, signer).ok, "consistent in itself: nothing inside can tell"
    report = judged(database, signer, kept)
    assert report.first is not None
    assert (report.first.position, report.first.kind) == (16, "truncated")


def test_a_record_rewritten_with_its_leaf_is_found_between_its_checkpoints(
    ledger: Ledger, database: Database, signer: Signer
):
    """Who can write the database but not sign: the first checkpoint after it disagrees."""
    fill(ledger)
    at, version, log = 13, resource_version, queries.audit_log
    with database.write() as connection:
        row = next(r for r in queries.stored(connection, 0) if r.seq == at)
        assert row.event is not None
        forged = row.event.replace("p-13", "p-99")
        leaf = merkle.leaf_hash(merkle.commitment(at, forged.encode(), row.salt))
        connection.execute(update(version).where(version.c.resource_id == row.event_id).values(content=forged))
        connection.execute(update(log).where(log.c.seq == at).values(leaf=leaf))
    report = judged(database, signer)
    assert report.first is not None
    assert (report.first.position, report.first.kind) == (11, "root")
    assert "records 11 to 15" in report.first.text


def test_a_forged_checkpoint_is_found_at_its_position(ledger: Ledger, database: Database, signer: Signer):
    fill(ledger)
    checkpoint = queries.audit_checkpoint
    forged = Signer.generate(signer.name).sign(Checkpoint(signer.name, 10, bytes(32)))
    alter(database, update(checkpoint).where(checkpoint.c.size == 10).values(note=forged))
    report = judged(database, signer)
    assert [(f.position, f.kind) for f in report.findings] == [(10, "checkpoint")]


def test_checkpoints_that_are_removed_leave_records_unsigned(ledger: Ledger, database: Database, signer: Signer):
    fill(ledger)
    alter(database, delete(queries.audit_checkpoint).where(queries.audit_checkpoint.c.size > 15))
    report = judged(database, signer)
    assert report.first is not None
    assert (report.first.position, report.first.kind) == (16, "unsigned")


def test_an_audit_event_outside_the_log_is_found(ledger: Ledger, database: Database, signer: Signer):
    fill(ledger, 3)
    with database.write() as connection:
        row = connection.execute(select(resource_version).limit(1)).mappings().one()
        connection.execute(insert(resource_version).values({**row, "pk": 999_999, "resource_id": "forged"}))
    report = judged(database, signer)
    assert [(f.position, f.kind) for f in report.findings] == [(4, "outside")]
    assert "AuditEvent/forged/_history/1" in report.findings[0].text


def test_a_version_without_a_record_is_found(
    make_store: Callable[..., Store], ledger: Ledger, database: Database, signer: Signer
):
    """A record that vanishes before it was sequenced, or a row written past the server."""
    store = make_store(trail=ledger)
    with store.work(caller()) as uow:
        version = uow.resources.create("Patient", patient())
    assert judged(database, signer).ok
    alter(database, delete(queries.audit_inbox))
    report = judged(database, signer)
    assert [f.kind for f in report.findings] == ["unrecorded"]
    assert f"{version.reference}/_history/1" in report.findings[0].text


def test_a_record_that_vanishes_from_among_others_of_its_transaction_is_found(
    make_store: Callable[..., Store], ledger: Ledger, database: Database, signer: Signer
):
    """Each version is named by a record of its own; that it was read later does not replace it."""
    store = make_store(trail=ledger)
    with store.work(caller()) as uow:
        first = uow.resources.create("Patient", patient())
        uow.resources.create("Patient", patient())
    with store.work(caller(), write=False) as uow:
        uow.resources.vread("Patient", first.id, 1)
    assert judged(database, signer).ok
    inbox = queries.audit_inbox
    alter(database, delete(inbox).where(inbox.c.entry.contains(first.id), inbox.c.entry.contains('"create"')))
    ledger.catch_up()
    report = judged(database, signer)
    assert [f.kind for f in report.findings] == ["unrecorded"]
    assert f"{first.reference}/_history/1" in report.findings[0].text


def test_every_way_to_write_leaves_a_record_that_names_its_version(
    make_store: Callable[..., Store], ledger: Ledger, database: Database, signer: Signer
):
    """Created, updated, deleted, by the server too: the log names each version."""
    store = make_store(trail=ledger)
    with store.work(caller()) as uow:
        version = uow.resources.create("Patient", patient())
        uow.resources.update("Patient", version.id, {**patient("Durand"), "id": version.id})
        uow.system.create("Organization", {"resourceType": "Organization", "name": "x"})
    with store.work(caller()) as uow:
        uow.resources.delete("Patient", version.id)
    ledger.catch_up()
    assert judged(database, signer).findings == []


def test_an_inbox_that_nobody_empties_is_found(ledger: Ledger, database: Database, signer: Signer):
    ledger.disclose(caller(), [Access(Interaction.READ, "Patient", "1")], AT)
    assert judged(database, signer).notes == ["1 records wait to be sequenced"]
    late = datetime.now(UTC) + timedelta(minutes=5)
    report = verify(database, signer.verifier, platform=PLATFORM, now=late)
    assert [f.kind for f in report.findings] == ["unsigned"]
