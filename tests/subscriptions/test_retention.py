"""What was not delivered outlives the retention (house.md A10: reports lost after 31 days in `error`)."""

from __future__ import annotations

from sqlalchemy import delete, func, select

from subscriptions import leases
from subscriptions.composition import NOT_KEPT
from subscriptions.tables import attempt_table, event_table
from tests.subscriptions.hospital import Reply
from tests.subscriptions.ward import Ward


def kept(ward: Ward) -> int:
    with ward.store.database.read() as connection:
        return int(connection.execute(select(func.count()).select_from(event_table)).scalar_one())


def swept(ward: Ward) -> None:
    with ward.store.database.write() as connection:
        leases.sweep(connection, ward.clock())


def failed(ward: Ward) -> str:
    """A subscription in `error` with two events that were not delivered and one that was."""
    identifier = ward.subscribe()
    ward.sign()
    ward.turn()
    ward.hospital.replies.append(Reply(410))
    ward.sign()
    ward.turn()
    ward.sign()
    ward.turn()
    assert ward.hospital.accepted_numbers == [1]
    assert ward.state(identifier).status == "error"
    return identifier


def asked_anew(ward: Ward, identifier: str) -> None:
    resource = ward.read(f"Subscription/{identifier}")
    ward.update(identifier, {**resource, "status": "requested"})
    ward.turn()


def test_a_subscription_that_was_in_error_for_two_months_gets_everything(ward: Ward) -> None:
    """Delivered events go by age, the others stay until they are delivered."""
    identifier = failed(ward)
    ward.clock.advance(days=61)
    swept(ward)
    assert kept(ward) == 2
    asked_anew(ward, identifier)
    assert ward.hospital.accepted_numbers == [1, 2, 3]
    ward.clock.advance(days=31)
    swept(ward)
    assert kept(ward) == 0


def test_events_of_a_subscription_that_is_off_or_gone_go_by_age(ward: Ward) -> None:
    identifier = failed(ward)
    with ward.store.database.write() as connection:
        connection.execute(delete(leases.state_table).where(leases.state_table.c.subscription_id == identifier))
    ward.clock.advance(days=29)
    swept(ward)
    assert kept(ward) == 3
    ward.clock.advance(days=2)
    swept(ward)
    assert kept(ward) == 0


def test_events_that_are_gone_are_no_refusal(ward: Ward) -> None:
    """The record of what was not sent says why: not that the subscriber may not see it."""
    identifier = failed(ward)
    with ward.store.database.write() as connection:
        connection.execute(delete(event_table))
    asked_anew(ward, identifier)
    with ward.store.database.read() as connection:
        faults = connection.execute(select(attempt_table.c.fault).order_by(attempt_table.c.id.desc())).scalars().all()
    assert NOT_KEPT in faults
