"""The log: every record gets its place, its leaf and its AuditEvent, whoever sequences, and is signed once.

RFC 6962 §2.1, https://c2sp.org/tlog-checkpoint; DESIGN §7

"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, update

from audit import merkle, offline, proofs, queries, sequencer
from audit.checkpoint import Signer
from audit.offline import opened
from audit.sequencer import InconsistentLog, Sequencer
from audit.service import Ledger
from resources.search import parse
from store.access import Access, Caller, Interaction
from store.engine.database import Database
from store.unit_of_work import Store
from tests.audit.logbook import AT, SIZE, alter, cut, event_ids, events, fill, judged, logged, root_of
from tests.support import PLATFORM, caller, patient


def test_records_become_audit_events_in_a_gapless_log_that_verifies(ledger: Ledger, database: Database, signer: Signer):
    fill(ledger)
    report = judged(database, signer)
    assert report.findings == []
    assert (report.records, report.checkpoints) == (SIZE, 5)
    with database.read() as connection:
        assert queries.waiting(connection) == (0, None)
        assert [row.seq for row in queries.stored(connection)] == list(range(1, SIZE + 1))
        leaves = queries.leaves(connection, SIZE)
        size, note, _ = [*queries.checkpoints(connection)][-1]
    shown = events(ledger, database)
    assert [event["entity"][0]["what"]["reference"] for event in shown] == [
        f"Patient/p-{n}/_history/1" for n in range(1, SIZE + 1)]
    meta = shown[0]["meta"]
    assert meta["versionId"] == "1"
    assert datetime.fromisoformat(meta["lastUpdated"]).tzinfo is not None
    checkpoint = signer.verifier.open(note)
    assert (checkpoint.size, checkpoint.root) == (size, root_of(leaves))


def test_no_text_in_a_record_stops_the_log(ledger: Ledger, database: Database, signer: Signer):
    """Nor what PostgreSQL refuses in a text: nothing behind it would ever have been sequenced."""
    detail = (("StudyInstanceUID", "\0"),)
    nul = Access(Interaction.READ, "Patient", "\0", 1, ("Patient/\0", "\0"), query="\0", detail=detail)
    with database.write() as connection:
        ledger.append(connection, Caller("\0", "\0"), [nul], AT)
    fill(ledger)
    assert [row.seq for row in logged(database)] == list(range(1, SIZE + 2))
    assert judged(database, signer).findings == []


def test_an_empty_log_verifies(database: Database, signer: Signer):
    assert judged(database, signer).ok


def test_an_auditor_finds_events_by_search_and_his_search_is_recorded(
    make_store: Callable[..., Store], ledger: Ledger, database: Database, signer: Signer
):
    """ITI-81; DESIGN §7: the auditor's own reads are audited."""
    store = make_store(trail=ledger, clock=lambda: datetime.now(UTC))
    with store.work(caller("hospital-a")) as uow:
        version = uow.resources.create("Patient", patient())
    auditor = caller(PLATFORM, client_id="auditor")

    def search(*parameters: tuple[str, str]) -> list[str]:
        ledger.catch_up()
        with store.work(auditor, write=False) as uow:
            page = uow.resources.search(parse("AuditEvent", list(parameters)))
        return [match.json()["action"] for match in page.matches]

    assert search(("patient", version.reference)) == ["C"]
    assert search(("patient", version.reference), ("subtype", "create"), ("outcome", "0")) == ["C"]
    assert search(("entity", version.reference), ("action", "C")) == ["C"]
    assert search(("date", "lt2000-01-01")) == []
    assert search(("agent", "Organization/hospital-a"), ("subtype", "create")) == ["C"]
    assert len(search(("subtype", "search-type"))) >= 4
    assert judged(database, signer).ok


def test_a_record_is_proven_without_the_others(ledger: Ledger, database: Database, signer: Signer):
    """DESIGN §7: event and salt open one leaf; the rest of the proof are hashes that say nothing of other records."""
    fill(ledger)
    for event_id in event_ids(database):
        with database.read() as connection:
            shown = proofs.inclusion(connection, event_id)
        checkpoint = signer.verifier.open(shown["checkpoint"])
        leaf, path = opened(shown["position"], shown["opening"]), [bytes.fromhex(node) for node in shown["path"]]
        assert merkle.verify_inclusion(leaf, shown["position"] - 1, checkpoint.size, path, checkpoint.root)
    with database.read() as connection, pytest.raises(proofs.NoProof):
        proofs.inclusion(connection, "not there")


def test_checkpoints_in_between_are_let_go(make_ledger: Callable[..., Ledger], database: Database, signer: Signer):
    """One a second is kept; the newest always is."""
    fill(make_ledger(checkpoint_interval_s=3600))
    report = judged(database, signer)
    assert report.findings == []
    assert report.checkpoints == 2
    with database.read() as connection:
        assert [size for size, _note, _ in queries.checkpoints(connection)] == [5, SIZE]


def test_of_the_checkpoints_of_days_past_one_an_hour_is_kept(
    make_ledger: Callable[..., Ledger], database: Database, signer: Signer, monkeypatch: pytest.MonkeyPatch
):
    """docs/audit.md: the larger covers the smaller, so they do not gather; those of the last day all stay."""
    monkeypatch.setattr(sequencer, "CHECKPOINTS_AT_ONCE", 2)
    ledger = make_ledger(checkpoint_interval_s=0)
    begin = AT.replace(minute=0, second=0, microsecond=0)
    signed = [begin + timedelta(minutes=15 * number) for number in range(8)]
    signed += [begin + timedelta(hours=40, seconds=number) for number in range(4)]
    monkeypatch.setattr(ledger.sequencer, "_house_due", math.inf)
    for at in signed:
        ledger.disclose(caller(), [Access(Interaction.READ, "Patient", "1")], AT)
        monkeypatch.setattr(ledger.sequencer, "_now", lambda at=at: at)
        ledger.sequencer.step()
    for _ in range(5):
        monkeypatch.setattr(ledger.sequencer, "_house_due", 0.0)
        ledger.sequencer.step()
    with database.read() as connection:
        kept = [size for size, _note, _ in queries.checkpoints(connection)]
    assert kept == [4, 8, 9, 10, 11, 12]
    assert judged(database, signer).ok
    with database.write() as connection:
        queries.add_key(connection, 9, "former", "key")
        queries.thin_checkpoints(connection, 2**62, 100)
        assert [size for size, _note, _ in queries.checkpoints(connection)] == [4, 8, 9, 12], "a key came into use at 9"


# --- never sign an inconsistent checkpoint


def test_a_log_that_was_cut_is_never_signed_again(
    make_ledger: Callable[..., Ledger], ledger: Ledger, database: Database, published: Path
):
    """C2SP tlog-checkpoint: a log never signs two inconsistent checkpoints, not even after a restart."""
    fill(ledger)
    ledger.catch_up()
    ledger.sequencer.step()
    assert published.read_text().count("— ") >= 1
    cut(database, 10)
    ledger.disclose(caller(), [Access(Interaction.READ, "Patient", "1")], AT)
    with pytest.raises(InconsistentLog):
        ledger.sequencer.step()
    with pytest.raises(InconsistentLog):
        make_ledger().sequencer.step()
    with database.read() as connection:
        assert queries.waiting(connection)[0] == 1


@pytest.mark.parametrize("damage", [
    update(queries.audit_tree).values(frontier=bytes(32 * SIZE.bit_count())),
    update(queries.audit_tree).values(size=SIZE + 1),
    delete(queries.audit_checkpoint),
    delete(queries.audit_checkpoint).where(queries.audit_checkpoint.c.size == SIZE),
    update(queries.audit_checkpoint).where(queries.audit_checkpoint.c.size == SIZE).values(note="forged\n\n"),
])
def test_a_damaged_tree_is_not_extended(ledger: Ledger, database: Database, damage: Any):
    fill(ledger)
    alter(database, damage)
    ledger.disclose(caller(), [Access(Interaction.READ, "Patient", "1")], AT)
    with pytest.raises(InconsistentLog):
        ledger.sequencer.step()


def test_checkpoints_are_copied_to_the_published_file(ledger: Ledger, database: Database, signer: Signer,
                                                      published: Path):
    fill(ledger)
    assert not ledger.sequencer.step()
    notes = offline.split_notes(published.read_text())
    opened = [signer.verifier.open(note) for note in notes]
    assert opened[-1].size == SIZE
    assert judged(database, signer, notes).ok


# --- many processes


def test_two_sequencers_make_one_log(database: Database, make_ledger: Callable[..., Ledger], signer: Signer):
    """One leader at a time, any process may be it."""
    ledgers = [make_ledger(published=None) for _ in range(3)]
    failures: list[BaseException] = []

    def work(ledger: Ledger, name: str) -> None:
        try:
            for number in range(15):
                ledger.disclose(Caller(name, "o"), [Access(Interaction.READ, "Patient", f"{name}-{number}")], AT)
                ledger.catch_up(30)
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=work, args=(ledger, f"w{n}")) for n, ledger in enumerate(ledgers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    report = judged(database, signer)
    assert report.findings == []
    assert report.records == 45


def test_out_of_order_commits_lose_nothing(database: Database, make_ledger: Callable[..., Ledger], signer: Signer):
    """DESIGN §4: transaction ids are given before the commit; polling by `id > last` loses records here."""
    ledger = make_ledger(published=None)
    sequencer: Sequencer = ledger.sequencer
    stop = threading.Event()
    failures: list[BaseException] = []

    def sequence() -> None:
        try:
            while not stop.is_set():
                sequencer.step()
        except BaseException as error:
            failures.append(error)
            raise

    def write(number: int) -> None:
        chance = random.Random(number)
        for step in range(25):
            read = Access(Interaction.READ, "Patient", f"{number}-{step}")
            with database.write() as connection:
                ledger.append(connection, Caller("c", "o"), [read], AT)
                if not database.is_sqlite:
                    time.sleep(chance.random() * 0.01)

    reader = threading.Thread(target=sequence)
    writers = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    assert ledger.catch_up(30)
    stop.set()
    reader.join()
    assert failures == []
    report = judged(database, signer)
    assert report.findings == []
    seen = {event["entity"][0]["what"]["reference"] for event in events(ledger, database)}
    assert seen == {f"Patient/{n}-{s}" for n in range(8) for s in range(25)}
    assert [row.seq for row in logged(database)] == list(range(1, 201))


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_no_open_transaction_keeps_others_from_the_log(database: Database, ledger: Ledger):
    """The inbox is a queue: what is visible is taken, whatever stands open elsewhere, and what comes late comes too."""
    first = Caller("first", "o")
    with database.write() as connection:
        ledger.append(connection, first, [Access(Interaction.READ, "Patient", "1")], AT)
        ledger.disclose(Caller("second", "o"), [Access(Interaction.READ, "Patient", "2")], AT)
        assert ledger.catch_up()
        assert len(logged(database)) == 1
    assert ledger.catch_up(), "though its key lies below what was taken last"
    order = [event["agent"][0]["who"]["identifier"]["value"] for event in events(ledger, database)]
    assert order == ["second", "first"]
