"""WADO-RS: PS3.18 §10.4, §8.7; what viewers ask byte for byte."""

from __future__ import annotations

import gzip
import io
import json
import re
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import generate_frames

from dicomweb.phantom import Phantom, series
from tests.dicomweb.conftest import PYDICOM_FILES, SHARED, Service, stow

ANY_FRAMES = "multipart/related; type=application/octet-stream; transfer-syntax=*"
"""As OHIF asks: without quotes."""
COMPRESSED = {
    "JPEG2000.dcm": "image/jp2", "SC_rgb_rle_2frame.dcm": "image/dicom-rle",
    "MR_small_jpeg_ls_lossless.dcm": "image/jls", "examples_ybr_color.dcm": "image/jpeg",
    "SC_rgb_jpeg_gdcm.dcm": "image/jpeg", "JPGExtended.dcm": "image/jpeg",
    "MR_small_jp2klossless.dcm": "image/jp2",
}


def keep(service: Service, data: bytes) -> str:
    answer = stow(service.client(), [data])
    assert answer.status_code in {200, 202}, answer.data
    url: str = answer.get_json(force=True)["00081199"]["Value"][0]["00081190"]["Value"][0]
    return url[url.index("/dicom-web") :]


def get(service: Service, address: str, accept: str | None = None, **headers: str) -> Any:
    more = {"Accept": accept} if accept else {}
    return service.client().get(address, headers={**more, **headers})


def parts(answer: Any) -> list[tuple[str, bytes]]:
    """As Cornerstone splits: by the boundary line, headers found by the letter-exact ``Content-Type:``."""
    boundary = re.search(r"boundary=([^;]+)$", answer.headers["Content-Type"])
    assert boundary is not None
    found = []
    for piece in answer.data.split(b"--" + boundary.group(1).encode())[1:-1]:
        head, _, body = piece.partition(b"\r\n\r\n")
        kind = re.search(rb"Content-Type: (.+)", head)
        assert kind is not None
        found.append((kind.group(1).decode().strip(), body.removesuffix(b"\r\n")))
    return found


@pytest.mark.parametrize("name", COMPRESSED)
def test_encapsulated_frames_are_served_as_they_are_stored(service: Service, name: str) -> None:
    """Table 8.7.3-5: the part says media type and transfer syntax; the bytes are the fragments'."""
    data = (PYDICOM_FILES / name).read_bytes()
    dataset = pydicom.dcmread(io.BytesIO(data))
    count = int(dataset.get("NumberOfFrames", 1))
    expected = list(generate_frames(dataset.PixelData, number_of_frames=count))
    numbers = ",".join(str(number + 1) for number in range(count))
    answer = get(service, f"{keep(service, data)}/frames/{numbers}", ANY_FRAMES)

    kind = f"{COMPRESSED[name]}; transfer-syntax={dataset.file_meta.TransferSyntaxUID}"
    assert answer.headers["Content-Type"].startswith(f'multipart/related; type="{COMPRESSED[name]}"; boundary=')
    assert [(one, len(body)) for one, body in parts(answer)] == [(kind, len(frame)) for frame in expected]
    assert [body for _, body in parts(answer)] == expected
    assert int(answer.headers["Content-Length"]) == len(answer.data)


@pytest.mark.parametrize("name", [*COMPRESSED, "image_dfl.dcm", "MR_small_bigendian.dcm", "MR_small.dcm", "rtdose.dcm"])
def test_frames_are_decoded_when_native_ones_are_asked(service: Service, name: str) -> None:
    """§8.7.3.4: octet-stream without transfer-syntax is uncompressed little endian."""
    data = (PYDICOM_FILES / name).read_bytes()
    address = keep(service, data)
    answer = get(service, f"{address}/frames/1", "application/octet-stream")
    explicit = get(service, address, "application/dicom")

    assert answer.headers["Content-Type"] == "application/octet-stream; transfer-syntax=1.2.840.10008.1.2.1"
    dataset = pydicom.dcmread(io.BytesIO(explicit.data))
    assert dataset.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    array = dataset.pixel_array
    frame = array[0] if int(dataset.get("NumberOfFrames", 1)) > 1 else array
    assert answer.data == np.ascontiguousarray(frame).tobytes()


def test_frames_of_a_list_come_in_the_order_asked(service: Service) -> None:
    """§10.4.1.1.5: order and repetition are the client's."""
    data = (PYDICOM_FILES / "rtdose.dcm").read_bytes()
    pixels = pydicom.dcmread(io.BytesIO(data)).PixelData
    size = len(pixels) // 15
    answer = get(service, f"{keep(service, data)}/frames/3,1,1", ANY_FRAMES)

    assert [body for _, body in parts(answer)] == [pixels[n * size : (n + 1) * size] for n in (2, 0, 0)]


def test_one_bit_frames_are_cut_at_their_bits(service: Service) -> None:
    """PS3.5 §8.1.1: frames of 1-bit pixels are packed without regard to bytes."""
    source = pydicom.dcmread(PYDICOM_FILES / "liver_1frame.dcm")
    source.Rows, source.Columns, source.NumberOfFrames = 3, 3, 3
    packed = 0b110000011_101010101_111000110
    source.PixelData = packed.to_bytes(4, "little")
    output = io.BytesIO()
    source.save_as(output)
    address = keep(service, output.getvalue())
    answer = get(service, f"{address}/frames/1,2,3", ANY_FRAMES)

    assert [int.from_bytes(body, "little") for _, body in parts(answer)] == [packed >> 9 * n & 511 for n in range(3)]


@pytest.mark.parametrize(
    ("accept", "status", "kind"),
    [
        (None, 200, "multipart/related"),
        ("*/*", 200, "multipart/related"),
        ('multipart/related;type="application/dicom";transfer-syntax=*', 200, "multipart/related"),  # Weasis
        ("Multipart/Related; TYPE=application/dicom; Transfer-Syntax=*", 200, "multipart/related"),
        ('multipart/related; type="image/png", multipart/related; type="application/dicom"', 200, "multipart/related"),
        ("application/dicom; transfer-syntax=1.2.840.10008.1.2.1", 200, "application/dicom"),
        ("application/dicom; transfer-syntax=1.2.840.10008.1.2.4.201", 406, ""),
        ("image/png", 406, ""),
        ("application/json", 406, ""),
    ],
)
def test_the_representation_of_an_instance_is_negotiated(
    service: Service, files: list[bytes], accept: str | None, status: int, kind: str
) -> None:
    """PS3.18 §8.7.5, §10.4.4: 406 and not 400 for what cannot be given."""
    answer = get(service, keep(service, files[0]), accept)

    assert answer.status_code == status
    if status == 200:
        assert answer.headers["Content-Type"].startswith(kind)
        assert files[0] in answer.data
        assert int(answer.headers["Content-Length"]) == len(answer.data)


def test_the_accept_parameter_takes_the_headers_place(service: Service, files: list[bytes]) -> None:
    """§8.3.3.1; dcm4che's wadors sends it so."""
    answer = get(service, keep(service, files[0]) + "?accept=application/dicom%3Btransfer-syntax=*", "image/png")

    assert answer.data == files[0]


def test_a_study_or_series_is_no_single_part(service: Service, files: list[bytes], small: Phantom) -> None:
    """§10.4.4."""
    stow(service.client(), files)

    assert get(service, f"/dicom-web/studies/{small.study_uid}", "application/dicom").status_code == 406


def test_metadata_is_revalidated_and_changes_with_the_series(
    service: Service, files: list[bytes], small: Phantom
) -> None:
    """RFC 9110 §13.1.2: 304 until an instance is stored into the series; gzip when accepted."""
    stow(service.client(), files[:2])
    address = f"/dicom-web/studies/{small.study_uid}/series/{small.series_uid}/metadata"
    first = get(service, address, None, **{"Accept-Encoding": "gzip"})
    assert first.headers["Content-Encoding"] == "gzip"
    assert first.headers["Content-Type"] == "application/dicom+json"
    assert len(json.loads(gzip.decompress(first.data))) == 2
    again = get(service, address, None, **{"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
    stow(service.client(), files[2:])
    changed = get(service, address, None, **{"If-None-Match": first.headers["ETag"]})
    assert (changed.status_code, len(changed.get_json(force=True))) == (200, 4)


def test_the_metadata_of_a_long_series_is_streamed(service: Service) -> None:
    """Constant memory: more than 500 instances are not joined first."""
    if service.store.database.dialect != "sqlite":
        pytest.skip("what is asked here does not depend on the database")
    phantom = Phantom(slices=520, side=8)
    stow(service.client(), series(phantom))
    address = f"/dicom-web/studies/{phantom.study_uid}/metadata"
    for headers in ({}, {"Accept-Encoding": "gzip"}):
        answer = get(service, address, None, **headers)
        body = gzip.decompress(answer.data) if headers else answer.data
        assert [one["00200013"]["Value"][0] for one in json.loads(body)] == list(range(1, 521))


def test_every_bulk_data_uri_resolves(service: Service) -> None:
    """PS3.18 §F.2.6: never dropped, nested ones too."""
    for name in ("waveform_ecg.dcm", "examples_palette.dcm", "examples_overlay.dcm", "CT_small.dcm", "rtdose.dcm"):
        address = keep(service, (PYDICOM_FILES / name).read_bytes())
        text = get(service, f"{address}/metadata").data.decode()
        uris = re.findall(r'"BulkDataURI":"([^"]+)"', text)
        assert uris, name
        for uri in uris:
            assert uri.startswith("http://")
            assert get(service, uri[uri.index("/dicom-web") :], "*/*").status_code == 200, uri


def test_an_encapsulated_pdf_is_served_as_pdf(service: Service) -> None:
    """OHIF asks for application/pdf in parts or alone."""
    dataset = pydicom.dcmread(PYDICOM_FILES / "test-SR.dcm")
    for name in ("ContentSequence", "VerifyingObserverSequence"):
        if name in dataset:
            del dataset[name]
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.104.1"
    dataset.MIMETypeOfEncapsulatedDocument = "application/pdf"
    dataset.EncapsulatedDocument = b"%PDF-1.4 test "
    output = io.BytesIO()
    dataset.save_as(output)
    address = keep(service, output.getvalue()) + "/bulkdata/00420011"
    many = 'multipart/related; type="application/pdf", multipart/related; type="application/octet-stream"'

    assert parts(get(service, address, many)) == [("application/pdf", b"%PDF-1.4 test ")]
    alone = get(service, address, "application/pdf")
    assert (alone.headers["Content-Type"], alone.data) == ("application/pdf", b"%PDF-1.4 test ")


def test_a_range_of_a_frame_is_a_206(service: Service, files: list[bytes]) -> None:
    """RFC 9110 §14; Cornerstone's progressive mode."""
    address = keep(service, files[0]) + "/frames/1"
    answer = get(service, address, "application/octet-stream; transfer-syntax=*", Range="bytes=0-99")
    whole = get(service, address, "application/octet-stream; transfer-syntax=*")

    assert (answer.status_code, answer.headers["Content-Range"]) == (206, f"bytes 0-99/{len(whole.data)}")
    assert answer.data == whole.data[:100]


def picture(answer: Any) -> Image.Image:
    assert answer.status_code == 200, answer.data
    return Image.open(io.BytesIO(answer.data))


def test_a_frame_is_rendered_in_the_window_asked(service: Service, files: list[bytes]) -> None:
    """§8.3.5.1.4, PS3.3 §C.11.2.1.2: at and below the low end black, at and above the high end white."""
    address = keep(service, files[2]) + "/rendered"
    bone = np.asarray(picture(get(service, address + "?window=1,2,linear", "image/png")))
    assert set(np.unique(bone)) <= {0, 128, 255, 127, 64, 191}
    brain = picture(get(service, address + "?window=40,80,linear", "image/png"))
    assert brain.size == (32, 32)
    assert 0 < np.asarray(brain).mean() < 255
    small = picture(get(service, address + "?viewport=16,16", "image/jpeg"))
    assert (small.size, small.format) == ((16, 16), "JPEG")
    part = picture(get(service, address + "?viewport=8,8,0,0,16,16", "image/png"))
    assert part.size == (8, 8)


def test_thumbnails_exist_at_every_level_and_for_what_has_no_pixels(service: Service, files: list[bytes]) -> None:
    """Sup 203; Weasis falls back to the instances when a thumbnail is missing."""
    instance = keep(service, files[0])
    of_series = instance.partition("/instances")[0]
    study = of_series.partition("/series")[0]
    for address in (instance, of_series, study):
        assert get(service, address + "/thumbnail?viewport=256%2C256", "image/jpeg").status_code == 200
    report = keep(service, (PYDICOM_FILES / "test-SR.dcm").read_bytes())
    assert get(service, report + "/thumbnail", "*/*").data.startswith(b"\x89PNG")
    assert get(service, report + "/rendered").status_code == 406
    assert get(service, report + "/frames/1", ANY_FRAMES).status_code == 404


def test_frames_are_recorded_once_per_study_and_minute(service: Service, files: list[bytes]) -> None:
    """DESIGN §7: aggregated per study; the record is durable before the first frame leaves."""
    address = keep(service, files[0])
    service.trail.clear()
    for _ in range(3):
        assert get(service, address + "/frames/1", ANY_FRAMES).status_code == 200

    (access,) = service.trail.disclosed
    assert (access.interaction, dict(access.detail)["what"]) == ("dicom-retrieve", "frames")


@pytest.mark.skipif(not SHARED.is_dir(), reason="real series are not at hand")
@pytest.mark.parametrize("folder", ["ct-head-ge", "ct-head-ge-htj2k", "mr-adc"])
def test_real_series_come_back_byte_for_byte(service: Service, folder: str) -> None:
    """A real CT of a head, the same in HTJ2K, a real MR."""
    files = sorted(path for path in (SHARED / folder).rglob("*") if path.is_file() and path.suffix == ".dcm")
    originals = [path.read_bytes() for path in files]
    answer = stow(service.client(), originals)
    assert answer.status_code == 200
    items = answer.get_json(force=True)["00081199"]["Value"]
    assert len(items) == len(files)
    for item, original in list(zip(items, originals, strict=True))[:: max(1, len(files) // 4)]:
        url = item["00081190"]["Value"][0]
        address = url[url.index("/dicom-web") :]
        stored = get(service, address, "application/dicom; transfer-syntax=*")
        assert stored.data[128:] == original[128:]
        assert picture(get(service, f"{address}/rendered")).size[0] > 100
        native = get(service, f"{address}/frames/1", "application/octet-stream")
        dataset = pydicom.dcmread(io.BytesIO(original))
        assert len(native.data) == dataset.Rows * dataset.Columns * 2
