"""No transaction of a stranger stops or delays a notification, and none of our own deaths loses or doubles one.

The outbox is a queue (store.engine.queue): an idle transaction elsewhere once stopped all of
them.
"""

from __future__ import annotations

import random
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress

import psycopg
import pytest

from resources.outcomes import Conflict
from store.engine.faults import DRIVER_ERRORS
from store.engine.queue import Floor
from subscriptions import outbox
from subscriptions.sequencer import LEADER_KEY
from subscriptions.service import Subscriptions
from tests.subscriptions.ward import RADIOLOGIST, Ward, report, subscription

on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@pytest.fixture(params=["another database", "this database", "this database, with a snapshot"])
def stranger(request: pytest.FixtureRequest, postgresql_url: str) -> Iterator[psycopg.Connection]:
    """An idle transaction that has a number."""
    url = postgresql_url
    if request.param == "another database":
        with psycopg.connect(url, autocommit=True) as admin:
            admin.execute("DROP DATABASE IF EXISTS stranger WITH (FORCE)")
            admin.execute("CREATE DATABASE stranger")
        url = url.replace("/postgres?", "/stranger?")
    with psycopg.connect(url) as connection:
        if "snapshot" in request.param:
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        connection.execute("SELECT pg_current_xact_id()")
        yield connection


@on_postgresql
def test_an_idle_transaction_stops_no_notification(ward: Ward, stranger: psycopg.Connection) -> None:
    """reliability.md 1: 20 orders, 0 notifications in 29 s, until the stranger ended."""
    ward.subscribe()
    for _ in range(3):
        ward.sign()
    ward.turn()
    assert ward.hospital.accepted_numbers == [1, 2, 3]
    assert stranger.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS


@on_postgresql
def test_beside_an_idle_transaction_a_subscription_hears_only_what_comes(
    ward: Ward, stranger: psycopg.Connection
) -> None:
    """What had been committed before it is not told, though the oldest running transaction is older still."""
    for _ in range(3):
        ward.sign()
    made = ward.create(subscription(ward.hospital.url))
    ward.turn()
    assert ward.state(made.id).events == 0
    ward.sign()
    ward.turn()
    assert ward.hospital.accepted_numbers == [1]


@on_postgresql
def test_what_was_under_way_when_a_subscription_was_made_is_told(ward: Ward) -> None:
    """One change too few would be a report that nobody learns of."""
    ward.update("p", {"resourceType": "Patient"})
    with ward.store.work(RADIOLOGIST) as uow:
        uow.resources.create("DiagnosticReport", report())
        uow.complete()
        ward.subscribe()
    ward.turn()
    assert ward.hospital.accepted_numbers == [1]


@on_postgresql
def test_what_commits_late_is_numbered_though_it_lies_below_the_floor(ward: Ward) -> None:
    """A change that was written long before it became visible, behind others that were taken since."""
    ward.subscribe()
    ward.update("p", {"resourceType": "Patient"})
    passed = [0.0]
    ward.subscriptions.sequencer._floor = Floor(lambda: time.monotonic() + passed[0])
    with ward.store.work(RADIOLOGIST) as uow:
        uow.resources.create("DiagnosticReport", report())
        uow.complete()
        for _ in range(2):
            ward.create(report(), RADIOLOGIST)
            ward.turn()
            passed[0] += 10
        ward.sequence()
    passed[0] += 10
    ward.turn()
    assert ward.hospital.accepted_numbers == [1, 2, 3]


def test_one_transaction_may_subscribe_and_write(ward: Ward) -> None:
    """A change in the transaction of the subscription itself counts."""
    ward.update("p", {"resourceType": "Patient"})
    with ward.store.work(RADIOLOGIST) as uow:
        uow.resources.create("Subscription", subscription(ward.hospital.url))
        uow.resources.create("DiagnosticReport", report())
    ward.turn()
    assert ward.hospital.accepted_numbers == [1]


def write(ward: Ward, shared: list[str], written: list[tuple[str, int]], seed: int) -> None:
    """Updates of the same reports as others; some roll back, some commit late."""
    chance = random.Random(seed)
    for _ in range(12):
        with suppress(Conflict, ZeroDivisionError):
            with ward.store.work(RADIOLOGIST) as uow:
                made = uow.resources.update("DiagnosticReport", chance.choice(shared), report(status="amended"))
                uow.complete()
                if chance.random() < 0.2:
                    raise ZeroDivisionError
                if chance.random() < 0.3:
                    time.sleep(0.02)
            written.append((made.id, made.version))


def sequence(made: Subscriptions, done: threading.Event, died: list[str]) -> None:
    """A worker's loop, which goes on whatever a turn raises."""
    while not done.is_set():
        try:
            made.sequencer.step()
        except DRIVER_ERRORS as fault:
            died.append(type(fault).__name__)


def kill_leaders(url: str, done: threading.Event) -> None:
    """PostgreSQL: end the session of whoever leads, wherever it is."""
    with psycopg.connect(url, autocommit=True) as admin:
        while not done.wait(0.01):
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"
                " AND classid = %s AND objid = %s AND random() < 0.3",
                (LEADER_KEY >> 32, LEADER_KEY & 0xFFFFFFFF),
            )


def test_concurrent_writers_two_workers_and_dying_leaders(ward: Ward, database_url: str) -> None:
    """Every committed version has one number, numbers have no gap, and versions of one resource come in their order,
    whichever session of a leader is ended in the middle of its commit (PostgreSQL)."""
    identifier = ward.subscribe(max_count=100)
    ward.update("p", {"resourceType": "Patient"})
    shared = [ward.create(report(), RADIOLOGIST).id for _ in range(3)]
    written, done, died = [(one, 1) for one in shared], threading.Event(), list[str]()
    second = ward.assemble()
    writers = [threading.Thread(target=write, args=(ward, shared, written, seed)) for seed in range(4)]
    others = [threading.Thread(target=sequence, args=(made, done, died)) for made in (ward.subscriptions, second)]
    if "postgresql" in database_url:
        others.append(threading.Thread(target=kill_leaders, args=(database_url, done)))
    for thread in (*writers, *others):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    for thread in others:
        thread.join()
    ward.turn()
    second.close()
    with ward.store.database.read() as connection:
        events = outbox.events_between(connection, identifier, 1, 10**6, limit=10**6)
    assert [event.number for event in events] == list(range(1, len(written) + 1))
    told = [(event.resource_id, event.version) for event in events]
    assert sorted(told) == sorted(written)
    versions = defaultdict(list)
    for resource, version in told:
        versions[resource].append(version)
    for one, numbers in versions.items():
        assert numbers == sorted(numbers), one
    assert ward.hospital.accepted_numbers == list(range(1, len(events) + 1))
