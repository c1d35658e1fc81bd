"""The database as it is opened: durable, and found again after it was away (DESIGN §4)."""

from __future__ import annotations

import threading
import time
from typing import Any

import psycopg
import pytest
from sqlalchemy import text

from resources.outcomes import Unavailable
from resources.search import parse
from store.engine.database import Database, open_engine
from store.unit_of_work import Store
from store.versions import snapshots
from store.versions.snapshots import Snapshot, parse_postgresql
from store.versions.tables import store_setting
from tests.support import caller, patient

A = caller("hospital-a")


def test_a_commit_is_on_the_disk_when_it_returns(database: Database) -> None:
    """kill -9 never exercises fsync, so the settings are looked at (security-subscriptions §6.1)."""
    with database.read() as connection:
        if database.is_sqlite:
            settings = {
                name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
                for name in ("journal_mode", "synchronous", "foreign_keys")
            }
            assert settings == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
        else:
            for name in ("fsync", "synchronous_commit", "full_page_writes"):
                assert connection.exec_driver_sql(f"SHOW {name}").scalar() == "on"
            assert connection.exec_driver_sql("SHOW transaction_isolation").scalar() == "repeatable read"


def test_a_read_transaction_writes_nothing(database: Database) -> None:
    """A read on PostgreSQL says so to the database."""
    if database.is_sqlite:
        pytest.skip("SQLite's BEGIN may write; the store's reads do not")
    with pytest.raises(Exception, match="read-only"), database.read() as connection:
        connection.execute(store_setting.insert().values(name="x", value="y"))


def test_the_store_finds_its_database_again(store: Store, database_url: str) -> None:
    """After a restart of PostgreSQL one answer may be a 503, never more than the broken connections."""
    if store.database.is_sqlite:
        pytest.skip("a file does not go away")
    with store.work(A) as uow:
        uow.resources.update("Patient", "p", patient())
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
    answers = []
    for _ in range(4):
        try:
            with store.work(A) as uow:
                uow.resources.update("Patient", "p", patient())
            with store.work(A, write=False) as uow:
                answers.append(uow.resources.read("Patient", "p").type)
        except Unavailable:
            answers.append("503")
    assert answers[-2:] == ["Patient", "Patient"]


def test_sqlite_in_memory_is_refused() -> None:
    """Several processes share the database."""
    with pytest.raises(ValueError, match="file"):
        open_engine("sqlite://")


def test_a_restored_database_goes_on_counting(store: Store) -> None:
    """A dump restored into another cluster: old versions stay older than new ones."""
    with store.work(A) as uow:
        uow.resources.update("Patient", "p", patient())
        before = uow.tx
    with store.database.write() as connection:
        snapshots.continue_numbers(connection)
        snapshots.continue_numbers(connection)
    store._epoch = None
    with store.work(A) as uow:
        after = uow.resources.update("Patient", "p", patient()).tx
        page = uow.resources.search(parse("Patient", [("_count", "1")]))
    assert before is not None
    assert after > before
    assert [version.version for version in page.matches] == [2]


@pytest.mark.parametrize(
    ("snapshot", "own", "seen", "unseen"),
    [
        (Snapshot(10), None, {1, 9}, {10, 11}),
        (Snapshot(10, (7,)), None, {6, 8, 9}, {7, 10}),
        (Snapshot(10, (7,)), 7, {6, 7, 9}, {10}),
        (Snapshot(10, (7,)), 12, {9, 12}, {7, 10, 11, 13}),
        (parse_postgresql("5:10:5,8", 100), None, {104, 106, 109}, {105, 108, 110}),
    ],
)
def test_a_snapshot_sees_what_was_committed_and_its_own(
    database: Database, snapshot: Snapshot, own: int | None, seen: set[int], unseen: set[int]
) -> None:
    """PostgreSQL pg_snapshot: xmin:xmax:xip."""
    from store.versions.tables import tx

    with database.write() as connection:
        connection.execute(tx.insert(), [{"tx_id": number, "at": 0} for number in seen | unseen])
        shown: Any = connection.execute(tx.select().where(snapshot.including(own).seen(tx.c.tx_id))).all()
    assert {row[0] for row in shown} == seen


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_nobody_closes_a_connection_beneath_a_thread_that_uses_it(database: Database) -> None:
    """sqlite3_close(): "behavior is undefined" while another thread uses it. Who comes after it is told."""
    inside, go = threading.Event(), threading.Event()
    found: list[Any] = []

    def uses() -> None:
        with database.write() as connection:
            inside.set()
            go.wait(30)
            found.append(connection.execute(text("SELECT 1")).scalar())

    def comes_late() -> None:
        inside.wait(30)
        try:
            with database.write():
                found.append("written")
        except Unavailable:
            found.append("told")

    threads = [threading.Thread(target=uses), threading.Thread(target=comes_late)]
    for thread in threads:
        thread.start()
    assert inside.wait(30)
    state = database._state
    closing = threading.Thread(target=state.close)
    closing.start()
    while not state.is_closed:
        time.sleep(0.001)
    go.set()
    for thread in (*threads, closing):
        thread.join(30)
    assert found == [1, "told"]
