"""The rota: who is on duty, and nobody twice (French context §6)."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context
from typing import Any

import pytest

from auth.policy import Policy
from resources.outcomes import Conflict, FhirError, Forbidden, ForbiddenTransition, InvalidContent
from store.engine.database import open_engine
from store.engine.keyring import Fixed
from store.unit_of_work import Store
from tests import builders
from tests.support import BASE_URL, PLATFORM, MemoryTrail, caller
from tests.workflow.conftest import Scene
from workflow.service import Workflow

DAY = ("2026-07-01T08:00:00+02:00", "2026-07-01T20:00:00+02:00")
NOON = datetime(2026, 7, 1, 10, 0, tzinfo=UTC)


def _on_duty(scene: Scene, at: datetime, function: str | None = None) -> list[str]:
    with scene.store.work(scene.server, write=False) as uow:
        return sorted(duty.practitioner for duty in scene.workflow.rota.on_duty(uow, at, function))  # type: ignore[arg-type]


def test_a_booked_garde_puts_its_person_on_duty_for_its_function(scene: Scene) -> None:
    """§6.2: booked or arrived, start ≤ t < end."""
    scene.create(scene.planner, builders.garde("PractitionerRole/off", *DAY))
    assert _on_duty(scene, NOON, "reading") == ["Practitioner/off"]
    assert _on_duty(scene, NOON, "regulation") == []
    assert _on_duty(scene, datetime(2026, 7, 1, 6, 0, tzinfo=UTC), "reading") == ["Practitioner/off"]
    assert _on_duty(scene, datetime(2026, 7, 1, 18, 0, tzinfo=UTC)) == []


@pytest.mark.parametrize("status", ["cancelled", "noshow", "proposed", "entered-in-error"])
def test_what_is_not_booked_puts_nobody_on_duty(scene: Scene, status: str) -> None:
    """Appointment.status."""
    scene.create(scene.planner, builders.garde("Practitioner/off", *DAY, status=status))
    assert _on_duty(scene, NOON) == []


def test_an_absent_or_inactive_role_is_not_on_duty(scene: Scene) -> None:
    """PractitionerRole.active and notAvailable."""
    scene.create(scene.planner, builders.garde("PractitionerRole/off", *DAY))
    absence = [{"description": "arrêt", "during": {"start": "2026-07-01", "end": "2026-07-02"}}]
    scene.update(scene.server, "PractitionerRole/off", notAvailable=absence)
    assert _on_duty(scene, NOON) == []
    scene.update(scene.server, "PractitionerRole/off", notAvailable=None, active=False)
    assert _on_duty(scene, NOON) == []
    scene.update(scene.server, "PractitionerRole/off", active=True)
    assert _on_duty(scene, NOON) == ["Practitioner/off"]
    scene.update(scene.server, "Practitioner/off", active=False)
    assert _on_duty(scene, NOON) == []


def test_two_gardes_of_one_person_do_not_overlap_even_through_two_roles(scene: Scene) -> None:
    """P-03."""
    scene.store.transact(scene.server, lambda uow: uow.system.create(
        "PractitionerRole", builders.practitioner_role("Practitioner/off"), id="off-2"))
    scene.create(scene.planner, builders.garde("PractitionerRole/off", *DAY))
    later = ("2026-07-01T19:00:00+02:00", "2026-07-02T08:00:00+02:00")
    with pytest.raises(Conflict, match="overlaps Appointment/") as refused:
        scene.create(scene.planner, builders.garde("PractitionerRole/off-2", *later, function="regulation"))
    assert "Appointment.start" in refused.value.issues[0].expression
    scene.create(scene.planner, builders.garde("PractitionerRole/off-2", DAY[1], later[1], function="regulation"))


def test_a_swap_is_one_transaction_in_either_order(scene: Scene) -> None:
    """P-03: the overlap is judged after all writes of the transaction."""
    first = scene.create(scene.planner, builders.garde("Practitioner/off", *DAY))

    def swap(uow: Any) -> None:
        uow.resources.create("Appointment", builders.garde("PractitionerRole/off", *DAY, function="regulation"))
        uow.resources.update("Appointment", first.id, {**first.json(), "status": "cancelled"})

    scene.store.transact(scene.planner, swap)
    assert _on_duty(scene, NOON, "regulation") == ["Practitioner/off"]


def test_the_nights_of_the_clock_change_leave_no_hole_and_no_overlap(scene: Scene) -> None:
    """P-01: 11 and 13 hours, by explicit offsets."""
    for day_end, night_end in (("2026-03-28T20:00:00+01:00", "2026-03-29T08:00:00+02:00"),
                               ("2026-10-24T20:00:00+02:00", "2026-10-25T08:00:00+01:00")):
        scene.create(scene.planner, builders.garde("Practitioner/off", day_end, night_end))
        next_end = night_end.replace("T08", "T20")
        scene.create(scene.planner, builders.garde("PractitionerRole/off", night_end, next_end))
    for moment in (datetime(2026, 3, 29, 1, 30, tzinfo=UTC), datetime(2026, 10, 25, 0, 30, tzinfo=UTC),
                   datetime(2026, 10, 25, 6, 59, tzinfo=UTC), datetime(2026, 10, 25, 7, 0, tzinfo=UTC)):
        assert _on_duty(scene, moment) == ["Practitioner/off"]


def test_only_the_platform_plans_gardes(scene: Scene) -> None:
    """A hospital puts nobody on duty."""
    with pytest.raises(Forbidden):
        scene.create(scene.hospital, builders.garde("Practitioner/off", *DAY))


def test_a_garde_without_offsets_or_longer_than_a_day_and_a_half_is_refused(scene: Scene) -> None:
    """§6.4."""
    with pytest.raises(InvalidContent):
        scene.create(scene.planner, builders.garde("Practitioner/off", DAY[0], "2026-07-04T20:00:00+02:00"))


def test_a_worked_garde_is_history(scene: Scene) -> None:
    """§6.5: retro-active edits are blocked, entered-in-error only."""
    garde = scene.create(scene.planner, builders.garde("Practitioner/off", *DAY)).reference
    scene.update(scene.planner, garde, status="arrived")
    scene.update(scene.planner, garde, status="fulfilled")
    with pytest.raises(ForbiddenTransition, match="was worked"):
        scene.update(scene.planner, garde, end="2026-07-01T21:00:00+02:00")
    with pytest.raises(ForbiddenTransition, match="was worked"):
        scene.update(scene.planner, garde, status="booked")
    with pytest.raises(ForbiddenTransition):
        scene.delete(scene.planner, garde)
    scene.update(scene.planner, garde, status="entered-in-error")


def test_a_booked_garde_takes_its_slot_and_gives_it_back(scene: Scene) -> None:
    """Slot free → busy → free; a slot is not taken twice."""
    def furnish(uow: Any) -> None:
        uow.system.create("Schedule", {"resourceType": "Schedule",
                                       "actor": [builders.ref("PractitionerRole/off")]}, id="plan")
        uow.system.create("Slot", {"resourceType": "Slot", "schedule": builders.ref("Schedule/plan"),
                                   "status": "free", "start": DAY[0], "end": DAY[1]}, id="poste")

    scene.store.transact(scene.server, furnish)
    slot = [builders.ref("Slot/poste")]
    garde = scene.create(scene.planner, builders.garde("Practitioner/off", *DAY, slot=slot)).reference
    assert scene.read("Slot/poste")["status"] == "busy"
    with pytest.raises(Conflict, match="Slot/poste is busy"):
        scene.create(scene.planner, builders.garde("Practitioner/lec1", *DAY, slot=slot))
    scene.update(scene.planner, garde, status="cancelled")
    assert scene.read("Slot/poste")["status"] == "free"


def test_the_on_duty_operation_lists_people_and_periods(scene: Scene) -> None:
    """`$on-duty` at an instant and for a function."""
    scene.create(scene.planner, builders.garde("PractitionerRole/off", *DAY))
    with scene.store.work(scene.planner, write=False) as uow:
        answer = scene.workflow.operations.on_duty(uow, at="2026-07-01T12:00:00+02:00", function="reading")
    [duty] = answer["parameter"]
    assert duty["part"][0]["valueReference"] == {"reference": "Practitioner/off"}
    with scene.store.work(scene.planner, write=False) as uow, pytest.raises(FhirError):
        scene.workflow.operations.on_duty(uow, at="demain")


def _book(store: Store, role: str, results: list[str], barrier: Any) -> None:
    barrier.wait(30)
    body = builders.garde(role, *DAY)
    try:
        store.transact(caller(PLATFORM), lambda uow: uow.resources.create("Appointment", body))
        results.append("booked")
    except Conflict:
        results.append("refused")


def test_of_racing_bookings_of_one_person_exactly_one_wins(scene: Scene) -> None:
    """The check is behind a lock by person, in the same transaction (threads)."""
    results: list[str] = []
    barrier = threading.Barrier(8)
    roles = ["PractitionerRole/off", "Practitioner/off"] * 4
    with ThreadPoolExecutor(8) as pool:
        for role in roles:
            pool.submit(_book, scene.store, role, results, barrier)
    assert sorted(results) == ["booked"] + ["refused"] * 7


def _book_in_a_process(url: str, role: str, barrier: Any, told: Any) -> None:
    store = Store(open_engine(url), permit=Policy(PLATFORM), trail=MemoryTrail(), platform=PLATFORM,
                  base_urls=(BASE_URL,), observers=Workflow(platform=PLATFORM).observers, keys=Fixed(b"k"))
    results: list[str] = []
    _book(store, role, results, barrier)
    told.put(results[0])


def test_of_two_processes_that_book_one_person_exactly_one_wins(scene: Scene, database_url: str) -> None:
    """The same between processes."""
    spawn = get_context("spawn")
    barrier, told = spawn.Barrier(2), spawn.Queue()
    workers = [spawn.Process(target=_book_in_a_process, args=(database_url, role, barrier, told))
               for role in ("PractitionerRole/off", "Practitioner/off")]
    for worker in workers:
        worker.start()
    outcomes = sorted(told.get(timeout=60) for _ in workers)
    for worker in workers:
        worker.join(30)
    assert outcomes == ["booked", "refused"]
