"""The whole state table, walked by real FHIR calls: no state without a way out, no step that is not in it.

Generated from `resources.lifecycle.STEPS`: whoever adds a state or a step finds here that it has no setting yet.

FHIR R4 §12.4.6 Task state machine  http://hl7.org/fhir/R4/task.html#statemachine
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from auth.policy import Policy
from resources.codes import (
    CANCEL_REQUESTED,
    CRITICAL_RESULT,
    RETAKE_REASON,
    STATUS_REASON,
    TELERADIOLOGY_TASK,
    TaskKind,
    concept,
)
from resources.lifecycle import (
    FINISHED_TASK,
    PERSONS,
    STEPS,
    TASK_TRANSITIONS,
    TRANSITIONS,
    Role,
    Step,
    roles_of_step,
)
from resources.outcomes import FhirError
from store.access import Caller
from store.engine.database import open_engine
from store.engine.keyring import Fixed
from store.unit_of_work import Store
from tests import builders
from tests.support import BASE_URL, PLATFORM, Clock, MemoryTrail
from tests.workflow.conftest import Scene
from workflow.cases import rank
from workflow.service import Workflow

Setting = Callable[[Scene], Any]

FIRST = {TaskKind.READ: "ready"}
"""The status in which a Task is made; else `requested`."""
WHY = concept(STATUS_REASON, "incomplete", text="Motif du test")
RETAKE = concept(RETAKE_REASON, "motion", text="Mouvements")
NO_CHANGE = concept(STATUS_REASON, "no-change", text="Sans effet")
CRITICAL = [concept(CRITICAL_RESULT, "1")]
ROLES: dict[str, set[Role]] = {
    "hospital": {Role.HOSPITAL},
    "other_hospital": set(),
    "planner": {Role.PLATFORM},
    "ai_vendor": set(),
    "off_duty": {Role.PLATFORM, Role.RADIOLOGIST},
    "regulator": {Role.PLATFORM, Role.RADIOLOGIST, Role.REGULATOR},
    "second_reader": {Role.PLATFORM, Role.RADIOLOGIST, Role.READER},
    "reader": {Role.PLATFORM, Role.RADIOLOGIST, Role.READER, Role.OWNER},
}
"""Who plays, and in which roles; `reader` claims every reading."""


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """One furnished store for all: each test plays a case of its own in it."""
    database = open_engine(f"sqlite:///{tmp_path_factory.mktemp('states') / 'vigie.sqlite'}")
    database.create_all()
    workflow = Workflow(platform=PLATFORM)
    store = Store(database, permit=Policy(PLATFORM), trail=MemoryTrail(), clock=Clock(), platform=PLATFORM,
                  base_urls=(BASE_URL,), observers=workflow.observers, keys=Fixed(b"k"))
    scene = Scene(store, workflow)
    scene.furnish()
    yield scene
    database.dispose()


# How a case comes to have a Task of that part in that status


def moved(kind: TaskKind, who: str, status: str, **elements: Any) -> Setting:
    def move(scene: Scene) -> None:
        scene.update(getattr(scene, who), reference(scene, kind), status=status, **elements)

    return move


def then(*steps: str | Setting) -> Setting:
    """One after the other; by name those of the Scene."""

    def play(scene: Scene) -> None:
        for step in steps:
            getattr(scene, step)() if isinstance(step, str) else step(scene)

    return play


def partly_acquired(scene: Scene) -> None:
    scene.study = scene.images(status="registered").reference


def revoked(scene: Scene) -> None:
    scene.update(scene.hospital, scene.order, status="revoked")


def asked_to_cancel(scene: Scene) -> None:
    why = {"url": CANCEL_REQUESTED, "valueCodeableConcept": WHY}
    scene.update(scene.hospital, scene.order, extension=[why])


def another_exam(scene: Scene) -> None:
    exam = {"coding": [{"system": "http://loinc.org", "code": "24627-2"}], "text": "Scanner thoracique"}
    scene.update(scene.hospital, scene.order, code=exam)


def answered(scene: Scene) -> None:
    scene.update(scene.hospital, scene.order, note=[{"text": "Créatinine 71"}])


def answered_too_late(scene: Scene) -> None:
    """Who asked has gone."""
    [garde] = [one for one in scene.find("Appointment", status="booked") if "/reg" in str(one.json())]
    scene.update(scene.planner, garde.reference, status="cancelled")
    answered(scene)
    body = garde.json()
    again = builders.garde("PractitionerRole/reg", body["start"], body["end"], function="regulation")
    scene.create(scene.planner, again)


def lapsed(scene: Scene) -> None:
    """A dead console: the clock gives the claim back."""
    clock = scene.store.now
    assert isinstance(clock, Clock)
    clock.advance(minutes=21)
    watch = scene.workflow.clock(scene.store)
    while watch.step():
        pass


def taken_back(scene: Scene) -> None:
    scene.update(scene.hospital, scene.order, extension=None)


def study_withdrawn(scene: Scene) -> None:
    scene.update(scene.server, scene.study, status="cancelled")


def granted(scene: Scene) -> None:
    asked_to_cancel(scene)
    moved(TaskKind.CANCEL, "regulator", "completed")(scene)


def signed_now(scene: Scene) -> None:
    body = builders.diagnostic_report(scene.order, scene.patient, scene.study, status="final")
    scene.report = scene.create(scene.reader, body).reference


def late(scene: Scene) -> None:
    scene.update(scene.server, scene.study, numberOfInstances=50)


def critical(scene: Scene) -> None:
    scene.drafted(conclusionCode=CRITICAL)


def unexpected(scene: Scene) -> None:
    scene.accepted()
    revoked(scene)
    scene.study = scene.images().reference


def withdrawn(scene: Scene) -> None:
    scene.signed()
    report = scene.find("DiagnosticReport", based_on=scene.order)[0].reference
    scene.update(scene.reader, report, status="entered-in-error", extension=builders.because())


def foreign(scene: Scene) -> None:
    other = scene.create(scene.hospital, builders.patient("Autre")).reference
    scene.foreign = scene.images(subject=other, status="registered").reference


def right(status: str) -> Setting:
    def correct(scene: Scene) -> None:
        scene.update(scene.server, scene.foreign, subject=builders.ref(scene.patient), status=status)

    return correct


R, A, L, C, X, N, ROOT = (
    TaskKind.REGULATE, TaskKind.ACQUIRE, TaskKind.READ, TaskKind.COMMUNICATE_CRITICAL, TaskKind.CANCEL,
    TaskKind.UNEXPECTED_IMAGES, TaskKind.ORDER,
)  # fmt: skip

SETTINGS: dict[tuple[TaskKind, str], Setting] = {
    (ROOT, "requested"): then("ordered"),
    (ROOT, "received"): then("regulated"),
    (ROOT, "on-hold"): then("regulated", moved(R, "regulator", "on-hold", statusReason=WHY)),
    (ROOT, "accepted"): then("accepted"),
    (ROOT, "in-progress"): then("acquired"),
    (ROOT, "rejected"): then("regulated", moved(R, "regulator", "rejected", statusReason=WHY)),
    (ROOT, "cancelled"): then("ordered", revoked),
    (ROOT, "completed"): then("signed"),
    (R, "requested"): then("ordered"),
    (R, "in-progress"): then("regulated"),
    (R, "on-hold"): then("regulated", moved(R, "regulator", "on-hold", statusReason=WHY)),
    (R, "completed"): then("accepted"),
    (R, "rejected"): then("regulated", moved(R, "regulator", "rejected", statusReason=WHY)),
    (R, "cancelled"): then("ordered", revoked),
    (A, "requested"): then("accepted"),
    (A, "in-progress"): then("accepted", partly_acquired),
    (A, "on-hold"): then("accepted", partly_acquired, moved(A, "hospital", "on-hold", statusReason=WHY)),
    (A, "failed"): then("accepted", moved(A, "hospital", "failed", statusReason=WHY)),
    (A, "completed"): then("acquired"),
    (A, "cancelled"): then("accepted", revoked),
    (L, "ready"): then("acquired"),
    (L, "in-progress"): then("claimed"),
    (L, "on-hold"): then("claimed", moved(L, "reader", "on-hold", statusReason=RETAKE)),
    (L, "completed"): then("signed"),
    (L, "cancelled"): then("claimed", granted),
    (C, "requested"): then(critical),
    (C, "in-progress"): then(critical, moved(C, "reader", "in-progress")),
    (C, "on-hold"): then(critical, moved(C, "reader", "in-progress"), moved(C, "reader", "on-hold")),
    (C, "completed"): then(critical, lambda scene: close_call(scene, scene.reader)),
    (C, "cancelled"): then(critical, granted),
    (X, "requested"): then("claimed", asked_to_cancel),
    (X, "completed"): then("claimed", granted),
    (X, "rejected"): then("claimed", asked_to_cancel, moved(X, "reader", "rejected", statusReason=WHY)),
    (X, "cancelled"): then("claimed", asked_to_cancel, taken_back),
    (N, "requested"): then(unexpected),
    (N, "in-progress"): then(unexpected, moved(N, "regulator", "in-progress")),
    (N, "completed"): then(unexpected, moved(N, "regulator", "completed", statusReason=WHY)),
}  # fmt: skip


def reference(scene: Scene, kind: TaskKind) -> str:
    """The case's Task of that part that counts."""
    if kind is TaskKind.UNEXPECTED_IMAGES:
        found = scene.find("Task", focus=scene.study, code=f"{TELERADIOLOGY_TASK}|{kind}")
        return sorted(found, key=rank)[-1].reference
    return scene.task_ref(kind)


def status(scene: Scene, kind: TaskKind) -> str:
    return str(scene.read(reference(scene, kind))["status"])


def settled(scene: Scene, kind: TaskKind, wanted: str) -> str:
    """A new case in that state; the Task's reference."""
    SETTINGS[kind, wanted](scene)
    assert status(scene, kind) == wanted
    return reference(scene, kind)


# What a step asks of a person


def close_call(scene: Scene, who: Caller) -> None:
    (report,) = {one["valueReference"]["reference"] for one in scene.read(scene.task_ref(C))["input"]
                 if one.get("valueReference", {}).get("reference", "").startswith("DiagnosticReport/")}  # fmt: skip
    said = scene.create(who, builders.critical_call(scene.patient, report, scene.order, str(who.practitioner)))
    scene.update(who, scene.task_ref(C), status="completed", output=builders.output(said.reference, "communication"))


def accept(scene: Scene, who: Caller) -> None:
    chosen = scene.create(who, builders.protocol(scene.order, scene.patient)).reference
    scene.update(who, scene.task_ref(R), status="completed", output=builders.output(chosen))


ASKED: dict[tuple[TaskKind, str], dict[str, Any]] = {
    (R, "ask"): {"statusReason": WHY},
    (R, "refuse"): {"statusReason": WHY},
    (A, "stop"): {"statusReason": WHY},
    (A, "give up"): {"statusReason": WHY},
    (L, "ask for a retake"): {"statusReason": RETAKE},
    (L, "no change"): {"statusReason": NO_CHANGE},
    (X, "refuse"): {"statusReason": WHY},
    (N, "settle"): {"statusReason": WHY},
}
"""Elements that go with the status."""
DONE: dict[tuple[TaskKind, str], Callable[[Scene, Caller], object]] = {
    (R, "accept"): accept,
    (C, "close"): close_call,
    (L, "sign"): lambda scene, who: signed_now(scene),
    (L, "take note of images"): lambda scene, who: scene.update(who, scene.task_ref(L), businessStatus=None),
}
"""Steps that are more than a status."""
BEFORE: dict[tuple[TaskKind, str], Setting] = {
    (L, "no change"): then("signed", late, moved(L, "reader", "in-progress")),
    (L, "take note of images"): then("claimed", late),
}
"""Settings other than that of the status."""

EVENTS: dict[tuple[TaskKind, str, str], tuple[Setting, Setting]] = {
    (ROOT, "taken", "requested"): (then("ordered"), moved(R, "regulator", "in-progress")),
    (ROOT, "taken", "on-hold"): (SETTINGS[ROOT, "on-hold"], moved(R, "regulator", "in-progress")),
    (ROOT, "given back", "received"): (then("regulated"), moved(R, "regulator", "requested")),
    (ROOT, "held", "requested"): (then("ordered"), moved(R, "regulator", "on-hold", statusReason=WHY)),
    (ROOT, "held", "received"): (then("regulated"), moved(R, "regulator", "on-hold", statusReason=WHY)),
    **{
        (ROOT, "accepted", before): (SETTINGS[ROOT, before], lambda scene: accept(scene, scene.regulator))
        for before in ("requested", "received", "on-hold")
    },
    **{
        (ROOT, "refused", before): (SETTINGS[ROOT, before], moved(R, "regulator", "rejected", statusReason=WHY))
        for before in ("requested", "received", "on-hold")
    },
    (ROOT, "images", "accepted"): (then("accepted"), partly_acquired),
    (ROOT, "signed", "in-progress"): (then("claimed"), signed_now),
    **{
        (ROOT, "cancelled", before): (SETTINGS[ROOT, before], revoked)
        for before in ("requested", "received", "on-hold", "accepted")
    },
    (ROOT, "cancelled", "in-progress"): (then("acquired"), granted),
    (ROOT, "reopened", "completed"): (then(), withdrawn),
    **{
        (ROOT, "exam changed", before): (then("accepted", *more), another_exam)
        for before, more in (("accepted", ()), ("in-progress", (partly_acquired,)))
    },
    (ROOT, "answered", "on-hold"): (SETTINGS[ROOT, "on-hold"], answered_too_late),
    (R, "answered", "on-hold"): (SETTINGS[R, "on-hold"], answered),
    (R, "lapse", "in-progress"): (SETTINGS[R, "in-progress"], lapsed),
    (L, "lapse", "in-progress"): (SETTINGS[L, "in-progress"], lapsed),
    **{(R, "cancelled", before): (SETTINGS[R, before], revoked) for before in ("requested", "in-progress", "on-hold")},
    (A, "start", "requested"): (then("accepted"), partly_acquired),
    (A, "start", "on-hold"): (then("accepted", foreign), right("registered")),
    (A, "start", "failed"): (SETTINGS[A, "failed"], partly_acquired),
    (A, "stop", "requested"): (then("accepted"), foreign),
    (A, "stop", "in-progress"): (SETTINGS[A, "in-progress"], foreign),
    (A, "complete", "requested"): (then("accepted"), lambda scene: scene.images()),
    (A, "complete", "in-progress"): (SETTINGS[A, "in-progress"], lambda scene: scene.images()),
    (A, "complete", "on-hold"): (then("accepted", foreign), right("available")),
    **{
        (A, "cancelled", before): (SETTINGS[A, before], revoked)
        for before in ("requested", "in-progress", "on-hold", "failed")
    },
    (L, "release", "on-hold"): (SETTINGS[L, "on-hold"], late),
    **{(L, "cancelled", before): (SETTINGS[L, before], granted) for before in ("ready", "in-progress", "on-hold")},
    **{(C, "cancelled", before): (SETTINGS[C, before], granted) for before in ("requested", "in-progress", "on-hold")},
    (X, "refuse", "requested"): (SETTINGS[X, "requested"], signed_now),
    (X, "withdrawn", "requested"): (SETTINGS[X, "requested"], taken_back),
    **{(N, "settle", before): (SETTINGS[N, before], study_withdrawn) for before in ("requested", "in-progress")},
}  # fmt: skip
"""What the server does by itself: the setting, and the event that makes it."""


def named(step: Step) -> str:
    return f"{step.kind}: {step.name} ({step.before} to {step.after})"


def statuses(kind: TaskKind) -> set[str]:
    return {one for step in STEPS if step.kind is kind for one in (step.before, step.after)}


# (a) No dead end


@pytest.mark.parametrize("kind", TASK_TRANSITIONS)
def test_every_state_is_reached_and_led_out_of(kind: TaskKind) -> None:
    """From the first status every status is reached; from each that is not final a person, or what a person does to
    another Task of the case, leads to a final one. Only the order itself has no steps of persons: it follows."""
    steps = [step for step in STEPS if step.kind is kind]
    reached, grown = {FIRST.get(kind, "requested")}, True
    while grown:
        more = {step.after for step in steps if step.before in reached} - reached
        reached |= more
        grown = bool(more)
    assert reached == statuses(kind)
    usable = [step for step in steps if kind is TaskKind.ORDER or step.by & PERSONS]
    ending = set(FINISHED_TASK - {"failed"})
    grown = True
    while grown:
        more = {step.before for step in usable if step.after in ending} - ending
        ending |= more
        grown = bool(more)
    assert reached <= ending


# (b) Every step of the table, by everyone for whom it is there


@pytest.mark.parametrize("step", [one for one in STEPS if one.by & PERSONS], ids=named)
def test_a_step_of_a_person_is_accepted(played: Scene, step: Step) -> None:
    """By each role of the row, through a plain update of the Task (or the report that ends it)."""
    for role in sorted(step.by & PERSONS):
        who = next(name for name, roles in ROLES.items() if role in roles)
        BEFORE.get((step.kind, step.name), SETTINGS[step.kind, step.before])(played)
        assert status(played, step.kind) == step.before
        task = reference(played, step.kind)
        caller = getattr(played, who)
        done = DONE.get((step.kind, step.name))
        if done is not None:
            done(played, caller)
        else:
            played.update(caller, task, status=step.after, **ASKED.get((step.kind, step.name), {}))
        assert played.read(task)["status"] == step.after, (step, role)


@pytest.mark.parametrize("step", [one for one in STEPS if Role.SERVER in one.by], ids=named)
def test_a_step_of_the_server_follows_from_its_event(played: Scene, step: Step) -> None:
    """Images, a signature, a decision on another Task: each has its consequence."""
    setting, event = EVENTS[step.kind, step.name, step.before]
    if (step.name, step.after) == ("answered", "requested"):
        event = answered_too_late
    setting(played)
    if step.name != "reopened":
        task = reference(played, step.kind)
        assert status(played, step.kind) == step.before
    event(played)
    task = task if step.name != "reopened" else reference(played, step.kind)
    seen = history(played, task)
    assert (step.before, step.after) in itertools.pairwise(seen), seen


def history(scene: Scene, task: str) -> list[str]:
    """The statuses that a Task has had, without repetitions."""
    type_name, id_ = task.split("/")
    with scene.store.work(scene.server, write=False) as uow:
        last = uow.system.read(type_name, id_).version
        seen = [str(uow.system.vread(type_name, id_, number).json()["status"]) for number in range(1, last + 1)]
    return [one for index, one in enumerate(seen) if not index or seen[index - 1] != one]


# (c) Nothing else


@pytest.mark.parametrize(("kind", "before"), SETTINGS, ids=lambda one: str(one))
def test_a_step_that_is_not_in_the_table_is_refused(played: Scene, kind: TaskKind, before: str) -> None:
    """Everybody tries everything else, with every element that a step could ask for: a typed refusal, no effect."""
    task = settled(played, kind, before)
    mark = versions(played)
    for who, roles in ROLES.items():
        for after in sorted(TRANSITIONS["Task"]):
            if after == before or roles & roles_of_step(kind, before, after):
                continue
            with pytest.raises(FhirError) as refused:
                played.update(getattr(played, who), task, status=after, statusReason=WHY)
            assert refused.value.status in (403, 404, 409, 422), (who, after)
    assert versions(played) == mark


def versions(scene: Scene) -> dict[str, int]:
    with scene.store.work(scene.server, write=False) as uow:
        of_case = [*uow.system.find("Task", [("focus", scene.order)]), uow.system.read(*scene.order.split("/"))]
        of_case += uow.system.find("Task", [("based-on", scene.order)])
    return {one.reference: one.version for one in of_case}


# (d) Every open state has somebody whose turn it is


@pytest.mark.parametrize(("kind", "before"), [one for one in SETTINGS if one[1] not in FINISHED_TASK - {"failed"}],
                         ids=lambda one: str(one))  # fmt: skip
def test_an_open_state_has_an_owner_of_its_next_step(played: Scene, kind: TaskKind, before: str) -> None:
    """The Task's owner, or everybody on duty for a function, or the hospital: by the table; and a deadline."""
    task = played.read(settled(played, kind, before))
    assert task["restriction"]["period"]["end"]
    next_roles = {role for step in STEPS if (step.kind, step.before) == (kind, before) for role in step.by & PERSONS}
    if kind is TaskKind.ORDER:
        open_parts = [part for part in SETTINGS if part[0] is not kind and _is_open(played, part[0])]
        assert task["owner"]
        assert open_parts
        return
    assert next_roles
    if (kind, before) in ((R, "in-progress"), (R, "on-hold"), (L, "in-progress"), (L, "on-hold"), (C, "in-progress")):
        assert task["owner"]["reference"].startswith("Practitioner/")


def _is_open(scene: Scene, kind: TaskKind) -> bool:
    if kind is TaskKind.UNEXPECTED_IMAGES or kind not in scene.tasks():
        return False
    return status(scene, kind) not in FINISHED_TASK


def test_every_state_has_a_setting_and_every_event_a_step() -> None:
    """The tables of this file are those of the state table."""
    assert set(SETTINGS) == {(kind, one) for kind in TASK_TRANSITIONS for one in statuses(kind)}
    of_server = {(step.kind, step.name, step.before) for step in STEPS if Role.SERVER in step.by}
    assert set(EVENTS) == of_server
