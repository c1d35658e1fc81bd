"""The dose of a CT as FHIR says it here: an extension of the ImagingStudy.

R4 has no element for it. Told with the study it has the study's audience, history and life; the values are those of
the scanner's own Radiation Dose SR (DICOM PS3.16 TID 10011), never computed from the images.

    {"url": ".../StructureDefinition/radiation-dose", "extension": [
        {"url": "report", "valueOid": "urn:oid:<SOP Instance UID>"},
        {"url": "dlpTotal", "valueQuantity": {"value": 912.4, "unit": "mGy.cm", …}},
        {"url": "event", "extension": [{"url": "protocol", "valueString": …}, {"url": "ctdiVol", "valueQuantity": …},
                                       {"url": "dlp", "valueQuantity": …}]}]}
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from resources.codes import CANONICAL, DCM, UCUM
from resources.json import Json
from resources.jsontext import JsonDecimal

EXTENSION = f"{CANONICAL}/StructureDefinition/radiation-dose"
ABSENT = f"{CANONICAL}/StructureDefinition/dose-absent"
"""On a DiagnosticReport: why it names no dose (valueCodeableConcept)."""
MGY, MGY_CM = "mGy", "mGy.cm"


@dataclass(frozen=True, slots=True)
class Event:
    """One irradiation."""

    uid: str
    protocol: str = ""
    ctdi_vol: Decimal | None = None
    """mGy, mean of the event."""
    dlp: Decimal | None = None
    """mGy·cm."""


@dataclass(frozen=True, slots=True)
class Dose:
    """What one or several dose reports of a study say together."""

    reports: tuple[str, ...]
    """SOP Instance UIDs."""
    dlp_total: Decimal | None
    """mGy·cm."""
    events: tuple[Event, ...] = ()

    @property
    def is_known(self) -> bool:
        """Whether it says how much: an accumulated DLP, or the CTDIvol or DLP of an event."""
        return self.dlp_total is not None or any(one.ctdi_vol is not None or one.dlp is not None for one in self.events)


def extension(dose: Dose) -> Json:
    """The extension of an ImagingStudy."""
    inner: list[Json] = [{"url": "report", "valueOid": f"urn:oid:{uid}"} for uid in dose.reports]
    if dose.dlp_total is not None:
        inner.append({"url": "dlpTotal", "valueQuantity": _quantity(dose.dlp_total, MGY_CM)})
    for event in dose.events:
        said: list[Json] = []
        if event.protocol:
            said.append({"url": "protocol", "valueString": event.protocol})
        if event.ctdi_vol is not None:
            said.append({"url": "ctdiVol", "valueQuantity": _quantity(event.ctdi_vol, MGY)})
        if event.dlp is not None:
            said.append({"url": "dlp", "valueQuantity": _quantity(event.dlp, MGY_CM)})
        if said:
            inner.append({"url": "event", "extension": said})
    return {"url": EXTENSION, "extension": inner}


def of_study(study: Json) -> Dose | None:
    """The dose that an ImagingStudy tells; None where it tells none."""
    found = next((one for one in study.get("extension", []) if one.get("url") == EXTENSION), None)
    if found is None:
        return None
    inner = found.get("extension", [])
    named = [str(one.get("valueOid", "")) for one in inner if one.get("url") == "report"]
    reports = tuple(one.removeprefix("urn:oid:") for one in named)
    events = []
    for one in inner:
        if one.get("url") == "event":
            said = one.get("extension", [])
            protocol = next((str(each.get("valueString", "")) for each in said if each.get("url") == "protocol"), "")
            events.append(Event("", protocol, _value(said, "ctdiVol"), _value(said, "dlp")))
    return Dose(reports, _value(inner, "dlpTotal"), tuple(events))


def is_ct(study: Json) -> bool:
    """Whether the study has images of computed tomography."""
    series = study.get("series", [])
    modalities = [*study.get("modality", []), *(one.get("modality", {}) for one in series)]
    return any(one.get("code") == "CT" and one.get("system", DCM) == DCM for one in modalities)


def absent_reason(report: Json) -> Json | None:
    """Why a report names no dose: a CodeableConcept with a code; None where it does not say."""
    for one in report.get("extension", []):
        reason: Json = one.get("valueCodeableConcept", {})
        coded = any(each.get("system") and each.get("code") for each in reason.get("coding", []))
        if one.get("url") == ABSENT and coded:
            return reason
    return None


def _quantity(value: Decimal, unit: str) -> Json:
    return {"value": JsonDecimal(format(value, "f")), "unit": unit, "system": UCUM, "code": unit}


def _value(inner: Iterable[Json], url: str) -> Decimal | None:
    for one in inner:
        value = one.get("valueQuantity", {}).get("value")
        if one.get("url") == url and isinstance(value, int | Decimal):
            return Decimal(value)
    return None


