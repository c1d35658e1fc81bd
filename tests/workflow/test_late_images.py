"""Images that come late reach a person, images that cannot be read have a way on (docs/workflow.md S3 to S9).

"An image acknowledged for an order is read by somebody or raised to somebody": further studies of an order belong to
its reading (French reference on teleradiology, S4), an incident is visible to the hospital (S4x).
"""

from __future__ import annotations

import pytest

from resources.codes import (
    CANCEL_REQUESTED,
    REPORT_OUTCOME,
    RETAKE_REASON,
    STATUS_REASON,
    STUDY_VERSION,
    TELERADIOLOGY_TASK,
    TaskKind,
    code_of,
    concept,
)
from resources.json import Json
from resources.outcomes import Conflict, FhirError, ForbiddenTransition, InvalidContent
from resources.task import business_code, references
from tests import builders
from tests.workflow.conftest import Scene

MOTION = concept(RETAKE_REASON, "motion", text="Illisible, mouvements")
NO_CHANGE = concept(STATUS_REASON, "no-change", text="Reconstructions sans anomalie nouvelle")
REFUSED = concept(STATUS_REASON, "incomplete", text="Non")


def grow(scene: Scene, study: str, instances: int = 20, **more: object) -> None:
    """The door publishes the study again, with more images."""
    scene.update(scene.server, study, numberOfInstances=instances, **more)


def asked_again(scene: Scene) -> None:
    scene.claimed()
    scene.update(scene.reader, scene.task_ref("read"), status="on-hold", statusReason=MOTION)


def unexpected(scene: Scene) -> list[Json]:
    found = scene.find("Task", code=f"{TELERADIOLOGY_TASK}|{TaskKind.UNEXPECTED_IMAGES}")
    return [one.json() for one in found]


def flag(scene: Scene) -> str | None:
    return business_code(scene.task("read"))


def shown(scene: Scene) -> list[str]:
    """The studies that the reading names."""
    return references(scene.task("read")["input"], "ImagingStudy")


# While it is read


@pytest.mark.parametrize("late", ["grows", "second study"])
def test_images_after_the_claim_are_told_to_the_reader(scene: Scene, late: str) -> None:
    """The claimed Task is flagged, with how many; the draft stays; the signature waits until they are taken note of."""
    report = scene.drafted()
    if late == "grows":
        grow(scene, scene.study)
        studies, number = [scene.study], 8
    else:
        studies, number = [scene.study, scene.images().reference], 12
    task = scene.task("read")
    assert task["status"] == "in-progress"
    assert flag(scene) == "new-images"
    assert f"{number} nouvelle" in task["statusReason"]["text"]
    assert shown(scene) == studies
    named = [builders.ref(one) for one in studies]
    with pytest.raises(ForbiddenTransition, match="take note of them first"):
        scene.update(scene.reader, report, status="final", imagingStudy=named)
    assert scene.read(report)["status"] == "preliminary"
    scene.update(scene.reader, scene.task_ref("read"), businessStatus=None)
    assert flag(scene) is None
    scene.update(scene.reader, report, status="final", imagingStudy=named)
    assert scene.status("read") == "completed"


def test_the_same_images_published_again_are_not_new(scene: Scene) -> None:
    """Publication is repeated: what counts is which images the reader was shown."""
    scene.claimed()
    grow(scene, scene.study, 12, description="Scanner")
    scene.update(scene.server, scene.study, status="registered")
    scene.update(scene.server, scene.study, status="available")
    assert flag(scene) is None
    series = {"uid": "1.2", "modality": {"code": "CT"}, "instance": [{"uid": f"1.2.{n}"} for n in range(12)]}
    study = scene.images(series=[series]).reference
    scene.update(scene.reader, scene.task_ref("read"), businessStatus=None)
    replaced = {**series, "instance": [{"uid": f"1.2.{n}"} for n in range(1, 13)]}
    scene.update(scene.server, study, series=[replaced])
    assert flag(scene) == "new-images"
    assert "1 nouvelle" in scene.task("read")["statusReason"]["text"]


def test_a_stale_update_takes_note_of_nothing(scene: Scene) -> None:
    """A client that sends back what it read before the images came has not seen them."""
    scene.claimed()
    stale = dict(scene.task("read"))
    grow(scene, scene.study)
    with pytest.raises(ForbiddenTransition, match="read the task again"):
        scene.update(scene.reader, scene.task_ref("read"), businessStatus=None, input=stale["input"])
    assert flag(scene) == "new-images"


def test_only_the_reader_takes_note(scene: Scene) -> None:
    """Whoever is to read them says so."""
    scene.claimed()
    grow(scene, scene.study)
    for who in (scene.second_reader, scene.regulator, scene.planner):
        with pytest.raises(ForbiddenTransition):
            scene.update(who, scene.task_ref("read"), businessStatus=None)
    assert flag(scene) == "new-images"


def test_a_reading_given_back_is_claimed_with_all_its_images(scene: Scene) -> None:
    """The flag is for the reader who had claimed; the next one is shown everything."""
    scene.claimed()
    grow(scene, scene.study)
    scene.update(scene.reader, scene.task_ref("read"), status="ready")
    assert flag(scene) is None
    scene.update(scene.second_reader, scene.task_ref("read"), status="in-progress")
    version = scene.find("ImagingStudy", basedon=scene.order)[0].version
    [entry] = [one for one in scene.task("read")["input"] if references([one], "ImagingStudy")]
    assert {"url": STUDY_VERSION, "valueUnsignedInt": version} in entry["extension"]


def test_a_reading_on_hold_is_not_told_as_going_on(scene: Scene) -> None:
    """The hospital sees that nobody reads at present."""
    scene.claimed()
    grow(scene, scene.study)
    scene.update(scene.reader, scene.task_ref("read"), status="on-hold")
    assert (scene.business(), flag(scene)) == (None, None)


def test_every_study_of_the_reading_is_named_by_its_report(scene: Scene) -> None:
    """A report says which images were read."""
    scene.acquired()
    second = scene.images().reference
    scene.update(scene.reader, scene.task_ref("read"), status="in-progress")
    body = builders.diagnostic_report(scene.order, scene.patient, scene.study, status="final")
    with pytest.raises(ForbiddenTransition, match=f"{second} is an imaging study"):
        scene.create(scene.reader, body)
    body["imagingStudy"].append(builders.ref(second))
    scene.create(scene.reader, body)
    assert scene.status("order") == "completed"


def test_a_study_taken_away_is_told_to_the_reader(scene: Scene) -> None:
    """Images that turn out to be another order's are not read on in silence."""
    scene.claimed()
    second = scene.images().reference
    scene.update(scene.reader, scene.task_ref("read"), businessStatus=None)
    scene.update(scene.server, second, basedOn=None)
    assert flag(scene) == "new-images"
    assert "1 examen(s) retiré" in scene.task("read")["statusReason"]["text"]


# After the signature


@pytest.mark.parametrize("late", ["grows", "second study"])
def test_images_after_the_signature_open_a_further_reading(scene: Scene, late: str) -> None:
    """Ready, with deadline and proposal, linked to the report; the order's Task tells the hospital."""
    report = scene.signed()
    scene.store.transact(scene.server, lambda uow: scene.workflow.delivered(uow, report))
    grow(scene, scene.study) if late == "grows" else scene.images()
    task = scene.task("read")
    assert task["status"] == "ready"
    assert code_of(task["reasonCode"], STATUS_REASON) == "addendum"
    assert task["reasonReference"] == {"reference": report}
    assert task["owner"] == {"reference": "Practitioner/lec1"}
    assert task["restriction"]["period"]["end"]
    assert (scene.status("order"), scene.business()) == ("completed", "addendum")
    grow(scene, scene.study, 21)
    assert len(scene.find("Task", focus=scene.order, code=f"{TELERADIOLOGY_TASK}|read")) == 2


def test_a_delivery_does_not_hide_that_images_are_still_to_be_read(scene: Scene) -> None:
    """The hospital's endpoint may answer after they came."""
    report = scene.signed()
    grow(scene, scene.study)
    scene.store.transact(scene.server, lambda uow: scene.workflow.delivered(uow, report))
    assert scene.business() == "addendum"


def addendum(scene: Scene) -> str:
    report = scene.signed()
    grow(scene, scene.study)
    scene.update(scene.second_reader, scene.task_ref("read"), status="in-progress")
    return report


def test_a_further_reading_ends_with_the_revised_report(scene: Scene) -> None:
    """S14: appended is an addition to the report."""
    report = addendum(scene)
    scene.update(scene.second_reader, report, status="appended", extension=builders.because(),
                 conclusion="Idem. Temps tardif : pas de fuite.")
    task = scene.task("read")
    assert task["status"] == "completed"
    assert task["output"][0]["valueReference"] == {"reference": report}
    assert scene.business() == "signed"


def test_a_further_reading_ends_with_no_change_and_its_reason(scene: Scene) -> None:
    """A statement with a reason, by the reader, after having seen all of them."""
    addendum(scene)
    reading = scene.task_ref("read")
    for refused in (None, {"text": "rien"}, concept(STATUS_REASON, "no-change") | {"text": " "}):
        with pytest.raises(ForbiddenTransition, match="no-change"):
            scene.update(scene.second_reader, reading, status="completed", statusReason=refused)
    with pytest.raises(ForbiddenTransition):
        scene.update(scene.reader, reading, status="completed", statusReason=NO_CHANGE)
    grow(scene, scene.study, 30)
    with pytest.raises(ForbiddenTransition, match="More images"):
        scene.update(scene.second_reader, reading, status="completed", statusReason=NO_CHANGE)
    scene.update(scene.second_reader, reading, businessStatus=None)
    scene.update(scene.second_reader, reading, status="completed", statusReason=NO_CHANGE)
    assert scene.status("read") == "completed"
    assert scene.business() == "addendum-no-change"
    assert scene.task("order")["statusReason"] == NO_CHANGE


def test_a_study_that_came_during_a_further_reading_is_not_passed_over(scene: Scene) -> None:
    """Told to the reader, and not taken note of: nothing is said about it yet."""
    addendum(scene)
    reading = scene.task_ref("read")
    scene.images()
    for business in (scene.task("read")["businessStatus"], None):
        with pytest.raises(ForbiddenTransition, match="More images"):
            scene.update(scene.second_reader, reading, status="completed", statusReason=NO_CHANGE,
                         businessStatus=business)
    assert scene.status("read") == "in-progress"


def test_a_first_reading_does_not_end_with_no_change(scene: Scene) -> None:
    """There is no report yet that could stay as it is."""
    scene.claimed()
    with pytest.raises(ForbiddenTransition, match="no report of this order is final"):
        scene.update(scene.reader, scene.task_ref("read"), status="completed", statusReason=NO_CHANGE)


def test_a_revision_by_another_does_not_end_the_further_reading(scene: Scene) -> None:
    """Who revised the report for another reason has not read the new images."""
    report = addendum(scene)
    scene.update(scene.reader, report, status="amended", extension=builders.because(),
                 conclusion="Faute de frappe corrigée.")
    assert scene.status("read") == "in-progress"
    assert scene.business() == "addendum"


def test_a_further_reading_names_the_new_study(scene: Scene) -> None:
    """The revised report says that it has read it."""
    report = scene.signed()
    late = scene.images().reference
    scene.update(scene.reader, scene.task_ref("read"), status="in-progress")
    said = {"status": "appended", "conclusion": "Complété.", "extension": builders.because()}
    with pytest.raises(ForbiddenTransition, match=f"{late} is an imaging study"):
        scene.update(scene.reader, report, **said)
    named = [builders.ref(scene.study), builders.ref(late)]
    scene.update(scene.reader, report, imagingStudy=named, **said)
    assert scene.status("read") == "completed"


# Nobody expects them


def revoked_with_images(scene: Scene) -> str:
    scene.accepted()
    scene.update(scene.hospital, scene.order, status="revoked")
    return scene.images().reference


def test_images_of_a_revoked_order_are_raised_to_the_regulator(scene: Scene) -> None:
    """Once, by a Task with a deadline that the regulator ends with a reason; more images raise it anew."""
    study = revoked_with_images(scene)
    grow(scene, study)
    [task] = unexpected(scene)
    assert task["status"] == "requested"
    assert task["focus"] == {"reference": study}
    assert task["for"] == {"reference": scene.patient}
    assert code_of(task["reasonCode"], STATUS_REASON) == "order-ended"
    assert task["restriction"]["period"]["end"]
    reference = f"Task/{task['id']}"
    for who in (scene.reader, scene.hospital, scene.planner):
        with pytest.raises(FhirError):
            scene.update(who, reference, status="completed", statusReason={"text": "vu"})
    with pytest.raises(ForbiddenTransition, match="in words"):
        scene.update(scene.regulator, reference, status="completed")
    scene.update(scene.regulator, reference, status="completed", statusReason={"text": "Erreur de saisie, appelé"})
    grow(scene, study, description="Autre")
    assert len(unexpected(scene)) == 1
    grow(scene, study, 40)
    assert [one["status"] for one in unexpected(scene)].count("requested") == 1


def test_images_that_were_here_when_the_order_ended_are_raised_at_once(scene: Scene) -> None:
    """Partly here, and nobody will read them now."""
    scene.accepted()
    scene.images(status="registered")
    scene.update(scene.hospital, scene.order, status="revoked")
    assert [one["status"] for one in unexpected(scene)] == ["requested"]


def test_images_wait_for_the_regulator_of_a_changed_exam(scene: Scene) -> None:
    """Another exam is regulated anew; what was sent meanwhile is looked at then, and is no retake."""
    scene.accepted()
    exam = {"coding": [{"system": "http://loinc.org", "code": "24627-2"}], "text": "Scanner thoracique"}
    scene.update(scene.hospital, scene.order, code=exam)
    scene.images()
    assert (scene.status("order"), scene.status("acquire")) == ("requested", "cancelled")
    scene.update(scene.regulator, scene.task_ref("regulate"), status="in-progress")
    chosen = scene.create(scene.regulator, builders.protocol(scene.order, scene.patient)).reference
    scene.update(scene.regulator, scene.task_ref("regulate"), status="completed", output=builders.output(chosen))
    assert (scene.status("acquire"), scene.status("read")) == ("completed", "ready")


def test_images_with_the_number_of_a_refused_order_are_raised(scene: Scene) -> None:
    """The publisher joins nothing to an ended order: its accession number still says whose they were."""
    scene.regulated()
    number = next(one for one in scene.read(scene.order)["identifier"] if "type" in one)
    scene.update(scene.regulator, scene.task_ref("regulate"), status="rejected", statusReason=REFUSED)
    body = builders.imaging_study(None, scene.patient)
    body["identifier"].append(number)
    scene.store.transact(scene.server, lambda uow: uow.acting_for("hospital-a").create("ImagingStudy", body))
    [task] = unexpected(scene)
    assert task["basedOn"] == [{"reference": scene.order}]
    body["identifier"][0] = {"system": "urn:dicom:uid", "value": "urn:oid:1.2.3"}
    scene.store.transact(scene.server, lambda uow: uow.acting_for("hospital-b").create("ImagingStudy", body))
    assert len(unexpected(scene)) == 1


def test_a_late_study_of_somebody_else_is_raised_and_not_read(scene: Scene) -> None:
    """S4x after the acquisition: it is no input of the reading; once corrected it is, and nothing is left to decide."""
    scene.acquired()
    other = scene.create(scene.hospital, builders.patient("Autre")).reference
    study = scene.images(subject=other).reference
    assert shown(scene) == [scene.study]
    [task] = unexpected(scene)
    assert task["status"] == "requested"
    assert "for" not in task
    scene.update(scene.server, study, subject={"reference": scene.patient})
    assert [one["status"] for one in unexpected(scene)] == ["completed"]
    assert len(shown(scene)) == 2


def test_images_that_come_after_it_was_given_up_are_taken(scene: Scene) -> None:
    """A failed acquisition is not the end of images that come all the same."""
    scene.accepted()
    scene.update(scene.hospital, scene.task_ref("acquire"), status="failed", statusReason={"text": "Panne"})
    assert scene.business() == "incident"
    scene.images()
    assert (scene.status("acquire"), scene.status("read")) == ("completed", "ready")


# Not good enough


def test_a_retake_is_asked_of_the_hospital(scene: Scene) -> None:
    """Coded and in words; the hospital sees it on the order, in a message and as an acquisition with a deadline."""
    asked_again(scene)
    assert (scene.status("order"), scene.business()) == ("in-progress", "retake-requested")
    assert scene.task("order")["statusReason"] == MOTION
    acquire = scene.task("acquire")
    assert (acquire["status"], acquire["reasonCode"]) == ("requested", MOTION)
    assert acquire["restriction"]["period"]["end"]
    [message] = scene.find("Communication", based_on=scene.order)
    assert message.json()["payload"][0]["contentString"] == MOTION["text"]
    assert message.json()["about"] == [{"reference": scene.task_ref("acquire")}]
    with scene.store.work(scene.hospital, write=False) as uow:
        for reference in (scene.task_ref("order"), scene.task_ref("acquire"), message.reference):
            assert uow.resources.read(*reference.split("/"))


def test_a_retake_needs_words_and_its_reader(scene: Scene) -> None:
    """What is to be taken again, and why."""
    scene.claimed()
    reading = scene.task_ref("read")
    with pytest.raises(InvalidContent, match="in words"):
        scene.update(scene.reader, reading, status="on-hold", statusReason=concept(RETAKE_REASON, "motion"))
    with pytest.raises(ForbiddenTransition, match="by the reader"):
        scene.update(scene.regulator, reading, status="on-hold", statusReason=MOTION)
    assert scene.status("read") == "in-progress"


@pytest.mark.parametrize("on_duty", [True, False])
def test_new_images_bring_the_reading_back_to_its_reader(scene: Scene, on_duty: bool) -> None:
    """The old images alone do not; of a reader who has gone it is proposed to another."""
    asked_again(scene)
    grow(scene, scene.study, 12, description="Rien de neuf")
    assert scene.status("acquire") == "requested"
    if not on_duty:
        [garde] = [one for one in scene.find("Appointment") if "lec1" in str(one.json())]
        scene.update(scene.planner, garde.reference, status="cancelled")
    scene.images(status="registered")
    assert scene.status("acquire") == "in-progress"
    grow(scene, scene.study, 30)
    assert scene.status("acquire") == "completed"
    task = scene.task("read")
    assert (task["status"], flag(scene)) == ("ready", "new-images")
    assert task["owner"] == {"reference": "Practitioner/lec1" if on_duty else "Practitioner/lec2"}
    assert scene.business() is None
    assert "statusReason" not in scene.task("order")


def test_the_acquisition_of_a_retake_is_completed_by_new_images_alone(scene: Scene) -> None:
    """By hand as well."""
    asked_again(scene)
    scene.update(scene.hospital, scene.task_ref("acquire"), status="in-progress")
    with pytest.raises(ForbiddenTransition, match="of a retake once new ones are"):
        scene.update(scene.hospital, scene.task_ref("acquire"), status="completed")


def test_the_hospital_cannot_take_them_again(scene: Scene) -> None:
    """The reading comes back, and its reader decides: reads what there is, or reports that it cannot be read."""
    asked_again(scene)
    gone = {"text": "Patient transféré au bloc"}
    scene.update(scene.hospital, scene.task_ref("acquire"), status="failed", statusReason=gone)
    assert (scene.business(), scene.task("order")["statusReason"]) == ("retake-impossible", gone)
    assert (scene.status("read"), flag(scene)) == ("ready", "retake-impossible")
    assert scene.task("read")["statusReason"] == gone
    scene.update(scene.reader, scene.task_ref("read"), status="in-progress")
    report = builders.diagnostic_report(
        scene.order, scene.patient, scene.study, status="final",
        conclusionCode=[concept(REPORT_OUTCOME, "not-interpretable")], conclusion="Non interprétable.",
    )  # fmt: skip
    scene.create(scene.reader, report)
    assert (scene.status("order"), scene.status("acquire")) == ("completed", "cancelled")
    assert code_of(scene.task("order")["statusReason"], STATUS_REASON) == "not-interpretable"
    texts = [one.json()["payload"][0]["contentString"] for one in scene.find("Communication", based_on=scene.order)]
    assert "Non interprétable." in texts


def test_the_reader_reads_what_there_is_without_waiting(scene: Scene) -> None:
    """A retake that is still open ends with the report."""
    asked_again(scene)
    scene.update(scene.reader, scene.task_ref("read"), status="in-progress")
    report = builders.diagnostic_report(scene.order, scene.patient, scene.study, status="final")
    scene.create(scene.reader, report)
    assert (scene.status("order"), scene.status("acquire")) == ("completed", "cancelled")
    scene.images()
    assert code_of(scene.task("read")["reasonCode"], STATUS_REASON) == "addendum"


def test_a_signature_leaves_no_image_waiting_with_the_retake(scene: Scene) -> None:
    """Somebody else's images came while the retake was stopped: with the report they go to the regulator."""
    asked_again(scene)
    scene.update(scene.hospital, scene.task_ref("acquire"), status="on-hold", statusReason={"text": "Panne"})
    other = scene.create(scene.hospital, builders.patient("Autre")).reference
    scene.images(subject=other)
    assert unexpected(scene) == []
    scene.update(scene.reader, scene.task_ref("read"), status="in-progress")
    scene.create(scene.reader, builders.diagnostic_report(scene.order, scene.patient, scene.study, status="final"))
    assert [one["status"] for one in unexpected(scene)] == ["requested"]


def test_a_further_reading_may_ask_for_a_retake(scene: Scene) -> None:
    """After the signature as before it."""
    addendum(scene)
    scene.update(scene.second_reader, scene.task_ref("read"), status="on-hold", statusReason=MOTION)
    assert (scene.status("acquire"), scene.business()) == ("requested", "retake-requested")
    scene.images()
    assert (scene.status("acquire"), scene.status("read"), scene.business()) == ("completed", "ready", "addendum")


def test_a_further_reading_that_ends_ends_its_retake(scene: Scene) -> None:
    """What comes after that is read anew, and is not taken for images that somebody waits for."""
    addendum(scene)
    reading = scene.task_ref("read")
    scene.update(scene.second_reader, reading, status="on-hold", statusReason=MOTION)
    scene.update(scene.second_reader, reading, status="in-progress")
    scene.update(scene.second_reader, reading, status="completed", statusReason=NO_CHANGE)
    assert scene.status("acquire") == "cancelled"
    scene.images()
    assert (scene.status("read"), scene.business()) == ("ready", "addendum")
    assert scene.task_ref("read") != reading


# Cancelled after its images


def requested(scene: Scene, state: str = "claimed") -> str:
    getattr(scene, state)()
    why = {"text": "Patient décédé"}
    scene.update(scene.hospital, scene.order, extension=[{"url": CANCEL_REQUESTED, "valueCodeableConcept": why}])
    return scene.task_ref("cancel")


@pytest.mark.parametrize(("state", "who"), [("claimed", "reader"), ("claimed", "regulator"), ("acquired", "regulator")])
def test_after_the_images_a_cancellation_is_granted_by_a_physician(scene: Scene, state: str, who: str) -> None:
    """S2d after S4 is refused by itself (409) and may be asked for; nothing of the case stays open, and whoever
    granted it has seen the images."""
    task = requested(scene, state)
    with pytest.raises(Conflict, match="cancel-requested"):
        scene.update(scene.hospital, scene.order, status="revoked")
    assert scene.task("cancel")["reasonCode"] == {"text": "Patient décédé"}
    for other in (scene.hospital, scene.second_reader, scene.planner):
        with pytest.raises(ForbiddenTransition):
            scene.update(other, task, status="completed")
    scene.update(getattr(scene, who), task, status="completed")
    assert scene.read(scene.order)["status"] == "revoked"
    assert (scene.status("order"), scene.status("read")) == ("cancelled", "cancelled")
    scene.update(scene.server, scene.study, description="Encore")
    assert unexpected(scene) == []
    grow(scene, scene.study)
    assert len(unexpected(scene)) == 1


def test_a_cancellation_is_refused_with_a_reason(scene: Scene) -> None:
    """The exam goes on; the same request does not come again by itself, another one does."""
    task = requested(scene)
    with pytest.raises(InvalidContent):
        scene.update(scene.reader, task, status="rejected")
    scene.update(scene.reader, task, status="rejected", statusReason=REFUSED)
    assert (scene.status("order"), scene.status("read")) == ("in-progress", "in-progress")
    scene.update(scene.hospital, scene.order, note=[{"text": "Rappel"}])
    assert scene.status("cancel") == "rejected"
    again = {"url": CANCEL_REQUESTED, "valueCodeableConcept": {"text": "Demande en double"}}
    scene.update(scene.hospital, scene.order, extension=[again])
    assert scene.status("cancel") == "requested"


def test_a_request_to_cancel_is_taken_back_or_comes_too_late(scene: Scene) -> None:
    """By leaving the extension out; a signature decides it."""
    requested(scene)
    scene.update(scene.hospital, scene.order, extension=None)
    assert scene.status("cancel") == "cancelled"
    requested(scene)
    report = builders.diagnostic_report(scene.order, scene.patient, scene.study, status="final")
    scene.create(scene.reader, report)
    assert scene.status("cancel") == "rejected"
    assert code_of(scene.task("cancel")["statusReason"], STATUS_REASON) == "reported"


def test_a_new_priority_moves_the_request_too(scene: Scene) -> None:
    """It is decided within the time of a regulation."""
    requested(scene)
    before = scene.task("cancel")["restriction"]["period"]["end"]
    scene.update(scene.hospital, scene.order, priority="routine")
    assert scene.task("cancel")["restriction"]["period"]["end"] > before


def test_before_the_images_the_hospital_cancels_by_itself(scene: Scene) -> None:
    """The request opens no Task where it needs nobody's leave."""
    scene.accepted()
    why = {"text": "Erreur"}
    scene.update(scene.hospital, scene.order, extension=[{"url": CANCEL_REQUESTED, "valueCodeableConcept": why}])
    assert "cancel" not in scene.tasks()


def test_a_retake_does_not_make_the_order_cancellable_again(scene: Scene) -> None:
    """Its images were sent, and were seen."""
    asked_again(scene)
    with pytest.raises(Conflict):
        scene.update(scene.hospital, scene.order, status="revoked")


@pytest.mark.parametrize("status", ["unknown", "draft", "completed"])
def test_an_order_in_the_workflow_has_no_status_of_nobody(scene: Scene, status: str) -> None:
    """Neither unknown nor draft: such an order would wait for nobody, and could be completed without a report."""
    scene.acquired()
    with pytest.raises(ForbiddenTransition):
        scene.update(scene.hospital, scene.order, status=status)
    assert scene.read(scene.order)["status"] == "active"
