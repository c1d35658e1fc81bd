"""What the play's people write: resources built by the models of fhir.resources, as a partner's software would.

The orders' identifiers are fictive roots (urn:oid:1.2.250.1.999), each play has numbers of its own.
"""

from __future__ import annotations

import uuid
from datetime import timedelta

from fhir_server.demo import world
from resources import models
from resources.codes import LOINC, SNOMED, V2_0203
from resources.json import Json
from resources.times import instant_text, utc_now
from subscriptions.terms import PAYLOAD_CONTENT
from subscriptions.topics import REPORT_SIGNED

CHANNEL_HEADER = "Bearer demo-hospital"
"""What the hospital's endpoint asks of who notifies it."""

_IPP = "urn:oid:1.2.250.1.999.1.1"
_PLACER = "urn:oid:1.2.250.1.999.1.2"
_VISIT = "urn:oid:1.2.250.1.999.1.3"
_ACT_CODE = "http://terminology.hl7.org/CodeSystem/v3-ActCode"
_IMAGING = {"coding": [{"system": SNOMED, "code": "363679005", "display": "Imaging"}]}
_HEAD_CT = {"coding": [{"system": LOINC, "code": "24725-4"}], "text": "TDM crâne sans injection"}


SUBSCRIBED_FOR = timedelta(minutes=10)
"""A play that is killed cannot take its subscription back: it ends by itself."""


def subscription(endpoint: str) -> Json:
    """The hospital's wish to be told of signed reports, by id."""
    return models.build(
        "Subscription",
        status="requested",
        reason="Comptes rendus signés",
        criteria=REPORT_SIGNED,
        end=instant_text(utc_now() + SUBSCRIBED_FOR),
        channel={
            "type": "rest-hook",
            "endpoint": endpoint,
            "payload": "application/fhir+json",
            "_payload": {"extension": [{"url": PAYLOAD_CONTENT, "valueCode": "id-only"}]},
            "header": [f"Authorization: {CHANNEL_HEADER}"],
        },
    )


def order_bundle(number: str) -> Json:
    """One emergency as the hospital's EHR sends it: patient, visit and order in a transaction that may be repeated."""
    patient, visit, order = (f"urn:uuid:{uuid.uuid4()}" for _ in range(3))
    entries = (
        (patient, _patient(f"IPP-{number}")),
        (visit, _visit(f"VN-{number}", patient)),
        (order, _order(f"PLAC-{number}", patient, visit)),
    )
    return models.build("Bundle", type="transaction", entry=[_entry(url, resource) for url, resource in entries])


def protocol(order: str, patient: str) -> Json:
    """The regulator's protocol of the examination, based on the order."""
    return models.build(
        "ServiceRequest",
        status="active",
        intent="filler-order",
        basedOn=[{"reference": order}],
        subject={"reference": patient},
        priority="stat",
        category=[_IMAGING],
        code=_HEAD_CT,
        note=[{"text": "Acquisition sans injection, coupes fines, fenêtre parenchymateuse."}],
    )


def report(order: str, patient: str, study: Json) -> Json:
    """The radiologist's draft."""
    return models.build(
        "DiagnosticReport",
        status="preliminary",
        basedOn=[{"reference": order}],
        subject={"reference": patient},
        category=[{"coding": [{"system": LOINC, "code": "LP29684-5"}]}],
        code=_HEAD_CT,
        effectiveDateTime=study.get("started"),
        imagingStudy=[{"reference": f"ImagingStudy/{study['id']}"}],
        conclusion="Hyperdensité spontanée intraparenchymateuse : hématome intracérébral.",
    )


def _patient(number: str) -> Json:
    return models.build(
        "Patient",
        identifier=[{"type": _kind("PI"), "system": _IPP, "value": number}],
        name=[{"family": "DUPOND", "given": ["Claire"]}],
        gender="female",
        birthDate="1961-02-14",
    )


def _visit(number: str, patient: str) -> Json:
    return models.build(
        "Encounter",
        identifier=[{"system": _VISIT, "value": number}],
        status="in-progress",
        **{"class": {"system": _ACT_CODE, "code": "EMER"}},
        subject={"reference": patient},
        serviceProvider={"reference": f"Organization/{world.HOSPITAL_A}"},
    )


def _order(number: str, patient: str, visit: str) -> Json:
    return models.build(
        "ServiceRequest",
        identifier=[{"type": _kind("PLAC"), "system": _PLACER, "value": number}],
        status="active",
        intent="order",
        priority="stat",
        category=[_IMAGING],
        code=_HEAD_CT,
        subject={"reference": patient},
        encounter={"reference": visit},
        requester={"reference": f"Organization/{world.HOSPITAL_A}"},
        reasonCode=[{"text": "Céphalée brutale, suspicion d'hémorragie intracrânienne"}],
        note=[{"text": "Rappel au 01 99 00 00 00"}],
    )


def _kind(code: str) -> Json:
    return {"coding": [{"system": V2_0203, "code": code}]}


def _entry(url: str, resource: Json) -> Json:
    identifier = resource["identifier"][0]
    return {
        "fullUrl": url,
        "resource": resource,
        "request": {
            "method": "POST",
            "url": resource["resourceType"],
            "ifNoneExist": f"identifier={identifier['system']}|{identifier['value']}",
        },
    }
