"""Every step that is refused: illegal transitions, wrong people, missing proof (French context §7.3, at its end)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from resources.codes import TaskKind
from resources.identifiers import INS_NIR, RELIABILITY, STATUS_NEW
from resources.lifecycle import TASK_TRANSITIONS, TRANSITIONS
from resources.outcomes import FhirError, Forbidden, ForbiddenTransition, InvalidContent, NotFound, PreconditionFailed
from tests import builders
from tests.support import Clock
from tests.workflow.conftest import Scene

Step = Callable[[Scene], object]


def _regulate(who: str, **elements: object) -> Step:
    return lambda scene: scene.update(getattr(scene, who), scene.task_ref("regulate"), **elements)  # type: ignore[arg-type]


def _read(who: str, **elements: object) -> Step:
    return lambda scene: scene.update(getattr(scene, who), scene.task_ref("read"), **elements)  # type: ignore[arg-type]


def _empty_protocol(scene: Scene) -> object:
    chosen = scene.create(scene.regulator, builders.protocol(scene.order, scene.patient, note=None)).reference
    return _regulate("regulator", status="completed", output=builders.output(chosen))(scene)


def _foreign_protocol(scene: Scene) -> object:
    order, patient = scene.order, scene.patient
    scene.ordered()
    chosen = scene.create(scene.regulator, builders.protocol(scene.order, scene.patient)).reference
    scene.order, scene.patient = order, patient
    return _regulate("regulator", status="completed", output=builders.output(chosen))(scene)


def _report(who: str, **more: object) -> Step:
    return lambda scene: scene.create(
        getattr(scene, who), builders.diagnostic_report(scene.order, scene.patient, scene.study, **more)
    )


REFUSED: list[tuple[str, str, Step, str]] = [
    # state, what is tried, the step, the text
    ("ordered", "regulated by one who is not on duty", _regulate("off_duty", status="in-progress"), "no garde"),
    ("ordered", "regulated by a reader", _regulate("reader", status="in-progress"), "on duty for regulation"),
    ("ordered", "regulated by a machine", _regulate("planner", status="in-progress"), "radiologist of the"),
    ("regulated", "accepted without a protocol", _regulate("regulator", status="completed"), "needs its protocol"),
    ("regulated", "accepted with an empty protocol", _empty_protocol, "says nothing"),
    ("regulated", "accepted with another order's protocol", _foreign_protocol, "is not a protocol of"),
    ("regulated", "accepted with the order itself",
     lambda s: _regulate("regulator", status="completed", output=builders.output(s.order))(s), "is not a protocol of"),
    ("regulated", "refused without a reason", _regulate("regulator", status="rejected"), "coded reason"),
    ("regulated", "another's protocol of a reader",
     lambda s: s.create(s.reader, builders.protocol(s.order, s.patient)), "on duty for regulation"),
    ("regulated", "a protocol for another patient",
     lambda s: s.create(s.regulator, builders.protocol(s.order, s.create(s.hospital, builders.patient()).reference)),
     "protocol's subject"),
    ("accepted", "regulated again", _regulate("regulator", status="in-progress"), "from completed to in-progress"),
    ("accepted", "the acquisition completed without images",
     lambda s: s.update(s.hospital, s.task_ref("acquire"), status="completed"), "by: the server alone"),
    ("accepted", "the acquisition stopped without a reason",
     lambda s: s.update(s.hospital, s.task_ref("acquire"), status="failed"), "gives its reason"),
    ("ordered", "the root task cancelled by hand",
     lambda s: s.update(s.hospital, s.task_ref("order"), status="cancelled"), "revoke the ServiceRequest"),
    ("ordered", "the root task told delivered by hand",
     lambda s: s.update(s.hospital, s.task_ref("order"), businessStatus={"text": "remis"}), "only the server changes"),
    ("ordered", "the regulation cancelled by hand", _regulate("regulator", status="cancelled"), "with its order"),
    ("accepted", "the acquisition cancelled by hand",
     lambda s: s.update(s.hospital, s.task_ref("acquire"), status="cancelled"), "with its order"),
    ("acquired", "the reading cancelled by hand", _read("regulator", status="cancelled"), "with its order"),
    ("signed", "signed a second time", lambda s: s.store.transact(
        s.reader, lambda uow: s.workflow.operations.sign(uow, s.report.split("/")[1])), "signed already"),
    ("ordered", "the order completed by hand",
     lambda s: s.update(s.hospital, s.order, status="completed"), "completed by its signed report"),
    ("ordered", "the order given to another patient",
     lambda s: s.update(s.hospital, s.order, subject=builders.ref(s.create(s.hospital, builders.patient()).reference)),
     "subject of an order"),
    ("ordered", "the order made something else",
     lambda s: s.update(s.hospital, s.order, category=None, code={"text": "Kinésithérapie"}), "cannot be changed"),
    ("ordered", "the order deleted", lambda s: s.delete(s.hospital, s.order), "not deleted"),
    ("ordered", "a task deleted", lambda s: s.delete(s.regulator, s.task_ref("regulate")), "not deleted"),
    ("ordered", "a reading task forged",
     lambda s: s.create(s.reader, builders.workflow_task("read", focus=builders.ref(s.order))), "made by the server"),
    ("ordered", "a task moved to another order",
     lambda s: s.update(s.regulator, s.task_ref("regulate"), focus={"reference": s.patient}), "cannot be changed"),
    ("acquired", "claimed by one who is not on duty", _read("off_duty", status="in-progress"), "no garde"),
    ("acquired", "claimed by one on duty to regulate", _read("regulator", status="in-progress"), "for reading"),
    ("acquired", "claimed by a machine", _read("planner", status="in-progress"), "radiologist of the platform"),
    ("acquired", "completed before it is claimed", _read("reader", status="completed"), "cannot go from ready"),
    ("acquired", "the deadline moved by a reader",
     _read("reader", restriction={"period": {"end": "2026-06-02T08:00:00Z"}}), "Only a regulator"),
    ("acquired", "a draft before the claim", _report("reader"), "reading is ready"),
    ("accepted", "a draft before the images",
     lambda s: s.create(s.reader, builders.diagnostic_report(s.order, s.patient, None)), "no reading task yet"),
    ("claimed", "claimed a second time", _read("second_reader", status="in-progress"), "already claimed by"),
    ("claimed", "taken over by changing the owner",
     _read("second_reader", owner={"reference": "Practitioner/lec2"}), "already claimed by"),
    ("claimed", "completed by another", _read("second_reader", status="completed"), "from its reader"),
    ("claimed", "completed while no report is final", _read("reader", status="completed"), "no report of this order"),
    ("claimed", "a draft by another reader", _report("second_reader"), "reader who claimed it"),
    ("claimed", "a report without its order",
     lambda s: s.create(s.reader, builders.diagnostic_report(s.order, s.patient, s.study, basedOn=None)), "basedOn"),
    ("claimed", "signed without a study",
     lambda s: s.create(s.reader, builders.diagnostic_report(s.order, s.patient, None, status="final")),
     "name the imaging study"),
    ("claimed", "signed without a conclusion", _report("reader", status="final", conclusion=" "), "conclusion"),
    ("claimed", "amended before it was signed", _report("reader", status="amended"), "signed as final"),
    ("claimed", "signed in another's name",
     _report("reader", status="final", resultsInterpreter=[{"reference": "Practitioner/lec2"}]), "is its signer"),
    ("drafted", "signed by another", lambda s: s.update(s.second_reader, s.report, status="final"), "who claimed it"),
    ("drafted", "moved to no order", lambda s: s.update(s.reader, s.report, basedOn=None), "stays on its order"),
    ("signed", "taken back to a draft", lambda s: s.update(s.reader, s.report, status="preliminary"), "from final"),
    ("signed", "edited in place", lambda s: s.update(s.reader, s.report, conclusion="Autre"), "immutable"),
    ("signed", "stripped of its PDF", lambda s: s.update(s.reader, s.report, presentedForm=None), "immutable"),
    ("signed", "deleted", lambda s: s.delete(s.reader, s.report), "not deleted"),
    ("signed", "amended by the hospital",
     lambda s: s.update(s.hospital, s.report, status="amended", conclusion="Autre"), "radiologist of the platform"),
    ("signed", "amended onto another patient",
     lambda s: s.update(s.reader, s.report, status="corrected",
                        subject=builders.ref(s.create(s.hospital, builders.patient()).reference)), "stays on its"),
    ("signed", "the order opened again", lambda s: s.update(s.hospital, s.order, status="active"), "not opened again"),
    ("signed", "claimed again", _read("second_reader", status="in-progress"), "from completed"),
    ("signed", "cancelled", lambda s: s.update(s.hospital, s.order, status="revoked"), "from completed"),
]


@pytest.mark.parametrize(("state", "what", "step", "text"), REFUSED, ids=[what for _, what, _, _ in REFUSED])
def test_it_is_refused(scene: Scene, state: str, what: str, step: Step, text: str) -> None:
    """Each with a precise text, and nothing is changed by it."""
    scene.report = str(getattr(scene, state)())
    before = {one.reference: one.version for one in scene.tasks().values()}
    order = scene.order
    with pytest.raises((ForbiddenTransition, InvalidContent), match=text):
        step(scene)
    scene.order = order
    assert {one.reference: one.version for one in scene.tasks().values()} == before


_PATHS = {
    TaskKind.REGULATE: {"requested": "ordered", "in-progress": "regulated", "completed": "accepted"},
    TaskKind.ACQUIRE: {"requested": "accepted", "completed": "acquired"},
    TaskKind.READ: {"ready": "acquired", "in-progress": "claimed", "completed": "signed"},
}
_ILLEGAL = [
    (kind, state, before, after)
    for kind, states in _PATHS.items()
    for before, state in states.items()
    for after in sorted(TRANSITIONS["Task"])
    if after != before and after not in TASK_TRANSITIONS[kind][before]
]


@pytest.mark.parametrize("kind", _PATHS)
def test_no_one_moves_a_task_against_its_table(scene: Scene, kind: TaskKind) -> None:
    """Every pair that the table of the kind does not hold, tried by the person who could do the step otherwise."""
    who = {TaskKind.REGULATE: scene.regulator, TaskKind.ACQUIRE: scene.regulator, TaskKind.READ: scene.reader}[kind]
    for before, state in _PATHS[kind].items():
        getattr(scene, state)()
        task = scene.task_ref(kind)
        for tried_kind, _, from_status, after in _ILLEGAL:
            if (tried_kind, from_status) != (kind, before):
                continue
            with pytest.raises(ForbiddenTransition, match=f"from {before} to {after}"):
                scene.update(who, task, status=after)


def test_a_second_regulator_with_the_old_version_gets_412(scene: Scene) -> None:
    """R-04: If-Match decides."""
    scene.ordered()
    task = scene.tasks()["regulate"]
    scene.update(scene.regulator, task.reference, status="in-progress", if_match=task.version)
    with pytest.raises(PreconditionFailed):
        scene.update(scene.regulator, task.reference, status="in-progress", if_match=task.version)


def test_every_reason_against_a_signature_comes_at_once(scene: Scene) -> None:
    """§7.4: the guard names all."""
    report = scene.drafted()
    with pytest.raises(ForbiddenTransition) as refused:
        scene.update(scene.second_reader, report, status="final", conclusion=None, imagingStudy=None,
                     effectiveDateTime=None)
    assert {one.expression[0] for one in refused.value.issues} == {
        "DiagnosticReport.basedOn[0]", "DiagnosticReport.conclusion", "DiagnosticReport.imagingStudy",
        "DiagnosticReport.effective",
    }


def test_an_ai_vendor_writes_no_report_and_no_observation_without_its_device(scene: Scene) -> None:
    """A-03; AO without Device; AI writing DR."""
    scene.claimed()
    with pytest.raises(Forbidden):
        _report("ai_vendor")(scene)
    observation = {"resourceType": "Observation", "status": "preliminary", "code": {"text": "HIC"},
                   "subject": {"reference": scene.patient}}
    with pytest.raises(ForbiddenTransition, match="names its Device"):
        scene.create(scene.ai_vendor, observation)


def test_an_order_of_another_hospital_is_as_if_it_were_not_there(scene: Scene) -> None:
    """Foreign and absent answer the same; nothing of the case is told, nothing of it moves."""
    scene.claimed()
    patient = scene.create(scene.other_hospital, builders.patient()).reference
    told = []
    for order in (scene.order, "ServiceRequest/absent"):
        with pytest.raises(FhirError) as refused:
            scene.create(scene.other_hospital, builders.diagnostic_report(order, patient, None, status="final"))
        told.append((type(refused.value), str(refused.value).replace(order, "it")))
    assert told[0] == told[1]
    with pytest.raises(NotFound):
        scene.update(scene.other_hospital, scene.order, status="revoked")
    assert scene.status("read") == "in-progress"


def test_a_finished_garde_gives_no_right_to_claim(scene: Scene, clock: Clock) -> None:
    """The rota is asked at the instant of the step."""
    scene.acquired()
    clock.advance(days=1)
    with pytest.raises(ForbiddenTransition, match="no garde"):
        _read("reader", status="in-progress")(scene)


def test_a_reader_gives_the_task_back_and_another_takes_it(scene: Scene) -> None:
    """D-02 by hand: in-progress → ready → in-progress."""
    scene.claimed()
    scene.update(scene.reader, scene.task_ref("read"), status="ready")
    scene.update(scene.second_reader, scene.task_ref("read"), status="in-progress")
    assert scene.task("read")["owner"] == {"reference": "Practitioner/lec2"}


def test_a_regulator_proposes_another_reader_and_another_priority(scene: Scene) -> None:
    """R-05, §6.3: reassign while it is ready; the hospital's new priority moves the deadlines."""
    scene.acquired()
    scene.update(scene.regulator, scene.task_ref("read"), owner={"reference": "Practitioner/off"})
    assert scene.task("read")["owner"] == {"reference": "Practitioner/off"}
    end = scene.task("read")["restriction"]["period"]["end"]
    scene.update(scene.hospital, scene.order, priority="routine")
    assert scene.task("read")["priority"] == "routine"
    assert scene.task("read")["restriction"]["period"]["end"] > end


def test_a_plain_task_and_a_foreign_report_follow_the_general_rules_only(scene: Scene) -> None:
    """Resources that are not of the workflow are stored and updated as R4 says."""
    task = scene.create(scene.hospital, {"resourceType": "Task", "status": "requested", "intent": "order",
                                         "code": {"coding": [{"system": "http://hl7.org/fhir/CodeSystem/task-code",
                                                              "code": "fulfill"}]}})
    scene.update(scene.hospital, task.reference, status="completed")
    report = scene.create(scene.hospital, {"resourceType": "DiagnosticReport", "status": "preliminary",
                                           "code": {"text": "Hémogramme"}})
    scene.update(scene.hospital, report.reference, status="final")
    assert "presentedForm" not in scene.read(report.reference)
    with pytest.raises(ForbiddenTransition):
        scene.update(scene.hospital, report.reference, status="preliminary")
    scene.delete(scene.hospital, report.reference)


def test_an_ins_without_its_key_or_a_qualified_identity_is_refused(scene: Scene) -> None:
    """I-06, I-07; a John Doe without INS is accepted (I-08)."""
    def identity(status: str) -> list[dict[str, object]]:
        return [{"url": RELIABILITY, "extension": [
            {"url": "identityStatus", "valueCoding": {"system": STATUS_NEW, "code": status}}]}]

    def ins(system: str, value: str) -> list[dict[str, object]]:
        return [{"system": system, "value": value, "use": "official"}]

    refused = [
        (ins(INS_NIR, "279035121518988"), identity("QUAL"), "key"),
        (ins(INS_NIR, "279035121518989"), identity("PROV"), "qualified"),
    ]
    for identifier, extension, text in refused:
        with pytest.raises(InvalidContent, match=text) as fault:
            scene.create(scene.hospital, builders.patient(identifier=identifier, extension=extension))
        assert fault.value.issues[0].expression[0].startswith("Patient.identifier[0]")
        assert "27903" not in str(fault.value)
    scene.create(scene.hospital, builders.patient(identifier=ins(INS_NIR, "279035121518989"),
                                                  extension=identity("QUAL")))
    scene.create(scene.hospital, builders.patient("Inconnu", identifier=None, extension=identity("PROV")))
