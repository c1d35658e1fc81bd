"""Is this an R4 resource? Structure, cardinality, types, codes, targets; every problem at once, each with its place.

http://hl7.org/fhir/R4/validation.html, http://hl7.org/fhir/R4/json.html
"""

from __future__ import annotations

import copy
import cProfile
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resources.jsontext import dump, parse
from resources.outcomes import FhirError, InvalidContent, Malformed
from resources.shapes import MAX_ISSUES
from resources.validation import check, validate
from tests.resources.examples import FHIR, files, here, name
from tests.second_opinion import second_opinion

PATIENT = {"resourceType": "Patient"}
ORDER = {"resourceType": "ServiceRequest", "status": "active", "intent": "order", "subject": {"reference": "Patient/1"}}
OBSERVATION = {"resourceType": "Observation", "status": "final", "code": {"text": "a"}}
BUNDLE = {"resourceType": "Bundle", "type": "transaction"}
POST = {"method": "POST", "url": "Patient"}
PUT = {"method": "PUT", "url": "Patient/1"}
EXTENSION = {"url": "http://a", "valueCode": "b"}
DIV = '<div xmlns="http://www.w3.org/1999/xhtml">a</div>'


def found(resource: Any, **asked: str) -> list[tuple[str, str]]:
    return [(issue.code, *issue.expression) for issue in validate(resource, **asked)]  # type: ignore[misc]


_EXCUSED = {
    "Observation-clinical-gender": "its performer is an Encounter, which R4 does not allow; its index says so",
}


@pytest.mark.parametrize("path", files("examples-valid"), ids=name)
def test_the_valid_examples_of_others_are_accepted(path: Path) -> None:
    """By us, and as a second opinion by fhir.resources R4B."""
    resource = parse(path.read_bytes())
    issues = [issue for issue in validate(resource) if issue.severity == "error"]
    if path.stem in _EXCUSED:
        assert [issue.expression for issue in issues] == [("Observation.performer[0]",)]
    else:
        assert issues == []
    assert second_opinion(resource) == []


_FOR_THE_PROCESSOR = {
    "ms-Bundle-TransactionForRollBackWithDelete": "a stale If-Match: known only to the store",
    "ms-Bundle-TransactionWithInvalidProcessingRecord": "a reference that does not resolve: known only to the store",
    "ms-Bundle-TransactionWithInvalidProcessingRoutes": "one server's policy; R4 lets a server accept it",
}


@pytest.mark.parametrize("path", files("examples-invalid"), ids=name)
def test_the_invalid_examples_of_others_are_refused_with_a_place(path: Path) -> None:
    if path.stem in _FOR_THE_PROCESSOR:
        check(parse(path.read_bytes()))
        return
    with pytest.raises((Malformed, InvalidContent)) as raised:
        check(parse(path.read_bytes()))
    assert raised.value.status in (400, 422)
    assert all(issue.severity == "error" and issue.expression for issue in raised.value.issues)


@here
def test_the_places_are_those_of_the_reference_validator() -> None:
    """Of the content faults at least one place agrees; on JSON syntax parsers stop at different characters."""
    entries = json.loads((FHIR / "examples-invalid" / "index.json").read_text(encoding="utf-8"))["entries"]
    compared = 0
    for entry in entries:
        theirs = {error["expression"] for error in entry.get("referenceValidatorErrors", ())}
        if not theirs or entry["class"] == "json-syntax" or "contained" in entry["reason"]:
            continue
        raw = (FHIR / "examples-invalid" / entry["file"]).read_bytes()
        ours = {issue.expression[0] for issue in validate(parse(raw))}
        assert any(one.startswith(other) for one in ours for other in theirs), entry["file"]
        compared += 1
    assert compared > 10


def test_every_problem_is_told_at_once() -> None:
    resource = {
        "resourceType": "Patient",
        "gender": "banana",
        "birthDate": "2024-02-30",
        "name": [{"family": "a"}, {"given": ["b", 3]}],
        "link": [{"other": {"reference": "Device/1"}}],
        "deceasedBoolean": True,
        "deceasedDateTime": "2024",
        "fhir_comments": ["a"],
    }
    assert found(resource) == [
        ("code-invalid", "Patient.gender"),
        ("value", "Patient.birthDate"),
        ("value", "Patient.name[1].given[1]"),
        ("structure", "Patient.link[0].other"),
        ("required", "Patient.link[0].type"),
        ("structure", "Patient.deceased"),
        ("structure", "Patient.fhir_comments"),
    ]


def test_problems_have_an_end() -> None:
    assert len(validate({**PATIENT, "name": [{"x": 1}] * 10_000})) == MAX_ISSUES


def test_no_text_of_an_issue_holds_a_value() -> None:
    """House rule: no personal data in error text."""
    secret = "Durand 1970"
    resource = {
        **PATIENT,
        "id": secret, "gender": secret, "birthDate": secret, secret: 1, "active": secret, "name": secret,
        "text": {"status": secret, "div": f"<div {secret}>"}, "photo": [{"data": secret, "contentType": secret}],
        "managingOrganization": {"reference": secret}, "contained": [{"resourceType": secret}],
        "generalPractitioner": [{"reference": "Durand/1970"}],
    }  # fmt: skip
    issues = validate(resource)
    assert len(issues) >= 10
    for issue in issues:
        assert "Durand" not in issue.diagnostics + "".join(issue.expression)


STRUCTURE: list[tuple[dict[str, Any], tuple[str, str]]] = [
    ({**PATIENT, "foo": 1}, ("structure", "Patient.foo")),
    ({**PATIENT, "name": [{"foo": 1}]}, ("structure", "Patient.name[0].foo")),
    ({**PATIENT, "foo bar": 1}, ("structure", "Patient")),
    ({**PATIENT, "name": {"family": "a"}}, ("structure", "Patient.name")),
    ({**PATIENT, "gender": ["male"]}, ("structure", "Patient.gender")),
    ({**PATIENT, "name": ["a"]}, ("structure", "Patient.name[0]")),
    ({**PATIENT, "maritalStatus": "M"}, ("structure", "Patient.maritalStatus")),
    ({**PATIENT, "name": []}, ("structure", "Patient.name")),
    ({**PATIENT, "name": [{}]}, ("invariant", "Patient.name[0]")),
    ({**PATIENT, "name": [{"id": "a"}]}, ("invariant", "Patient.name[0]")),
    ({**PATIENT, "name": [[{"family": "a"}]]}, ("structure", "Patient.name[0]")),
    ({**PATIENT, "name": [None]}, ("structure", "Patient.name[0]")),
    ({**PATIENT, "name": None}, ("structure", "Patient.name")),
    ({**PATIENT, "gender": None}, ("structure", "Patient.gender")),
    ({**PATIENT, "gender": None, "_gender": {"id": "a"}}, ("structure", "Patient.gender")),
    ({**PATIENT, "birthDate": ""}, ("value", "Patient.birthDate")),
    ({**PATIENT, "name": [{"family": ""}]}, ("value", "Patient.name[0].family")),
    ({**PATIENT, "active": "true"}, ("value", "Patient.active")),
    ({**PATIENT, "multipleBirthInteger": True}, ("value", "Patient.multipleBirth.ofType(integer)")),
    ({**PATIENT, "multipleBirthInteger": "1"}, ("value", "Patient.multipleBirth.ofType(integer)")),
    ({**PATIENT, "deceasedString": "a"}, ("structure", "Patient.deceasedString")),
    ({**PATIENT, "deceased": True}, ("structure", "Patient.deceased")),
    ({**PATIENT, "name": [{"given": [None]}]}, ("structure", "Patient.name[0].given[0]")),
    ({**PATIENT, "name": [{"given": ["a"], "_given": [None, {"id": "b"}]}]}, ("structure", "Patient.name[0].given")),
    ({**PATIENT, "name": [{"given": ["a", None], "_given": [None, None]}]}, ("structure", "Patient.name[0].given[1]")),
    ({**PATIENT, "_birthDate": {"value": "a"}}, ("structure", "Patient.birthDate.value")),
    ({**PATIENT, "_birthDate": {}}, ("invariant", "Patient.birthDate")),
    ({**PATIENT, "_birthDate": "a"}, ("structure", "Patient.birthDate")),
    ({**PATIENT, "_name": [{"id": "a"}]}, ("structure", "Patient._name")),
    ({**PATIENT, "meta": {"lastUpdated": "2024-01-01"}}, ("value", "Patient.meta.lastUpdated")),
    ({**PATIENT, "id": "a_b"}, ("value", "Patient.id")),
    ({**PATIENT, "extension": [{"valueCode": "a"}]}, ("required", "Patient.extension[0].url")),
    ({**PATIENT, "text": {"status": "generated"}}, ("required", "Patient.text.div")),
    ({**PATIENT, "text": {"status": "generated", "div": "<div><script/></div>"}}, ("value", "Patient.text.div")),
    ({**OBSERVATION, "code": [{"text": "a"}]}, ("structure", "Observation.code")),
    ({**OBSERVATION, "valueQuantity": {"value": "1"}}, ("value", "Observation.value.ofType(Quantity).value")),
    ({**OBSERVATION, "valueReference": {"reference": "Patient/1"}}, ("structure", "Observation.valueReference")),
    ({**OBSERVATION, "status": "Final"}, ("code-invalid", "Observation.status")),
    ({**OBSERVATION, "status": 1}, ("value", "Observation.status")),
    ({"resourceType": "Observation", "status": "final"}, ("required", "Observation.code")),
    ({"resourceType": "AuditEvent"}, ("required", "AuditEvent.agent")),
    ({**PATIENT, "photo": [{"contentType": "a/b", "data": "QQ==", "size": 2}]}, ("invariant", "Patient.photo[0]")),
    ({**PATIENT, "contained": [{"resourceType": "Foo"}]}, ("structure", "Patient.contained[0].resourceType")),
    ({**PATIENT, "contained": [{"id": "a"}]}, ("structure", "Patient.contained[0].resourceType")),
    ({**PATIENT, "contained": ["a"]}, ("structure", "Patient.contained[0]")),
    ({**BUNDLE, "entry": [{"resource": {**ORDER, "status": "a"}, "request": POST}]},
     ("code-invalid", "Bundle.entry[0].resource.status")),
    ({**BUNDLE, "entry": [{"resource": {**PATIENT, "managingOrganization": {"reference": "#a"}},
                           "request": POST}]},
     ("invariant", "Bundle.entry[0].resource.managingOrganization")),
    ({**BUNDLE, "entry": [{"request": PUT}]}, ("invariant", "Bundle.entry[0].resource")),
    ({**BUNDLE, "entry": [{"resource": PATIENT, "request": {"method": "put", "url": "Patient/1"}}]},
     ("code-invalid", "Bundle.entry[0].request.method")),
    ({**BUNDLE, "entry": [{"resource": PATIENT, "request": {"method": "POST"}}]},
     ("required", "Bundle.entry[0].request.url")),
    ({**BUNDLE, "entry": [{"fullUrl": "http://a/Patient/2", "resource": {**PATIENT, "id": "1"},
                           "request": PUT}]}, ("invariant", "Bundle.entry[0].fullUrl")),
    ({"resourceType": "Parameters", "parameter": [{"name": "a", "part": [{"name": "b", "valueFoo": 1}]}]},
     ("structure", "Parameters.parameter[0].part[0].valueFoo")),
    ({"resourceType": "Condition", "subject": {"display": "a"}, "clinicalStatus": {"coding": [{"code": "active"}]}},
     ("code-invalid", "Condition.clinicalStatus")),
    ({"resourceType": "Condition", "subject": {"display": "a"}, "clinicalStatus": {"text": "active"}},
     ("code-invalid", "Condition.clinicalStatus")),
]  # fmt: skip


@pytest.mark.parametrize(("resource", "problem"), STRUCTURE)
def test_what_breaks_the_structure_is_refused_at_its_place(resource: dict[str, Any], problem: tuple[str, str]) -> None:
    assert problem in found(resource)
    with pytest.raises(InvalidContent) as raised:
        check(resource)
    assert raised.value.status == 422


ACCEPTED: list[dict[str, Any]] = [
    PATIENT,
    {**PATIENT, "text": {"status": "generated", "div": DIV}},
    {**PATIENT, "birthDate": "2024-02", "_birthDate": {"id": "a"}},
    {**PATIENT, "_birthDate": {"extension": [{"url": "http://a", "valueDateTime": "2024-01-01T10:00:00Z"}]}},
    {**PATIENT, "name": [{"given": ["a", None], "_given": [None, {"extension": [EXTENSION]}]}]},
    {**PATIENT, "name": [{"_given": [{"extension": [EXTENSION]}]}]},
    {**PATIENT, "name": [{"id": "a", "family": "b"}]},
    {**PATIENT, "extension": [{"url": "http://a", "valueMeta": {"versionId": "1"}}]},
    {**ORDER, "_status": {"id": "a"}},
    {"resourceType": "ServiceRequest", "intent": "order", "subject": {"display": "a"},
     "_status": {"extension": [{"url": "http://a", "valueCode": "unknown"}]}},
    {"resourceType": "ExampleScenario", "status": "draft",
     "instance": [{"resourceId": "a", "resourceType": "Patient"}]},
    {"resourceType": "Parameters", "parameter": [{"name": "a", "part": [{"name": "b", "resource": PATIENT}]}]},
    {**BUNDLE, "entry": [{"request": {"method": "DELETE", "url": "Patient/1"}},
                         {"request": {"method": "GET", "url": "Patient/1"}},
                         {"request": {"method": "POST", "url": "Patient/1/$everything"}}]},
    {**PATIENT, "photo": [{"contentType": "a/b", "data": "QQ==", "size": 1}]},
]  # fmt: skip


@pytest.mark.parametrize("resource", ACCEPTED)
def test_what_keeps_to_the_structure_is_accepted(resource: dict[str, Any]) -> None:
    assert validate(resource) == []


@pytest.mark.parametrize(
    ("reference", "code"),
    [
        ({"reference": "Patient/1"}, None),
        ({"reference": "Patient/1/_history/2"}, None),
        ({"reference": "https://a.example/fhir/Patient/1"}, None),
        ({"reference": "https://a.example/anything"}, None),
        ({"reference": "urn:uuid:c757873d-ec9a-4326-a141-556f43239520"}, None),
        ({"reference": "urn:oid:1.2.3"}, None),
        ({"reference": "Patient?identifier=a|b"}, None),
        ({"identifier": {"value": "a"}, "type": "Patient"}, None),
        ({"display": "a"}, None),
        ({"reference": "Practitioner/1"}, "structure"),
        ({"reference": "https://a.example/fhir/Practitioner/1"}, "structure"),
        ({"reference": "Practitioner?identifier=a"}, "structure"),
        ({"identifier": {"value": "a"}, "type": "Practitioner"}, "structure"),
        ({"reference": "urn:uuid:c757873d-ec9a-4326-a141-556f43239520", "type": "Practitioner"}, "structure"),
        ({"reference": "Foo/1"}, "value"),
        ({"identifier": {"value": "a"}, "type": "Foo"}, "value"),
        ({"reference": "1"}, "value"),
        ({"reference": "/Patient/1"}, "value"),
        ({"reference": "Patient/"}, "value"),
        ({"reference": "Patient/a_b"}, "value"),
        ({"reference": "Patient/1 "}, "value"),
        ({"reference": "http://a b/Patient/1"}, "value"),
        ({"reference": "#absent"}, "invariant"),
    ],
)
def test_a_reference_points_to_an_allowed_type(reference: dict[str, Any], code: str | None) -> None:
    """http://hl7.org/fhir/R4/references.html; ServiceRequest.subject: Patient, Group, Location or Device"""
    expected = [] if code is None else [(code, "ServiceRequest.subject")]
    assert found({**ORDER, "subject": reference}) == expected


def test_a_contained_resource_is_an_allowed_target_too() -> None:
    """http://hl7.org/fhir/R4/references.html#contained"""
    order = {**ORDER, "subject": {"reference": "#a"}}
    assert found({**order, "contained": [{"resourceType": "Patient", "id": "a"}]}) == []
    assert found({**order, "contained": [{"resourceType": "Basic", "id": "a", "code": {"text": "a"}}]}) == [
        ("structure", "ServiceRequest.subject")
    ]


@pytest.mark.parametrize("resource", [{}, {"resourceType": None}, {"resourceType": "Foo"}, {"resourceType": "Resource"},
                                      {"resourceType": ["Patient"]}, {"resourceType": "patient"}])  # fmt: skip
def test_what_is_no_resource_is_malformed(resource: dict[str, Any]) -> None:
    """http://hl7.org/fhir/R4/resource.html: resourceType says what it is."""
    with pytest.raises(Malformed) as raised:
        check(resource)
    assert raised.value.status == 400
    assert raised.value.issues[0].expression == ("Resource.resourceType",)


def test_the_type_is_the_one_that_was_asked_for() -> None:
    """http://hl7.org/fhir/R4/http.html#create: the type of the URL."""
    assert found(PATIENT, type_name="Patient") == []
    assert found(PATIENT, type_name="Observation") == [("invalid", "Patient.resourceType")]
    assert found(BUNDLE, bundle_type="batch") == [("value", "Bundle.type")]


def _places(node: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [place] + [deeper for key, value in inner for deeper in _places(value, (*place, key))]


_JUNK = st.sampled_from([
    None, True, 0, -1, "", "a", "#", "#a", "Patient/1", [], [None], {}, {"a": 1}, [{}], [[]], {"id": "a"}, ["a"],
    "2024-01-01", "2024-01-01T10:00:00Z", {"reference": 1}, {"coding": "a"},
]).map(copy.deepcopy)  # fmt: skip
_SUBJECTS = [
    {**PATIENT, "contained": [{**PATIENT, "id": "a", "meta": {"source": "http://a"}}],
     "contact": [{"name": {"text": "a"}}],
     "name": [{"given": ["a"], "_given": [{"id": "a"}], "period": {"start": "2024", "end": "2025"}}],
     "link": [{"other": {"reference": "#a"}, "type": "seealso"}], "text": {"status": "generated", "div": DIV}},
    {**BUNDLE, "identifier": {"system": "a", "value": "b"}, "entry": [
        {"fullUrl": "http://a/Patient/1", "resource": {**PATIENT, "id": "1", "meta": {"versionId": "1"}},
         "request": {"method": "PUT", "url": "Patient/1"}}]},
    {**OBSERVATION, "code": {"coding": [{"code": "a"}]}, "valueRange": {"low": {"value": 1}, "high": {"value": 2}},
     "component": [{"code": {"coding": [{"code": "b"}]}, "valueRatio": {"extension": [EXTENSION]}}],
     "referenceRange": [{"low": {"value": 1}}]},
    {"resourceType": "StructureDefinition", "url": "http://hl7.org/fhir/StructureDefinition/a", "name": "a",
     "type": "Patient", "status": "draft", "kind": "resource", "abstract": False, "baseDefinition": "http://a",
     "derivation": "constraint",
     "differential": {"element": [{"id": "Patient", "path": "Patient", "min": 0, "max": "1", "type": [{"code": "a"}],
                                   "binding": {"strength": "required", "valueSet": "http://a"}}]},
     "snapshot": {"element": [{"id": "Patient", "path": "Patient", "definition": "a", "min": 0, "max": "*",
                               "base": {"path": "a", "min": 0, "max": "1"}, "constraint": [{"key": "a"}]}]}},
    {"resourceType": "Questionnaire", "status": "draft", "item": [{"linkId": "1", "type": "group", "item": [
        {"linkId": "2", "type": "choice", "enableWhen": [
            {"question": "1", "operator": "exists", "answerBoolean": True}]}]}]},
    {"resourceType": "TestScript", "url": "http://a", "name": "a", "status": "draft",
     "metadata": {"capability": [{"required": True, "validated": True, "capabilities": "http://a"}]},
     "test": [{"action": [{"assert": {"direction": "request", "warningOnly": True}}]}]},
    {"resourceType": "MeasureReport", "status": "complete", "type": "summary", "measure": "http://a",
     "period": {"start": "2024"}, "group": [{"stratifier": [{"stratum": [{"value": {"text": "a"}}]}]}]},
]  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_whatever_is_sent_is_judged_and_breaks_nothing(data: st.DataObject) -> None:
    """Rules are asked of what is wrong in structure too, and must not raise: a fault is a 4xx, never a 500."""
    resource = copy.deepcopy(data.draw(st.sampled_from(_SUBJECTS)))
    for _ in range(data.draw(st.integers(1, 3))):
        *above, last = data.draw(st.sampled_from([place for place in _places(resource) if place]))
        node = resource
        for key in above:
            node = node[key]
        node[last] = data.draw(_JUNK)
    for issue in validate(resource):
        assert issue.expression
    dump(resource)


def test_the_junk_is_put_into_valid_resources() -> None:
    for resource in _SUBJECTS[:3]:
        assert validate(resource) == []


def test_a_refusal_is_a_fhir_error() -> None:
    with pytest.raises(FhirError):
        check({**PATIENT, "foo": 1})


def test_what_is_no_object_is_malformed() -> None:
    """$validate hands over whatever stands under `resource`."""
    for value in (None, [], "Patient", 3):
        with pytest.raises(Malformed):
            check(value)


def _many(count: int) -> list[dict[str, Any]]:
    """Resources whose check would be quadratic if a rule looked through a list for each item of a list."""
    codings = [{"system": "http://a", "code": str(index)} for index in range(count)]
    contained = [
        {"resourceType": "Patient", "id": str(i), "link": [{"other": {"reference": f"#{i}"}, "type": "seealso"}]}
        for i in range(count)
    ]
    return [
        {**OBSERVATION, "code": {"coding": codings}, "valueString": "a",
         "component": [{"code": {"coding": [{"code": str(index)}]}} for index in range(count)]},
        {**PATIENT, "contained": contained},
        {**BUNDLE, "type": "collection", "entry": [
            {"fullUrl": f"urn:a:{index}", "resource": PATIENT} for index in range(count)]},
        {"resourceType": "Questionnaire", "status": "draft",
         "item": [{"linkId": str(index), "type": "string"} for index in range(count)]},
    ]  # fmt: skip


def test_the_work_grows_with_what_was_sent_and_not_with_its_square() -> None:
    """Counted in calls, not in time: ten times the content may cost some ten times the calls."""
    for small, large in zip(_many(30), _many(300), strict=True):
        validate(small)  # compiles the shapes
        assert _calls(large) < 15 * _calls(small)


def _calls(resource: dict[str, Any]) -> int:
    profile = cProfile.Profile()
    profile.enable()
    validate(resource)
    profile.disable()
    return sum(entry.callcount for entry in profile.getstats())
