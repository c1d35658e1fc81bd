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
from resources.identifiers import INS_SYSTEMS
from resources.json import Json

OF_PATIENT = (
    "00100010", "00100020", "00100021", "00100024", "00100030", "00100040", "00101000", "00101001", "00101002",
    "00101005",
)
OF_ORDER = ("00080050", "00080051")
OF_SPLIT = ("0020000D",)
TYPE_2 = frozenset({"00080050", "00100010", "00100020", "00100030", "00100040"})
"""Given empty where a correction has no value; others are then not given."""
SYSTEM = "VIGIE"
COERCE, CORRECT = "COERCE", "CORRECT"
"""Why: brought to the master's words; or wrong (an incorrect worklist item, an operator's error)."""
VR = {
    "00080050": "SH", "00080051": "SQ", "00100010": "PN", "00100020": "LO", "00100021": "LO", "00100024": "SQ",
    "00100030": "DA", "00100040": "CS", "00101000": "LO", "00101001": "PN", "00101002": "SQ", "00101005": "PN",
    "0020000D": "UI",
}
_NATIONAL = INS_SYSTEMS


def over(json: Json, corrected: Json) -> Json:
    """A data set (DICOM JSON) as it is given: the corrected values over what was sent, what they replace beside them.

    `corrected`: ``tags`` that are decided, ``given`` values of some of them, ``when`` (DT), ``reason`` (CS).
    """
    given = corrected["given"]
    before: Json = {}
    body = dict(json)
    for tag in corrected["tags"]:
        old, new = json.get(tag), given.get(tag)
        if new == old or (new is None and not (old or {}).get("Value")):
            continue
        before[tag] = old if old is not None else {"vr": VR[tag]}
        if new is not None:
            body[tag] = new
        elif tag in TYPE_2:
            body[tag] = {"vr": VR[tag]}
        else:
            del body[tag]
    if not before:
        return json
    item = {
        "04000550": {"vr": "SQ", "Value": [before]},
        "04000562": {"vr": "DT", "Value": [corrected["when"]]},
        "04000563": {"vr": "LO", "Value": [SYSTEM]},
        "04000564": {"vr": "LO"},
        "04000565": {"vr": "CS", "Value": [corrected["reason"]]},
    }
    earlier = json.get("04000561", {}).get("Value") or []
    body["04000561"] = {"vr": "SQ", "Value": [*earlier, item]}
    return dict(sorted(body.items()))


def of_patient(patient: Json) -> Json:
    """The patient attributes that a Patient gives."""
    names_ = sorted(patient.get("name", []), key=lambda one: one.get("use") != "official")
    given: Json = {}
    if names_:
        words = [str(one) for one in names_[0].get("given", []) if one]
        family = str(names_[0].get("family", "") or names_[0].get("text", ""))
        given["00100010"] = _value("00100010", {"Alphabetic": f"{family}^{' '.join(words)}".rstrip("^")[:64]})
    local = [one for one in patient.get("identifier", []) if one.get("value") and one.get("system") not in _NATIONAL]
    if local:
        is_usual = [any(code.get("code") == "PI" for code in one.get("type", {}).get("coding", [])) for one in local]
        chosen = local[is_usual.index(True) if True in is_usual else 0]
        given["00100020"] = _value("00100020", str(chosen["value"])[:64])
        system = str(chosen.get("system", ""))
        if system.startswith("urn:oid:"):
            oid = system.removeprefix("urn:oid:")[:64]
            given["00100021"] = _value("00100021", oid)
            item = {"00400032": {"vr": "UT", "Value": [oid]}, "00400033": {"vr": "CS", "Value": ["ISO"]}}
            given["00100024"] = _value("00100024", item)
    if len(born := str(patient.get("birthDate", "")).replace("-", "")) == 8:
        given["00100030"] = _value("00100030", born)
    if sex := {"male": "M", "female": "F", "other": "O"}.get(str(patient.get("gender"))):
        given["00100040"] = _value("00100040", sex)
    return given


def of_number(value: str) -> Json:
    """The order attributes that an accession number gives."""
    return {"00080050": _value("00080050", value[:16])} if value else {}


def of_study(uid: str) -> Json:
    """The StudyInstanceUID of a study that was made of another's series."""
    return {"0020000D": _value("0020000D", uid)}


def _value(tag: str, value: Any) -> Json:
    return {"vr": VR[tag], "Value": [value]}


def columns(corrected: bytes | None) -> Json:
    """The columns of a study's row by which queries find it as it is given."""
    if corrected is None:
        return {}
    whole = unpack(corrected)
    found: Json = {}
    for tag, name in _COLUMNS.items():
        if tag in whole["tags"]:
            given = whole["given"]
            found[name] = names(given, tag) if tag == "00100010" else text(given, tag)
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
