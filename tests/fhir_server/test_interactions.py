"""create, read, vread, update, delete, history at the HTTP edge. R4 §3.1.0 http://hl7.org/fhir/R4/http.html"""

from __future__ import annotations

import re
from typing import Any

import pytest

from resources.json import Json
from tests.fhir_server.conftest import BASE, BOTH_DOORS, Api

pytestmark = BOTH_DOORS

PATIENT: Json = {"resourceType": "Patient", "name": [{"family": "Durand", "given": ["Anne"]}], "gender": "female"}


def test_a_create_answers_201_with_location_etag_and_last_modified(api: Api) -> None:
    """R4 §3.1.0.8: Location is absolute and names the version; the client's id, versionId, lastUpdated do not count."""
    sent = {
        **PATIENT,
        "id": "mine",
        "meta": {"versionId": "9", "lastUpdated": "2020-01-01T00:00:00Z", "tag": [{"system": "urn:t", "code": "kept"}]},
    }
    answer = api.hospital_a.post("Patient", sent)
    assert answer.status_code == 201
    body = answer.get_json()
    assert body["id"] != "mine"
    assert body["meta"]["versionId"] == "1"
    assert body["meta"]["tag"] == [{"system": "urn:t", "code": "kept"}]
    assert answer.headers["Location"] == f"{BASE}/Patient/{body['id']}/_history/1"
    assert answer.headers["ETag"] == 'W/"1"'
    assert answer.headers["Last-Modified"].endswith("GMT")
    assert answer.headers["Content-Type"] == "application/fhir+json"


def test_an_update_makes_a_version_and_vread_keeps_the_old_one(api: Api) -> None:
    """R4 §3.1.0.3, §3.1.0.2."""
    made = api.hospital_a.create(PATIENT)
    path = f"Patient/{made['id']}"
    answer = api.hospital_a.put(path, {**made, "birthDate": "1970-03"})
    assert (answer.status_code, answer.headers["ETag"]) == (200, 'W/"2"')
    assert "birthDate" not in api.hospital_a.get(f"{path}/_history/1").get_json()
    assert api.hospital_a.get(f"{path}/_history/2").get_json()["birthDate"] == "1970-03"
    assert api.hospital_a.get(f"{path}/_history/3").status_code == 404


def test_an_update_under_a_new_id_creates(api: Api) -> None:
    """R4 §3.1.0.3.1 update as create: 201 and Location."""
    answer = api.hospital_a.put("Patient/given-by-client", {**PATIENT, "id": "given-by-client"})
    assert answer.status_code == 201
    assert answer.headers["Location"].endswith("/Patient/given-by-client/_history/1")


@pytest.mark.parametrize("body", [PATIENT, {**PATIENT, "id": "another"}])
def test_an_update_whose_body_does_not_bear_the_id_is_400(api: Api, body: Json) -> None:
    """R4 §3.1.0.3: the resource SHALL contain an id that is the [id] of the URL."""
    answer = api.hospital_a.put("Patient/one", body)
    assert answer.status_code == 400
    assert answer.get_json()["issue"][0]["expression"] == ["Patient.id"]


def test_a_stale_if_match_is_412_and_a_malformed_one_400(api: Api) -> None:
    """R4 §3.1.0.5."""
    made = api.hospital_a.create(PATIENT)
    path = f"Patient/{made['id']}"
    assert api.hospital_a.put(path, made, If_Match='W/"1"').status_code == 200
    assert api.hospital_a.put(path, made, If_Match='W/"1"').status_code == 412
    assert api.hospital_a.put(path, made, If_Match="W/nonsense").status_code == 400
    assert api.hospital_a.delete(path, If_Match='W/"1"').status_code == 412


def test_a_delete_is_idempotent_and_a_read_then_is_410(api: Api) -> None:
    """R4 §3.1.0.5 delete, §3.1.0.1: 410 with the version of the deletion; it can be brought back by an update."""
    made = api.hospital_a.create(PATIENT)
    path = f"Patient/{made['id']}"
    assert api.hospital_a.delete(path).status_code == 204
    assert api.hospital_a.delete(path).status_code == 204
    assert api.hospital_a.delete("Patient/never-was").status_code == 204
    gone = api.hospital_a.get(path)
    assert (gone.status_code, gone.headers["ETag"]) == (410, 'W/"2"')
    assert gone.get_json()["issue"][0]["code"] == "deleted"
    assert api.hospital_a.get(f"{path}/_history/1").status_code == 200
    assert api.hospital_a.get(f"{path}/_history/2").status_code == 410
    assert api.hospital_a.found("Patient?family=durand") == []
    revived = api.hospital_a.put(path, made)
    assert revived.get_json()["meta"]["versionId"] == "3"


def test_history_is_newest_first_and_says_what_was_done(api: Api) -> None:
    """R4 §3.1.0.9: request and response in each entry; a deletion without resource."""
    made = api.hospital_a.create(PATIENT)
    path = f"Patient/{made['id']}"
    api.hospital_a.put(path, made)
    api.hospital_a.delete(path)
    bundle = api.hospital_a.get(f"{path}/_history").get_json()
    assert (bundle["type"], bundle["total"]) == ("history", 3)
    assert [entry["request"]["method"] for entry in bundle["entry"]] == ["DELETE", "PUT", "POST"]
    assert "resource" not in bundle["entry"][0]
    assert [entry["response"]["etag"] for entry in bundle["entry"]] == ['W/"3"', 'W/"2"', 'W/"1"']
    page = api.hospital_a.get(f"{path}/_history?_count=2").get_json()
    following = next(link["url"] for link in page["link"] if link["relation"] == "next")
    rest = api.hospital_a.get(following.split("/fhir/")[1]).get_json()
    assert [entry["response"]["etag"] for entry in rest["entry"]] == ['W/"1"']


def test_a_conditional_read_answers_304_without_body(api: Api) -> None:
    """R4 §3.1.0.1.5."""
    made = api.hospital_a.create(PATIENT)
    first = api.hospital_a.get(f"Patient/{made['id']}")
    again = api.hospital_a.get(f"Patient/{made['id']}", If_None_Match=first.headers["ETag"])
    assert (again.status_code, again.get_data(), again.headers["ETag"]) == (304, b"", 'W/"1"')
    since = api.hospital_a.get(f"Patient/{made['id']}", If_Modified_Since=first.headers["Last-Modified"])
    assert since.status_code == 304


def test_head_is_get_without_body(api: Api) -> None:
    """R4 §3.1.0.1.1."""
    made = api.hospital_a.create(PATIENT)
    answer = api.hospital_a.ask("HEAD", f"Patient/{made['id']}")
    assert (answer.status_code, answer.get_data()) == (200, b"")
    assert answer.headers["ETag"] == 'W/"1"'


@pytest.mark.parametrize(
    ("prefer", "shape"),
    [("return=minimal", ""), ("return=representation", "Patient"), ("return=OperationOutcome", "OperationOutcome")],
)
def test_prefer_says_what_a_write_gives_back(api: Api, prefer: str, shape: str) -> None:
    """R4 §3.1.0.1.7."""
    answer = api.hospital_a.post("Patient", PATIENT, Prefer=prefer)
    assert answer.status_code == 201
    assert "Location" in answer.headers
    assert (answer.get_json()["resourceType"] if shape else answer.get_data(as_text=True)) == shape


def test_a_conditional_create_makes_one_and_answers_200_then(api: Api) -> None:
    """R4 §3.1.0.8.1: 0 → 201, 1 → 200 with its Location and ETag, several → 412."""
    one = {**PATIENT, "identifier": [{"system": "urn:ipp", "value": "77"}]}
    first = api.hospital_a.post("Patient", one, If_None_Exist="identifier=urn:ipp|77")
    again = api.hospital_a.post("Patient", one, If_None_Exist="Patient?identifier=urn:ipp|77")
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.headers["Location"] == first.headers["Location"]
    api.hospital_a.create(one)
    several = api.hospital_a.post("Patient", one, If_None_Exist="identifier=urn:ipp|77")
    assert (several.status_code, several.get_json()["issue"][0]["code"]) == (412, "multiple-matches")
    for nothing in ("", "colour=blue", "_count=1"):
        assert api.hospital_a.post("Patient", one, If_None_Exist=nothing).status_code == 400


def test_a_conditional_update_finds_its_target_or_creates(api: Api) -> None:
    """R4 §3.1.0.3.1."""
    one = {**PATIENT, "identifier": [{"system": "urn:ipp", "value": "78"}]}
    query = "Patient?identifier=urn:ipp|78"
    assert api.hospital_a.put(query, one).status_code == 201
    changed = api.hospital_a.put(query, {**one, "birthDate": "1980"})
    assert (changed.status_code, changed.headers["ETag"]) == (200, 'W/"2"')
    assert api.hospital_a.put(query, {**one, "id": "other"}).status_code == 400
    assert api.hospital_a.delete(query).status_code == 204
    assert api.hospital_a.found(query) == []


def test_if_none_match_star_only_creates(api: Api) -> None:
    """R4 §3.1.0.5, RFC 9110 §13.1.2."""
    body = {**PATIENT, "id": "only-once"}
    assert api.hospital_a.put("Patient/only-once", body, If_None_Match="*").status_code == 201
    assert api.hospital_a.put("Patient/only-once", body, If_None_Match="*").status_code == 412


def test_if_none_match_star_creates_again_what_was_deleted(api: Api) -> None:
    """RFC 9110 §13.1.2: what was deleted has no current representation (house.md A12)."""
    body = {**PATIENT, "id": "again"}
    path = "Patient/again"
    assert api.hospital_a.put(path, body).status_code == 201
    assert api.hospital_a.delete(path).status_code == 204
    made = api.hospital_a.put(path, body, If_None_Match="*")
    assert (made.status_code, made.headers["ETag"]) == (201, 'W/"3"')
    assert api.hospital_a.put(path, body, If_None_Match="*").status_code == 412


def test_if_match_star_asks_for_something_that_is_there(api: Api) -> None:
    """RFC 9110 §13.1.1: false where there is no current representation; another hospital's is as if it were not."""
    body = {**PATIENT, "id": "there", "identifier": [{"system": "urn:ipp", "value": "41"}]}
    path = "Patient/there"
    nameless = {name: value for name, value in body.items() if name != "id"}
    everywhere = ((path, body), ("Patient?identifier=urn:ipp|41", body), ("Patient?identifier=urn:ipp|41", nameless))
    for where, sent in everywhere:
        assert api.hospital_a.put(where, sent, If_Match="*").status_code == 412
    assert api.hospital_a.delete(path, If_Match="*").status_code == 412
    assert api.hospital_a.delete("Patient?identifier=urn:ipp|41", If_Match="*").status_code == 412
    assert api.hospital_a.get(path).status_code == 404
    entry = {"resource": body, "request": {"method": "PUT", "url": path, "ifMatch": "*"}}
    for kind in ("batch", "transaction"):
        answer = api.hospital_a.post("", {"resourceType": "Bundle", "type": kind, "entry": [entry]})
        told = answer.get_json()
        assert "412" in (told["entry"][0]["response"]["status"] if kind == "batch" else str(answer.status_code))
    assert api.hospital_a.put(path, body).status_code == 201
    assert api.hospital_b.put(path, body, If_Match="*").status_code == 412
    for where, sent in everywhere:
        assert api.hospital_a.put(where, sent, If_Match="*").status_code == 200
    assert api.hospital_a.put("Patient?identifier=urn:ipp|41", body, If_None_Match="*").status_code == 412
    assert api.hospital_a.delete("Patient?identifier=urn:ipp|41", If_Match='W/"1"').status_code == 412
    assert api.hospital_a.delete("Patient?identifier=urn:ipp|41", If_Match="*").status_code == 204
    assert api.hospital_a.put(path, body).status_code == 200
    assert api.hospital_a.delete(path, If_Match="*").status_code == 204
    assert api.hospital_a.put(path, body, If_Match="*").status_code == 412


def test_a_reference_that_does_not_resolve_is_409_with_its_place(api: Api) -> None:
    """DESIGN §5: references to this server must resolve; deleting what is referenced is refused."""
    order = {
        "resourceType": "ServiceRequest",
        "status": "active",
        "intent": "order",
        "code": {"text": "x"},
        "subject": {"reference": "Patient/nowhere"},
    }
    refused = api.hospital_a.post("ServiceRequest", order)
    assert (refused.status_code, refused.get_json()["issue"][0]["expression"]) == (409, ["ServiceRequest.subject"])
    patient = api.hospital_a.create(PATIENT)
    made = api.hospital_a.create({**order, "subject": {"reference": f"Patient/{patient['id']}"}})
    assert api.hospital_a.delete(f"Patient/{patient['id']}").status_code == 409
    assert api.hospital_a.delete(f"ServiceRequest/{made['id']}").status_code == 204
    assert api.hospital_a.delete(f"Patient/{patient['id']}").status_code == 204


def test_binary_is_served_as_bytes_or_as_fhir(api: Api) -> None:
    """R4 binary.html#rest: by Accept; never shown inline under our origin."""
    made = api.hospital_a.ask(
        "POST", "Binary", b"%PDF-1.4 x", Content_Type="application/pdf", Accept="application/fhir+json"
    )
    assert made.status_code == 201
    path = f"Binary/{made.get_json()['id']}"
    raw = api.hospital_a.get(path, Accept="application/pdf")
    assert (raw.get_data(), raw.headers["Content-Type"]) == (b"%PDF-1.4 x", "application/pdf")
    assert raw.headers["Content-Disposition"] == "attachment"
    as_fhir = api.hospital_a.get(path, Accept="application/fhir+json").get_json()
    assert as_fhir["data"] == "JVBERi0xLjQgeA=="


def test_summary_and_elements_are_parts_tagged_subsetted(api: Api) -> None:
    """R4 §3.1.1.5.8, §3.1.1.5.9."""
    made = api.hospital_a.create({**PATIENT, "maritalStatus": {"text": "x"}})
    for query in ("_summary=true", "_elements=gender"):
        part = api.hospital_a.get(f"Patient/{made['id']}?{query}").get_json()
        assert "maritalStatus" not in part
        assert part["gender"] == "female"
        assert part["meta"]["tag"][0]["code"] == "SUBSETTED"
    counted = api.hospital_a.get("Patient?family=durand&_summary=count").get_json()
    assert counted["total"] == 1
    assert "entry" not in counted


def test_the_capability_statement_promises_what_is_there(api: Api) -> None:
    """R4 capabilitystatement.html; without a token."""
    answer = api.app.test_client().get("/fhir/metadata")
    statement = answer.get_json()
    assert statement["fhirVersion"] == "4.0.1"
    rows = {row["type"]: row for row in statement["rest"][0]["resource"]}
    assert [i["code"] for i in rows["AuditEvent"]["interaction"]].count("create") == 0
    from resources import validation

    assert [issue for issue in validation.validate(statement) if issue.severity == "error"] == []
    for parameter in rows["ServiceRequest"]["searchParam"]:
        if parameter["name"] in ("_id", "_lastUpdated"):  # no resource lacks them: :missing is refused
            continue
        found = api.hospital_a.get(f"ServiceRequest?{parameter['name']}:missing=true&_count=1")
        assert found.status_code == 200, parameter


def test_smart_configuration_is_json_whatever_accept_says(api: Api) -> None:
    """SMART 2.2 conformance: application/json; absolute URLs."""
    answer = api.app.test_client().get("/fhir/.well-known/smart-configuration", headers={"Accept": "text/html"})
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.get_json()["token_endpoint"] == "http://localhost/oauth/token"


def test_every_answer_bears_the_request_id(api: Api) -> None:
    given = api.hospital_a.get("Patient/none", X_Request_Id="abc.DEF-1")
    assert given.headers["X-Request-Id"] == "abc.DEF-1"
    minted = api.hospital_a.get("Patient/none", X_Request_Id="a b<script>")
    assert re.fullmatch(r"[0-9a-f]{32}", minted.headers["X-Request-Id"])


def test_links_use_the_base_that_the_client_used_out_of_ours(make_api: Any) -> None:
    """DESIGN §5: several real clients break otherwise; a Host that is none of ours is not repeated."""
    api = make_api(base_urls=("https://vigie.example", "http://inside:8080"))
    made = api.hospital_a.create(PATIENT)
    for host, base in (
        ("inside:8080", "http://inside:8080"),
        ("vigie.example", "https://vigie.example"),
        ("evil.example", "https://vigie.example"),
    ):
        answer = api.hospital_a.get(f"Patient?_id={made['id']}", Host=host)
        assert answer.get_json()["entry"][0]["fullUrl"] == f"{base}/fhir/Patient/{made['id']}"


def test_a_search_of_an_audit_log_that_is_behind_says_so(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """An auditor must know when he does not see everything (R4 §3.1.1.4.2: search.mode `outcome`)."""
    entries = api.auditor.get("AuditEvent?_count=2").get_json()["entry"]
    assert {entry["search"]["mode"] for entry in entries} == {"match"}
    monkeypatch.setattr(api.services.ledger, "catch_up", lambda: False)
    entries = api.auditor.get("AuditEvent?_count=2").get_json()["entry"]
    (told,) = [entry["resource"] for entry in entries if entry["search"]["mode"] == "outcome"]
    assert told["issue"][0]["severity"] == "warning"
    assert "behind" in told["issue"][0]["diagnostics"]
