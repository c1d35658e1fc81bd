"""Bad input gets the right 4xx with a precise text, and the server goes on (issue 2; R4 §3.1.0.1.8)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.fhir_server.conftest import Api

_NESTED = b'{"resourceType":"Patient","extension":' + b'[{"extension":' * 200 + b"[]" + b"}]" * 200 + b"}"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b"null", 400),
        (b'"x"', 400),
        (b"{'resourceType':'Patient'}", 400),
        (b'{"resourceType":"Patient",}', 400),
        (b'{"resourceType":"Patient"} trailing', 400),
        (b'{"resourceType":"Patient","active":true,"active":false}', 400),
        (b'{"resourceType":"Observation","status":"final","code":{"text":"x"},"valueQuantity":{"value":NaN}}', 400),
        (
            b'{"resourceType":"Observation","status":"final","code":{"text":"x"},"valueQuantity":{"value":Infinity}}',
            400,
        ),
        (b'{"resourceType":"Patient","multipleBirthInteger":' + b"9" * 5000 + b"}", 400),
        (b'{"resourceType":"Patient","id":"\\ud800"}', 400),
        (b"\xff\xfe{}", 400),
        (_NESTED, 400),
        (b"[" * 100_000, 400),
        (b'{"resourceType":"Patients"}', 400),
        (b'{"active":true}', 400),
        (b'{"resourceType":"Patient","colour":"blue"}', 422),
        (b'{"resourceType":"Patient","name":[]}', 422),
        (b'{"resourceType":"Patient","name":{}}', 422),
        (b'{"resourceType":"Patient","gender":"banana"}', 422),
        (b'{"resourceType":"Patient","birthDate":"2024-02-30"}', 422),
        (b'{"resourceType":"Patient","active":"true"}', 422),
        (b'{"resourceType":"Patient","birthDate":null}', 422),
        (
            b'{"resourceType":"Patient","text":{"status":"generated","div":"<div xmlns=\\"http://www.w3.org/1999/xhtml\\">'
            b'<script>alert(1)</script></div>"}}',
            422,
        ),
    ],
)
def test_a_body_that_is_no_patient_is_refused(api: Api, body: bytes, status: int) -> None:
    """R4 §3.1.0.1.8: 400 could not be parsed, 422 violated the rules; never the value in the text."""
    answer = api.hospital_a.post("Patient" if b"Observation" not in body else "Observation", body)
    assert answer.status_code == status, answer.get_data(as_text=True)
    outcome = answer.get_json()
    assert outcome["resourceType"] == "OperationOutcome"
    assert all(issue["severity"] and issue["code"] and issue["diagnostics"] for issue in outcome["issue"])
    if status == 422:
        assert all(issue["expression"] for issue in outcome["issue"])
    assert "banana" not in answer.get_data(as_text=True)
    assert api.hospital_a.get("Patient?_count=1").status_code == 200


def test_every_problem_is_told_at_once(api: Api) -> None:
    """DESIGN §5: every problem is reported at once, each with expression."""
    answer = api.hospital_a.post(
        "Patient", {"resourceType": "Patient", "gender": "x", "active": 1, "name": [{"given": []}]}
    )
    places = {place for issue in answer.get_json()["issue"] for place in issue["expression"]}
    assert {"Patient.gender", "Patient.active", "Patient.name[0].given"} <= places


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("Patient?colour=blue", 400),
        ("Patient?family:fuzzy=x", 400),
        ("Patient?birthdate=never", 400),
        ("Patient?_count=-1", 400),
        ("Patient?_count=many", 400),
        ("Patient?_sort=colour", 400),
        ("Patient?_include=Patient", 400),
        ("Patient?family=", 400),
        ("Patient?_page=forged", 400),
        ("Patient?_total=all", 400),
        ("Patient?_summary=some", 400),
        ("Patient?name=%ff%fe", 400),
        ("Patient?subject.name=x", 400),
        ("Patient?_has:Observation:colour:code=x", 400),
        ("Patient?" + "&".join(f"family=a{i}" for i in range(600)), 400),
        ("Observation?value-quantity=abc", 400),
        ("Patient?general-practitioner:Patient=1", 400),
        ("Nothing", 404),
        ("Patient/" + "x" * 65, 400),
        ("Patient/..%2f..%2fetc", 404),
        ("Patient/1/_history/zero", 404),
        ("$nothing", 404),
        ("Patient/$nothing", 404),
        ("Patient/a%00b", 400),
    ],
)
def test_a_query_that_cannot_be_honoured_is_refused(api: Api, path: str, status: int) -> None:
    """R4 §3.1.1.2: what is not understood is never silently ignored; an unsupported modifier is always an error."""
    for prefer in ("handling=strict", ""):
        answer = api.hospital_a.get(path, Prefer=prefer)
        assert answer.status_code == status, (path, answer.get_data(as_text=True))
        assert answer.get_json()["resourceType"] == "OperationOutcome"


def test_lenient_handling_leaves_an_unknown_parameter_out_and_says_so(api: Api) -> None:
    """R4 §3.1.1.2: absent from self, and an outcome entry tells."""
    bundle = api.hospital_a.get("Patient?colour=blue&family=x", Prefer="handling=lenient").get_json()
    assert "colour" not in next(link["url"] for link in bundle["link"] if link["relation"] == "self")
    assert [entry["search"]["mode"] for entry in bundle["entry"]] == ["outcome"]
    unsupported = api.hospital_a.get("Patient?family:fuzzy=x", Prefer="handling=lenient")
    assert unsupported.status_code == 400


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("PATCH", "Patient/1", 405),
        ("POST", "Patient/1", 405),
        ("TRACE", "Patient/1", 405),
        ("PUT", "metadata", 405),
        ("DELETE", "AuditEvent/1", 405),
        ("PUT", "AuditEvent/1", 405),
    ],
)
def test_a_method_that_is_not_there_is_refused(api: Api, method: str, path: str, status: int) -> None:
    body = {"resourceType": "AuditEvent", "id": "1"} if "Audit" in path and method == "PUT" else {}
    answer = api.admin.ask(method, path, None if method in ("DELETE", "TRACE") else body)
    assert answer.status_code == status, answer.get_data(as_text=True)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content_Type": "application/xml"}, 415),
        ({"Content_Type": "text/plain"}, 415),
        ({"Accept": "application/fhir+xml"}, 406),
        ({"Content_Encoding": "gzip"}, 415),
        ({"Content_Type": "application/fhir+json; fhirVersion=5.0"}, 415),
    ],
)
def test_a_media_type_that_is_not_spoken_is_refused(api: Api, headers: dict[str, str], status: int) -> None:
    """R4 §3.1.0.1.10."""
    answer = api.hospital_a.post("Patient", {"resourceType": "Patient"}, **headers)
    assert answer.status_code == status
    assert answer.get_json()["resourceType"] == "OperationOutcome"


def test_a_body_beyond_the_limit_is_413(make_api: Any) -> None:
    api = make_api(max_body_bytes=2000)
    big = json.dumps({"resourceType": "Patient", "name": [{"family": "x" * 3000}]}).encode()
    assert api.hospital_a.post("Patient", big).status_code == 413


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer wrong", "Basic dTpw", "Bearer a b", "bearer\ttoken"])
def test_without_a_good_token_the_answer_is_401(api: Api, header: str | None) -> None:
    """RFC 6750 §3: a challenge; the body is an OperationOutcome."""
    headers = {} if header is None else {"Authorization": header}
    answer = api.app.test_client().get("/fhir/Patient", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert answer.get_json()["issue"][0]["code"] == "login"


def test_a_token_without_the_scope_is_403_and_on_record(api: Api) -> None:
    """RFC 6750 §3.1 insufficient_scope; DESIGN §7: refusals are audited."""
    refused = api.viewer.post("Patient", {"resourceType": "Patient"})
    assert (refused.status_code, refused.get_json()["issue"][0]["code"]) == (403, "forbidden")
    events = api.auditor.found("AuditEvent?outcome=8&action=C")
    assert any(event["subtype"][0]["code"] == "create" for event in events)
