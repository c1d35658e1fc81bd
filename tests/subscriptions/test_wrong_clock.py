"""What a clock wrote that was wrong for a while holds up no delivery (reliability.md 2, 4)."""

from __future__ import annotations

import os
import signal
import time
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import update

from resources.times import microseconds
from store.engine.clock import since_boot_ns
from subscriptions import leases
from subscriptions.tables import endpoint_table, state_table
from tests.subscriptions.hospital import Reply
from tests.subscriptions.ward import Ward


def look(ward: Ward) -> None:
    """A dispatcher's look at what it does only once a second."""
    ward.subscriptions.dispatcher._looked_at = 0.0
    ward.turn()


def test_a_retry_of_tomorrow_is_made_today(ward: Ward) -> None:
    """Seen: retry_at 24.05 h ahead, not sent in 75 s."""
    ward.subscribe()
    ward.clock.advance(hours=24)
    ward.hospital.replies.append(Reply(503))
    ward.sign()
    ward.turn()
    ward.clock.advance(hours=-24)
    ward.pass_time(5)
    assert ward.hospital.accepted_numbers == []
    look(ward)
    assert ward.hospital.accepted_numbers == [1]


def test_a_handshake_of_tomorrow_is_made_today(ward: Ward) -> None:
    ward.clock.advance(hours=24)
    from tests.subscriptions.ward import subscription

    ward.create(subscription(ward.hospital.url))
    ward.clock.advance(hours=-24)
    look(ward)
    assert len(ward.hospital.of("handshake")) == 1


def test_events_numbered_tomorrow_are_sent_today(ward: Ward) -> None:
    ward.subscribe()
    ward.clock.advance(hours=24)
    ward.sign()
    ward.sequence()
    ward.clock.advance(hours=-24)
    look(ward)
    assert ward.hospital.accepted_numbers == [1]


def test_a_heartbeat_comes_at_its_period_again(ward: Ward) -> None:
    """Seen: of a period of 5 s the next one 23.97 h ahead."""
    ward.subscribe(heartbeat_s=60)
    ward.clock.advance(hours=24)
    ward.turn()
    told = len(ward.hospital.of("heartbeat"))
    assert told == 1
    ward.clock.advance(hours=-24)
    look(ward)
    ward.pass_time(61, 10)
    assert len(ward.hospital.of("heartbeat")) == told + 1


def test_a_lease_of_tomorrow_ends_in_its_own_time(ward: Ward) -> None:
    """Its holder is on another machine, and gone."""
    identifier = ward.subscribe()
    ward.sign()
    ward.sequence()
    ward.clock.advance(hours=24)
    (held,) = ward.subscriptions.dispatcher.lease()
    ward.clock.advance(hours=-24)
    with ward.store.database.write() as connection:
        connection.execute(update(state_table).values(lease_token="elsewhere"))
    look(ward)
    assert ward.hospital.accepted_numbers == []
    ward.pass_time(held.state.timeout_s + leases.LEASE_MARGIN_S + 1)
    assert ward.hospital.accepted_numbers == [1]
    assert ward.state(identifier).delivered == 1


def test_a_breaker_of_tomorrow_closes_today(ward: Ward) -> None:
    ward.subscribe()
    ward.hospital.always = Reply(503)
    ward.sign()
    ward.turn()
    with ward.store.database.write() as connection:
        tomorrow = microseconds(ward.clock() + timedelta(hours=24))
        connection.execute(update(endpoint_table).values(open_until=tomorrow))
    ward.hospital.always = Reply()
    look(ward)
    ward.pass_time(5)
    assert ward.hospital.accepted_numbers == [1]


def test_what_is_right_stays_as_it_is(ward: Ward) -> None:
    """The longest honest waits: an hour that the endpoint asked for, a heartbeat, a lease."""
    identifier = ward.subscribe(heartbeat_s=7200, timeout_s=30)
    ward.hospital.replies.append(Reply(503, (("Retry-After", "3600"),)))
    ward.sign()
    ward.turn()
    before = ward.state(identifier)
    with ward.store.database.write() as connection:
        assert not leases.is_too_far(connection, ward.clock())
        assert leases.correct(connection, ward.clock()) == 0
    assert ward.state(identifier) == before


def test_nothing_is_sent_under_a_lease_that_may_have_run_out(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that stood still between lease and request sent an event again after later ones (reliability.md 4)."""
    ward.subscribe()
    ward.sign()
    ward.sequence()
    (held,) = ward.subscriptions.dispatcher.lease()
    later = since_boot_ns() + (leases.LEASE_MARGIN_S + 1) * 1_000_000_000
    monkeypatch.setattr(leases, "since_boot_ns", lambda: later)
    assert ward.subscriptions.dispatcher.attempt(held) is None
    assert ward.hospital.accepted_numbers == []
    ward.turn()  # it was given back
    assert ward.hospital.accepted_numbers == [1]


def test_a_holder_that_was_frozen_sends_nothing_when_it_wakes(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGSTOP after the record and before the request; another node goes on meanwhile (reliability.md 4: 1, 2, 3, 1).

    Rights are asked again as well: what the frozen process composed is thrown away with its lease.
    """
    monkeypatch.setattr(leases, "LEASE_MARGIN_S", 1)
    ward.subscribe()
    ward.sign()
    ward.sequence()
    dispatcher = ward.subscriptions.dispatcher
    (held,) = dispatcher.lease()
    child = os.fork()
    if child == 0:
        try:
            disclose = dispatcher._trail.disclose

            def frozen(*given: Any) -> None:
                disclose(*given)
                os.kill(os.getpid(), signal.SIGSTOP)

            dispatcher._trail = SimpleNamespace(disclose=frozen)  # type: ignore[assignment]
            os._exit(0 if dispatcher.attempt(held) is None else 1)
        except BaseException:  # noqa: BLE001 - nothing of the test's process may go on in its child
            os._exit(2)
    try:
        assert os.WIFSTOPPED(os.waitpid(child, os.WUNTRACED)[1])
        time.sleep(1.2)
        ward.clock.advance(seconds=60)
        ward.turn()
        ward.sign()
        ward.turn()
        assert ward.hospital.accepted_numbers == [1, 2]
    finally:
        os.kill(child, signal.SIGCONT)
        status = os.waitpid(child, 0)[1]
    assert os.waitstatus_to_exitcode(status) == 0
    assert ward.hospital.accepted_numbers == [1, 2]
    ward.sign()
    ward.turn()
    assert ward.hospital.accepted_numbers == [1, 2, 3]
