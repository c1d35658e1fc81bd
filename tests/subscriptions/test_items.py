"""One thing that fails stops none of the others, and is counted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import update

from resources.outcomes import Unavailable
from store import items
from store.versions.tables import resource_version
from tests.subscriptions.ward import Ward, subscription


@pytest.fixture
def failed() -> Iterator[list[str]]:
    counted: list[str] = []
    items.count_with(counted.append)
    yield counted
    items._counts.clear()


def spoil(ward: Ward, pk: int) -> None:
    """A version that nobody can read any more."""
    with ward.store.database.write() as connection:
        connection.execute(update(resource_version).where(resource_version.c.pk == pk).values(content="{"))


def test_a_change_that_cannot_be_judged_stops_none_and_is_counted(ward: Ward, failed: list[str]) -> None:
    identifier = ward.subscribe()
    spoil(ward, ward.sign().pk)
    ward.sign()
    ward.turn()
    assert ward.state(identifier).events == 1
    assert ward.hospital.accepted_numbers == [1]
    assert failed == ["subscription-sequencer"]


def test_a_subscription_that_cannot_be_ended_keeps_none_from_it(ward: Ward, failed: list[str]) -> None:
    end = "2026-06-01T09:00:00Z"
    broken = ward.create(subscription(ward.hospital.url, end=end))
    other = ward.create(subscription(ward.hospital.url, end=end))
    ward.turn()
    with ward.store.database.write() as connection:
        its = resource_version.c.resource_id == broken.id
        connection.execute(update(resource_version).where(its).values(content="{"))
    ward.clock.advance(hours=2)
    ward.subscriptions.maintain()
    assert ward.state(other.id).status == "off"
    assert failed == ["subscription-maintenance"]


def test_what_is_the_database_s_fault_is_not_the_item_s(failed: list[str]) -> None:
    """Then the whole step ends, and is tried again."""
    with pytest.raises(Unavailable), items.apart("a loop"):
        raise Unavailable("away")
    with items.apart("a loop"):
        raise ZeroDivisionError
    assert failed == ["a loop"]
