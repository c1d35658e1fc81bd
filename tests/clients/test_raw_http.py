"""HTTP/1.1 as its bytes: what curl, proxies and old middleware send. RFC 9110, RFC 9112."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from typing import Any

import httpx2
import pytest

from tests.clients.site import Site

BODY = json.dumps({"resourceType": "Patient", "name": [{"family": "BRUT"}]}).encode()


@contextmanager
def wire(site: Site) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", site.port), timeout=20) as connection:
        yield connection


def head(site: Site, line: str, *more: str, authorization: str = "Authorization") -> bytes:
    lines = [line, f"Host: 127.0.0.1:{site.port}", f"{authorization}: Bearer {site.token('hospital-a')}", *more]
    return "\r\n".join([*lines, "", ""]).encode()


def answer_of(connection: socket.socket, method: str = "GET") -> tuple[HTTPResponse, bytes]:
    """The next answer. Unbuffered: what follows it stays on the wire."""
    response = HTTPResponse(connection, method=method)
    response.fp = connection.makefile("rb", buffering=0)  # type: ignore[assignment]
    response.begin()
    body = response.read()
    return response, body


@pytest.fixture
def patient(site: Site) -> Any:
    with site.http("hospital-a") as http:
        return http.post("/Patient", content=BODY, headers={"Content-Type": "application/fhir+json"}).json()


def test_head_answers_as_get_without_the_body(site: Site, patient: Any) -> None:
    """RFC 9110 §9.3.2; http.html#read: the same headers."""
    with site.http("hospital-a") as http:
        for path in (f"/Patient/{patient['id']}", f"/Patient?_id={patient['id']}", "/metadata"):
            got, asked = http.get(path), http.head(path)
            assert asked.status_code == got.status_code == 200
            assert asked.content == b""
            for name in ("Content-Type", "ETag", "Last-Modified"):
                assert asked.headers.get(name) == got.headers.get(name)
        assert http.head("/Patient/absent").status_code == 404


def test_options_on_the_base_is_the_capability_statement(site: Site) -> None:
    """http.html#capabilities: OPTIONS [base], without a token."""
    answer = httpx2.request("OPTIONS", site.fhir, trust_env=False)
    assert answer.status_code == 200
    assert answer.json()["resourceType"] == "CapabilityStatement"


def test_an_undefined_method_is_405_with_what_is_allowed(site: Site, patient: Any) -> None:
    """RFC 9110 §15.5.6: the answer SHALL have Allow."""
    with site.http("hospital-a") as http:
        answer = http.post(f"/Patient/{patient['id']}", content=BODY)
        assert answer.status_code == 405
        assert "GET" in answer.headers["Allow"]
        assert answer.json()["resourceType"] == "OperationOutcome"


def test_one_connection_takes_many_requests(site: Site, patient: Any) -> None:
    """RFC 9112 §9.3: persistent; also after refusals whose body was not wanted."""
    connection = HTTPConnection("127.0.0.1", site.port, timeout=20)
    headers = {"Authorization": f"Bearer {site.token('hospital-a')}", "Content-Type": "application/fhir+json"}
    try:
        connection.connect()
        own = connection.sock
        for method, path, body, status in (
            ("GET", f"/fhir/Patient/{patient['id']}", None, 200),
            ("POST", "/fhir/Patient", b"{broken", 400),
            ("POST", "/fhir/Nothing", BODY, 404),
            ("POST", "/fhir/Patient", BODY, 201),
            ("DELETE", "/fhir/Patient/never-was", None, 204),
            ("GET", "/livez", None, 200),
        ):
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == status, path
            assert connection.sock is own
    finally:
        connection.close()


def test_a_second_request_may_be_sent_before_the_first_is_answered(site: Site, patient: Any) -> None:
    """RFC 9112 §9.3.2: pipelined requests are answered in order."""
    with wire(site) as connection:
        connection.sendall(
            head(site, f"GET /fhir/Patient/{patient['id']} HTTP/1.1") + head(site, "GET /fhir/Patient/absent HTTP/1.1")
        )
        first, body = answer_of(connection)
        second, _ = answer_of(connection)
    assert (first.status, second.status) == (200, 404)
    assert json.loads(body) == patient


def test_header_names_come_in_any_case(site: Site, patient: Any) -> None:
    """RFC 9110 §5.1: field names are case-insensitive; so is the scheme (§11.1)."""
    for name, if_match in (("authorization", "if-match"), ("AUTHORIZATION", "IF-MATCH")):
        with wire(site) as connection:
            line = f"PUT /fhir/Patient/{patient['id']} HTTP/1.1"
            body = json.dumps(patient).encode()
            more = (f'{if_match}: W/"99"', f"content-LENGTH: {len(body)}", "CONTENT-type: application/fhir+json")
            connection.sendall(head(site, line, *more, authorization=name) + body)
            answer, _ = answer_of(connection)
            assert answer.status == 412
    with httpx2.Client(trust_env=False) as http:
        answer = http.get(
            f"{site.fhir}/Patient/{patient['id']}", headers={"Authorization": f"bearer {site.token('hospital-a')}"}
        )
        assert answer.status_code == 200


def test_a_client_that_waits_for_100_continue_is_answered(site: Site) -> None:
    """RFC 9110 §10.1.1: curl sends `Expect: 100-continue` with larger bodies and waits for the go-ahead."""
    with wire(site) as connection:
        more = ("Content-Type: application/fhir+json", f"Content-Length: {len(BODY)}", "Expect: 100-continue")
        connection.sendall(head(site, "POST /fhir/Patient HTTP/1.1", *more))
        assert connection.recv(4096).startswith(b"HTTP/1.1 100")
        connection.sendall(BODY)
        answer, _ = answer_of(connection, "POST")
    assert answer.status == 201


def test_a_chunked_body_is_read(site: Site) -> None:
    """RFC 9112 §7.1: no Content-Length; the chunks cut words in two."""
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (BODY[:7], BODY[7:20], BODY[20:])) + b"0\r\n\r\n"
    with wire(site) as connection:
        more = ("Content-Type: application/fhir+json", "Transfer-Encoding: chunked")
        connection.sendall(head(site, "POST /fhir/Patient HTTP/1.1", *more) + chunks)
        answer, body = answer_of(connection, "POST")
    assert answer.status == 201, body
    assert json.loads(body)["name"][0]["family"] == "BRUT"


def test_an_old_client_of_http_1_0_is_answered(site: Site, patient: Any) -> None:
    """RFC 9112 §2.5: HTTP/1.0, connection closed after the answer."""
    with wire(site) as connection:
        connection.sendall(head(site, f"GET /fhir/Patient/{patient['id']} HTTP/1.0"))
        answer, body = answer_of(connection)
        assert answer.status == 200
        assert json.loads(body) == patient
        assert connection.recv(1) == b""
