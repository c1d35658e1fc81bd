"""A long random walk of two hospitals, regulators, readers, scanners and clocks, and what must always hold.

Whoever adds a step of the workflow adds a row to `ACTIONS`: a name, how often, and a function that tries it on an exam.
What the server refuses with a typed error is a step too; anything else it raises ends the walk. After each step the
exam that it was on is looked at (`Watch`); images come through the real door and the real publisher.

French reference on teleradiology §7.3; R4 §12.4
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from auth.policy import Policy
from dicomweb.phantom import Phantom, series
from dicomweb.reconciling import Request
from dicomweb.service import Imaging
from dicomweb.workers import Workers
from resources import dose
from resources.codes import (
    CANCEL_REQUESTED,
    CRITICAL_RESULT,
    DOSE_ABSENT,
    REPORT_OUTCOME,
    RETAKE_REASON,
    STATUS_REASON,
    TELERADIOLOGY_TASK,
    TaskKind,
    concept,
)
from resources.json import Json
from resources.lifecycle import FINISHED_TASK, SIGNED, TASK_TRANSITIONS
from resources.outcomes import FhirError
from resources.task import business_code, kind_of, references
from resources.times import instant_text
from store.access import Caller, Version
from store.engine.database import open_engine
from store.engine.keyring import Fixed
from store.objects import ObjectStore
from store.unit_of_work import Store
from tests import builders
from tests.support import BASE_URL, PLATFORM, Clock, MemoryTrail, settled
from tests.workflow.conftest import Scene
from workflow import images
from workflow.cases import rank
from workflow.service import Workflow

AT_HAND = 12
"""Exams that go on at once."""
NO_DOSE = {"url": dose.ABSENT, "valueCodeableConcept": concept(DOSE_ABSENT, "not-transmitted")}
WHY = concept(STATUS_REASON, "incomplete", text="Motif")
OPEN_ORDER = ("active", "on-hold")


class Forgetful(MemoryTrail):
    """Keeps no record of anything."""

    def append(self, *args: Any) -> None:
        pass

    def disclose(self, *args: Any) -> None:
        pass


@dataclass
class Study:
    """A study that a scanner sends bit by bit."""

    uid: str
    files: list[bytes]
    sops: list[str]
    patient: str
    """Whose images they are in truth."""
    sent: int = 0
    rejected: bool = False
    reference: str = ""
    """``ImagingStudy/id``, once it is known."""

    @property
    def acknowledged(self) -> set[str]:
        """The instances that the archive has taken."""
        return set(self.sops[: self.sent])


@dataclass
class Exam:
    """An order as the walk knows it."""

    order: str
    patient: str
    hospital: Caller
    accession: str
    studies: list[Study] = field(default_factory=list)
    drafts: dict[str, str] = field(default_factory=dict)
    """Report → the conclusion that was saved last."""
    delivered: set[str] = field(default_factory=set)


class Broken(AssertionError):
    """Something that must always hold does not."""


class World:
    """Everybody, in one store on SQLite."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.clock = Clock()
        self.database = open_engine(f"sqlite:///{folder / 'walk.sqlite'}")
        self.database.create_all()
        self.workflow = Workflow(platform=PLATFORM)
        permit = Policy(PLATFORM)
        self.store = Store(self.database, permit=permit, trail=Forgetful(), clock=self.clock, platform=PLATFORM,
                           base_urls=(BASE_URL,), observers=self.workflow.observers, keys=Fixed(b"k"))
        self.pixels = Workers(1)
        self.imaging = Imaging(self.store, ObjectStore(folder / "objects"), permit, spool=folder, quiet_s=0.0,
                               workers=self.pixels, is_on_duty=self.workflow.regulates)
        self.store.observers += self.imaging.observers
        self.scene = Scene(self.store, self.workflow)
        self.scene.furnish()
        self.watch = self.workflow.clock(self.store)
        self.exams: list[Exam] = []
        self.seen: Counter[str] = Counter()
        """Action and outcome → how often."""
        self.numbers = 0
        self.until = self.clock.now
        self.versions: dict[str, tuple[int, str]] = {}
        """Task → version and status that were looked at last."""
        self.relieve()

    def close(self) -> None:
        self.imaging.close()
        self.database.dispose()

    # What the walk needs to know

    def tasks(self, exam: Exam) -> list[Version]:
        return sorted(self.scene.find("Task", focus=exam.order), key=rank)

    def task(self, exam: Exam, kind: TaskKind) -> Version | None:
        return next((one for one in reversed(self.tasks(exam)) if kind_of(one.json()) is kind), None)

    def reports(self, exam: Exam) -> list[Version]:
        return self.scene.find("DiagnosticReport", based_on=exam.order)

    def person(self, *names: str) -> Caller:
        caller: Caller = getattr(self.scene, self.random.choice(names))
        return caller

    def relieve(self) -> None:
        """The planner books the next gardes."""
        while self.until < self.clock.now + timedelta(hours=30):
            begin, self.until = self.until, self.until + timedelta(hours=24)
            for name, function in (("reg", "regulation"), ("lec1", "reading"), ("lec2", "reading")):
                if self.random.random() < 0.06:
                    continue  # a gap
                garde = builders.garde(f"Practitioner/{name}", instant_text(begin), instant_text(self.until),
                                       function=function)
                try:
                    self.scene.create(self.scene.planner, garde)
                except FhirError:
                    self.seen["garde refused"] += 1


Act = Callable[[World, Exam], object]


# Hospitals


def order(world: World) -> Exam:
    """S0: with an accession number of the hospital's own."""
    scene = world.scene
    hospital = world.random.choice((scene.hospital, scene.other_hospital))
    patient = scene.create(hospital, builders.patient(f"Nom{world.numbers}")).reference
    world.numbers += 1
    number = f"W{world.numbers:07d}"
    identifier = {"type": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "ACSN"}]},
                  "system": f"urn:x:{hospital.organization}", "value": number}
    body = builders.service_request(patient, priority=world.random.choice(("stat", "urgent", "routine")),
                                    identifier=[identifier])
    return Exam(scene.create(hospital, body).reference, patient, hospital, number)


def revoke(world: World, exam: Exam) -> None:
    status = world.random.choice(("revoked", "revoked", "entered-in-error"))
    world.scene.update(exam.hospital, exam.order, status=status)


def hold_order(world: World, exam: Exam) -> None:
    now = world.scene.read(exam.order)["status"]
    world.scene.update(exam.hospital, exam.order, status="active" if now == "on-hold" else "on-hold")


def ask_to_cancel(world: World, exam: Exam) -> None:
    text = f"Motif {world.random.randrange(3)}"
    why = [{"url": CANCEL_REQUESTED, "valueCodeableConcept": {"text": text}}]
    world.scene.update(exam.hospital, exam.order, extension=world.random.choice((why, why, None)))


def reprioritise(world: World, exam: Exam) -> None:
    world.scene.update(exam.hospital, exam.order, priority=world.random.choice(("stat", "urgent", "routine")))


def answer(world: World, exam: Exam) -> None:
    world.scene.update(exam.hospital, exam.order, note=[{"text": f"Réponse {world.random.randrange(10**6)}"}])


def change_exam(world: World, exam: Exam) -> None:
    code = world.random.choice(("24725-4", "24627-2", "36813-4"))
    world.scene.update(exam.hospital, exam.order, code={"coding": [{"system": "http://loinc.org", "code": code}]})


def next_case(world: World, exam: Exam) -> None:
    """Whoever is on duty takes what is most urgent, of whichever exam."""
    who = world.person("regulator", "reader", "second_reader", "off_duty")
    world.store.transact(who, lambda uow: world.workflow.operations.next_task(uow))


def meddle(world: World, exam: Exam) -> None:
    """Anybody sets any Task to anything."""
    version = world.random.choice(world.tasks(exam))
    status = world.random.choice(("requested", "ready", "in-progress", "on-hold", "completed", "failed", "cancelled",
                                  "rejected", "entered-in-error", "received"))
    who = world.person("hospital", "other_hospital", "planner", "regulator", "reader", "second_reader", "off_duty",
                       "ai_vendor")
    world.scene.update(who, version.reference, status=status, statusReason=world.random.choice((WHY, None)))


# Regulation


def _move(kind: TaskKind, who: tuple[str, ...], status: str, **elements: Any) -> Act:
    def act(world: World, exam: Exam) -> None:
        found = world.task(exam, kind)
        if found is None:
            world.seen["nothing to do"] += 1
            return
        caller = exam.hospital if who == ("hospital",) else world.person(*who)
        chosen = {name: world.random.choice(v) if isinstance(v, tuple) else v for name, v in elements.items()}
        world.scene.update(caller, found.reference, status=status, **chosen)

    return act


def accept(world: World, exam: Exam) -> None:
    found = world.task(exam, TaskKind.REGULATE)
    if found is None or found.json()["status"] in FINISHED_TASK:
        return
    protocol = world.scene.create(world.scene.regulator, builders.protocol(exam.order, exam.patient)).reference
    world.scene.update(world.scene.regulator, found.reference, status="completed", output=builders.output(protocol))


def unexpected(status: str) -> Act:
    def act(world: World, exam: Exam) -> None:
        code = f"{TELERADIOLOGY_TASK}|{TaskKind.UNEXPECTED_IMAGES}"
        found = world.scene.find("Task", based_on=exam.order, code=code)
        open_ones = [one for one in found if one.json()["status"] not in FINISHED_TASK]
        if open_ones:
            world.scene.update(world.scene.regulator, world.random.choice(open_ones).reference, status=status,
                               statusReason=WHY)

    return act


# Scanners


def send(world: World, exam: Exam) -> None:
    """A few images of a study of the exam, perhaps of a new one; rarely those of somebody else under its number."""
    foreign = world.random.random() < 0.04
    going = [study for study in exam.studies if not study.rejected]
    if not going or world.random.random() < 0.15 or foreign:
        patient = world.scene.read(exam.patient)
        identifier = patient["identifier"][0]["value"]
        name = patient["name"][0]
        words = {"patient_id": "ANDERE-1", "patient_name": "Andere^Ulla", "patient_birth_date": "19330303",
                 "patient_sex": "M"} if foreign else {
            "patient_id": identifier, "patient_name": f"{name['family']}^{name['given'][0]}",
            "patient_birth_date": patient["birthDate"].replace("-", ""), "patient_sex": "F"}  # fmt: skip
        world.numbers += 1
        made = Phantom(**words, accession_number=exam.accession, study_instance_uid=f"1.2.826.0.1.9.{world.numbers}",
                       slices=6, side=4)
        going.append(Study(made.study_uid, series(made), [made.sop_uid(n) for n in range(1, 7)],
                           "" if foreign else exam.patient))
        exam.studies.append(going[-1])
    study = world.random.choice(going)
    more = study.files[study.sent : study.sent + world.random.randrange(1, 4)]
    if more:
        world.imaging.store_files(exam.hospital, more)
        study.sent += len(more)


def reject(world: World, exam: Exam) -> None:
    """Images that should not have been sent are taken back."""
    sent = [study for study in exam.studies if study.sent and study.reference and not study.rejected]
    if sent:
        study = world.random.choice(sent)
        asked = Request("reject", "Mauvais patient", code=113001)
        world.store.transact(
            world.scene.regulator,
            lambda uow: world.imaging.reconciliation.reject(uow, study.reference.split("/")[1], asked),
        )
        study.rejected = True


def wait(world: World, exam: Exam) -> None:
    """Time passes; the background publishes; the planner plans."""
    world.clock.advance(minutes=world.random.choice((1, 5, 30, 240)))
    world.relieve()
    settle(world)


def settle(world: World) -> None:
    """The background publishes, and acts on what is due."""
    settled(world.imaging, world.store)
    while world.watch.step():
        pass


# Readers


def take_note(world: World, exam: Exam) -> None:
    found = world.task(exam, TaskKind.READ)
    if found is not None and found.json()["status"] == "in-progress":
        world.scene.update(world.person("reader", "second_reader"), found.reference, businessStatus=None)


def _named(world: World, exam: Exam) -> list[Json]:
    found = world.task(exam, TaskKind.READ)
    named = references(found.json().get("input", []), "ImagingStudy") if found is not None else []
    return [builders.ref(one) for one in named]


def draft(world: World, exam: Exam) -> None:
    """A new draft, or the one that there is goes on."""
    text = f"Texte {world.random.randrange(10**6)}"
    code = world.random.choice((None, None, None, [concept(CRITICAL_RESULT, "1")],
                                [concept(REPORT_OUTCOME, "not-interpretable")]))
    who = world.person("reader", "second_reader")
    if exam.drafts:
        report = world.random.choice(sorted(exam.drafts))
        world.scene.update(who, report, conclusion=text, imagingStudy=_named(world, exam) or None)
    else:
        body = builders.diagnostic_report(exam.order, exam.patient, None, conclusion=text, conclusionCode=code,
                                          extension=[NO_DOSE])
        body |= {"imagingStudy": _named(world, exam)} if _named(world, exam) else {}
        report = world.scene.create(who, body).reference
    exam.drafts[report] = text


def sign(world: World, exam: Exam) -> None:
    if exam.drafts:
        report = world.random.choice(sorted(exam.drafts))
        world.scene.update(world.person("reader", "second_reader"), report, status="final",
                           imagingStudy=_named(world, exam) or None)
        del exam.drafts[report]


def revise(world: World, exam: Exam) -> None:
    signed = [one for one in world.reports(exam) if one.json()["status"] in SIGNED]
    if signed:
        text = f"Revu {world.random.randrange(10**6)}"
        world.scene.update(world.person("reader", "second_reader", "off_duty"), signed[0].reference,
                           status=world.random.choice(("amended", "corrected", "appended")), conclusion=text,
                           extension=[NO_DOSE, *builders.because()],
                           imagingStudy=_named(world, exam) or None)


def withdraw(world: World, exam: Exam) -> None:
    """S15: the order is unanswered again."""
    signed = [one for one in world.reports(exam) if one.json()["status"] in SIGNED]
    if signed:
        world.scene.update(world.person("reader", "off_duty"), world.random.choice(signed).reference,
                           status="entered-in-error", extension=[NO_DOSE, *builders.because()])


def deliver(world: World, exam: Exam) -> None:
    """S10: the hospital's endpoint has answered."""
    for report in world.reports(exam):
        if report.json()["status"] in SIGNED:
            world.store.transact(world.scene.server,
                                 lambda uow, ref=report.reference: world.workflow.delivered(uow, ref))  # type: ignore[misc]


def call(world: World, exam: Exam) -> None:
    """S12."""
    found = world.task(exam, TaskKind.COMMUNICATE_CRITICAL)
    if found is None or found.json()["status"] in FINISHED_TASK:
        return
    said = world.scene.create(world.scene.reader, {
        "resourceType": "Communication", "status": "completed", "subject": builders.ref(exam.patient),
        "recipient": [{"reference": f"Organization/{exam.hospital.organization}"}],
        "received": instant_text(world.clock.now)})  # fmt: skip
    world.scene.update(world.scene.reader, found.reference, status="completed",
                       output=builders.output(said.reference, "communication"))


@dataclass(frozen=True)
class Action:
    """A row: what it is called, how often it is tried, and what is tried."""

    name: str
    weight: int
    act: Act


RETAKE = tuple(concept(RETAKE_REASON, code, text="Motif") for code in ("motion", "wrong-protocol", "contrast-failure"))
READERS = ("reader", "second_reader")
ACTIONS: tuple[Action, ...] = (
    Action("revoke", 2, revoke),
    Action("hold the order", 1, hold_order),
    Action("ask to cancel", 3, ask_to_cancel),
    Action("reprioritise", 2, reprioritise),
    Action("meddle", 12, meddle),
    Action("regulate", 6, _move(TaskKind.REGULATE, ("regulator",), "in-progress")),
    Action("ask the hospital", 3, _move(TaskKind.REGULATE, ("regulator",), "on-hold", statusReason=WHY)),
    Action("answer", 2, answer),
    Action("change the exam", 1, change_exam),
    Action("next", 4, next_case),
    Action("give the regulation back", 1, _move(TaskKind.REGULATE, ("regulator",), "requested")),
    Action("refuse", 1, _move(TaskKind.REGULATE, ("regulator",), "rejected", statusReason=WHY)),
    Action("accept", 10, accept),
    Action("settle unexpected images", 4, unexpected("completed")),
    Action("take unexpected images", 1, unexpected("in-progress")),
    Action("start the acquisition", 1, _move(TaskKind.ACQUIRE, ("hospital",), "in-progress")),
    Action("stop the acquisition", 1, _move(TaskKind.ACQUIRE, ("hospital",), "on-hold", statusReason=WHY)),
    Action("give the acquisition up", 2, _move(TaskKind.ACQUIRE, ("hospital",), "failed", statusReason=WHY)),
    Action("complete the acquisition", 2, _move(TaskKind.ACQUIRE, ("hospital",), "completed")),
    Action("send images", 18, send),
    Action("wait", 4, wait),
    Action("claim", 14, _move(TaskKind.READ, READERS, "in-progress")),
    Action("give the reading back", 2, _move(TaskKind.READ, READERS, "ready")),
    Action("hold the reading", 1, _move(TaskKind.READ, ("regulator", *READERS), "on-hold")),
    Action("release the reading", 1, _move(TaskKind.READ, ("regulator",), "ready")),
    Action("ask for a retake", 3, _move(TaskKind.READ, READERS, "on-hold", statusReason=RETAKE)),
    Action("take note", 10, take_note),
    Action("draft", 12, draft),
    Action("sign", 10, sign),
    Action("revise", 5, revise),
    Action("no change", 4, _move(TaskKind.READ, READERS, "completed",
                                 statusReason=concept(STATUS_REASON, "no-change", text="Rien"))),
    Action("grant the cancellation", 1, _move(TaskKind.CANCEL, ("regulator", *READERS), "completed")),
    Action("refuse the cancellation", 2, _move(TaskKind.CANCEL, ("regulator", *READERS), "rejected", statusReason=WHY)),
    Action("withdraw", 1, withdraw),
    Action("reject images", 1, reject),
    Action("deliver", 3, deliver),
    Action("call", 3, call),
)  # fmt: skip
"""Everything that anybody does."""


# What must always hold


@dataclass
class Watch:
    """Looks at an exam; raises Broken with what it saw."""

    world: World

    def look(self, exam: Exam) -> None:
        scene = self.world.scene
        tasks = self.world.tasks(exam)
        order = scene.read(exam.order)
        self._lawful(tasks)
        self._one_each(tasks)
        self._somebody(order, tasks)
        self._agrees(order, tasks)
        self._drafts(exam)
        self._reports(exam, tasks)
        self._images(exam, tasks, order)

    def _lawful(self, tasks: list[Version]) -> None:
        """Each status followed the one before by the state table."""
        for task in tasks:
            kind = kind_of(task.json())
            number, status = self.world.versions.get(task.reference, (0, ""))
            for version in range(number + 1, task.version + 1):
                body = task.json() if version == task.version else self._version(task, version)
                new = str(body["status"])
                table = TASK_TRANSITIONS.get(kind, {}) if kind else {}
                if status and new != status and new not in table.get(status, ()):
                    raise Broken(f"{kind} {task.reference}: {status} → {new}")
                status = new
            self.world.versions[task.reference] = (task.version, status)

    def _version(self, task: Version, number: int) -> Json:
        with self.world.store.work(self.world.scene.server, write=False) as uow:
            return uow.system.vread("Task", task.id, number).json()

    def _one_each(self, tasks: list[Version]) -> None:
        """At most one unfinished Task of a part, one root."""
        counted = Counter(kind_of(one.json()) for one in tasks if one.json()["status"] not in FINISHED_TASK)
        if any(number > 1 for number in counted.values()):
            raise Broken(f"Two open Tasks of one part: {counted}")
        if [kind_of(one.json()) for one in tasks].count(TaskKind.ORDER) != 1:
            raise Broken("Not one root Task")

    def _somebody(self, order: Json, tasks: list[Version]) -> None:
        """An order that is not ended has an open Task that somebody moves; what is ended has none but its addendum."""
        parts = {kind_of(one.json()): one.json() for one in tasks}
        waiting = [kind for kind, one in parts.items()
                   if kind is not TaskKind.ORDER and (one["status"] not in FINISHED_TASK or one["status"] == "failed")]
        root = parts[TaskKind.ORDER]["status"]
        if order["status"] in OPEN_ORDER:
            if not {TaskKind.REGULATE, TaskKind.ACQUIRE, TaskKind.READ} & set(waiting) or root in FINISHED_TASK:
                raise Broken(f"An open order of nobody: {self._told(tasks)}")
        elif root not in FINISHED_TASK:
            raise Broken(f"An ended order with an open root Task: {order['status']} {self._told(tasks)}")
        elif order["status"] == "revoked" and waiting:
            raise Broken(f"A revoked order with open Tasks: {self._told(tasks)}")
        for one in parts.values():
            if one["status"] in ("in-progress",) and kind_of(one) in (TaskKind.READ, TaskKind.REGULATE) and not (
                one.get("owner", {}).get("reference", "").startswith("Practitioner/")
            ):
                raise Broken(f"Claimed by nobody: {one['id']}")

    def _agrees(self, order: Json, tasks: list[Version]) -> None:
        """The root Task says what its parts say."""
        parts = {kind_of(one.json()): one.json() for one in tasks}
        root, regulate = parts[TaskKind.ORDER], parts[TaskKind.REGULATE]
        read, acquire = parts.get(TaskKind.READ), parts.get(TaskKind.ACQUIRE)
        status, business = root["status"], business_code(root)
        if status in ("cancelled", "rejected"):
            right = order["status"] in ("revoked", "entered-in-error")
        elif status == "completed":
            right = order["status"] in ("completed", "entered-in-error")
            if read is not None and read["status"] not in FINISHED_TASK and order["status"] == "completed":
                right = right and business in (
                    "addendum", "retake-requested", "retake-impossible", "incident"
                )
        elif acquire is None or (acquire["status"] == "cancelled" and regulate["status"] not in FINISHED_TASK):
            expected = {"requested": "requested", "in-progress": "received", "on-hold": "on-hold"}
            right = status == expected.get(regulate["status"])
        elif read is None:
            begun = acquire["status"] not in ("requested",)
            right = status in ("accepted", "in-progress") if begun else status == "accepted"
        else:
            right = status == "in-progress"
            if business == "reading":
                right = right and read["status"] == "in-progress"
        if not right:
            raise Broken(f"The root Task disagrees: {order['status']} {self._told(tasks)}")

    def _drafts(self, exam: Exam) -> None:
        for report, text in exam.drafts.items():
            found = self.world.scene.read(report)
            if found["status"] != "preliminary" or found["conclusion"] != text:
                raise Broken(f"A draft is lost: {report}")

    def _reports(self, exam: Exam, tasks: list[Version]) -> None:
        """A signed report is the hospital's to read, and the root Task says so."""
        if not any(kind_of(one.json()) is TaskKind.READ for one in tasks):
            return
        signed = [one for one in self.world.reports(exam) if one.json()["status"] in SIGNED]
        if not signed:
            return
        root = next(one.json() for one in tasks if kind_of(one.json()) is TaskKind.ORDER)
        with self.world.store.work(exam.hospital, write=False) as uow:
            for report in signed:
                if not uow.resources.exists("DiagnosticReport", report.id):
                    raise Broken(f"A signed report that its hospital cannot read: {report.reference}")
        outputs = references(root.get("output", []), "DiagnosticReport")
        if root["status"] != "completed" or not {one.reference for one in signed} & set(outputs):
            raise Broken(f"A signed report that the root Task does not tell: {self._told(tasks)}")

    def _images(self, exam: Exam, tasks: list[Version], order: Json) -> None:
        """Each image that the archive has taken was read, or an open Task names its study, or waits for it."""
        scene = self.world.scene
        reading = [one.json() for one in tasks if kind_of(one.json()) is TaskKind.READ]
        for study in exam.studies:
            if not study.sent or study.rejected:
                continue
            if not study.reference:
                [found] = scene.find("ImagingStudy", identifier=f"urn:dicom:uid|urn:oid:{study.uid}")
                study.reference = found.reference
            with self.world.store.work(scene.server, write=False) as uow:
                version = uow.system.read(*study.reference.split("/"))
            body = version.json()
            told = {one["uid"] for part in body.get("series", []) for one in part.get("instance", [])}
            if told != study.acknowledged:
                if body["status"] == "registered" or not told - study.acknowledged:
                    continue  # the publisher is on its way; looked at again when it has come
                raise Broken(f"Published what was never sent: {study.uid}")
            if not study.patient:
                subject = body.get("subject", {}).get("reference", "")
                if subject == exam.patient or any(version.reference in references(one.get("input", []), "ImagingStudy")
                                                  for one in reading):
                    raise Broken(f"Images of somebody else are read under {exam.order}")
            self._raised(exam, study, version, tasks, reading, order)

    def _raised(
        self, exam: Exam, study: Study, version: Version, tasks: list[Version], reading: list[Json], order: Json
    ) -> None:
        parts = {kind_of(one.json()): one.json() for one in tasks}
        if parts[TaskKind.REGULATE]["status"] not in FINISHED_TASK:
            return  # waits for the decision
        acquire = parts.get(TaskKind.ACQUIRE)
        if acquire is not None and acquire["status"] in ("requested", "in-progress", "on-hold", "failed"):
            return  # the hospital's turn
        last = reading[-1] if reading else None
        if last is not None and last["status"] not in FINISHED_TASK:
            named = version.reference in references(last.get("input", []), "ImagingStudy")
            if named and (last["status"] != "in-progress" or business_code(last) == "new-images"
                          or not self._new(version, last)):
                return
        decided = [one for one in reading if one["status"] == "completed"]
        if parts.get(TaskKind.CANCEL, {}).get("status") == "completed":
            decided.append(parts[TaskKind.CANCEL])
        if any(not self._new(version, one) for one in reversed(decided)):
            return
        about = [one.json() for one in self.world.scene.find("Task", focus=version.reference)]
        if any(one["status"] not in FINISHED_TASK or not self._new(version, one) for one in about):
            return
        raise Broken(
            f"Images that reach nobody: {study.uid} {version.json()['status']} {version.json()['meta'].get('tag')} of "
            f"{order['status']} order: {self._told(tasks)}, about it {[one['status'] for one in about]}"
        )

    def _new(self, version: Version, task: Json) -> int:
        with self.world.store.work(self.world.scene.server, write=False) as uow:
            return images.new_instances(version.json(), images.noted_version(uow, version, task))

    def _told(self, tasks: list[Version]) -> str:
        return ", ".join(f"{kind_of(one.json())}={one.json()['status']}/{business_code(one.json())}" for one in tasks)


def walk(folder: Path, seed: int, steps: int, *, say: Callable[[str], None] = lambda text: None) -> Counter[str]:
    """`steps` steps from this seed. Raises Broken with seed, step and action; how often what happened."""
    world = World(folder, seed)
    watch = Watch(world)
    weights = [action.weight for action in ACTIONS]
    try:
        for number in range(steps):
            if len(world.exams) < AT_HAND:
                world.exams.append(order(world))
            exam = world.random.choice(world.exams)
            action = world.random.choices(ACTIONS, weights)[0]
            try:
                action.act(world, exam)
                world.seen[f"{action.name}: done"] += 1
            except FhirError as refused:
                if refused.status not in (403, 404, 409, 410, 412, 422):
                    raise
                world.seen[f"{action.name}: refused"] += 1
                looked = world.random.random() < 0.1  # it has no effect: looked at now and then all the same
            else:
                looked = True
            world.clock.advance(seconds=1)
            try:
                if looked:
                    watch.look(exam)
                if world.random.random() < 0.01:
                    retire(world, watch, exam)
            except Broken as broken:
                raise Broken(f"seed {seed}, step {number}, {action.name} on {exam.order}: {broken}") from broken
            if number % 1000 == 999:
                say(f"seed {seed}: {number + 1} steps, {world.numbers} numbers given")
        for exam in world.exams:
            retire(world, watch, exam)
        return world.seen
    finally:
        world.close()


def retire(world: World, watch: Watch, exam: Exam) -> None:
    """The walk lets an exam go: everything is published, and looked at once more."""
    world.clock.advance(minutes=1)
    settle(world)
    watch.look(exam)
    if exam in world.exams and len(world.exams) >= AT_HAND:
        world.exams.remove(exam)
