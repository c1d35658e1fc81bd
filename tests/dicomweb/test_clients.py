"""Real clients, unmodified: dicomweb-client over HTTP, dcmtk over DIMSE."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from dicomweb_client.api import DICOMwebClient
from pynetdicom import AE

from dicomweb.phantom import Phantom
from tests.dicomweb.conftest import PYDICOM_FILES, Service


def connect(address: str, organization: str = "hospital-a") -> DICOMwebClient:
    return DICOMwebClient(address, headers={"X-Organization": organization})


def test_dicomweb_client_stores_finds_and_retrieves_a_series(
    service: Service, address: str, files: list[bytes], small: Phantom
) -> None:
    """PS3.18 §10.5, §10.6, §10.4: what was stored is found, and comes back byte for byte."""
    client = connect(address)
    client.store_instances([pydicom.dcmread(io.BytesIO(data)) for data in files])

    (study,) = client.search_for_studies(search_filters={"AccessionNumber": "ACC-1"})
    assert study["0020000D"]["Value"] == [small.study_uid]
    assert study["00201208"]["Value"] == [4]
    assert study["00080061"]["Value"] == ["CT"]
    (series,) = client.search_for_series(small.study_uid)
    assert series["00201209"]["Value"] == [4]
    instances = client.search_for_instances(small.study_uid, small.series_uid, get_remaining=True, limit=3)
    assert [one["00200013"]["Value"][0] for one in instances] == [1, 2, 3, 4]

    metadata = client.retrieve_series_metadata(small.study_uid, small.series_uid)
    assert [one["00200013"]["Value"][0] for one in metadata] == [1, 2, 3, 4]
    pixels = pydicom.dcmread(io.BytesIO(files[1])).PixelData
    (frame,) = client.retrieve_instance_frames(small.study_uid, small.series_uid, small.sop_uid(2), [1])
    assert frame == pixels
    assert client.retrieve_bulkdata(metadata[1]["7FE00010"]["BulkDataURI"]) == [pixels]
    retrieved = client.retrieve_series(small.study_uid, small.series_uid)
    assert [one.PixelData for one in retrieved] == [pydicom.dcmread(io.BytesIO(data)).PixelData for data in files]
    assert client.retrieve_instance_rendered(
        small.study_uid, small.series_uid, small.sop_uid(2), media_types=("image/png",)
    ).startswith(b"\x89PNG")
    assert len(client.retrieve_study(small.study_uid)) == 4
    assert client.retrieve_instance(small.study_uid, small.series_uid, small.sop_uid(1)).InstanceNumber == 1


def test_a_chunked_body_is_stored(service: Service, address: str) -> None:
    """RFC 9112 §7.1: dicomweb-client sends more than 1 MB chunked, without Content-Length."""
    phantom = Phantom(slices=4, side=400)
    from dicomweb.phantom import series

    client = connect(address)
    client.store_instances([pydicom.dcmread(io.BytesIO(data)) for data in series(phantom)])

    assert len(client.search_for_instances(phantom.study_uid)) == 4


@pytest.fixture
def scp(service: Service) -> Iterator[int]:
    service.imaging.register_ae("MODALITY", "hospital-a", "loopback")
    server = service.imaging.scp()
    port = server.start("127.0.0.1", 0)
    yield port
    server.stop()


def run(program: str, port: int, *arguments: str, ae: str = "MODALITY") -> subprocess.CompletedProcess[str]:
    if shutil.which(program) is None and not os.environ.get("CI"):
        pytest.skip(f"{program} (dcmtk) is not installed")
    command = [program, "-aet", ae, "-aec", "VIGIE", "127.0.0.1", str(port), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def published(service: Service, count: int) -> list[dict[str, Any]]:
    """The ImagingStudy resources once there are `count` instances: publishing follows the release."""
    for _ in range(200):
        found = service.resources("ImagingStudy")
        if sum(one["numberOfInstances"] for one in found) == count:
            return found
        time.sleep(0.02)
    raise AssertionError("the study was not published")


def test_echoscu_verifies_the_association(scp: int) -> None:
    """PS3.4 Annex A."""
    assert run("echoscu", scp).returncode == 0


def test_an_unknown_calling_ae_is_refused(service: Service, scp: int) -> None:
    """PS3.8 §9.3.4: permanent rejection, calling AE title not recognised; and it is on record."""
    answer = run("echoscu", scp, ae="STRANGER")

    assert answer.returncode != 0
    assert "Calling AE Title Not Recognized" in answer.stderr
    assert service.trail.disclosed[-1].outcome == "8"


def test_storescu_stores_a_series_as_one_version(
    service: Service, scp: int, files: list[bytes], tmp_path: Path, small: Phantom
) -> None:
    """PS3.4 Annex B; DESIGN §8: one version per association."""
    names = []
    for number, data in enumerate(files):
        names.append(tmp_path / f"{number}.dcm")
        names[-1].write_bytes(data)
    answer = run("storescu", scp, *map(str, names))

    assert answer.returncode == 0, answer.stderr
    (study,) = published(service, 4)
    assert study["meta"]["versionId"] == "1"
    again = run("storescu", scp, *map(str, names))
    assert again.returncode == 0
    response = service.client().get(f"/dicom-web/studies/{small.study_uid}/instances")
    assert len(response.get_json(force=True)) == 4


@pytest.mark.parametrize(
    "name", ["MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "MR_small_RLE.dcm", "image_dfl.dcm",
             "MR_small_bigendian.dcm", "MR_small_implicit.dcm", "examples_ybr_color.dcm"],
)
def test_a_data_set_is_stored_as_it_came_in_whatever_transfer_syntax(service: Service, scp: int, name: str) -> None:
    """PS3.4 §B: never decoded on the way in; the encoded data set is what is stored."""
    if service.store.database.dialect != "sqlite":
        pytest.skip("what is asked here does not depend on the database")
    file = PYDICOM_FILES / name
    dataset = pydicom.dcmread(file)
    ae = AE("MODALITY")
    ae.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
    association = ae.associate("127.0.0.1", scp, ae_title="VIGIE")
    assert association.send_c_store(dataset).Status == 0x0000
    association.release()
    (study,) = published(service, 1)
    uid = study["identifier"][0]["value"].removeprefix("urn:oid:")
    stored = service.client().get(
        f"/dicom-web/studies/{uid}/series/{dataset.SeriesInstanceUID}/instances/{dataset.SOPInstanceUID}",
        headers={"Accept": "application/dicom; transfer-syntax=*"},
    )
    received = pydicom.dcmread(io.BytesIO(stored.data))
    assert received.file_meta.TransferSyntaxUID == dataset.file_meta.TransferSyntaxUID
    assert received.PixelData == dataset.PixelData


def test_another_object_under_the_same_uid_is_refused_and_reported(
    service: Service, scp: int, files: list[bytes]
) -> None:
    """PS3.4 Table B.2-1: a status of the range "cannot understand" (C-STORE has none for it); the first one stays."""
    first = pydicom.dcmread(io.BytesIO(files[0]))
    statuses = []
    ae = AE("MODALITY")
    ae.add_requested_context(first.SOPClassUID, first.file_meta.TransferSyntaxUID)
    association = ae.associate("127.0.0.1", scp, ae_title="VIGIE")
    for comment in ("", "", "changed"):
        if comment:
            first.ImageComments = comment
        statuses.append(association.send_c_store(first).Status)
    association.release()

    assert statuses == [0x0000, 0x0000, 0xC111]
    published(service, 1)


def test_what_an_aborted_association_stored_is_published(service: Service, scp: int, files: list[bytes]) -> None:
    """An acknowledged instance is kept, however the association ends."""
    first = pydicom.dcmread(io.BytesIO(files[0]))
    ae = AE("MODALITY")
    ae.add_requested_context(first.SOPClassUID, first.file_meta.TransferSyntaxUID)
    association = ae.associate("127.0.0.1", scp, ae_title="VIGIE")
    assert association.send_c_store(first).Status == 0x0000
    association.abort()

    published(service, 1)
