"""The project's phantom: a CT of a head with an acute bleed, computed, so that a demonstration needs nobody's images.

Ellipsoids: skin, skull, brain with ventricles, and a hyperdense collection under the skull on the right. Hounsfield
units are plausible, noise is from a fixed seed; the same arguments give the same bytes.

DICOM PS3.3 §A.3 (CT Image IOD)
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from dicomweb import uids

Volume = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
Mask = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
IMPLEMENTATION = uids.derived("vigie", "implementation")


@dataclass(frozen=True, slots=True)
class Phantom:
    """Whose head it is said to be, and under which order it was scanned."""

    patient_id: str = "PHANTOM-1"
    patient_name: str = "Fantôme^Tête"
    patient_birth_date: str = "19500101"
    patient_sex: str = "O"
    accession_number: str = ""
    study_instance_uid: str = ""
    """Empty: derived from the other words."""
    study_date: str = "20260601"
    study_time: str = "081500"
    institution: str = "Centre hospitalier de démonstration"
    slices: int = 24
    side: int = 256
    """Pixels, each way."""

    @property
    def study_uid(self) -> str:
        """StudyInstanceUID, derived from patient and order unless given."""
        return self.study_instance_uid or uids.derived(
            "phantom", self.patient_id, self.accession_number, self.study_date, self.study_time
        )

    @property
    def series_uid(self) -> str:
        """SeriesInstanceUID."""
        return uids.derived(self.study_uid, "series", "1")

    def sop_uid(self, number: int) -> str:
        """SOPInstanceUID of a slice."""
        return uids.derived(self.series_uid, "instance", str(number))


def series(phantom: Phantom) -> list[bytes]:
    """The files of the series, in order of the slices."""
    volume = head(phantom.slices, phantom.side)
    return [_instance(phantom, number, volume[number - 1]) for number in range(1, phantom.slices + 1)]


def head(slices: int, side: int) -> Volume:
    """Hounsfield units, slice by row by column."""
    z, y, x = np.meshgrid(
        np.linspace(-0.9, 0.9, slices, dtype=np.float32),
        np.linspace(-1, 1, side, dtype=np.float32),
        np.linspace(-1, 1, side, dtype=np.float32),
        indexing="ij",
    )

    def inside(cx: float, cy: float, cz: float, rx: float, ry: float, rz: float) -> Mask:
        found: Mask = ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 + ((z - cz) / rz) ** 2 <= 1
        return found

    skull, brain = inside(0, 0, 0, 0.70, 0.86, 1.0), inside(0, 0, 0, 0.62, 0.78, 0.92)
    values = np.full(x.shape, -1000, dtype=np.float32)
    values[inside(0, 0, 0, 0.75, 0.91, 1.05)] = 40  # skin and muscle
    values[skull] = 900
    values[brain] = 32
    values[brain & ~inside(0, 0, 0, 0.56, 0.72, 0.86)] = 38  # cortex
    for side_sign in (-1, 1):
        values[inside(0.12 * side_sign, -0.05, 0.05, 0.06, 0.26, 0.22)] = 6  # lateral ventricles
    # An epidural collection: a lens against the inner table, 70 HU.
    values[brain & inside(-0.62, -0.1, 0.1, 0.2, 0.36, 0.42)] = 70
    noise = np.random.default_rng(20260601).normal(0, 4, x.shape).astype(np.float32)
    return np.where(values > -1000, values + noise, values)


def _instance(phantom: Phantom, number: int, slice_hu: Volume) -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = UID(phantom.sop_uid(number))
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION)
    meta.ImplementationVersionName = "VIGIE"
    spacing = 220.0 / phantom.side
    thickness = 144.0 / phantom.slices
    position = (number - 1) * thickness
    dataset = FileDataset(io.BytesIO(), {}, file_meta=meta, preamble=b"\0" * 128)
    values: dict[str, object] = {
        "SpecificCharacterSet": "ISO_IR 192",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": phantom.sop_uid(number),
        "StudyDate": phantom.study_date,
        "SeriesDate": phantom.study_date,
        "AcquisitionDate": phantom.study_date,
        "ContentDate": phantom.study_date,
        "StudyTime": phantom.study_time,
        "SeriesTime": phantom.study_time,
        "AcquisitionTime": phantom.study_time,
        "ContentTime": phantom.study_time,
        "AccessionNumber": phantom.accession_number,
        "Modality": "CT",
        "Manufacturer": "Vigie",
        "InstitutionName": phantom.institution,
        "ReferringPhysicianName": "",
        "StationName": "CT1",
        "StudyDescription": "TDM crâne sans injection",
        "SeriesDescription": "Crâne 6 mm",
        "ManufacturerModelName": "Phantom",
        "PatientName": phantom.patient_name,
        "PatientID": phantom.patient_id,
        "PatientBirthDate": phantom.patient_birth_date,
        "PatientSex": phantom.patient_sex,
        "BodyPartExamined": "HEAD",
        "SliceThickness": f"{thickness:.3f}",
        "KVP": "120",
        "PatientPosition": "HFS",
        "StudyInstanceUID": phantom.study_uid,
        "SeriesInstanceUID": phantom.series_uid,
        "StudyID": "1",
        "SeriesNumber": "1",
        "InstanceNumber": str(number),
        "ImagePositionPatient": ["-110", "-110", f"{position:.3f}"],
        "ImageOrientationPatient": ["1", "0", "0", "0", "1", "0"],
        "FrameOfReferenceUID": uids.derived(phantom.study_uid, "frame of reference"),
        "PositionReferenceIndicator": "",
        "SliceLocation": f"{position:.3f}",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": phantom.side,
        "Columns": phantom.side,
        "PixelSpacing": [f"{spacing:.6f}", f"{spacing:.6f}"],
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 1,
        "WindowCenter": "40",
        "WindowWidth": "80",
        "RescaleIntercept": "0",
        "RescaleSlope": "1",
        "RescaleType": "HU",
    }
    for name, value in values.items():
        setattr(dataset, name, value)
    dataset.PixelData = np.rint(slice_hu).astype("<i2").tobytes()
    dataset["PixelData"].VR = "OW"
    output = io.BytesIO()
    dataset.save_as(output, enforce_file_format=True)
    return output.getvalue()
