"""The trail: records commit with the data, reads wait for theirs, and what is acknowledged is durable.

DESIGN §3 and §7; reference/security-subscriptions.md §4.4 (fail closed).
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError

from audit import queries
from audit.committer import Drain, GroupCommitter
from audit.service import Ledger
from resources.outcomes import Unavailable
from store.access import Access, Caller, Interaction, Outcome
from store.engine.database import Database, open_engine
from store.unit_of_work import Store
from tests.audit.logbook import audit_event
from tests.support import caller, patient

AT = datetime(2026, 6, 1, 8, 0, tzinfo=UTC)
READ = Access(Interaction.READ, "Patient", "p-1", 1, ("Patient/p-1",))


def inbox(database: Database) -> list[dict[str, Any]]:
    with database.read() as connection:
        rows = connection.execute(
            select(queries.audit_inbox.c.entry, queries.audit_inbox.c.event_id).order_by(queries.audit_inbox.c.pk)
        )
        return [audit_event(written, event_id) for written, event_id in rows]


def test_a_writes_records_commit_with_the_data(make_store: Callable[..., Store], ledger: Ledger, database: Database):
    """DESIGN §3: a write and its record are one commit."""
    store = make_store(trail=ledger)
    with store.work(caller()) as uow:
        version = uow.resources.create("Patient", patient())
    (written,) = inbox(database)
    assert written["action"] == "C"
    assert written["entity"][0]["what"] == {"reference": f"Patient/{version.id}/_history/1"}
    with database.read() as connection:
        assert connection.execute(select(queries.audit_inbox.c.tx_id)).scalar_one() == version.tx


def test_a_write_that_fails_leaves_no_data_and_one_record_of_the_failure(
    make_store: Callable[..., Store], ledger: Ledger, database: Database
):
    """DESIGN §3: leaving by an exception rolls back, and the failure is recorded in a transaction of its own."""
    store = make_store(trail=ledger)

    def fail() -> None:
        with store.work(caller()) as uow:
            uow.resources.create("Patient", patient())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    (failed,) = inbox(database)
    assert failed["outcome"] == "12"
    assert failed["contained"][0]["resourceType"] == "OperationOutcome"


def test_a_disclosure_is_durable_when_it_returns(ledger: Ledger, database: Database):
    ledger.disclose(caller(), [READ, READ], AT)
    assert [e["action"] for e in inbox(database)] == ["R", "R"]
    assert len({e["id"] for e in inbox(database)}) == 2


def test_many_disclosures_at_once_are_all_durable_when_they_return(ledger: Ledger, database: Database):
    """Seen by another connection at once, each of them."""
    missing: list[str] = []

    def reader(number: int) -> None:
        for step in range(20):
            ledger.disclose(Caller(f"c{number}-{step}", "hospital-a"), [READ], AT)
            with database.read() as connection:
                found = connection.execute(select(func.count()).select_from(queries.audit_inbox).where(
                    queries.audit_inbox.c.entry.contains(f'"c{number}-{step}"'))).scalar_one()
            if found != 1:
                missing.append(f"{number}-{step}")

    threads = [threading.Thread(target=reader, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert missing == []
    assert len(inbox(database)) == 240


def test_where_the_record_cannot_be_written_nothing_is_acknowledged(
    make_ledger: Callable[..., Ledger], database: Database, monkeypatch: pytest.MonkeyPatch
):
    """DESIGN §3: if it cannot be written, the answer is 503."""
    ledger = make_ledger()

    def away() -> Any:
        raise OperationalError("INSERT", {}, Exception("disk full"))

    monkeypatch.setattr(database, "write", away)
    monkeypatch.setattr(database, "glance", away)
    with pytest.raises(Unavailable) as refused:
        ledger.disclose(caller(), [READ], AT)
    assert refused.value.status == 503
    monkeypatch.undo()
    assert inbox(database) == []
    ledger.disclose(caller(), [READ], AT)
    assert len(inbox(database)) == 1


def test_a_record_that_takes_too_long_is_not_acknowledged():
    """Unavailable after the timeout; a record whose reader gave up is not written afterwards."""
    written: list[str] = []
    begun, going = threading.Event(), threading.Event()

    def slow(drain: Drain[str]) -> None:
        rows = drain()
        begun.set()
        going.wait(30)
        written.extend(rows)

    committer = GroupCommitter(slow)
    first = threading.Thread(target=committer.submit, args=(["first"], 60))
    first.start()
    assert begun.wait(30)
    with pytest.raises(Unavailable):
        committer.submit(["second"], 0.05)
    going.set()
    first.join()
    committer.submit(["third"], 60)
    assert written == ["first", "third"]


def test_whoever_comes_during_a_commit_shares_the_next_one():
    """Whoever leads takes all who wait into one transaction."""
    batches: list[list[int]] = []
    arrived, going = threading.Event(), threading.Event()

    def commit(drain: Drain[int]) -> None:
        batches.append(list(drain()))
        arrived.set()
        going.wait(30)

    committer = GroupCommitter(commit)
    threads = [threading.Thread(target=committer.submit, args=([number], 60)) for number in range(12)]
    threads[0].start()
    assert arrived.wait(30)
    for thread in threads[1:]:
        thread.start()
    while committer.waiting < 11:
        time.sleep(0.001)
    going.set()
    for thread in threads:
        thread.join()
    assert batches[0] == [0]
    assert sorted(batches[1]) == list(range(1, 12))


def test_one_batch_that_fails_does_not_end_the_committer():
    def commit(drain: Drain[str]) -> None:
        if "bad" in drain():
            raise ValueError("bad")

    committer = GroupCommitter(commit)
    with pytest.raises(Unavailable):
        committer.submit(["bad"], 60)
    committer.submit(["good"], 60)


def test_who_is_handed_the_lead_commits_for_itself_and_a_failure_before_the_rows_are_taken_reaches_everyone():
    """No reader is left waiting for a leader that is gone."""
    begun, going = threading.Event(), threading.Event()
    faults: list[Exception] = []

    def commit(drain: Drain[int]) -> None:
        if not going.is_set():
            begun.set()
            going.wait(30)
            raise OSError("the transaction could not begin")
        drain()

    committer: GroupCommitter[int] = GroupCommitter(commit)

    def submit(number: int) -> None:
        try:
            committer.submit([number], 60)
        except Unavailable as error:
            faults.append(error)

    threads = [threading.Thread(target=submit, args=(number,)) for number in range(6)]
    threads[0].start()
    assert begun.wait(30)
    for thread in threads[1:]:
        thread.start()
    while committer.waiting < 6:
        time.sleep(0.001)
    going.set()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert len(faults) == 6
    committer.submit([7], 60)


def test_a_forked_child_has_a_committer_of_its_own(database_url: str, tmp_path: Path, database: Database):
    """The parent's thread does not exist in the child."""
    code = textwrap.dedent("""
        import os, sys
        from datetime import UTC, datetime
        from pathlib import Path
        from audit.checkpoint import create
        from audit.service import Ledger
        from store.access import Access, Caller, Interaction
        from store.engine.database import open_engine
        database = open_engine(sys.argv[1])
        ledger = Ledger(database, create(Path(sys.argv[2]), "o"), observer="Device/d", base_url="http://x",
                        platform="p")
        def disclose(name):
            ledger.disclose(Caller(name, "o"), [Access(Interaction.READ, "Patient", "1")], datetime.now(UTC))
        disclose("parent")
        child = os.fork()
        if child == 0:
            disclose("child")
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        disclose("parent again")
    """)
    subprocess.run([sys.executable, "-W", "ignore::DeprecationWarning", "-c", code, database_url, str(tmp_path / "k")],
                   check=True, timeout=60, cwd=Path(__file__).parents[2])
    assert [e["agent"][0]["who"]["identifier"]["value"] for e in inbox(database)] == ["parent", "child", "parent again"]


KILLED = """
import os, sys, threading, itertools
from datetime import UTC, datetime
from pathlib import Path
from audit.checkpoint import create
from audit.service import Ledger
from store.access import Access, Caller, Interaction
from store.engine.database import open_engine
database = open_engine(sys.argv[1])
ledger = Ledger(database, create(Path(sys.argv[2]), "o"), observer="Device/d", base_url="http://x",
                platform="p")
numbers, lock = itertools.count(), threading.Lock()
def reader():
    while True:
        name = f"n{next(numbers)}."
        ledger.disclose(Caller(name, "o"), [Access(Interaction.READ, "Patient", "1")], datetime.now(UTC))
        with lock:
            sys.stdout.write(name + "\\n")
            sys.stdout.flush()
def sequence():
    while True:
        ledger.sequencer.step()
threading.excepthook = lambda failed: os._exit(1)
for target in [reader] * 4 + [sequence]:
    threading.Thread(target=target).start()
"""


@pytest.mark.parametrize("after", [30, 170, 400])
def test_no_acknowledged_record_is_lost_when_the_process_is_killed(
    database_url: str, database: Database, tmp_path: Path, ledger: Ledger, after: int
):
    """DESIGN §13: 0 acknowledged audit records lost over kill -9. The process sequences as well while it dies."""
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, database_url, str(tmp_path / "k")], stdout=subprocess.PIPE, text=True,
        cwd=Path(__file__).parents[2])
    assert process.stdout is not None
    acknowledged = [process.stdout.readline().strip() for _ in range(after)]
    os.kill(process.pid, signal.SIGKILL)
    acknowledged += [line.strip() for line in process.stdout.read().split("\n") if line.endswith(".")]
    process.wait(timeout=30)
    process.stdout.close()

    reopened = open_engine(database_url)
    with reopened.read() as connection:
        waiting = [e for (e,) in connection.execute(select(queries.audit_inbox.c.entry))]
        logged = [row.head for row in queries.stored(connection)]
    reopened.dispose()
    text = "\n".join([*waiting, *(e or "" for e in logged)])
    assert [name for name in acknowledged if f'"{name}"' not in text] == []
    assert len(acknowledged) >= after
    assert None not in logged


def test_refusals_are_recorded_as_security_failures(
    make_store: Callable[..., Store], ledger: Ledger, database: Database
):
    """reference/security-subscriptions.md §4.3: not found because foreign is said to the auditor alone."""
    store = make_store(trail=ledger)
    with store.work(caller("hospital-a")) as uow:
        version = uow.resources.create("Patient", patient())
    with pytest.raises(Exception, match="No such resource"), store.work(caller("hospital-b"), write=False) as uow:
        uow.resources.read("Patient", version.id)
    refused = inbox(database)[-1]
    assert refused["outcome"] == Outcome.SERIOUS
    assert refused["contained"][0]["issue"][0]["code"] == "not-found"


def test_whoever_is_cancelled_of_those_that_share_a_commit_goes_alone() -> None:
    """One future stands for all records of a turn of the loop."""
    began: list[object] = []
    committer: GroupCommitter[str] = GroupCommitter(lambda drain: began.append(drain()))

    async def test() -> None:
        async def one(name: str) -> str:
            await committer.submit_soon([name])
            return name

        tasks = [asyncio.create_task(one(name)) for name in ("a", "b")]
        await asyncio.sleep(0)
        tasks[0].cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(done[0], asyncio.CancelledError)
        assert done[1] == "b"

    asyncio.run(test())
    committer.close()
    assert began == [["a", "b"]]
