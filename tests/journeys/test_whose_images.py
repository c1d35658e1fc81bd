"""Wrong patient's images: found, reconciled with a reason by whoever is on duty, read; or taken back and taken again.

RNIV (vigilance of identity), IHE RAD PIR (patient information reconciliation) and IOCM (rejection), DICOM PS3.3
§C.12.1.1.9 (original attributes), docs/workflow.md S4x
"""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pydicom

from dicomweb import phantom
from dicomweb.matching import EVIDENCE, MATCHING
from dicomweb.phantom import Phantom
from resources.codes import TELERADIOLOGY_TASK
from resources.json import Json
from resources.policies import Where
from store import policies
from store.access import Caller
from tests import builders
from tests.fhir_server.conftest import (  # noqa: F401 - fixtures of the assembled server
    Api,
    Client,
    api,
    door,
    engine,
    make_api,
    settings,
    template,
    templates,
)
from tests.journeys.played import Emergency, good, parameters, put, refusal
from tests.security.scene import stow

COERCED = "04000561"


def scan_of(case: Emergency, **wrong: str) -> Phantom:
    name = case.patient["name"][0]
    right = Phantom(
        patient_id=case.patient["identifier"][0]["value"],
        patient_name=f"{name['family'].upper()}^{name['given'][0].upper()}",
        patient_birth_date=case.patient["birthDate"].replace("-", ""), patient_sex="F",
        accession_number=case.accession, slices=2, side=16,
    )
    return replace(right, **wrong)  # type: ignore[arg-type]


def store(case: Emergency, files: list[bytes]) -> None:
    """What a scanner sends, and a moment later its ImagingStudy is there."""
    assert stow(case.hospital, files).status_code == 200
    case.api.settled()


def sent(case: Emergency, scan: Phantom) -> Json:
    """The ImagingStudy of what a scanner of the hospital sent."""
    store(case, phantom.series(scan))
    return study_of(case.api.platform, scan.study_uid)


def study_of(who: Client, uid: str) -> Json:
    (found,) = who.found(f"ImagingStudy?identifier=urn:dicom:uid|urn:oid:{uid}")
    return found


def outcome(study: Json) -> str:
    return next(str(one["code"]) for one in study["meta"]["tag"] if one["system"] == MATCHING)


def evidence(study: Json) -> dict[str, str]:
    (said,) = [one for one in study["extension"] if one["url"] == EVIDENCE]
    return {one["url"]: one["valueCode"] for one in said["extension"]}


def asked(who: Client, study: Json, operation: str, **values: str) -> Any:
    return who.post(f"ImagingStudy/{study['id']}/${operation}", parameters(**values))


def acquisitions(case: Emergency) -> list[str]:
    """Status of the case's acquisitions, the first one first."""
    found = case.api.platform.found(f"Task?focus={case.order_ref}&code={TELERADIOLOGY_TASK}|acquire")
    return [one["status"] for one in sorted(found, key=lambda one: one["authoredOn"])]


WRONG_ID = "IEP-4711"


def test_the_wrong_number_at_the_console_is_found_reconciled_and_read(api: Api) -> None:  # noqa: F811
    """S4x: the technologist typed the visit's number as the patient's. Held; confirmed by the hospital; read; and the
    next slice, and the next exam with the same number, are hers by what was taught."""
    case = Emergency.of(api).accepted()
    study = sent(case, scan := scan_of(case, patient_id=WRONG_ID))
    assert (outcome(study), study["status"]) == ("mismatch", "registered")
    assert evidence(study)["identifier"] == "disagree"
    assert evidence(study)["family-name"] == "agree"
    assert "reference" not in study["subject"]
    assert case.task("acquire")["status"] == "on-hold"

    assert "reason" in refusal(asked(case.hospital, study, "reconcile", action="confirm"), 400)
    now = good(asked(case.hospital, study, "reconcile", action="confirm", reason="Numéro de passage saisi"))
    assert (outcome(now), now["subject"]) == ("matched", {"reference": case.patient_ref})
    assert evidence(now)["decision"] == "confirm"
    assert case.task("acquire")["status"] == "completed"
    assert case.task("read")["status"] == "ready"
    (provenance,) = api.platform.found(f"Provenance?target=ImagingStudy/{study['id']}")
    assert provenance["reason"] == [{"text": "Numéro de passage saisi"}]
    assert provenance["activity"]["coding"][0]["code"] == "confirm"

    later = phantom.series(replace(scan, slices=3))
    store(case, later[2:])
    assert outcome(study_of(api.platform, scan.study_uid)) == "matched"
    second = Emergency(api, case.hospital, patient=case.patient)
    second.order = case.hospital.create(
        builders.service_request(case.patient_ref, authoredOn=None, reasonCode=[{"text": "Contrôle"}])
    )
    assert outcome(sent(second, scan_of(second, patient_id=WRONG_ID, study_date="20260602"))) == "matched"


def test_what_is_given_of_reconciled_images_says_what_was_sent(api: Api) -> None:  # noqa: F811
    """PS3.3 §C.12.1.1.9: QIDO, metadata and instances carry the corrected traits with the original attributes; what is
    stored stays as it came."""
    case = Emergency.of(api).accepted()
    scan = scan_of(case, patient_id=WRONG_ID, patient_name="AUTRE^NOM")
    study = sent(case, scan)
    good(asked(api.regulator, study, "reconcile", action="attach", order=case.order_ref, reason="Vue sur place"))

    right = case.patient["identifier"][0]["value"]
    root = "/dicom-web"
    (row,) = case.hospital.ask("GET", f"{root}/studies?PatientID={right}&includefield=all").get_json()
    assert row["00100020"]["Value"] == [right]
    assert case.hospital.ask("GET", f"{root}/studies?PatientID={WRONG_ID}").status_code == 204
    (header, *_) = case.hospital.ask("GET", f"{root}/studies/{scan.study_uid}/metadata").get_json()
    for said in (row, header):
        assert said["00100020"]["Value"] == [right]
        (original,) = said[COERCED]["Value"]
        (before,) = original["04000550"]["Value"]
        assert before["00100020"]["Value"] == [WRONG_ID]
        assert original["04000565"]["Value"] == ["CORRECT"]
    path = f"{root}/studies/{scan.study_uid}/series/{scan.series_uid}/instances/{scan.sop_uid(1)}"
    for accept in ("application/dicom; transfer-syntax=*", "application/dicom"):
        answer = case.hospital.ask("GET", path, Accept=accept)
        assert answer.status_code == 200, answer.get_data(as_text=True)
        given = pydicom.dcmread(io.BytesIO(answer.get_data()))
        assert given.PatientID == right
        assert str(given.PatientName) == "Essai^Camille"
        (item,) = given.OriginalAttributesSequence
        assert item.ModifiedAttributesSequence[0].PatientID == WRONG_ID
        assert str(item.ModifiedAttributesSequence[0].PatientName) == "AUTRE^NOM"
        assert given.PixelData == pydicom.dcmread(io.BytesIO(phantom.series(scan)[0])).PixelData
    store(case, phantom.series(scan))  # as stored: the same object sent again
    accept = 'multipart/related; type="application/dicom"'
    whole = case.hospital.ask("GET", f"{root}/studies/{scan.study_uid}", Accept=accept)
    assert whole.get_data().count(WRONG_ID.encode()) == 2  # in the original attributes of each instance alone


def test_images_without_an_order_are_attached(api: Api) -> None:  # noqa: F811
    """A number that nobody knows: unmatched, found by its tag, attached to the order by the regulator on duty."""
    case = Emergency.of(api).accepted()
    study = sent(case, scan_of(case, accession_number="NOBODYS"))
    assert outcome(study) == "unmatched"
    assert [one["id"] for one in api.regulator.found(f"ImagingStudy?_tag={MATCHING}|unmatched")] == [study["id"]]
    now = good(asked(api.regulator, study, "reconcile", action="attach", order=case.order_ref, reason="Appel"))
    assert (outcome(now), now["basedOn"]) == ("matched", [{"reference": case.order_ref}])
    assert case.task("read")["status"] == "ready"
    good(put(case.hospital, case.order, note=[{"text": "Corrigé"}]))  # a change of the order does not undo it
    api.settled()
    assert outcome(study_of(api.platform, scan_of(case, accession_number="NOBODYS").study_uid)) == "matched"


def test_images_that_are_not_hers_are_detached_for_good(api: Api) -> None:  # noqa: F811
    """Joined by a wrong worklist entry, traits and all: taken off the order, and no later slice undoes that."""
    case = Emergency.of(api).accepted()
    study = sent(case, scan := scan_of(case))
    assert outcome(study) == "matched"
    now = good(asked(case.hospital, study, "reconcile", action="detach", reason="Mauvaise entrée de liste"))
    assert (outcome(now), "basedOn" in now, "reference" in now["subject"]) == ("unmatched", False, False)
    store(case, phantom.series(replace(scan, slices=3))[2:])
    assert outcome(study_of(api.platform, scan.study_uid)) == "unmatched"
    assert acquisitions(case) == ["completed", "requested"]  # the case waits for images again
    assert case.task("read")["status"] == "on-hold"
    good(asked(case.hospital, study, "reconcile", action="attach", order=case.order_ref, reason="C'était bien elle"))
    assert outcome(study_of(api.platform, scan.study_uid)) == "matched"


def other_series(scan: Phantom, **wrong: str) -> list[bytes]:
    """A second series of the same study, of somebody else."""
    found = []
    for number, data in enumerate(phantom.series(scan), 1):
        one = pydicom.dcmread(io.BytesIO(data))
        one.SeriesInstanceUID, one.SOPInstanceUID = "2.25.31", f"2.25.31.{number}"
        one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
        for name, value in wrong.items():
            setattr(one, name, value)
        output = io.BytesIO()
        one.save_as(output)
        found.append(output.getvalue())
    return found


def test_a_study_of_two_patients_is_split(api: Api) -> None:  # noqa: F811
    """Two patients under one Study Instance UID: the foreign series becomes a study of its own, later slices follow it,
    and the case goes on with what is hers."""
    case = Emergency.of(api).accepted()
    scan = scan_of(case)
    foreign = other_series(scan, PatientID="IPP-AUTRE", PatientName="AUTRE^JEAN", PatientSex="M")
    store(case, phantom.series(scan) + foreign[:1])
    study = study_of(api.platform, scan.study_uid)
    assert outcome(study) == "mismatch"
    assert "split" in refusal(asked(case.hospital, study, "reconcile", action="split", reason="Deux patients"), 422)

    made = good(asked(case.hospital, study, "reconcile", action="split", series="2.25.31", reason="Deux patients"))
    assert (outcome(made), made["numberOfInstances"]) == ("unmatched", 1)
    new_uid = made["identifier"][0]["value"].removeprefix("urn:oid:")
    assert new_uid != scan.study_uid
    store(case, foreign)
    assert study_of(api.platform, new_uid)["numberOfInstances"] == 2
    now = study_of(api.platform, scan.study_uid)
    assert (outcome(now), now["numberOfInstances"], now["numberOfSeries"]) == ("matched", 2, 1)
    assert case.task("read")["status"] == "ready"
    (one, _) = case.hospital.ask("GET", f"/dicom-web/studies/{new_uid}/metadata").get_json()
    assert one["0020000D"]["Value"] == [new_uid]
    assert one[COERCED]["Value"][0]["04000550"]["Value"][0]["0020000D"]["Value"] == [scan.study_uid]


def test_rejected_images_are_gone_everywhere_and_taken_again(api: Api) -> None:  # noqa: F811
    """IOCM: rejected by the technologist, they are given by no door; the acquisition is open again, and the retake in a
    new series is read."""
    case = Emergency.of(api).accepted()
    study = sent(case, scan := scan_of(case))
    assert case.task("read")["status"] == "ready"
    assert "code" in refusal(asked(case.hospital, study, "reject", reason="Bougé", code="7"), 400)
    now = good(asked(case.hospital, study, "reject", reason="Bougé", code="113001"))
    assert now["status"] == "cancelled"
    for who in (case.hospital, api.radiologist):
        assert who.ask("GET", f"/dicom-web/studies?StudyInstanceUID={scan.study_uid}").status_code == 204
        assert who.ask("GET", f"/dicom-web/studies/{scan.study_uid}").status_code == 410
    assert acquisitions(case) == ["completed", "requested"]
    assert case.task("read")["status"] == "on-hold"
    store(case, phantom.series(scan))
    assert study_of(api.platform, scan.study_uid)["status"] == "cancelled"
    again = other_series(scan)
    store(case, again)
    retaken = study_of(api.platform, scan.study_uid)
    assert (retaken["status"], retaken["numberOfInstances"]) == ("available", 2)
    assert acquisitions(case) == ["completed", "completed"]
    assert case.task("read")["status"] == "ready"
    restored = good(asked(case.hospital, study, "reconcile", action="restore", reason="Finalement lisibles"))
    assert restored["numberOfInstances"] == 4


def test_two_orders_with_one_number_are_told_at_once(api: Api) -> None:  # noqa: F811
    """A number that is open for another patient is refused at order time; one patient may have two orders of it."""
    case = Emergency.of(api)
    number = next(one for one in case.order["identifier"] if one.get("type"))
    other = api.hospital_a.create(builders.patient("Autre"))
    order = builders.service_request(f"Patient/{other['id']}", authoredOn=None, identifier=[number])
    answer = api.hospital_a.post("ServiceRequest", order)
    assert "number" in refusal(answer, 409)
    assert answer.get_json()["issue"][0]["expression"] == ["ServiceRequest.identifier"]
    same = builders.service_request(case.patient_ref, authoredOn=None, identifier=[number])
    assert api.hospital_a.post("ServiceRequest", same).status_code == 201
    elsewhere = api.hospital_b.create(builders.patient("Ailleurs"))
    there = builders.service_request(f"Patient/{elsewhere['id']}", authoredOn=None, identifier=[number])
    assert api.hospital_b.post("ServiceRequest", there).status_code == 201


def test_nobody_else_decides(api: Api) -> None:  # noqa: F811
    """Another hospital does not see the study; a reader and an image viewer do, and do not decide."""
    case = Emergency.of(api).accepted()
    study = sent(case, scan_of(case, patient_id=WRONG_ID))
    for who, status in ((api.hospital_b, 404), (api.radiologist, 403), (api.viewer, 403)):
        assert asked(who, study, "reconcile", action="confirm", reason="x").status_code == status
    foreign = Emergency.of(api, api.hospital_b)
    refused = asked(case.hospital, study, "reconcile", action="attach", order=foreign.order_ref, reason="x")
    assert "no such order" in refusal(refused, 422)
    assert outcome(study_of(api.platform, scan_of(case, patient_id=WRONG_ID).study_uid)) == "mismatch"


def test_too_little_evidence_is_marked_for_the_reader(api: Api) -> None:  # noqa: F811
    """`to-confirm`: read in an emergency, and everybody sees that nobody has confirmed whose images they are."""
    case = Emergency.of(api).accepted()
    study = sent(case, scan_of(case, patient_name="", patient_birth_date=""))
    assert (outcome(study), study["status"]) == ("to-confirm", "available")
    assert evidence(study)["family-name"] == "absent"
    reading = case.task("read")
    assert (reading["status"], reading["statusReason"]["coding"][0]["code"]) == ("ready", "identity-to-confirm")
    assert case.task("acquire")["statusReason"]["coding"][0]["code"] == "identity-to-confirm"
    good(asked(case.hospital, study, "reconcile", action="confirm", reason="Bracelet vérifié"))
    assert "statusReason" not in case.task("read")


def decided(api: Api, name: str, value: Any) -> None:  # noqa: F811
    """The platform's policy."""
    with api.services.store.work(Caller.system("platform")) as uow:
        policies.decide(uow, name, Where(), value, reason="convention")


def test_by_policy_images_to_confirm_hold_the_acquisition(api: Api) -> None:  # noqa: F811
    """Nothing is read of them until somebody has looked at the wristband."""
    decided(api, "to-confirm-holds", True)
    case = Emergency.of(api).accepted()
    study = sent(case, scan_of(case, patient_name="", patient_birth_date=""))
    held = case.task("acquire")
    assert (held["status"], held["statusReason"]["coding"][0]["code"]) == ("on-hold", "identity-to-confirm")
    assert api.platform.found(f"Task?focus={case.order_ref}&code={TELERADIOLOGY_TASK}|read") == []
    good(asked(case.hospital, study, "reconcile", action="confirm", reason="Bracelet vérifié"))
    assert case.task("read")["status"] == "ready"


def test_by_policy_a_number_of_another_is_marked_not_refused(api: Api) -> None:  # noqa: F811
    """The order is taken, and says that its number is also another's; images go to the patient who agrees."""
    decided(api, "duplicate-accession", "warn")
    case = Emergency.of(api).accepted()
    number = next(one for one in case.order["identifier"] if one.get("type"))
    other = api.hospital_a.create(builders.patient("Autre"))
    made = api.hospital_a.create(
        builders.service_request(f"Patient/{other['id']}", authoredOn=None, identifier=[number])
    )
    assert [one["code"] for one in made["meta"]["tag"]] == ["duplicate-accession"]
    now = sent(case, scan_of(case))
    assert (outcome(now), now["basedOn"]) == ("matched", [{"reference": case.order_ref}])
