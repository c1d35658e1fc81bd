"""The same object in another encoding is the same object; anything else under its UID leaves nothing behind."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from dicomweb import sop_classes, status
from dicomweb.batches import Batch, Origin
from dicomweb.sameness import same
from dicomweb.status import Result
from dicomweb.workers import Workers
from store.objects import ObjectStore
from tests.dicomweb.conftest import PYDICOM_FILES, Service, stow
from tests.support import caller


def written(dataset: Dataset, syntax: str | None = None) -> bytes:
    """A Part 10 file of the data set, in another native transfer syntax where one is given."""
    output = io.BytesIO()
    if syntax is not None:
        if syntax == ExplicitVRBigEndian:
            dataset = swapped(dataset)
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.save_as(output, implicit_vr=syntax == ImplicitVRLittleEndian,
                        little_endian=syntax != ExplicitVRBigEndian, enforce_file_format=True)
    else:
        dataset.save_as(output, enforce_file_format=True)
    return output.getvalue()


def swapped(dataset: Dataset) -> Dataset:
    """pydicom leaves the words of pixel data as they are."""
    copy = pydicom.dcmread(io.BytesIO(written(dataset)))
    if copy["PixelData"].VR == "OW" or copy.BitsAllocated == 16:
        raw = bytearray(copy.PixelData)
        raw[0::2], raw[1::2] = raw[1::2], raw[0::2]
        copy.PixelData = bytes(raw)
        copy["PixelData"].VR = "OW"
    list(copy.iterall())  # decoded, to be encoded anew
    copy.set_original_encoding(False, False, copy.original_character_set)
    return copy


def ct() -> Dataset:
    """A CT slice with what encodings treat differently: private elements, sequences, multiple values, numbers."""
    dataset = pydicom.dcmread(PYDICOM_FILES / "CT_small.dcm")
    del dataset[0x00431029:0x00440000]  # private OB that holds big-endian words of its own
    block = dataset.private_block(0x0051, "VIGIE TEST", create=True)
    block.add_new(0x01, "LO", "odd")
    block.add_new(0x02, "US", [1, 2, 770])
    block.add_new(0x03, "FD", 3.25)
    block.add_new(0x04, "SQ", Sequence([item(CodeValue="A"), item(CodeValue="B")]))
    dataset.ProcedureCodeSequence = Sequence([item(CodeValue="1", CodingSchemeDesignator="99X"), item()])
    dataset.FrameIncrementPointer = 0x00181063
    return dataset


def item(**elements: Any) -> Dataset:
    made = Dataset()
    for name, value in elements.items():
        setattr(made, name, value)
    return made


@pytest.fixture
def is_same(tmp_path: Path, workers: Workers) -> Callable[[bytes, bytes], bool]:
    def compare(one: bytes, other: bytes) -> bool:
        paths = [tmp_path / name for name in ("one", "other")]
        for path, data in zip(paths, (one, other), strict=True):
            path.write_bytes(data)
        forwards, backwards = same(paths[0], paths[1], workers), same(paths[1], paths[0], workers)
        assert forwards == backwards
        return forwards

    return compare


NATIVE = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]


@pytest.mark.parametrize("syntax", NATIVE, ids=lambda uid: uid.keyword)
def test_the_same_object_in_another_native_syntax_is_the_same(
    is_same: Callable[[bytes, bytes], bool], syntax: str
) -> None:
    """PS3.5 Annex A: explicit or implicit VR, byte order and deflation are the encoding, not the object."""
    assert is_same(written(ct()), written(ct(), syntax))


def test_lengths_and_padding_are_encoding(is_same: Callable[[bytes, bytes], bool]) -> None:
    """PS3.5 §7.5.2 (undefined length), §7.2 (group length, retired), §6.2 (padding), PS3.10 §7.1 (file meta)."""
    other = ct()
    other["ProcedureCodeSequence"].is_undefined_length = True
    for one in other.ProcedureCodeSequence:
        one.is_undefined_length_sequence_item = True
    other.add_new(0x00080000, "UL", 1234)
    other.DataSetTrailingPadding = b"\0" * 10
    other.file_meta.ImplementationVersionName = "OTHER"
    assert is_same(written(ct()), written(other))


@pytest.mark.parametrize("change", ["value", "absent", "more", "item", "private", "nested private", "number", "pixel"])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian], ids=lambda uid: uid.keyword)
def test_any_difference_is_another_object(
    is_same: Callable[[bytes, bytes], bool], change: str, syntax: str
) -> None:
    """Wherever it is: nothing that was sent under a stored UID may be lost in silence."""
    other = ct()
    block = other.private_block(0x0051, "VIGIE TEST")
    if change == "value":
        other.PatientName = "Autre^Nom"
    elif change == "absent":
        del other.StudyDescription
    elif change == "more":
        other.ImageComments = "one more"
    elif change == "item":
        other.ProcedureCodeSequence[0].CodeValue = "2"
    elif change == "private":
        block[0x01].value = "add"
    elif change == "nested private":
        block[0x04].value[1].CodeValue = "C"
    elif change == "number":
        other.Rows = 127
    else:
        other.PixelData = other.PixelData[:-1] + b"\x7f"
    assert not is_same(written(ct()), written(other, syntax))


def test_lossless_compression_is_encoding_and_other_pixels_are_not(is_same: Callable[[bytes, bytes], bool]) -> None:
    """PS3.5 §8.2: decoded pixels are compared; one pixel makes another object."""
    compressed, other = ct(), ct()
    compressed.compress(RLELossless, generate_instance_uid=False)
    other.PixelData = bytes([other.PixelData[0] ^ 1]) + other.PixelData[1:]
    other.compress(RLELossless, generate_instance_uid=False)
    assert is_same(written(ct()), written(compressed))
    assert not is_same(written(ct()), written(other))


@pytest.mark.parametrize("kind", ["jp2klossless", "jpeg_ls_lossless", "RLE"])
def test_the_compressed_forms_of_one_image_are_the_same(is_same: Callable[[bytes, bytes], bool], kind: str) -> None:
    """pydicom's MR_small in several encodings, header differences of their making taken out."""
    plain = pydicom.dcmread(PYDICOM_FILES / "MR_small.dcm")
    other = pydicom.dcmread(PYDICOM_FILES / f"MR_small_{kind}.dcm")
    for tag in {element.tag for element in (*plain, *other)} - {0x7FE00010}:
        if tag in other and plain.get(tag) != other.get(tag):
            del other[tag]
        if tag not in other and tag in plain:
            other[tag] = plain[tag]
    assert is_same(written(plain), written(other))


def test_the_same_frames_in_other_fragments_are_the_same(is_same: Callable[[bytes, bytes], bool]) -> None:
    """PS3.5 §A.4: fragments and the basic offset table are encoding, also of lossy frames."""
    from pydicom.encaps import encapsulate, generate_frames

    plain = pydicom.dcmread(PYDICOM_FILES / "SC_rgb_jpeg_dcmtk.dcm")
    other = pydicom.dcmread(PYDICOM_FILES / "SC_rgb_jpeg_dcmtk.dcm")
    frames = list(generate_frames(plain.PixelData, number_of_frames=1))
    other.PixelData = encapsulate(frames, fragments_per_frame=3, has_bot=False)
    changed = pydicom.dcmread(PYDICOM_FILES / "SC_rgb_jpeg_dcmtk.dcm")
    half = len(frames[0]) // 2
    changed.PixelData = encapsulate([frames[0][:half] + bytes([frames[0][half] ^ 1]) + frames[0][half + 1 :]])
    assert is_same(written(plain), written(other))
    assert not is_same(written(plain), written(changed))


def files_of(objects: ObjectStore, tmp_path: Path) -> list[str]:
    """Whatever lies in the object store, staged or placed."""
    return sorted(path.name for path in (tmp_path / "objects").rglob("*") if path.is_file())


def test_a_resend_in_another_encoding_is_a_success_and_the_first_is_kept(service: Service, tmp_path: Path) -> None:
    """PS3.4 §B.4.1: a gateway that repeats in another syntax must not fail for ever."""
    batch = Batch(caller("hospital-a"), Origin("c-store"))
    first = service.imaging.ingest.store_instance(written(ct()), batch)
    kept = files_of(service.objects, tmp_path)
    again = [service.imaging.ingest.store_instance(written(ct(), syntax), batch) for syntax in NATIVE]

    assert (first.result, first.is_new) == (Result.STORED, True)
    assert [(one.result, one.is_new) for one in again] == [(Result.STORED, False)] * 4
    assert files_of(service.objects, tmp_path) == kept
    assert len(kept) == 1


def test_what_is_refused_leaves_nothing_in_the_store(service: Service, tmp_path: Path) -> None:
    """No effect before the decision: neither a duplicate that differs nor one without permission becomes an object."""
    batch = Batch(caller("hospital-a"), Origin("c-store"))
    service.imaging.ingest.store_instance(written(ct()), batch)
    kept = files_of(service.objects, tmp_path)
    other = ct()
    other.ImageComments = "another"
    assert service.imaging.ingest.store_instance(written(other), batch).result is Result.DUPLICATE_DIFFERS
    other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    service.permit.forbidden.add(("hospital-a", "ImagingStudy"))
    assert service.imaging.ingest.store_instance(written(other), batch).result is Result.NOT_AUTHORISED
    assert files_of(service.objects, tmp_path) == kept


def test_two_encodings_and_another_object_in_one_request(service: Service) -> None:
    """PS3.18 §10.5: within one group of commits the first is stored, its repeat accepted, the other one refused."""
    other = ct()
    other.ImageComments = "another"
    answer = stow(service.client(), [written(ct()), written(ct(), ImplicitVRLittleEndian), written(other)])

    assert answer.status_code == 202
    body = answer.get_json(force=True)
    assert len(body["00081199"]["Value"]) == 2
    assert [one["00081197"]["Value"] for one in body["00081198"]["Value"]] == [[0xC111]]


def test_followers_of_a_group_that_fails_are_answered(
    service: Service, files: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """PS3.4 Table B.2-1: 0xA700, send again; whatever goes wrong in the commit that the leader makes for them."""
    from concurrent.futures import ThreadPoolExecutor

    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a fault that nobody foresaw")

    monkeypatch.setattr(service.imaging.ingest, "commit", fails)
    batch = Batch(caller("hospital-a"), Origin("c-store"))
    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(lambda data: service.imaging.ingest.store_instance(data, batch), files))
    assert {one.result for one in outcomes} == {Result.OUT_OF_RESOURCES}


@pytest.mark.parametrize(
    ("uid", "stored"),
    [
        ("1.2.840.10008.5.1.4.1.1.2", True),  # CT
        ("1.2.840.10008.5.1.4.1.1.6", True),  # Ultrasound, retired
        ("1.2.840.10008.5.1.4.1.1.40", True),  # retired, without a name in PS3.6
        ("1.2.840.10008.5.1.4.1.1.999.7", True),  # newer than any dictionary
        ("1.3.12.2.1107.5.9.1", True),  # Siemens CSA non-image
        ("1.2.840.113619.4.26", True),  # GE private 3D model
        ("1.2.840.10008.5.1.4.34.7", True),  # RT Beams Delivery Instruction
        ("1.2.840.10008.5.1.1.29", True),  # Hardcopy Grayscale, retired
        ("1.2.840.10008.1.3.10", False),  # DICOMDIR
        ("1.2.840.10008.1.1", False),  # Verification
        ("1.2.840.10008.1.20.1", False),  # Storage Commitment
        ("1.2.840.10008.5.1.4.31", False),  # Modality Worklist
        ("1.2.840.10008.5.1.4.1.2.2.1", False),  # Study Root FIND
        ("1.2.840.10008.5.1.4.1.1.200.4", False),  # Protocol Approval FIND
        ("1.2.840.10008.5.1.4.1.1.201.5", False),  # Inventory Creation
        ("1.2.840.10008.5.1.4.1.1.200.1", False),  # CT Defined Procedure Protocol: no patient, no study
        ("1.2.840.10008.5.1.4.38.1", False),  # Hanging Protocol
        ("1.2.840.10008.1.2.1", False),  # a transfer syntax
        ("", False),
        ("x", False),
    ],
)
def test_every_storage_class_is_one_and_no_other_service_is(uid: str, stored: bool) -> None:
    """PS3.4 §B.5, §B.6, §GG.3; PS3.6 Annex A."""
    assert sop_classes.may_store(uid) is stored
    assert sop_classes.may_store(uid, {uid}) is stored
    assert not sop_classes.may_store(uid, {"1.2.3"})


def test_every_class_that_pynetdicom_stores_is_taken() -> None:
    """The list of pynetdicom 3.0.4 is part of the rule."""
    from pynetdicom import AllStoragePresentationContexts

    refused = {str(one.abstract_syntax) for one in AllStoragePresentationContexts
               if not sop_classes.may_store(str(one.abstract_syntax))}
    assert refused == set()


def test_a_media_directory_is_refused_by_stow(service: Service) -> None:
    """PS3.18 Table I.2-2: 0122, SOP Class not supported: the same rule at both doors."""
    directory = ct()
    directory.SOPClassUID = directory.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    answer = stow(service.client(), [written(directory)])
    assert answer.status_code == 409
    (failed,) = answer.get_json(force=True)["00081198"]["Value"]
    assert failed["00081197"]["Value"] == [0x0122]


@pytest.mark.parametrize("result", list(Result), ids=lambda result: result.name)
def test_every_result_is_a_status_that_c_store_knows(result: Result) -> None:
    """PS3.4 Table B.2-1, PS3.7 §9.1.1.1.9: 0110 and 0111 are of other services."""
    assert status.clause_of(result.value.dimse) is not None
    assert status.clause_of(0x0110) is None
    assert status.clause_of(0x0111) is None
