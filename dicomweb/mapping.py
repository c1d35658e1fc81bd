"""Rows of a study → ImagingStudy: pure.

Whatever the order and the door by which the instances came, the same rows give the same resource: series are sorted by
number and UID, instances likewise, and study attributes are those of one instance chosen by its UID.

FHIR R4 ImagingStudy http://hl7.org/fhir/R4/imagingstudy.html, DICOM mapping http://hl7.org/fhir/R4/imagingstudy-mappings.html
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone, tzinfo
from typing import Any

from dicomweb import attributes
from dicomweb.matching import EVIDENCE, MATCHING, Join, Matching, extension, tag
from dicomweb.notes import STATUS
from resources import dose
from resources.codes import CANONICAL, V2_0203
from resources.dose import Dose
from resources.identifiers import STUDY_UID
from resources.json import Json

DCM = "http://dicom.nema.org/resources/ontology/DCM"
URI = "urn:ietf:rfc:3986"


@dataclass(frozen=True, slots=True)
class Study:
    """What an ImagingStudy says of its study."""

    owner: str
    study_instance_uid: str
    accession_number: str
    patient_id: str
    attributes: Json
    """DICOM JSON of the study level."""
    modalities: tuple[str, ...]
    expected_instances: int = 0
    """How many are known to exist; 0: it is not known."""
    dose: Dose | None = None
    """What its dose reports say."""


@dataclass(frozen=True, slots=True)
class Series:
    """What an ImagingStudy says of a series."""

    series_instance_uid: str
    modality: str
    attributes: Json
    instances: tuple[Instance, ...]
    """Each of them; none where the study is not complete."""
    count: int
    """How many are stored."""


@dataclass(frozen=True, slots=True)
class Instance:
    """What an ImagingStudy says of an instance."""

    sop_instance_uid: str
    sop_class_uid: str
    instance_number: int | None


OWN_ELEMENTS = (
    "identifier", "status", "modality", "subject", "started", "basedOn", "endpoint", "contained", "numberOfSeries",
    "numberOfInstances", "description", "series",
)
"""What this mapping decides; whatever else a version holds is kept."""
OWN_EXTENSIONS = frozenset({EVIDENCE, dose.EXTENSION})
"""Likewise of the extensions."""


def imaging_study(
    study: Study, series: Sequence[Series], join: Join, *, zone: tzinfo, endpoint: str | None = None, rejected: int = 0,
    complete: bool = True,
) -> Json:
    """The ImagingStudy of these rows. `zone`: of study times without offset. `endpoint`: URL of /dicom-web. `rejected`:
    the code under which the last of its images was rejected. `complete`: whether its images have all come; until then
    it is `registered`, with their number alone."""
    body: Json = {
        "resourceType": "ImagingStudy",
        "meta": {"tag": [tag(join.matching)]},
        "identifier": _identifiers(study, join),
        "status": "registered" if join.matching is Matching.MISMATCH or not complete else "available",
    }
    if rejected:
        body["status"] = STATUS[rejected]
    said = extension(join.evidence, join.decision)
    extensions = [said] if said else []
    if study.dose is not None:
        extensions.append(dose.extension(study.dose))
    if extensions:
        body["extension"] = extensions
    equipment = _equipment(series)
    contained = [_endpoint(f"{endpoint}/owners/{study.owner}")] if endpoint else []
    contained += [_device(device, name) for device, name in equipment.items()]
    if contained:
        body["contained"] = contained
    if endpoint:
        body["endpoint"] = [{"reference": "#wado-rs"}]
    if study.modalities:
        body["modality"] = [{"system": DCM, "code": code} for code in study.modalities]
    body["subject"] = join.subject if join.subject else _logical_subject(study)
    if started := date_time(study.attributes, "00080020", "00080030", zone):
        body["started"] = started
    if join.orders:
        body["basedOn"] = [{"reference": order} for order in join.orders]
    body["numberOfSeries"] = len(series)
    # "May be larger than the number of instance elements": what is known to exist and has not come is told so.
    body["numberOfInstances"] = max(sum(one.count for one in series), 0 if rejected else study.expected_instances)
    if description := attributes.text(study.attributes, "00081030"):
        body["description"] = description
    ordered = sorted(series, key=lambda one: (_order(attributes.number(one.attributes, "00200011")),
                                              one.series_instance_uid))
    if ordered:
        body["series"] = [_series(one, study, zone, equipment) for one in ordered]
    return body


def merged(current: Json | None, new: Json) -> Json:
    """`new`, with what others added to the current version."""
    if current is None:
        return new
    body = {name: value for name, value in current.items() if name not in OWN_ELEMENTS}
    body |= {name: value for name, value in new.items() if name != "meta"}
    _keep_instances(current, body)
    further = [one for one in current.get("extension", []) if one.get("url") not in OWN_EXTENSIONS]
    if further := [*further, *new.get("extension", [])]:
        body["extension"] = further
    else:
        body.pop("extension", None)
    meta = dict(current.get("meta", {}))
    tags = [tag for tag in meta.get("tag", []) if tag.get("system") != MATCHING]
    meta["tag"] = [*tags, *new["meta"]["tag"]]
    body["meta"] = meta
    return body


def _keep_instances(current: Json, body: Json) -> None:
    """What was complete and is reopened still lists what it listed then, until it is complete again."""
    listed = {one.get("uid"): one["instance"] for one in current.get("series", []) if one.get("instance")}
    for one in body.get("series", []):
        if "instance" not in one and one["uid"] in listed:
            one["instance"] = listed[one["uid"]]


def same(current: Json, new: Json) -> bool:
    """Whether two versions say the same, but for what the server stamps."""
    return _unstamped(current) == _unstamped(new)


def _unstamped(body: Json) -> Json:
    meta = {k: v for k, v in body.get("meta", {}).items() if k not in {"versionId", "lastUpdated"}}
    return {k: v for k, v in body.items() if k not in {"id", "meta"}} | {"meta": meta}


def _identifiers(study: Study, join: Join) -> list[Json]:
    found: list[Json] = [{"system": STUDY_UID, "value": f"urn:oid:{study.study_instance_uid}"}]
    if study.accession_number:
        found.append(
            {
                "type": {"coding": [{"system": V2_0203, "code": "ACSN"}]},
                "system": join.accession_system or f"{CANONICAL}/NamingSystem/accession-number/{study.owner}",
                "value": study.accession_number,
            }
        )
    return found


def _logical_subject(study: Study) -> Json:
    """A study whose patient is not known on this server still says whom it is about (subject is 1..1)."""
    if not study.patient_id:
        return {"type": "Patient", "display": "Not identified"}
    return {
        "type": "Patient",
        "identifier": {
            "system": f"{CANONICAL}/NamingSystem/dicom-patient-id/{study.owner}",
            "value": study.patient_id,
        },
    }


def _endpoint(address: str) -> Json:
    return {
        "resourceType": "Endpoint",
        "id": "wado-rs",
        "status": "active",
        "connectionType": {
            "system": "http://terminology.hl7.org/CodeSystem/endpoint-connection-type",
            "code": "dicom-wado-rs",
        },
        "payloadType": [{"text": "DICOM"}],
        "payloadMimeType": ["application/dicom"],
        "address": address,
    }


def _series(series: Series, study: Study, zone: tzinfo, equipment: Mapping[_Device, str]) -> Json:
    body: Json = {"uid": series.series_instance_uid}
    number = attributes.number(series.attributes, "00200011")
    if number is not None and number >= 0:
        body["number"] = number
    # Modality is 1..1 here and type 1 in DICOM; OT is DICOM's own word for what does not say.
    body["modality"] = {"system": DCM, "code": series.modality or "OT"}
    if description := attributes.text(series.attributes, "0008103E"):
        body["description"] = description
    body["numberOfInstances"] = series.count
    if part := attributes.text(series.attributes, "00180015"):
        body["bodySite"] = {"display": part}
    times = dict(series.attributes)
    times.setdefault("00080201", study.attributes.get("00080201", {}))
    if started := date_time(times, "00080021", "00080031", zone):
        body["started"] = started
    if (device := _device_of(series)) in equipment:
        body["performer"] = [{"actor": {"reference": f"#{equipment[device]}"}}]
    ordered = sorted(series.instances, key=lambda one: (_order(one.instance_number), one.sop_instance_uid))
    if ordered:
        body["instance"] = [_instance(one) for one in ordered]
    return body


_Device = tuple[str, str, str]
"""Manufacturer, model, station name."""


def _device_of(series: Series) -> _Device:
    json = series.attributes
    return attributes.text(json, "00080070"), attributes.text(json, "00081090"), attributes.text(json, "00081010")


def _equipment(series: Sequence[Series]) -> dict[_Device, str]:
    """The devices that made the series, and the id of each among the contained resources."""
    found = sorted({_device_of(one) for one in series} - {("", "", "")})
    named = [device for device in found if any(device[:2])]
    return {device: f"equipment-{number}" for number, device in enumerate(named, start=1)}


def _device(device: _Device, name: str) -> Json:
    """Elements of identification of the equipment (arrêté du 22 septembre 2006)."""
    manufacturer, model, station = device
    body: Json = {"resourceType": "Device", "id": name}
    if manufacturer:
        body["manufacturer"] = manufacturer
    names = [(model, "model-name"), (station, "user-friendly-name")]
    given = [{"name": text, "type": kind} for text, kind in names if text]
    if given:
        body["deviceName"] = given
    return body


def _instance(instance: Instance) -> Json:
    body: Json = {
        "uid": instance.sop_instance_uid,
        "sopClass": {"system": URI, "code": f"urn:oid:{instance.sop_class_uid}"},
    }
    if instance.instance_number is not None and instance.instance_number >= 0:
        body["number"] = instance.instance_number
    return body


def _order(number: int | None) -> int:
    return 2**31 if number is None else number


_DATE = re.compile(r"(\d{4})[.\-]?(\d{2})[.\-]?(\d{2})")
_TIME = re.compile(r"(\d{2}):?(\d{2})?:?(\d{2})?(?:\.(\d{1,6}))?")
_OFFSET = re.compile(r"([+-])(\d{2})(\d{2})")


def date_time(json: Mapping[str, Any], date_tag: str, time_tag: str, zone: tzinfo) -> str | None:
    """FHIR dateTime of a DICOM date and time; the date alone where there is no time or it is none."""
    date = _DATE.fullmatch(attributes.text(dict(json), date_tag).split("\\")[0])
    if date is None:
        return None
    year, month, day = (int(part) for part in date.groups())
    try:
        if year == 0 or not datetime(year, month, day, tzinfo=zone):
            return None
    except ValueError:
        return None
    time = _TIME.fullmatch(attributes.text(dict(json), time_tag).split("\\")[0])
    if time is None or time.group(2) is None:
        return f"{year:04}-{month:02}-{day:02}"
    hour, minute, second = (int(part or 0) for part in time.groups()[:3])
    offset = _OFFSET.fullmatch(attributes.text(dict(json), "00080201"))
    where = zone if offset is None else timezone(_delta(*offset.groups()))
    try:
        at = datetime(year, month, day, hour, minute, min(second, 59), tzinfo=where)
    except ValueError:
        return f"{year:04}-{month:02}-{day:02}"
    fraction = (time.group(4) or "").rstrip("0")
    shown = at.isoformat(timespec="seconds")
    return f"{shown[:19]}.{fraction}{shown[19:]}" if fraction else shown


def _delta(sign: str, hours: str, minutes: str) -> timedelta:
    size = timedelta(hours=min(int(hours), 14), minutes=min(int(minutes), 59))
    return -size if sign == "-" else size
