"""Bombs and garbage at every door of the real server: the right 4xx, never a 5xx, and it goes on in bounded memory.

security-subscriptions §5.1, R12, R13; R4 §3.1.0.1.8.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from fhir_server.demo import modality
from tests.clients.site import Site
from tests.dicomweb.test_hostile import BOMB, head

GROWTH_MB = 256
"""R13: growth of all processes of the server together, over the whole corpus."""

DEEP = b'{"resourceType":"Patient","extension":' + b'[{"extension":' * 100_000
ENTRY = b'{"request":{"method":"GET","url":"Patient/x"}}'
BUNDLE_20K = b'{"resourceType":"Bundle","type":"%s","entry":[' + b",".join([ENTRY] * 20_000) + b"]}"
PATIENT = b'{"resourceType":"Patient","name":[{"family":"%s"}]}'

Case = tuple[str, str, dict[str, str], bytes | None, range]
_4XX = range(400, 500)
_SEEN = range(200, 500)
"""A long but honest request may also be answered."""


def fhir(method: str, path: str, body: bytes | None = None, expected: range = _4XX, **headers: str) -> Case:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return (method, f"/fhir/{path}", named, body, expected)


def dicom(body: bytes, content_type: str = 'multipart/related; type="application/dicom"; boundary=xyz') -> Case:
    return ("POST", "/dicom-web/studies", {"Content-Type": content_type}, body, _4XX)


def parts(*bodies: bytes) -> bytes:
    return b"".join(b"--xyz\r\nContent-Type: application/dicom\r\n\r\n" + body + b"\r\n" for body in bodies)


CORPUS: dict[str, Case] = {
    "JSON of depth 100,000": fhir("POST", "Patient", DEEP),
    "an array of depth 1,000,000": fhir("POST", "Patient", b"[" * 1_000_000),
    "a duplicate key": fhir("POST", "Patient", b'{"resourceType":"Patient","id":"a","id":"b"}'),
    "a million keys": fhir(
        "POST", "Patient", b'{"resourceType":"Patient",' + b",".join(b'"k%d":1' % n for n in range(500_000)) + b"}"
    ),
    "NaN": fhir("POST", "Observation", b'{"resourceType":"Observation","valueQuantity":{"value":NaN}}'),
    "an exponent bomb": fhir(
        "POST",
        "Observation",
        b'{"resourceType":"Observation","status":"final","code":{"text":"x"},"valueQuantity":{"value":1e999999999}}',
        _SEEN,
    ),
    "NUL in a string": fhir("POST", "Patient", PATIENT % b"a\\u0000b", _SEEN),
    "half a character": fhir("POST", "Patient", PATIENT % b"\\ud800"),
    "17 MB": fhir("POST", "Patient", PATIENT % (b"x" * 17_000_000)),
    "a batch of 20,000": fhir("POST", "", BUNDLE_20K.replace(b"%s", b"batch")),
    "a transaction of 20,000": fhir("POST", "", BUNDLE_20K.replace(b"%s", b"transaction")),
    "a batch in a batch": fhir(
        "POST",
        "",
        b'{"resourceType":"Bundle","type":"batch","entry":[{"request":{"method":"POST","url":"/"},'
        b'"resource":{"resourceType":"Bundle","type":"batch"}}]}',
        _SEEN,
    ),
    "500 parameters": fhir("GET", "Patient?" + "&".join(f"family=a{n}" for n in range(499)), expected=_SEEN),
    "5,000 parameters": fhir("GET", "Patient?" + "&".join(f"a={n}" for n in range(5_000))),
    "1,000 alternatives": fhir("GET", "Patient?_id=" + ",".join(map(str, range(1_000)))),
    "100 includes": fhir(
        "GET", "Patient?" + "&".join(f"_revinclude={name}:patient" for name in ("Task", "Observation") * 50), expected=_SEEN  # noqa: E501
    ),
    "a chain of 40": fhir("GET", "Observation?" + "subject:Patient.organization." * 40 + "name=x"),
    "40 nested _has": fhir("GET", "Patient?" + "_has:Observation:patient:" * 40 + "_id=x"),
    "a number of 5,000 digits": fhir("GET", "Observation?value-quantity=" + "9" * 5_000),
    "a count of 400 digits": fhir("GET", "Patient?_count=" + "9" * 400),
    "NUL in a parameter": fhir("GET", "Patient?family=a%00b", expected=_SEEN),
    "NUL in an id parameter": fhir("GET", "Patient?_id=a%00b", expected=_SEEN),
    "NUL in a path": fhir("GET", "Patient/a%00b"),
    "a newline behind an id": fhir("GET", "Patient/abc%0A"),
    "CR LF in an id": fhir("DELETE", "Patient/a%0d%0aX-Injected:%20yes"),
    "CR LF in a type": fhir("GET", "Patient%0d%0aX-Injected:%20yes"),
    "CR LF in a parameter": fhir("GET", "Patient?family=a%0d%0aX-Injected:%20yes", expected=_SEEN),
    "CR LF in _format": fhir("GET", "Patient?_format=json%0d%0aX-Injected:%20yes"),
    "CR LF in the type of a Binary": fhir(
        "POST", "Binary", b'{"resourceType":"Binary","contentType":"text/plain\\nX-Injected: yes","data":"eA=="}', _SEEN
    ),
    "an id of 10,000": fhir("GET", "Patient/" + "x" * 10_000),
    "../ in an id": fhir("GET", "Patient/..%2f..%2f..%2fetc%2fpasswd"),
    "a path of dots": fhir("GET", "../../../../etc/passwd"),
    "a body that says gzip": fhir("POST", "Patient", b"\x1f\x8b", Content_Encoding="gzip"),
    "a foreign character set": fhir("POST", "Patient", PATIENT % b"x", Content_Type="application/fhir+json;charset=utf-16"),  # noqa: E501
    "an If-Match of 10,000": fhir("PUT", "Patient/x", b'{"resourceType":"Patient","id":"x"}', If_Match="1" * 10_000),
    "a broken form": fhir("POST", "Patient/_search", b"family=%ff%fe", Content_Type="application/x-www-form-urlencoded"),  # noqa: E501
    "an XML bomb": fhir("POST", "Patient", b"<!DOCTYPE x [<!ENTITY a 'x'>]><x>&a;</x>", Content_Type="application/fhir+xml"),  # noqa: E501
    "a method of nobody": fhir("BREW", "Patient"),
    "a page token of 100,000": fhir("GET", "Patient?_page=" + "A" * 60_000),
    "a slow pattern in a date": fhir("GET", "Patient?birthdate=" + "2024-" * 5_000),
    "a slow pattern in a reference": fhir("GET", "Observation?subject=" + "/" * 20_000, expected=_SEEN),
    "a slow pattern in a token": fhir("GET", "Patient?identifier=" + "\\\\," * 50),
    "a slow pattern in Prefer": fhir("GET", "Patient", expected=_SEEN, Prefer="return=" * 900),
    "a slow pattern in Accept": fhir("GET", "Patient", expected=_SEEN, Accept="application/" * 500),
    "a slow pattern in a narrative": fhir(
        "POST",
        "Patient",
        b'{"resourceType":"Patient","text":{"status":"generated","div":"<div xmlns=\\"http://www.w3.org/1999/xhtml\\">'
        + b"<b>" * 20_000
        + b'</div>"}}',
    ),
    "a slow pattern in base64": fhir(
        "POST", "Binary", b'{"resourceType":"Binary","contentType":"a/b","data":"' + b"A " * 200_000 + b'!"}'
    ),
    "a slow pattern in a uri": fhir("POST", "Patient", PATIENT % (b"a " * 100_000) + b"x"),
    "a deflate bomb by STOW": dicom(parts(head("1.2.840.10008.1.2.1.99") + BOMB) + b"--xyz--\r\n"),
    "ten deflate bombs by STOW": dicom(parts(*[head("1.2.840.10008.1.2.1.99") + BOMB] * 10) + b"--xyz--\r\n"),
    "multipart of 10,000 parts": dicom(parts(*[b"x"] * 10_000) + b"--xyz--\r\n"),
    "multipart without an end": dicom(parts(b"x" * 1000)),
    "multipart without a boundary": dicom(parts(b"x"), "multipart/related"),
    "a boundary of 10,000": dicom(parts(b"x"), "multipart/related; boundary=" + "b" * 10_000),
    "part headers without an end": dicom(b"--xyz\r\n" + b"X: y\r\n" * 200_000),
    "garbage as DICOM": dicom(b"\0" * 100_000, "application/dicom"),
    "a path for a UID": ("GET", "/dicom-web/studies/..%2f..%2fetc%2fpasswd/metadata", {}, None, _4XX),
    "NUL in a UID": ("GET", "/dicom-web/studies/1.2%00/metadata", {}, None, _4XX),
    "a UID of 1,000": ("GET", "/dicom-web/studies/1." + "2" * 1_000 + "/metadata", {}, None, _4XX),
    "CR LF in a UID": ("GET", "/dicom-web/studies/1.2%0d%0aX-Injected:%20yes/metadata", {}, None, _4XX),
    "NUL in a QIDO key": ("GET", "/dicom-web/studies?PatientName=a%00b", {}, None, _SEEN),
    "stars in a QIDO key": ("GET", "/dicom-web/studies?PatientName=" + "*a" * 5_000, {}, None, _SEEN),
    "a frame list without an end": (
        "GET", "/dicom-web/studies/1.2/series/1.3/instances/1.4/frames/" + ",".join(["1"] * 8_000), {}, None, _4XX,
    ),
    "a token form of 1 MB": (
        "POST", "/oauth/token", {"Content-Type": "application/x-www-form-urlencoded"}, b"a=" + b"b" * 1_000_000, _4XX,
    ),
    "an assertion of 100 kB": (
        "POST", "/oauth/token", {"Content-Type": "application/x-www-form-urlencoded"},
        b"grant_type=client_credentials&client_assertion_type=" + quote("urn:ietf:params:oauth:client-assertion-type:jwt-bearer").encode()  # noqa: E501
        + b"&client_assertion=" + b"e" * 20_000, _4XX,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("hostile") / "data")
    site.start()
    try:
        yield site
    finally:
        site.stop()


@pytest.fixture(scope="module")
def baseline(running: Site) -> float:
    """Memory after it has answered each kind of request once."""
    for _ in range(20):
        still_serves(running)
    return memory_mb(running)


def memory_mb(site: Site) -> float:
    """Resident memory of the server's processes together."""
    assert site.process is not None
    wanted, kilobytes = {site.process.pid}, 0.0
    while True:
        found = {int(p.parent.name) for p in Path("/proc").glob("[0-9]*/stat") if _parent(p) in wanted} - wanted
        if not found:
            break
        wanted |= found
    for pid in wanted:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except (OSError, ProcessLookupError):
            continue
        # Shared pages are counted by their share: what all processes map is not many times.
        kilobytes += sum(float(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kilobytes / 1024


def _parent(stat: Path) -> int:
    try:
        return int(stat.read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return -1


def ask(
    site: Site, method: str, path: str, headers: dict[str, str], body: bytes | None
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=60)
    named = {"Authorization": f"Bearer {site.token('hospital-a')}"}
    if body is not None:
        named["Content-Type"] = "application/fhir+json"
    try:
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in {
            **named,
            **headers,
            **({"Content-Length": str(len(body))} if body is not None else {}),
        }.items():
            connection.putheader(name, value)
        # Refused before the whole body was sent: the answer is there all the same.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    except (BrokenPipeError, ConnectionResetError, http.client.RemoteDisconnected):
        return 400, {}, b""  # closed on it: a refusal
    finally:
        connection.close()


def still_serves(site: Site) -> None:
    assert ask(site, "GET", "/readyz", {}, None)[0] == 200
    assert ask(site, "GET", "/fhir/Organization/hopital-a", {}, None)[0] == 200


@pytest.mark.parametrize("name", CORPUS)
def test_what_is_hostile_is_refused_and_the_server_goes_on(running: Site, baseline: float, name: str) -> None:
    """R12: 4xx, as an OperationOutcome under /fhir; nothing of the request becomes a header; the next is served."""
    method, path, headers, body, expected = CORPUS[name]
    began = time.monotonic()
    status, answered, content = ask(running, method, path, headers, body)
    assert status in expected, (name, status, content[:300])
    assert "x-injected" not in answered
    assert time.monotonic() - began < 30, name
    if path.startswith("/fhir") and status >= 400 and content:
        assert json.loads(content)["resourceType"] == "OperationOutcome", content[:200]
    still_serves(running)


@pytest.mark.parametrize("name", CORPUS)
def test_what_is_hostile_is_refused_without_a_token_too(running: Site, name: str) -> None:
    """A stranger gets 4xx (401, or 429 after a while) for the same, whatever it holds."""
    method, path, headers, body, _ = CORPUS[name]
    status, _, _ = ask(running, method, path, {**headers, "Authorization": "Bearer nobody"}, body)
    assert status in _4XX, (name, status)


RAW = {
    "TE and CL": b"POST /fhir/Patient HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"  # noqa: E501
    b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n",
    "two lengths": b"POST /fhir/Patient HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nContent-Length: 40\r\n\r\nabcd",
    "a negative length": b"POST /fhir/Patient HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    "a length of 10^30": b"POST /fhir/Patient HTTP/1.1\r\nHost: x\r\nContent-Length: 1" + b"0" * 30 + b"\r\n\r\n",
    "an obscured encoding": b"POST /fhir/Patient HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a broken chunk": b"POST /fhir/Patient HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\nabc\r\n",
    "a chunk of 10^16": b"POST /fhir/Patient HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffff\r\na",  # noqa: E501
    "a folded header": b"GET /fhir/Patient HTTP/1.1\r\nHost: x\r\nX: a\r\n b\r\n\r\n",
    "a space before the colon": b"GET /fhir/Patient HTTP/1.1\r\nHost : x\r\n\r\n",
    "NUL in a header": b"GET /fhir/Patient HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n",
    "bare LF": b"GET /fhir/Patient HTTP/1.1\nHost: x\n\n",
    "garbage": bytes(range(256)) * 20,
    "a header of 1 MB": b"GET /fhir/Patient HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\n",
    "10,000 headers": b"GET /fhir/Patient HTTP/1.1\r\nHost: x\r\n" + b"X: a\r\n" * 10_000 + b"\r\n",
    "a foreign host": b"GET /fhir/metadata HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    "an absolute target": b"GET http://evil.example/fhir/Patient HTTP/1.1\r\nHost: evil.example\r\n\r\n",
}


@pytest.mark.parametrize("name", RAW)
def test_no_malformed_http_is_served_or_smuggled(running: Site, name: str) -> None:
    """§5.1: an answer of 4xx or a closed connection; never two requests out of one, never a stranger's host in a link."""  # noqa: E501
    answer = b""
    with socket.create_connection(("127.0.0.1", running.port), timeout=3) as raw, contextlib.suppress(OSError):
        raw.sendall(RAW[name])
        while piece := raw.recv(65536):
            answer += piece
    statuses = [int(line[9:12]) for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.")]
    if name == "a foreign host":
        assert statuses == [200]
        assert b"evil.example" not in answer
    else:
        assert all(status in _4XX for status in statuses), (name, statuses)
        assert len(statuses) <= 1 or 404 not in statuses, "the second request was answered"
    still_serves(running)


def test_slow_headers_keep_nobody_waiting(running: Site) -> None:
    """§5.1: two hundred connections that send a header a byte at a time; others are served meanwhile."""
    slow = [socket.create_connection(("127.0.0.1", running.port), timeout=20) for _ in range(200)]
    try:
        for connection in slow:
            connection.sendall(b"GET /fhir/Patient HTTP/1.1\r\nX: ")
        for _ in range(3):
            for connection in slow:
                try:
                    connection.sendall(b"a")
                except OSError:
                    continue
            began = time.monotonic()
            still_serves(running)
            assert time.monotonic() - began < 10
    finally:
        for connection in slow:
            connection.close()


def test_a_deflate_bomb_by_c_store_is_refused(running: Site, tmp_path: Path) -> None:
    """§5.1: bytes that are no association, and one that offers a bomb; C-ECHO-like life goes on."""
    for garbage in (b"\0" * 1000, b"\1\0\xff\xff\xff\xff" + b"A" * 1000, b"GET / HTTP/1.1\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", running.dimse_port), timeout=10) as raw:
            raw.sendall(garbage)
    bomb = head("1.2.840.10008.1.2.1.99") + BOMB
    try:
        statuses = modality.send([bomb], "127.0.0.1", running.dimse_port, "HOPITAL_A")
    except Exception:  # noqa: BLE001 - the client may be unable to send it; that it is not stored is asked below
        statuses = []
    assert 0 not in statuses
    still_serves(running)


def test_memory_stays_bounded_over_the_corpus(running: Site, baseline: float) -> None:
    """R13: after all of the above."""
    grown = memory_mb(running) - baseline
    assert grown < GROWTH_MB, f"{grown:.0f} MB"
    assert running.process is not None
    assert running.process.poll() is None
    assert b"unexpected" not in running.log.read_bytes(), "an exception of the server's own"
