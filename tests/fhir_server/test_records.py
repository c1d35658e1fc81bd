"""Every route × method × kind of answer leaves exactly one record, with the outcome of its status.

The requests are made from the tables themselves: the forms of `resources.interactions`, Flask's URL map for DICOMweb
and OAuth. That each was counted, and told truly, the fixture asserts (`tests.counting`); here is what is asked.

IHE BALP 1.1.4 §3:5.7; ITI-20; docs/audit.md "What is recorded".
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from werkzeug.test import EnvironBuilder

from auth.admission import HOLDER, Holder
from auth.throttle import Throttle
from dicomweb.phantom import Phantom, series
from fhir_server.demo import world
from fhir_server.server.front.site import front_of
from fhir_server.server.recorder import PUBLIC, Recorder, count_refusal, is_public
from fhir_server.server.threshold import Threshold
from resources import interactions
from resources.interactions import Body, Interaction, Level
from resources.outcomes import BadRequest, Unavailable
from store.access import Access, Caller, Outcome
from tests import builders
from tests.fhir_server.conftest import Api, Client
from tests.support import access_of, patient

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
PHANTOM = Phantom(slices=1, side=32, patient_id="IPP-R")
FHIR_JSON = "application/fhir+json"


@dataclass
class Asked:
    """A request of the corpus."""

    method: str
    path: str
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Corpus:
    """Sends requests as several kinds of callers, and counts what each left."""

    api: Api
    narrow: Client
    statuses: dict[str, set[int]] = field(default_factory=dict)

    def send(self, asked: Asked, case: str, token: str | None) -> int:
        headers = dict(asked.headers)
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        answer = self.api.app.test_client().open(asked.path, method=asked.method, data=asked.body, headers=headers)
        assert answer.status_code < 500, (asked, case, answer.get_data(as_text=True))
        answer.close()
        self.statuses.setdefault(case, set()).add(answer.status_code)
        return answer.status_code

    def check(self) -> None:
        """Each request since the last time has its record."""
        assert self.api.counted is not None
        self.api.counted.check()

    def variants(self, asked: Asked) -> Iterator[tuple[str, Asked, str | None]]:
        """The request as it is, and spoiled in each way."""
        own, other = self.api.hospital_a.token, self.api.hospital_b.token
        joined = "&" if "?" in asked.path else "?"

        def changed(path: str | None = None, body: bytes | None = None, **headers: str) -> Asked:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return Asked(asked.method, path or asked.path, body or asked.body, {**asked.headers, **named})

        yield "no token", asked, None
        yield "bad token", asked, "x" * 43
        yield "no scope", asked, self.narrow.token
        yield "foreign", asked, other
        yield "undeclared parameter", changed(f"{asked.path}{joined}nonsense-of-nobody=1"), own
        yield "wrong Accept", changed(Accept="application/x-nonsense"), own
        yield "malformed body", changed(body=b'{"resourceType":', Content_Type="application/fhir+json"), own
        yield "wrong content type", changed(body=b"nonsense", Content_Type="text/x-nonsense"), own
        yield "right", asked, own


@pytest.fixture
def corpus(api: Api) -> Corpus:
    # Strangers ask a thousand times here: each refusal shall be told by itself.
    api.services.authority.refusals._throttle = Throttle(burst=1_000_000)
    return Corpus(api, api.client("narrow", world.HOSPITAL_A, "system/Basic.r"))


# — FHIR —


def fhir_paths() -> list[str]:
    """Every path below the base that the table knows, of a Patient, and some that it does not."""
    below = {Level.SYSTEM: "/fhir", Level.TYPE: "/fhir/Patient", Level.INSTANCE: "/fhir/Patient/{id}"}
    found = dict.fromkeys(
        f"{below[form.level]}/{form.path}".rstrip("/") for _, form in interactions.forms()
    )
    return [*found, "/fhir/Nonsense", "/fhir/Patient/a_b", "/fhir/Patient/{id}/nonsense", "/fhir/Subscription/$status"]


def body_of(asked_path: str, method: str, logical_id: str) -> tuple[bytes | None, str]:
    """What a request by this method to this path carries."""
    form = next(
        (form for _, form in interactions.forms() if form.method == method and _matches(form, asked_path)), None
    )
    kind = form.body if form is not None else Body.NONE
    if kind is Body.RESOURCE:
        whole = patient("Corpus", **({"id": logical_id} if "{id}" in asked_path else {}))
        return json.dumps(whole).encode(), FHIR_JSON
    if kind is Body.BUNDLE:
        entry = {"request": {"method": "GET", "url": f"Patient/{logical_id}"}}
        return json.dumps({"resourceType": "Bundle", "type": "batch", "entry": [entry]}).encode(), FHIR_JSON
    if kind is Body.FORM:
        return b"_count=1&_type=Patient" if asked_path == "/fhir/_search" else b"_count=1", _FORM
    if kind is Body.OPERATION:
        return json.dumps(patient()).encode(), FHIR_JSON
    return None, ""


_FORM = "application/x-www-form-urlencoded"


def _matches(form: interactions.Form, path: str) -> bool:
    below = {Level.SYSTEM: "/fhir", Level.TYPE: "/fhir/Patient", Level.INSTANCE: "/fhir/Patient/{id}"}[form.level]
    return path == f"{below}/{form.path}".rstrip("/")


def test_every_fhir_route_and_refusal_is_one_record(corpus: Corpus) -> None:
    """And each interaction of the table was carried out at least once, so that its success is counted too."""
    carried_out: set[str] = set()
    for template in fhir_paths():
        for method in METHODS:
            for case, asked, token in list(corpus.variants(_fhir_request(corpus, template, method))):
                status = corpus.send(asked, case, token)
                if case == "right" and status < 300:
                    carried_out.add(f"{method} {template}")
        corpus.check()
    missing = {
        (form.method, form.level, form.path)
        for row, form in interactions.forms()
        if not any(f"{form.method} {path}" in carried_out for path in fhir_paths() if _matches(form, path))
    }
    assert not missing - {("GET", level, "$[name]") for level in Level} - {("POST", Level.SYSTEM, "$[name]")}
    assert corpus.statuses["no token"] <= {401, 200}  # the public documents
    assert {403, 404} & corpus.statuses["no scope"]
    assert {404, 405} <= corpus.statuses["foreign"]


def _fhir_request(corpus: Corpus, template: str, method: str) -> Asked:
    logical_id = f"corpus-{len(corpus.statuses)}-{abs(hash((template, method))) % 10**9}"
    if "{id}" in template:
        corpus.api.hospital_a.put(f"Patient/{logical_id}", patient("Corpus", id=logical_id))
    body, kind = body_of(template, method, logical_id)
    path = template.replace("{id}", logical_id).replace("[vid]", "1").replace("$[name]", "$validate")
    if template in ("/fhir", "/fhir/_history") and method == "GET":
        path += "?_type=Patient" if template == "/fhir" else ""
    if template == "/fhir/Patient" and method in ("PUT", "DELETE"):
        path += f"?identifier=urn:x|{logical_id}"
    return Asked(method, path, body, {"Content-Type": kind} if kind else {})


# — DICOMweb —


def dicomweb_paths(api: Api) -> list[str]:
    values = {
        "study": PHANTOM.study_uid, "series": PHANTOM.series_uid, "instance": PHANTOM.sop_uid(1), "frames": "1",
        "bulk": "7FE00010", "owner": world.HOSPITAL_A, "rest": "nothing/here",
    }  # fmt: skip
    found = {
        re.sub(r"<(?:path:)?(\w+)>", lambda name: values[name[1]], rule.rule): None
        for rule in api.app.url_map.iter_rules()
        if rule.endpoint.startswith("dicomweb.")
    }
    return [*found, "/dicom-web/studies/1..2", "/dicom-web/studies/1.2.3"]


def test_every_dicomweb_route_and_refusal_is_one_record(corpus: Corpus) -> None:
    headers = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=b'}
    stow = b"--b\r\nContent-Type: application/dicom\r\n\r\n" + series(PHANTOM)[0] + b"\r\n--b--\r\n"
    assert corpus.send(Asked("POST", "/dicom-web/studies", stow, headers), "right", corpus.api.hospital_a.token) == 200
    for path in dicomweb_paths(corpus.api):
        for method in METHODS:
            asked = Asked(method, path, *((stow, headers) if method == "POST" else (None, {})))
            for case, one, token in corpus.variants(asked):
                if "/owners/" not in path or case in ("no token", "foreign", "right"):
                    corpus.send(one, case, token)
        corpus.check()
    assert corpus.statuses["no token"] == {401}
    assert {400, 404, 405} <= corpus.statuses["right"]
    assert {406} <= corpus.statuses["wrong Accept"]


# — OAuth and the rest —


def test_every_other_route_and_refusal_is_one_record(corpus: Corpus) -> None:
    """The authorization server by its URL map, the documents for everyone, and paths that there are not."""
    rules = {rule.rule for rule in corpus.api.app.url_map.iter_rules() if not rule.endpoint.startswith("dicomweb.")}
    own, form = corpus.api.hospital_a.token, {"Content-Type": _FORM}
    for path in [*sorted(rules), "/nowhere", "/fhirx", "/oauth/nowhere", "/"]:
        for method in METHODS:
            for case, asked, token in (
                ("no form", Asked(method, path), None),
                ("garbage", Asked(method, path, b"%%%", form), None),
                ("another type", Asked(method, path, b"{}", {"Content-Type": "application/json"}), None),
                ("in the URL", Asked(method, f"{path}?grant_type=client_credentials"), None),
                ("no assertion", Asked(method, path, b"grant_type=client_credentials", form), None),
                ("token of a token", Asked(method, path, f"token={own}".encode(), form), own),
                ("bad token", Asked(method, path, f"token={own}".encode(), form), "x" * 43),
            ):
                corpus.send(asked, case, token)
        corpus.check()


def test_the_public_documents_are_those_that_the_table_says(api: Api) -> None:
    """They hold nobody's data; a further one needs a decision here and in docs/audit.md."""
    assert {
        "/", "/livez", "/readyz", "/metrics", "/oauth/jwks", "/.well-known/oauth-authorization-server",
        "/fhir/metadata", "/fhir/.well-known/smart-configuration",
    } == PUBLIC  # fmt: skip
    for row, form in interactions.forms():
        environ = {"REQUEST_METHOD": form.method, "PATH_INFO": f"/fhir/{form.path}".rstrip("/")}
        assert is_public(environ) is row.public, form


@pytest.mark.parametrize("origin", ["https://viewer.example", "https://stranger.example"])
def test_a_preflight_is_no_access(api: Api, origin: str) -> None:
    """Fetch §3.2.2: it carries no credentials and asks for no data, whatever it is answered. (The fixture counts.)"""
    asked = {"Origin": origin, "Access-Control-Request-Method": "GET"}
    for path in ("/fhir/Patient", "/dicom-web/studies", "/oauth/token"):
        assert api.app.test_client().options(path, headers=asked).status_code == 204


# — what the records say —


def written_by(api: Api) -> Callable[[], list[Access]]:
    """The accesses recorded since the last call: the server's own and the tokens issued on the way are left out."""
    found: list[str] = []
    rows = api.services.ledger._rows

    def noted(*arguments: Any) -> Any:
        made = rows(*arguments)
        found.extend(row.entry for row in made)
        return made

    api.services.ledger._rows = noted  # type: ignore[method-assign]

    def since() -> list[Access]:
        taken = [access_of(one)[1] for one in found]
        found.clear()
        return [one for one in taken if not one.derived and one.interaction is not Interaction.TOKEN]

    return since


def test_a_recorded_query_is_the_raw_request(api: Api) -> None:
    """BALP PatientQuery: `entity.query` is the raw request: method, base, path and query as they came."""
    since = written_by(api)
    known = api.hospital_a.create(builders.patient(family="Martin"))
    since()
    api.hospital_a.get("Patient?name=Mart%C3%ADn&_count=5")
    (access,) = since()
    assert access.query == "GET http://localhost/fhir/Patient?name=Mart%C3%ADn&_count=5"

    api.hospital_a.post("Patient/_search?_count=5", b"name=Martin", Content_Type=_FORM)
    (access,) = since()
    assert access.query == "POST http://localhost/fhir/Patient/_search?_count=5\nname=Martin"

    for kind in ("batch", "transaction"):
        wanted = [{"request": {"method": "GET", "url": "Patient?name=Martin&_count=5"}}]
        answer = api.hospital_a.post("", {"resourceType": "Bundle", "type": kind, "entry": wanted})
        assert answer.status_code == 200
        (access,) = since()
        assert access.interaction is Interaction.SEARCH_TYPE
        assert access.query == "GET http://localhost/fhir/Patient?name=Martin&_count=5", kind
        assert access.patients == (f"Patient/{known['id']}",)


def test_a_conditional_delete_that_finds_nothing_is_a_query_on_record(api: Api) -> None:
    """It tells whether somebody is there: over all hospitals, where the platform asks."""
    since = written_by(api)
    assert api.platform.delete("Patient?identifier=urn:x|nobody").status_code == 204
    (access,) = since()
    assert (access.interaction, access.outcome) == (Interaction.SEARCH_TYPE, Outcome.SUCCESS)
    assert access.query == "DELETE http://localhost/fhir/Patient?identifier=urn:x|nobody"
    assert ("deleted", "0") in access.detail


def test_a_failed_transaction_is_one_record(api: Api) -> None:
    since = written_by(api)
    good = {"resource": patient(), "request": {"method": "POST", "url": "Patient"}}
    bad = {"request": {"method": "GET", "url": "Patient/not-there"}}
    answer = api.hospital_a.post("", {"resourceType": "Bundle", "type": "transaction", "entry": [good, bad]})
    assert answer.status_code == 404
    (access,) = [one for one in since() if one.outcome is not Outcome.SUCCESS]
    assert (access.interaction, access.outcome) == (Interaction.TRANSACTION, Outcome.MINOR)


def test_what_is_foreign_is_told_as_a_refusal_for_security(api: Api) -> None:
    """Alone, in a batch and in a transaction: the caller hears 404, the record says whose door it was."""
    made = api.hospital_a.create(patient())
    since = written_by(api)
    url = f"Patient/{made['id']}"
    assert api.hospital_b.get(url).status_code == 404
    for kind in ("batch", "transaction"):
        wanted = [{"request": {"method": "GET", "url": url}}]
        api.hospital_b.post("", {"resourceType": "Bundle", "type": kind, "entry": wanted})
    assert [access.outcome for access in since()] == [Outcome.SERIOUS] * 3


def test_an_operation_is_one_access_whatever_it_reads(api: Api) -> None:
    since = written_by(api)
    answer = api.hospital_a.get("Subscription/$status")
    assert answer.status_code == 200
    (access,) = since()
    assert access.interaction is Interaction.OPERATION


@pytest.mark.parametrize(
    ("role", "purpose"),
    [
        ("hospital_a", "TREAT"),
        ("hospital_a", "ETREAT"),
        ("viewer", "TREAT"),
        ("auditor", "HCOMPL"),
        ("planner", "HOPERAT"),
        ("admin", "HSYSADMIN"),
    ],
)
def test_the_purpose_of_use_comes_with_the_token(api: Api, role: str, purpose: str) -> None:
    """R4 AuditEvent.purposeOfEvent: an auditor's own reads are no treatment; IHE IUA: a client may say why it asks."""
    client: Client = getattr(api, role)
    if purpose == "ETREAT":
        made, private = api.services.authority.clients.add("Garde", "hopital-a", "system/*.rs", "hospital")
        assert private is not None
        client = api._with_token(made.client_id, private, purpose)
    asked = client.get("AuditEvent" if role == "auditor" else "Organization", X_Request_Id=f"why-{role}")
    assert asked.status_code in (200, 403)
    found = [
        event
        for event in api.auditor.found("AuditEvent?_sort=-date&_count=50")
        if any(e.get("what", {}).get("identifier", {}).get("value") == f"why-{role}" for e in event["entity"])
    ]
    assert found
    for event in found:
        (coding,) = event["purposeOfEvent"][0]["coding"]
        assert coding == {"system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": purpose}


def test_a_request_that_breaks_the_server_is_recorded_as_the_server_s_fault(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    since = written_by(api)
    client = api.hospital_a

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("nobody foresaw this")

    monkeypatch.setattr("store.search.execute.page", broken)
    assert client.get("Patient?name=x").status_code == 500
    (access,) = [one for one in since() if one.interaction is Interaction.SEARCH_TYPE]
    assert (access.outcome, access.reason) == (Outcome.MAJOR, "RuntimeError")


@pytest.mark.uncounted
def test_where_it_cannot_be_recorded_nothing_is_given(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """DESIGN §3: 503, for what only the recorder would have recorded as well; and it is not tried twice."""
    client = api.hospital_a
    tried: list[str] = []

    def away(*_: Any) -> None:
        tried.append("")
        raise Unavailable("The audit record could not be written", retry_after_s=1)

    monkeypatch.setattr(api.services.ledger, "disclose", away)
    for path in ("/fhir/Patient?name=x", "/fhir/Patient?nonsense=1", "/dicom-web/studies?nonsense=1", "/nowhere"):
        tried.clear()
        answer = client.get(path)
        assert answer.status_code == 503, path
        assert answer.headers["Retry-After"] == "1"
        assert len(tried) == 1, path


def test_an_answer_that_is_not_given_is_closed() -> None:
    """PEP 3333: what it holds (files, a place among the readers) is given back where its record cannot be written."""

    class Result(list[bytes]):
        is_closed = False

        def close(self) -> None:
            self.is_closed = True

    class Away:
        def settle(self, *_: Any) -> None:
            raise Unavailable("The audit record could not be written", retry_after_s=1)

        stranger = refused = counted = settle

    result, told = Result([b"somebody's data"]), list[str]()

    def application(environ: dict[str, Any], start_response: Any) -> Result:
        start_response("200 OK", [])
        return result

    environ = EnvironBuilder(path="/fhir/Patient/a").get_environ()
    recorder = Recorder(Away(), Away())  # type: ignore[arg-type]
    asked = Threshold(application, ("http://localhost",), recorder=recorder)
    body = asked(environ, lambda status, *_: told.append(status))
    assert [status[:3] for status in told] == ["503"]
    assert b"somebody's data" not in b"".join(body)
    assert result.is_closed


def test_a_stranger_cannot_fill_the_log_with_paths_that_there_are_not(api: Api) -> None:
    """A flood is told by number; and who wanders about is not locked out of authenticating."""
    since = written_by(api)
    stranger = api.app.test_client()
    for _ in range(60):
        assert stranger.get("/nowhere").status_code == 404
    assert len(since()) < 40
    assert stranger.get("/fhir/Patient").status_code == 401
    assert since()
    api.services.authority.refusals.flush()
    (flood,) = since()
    assert int(dict(flood.detail)["attempts"]) > 20


def test_what_is_refused_before_a_unit_of_work_is_told_as_what_it_was(api: Api) -> None:
    """The interaction and the type, not "some operation": a refused create is found among the creates."""
    since = written_by(api)
    answer = api.hospital_a.post("Patient", patient(), Accept="application/x-nonsense")
    assert answer.status_code == 406
    (access,) = since()
    assert (access.interaction, access.type) == (Interaction.CREATE, "Patient")
    assert (access.outcome, access.reason) == (Outcome.MINOR, "406 not-supported")


def test_what_the_front_refuses_itself_is_on_record_by_number(api: Api) -> None:
    """No thread is free, no head can be read: the core never hears of it, and an event loop waits for no disk."""
    since = written_by(api)
    front = front_of(api.app)
    environ = {
        "REQUEST_METHOD": "GET", "PATH_INFO": "/fhir/Patient", "wsgi.url_scheme": "http", "HTTP_HOST": "localhost",
        "REMOTE_ADDR": "192.0.2.7",
    }  # fmt: skip
    for _ in range(3):
        assert front._refusal(dict(environ), Unavailable("busy")).status == 503
    assert front._refusal(dict(environ), BadRequest("one Host")).status == 400
    assert since() == []
    assert api.services.authority.refusals.flush() == 4
    told = {(one.outcome, one.reason, dict(one.detail)["attempts"]) for one in since()}
    assert told == {(Outcome.MAJOR, "503 transient", "3"), (Outcome.MINOR, "400 invalid", "1")}


def test_whose_request_the_front_refused_is_on_record() -> None:
    """ITI-20: the requestor is named where he is known, by his token; else by his address alone."""
    told: list[Caller] = []

    class Strangers:
        def stranger(self, environ: dict[str, Any]) -> Caller:
            return Caller("", "", address=environ["REMOTE_ADDR"])

        def refused(self, caller: Caller, access: Access) -> None:
            raise AssertionError("it would wait for a disk")

        def counted(self, caller: Caller, access: Access) -> None:
            told.append(caller)

    for holder in (None, Holder("client-1", "hospital-a")):
        environ = {"REMOTE_ADDR": "192.0.2.7", HOLDER: holder}
        count_refusal(Strangers(), environ, Unavailable("busy"))
    assert [(one.client_id, one.organization, one.address) for one in told] == [
        ("", "", "192.0.2.7"), ("client-1", "hospital-a", "192.0.2.7"),
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["batch", "transaction"])
def test_deleting_what_is_deleted_already_is_on_record_as_an_entry_too(api: Api, kind: str) -> None:
    """R4 §3.1.0.7.1: deleting again succeeds; the access was made. The fixture counts one record for each entry."""
    made = api.hospital_a.create(builders.patient())
    api.hospital_a.delete(f"Patient/{made['id']}")
    entries = [
        {"request": {"method": "DELETE", "url": f"Patient/{made['id']}"}},
        {"resource": builders.patient(), "request": {"method": "POST", "url": "Patient"}},
    ]
    answer = api.hospital_a.post("", {"resourceType": "Bundle", "type": kind, "entry": entries})
    assert [entry["response"]["status"][:3] for entry in answer.get_json()["entry"]] == ["204", "201"]
