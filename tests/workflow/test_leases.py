"""Claims are leases: a dead console loses nothing, and the end of a garde hands over (French reference §6.3).

R4 Task.owner, Task.status http://hl7.org/fhir/R4/task.html
"""

from __future__ import annotations

import pytest

from resources.codes import ESCALATION, code_of, has_coding
from resources.json import Json
from resources.outcomes import ForbiddenTransition, NotFound
from store.access import Caller
from tests import builders
from tests.support import Clock
from tests.workflow.conftest import Scene
from tests.workflow.test_escalation import turn


def beat(scene: Scene, who: Caller, task: str) -> Json:
    return scene.store.transact(who, lambda uow: scene.workflow.operations.heartbeat(uow, task.removeprefix("Task/")))


def returned(scene: Scene) -> list[Json]:
    found = [one.json() for one in scene.find("Communication")]
    return [one for one in found if has_coding(one.get("category", []), [(ESCALATION, "returned")])]


def test_a_dead_console_loses_nothing(scene: Scene, clock: Clock) -> None:
    """After the lease the reading is ready again with its draft, and whoever claims it goes on with that draft."""
    draft = scene.drafted()
    clock.advance(minutes=19)
    turn(scene)
    assert scene.status("read") == "in-progress"
    clock.advance(minutes=2)
    turn(scene)
    task = scene.task("read")
    assert task["status"] == "ready"
    assert scene.business() is None
    (told,) = returned(scene)
    assert told["recipient"] == [{"reference": "Practitioner/lec1"}]
    assert code_of(told["reasonCode"], ESCALATION) == "lease-expired"
    assert scene.read(draft)["status"] == "preliminary"
    scene.update(scene.second_reader, scene.task_ref("read"), status="in-progress")
    scene.update(scene.second_reader, draft, conclusion="Repris")
    scene.update(scene.second_reader, draft, status="final")
    assert scene.status("read") == "completed"
    turn(scene)
    assert len(returned(scene)) == 1


def test_every_write_of_the_owner_renews_the_lease(scene: Scene, clock: Clock) -> None:
    """A draft that is saved, the Task; what somebody else writes on the case does not."""
    draft = scene.drafted()
    for number in range(4):
        clock.advance(minutes=15)
        scene.update(scene.reader, draft, conclusion=f"Version {number}")
        turn(scene)
        assert scene.status("read") == "in-progress"
    clock.advance(minutes=15)
    scene.update(scene.hospital, scene.order, note=[{"text": "Patient agité"}])
    said = {"resourceType": "Communication", "status": "in-progress", "basedOn": [builders.ref(scene.order)],
            "payload": [{"contentString": "On vous attend"}]}  # fmt: skip
    scene.create(scene.regulator, said)
    clock.advance(minutes=6)
    turn(scene)
    assert scene.status("read") == "ready"


def test_a_heartbeat_renews_the_lease_and_writes_no_version(scene: Scene, clock: Clock) -> None:
    scene.claimed()
    task, before = scene.task_ref("read"), scene.tasks()["read"].version
    for _ in range(3):
        clock.advance(minutes=15)
        until = beat(scene, scene.reader, task)["parameter"][0]["valueInstant"]
        assert until.startswith((clock.now).strftime("%Y-%m-%d"))
        scene.workflow.clock(scene.store)
    assert scene.tasks()["read"].version == before
    with pytest.raises(ForbiddenTransition, match="who holds"):
        beat(scene, scene.second_reader, task)
    with pytest.raises(ForbiddenTransition, match="claimed"):
        beat(scene, scene.regulator, scene.task_ref("regulate"))
    with pytest.raises(NotFound):
        beat(scene, scene.hospital, task)


def test_a_regulation_is_leased_too(scene: Scene, clock: Clock) -> None:
    """It is requested again, and the hospital sees it so."""
    scene.regulated()
    clock.advance(minutes=21)
    turn(scene)
    task = scene.task("regulate")
    assert task["status"] == "requested"
    assert "owner" not in task
    assert scene.status("order") == "requested"


def test_the_end_of_a_garde_hands_over(scene: Scene, clock: Clock) -> None:
    """What was proposed goes to somebody who is there at once; what is claimed is given back after the grace."""
    scene.acquired()
    first = scene.task("read")["owner"]["reference"]
    reader = {"Practitioner/lec1": scene.reader, "Practitioner/lec2": scene.second_reader}[first]
    other = "Practitioner/lec2" if first == "Practitioner/lec1" else "Practitioner/lec1"
    end = "2026-06-01T10:30:00+02:00"
    (garde,) = scene.find("Appointment", actor=f"{first},PractitionerRole/{first.split('/')[1]}")
    scene.update(scene.planner, garde.reference, end=end)
    clock.advance(minutes=31)
    turn(scene)
    assert scene.task("read")["owner"] == {"reference": other}
    # and a reading that was claimed before the end
    scene.update(scene.planner, garde.reference, end="2026-06-01T11:00:00+02:00")
    scene.update(reader, scene.task_ref("read"), status="in-progress")
    clock.advance(minutes=25)
    beat(scene, reader, scene.task_ref("read"))
    clock.advance(minutes=5)
    turn(scene)
    assert scene.task("read")["owner"] == {"reference": first}
    clock.advance(minutes=10)
    beat(scene, reader, scene.task_ref("read"))
    clock.advance(minutes=6)
    turn(scene)
    assert scene.task("read")["owner"] == {"reference": other}
    assert scene.status("read") == "ready"
    (told,) = returned(scene)
    assert code_of(told["reasonCode"], ESCALATION) == "garde-ended"


def test_who_goes_on_keeps_what_he_holds(scene: Scene, clock: Clock) -> None:
    """Another garde of the same person follows: nothing is handed over."""
    scene.claimed()
    (garde,) = scene.find("Appointment", actor="Practitioner/lec1,PractitionerRole/lec1")
    scene.update(scene.planner, garde.reference, end="2026-06-01T10:10:00+02:00")
    scene.create(scene.planner, builders.garde("Practitioner/lec1", "2026-06-01T10:10:00+02:00",
                                               "2026-06-01T20:00:00+02:00"))
    for _ in range(5):
        clock.advance(minutes=10)
        beat(scene, scene.reader, scene.task_ref("read"))
        turn(scene)
    assert scene.status("read") == "in-progress"
    assert returned(scene) == []
