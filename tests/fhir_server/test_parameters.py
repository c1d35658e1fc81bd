"""Every route × every declared parameter × one that is not declared: heeded, refused by name, or told.

The routes and parameters are those of the tables (`resources.interactions`, `operations.TABLE`): a row that is added is
tested here. R4 http.html#parameters, http.html#search, search.html#errors, operations.html#request
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from werkzeug.test import TestResponse

from fhir_server.edge import operations
from fhir_server.edge.parameters import left_out, shown
from resources.interactions import RENDERING, ROWS, Body, Form, Interaction, Level, Parameter, forms
from resources.json import Json
from tests.conftest import ENGINES
from tests.fhir_server.conftest import Api, Client

PATIENT: Json = {"resourceType": "Patient", "id": "p-1", "name": [{"family": "Durand"}], "gender": "female"}
UNKNOWN = "colour"
ON_ONE_ENGINE = pytest.mark.parametrize("engine", ENGINES[:1], indirect=True)
"""What a URL may say does not depend on the database."""
VALUES = {
    "_format": "json", "_pretty": "true", "_summary": "true", "_elements": "id", "_since": "2020-01-01T00:00:00Z",
    "_at": "2020-01-01T00:00:00Z", "_count": "2", "mode": "full", "id": "x", "status": "active",
    "eventsSinceNumber": "1", "eventsUntilNumber": "2", "reason": "x", "order": "ServiceRequest/none",
    "patient": "Patient/p-1", "series": "1.2", "instance": "1.3", "content": "id-only", "at": "2026-06-01T02:00:00Z",
    "subject": "Organization/hopital-b", "until": "2099-01-01T00:00:00Z", "since": "2026-06-01T02:00:00Z",
    "source-patient": "Patient/none", "target-patient": "Patient/none", "source": "sharing",
    "interactions": "rs", "grant": "x",
    "function": "reading", "start": "2020-01-01", "end": "2120-01-01", "first": "1",
    "profile": "http://hl7.org/fhir/StructureDefinition/Patient",
}  # fmt: skip
"""What each parameter may say."""


@dataclass(frozen=True)
class Target:
    """One route, as a test can ask for it."""

    name: str
    method: str
    path: str
    parameters: tuple[Parameter, ...]
    body: str = ""
    """What is sent: resource, form, bundle, or nothing."""
    criteria: str = ""
    """Further parameters that the route needs."""
    role: str = "hospital_a"
    inputs: tuple[Parameter, ...] = ()
    """Those that may come in a Parameters resource as well."""
    public: bool = False

    def ask(self, api: Api, query: str, **headers: str) -> TestResponse:
        """Ask with this query, on resources that are there."""
        client: Client = getattr(api, self.role)
        given = "&".join(part for part in (self.criteria, query) if part)
        path = self.path + (f"?{given}" if given else "")
        return client.ask(self.method, path, self._content(), **{**self._headers(), **headers})

    def _headers(self) -> dict[str, str]:
        return {"Content_Type": "application/x-www-form-urlencoded"} if self.body == "form" else {}

    def _content(self) -> Any:
        return {"": None, "resource": PATIENT, "form": b"", "bundle": BATCH, "parameters": None}[self.body]


BATCH: Json = {"resourceType": "Bundle", "type": "batch"}
_PLACES = {Level.SYSTEM: "", Level.TYPE: "Patient", Level.INSTANCE: "Patient/p-1"}
_BODIES = {Body.NONE: "", Body.RESOURCE: "resource", Body.BUNDLE: "bundle", Body.FORM: "form", Body.OPERATION: ""}


def _path(form: Form) -> str:
    below = form.path.replace("[vid]", "1")
    return "/".join(part for part in (_PLACES[form.level], below) if part)


def _targets() -> list[Target]:
    found = []
    for row, form in forms():
        if row.interaction is Interaction.OPERATION:
            continue
        # An update or a deletion of a type needs a condition; a create has one only if it is given.
        conditional = form.criteria and row.writes and row.interaction is not Interaction.CREATE
        criteria = "_id=p-1" if conditional else ""
        for method in (form.method, "HEAD") if form.method == "GET" else (form.method,):
            name = f"{row.interaction}-{form.level}-{method}"
            body, public = _BODIES[form.body], row.public
            found.append(Target(name, method, _path(form), form.parameters, body, criteria, public=public))
    for operation in operations.TABLE:
        for level, inputs in operation.inputs.items():
            path, role = _PLACE_OF[operation.name, level]
            simple = tuple(one for one in inputs if one.type != operations.RESOURCE)
            needs_body = len(simple) < len(inputs) and level is Level.TYPE
            methods = ("POST",) if needs_body or operation.writes else ("GET", "HEAD", "POST")
            for method in methods:
                body = "resource" if needs_body else ""
                found.append(
                    Target(
                        f"${operation.name}-{level}-{method}", method, f"{path}/${operation.name}",
                        (*RENDERING, *simple), body, role=role, inputs=simple,
                    )
                )  # fmt: skip
    return found


_PLACE_OF = {
    ("validate", Level.TYPE): ("Patient", "hospital_a"),
    ("validate", Level.INSTANCE): ("Patient/p-1", "hospital_a"),
    ("status", Level.TYPE): ("Subscription", "hospital_a"),
    ("status", Level.INSTANCE): ("Subscription/s-1", "hospital_a"),
    ("events", Level.INSTANCE): ("Subscription/s-1", "hospital_a"),
    ("sign", Level.INSTANCE): ("DiagnosticReport/none", "hospital_a"),
    ("acknowledge", Level.INSTANCE): ("Communication/none", "hospital_a"),
    ("protocols", Level.INSTANCE): ("ServiceRequest/none", "regulator"),
    ("next", Level.TYPE): ("Task", "radiologist"),
    ("heartbeat", Level.INSTANCE): ("Task/none", "radiologist"),
    ("milestones", Level.INSTANCE): ("ServiceRequest/none", "hospital_a"),
    ("on-duty", Level.TYPE): ("PractitionerRole", "platform"),
    ("access-report", Level.INSTANCE): ("Patient/p-1", "auditor"),
    ("reconcile", Level.INSTANCE): ("ImagingStudy/none", "hospital_a"),
    ("reject", Level.INSTANCE): ("ImagingStudy/none", "hospital_a"),
    ("merge", Level.TYPE): ("Patient", "hospital_a"),
    ("grant", Level.INSTANCE): ("ServiceRequest/none", "hospital_a"),
    ("revoke", Level.INSTANCE): ("ServiceRequest/none", "hospital_a"),
    ("grants", Level.INSTANCE): ("ServiceRequest/none", "hospital_a"),
    ("proof", Level.INSTANCE): ("AuditEvent/none", "auditor"),
    ("consistency", Level.TYPE): ("AuditEvent", "auditor"),
}
TARGETS = _targets()
SUBSCRIPTION: Json = {
    "resourceType": "Subscription",
    "id": "s-1",
    "status": "requested",
    "reason": "x",
    "criteria": "Observation?status=final",
    "channel": {"type": "rest-hook", "endpoint": "http://127.0.0.1:9/hook", "payload": "application/fhir+json"},
}


@pytest.fixture
def there(api: Api) -> Api:
    """The resources that the targets name."""
    assert api.hospital_a.put("Patient/p-1", PATIENT).status_code == 201
    made = api.hospital_a.put("Subscription/s-1", SUBSCRIPTION)
    assert made.status_code == 201, made.get_data(as_text=True)
    return api


def _value(parameter: Parameter) -> str:
    return parameter.values[0] if parameter.values and parameter.name != "mode" else VALUES[parameter.name]


def _issue(answer: TestResponse) -> tuple[str, list[str]]:
    first = json.loads(answer.get_data())["issue"][0]
    return first["diagnostics"], first.get("expression", [])


def _plain(target: Target) -> set[int]:
    """What the route answers without any parameter: a parameter that is known does not make it a 400."""
    of_none = ("$sign", "$proof", "$milestones", "$acknowledge", "$protocols", "$reconcile", "$reject", "$heartbeat",
               "$grant", "$revoke", "$merge")
    return {404} if target.name.startswith(of_none) else {200, 201, 204}


@ON_ONE_ENGINE
@pytest.mark.parametrize("target", TARGETS, ids=lambda one: one.name)
def test_each_declared_parameter_is_heeded(there: Api, target: Target) -> None:
    for parameter in target.parameters:
        if parameter.name == "_page":  # only the server's own tokens are heeded: tests/store/test_paging.py
            continue
        value = "create" if (parameter.name, target.name[:9]) == ("mode", "$validate") else _value(parameter)
        if (parameter.name, value, target.path) == ("mode", "create", "Patient/p-1/$validate"):
            value = "update"
        answer = target.ask(there, f"{parameter.name}={value}")
        assert answer.status_code in _plain(target), (parameter.name, answer.get_data(as_text=True))
        assert "Warning" not in answer.headers


@ON_ONE_ENGINE
@pytest.mark.parametrize("target", TARGETS, ids=lambda one: one.name)
def test_what_is_not_declared_is_refused_by_its_name(there: Api, target: Target) -> None:
    """A filter that is silently ignored shows the wrong patients; so does any parameter that a client relies on."""
    answer = target.ask(there, f"{UNKNOWN}=blue")
    assert answer.status_code == 400
    if target.method == "HEAD":
        return
    diagnostics, expression = _issue(answer)
    assert expression == [f"http.{UNKNOWN}"]
    assert "blue" not in diagnostics


@ON_ONE_ENGINE
@pytest.mark.parametrize("target", TARGETS, ids=lambda one: one.name)
def test_what_is_not_declared_is_told_under_lenient_handling(there: Api, target: Target) -> None:
    """R4 §3.1.1.2; a condition is never weakened: there it is refused all the same."""
    answer = target.ask(there, f"{UNKNOWN}=blue", Prefer="handling=lenient")
    if "create" in target.name or target.criteria:
        assert answer.status_code == 400
    elif "search" in target.name:
        assert answer.status_code == 200
        if target.method != "HEAD":
            entries = answer.get_json()["entry"]
            (told,) = [entry["resource"] for entry in entries if entry["search"]["mode"] == "outcome"]
            assert told["issue"][0]["expression"] == [f"http.{UNKNOWN}"]
    elif answer.status_code != 404:  # a fault that is told is not a success to be warned about
        assert answer.status_code in _plain(target)
        assert UNKNOWN in answer.headers["Warning"]
        assert answer.headers["Warning"].startswith('299 - "')
        assert "blue" not in answer.headers["Warning"]


@ON_ONE_ENGINE
@pytest.mark.parametrize("target", TARGETS, ids=lambda one: one.name)
def test_a_parameter_that_is_given_once_is_not_repeated(there: Api, target: Target) -> None:
    for parameter in target.parameters:
        if not parameter.repeats:
            value = VALUES.get(parameter.name, "x")
            if parameter.name == "mode" and "$validate" in target.path:
                value = "update"
            answer = target.ask(there, f"{parameter.name}={value}&{parameter.name}={value}")
            assert answer.status_code == 400, parameter.name
            if target.method != "HEAD":
                assert _issue(answer)[1] == [f"http.{parameter.name}"]


@ON_ONE_ENGINE
@pytest.mark.parametrize("target", TARGETS, ids=lambda one: one.name)
def test_a_value_that_a_parameter_cannot_have_is_refused_also_leniently(there: Api, target: Target) -> None:
    for parameter in target.parameters:
        if parameter.values or parameter.type in ("integer", "boolean"):
            answer = target.ask(there, f"{parameter.name}=banana", Prefer="handling=lenient")
            assert answer.status_code == 400, parameter.name
        answer = target.ask(there, f"{parameter.name}=")
        assert answer.status_code == 400, parameter.name


@ON_ONE_ENGINE
@pytest.mark.parametrize("target", [one for one in TARGETS if one.inputs], ids=lambda one: one.name)
def test_an_operation_takes_its_parameters_from_either_place(there: Api, target: Target) -> None:
    """R4 operations.html#request: in the URL or as Parameters."""
    if target.method != "POST":
        return
    client: Client = getattr(there, target.role)
    for parameter in target.inputs:
        if parameter.name == "_page":  # as above
            continue
        value = "update" if parameter.name == "mode" else _value(parameter)
        listed = [{"name": parameter.name, "valueString": value}]
        if target.body:
            listed.append({"name": "resource", "resource": PATIENT})  # type: ignore[dict-item]
        body = {"resourceType": "Parameters", "parameter": listed}
        by_body = client.post(target.path, body)
        by_url = target.ask(there, f"{parameter.name}={value}")
        assert by_body.status_code == by_url.status_code, by_body.get_data(as_text=True)
        assert by_url.status_code in _plain(target), by_url.get_data(as_text=True)
        assert _timeless(by_body) == _timeless(by_url)
        twice = client.post(f"{target.path}?{parameter.name}={value}", body)
        assert twice.status_code in (_plain(target) if parameter.repeats else {400})
    body = {"resourceType": "Parameters", "parameter": [{"name": UNKNOWN, "valueString": "blue"}]}
    refused = client.post(target.path, body)
    assert (refused.status_code, _issue(refused)[1]) == (400, [f"http.{UNKNOWN}"])


def _timeless(answer: TestResponse) -> Json:
    body: Json = answer.get_json()
    for name in ("id", "meta", "timestamp", "entry", "parameter"):  # a report tells of the one before it
        body.pop(name, None)
    if [one["name"] for one in body.get("parameter", ())] == ["proof"]:  # each request makes the log longer
        body.pop("parameter")
    return body


def test_the_targets_are_all_routes() -> None:
    """Each form of the table, HEAD beside GET, and each operation at each of its levels."""
    asked = {(one.method, one.path) for one in TARGETS}
    for row, form in forms():
        if row.interaction is not Interaction.OPERATION:
            assert (form.method, _path(form)) in asked
    assert {(one.name, level) for one in operations.TABLE for level in one.inputs} == set(_PLACE_OF)


def test_no_route_declares_a_parameter_twice() -> None:
    for target in TARGETS:
        names = [parameter.name for parameter in target.parameters]
        assert len(names) == len(set(names)), target.name
    assert all(form.criteria is False for form in ROWS[Interaction.OPERATION].forms)


# — what they do —


def _get(api: Api, path: str, **headers: str) -> TestResponse:
    answer = api.hospital_a.get(path, **headers)
    assert answer.status_code == 200, answer.get_data(as_text=True)
    return answer


RESOURCES: dict[str, Callable[[Json], list[Json]]] = {
    "Patient/p-1": lambda body: [body],
    "Patient/p-1/_history/1": lambda body: [body],
    "Patient/p-1/_history": lambda body: [entry["resource"] for entry in body["entry"]],
    "Patient/_history": lambda body: [entry["resource"] for entry in body["entry"]],
    "_history?_count=3": lambda body: [entry["resource"] for entry in body["entry"]],
    "Patient?_id=p-1": lambda body: [entry["resource"] for entry in body["entry"]],
    "?_type=Patient": lambda body: [entry["resource"] for entry in body["entry"]],
    "metadata": lambda body: [body],
}


@ON_ONE_ENGINE
@pytest.mark.parametrize("path", RESOURCES)
def test_summary_and_elements_leave_the_same_everywhere(there: Api, path: str) -> None:
    """search.html#summary, #elements: SUBSETTED, wherever resources are answered."""
    with_query = path + ("&" if "?" in path else "?")
    whole = RESOURCES[path](_get(there, path).get_json())
    for query, kept in (
        ("_summary=true", None), ("_summary=data", None), ("_summary=text", None), ("_elements=id,text", "id"),
    ):  # fmt: skip
        parts = RESOURCES[path](_get(there, with_query + query).get_json())
        assert len(parts) == len(whole) > 0
        for one in parts:
            assert one["meta"]["tag"][-1]["code"] == "SUBSETTED"
            assert "text" not in one or query != "_summary=data"
            assert kept is None or kept in one
            assert "name" not in one or one["resourceType"] == "CapabilityStatement" or "text" not in query
    same = RESOURCES[path](_get(there, with_query + "_summary=false").get_json())
    assert [one["id"] for one in same] == [one["id"] for one in whole]
    assert all("SUBSETTED" not in json.dumps(one.get("meta", {})) for one in same)


@ON_ONE_ENGINE
@pytest.mark.parametrize("path", RESOURCES)
def test_an_element_that_does_not_exist_is_refused_everywhere(there: Api, path: str) -> None:
    """fhir.md F12: it was 400 in a search and ignored in a read."""
    joined = path + ("&" if "?" in path else "?") + "_elements=Patient.colour"
    refused = there.hospital_a.get(joined)
    assert (refused.status_code, _issue(refused)[1]) == (400, ["http._elements"])
    lenient = there.hospital_a.get(joined, Prefer="handling=lenient")
    if path != "metadata":  # of a CapabilityStatement, Patient.colour is no name at all
        assert lenient.status_code == 200
        assert "_elements" in lenient.headers["Warning"]
        modes = [entry.get("search", {}).get("mode") for entry in lenient.get_json().get("entry", ())]
        assert ("outcome" in modes) is (path in ("Patient?_id=p-1", "?_type=Patient")), "a searchset tells it as well"


@ON_ONE_ENGINE
@pytest.mark.parametrize("path", [*RESOURCES, ".well-known/smart-configuration"])
def test_pretty_is_indented_and_says_the_same(there: Api, path: str) -> None:
    """http.html#parameters; the digits stay as they were sent."""
    joined = path + ("&" if "?" in path else "?")
    plain = there.hospital_a.get(path)
    if path.startswith(".well-known"):
        assert there.hospital_a.get(joined + "_pretty=true").status_code == 400, "it is no FHIR interaction"
        return
    pretty = _get(there, joined + "_pretty=true")
    assert b"\n  " in pretty.get_data()
    assert b"\n" not in plain.get_data()
    assert b"\n" not in _get(there, joined + "_pretty=false").get_data()
    first, second = _timeless(plain), _timeless(pretty)
    for body in (first, second):
        body.pop("link", None)
    assert first == second


def test_pretty_keeps_every_digit(there: Api) -> None:
    sent = {
        "resourceType": "Observation", "status": "final", "code": {"text": "x"},
        "subject": {"reference": "Patient/p-1"}, "valueQuantity": {"value": 1.5},
    }  # fmt: skip
    body = json.dumps(sent).replace("1.5", "1.500").encode()
    answer = there.hospital_a.ask("POST", "Observation?_pretty=true", body)
    assert answer.status_code == 201
    assert b'"value": 1.500\n' in answer.get_data()


def test_a_write_shows_the_part_that_is_asked_for(there: Api) -> None:
    """http.html#parameters: the general parameters are every interaction's; they are no condition of a create."""
    made = there.hospital_a.post("Patient?_elements=gender&_format=json", PATIENT)
    assert made.status_code == 201
    assert set(made.get_json()) == {"resourceType", "id", "meta", "gender"}
    again = there.hospital_a.put("Patient/p-1?_summary=text", PATIENT)
    assert "name" not in again.get_json()
    assert there.hospital_a.get("Patient/p-1").get_json()["name"] == PATIENT["name"]


def test_the_criteria_of_a_create_in_its_url_are_a_condition(there: Api) -> None:
    """What fhirpy's get_or_create sends; `_filename` (Medplum) is no parameter of R4, and no search parameter."""
    one = {**PATIENT, "identifier": [{"system": "urn:ipp", "value": "9"}]}
    path = "Patient?identifier=urn:ipp|9&_pretty=true"
    assert [there.hospital_a.post(path, one).status_code for _ in range(2)] == [201, 200]
    refused = there.hospital_a.ask(
        "POST", "Binary?_filename=a.txt", b"x", Content_Type="text/plain", Prefer="handling=lenient"
    )
    assert (refused.status_code, _issue(refused)[1]) == (400, ["http._filename"])


def test_the_criteria_of_a_create_in_a_transaction_are_a_condition_too(there: Api) -> None:
    one = {**PATIENT, "identifier": [{"system": "urn:ipp", "value": "8"}]}
    request = {"method": "POST", "url": "Patient?identifier=urn:ipp|8"}
    bundle = {"resourceType": "Bundle", "type": "transaction", "entry": [{"resource": one, "request": request}]}
    statuses = [there.hospital_a.post("", bundle).get_json()["entry"][0]["response"]["status"] for _ in range(2)]
    assert statuses == ["201 Created", "200 OK"]


@pytest.mark.parametrize("kind", ["batch", "transaction"])
def test_an_entry_of_a_bundle_is_held_to_the_same_table(there: Api, kind: str) -> None:
    """R4 §3.1.0.11: an entry is a request of its own."""
    put = {"resource": PATIENT, "request": {"method": "PUT", "url": f"Patient/p-1?{UNKNOWN}=blue"}}
    get = {"request": {"method": "GET", "url": f"Patient/p-1?{UNKNOWN}=blue"}}
    part = {"request": {"method": "GET", "url": "Patient/p-1?_elements=gender"}}
    bundle = {"resourceType": "Bundle", "type": kind, "entry": [put, get, part]}
    refused = there.hospital_a.post("", bundle)
    if kind == "transaction":
        assert refused.status_code == 400
        issue = refused.get_json()["issue"][0]
        assert issue["expression"] == ["Bundle.entry[0]"]
        assert UNKNOWN in issue["diagnostics"]
    else:
        responses = [entry["response"] for entry in refused.get_json()["entry"]]
        assert [one["status"][:3] for one in responses] == ["400", "400", "200"]
    answer = there.hospital_a.post("", bundle, Prefer="handling=lenient").get_json()
    first, second, third = answer["entry"]
    assert [entry["response"]["status"][:3] for entry in (first, second, third)] == ["200"] * 3
    for entry in (first, second):
        assert UNKNOWN in entry["response"]["outcome"]["issue"][0]["diagnostics"]
    assert set(third["resource"]) == {"resourceType", "id", "meta", "gender"}
    assert "outcome" not in third["response"]


def test_an_empty_value_is_no_filter_and_is_never_taken_for_one(there: Api) -> None:
    """fhir.md F13: refused; under lenient handling left out, told, and absent from `self`."""
    refused = there.hospital_a.get("Patient?gender=")
    assert (refused.status_code, _issue(refused)[1]) == (400, ["http.gender"])
    lenient = there.hospital_a.get("Patient?gender=&_id=p-1", Prefer="handling=lenient").get_json()
    assert [entry["search"]["mode"] for entry in lenient["entry"]] == ["match", "outcome"]
    assert "gender" not in lenient["link"][0]["url"]
    assert there.hospital_a.put("Patient?gender=", PATIENT, Prefer="handling=lenient").status_code == 400


def test_a_search_by_post_takes_its_general_parameters_from_the_form(there: Api) -> None:
    """R4 §3.1.0.1.11, §3.1.1: `_format` in the body of _search as in the URL."""
    form = {"Content_Type": "application/x-www-form-urlencoded"}
    for path in ("Patient/_search", "_search"):
        body = b"_type=Patient&" if path == "_search" else b""
        assert there.hospital_a.ask("POST", path, body + b"_format=xml", **form).status_code == 406
        pretty = there.hospital_a.ask("POST", path, body + b"_format=json&_pretty=true&_summary=true", **form)
        assert pretty.status_code == 200
        assert b"\n" in pretty.get_data()
        twice = there.hospital_a.ask("POST", f"{path}?_format=json", body + b"_format=json", **form)
        assert twice.status_code == 400


def test_a_history_that_only_counts_has_no_entries(there: Api) -> None:
    """search.html#summary: count."""
    there.hospital_a.put("Patient/p-1", PATIENT)
    counted = _get(there, "Patient/p-1/_history?_summary=count").get_json()
    assert (counted["total"], "entry" in counted) == (2, False)
    assert there.hospital_a.get("Patient/p-1?_summary=count").status_code == 400, "of a Bundle alone"


def test_the_pages_of_a_history_keep_the_part_that_was_asked_for(there: Api) -> None:
    there.hospital_a.put("Patient/p-1", PATIENT)
    first = _get(there, "Patient/p-1/_history?_elements=gender&_count=1").get_json()
    following = next(link["url"] for link in first["link"] if link["relation"] == "next")
    second = _get(there, following.split("/fhir/")[1]).get_json()
    assert set(second["entry"][0]["resource"]) == {"resourceType", "id", "meta", "gender"}


def test_the_capability_statement_is_kept_and_asked_for_again(api: Api) -> None:
    """RFC 9110 §13.1.2, §8.8.3: an ETag, 304, and a cache that may keep it; half a megabyte otherwise."""
    browser = api.app.test_client()
    first = browser.get("/fhir/metadata")
    assert first.headers["Cache-Control"] == "no-cache"
    tag = first.headers["ETag"]
    for given in (tag, f'W/"x", {tag}', tag.removeprefix("W/"), "*"):
        again = browser.get("/fhir/metadata", headers={"If-None-Match": given})
        assert (again.status_code, again.get_data(), again.headers["ETag"]) == (304, b"", tag)
    assert browser.get("/fhir/metadata", headers={"If-None-Match": 'W/"other"'}).status_code == 200
    part = browser.get("/fhir/metadata?_elements=fhirVersion").get_json()
    assert "rest" not in part
    assert part["fhirVersion"] == "4.0.1"


def test_an_operation_stands_at_each_of_its_types(api: Api) -> None:
    """R4 CapabilityStatement.rest.resource.operation."""
    statement = api.app.test_client().get("/fhir/metadata").get_json()["rest"][0]
    for row in statement["resource"]:
        wanted = {one.name for one in operations.TABLE if one.types is None or row["type"] in one.types}
        assert {one["name"] for one in row["operation"]} == wanted
        assert all(one["definition"].startswith("http") for one in row["operation"])


@ON_ONE_ENGINE
@pytest.mark.parametrize(
    ("accept", "query", "status"),
    [
        ("application/pdf", "", 406),
        ("text/plain", "", 200),
        ("text/*;q=0.5, application/pdf", "", 200),
        ("*/*", "", 200),
        ("application/fhir+xml", "", 406),
        ("application/pdf", "?_format=text/plain", 200),
        ("text/plain", "?_format=application/pdf", 406),
        ("text/plain", "?_format=xml", 406),
        ("text/plain", "?_summary=true", 406),
    ],
)
def test_a_binary_is_given_as_what_it_is_or_not_at_all(api: Api, accept: str, query: str, status: int) -> None:
    """R4 binary.html#rest, RFC 9110 §12.5.1 (fhir.md F12)."""
    made = api.hospital_a.ask("POST", "Binary", b"hello", Content_Type="text/plain")
    path = f"Binary/{made.get_json()['id']}"
    answer = api.hospital_a.get(path + query, Accept=accept)
    assert answer.status_code == status
    if status == 200:
        assert (answer.get_data(), answer.headers["Content-Type"]) == (b"hello", "text/plain")


@pytest.mark.parametrize("name", ["_x" * 31, "a b", "<script>", "é", "a\n", ""])
def test_a_name_that_is_no_name_is_not_repeated(name: str) -> None:
    """Whatever a client sends comes back in a header (Warning) and a body: it is text of ours alone."""
    assert shown("_count") == "_count"
    assert shown(name) == "(unreadable name)"
    assert name not in left_out(name) or not name
