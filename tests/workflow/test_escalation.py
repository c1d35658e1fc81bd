"""The clock acts on what is late: levels, once each, whatever races, is killed or leaps (French reference §5.4, §6.3).

R4 Task.restriction http://hl7.org/fhir/R4/task-definitions.html#Task.restriction, Communication
http://hl7.org/fhir/R4/communication.html, weak ETags RFC 9110 §8.8.1
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import delete, select

from resources import flags
from resources.codes import DISPLAYS, ESCALATION, TaskKind, code_of, has_coding
from resources.json import Json
from resources.lifecycle import TASK_TRANSITIONS
from resources.outcomes import PreconditionFailed
from resources.policies import POLICIES, Where
from resources.times import instant_text
from store import policies
from store.engine.clock import BelievedClock
from store.unit_of_work import Store, UnitOfWork
from store.versions.tables import store_setting
from tests import builders
from tests.support import Clock
from tests.workflow.conftest import Scene
from workflow import acts, alarms, escalation
from workflow.escalation import KINDS, OF_TASK, QUEUES
from workflow.tables import due_item


def turn(scene: Scene, clock: escalation.Clock | None = None) -> None:
    """Let the clock act on all that is due."""
    clock = clock or scene.workflow.clock(scene.store)
    for _ in range(50):
        if not clock.step():
            return
    raise AssertionError("the clock comes to no end")


def told(scene: Scene, kind: str) -> list[Json]:
    """The Communications of the escalations of a kind, by level."""
    found = [one.json() for one in scene.find("Communication")]
    mine = [
        one for one in found
        if has_coding(one.get("category", []), [(ESCALATION, "escalation")])
        and code_of(one.get("reasonCode", []), ESCALATION) == kind
    ]  # fmt: skip
    return sorted(mine, key=lambda one: str(code_of(one["topic"], ESCALATION)))


def recipients(communication: Json) -> set[str]:
    return {one["reference"] for one in communication.get("recipient", [])}


def rows(scene: Scene) -> list[Any]:
    with scene.store.database.read() as connection:
        return list(connection.execute(select(due_item)))


def test_every_deadline_has_an_actor() -> None:
    """Each kind of Task and of queue with a deadline is escalated, by policies, and acted on; and nothing else is."""
    with_deadline = {name.removeprefix("deadline-") for name in POLICIES if name.startswith("deadline-")}
    escalated = {name.removeprefix("escalation-") for name in POLICIES if name.startswith("escalation-")}
    assert set(KINDS) == escalated
    assert with_deadline - {"answer"} == escalated, "an answer's deadline stands in the regulate Task"
    assert set(TASK_TRANSITIONS) - {TaskKind.ORDER} == set(OF_TASK), "the root task's deadline is that of its parts"
    assert set(KINDS) <= set(DISPLAYS[ESCALATION])
    assert set(QUEUES) == set(KINDS) - {kind.value for kind in OF_TASK}


def test_every_kind_of_row_has_its_action(scene: Scene) -> None:
    """What is watched and nothing acts on would wait for ever."""
    assert set(acts.of(scene.workflow._parts)) == {*KINDS, "lease", "handover"}


def test_a_late_regulation_climbs_level_by_level(scene: Scene, clock: Clock) -> None:
    """The regulators first, then the platform's support; each level once; flag, search and log follow."""
    scene.ordered(priority="stat")
    turn(scene)
    assert told(scene, "regulate") == []
    clock.advance(minutes=5, seconds=1)
    turn(scene)
    turn(scene)
    (first,) = told(scene, "regulate")
    task = scene.tasks()["regulate"]
    assert recipients(first) == {"Practitioner/reg"}
    assert first["about"] == [{"reference": task.reference}]
    assert first["basedOn"] == [{"reference": scene.order}]
    assert first["subject"] == {"reference": scene.patient}
    assert flags.level_of(task.json()) == 1
    assert [one.id for one in scene.find("Task", escalation="level-1")] == [task.id]
    clock.advance(minutes=5)
    turn(scene)
    clock.advance(minutes=10)
    turn(scene)
    levels = told(scene, "regulate")
    assert [code_of(one["topic"], ESCALATION) for one in levels] == ["level-1", "level-2", "level-3"]
    assert recipients(levels[2]) == {"Organization/platform"}
    clock.advance(hours=8)
    turn(scene)
    assert len(told(scene, "regulate")) == 3
    assert flags.level_of(scene.task("regulate")) == 3


def test_what_is_done_or_moved_is_no_longer_flagged(scene: Scene, clock: Clock) -> None:
    """A new deadline begins anew; an end clears the flag; neither makes a Communication."""
    scene.ordered(priority="stat")
    clock.advance(minutes=6)
    turn(scene)
    assert flags.level_of(scene.task("regulate")) == 1
    scene.update(scene.hospital, scene.order, priority="routine")
    assert flags.level_of(scene.task("regulate")) == 0
    clock.advance(minutes=235)
    turn(scene)
    assert flags.level_of(scene.task("regulate")) == 1
    assert len(told(scene, "regulate")) == 2
    task = scene.task_ref("regulate")
    scene.update(scene.regulator, task, status="in-progress")
    assert flags.level_of(scene.task("regulate")) == 1, "a claim is no regulation yet"
    why = {"coding": [{"system": "urn:x", "code": "a"}], "text": "non"}
    scene.update(scene.regulator, task, status="rejected", statusReason=why)
    assert flags.level_of(scene.task("regulate")) == 0
    clock.advance(hours=1)
    turn(scene)
    assert len(told(scene, "regulate")) == 2


def test_a_client_neither_sets_nor_clears_the_flag(scene: Scene, clock: Clock) -> None:
    """meta.tag of the server's own system: an update leaves it as it is."""
    scene.ordered(priority="stat")
    task = scene.task_ref("regulate")
    forged = {"tag": [{"system": ESCALATION, "code": "level-3"}]}
    scene.update(scene.regulator, task, status="in-progress", meta=forged)
    assert flags.level_of(scene.task("regulate")) == 0
    clock.advance(minutes=6)
    turn(scene)
    scene.update(scene.regulator, task, meta=None)
    assert flags.level_of(scene.task("regulate")) == 1


def test_a_claim_that_races_with_the_watch_is_not_lost(scene: Scene, clock: Clock) -> None:
    """If-Match of the version before the flag is a weak match; a second claim by it is refused as ever."""
    scene.ordered(priority="stat")
    before = scene.tasks()["regulate"].version
    clock.advance(minutes=6)
    turn(scene)
    assert scene.tasks()["regulate"].version > before
    task = scene.task_ref("regulate")
    scene.update(scene.regulator, task, if_match=before, status="in-progress")
    assert scene.status("regulate") == "in-progress"
    assert flags.level_of(scene.task("regulate")) == 1
    with pytest.raises(PreconditionFailed):
        scene.update(scene.regulator, task, if_match=before, status="in-progress")


def test_nobody_in_hand_goes_to_support(scene: Scene, clock: Clock) -> None:
    """A level that names nobody who is there is told to the platform itself: no alarm goes to nobody."""
    scene.ordered(priority="stat")
    for garde in scene.find("Appointment"):
        scene.update(scene.planner, garde.reference, status="cancelled")
    clock.advance(minutes=6)
    turn(scene)
    (first,) = told(scene, "regulate")
    assert recipients(first) == {"Organization/platform"}


def test_the_hospital_is_told_that_its_images_do_not_come(scene: Scene, clock: Clock) -> None:
    """The partner is addressed, so that it may read the Communication; another hospital may not."""
    scene.accepted()
    clock.advance(minutes=31)
    turn(scene)
    (first,) = told(scene, "acquire")
    assert recipients(first) == {"Organization/hospital-a"}
    for who, sees in ((scene.hospital, True), (scene.other_hospital, False)):
        with scene.store.work(who, write=False) as uow:
            assert uow.resources.exists("Communication", first["id"]) is sees


def test_a_late_reading_is_its_readers(scene: Scene, clock: Clock) -> None:
    """Level 1 to who holds it, level 2 to the regulator."""
    scene.claimed()
    for _ in range(31):
        clock.advance(minutes=1)
        scene.update(scene.reader, scene.task_ref("read"), note=[{"text": instant_text(clock.now)}])
        turn(scene)
    levels = told(scene, "read")
    assert recipients(levels[0]) == {"Practitioner/lec1"}
    assert recipients(levels[1]) == {"Practitioner/reg"}


def test_a_signed_report_that_reaches_nobody_is_raised(scene: Scene, clock: Clock) -> None:
    """Until the hospital's endpoint has accepted it; the flag stands on the root Task."""
    report = scene.signed()
    clock.advance(minutes=6)
    turn(scene)
    (first,) = told(scene, "delivery")
    assert recipients(first) == {"Organization/platform"}
    assert flags.level_of(scene.task("order")) == 1
    scene.store.transact(scene.server, lambda uow: scene.workflow.delivered(uow, report))
    assert flags.level_of(scene.task("order")) == 0
    clock.advance(hours=1)
    turn(scene)
    assert len(told(scene, "delivery")) == 1


def test_images_without_an_order_are_raised(scene: Scene, clock: Clock) -> None:
    """To the hospital that sent them, then to the regulator; not once they have found their order."""
    scene.ordered()
    study = scene.images(basedOn=[])
    clock.advance(minutes=11)
    turn(scene)
    (first,) = told(scene, "unmatched")
    assert first["about"] == [{"reference": study.reference}]
    scene.update(scene.server, study.reference, basedOn=[{"reference": scene.order}])
    clock.advance(hours=1)
    turn(scene)
    assert len(told(scene, "unmatched")) == 1


def test_nobody_on_duty_is_raised_and_heals_by_itself(scene: Scene, clock: Clock) -> None:
    """Once somebody is on duty the reading is proposed, without a further alarm."""
    scene.accepted()
    for garde in scene.find("Appointment"):
        if "reading" in str(garde.json()["serviceType"]):
            scene.update(scene.planner, garde.reference, status="cancelled")
    scene.images()
    assert "owner" not in scene.task("read")
    clock.advance(minutes=3)
    turn(scene)
    (first,) = told(scene, "no-reader")
    assert recipients(first) == {"Practitioner/reg"}
    scene.create(scene.planner, builders.garde("Practitioner/lec2", "2026-06-01T10:00:00+02:00",
                                               "2026-06-01T23:00:00+02:00"))
    clock.advance(minutes=5)
    turn(scene)
    assert scene.task("read")["owner"] == {"reference": "Practitioner/lec2"}
    assert len(told(scene, "no-reader")) == 1
    assert flags.level_of(scene.task("read")) == 0


def test_two_nodes_reach_each_level_once(
    scene: Scene, clock: Clock, make_store: Callable[..., Store]
) -> None:
    """Both saw the row as due; whoever comes second finds it moved on."""
    scene.ordered(priority="stat")
    clock.advance(minutes=6)
    other = scene.workflow.clock(make_store(observers=scene.workflow.observers, clock=clock))
    task = scene.task_ref("regulate")
    one = scene.workflow.clock(scene.store)
    for node in (one, other, one, other):
        node.store.transact(scene.server, lambda uow, node=node: node._act(uow, "regulate", task))  # type: ignore[misc]
    assert len(told(scene, "regulate")) == 1


def test_a_killed_escalation_leaves_nothing_half_done(scene: Scene, clock: Clock) -> None:
    """Level, flag and Communication are one commit: what was rolled back is done whole at the next turn."""
    scene.ordered(priority="stat")
    clock.advance(minutes=6)
    watch, task = scene.workflow.clock(scene.store), scene.task_ref("regulate")

    def killed(uow: UnitOfWork) -> None:
        watch._act(uow, "regulate", task)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scene.store.transact(scene.server, killed)
    assert told(scene, "regulate") == []
    assert flags.level_of(scene.task("regulate")) == 0
    turn(scene)
    assert len(told(scene, "regulate")) == 1


def test_a_leap_of_the_clock_fires_nothing(scene: Scene, clock: Clock) -> None:
    """What is not due yet moves with a leap that is taken over, so that a time to wait is as long as it was."""
    leapt = [0.0]
    watch = scene.workflow.clock(scene.store, lambda: leapt[0])
    scene.ordered(priority="stat")
    turn(scene, watch)
    clock.advance(hours=24)
    leapt[0] = 86_400.0
    turn(scene, watch)
    assert told(scene, "regulate") == []
    clock.advance(minutes=5, seconds=1)
    turn(scene, watch)
    assert len(told(scene, "regulate")) == 1


def test_the_clock_says_how_far_it_has_leapt() -> None:
    """What was taken over, in all; what is not believed counts for nothing."""
    wall, boot = [10**18], [0]
    clock = BelievedClock(wall=lambda: wall[0], boot=lambda: boot[0])
    wall[0] += 3600 * 10**9
    clock()
    assert clock.taken_s == 0
    boot[0] += 301 * 10**9
    wall[0] += 301 * 10**9
    clock()
    assert round(clock.taken_s) == 3600


def test_the_loop_sleeps_until_something_is_due(scene: Scene, clock: Clock) -> None:
    """Never longer than its interval, and it is woken by commits that bring a nearer instant."""
    watch = scene.workflow.clock(scene.store)
    scene.ordered(priority="stat")
    assert not watch.step()
    clock.advance(minutes=4, seconds=50)
    assert not watch.step()
    assert 9 < watch.loop().rest_s <= 10
    assert watch.loop().wake == alarms.WAKE


def test_levels_are_the_partners(scene: Scene, clock: Clock) -> None:
    """By policy: when, and to whom."""
    levels = [{"after": 2, "to": ["support"]}]
    scene.store.transact(
        scene.server, lambda uow: policies.decide(uow, "escalation-regulate", Where("hospital-a"), levels, "r")
    )
    scene.ordered(priority="stat")
    clock.advance(minutes=8)
    turn(scene)
    (only,) = told(scene, "regulate")
    assert recipients(only) == {"Organization/platform"}


def test_what_was_stored_before_is_watched_once_the_loop_turns(scene: Scene, clock: Clock) -> None:
    """An upgrade: open Tasks and gardes have no rows yet."""
    scene.ordered(priority="stat")
    with scene.store.database.write() as connection:
        connection.execute(delete(due_item))
        connection.execute(delete(store_setting).where(store_setting.c.name == "due-items"))
    clock.advance(minutes=6)
    turn(scene)
    assert len(told(scene, "regulate")) == 1
    assert {"regulate", "handover"} <= {row.kind for row in rows(scene)}


def test_an_escalation_makes_no_further_one(scene: Scene, clock: Clock) -> None:
    """Nobody watches what the clock wrote: rows are those of the Task, and after its end none."""
    scene.ordered(priority="stat")
    clock.advance(minutes=6)
    turn(scene)
    assert [row.subject for row in rows(scene) if row.kind in KINDS] == [scene.task_ref("regulate")]
    scene.update(scene.hospital, scene.order, status="revoked")
    assert [row for row in rows(scene) if row.kind in KINDS] == []
