"""However the hospital fails, nothing is lost (DESIGN §9; reference/security-subscriptions.md §3.4, §3.5)."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from subscriptions import holders
from subscriptions.channels.port import Answer
from tests.subscriptions.hospital import Hospital, Reply
from tests.subscriptions.ward import EHR, OTHER_EHR, Ward, subscription


@pytest.mark.parametrize(
    "reply",
    [
        Reply(500),
        Reply(503),
        Reply(429),
        Reply(404),
        Reply(301, (("Location", "http://127.0.0.1:9/"),)),
        Reply(cut=True),
    ],
)
def test_a_refused_notification_is_sent_again(ward: Ward, reply: Reply) -> None:
    """2xx only is success; the same numbers, the same webhook-id, and the later event waits for its turn."""
    identifier = ward.subscribe()
    ward.hospital.replies.extend([reply] * 3)
    ward.sign()
    ward.sign()
    ward.turn()
    ward.pass_time(60)
    sent = ward.hospital.of("event-notification")
    assert [received.numbers for received in sent] == [[1], [1], [1], [1], [2]]
    assert len({received.headers["webhook-id"] for received in sent[:4]}) == 1
    assert ward.read(f"Subscription/{identifier}")["status"] == "active"
    assert [attempt.result for attempt in ward.attempts(identifier)] == [
        "delivered",
        *["failed"] * 3,
        *["delivered"] * 2,
    ]


def test_a_batch_keeps_its_numbers_while_events_arrive(ward: Ward) -> None:
    """Standard Webhooks: webhook-id is the idempotency key, so what is sent under it may not grow."""
    ward.subscribe(max_count=10)
    ward.hospital.replies.extend([Reply(500)] * 2)
    ward.sign()
    ward.turn()
    for _ in range(3):
        ward.sign()
    ward.pass_time(30)
    assert [received.numbers for received in ward.hospital.of("event-notification")] == [[1], [1], [1], [2, 3, 4]]


def test_retry_after_is_honoured(ward: Ward) -> None:
    """RFC 9110 §10.2.3, up to one hour."""
    ward.subscribe()
    ward.hospital.replies.append(Reply(503, (("Retry-After", "120"),)))
    ward.sign()
    ward.turn()
    ward.pass_time(119, 7)
    assert len(ward.hospital.of("event-notification")) == 1
    ward.pass_time(2)
    assert ward.hospital.accepted_numbers == [1]


def test_gone_ends_in_error_until_the_client_asks_again(ward: Ward) -> None:
    """410; Backport §errors: keep counting, answer $status, and re-activation is the client's."""
    identifier = ward.subscribe()
    ward.hospital.replies.append(Reply(410))
    ward.sign()
    ward.turn()
    shown = ward.read(f"Subscription/{identifier}")
    assert (shown["status"], shown["error"]) == ("error", "the endpoint answered 410")
    ward.sign()
    ward.pass_time(600, 60)
    assert ward.hospital.accepted_numbers == []
    assert ward.state(identifier).events == 2
    answer = ward.operation("status", identifier)["entry"][0]["resource"]["parameter"]
    assert {"name": "status", "valueCode": "error"} in answer
    assert any(one["name"] == "error" for one in answer)
    ward.update(identifier, subscription(ward.hospital.url))
    ward.turn()
    assert ward.read(f"Subscription/{identifier}")["status"] == "active"
    assert ward.hospital.of("handshake")[1].status["events-since-subscription-start"] == "2"
    assert ward.hospital.accepted_numbers == [1, 2]


def test_after_72_hours_the_subscription_is_in_error_and_its_events_are_kept(ward: Ward) -> None:
    """§3.5: dead letters stay readable by $events, and are sent once the client asks again."""
    identifier = ward.subscribe()
    ward.hospital.always = Reply(500)
    ward.sign()
    ward.turn()
    ward.pass_time(73 * 3600, 900)
    assert ward.read(f"Subscription/{identifier}")["status"] == "error"
    attempts = len(ward.hospital.of("event-notification"))
    assert attempts > 72
    ward.pass_time(24 * 3600, 3600)
    assert len(ward.hospital.of("event-notification")) == attempts
    assert len(ward.operation("events", identifier)["entry"]) > 1
    ward.hospital.always = Reply()
    ward.update(identifier, subscription(ward.hospital.url))
    ward.turn()
    assert ward.hospital.accepted_numbers == [1]


def test_an_endpoint_that_fails_is_only_probed(ward: Ward) -> None:
    """The circuit breaker: after five failures one probe at a time; recovery wakes every subscription of the origin."""
    identifiers = [ward.subscribe() for _ in range(6)]
    ward.hospital.always = Reply(503)
    ward.sign()
    ward.turn()
    ward.pass_time(120)
    asked = len(ward.hospital.of("event-notification"))
    assert asked < 6 * 7
    ward.hospital.always = Reply()
    ward.pass_time(31)
    assert sorted(ward.hospital.accepted_numbers) == [1] * 6
    assert all(ward.state(one).delivered == 1 for one in identifiers)


def test_a_hanging_endpoint_does_not_delay_a_healthy_one(ward: Ward, other_hospital: Hospital) -> None:
    """§3.5 lanes: the healthy one has all its reports while the other still hangs."""
    for _ in range(4):
        ward.subscribe(timeout_s=30)
    ward.subscribe(endpoint=other_hospital.url)
    ward.hospital.always = Reply(stall_s=3)
    for _ in range(5):
        ward.sign()
    ward.sequence()
    hung = threading.Event()
    deadline = time.monotonic() + 60
    while len(other_hospital.accepted_numbers) < 5 and time.monotonic() < deadline:
        ward.subscriptions.dispatcher.step()
        if ward.hospital.in_flight:
            hung.set()
        time.sleep(0.01)
    assert other_hospital.accepted_numbers == [1, 2, 3, 4, 5]
    assert hung.is_set()
    assert ward.hospital.in_flight > 0
    ward.hospital.always = Reply()


def test_an_origin_has_few_requests_in_flight(ward: Ward) -> None:
    """A cap per destination: twenty subscriptions of one endpoint do not open twenty connections."""
    for _ in range(20):
        ward.subscribe()
    ward.hospital.always = Reply(stall_s=0.02)
    ward.hospital.most_in_flight = 0
    ward.sign()
    ward.turn()
    assert sorted(ward.hospital.accepted_numbers) == [1] * 20
    assert 1 <= ward.hospital.most_in_flight <= 4


def test_two_dispatchers_never_hold_one_subscription(ward: Ward) -> None:
    """Leases: SKIP LOCKED on PostgreSQL, the one writer on SQLite; a lease that ran out can be taken again."""
    ward.subscribe()
    ward.sign()
    ward.sequence()
    first, second = ward.subscriptions.dispatcher, ward.assemble().dispatcher
    (held,) = first.lease()
    assert second.lease() == []
    ward.clock.advance(seconds=held.state.timeout_s + 11)
    (taken,) = second.lease()
    second.attempt(taken)
    assert ward.hospital.accepted_numbers == [1]
    first.attempt(held)  # wakes up late: its lease is another's, it sends nothing
    assert ward.hospital.accepted_numbers == [1]
    second.close()


def test_what_a_killed_process_held_is_due_at_once(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    """A notification under way when its sender dies does not wait for the end of the lease (20 s)."""
    ward.subscribe()
    ward.sign()
    ward.sequence()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as sender:
        holder = holders._process(sender.pid)
        monkeypatch.setattr(holders, "mine", lambda: holder)
        (held,) = ward.subscriptions.dispatcher.lease()
        monkeypatch.undo()
        second = ward.assemble().dispatcher
        second.step()
        second.drain()
        assert ward.hospital.accepted_numbers == [], "it lives: it may be sending"
        sender.kill()
    second._looked_at = 0.0
    second.step()
    second.drain()
    assert ward.hospital.accepted_numbers == [1]
    ward.subscriptions.dispatcher.attempt(held)  # were it not dead after all: its lease is another's
    assert ward.hospital.accepted_numbers == [1]
    second.close()


def test_who_settles_late_alters_nothing(ward: Ward) -> None:
    """A dispatcher that was overtaken while it sent: the numbers that were settled meanwhile stay settled."""
    identifier = ward.subscribe()
    ward.sign()
    ward.sequence()
    slow, quick = ward.subscriptions.dispatcher, ward.assemble().dispatcher
    channel: Any = slow._channels["rest-hook"]
    send = channel.send

    def overtaken(*arguments: Any, **named: Any) -> Answer:
        answer = send(*arguments, **named)
        ward.clock.advance(seconds=60)
        ward.sign()
        ward.sequence()
        for _ in range(2):
            for held in quick.lease():
                following = quick.attempt(held)
                while following is not None:
                    following = quick.attempt(following)
        return answer

    channel.send = overtaken
    (held,) = slow.lease()
    slow.attempt(held)
    assert ward.state(identifier).delivered == 2
    assert [received.numbers for received in ward.hospital.of("event-notification")] == [[1], [1], [2]]
    quick.close()


def test_one_probe_at_a_time_also_among_processes(ward: Ward) -> None:
    """The half-open breaker: while one dispatcher probes an endpoint, no other asks it for another subscription."""
    for _ in range(3):
        ward.subscribe()
    ward.hospital.always = Reply(503)
    ward.sign()
    ward.turn()
    ward.clock.advance(hours=2)
    first, second = ward.subscriptions.dispatcher, ward.assemble().dispatcher
    failing = first._threads[1]
    (probe,) = first.lease(failing)
    assert second.lease(second._threads[1]) == []
    ward.hospital.always = Reply()
    first.attempt(probe)
    ward.turn()
    assert ward.hospital.accepted_numbers == [1, 1, 1]
    second.close()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    faults=st.lists(
        st.sampled_from([Reply(), Reply(500), Reply(503), Reply(404), Reply(302), Reply(cut=True), Reply(410)]),
        max_size=25,
    ),
    reports=st.integers(1, 6),
    max_count=st.integers(1, 4),
)
def test_however_the_hospital_fails_each_number_arrives_in_order(
    ward: Ward, faults: list[Reply], reports: int, max_count: int
) -> None:
    """DESIGN §9: at least once, in order, gapless; and $events tells all of them."""
    ward.hospital.received.clear()
    ward.hospital.replies.clear()
    identifier = ward.create(subscription(ward.hospital.url, max_count=max_count)).id
    ward.turn()
    ward.hospital.replies.extend(faults)
    for number in range(reports):
        ward.sign()
        ward.turn()
        ward.pass_time(number)
    for _ in range(40):
        state = ward.state(identifier)
        if state.status == "active" and state.delivered == reports:
            break
        if state.status == "error":
            ward.update(identifier, subscription(ward.hospital.url, max_count=max_count))
        ward.pass_time(3600, 1200)
    accepted = ward.hospital.accepted_numbers
    assert list(dict.fromkeys(accepted)) == list(range(1, reports + 1))
    assert accepted == sorted(accepted)
    told = ward.operation("events", identifier)
    numbers = [
        part["valueString"]
        for one in told["entry"][0]["resource"]["parameter"]
        for part in one.get("part", ())
        if part["name"] == "event-number"
    ]
    assert numbers == [str(number) for number in range(1, reports + 1)]
    with ward.store.work(EHR) as uow:
        uow.resources.delete("Subscription", identifier)


def test_the_other_hospital_s_outage_is_its_own(ward: Ward, other_hospital: Hospital) -> None:
    """An endpoint in error leaves the others' subscriptions alone."""
    ward.subscribe()
    theirs = ward.subscribe(OTHER_EHR, endpoint=other_hospital.url)
    ward.hospital.always = Reply(410)
    ward.sign()
    ward.turn()
    assert ward.read(f"Subscription/{theirs}", OTHER_EHR)["status"] == "active"
    assert other_hospital.of("event-notification") == []
