"""What waits to be logged is bounded: beyond the bound reads are refused, whoever is over its share first."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from audit import frames, spool
from audit.pressure import LOOK_S, WINDOW_S, Pressure
from audit.service import Ledger
from resources.outcomes import Unavailable
from store.access import Access, Interaction
from store.engine.database import Database
from store.unit_of_work import Store
from tests.audit.logbook import AT, logged
from tests.support import caller, patient

KEY = frames.Key(bytes(32))
READ = Access(Interaction.READ, "Patient", "p-1", 1, ("Patient/p-1",))
WRITES = (Interaction.CREATE, Interaction.UPDATE, Interaction.DELETE, Interaction.DICOM_STORE, Interaction.TOKEN)


class Waits:
    def __init__(self) -> None:
        self.count = 0
        self.asked = 0
        self.now_s = 100.0

    def __call__(self) -> int:
        self.asked += 1
        return self.count

    def pressure(self, bound: int = 1000) -> Pressure:
        return Pressure(self, bound=bound, clock_s=lambda: self.now_s)


def admitted(pressure: Pressure, organization: str, interaction: Interaction = Interaction.READ) -> bool:
    try:
        pressure.admit(organization, [Access(interaction)])
    except Unavailable:
        return False
    return True


def test_within_the_bound_nobody_is_refused() -> None:
    """And what waits is asked twice a second, however many come."""
    waits = Waits()
    pressure = waits.pressure()
    waits.count = 1000
    assert all(admitted(pressure, "a") for _ in range(500))
    assert waits.asked == 1
    waits.now_s += LOOK_S
    assert admitted(pressure, "a")
    assert waits.asked == 2


def test_beyond_the_bound_whoever_is_over_its_share_is_refused_first() -> None:
    """The others read on; beyond twice the bound nobody does; writes and tokens always."""
    waits = Waits()
    pressure = waits.pressure()
    for _ in range(90):
        assert admitted(pressure, "greedy")
    for _ in range(5):
        assert admitted(pressure, "modest")
    waits.count = 1001
    waits.now_s += LOOK_S
    assert not admitted(pressure, "greedy")
    assert admitted(pressure, "modest")
    assert all(admitted(pressure, "greedy", one) for one in WRITES)
    waits.count = 2001
    waits.now_s += LOOK_S
    assert not admitted(pressure, "modest")
    assert all(admitted(pressure, "greedy", one) for one in WRITES)
    waits.count = 0
    waits.now_s += LOOK_S
    assert admitted(pressure, "greedy")


def test_shares_are_those_of_the_last_seconds() -> None:
    """Who has been quiet for two windows owes nothing."""
    waits = Waits()
    pressure = waits.pressure()
    for _ in range(90):
        admitted(pressure, "was")
    for _ in range(2):
        waits.now_s += WINDOW_S
        assert admitted(pressure, "is")
    waits.count = 1001
    waits.now_s += LOOK_S
    for _ in range(3):
        admitted(pressure, "is")
    assert admitted(pressure, "was")
    assert not admitted(pressure, "is")


def test_who_is_refused_is_told_when_to_come_back() -> None:
    """RFC 9110 §10.2.3: Retry-After, by what has to be sequenced until then."""
    waits = Waits()
    pressure = waits.pressure()
    waits.count = 46_000
    with pytest.raises(Unavailable) as refused:
        pressure.admit("a", [READ])
    assert refused.value.status == 503
    assert refused.value.retry_after_s == 4


def test_a_count_that_fails_refuses_nobody() -> None:
    """Whether a record can be written is for the record to say."""

    def fails() -> int:
        raise OSError("away")

    Pressure(fails).admit("a", [READ])


@pytest.mark.parametrize("spooled", [True, False])
def test_reads_wait_for_a_log_that_is_behind_and_writes_do_not(
    make_store: Callable[..., Store], make_ledger: Callable[..., Ledger], database: Database, tmp_path: Path,
    spooled: bool, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is disclosed, nothing is recorded of it; once the log has caught up, it is answered again."""
    monkeypatch.setattr("audit.pressure.LOOK_S", 0.0)
    ledger = make_ledger(backlog=50, spooled=tmp_path / "spool" if spooled else None)
    store = make_store(trail=ledger, clock=lambda: AT)
    with store.work(caller()) as uow:
        uow.resources.create("Patient", patient(), id="p-1")
    with suppress(Unavailable):
        for _ in range(400):
            store.look(caller(), lambda uow: uow.resources.read("Patient", "p-1"))
    before = ledger.waiting()
    assert 40 < before < 200
    with pytest.raises(Unavailable):
        store.look(caller(), lambda uow: uow.resources.read("Patient", "p-1"))
    assert ledger.waiting() == before
    with store.work(caller()) as uow:
        uow.resources.update("Patient", "p-1", {**patient("Durand"), "id": "p-1"})
    assert ledger.catch_up(30)
    assert store.look(caller(), lambda uow: uow.resources.read("Patient", "p-1")).version == 2
    assert len(logged(database)) == before + 1


@pytest.mark.parametrize("count", [0, 1, 3, 300, 5000])
def test_what_waits_in_a_spool_is_told_within_a_block(tmp_path: Path, count: int) -> None:
    """By halving: the rest of a file is zeros."""
    writer = spool.SpoolWriter(tmp_path, lambda: KEY)
    writer.append([("id", 1, "x" * 400)] * count)
    (name,) = spool.files(tmp_path) or ("",)
    taken = spool.take_of(tmp_path, KEY, name, None, 10_000) if name else None
    end = taken.place.offset if taken is not None else frames.HEADER_BYTES
    assert abs(spool.bytes_waiting(tmp_path, {}) - (end - frames.HEADER_BYTES)) <= 4096
    if taken is not None:
        assert len(taken.rows) == count
        state = spool.SpoolFile(name, spool.CHAINED, taken.header, end, count, taken.place.mac, None, False)
        assert spool.bytes_waiting(tmp_path, {name: state}) == 0
    writer.close()
