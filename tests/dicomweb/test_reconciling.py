"""What people decide about images lasts, and one truth is told: each state × each door.

DICOM PS3.3 §C.12.1.1.9 (Original Attributes), PS3.18 §10.4.3, IHE RAD PIR, docs/decisions/0023-reconciliation.md
"""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from sqlalchemy import select

from dicomweb import corrections, decisions, notes, pixelworker
from dicomweb.matching import EVIDENCE
from dicomweb.phantom import Phantom, series
from dicomweb.reconciling import Request
from dicomweb.tables import image_link
from resources.json import Json
from resources.outcomes import BadRequest, Forbidden, ForbiddenTransition, NotFound
from store.access import Version
from tests.dicomweb.conftest import Service, stow
from tests.dicomweb.test_publishing import identified, only, order, tag
from tests.dicomweb.test_rejecting import asked
from tests.support import PLATFORM, caller

WRONG = Phantom(slices=4, side=32, accession_number="ACC-1", patient_id="PASSAGE-9")


def decide(service: Service, action: str, *, organization: str = "hospital-a", role: str = "", **more: Any) -> Version:
    """A decision about the only study."""
    study, reconciliation = only(service), service.imaging.reconciliation
    asked_for = Request(action, more.pop("reason", "vu sur place"), **more)
    with service.store.work(caller(organization, role=role)) as uow:
        carry = reconciliation.reject if action == "reject" else reconciliation.reconcile
        return carry(uow, study["id"], asked_for)


def ordered(service: Service, accession: str = "ACC-1", **more: Any) -> tuple[str, str]:
    who = service.create(identified(**more))
    return who, service.create(order(who, accession))


def links(service: Service) -> list[tuple[str, str]]:
    with service.store.database.glance() as connection:
        return [(row.value, row.patient) for row in connection.execute(select(image_link)).all()]


# What a decision does, and how long


def test_a_confirmed_study_stays_so_and_teaches_the_number(service: Service) -> None:
    """Nor the next slice nor a change of the patient undoes it; detached, the number is forgotten."""
    who, what = ordered(service)
    stow(service.client(), series(WRONG)[:2])
    assert tag(only(service)) == "mismatch"
    decide(service, "confirm")
    stow(service.client(), series(WRONG)[2:])
    service.update(who, identified(gender="female"))
    study = only(service)
    assert (tag(study), study["basedOn"], study["subject"]) == ("matched", [{"reference": what}], {"reference": who})
    assert links(service) == [("PASSAGE-9", who)]

    other = replace(WRONG, accession_number="ACC-2", study_date="20260602")
    service.create(order(who, "ACC-2"))
    stow(service.client(), series(other))
    found = {tag(one) for one in service.resources("ImagingStudy")}
    assert found == {"matched"}


def test_a_decision_does_not_cover_a_further_person(service: Service) -> None:
    """What its author could not see: a later slice of somebody else is a mismatch again, and nothing is coerced."""
    ordered(service)
    files = series(WRONG)
    stow(service.client(), files[:2])
    decide(service, "confirm")
    other = pydicom.dcmread(io.BytesIO(files[2]))
    other.PatientName, other.PatientID, other.PatientBirthDate = "TIERS^PAUL", "X-77", "19990909"
    output = io.BytesIO()
    other.save_as(output)
    stow(service.client(), [output.getvalue()])

    study = only(service)
    assert (tag(study), study["status"], "reference" in study["subject"]) == ("mismatch", "registered", False)
    for header in service.client().get(f"/dicom-web/studies/{WRONG.study_uid}/metadata").get_json():
        assert "04000561" not in header


def test_the_number_of_another_patient_is_never_taught(service: Service) -> None:
    """The wrong worklist entry: what is hers by decision keeps no number that is somebody else's own."""
    who, what = ordered(service)
    service.create(identified(identifier=[{"system": "urn:oid:1.2.250.1.1", "value": "PASSAGE-9"}]))
    stow(service.client(), series(WRONG))
    decide(service, "attach", order=what)
    assert tag(only(service)) == "matched"
    assert links(service) == []
    assert who  # and of a person with other traits nothing is taught at all
    stow(service.client(), series(replace(WRONG, patient_id="N-1", patient_name="AUTRE^X", accession_number="Z")))
    (strange,) = [one for one in service.resources("ImagingStudy") if tag(one) == "unmatched"]
    with service.store.work(caller("hospital-a")) as uow:
        service.imaging.reconciliation.reconcile(uow, strange["id"], Request("attach", "x", patient=who))
    assert links(service) == []


def test_what_was_taught_follows_a_merged_record(service: Service) -> None:
    """R4 Patient.link: two records of one person are one, also for the numbers that people linked to the first."""
    who, _ = ordered(service)
    stow(service.client(), series(WRONG))
    decide(service, "confirm")
    survivor = service.create(identified())
    service.update(who, identified(active=False, link=[{"other": {"reference": survivor}, "type": "replaced-by"}]))
    service.create(order(survivor, "ACC-2"))
    stow(service.client(), series(replace(WRONG, accession_number="ACC-2", study_date="20260602")))
    subjects = [one["subject"].get("reference") for one in service.resources("ImagingStudy")]
    assert subjects == [survivor, survivor]


def test_detached_is_detached_until_somebody_decides_otherwise(service: Service, files: list[bytes]) -> None:
    _, what = ordered(service)
    stow(service.client(), files[:2])
    assert tag(only(service)) == "matched"
    decide(service, "detach")
    stow(service.client(), files[2:])
    service.update(what, order(only_patient(service), "ACC-1", note=[{"text": "x"}]))
    assert (tag(only(service)), "basedOn" in only(service)) == ("unmatched", False)
    decide(service, "attach", order=what)
    assert tag(only(service)) == "matched"


def only_patient(service: Service) -> str:
    (found,) = service.resources("Patient")
    return f"Patient/{found['id']}"


def test_the_decision_is_told_with_the_traits(service: Service) -> None:
    ordered(service)
    stow(service.client(), series(WRONG))
    decide(service, "confirm")
    (said,) = [one for one in only(service)["extension"] if one["url"] == EVIDENCE]
    assert {"url": "decision", "valueCode": "confirm"} in said["extension"]
    assert {"url": "identifier", "valueCode": "agree"} in said["extension"]  # by what was taught


REFUSED: dict[str, tuple[Json, type[Exception]]] = {
    "no reason": ({"action": "confirm", "reason": " "}, BadRequest),
    "no such action": ({"action": "burn"}, BadRequest),
    "attach to nothing": ({"action": "attach"}, BadRequest),
    "attach to no order": ({"action": "attach", "order": "ServiceRequest/none"}, ForbiddenTransition),
    "attach to no patient": ({"action": "attach", "patient": "Patient/none"}, ForbiddenTransition),
    "confirm of what is named": ({"action": "confirm", "order": "ServiceRequest/o"}, BadRequest),
    "detach from what is named": ({"action": "detach", "patient": "Patient/p"}, BadRequest),
    "split of nothing": ({"action": "split"}, ForbiddenTransition),
    "split of all": ({"action": "split", "series": (WRONG.series_uid,)}, ForbiddenTransition),
    "restore of what is shown": ({"action": "restore"}, ForbiddenTransition),
    "reject without a code": ({"action": "reject", "code": 1}, BadRequest),
    "reject of a series that is not there": ({"action": "reject", "code": 113001, "series": ("1.2.3",)},
                                             ForbiddenTransition),
    "reject of what is no UID": ({"action": "reject", "code": 113001, "series": ("x",)}, BadRequest),
    "a reader": ({"action": "confirm", "organization": PLATFORM, "role": "radiologist"}, Forbidden),
    "another hospital": ({"action": "confirm", "organization": "hospital-b"}, NotFound),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_changes_nothing(service: Service, what: str) -> None:
    ordered(service)
    stow(service.client(), series(WRONG))
    before = only(service)
    values, fault = REFUSED[what]
    with pytest.raises(fault):
        decide(service, **values)
    assert only(service) == before


def test_the_platforms_support_decides_too(service: Service) -> None:
    ordered(service)
    stow(service.client(), series(WRONG))
    decide(service, "confirm", organization=PLATFORM, role="support")
    assert tag(only(service)) == "matched"
    (provenance,) = service.resources("Provenance")
    assert provenance["agent"] == [{"who": {"type": "Organization", "display": PLATFORM}}]  # not kept as a resource


def test_what_is_rejected_is_restored_by_a_decision_alone(service: Service, files: list[bytes]) -> None:
    ordered(service)
    stow(service.client(), files)
    small = Phantom(slices=4, side=32, accession_number="ACC-1", patient_id="IPP-1")
    decide(service, "reject", code=notes.QUALITY)
    assert asked(service, small)["WADO study"] == 410
    with pytest.raises(ForbiddenTransition):
        decide(service, "confirm")
    decide(service, "restore")
    assert set(asked(service, small).values()) == {200}
    decide(service, "reject", code=notes.SAFETY, instances=(small.sop_uid(2),))
    assert only(service)["numberOfInstances"] == 3
    assert asked(service, small)["WADO instance"] == 410


# One truth: each state × each door

STATES: dict[str, tuple[Phantom, list[Json], str, str]] = {
    "matched": (replace(WRONG, patient_id="IPP-1"), [], "matched", "available"),
    "to-confirm": (replace(WRONG, patient_id="IPP-1", patient_name="", patient_birth_date=""), [], "to-confirm",
                   "available"),
    "mismatch": (WRONG, [], "mismatch", "registered"),
    "unmatched": (replace(WRONG, accession_number="NONE"), [], "unmatched", "available"),
    "confirmed": (WRONG, [{"action": "confirm"}], "matched", "available"),
    "detached": (replace(WRONG, patient_id="IPP-1"), [{"action": "detach"}], "unmatched", "available"),
    **{
        f"{state}, rejected {code}": (scan, [*done, {"action": "reject", "code": code}], outcome, notes.STATUS[code])
        for code in (notes.QUALITY, notes.SAFETY)
        for state, scan, done, outcome in (
            ("matched", replace(WRONG, patient_id="IPP-1"), [], "matched"),
            ("mismatch", WRONG, [], "mismatch"),
            ("confirmed", WRONG, [{"action": "confirm"}], "matched"),
        )
    },
    "rejected and restored": (WRONG, [{"action": "reject", "code": notes.SAFETY}, {"action": "restore"}], "mismatch",
                              "registered"),
}


@pytest.mark.parametrize("state", STATES)
def test_fhir_and_dicom_tell_one_truth(service: Service, state: str) -> None:
    """Status, tag and counts of the ImagingStudy; QIDO at three levels; WADO of study, series, instance, frames,
    metadata, rendered, thumbnail: all give the images, or none does."""
    scan, done, outcome, status = STATES[state]
    ordered(service)
    stow(service.client(), series(scan))
    for one in done:
        decide(service, **one)
    study = only(service)
    shown = status in ("available", "registered")
    assert (tag(study), study["status"], study["numberOfInstances"]) == (outcome, status, 4 if shown else 0)
    for who in ("hospital-a", PLATFORM):
        codes = asked(service, scan, who)
        wrong = {name: code for name, code in codes.items()
                 if code != 200 if shown or code not in ((204, 410) if "QIDO" in name else (410,))}
        assert wrong == {}, who
    assert set(asked(service, scan, "hospital-b").values()) <= {204, 404}
    with service.store.work(caller("hospital-a"), write=False) as uow:
        assert len(uow.resources.find("ImagingStudy", [("status", status)])) == 1


# Original attributes

GIVEN = {
    "tags": sorted((*corrections.OF_PATIENT, *corrections.OF_ORDER)),
    "given": {**corrections.of_patient({**identified(), "gender": "female"}), **corrections.of_number("ACC-9")},
    "when": "20261126170000.000000+0000", "reason": "CORRECT",
}


def test_what_is_corrected_is_beside_what_was_sent() -> None:
    """C.12.1.1.9: only what differs, once; an earlier item is kept; nothing to correct, nothing said."""
    sent = {
        "00080050": {"vr": "SH", "Value": ["ACC-9"]}, "00100010": {"vr": "PN", "Value": [{"Alphabetic": "X^Y"}]},
        "00100020": {"vr": "LO", "Value": ["PASSAGE-9"]}, "00101000": {"vr": "LO", "Value": ["OLD"]},
        "00100030": {"vr": "DA"}, "00280010": {"vr": "US", "Value": [32]},
        "04000561": {"vr": "SQ", "Value": [{"04000563": {"vr": "LO", "Value": ["GATEWAY"]}}]},
    }
    body = corrections.over(sent, GIVEN)
    earlier, mine = body["04000561"]["Value"]
    assert earlier["04000563"]["Value"] == ["GATEWAY"]
    (before,) = mine["04000550"]["Value"]
    assert "00080050" not in before  # it was right
    assert (before["00100020"]["Value"], body["00100020"]["Value"]) == (["PASSAGE-9"], ["IPP-1"])
    assert ("00101000" in body, before["00101000"]["Value"]) == (False, ["OLD"])
    assert body["00280010"] == sent["00280010"]
    assert body["00100010"]["Value"] == [{"Alphabetic": "Fantôme^Tête"}]
    again = {tag_: one for tag_, one in body.items() if tag_ != "04000561"}
    assert corrections.over(again, GIVEN) == again


@pytest.mark.parametrize(
    ("charset", "written", "name"),
    [("ISO_IR 100", "ISO_IR 100", "Fantôme^Tête"), ("ISO_IR 192", "ISO_IR 192", "Fantôme^Tête"),
     (None, "ISO_IR 192", "Fantôme^Tête"), ("ISO_IR 144", "ISO_IR 144", "Fantome^Tete")],
)
def test_a_corrected_file_says_the_same_as_its_header(charset: str | None, written: str, name: str) -> None:
    """Names in the data set's own character set, or without accents; read back as they are meant."""
    dataset = Dataset()
    if charset:
        dataset.SpecificCharacterSet = charset
    dataset.PatientID, dataset.PatientName, dataset.AccessionNumber = "PASSAGE-9", "X^Y", "ACC-1"
    pixelworker.correct(dataset, GIVEN)
    output = io.BytesIO()
    dataset.save_as(output, implicit_vr=False, little_endian=True)
    output.seek(0)
    read = pydicom.dcmread(output, force=True)
    assert (str(read.PatientName), read.PatientID, read.get("SpecificCharacterSet")) == (name, "IPP-1", written)
    (item,) = read.OriginalAttributesSequence
    assert item.ModifiedAttributesSequence[0].PatientID == "PASSAGE-9"
    assert item.ReasonForTheAttributeModification == "CORRECT"


def test_decisions_that_join_are_told_from_others() -> None:
    """A split or a rejection does not say whose the rest is."""
    assert set(decisions.JOINING) == {"confirm", "attach", "detach"}
