"""The log: every record gets its place, its leaf and its AuditEvent, and any tampering is found at its position.

RFC 6962 §2.1, https://c2sp.org/tlog-checkpoint; DESIGN §7
"""

from __future__ import annotations

import gzip
import json
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, insert, select, update

from audit import merkle, offline, records
from audit.checkpoint import Checkpoint, Signer
from audit.sequencer import InconsistentLog, Sequencer
from audit.trail import Ledger
from audit.verify import export, proof, verify
from resources.search import parse
from store.access import Access, Caller, Interaction
from store.engine import Database
from store.tables import resource_version
from store.unit_of_work import Store
from tests.support import PLATFORM, caller, patient

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
        return [row.event_id for row in records.stored(connection, 0)]


def test_records_become_audit_events_in_a_gapless_log_that_verifies(ledger: Ledger, database: Database, signer: Signer):
    fill(ledger)
    report = judged(database, signer)
    assert report.findings == []
    assert (report.records, report.checkpoints) == (SIZE, 5)
    with database.read() as connection:
        assert records.waiting(connection) == (0, None)
        assert [row.seq for row in records.stored(connection, 0)] == list(range(1, SIZE + 1))
        stored = connection.execute(select(resource_version.c.content).order_by(resource_version.c.pk)).scalars().all()
        leaves = records.leaves(connection, SIZE)
        size, note = records.checkpoints(connection)[-1]
    assert [json.loads(text)["entity"][0]["what"]["reference"] for text in stored] == [
        f"Patient/p-{n}/_history/1" for n in range(1, SIZE + 1)]
    meta = json.loads(stored[0])["meta"]
    assert meta["versionId"] == "1"
    assert datetime.fromisoformat(meta["lastUpdated"]).tzinfo is not None
    checkpoint = signer.verifier.open(note)
    assert (checkpoint.size, checkpoint.root) == (size, merkle.root_of(leaves))


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


def test_a_hospital_does_not_see_audit_events(make_store: Callable[..., Store], ledger: Ledger):
    """DESIGN §6: the audience of an AuditEvent is the platform."""
    store = make_store(trail=ledger)
    with store.work(caller("hospital-a")) as uow:
        uow.resources.create("Patient", patient())
    ledger.catch_up()
    with store.work(caller("hospital-a"), write=False) as uow:
        assert uow.resources.search(parse("AuditEvent", [])).matches == []


# --- tampering


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
    alter(database, update(records.audit_log).where(records.audit_log.c.seq == at).values({column: value}))
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
    alter(database, delete(records.audit_log).where(records.audit_log.c.seq == at))
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
    log = records.audit_log
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
    alter(database, update(records.audit_log).where(records.audit_log.c.seq == 4).values(seq=99))
    report = judged(database, signer)
    assert report.first is not None
    assert (report.first.position, report.first.kind) == (4, "missing")


def _cut(database: Database, size: int) -> None:
    """Remove everything after `size` so that the database is consistent in itself."""
    gone = event_ids(database)[size:]
    log, checkpoint = records.audit_log, records.audit_checkpoint
    with database.read() as connection:
        leaves = records.leaves(connection, size)
    frontier = merkle.Frontier.empty()
    for leaf in leaves:
        frontier.append(leaf)
    with database.write() as connection:
        connection.execute(delete(log).where(log.c.seq > size))
        connection.execute(delete(checkpoint).where(checkpoint.c.size > size))
        connection.execute(delete(resource_version).where(resource_version.c.resource_id.in_(gone)))
        connection.execute(update(records.audit_tree).values(size=size, frontier=frontier.encode()))


def test_a_log_cut_after_a_checkpoint_is_found_by_the_checkpoint(ledger: Ledger, database: Database, signer: Signer):
    fill(ledger)
    alter(database, delete(records.audit_log).where(records.audit_log.c.seq > 18))
    report = judged(database, signer)
    assert report.first is not None
    assert (report.first.position, report.first.kind) == (19, "truncated")


def test_a_log_cut_with_its_checkpoints_is_found_by_one_kept_elsewhere(
    ledger: Ledger, database: Database, signer: Signer
):
    fill(ledger)
    with database.read() as connection:
        kept = [note for _size, note in records.checkpoints(connection)]
    _cut(database, 15)
    assert judged(database, signer).ok, "consistent in itself: nothing inside can tell"
    report = judged(database, signer, kept)
    assert report.first is not None
    assert (report.first.position, report.first.kind) == (16, "truncated")


def test_a_record_rewritten_with_its_leaf_is_found_between_its_checkpoints(
    ledger: Ledger, database: Database, signer: Signer
):
    """Who can write the database but not sign: the first checkpoint after it disagrees."""
    fill(ledger)
    at, version, log = 13, resource_version, records.audit_log
    with database.write() as connection:
        row = next(r for r in records.stored(connection, 0) if r.seq == at)
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
    checkpoint = records.audit_checkpoint
    forged = Signer.generate(signer.name).sign(Checkpoint(signer.name, 10, bytes(32)))
    alter(database, update(checkpoint).where(checkpoint.c.size == 10).values(note=forged))
    report = judged(database, signer)
    assert [(f.position, f.kind) for f in report.findings] == [(10, "checkpoint")]


def test_checkpoints_that_are_removed_leave_records_unsigned(ledger: Ledger, database: Database, signer: Signer):
    fill(ledger)
    alter(database, delete(records.audit_checkpoint).where(records.audit_checkpoint.c.size > 15))
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
    alter(database, delete(records.audit_inbox))
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
    inbox = records.audit_inbox
    alter(database, delete(inbox).where(inbox.c.event.contains(first.id), inbox.c.event.contains('"action":"C"')))
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


# --- never sign an inconsistent checkpoint


def test_a_log_that_was_cut_is_never_signed_again(
    make_ledger: Callable[..., Ledger], ledger: Ledger, database: Database, published: Path
):
    """C2SP tlog-checkpoint: a log never signs two inconsistent checkpoints, not even after a restart."""
    fill(ledger)
    ledger.catch_up()
    ledger.sequencer.step()
    assert published.read_text().count("— ") >= 1
    _cut(database, 10)
    ledger.disclose(caller(), [Access(Interaction.READ, "Patient", "1")], AT)
    with pytest.raises(InconsistentLog):
        ledger.sequencer.step()
    with pytest.raises(InconsistentLog):
        make_ledger().sequencer.step()
    with database.read() as connection:
        assert records.waiting(connection)[0] == 1


@pytest.mark.parametrize("damage", [
    update(records.audit_tree).values(frontier=bytes(32 * SIZE.bit_count())),
    update(records.audit_tree).values(size=SIZE + 1),
    delete(records.audit_checkpoint),
    delete(records.audit_checkpoint).where(records.audit_checkpoint.c.size == SIZE),
    update(records.audit_checkpoint).where(records.audit_checkpoint.c.size == SIZE).values(note="forged\n\n"),
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
    with database.read() as connection:
        rows = list(records.stored(connection, 0))
    seen = {json.loads(row.event or "{}")["entity"][0]["what"]["reference"] for row in rows}
    assert seen == {f"Patient/{n}-{s}" for n in range(8) for s in range(25)}
    assert [row.seq for row in rows] == list(range(1, 201))
    assert [row.tx_id for row in rows] == sorted(row.tx_id for row in rows)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_nothing_is_sequenced_above_a_transaction_that_is_still_running(database: Database, ledger: Ledger):
    """PostgreSQL: below pg_snapshot_xmin only, so that the order of the log is that of the transactions."""
    first = Caller("first", "o")
    with database.write() as connection:
        ledger.append(connection, first, [Access(Interaction.READ, "Patient", "1")], AT)
        ledger.disclose(Caller("second", "o"), [Access(Interaction.READ, "Patient", "2")], AT)
        assert not ledger.sequencer.step()
        assert not ledger.catch_up(0.05)
    assert ledger.catch_up()
    with database.read() as connection:
        order = [json.loads(row.event or "{}")["agent"][0]["who"]["identifier"]["value"]
                 for row in records.stored(connection, 0)]
    assert order == ["first", "second"]


# --- offline


@pytest.fixture
def exported(ledger: Ledger, database: Database, signer: Signer, tmp_path: Path) -> Path:
    fill(ledger)
    file = tmp_path / "export.ndjson.gz"
    assert export(database, file, signer.verifier) == SIZE
    assert [p.name for p in tmp_path.glob(".export*")] == []
    return file


def _rewritten(file: Path, change: Callable[[list[dict[str, Any]]], None]) -> Path:
    with gzip.open(file, "rt") as lines:
        content = [json.loads(line) for line in lines]
    change(content)
    forged = file.with_name("forged.ndjson.gz")
    with gzip.open(forged, "wt") as out:
        out.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in content)
    return forged


def test_the_offline_verifier_runs_on_its_own(exported: Path, signer: Signer, tmp_path: Path, published: Path):
    """With one file, Python and cryptography; nothing of the server."""
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(offline.__file__, alone / "offline.py")
    run = [sys.executable, "-I", "offline.py", str(exported), "--key", signer.verifier.text()]
    told = subprocess.run([*run, "--checkpoints", str(published)], cwd=alone, capture_output=True, text=True,
                          timeout=60, check=False)
    assert (told.returncode, told.stderr) == (0, "")
    assert "verified" in told.stdout
    assert f"records     {SIZE}" in told.stdout

    forged = _rewritten(exported, lambda lines: lines[7].update(event=lines[7]["event"].replace("p-", "q-", 1)))
    told = subprocess.run([*run[:3], str(forged)], cwd=alone, capture_output=True, text=True, timeout=60, check=False)
    position = json.loads(gzip.decompress(forged.read_bytes()).splitlines()[7])["seq"]
    assert told.returncode == 1
    assert f"record {position}: altered" in told.stdout


def _first(file: Path, signer: Signer) -> tuple[int, str]:
    report = offline.verify_export(file, signer.verifier.text())
    assert report.first is not None
    return report.first.position, report.first.kind


def _record(lines: list[dict[str, Any]], seq: int) -> int:
    return next(n for n, line in enumerate(lines) if line.get("seq") == seq)


def test_tampering_with_an_export_is_found_at_its_position(exported: Path, signer: Signer):
    """Altered, deleted, swapped, renumbered, cut; a checkpoint forged."""
    def altered(lines: list[dict[str, Any]]) -> None:
        line = lines[_record(lines, 8)]
        line["event"] = line["event"].replace("p-8", "p-9")

    def deleted(lines: list[dict[str, Any]]) -> None:
        del lines[_record(lines, 8)]

    def swapped(lines: list[dict[str, Any]]) -> None:
        one, other = lines[_record(lines, 8)], lines[_record(lines, 12)]
        one["event"], other["event"] = other["event"], one["event"]

    def renumbered(lines: list[dict[str, Any]]) -> None:
        lines[_record(lines, 8)]["seq"] = 80

    def cut(lines: list[dict[str, Any]]) -> None:
        at = _record(lines, 8)
        lines[at:] = [line for line in lines[at:] if "checkpoint" in line] + [{"end": 7}]

    def cut_short(lines: list[dict[str, Any]]) -> None:
        del lines[_record(lines, 8):]

    def forged(lines: list[dict[str, Any]]) -> None:
        at = next(n for n, line in enumerate(lines) if line.get("size") == 10)
        lines[at]["checkpoint"] = lines[at]["checkpoint"].replace("\n10\n", "\n11\n")

    def garbage(lines: list[dict[str, Any]]) -> None:
        lines[_record(lines, 8)]["leaf"] = "zz"

    assert offline.verify_export(exported, signer.verifier.text()).ok
    for change, expected in ((altered, (8, "altered")), (deleted, (8, "missing")), (swapped, (8, "misplaced")),
                             (renumbered, (8, "missing")), (cut, (8, "truncated")), (forged, (10, "checkpoint")),
                             (garbage, (8, "format"))):
        assert _first(_rewritten(exported, change), signer) == expected, change.__name__
    position, _kind = _first(_rewritten(exported, cut_short), signer)
    assert position <= 8


def test_an_export_signed_by_another_key_is_refused(exported: Path, signer: Signer):
    """The key comes from elsewhere; an export's own key shows only that it is whole."""
    other = Signer.generate(signer.name)
    report = offline.verify_export(exported, other.verifier.text())
    assert not report.ok
    own = offline.verify_export(exported)
    assert own.ok
    assert "the export's own" in own.notes[0]


@pytest.mark.parametrize("content", [b"", b"no gzip", gzip.compress(b"{}"), gzip.compress(b"[1]\n"),
                                     gzip.compress(b'{"format":"vigie-audit-export/1"}')[:-12]])
def test_what_is_no_export_is_refused(tmp_path: Path, content: bytes, signer: Signer):
    file = tmp_path / "x"
    file.write_bytes(content)
    assert not offline.verify_export(file, signer.verifier.text()).ok


def test_a_record_is_proven_without_the_others(ledger: Ledger, database: Database, signer: Signer):
    """DESIGN §7: event and salt open one leaf; the rest of the proof are hashes that say nothing of other records."""
    fill(ledger)
    for event_id in event_ids(database):
        shown = proof(database, event_id)
        assert shown is not None
        with database.read() as connection:
            event = connection.execute(
                select(resource_version.c.content).where(resource_version.c.resource_id == event_id)).scalar_one()
        checkpoint = signer.verifier.open(shown.checkpoint)
        assert shown.leaf == merkle.leaf_hash(merkle.commitment(shown.seq, event.encode(), shown.salt))
        assert merkle.verify_inclusion(shown.leaf, shown.seq - 1, checkpoint.size, shown.path, checkpoint.root)
    assert proof(database, "not there") is None


def test_checkpoints_in_between_are_let_go(make_ledger: Callable[..., Ledger], database: Database, signer: Signer):
    """One a second is kept; the newest always is."""
    fill(make_ledger(checkpoint_interval_s=3600))
    report = judged(database, signer)
    assert report.findings == []
    assert report.checkpoints == 2
    with database.read() as connection:
        assert [size for size, _note in records.checkpoints(connection)] == [5, SIZE]
