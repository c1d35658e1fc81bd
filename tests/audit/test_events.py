"""AuditEvents by interaction, asserted element by element.

IHE ITI BALP 1.1.4 §3:5.7 https://profiles.ihe.net/ITI/BALP/content.html; DICOM PS3.15 §A.5.3
"""

from __future__ import annotations

import json
from base64 import b64decode
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.events import build
from audit.patterns import PATTERNS
from resources.interactions import TABLE
from resources.json import Json
from store.access import Access, Caller, Interaction, Outcome

BALP = "https://profiles.ihe.net/ITI/BALP/StructureDefinition/"
DCM = "http://dicom.nema.org/resources/ontology/DCM"
AT = datetime(2026, 2, 14, 1, 41, 7, 120999, tzinfo=UTC)
MACHINE = Caller("chu-example-backend", "hopital-a", role="hospital", token_ref="0d6b7d52", address="198.51.100.25",
                 request_id="76d148b6", purpose="TREAT")
PERSON = Caller("chu-example-ehr", "hopital-a", role="radiologist", practitioner="Practitioner/rad-3",
                token_ref="6f1d2c7e", address="2001:db8::7", request_id="r-2", purpose="TREAT")


def events(access: Access, caller: Caller = MACHINE) -> list[Json]:
    return build(caller, access, AT, observer="Device/platform", base_url="https://fhir.example.org/fhir",
                 platform="platform")


def event(access: Access, caller: Caller = MACHINE) -> Json:
    (only,) = events(access, caller)
    return only


def agents(event: Json, system: str, code: str) -> list[Json]:
    return [a for a in event["agent"] if any(c["system"] == system and c["code"] == code for c in a["type"]["coding"])]


def entities(event: Json, code: str) -> list[Json]:
    return [e for e in event.get("entity", []) if e.get("type", {}).get("code") == code]


REST = [
    # interaction, action, client, server, person, profile
    (Interaction.READ, "R", "110152", "110153", "IRCP", "Read"),
    (Interaction.VREAD, "R", "110152", "110153", "IRCP", "Read"),
    (Interaction.CREATE, "C", "110153", "110152", "AUT", "Create"),
    (Interaction.UPDATE, "U", "110153", "110152", "AUT", "Update"),
    (Interaction.DELETE, "D", "110150", "custodian", "AUT", "Delete"),
    (Interaction.SEARCH_TYPE, "E", "110153", "110152", "IRCP", "Query"),
    (Interaction.SEARCH_SYSTEM, "E", "110153", "110152", "IRCP", "Query"),
]


@pytest.mark.parametrize(("interaction", "action", "client", "server", "person", "profile"), REST)
@pytest.mark.parametrize("caller", [MACHINE, PERSON], ids=["machine", "person"])
@pytest.mark.parametrize("patients", [(), ("Patient/p-12",)], ids=["no-patient", "patient"])
def test_a_restful_interaction_is_recorded_as_its_balp_profile_says(
    interaction: Interaction, action: str, client: str, server: str, person: str, profile: str, caller: Caller,
    patients: tuple[str, ...],
):
    """BALP 3:5.7.4 and 3:5.7.5."""
    query = "GET /fhir/ServiceRequest?status=active" if "search" in interaction else None
    recorded = event(Access(interaction, "ServiceRequest", None if query else "sr-1", None if query else 3, patients,
                            query=query), caller)

    token = "Comprehensive" if caller.practitioner else "Minimal"
    assert recorded["meta"]["profile"] == [
        f"{BALP}IHE.BasicAudit.{'Patient' if patients else ''}{profile}",
        f"{BALP}IHE.BasicAudit.OAUTHaccessTokenUse.{token}",
    ]
    assert recorded["type"]["system"] == "http://terminology.hl7.org/CodeSystem/audit-event-type"
    assert recorded["type"]["code"] == "rest"
    assert [(c["system"], c["code"]) for c in recorded["subtype"]] == [
        ("http://hl7.org/fhir/restful-interaction", str(interaction))]
    assert recorded["action"] == action
    assert recorded["outcome"] == "0"
    assert "outcomeDesc" not in recorded
    assert recorded["recorded"] == recorded["period"]["start"] == "2026-02-14T01:41:07.120Z"
    assert recorded["source"]["observer"] == {"reference": "Device/platform"}
    assert recorded["source"]["type"][0]["code"] == "4"

    (machine,) = agents(recorded, DCM, client)
    assert machine["who"] == {"identifier": {"value": caller.client_id}}
    assert machine["network"] == {"address": caller.address, "type": "2"}
    system = "http://terminology.hl7.org/CodeSystem/provenance-participant-type" if server == "custodian" else DCM
    (ours,) = agents(recorded, system, server)
    assert ours["who"] == {"reference": "Device/platform"}
    assert ours["network"] == {"address": "https://fhir.example.org/fhir", "type": "5"}
    assert ours["requestor"] is False
    (organization,) = agents(recorded, "http://terminology.hl7.org/CodeSystem/v3-RoleClass", "PROV")
    assert organization["who"] == {"reference": "Organization/hopital-a"}

    policy = [f"urn:ietf:params:oauth:jti:{caller.token_ref}"]
    people = agents(recorded, "http://terminology.hl7.org/CodeSystem/v3-ParticipationType", person)
    if caller.practitioner:
        (human,) = people
        assert human["who"]["reference"] == "Practitioner/rad-3"
        assert human["who"]["identifier"]["value"] == "rad-3"
        assert human["requestor"] is True
        assert human["policy"] == policy
        assert human["purposeOfUse"][0]["coding"][0]["code"] == "TREAT"
        assert "network" not in human
        (application,) = agents(recorded, DCM, "110150")
        assert application["who"]["identifier"]["value"] == caller.client_id
    else:
        assert people == []
        (oauth,) = agents(recorded, "https://profiles.ihe.net/ITI/BALP/CodeSystem/UserAgentTypes", "UserOauthAgent")
        assert oauth is machine
        assert oauth["requestor"] is True
        assert oauth["policy"] == policy
    assert sum(a["requestor"] for a in recorded["agent"]) == 1

    (request,) = entities(recorded, "XrequestId")
    assert request["what"] == {"identifier": {"value": caller.request_id}}
    found = entities(recorded, "1")
    assert [e["what"] for e in found] == [{"reference": p} for p in patients]
    assert [e["role"]["code"] for e in found] == ["1"] * len(patients)
    (data,) = entities(recorded, "2")
    if query:
        assert data["role"]["code"] == "24"
        assert b64decode(data["query"]).decode() == query
        assert data["description"] == query
        assert "what" not in data
        assert "detail" not in data
    else:
        assert data["role"]["code"] == "4"
        assert data["what"] == {"reference": "ServiceRequest/sr-1/_history/3"}
        assert "query" not in data


def test_a_report_has_the_role_report():
    """BALP: RestObjectRoles, object-role 3."""
    (data,) = entities(event(Access(Interaction.READ, "DiagnosticReport", "dr-77")), "2")
    assert data["role"]["code"] == "3"
    assert data["what"] == {"reference": "DiagnosticReport/dr-77"}


def test_a_query_leaves_one_event_per_patient_found_and_one_where_none_is():
    """BALP 3:5.7.4.5: one AuditEvent for every patient in the result; results themselves are not recorded."""
    access = Access(Interaction.SEARCH_TYPE, "DiagnosticReport", patients=("Patient/p-12", "Patient/p-31"),
                    query="GET /fhir/DiagnosticReport?status=final")
    found = events(access)
    assert [entities(e, "1")[0]["what"]["reference"] for e in found] == ["Patient/p-12", "Patient/p-31"]
    assert all(e["meta"]["profile"][0] == BALP + "IHE.BasicAudit.PatientQuery" for e in found)
    assert len(events(Access(Interaction.SEARCH_TYPE, "DiagnosticReport", query="GET /x"))) == 1


def test_a_refusal_claims_no_profile_and_carries_its_outcome():
    """BALP: success profiles are for successes only; failures carry an OperationOutcome."""
    refused = event(Access(Interaction.READ, "DiagnosticReport", "dr-77", outcome=Outcome.SERIOUS,
                           reason="404 not-found (another organisation's)"))
    assert "meta" not in refused
    assert refused["outcome"] == "8"
    assert refused["outcomeDesc"] == "404 not-found (another organisation's)"
    assert refused["contained"] == [{"resourceType": "OperationOutcome", "id": "oo", "issue": [
        {"severity": "error", "code": "not-found", "diagnostics": "404 not-found (another organisation's)"}]}]
    assert {"reference": "#oo"} in [e.get("what") for e in refused["entity"]]
    assert entities(refused, "2")[0]["what"] == {"reference": "DiagnosticReport/dr-77"}


@pytest.mark.parametrize(("outcome", "reason", "code"), [
    (Outcome.MINOR, "422 invariant", "invariant"), (Outcome.MINOR, None, "processing"),
    (Outcome.SERIOUS, "forbidden: tenant mismatch", "forbidden"), (Outcome.SERIOUS, "no good", "forbidden"),
    (Outcome.MAJOR, "RuntimeError", "exception")])
def test_the_outcome_carries_an_issue_code_of_the_required_binding(outcome: Outcome, reason: str | None, code: str):
    """http://hl7.org/fhir/R4/valueset-issue-type.html"""
    failed = event(Access(Interaction.CREATE, "ServiceRequest", outcome=outcome, reason=reason))
    assert failed["contained"][0]["issue"][0]["code"] == code
    assert failed["outcomeDesc"]


def test_images_that_are_opened_are_recorded_by_study_with_counts():
    """DICOM PS3.15 §A.5.3.7: DICOM Instances Transferred."""
    opened = event(Access(
        Interaction.DICOM_RETRIEVE, "ImagingStudy", "is-1", patients=("Patient/p-12",),
        detail=(("StudyInstanceUID", "1.2.3"), ("SeriesInstanceUID", "1.2.3.4"), ("NumberOfInstances", "412"))), PERSON)
    assert (opened["type"]["system"], opened["type"]["code"], opened["action"]) == (DCM, "110104", "R")
    assert agents(opened, DCM, "110152")[0]["who"]["identifier"]["value"] == PERSON.client_id
    assert agents(opened, DCM, "110153")[0]["who"] == {"reference": "Device/platform"}
    (study,) = entities(opened, "2")
    assert study["what"] == {"identifier": {"system": "urn:dicom:uid", "value": "urn:oid:1.2.3"},
                             "reference": "ImagingStudy/is-1"}
    assert study["role"]["code"] == "3"
    assert {d["type"]: d["valueString"] for d in study["detail"]} == {
        "StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.4", "NumberOfInstances": "412"}


def test_images_that_arrive_come_from_their_source():
    """DICOM PS3.15 §A.5.3.7, action C; one event per patient and study."""
    stored = event(Access(Interaction.DICOM_STORE, detail=(("StudyInstanceUID", "1.2.3"),), patients=("Patient/p",)))
    assert (stored["type"]["code"], stored["action"]) == ("110104", "C")
    assert agents(stored, DCM, "110153")[0]["who"]["identifier"]["value"] == MACHINE.client_id


def test_a_dicom_query_keeps_its_raw_request():
    """DICOM PS3.15 §A.5.3.10: Query."""
    asked = event(Access(Interaction.DICOM_QUERY, query="GET /dicom-web/studies?PatientName=DUPONT&limit=5"))
    assert (asked["type"]["code"], asked["action"]) == ("110112", "E")
    (query,) = entities(asked, "2")
    assert b64decode(query["query"]).decode() == "GET /dicom-web/studies?PatientName=DUPONT&limit=5"
    assert query["description"] == "GET /dicom-web/studies?PatientName=***&limit=5"


def test_a_token_that_is_issued_is_recorded_without_anything_secret():
    """BALP 3:5.7.5, IHE.IUA.71."""
    form = ("POST /oauth/token\ngrant_type=client_credentials&scope=system/Patient.rs&client_assertion=eyJhbGciOi.x.y"
            "&code_verifier=ssshhh&code=auth-code&refresh_token=rrr")
    detail = (("scope", "system/Patient.rs"), ("expires_in", "300"))
    issued = event(Access(Interaction.TOKEN, query=form, detail=detail))
    assert issued["meta"]["profile"] == [BALP + "IHE.IUA.71"]
    assert (issued["type"]["code"], issued["subtype"][0]["code"], issued["action"]) == ("110114", "ITI-71", "E")
    assert [a["type"]["coding"][0]["code"] for a in issued["agent"]] == ["110150", "AuthzOauthService"]
    request, response = issued["entity"]
    assert request["role"]["code"] == "24"
    assert b64decode(request["query"]).decode() == (
        "POST /oauth/token\ngrant_type=client_credentials&scope=system/Patient.rs&client_assertion=***"
        "&code_verifier=***&code=***&refresh_token=***")
    assert response["role"]["code"] == "13"
    assert response["what"]["identifier"]["value"] == "urn:ietf:params:oauth:jti:0d6b7d52"
    assert {d["type"] for d in response["detail"]} == {"scope", "expires_in"}


def test_a_token_that_is_refused_claims_nothing():
    refused = event(Access(Interaction.TOKEN, outcome=Outcome.SERIOUS, reason="invalid_client: assertion expired"),
                    Caller("unknown-client", "", address="203.0.113.9"))
    assert "meta" not in refused
    assert refused["outcome"] == "8"
    assert refused["agent"][0]["who"]["identifier"]["value"] == "unknown-client"


def test_a_caller_who_is_not_known_is_said_to_be_unauthenticated():
    refused = event(Access(Interaction.READ, "Patient", "p", outcome=Outcome.SERIOUS, reason="401 login"),
                    Caller("", "", address="203.0.113.9"))
    assert refused["agent"][0]["who"] == {"display": "unauthenticated"}
    assert refused["agent"][0]["network"] == {"address": "203.0.113.9", "type": "2"}


def test_a_delivery_is_a_disclosure_by_the_server():
    """BALP 3:5.7.8 PrivacyDisclosure.Source; val-audit-source: the source agent is the observer."""
    sent = event(Access(
        Interaction.NOTIFY, "DiagnosticReport", "dr-1", 2, ("Patient/p-12",), owner="hopital-a",
        detail=(("endpoint", "https://user:pw@his.example.org/hook/secret-path"), ("eventNumber", "7"))), MACHINE)
    assert sent["meta"]["profile"] == [BALP + "IHE.BasicAudit.PrivacyDisclosure.Source"]
    assert (sent["type"]["code"], sent["action"]) == ("110106", "R")
    assert sent["subtype"][0]["code"] == "disclose"
    (source,) = agents(sent, DCM, "110153")
    assert source["who"] == sent["source"]["observer"]
    assert source["network"]
    (recipient,) = agents(sent, DCM, "110152")
    assert recipient["who"]["identifier"]["value"] == MACHINE.client_id
    assert recipient["network"] == {"address": "https://his.example.org", "type": "5"}
    (custodian,) = agents(sent, "http://snomed.info/sct", "159541003")
    assert custodian["who"] == {"reference": "Organization/hopital-a"}
    assert entities(sent, "1")[0]["what"] == {"reference": "Patient/p-12"}
    assert entities(sent, "2")[0]["what"] == {"reference": "DiagnosticReport/dr-1/_history/2"}
    assert "secret-path" not in json.dumps(sent)


def test_a_handshake_discloses_nothing():
    sent = event(Access(Interaction.NOTIFY, "Subscription", "s-1", owner="hopital-a"))
    assert "meta" not in sent
    assert (sent["type"]["code"], sent["subtype"][0]["code"]) == ("110106", "notify")


def test_what_the_server_did_on_the_callers_behalf_says_so():
    """The second subtype is ours; the first stays the standard's (TDE keeps the first)."""
    caller = Caller.system("platform", MACHINE)
    derived = event(Access(Interaction.CREATE, "Task", "t-1", 1, derived=True), caller)
    assert [c["code"] for c in derived["subtype"]] == ["create", "derived"]
    assert agents(derived, DCM, "110153")[0]["who"]["identifier"]["value"] == MACHINE.client_id


def test_the_server_by_itself_has_its_own_address():
    own = event(Access(Interaction.UPDATE, "Task", "t-1", 2), Caller.system("platform"))
    assert agents(own, DCM, "110153")[0]["network"] == {"address": "https://fhir.example.org/fhir", "type": "5"}


def test_the_cleaned_description_hides_who_was_searched_and_credentials():
    """BALP: description is the cleaned request, query the raw one."""
    raw = ("GET /fhir/Patient?family=Dupont&name%3Aexact=Zo%C3%A9&birthdate=1980-01-01"
           "&_has:Encounter:subject:identifier=7&general-practitioner.name=Lin&status=active&access_token=abc"
           "\nAuthorization: Bearer zzz\x07")
    (query,) = entities(event(Access(Interaction.SEARCH_TYPE, "Patient", query=raw)), "2")
    assert query["description"] == (
        "GET /fhir/Patient?family=***&name%3Aexact=***&birthdate=***&_has:Encounter:subject:identifier=***"
        "&general-practitioner.name=***&status=active&access_token=*** Authorization: ***")
    assert b"zzz" not in b64decode(query["query"])
    assert b"access_token=abc" not in b64decode(query["query"])
    assert b"family=Dupont" in b64decode(query["query"])


def test_a_code_that_is_searched_is_not_taken_for_a_credential():
    (query,) = entities(event(Access(Interaction.SEARCH_TYPE, "Observation", query="GET /fhir/Observation?code=718-7")),
                        "2")
    assert b64decode(query["query"]) == b"GET /fhir/Observation?code=718-7"


def test_times_are_utc_milliseconds():
    """http://hl7.org/fhir/R4/datatypes.html#instant"""
    paris = timezone(timedelta(hours=1))
    (built,) = build(MACHINE, Access(Interaction.READ, "Patient", "p"), AT.astimezone(paris), observer="Device/d",
                     base_url="https://x", platform="p", recorded=AT + timedelta(milliseconds=45))
    assert built["period"]["start"] == "2026-02-14T01:41:07.120Z"
    assert built["recorded"] == "2026-02-14T01:41:07.165Z"


def test_every_interaction_has_its_row():
    """All but what is answered without a token: it tells nothing of anybody."""
    assert set(PATTERNS) == {row.interaction for row in TABLE if not row.public}


ACCESSES = st.builds(
    Access,
    interaction=st.sampled_from(list(PATTERNS)),
    type=st.sampled_from([None, "Patient", "DiagnosticReport", "Task"]),
    id=st.sampled_from([None, "a-1"]),
    version=st.sampled_from([None, 1]),
    patients=st.sampled_from([(), ("Patient/a",), ("Patient/a", "Patient/b")]),
    owner=st.sampled_from([None, "hopital-a"]),
    query=st.none() | st.text(max_size=200),
    detail=st.sampled_from([(), (("StudyInstanceUID", "1.2.3"),), (("x", "1"), ("empty", "")),
                            (("endpoint", "https://h.example"),)]),
    outcome=st.sampled_from(list(Outcome)),
    reason=st.sampled_from([None, "403 forbidden", "ValueError"]),
    derived=st.booleans(),
)
CALLERS = st.builds(
    Caller,
    client_id=st.sampled_from(["", "c"]), organization=st.sampled_from(["", "o"]), role=st.sampled_from(["", "r"]),
    practitioner=st.sampled_from([None, "Practitioner/p"]), token_ref=st.sampled_from([None, "t"]),
    address=st.sampled_from(["", "::1", "host", "10.0.0.1"]), request_id=st.sampled_from(["", "q"]),
    is_system=st.booleans())


@settings(deadline=None)
@given(ACCESSES, CALLERS)
def test_every_event_is_a_valid_audit_event(access: Access, caller: Caller):
    """http://hl7.org/fhir/R4/auditevent.html: structure, cardinalities, required codes, invariants."""
    validation = pytest.importorskip("resources.validation")
    for built in events(access, caller):
        assert [issue for issue in validation.validate(built) if issue.severity in ("error", "fatal")] == []


@settings(deadline=None)
@given(ACCESSES, CALLERS)
def test_every_event_is_accepted_by_the_r4b_models(access: Access, caller: Caller):
    """fhir.resources as a second opinion."""
    from fhir.resources.R4B.auditevent import AuditEvent

    for built in events(access, caller):
        AuditEvent.model_validate(built)


@settings(deadline=None)
@given(ACCESSES, CALLERS)
def test_success_profiles_are_claimed_by_successes_alone(access: Access, caller: Caller):
    for built in events(access, caller):
        if access.outcome is not Outcome.SUCCESS:
            assert "meta" not in built
            assert built["contained"]
        assert len(built["agent"]) >= 2


def purpose(recorded: Json) -> str | None:
    for concept in recorded.get("purposeOfEvent", ()):
        (coding,) = concept["coding"]
        assert coding["system"] == "http://terminology.hl7.org/CodeSystem/v3-ActReason"
        return str(coding["code"])
    return None


def test_the_purpose_is_the_callers_own():
    """R4 AuditEvent.purposeOfEvent, BALP `purposeOfUse`: why, as the token says; nothing where nobody said it."""
    read = Access(Interaction.READ, "AuditEvent", "e-1")
    assert purpose(event(read, MACHINE)) == "TREAT"
    assert purpose(event(read, replace(PERSON, purpose="HCOMPL"))) == "HCOMPL"
    (human,) = agents(event(read, replace(PERSON, purpose="HCOMPL")),
                      "http://terminology.hl7.org/CodeSystem/v3-ParticipationType", "IRCP")
    assert human["purposeOfUse"][0]["coding"][0]["code"] == "HCOMPL"
    assert purpose(event(replace(read, outcome=Outcome.SERIOUS, reason="login: no token"), Caller("", ""))) is None


def test_the_server_s_own_acts_are_operations_and_its_administration():
    """v3-ActReason: HOPERAT what belongs to the provision of care, HSYSADMIN what administers the systems."""
    itself = Caller.system("platform")
    assert purpose(event(Access(Interaction.UPDATE, "Task", "t-1"), itself)) == "HOPERAT"
    assert purpose(event(Access(Interaction.ADMIN, detail=(("operation", "client-add"),)), itself)) == "HSYSADMIN"
    on_behalf = Caller.system("platform", MACHINE)
    assert purpose(event(Access(Interaction.UPDATE, "Task", "t-1", derived=True), on_behalf)) == "TREAT"


def test_what_goes_along_with_a_disclosure_is_named():
    """BALP 3:5.7.8 PrivacyDisclosure.Source: entity `data` for what was disclosed, each resource with its version."""
    along = ("ServiceRequest/sr-1/_history/2", "Patient/p-1/_history/1")
    told = event(Access(Interaction.NOTIFY, "DiagnosticReport", "dr-1", 4, patients=("Patient/p-1",), context=along))
    named = [one["what"]["reference"] for one in entities(told, "2") if "what" in one]
    assert named == ["DiagnosticReport/dr-1/_history/4", *along]


def test_the_begin_of_a_transfer_is_not_the_transfer():
    """PS3.15 §A.5.3.3 Begin Transferring DICOM Instances, §A.5.3.7 DICOM Instances Transferred."""
    detail = (("StudyInstanceUID", "1.2.3"),)
    begun = event(Access(Interaction.DICOM_BEGIN, "ImagingStudy", "is-1", detail=detail, derived=True))
    done = event(Access(Interaction.DICOM_STORE, "ImagingStudy", "is-1", detail=detail))
    assert (begun["type"]["code"], done["type"]["code"]) == ("110102", "110104")
