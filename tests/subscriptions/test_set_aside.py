"""An event that cannot be composed is set aside: it is told, kept and tried again, and holds up none of the others."""

from __future__ import annotations

import pytest
from sqlalchemy import select, update

from resources.json import Json
from store.versions.tables import resource_version
from subscriptions import leases
from subscriptions.again import Retried
from subscriptions.composition import Composer
from subscriptions.outbox import EventRow, State
from subscriptions.schedule import UNMADE_S
from subscriptions.tables import aside_table, event_table
from tests.subscriptions.hospital import Received, Reply
from tests.subscriptions.test_items import failed as failed  # the fixture
from tests.subscriptions.test_items import spoil
from tests.subscriptions.ward import Ward, criteria_subscription

LONG_S = sum(UNMADE_S) + 2


def poisoned(ward: Ward) -> int:
    """Sign a report that is numbered and then cannot be read any more; its version's pk."""
    signed = ward.sign()
    ward.sequence()
    spoil(ward, signed.pk)
    return signed.pk


def repair(ward: Ward, pk: int, content: str) -> None:
    with ward.store.database.write() as connection:
        connection.execute(update(resource_version).where(resource_version.c.pk == pk).values(content=content))


def waiting(ward: Ward) -> int:
    with ward.store.database.read() as connection:
        return leases.queues(connection, ward.clock())["events-set-aside"].count


POISONS = {
    "unreadable": "{",
    "refused by PostgreSQL": '{"resourceType":"DiagnosticReport","subject":{"reference":"Patient/\\u0000"}}',
    "no text": '{"resourceType":"DiagnosticReport","status":"final","conclusion":"\\ud800"}',
    "of another form": '{"resourceType":"DiagnosticReport","status":"final","subject":["Patient/p"],"basedOn":7}',
}


@pytest.mark.parametrize("content", POISONS.values(), ids=POISONS)
@pytest.mark.parametrize("level", ["id-only", "full-resource"])
def test_no_content_holds_up_the_next(ward: Ward, content: str, level: str) -> None:
    """Whatever stands in a version, what follows is delivered, and no number is left out."""
    identifier = ward.subscribe(content=level, max_count=3)
    signed = ward.sign()
    ward.sequence()
    repair(ward, signed.pk, content)
    ward.sign()
    ward.pass_time(LONG_S)
    assert ward.hospital.accepted_numbers == [1, 2]
    assert ward.state(identifier).status == "active"
    assert waiting(ward) == sum("focus" not in event for event in ward.hospital.received[-1].events)


def test_what_is_under_way_is_not_tried_again(ward: Ward) -> None:
    """The content of a notification is fixed while it is retried: its webhook-id stands for it."""
    identifier = ward.subscribe()
    signed = ward.sign()
    ward.sequence()
    spoil(ward, signed.pk)
    ward.hospital.replies.extend([Reply(503)] * 3)
    ward.pass_time(sum(UNMADE_S) + 0.1, step_s=20)
    while not [one for one in ward.attempts(identifier) if one.result == "failed"]:
        ward.pass_time(1)
    repair(ward, signed.pk, signed.content.decode())
    ward.subscriptions.maintain()
    assert waiting(ward) == 1
    ward.pass_time(60)
    assert ward.hospital.accepted_numbers == [1]


def as_received(bundle: Json) -> Received:
    return Received("", {}, b"", Reply(), bundle)


@pytest.mark.parametrize("max_count", [1, 10])
def test_an_event_that_cannot_be_composed_holds_up_no_other(ward: Ward, failed: list[str], max_count: int) -> None:
    """Backport IG: notification-event.focus is 0..1, SubscriptionStatus.error tells of it; numbers have no gap."""
    identifier = ward.subscribe(max_count=max_count)
    poisoned(ward)
    ward.sign()
    ward.turn()
    assert ward.state(identifier).delivered == 0, "a fault may be a passing one: it is tried again"
    ward.pass_time(LONG_S)
    ward.sign()
    ward.turn()
    assert ward.state(identifier).status == "active"
    assert ward.hospital.accepted_numbers == [1, 2, 3]
    told = [event for one in ward.hospital.of("event-notification") for event in one.events]
    assert [("focus" in event) for event in told] == [False, True, True]
    errors = [one.status["error"]["text"] for one in ward.hospital.received if "error" in one.status]
    assert errors == ["Event 1 could not be made into a notification; $events tells whether it can be now"]
    assert waiting(ward) == 1
    assert set(failed) == {"subscription-dispatcher"}
    results = [one.result for one in ward.attempts(identifier) if one.first_number == 1 and one.kind != "handshake"]
    assert results.count("unmade") == len(UNMADE_S) + 1


def test_a_passing_fault_sets_nothing_aside(ward: Ward, failed: list[str]) -> None:
    identifier = ward.subscribe()
    signed = ward.sign()
    pk, content = signed.pk, signed.content.decode()
    ward.sequence()
    spoil(ward, pk)
    ward.turn()
    repair(ward, pk, content)
    ward.pass_time(LONG_S)
    assert ward.state(identifier).delivered == 1
    assert "focus" in ward.hospital.received[-1].events[0]
    assert waiting(ward) == 0


def test_events_tells_the_number_and_goes_on(ward: Ward) -> None:
    identifier = ward.subscribe()
    poisoned(ward)
    ward.sign()
    ward.pass_time(LONG_S)
    answer = as_received(ward.operation("events", identifier))
    assert answer.numbers == [1, 2]
    assert ["focus" in event for event in answer.events] == [False, True]
    assert "Event 1" in answer.status["error"]["text"]


def test_it_is_tried_again_after_a_restart_and_told_under_the_next_number(ward: Ward) -> None:
    """A number that was accepted is never told twice: subscribers ignore what is not above the highest."""
    identifier = ward.subscribe()
    signed = ward.sign()
    ward.sequence()
    spoil(ward, signed.pk)
    ward.sign()
    ward.pass_time(LONG_S)
    ward.restart()
    ward.subscriptions.maintain()
    assert waiting(ward) == 1, "it still cannot be composed"
    repair(ward, signed.pk, signed.content.decode())
    ward.subscriptions.maintain()
    assert waiting(ward) == 1, "once an hour, or after a restart"
    ward.restart()
    ward.subscriptions.maintain()
    ward.turn()
    assert waiting(ward) == 0
    assert ward.hospital.accepted_numbers == [1, 2, 3]
    assert ward.hospital.received[-1].events[0]["focus"]["reference"].endswith(signed.reference)
    assert ward.state(identifier).events == 3
    assert "focus" in as_received(ward.operation("events", identifier)).events[0]


def test_what_a_later_version_overtook_is_not_told_after_it(ward: Ward) -> None:
    """The order per resource: with R4 criteria an older version would overwrite the newer one at the hospital."""
    made = ward.create(criteria_subscription(ward.hospital.url, "DiagnosticReport"))
    ward.turn()
    signed = ward.sign()
    ward.sequence()
    spoil(ward, signed.pk)
    ward.pass_time(LONG_S)
    assert not ward.hospital.received, "a resource that cannot be read cannot be PUT"
    repair(ward, signed.pk, signed.content.decode())
    ward.update(signed.id, {**signed.json(), "status": "amended"})
    ward.turn()
    assert len(ward.hospital.received) == 1
    ward.restart()
    ward.subscriptions.maintain()
    ward.turn()
    assert waiting(ward) == 0
    assert len(ward.hospital.received) == 1
    assert ward.state(made.id).events == 2


def test_an_operator_has_it_tried_now(ward: Ward) -> None:
    """As the loop does, once the content can be composed: of one subscription or of all; again, nothing is told."""
    identifier, other = ward.subscribe(max_count=9), ward.subscribe(max_count=9)
    signed, second = ward.sign(), ward.sign()
    ward.sequence()
    for one in (signed, second):
        spoil(ward, one.pk)
    ward.pass_time(LONG_S)
    assert ward.subscriptions.retry() == Retried(told=0, overtaken=0, left=4)
    repair(ward, signed.pk, signed.content.decode())
    assert ward.subscriptions.retry("nobody") is None
    assert ward.subscriptions.retry(identifier) == Retried(told=1, overtaken=0, left=1)
    assert (ward.state(identifier).events, ward.state(other).events) == (3, 2)
    repair(ward, second.pk, second.content.decode())
    ward.update(second.id, {**second.json(), "status": "amended"})
    ward.turn()
    assert ward.subscriptions.retry() == Retried(told=1, overtaken=2, left=0)
    assert ward.subscriptions.retry() == Retried(told=0, overtaken=0, left=0)
    ward.turn()
    assert waiting(ward) == 0
    told = [event["focus"]["reference"] for one in ward.hospital.received for event in one.events if "focus" in event]
    assert sum(reference.endswith(f"/{signed.id}") for reference in told) == 2, "to each once"


def test_two_who_try_it_at_once_tell_it_once(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator's command beside the loop: the other is faster between the look and the lock."""
    identifier = ward.subscribe()
    signed = ward.sign()
    ward.sequence()
    spoil(ward, signed.pk)
    ward.pass_time(LONG_S)
    repair(ward, signed.pk, signed.content.decode())
    genuine, others = Composer.can_make, []

    def overtaken(self: Composer, state: State, row: EventRow) -> bool:
        if not others:
            others.append(None)
            others[0] = ward.assemble().retry()
        return genuine(self, state, row)

    monkeypatch.setattr(Composer, "can_make", overtaken)
    assert ward.subscriptions.retry() == Retried(told=0, overtaken=0, left=1)
    assert others == [Retried(told=1, overtaken=0, left=0)]
    assert ward.state(identifier).events == 2
    assert waiting(ward) == 0


def test_it_is_kept_as_long_as_its_subscription(ward: Ward) -> None:
    identifier = ward.subscribe()
    poisoned(ward)
    ward.sign()
    ward.pass_time(LONG_S)
    ward.clock.advance(days=400)
    with ward.store.database.write() as connection:
        leases.sweep(connection, ward.clock())
        kept = connection.execute(select(event_table.c.number)).scalars().all()
    assert kept == [1]
    with ward.store.work(ward.clients["ehr-a"]) as uow:
        uow.resources.delete("Subscription", identifier)
    with ward.store.database.read() as connection:
        assert not connection.execute(select(aside_table)).all()
    assert waiting(ward) == 0


def test_a_subscription_that_cannot_be_composed_for_is_in_error(
    ward: Ward, failed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault that no single event is to blame for: its owner sees it, no event is given up, others are served."""
    identifier, other = ward.subscribe(), ward.subscribe(max_count=2)
    genuine = Composer._opened

    def broken(self: Composer, accepted: object, state: object) -> object:
        if state.subscription_id == identifier:  # type: ignore[attr-defined]
            raise RuntimeError("a fault of the definition")
        return genuine(self, accepted, state)  # type: ignore[arg-type]

    monkeypatch.setattr(Composer, "_opened", broken)
    ward.sign()
    ward.pass_time(LONG_S)
    assert ward.state(identifier).status == "error"
    assert "error" in ward.read(f"Subscription/{identifier}")
    assert ward.state(other).delivered == 1
    assert waiting(ward) == 0
    monkeypatch.undo()
    ward.update(identifier, {**ward.read(f"Subscription/{identifier}"), "status": "requested"})
    ward.turn()
    assert ward.state(identifier).delivered == 1
