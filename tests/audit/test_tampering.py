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
from sqlalchemy.exc import IntegrityError

from audit import forms, queries
from audit.checkpoint import Checkpoint, Signer
from audit.service import Ledger
from audit.verify import verify
from store.access import Access, Interaction
from store.engine.database import Database
from store.unit_of_work import Store
from store.versions.tables import MAX, resource_version
from tests.audit.logbook import AT, SIZE, alter, cut, event_ids, fill, judged, logged, rich
from tests.support import PLATFORM, caller, patient


def test_one_altered_byte_of_a_record_is_found_at_its_position(ledger: Ledger, database: Database, signer: Signer):
    """Any byte of any record, whatever column it stands in: DESIGN §7."""
    rich(ledger)
    rows, log = logged(database), queries.audit_log
    columns = ("event_id", "leaf", "salt", "recorded", "logged", "through", "head", "particulars", "parts")

    @settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.data())
    def check(data: st.DataObject) -> None:
        row = data.draw(st.sampled_from(rows))
        column = data.draw(st.sampled_from([name for name in columns if getattr(row, name)]))
        held = getattr(row, column)
        try:
            alter(database, update(log).where(log.c.seq == row.seq).values({column: _flipped(held, data)}))
        except IntegrityError:
            assert column == "logged"  # PostgreSQL: there is no partition for it
            return
        report = judged(database, signer)
        alter(database, update(log).where(log.c.seq == row.seq).values({column: held}))
        assert report.first is not None, column
        assert report.first.position == row.seq, (column, report.findings)
        if column not in ("leaf", "through", "recorded"):  # the tree, the count and the index disagree as well
            assert {finding.position for finding in report.findings} == {row.seq}

    check()
    assert judged(database, signer).ok


def _flipped(held: Any, data: st.DataObject) -> Any:
    """The value with one bit of it turned, in a text with one character of it another."""
    if isinstance(held, int):
        return held ^ (1 << data.draw(st.integers(0, 50)))
    where = data.draw(st.integers(0, len(held) - 1))
    if isinstance(held, bytes):
        return held[:where] + bytes([held[where] ^ (1 << data.draw(st.integers(0, 7)))]) + held[where + 1 :]
    return held[:where] + ("0" if held[where] != "0" else "1") + held[where + 1 :]


def test_an_altered_row_of_the_index_is_found(ledger: Ledger, database: Database, signer: Signer):
    """Whoever searches the log must find what it says: each row by which a record is found, and no other."""
    rich(ledger)
    index = queries.audit_index
    with database.read() as connection:
        rows = [tuple(row) for row in connection.execute(select(index))]

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.sampled_from(rows), st.sampled_from(["kind", "value", "at", "seq", None]), st.integers(0, 40))
    def check(row: tuple[int, ...], column: str | None, bit: int) -> None:
        names = ("kind", "value", "at", "seq")
        held = dict(zip(names, row, strict=True))
        turned = 1 << (bit % 4 if column == "kind" else bit)
        changed = held if column is None else {**held, column: held[column] ^ turned}
        its = [index.c[name] == held[name] for name in names]
        alter(database, delete(index).where(*its))
        if column is not None and tuple(changed.values()) not in rows:
            with database.write() as connection:
                connection.execute(insert(index).values(changed))
        report = judged(database, signer)
        with database.write() as connection:
            if column is not None and tuple(changed.values()) not in rows:
                connection.execute(delete(index).where(*(index.c[name] == changed[name] for name in names)))
            connection.execute(insert(index).values(held))
        assert held["seq"] in {finding.position for finding in report.findings}
        assert {finding.kind for finding in report.findings} == {"altered"}

    check()
    assert judged(database, signer).ok


def test_an_index_that_is_gone_is_found(ledger: Ledger, database: Database, signer: Signer):
    """All of it deleted: no auditor finds anything, and the records are whole."""
    fill(ledger)
    alter(database, delete(queries.audit_index))
    report = judged(database, signer)
    assert report.first is not None
    assert (report.first.position, report.first.kind) == (1, "altered")
    assert "hidden from those who search" in report.first.text


def test_a_forged_site_is_found(ledger: Ledger, database: Database, signer: Signer):
    """What the server says of itself in its events is named by the records, by its digest."""
    fill(ledger, 3)
    alter(database, update(queries.audit_site).values(content='{"observer":"Device/other"}'))
    assert [finding.kind for finding in judged(database, signer).findings] == ["altered"]


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
def test_a_record_whose_content_is_gone_is_found_at_its_position(
    ledger: Ledger, database: Database, signer: Signer, at: int
):
    fill(ledger)
    gone = event_ids(database)[at - 1]
    alter(database, update(queries.audit_log).where(queries.audit_log.c.seq == at).values(head=None))
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


def test_two_contents_that_changed_places_are_found_at_the_first(ledger: Ledger, database: Database, signer: Signer):
    """Ids, instants, texts and salts: everything but position and leaf."""
    fill(ledger)
    rows, log = logged(database), queries.audit_log
    for at, other in ((3, 20), (20, 3)):
        row = rows[other - 1]
        alter(database, update(log).where(log.c.seq == at).values(
            event_id=f"{row.event_id}x", head=row.head, salt=row.salt, recorded=row.recorded, logged=row.logged))
    for at, other in ((3, 20), (20, 3)):
        alter(database, update(log).where(log.c.seq == at).values(event_id=rows[other - 1].event_id))
    report = judged(database, signer)
    assert report.first is not None
    assert (report.first.position, report.first.kind) == (3, "altered")


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
        kept = [note for _size, note, _ in queries.checkpoints(connection)]
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
    at, log = 13, queries.audit_log
    row = logged(database)[at - 1]
    assert row.head is not None
    forged = row._replace(head=row.head.replace('"version":1', '"version":2'))
    assert forged.head != row.head
    alter(database, update(log).where(log.c.seq == at).values(head=forged.head, leaf=forms.leaf_of(forged)))
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
        connection.execute(insert(resource_version).values(
            pk=999_999, type_id=queries.AUDIT_EVENT, resource_id="forged", version=1, tx_id=1, valid_from=1,
            valid_to=MAX, deleted=0, method="POST", owner_id=1, audience_id=1, last_updated=1, patients="",
            content="{}"))
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
