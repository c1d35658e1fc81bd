"""Order is not time: versions are in the order of their transactions, instants are the wall clock's as far as it is
believed (reliability.md 2)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from resources.outcomes import Gone
from resources.search import parse
from resources.times import parse_instant
from store import loops
from store.engine.clock import LOOK_S, BelievedClock, Leap
from store.unit_of_work import Store
from tests.support import Clock, caller, patient

A = caller()
DAY = 86_400
CONFIRM_S = 300


class Machine:
    """A host: its wall clock, which others set, and its time since boot."""

    def __init__(self) -> None:
        self.boot_s = 1000.0
        self.set_by_s = 1_780_000_000.0

    def sleep(self, seconds: float) -> None:
        self.boot_s += seconds

    def wall(self) -> int:
        return int((self.boot_s + self.set_by_s) * 1e9)

    def boot(self) -> int:
        return int(self.boot_s * 1e9)

    def process(self, file: Path | None = None) -> BelievedClock:
        return BelievedClock(file, wall=self.wall, boot=self.boot, confirm_s=CONFIRM_S)

    def seen(self, file: Path) -> Leap:
        return Leap.seen(file, wall=self.wall, boot=self.boot)

    @property
    def true(self) -> datetime:
        return datetime.fromtimestamp(self.wall() / 1e9, UTC)


@pytest.fixture
def machine() -> Machine:
    return Machine()


def seconds(one: datetime, other: datetime) -> float:
    return abs((one - other).total_seconds())


@pytest.mark.parametrize("leap_s", [DAY, 3600, 3, -3, -3600, -DAY])
def test_a_leap_that_ends_soon_was_none(machine: Machine, leap_s: float) -> None:
    """A bad answer of a time server: +24 h for 16 s froze lastUpdated for a day."""
    clock = machine.process()
    began = clock()
    for second in range(16):
        machine.set_by_s += leap_s if second == 0 else 0
        machine.sleep(1)
        assert seconds(clock(), began + timedelta(seconds=second + 1)) < 0.01
        assert clock.leap_s == pytest.approx(leap_s)
    machine.set_by_s -= leap_s
    assert seconds(clock(), machine.true) < 0.01
    assert clock.leap_s == 0


@pytest.mark.parametrize("leap_s", [DAY, -3600])
def test_a_leap_that_lasts_is_the_time(machine: Machine, leap_s: float) -> None:
    """The machine was paused, or the clock had been wrong before."""
    clock = machine.process()
    clock()
    machine.set_by_s += leap_s
    clock()
    machine.sleep(CONFIRM_S - 1)
    assert seconds(clock(), machine.true) > 3000
    machine.sleep(1)
    assert seconds(clock(), machine.true) < 0.01
    assert clock.leap_s == 0


def test_a_clock_that_wanders_is_not_confirmed(machine: Machine) -> None:
    """Each leap has to last by itself."""
    clock = machine.process()
    began = clock()
    for step in range(1, 20):
        machine.set_by_s += 3600
        machine.sleep(CONFIRM_S / 2)
        assert seconds(clock(), began + timedelta(seconds=step * CONFIRM_S / 2)) < 0.01


def test_small_corrections_are_followed(machine: Machine) -> None:
    clock = machine.process()
    for _ in range(50):
        machine.set_by_s += 1.5
        machine.sleep(10)
        assert seconds(clock(), machine.true) < 0.01
        assert clock.leap_s == 0


def test_processes_share_what_they_believe(machine: Machine, tmp_path: Path) -> None:
    """One that starts during a leap does not take the wrong time for the right one; a second boot begins anew."""
    file = tmp_path / "clock"
    first = machine.process(file)
    right = first()
    machine.set_by_s += DAY
    second = machine.process(file)
    assert seconds(second(), right) < 0.01
    assert second.leap_s == pytest.approx(DAY)
    file.write_text('{"boot": "another", "offset_ns": 0}')
    assert seconds(machine.process(file)(), machine.true) < 0.01
    file.write_text("torn")
    assert seconds(machine.process(file)(), machine.true) < 0.01


def test_a_leap_that_was_confirmed_is_taken_over_by_all(machine: Machine, tmp_path: Path) -> None:
    """Reliability 2: not believed until confirmed. Within a second; and by whoever starts afterwards."""
    file = tmp_path / "clock"
    first, second = machine.process(file), machine.process(file)
    assert machine.seen(file).seconds == 0
    machine.set_by_s += DAY
    assert first.leap_s == second.leap_s == pytest.approx(DAY)
    leap = machine.seen(file)
    assert leap.seconds == pytest.approx(DAY)
    with pytest.raises(ZeroDivisionError), leap.confirming(file):
        raise ZeroDivisionError  # it could not be recorded
    machine.sleep(LOOK_S)
    assert first.leap_s == pytest.approx(DAY)
    with leap.confirming(file):
        machine.sleep(LOOK_S)
        assert first.leap_s == pytest.approx(DAY), "before it is on record"
    machine.sleep(LOOK_S)
    for process in (first, second, machine.process(file)):
        assert seconds(process(), machine.true) < 0.01
        assert process.leap_s == 0
    assert machine.seen(file).seconds == 0
    assert [path.name for path in tmp_path.iterdir()] == ["clock"]


def test_what_was_confirmed_is_one_leap_and_no_other(machine: Machine, tmp_path: Path) -> None:
    """Of a clock that has gone on to leap, the next leap is confirmed by itself, also where it goes back."""
    file = tmp_path / "clock"
    process = machine.process(file)
    for leap_s in (DAY, 3600, -DAY - 3600):
        machine.set_by_s += leap_s
        stale = machine.seen(file)
        assert process.leap_s == pytest.approx(leap_s)
        machine.set_by_s += 60
        with stale.confirming(file):
            pass
        machine.sleep(LOOK_S)
        assert process.leap_s == pytest.approx(leap_s + 60)
        machine.set_by_s -= 60
        machine.sleep(LOOK_S)
        assert process.leap_s == 0


def test_a_leap_that_one_process_has_waited_for_is_believed_by_all(machine: Machine, tmp_path: Path) -> None:
    file = tmp_path / "clock"
    first, second = machine.process(file), machine.process(file)
    machine.set_by_s += DAY
    first()
    machine.sleep(CONFIRM_S)
    assert seconds(first(), machine.true) < 0.01
    assert seconds(second(), machine.true) < 0.01


def test_during_a_leap_the_file_is_read_once_a_second(machine: Machine, tmp_path: Path) -> None:
    """Every request asks what time it is."""
    file = tmp_path / "clock"
    process = machine.process(file)
    machine.set_by_s += DAY
    process()
    with machine.seen(file).confirming(file):
        pass
    machine.sleep(LOOK_S / 2)
    assert process.leap_s == pytest.approx(DAY)
    machine.sleep(LOOK_S / 2)
    assert process.leap_s == 0


def test_nothing_shared_is_no_leap(machine: Machine, tmp_path: Path) -> None:
    """Since this boot no process has said what it believes: there is nothing that the clock could differ from."""
    file = tmp_path / "clock"
    for content in (None, "torn", '{"boot": "another", "offset_ns": 0}'):
        if content is not None:
            file.write_text(content)
        assert machine.seen(file).seconds == 0


# — the store —


def test_time_may_step_back_and_order_does_not(store: Store, clock: Clock) -> None:
    """resource.html#Meta: lastUpdated is when it changed. What a wrong clock wrote stays, and draws nothing on."""
    with store.work(A) as uow:
        uow.resources.update("Patient", "x", patient("a"))
    clock.advance(hours=24)
    with store.work(A) as uow:
        tomorrow = uow.resources.update("Patient", "x", patient("b"))
    clock.advance(hours=-24, seconds=10)
    with store.work(A) as uow:
        today = uow.resources.update("Patient", "x", patient("c"))
    assert today.tx > tomorrow.tx
    assert today.last_updated == clock.now
    assert parse_instant(today.json()["meta"]["lastUpdated"]) == clock.now
    with store.work(A, write=False) as uow:
        assert uow.resources.read("Patient", "x").version == 3
        found = uow.resources.search(parse("Patient", [])).matches
        pages = []
        page = uow.resources.history("Patient", "x", count=1)
        while True:
            pages += [version.version for version in page.versions]
            if page.next is None:
                break
            page = uow.resources.history("Patient", "x", count=1, token=page.next)
    assert [version.version for version in found] == [3]
    assert pages == [3, 2, 1]


def test_pages_are_stable_where_time_steps_back(store: Store, clock: Clock) -> None:
    """Nothing twice, nothing missed, and what comes meanwhile is in none of them."""
    made = []
    for number in range(7):
        clock.advance(hours=-1 if number % 2 else 1, seconds=-1)
        with store.work(A) as uow:
            made.append(uow.resources.create("Patient", patient(f"p{number}")).id)
    shown: list[str] = []
    token = None
    while True:
        with store.work(A, write=False) as uow:
            page = uow.resources.search(parse("Patient", [("_count", "2")]), token=token)
        shown += [version.id for version in page.matches]
        token = page.next
        if token is None:
            break
        with store.work(A) as uow:
            uow.resources.create("Patient", patient("late"))
    assert sorted(shown) == sorted(made)


def test_a_page_from_a_future_that_never_came_is_refused(store: Store, clock: Clock) -> None:
    """A wrong clock made it: how old it is nobody knows, so the rows that it needs may be gone."""
    for number in range(3):
        with store.work(A) as uow:
            uow.resources.create("Patient", patient(f"p{number}"))
    clock.advance(hours=24)
    with store.work(A, write=False) as uow:
        token = uow.resources.search(parse("Patient", [("_count", "2")])).next
    clock.advance(hours=-24)
    with pytest.raises(Gone), store.work(A, write=False) as uow:
        uow.resources.search(parse("Patient", [("_count", "2")]), token=token)


@pytest.mark.parametrize("hours", [24, -24])
def test_the_sweep_spares_what_a_page_needs_when_time_steps(
    store: Store, clock: Clock, make_store: Callable[..., Store], hours: int
) -> None:
    """A version that was replaced a moment ago is found by the pages of that moment, however the clock went."""
    with store.work(A) as uow:
        for number in range(3):
            uow.resources.update("Patient", f"p{number}", patient("Martin"))
    clock.advance(hours=hours)
    query = parse("Patient", [("family", "Martin"), ("_count", "2")])
    with store.work(A, write=False) as uow:
        page = uow.resources.search(query)
    with store.work(A) as uow:
        for number in range(3):
            uow.resources.update("Patient", f"p{number}", patient("Durand"))
    while loops.sweep(store):
        pass
    with store.work(A, write=False) as uow:
        rest = uow.resources.search(query, token=page.next)
    assert len(page.matches) + len(rest.matches) == 3
    clock.advance(hours=3)
    loops.sweep(store)
    with store.work(A, write=False) as uow:
        assert len(uow.resources.search(query).matches) == 0
