"""Each invariant of the standard is there, holds where it should, and says its own words.

http://hl7.org/fhir/R4/conformance-rules.html#constraints
"""

from __future__ import annotations

from typing import Any

import pytest

from resources import definitions
from resources.bundle_rules import BUNDLE
from resources.invariants import DATA_TYPES, EVERY_RESOURCE
from resources.invariants_clinical import CLINICAL
from resources.invariants_conformance import CONFORMANCE
from resources.invariants_structure import STRUCTURE
from resources.validation import validate

_OURS = {**DATA_TYPES, **EVERY_RESOURCE, **BUNDLE, **CLINICAL, **CONFORMANCE, **STRUCTURE}

_ELSEWHERE = {
    "ele-1": "resources.shapes: an element has a value or children",
    "txt-1": "resources.narrative",
    "txt-2": "resources.narrative",
    # The same rule at elements that have the content of another (contentReference).
    "tst-6": "tst-5", "tst-8": "tst-7", "tst-9": "tst-7", "tst-11": "tst-10", "tst-13": "tst-12",
    # The official expression compares the system with the placeholder 'something', so it never fails.
    "ppc-2": "void", "ppc-3": "void", "ppc-4": "void", "ppc-5": "void",
}  # fmt: skip


def test_every_error_invariant_of_r4_is_there_or_named_as_left_out() -> None:
    """Facts are tables: a new invariant fails here until somebody writes it."""
    official = {(row.path, row.key) for row in definitions.constraints() if row.severity == "error"}
    keys = {(path.partition(".")[0], key) for path, key in _OURS}
    missing = {key for path, key in official if (path.partition(".")[0], key) not in keys}
    assert missing == set(_ELSEWHERE)


def test_no_invariant_is_invented() -> None:
    official = {(row.path.partition(".")[0], row.key) for row in definitions.constraints() if row.severity == "error"}
    assert {(path.partition(".")[0], key) for path, key in _OURS} <= official


def test_every_invariant_sits_at_a_shape() -> None:
    """At a type or a backbone element: elsewhere nobody would ask it."""
    assert {path for path, _ in _OURS} <= set(definitions.types()) | set(definitions.elements())


PATIENT = {"resourceType": "Patient"}
CODE = {"text": "a"}
OBSERVATION = {"resourceType": "Observation", "status": "final", "code": CODE}
SEATS = [{"type": [CODE], "status": "accepted"}]
APPOINTMENT = {"resourceType": "Appointment", "status": "booked", "participant": SEATS}
TIMES = {"start": "2024-01-01T10:00:00Z", "end": "2024-01-01T11:00:00Z"}
UCUM = {"system": "http://unitsofmeasure.org", "code": "a"}


def status(system: str, code: str) -> dict[str, Any]:
    return {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/" + system, "code": code}]}


ERROR = status("condition-ver-status", "entered-in-error")
ACTIVE = status("condition-clinical", "active")
GONE = status("condition-clinical", "resolved")
CONDITION = {"resourceType": "Condition", "subject": {"reference": "Patient/1"}}
LIST = {"resourceType": "List", "status": "current", "mode": "working"}
ITEM = {"item": {"display": "a"}}
QUESTIONNAIRE = {"resourceType": "Questionnaire", "status": "draft"}
TASK = {"resourceType": "Task", "status": "ready", "intent": "order"}
ORDER = {"resourceType": "ServiceRequest", "status": "active", "intent": "order", "subject": {"display": "a"}}
BUNDLE_OF = {"resourceType": "Bundle"}
POST = {"method": "POST", "url": "Patient"}
PUT = {"method": "PUT", "url": "Patient/1"}


def extended(value: Any) -> dict[str, Any]:
    return {**PATIENT, "extension": [{"url": "http://a", **value}]}


def timed(**repeat: Any) -> dict[str, Any]:
    return {**ORDER, "occurrenceTiming": {"repeat": repeat}}


REPEAT = "ServiceRequest.occurrence.ofType(Timing).repeat"

BROKEN: list[tuple[str, dict[str, Any], str]] = [
    ("ext-1", extended({}), "Patient.extension[0]"),
    ("ext-1", extended({"valueCode": "a", "extension": [{"url": "b", "valueCode": "a"}]}), "Patient.extension[0]"),
    ("per-1", {**PATIENT, "name": [{"text": "a", "period": {"start": "2024-02", "end": "2024-01-01"}}]},
     "Patient.name[0].period"),
    ("per-1", extended({"valuePeriod": {"start": "2024-01-01T10:00:00+01:00", "end": "2024-01-01T08:59:59Z"}}),
     "Patient.extension[0].value.ofType(Period)"),
    ("per-1", extended({"valuePeriod": {"start": "2024-01-01", "end": "2024-01-01T08:59:59Z"}}),
     "Patient.extension[0].value.ofType(Period)"),
    ("per-1", extended({"valuePeriod": {"start": "2024-01-01T10:00:00.5Z", "end": "2024-01-01T10:00:00.25Z"}}),
     "Patient.extension[0].value.ofType(Period)"),
    ("att-1", {**PATIENT, "photo": [{"data": "QQ=="}]}, "Patient.photo[0]"),
    ("cpt-2", {**PATIENT, "telecom": [{"value": "a"}]}, "Patient.telecom[0]"),
    ("qty-3", {**OBSERVATION, "valueQuantity": {"value": 1, "code": "mm"}}, "Observation.value.ofType(Quantity)"),
    ("rng-2", {**OBSERVATION, "valueRange": {"low": {"value": 2}, "high": {"value": 1}}},
     "Observation.value.ofType(Range)"),
    ("rat-1", {**OBSERVATION, "valueRatio": {"numerator": {"value": 1}}}, "Observation.value.ofType(Ratio)"),
    ("age-1", extended({"valueAge": {"value": -1, **UCUM}}), "Patient.extension[0].value.ofType(Age)"),
    ("age-1", extended({"valueAge": {"value": 1}}), "Patient.extension[0].value.ofType(Age)"),
    ("drt-1", extended({"valueDuration": {"value": 1, "code": "a"}}), "Patient.extension[0].value.ofType(Duration)"),
    ("ref-1", {**PATIENT, "managingOrganization": {"reference": "#x"}}, "Patient.managingOrganization"),
    ("tim-1", timed(duration=1), REPEAT),
    ("tim-2", timed(period=1), REPEAT),
    ("tim-4", timed(duration=-1, durationUnit="s"), REPEAT),
    ("tim-6", timed(periodMax=1), REPEAT),
    ("tim-9", timed(offset=1, when=["C"]), REPEAT),
    ("tim-10", timed(timeOfDay=["10:00:00"], when=["HS"]), REPEAT),
    ("dom-2", {**PATIENT, "contained": [{**PATIENT, "id": "a", "contained": [{**PATIENT, "id": "b"}]}],
               "link": [{"other": {"reference": "#a"}, "type": "seealso"}]}, "Patient.contained[0]"),
    ("dom-3", {**PATIENT, "contained": [{**PATIENT, "id": "a"}]}, "Patient.contained[0]"),
    ("dom-3", {**PATIENT, "contained": [{**PATIENT}]}, "Patient.contained[0]"),
    ("dom-4", {**PATIENT, "contained": [{**PATIENT, "id": "a", "meta": {"versionId": "1"}}],
               "link": [{"other": {"reference": "#a"}, "type": "seealso"}]}, "Patient.contained[0]"),
    ("dom-5", {**PATIENT, "contained": [{**PATIENT, "id": "a", "meta": {"security": [{"code": "R"}]}}],
               "link": [{"other": {"reference": "#a"}, "type": "seealso"}]}, "Patient.contained[0]"),
    ("bdl-1", {**BUNDLE_OF, "type": "collection", "total": 0}, "Bundle"),
    ("bdl-2", {**BUNDLE_OF, "type": "collection", "entry": [{"resource": PATIENT, "search": {"mode": "match"}}]},
     "Bundle.entry[0].search"),
    ("bdl-3", {**BUNDLE_OF, "type": "transaction", "entry": [{"resource": PATIENT, "request": POST},
                                                             {"resource": PATIENT}]}, "Bundle.entry[1]"),
    ("bdl-3", {**BUNDLE_OF, "type": "searchset", "entry": [{"resource": PATIENT, "request": POST}]}, "Bundle.entry[0]"),
    ("bdl-4", {**BUNDLE_OF, "type": "transaction-response", "entry": [{"resource": PATIENT}]}, "Bundle.entry[0]"),
    ("bdl-5", {**BUNDLE_OF, "type": "collection", "entry": [{"fullUrl": "urn:a:b"}]}, "Bundle.entry[0]"),
    ("bdl-7", {**BUNDLE_OF, "type": "collection", "entry": [{"fullUrl": "urn:a:b", "resource": PATIENT}] * 2},
     "Bundle.entry[1].fullUrl"),
    ("bdl-8", {**BUNDLE_OF, "type": "collection",
               "entry": [{"fullUrl": "http://a/Patient/1/_history/1", "resource": PATIENT}]}, "Bundle.entry[0]"),
    ("bdl-9", {**BUNDLE_OF, "type": "document"}, "Bundle"),
    ("bdl-10", {**BUNDLE_OF, "type": "document"}, "Bundle"),
    ("bdl-11", {**BUNDLE_OF, "type": "document", "entry": [{"resource": PATIENT}]}, "Bundle"),
    ("bdl-12", {**BUNDLE_OF, "type": "message", "entry": [{"resource": PATIENT}]}, "Bundle"),
    ("pat-1", {**PATIENT, "contact": [{"gender": "female"}]}, "Patient.contact[0]"),
    ("org-1", {"resourceType": "Organization", "active": True}, "Organization"),
    ("org-2", {"resourceType": "Organization", "name": "a", "address": [{"text": "a"}, {"use": "home"}]},
     "Organization.address[1]"),
    ("org-3", {"resourceType": "Organization", "name": "a",
               "telecom": [{"system": "phone", "value": "1", "use": "home"}]}, "Organization.telecom[0]"),
    ("app-1", {**APPOINTMENT, **TIMES, "participant": [{"status": "accepted"}]}, "Appointment.participant[0]"),
    ("app-2", {**APPOINTMENT, "status": "proposed", "start": TIMES["start"]}, "Appointment"),
    ("app-3", APPOINTMENT, "Appointment"),
    ("app-4", {**APPOINTMENT, **TIMES, "cancelationReason": CODE}, "Appointment"),
    ("apr-1", {"resourceType": "AppointmentResponse", "appointment": {"display": "a"},
               "participantStatus": "accepted"}, "AppointmentResponse"),
    ("obs-3", {**OBSERVATION, "referenceRange": [{"type": CODE}]}, "Observation.referenceRange[0]"),
    ("obs-6", {**OBSERVATION, "valueString": "a", "dataAbsentReason": CODE}, "Observation"),
    ("obs-7", {**OBSERVATION, "code": {"coding": [{"code": "a"}]}, "valueString": "a",
               "component": [{"code": {"coding": [{"code": "a"}]}}]}, "Observation"),
    ("con-4", {**CONDITION, "clinicalStatus": ACTIVE, "abatementDateTime": "2024"}, "Condition"),
    ("con-5", {**CONDITION, "verificationStatus": ERROR, "clinicalStatus": ACTIVE}, "Condition"),
    ("con-2", {**CONDITION, "clinicalStatus": ACTIVE, "evidence": [{"extension": [{"url": "a", "valueCode": "b"}]}]},
     "Condition.evidence[0]"),
    ("ait-1", {"resourceType": "AllergyIntolerance", "patient": {"display": "a"}}, "AllergyIntolerance"),
    ("prr-1", {**ORDER, "orderDetail": [CODE]}, "ServiceRequest"),
    ("inv-1", {**TASK, "authoredOn": "2024-01-02", "lastModified": "2024-01-01"}, "Task"),
    ("inv-1", {"resourceType": "Parameters", "parameter": [{"name": "a"}]}, "Parameters.parameter[0]"),
    ("inv-1", {"resourceType": "Parameters", "parameter": [{"name": "a", "valueCode": "a", "resource": PATIENT}]},
     "Parameters.parameter[0]"),
    ("sev-1", {"resourceType": "AuditEvent", "type": {"code": "a"}, "recorded": "2024-01-01T00:00:00Z",
               "agent": [{"requestor": True}], "source": {"observer": {"display": "a"}},
               "entity": [{"name": "a", "query": "QQ=="}]}, "AuditEvent.entity[0]"),
    ("lst-1", {**LIST, "emptyReason": CODE, "entry": [ITEM]}, "List"),
    ("lst-2", {**LIST, "entry": [{**ITEM, "deleted": True}]}, "List"),
    ("lst-3", {**LIST, "mode": "snapshot", "entry": [{**ITEM, "date": "2024"}]}, "List"),
    ("grp-1", {"resourceType": "Group", "type": "person", "actual": False, "member": [{"entity": {"display": "a"}}]},
     "Group"),
    ("que-1", {**QUESTIONNAIRE, "item": [{"linkId": "1", "type": "group"}]}, "Questionnaire.item[0]"),
    ("que-2", {**QUESTIONNAIRE, "item": [
        {"linkId": "1", "type": "group", "item": [{"linkId": "1", "type": "string"}]}]}, "Questionnaire"),
    ("csd-1", {"resourceType": "CodeSystem", "status": "draft", "content": "complete",
               "concept": [{"code": "a", "concept": [{"code": "a"}]}]}, "CodeSystem"),
    ("cpb-1", {"resourceType": "CapabilityStatement", "status": "draft", "date": "2024", "kind": "requirements",
               "description": "a", "fhirVersion": "4.0.1", "format": ["json"]}, "CapabilityStatement"),
    ("mdd-1", {"resourceType": "MedicationDispense", "status": "completed", "medicationCodeableConcept": CODE,
               "whenPrepared": "2024-01-02", "whenHandedOver": "2024-01-01"}, "MedicationDispense"),
    ("sqt-1", {**OBSERVATION, "referenceRange": [{"low": {"value": 1, "comparator": "<"}}]},
     "Observation.referenceRange[0].low"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "resource", "expression"), BROKEN)
def test_a_broken_invariant_is_named_at_its_place(key: str, resource: dict[str, Any], expression: str) -> None:
    found = [issue for issue in validate(resource) if issue.diagnostics.endswith(f"({key})")]
    assert [(issue.code, issue.expression) for issue in found] == [("invariant", (expression,))]


KEPT: list[dict[str, Any]] = [
    extended({"valuePeriod": {"start": "2024-01-01T10:00:00+01:00", "end": "2024-01-01T09:00:00.000Z"}}),
    extended({"valuePeriod": {"start": "2024-01", "end": "2024-02-01"}}),
    extended({"valuePeriod": {"start": "2024-01-01", "end": "2024-01-01"}}),
    extended({"valuePeriod": {"start": "2024-01-01T10:00:59.5Z", "end": "2024-01-01T10:00:60Z"}}),
    extended({"valueAge": {"value": 1, **UCUM}}),
    extended({"_valueCode": {"extension": [{"url": "b", "valueCode": "a"}]}}),
    {**PATIENT, "contained": [{"resourceType": "Organization", "id": "a", "name": "a"}],
     "managingOrganization": {"reference": "#a"}},
    {**PATIENT, "contained": [{"resourceType": "Provenance", "target": [{"reference": "#"}], "agent": [
        {"who": {"display": "a"}}], "recorded": "2024-01-01T00:00:00Z"}]},
    {**BUNDLE_OF, "type": "history", "entry": [
        {"fullUrl": "http://a/Patient/1", "resource": {**PATIENT, "id": "1"},
         "request": PUT, "response": {"status": "200"}}] * 2},
    {**BUNDLE_OF, "type": "collection", "entry": [
        {"fullUrl": "urn:a:b", "resource": {**PATIENT, "meta": {"versionId": "1"}}},
        {"fullUrl": "urn:a:b", "resource": {**PATIENT, "meta": {"versionId": "2"}}}]},
    {**APPOINTMENT, **TIMES},
    {**APPOINTMENT, "status": "proposed"},
    {**CONDITION, "clinicalStatus": GONE, "abatementDateTime": "2024"},
    {**OBSERVATION, "valueQuantity": {"value": 1, "system": "a", "code": "mm"}},
    {**OBSERVATION, "valueRange": {"low": {"value": 2, "unit": "mm"}, "high": {"value": 1, "unit": "cm"}}},
    timed(duration=1, durationUnit="s", periodMax=2, period=1, periodUnit="d", offset=1, when=["HS"]),
]  # fmt: skip


@pytest.mark.parametrize("resource", KEPT)
def test_what_keeps_the_invariants_is_accepted(resource: dict[str, Any]) -> None:
    assert validate(resource) == []
