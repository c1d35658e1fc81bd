"""Stored rows and the ImagingStudy: joined to the order, kept apart on a mismatch, whatever comes first."""

from __future__ import annotations

import io
from typing import Any

import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from dicomweb import joining, part10, publishing
from dicomweb.batches import Batch, Origin
from dicomweb.matching import MATCHING
from dicomweb.phantom import Phantom, series
from dicomweb.publishing import Publisher
from resources import validation
from resources.json import Json
from store.access import Caller, Interaction
from tests.dicomweb.conftest import Service, stow
from tests.support import PLATFORM, caller, patient, service_request


def identified(**more: Any) -> Json:
    name = [{"family": "Fantôme", "given": ["Tête"]}]
    identifier = [{"system": "urn:oid:1.2.250.1.1", "value": "IPP-1"}]
    return {**patient(name=name, identifier=identifier, birthDate="1950-01-01"), **more}


def order(subject: str, accession: str = "ACC-1", **more: Any) -> Json:
    identifier = {
        "type": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "ACSN"}]},
        "system": "urn:oid:1.2.3", "value": accession,
    }
    return service_request(subject, identifier=[identifier], **more)


def tag(study: Json) -> str:
    return next(one["code"] for one in study["meta"]["tag"] if one["system"] == MATCHING)


def only(service: Service) -> Json:
    (study,) = service.resources("ImagingStudy")
    assert validation.validate(study) == []
    return study


def test_a_study_is_joined_to_its_order_by_accession_number(service: Service, files: list[bytes]) -> None:
    """ImagingStudy.basedOn and subject are the order's."""
    who = service.create(identified())
    what = service.create(order(who))
    stow(service.client(), files)

    study = only(service)
    assert study["basedOn"] == [{"reference": what}]
    assert study["subject"] == {"reference": who}
    assert (tag(study), study["status"]) == ("matched", "available")
    assert study["identifier"][1]["system"] == "urn:oid:1.2.3"  # the order's, so that one search finds both
    published = [one for one in service.trail.appended if one.interaction is Interaction.DICOM_STORE]
    assert (published[-1].patients, published[-1].derived) == ((who,), True)


def test_a_study_without_order_is_kept_and_visible_as_such(service: Service, files: list[bytes]) -> None:
    """Issue 2 §7: unmatched studies are kept and can be searched by their tag."""
    stow(service.client(), files)

    study = only(service)
    assert tag(study) == "unmatched"
    assert study["subject"]["identifier"]["value"] == "IPP-1"
    assert "basedOn" not in study
    with service.store.work(caller("hospital-a"), write=False) as uow:
        assert len(uow.resources.find("ImagingStudy", [("_tag", f"{MATCHING}|unmatched")])) == 1


def test_an_order_that_comes_after_the_images_joins_them(
    service: Service, files: list[bytes]
) -> None:
    """The join does not depend on which came first."""
    stow(service.client(), files)
    service.settled()
    who = service.create(identified())
    what = service.create(order(who))

    study = only(service)
    assert (tag(study), study["basedOn"]) == ("matched", [{"reference": what}])
    assert study["meta"]["versionId"] == "2"


def test_a_corrected_order_leaves_and_takes_the_study(service: Service, files: list[bytes]) -> None:
    """An order whose accession number is corrected no longer has the study of the wrong one."""
    who = service.create(identified())
    what = service.create(order(who))
    stow(service.client(), files)
    service.update(what, order(who, "ACC-2"))
    assert tag(only(service)) == "unmatched"
    service.update(what, order(who, "ACC-1"))
    assert tag(only(service)) == "matched"


@pytest.mark.parametrize(
    "wrong", [{"birthDate": "1951-02-03"}, {"identifier": [{"system": "urn:x", "value": "OTHER"}]}]
)
def test_a_study_of_another_patient_is_not_joined_silently(
    service: Service, files: list[bytes], wrong: Json
) -> None:
    """S4x: the demographics differ; kept apart, registered and flagged, until the order or the patient is corrected."""
    who = service.create({**identified(), **wrong})
    what = service.create(order(who))
    stow(service.client(), files)

    study = only(service)
    assert (tag(study), study["status"]) == ("mismatch", "registered")
    assert study["basedOn"] == [{"reference": what}]  # what the workflow holds the acquisition by
    assert "reference" not in study["subject"]
    service.update(who, identified())
    assert tag(only(service)) == "matched"


def test_the_order_of_another_hospital_is_never_found(service: Service, files: list[bytes]) -> None:
    """DESIGN §6: nothing about the one hospital is revealed to the other by a match."""
    who = service.create(identified(), "hospital-b")
    service.create(order(who), "hospital-b")
    stow(service.client("hospital-a"), files)

    assert tag(only(service)) == "unmatched"


def test_instances_of_two_patients_in_one_study_are_a_mismatch(service: Service, files: list[bytes]) -> None:
    """One StudyInstanceUID with two PatientIDs is a mix-up at the modality."""
    who = service.create(identified())
    service.create(order(who))
    other = pydicom.dcmread(io.BytesIO(files[0]))
    other.PatientID = "IPP-2"
    output = io.BytesIO()
    other.save_as(output)
    stow(service.client(), [output.getvalue(), *files[1:]])

    assert tag(only(service)) == "mismatch"


def test_what_a_crash_left_unpublished_is_published_by_the_loop(service: Service, files: list[bytes]) -> None:
    """A crash between the commit of the images and the publication loses nothing."""
    ingest = service.imaging.ingest
    batch = Batch(caller("hospital-a"), Origin("c-store"))
    for data in files:
        assert ingest.store_instance(data, batch).result.is_stored
    (loop,) = service.imaging.loops
    assert loop.step() is True
    assert only(service)["numberOfInstances"] == 4
    assert loop.step() is False


def test_an_unchanged_study_gets_no_new_version(service: Service, files: list[bytes]) -> None:
    """Instances sent again add nothing, so there is nothing new to say."""
    stow(service.client(), files)
    assert stow(service.client(), files).status_code == 200

    assert only(service)["meta"]["versionId"] == "1"


def test_what_others_added_to_the_study_is_kept(service: Service, files: list[bytes]) -> None:
    """The mapping owns its elements and no other."""
    stow(service.client(), files[:2])
    study = only(service)
    service.update(f"ImagingStudy/{study['id']}", {**study, "note": [{"text": "motion"}]})
    stow(service.client(), files[2:])

    study = only(service)
    assert study["note"] == [{"text": "motion"}]
    assert study["numberOfInstances"] == 4


def two_series() -> list[bytes]:
    first = Phantom(slices=3, side=8, accession_number="ACC-1", patient_id="IPP-1")
    files = series(first)
    for number, data in enumerate(list(files)):
        dataset = pydicom.dcmread(io.BytesIO(data))
        dataset.SeriesInstanceUID = "2.25.99"
        dataset.SeriesNumber = 2
        dataset.Modality = "SR" if number == 1 else "CT"
        dataset.StudyDescription = f"of instance {number}"
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"2.25.{700 + number}"
        output = io.BytesIO()
        dataset.save_as(output)
        files.append(output.getvalue())
    return files


EXPECTED: dict[str, str] = {}


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whatever_the_order_and_the_door_the_imaging_study_is_the_same(service: Service, data: st.DataObject) -> None:
    """DESIGN §8: one door. Any arrival order, any split into batches, either protocol."""
    files = two_series()
    organization = f"hospital-{data.draw(st.integers(0, 10**9))}"
    order_of = data.draw(st.permutations(range(len(files))))
    doors = data.draw(st.lists(st.booleans(), min_size=len(files), max_size=len(files)))
    cut = data.draw(st.integers(0, len(files)))
    ingest = service.imaging.ingest
    for batch_numbers in (order_of[:cut], order_of[cut:]):
        batch = Batch(caller(organization), Origin("stow-rs"))
        for number in batch_numbers:
            stored = files[number]
            part = part10.parse(stored)
            if doors[number]:  # as DIMSE composes it: other file meta information, the same data set
                meta = bytes(part.head[132:])
                part = part10.compose(
                    meta, bytes(part.body), sop_class_uid=part.sop_class_uid,
                    sop_instance_uid=part.sop_instance_uid, transfer_syntax_uid=part.transfer_syntax_uid,
                )
            assert ingest.store_instance(part if doors[number] else stored, batch).result.is_stored
        ingest.finish(batch)
    (study,) = [
        one for one in service.resources("ImagingStudy")
        if one["identifier"][1]["system"].endswith(f"/{organization}")
    ]
    text = repr({k: v for k, v in study.items() if k not in {"id", "meta", "contained"}}).replace(organization, "")
    assert text == EXPECTED.setdefault("study", text)


def test_the_platform_sees_the_study_and_the_owner_is_the_hospital(service: Service, files: list[bytes]) -> None:
    """DESIGN §6: hospital resources are visible to that hospital and to the platform."""
    stow(service.client("hospital-a"), files)
    service.settled()
    seen = {}
    for organization in ("hospital-a", PLATFORM, "hospital-b"):
        with service.store.work(caller(organization), write=False) as uow:
            seen[organization] = [version.owner for version in uow.resources.find("ImagingStudy", [])]
    assert seen == {"hospital-a": ["hospital-a"], PLATFORM: ["hospital-a"], "hospital-b": []}


def test_a_study_that_cannot_be_published_stops_no_other(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """house.md A1: the loop published twenty by age, and one that failed stopped all later ones for ever."""
    batch = Batch(caller("hospital-a"), Origin("c-store"))
    bad = publishing.AT_ONCE + 2
    for number in range(bad + 1):
        uid = f"1.2.826.0.1.3680043.10.999.5.{number}"
        (file,) = series(Phantom(slices=1, side=8, study_instance_uid=uid))
        assert service.imaging.ingest.store_instance(file, batch).result.is_stored
        service.store.now.advance(seconds=1)  # type: ignore[attr-defined]
    whole = Publisher.publish_row

    def publish_row(publisher: Publisher, uow: Any, row: Any) -> str:
        if row.study_instance_uid.endswith(f".{bad}"):
            return whole(publisher, uow, row)
        raise RuntimeError("a study that breaks")

    monkeypatch.setattr(Publisher, "publish_row", publish_row)
    (loop,) = service.imaging.loops
    with capture_logs() as told:
        assert [loop.step() for _ in range(3)] == [True, True, False]
    with service.store.work(Caller.system(PLATFORM), write=False) as uow:
        assert uow.system.count("ImagingStudy", []) == 1
    assert {one["event"] for one in told} == {"an item of a loop failed"}
    assert len(told) == bad
    monkeypatch.setattr(Publisher, "publish_row", whole)
    assert loop.rest_s > 0  # not yet again
    assert len(service.resources("ImagingStudy")) == bad + 1


def test_an_accession_number_of_a_thousand_orders_tells_none(
    service: Service, files: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """house.md A1: of other hospitals they count for nothing, of the same one the study is kept apart."""
    who = service.create(identified(), "hospital-b")
    with service.store.work(caller("hospital-b")) as uow:
        for _ in range(1001):
            uow.resources.create("ServiceRequest", order(who))
    own = service.create(identified())
    what = service.create(order(own))
    stow(service.client(), files)
    assert only(service)["basedOn"] == [{"reference": what}]
    monkeypatch.setattr(joining, "ORDERS_MAX", 5)
    with service.store.work(caller("hospital-a")) as uow:
        for _ in range(5):
            uow.resources.create("ServiceRequest", order(own))
    assert (tag(only(service)), only(service)["status"]) == ("mismatch", "registered")
