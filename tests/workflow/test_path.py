"""The main path S0 to S10 of an emergency, by plain FHIR writes (docs/workflow.md)."""

from __future__ import annotations

import base64
import hashlib
from datetime import timedelta

import pytest

from resources import identifiers, validation
from resources import task as tasks
from resources.outcomes import Conflict, ForbiddenTransition, InvalidContent
from resources.times import parse_instant
from tests import builders
from tests.support import Clock
from tests.workflow.conftest import Scene
from workflow.deadlines import TARGET_MINUTES


def test_an_order_gets_an_accession_number_a_root_task_and_a_regulation_task(scene: Scene, clock: Clock) -> None:
    """S0; ServiceRequest.identifier type ACSN, Task.code fulfill."""
    scene.ordered(priority="stat")
    order = scene.read(scene.order)
    accession = [one for one in order["identifier"] if one["type"]["coding"][0]["code"] == "ACSN"]
    assert len(accession) == 1
    assert 0 < len(accession[0]["value"]) <= 16
    assert set(scene.tasks()) == {"order", "regulate"}
    root, regulate = scene.task("order"), scene.task("regulate")
    assert root["status"] == regulate["status"] == "requested"
    assert {one["code"] for one in root["code"]["coding"]} == {"fulfill", "order"}
    assert root["focus"] == {"reference": scene.order}
    assert root["for"] == {"reference": scene.patient}
    assert root["owner"] == {"reference": "Organization/platform"}
    assert regulate["partOf"] == [{"reference": scene.task_ref("order")}]
    end = parse_instant(regulate["restriction"]["period"]["end"])
    assert end == clock.now + timedelta(minutes=TARGET_MINUTES["regulate"]["stat"])  # type: ignore[index]


def test_updating_an_order_makes_no_second_case(scene: Scene) -> None:
    """S0: exactly once per ServiceRequest, also when the sender forgets the accession number."""
    scene.ordered()
    before = scene.read(scene.order)
    scene.update(scene.hospital, scene.order, identifier=None, note=[{"text": "Patient sous anticoagulants"}])
    assert scene.read(scene.order)["identifier"] == before["identifier"]
    assert len(scene.find("Task", focus=scene.order)) == 2


def test_an_accession_number_of_the_hospital_is_kept(scene: Scene) -> None:
    """S0: the platform gives one only where there is none."""
    own = {"type": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "ACSN"}]},
           "system": "urn:oid:1.2.250.1.999.2", "value": "A1"}
    scene.ordered(identifier=[own])
    hospital = {"system": identifiers.ORDER, "assigner": {"reference": "Organization/hospital-a"}}
    first, ours = scene.read(scene.order)["identifier"]
    assert first == own
    assert hospital.items() <= ours.items()
    assert scene.task("order")["groupIdentifier"] == {"system": own["system"], "value": "A1"}


def test_a_draft_order_waits_until_it_is_active(scene: Scene) -> None:
    """S0: a draft is no order yet (request-status)."""
    scene.ordered(status="draft")
    assert scene.tasks() == {}
    scene.update(scene.hospital, scene.order, status="active")
    assert set(scene.tasks()) == {"order", "regulate"}


def test_an_order_that_is_not_imaging_is_left_alone(scene: Scene) -> None:
    """Only imaging orders enter the workflow."""
    scene.ordered(category=None, code={"text": "Kinésithérapie"}, identifier=None)
    assert scene.tasks() == {}
    assert "identifier" not in scene.read(scene.order)


def test_an_imaging_order_without_an_exam_is_refused(scene: Scene) -> None:
    """S0': the OperationOutcome names each missing element."""
    with pytest.raises(InvalidContent) as refused:
        scene.ordered(code=None)
    assert refused.value.issues[0].expression == ("ServiceRequest.code",)


def test_the_regulator_takes_asks_and_resumes(scene: Scene) -> None:
    """S1, S1a."""
    scene.regulated()
    assert scene.task("regulate")["owner"] == {"reference": "Practitioner/reg"}
    assert scene.status("order") == "received"
    asked = {"text": "Quelle est la fonction rénale ?"}
    scene.update(scene.regulator, scene.task_ref("regulate"), status="on-hold", statusReason=asked)
    assert (scene.status("order"), scene.business()) == ("on-hold", "info-requested")
    scene.update(scene.regulator, scene.task_ref("regulate"), status="in-progress")
    assert (scene.status("order"), scene.business()) == ("received", None)


def test_an_accepted_order_waits_for_its_images(scene: Scene) -> None:
    """S2a: the protocol is the output, the acquisition task follows."""
    scene.accepted()
    assert scene.status("regulate") == "completed"
    assert scene.status("order") == "accepted"
    assert scene.status("acquire") == "requested"
    assert scene.task("order")["output"][0]["valueReference"]["reference"].startswith("ServiceRequest/")


def test_protocol_and_acceptance_in_one_transaction_in_either_order(scene: Scene) -> None:
    """S2a as a transaction Bundle: a Task that names a protocol written after it."""
    scene.regulated()
    task = scene.tasks()["regulate"]

    def both(uow):  # type: ignore[no-untyped-def]
        body = {**task.json(), "status": "completed", "output": builders.output("ServiceRequest/prot-1")}
        uow.resources.update("Task", task.id, body)
        uow.resources.create("ServiceRequest", builders.protocol(scene.order, scene.patient), id="prot-1")

    scene.store.transact(scene.regulator, both)
    assert scene.status("acquire") == "requested"


def test_a_refused_order_is_revoked_with_its_reason(scene: Scene) -> None:
    """S2b: reason coded and in words."""
    scene.regulated()
    reason = {"coding": [{"system": "urn:test", "code": "not-justified"}], "text": "Examen non justifié"}
    scene.update(scene.regulator, scene.task_ref("regulate"), status="rejected", statusReason=reason)
    assert scene.status("order") == "rejected"
    assert scene.task("order")["statusReason"] == reason
    assert scene.read(scene.order)["status"] == "revoked"


@pytest.mark.parametrize("state", ["ordered", "regulated", "accepted"])
def test_a_hospital_cancels_until_the_images_are_here(scene: Scene, state: str) -> None:
    """S2d (TLR flow 2), and a second time without harm."""
    getattr(scene, state)()
    scene.update(scene.hospital, scene.order, status="revoked")
    scene.update(scene.hospital, scene.order, status="revoked")
    assert scene.status("order") == "cancelled"
    assert all(one.json()["status"] in ("cancelled", "completed") for one in scene.tasks().values())


def test_cancelling_after_acquisition_is_refused(scene: Scene) -> None:
    """S2d after S4: 409 (TLR flow 2: not once the post-exam complement was sent)."""
    scene.acquired()
    with pytest.raises(Conflict, match="images have been acquired"):
        scene.update(scene.hospital, scene.order, status="revoked")


def test_images_complete_the_acquisition_and_open_a_reading(scene: Scene) -> None:
    """S3, S4: registered starts it, available completes it; a reader on duty is proposed."""
    scene.accepted()
    study = scene.images(status="registered")
    assert (scene.status("acquire"), scene.status("order")) == ("in-progress", "in-progress")
    scene.update(scene.server, study.reference, status="available")
    assert scene.status("acquire") == "completed"
    reading = scene.task("read")
    assert reading["status"] == "ready"
    assert reading["owner"]["reference"] in ("Practitioner/lec1", "Practitioner/lec2")
    assert tasks.references(reading["input"], "ImagingStudy") == [study.reference]
    scene.update(scene.server, study.reference, numberOfInstances=40)
    assert len([one for one in scene.find("Task", focus=scene.order) if "read" in str(one.json()["code"])]) == 1


def test_images_before_the_protocol_wait_for_it(scene: Scene) -> None:
    """S4 before S2a: nothing is lost, nothing starts early."""
    scene.regulated()
    scene.images()
    assert set(scene.tasks()) == {"order", "regulate"}
    chosen = scene.create(scene.regulator, builders.protocol(scene.order, scene.patient)).reference
    scene.update(scene.regulator, scene.task_ref("regulate"), status="completed", output=builders.output(chosen))
    assert scene.status("acquire") == "completed"
    assert scene.status("read") == "ready"


def test_images_of_another_patient_open_no_reading(scene: Scene) -> None:
    """S4x: identity mismatch holds the acquisition; the corrected study goes on."""
    scene.accepted()
    other = scene.create(scene.hospital, builders.patient("Autre")).reference
    study = scene.images(subject=other)
    assert scene.status("acquire") == "on-hold"
    assert scene.business() == "incident"
    assert "read" not in scene.tasks()
    scene.update(scene.server, study.reference, subject={"reference": scene.patient})
    assert scene.status("acquire") == "completed"
    assert scene.status("read") == "ready"


def test_two_studies_are_proposed_to_two_readers(scene: Scene) -> None:
    """S4: the least loaded of those on duty."""
    scene.acquired()
    first = scene.task("read")["owner"]["reference"]
    scene.acquired()
    assert {first, scene.task("read")["owner"]["reference"]} == {"Practitioner/lec1", "Practitioner/lec2"}


def test_a_reading_without_anyone_on_duty_is_kept_and_says_so(scene: Scene, clock: Clock) -> None:
    """S4: nothing is lost when nobody is there."""
    scene.accepted()
    clock.advance(days=3)
    scene.images()
    reading = scene.task("read")
    assert reading["status"] == "ready"
    assert "owner" not in reading
    assert reading["businessStatus"]["coding"][0]["code"] == "no-reader-on-duty"


def test_the_claimant_becomes_the_owner_whatever_was_sent(scene: Scene) -> None:
    """S7: anyone on duty for reading claims; nobody claims in another's name."""
    scene.acquired()
    scene.update(scene.second_reader, scene.task_ref("read"), status="in-progress",
                 owner={"reference": "Practitioner/lec1"})
    assert scene.task("read")["owner"] == {"reference": "Practitioner/lec2"}
    assert scene.business() == "reading"


def test_the_signature_makes_one_fact_of_report_pdf_provenance_and_tasks(scene: Scene) -> None:
    """S9: §7.4; Attachment.hash is SHA-1 in base64 (R4), Binary.securityContext is the report."""
    reference = scene.signed()
    report = scene.read(reference)
    assert report["status"] == "final"
    assert report["issued"]
    assert {"reference": "Practitioner/lec1"} in report["resultsInterpreter"]
    assert {one["reference"] for one in report["performer"]} == {"Organization/platform", "Organization/hospital-a"}
    form = report["presentedForm"][0]
    binary = scene.read(form["url"])
    pdf = base64.b64decode(binary["data"])
    assert pdf.startswith(b"%PDF-")
    assert form["size"] == len(pdf)
    assert form["hash"] == base64.b64encode(hashlib.sha1(pdf, usedforsecurity=False).digest()).decode()
    assert binary["securityContext"] == {"reference": reference}
    [provenance] = scene.find("Provenance", target=reference)
    assert provenance.json()["target"] == [{"reference": f"{reference}/_history/2"}]
    assert provenance.json()["agent"][0]["who"] == {"reference": "Practitioner/lec1"}
    assert scene.status("read") == scene.status("order") == "completed"
    assert scene.task("read")["output"][0]["valueReference"] == {"reference": reference}
    assert scene.read(scene.order)["status"] == "completed"
    assert scene.business() == "signed"


def test_the_sign_operation_signs_what_is_stored(scene: Scene) -> None:
    """`$sign` is an update to final with the same guard."""
    reference = scene.drafted()
    scene.store.transact(scene.reader, lambda uow: scene.workflow.operations.sign(uow, reference.split("/")[1]))
    assert scene.read(reference)["status"] == "final"


def test_a_report_may_be_signed_without_a_draft(scene: Scene) -> None:
    """S9 by POST of a final report."""
    scene.claimed()
    body = builders.diagnostic_report(scene.order, scene.patient, scene.study, status="final")
    reference = scene.create(scene.reader, body).reference
    assert scene.read(reference)["presentedForm"][0]["contentType"] == "application/pdf"
    assert scene.status("order") == "completed"


def test_a_delivered_report_is_told_on_the_root_task(scene: Scene) -> None:
    """S10."""
    reference = scene.signed()
    scene.store.transact(scene.server, lambda uow: scene.workflow.delivered(uow, reference))
    assert scene.business() == "delivered"


def test_delivery_before_the_signature_is_refused(scene: Scene) -> None:
    """§7.3, last paragraph: delivery before final."""
    reference = scene.drafted()
    with pytest.raises(ForbiddenTransition, match="Only a signed report"):
        scene.store.transact(scene.server, lambda uow: scene.workflow.delivered(uow, reference))


def test_an_amendment_is_a_new_version_with_its_own_pdf_and_provenance(scene: Scene) -> None:
    """S14: amended; the first version stays byte for byte."""
    reference = scene.signed()
    type_name, report_id = reference.split("/")
    with scene.store.work(scene.server, write=False) as uow:
        first = uow.system.vread(type_name, report_id, 2).content
    scene.update(scene.second_reader, reference, status="amended", conclusion="Pas d'hématome.",
                 extension=builders.because())
    report = scene.read(reference)
    assert report["status"] == "amended"
    assert {"reference": "Practitioner/lec2"} in report["resultsInterpreter"]
    assert {"reference": "Practitioner/lec1"} in report["resultsInterpreter"]
    assert len(report["presentedForm"]) == 1
    with scene.store.work(scene.server, write=False) as uow:
        assert uow.system.vread(type_name, report_id, 2).content == first
    found = scene.find("Provenance", target=reference)
    revision = next(one.json() for one in found if "entity" in one.json())
    assert revision["entity"][0]["what"] == {"reference": f"{reference}/_history/2"}
    scene.update(scene.second_reader, reference, conclusion="Pas d'hématome récent.")
    assert len(scene.find("Provenance", target=reference)) == 3


def test_a_critical_finding_always_has_its_communication_task(scene: Scene) -> None:
    """S8c, S12: the task is made once and closes only with a completed Communication."""
    critical = [{"coding": [{"system": "https://vigie.example/CodeSystem/critical-result", "code": "1"}]}]
    reference = scene.drafted(conclusionCode=critical)
    assert scene.status("communicate-critical") == "requested"
    scene.update(scene.reader, reference, status="final")
    task = scene.task_ref("communicate-critical")
    with pytest.raises(ForbiddenTransition, match="completed Communication"):
        scene.update(scene.reader, task, status="completed")
    call = builders.critical_call(scene.patient, reference, scene.order, "Practitioner/lec1")
    said = scene.create(scene.reader, call)
    scene.update(scene.reader, task, status="completed", output=builders.output(said.reference, "communication"))
    assert scene.status("communicate-critical") == "completed"


@pytest.mark.parametrize("hospital", ["hospital", "other_hospital"])
def test_the_hospital_follows_its_order_and_the_other_sees_nothing(scene: Scene, hospital: str) -> None:
    """DESIGN §6: root task, acquisition, protocol, the signed report and its PDF; the rest stays on the platform."""
    report = scene.signed()
    seen = set()
    protocol = scene.task("regulate")["output"][0]["valueReference"]["reference"]
    pdf = scene.read(report)["presentedForm"][0]["url"]
    provenance = scene.find("Provenance", target=report)[0].reference
    named = {"report": report, "pdf": pdf, "protocol": protocol, "provenance": provenance, "order": scene.order,
             "study": scene.study, **{f"task {kind}": one.reference for kind, one in scene.tasks().items()}}
    with scene.store.work(getattr(scene, hospital), write=False) as uow:
        for name, reference in named.items():
            if uow.resources.exists(*reference.split("/")):
                seen.add(name)
    own = {"report", "pdf", "protocol", "provenance", "order", "study", "task order", "task acquire"}
    assert seen == (own if hospital == "hospital" else set())


def test_what_the_server_makes_is_valid(scene: Scene) -> None:
    """Tasks, report, Binary and Provenance pass the server's own validation."""
    report = scene.signed(conclusionCode=[
        {"coding": [{"system": "https://vigie.example/CodeSystem/critical-result", "code": "1"}]}])
    made = [scene.read(report), scene.read(scene.order), scene.read(scene.read(report)["presentedForm"][0]["url"])]
    made += [one.json() for one in (*scene.tasks().values(), *scene.find("Provenance", target=report))]
    for resource in made:
        issues = [one for one in validation.validate(resource) if one.severity in ("error", "fatal")]
        assert issues == [], resource["resourceType"]
