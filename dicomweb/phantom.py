"""The project's phantom: a CT of a head with an acute bleed, computed, so that a demonstration needs nobody's images.

Ellipsoids: skin, skull, brain with ventricles, and a hyperdense collection under the skull on the right. Hounsfield
units are plausible, noise is from a fixed seed; the same arguments give the same bytes.

DICOM PS3.3 §A.3 (CT Image IOD)
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, XRayRadiationDoseSRStorage

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
    protocol: str = "Crâne 6 mm"
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
    sop_uid = phantom.sop_uid(number)
    spacing = 220.0 / phantom.side
    thickness = 144.0 / phantom.slices
    position = (number - 1) * thickness
    dataset = _file(CTImageStorage, sop_uid)
    dataset.PixelData = np.rint(slice_hu).astype("<i2").tobytes()
    dataset["PixelData"].VR = "OW"
    return _saved(dataset, {
        **_common(phantom),
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": sop_uid,
        "AcquisitionDate": phantom.study_date,
        "AcquisitionTime": phantom.study_time,
        "Modality": "CT",
        "SeriesDescription": phantom.protocol,
        "BodyPartExamined": "HEAD",
        "SliceThickness": f"{thickness:.3f}",
        "KVP": "120",
        "PatientPosition": "HFS",
        "SeriesInstanceUID": phantom.series_uid,
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
    })


def _common(phantom: Phantom) -> dict[str, object]:
    """Patient, study and equipment: the same in every instance."""
    return {
        "SpecificCharacterSet": "ISO_IR 192",
        "StudyDate": phantom.study_date,
        "SeriesDate": phantom.study_date,
        "ContentDate": phantom.study_date,
        "StudyTime": phantom.study_time,
        "SeriesTime": phantom.study_time,
        "ContentTime": phantom.study_time,
        "AccessionNumber": phantom.accession_number,
        "Manufacturer": "Vigie",
        "InstitutionName": phantom.institution,
        "ReferringPhysicianName": "",
        "StationName": "CT1",
        "StudyDescription": "TDM crâne sans injection",
        "ManufacturerModelName": "Phantom",
        "PatientName": phantom.patient_name,
        "PatientID": phantom.patient_id,
        "PatientBirthDate": phantom.patient_birth_date,
        "PatientSex": phantom.patient_sex,
        "StudyInstanceUID": phantom.study_uid,
        "StudyID": "1",
    }


def _file(sop_class: UID, sop_uid: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = UID(sop_uid)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION)
    meta.ImplementationVersionName = "VIGIE"
    return FileDataset(io.BytesIO(), {}, file_meta=meta, preamble=b"\0" * 128)


def _saved(dataset: FileDataset, values: dict[str, object]) -> bytes:
    for name, value in values.items():
        setattr(dataset, name, value)
    output = io.BytesIO()
    dataset.save_as(output, enforce_file_format=True)
    return output.getvalue()


def exam(phantom: Phantom) -> list[bytes]:
    """The files of the whole study, as a scanner sends them: the series, then the dose report."""
    return [*series(phantom), dose_report(phantom)]


def dose_report(phantom: Phantom, *, ctdi_vol: str = "48.2", dlp: str = "867.6") -> bytes:
    """The Radiation Dose SR of the series (PS3.16 TID 10011). `ctdi_vol` in mGy, `dlp` in mGy·cm."""
    series_uid = uids.derived(phantom.study_uid, "series", "dose")
    sop_uid = uids.derived(series_uid, "instance", "1")
    dataset = _file(XRayRadiationDoseSRStorage, sop_uid)
    values: dict[str, object] = {
        **_common(phantom),
        "SOPClassUID": XRayRadiationDoseSRStorage,
        "SOPInstanceUID": sop_uid,
        "Modality": "SR",
        "SeriesDescription": "Dose Report",
        "SeriesInstanceUID": series_uid,
        "SeriesNumber": "997",
        "DeviceSerialNumber": "1",
        "SoftwareVersions": "1",
        "InstanceNumber": "1",
        "CompletionFlag": "COMPLETE",
        "VerificationFlag": "UNVERIFIED",
        "ReferencedPerformedProcedureStepSequence": [],
        "PerformedProcedureCodeSequence": [],
        "ValueType": "CONTAINER",
        "ContinuityOfContent": "SEPARATE",
        "ConceptNameCodeSequence": [_code("113701", "X-Ray Radiation Dose Report")],
        "ContentTemplateSequence": [_of(MappingResource="DCMR", TemplateIdentifier="10011")],
        "ContentSequence": [
            _item("HAS CONCEPT MOD", "CODE", _code("121058", "Procedure reported"),
                  ConceptCodeSequence=[_code("77477000", "Computed Tomography X-Ray", "SCT")]),
            _item("CONTAINS", "CONTAINER", _code("113811", "CT Accumulated Dose Data"),
                  ContinuityOfContent="SEPARATE", ContentSequence=[
                      _measured("113812", "Total Number of Irradiation Events", "1", "{events}"),
                      _measured("113813", "CT Dose Length Product Total", dlp, "mGy.cm"),
                  ]),
            _item("CONTAINS", "CONTAINER", _code("113819", "CT Acquisition"),
                  ContinuityOfContent="SEPARATE", ContentSequence=[
                      _item("CONTAINS", "TEXT", _code("125203", "Acquisition Protocol"),
                            TextValue=phantom.protocol),
                      _item("CONTAINS", "UIDREF", _code("113769", "Irradiation Event UID"),
                            UID=uids.derived(phantom.series_uid, "irradiation")),
                      _item("CONTAINS", "CONTAINER", _code("113829", "CT Dose"),
                            ContinuityOfContent="SEPARATE", ContentSequence=[
                                _measured("113830", "Mean CTDIvol", ctdi_vol, "mGy"),
                                _measured("113838", "DLP", dlp, "mGy.cm"),
                            ]),
                  ]),
        ],
    }
    return _saved(dataset, values)


def _item(relation: str, kind: str, name: Dataset, **more: object) -> Dataset:
    return _of(RelationshipType=relation, ValueType=kind, ConceptNameCodeSequence=[name], **more)


def _measured(code: str, meaning: str, value: str, unit: str) -> Dataset:
    measured = _of(NumericValue=value, MeasurementUnitsCodeSequence=[_code(unit, unit, "UCUM")])
    return _item("CONTAINS", "NUM", _code(code, meaning), MeasuredValueSequence=[measured])


def _code(code: str, meaning: str, scheme: str = "DCM") -> Dataset:
    return _of(CodeValue=code, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def _of(**values: object) -> Dataset:
    dataset = Dataset()
    for name, value in values.items():
        setattr(dataset, name, value)
    return dataset
