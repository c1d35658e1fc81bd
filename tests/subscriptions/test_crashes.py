"""A crash at any point loses nothing and renumbers nothing (DESIGN §13: 0 events lost).

The process dies at the n-th of all points where it touches the database, the ledger or the network, for every n;
another starts once the leases have run out.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from fhir_server.server import checks
from resources.times import microseconds
from store.access import Access, Caller, Version, Waiting
from store.engine.database import Database
from store.engine.keyring import Fixed
from store.engine.queue import Floor
from store.unit_of_work import Store, UnitOfWork
from subscriptions import outbox, sequencer
from subscriptions.channels.port import Answer
from subscriptions.service import Subscriptions
from subscriptions.topics import Topic
from subscriptions.versions import Versions
from tests.subscriptions.ward import RADIOLOGIST, Ward, report, subscription
from tests.support import BASE_URL, PLATFORM


class Crash(BaseException):
    """The process is gone: no handler sees it."""


class Fate:
    """Dies at the n-th point."""

    def __init__(self, dies_at: int) -> None:
        self.dies_at = dies_at
        self.passed: list[str] = []

    def point(self, name: str) -> None:
        self.passed.append(name)
        if len(self.passed) == self.dies_at:
            raise Crash(name)

    @property
    def struck(self) -> bool:
        return len(self.passed) >= self.dies_at


class MortalDatabase:
    """The database, used by a process that may die before, within or after a write transaction."""

    def __init__(self, database: Database, fate: Fate) -> None:
        self._database = database
        self._fate = fate

    @contextmanager
    def write(self) -> Iterator[Connection]:
        self._fate.point("before a transaction")
        with self._database.write() as connection:
            yield connection
            self._fate.point("before the commit")
        self._fate.point("after the commit")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)


class MortalTrail:
    shelf = None

    def __init__(self, trail: Any, fate: Fate) -> None:
        self._trail = trail
        self._fate = fate

    def append(self, connection: Connection, caller: Caller, accesses: Sequence[Access], at: datetime) -> None:
        self._trail.append(connection, caller, accesses, at)

    def disclose(self, caller: Caller, accesses: Sequence[Access], at: datetime) -> None:
        self._trail.disclose(caller, accesses, at)
        self._fate.point("recorded, not sent")


def mortal(ward: Ward, fate: Fate) -> Subscriptions:
    """The package in a process of this fate."""
    store: Any = Store(
        MortalDatabase(ward.store.database, fate),  # type: ignore[arg-type]
        permit=ward.permit, trail=MortalTrail(ward.trail, fate), clock=ward.clock, platform=PLATFORM,
        base_urls=(BASE_URL,), keys=Fixed(b"x" * 32),
    )  # fmt: skip
    made = ward.assemble(store)
    store.observers.append(made.observer)
    sender: Any = made.dispatcher._channels["rest-hook"]
    send = sender.send

    def mortal_send(*arguments: Any, **named: Any) -> Answer:
        answer = send(*arguments, **named)
        fate.point("sent, not settled")
        return answer

    sender.send = mortal_send
    return made


def live(made: Subscriptions) -> None:
    """Turn the loops, in this thread, until nothing is due."""
    while True:
        while made.sequencer.step():
            pass
        leases = made.dispatcher.lease()
        if not leases:
            return
        for held in leases:
            following = made.dispatcher.attempt(held)
            while following is not None:
                following = made.dispatcher.attempt(following)


def test_a_crash_at_any_point_loses_and_renumbers_nothing(ward: Ward) -> None:
    """For every point between commit, sequencing, record, send and settle, also of the handshake."""
    ward.update("p", {"resourceType": "Patient"})
    reached: set[str] = set()
    for dies_at in range(1, 200):
        ward.hospital.received.clear()
        identifier = ward.create(subscription(ward.hospital.url, max_count=2)).id
        fate = Fate(dies_at)
        made = mortal(ward, fate)
        try:
            for number in range(4):
                ward.create(report(status="final"), RADIOLOGIST)
                if number % 2:
                    live(made)
        except Crash as crash:
            reached.add(str(crash))
            made.close()
            ward.clock.advance(seconds=60)
            made = ward.assemble()
        missing = 4 - number - 1
        for _ in range(missing):
            ward.create(report(status="final"), RADIOLOGIST)
        live(made)
        made.close()
        _check(ward, identifier)
        with ward.store.work(Caller.system("hospital-a")) as uow:
            uow.resources.delete("Subscription", identifier)
        if not fate.struck:
            break
    assert dies_at > 20
    assert reached == {
        "before a transaction", "before the commit", "after the commit", "recorded, not sent", "sent, not settled"
    }  # fmt: skip


def _check(ward: Ward, identifier: str) -> None:
    accepted = ward.hospital.accepted_numbers
    assert list(dict.fromkeys(accepted)) == [1, 2, 3, 4]
    batches = [received.numbers for received in ward.hospital.of("event-notification")]
    assert batches == sorted(batches)
    by_id: dict[str, list[int]] = {}
    focus: dict[int, str] = {}
    for received in ward.hospital.of("event-notification"):
        assert by_id.setdefault(received.headers["webhook-id"], received.numbers) == received.numbers
        for event in received.events:
            number = int(event["event-number"])
            assert focus.setdefault(number, event["focus"]["reference"]) == event["focus"]["reference"]
    assert len(set(focus.values())) == 4
    state = ward.state(identifier)
    assert (state.status, state.events, state.delivered) == ("active", 4, 4)


def test_a_write_that_fails_leaves_no_event(ward: Ward) -> None:
    """The change and its outbox row are one commit."""
    ward.subscribe()
    ward.update("p", {"resourceType": "Patient"})

    def fail(uow: UnitOfWork) -> None:
        uow.resources.create("DiagnosticReport", report())
        uow.complete()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ward.store.transact(RADIOLOGIST, fail)
    ward.turn()
    assert ward.hospital.of("event-notification") == []
    with ward.store.database.read() as connection:
        assert not outbox.pending_changes(connection, Floor(), limit=1)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_what_commits_late_is_told_when_it_does_and_delays_nobody(ward: Ward) -> None:
    """§3.5: a watermark by `id > last` lost 121 of 400; a bound at the oldest transaction lets one stop all others."""
    ward.subscribe()
    ward.update("p", {"resourceType": "Patient"})
    with ExitStack() as slow:
        uow = slow.enter_context(ward.store.work(RADIOLOGIST))
        first = uow.resources.create("DiagnosticReport", report())
        uow.complete()  # its change has the lower number, and nobody sees it yet
        second = ward.create(report(), RADIOLOGIST)
        assert first.tx < second.tx
        ward.turn()
        assert ward.hospital.accepted_numbers == [1]
        third = ward.create(report(), RADIOLOGIST)
        ward.turn()
    ward.turn()
    assert ward.hospital.accepted_numbers == [1, 2, 3]
    told = [
        event["focus"]["reference"].rpartition("/")[2]
        for r in ward.hospital.of("event-notification")
        for event in r.events
    ]
    assert told == [second.id, third.id, first.id]


def test_many_writers_and_two_sequencers_lose_nothing(ward: Ward) -> None:
    """Concurrent writers, some of which roll back, and the sequencers of two processes: gapless, each change once."""
    identifier = ward.subscribe(max_count=100)
    ward.update("p", {"resourceType": "Patient"})
    written: list[str] = []
    writing = threading.Event()

    def write(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(15):
            try:
                with ward.store.work(RADIOLOGIST) as uow:
                    made = uow.resources.create("DiagnosticReport", report())
                    if chance.random() < 0.3:
                        raise ZeroDivisionError
            except ZeroDivisionError:
                continue
            written.append(made.id)

    second = ward.assemble()

    def sequence(made: Subscriptions) -> None:
        while not writing.is_set():
            made.sequencer.step()

    writers = [threading.Thread(target=write, args=(seed,)) for seed in range(4)]
    sequencers = [threading.Thread(target=sequence, args=(made,)) for made in (ward.subscriptions, second)]
    for thread in (*writers, *sequencers):
        thread.start()
    for thread in writers:
        thread.join()
    writing.set()
    for thread in sequencers:
        thread.join()
    ward.turn()
    second.close()
    with ward.store.database.read() as connection:
        events = outbox.events_between(connection, identifier, 1, 10**6, limit=10**6)
    assert [event.number for event in events] == list(range(1, len(written) + 1))
    assert sorted(event.resource_id for event in events) == sorted(written)
    assert ward.hospital.accepted_numbers == list(range(1, len(written) + 1))


def test_changes_that_nobody_hears_are_cleared_away(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    """They wait for company, so that a server without subscribers does not commit twice for each write."""
    monkeypatch.setattr(sequencer, "UNHEARD_MAX", 3)
    for _ in range(3):
        ward.sign()
    assert not ward.subscriptions.sequencer.step()
    ward.sign()
    ward.sequence()
    with ward.store.database.read() as connection:
        assert len(outbox.pending_changes(connection, Floor(), limit=10)) == 1
    ward.subscribe()
    ward.sign()
    ward.turn()
    assert ward.hospital.accepted_numbers == [1]


def test_a_quiet_server_without_subscribers_has_no_old_changes(ward: Ward) -> None:
    """What the gauge calls old is late: a few changes that nobody hears do not stay until a thousand have come."""
    for second in range(3 * int(checks.LAG_S)):
        if second % 25 == 0:
            ward.sign()
        ward.sequence()
        with ward.store.database.read() as connection:
            queues = ward.subscriptions.queues(connection)
        assert checks.lag(queues, microseconds(ward.clock())) == checks.OK, second
        ward.clock.advance(seconds=1)
    ward.clock.advance(seconds=sequencer.UNHEARD_S)
    ward.sequence()
    with ward.store.database.read() as connection:
        assert ward.subscriptions.queues(connection)["subscription-changes"] == Waiting(0, None)


def test_what_cannot_be_judged_stops_nobody_else(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    """One bad change or subscription once held back every notification behind it; its owner is told, others go on."""
    bad, good = ward.subscribe(filters=["DiagnosticReport?status=final"]), ward.subscribe()
    passes, fires = Versions.passes, Topic.fires

    def cannot_pass(self: Versions, version: Version, filters: Any) -> bool:
        if filters:
            raise KeyError("nobody foresaw this")
        return passes(self, version, filters)

    monkeypatch.setattr(Versions, "passes", cannot_pass)
    ward.sign()
    ward.turn()
    assert ward.read(f"Subscription/{bad}")["status"] == "error"
    assert ward.read(f"Subscription/{good}")["status"] == "active"

    def cannot_fire(self: Topic, before: Any, after: Any) -> bool:
        if after.get("conclusion") == "poison":
            raise KeyError("nobody foresaw this")
        return fires(self, before, after)

    monkeypatch.setattr(Topic, "fires", cannot_fire)
    ward.sign(conclusion="poison")
    ward.sign()
    ward.turn()
    with ward.store.database.read() as connection:
        assert len(outbox.events_between(connection, good, 1, 100, limit=100)) == 2
        assert ward.subscriptions.queues(connection)["subscription-changes"].count == 0


def test_a_database_that_fails_is_no_fault_of_a_change(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nothing is passed over: the transaction is rolled back, and the changes wait."""
    identifier = ward.subscribe()

    def away(*_: object) -> bool:
        raise OperationalError("SELECT", {}, Exception("the connection is lost"))

    ward.sign()
    with monkeypatch.context() as patched:
        patched.setattr(Versions, "visible", away)
        with pytest.raises(OperationalError):
            ward.subscriptions.sequencer.step()
    ward.turn()
    assert ward.read(f"Subscription/{identifier}")["status"] == "active"
    assert ward.hospital.accepted_numbers == [1]
