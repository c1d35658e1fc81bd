"""L1–L17: leaks that real servers had, tried through the assembled server (security-subscriptions §2.3; DESIGN §6).

Hospital A has lived an emergency (`scene`); hospital B, the AI vendor, the viewer, the auditor and a stranger want to
know of it. Most attacks are made twice, once with what is A's and once with what nobody has: the answers are the same.
"""

from __future__ import annotations

import base64
import itertools
import json
import re
import uuid
from typing import Any

import pytest
from werkzeug.test import TestResponse

from resources import registry
from resources.json import Json
from resources.outcomes import FhirError
from store.access import EVERYONE
from subscriptions.topics import ORDER_STATUS, REPORT_SIGNED
from tests import builders
from tests.fhir_server.conftest import Client
from tests.security.scene import (
    DRAFT,
    INTERNAL,
    ORGANIZATION_A,
    ORGANIZATION_B,
    SECRET,
    World,
    alike,
    stow,
    subscription,
)

_PLACE = re.compile(r"<([a-z0-9-]+)>")


def twice(world: World, who: Client, method: str, path: str, body: Any = None, /, **headers: str) -> TestResponse:
    """Ask about what is A's (`<name>`: an id) and about what nobody has: the answers are alike and say nothing."""
    wanted = path + json.dumps(body) + json.dumps(headers)
    known = {name: world.refs[name].split("/")[1] for name in set(_PLACE.findall(wanted)) & world.refs.keys()}
    known |= {"study-uid": world.images.study_uid, "series-uid": world.images.series_uid}
    known |= {"instance-uid": world.images.sop_uid(1), "accession": world.accession, "secret": SECRET}
    absent = {name: str(uuid.uuid4()) for name in known}
    absent |= {"study-uid": "2.25.1", "series-uid": "2.25.2", "instance-uid": "2.25.3", "secret": "NICHTSDERGLEICHEN"}
    absent["accession"] = "0" * len(world.accession)
    answers = []
    for names in (known, absent):

        def filled(text: str, names: dict[str, str] = names) -> str:
            return _PLACE.sub(lambda found: names[found[1]], text)

        sent = None if body is None else json.loads(filled(json.dumps(body)))
        named = {name: filled(value) for name, value in headers.items()}
        answers.append(who.ask(method, filled(path), sent, **named))
    world.nothing_in(answers[0], *known.values())
    alike(answers[0], answers[1], {known[name]: absent[name] for name in known})
    return answers[0]


@pytest.fixture
def patient_of_b(world: World) -> str:
    """A patient of hospital B's own, ``Patient/id``."""
    return f"Patient/{world.b.create(builders.patient('Boulanger'))['id']}"


# — L13: read, vread, history —


@pytest.mark.parametrize("suffix", ["", "/_history/1", "/_history/2", "/_history", "?_summary=true", "?_elements=id"])
def test_no_read_tells_what_is_anothers_from_what_is_not(world: World, suffix: str) -> None:
    """L13: each resource of the emergency, by read, vread and history; body and headers as of an absent one."""
    for name, reference in world.refs.items():
        type_name = reference.split("/")[0]
        answer = twice(world, world.b, "GET", f"{type_name}/<{name}>{suffix}")
        assert answer.status_code in (404, 400), (reference, answer.status_code)
        twice(world, world.b, "HEAD", f"{type_name}/<{name}>{suffix}")


@pytest.mark.parametrize(
    "headers",
    [{"If_None_Match": 'W/"1"'}, {"If_None_Match": "*"}, {"If_Modified_Since": "Fri, 01 Jan 2100 00:00:00 GMT"}],
)
def test_no_conditional_read_answers_304_for_what_is_anothers(world: World, headers: dict[str, str]) -> None:
    """L13: 304 would say that there is a version."""
    assert twice(world, world.b, "GET", "Patient/<patient>", **headers).status_code == 404
    assert twice(world, world.b, "GET", "Binary/<pdf>", Accept="application/pdf", **headers).status_code == 404


@pytest.mark.parametrize(
    "path", ["_history", "Patient/_history", "Task/_history", "_history?_since=2000-01-01T00:00:00Z"]
)
def test_no_history_of_type_or_system_shows_anothers_versions(world: World, path: str) -> None:
    """L13: neither entries nor total."""
    world.nothing_in(world.b.get(f"{path}{'&' if '?' in path else '?'}_count=1000"))


# — L1, L3, L4: search —


@pytest.mark.parametrize(
    "path",
    [
        "Patient?_id=<patient>",
        "Patient?_id=<patient>,x",
        "?_id=<patient>&_type=Patient",
        "?_id=<order>,<patient>",
        "Patient?_tag=<secret>",
        "Patient?_tag=urn:tag|<secret>",
        "Patient?_security=<secret>",
        "Patient?_source=urn:<secret>",
        "Patient?_profile=urn:<secret>",
        "Patient?_lastUpdated=gt2000-01-01&_id=<patient>",
        "Patient?family=<secret>",
        "Patient?name:contains=<secret>",
        "Patient?family:exact=<secret>",
        "Patient?identifier=<secret>-IPP",
        "Patient?identifier=urn:oid:1.2.250.1.999.1|<secret>-IPP",
        "Patient?phone=<secret>%20112",
        "Patient?address-city=<secret>",
        "Patient?identifier:not=<secret>-IPP&_id=<patient>",
        "ServiceRequest?subject=<patient>",
        "ServiceRequest?patient=Patient/<patient>",
        "ServiceRequest?identifier=<accession>",
        "ServiceRequest?subject:Patient.family=<secret>",
        "ServiceRequest?patient.identifier=<secret>-IPP",
        "ServiceRequest?encounter=Encounter/<encounter>",
        "ServiceRequest?based-on=<order>",
        "ServiceRequest?based-on:ServiceRequest.subject:Patient.family=<secret>",
        "Task?focus=<order>",
        "Task?focus:ServiceRequest.patient.family=<secret>",
        "Task?patient=<patient>",
        "Task?owner:Practitioner._id=lecteur-neuro&focus=<order>",
        "Task?part-of=<root>",
        "DiagnosticReport?based-on=<order>",
        "DiagnosticReport?_id=<draft>",
        "DiagnosticReport?_id=<report>",
        "DiagnosticReport?subject:Patient.family=<secret>",
        "DiagnosticReport?conclusion=<secret>",
        "ImagingStudy?identifier=urn:dicom:uid|urn:oid:<study-uid>",
        "ImagingStudy?basedon=<order>",
        "ImagingStudy?series=<series-uid>",
        "Observation?value-quantity=41.5&subject=<patient>",
        "Observation?_id=<finding>",
        "Observation?subject.family=<secret>",
        "Provenance?target=DiagnosticReport/<report>",
        "DocumentReference?patient=<patient>",
        "List?item=<patient>",
        "Communication?subject=<patient>",
        "Basic?_id=<basic>",
        "Bundle?_id=<bundle>",
        "Binary?_id=<binary>",
        "Subscription?_id=<sub-reports>",
        "Subscription?url=<secret>",
        "Condition?_id=<deleted>",
        "Patient?_has:Observation:patient:value-quantity=41.5&_id=<patient>",
        "Patient?_has:Condition:subject:_id=<condition>",
        "Patient?_has:ServiceRequest:patient:_has:Task:focus:_id=<root>",
        "Organization?_has:Patient:organization:family=<secret>",
        "Organization?_has:Encounter:service-provider:_id=<encounter>",
        "Practitioner?_has:Task:owner:_id=<read>",
        "Practitioner?_has:DiagnosticReport:results-interpreter:_id=<report>",
        "PractitionerRole?_has:Appointment:actor:status=booked&_id=<patient>",
        "Task?owner.name=NEUROVA&patient=<patient>",
        "Encounter?service-provider=Organization/hopital-a&_id=<encounter>",
        "Patient?organization.name=H%C3%B4pital&_id=<patient>",
    ],
)
@pytest.mark.parametrize("more", ["", "_total=accurate", "_summary=count", "_count=0", "_sort=-_lastUpdated"])
def test_no_criterion_finds_what_is_anothers(world: World, path: str, more: str) -> None:
    """L3, L4: by value, reference, chain and `_has`, and whatever is counted: as if A did not exist."""
    answer = twice(world, world.b, "GET", f"{path}&{more}" if more else path)
    assert answer.status_code in (200, 400), answer.get_data(as_text=True)
    if answer.status_code == 200:
        assert answer.get_json().get("total", 0) == 0
        assert [e for e in answer.get_json().get("entry", []) if e["search"]["mode"] != "outcome"] == []
    base, _, query = path.partition("?")
    form = world.b.ask(
        "POST",
        f"{base}/_search" if base else "_search",
        _PLACE.sub(lambda found: str(world.refs.get(found[1], "x")).split("/")[-1], query).encode(),
        Content_Type="application/x-www-form-urlencoded",
    )
    world.nothing_in(form, *world.ids)


@pytest.mark.parametrize(
    "path",
    [
        "Organization?_revinclude=Patient:organization&_revinclude=Encounter:service-provider",
        "Organization?_revinclude=*",
        "Organization?_include=*&_revinclude:iterate=*",
        "Organization?_revinclude=Patient:organization&_revinclude:iterate=ServiceRequest:subject",
        "Organization?_revinclude:iterate=Patient:organization&_revinclude:iterate=Task:patient&_revinclude:iterate=DiagnosticReport:patient",
        "Practitioner?_revinclude=Task:owner&_revinclude=DiagnosticReport:results-interpreter",
        "Practitioner?_revinclude=*&_revinclude:iterate=*&_include:iterate=*",
        "PractitionerRole?_include=*&_include:iterate=*&_revinclude=Appointment:actor&_revinclude=Task:owner",
        "Schedule?_include=*&_revinclude=Slot:schedule&_revinclude:iterate=Appointment:slot",
        "Patient?_revinclude=*&_include=*",
        "ServiceRequest?_include=*&_include:iterate=*&_revinclude:iterate=*",
        "Slot?_revinclude=Appointment:slot",
        "?_type=Organization,Practitioner&_revinclude=*&_include=*",
    ],
)
@pytest.mark.parametrize(
    "more", ["", "&_total=accurate", "&_count=1", "&_count=1000", "&_elements=id", "&_summary=text"]
)
def test_no_include_leads_from_what_all_may_see_to_what_is_anothers(
    world: World, patient_of_b: str, path: str, more: str
) -> None:
    """L1: the directory is everyone's and A's resources refer to it: nothing comes along, whichever way."""
    world.b.create(builders.service_request(patient_of_b))
    answer = world.b.get(path + more)
    assert answer.status_code in (200, 400), answer.get_data(as_text=True)
    world.nothing_in(answer)


def test_no_search_at_system_level_shows_what_is_anothers(world: World) -> None:
    """L4: every type that B may search, all pages; no total counts A."""
    for path in (
        "?_count=1000&_total=accurate",
        "?_lastUpdated=gt2000-01-01&_count=1000",
        "?_sort=-_lastUpdated&_count=40",
    ):
        pages = 0
        while path and pages < 40:
            answer = world.b.get(path)
            assert answer.status_code in (200, 400)
            world.nothing_in(answer)
            links = {link["relation"]: link["url"] for link in answer.get_json().get("link", ())}
            path = links.get("next", "").partition("/fhir")[2].lstrip("/")
            pages += 1


def test_no_type_counts_what_is_anothers(world: World) -> None:
    """L4, L13: of each type that the hospital may search, the total is what it can list."""
    for type_name in sorted(registry.TYPES):
        answer = world.b.get(f"{type_name}?_total=accurate&_count=1000")
        world.nothing_in(answer)
        if answer.status_code == 200:
            bundle = answer.get_json()
            assert bundle["total"] == len(bundle.get("entry", [])), type_name


# — L2: page tokens —


def test_no_page_token_fits_another_client(world: World) -> None:
    """L2: a token of A's for B, for another client of A's organisation, for another query: 400."""
    for path in (
        "Condition?_count=1",
        "Condition/_history?_count=1",
        "_history?_count=1",
        "?_type=Condition,List&_count=1",
    ):
        world.a.create({"resourceType": "Condition", "subject": builders.ref(world.refs["patient"])})
        bundle = world.a.get(path).get_json()
        link = next(link["url"] for link in bundle["link"] if link["relation"] == "next").removeprefix(
            "http://localhost"
        )
        assert world.a.get(link).status_code == 200
        colleague = world.api.client("other", ORGANIZATION_A, "system/*.rs")
        for thief in (world.b, world.api.platform, colleague):
            answer = thief.get(link)
            assert answer.status_code in (400, 403)
            world.nothing_in(answer)
        token = link.partition("_page=")[2]
        assert world.a.get(f"Observation?_count=1&_page={token}").status_code == 400


# — L5: conditional interactions —


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("POST", "Patient", {"If_None_Exist": "identifier=urn:oid:1.2.250.1.999.1|<secret>-IPP"}),
        ("POST", "Patient", {"If_None_Exist": "_id=<patient>"}),
        ("POST", "Patient?identifier=<secret>-IPP", {}),
        ("PUT", "Patient?identifier=<secret>-IPP", {}),
        ("PUT", "Patient?_id=<patient>", {}),
        ("DELETE", "Patient?identifier=<secret>-IPP", {}),
        ("DELETE", "Patient?_id=<patient>", {}),
        ("DELETE", "Condition?subject=<patient>", {}),
        ("DELETE", "Task?focus=<order>", {}),
        ("PUT", "Patient/<patient>", {"If_Match": 'W/"1"'}),
        ("PUT", "Patient/<patient>", {"If_Match": 'W/"7"'}),
        ("DELETE", "Patient/<patient>", {"If_Match": 'W/"1"'}),
        ("DELETE", "Patient/<patient>", {"If_Match": 'W/"7"'}),
        ("DELETE", "Patient/<patient>", {}),
        ("DELETE", "DiagnosticReport/<report>", {}),
        ("DELETE", "Task/<root>", {}),
        ("PATCH", "Patient/<patient>", {}),
    ],
)
def test_no_conditional_interaction_matches_or_conflicts_with_what_is_anothers(
    world: World, method: str, path: str, headers: dict[str, str]
) -> None:
    """L5: no match, no 412, no 409: as if A did not exist; and A keeps what it has."""
    body = builders.patient("Boulanger", identifier=None) if method in ("POST", "PUT") else None
    if body is not None and "/<patient>" in path:
        body["id"] = "<patient>"
    before = world.a.get(world.refs["patient"]).get_data()
    answer = twice(world, world.b, method, path, body, **headers)
    assert answer.status_code in (200, 201, 204, 404, 405), answer.get_data(as_text=True)
    assert world.a.get(world.refs["patient"]).get_data() == before


def test_the_same_identifier_is_two_patients_in_two_hospitals(world: World) -> None:
    """L5, DESIGN §6: a blind conditional create of each makes its own."""
    same = [{"system": "urn:oid:1.2.250.1.213.1.4.10", "value": f"2{uuid.uuid4().int % 10**12:012d}"}]
    criteria = f"identifier={same[0]['system']}|{same[0]['value']}"
    made = []
    for hospital in (world.a, world.b, world.a, world.b):
        answer = hospital.post("Patient", builders.patient("Zwilling", identifier=same), If_None_Exist=criteria)
        made.append((answer.status_code, answer.get_json()["id"]))
    assert [status for status, _ in made] == [201, 201, 200, 200]
    assert len({one for _, one in made}) == 2
    assert len(world.api.platform.found(f"Patient?{criteria}")) == 2


def test_what_is_anothers_is_not_overwritten(world: World) -> None:
    """L9: PUT on an id that is A's: 404, nothing said, nothing changed.

    A shared space of ids has one answer that an absent id does not have (update as create: 201); ids given by the
    server are random, so there is nothing to ask for (docs/security.md, what remains).
    """
    for name, reference in world.refs.items():
        type_name, logical_id = reference.split("/")
        witness = world.a if type_name == "Subscription" else world.api.admin
        kept = witness.get(f"{reference}/_history").get_json()["total"]
        body = {"resourceType": type_name, "id": logical_id}
        body |= {
            "Patient": builders.patient("x"),
            "Condition": {"resourceType": "Condition", "subject": {"display": "x"}},
        }.get(type_name, {})
        answer = world.b.put(reference, {**body, "id": logical_id})
        assert answer.status_code in (403, 404, 405, 422), name
        world.nothing_in(answer, logical_id)
        assert witness.get(f"{reference}/_history").get_json()["total"] == kept


# — L8: every route —

PUBLIC = {
    ("GET", "/"),
    ("HEAD", "/"),
    ("GET", "/livez"),
    ("GET", "/readyz"),
    ("HEAD", "/livez"),
    ("HEAD", "/readyz"),
    ("GET", "/oauth/jwks"),
    ("HEAD", "/oauth/jwks"),
    ("GET", "/.well-known/oauth-authorization-server"),
    ("HEAD", "/.well-known/oauth-authorization-server"),
}
"""What anybody may ask without a token. Whoever adds a route adds a rule, or a line here."""

FHIR_RULES = {
    (rule, frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"}))
    for rule in ("/fhir", "/fhir/", "/fhir/<path:rest>")
}
"""The FHIR edge has a router of its own (`fhir_server.edge.rest.Edge`): whatever is below its prefix, by any method."""
PUBLIC_FHIR = ("metadata", ".well-known/smart-configuration")
OWN_AUTHENTICATION = {"/oauth/token", "/oauth/introspect", "/oauth/revoke"}
"""Authenticate the client by the body (RFC 6749 §2.3); tests/auth."""


def test_no_route_answers_a_stranger(world: World) -> None:
    """L8: every rule of the URL map × every method: 401, except the public documents."""
    stranger = world.api.app.test_client()
    addresses = (f"10.1.{number // 250}.{number % 250 + 1}" for number in itertools.count())
    flask = {(rule.rule, frozenset(rule.methods or ())) for rule in world.api.app.url_map.iter_rules()}
    assert not [rule for rule, _ in flask if rule.startswith("/fhir")], "the edge serves all that is below /fhir"
    for rule, methods in sorted(flask | FHIR_RULES, key=str):
        if rule in OWN_AUTHENTICATION:
            continue
        filled = re.sub(r"<path:bulk>", "7FE00010", rule)
        filled = re.sub(r"<owner>", ORGANIZATION_A, filled)
        filled = re.sub(r"<frames>", "1", filled)
        filled = filled.replace("<study>", world.images.study_uid).replace("<series>", world.images.series_uid)
        filled = filled.replace("<instance>", world.images.sop_uid(1))
        for method in sorted(methods):
            for path in (
                [filled.replace("<path:rest>", rest) for rest in _rests(world)] if "<path:rest>" in filled else [filled]
            ):
                assert "<" not in path, f"the test does not know {rule}"
                # From a new address each: too many refusals of one are answered 429, and the rule would hide behind it.
                answer = stranger.open(path, method=method, environ_base={"REMOTE_ADDR": next(addresses)})
                public = (method, rule) in PUBLIC or (
                    path.removeprefix("/fhir/") in PUBLIC_FHIR and method in ("GET", "HEAD")
                )
                if method == "OPTIONS" and not rule.startswith("/fhir"):
                    assert answer.status_code in (401, 405) or answer.get_data() == b"", (
                        path
                    )  # Flask's own: the methods of the route, no view is called
                elif method == "OPTIONS" and path.rstrip("/") == "/fhir":
                    assert answer.status_code == 200, path  # R4 §3.1.0.14: the CapabilityStatement
                elif rule == "/metrics" and method in ("GET", "HEAD"):
                    assert answer.status_code == 404, path  # for this machine alone (docs/operations.md)
                elif public:
                    assert answer.status_code == 200, (method, path)
                else:
                    assert answer.status_code in (401, 405), (method, path, answer.status_code)
                    if answer.status_code == 405:
                        assert "<path:rest>" not in rule, (method, path)
                world.nothing_in(answer, path)


def _rests(world: World) -> list[str]:
    return [
        *PUBLIC_FHIR,
        "",
        "Patient",
        world.refs["patient"],
        f"{world.refs['patient']}/_history",
        f"{world.refs['patient']}/_history/1",
        "Patient/_search",
        "_search",
        "_history",
        "Patient/$validate",
        f"{world.refs['sub-reports']}/$events",
        "Subscription/$status",
        "PractitionerRole/$on-duty",
        "$export",
        "nothing",
        f"{world.refs['patient']}/Observation",
        "Patient/$everything",
        "AuditEvent",
        "Nothing/1/2/3/4",
        "Patient/" + "x" * 99,
    ]


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Bearer x", "Basic eDp4", "bearer\tx", "Bearer " + "x" * 9000, "Bearer é"]
)
def test_no_broken_token_is_let_in(world: World, header: str) -> None:
    """L6, L8: no token, or half of one, is nobody; nobody sees nothing."""
    address = f"10.2.0.{len(header) % 250}"
    answer = world.api.app.test_client().get(
        "/fhir/Patient", headers={"Authorization": header}, environ_base={"REMOTE_ADDR": address}
    )
    assert answer.status_code == 401
    assert "WWW-Authenticate" in answer.headers


# — L6, L11: scopes —


@pytest.mark.parametrize(
    "scope",
    [
        "patient/Observation.read-only",
        "system/Patient.rsXYZ",
        "system/Patient?active",
        "system/Patient.rrs",
        "system/Patient.sr",
        "system/Pätient.rs",
        "system/Patient.rs?",
        "system/Patient.rs?family",
        "system/.rs",
        "system/Patient.",
        "system/*.*.rs",
        "system/Patient.rs?subject.name=x",
        "system/Patient.rs?_has:x:y:z=1",
        "system/Patient.rs?family:exact=x",
        "system/Patient.rs?_include=Patient:link",
        "system/Nothing.rs",
        "system/Patient.rs\x00",
        "system/" + "Patient" * 20_000 + ".rs",
        "SYSTEM/Patient.rs",
        "system/Patient.RS",
    ],
)
def test_no_malformed_scope_is_registered(world: World, scope: str) -> None:
    """L11: refused whole, never read in part."""
    with pytest.raises(FhirError) as error:
        world.api.services.authority.clients.add("x", ORGANIZATION_B, scope, "hospital-b")
    assert error.value.status == 400


def test_no_client_without_organization_sees_anything(world: World) -> None:
    """L6: an empty organisation means nothing, never everything."""
    try:
        nobody = world.api.client("nobody", "", "system/*.cruds")
    except Exception:  # noqa: BLE001 - refused at registration is as good
        return
    for path in ("Patient", "Organization", "?_type=Patient", "_history"):
        answer = nobody.get(path)
        assert answer.status_code == 403
        world.nothing_in(answer)


def test_no_organization_called_everyone_sees_everything(world: World) -> None:
    """L6: the sign of "everyone" in an audience is no name that a client can bear."""
    with pytest.raises(FhirError):
        world.api.services.authority.clients.add("x", EVERYONE, "system/*.rs", "hospital-b")


@pytest.mark.parametrize(
    "path",
    [
        "Patient?_has:Observation:patient:value-quantity=41.5",
        "Patient?_has:ServiceRequest:patient:status=active",
        "ServiceRequest?subject:Patient.family=x",
        "ServiceRequest?patient.family=x",
        "Patient?general-practitioner.name=x",
    ],
)
def test_no_chain_leads_through_a_type_without_scope(world: World, path: str) -> None:
    """L3: refused for A's own client, which would learn by it what its scope does not cover."""
    narrow = world.api.client("narrow", ORGANIZATION_A, f"system/{path.partition('?')[0]}.rs")
    answer = narrow.get(path)
    assert answer.status_code == 403, answer.get_data(as_text=True)
    world.nothing_in(answer)


def test_no_include_brings_a_type_without_scope(world: World) -> None:
    """L1: left out silently."""
    narrow = world.api.client("narrow", ORGANIZATION_A, "system/ServiceRequest.rs")
    bundle = narrow.get("ServiceRequest?_include=ServiceRequest:subject&_revinclude=Task:focus&_include=*").get_json()
    assert {entry["resource"]["resourceType"] for entry in bundle["entry"]} == {"ServiceRequest"}


def test_no_write_leaves_the_constraint_of_its_scope(world: World) -> None:
    """L9: neither out of it nor into it, by PUT, by DELETE, or in a transaction."""
    bound = world.api.client("bound", ORGANIZATION_B, "system/Condition.cruds?code=urn:c|mine system/Patient.rs")
    patient = world.b.create(builders.patient("Boulanger"))
    mine = {"coding": [{"system": "urn:c", "code": "mine"}]}
    body = {"resourceType": "Condition", "subject": builders.ref(f"Patient/{patient['id']}")}
    outside = world.b.create({**body, "code": {"text": "other"}})
    inside = bound.create({**body, "code": mine})
    assert bound.post("Condition", {**body, "code": {"text": "other"}}).status_code == 403
    assert bound.put(f"Condition/{inside['id']}", {**inside, "code": {"text": "other"}}).status_code == 403
    assert bound.get(f"Condition/{outside['id']}").status_code == 404
    assert bound.put(f"Condition/{outside['id']}", {**outside, "code": mine}).status_code in (403, 404)
    assert bound.delete(f"Condition/{outside['id']}").status_code == 204
    assert world.b.get(f"Condition/{outside['id']}").status_code == 200, "what it cannot see it cannot delete"
    moved = _transaction(("PUT", f"Condition/{inside['id']}", {**inside, "code": {"text": "other"}}))
    assert bound.post("", moved).status_code == 403
    assert [one["id"] for one in bound.found("Condition")] == [inside["id"]]


# — L9, L10, L14: writes that point across —


@pytest.mark.parametrize(
    "body",
    [
        {"resourceType": "Condition", "subject": {"reference": "Patient/<patient>"}},
        {"resourceType": "Condition", "subject": {"reference": "http://localhost/fhir/Patient/<patient>"}},
        {"resourceType": "Condition", "subject": {"reference": "Patient/<patient>/_history/1"}},
        {
            "resourceType": "List",
            "status": "current",
            "mode": "working",
            "entry": [{"item": {"reference": "Patient/<patient>"}}],
        },
        {
            "resourceType": "Provenance",
            "target": [{"reference": "DiagnosticReport/<report>"}],
            "recorded": "2026-01-01T00:00:00Z",
            "agent": [{"who": {"display": "x"}}],
        },
        {"resourceType": "Binary", "contentType": "text/plain", "securityContext": {"reference": "Patient/<patient>"}},
        {
            "resourceType": "Task",
            "status": "draft",
            "intent": "order",
            "focus": {"reference": "ServiceRequest/<order>"},
        },
        {
            "resourceType": "DocumentReference",
            "status": "current",
            "content": [{"attachment": {"url": "Binary/<pdf>"}}],
            "subject": {"reference": "Patient/<patient>"},
        },
        {
            "resourceType": "Basic",
            "code": {"text": "x"},
            "contained": [{"resourceType": "Condition", "id": "c", "subject": {"reference": "Patient/<patient>"}}],
            "extension": [{"url": "urn:x", "valueReference": {"reference": "#c"}}],
        },
        {
            "resourceType": "ImagingStudy",
            "status": "available",
            "subject": {"reference": "Patient/<patient>"},
            "basedOn": [{"reference": "ServiceRequest/<order>"}],
        },
        {
            "resourceType": "DiagnosticReport",
            "status": "final",
            "code": {"text": "x"},
            "basedOn": [{"reference": "ServiceRequest/<order>"}],
            "conclusion": "x",
        },
        {
            "resourceType": "ServiceRequest",
            "status": "active",
            "intent": "filler-order",
            "code": {"text": "x"},
            "subject": {"reference": "Patient/<patient>"},
            "basedOn": [{"reference": "ServiceRequest/<order>"}],
        },
        {"resourceType": "Communication", "status": "completed", "about": [{"reference": "DiagnosticReport/<draft>"}]},
        {
            "resourceType": "Observation",
            "status": "final",
            "code": {"text": "x"},
            "hasMember": [{"reference": "Observation/<finding>"}],
        },
    ],
)
def test_no_reference_to_what_is_anothers_resolves(world: World, body: Json) -> None:
    """L13, L14: the same 409 as for nothing, alone and in a transaction; nothing of B's comes to lie in A's record."""
    answer = twice(world, world.b, "POST", str(body["resourceType"]), body)
    assert 400 <= answer.status_code < 500, answer.get_data(as_text=True)
    in_bundle = twice(world, world.b, "POST", "", _transaction(("POST", str(body["resourceType"]), body)))
    assert 400 <= in_bundle.status_code < 500, in_bundle.get_data(as_text=True)


def test_no_write_moves_a_resource_to_another_hospital(world: World, patient_of_b: str) -> None:
    """L9: subject changed to A's patient: as to nobody's."""
    condition = world.b.create({"resourceType": "Condition", "subject": builders.ref(patient_of_b)})
    moved = {**condition, "subject": {"reference": "Patient/<patient>"}}
    assert twice(world, world.b, "PUT", f"Condition/{condition['id']}", moved).status_code == 409
    assert world.b.get(f"Condition/{condition['id']}").get_json()["meta"]["versionId"] == "1"


@pytest.mark.parametrize(
    "reference",
    [
        {"identifier": {"system": "urn:oid:1.2.250.1.999.1", "value": "<secret>-IPP"}},
        {"reference": "urn:uuid:8e4d1b0f-6f19-4f3c-9e0e-2f1cf8d0a001"},
        {"reference": "https://elsewhere.example/fhir/Patient/<patient>"},
    ],
)
def test_no_logical_reference_is_resolved_across(world: World, reference: Json) -> None:
    """L14: Reference.identifier, urn: and other servers' URLs stay words; no search or include follows them to A's."""
    answer = twice(world, world.b, "POST", "Condition", {"resourceType": "Condition", "subject": reference})
    assert answer.status_code == 201, answer.get_data(as_text=True)
    for path in (
        f"Condition?_id={answer.get_json()['id']}&_include=*&_include:iterate=*",
        f"Condition?_id={answer.get_json()['id']}&subject:Patient.family={SECRET}",
    ):
        found = world.b.get(path)
        world.nothing_in(found, world.refs["patient"], SECRET)
        assert all(e["search"]["mode"] == "match" for e in found.get_json().get("entry", ()))


@pytest.mark.parametrize("kind", ["batch", "transaction"])
@pytest.mark.parametrize(
    ("method", "url", "more"),
    [
        ("GET", "Patient/<patient>", {}),
        ("GET", "Patient/<patient>/_history", {}),
        ("GET", "Patient?_id=<patient>", {}),
        ("GET", "Binary/<pdf>", {}),
        ("GET", "Binary/<binary>", {}),
        ("GET", "Task?focus=<order>", {}),
        ("GET", "Organization?_revinclude=*", {}),
        ("GET", "DiagnosticReport/<draft>/_history/1", {}),
        ("DELETE", "Patient/<patient>", {}),
        ("DELETE", "Patient?identifier=<secret>-IPP", {}),
        ("POST", "Patient", {"ifNoneExist": "identifier=<secret>-IPP"}),
        ("PUT", "Patient?identifier=<secret>-IPP", {}),
        ("PUT", "Patient/<patient>", {"ifMatch": 'W/"1"'}),
        ("GET", "Patient/<patient>", {"ifNoneMatch": 'W/"1"'}),
    ],
)
def test_no_entry_of_a_bundle_reaches_what_is_anothers(
    world: World, kind: str, method: str, url: str, more: Json
) -> None:
    """L10: each entry is asked for its own right, GET too."""
    resource = builders.patient("Boulanger", identifier=None) if method in ("POST", "PUT") else None
    if resource is not None and "/<patient>" in url:
        resource["id"] = "<patient>"
    bundle = _transaction((method, url, resource), kind=kind, **more)
    answer = twice(world, world.b, "POST", "", bundle)
    assert answer.status_code in (200, 404), answer.get_data(as_text=True)


def test_no_conditional_reference_finds_what_is_anothers(world: World) -> None:
    """L10: a conditional reference is a search by the caller."""
    for query in ("Patient?identifier=<secret>-IPP", "Patient?family=<secret>", "Patient?_id=<patient>"):
        body = {"resourceType": "Condition", "subject": {"reference": query}}
        answer = twice(world, world.b, "POST", "", _transaction(("POST", "Condition", body)))
        assert answer.status_code == 412


def test_no_entry_is_carried_out_without_its_own_scope(world: World) -> None:
    """L10: a transaction in which one entry lacks the scope does nothing at all."""
    narrow = world.api.client("narrow", ORGANIZATION_B, "system/Patient.cruds")
    number = [{"system": "urn:l10", "value": str(uuid.uuid4())}]
    bundle = _transaction(
        ("POST", "Patient", builders.patient("x", identifier=number)),
        ("POST", "Condition", {"resourceType": "Condition", "subject": {"display": "x"}}),
    )
    assert narrow.post("", bundle).status_code == 403
    assert narrow.found(f"Patient?identifier={number[0]['value']}") == []
    reading = _transaction(("GET", "Condition", None))
    assert narrow.post("", reading).status_code == 403
    answer = narrow.post("", {**reading, "type": "batch"})
    assert answer.get_json()["entry"][0]["response"]["status"].startswith("403")


# — L7, L14: other ways to the same —


def test_no_operation_reaches_what_is_anothers(world: World) -> None:
    """L7, L12: operations ask for the same right as a read, and answer the same 404."""
    for method, path, body in (
        ("GET", "Subscription/<sub-reports>/$status", None),
        ("GET", "Subscription/<sub-reports>/$events", None),
        ("GET", "Subscription/<sub-orders>/$events?content=full-resource", None),
        ("POST", "Subscription/<sub-orders>/$events", {"resourceType": "Parameters"}),
        ("GET", "Subscription/$status?id=<sub-reports>", None),
        ("POST", "DiagnosticReport/<draft>/$sign", None),
        ("POST", "DiagnosticReport/<report>/$sign", None),
        ("GET", "Patient/<patient>/$everything", None),
        ("GET", "Patient/<patient>/Observation", None),
        ("GET", "Patient/<patient>/*", None),
        ("GET", "Encounter/<encounter>/ServiceRequest", None),
        ("POST", "Patient/<patient>/$validate", builders.patient("x")),
    ):
        answer = twice(world, world.b, method, path, body)
        assert answer.status_code in (200, 404, 405, 422), (path, answer.status_code)
    assert world.b.get("PractitionerRole/$on-duty").status_code == 403, "the rota is the platform's"


@pytest.mark.parametrize("accept", ["application/pdf", "*/*", "application/fhir+json", "text/html", ""])
def test_no_binary_is_served_to_another(world: World, accept: str) -> None:
    """L14: as bytes, as a resource, by version."""
    for name in ("pdf", "binary"):
        for suffix in ("", "/_history/1", "/_history/2"):
            headers = {"Accept": accept} if accept else {}
            assert twice(world, world.b, "GET", f"Binary/<{name}>{suffix}", **headers).status_code == 404


def test_no_binary_in_a_batch_breaks_out_of_its_entry(world: World) -> None:
    """L14: in a Bundle a Binary is a resource; its bytes never become the JSON around it."""
    forged = b'{"resourceType":"Patient","id":"forged"}},{"resource":{"resourceType":"Patient","id":"more"}'
    made = world.b.create(
        {"resourceType": "Binary", "contentType": "application/x", "data": base64.b64encode(forged).decode()}
    )
    for kind in ("batch", "transaction"):
        answer = world.b.post("", _transaction(("GET", f"Binary/{made['id']}", None), kind=kind))
        (entry,) = json.loads(answer.get_data())["entry"]
        assert entry["resource"] == made


def test_no_version_of_a_binary_answers_with_another_version(world: World) -> None:
    """R4 §3.1.0.3: vread as bytes gives the bytes of that version."""
    made = world.b.create(
        {"resourceType": "Binary", "contentType": "text/plain", "data": base64.b64encode(b"one").decode()}
    )
    changed = world.b.put(f"Binary/{made['id']}", {**made, "data": base64.b64encode(b"two").decode()})
    assert changed.status_code == 200
    for version, content in ((1, b"one"), (2, b"two")):
        answer = world.b.get(f"Binary/{made['id']}/_history/{version}", Accept="text/plain")
        assert answer.get_data() == content
        assert answer.headers["ETag"] == f'W/"{version}"'


# — L16: images —

_LEVELS = (
    "studies/<study-uid>",
    "studies/<study-uid>/series/<series-uid>",
    "studies/<study-uid>/series/<series-uid>/instances/<instance-uid>",
)
_IMAGES = [
    f"/dicom-web{owner}/{level}{rest}"
    for owner in ("", f"/owners/{ORGANIZATION_A}")
    for level in _LEVELS
    for rest in (
        "",
        "/metadata",
        "/rendered",
        "/thumbnail",
        "/series",
        "/instances",
        "/frames/1",
        "/frames/1/rendered",
        "/bulkdata/7FE00010",
    )
]


def test_no_image_of_another_is_served(world: World) -> None:
    """L16: WADO-RS in each of its forms, also by the owner's address: as an absent UID."""
    for path in _IMAGES:
        for accept in ("*/*", "application/dicom+json", 'multipart/related; type="application/dicom"', "image/png"):
            answer = twice(world, world.b, "GET", path, Accept=accept)
            assert answer.status_code in (204, 404, 405, 406), (path, answer.status_code)


def test_no_search_for_images_finds_what_is_anothers(world: World) -> None:
    """L16: QIDO-RS at three levels, with every key, fuzzy and wild."""
    for level in ("studies", "series", "instances", "studies/<study-uid>/series", "studies/<study-uid>/instances"):
        for query in (
            "",
            "?limit=1000",
            "?StudyInstanceUID=<study-uid>",
            "?PatientName=*<secret>*",
            "?PatientName=<secret>*&fuzzymatching=true",
            "?PatientID=<secret>-IPP",
            "?AccessionNumber=<accession>",
            "?includefield=all",
            "?AccessionNumber=*",
            "?offset=0&limit=1",
            "?ModalitiesInStudy=CT&includefield=00080080",
            "?SeriesInstanceUID=<series-uid>",
            "?SOPInstanceUID=<instance-uid>",
        ):
            for owner in ("", f"/owners/{ORGANIZATION_A}"):
                answer = twice(world, world.b, "GET", f"/dicom-web{owner}/{level}{query}")
                assert answer.status_code in (204, 400, 404), (level, query)


def test_no_image_can_be_stored_into_anothers_study(world: World) -> None:
    """L16: the same UIDs from B are B's own study; no conflict is told, A's stays as it was, and nobody's are mixed."""
    from dataclasses import replace

    from dicomweb import phantom

    mine = replace(world.images, study_instance_uid=world.images.study_uid, patient_name="B^B", institution="B")
    before = world.a.get(f"/dicom-web/studies/{world.images.study_uid}/metadata").get_data()
    assert stow(world.b, phantom.series(mine), f"/dicom-web/owners/{ORGANIZATION_A}/studies").status_code == 404
    answer = stow(world.b, phantom.series(mine), f"/dicom-web/studies/{world.images.study_uid}")
    assert answer.status_code == 200, answer.get_data(as_text=True)
    world.nothing_in(answer, *world.uids)
    assert world.a.get(f"/dicom-web/studies/{world.images.study_uid}/metadata").get_data() == before
    shown = world.b.get(f"/dicom-web/studies/{world.images.study_uid}/metadata").get_data(as_text=True)
    assert "B^B" in shown
    assert SECRET not in shown.replace(f"{SECRET}-IPP", "").replace(world.accession, "")
    world.api.settled()
    (study,) = world.b.found(f"ImagingStudy?identifier=urn:oid:{world.images.study_uid}")
    assert "basedOn" not in study, "A's accession number joins nothing of B's to A's order"
    assert world.refs["patient"] not in json.dumps(study)
    assert world.b.get(f"{world.refs['study']}").status_code == 404
    # Whatever B's study is called, A's later tests ask for UIDs that B has now sent too: it is taken away again.
    with world.api.services.database.write() as connection:
        _forget_study(connection, world.images.study_uid)
    world.b.delete(f"ImagingStudy/{study['id']}")


def _forget_study(connection: Any, uid: str) -> None:
    from sqlalchemy import delete, select

    from dicomweb.tables import dicom_header, dicom_identity, dicom_instance, dicom_series, dicom_study

    pk = select(dicom_study.c.pk).where(dicom_study.c.study_instance_uid == uid, dicom_study.c.owner == ORGANIZATION_B)
    of_study = select(dicom_instance.c.pk).where(dicom_instance.c.study_pk.in_(pk))
    connection.execute(delete(dicom_header).where(dicom_header.c.instance_pk.in_(of_study)))
    connection.execute(delete(dicom_instance).where(dicom_instance.c.study_pk.in_(pk)))
    connection.execute(delete(dicom_series).where(dicom_series.c.study_pk.in_(pk)))
    connection.execute(delete(dicom_identity).where(dicom_identity.c.study_pk.in_(pk)))
    connection.execute(
        delete(dicom_study).where(dicom_study.c.study_instance_uid == uid, dicom_study.c.owner == ORGANIZATION_B)
    )


def test_nobody_takes_the_place_of_anothers_study_before_its_images_come(world: World) -> None:
    """L9, L16: the id of an ImagingStudy does not follow from the UID, so it cannot be taken, or asked for."""
    from dicomweb import phantom
    from dicomweb.phantom import Phantom

    made = []
    for number in (1, 2):
        scan = Phantom(patient_id=f"Z{number}", study_instance_uid=f"2.25.99{number}", slices=1, side=8)
        assert stow(world.a, phantom.series(scan)).status_code == 200
        world.api.settled()
        (study,) = world.a.found(f"ImagingStudy?identifier=urn:oid:{scan.study_uid}")
        made.append(study["id"])
    assert all(uuid.UUID(one).version == 4 for one in made)


# — L15: subscriptions —


def test_no_subscription_of_another_is_told_of_anything(world: World) -> None:
    """L15: B's subscription that matches all that A does gets the handshake and no event, also by $events."""
    receiver = world.receivers["b"]
    made = [world.b.create(subscription(receiver.url, topic)) for topic in (ORDER_STATUS, REPORT_SIGNED)]
    world.turn()
    order = world.a.create(builders.service_request(world.refs["patient"], reasonCode=[{"text": SECRET}]))
    world.put(world.a, {**order, "status": "revoked"})
    world.turn()
    assert {one.kind for one in receiver.received} == {"handshake"}
    for one in receiver.received:
        assert SECRET.encode() not in one.body
    for subscribed in made:
        for path in (
            f"Subscription/{subscribed['id']}/$events",
            f"Subscription/{subscribed['id']}/$status",
            "Subscription/$status",
        ):
            answer = world.b.get(path)
            assert answer.status_code == 200
            world.nothing_in(answer)
            assert order["id"] not in answer.get_data(as_text=True)
    assert any(order["id"].encode() in one.body for one in world.receivers["a"].received), "A has its own"


def test_no_subscription_outlives_the_rights_of_its_client(world: World) -> None:
    """L15: after the client is revoked neither deliveries nor `$events` tell of anything."""
    from fhir_server.demo.hospital import Endpoint

    receiver = Endpoint()
    try:
        leaving = world.api.client("leaving", ORGANIZATION_A, "system/*.cruds")
        asked = leaving.create(subscription(receiver.url, ORDER_STATUS))
        world.turn()
        assert [one.kind for one in receiver.received] == ["handshake"]
        world.api.services.authority.clients.disable(leaving.client_id)
        world.a.create(builders.service_request(world.refs["patient"], reasonCode=[{"text": SECRET}]))
        world.turn()
        assert all(one.kind != "event-notification" for one in receiver.received)
        assert all(SECRET.encode() not in one.body for one in receiver.received)
        world.a.delete(f"Subscription/{asked['id']}")
    finally:
        receiver.close()


def test_no_channel_header_is_shown_to_a_colleague(world: World) -> None:
    """L15: the credentials of a channel are its creator's: another client of the same hospital reads them masked."""
    colleague = world.api.client("colleague", ORGANIZATION_A, "system/Subscription.rs")
    for path in (
        world.refs["sub-reports"],
        f"{world.refs['sub-reports']}/_history",
        "Subscription",
        "Subscription/_history",
    ):
        text = colleague.get(path).get_data(as_text=True)
        assert f"Bearer {SECRET}" not in text
    assert f"Bearer {SECRET}" in world.a.get(world.refs["sub-reports"]).get_data(as_text=True)


# — what the hospital itself must not see —


def test_no_draft_is_shown_to_the_hospital(world: World) -> None:
    """DESIGN §6: read, vread, history, search, include, `$events`; also of a report that is signed meanwhile."""
    report = world.refs["report"]
    paths = [
        world.refs["draft"],
        f"{world.refs['draft']}/_history",
        f"{world.refs['draft']}/_history/1",
        f"{report}/_history/1",
        f"{report}/_history/2",
        f"{report}/_history",
        "DiagnosticReport",
        "DiagnosticReport/_history",
        "DiagnosticReport?status=preliminary",
        f"DiagnosticReport?conclusion={DRAFT}",
        "_history?_count=1000",
        "Patient?_revinclude=DiagnosticReport:patient",
        "ServiceRequest?_revinclude=DiagnosticReport:based-on",
        "ServiceRequest?_revinclude=*",
        "ImagingStudy?_revinclude=*",
        "Binary",
        "Provenance",
        "Task?_include=*&_include:iterate=*",
        f"{world.refs['sub-reports']}/$events?content=full-resource",
        f"{world.refs['sub-orders']}/$events?content=full-resource",
        f"Provenance?target={world.refs['draft']}",
    ]
    for path in paths:
        answer = world.a.get(path)
        text = answer.get_data(as_text=True).replace(f"conclusion={DRAFT}", "")
        assert DRAFT not in text, path
        text = text.replace(world.refs["draft"].replace("/", "%2F"), "")
        assert world.refs["draft"].split("/")[1] not in text, path
    for one in world.receivers["a"].received:
        assert DRAFT.encode() not in one.body
    assert world.a.get(f"{report}/_history/1").status_code == world.a.get(f"{report}/_history/2").status_code == 404
    signed = world.a.get(f"{report}/_history").get_json()["entry"]
    assert [entry["resource"]["status"] for entry in signed] == ["final"]


@pytest.mark.parametrize("name", ["regulate", "read", "finding"])
def test_nothing_internal_to_the_platform_is_shown_to_the_hospital(world: World, name: str) -> None:
    """DESIGN §6: the Tasks of regulating and reading, and Observations, on every path: as if they did not exist."""
    reference = world.refs[name]
    type_name = reference.split("/")[0]
    for path in (
        f"{type_name}/<{name}>",
        f"{type_name}/<{name}>/_history",
        f"{type_name}/<{name}>/_history/1",
        f"{type_name}?_id=<{name}>",
    ):
        assert _twice_for_a(world, path).status_code in (200, 404)
    for path in (
        f"Task?focus={world.refs['order']}&_count=100",
        "Task",
        "Observation",
        "_history?_count=1000",
        "Task/_history",
        f"{world.refs['patient'].split('/')[0]}?_revinclude=*",
        "ServiceRequest?_revinclude=*&_revinclude:iterate=*",
        "Practitioner?_revinclude=Task:owner",
        "Task?_revinclude=Task:part-of",
        "Task?_has:Task:part-of:status=completed",
        "Patient?_has:Observation:patient:_id=" + world.refs["finding"].split("/")[1],
        "ServiceRequest?_has:Task:focus:_id=" + world.refs["read"].split("/")[1],
        "?_count=1000",
        "Task?owner=Practitioner/lecteur-neuro",
        "Task?status=ready",
    ):
        answer = world.a.get(path)
        text = answer.get_data(as_text=True).replace(path.split("=")[-1], "")
        assert INTERNAL not in text, path
        assert reference.split("/")[1] not in text, path


def _twice_for_a(world: World, path: str) -> TestResponse:
    """As `twice`, of what A must not see (A's own secrets are A's)."""
    known = {name: world.refs[name].split("/")[1] for name in _PLACE.findall(path)}
    absent = {name: str(uuid.uuid4()) for name in known}
    answers = [world.a.get(_PLACE.sub(lambda found, n=names: n[found[1]], path)) for names in (known, absent)]
    alike(answers[0], answers[1], {known[name]: absent[name] for name in known})
    return answers[0]


# — the other clients —


def test_the_ai_vendor_sees_nothing_that_it_is_not_asked_to_look_at(world: World) -> None:
    """DESIGN §1: no Task is given to it, so there is no study, image, task or observation for it."""
    vendor = world.api.ai_vendor
    for name, reference in world.refs.items():
        type_name = reference.split("/")[0]
        answer = twice(world, vendor, "GET", f"{type_name}/<{name}>")
        assert answer.status_code in (403, 404), name
    for path in (
        "ImagingStudy",
        "Task",
        "Observation",
        "ImagingStudy?_include=*",
        "Device?_revinclude=*",
        "_history",
        "?_count=1000",
        "ImagingStudy/_history",
        "/dicom-web/studies",
        "/dicom-web/series",
        "/dicom-web/instances",
    ):
        answer = vendor.get(path)
        assert answer.status_code in (200, 204, 403), path
        world.nothing_in(answer)
    for path in _IMAGES:
        assert twice(world, vendor, "GET", path).status_code in (204, 403, 404, 405, 406)
    forged = {
        "resourceType": "Observation",
        "status": "final",
        "code": {"text": "x"},
        "subject": {"reference": "Patient/<patient>"},
    }
    assert 400 <= twice(world, vendor, "POST", "Observation", forged).status_code < 500
    assert stow(vendor, world.instances).status_code == 403


def test_the_auditor_reads_no_clinical_resource(world: World) -> None:
    """DESIGN §1: AuditEvents and nothing else; the record holds references, never what they refer to."""
    auditor = world.api.auditor
    for name, reference in world.refs.items():
        assert auditor.get(reference).status_code == 403, name
    for path in (
        "Patient",
        "AuditEvent?_include=*",
        "AuditEvent?_include=AuditEvent:entity&_include:iterate=*",
        "AuditEvent?entity:Patient.family=x",
        "AuditEvent?patient.family=x",
        "_history",
        "?_type=Patient",
        "Patient?_revinclude=AuditEvent:entity",
    ):
        answer = auditor.get(path)
        assert answer.status_code in (200, 400, 403), path
        if answer.status_code == 200:
            kinds = {entry["resource"]["resourceType"] for entry in answer.get_json().get("entry", ())}
            assert kinds <= {"AuditEvent", "OperationOutcome"}, path
    assert auditor.get("/dicom-web/studies").status_code == 403
    events = auditor.get("AuditEvent?_count=1000").get_json()
    assert events["entry"]
    for body in ({"resourceType": "AuditEvent"}, events["entry"][0]["resource"]):
        for client in (auditor, world.api.admin, world.api.platform):
            assert client.post("AuditEvent", body).status_code in (403, 405)
            assert client.put(f"AuditEvent/{events['entry'][0]['resource']['id']}", body).status_code in (403, 405)
            assert client.delete(f"AuditEvent/{events['entry'][0]['resource']['id']}").status_code in (403, 405)


@pytest.mark.parametrize("role", ["viewer", "auditor", "ai-vendor"])
def test_no_reader_writes(world: World, role: str) -> None:
    """L8, L9: a client that is registered to read writes nothing, by no method and at no door."""
    client: Client = getattr(world.api, role.replace("-", "_"))
    for type_name in (
        "Patient",
        "ServiceRequest",
        "DiagnosticReport",
        "Binary",
        "Organization",
        "Subscription",
        "Endpoint",
    ):
        body = {"resourceType": type_name, **({"contentType": "text/plain"} if type_name == "Binary" else {})}
        if type_name in ("Patient", "Organization"):
            body["name"] = [{"family": "x"}] if type_name == "Patient" else "x"
        for method, path in (("POST", type_name), ("PUT", f"{type_name}/new"), ("DELETE", f"{type_name}/new")):
            answer = client.ask(
                method, path, {**body, "id": "new"} if method == "PUT" else body if method == "POST" else None
            )
            assert answer.status_code in (403, 422), (method, path, answer.status_code)
            if type_name in ("Patient", "Organization", "Binary"):
                assert answer.status_code == 403, (method, path)
    assert client.post("", _transaction(("POST", "Patient", builders.patient("x")))).status_code == 403
    assert stow(client, world.instances).status_code == 403


def test_no_hospital_reads_the_audit_log(world: World) -> None:
    """DESIGN §7: auditors alone."""
    for client in (world.a, world.b, world.api.radiologist, world.api.viewer, world.api.planner):
        for path in ("AuditEvent", "AuditEvent/_history", "AuditEvent?patient=" + world.refs["patient"]):
            assert client.get(path).status_code == 403
        assert client.get("?_count=1000&_type=AuditEvent").status_code == 403
        assert b'"resourceType":"AuditEvent"' not in client.get("_history?_count=1000").get_data()


def test_the_planner_sees_no_patient(world: World) -> None:
    """DESIGN §1: rota and people."""
    planner = world.api.planner
    for name, reference in world.refs.items():
        assert planner.get(reference).status_code == 403, name
    world.nothing_in(planner.get("?_count=1000"))
    world.nothing_in(planner.get("Practitioner?_revinclude=*&_revinclude:iterate=*"))
    world.nothing_in(planner.get("Organization?_revinclude=*"))


def _transaction(*entries: tuple[str, str, Json | None], kind: str = "transaction", **more: Any) -> Json:
    return {
        "resourceType": "Bundle",
        "type": kind,
        "entry": [
            {"request": {"method": method, "url": url, **more}, **({"resource": resource} if resource else {})}
            for method, url, resource in entries
        ],
    }
