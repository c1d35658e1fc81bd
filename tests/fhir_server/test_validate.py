"""$validate says what it did not check (fhir.md F2). http://hl7.org/fhir/R4/resource-operation-validate.html"""

from __future__ import annotations

from typing import Any

import pytest

from fhir_server.demo import world
from resources.json import Json
from tests import builders
from tests.fhir_server.conftest import Api

PATIENT: Json = {"resourceType": "Patient", "name": [{"family": "Durand"}], "gender": "female"}
BASE_PROFILE = "http://hl7.org/fhir/StructureDefinition/Patient"
NOWHERE = "http://nowhere.example/StructureDefinition/p"


def parameters(**given: Any) -> Json:
    """A Parameters resource of the operation."""
    listed = [
        {"name": name, "resource": value} if name == "resource" else {"name": name, "valueUri": value}
        for name, value in given.items()
    ]
    return {"resourceType": "Parameters", "parameter": listed}


def told(api: Api, path: str, body: Json | None = None) -> list[tuple[str, str, tuple[str, ...]]]:
    """The issues of the answer: severity, code, expression."""
    answer = api.hospital_a.ask("POST", path, body)
    assert answer.status_code == 200, answer.get_data(as_text=True)
    issues = answer.get_json()["issue"]
    return [(one["severity"], one["code"], tuple(one.get("expression", ()))) for one in issues]


NO_PROBLEM = [("information", "informational", ())]
UNCHECKED = [("error", "not-supported", ("http.profile",))]


def test_a_nominated_profile_that_is_not_here_is_an_error(api: Api) -> None:
    """If a profile is nominated and the server cannot validate against it, it SHALL return an error."""
    assert told(api, f"Patient/$validate?profile={NOWHERE}", PATIENT) == UNCHECKED
    assert told(api, "Patient/$validate", parameters(resource=PATIENT, profile=NOWHERE)) == UNCHECKED
    vital_signs = "http://hl7.org/fhir/StructureDefinition/vitalsigns"
    observation = {"resourceType": "Observation", "status": "final", "code": {"text": "x"}}
    assert told(api, f"Observation/$validate?profile={vital_signs}", observation) == UNCHECKED


@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        (BASE_PROFILE, NO_PROBLEM),
        (f"{BASE_PROFILE}|4.0.1", NO_PROBLEM),
        ("http://hl7.org/fhir/StructureDefinition/DomainResource", NO_PROBLEM),
        (f"{BASE_PROFILE}|5.0.0", UNCHECKED),
        ("http://hl7.org/fhir/StructureDefinition/Observation", UNCHECKED),
        ("Patient", UNCHECKED),
    ],
)
def test_the_definition_of_the_type_is_always_checked(api: Api, profile: str, expected: Any) -> None:
    assert told(api, f"Patient/$validate?profile={profile}", PATIENT) == expected


def test_each_claim_that_was_not_checked_is_a_warning_that_names_it(api: Api) -> None:
    """R4 resource.html#Meta: meta.profile is a claim."""
    claiming = {**PATIENT, "meta": {"profile": [NOWHERE, BASE_PROFILE, "no canonical: Anne Durand"]}}
    answer = api.hospital_a.post("Patient/$validate", claiming).get_json()["issue"]
    assert [(one["severity"], one["expression"]) for one in answer] == [
        ("error", ["Patient.meta.profile[2]"]),  # it is no canonical at all
        ("warning", ["Patient.meta.profile[0]"]),
        ("warning", ["Patient.meta.profile[2]"]),
    ]
    assert NOWHERE in answer[1]["diagnostics"]
    assert "Durand" not in str(answer)


def test_what_is_wrong_is_told_beside_what_was_not_checked(api: Api) -> None:
    issues = told(api, f"Patient/$validate?profile={NOWHERE}", {**PATIENT, "gender": "x"})
    assert [code for _, code, _ in issues] == ["code-invalid", "not-supported"]


@pytest.mark.parametrize("query", ["mode=bogus", "foo=1", "mode=create&mode=update", "mode="])
def test_a_parameter_that_cannot_be_is_refused(api: Api, query: str) -> None:
    answer = api.hospital_a.post(f"Patient/$validate?{query}", PATIENT)
    assert answer.status_code == 400
    assert answer.get_json()["issue"][0]["expression"] == [f"http.{query.partition('=')[0]}"]


def test_an_update_bears_an_id_and_that_of_the_url(api: Api) -> None:
    """R4 §3.1.0.3."""
    wrong = [("error", "value", ("Patient.id",))]
    assert told(api, "Patient/$validate?mode=create", PATIENT) == NO_PROBLEM
    assert told(api, "Patient/$validate?mode=update", PATIENT) == [("error", "required", ("Patient.id",))]
    assert told(api, "Patient/$validate?mode=update", {**PATIENT, "id": "a"}) == NO_PROBLEM
    assert told(api, "Patient/a/$validate?mode=update", {**PATIENT, "id": "a"}) == NO_PROBLEM
    assert told(api, "Patient/a/$validate?mode=update", {**PATIENT, "id": "b"}) == wrong
    assert told(api, "Patient/a/$validate", {**PATIENT, "id": "b"}) == wrong


def test_a_resource_of_another_type_than_the_url_is_told(api: Api) -> None:
    """R4 §3.1.0.8 (create): the type of the URL is what would be stored."""
    answer = api.hospital_a.post("Basic/$validate", {"resourceType": "Patient", "active": True})
    assert answer.status_code == 200
    told = [(one["severity"], one.get("expression")) for one in answer.get_json()["issue"]]
    assert ("error", ["resourceType"]) in told



def test_what_is_stored_is_validated_where_nothing_is_sent(api: Api) -> None:
    """An instance's $validate without a resource: a read of it, permitted and recorded as one."""
    made = api.hospital_a.create({**PATIENT, "meta": {"profile": [NOWHERE]}})
    path = f"Patient/{made['id']}/$validate"
    claim = [("warning", "not-supported", ("Patient.meta.profile[0]",))]
    assert told(api, path) == claim
    assert [one for one in api.hospital_a.get(path).get_json()["issue"] if one["severity"] != "warning"] == []
    assert api.hospital_b.get(path).status_code == 404
    assert api.hospital_a.get("Patient/never-was/$validate").status_code == 404
    assert api.hospital_a.get("Patient/$validate").status_code == 400
    events = api.auditor.found(f"AuditEvent?patient=Patient/{made['id']}&subtype=operation")
    assert len(events) == 2
    assert all(event["action"] == "E" for event in events)


def test_mode_profile_asks_of_a_stored_resource(api: Api) -> None:
    """valueset-resource-validation-mode: nominated by id, against the nominated profile."""
    made = api.hospital_a.create(PATIENT)
    path = f"Patient/{made['id']}/$validate?mode=profile"
    assert told(api, f"{path}&profile={BASE_PROFILE}") == NO_PROBLEM
    assert told(api, f"{path}&profile={NOWHERE}") == UNCHECKED
    for wrong, body in ((path, None), (f"{path}&profile={BASE_PROFILE}", PATIENT)):
        assert api.hospital_a.ask("POST", wrong, body).status_code == 400
    assert api.hospital_a.post(f"Patient/$validate?mode=profile&profile={NOWHERE}", PATIENT).status_code == 400


def test_mode_delete_says_whether_a_deletion_would_be_allowed_and_deletes_nothing(api: Api) -> None:
    """valueset-resource-validation-mode: delete; the resource is optional there, the id is not."""
    patient = api.hospital_a.create(PATIENT)
    path = f"Patient/{patient['id']}"
    asked = f"{path}/$validate?mode=delete"
    assert told(api, asked) == NO_PROBLEM
    condition = api.hospital_a.create({"resourceType": "Condition", "subject": {"reference": path}})
    assert told(api, asked) == [("error", "conflict", ())]
    assert told(api, f"{path}/$validate", parameters(mode="delete")) == [("error", "conflict", ())]
    assert api.hospital_a.get(path).status_code == 200
    assert api.hospital_a.delete(path).status_code == 409, "what was foretold"
    assert api.hospital_a.delete(f"Condition/{condition['id']}").status_code == 204
    assert api.hospital_a.delete(path).status_code == 204
    assert api.hospital_a.ask("POST", asked).status_code == 410
    assert api.hospital_b.ask("POST", f"Condition/{condition['id']}/$validate?mode=delete").status_code == 404
    assert api.hospital_a.post("Patient/$validate?mode=delete", PATIENT).status_code == 400


def test_mode_delete_asks_the_rights_and_the_rules(api: Api) -> None:
    """Who may not delete hears so: scope, ownership, and what the workflow forbids; nothing is gone around."""
    path = f"Patient/{api.hospital_a.create(PATIENT)['id']}"
    hospital = next(one.organization for one in world.CLIENTS if one.role == "hospital-a")
    reader = api.client("reader", hospital, "system/Patient.rs")
    stranger = api.client("stranger", world.PLATFORM, "system/Patient.cruds")  # sees it, and does not own it
    for client in (reader, stranger):
        answer = client.ask("POST", f"{path}/$validate?mode=delete")
        assert answer.status_code == 200
        assert [(one["severity"], one["code"]) for one in answer.get_json()["issue"]] == [("error", "forbidden")]
        assert client.delete(path).status_code == 403, "what was foretold"
    order = api.hospital_a.create(builders.service_request(path, authoredOn=None))
    path = f"ServiceRequest/{order['id']}"
    assert told(api, f"{path}/$validate?mode=delete") == [("error", "business-rule", ())]
    assert api.hospital_a.delete(path).status_code == 422


@pytest.mark.parametrize(
    "body",
    [
        {"resourceType": "Parameters", "parameter": [1]},
        {"resourceType": "Parameters", "parameter": {"a": 1}},
        {"resourceType": "Parameters", "parameter": [{"name": "mode"}]},
        {"resourceType": "Parameters", "parameter": [{"name": 1, "valueString": "x"}]},
        {"resourceType": "Parameters", "parameter": [{"name": "mode", "valueReference": {}}]},
        {"resourceType": "Parameters", "parameter": [{"name": "mode", "valueCode": None}]},
        {"resourceType": "Parameters", "parameter": [{"name": "resource", "valueString": "x"}]},
        {"resourceType": "Parameters", "parameter": [{"name": "resource", "resource": PATIENT}] * 2},
        {"resourceType": "Parameters"},
    ],
)
def test_a_body_that_is_no_parameters_is_refused(api: Api, body: Json) -> None:
    """R4 operations.html#request."""
    assert api.hospital_a.post("Patient/$validate", body).status_code == 400


def test_a_parameters_resource_can_itself_be_validated(api: Api) -> None:
    """parameters.html: on its own type the body is what is validated, unless it holds a resource."""
    own = {"resourceType": "Parameters", "parameter": [{"name": "x", "valueString": "y"}]}
    assert told(api, "Parameters/$validate", own) == NO_PROBLEM
    assert told(api, "Parameters/$validate", parameters(resource=own)) == NO_PROBLEM
    assert told(api, "Parameters/$validate", {"resourceType": "Parameters", "parameter": [{}]})[0][0] == "error"


def test_other_operations_take_a_parameters_resource_alone(api: Api) -> None:
    assert api.hospital_a.post("Subscription/$status", PATIENT).status_code == 400
    assert api.hospital_a.post("Subscription/$status", {"resourceType": "Parameters"}).status_code == 200
    assert api.hospital_a.post("Patient/$nothing?x=1", PATIENT).status_code == 404
    assert api.hospital_a.ask("POST", "$validate", PATIENT).status_code == 404, "R4 defines none for the system"
