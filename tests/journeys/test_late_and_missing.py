"""Images that come late, are missing or cannot be read, as its people live it: by STOW, FHIR and nothing else.

S4, S4x, S9, S14 of the French reference on teleradiology; R4 Task, DiagnosticReport; DICOM PS3.18 §10.5.
"""

from __future__ import annotations

from typing import Any

import pytest

from resources.codes import CANCEL_REQUESTED, REPORT_OUTCOME, RETAKE_REASON, STATUS_REASON, TELERADIOLOGY_TASK, concept
from resources.json import Json
from resources.task import business_code
from tests import builders
from tests.conftest import ENGINES
from tests.fhir_server.conftest import (  # noqa: F401 - fixtures of the assembled server
    Api,
    api,
    door,
    engine,
    make_api,
    settings,
    template,
    templates,
)
from tests.journeys.played import Emergency, good, put, refusal

ONE_ENGINE = pytest.mark.parametrize("engine", ENGINES[:1], indirect=True)


def business(case: Emergency) -> str | None:
    """What the hospital sees of its order."""
    return business_code(case.task("order", case.hospital))


def settled(api: Api) -> None:  # noqa: F811
    """The background has published what is waiting."""
    api.settled()


def late_series(case: Emergency, api: Api, slices: int = 5) -> None:  # noqa: F811
    """More slices than were sent: those that are there already are taken again without harm."""
    case.sent(slices)
    settled(api)


def named(case: Emergency) -> list[Json]:
    found = case.api.platform.found(f"ImagingStudy?basedon={case.order_ref}")
    return [builders.ref(f"ImagingStudy/{one['id']}") for one in found]


def test_images_that_come_while_they_are_read(api: Api) -> None:  # noqa: F811
    """The reader is told how many, keeps the draft, and signs once they are seen."""
    case = Emergency.of(api).drafted()
    late_series(case, api)
    task = case.task("read")
    assert business_code(task) == "new-images"
    text = refusal(put(api.radiologist, case.report, status="final"), 422)
    assert "take note of them first" in text
    good(put(api.radiologist, task, businessStatus=None, statusReason=None))
    case.report = good(put(api.radiologist, case.report, status="final"))
    assert business(case) == "signed"


@ONE_ENGINE
@pytest.mark.parametrize("kind", ["series", "study"])
def test_images_that_come_after_the_signature(api: Api, kind: str) -> None:  # noqa: F811
    """Another series of the study, another study with its number: read too, and the hospital sees that."""
    case = Emergency.of(api).signed()
    if kind == "series":
        late_series(case, api)
    else:
        case.sent(2, study_instance_uid="1.2.826.0.1.3680043.10.999.77.1")
        settled(api)
    task = case.task("read")
    assert task["status"] == "ready"
    assert task["reasonReference"] == builders.ref(f"DiagnosticReport/{case.report['id']}")
    assert business(case) == "addendum"
    task = good(put(api.radiologist, task, status="in-progress"))
    words = {"status": "appended", "conclusion": "Idem. Acquisition tardive : pas de fuite.",
             "extension": builders.because()}  # fmt: skip
    good(put(api.radiologist, case.report, imagingStudy=named(case), **words))
    assert case.task("read")["status"] == "completed"
    assert business(case) == "signed"


@ONE_ENGINE
def test_images_that_change_nothing(api: Api) -> None:  # noqa: F811
    """The reader says so and why; the hospital reads it on its order."""
    case = Emergency.of(api).signed()
    late_series(case, api)
    task = good(put(api.radiologist, case.task("read"), status="in-progress"))
    refusal(put(api.radiologist, task, status="completed"), 422)
    why = concept(STATUS_REASON, "no-change", text="Reconstructions des mêmes coupes")
    good(put(api.radiologist, task, status="completed", statusReason=why))
    assert business(case) == "addendum-no-change"
    assert case.task("order", case.hospital)["statusReason"]["text"] == "Reconstructions des mêmes coupes"


def retake(case: Emergency) -> Json:
    case.claimed()
    why = concept(RETAKE_REASON, "motion", text="Illisible : mouvements")
    return good(put(case.api.radiologist, case.task("read"), status="on-hold", statusReason=why))


def test_images_that_are_taken_again(api: Api) -> None:  # noqa: F811
    """The hospital is asked where it looks: on its order, by a Task and by a message; new images wake the reader."""
    case = Emergency.of(api)
    reader = retake(case)["owner"]
    assert business(case) == "retake-requested"
    acquire = case.task("acquire", case.hospital)
    assert acquire["status"] == "requested"
    [told] = case.hospital.found(f"Communication?based-on={case.order_ref}")
    assert told["payload"][0]["contentString"] == "Illisible : mouvements"
    assert api.hospital_b.found(f"Communication?based-on={case.order_ref}") == []
    refusal(put(case.hospital, acquire, status="completed"), 422)
    refusal(put(case.hospital, case.order, status="revoked"), 409)
    late_series(case, api)
    assert case.task("acquire")["status"] == "completed"
    assert case.task("read")["status"] == "ready"
    assert case.task("read")["owner"] == reader


@ONE_ENGINE
def test_images_that_cannot_be_taken_again(api: Api) -> None:  # noqa: F811
    """The reader closes the exam with a report that says so; the order is answered."""
    case = Emergency.of(api)
    retake(case)
    acquire = case.task("acquire", case.hospital)
    refusal(put(case.hospital, acquire, status="failed"), 422)
    good(put(case.hospital, acquire, status="failed", statusReason={"text": "Patient parti au bloc"}))
    assert business(case) == "retake-impossible"
    task = case.task("read")
    assert task["statusReason"]["text"] == "Patient parti au bloc"
    good(put(api.radiologist, task, status="in-progress"))
    words: dict[str, Any] = {"conclusion": "Examen non interprétable (mouvements).",
                             "conclusionCode": [concept(REPORT_OUTCOME, "not-interpretable")]}
    body = builders.diagnostic_report(case.order_ref, case.patient_ref, None, status="final", **words)
    api.radiologist.create(body | {"imagingStudy": named(case)})
    root = case.task("order", case.hospital)
    assert root["status"] == "completed"
    assert root["statusReason"]["coding"][0]["code"] == "not-interpretable"
    told = case.hospital.found(f"Communication?based-on={case.order_ref}")
    assert "Examen non interprétable (mouvements)." in [one["payload"][0]["contentString"] for one in told]


@ONE_ENGINE
def test_images_of_an_order_that_has_ended(api: Api) -> None:  # noqa: F811
    """Stored, joined to nothing, and on the list of whoever is on duty for regulation; no reader is shown them."""
    case = Emergency.of(api).accepted()
    good(put(case.hospital, case.order, status="revoked"))
    case.accepted = lambda: case  # type: ignore[method-assign]
    case.acquired()
    settled(api)
    asked = f"Task?based-on={case.order_ref}&code={TELERADIOLOGY_TASK}|unexpected-images"
    [task] = api.regulator.found(asked)
    assert task["status"] == "requested"
    assert case.hospital.found(asked) == []
    refusal(put(api.radiologist, task, status="completed", statusReason={"text": "vu"}), 422)
    good(put(api.regulator, task, status="completed", statusReason={"text": "Erreur de saisie, service appelé"}))
    late_series(case, api)
    assert {one["status"] for one in api.regulator.found(asked)} == {"completed", "requested"}


@ONE_ENGINE
def test_an_exam_that_is_cancelled_after_its_images(api: Api) -> None:  # noqa: F811
    """The hospital asks, a physician decides, and the hospital sees what came of it."""
    case = Emergency.of(api).claimed()
    refusal(put(case.hospital, case.order, status="revoked"), 409)
    why = {"url": CANCEL_REQUESTED, "valueCodeableConcept": {"text": "Patient décédé"}}
    order = good(case.hospital.get(case.order_ref))
    good(put(case.hospital, order, extension=[why]))
    task = case.task("cancel", case.hospital)
    refusal(put(case.hospital, task, status="completed"), 422)
    good(put(api.radiologist, task, status="completed"))
    assert case.task("cancel", case.hospital)["status"] == "completed"
    assert good(case.hospital.get(case.order_ref))["status"] == "revoked"
    assert case.task("order", case.hospital)["statusReason"] == {"text": "Patient décédé"}
