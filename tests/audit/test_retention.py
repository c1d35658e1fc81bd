"""Records whose time is over are emptied, held ones are not, and every other proof stays valid (CNIL 2021-122)."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select, update

from audit import offline, proofs, queries, retention
from audit.checkpoint import Signer
from audit.offline import Judge, Key, Marks, spans_of, spans_text, verify_export
from audit.service import Ledger
from audit.tables import audit_index, audit_log, audit_purge
from audit.verify import export
from resources.search import parse
from resources.times import microseconds
from store.access import Access, Caller, Interaction, Outcome
from store.engine.database import Database
from store.unit_of_work import Store
from tests.audit.logbook import AT, judged, logged
from tests.support import PLATFORM, caller

OLD = AT
LATER = microseconds(AT + timedelta(days=9000))
STRANGER = Caller("", "", address="192.0.2.1")
READS = ("Patient/p-1", "Patient/p-2", "Patient/p-3")


def proven(database: Database, id: str) -> Any:
    """What a proof says of the record itself."""
    try:
        with database.read() as connection:
            found = proofs.inclusion(connection, id)
    except proofs.NoProof:
        return None  # of what nobody can read there is none
    return {name: found[name] for name in ("position", "opening", "event")}


@pytest.fixture
def filled(ledger: Ledger) -> Ledger:
    """1 token, 2 refusal of a stranger, 3 search that found two patients, 4 to 6 reads, 7 write, 8 operator's act."""
    ledger.disclose(caller(), [
        Access(Interaction.TOKEN, query="grant_type=client_credentials"),
    ], AT)  # fmt: skip
    assert ledger.catch_up()
    ledger.disclose(STRANGER, [Access(Interaction.READ, "Patient", "p-1", outcome=Outcome.SERIOUS)], AT)
    assert ledger.catch_up()
    ledger.disclose(caller(), [
        Access(Interaction.SEARCH_TYPE, "Patient", patients=READS[:2], query="GET /fhir/Patient?name=Zoé"),
        *(Access(Interaction.READ, "Patient", name[8:], 1, (name,)) for name in READS),
        Access(Interaction.UPDATE, "Patient", "p-1", 2, READS[:1]),
        Access(Interaction.ADMIN, detail=(("operation", "client-add"),)),
    ], AT)  # fmt: skip
    assert ledger.catch_up()
    return ledger


def purge(ledger: Ledger, database: Database, name: str, before: int = LATER) -> list[int]:
    """As the duty does; the positions."""
    purged: list[int] = []
    after = 0
    while True:
        with database.write() as connection:
            done = retention.purge(connection, name, before, after)
            if done.positions:
                access = Access(Interaction.ADMIN, detail=retention.record_detail(name, done.positions))
                ledger.append(connection, Caller.system(PLATFORM), [access], AT)
        purged += done.positions
        if not done.last:
            break
        after = done.last
    assert ledger.catch_up()
    return purged


def exported(database: Database, signer: Signer, folder: Path) -> offline.Report:
    export(database, folder / "log.gz", signer.verifier)
    return verify_export(folder / "log.gz", signer.verifier.text())


@pytest.mark.parametrize(("name", "positions"), [("security", [1, 2]), ("access", [3, 4, 5, 6])])
def test_a_class_is_purged_and_every_other_proof_stays_valid(
    filled: Ledger, database: Database, signer: Signer, tmp_path: Path, name: str, positions: list[int]
) -> None:
    """Here and elsewhere; what is empty is named as purged. A write and an operator's act prove something else."""
    kept = [row.event_id for row in logged(database) if row.seq not in positions and not row.parts]
    before = [proven(database, id) for id in kept]
    assert purge(filled, database, name) == positions
    for report in (judged(database, signer), exported(database, signer, tmp_path)):
        assert report.ok, report.lines()
        assert f"{len(positions)} records were purged, and are on record so" in report.notes
    after = [proven(database, id) for id in kept]
    assert after == before
    assert any(after)


def test_nothing_of_a_purged_record_is_left(filled: Ledger, database: Database) -> None:
    """Neither text nor salt, by which a guess could be confirmed, nor what it was found by."""
    purge(filled, database, "access")
    for row in logged(database):
        if row.seq in (3, 4, 5, 6):
            assert (row.head, row.particulars, row.parts, row.salt) == (None, "", "", b"")
    with database.read() as connection:
        found = connection.execute(select(audit_index.c.seq).where(audit_index.c.seq.in_([3, 4, 5, 6]))).all()
    assert found == []


def test_purged_events_are_found_and_counted_no_more(
    filled: Ledger, database: Database, make_store: Callable[..., Store]
) -> None:
    store = make_store(trail=filled, clock=lambda: AT)

    def total() -> tuple[int | None, int]:
        with store.work(caller(PLATFORM), write=False) as uow:
            page = uow.resources.search(parse("AuditEvent", [("_total", "accurate"), ("_count", "100")]))
            return page.total, len(page.matches)

    assert total() == (9, 9)
    purge(filled, database, "access")
    counted, listed = total()
    assert counted == listed == 9 - 5 + 1 + 3  # the purge's record, and one for each patient of the search before
    with store.work(caller(PLATFORM), write=False) as uow:
        found = uow.resources.search(parse("AuditEvent", [("patient", "Patient/p-2")]))
    assert [version.tx for version in found.matches] == [9], "the search before alone"


@pytest.mark.parametrize(("held", "positions"), [
    ("Patient/p-2", [4, 6]), ("Patient/p-3", [3, 4, 5]), (retention.EVERYTHING, []), ("Patient/other", [3, 4, 5, 6]),
])
def test_what_is_held_is_not_purged(
    filled: Ledger, database: Database, signer: Signer, held: str, positions: list[int]
) -> None:
    """A record of several patients is held by each; once released, it goes."""
    with database.write() as connection:
        retention.hold(connection, held, "case 7", 1)
        assert [tuple(one) for one in retention.holds(connection)] == [(held, "case 7", 1)]
    assert purge(filled, database, "access") == positions
    assert judged(database, signer).ok
    with database.write() as connection:
        assert retention.release(connection, held, 2) == 1
        assert retention.holds(connection) == []
    assert sorted([*positions, *purge(filled, database, "access")]) == [3, 4, 5, 6]
    assert judged(database, signer).ok


def test_what_is_not_due_stays(filled: Ledger, database: Database) -> None:
    recorded = logged(database)[0].recorded
    assert purge(filled, database, "access", before=recorded) == []


def test_a_record_that_was_emptied_without_a_record_of_it_is_missing(
    filled: Ledger, database: Database, signer: Signer, tmp_path: Path
) -> None:
    """Also beside others that were purged; and a record of a purge says nothing of what comes after it."""
    purge(filled, database, "security")
    for seq in (4, 9):
        with database.write() as connection:
            connection.execute(
                update(audit_log).where(audit_log.c.seq == seq).values(head=None, particulars="", parts="", salt=b"")
            )
    reports = (judged(database, signer), exported(database, signer, tmp_path))
    for report in reports:
        assert {f.position for f in report.findings if f.kind == "missing"} == {1, 4, 9}, report.lines()
        assert any("(and 1 behind it)" in finding.text for finding in report.findings)


def test_a_purge_excuses_nothing_that_comes_after_it(
    filled: Ledger, database: Database, signer: Signer, tmp_path: Path
) -> None:
    """Whoever can have one record written does not empty the log from there on."""
    said = retention.record_detail("access", [10])
    filled.disclose(caller(), [Access(Interaction.ADMIN, detail=said)], AT)
    assert filled.catch_up()
    filled.disclose(caller(), [Access(Interaction.READ, "Patient", "p-1", 1, READS[:1])], AT)
    assert filled.catch_up()
    with database.write() as connection:
        connection.execute(
            update(audit_log).where(audit_log.c.seq == 10).values(head=None, particulars="", parts="", salt=b"")
        )
    for report in (judged(database, signer), exported(database, signer, tmp_path)):
        assert [f.position for f in report.findings if f.kind == "missing"] == [10], report.lines()


def test_a_forged_record_of_a_purge_excuses_nothing(filled: Ledger, database: Database, signer: Signer) -> None:
    """Only what the log has at that position says what was purged."""
    with database.write() as connection:
        connection.execute(
            update(audit_log).where(audit_log.c.seq == 4).values(head=None, particulars="", parts="", salt=b"")
        )
        said = json.dumps({"detail": [["operation", "audit-purge"], ["positions", "4"]]})
        connection.execute(update(audit_log).where(audit_log.c.seq == 8).values(particulars=said))
    found = {(finding.position, finding.kind) for finding in judged(database, signer).findings}
    assert found >= {(4, "missing"), (8, "altered")}


def test_what_proves_something_else_is_of_no_class(filled: Ledger, database: Database) -> None:
    classes = [retention.class_of(row) for row in logged(database)]
    assert classes == ["security", "security", "access", "access", "access", "access", None, None]
    row = logged(database)[3]
    access: dict[str, Any] = json.loads(row.head or "")
    access["access"]["digest"] = "00"
    assert retention.class_of(row._replace(head=json.dumps(access))) is None
    assert retention.class_of(row._replace(head="{")) is None
    event = {"type": {"code": "rest"}, "action": "R", "entity": [{"what": {"reference": "Patient/p-1"}}]}
    for change, expected in (
        ({}, "access"), ({"action": "U"}, None), ({"type": {"code": "110114"}}, "security"),
        ({"type": {"code": "110100"}}, None),
    ):
        old = row._replace(form=1, parts="", head=json.dumps(event | change))
        assert retention.class_of(old) == expected
        assert retention.patients_of(old) == {"Patient/p-1"}


def test_a_purge_is_bounded_by_transactions(
    filled: Ledger, database: Database, signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "BATCH", 2)
    assert purge(filled, database, "access") == [3, 4, 5, 6]
    assert judged(database, signer).ok
    with database.read() as connection:
        assert len(connection.execute(select(audit_purge.c.pk)).all()) >= 2
        assert queries.end(connection).seq >= 10


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 3 * Marks.BLOCK), st.integers(0, 2 * Marks.BLOCK)), max_size=8))
def test_marks_are_a_set_of_positions(steps: list[tuple[bool, int, int]]) -> None:
    """Across blocks too: as a set of numbers would say."""
    marks, plain = Marks(), set[int]()
    for is_added, first, length in steps:
        span = range(first, first + length)
        if is_added:
            marks.add(first, first + length - 1)
            plain |= {*span}
        else:
            assert marks.discard(first, first + length - 1) == len(plain & {*span})
            plain -= {*span}
    spans = list(marks)
    assert {at for first, last in spans for at in range(first, last + 1)} == plain
    assert all(last + 1 < after for (_, last), (after, _) in pairwise(spans))


def test_what_is_purged_between_other_records_takes_a_bit(signer: Signer) -> None:
    """Every other record of 40,000, and none of them explained until the last one: 5 kB, not a span of each."""
    judge = Judge(Key(signer.verifier.text()))
    tracemalloc.start()
    for seq in range(1, 40_001):
        judge.record(seq, "id", b"", b"", is_gone=bool(seq & 1))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    judge.purged(40_000, spans_text(range(1, 40_000, 2)))
    assert judge.finish().notes == ["20000 records were purged, and are on record so"]
    assert held < 400_000


def test_spans_are_what_was_put_into_them() -> None:
    marks = Marks()
    for one in (5, 6, 7, 1, 9, 8, 3):
        marks.add(one)
    assert list(marks) == [(1, 1), (3, 3), (5, 9)]
    assert (marks.discard(6, 7), marks.discard(6, 7), marks.discard(0, 10**18)) == (2, 0, 5)
    assert list(marks) == []
    assert spans_of(spans_text([4, 5, 6, 9])) == [(4, 6), (9, 9)]
    for wrong in ("x", "1-y", "-3"):
        with pytest.raises(ValueError, match="invalid literal"):
            spans_of(wrong)
