"""Cross-origin requests: the pages of registered clients, and no other (Fetch, http-cors-protocol).

R4 CapabilityStatement.rest.security.cors: "Server adds CORS headers when responding to requests - this enables
Javascript applications to use the server".
"""

from __future__ import annotations

import http.server
import re
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, sync_playwright
from sqlalchemy import event
from sqlalchemy.exc import OperationalError
from werkzeug.test import EnvironBuilder, TestResponse

from auth import metadata
from auth.guard import CLIENT_ID
from dicomweb import phantom
from dicomweb.phantom import Phantom
from fhir_server.server import cors
from fhir_server.server.recorder import PUBLIC
from fhir_server.server.threshold import Threshold
from resources import interactions
from resources.interactions import Level
from store.access import Caller
from tests.fhir_server.conftest import BOTH_DOORS, Api, Client, Live

OURS, OTHERS, NOBODYS = "https://viewer.ch-a.example", "https://viewer.ch-b.example", "https://evil.example"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_BELOW = {Level.SYSTEM: "/fhir", Level.TYPE: "/fhir/Patient", Level.INSTANCE: "/fhir/Patient/x"}


@pytest.fixture(params=["sqlite"])
def engine(request: pytest.FixtureRequest) -> str:
    """What is asked of the database is one select: one engine will do."""
    return str(request.param)


def of_fhir() -> Iterator[tuple[str, str]]:
    """Every method and path of the table of interactions."""
    for _, form in interactions.forms():
        below = form.path.replace("[name]", "validate").replace("[vid]", "1")
        yield form.method, f"{_BELOW[form.level]}/{below}".rstrip("/")


def of_others(api: Api) -> Iterator[tuple[str, str]]:
    """Every method and path of DICOMweb and OAuth that is not there to refuse."""
    for rule in api.app.url_map.iter_rules():
        view = rule.endpoint.rpartition(".")[2].partition("-")[0]
        if cors.is_covered(rule.rule) and view not in cors.REFUSING:
            for method in sorted(rule.methods or ()):
                yield method, re.sub(r"<[^>]+>", "1", rule.rule)


def routes(api: Api) -> list[tuple[str, str]]:
    found = {*of_fhir(), *of_others(api)}
    return sorted((method, path) for method, path in found if method != "OPTIONS")


def preflight(api: Api, path: str, method: str, origin: str, headers: str = "authorization") -> TestResponse:
    return api.app.test_client().open(
        path,
        method="OPTIONS",
        headers={
            "Origin": origin,
            "Access-Control-Request-Method": method,
            "Access-Control-Request-Headers": headers,
        },
    )


def said(answer: TestResponse) -> dict[str, str]:
    """What the answer says to browsers."""
    return {name: value for name, value in answer.headers.items() if name.startswith("Access-Control-")}


@pytest.fixture
def page(api: Api) -> Client:
    """A client of hospital A with a page of its own; hospital B's has another."""
    register(api, "hopital-b", OTHERS)
    return register(api, "hopital-a", OURS)


def register(api: Api, organization: str, origin: str) -> Client:
    made, private = api.services.authority.clients.add(
        "Viewer", organization, "system/*.rs", "viewer", origins=(origin,)
    )
    assert private is not None
    return api._with_token(made.client_id, private)


def test_every_route_answers_the_preflight_of_a_registered_origin_alone(api: Api, page: Client) -> None:
    """Methods and headers are those that the route takes; a stranger's origin hears nothing; nobody needs a token."""
    waiting = api.services.ledger.waiting()
    listed = routes(api)
    assert {path.split("/")[1] for _, path in listed} == {"fhir", "dicom-web", "oauth", ".well-known"}
    for method, path in listed:
        answer = preflight(api, path, method, OURS)
        told = said(answer)
        assert answer.status_code == 204, (method, path)
        assert told["Access-Control-Allow-Origin"] == OURS, (method, path)
        assert method in told["Access-Control-Allow-Methods"].split(", ")
        assert "authorization" in told["Access-Control-Allow-Headers"].split(", ")
        assert "Access-Control-Allow-Credentials" not in told
        assert "Origin" in answer.headers["Vary"]
        refused = preflight(api, path, method, NOBODYS)
        assert refused.status_code == 204
        if path in PUBLIC:
            assert said(refused)["Access-Control-Allow-Origin"] == "*"
        else:
            assert said(refused) == {}, (method, path)
    assert api.services.ledger.waiting() == waiting, "a preflight is no access"


def test_a_preflight_promises_the_methods_that_the_route_takes(api: Api, page: Client) -> None:
    """Asked of the routes themselves: what an actual request hears 405 for is not allowed, and everything else is."""
    for path in sorted({path for _, path in routes(api)}):
        taken = {method for method in cors.METHODS if page.ask(method, path).status_code != 405}
        for method in cors.METHODS:
            told = said(preflight(api, path, method, OURS))
            assert ("Access-Control-Allow-Origin" in told) is (method in taken), (method, path)
            if told:
                assert set(told["Access-Control-Allow-Methods"].split(", ")) == taken, path


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("PUT", "/fhir/Patient/x", {"content-type", "if-match", "prefer"}),
        ("POST", "/fhir/Patient", {"content-type", "if-none-exist"}),
        ("GET", "/fhir/Patient/x", {"if-none-match", "if-modified-since"}),
        ("POST", "/fhir/Binary", {"x-security-context"}),
        ("POST", "/dicom-web/studies", {"content-type", "accept"}),
    ],
)
def test_the_headers_of_a_preflight_are_those_that_have_a_meaning_there(
    api: Api, page: Client, method: str, path: str, headers: set[str]
) -> None:
    allowed = set(said(preflight(api, path, method, OURS))["Access-Control-Allow-Headers"].split(", "))
    assert headers <= allowed
    assert "cookie" not in allowed
    read = set(said(preflight(api, "/fhir/Patient/x", "GET", OURS))["Access-Control-Allow-Headers"].split(", "))
    assert not {"content-type", "if-match", "if-none-exist"} & read


def test_a_preflight_tells_nothing_of_what_is_there(api: Api, page: Client) -> None:
    """No such path and no such method look as a foreign origin does; a resource that exists as one that does not."""
    foreign = preflight(api, "/fhir/Patient", "GET", NOBODYS)
    for path in ("/fhir/Nothing", "/fhir/Patient/a b", "/dicom-web/nothing", "/oauth/nothing", "/fhir//x"):
        answer = preflight(api, path, "GET", OURS)
        assert (answer.status_code, said(answer)) == (foreign.status_code, {}), path
    made = api.hospital_b.create({"resourceType": "Patient"})
    known, unknown = (said(preflight(api, f"/fhir/Patient/{id}", "GET", OURS)) for id in (made["id"], "none"))
    assert known == unknown


def test_preflights_are_no_failed_logins(api: Api, page: Client) -> None:
    """A page makes many; its address must not be shut out for it."""
    for _ in range(200):
        preflight(api, "/fhir/Patient", "GET", OURS)
    assert api.app.test_client().get("/fhir/Patient").status_code == 401


@pytest.mark.parametrize("path", ["/fhir/Patient", "/fhir/Patient/none", "/fhir/Patient?no=x", "/dicom-web/studies"])
def test_an_answer_may_be_read_by_the_pages_of_the_tokens_client_alone(api: Api, page: Client, path: str) -> None:
    """Successes and faults; another registered client's origin is not this client's."""
    for origin in (OURS, OTHERS, NOBODYS, "null", f"{OURS}, {OTHERS}", OURS.upper(), f"{OURS}:443"):
        answer = page.ask("GET", path, Origin=origin)
        told = said(answer)
        assert told.get("Access-Control-Allow-Origin") == (OURS if origin == OURS else None), (origin, answer.status)
        assert "Origin" in ", ".join(answer.headers.getlist("Vary"))
        if told:
            exposed = told["Access-Control-Expose-Headers"].split(", ")
            assert {"ETag", "Location", "Warning", "X-Request-Id", "Retry-After", "WWW-Authenticate"} <= set(exposed)
    assert said(page.ask("GET", path)) == {}


@pytest.mark.parametrize("path", ["/fhir/Patient", "/dicom-web/studies", "/oauth/token"])
def test_a_refusal_before_a_client_is_known_may_be_read_by_any_active_clients_page(
    api: Api, page: Client, path: str
) -> None:
    """A page whose token ended must see the 401, and the token endpoint's errors."""
    anyone = api.app.test_client()
    for origin in (OURS, OTHERS, NOBODYS):
        answer = anyone.get(path, headers={"Origin": origin})
        assert answer.status_code in (401, 405)
        assert said(answer).get("Access-Control-Allow-Origin") == (None if origin == NOBODYS else origin)


@BOTH_DOORS
def test_a_page_may_read_that_its_requests_are_too_many(make_api: Callable[..., Api]) -> None:
    """A 429 without these headers is a network error to a page, and it never sees Retry-After."""
    api = make_api(client_rate=2)
    page = register(api, "hopital-a", OURS)
    preflight(api, "/fhir/Patient", "GET", OURS)
    for origin in (OURS, NOBODYS):
        answers = [page.ask("GET", path, Origin=origin) for path in ("/fhir/Patient", "/dicom-web/studies") * 8]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert {answer.mimetype for answer in refused} == {"application/fhir+json", "text/plain"}
        for answer in refused:
            assert said(answer).get("Access-Control-Allow-Origin") == (OURS if origin == OURS else None)
            assert "Origin" in ", ".join(answer.headers.getlist("Vary"))
            assert origin == NOBODYS or "Retry-After" in said(answer)["Access-Control-Expose-Headers"].split(", ")


def test_what_is_remembered_of_origins_is_no_look_at_the_database(api: Api, page: Client) -> None:
    """The front asks it in the event loop: once looked up, it is known however much later and whatever changed."""
    clients = api.services.authority.clients
    assert OURS in clients.origins()
    clients.forget(page.client_id)
    run: list[str] = []
    event.listen(api.services.database.engine, "before_cursor_execute", lambda _c, _k, text, *_: run.append(text))
    assert OURS in clients.remembered_origins()
    assert run == []
    clients.disable(page.client_id)
    assert OURS not in clients.origins()
    assert OURS not in clients.remembered_origins()


def test_origins_end_with_the_client_and_by_command(api: Api, page: Client) -> None:
    """No active client, no page: what was registered is looked at anew."""
    clients = api.services.authority.clients
    clients.set_origins(page.client_id, ["http://localhost:3000", "https://x.example:443"])
    assert said(preflight(api, "/fhir/Patient", "GET", OURS)) == {}
    for origin in ("http://localhost:3000", "https://x.example"):
        assert said(preflight(api, "/fhir/Patient", "GET", origin))["Access-Control-Allow-Origin"] == origin
        assert said(page.ask("GET", "Patient", Origin=origin))["Access-Control-Allow-Origin"] == origin
    clients.disable(page.client_id)
    assert said(preflight(api, "/fhir/Patient", "GET", "http://localhost:3000")) == {}


def test_a_database_that_is_away_takes_no_answer_from_anybody(api: Api) -> None:
    """What was carried out is answered, though no page may read it then; a preflight may be sent again (503)."""

    class Away:
        def known(self, client_id: str) -> None:
            raise OperationalError("SELECT", {}, sqlite3.OperationalError("disk I/O error"))

        def origins(self) -> frozenset[str]:
            raise OperationalError("SELECT", {}, sqlite3.OperationalError("disk I/O error"))

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("201 Created", [])
        return [b"made"]

    sharing = cors.Cors(Away(), api.app.url_map)  # type: ignore[arg-type]
    asked = Threshold(application, ("http://localhost",), cors=sharing)
    for client_id in (None, "client-1"):
        told: list[Any] = []
        environ = EnvironBuilder(path="/fhir/Patient", method="POST", headers={"Origin": OURS}).get_environ()
        if client_id:
            environ[CLIENT_ID] = client_id
        assert list(asked(environ, lambda *given, told=told: told.extend(given))) == [b"made"]
        assert told[0] == "201 Created"
        assert "Access-Control-Allow-Origin" not in dict(told[1])
    headers = {"Origin": OURS, "Access-Control-Request-Method": "GET"}
    environ = EnvironBuilder(path="/fhir/Patient", method="OPTIONS", headers=headers).get_environ()
    statuses: list[str] = []
    asked(environ, lambda status, *_: statuses.append(status))
    assert [status[:3] for status in statuses] == ["503"]



def test_public_documents_may_be_read_by_any_page(api: Api) -> None:
    """Without credentials, as SMART App Launch asks of the configuration."""
    for path in PUBLIC:
        if not cors.is_covered(path):
            continue
        answer = api.app.test_client().get(path, headers={"Origin": NOBODYS})
        assert said(answer) == {"Access-Control-Allow-Origin": "*"}
    assert set(metadata.METHODS) >= {path for path in PUBLIC if path.startswith("/oauth")}


def test_the_capability_statement_says_what_the_server_does(api: Api) -> None:
    """`cors` is told by who puts the middleware in, and is false without it."""
    assert api.services.cors is False
    statement = api.app.test_client().get("/fhir/metadata").get_json()
    assert statement["rest"][0]["security"]["cors"] is True


def test_a_page_gets_a_token_reads_and_queries_in_a_real_browser(live: Live, tmp_path: Path) -> None:
    """Chromium: the page of the registered origin reads FHIR and DICOMweb; the same page elsewhere gets nothing."""
    if CHROMIUM is None:
        pytest.skip("Chromium is absent")
    (tmp_path / "page.html").write_text("<!doctype html><title>page</title>")
    with served(tmp_path) as ours, served(tmp_path) as other:
        client = register(live.api, "hopital-a", ours)
        live.api.services.imaging.store_files(
            Caller.system("hopital-a"), phantom.series(Phantom(patient_id="CORS", slices=1, side=16))
        )
        patient = live.api.hospital_a.create({"resourceType": "Patient"})
        urls = {
            "read": f"{live.base}/fhir/Patient/{patient['id']}",
            "query": f"{live.base}/dicom-web/studies?PatientID=CORS",
        }
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
            try:
                for origin, allowed in ((ours, True), (other, False)):
                    opened = browser.new_page()
                    opened.goto(f"{origin}/page.html")
                    for name, url in urls.items():
                        got = fetched(opened, url, client.token)
                        assert (got["status"] == 200) is allowed, (name, origin, got)
                    read = fetched(opened, urls["read"], client.token)
                    assert read.get("etag") == ('W/"1"' if allowed else None)
                    refused = fetched(opened, urls["read"], "x" * 43)
                    assert refused["status"] == (401 if allowed else 0)
                    assert fetched(opened, f"{live.base}/fhir/metadata", "")["status"] == 200
            finally:
                browser.close()


def fetched(page: Page, url: str, token: str) -> dict[str, object]:
    """What a script of the page sees: status and ETag, or status 0 where the browser gives it nothing."""
    got: dict[str, object] = page.evaluate(
        """async ([url, token]) => {
            try {
                const headers = token ? {Authorization: `Bearer ${token}`} : {};
                const answer = await fetch(url, {headers});
                await answer.text();
                return {status: answer.status, etag: answer.headers.get("ETag")};
            } catch (error) { return {status: 0, error: String(error)}; }
        }""",
        [url, token],
    )
    return got


class served:  # noqa: N801 - a context manager
    """A folder on a port of its own; its origin."""

    def __init__(self, folder: Path) -> None:
        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *arguments: object) -> None:
                super().__init__(*arguments, directory=str(folder))  # type: ignore[arg-type]

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def __enter__(self) -> str:
        self.thread.start()
        return f"http://127.0.0.1:{self.server.server_port}"

    def __exit__(self, *raised: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
