"""The front as it is served: bodies, limits, strictness, and that nobody's slowness is another's.

RFC 9110, RFC 9112; DESIGN §3. Times are compared with bounds that a loaded machine keeps.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import brotli
import psycopg
import pytest

from tests.fhir_server.conftest import Api
from tests.fhir_server.served import Answer, Web, is_closed, read, serving

pytestmark = pytest.mark.uncounted

Serve = Callable[..., tuple[Web, Api]]


@pytest.fixture
def serve(make_api: Callable[..., Api]) -> Iterator[Serve]:
    """Start the web process with these settings; the Api beside it makes tokens and looks into the database."""
    with ExitStack() as stack:

        def start(**changed: Any) -> tuple[Web, Api]:
            api = make_api(**{"workers": 1, "threads": 3, **changed})
            return stack.enter_context(serving(api.services.settings)), api

        yield start


@pytest.fixture
def patient(serve: Serve) -> Callable[..., tuple[Web, Api, str]]:
    """As `serve`, and a Patient of hospital A."""

    def start(**changed: Any) -> tuple[Web, Api, str]:
        web, api = serve(**changed)
        made = api.hospital_a.create(_patient())
        return web, api, f"/fhir/Patient/{made['id']}"

    return start


def _patient(**more: Any) -> dict[str, Any]:
    identifier = [{"system": "urn:oid:1.2.250.1.999.9.1", "value": str(uuid.uuid4())}]
    return {"resourceType": "Patient", "identifier": identifier, "name": [{"family": "ESSAI"}], **more}


def _post(path: str, token: str | None, body: bytes, *, kind: str = "application/fhir+json", extra: str = "") -> str:
    lines = [f"POST {path} HTTP/1.1", f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
    if token:
        lines.append(f"Authorization: Bearer {token}")
    if extra:
        lines.append(extra)
    return "\n".join(lines)


# — HTTP/1.1 strictly —


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_a_request_has_one_host_and_one_meaning(serve: Serve) -> None:
    """RFC 9112 §3.2 (Host), §6.1 (both lengths), §3.2.2 (absolute form), RFC 9110 §10.1.1 (Expect), §9.3.6 (CONNECT);
    HTTP/2 in clear is not spoken."""
    web, _ = serve()
    assert web.ask("GET /livez HTTP/1.1", host=False).status == 400
    assert web.ask("GET /livez HTTP/1.1\nHost: a", host=True).status == 400
    assert web.ask("GET /livez HTTP/1.1\nHost: a b", host=False).status == 400
    assert web.ask(f"GET http://127.0.0.1:{web.port}/livez HTTP/1.1\nHost: other", host=False).status == 200
    assert web.ask("GET /livez HTTP/1.0", host=False).status == 200
    assert web.ask("GET /livez HTTP/1.1\nExpect: something").status == 417
    assert web.ask("CONNECT a:1 HTTP/1.1").status == 405
    assert web.ask("GET /readyz HTTP/1.1\nX-Name: \u00e9").status == 400
    assert web.ask("GET /readyz HTTP/1.1\nX-Request-Id: a\nX_Request_Id: b").status == 400
    assert web.ask("GET /livez HTTP/1.1\n" + "\n".join(f"X-{n}: 1" for n in range(120))).status == 431
    assert web.ask("GET /livez HTTP/1.1\nX-Long: " + "a" * 40_000).status == 431
    both = web.send(
        "POST /oauth/token HTTP/1.1\nContent-Length: 3\nTransfer-Encoding: chunked\nContent-Type: text/plain",
        b"3\r\nabc\r\n0\r\n\r\n",
    )
    assert read(both).status == 400
    assert is_closed(both)
    spoken = web.connect()
    spoken.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
    assert is_closed(spoken)


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_bodies_come_by_length_or_in_chunks_small_and_large(serve: Serve) -> None:
    """RFC 9112 §6, §7.1; RFC 9110 §10.1.1: 100 Continue when the body is wanted, and not where it is refused first."""
    web, api = serve(body_memory_bytes=100_000)
    token = api.hospital_a.token
    small = json.dumps(_patient()).encode()
    large = json.dumps(_patient(text={"status": "generated", "div": _div(400_000)})).encode()
    for body in (small, large):
        assert web.ask(_post("/fhir/Patient", token, body), body).status == 201
        head = f"POST /fhir/Patient HTTP/1.1\nTransfer-Encoding: chunked\nContent-Type: application/fhir+json\n" \
               f"Authorization: Bearer {token}"
        chunked = b"".join(
            b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (body[i : i + 5000] for i in range(0, len(body), 5000))
        )
        assert web.ask(head, chunked + b"0\r\n\r\n").status == 201
    waiting = web.send(_post("/fhir/Patient", token, small, extra="Expect: 100-continue"))
    assert waiting.recv(100).startswith(b"HTTP/1.1 100 ")
    waiting.sendall(small)
    assert read(waiting).status == 201
    refused = web.send(_post("/fhir/Patient", None, small, extra="Expect: 100-continue"))
    assert refused.recv(12) == b"HTTP/1.1 401"


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_breaks_off_does_nothing(serve: Serve, chunked: bool) -> None:
    """What came of it is no request, whatever it would say alone."""
    web, api = serve()
    body = json.dumps(_patient()).encode()
    head = f"POST /fhir/Patient HTTP/1.1\nContent-Type: application/fhir+json\n" \
           f"Authorization: Bearer {api.hospital_a.token}\n"
    if chunked:
        broken = web.send(head + "Transfer-Encoding: chunked", b"%x\r\n%b\r\n" % (len(body), body))
    else:
        broken = web.send(head + f"Content-Length: {len(body) + 10}", body)
    time.sleep(0.3)
    broken.close()
    garbled = web.send(head + "Transfer-Encoding: chunked", b"%x\r\n%b\r\nzz\r\n" % (len(body), body))
    assert read(garbled).status == 400
    assert is_closed(garbled)
    assert api.hospital_a.get("Patient?_total=accurate&_count=0").get_json()["total"] == 0


# — limit + 1, and nothing happened —


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_a_body_beyond_its_limit_is_refused_by_its_length_and_by_its_bytes(serve: Serve) -> None:
    """RFC 9110 §15.5.14: 413, before the body where the length is declared, and the connection ends."""
    web, api = serve(max_body_bytes=20_000)
    token = api.hospital_a.token
    body = json.dumps(_patient(text={"status": "generated", "div": _div(30_000)})).encode()
    declared = web.send(_post("/fhir/Patient", token, body))
    answer = read(declared)
    assert (answer.status, json.loads(answer.body)["issue"][0]["code"]) == (413, "too-long")
    assert is_closed(declared)
    head = f"POST /fhir/Patient HTTP/1.1\nTransfer-Encoding: chunked\nContent-Type: application/fhir+json\n" \
           f"Authorization: Bearer {token}"
    assert web.ask(head, b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)).status == 413
    form = b"a=" + b"x" * 40_000
    answer = web.ask(_post("/oauth/token", None, form, kind="application/x-www-form-urlencoded"))
    assert (answer.status, json.loads(answer.body)["error"]) == (413, "invalid_request")
    assert api.hospital_a.get("Patient?_total=accurate&_count=0").get_json()["total"] == 0


def _routes_with_body(api: Api) -> list[tuple[str, str, str]]:
    """(method, path, media type) of every route that takes a body: Flask's own, and the FHIR edge's kinds."""
    filled = {"study": "1.2.3", "series": "1.2.3.4", "instance": "1.2.3.4.5", "owner": "hospital-a"}
    found = []
    for rule in api.app.url_map.iter_rules():
        for method in sorted((rule.methods or set()) & {"POST", "PUT", "PATCH"}):
            path = rule.rule
            for name in rule.arguments:
                path = path.replace(f"<{name}>", filled.get(name, "1")).replace(f"<path:{name}>", filled.get(name, "1"))
            kind = "application/dicom" if path.startswith("/dicom-web") else "application/x-www-form-urlencoded"
            found.append((method, path, kind))
    for method, path in (
        ("POST", "/fhir"), ("POST", "/fhir/_search"), ("POST", "/fhir/Patient"), ("POST", "/fhir/Patient/_search"),
        ("PUT", "/fhir/Patient/a"), ("PUT", "/fhir/Patient?identifier=a"), ("PATCH", "/fhir/Patient/a"),
        ("POST", "/fhir/Patient/$validate"), ("POST", "/fhir/$anything"),
    ):
        found.append((method, path, "application/fhir+json"))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_slow_bodies_on_every_route_and_half_open_connections_stop_nobody(patient: Any) -> None:
    """Hospital B and strangers hold 200 bodies on every route that takes one, and 600 sockets with half a head:
    health answers, and hospital A reads, as without them; the memory stays; the slow ones are told 408."""
    web, api, url = patient(body_grace_s=600, bodies_at_once=10_000, bodies_of_one=40)
    token, other = api.hospital_a.token, api.hospital_b.token
    assert web.get(url, token).status == 200
    quiet = max(web.get(url, token).seconds for _ in range(20))
    before = web.memory()
    for method, path, kind in _routes_with_body(api):
        for n in range(200):
            head = f"{method} {path} HTTP/1.1\nContent-Type: {kind}\nContent-Length: 1000"
            if not path.startswith("/oauth"):
                head += f"\nAuthorization: Bearer {other}"
            web.send(head, b"{" if n % 2 else b"")
        slowest = max(web.get("/livez").seconds for _ in range(5))
        reads = [web.get(url, token) for _ in range(5)]
        assert {answer.status for answer in reads} == {200}, path
        assert slowest < max(1.0, 20 * quiet), path
        assert max(answer.seconds for answer in reads) < max(2.0, 40 * quiet), path
        for connection in web.opened:
            connection.close()
        web.opened.clear()
    for _ in range(600):
        half = web.connect()
        half.sendall(b"POST /oauth/token HTTP/1.1\r\nHost: a\r\n")
    assert web.get("/livez").seconds < max(1.0, 20 * quiet)
    assert web.get(url, token).status == 200
    assert web.memory() - before < 64 * 1024 * 1024


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_a_body_that_does_not_come_is_answered_408_in_the_words_of_each_facade(serve: Serve) -> None:
    """RFC 9110 §15.5.9; and what trickles in below the minimum rate is no better."""
    web, api = serve(body_grace_s=1, body_min_rate=100_000)
    token = api.hospital_a.token
    slow = [
        web.send(_post("/fhir/Patient", token, b"x" * 1000), b"{"),
        web.send(_post("/dicom-web/studies", token, b"x" * 1000, kind="application/dicom"), b"x"),
        web.send(_post("/oauth/token", None, b"x" * 1000, kind="application/x-www-form-urlencoded"), b"grant_type="),
    ]
    trickle = web.send(_post("/fhir/Patient", token, b"x" * 200_000))
    for _ in range(8):
        time.sleep(0.4)
        try:
            trickle.sendall(b" ")
        except OSError:
            break
    answers = [read(connection) for connection in slow]
    assert [answer.status for answer in answers] == [408, 408, 408]
    assert [answer.headers["connection"] for answer in answers] == ["close"] * 3
    assert json.loads(answers[0].body)["issue"][0]["code"] == "timeout"
    assert json.loads(answers[2].body)["error"] == "invalid_request"
    assert read(trickle).status == 408


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_a_page_may_read_what_the_front_refuses_itself(make_api: Callable[..., Api]) -> None:
    """Fetch, http-cors-protocol: without these headers a page hears of a network error, not of 408, 429 or 431."""
    api = make_api(workers=1, threads=3, body_grace_s=1, body_min_rate=100_000, bodies_of_one=1)
    page = "https://viewer.ch-a.example"
    made, private = api.services.authority.clients.add(
        "Viewer", "hopital-a", "system/*.cruds", "viewer", origins=(page,)
    )
    assert private is not None
    token = api._with_token(made.client_id, private).token
    with serving(api.services.settings) as web:
        for origin in (page, "https://evil.example"):
            said = f"Origin: {origin}"
            slow = web.send(_post("/fhir/Patient", token, b"x" * 1000, extra=said), b"{")
            time.sleep(0.3)
            answers = [
                web.ask(_post("/fhir/Patient", token, b"{}", extra=said), b"{}"),
                web.get("/fhir/Patient", None, said, "X-Long: " + "a" * 40_000),
                read(slow),
            ]
            assert [answer.status for answer in answers] == [429, 431, 408]
            for answer in answers:
                assert answer.headers.get("access-control-allow-origin") == (page if origin == page else None)
                assert "Origin" in answer.headers["vary"]
                assert ("access-control-expose-headers" in answer.headers) is (origin == page)


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_bodies_on_their_way_have_a_number_a_share_and_a_place(serve: Serve) -> None:
    """One more than one organisation may send: 429. One more than all may: 503. Beyond the disk: 503."""
    web, api = serve(bodies_of_one=3, bodies_at_once=5, body_memory_bytes=0, body_disk_bytes=50_000)
    mine, other = api.hospital_a.token, api.hospital_b.token
    body = json.dumps(_patient()).encode()
    for _ in range(3):
        web.send(_post("/fhir/Patient", mine, body))
    time.sleep(0.3)
    answer = web.ask(_post("/fhir/Patient", mine, body), body)
    assert (answer.status, answer.headers["retry-after"]) == (429, "2")
    assert web.ask(_post("/fhir/Patient", other, body), body).status == 201
    for _ in range(2):
        web.send(_post("/fhir/Patient", other, body))
    time.sleep(0.3)
    assert web.ask(_post("/fhir/Patient", other, body), body).status == 503
    for connection in web.opened:
        connection.close()
    time.sleep(0.3)
    large = json.dumps(_patient(text={"status": "generated", "div": _div(100_000)})).encode()
    assert web.ask(_post("/fhir/Patient", mine, large), large).status == 503
    assert web.ask(_post("/fhir/Patient", mine, body), body).status == 201
    assert api.hospital_a.get("Patient?_total=accurate&_count=0").get_json()["total"] == 1


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_a_client_and_an_organisation_have_a_rate(patient: Any) -> None:
    """RFC 6585 §4: 429 with Retry-After in the facade's words; the others go on, and it is on record."""
    web, api, url = patient(client_rate=5, organization_rate=1000)
    token = api.hospital_a.token
    answers = [web.get(url, token) for _ in range(30)]
    refused = [answer for answer in answers if answer.status == 429]
    assert refused
    assert answers[0].status == 200
    assert int(refused[0].headers["retry-after"]) >= 1
    assert json.loads(refused[0].body)["issue"][0]["code"] == "throttled"
    for _ in range(15):
        texts = web.get("/dicom-web/studies", token)
        if texts.status == 429:
            break
    assert texts.headers["content-type"].startswith("text/plain")
    assert web.get("/fhir/Patient", api.hospital_b.token).status == 200


# — fairness —


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_an_organisation_that_waits_never_has_the_last_thread(patient: Any) -> None:
    """All the writes of hospital A wait for the database; hospital B, health and tokens are answered meanwhile."""
    web, api, _ = patient(threads=2, lock_timeout_s=20)
    mine, other = api.hospital_a.token, api.hospital_b.token
    assert web.get("/fhir/Patient?_count=1", other).status == 200
    body = json.dumps(_patient()).encode()
    with api.services.database.write():
        waiting = [web.send(_post("/fhir/Patient", mine, body), body) for _ in range(20)]
        time.sleep(0.5)
        assert web.get("/fhir/Patient?_count=1", other).status == 200
        assert web.get("/livez").status == 200
        assert web.get("/oauth/jwks").status == 200
    assert {read(connection).status for connection in waiting} == {201}


# — the database —


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_a_write_does_not_wait_long_for_a_lock_of_the_database(patient: Any) -> None:
    """The gate held by a process, or the file by a program: 503 with Retry-After; reads go on."""
    web, api, url = patient(lock_timeout_s=1)
    token = api.hospital_a.token
    body = json.dumps(_patient()).encode()
    with api.services.database.write():
        answers = _at_once(lambda: web.ask(_post("/fhir/Patient", token, body), body), 3)
        assert web.get(url, token).status == 200
    assert {answer.status for answer in answers} == {503}
    assert all(answer.headers["retry-after"] for answer in answers)
    assert max(answer.seconds for answer in answers) < 15
    assert web.ask(_post("/fhir/Patient", token, body), body).status == 201


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
def test_a_database_that_is_locked_or_silent_is_told_and_the_process_lives(
    patient: Any, postgresql_url: str
) -> None:
    """A table locked: 503 by `lock_timeout_s`. PostgreSQL stopped (SIGSTOP): 503 to all who wait within seconds,
    while /livez answers; 200 once it goes on."""
    web, api, url = patient(lock_timeout_s=1)
    token = api.hospital_a.token
    assert web.get(url, token).status == 200
    with psycopg.connect(api.services.settings.database_url.replace("+psycopg", "")) as locking:
        locking.execute("LOCK TABLE resource_version IN ACCESS EXCLUSIVE MODE")
        locked = web.get(url, token)
        assert (locked.status, bool(locked.headers.get("retry-after"))) == (503, True)
    assert web.get(url, token).status == 200
    folder = postgresql_url.partition("host=")[2]
    main = int((Path(folder) / "data" / "postmaster.pid").read_text().splitlines()[0])
    stopped = [main, *(int(pid) for pid in Path(f"/proc/{main}/task/{main}/children").read_text().split())]
    try:
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        waiting = [threading.Thread(target=lambda: answers.append(web.get(url, token))) for _ in range(6)]
        answers: list[Answer] = []
        for thread in waiting:
            thread.start()
        time.sleep(0.5)
        assert web.get("/livez").seconds < 2
        for thread in waiting:
            thread.join(30)
        at_once = web.get(url, token)
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    assert [answer.status for answer in (*answers, at_once)] == [503] * 7
    assert max(answer.seconds for answer in answers) < 10
    deadline = time.monotonic() + 30
    while web.get(url, token).status != 200:
        assert time.monotonic() < deadline
        time.sleep(0.2)


# — answers —


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_json_is_encoded_for_who_asks(patient: Any) -> None:
    """RFC 9110 §12.5.3, §12.5.5, §8.8.1: br or gzip by weight, Vary, weak ETags, HEAD as GET, 304 as before."""
    web, api, _ = patient()
    token = api.hospital_a.token
    made = api.hospital_a.create(_patient(text={"status": "generated", "div": _div(5000)}))
    url = f"/fhir/Patient/{made['id']}"
    plain = web.get(url, token)
    assert "content-encoding" not in plain.headers
    assert "Accept-Encoding" in plain.headers["vary"]
    packed = web.get(url, token, "Accept-Encoding: gzip;q=0.5, br")
    assert packed.headers["content-encoding"] == "br"
    assert brotli.decompress(packed.body) == plain.body
    assert packed.headers["etag"] == plain.headers["etag"] == 'W/"1"'
    assert web.get(url, token, "Accept-Encoding: gzip").headers["content-encoding"] == "gzip"
    assert "content-encoding" not in web.get(url, token, "Accept-Encoding: identity, gzip;q=0").headers
    assert "content-encoding" not in web.get("/livez", None, "Accept-Encoding: gzip").headers
    assert web.get(url, token, "Accept-Encoding: br", 'If-None-Match: W/"1"').status == 304
    head = web.send(f"HEAD {url} HTTP/1.1\nAuthorization: Bearer {token}")
    assert read(head, head_only=True).headers["content-length"] == str(len(plain.body))


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_readers_that_do_not_read_hold_no_thread(patient: Any) -> None:
    """A long answer leaves as it is taken, and holds no thread meanwhile: twelve readers on three threads."""
    web, api, url = patient(max_body_bytes=64 * 1024 * 1024, write_grace_s=60)
    token = api.hospital_a.token
    made = api.hospital_a.post("Binary", _pdf(8_000_000))
    assert made.status_code == 201, made.get_data(as_text=True)[:300]
    path = f"/fhir/Binary/{made.get_json()['id']}"
    whole = web.get(path, token)
    assert (whole.status, len(whole.body)) == (200, int(whole.headers["content-length"]))
    connections = []
    for _ in range(12):
        connections.append(_unread(web, path, token))
    time.sleep(1)
    assert web.get(url, token).status == 200
    assert web.get("/fhir/Patient?_count=1", token).status == 200
    for connection in connections:
        answer = read(connection)
        assert (answer.status, answer.body == whole.body) == (200, True)


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_a_reader_that_takes_nothing_is_cut_off(patient: Any) -> None:
    """A long answer by its minimum rate, a short one by the kernel; what they held is free: the client's one place in
    flight is given to the next."""
    web, api, _ = patient(max_body_bytes=64 * 1024 * 1024, write_grace_s=6, client_in_flight=1)
    token = api.hospital_a.token
    long = api.hospital_a.post("Binary", _pdf(12_000_000)).get_json()["id"]
    short = api.hospital_a.post("Binary", _pdf(400_000)).get_json()["id"]
    slow = _unread(web, f"/fhir/Binary/{long}", token)
    assert read(slow, head_only=True).status == 200
    assert web.get("/fhir/Patient/none", token).status == 429
    deadline = time.monotonic() + 60
    while web.get(f"/fhir/Binary/{short}", token).status != 200:
        assert time.monotonic() < deadline, "it is in flight for ever"
        time.sleep(0.2)
    idle = _unread(web, f"/fhir/Binary/{short}", token)
    time.sleep(0.5)
    held = _established(web.port)
    assert held
    deadline = time.monotonic() + 60
    while _established(web.port):
        assert time.monotonic() < deadline, "a connection that takes nothing stays"
        time.sleep(0.5)
    slow.close()
    idle.close()


def _pdf(length: int) -> dict[str, Any]:
    return {"resourceType": "Binary", "contentType": "application/pdf", "data": "QUJD" * (length // 4)}


def _unread(web: Web, path: str, token: str) -> socket.socket:
    """A connection with a small window that has asked and does not read."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", web.port))
    web.opened.append(connection)
    connection.sendall(
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{web.port}\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
    )
    return connection


def _established(port: int) -> int:
    """The server's connections of its port (proc(5): net/tcp, state 01)."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(1 for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "01")


def _div(length: int) -> str:
    return f'<div xmlns="http://www.w3.org/1999/xhtml">{"x" * length}</div>'


def _at_once(ask: Callable[[], Answer], count: int) -> list[Answer]:
    answers: list[Answer] = []
    threads = [threading.Thread(target=lambda: answers.append(ask())) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return answers


# — processors —

ALLOWED = sorted(os.sched_getaffinity(0))


def test_a_worker_has_a_processor_of_its_own_and_so_has_its_successor(serve: Serve) -> None:
    """sched_setaffinity(2): the loop's threads share one, those of the core go to all; after kill -9 alike."""
    web, api = serve(workers=len(ALLOWED))
    _until_each_has_its_own(web)
    for pid in web.workers():
        roaming = [task for task in Path(f"/proc/{pid}/task").iterdir() if _allowed(task.name) == ALLOWED]
        assert len(roaming) >= api.services.settings.threads
    os.kill(web.workers()[0], signal.SIGKILL)
    _until_each_has_its_own(web)


def _until_each_has_its_own(web: Web) -> None:
    """A worker says that it is ready before the others are."""
    deadline = time.monotonic() + 30
    while _processors(web) != ALLOWED:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _allowed(task: int | str) -> list[int]:
    try:
        return sorted(os.sched_getaffinity(int(task)))
    except ProcessLookupError:
        return []


def _processors(web: Web) -> list[int]:
    """Those of the workers' own first threads, which run the loops."""
    allowed = [_allowed(pid) for pid in web.workers()]
    return sorted(one[0] for one in allowed if len(one) == 1)
