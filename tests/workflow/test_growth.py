"""A bad day stops nothing: what a rule asks has more than a thousand answers (house.md A1).

With 1,001 exams waiting to be read, no new order's images became readable.
"""

from __future__ import annotations

import pytest

from resources.codes import TELERADIOLOGY_TASK, TaskKind, concept
from resources.json import Json
from store.unit_of_work import UnitOfWork
from tests.workflow.conftest import Scene

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
