"""Several processes and threads at once: one winner, no loss (DESIGN §4)."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resources.outcomes import Conflict, PreconditionFailed
from resources.search import parse
from store.engine import wakes
from store.engine.database import Database, open_engine
from store.engine.gate import WriteGate
from store.unit_of_work import Store, UnitOfWork
from tests.store import processes
from tests.support import caller, patient, service_request

A = caller("hospital-a")


def test_fifty_racing_conditional_creates_make_one_resource(store: Store, database_url: str) -> None:
    """http.html#ccreate: the retry of a request that was already served makes nothing new."""
    runs = [processes.start("create_conditionally", database_url, "10") for _ in range(5)]
    answers = [word for lines in processes.go(runs) for word in lines]
    assert (answers.count("created"), answers.count("matched")) == (1, 49)
    with store.work(A, write=False) as uow:
        assert uow.resources.search(parse("Patient", [("_total", "accurate")])).total == 1


def test_fifty_racing_claims_have_one_winner(store: Store, database_url: str) -> None:
    """http.html#concurrency: exactly one update from version 1; the others answer 412."""
    with store.work(A) as uow:
        uow.resources.update("Patient", "x", patient())
    runs = [processes.start("claim", database_url, "10") for _ in range(5)]
    answers = [word for lines in processes.go(runs) for word in lines]
    assert (answers.count("200"), answers.count("412")) == (1, 49)


def test_racing_updates_without_if_match_all_succeed(store: Store) -> None:
    """The loser of a race is tried again, and builds on the winner's version."""
    with store.work(A) as uow:
        uow.resources.update("Patient", "x", patient())
    _together([lambda: store.transact(A, lambda uow: uow.resources.update("Patient", "x", patient()))] * 12)
    with store.work(A, write=False) as uow:
        versions = [version.version for version in uow.resources.history("Patient", "x").versions]
    assert versions == list(range(13, 0, -1))


def test_a_reference_cannot_be_made_to_what_is_being_deleted(store: Store) -> None:
    """DESIGN §5, whoever commits first: never a dangling reference."""
    for number in range(10):
        with store.work(A) as uow:
            uow.resources.update("Patient", f"p{number}", patient())

    def refer(number: int) -> None:
        store.transact(A, lambda uow: uow.resources.create("ServiceRequest", service_request(f"Patient/p{number}")))

    def delete(number: int) -> None:
        store.transact(A, lambda uow: uow.resources.delete("Patient", f"p{number}"))

    for number in range(10):
        results = _together([lambda n=number: refer(n), lambda n=number: delete(n)])  # type: ignore[misc]
        assert [isinstance(result, Conflict) for result in results].count(True) == 1


def test_a_lost_race_is_a_409_with_retry_after_where_nothing_can_be_retried(store: Store) -> None:
    """http.html#concurrency; never a 500."""
    if store.database.is_sqlite:
        pytest.skip("one writer: there is no race to lose")
    with store.work(A) as uow:
        uow.resources.update("Patient", "x", patient())
    with pytest.raises(Conflict) as error, store.work(A) as uow:  # noqa: PT012 - a race has two sides
        uow.resources.read("Patient", "x")
        with store.work(A) as other:
            other.resources.update("Patient", "x", patient())
        _close_as_of(uow, version=1)
    assert error.value.retry_after_s


def _close_as_of(uow: UnitOfWork, version: int) -> None:
    from store.engine.faults import LostRace
    from store.versions.queries import close_version

    before = uow.resources.vread("Patient", "x", version)
    assert uow.tx is not None
    if not close_version(uow.connection, before.pk, uow.tx):
        raise LostRace


def test_if_match_of_threads_has_one_winner(store: Store) -> None:
    """http.html#concurrency"""
    with store.work(A) as uow:
        uow.resources.update("Patient", "x", patient())
    results = _together(
        [lambda: store.transact(A, lambda uow: uow.resources.update("Patient", "x", patient(), if_match=1))] * 8
    )
    assert [isinstance(result, PreconditionFailed) for result in results].count(False) == 1


def _together(functions: list[Callable[[], Any]]) -> list[Any]:
    """Run all at once; their results, or what they raised."""
    results: list[Any] = [None] * len(functions)
    start = threading.Barrier(len(functions))

    def run(number: int) -> None:
        start.wait()
        try:
            results[number] = functions[number]()
        except Exception as error:  # noqa: BLE001 - the result of this run
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


def test_the_gate_lets_threads_pass_in_the_order_they_came(tmp_path: Path) -> None:
    """DESIGN §4: fair, so that a reader's record does not starve behind writers."""
    gate = WriteGate(tmp_path, "db")
    order: list[int] = []

    def enter(number: int) -> None:
        with gate.passage():
            order.append(number)

    threads = []
    with gate.passage():
        for number in range(20):
            thread = threading.Thread(target=enter, args=(number,))
            thread.start()
            threads.append(thread)
            while gate.waiting <= number:
                time.sleep(0.001)
    for thread in threads:
        thread.join(10)
    assert order == list(range(20))
    gate.close()


def test_no_process_overtakes_one_that_waits(store: Store, database_url: str) -> None:
    """Two busy processes take turns: neither has a long run while the other waits."""
    if not store.database.is_sqlite:
        pytest.skip("PostgreSQL has no gate")
    runs = [processes.start("pass_gate", database_url, "60") for _ in range(2)]
    first, second = ([int(word) for word in lines] for lines in processes.go(runs))
    both = range(max(first[0], second[0]), min(first[-1], second[-1]))
    turns = [number in first for number in both]
    longest = max((len(run) for run in _runs(turns)), default=0)
    assert longest <= 8, f"{longest} of {len(turns)} passages in a row"


def _runs(turns: list[bool]) -> list[list[bool]]:
    runs: list[list[bool]] = []
    for turn in turns:
        if runs and runs[-1][0] == turn:
            runs[-1].append(turn)
        else:
            runs.append([turn])
    return runs


def test_a_thread_that_would_wait_for_itself_is_told(store: Store) -> None:
    """A write inside a write of the same thread is a mistake of ours, not a deadlock."""
    if not store.database.is_sqlite:
        pytest.skip("PostgreSQL has no gate")
    with pytest.raises(RuntimeError), store.work(A), store.work(A):
        pass
    with store.work(A) as uow:
        uow.resources.create("Patient", patient())


@pytest.mark.slow
def test_what_was_acknowledged_survives_kill_9(store: Store, database_url: str) -> None:
    """R1: whenever the writer dies, each id that it printed is there, with all its versions and rows."""
    acknowledged: list[str] = []
    for round_no in range(20):
        process = processes.start("write_until_killed", database_url)
        assert process.stdout
        assert process.stdin
        assert process.stdout.readline() == "ready\n"
        process.stdin.write("go\n")
        process.stdin.flush()
        for _ in range(1 + round_no % 7):
            acknowledged.append(process.stdout.readline().strip())
        os.kill(process.pid, signal.SIGKILL)
        out, _ = process.communicate(timeout=30)
        # A last line may have been cut off by the death.
        acknowledged += [line for line in out.splitlines() if len(line) == 36]
    with store.work(A, write=False) as uow:
        for id in acknowledged:
            assert uow.resources.read("Patient", id).version == 1
        found = uow.resources.search(parse("Patient", [("family", "martin"), ("_count", "1000")]))
    assert set(acknowledged) <= {version.id for version in found.matches}
    with store.work(A) as uow:
        uow.resources.create("Patient", patient())


def test_a_database_carried_over_a_fork_opens_connections_of_its_own(store: Store) -> None:
    """DESIGN §11: workers are forked or spawned."""
    with store.work(A) as uow:
        uow.resources.update("Patient", "x", patient())
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with store.work(A) as uow:
                uow.resources.update("Patient", "x", patient())
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    with store.work(A) as uow:
        assert uow.resources.read("Patient", "x").version == 2
        uow.resources.update("Patient", "x", patient())


def test_a_commit_elsewhere_is_noticed(store: Store, database_url: str) -> None:
    """Dispatchers wait for changes, not for a clock."""
    other: Database = open_engine(database_url)
    try:
        assert not other.wait_for("work", 0)
        with store.work(A) as uow:
            uow.resources.create("Patient", patient())
            wakes.announce(uow.connection, "work")
        assert other.wait_for("work", 10)
    finally:
        other.dispose()
