"""Resources in a line: what a test does not name is a sensible emergency at a hospital of the tests."""

from __future__ import annotations

import itertools
from decimal import Decimal
from typing import Any

from resources import dose
from resources.codes import (
    DUTY_FUNCTION,
    EVENT_STATUS_REASON,
    REPORT_REASON,
    SNOMED,
    TELERADIOLOGY_TASK,
    V2_0203,
    DutyFunction,
    concept,
)
from resources.json import Json

_number = itertools.count(1)


def _with(body: Json, more: Json) -> Json:
    """`more` over `body`; None removes an element."""
    merged = body | more
    return {name: value for name, value in merged.items() if value is not None}


def ref(reference: str) -> Json:
    return {"reference": reference}


def organization(name: str = "Centre hospitalier de Test", **more: Any) -> Json:
    return _with({"resourceType": "Organization", "active": True, "name": name}, more)


def practitioner(family: str = "Lecteur", **more: Any) -> Json:
    body = {"resourceType": "Practitioner", "active": True, "name": [{"family": family, "given": ["Claude"]}]}
    return _with(body, more)


def practitioner_role(practitioner_ref: str, **more: Any) -> Json:
    body = {"resourceType": "PractitionerRole", "active": True, "practitioner": ref(practitioner_ref)}
    return _with(body, more)


def patient(family: str = "Essai", **more: Any) -> Json:
    body = {
        "resourceType": "Patient",
        "identifier": [
            {
                "use": "usual",
                "type": {"coding": [{"system": V2_0203, "code": "PI"}]},
                "system": "urn:oid:1.2.250.1.999.1",
                "value": f"IPP{next(_number):06d}",
            }
        ],
        "name": [{"use": "official", "family": family, "given": ["Camille"]}],
        "gender": "female",
        "birthDate": "1961-04-12",
    }
    return _with(body, more)


def service_request(subject: str, *, priority: str = "stat", **more: Any) -> Json:
    """A hospital's order for a CT of the head."""
    body = {
        "resourceType": "ServiceRequest",
        "status": "active",
        "intent": "order",
        "priority": priority,
        "category": [{"coding": [{"system": SNOMED, "code": "363679005", "display": "Imaging"}]}],
        "code": {"coding": [{"system": "http://loinc.org", "code": "24725-4", "display": "CT tête"}]},
        "subject": ref(subject),
        "authoredOn": "2026-06-01T08:00:00+02:00",
        "reasonCode": [{"text": "Déficit brutal du membre supérieur droit"}],
    }
    return _with(body, more)


def protocol(order: str, subject: str, **more: Any) -> Json:
    """The regulator's filler order."""
    body = {
        "resourceType": "ServiceRequest",
        "status": "active",
        "intent": "filler-order",
        "basedOn": [ref(order)],
        "category": [{"coding": [{"system": SNOMED, "code": "363679005"}]}],
        "code": {"coding": [{"system": "http://loinc.org", "code": "24725-4"}], "text": "Scanner cérébral"},
        "subject": ref(subject),
        "note": [{"text": "Sans injection, puis angio-scanner si déficit confirmé"}],
    }
    return _with(body, more)


def imaging_study(order: str | None, subject: str, *, instances: int = 12, **more: Any) -> Json:
    uid = f"1.2.826.0.1.3680043.10.999.{next(_number)}"
    body: Json = {
        "resourceType": "ImagingStudy",
        "identifier": [{"system": "urn:dicom:uid", "value": f"urn:oid:{uid}"}],
        "status": "available",
        "subject": ref(subject),
        "started": "2026-06-01T08:20:00+02:00",
        "basedOn": [ref(order)] if order else None,
        "modality": [{"system": "http://dicom.nema.org/resources/ontology/DCM", "code": "CT"}],
        "numberOfSeries": 1,
        "numberOfInstances": instances,
        "description": "Scanner cérébral sans injection",
        "extension": [dose.extension(dose.Dose((f"{uid}.9",), Decimal("912.4")))],
    }
    return _with(body, more)


def because(text: str = "Relecture à froid", code: str | None = None) -> list[Json]:
    """The extension that says why a signed report is revised or withdrawn."""
    reason: Json = {"text": text} if text else {}
    if code:
        reason["coding"] = [{"system": REPORT_REASON, "code": code}]
    return [{"url": EVENT_STATUS_REASON, "valueCodeableConcept": reason}]


def diagnostic_report(order: str, subject: str, study: str | None, *, status: str = "preliminary", **more: Any) -> Json:
    body = {
        "resourceType": "DiagnosticReport",
        "status": status,
        "category": [{"coding": [{"system": SNOMED, "code": "363679005"}]}],
        "code": {"coding": [{"system": "http://loinc.org", "code": "24725-4", "display": "CT tête"}]},
        "basedOn": [ref(order)],
        "subject": ref(subject),
        "effectiveDateTime": "2026-06-01T08:20:00+02:00",
        "imagingStudy": [ref(study)] if study else None,
        "text": {
            "status": "additional",
            "div": '<div xmlns="http://www.w3.org/1999/xhtml"><p>Hyperdensité spontanée &lt; 2 cm.</p></div>',
        },
        "conclusion": "Hématome intraparenchymateux lenticulaire gauche.",
    }
    return _with(body, more)


def garde(person: str, start: str, end: str, *, function: str = DutyFunction.READING, **more: Any) -> Json:
    """A garde: an Appointment without a patient."""
    body = {
        "resourceType": "Appointment",
        "status": "booked",
        "serviceType": [concept(DUTY_FUNCTION, function)],
        "start": start,
        "end": end,
        "participant": [{"actor": ref(person), "status": "accepted"}],
    }
    return _with(body, more)


def workflow_task(kind: str, **more: Any) -> Json:
    """A Task as a client would forge it."""
    body = {
        "resourceType": "Task",
        "status": "requested",
        "intent": "order",
        "code": concept(TELERADIOLOGY_TASK, kind),
    }
    return _with(body, more)


def output(reference: str, text: str = "protocol") -> list[Json]:
    return [{"type": {"text": text}, "valueReference": ref(reference)}]


def critical_call(patient: str, report: str, order: str, sender: str, **more: Any) -> Json:
    """A call by which a critical result was communicated: all that closes its Task (minutes ago, to a person)."""
    body: Json = {
        "resourceType": "Communication",
        "status": "completed",
        "subject": ref(patient),
        "about": [ref(report)],
        "basedOn": [ref(order)],
        "sender": ref(sender),
        "contained": [
            {
                "resourceType": "Practitioner",
                "id": "urgentiste",
                "name": [{"family": "Moreau"}],
                "telecom": [{"system": "phone", "value": "+33 4 00 00 00 01"}],
            }
        ],
        "recipient": [{"reference": "#urgentiste"}],
        "medium": [
            {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ParticipationMode", "code": "PHONE"}]}
        ],
        "sent": "2026-06-01T07:55:00Z",
        "received": "2026-06-01T07:56:00Z",
        "payload": [{"contentString": "Hématome extradural avec effet de masse"}],
        "extension": [
            {"url": "https://vigie.example/StructureDefinition/finding-time", "valueDateTime": "2026-06-01T07:50:00Z"},
            {"url": "https://vigie.example/StructureDefinition/read-back", "valueBoolean": True},
        ],
    }
    body.update(more)
    return {name: value for name, value in body.items() if value is not None}
