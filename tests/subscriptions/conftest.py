"""Subscriptions on a real store, with a real endpoint, and loops that the test turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from store.unit_of_work import Store
from tests.subscriptions.hospital import Hospital, open_hospital
from tests.subscriptions.ward import Ward
from tests.support import Clock, MemoryTrail, OpenPermit


@pytest.fixture
def hospital() -> Iterator[Hospital]:
    with open_hospital() as opened:
        yield opened


@pytest.fixture
def other_hospital() -> Iterator[Hospital]:
    with open_hospital() as opened:
        yield opened


@pytest.fixture
def ward(
    make_store: Callable[..., Store], clock: Clock, permit: OpenPermit, trail: MemoryTrail, hospital: Hospital
) -> Iterator[Ward]:
    """The package assembled; `ward.turn()` turns its loops until nothing is due."""
    assembled = Ward(make_store(), clock, permit, trail, hospital)
    yield assembled
    assembled.close()
