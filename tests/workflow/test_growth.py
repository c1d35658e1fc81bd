"""A bad day stops nothing: what a rule asks has more than a thousand answers (house.md A1).

With 1,001 exams waiting to be read, no new order's images became readable.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from resources.codes import TELERADIOLOGY_TASK, TaskKind, concept
from resources.json import Json
from store.search import limits
from store.unit_of_work import UnitOfWork
from tests import builders
from tests.support import PLATFORM
from tests.workflow.conftest import NIGHT, Scene
from workflow import loads
from workflow.context import acting

MANY = 1001


def reading(owner: str | None, status: str = "ready") -> Json:
    task = {
        "resourceType": "Task",
        "status": status,
        "intent": "order",
        "code": concept(TELERADIOLOGY_TASK, TaskKind.READ),
    }
    return task | ({"owner": {"reference": owner}} if owner else {})


def opened(scene: Scene, owner: str | None, count: int) -> None:
    def write(uow: UnitOfWork) -> None:
        for _ in range(count):
            uow.system.create("Task", reading(owner))

    scene.store.transact(scene.server, write)


@pytest.mark.parametrize("owner", ["Practitioner/lec1", None])
def test_a_thousand_open_readings_stop_no_new_one(scene: Scene, owner: str | None) -> None:
    """The reading is opened, and goes to who has fewest in hand."""
    opened(scene, owner, MANY)
    opened(scene, "Practitioner/lec2", 3)
    scene.acquired()
    task = scene.task("read")
    assert task["status"] == "ready"
    assert task["owner"] == {"reference": "Practitioner/lec2" if owner else "Practitioner/lec1"}
    assert "charge 3 " in task["note"][0]["text"] or not owner


def test_readings_in_hand_are_counted_by_owner(scene: Scene) -> None:
    """Open ones alone, each under whom it is proposed to; those of nobody under none."""
    opened(scene, "Practitioner/lec1", 4)
    opened(scene, "Practitioner/lec2", 2)
    opened(scene, None, 5)
    scene.store.transact(
        scene.server, lambda uow: uow.system.create("Task", reading("Practitioner/lec1", "completed"))
    )
    asked = [("status", "ready,in-progress"), ("code", f"{TELERADIOLOGY_TASK}|read")]
    with scene.store.work(scene.server, write=False) as uow:
        assert uow.system.count_by("Task", asked, "owner") == {"Practitioner/lec1": 4, "Practitioner/lec2": 2}
        assert uow.system.count("Task", asked) == 11
        with pytest.raises(RuntimeError, match="rules of the server"):
            uow.resources.count("Task", asked)


def test_a_thousand_orders_of_one_patient_stop_no_correction(scene: Scene) -> None:
    """A Patient of whom there are many orders (a cohort, a test patient) is still corrected."""
    scene.ordered()

    def write(uow: UnitOfWork) -> None:
        body = {"resourceType": "ServiceRequest", "status": "completed", "intent": "order"}
        for _ in range(MANY):
            uow.system.create("ServiceRequest", body | {"subject": {"reference": scene.patient}})

    scene.store.transact(scene.server, write)
    assert scene.update(scene.hospital, scene.patient, birthDate="1962-04-12").version == 2


def many(scene: Scene, *bodies: Json, organization: str = PLATFORM) -> None:
    """So many of each, from before the rules."""
    def write(uow: UnitOfWork) -> None:
        with acting():
            for body in bodies:
                for _ in range(MANY):
                    uow.acting_for(organization).create(body["resourceType"], body)

    scene.store.transact(scene.server, write)


def roles(scene: Scene) -> None:
    many(scene, builders.practitioner_role("Practitioner/lec1"))


def appointments_of_patients(scene: Scene) -> None:
    """Of a morning's consultations at the hospitals."""
    booked = builders.garde("Practitioner/lec1", *NIGHT)
    booked["participant"].append({"actor": {"reference": scene.patient}, "status": "accepted"})
    many(scene, {**booked, "serviceType": [{"text": "Consultation"}]}, organization="hospital-a")


def gardes(scene: Scene) -> None:
    """Of another function, of people who are not there: all at this hour."""
    many(scene, {**builders.garde("Practitioner/off", *NIGHT, function="second-reading"), "status": "noshow"})


def other_tasks(scene: Scene) -> None:
    """Of algorithms, on the same order."""
    many(scene, {"resourceType": "Task", "status": "ready", "intent": "order", "focus": {"reference": scene.order},
                 "code": {"text": "algorithm"}})  # fmt: skip


def studies_of_others(scene: Scene) -> None:
    """On the same order, of a third party."""
    body = builders.imaging_study(scene.order, scene.patient)
    many(scene, {name: value for name, value in body.items() if name != "series"}, organization="vendor")


def reports_of_others(scene: Scene) -> None:
    many(scene, {"resourceType": "DiagnosticReport", "status": "registered", "code": {"text": "algorithm"},
                 "basedOn": [{"reference": scene.order}], "subject": {"reference": scene.patient}})  # fmt: skip


def observations(scene: Scene) -> None:
    many(scene, {"resourceType": "Observation", "status": "final", "code": {"text": "algorithm"},
                 "basedOn": [{"reference": scene.order}], "subject": {"reference": scene.patient}})  # fmt: skip


def communications(scene: Scene) -> None:
    many(scene, {"resourceType": "Communication", "status": "completed", "about": [{"reference": scene.order}],
                 "basedOn": [{"reference": scene.order}], "subject": {"reference": scene.patient}})  # fmt: skip


def orders(scene: Scene) -> None:
    many(scene, {"resourceType": "ServiceRequest", "status": "completed", "intent": "order",
                 "subject": {"reference": scene.patient}}, organization="hospital-a")  # fmt: skip


@pytest.mark.parametrize(
    "lay",
    [roles, appointments_of_patients, gardes, other_tasks, studies_of_others, reports_of_others, observations,
     communications, orders],
    ids=lambda lay: lay.__name__,
)  # fmt: skip
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_thousand_of_whatever_a_rule_asks_for_stop_no_emergency(scene: Scene, lay: Callable[[Scene], None]) -> None:
    """FHIR R4 sets no bound to any of these: an order goes its whole way among 1,001 of each."""
    scene.ordered()
    lay(scene)
    scene.update(scene.regulator, scene.task_ref("regulate"), status="in-progress")
    chosen = scene.create(scene.regulator, builders.protocol(scene.order, scene.patient)).reference
    scene.update(scene.regulator, scene.task_ref("regulate"), status="completed", output=builders.output(chosen))
    study = scene.images().reference
    scene.update(scene.reader, scene.task_ref("read"), status="in-progress")
    draft = scene.create(scene.reader, builders.diagnostic_report(scene.order, scene.patient, study)).reference
    signed = scene.update(scene.reader, draft, status="final")
    assert scene.status("order") == "completed"
    scene.update(scene.reader, signed.reference, status="entered-in-error", extension=builders.because())


RULES = ("workflow", "auth", "dicomweb", "subscriptions")


def test_no_rule_loads_what_it_may_not_find_whole() -> None:
    """`find` refuses more than RULE_MATCHES: rules take `each`, `count` or `count_by`, which have no bound."""
    root = Path(__file__).parents[2]
    asked = re.compile(r"\b(system|acting_for\([^)]*\))\.find\(")
    found = [
        f"{path.relative_to(root)}:{number}"
        for package in RULES
        for path in sorted((root / package).rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if asked.search(line)
    ]
    assert found == []


# How many readings each has


def kept(scene: Scene) -> dict[str, int]:
    with scene.store.database.read() as connection:
        rows = connection.execute(select(loads.load_table)).all()
    return {row.practitioner: row.readings for row in rows if row.readings and row.practitioner}


def counted(scene: Scene) -> dict[str, int]:
    asked = [("status", "ready,in-progress,on-hold"), ("code", f"{TELERADIOLOGY_TASK}|read")]
    with scene.store.work(scene.server, write=False) as uow:
        return uow.system.count_by("Task", asked, "owner")


def test_the_numbers_follow_each_step_of_a_reading(scene: Scene) -> None:
    """Opened, proposed to another, claimed, given back, held, signed: the numbers are what counting would give."""
    opened(scene, "Practitioner/lec1", 3)
    assert kept(scene) == {}
    loads.recount(scene.store)
    assert kept(scene) == {"Practitioner/lec1": 3}
    scene.acquired()
    assert scene.task("read")["owner"] == {"reference": "Practitioner/lec2"}
    assert "charge 0 " in scene.task("read")["note"][0]["text"]
    steps = [
        (scene.reader, {"status": "in-progress"}), (scene.reader, {"status": "ready"}),
        (scene.second_reader, {"status": "in-progress"}), (scene.second_reader, {"status": "on-hold"}),
        (scene.second_reader, {"status": "in-progress"}),
    ]  # fmt: skip
    for who, elements in steps:
        scene.update(who, scene.task_ref("read"), **elements)
        assert kept(scene) == counted(scene), elements
    draft = builders.diagnostic_report(scene.order, scene.patient, scene.study)
    scene.update(scene.second_reader, scene.create(scene.second_reader, draft).reference, status="final")
    assert kept(scene) == counted(scene) == {"Practitioner/lec1": 3}


def test_a_recount_puts_right_what_was_missed(scene: Scene) -> None:
    """A server that knows nothing of the numbers has written beside this one."""
    loads.recount(scene.store)
    opened(scene, "Practitioner/lec1", 2)
    with scene.store.database.write() as connection:
        connection.execute(update(loads.load_table).values(readings=7))
    loads.recount(scene.store)
    assert kept(scene) == {"Practitioner/lec1": 2}


def test_what_fails_moves_no_number(scene: Scene) -> None:
    loads.recount(scene.store)

    def write(uow: UnitOfWork) -> None:
        uow.system.create("Task", reading("Practitioner/lec1"))
        raise KeyError

    with pytest.raises(KeyError):
        scene.store.transact(scene.server, write)
    assert kept(scene) == {}


FEW, RATIO = 50, 1.3


def steps(scene: Scene, work: Callable[[], object]) -> int:
    """How many hundreds of SQLite's steps `work` takes."""
    count = 0

    def look() -> int:
        nonlocal count
        count += 1
        return 0

    def watched(opening: Callable[[], Any]) -> Callable[[], Any]:
        @contextmanager
        def opened() -> Iterator[Any]:
            with opening() as connection:
                connection.connection.driver_connection.set_progress_handler(look, 100)
                try:
                    yield connection
                finally:
                    connection.connection.driver_connection.set_progress_handler(None, 0)

        return opened

    database = scene.store.database
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits.Deadline, "running", lambda *_, **__: nullcontext())
        for name in ("read", "write"):
            patch.setattr(database, name, watched(getattr(database, name)))
        work()
    return count


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_publishing_and_claiming_cost_the_same_among_many_open_readings(scene: Scene) -> None:
    """SQLite's steps among 50 and among twenty times as many."""
    loads.recount(scene.store)
    found = []
    made = 0
    for size in (FEW, 20 * FEW):
        for number in range(made, size):
            opened(scene, f"Practitioner/lec{1 + number % 2}", 1)
        made = size
        scene.accepted()
        publishing = steps(scene, scene.images)
        claiming = steps(scene, lambda: scene.update(scene.reader, scene.task_ref("read"), status="in-progress"))
        found.append((publishing, claiming))
    (few_publishing, few_claiming), (many_publishing, many_claiming) = found
    assert many_publishing <= RATIO * few_publishing, found
    assert many_claiming <= RATIO * few_claiming, found
