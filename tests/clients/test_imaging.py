"""dicomweb-client and dcmtk, unmodified, against the service: what goes in comes out, and is an ImagingStudy."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
import requests
from dicomweb_client.api import DICOMwebClient
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

from dicomweb import phantom
from dicomweb.phantom import Phantom
from tests.clients.site import Site, until

SYNTAXES = (
    ("CT_small.dcm", "-xe"),
    ("MR_small_implicit.dcm", "-xi"),
    ("MR_small_bigendian.dcm", "-xb"),
    ("SC_rgb_jpeg_gdcm.dcm", "-xs"),
    ("JPGExtended.dcm", "-xx"),
    ("MR_small_jp2klossless.dcm", "-xv"),
    ("MR_small_jpeg_ls_lossless.dcm", "-xt"),
    ("SC_rgb_rle.dcm", "-xr"),
    ("image_dfl.dcm", "-xd"),
)
"""pydicom's file and the option by which storescu proposes its transfer syntax first."""


@pytest.fixture
def viewer(site: Site) -> Iterator[Any]:
    yield from connected(site, "hospital-a")


def connected(site: Site, role: str) -> Iterator[Any]:
    with requests.Session() as session:
        session.trust_env = False
        session.headers["Authorization"] = f"Bearer {site.token(role)}"
        yield DICOMwebClient(f"{site.base}/dicom-web", session=session)


@pytest.fixture
def scan() -> Phantom:
    """A series of more than 1 MB, which dicomweb-client sends chunked. Of nobody that another test knows."""
    mark = uuid.uuid4().hex[:12]
    return Phantom(patient_id=f"P-{mark}", patient_name="Noël^Éloïse", accession_number=f"A-{mark}", slices=8)


def stored(client: Any, files: list[bytes]) -> Any:
    return client.store_instances([pydicom.dcmread(io.BytesIO(content)) for content in files])


def test_a_series_goes_in_and_is_found_at_every_level(viewer: Any, scan: Phantom) -> None:
    """PS3.18 §10.5, §10.6; RFC 9112 §7.1: 8 × 131 kB come chunked; filters, paging, wildcards, an empty answer."""
    files = phantom.series(scan)
    assert sum(map(len, files)) > 1_000_000
    answer = stored(viewer, files)
    assert len(answer.ReferencedSOPSequence) == 8
    assert "FailedSOPSequence" not in answer

    for filters in (
        {"AccessionNumber": scan.accession_number},
        {"PatientID": scan.patient_id},
        {"StudyInstanceUID": scan.study_uid},
        {"PatientID": f"{scan.patient_id[:-2]}*", "ModalitiesInStudy": "CT", "StudyDate": "20260101-20261231"},
    ):
        (study,) = viewer.search_for_studies(search_filters=filters)
        assert study["0020000D"]["Value"] == [scan.study_uid]
        assert study["00201208"]["Value"] == [8]
        assert study["00100010"]["Value"] == [{"Alphabetic": "Noël^Éloïse"}]
    (series,) = viewer.search_for_series(scan.study_uid, search_filters={"Modality": "CT"})
    assert series["0020000E"]["Value"] == [scan.series_uid]
    everything = viewer.search_for_instances(scan.study_uid, scan.series_uid, limit=3, get_remaining=True)
    assert [one["00200013"]["Value"][0] for one in everything] == list(range(1, 9))
    some = viewer.search_for_instances(scan.study_uid, limit=2, offset=3)
    assert [one["00200013"]["Value"][0] for one in some] == [4, 5]
    assert viewer.search_for_studies(search_filters={"AccessionNumber": "absent"}) == []


def test_what_went_in_comes_out(viewer: Any, scan: Phantom) -> None:
    """PS3.18 §10.4: every byte of the data set, its frames, its metadata; and a picture of it."""
    files = phantom.series(scan)
    stored(viewer, files)
    sent = pydicom.dcmread(io.BytesIO(files[2]))
    where = (scan.study_uid, scan.series_uid, scan.sop_uid(3))

    assert data_set(viewer.retrieve_instance(*where)) == data_set(sent)
    assert [one.InstanceNumber for one in viewer.retrieve_series(*where[:2])] == list(range(1, 9))
    assert viewer.retrieve_instance_frames(*where, [1]) == [sent.PixelData]
    metadata = viewer.retrieve_instance_metadata(*where)
    assert metadata["00080018"]["Value"] == [scan.sop_uid(3)]
    assert len(viewer.retrieve_study_metadata(scan.study_uid)) == 8
    assert viewer.retrieve_instance_rendered(*where, media_types=("image/jpeg",)).startswith(b"\xff\xd8")
    assert viewer.retrieve_instance_rendered(*where, media_types=("image/png",)).startswith(b"\x89PNG")


def data_set(dataset: Any) -> bytes:
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset)
    return buffer.getvalue()


def test_stow_makes_the_imaging_study_and_the_other_hospital_sees_nothing(
    site: Site, viewer: Any, scan: Phantom
) -> None:
    """DESIGN §8: a version at once, and one when it is complete; DESIGN §6: foreign and absent answer the same."""
    stored(viewer, phantom.series(scan))
    with site.http("hospital-a") as http:

        def studies() -> list[Any]:
            answer = http.get("/ImagingStudy", params={"identifier": f"urn:dicom:uid|urn:oid:{scan.study_uid}"})
            return [entry["resource"] for entry in answer.json().get("entry", [])]

        until(lambda: [one["status"] for one in studies()] == ["available"], "the study is complete")
        (found,) = studies()
    assert found["numberOfInstances"] == 8
    assert found["meta"]["versionId"] == "2"

    for other in connected(site, "hospital-b"):
        assert other.search_for_studies(search_filters={"StudyInstanceUID": scan.study_uid}) == []
        with pytest.raises(requests.HTTPError, match="404"):
            other.retrieve_study_metadata(scan.study_uid)


def run(program: str, site: Site, *arguments: str, ae: str = "HOPITAL_A") -> subprocess.CompletedProcess[str]:
    if shutil.which(program) is None:
        if os.environ.get("CI"):
            pytest.fail(f"{program} (dcmtk) is not installed")
        pytest.skip(f"{program} (dcmtk) is not installed")
    command = [program, "-aet", ae, "-aec", "VIGIE", "127.0.0.1", str(site.dimse_port), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_echoscu_is_answered_and_a_stranger_is_refused(site: Site) -> None:
    """PS3.4 Annex A; PS3.8 §9.3.4: an AE title belongs to an organisation, and an unknown one gets no association."""
    assert run("echoscu", site).returncode == 0
    stranger = run("echoscu", site, ae="STRANGER")
    assert stranger.returncode != 0
    assert "Calling AE Title Not Recognized" in stranger.stderr
    refused = run("storescu", site, str(get_testdata_file("CT_small.dcm", download=False)), ae="STRANGER")
    assert refused.returncode != 0


def own_copy(name: str, folder: Path, study: str) -> Path:
    """pydicom's file as an instance of a study of the test's own, in the transfer syntax that it came in."""
    dataset = pydicom.dcmread(str(get_testdata_file(name, download=False)))
    dataset.StudyInstanceUID = study
    dataset.SeriesInstanceUID = generate_uid()
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    path = folder / name
    dataset.save_as(path)
    return path


def test_storescu_sends_every_transfer_syntax(site: Site, viewer: Any, tmp_path: Path) -> None:
    """PS3.5 §10, Annex A: what came compressed is kept as it came, and given back byte for byte."""
    study = str(generate_uid())
    for name, proposed in SYNTAXES:
        path = own_copy(name, tmp_path, study)
        done = run("storescu", site, "-R", proposed, str(path))
        assert done.returncode == 0, f"{name}: {done.stderr}"

        sent = pydicom.dcmread(path)
        got = requests.get(
            f"{site.base}/dicom-web/studies/{study}/series/{sent.SeriesInstanceUID}/instances/{sent.SOPInstanceUID}",
            headers={
                "Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*',
                "Authorization": f"Bearer {site.token('hospital-a')}",
            },
            timeout=30,
        )
        assert got.status_code == 200, f"{name}: {got.text}"
        boundary = got.headers["Content-Type"].split("boundary=")[1].split(";")[0].strip('"').encode()
        part = got.content.split(b"--" + boundary)[1].split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n")
        back = pydicom.dcmread(io.BytesIO(part))
        assert back.file_meta.TransferSyntaxUID == sent.file_meta.TransferSyntaxUID, name
        assert back.PixelData == sent.PixelData, name


def test_storescu_sends_a_folder_and_its_study_is_there(site: Site, scan: Phantom, tmp_path: Path) -> None:
    """PS3.4 Annex B; DESIGN §8: one association, one version; sent again, still the same instances."""
    for number, content in enumerate(phantom.series(scan)):
        (tmp_path / f"{number}.dcm").write_bytes(content)
    for _ in range(2):
        done = run("storescu", site, "+sd", "+r", str(tmp_path))
        assert done.returncode == 0, done.stderr

    with site.http("hospital-a") as http:

        def studies() -> list[Any]:
            answer = http.get("/ImagingStudy", params={"identifier": f"urn:dicom:uid|urn:oid:{scan.study_uid}"})
            return [entry["resource"] for entry in answer.json().get("entry", [])]

        until(lambda: [one["status"] for one in studies()] == ["available"], "the study is complete")
        (found,) = studies()
    assert found["numberOfInstances"] == 8
    assert found["started"].startswith("2026-06-01T")
