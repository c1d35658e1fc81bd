"""What is given in place of what was sent, once people have said whose images these are.

The stored bytes never change. A study's row keeps the attributes that are given instead (`dicom_study.corrected`), and
every answer puts them over the instance's own, with what they replace in the Original Attributes Sequence.

DICOM PS3.3 §C.12.1.1.9 (Original Attributes), PS3.18 §10 (coercion)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dicomweb import attributes
from dicomweb.attributes import OF_SERIES, OF_STUDY, names, number, text
from dicomweb.writes import pack, unpack
from resources.json import Json

REPLACED = (
    "00080050", "00080051", "00100010", "00100020", "00100021", "00100024", "00100030", "00100040", "00101000",
    "00101001", "00101002", "00101005", "0020000D",
)
"""Attributes that a correction decides; what it has no value for is given empty, or not at all if it was not sent."""
_TYPE_2 = frozenset({"00080050", "00100010", "00100020", "00100030", "00100040"})
SYSTEM = "VIGIE"
_VR = {
    "00080050": "SH", "00080051": "SQ", "00100010": "PN", "00100020": "LO", "00100021": "LO", "00100024": "SQ",
    "00100030": "DA", "00100040": "CS", "00101000": "LO", "00101001": "PN", "00101002": "SQ", "00101005": "PN",
    "0020000D": "UI",
}


def over(json: Json, corrected: Json) -> Json:
    """A data set (DICOM JSON) as it is given: `corrected` over what was sent, what was replaced beside it."""
    given, when, reason = corrected["given"], corrected["when"], corrected["reason"]
    before: Json = {}
    body = dict(json)
    for tag in REPLACED:
        if tag == "0020000D" and tag not in given:
            continue
        value = given.get(tag)
        if value is None and tag == "00080051" and "00080050" not in given:
            continue
        if value is None and tag == "00080050":
            continue
        old = json.get(tag)
        if value == old or (value is None and old is None):
            continue
        before[tag] = old if old is not None else {"vr": _VR[tag]}
        if value is not None:
            body[tag] = value
        elif tag in _TYPE_2:
            body[tag] = {"vr": _VR[tag]}
        else:
            body.pop(tag, None)
    if not before:
        return json
    item = {
        "04000550": {"vr": "SQ", "Value": [before]},
        "04000562": {"vr": "DT", "Value": [when]},
        "04000563": {"vr": "LO", "Value": [SYSTEM]},
        "04000564": {"vr": "LO"},
        "04000565": {"vr": "CS", "Value": [reason]},
    }
    earlier = json.get("04000561", {}).get("Value") or []
    body["04000561"] = {"vr": "SQ", "Value": [*earlier, item]}
    return dict(sorted(body.items()))


def columns(corrected: bytes | None) -> Json:
    """The columns of a study's row by which queries find it as it is given."""
    if corrected is None:
        return {}
    values = unpack(corrected)["given"]
    found: Json = {}
    for tag, name in _COLUMNS.items():
        if tag in values:
            found[name] = names(values, tag) if tag == "00100010" else text(values, tag)
        elif tag.startswith("0010"):
            found[name] = ""
    return found


_COLUMNS: Mapping[str, str] = {
    "00080050": "accession_number", "00100010": "patient_name", "00100020": "patient_id",
    "00100021": "issuer_of_patient_id", "00100030": "patient_birth_date", "00100040": "patient_sex",
}


def study_values(uid: str, json: Json, corrected: bytes | None = None) -> Json:
    """The columns of a study whose attributes are those of the instance `uid`."""
    return {
        "representative": uid,
        "study_date": text(json, "00080020").split("\\")[0],
        "study_time": text(json, "00080030").split("\\")[0],
        "accession_number": text(json, "00080050"),
        "referring_physician_name": names(json, "00080090"),
        "study_description": text(json, "00081030"),
        "patient_name": names(json, "00100010"),
        "patient_id": text(json, "00100020"),
        "issuer_of_patient_id": text(json, "00100021"),
        "patient_birth_date": text(json, "00100030"),
        "patient_sex": text(json, "00100040"),
        "study_id": text(json, "00200010"),
        "attributes": pack(attributes.pick(json, OF_STUDY)),
        **columns(corrected),
    }


def series_values(uid: str, json: Json) -> Json:
    """The columns of a series whose attributes are those of the instance `uid`."""
    requests: list[Any] = json.get("00400275", {}).get("Value") or [{}]
    return {
        "representative": uid,
        "modality": text(json, "00080060"),
        "series_number": number(json, "00200011"),
        "series_description": text(json, "0008103E"),
        "series_date": text(json, "00080021").split("\\")[0],
        "series_time": text(json, "00080031").split("\\")[0],
        "station_name": text(json, "00081010"),
        "body_part_examined": text(json, "00180015"),
        "performed_procedure_step_start_date": text(json, "00400244"),
        "performed_procedure_step_start_time": text(json, "00400245"),
        "scheduled_procedure_step_id": text(requests[0], "00400009"),
        "requested_procedure_id": text(requests[0], "00401001"),
        "attributes": pack(attributes.pick(json, OF_SERIES)),
    }
