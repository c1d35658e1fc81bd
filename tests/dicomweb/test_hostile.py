"""Bad input: the right status, a precise reason, and the server goes on (security §5.1, PS3.18 §10.5.3)."""

from __future__ import annotations

import io
import struct
import zlib

import pydicom
import pytest

from dicomweb.phantom import Phantom, series
from tests.dicomweb.conftest import PYDICOM_FILES, Service, stow, stow_body

(GOOD,) = series(Phantom(slices=1, side=8))


def head(syntax: str = "1.2.840.10008.1.2.1") -> bytes:
    """Preamble and file meta information."""
    elements = b""
    for number, uid in ((2, "1.2.840.10008.5.1.4.1.1.2"), (3, "1.2.3.4"), (0x10, syntax)):
        value = uid.encode() + b"\0" * (len(uid) % 2)
        elements += struct.pack("<HH2sH", 2, number, b"UI", len(value)) + value
    return bytes(128) + b"DICM" + elements


def element(group: int, number: int, vr: bytes, value: bytes) -> bytes:
    value += b"\0" * (len(value) % 2)
    if vr in {b"SQ", b"OB", b"UN", b"OW"}:
        return struct.pack("<HH2sHI", group, number, vr, 0, len(value)) + value
    return struct.pack("<HH2sH", group, number, vr, len(value)) + value


def uids(study: bytes = b"1.2.3", series_: bytes = b"1.2.3.5", sop: bytes = b"1.2.3.4") -> bytes:
    return (
        element(8, 0x16, b"UI", b"1.2.840.10008.5.1.4.1.1.2") + element(8, 0x18, b"UI", sop)
        + element(0x20, 0xD, b"UI", study) + element(0x20, 0xE, b"UI", series_)
    )


def nested(depth: int) -> bytes:
    opening = struct.pack("<HH2sHIHHI", 0x40, 0xA730, b"SQ", 0, 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF)
    closing = struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    return opening * depth + closing * depth


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


BOMB = deflated(uids() + element(8, 0x4000, b"LT", b"x") + element(0x7FE0, 0x10, b"OW", bytes(200 * 1024 * 1024)))
CASES: dict[str, tuple[bytes, int, int]] = {
    "garbage": (b"not DICOM at all" * 20, 400, 0xC000),
    "empty": (b"", 400, 0xC000),
    "truncated": (GOOD[:-20], 400, 0xC000),
    "truncated in the middle of an element": (GOOD[:500], 400, 0xC000),
    "a deflate bomb": (head("1.2.840.10008.1.2.1.99") + BOMB, 400, 0xC000),
    "not deflated": (head("1.2.840.10008.1.2.1.99") + uids(), 400, 0xC000),
    "deep nesting": (head() + uids() + nested(3000), 400, 0xC000),
    "a lying length": (
        head() + uids() + struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OW", 0, 0xFFFFFFFE) + b"xx", 400, 0xC000,
    ),
    "a lying item length": (
        head() + uids() + struct.pack("<HH2sHIHHI", 0x40, 0xA730, b"SQ", 0, 16, 0xFFFE, 0xE000, 2**31) + bytes(8),
        400, 0xC000,
    ),
    "a path for a UID": (head() + uids(study=b"../../etc/passwd"), 409, 0xA900),
    "no UIDs": (head() + element(8, 0x60, b"CS", b"CT"), 409, 0xA900),
    "a path for a transfer syntax": (head("../../../x") + uids(), 400, 0xC000),
}


@pytest.mark.parametrize("case", CASES)
def test_a_bad_instance_is_refused_with_its_reason_and_the_good_one_is_kept(service: Service, case: str) -> None:
    """Table 10.5.3-1: 400 or 409 when nothing was stored, 202 when something was."""
    data, status, reason = CASES[case]
    alone = stow(service.client(), [data])
    assert alone.status_code == status
    (item,) = alone.get_json(force=True)["00081198"]["Value"]
    assert item["00081197"]["Value"] == [reason]

    both = stow(service.client(), [data, GOOD])
    assert both.status_code == 202
    body = both.get_json(force=True)
    assert len(body["00081198"]["Value"]) == len(body["00081199"]["Value"]) == 1
    assert len(service.resources("ImagingStudy")) == 1


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("multipart/related; type=\"application/dicom\"; boundary=xyz", b"", 400),
        ("multipart/related; type=\"application/dicom\"; boundary=xyz", b"--xyz--\r\n", 400),
        ("multipart/related; type=\"application/dicom\"", b"--xyz--\r\n", 400),
        (f"multipart/related; type=\"application/dicom\"; boundary={'x' * 71}", b"", 400),
        ("multipart/related; type=\"application/dicom\"; boundary=xyz",
         b"--xyz\r\nX: " + b"y" * 9000 + b"\r\n\r\n--xyz--", 413),
        ("multipart/related; type=\"application/dicom\"; boundary=xyz",
         b"--xyz\r\nContent-Type: application/dicom\r\n\r\n\r\n" * 2002 + b"--xyz--", 400),
        ("multipart/related; type=\"application/dicom+json\"; boundary=xyz", b"--xyz--\r\n", 415),
        ("application/json", b"{}", 415),
        ("", b"", 415),
    ],
)
def test_a_request_that_is_no_store_request_is_refused(
    service: Service, content_type: str, body: bytes, status: int
) -> None:
    """PS3.18 §10.5.1, RFC 2046 §5.1.1; limits of security §5.1."""
    answer = service.client().post("/dicom-web/studies", data=body, content_type=content_type)

    assert answer.status_code == status
    assert stow(service.client(), [GOOD]).status_code == 200


def test_a_body_beyond_the_cap_is_refused_while_it_arrives(service: Service) -> None:
    """413; what came before in the same request is kept and reported."""
    from dicomweb import multipart
    from resources.outcomes import TooLarge

    with pytest.raises(TooLarge):
        list(multipart.parts(io.BytesIO(stow_body([GOOD] * 10)), "xyz", max_bytes=len(GOOD) * 3))


@pytest.mark.parametrize(
    "address",
    [
        "/studies/..%2f..%2fetc", "/studies/1.2.3x", "/studies/" + "1." * 40 + "1", "/studies/1.2/series/a/metadata",
        "/studies/1.2/series/1.2/instances/1.2/frames/0", "/studies/1.2/series/1.2/instances/1.2/frames/1,a",
        "/studies/1.2/series/1.2/instances/1.2/frames/-1", "/studies/1.2/series/1.2/instances/1.2/bulkdata/../x",
        "/studies/1.2/series/1.2/instances/1.2/rendered?viewport=1e9,1",
        "/studies/1.2/series/1.2/instances/1.2/rendered?window=1,2",
        "/studies/1.2/series/1.2/instances/1.2/rendered?quality=0",
    ],
)
def test_an_address_that_means_nothing_is_a_400_or_404(service: Service, address: str) -> None:
    """PS3.18 §8.3.5, §10.4.3."""
    answer = service.client().get("/dicom-web" + address)

    assert answer.status_code in {400, 404}
    assert b"etc" not in answer.data


def test_rows_and_columns_that_do_not_fit_the_pixels_are_stored_with_a_warning(service: Service) -> None:
    """0xB007: urgent images are kept; pixels that are not there are neither served nor allocated for."""
    dataset = pydicom.dcmread(io.BytesIO(GOOD))
    dataset.Rows = dataset.Columns = 65535
    output = io.BytesIO()
    dataset.save_as(output)
    answer = stow(service.client(), [output.getvalue()])

    assert answer.status_code == 202
    (item,) = answer.get_json(force=True)["00081199"]["Value"]
    assert item["00081196"]["Value"] == [0xB007]
    address = item["00081190"]["Value"][0]
    address = address[address.index("/dicom-web") :]
    assert service.client().get(f"{address}/frames/1").status_code == 404
    assert service.client().get(f"{address}/rendered").status_code == 406
    assert service.client().get(f"{address}/metadata").status_code == 200


def test_other_uids_in_the_file_meta_information_are_a_warning(service: Service) -> None:
    """Tools that rewrite UIDs forget them there: the images are kept under the UIDs of the data set."""
    answer = stow(service.client(), [head() + uids(sop=b"1.2.3.9")])

    assert answer.status_code == 202
    (item,) = answer.get_json(force=True)["00081199"]["Value"]
    assert item["00081155"]["Value"] == ["1.2.3.9"]


def test_a_preamble_that_could_be_a_program_is_zeroed(service: Service) -> None:
    """CVE-2019-11687: what is served is DICOM and nothing else; the rest is byte for byte as sent."""
    answer = stow(service.client(), [b"MZ" + b"\x90" * 126 + GOOD[128:]])
    address = answer.get_json(force=True)["00081199"]["Value"][0]["00081190"]["Value"][0]
    stored = service.client().get(
        address[address.index("/dicom-web") :], headers={"Accept": "application/dicom; transfer-syntax=*"}
    )

    assert stored.data == bytes(128) + GOOD[128:]
    assert stored.headers["Content-Disposition"] == "attachment"


def test_text_that_a_database_cannot_hold_is_no_fault(service: Service) -> None:
    """NUL within a text value."""
    dataset = pydicom.dcmread(io.BytesIO(GOOD))
    dataset.StudyDescription = "a\0b"
    output = io.BytesIO()
    dataset.save_as(output)

    assert stow(service.client(), [output.getvalue()]).status_code == 200


def test_no_file_of_pydicoms_odd_ones_breaks_the_server(service: Service) -> None:
    """The odd and the bad of pydicom's collection: stored or refused, never a 5xx; then retrievable at each level."""
    client = service.client()
    kept: dict[str, bytes] = {}
    for file in sorted(PYDICOM_FILES.glob("*.dcm")):
        data = file.read_bytes()
        answer = stow(client, [data])
        assert answer.status_code in {200, 202, 400, 409}, file.name
        for item in answer.get_json(force=True).get("00081199", {}).get("Value", []):
            address = item["00081190"]["Value"][0]
            address = address[address.index("/dicom-web") :]
            stored = client.get(address, headers={"Accept": "application/dicom; transfer-syntax=*"})
            assert stored.data[128:] == kept.setdefault(address, data)[128:], file.name  # some are one object twice
            assert client.get(f"{address}/metadata").status_code == 200, file.name
            for path in ("/rendered", "/thumbnail", "/frames/1", ""):
                assert client.get(address + path).status_code in {200, 404, 406}, (file.name, path)
