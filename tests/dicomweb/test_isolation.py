"""The organisation predicate on every DICOMweb route: foreign and absent answer the same (DESIGN §6)."""

from __future__ import annotations

import io

import pydicom
import pytest

from dicomweb.phantom import Phantom
from tests.dicomweb.conftest import Service, stow
from tests.support import PLATFORM

ROUTES = (
    "/studies/{study}",
    "/studies/{study}/metadata",
    "/studies/{study}/rendered",
    "/studies/{study}/thumbnail",
    "/studies/{study}/series",
    "/studies/{study}/instances",
    "/studies/{study}/series/{series}",
    "/studies/{study}/series/{series}/metadata",
    "/studies/{study}/series/{series}/instances",
    "/studies/{study}/series/{series}/rendered",
    "/studies/{study}/series/{series}/thumbnail",
    "/studies/{study}/series/{series}/instances/{instance}",
    "/studies/{study}/series/{series}/instances/{instance}/metadata",
    "/studies/{study}/series/{series}/instances/{instance}/rendered",
    "/studies/{study}/series/{series}/instances/{instance}/thumbnail",
    "/studies/{study}/series/{series}/instances/{instance}/frames/1",
    "/studies/{study}/series/{series}/instances/{instance}/frames/1/rendered",
    "/studies/{study}/series/{series}/instances/{instance}/bulkdata/7FE00010",
)


def test_a_foreign_study_answers_as_an_absent_one(service: Service, files: list[bytes], small: Phantom) -> None:
    """L-tests: status, body and headers of a foreign UID are those of a UID that nobody has."""
    stow(service.client("hospital-a"), files)
    values = {"study": small.study_uid, "series": small.series_uid, "instance": small.sop_uid(1)}
    client = service.client("hospital-b")
    for address in (f"/dicom-web{prefix}{route}" for prefix in ("", "/owners/hospital-a") for route in ROUTES):
        named = {"X-Request-Id": "the-same"}
        foreign = client.get(address.format(**values), headers=named)
        absent = client.get(address.format(**{**values, "study": "1.2.3.4"}), headers=named)

        assert foreign.status_code == 404, address
        assert (foreign.data, dict(foreign.headers)) == (absent.data, dict(absent.headers)), address
        reasons = [access.outcome for access in service.trail.disclosed[-2:]]
        assert reasons == ["8", "4"], address  # the record alone tells them apart


@pytest.mark.parametrize("address", ["/studies", "/series", "/instances", "/studies?AccessionNumber=ACC-1"])
def test_a_search_finds_nothing_of_another_hospital(service: Service, files: list[bytes], address: str) -> None:
    """PS3.18 §10.6.3: no match is 204."""
    stow(service.client("hospital-a"), files)

    assert service.client("hospital-b").get("/dicom-web" + address).status_code == 204
    assert service.client("hospital-a").get("/dicom-web" + address).status_code == 200
    assert service.client(PLATFORM).get("/dicom-web" + address).status_code == 200


def renamed(files: list[bytes], name: str) -> list[bytes]:
    """The same UIDs, other content."""
    changed = []
    for data in files:
        dataset = pydicom.dcmread(io.BytesIO(data))
        dataset.PatientName = name
        output = io.BytesIO()
        dataset.save_as(output)
        changed.append(output.getvalue())
    return changed


def test_two_hospitals_with_the_same_uids_know_nothing_of_each_other(
    service: Service, files: list[bytes], small: Phantom
) -> None:
    """Neither a conflict, nor a count, nor a byte tells the one about the other; the platform never mixes them."""
    theirs = renamed(files, "Autre^Patient")
    assert stow(service.client("hospital-a"), files).status_code == 200
    assert stow(service.client("hospital-b"), theirs).status_code == 200

    address = f"/dicom-web/studies/{small.study_uid}"
    for organization, name in (("hospital-a", "Fantôme^Tête"), ("hospital-b", "Autre^Patient")):
        (study,) = service.client(organization).get("/dicom-web/studies").get_json(force=True)
        assert study["00100010"]["Value"] == [{"Alphabetic": name}]
        assert study["00201208"]["Value"] == [4]
        metadata = service.client(organization).get(f"{address}/metadata").get_json(force=True)
        assert {one["00100010"]["Value"][0]["Alphabetic"] for one in metadata} == {name}
    platform = service.client(PLATFORM)
    urls = [one["00081190"]["Value"][0] for one in platform.get("/dicom-web/studies").get_json(force=True)]
    assert len(set(urls)) == 2
    for url in urls:
        metadata = platform.get(url[url.index("/dicom-web") :] + "/metadata").get_json(force=True)
        assert len(metadata) == 4
        assert len({one["00100010"]["Value"][0]["Alphabetic"] for one in metadata}) == 1
    assert platform.get(f"{address}/metadata").status_code == 409  # which is meant it cannot know


def test_an_instance_is_found_under_its_own_study_only(service: Service, files: list[bytes], small: Phantom) -> None:
    """PS3.18 §10.4.3: a path whose parts do not belong together names nothing."""
    other = Phantom(slices=1, side=8, patient_id="IPP-9")
    from dicomweb.phantom import series

    stow(service.client(), files)
    stow(service.client(), series(other))
    wrong = f"/dicom-web/studies/{other.study_uid}/series/{small.series_uid}/instances/{small.sop_uid(1)}"

    assert service.client().get(wrong).status_code == 404


def test_nobody_stores_for_another_organization(service: Service, files: list[bytes]) -> None:
    """The owner is the caller's organisation, whatever the address says."""
    answer = stow(service.client("hospital-b"), files, "/dicom-web/owners/hospital-a/studies")

    assert answer.status_code == 404


def test_without_the_scope_nothing_is_stored_or_found(service: Service, files: list[bytes], small: Phantom) -> None:
    """403, on record."""
    stow(service.client(), files)
    service.permit.forbidden.add(("hospital-a", "ImagingStudy"))

    for answer in (
        stow(service.client(), files),
        service.client().get("/dicom-web/studies"),
        service.client().get(f"/dicom-web/studies/{small.study_uid}"),
    ):
        assert answer.status_code == 403
        assert service.trail.disclosed[-1].outcome == "8"
