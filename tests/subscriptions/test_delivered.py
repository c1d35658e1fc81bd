"""Who is told that a hospital's endpoint has accepted a signed report, and how often (french-context.md §7 S10)."""

from __future__ import annotations

import pytest

from resources.outcomes import ForbiddenTransition
from store.unit_of_work import UnitOfWork
from tests.subscriptions.hospital import Hospital, Reply
from tests.subscriptions.ward import RADIOLOGIST, Ward, report
from tests.support import PLATFORM


@pytest.fixture
def told(ward: Ward) -> list[str]:
    """What was told, in order; each in a write unit of work of the server."""
    found: list[str] = []

    def note(uow: UnitOfWork, reference: str) -> None:
        assert uow.caller.is_system
        assert uow.caller.organization == PLATFORM
        assert uow.tx is not None
        found.append(reference)

    ward.subscriptions.dispatcher._on_delivered = note
    return found


def test_only_an_accepted_notification_is_told(ward: Ward, told: list[str]) -> None:
    """Not on numbering, not on a failed attempt: on 2xx."""
    ward.subscribe()
    ward.hospital.always = Reply(500)
    signed = ward.sign()
    ward.turn()
    assert told == []
    ward.hospital.always = Reply()
    ward.pass_time(10)
    assert told == [signed.reference]


def test_each_report_of_a_batch_is_told(ward: Ward, told: list[str]) -> None:
    """backport-max-count: one notification, several reports; one entered in error is no delivery."""
    ward.subscribe(max_count=10)
    first, second = ward.sign(), ward.sign()
    ward.update(first.id, report(status="entered-in-error"), RADIOLOGIST)
    ward.turn()
    assert len(ward.hospital.of("event-notification")) == 1
    assert told == [first.reference, second.reference]


def test_the_platform_s_own_endpoint_tells_nothing(ward: Ward, told: list[str], other_hospital: Hospital) -> None:
    """The hospital is who has to have it."""
    ward.subscribe(RADIOLOGIST, endpoint=other_hospital.url)
    ward.sign()
    ward.turn()
    assert other_hospital.accepted_numbers == [1]
    assert told == []


@pytest.mark.parametrize("fault", [ForbiddenTransition("Only a signed report is delivered"), RuntimeError("x")])
def test_whoever_is_told_cannot_make_a_delivery_fail(ward: Ward, fault: Exception) -> None:
    """It was delivered: it is settled, once, whatever the workflow thinks of it."""

    def refuse(uow: UnitOfWork, reference: str) -> None:
        raise fault

    ward.subscriptions.dispatcher._on_delivered = refuse
    identifier = ward.subscribe()
    ward.sign()
    ward.turn()
    assert ward.hospital.accepted_numbers == [1]
    assert ward.state(identifier).delivered == 1
    assert [attempt.result for attempt in ward.attempts(identifier)] == ["delivered", "delivered"]


def test_a_crash_before_it_was_noted_tells_it_again(ward: Ward, told: list[str]) -> None:
    """Sent, not settled: the notification comes again under its id, and so does the word; never is it lost."""
    identifier = ward.subscribe()
    signed = ward.sign()
    ward.sequence()
    dispatcher = ward.subscriptions.dispatcher
    note = dispatcher._on_delivered

    class Dies(BaseException):
        pass

    def die(uow: UnitOfWork, reference: str) -> None:
        raise Dies

    dispatcher._on_delivered = die
    (held,) = dispatcher.lease()
    with pytest.raises(Dies):
        dispatcher.attempt(held)
    ward.restart()
    ward.subscriptions.dispatcher._on_delivered = note
    ward.turn()
    assert told == [signed.reference]
    assert ward.state(identifier).delivered == 1
    assert len({one.headers["webhook-id"] for one in ward.hospital.of("event-notification")}) == 1
