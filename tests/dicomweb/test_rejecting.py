"""Images that are taken back are given by no door, whoever took them back and how: FHIR and DICOM are one truth.

IHE RAD TF-1 §36, TF-3 §4.66 (rejection note stored), DICOM PS3.18 §10.4.3 (410), §10.6 (search)
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from dicomweb import notes
from dicomweb.phantom import Phantom, series
from resources.json import Json
from tests.dicomweb.conftest import Service, stow
from tests.dicomweb.test_publishing import identified, only, order, tag
from tests.support import caller


def item(**elements: Any) -> Dataset:
    made = Dataset()
    for name, value in elements.items():
        setattr(made, name, value)
    return made


def rejection(scan: Phantom, code: int, numbers: range, uid: str = "2.25.4711") -> bytes:
    """A rejection note over some slices of the phantom (PS3.3 §A.35.4)."""
    note = item(
        SOPClassUID=notes.KEY_OBJECTS, SOPInstanceUID=uid, StudyInstanceUID=scan.study_uid,
        SeriesInstanceUID=f"{uid}.1", Modality="KO", SeriesNumber=99, InstanceNumber=1, PatientID=scan.patient_id,
        PatientName=scan.patient_name, PatientBirthDate=scan.patient_birth_date, AccessionNumber=scan.accession_number,
    )
    note.ConceptNameCodeSequence = [
        item(CodeValue=str(code), CodingSchemeDesignator="DCM", CodeMeaning=notes.CODES.get(code, "Of Interest"))
    ]
    named = [item(ReferencedSOPClassUID="1.2.840.10008.5.1.4.1.1.2", ReferencedSOPInstanceUID=scan.sop_uid(one))
             for one in numbers]
    in_series = item(SeriesInstanceUID=scan.series_uid, ReferencedSOPSequence=named)
    note.CurrentRequestedProcedureEvidenceSequence = [
        item(StudyInstanceUID=scan.study_uid, ReferencedSeriesSequence=[in_series])
    ]
    note.file_meta = FileMetaDataset()
    note.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    note.file_meta.MediaStorageSOPClassUID = note.SOPClassUID
    note.file_meta.MediaStorageSOPInstanceUID = note.SOPInstanceUID
    output = io.BytesIO()
    note.save_as(output, enforce_file_format=True)
    return output.getvalue()


def doors(scan: Phantom) -> dict[str, str]:
    """Every address that gives the second slice of the phantom, or says that it is there."""
    study = f"/studies/{scan.study_uid}"
    of_series = f"{study}/series/{scan.series_uid}"
    instance = f"{of_series}/instances/{scan.sop_uid(2)}"
    found = {
        "QIDO studies": f"/studies?StudyInstanceUID={scan.study_uid}",
        "QIDO studies by class": "/studies?SOPClassesInStudy=1.2.840.10008.5.1.4.1.1.2",
        "QIDO studies by modality": "/studies?ModalitiesInStudy=CT",
        "QIDO series": f"{study}/series", "QIDO all series": "/series",
        "QIDO instances": f"{of_series}/instances", "QIDO instances of the study": f"{study}/instances",
        "QIDO all instances": f"/instances?SOPInstanceUID={scan.sop_uid(2)}",
        "frames": f"{instance}/frames/1", "frame rendered": f"{instance}/frames/1/rendered",
        "frame thumbnail": f"{instance}/frames/1/thumbnail",
    }
    for name, level in (("study", study), ("series", of_series), ("instance", instance)):
        found |= {f"WADO {name}": level, f"{name} metadata": f"{level}/metadata",
                  f"{name} rendered": f"{level}/rendered", f"{name} thumbnail": f"{level}/thumbnail"}
    return found


ACCEPTS = ("rendered", "thumbnail")


def asked(service: Service, scan: Phantom, organization: str = "hospital-a") -> dict[str, int]:
    """The status of every door."""
    client = service.client(organization)
    found = {}
    for name, path in doors(scan).items():
        accept = "image/jpeg" if name.endswith(ACCEPTS) else "*/*"
        with client.get(f"/dicom-web{path}", headers={"Accept": accept}) as answer:
            found[name] = answer.status_code
    return found


def stored(service: Service, files: list[bytes]) -> Json:
    service.create(order(service.create(identified())))
    assert stow(service.client(), files).status_code == 200
    return only(service)


def by_status(status: str) -> Callable[[Service, Phantom], None]:
    def take_back(service: Service, scan: Phantom) -> None:
        study = only(service)
        service.update(f"ImagingStudy/{study['id']}", {**study, "status": status})

    return take_back


def by_delete(service: Service, scan: Phantom) -> None:
    with service.store.work(caller("hospital-a")) as uow:
        uow.resources.delete("ImagingStudy", only(service)["id"])


def by_note(code: int) -> Callable[[Service, Phantom], None]:
    def take_back(service: Service, scan: Phantom) -> None:
        assert stow(service.client(), [rejection(scan, code, range(1, 5))]).status_code == 200

    return take_back


WAYS: dict[str, tuple[Callable[[Service, Phantom], None], str | None]] = {
    "entered-in-error": (by_status("entered-in-error"), "entered-in-error"),
    "cancelled": (by_status("cancelled"), "cancelled"),
    "deleted": (by_delete, None),
    **{f"note {code}": (by_note(code), notes.STATUS[code]) for code in notes.CODES},
}


def test_every_door_gives_what_is_there(service: Service, files: list[bytes], small: Phantom) -> None:
    """Without this the table below would show nothing."""
    stored(service, files)
    assert set(asked(service, small).values()) == {200}


@pytest.mark.parametrize("way", WAYS)
def test_what_is_taken_back_is_given_by_no_door(
    service: Service, files: list[bytes], small: Phantom, way: str
) -> None:
    """Two truths: each way of taking back × each door, for the hospital and the platform alike."""
    take_back, status = WAYS[way]
    study = stored(service, files)
    take_back(service, small)

    for who in ("hospital-a", "platform"):
        found = asked(service, small, who)
        wrong = {name: code for name, code in found.items() if code not in ((204, 410) if "QIDO" in name else (410,))}
        assert wrong == {}, who
    now = service.resource("ImagingStudy", study["id"])
    if status is None:
        assert now is None
    else:
        assert now is not None
        assert (now["status"], now["numberOfInstances"], now.get("series", [])) == (status, 0, [])
        assert now["basedOn"] == study["basedOn"]  # the order that is to be told


@pytest.mark.parametrize("way", WAYS)
def test_what_was_taken_back_does_not_come_back_by_itself(
    service: Service, files: list[bytes], small: Phantom, way: str
) -> None:
    """The same instances sent again are acknowledged and stay away; further slices of the series too; a new
    acquisition is shown, alone."""
    take_back, _ = WAYS[way]
    stored(service, files[:3])
    take_back(service, small)
    assert stow(service.client(), files[:3]).status_code == 200
    assert asked(service, small)["WADO instance"] == 410
    if not way.startswith("note"):  # a note names instances, a person a study
        assert stow(service.client(), files[3:]).status_code == 200
        assert asked(service, small)["WADO series"] == 410
    again = pydicom.dcmread(io.BytesIO(files[0]))
    again.SeriesInstanceUID, again.SOPInstanceUID = "2.25.7", "2.25.8"
    again.file_meta.MediaStorageSOPInstanceUID = "2.25.8"
    output = io.BytesIO()
    again.save_as(output)
    assert stow(service.client(), [output.getvalue()]).status_code == 200

    study = only(service)
    assert (tag(study), study["status"], study["numberOfInstances"]) == ("matched", "available", 1)
    (found,) = service.client().get(f"/dicom-web/studies?StudyInstanceUID={small.study_uid}").get_json()
    assert (found["00201208"]["Value"], found["00201206"]["Value"]) == ([1], [1])
    (shown,) = service.client().get(f"/dicom-web/studies/{small.study_uid}/instances").get_json()
    assert shown["00080018"]["Value"] == ["2.25.8"]


def test_some_instances_can_be_taken_back(service: Service, files: list[bytes], small: Phantom) -> None:
    """A note over two slices leaves two, in every count, and the attributes are those of what is left."""
    stored(service, files)
    assert stow(service.client(), [rejection(small, notes.QUALITY, range(1, 3))]).status_code == 200

    study = only(service)
    assert (study["status"], study["numberOfInstances"], study["numberOfSeries"]) == ("available", 2, 1)
    assert asked(service, small)["WADO instance"] == 410
    assert asked(service, small)["WADO study"] == 200
    (found,) = service.client().get("/dicom-web/studies").get_json()
    assert found["00201208"]["Value"] == [2]
    assert found["00080061"]["Value"] == ["CT"]  # nor is the note itself an object to look at


def test_a_note_that_comes_first_holds_for_what_it_names(
    service: Service, files: list[bytes], small: Phantom
) -> None:
    """IHE RAD TF-3 §4.66.4.1.3: the order of arrival does not matter."""
    assert stow(service.client(), [rejection(small, notes.SAFETY, range(1, 3))]).status_code == 200
    assert stow(service.client(), files).status_code == 200
    assert only(service)["numberOfInstances"] == 2
    assert asked(service, small)["WADO instance"] == 410


def test_a_key_object_of_interest_takes_nothing_back(service: Service, files: list[bytes], small: Phantom) -> None:
    """Only the titles of CID 7011 reject."""
    stored(service, files)
    assert stow(service.client(), [rejection(small, 113000, range(1, 5))]).status_code == 200
    assert asked(service, small)["WADO instance"] == 200


def test_a_note_of_one_hospital_takes_nothing_of_another(
    service: Service, files: list[bytes], small: Phantom
) -> None:
    """A note is obeyed over the images of who sent it."""
    stored(service, files)
    assert stow(service.client("hospital-b"), [rejection(small, notes.SAFETY, range(1, 5))]).status_code == 200
    assert set(asked(service, small).values()) == {200}


def test_a_status_that_is_taken_back_shows_nothing(service: Service, files: list[bytes], small: Phantom) -> None:
    """Undone only by a decision: the resource cannot say available of what is rejected."""
    stored(service, files)
    by_status("entered-in-error")(service, small)
    by_status("available")(service, small)
    assert only(service)["status"] == "entered-in-error"
    assert asked(service, small)["WADO study"] == 410


def test_a_phantom_is_one_series() -> None:
    """What the doors above are built on."""
    scan = Phantom(slices=2, side=8)
    assert len({pydicom.dcmread(io.BytesIO(one)).SeriesInstanceUID for one in series(scan)}) == 1
