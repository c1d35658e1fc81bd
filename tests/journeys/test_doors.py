"""Every door at once: slow bodies, half-open requests, silent associations; those who work go on (DESIGN §2, §11).

A stranger and a hospital attack together; health, a read of another hospital and a known scanner are asked meanwhile.
No absolute time is asserted but the limit after which a clinician would call it down; `measured` prints what was seen.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from dicomweb import phantom
from dicomweb.phantom import Phantom
from fhir_server.demo import modality
from tests.clients.site import Site

SLOW_BODIES = 200
HALF_OPEN = 600
SILENT_ASSOCIATIONS = 70
DOWN_S = 5.0
"""Whoever waits longer calls it down."""
GROWTH_BYTES = 96 * 1024 * 1024
BODY_ROUTES = ("/fhir/Patient", "/fhir/", "/fhir/Patient/_search", "/fhir/Patient/$validate", "/oauth/token",
               "/oauth/introspect", "/oauth/revoke", "/dicom-web/studies")  # fmt: skip
"""One of each kind of route that takes a body."""


@contextlib.contextmanager
def opened(count: int, port: int, first: Callable[[int], bytes]) -> Iterator[list[socket.socket]]:
    """`count` connections that have sent their first bytes, and then nothing."""
    held: list[socket.socket] = []
    try:
        for number in range(count):
            one = socket.create_connection(("127.0.0.1", port), timeout=10)
            held.append(one)
            text = first(number)
            if text:
                with contextlib.suppress(OSError):  # refused at once is as good
                    one.sendall(text)
        yield held
    finally:
        for one in held:
            one.close()


def slow_body(site: Site, token: str) -> Callable[[int], bytes]:
    """A request of each route in turn whose body does not come: a hospital's, and at OAuth a stranger's."""

    def text(number: int) -> bytes:
        path = BODY_ROUTES[number % len(BODY_ROUTES)]
        form = path.startswith("/oauth") or path.endswith("_search")
        kind = "application/x-www-form-urlencoded" if form else "application/fhir+json"
        if path.startswith("/dicom-web"):
            kind = 'multipart/related; type="application/dicom"; boundary=b'
        lines = [f"POST {path} HTTP/1.1", f"Host: 127.0.0.1:{site.port}", f"Content-Type: {kind}",
                 "Content-Length: 10000"]  # fmt: skip
        if not path.startswith("/oauth"):
            lines.append(f"Authorization: Bearer {token}")
        return ("\r\n".join(lines) + "\r\n\r\ngrant_type=").encode()

    return text


def resident_bytes(pids: list[int]) -> int:
    """Memory of these processes."""
    return sum(
        int(line.split()[1]) * 1024
        for pid in pids
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("VmRSS")
    )


def asked(function: Callable[[], object], times: int = 20) -> list[float]:
    """Seconds of each call, sorted."""
    took = []
    for _ in range(times):
        began = time.perf_counter()
        function()
        took.append(time.perf_counter() - began)
    return sorted(took)


def median_ms(took: list[float]) -> float:
    """The median in milliseconds."""
    return 1000 * took[len(took) // 2]


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_those_who_work_go_on_while_every_door_is_attacked(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    """security.md B1, B2; RFC 9110 §15.5.9; PS3.8 §9.1.5."""
    attacker, victim = site.token("hospital-b"), site.token("hospital-a")
    series = phantom.series(Phantom(patient_id="DOORS", accession_number="", slices=2))
    with httpx2.Client(trust_env=False, timeout=DOWN_S) as client:

        def livez() -> None:
            assert client.get(f"{site.base}/livez").status_code == 200

        def read() -> None:
            answer = client.get(
                f"{site.base}/fhir/Organization/platform", headers={"Authorization": f"Bearer {victim}"}
            )
            assert answer.status_code == 200

        calm = asked(livez), asked(read)
        pids = [*site.web_workers(), site.child("dimse")]
        before = resident_bytes(pids)
        half = f"GET /fhir/Patient HTTP/1.1\r\nHost: 127.0.0.1:{site.port}\r\n".encode()
        with (
            opened(SLOW_BODIES, site.port, slow_body(site, attacker)),
            opened(HALF_OPEN, site.port, lambda number: half),
            opened(SILENT_ASSOCIATIONS, site.dimse_port, lambda number: b"\x01\x00" if number % 2 else b""),
        ):
            time.sleep(0.5)
            attacked = asked(livez), asked(read)
            statuses = modality.send(series, "127.0.0.1", site.dimse_port, "HOPITAL_A")
            grown = resident_bytes(pids) - before
    assert statuses == [0x0000] * len(series)
    assert grown < GROWTH_BYTES
    assert attacked[0][-1] < DOWN_S
    assert attacked[1][-1] < DOWN_S
    with capsys.disabled():
        print(
            f"\n  measured: /livez {median_ms(calm[0]):.1f} → {median_ms(attacked[0]):.1f} ms,"
            f" read {median_ms(calm[1]):.1f} → {median_ms(attacked[1]):.1f} ms (medians, calm → attacked),"
            f" worst {1000 * attacked[0][-1]:.0f} and {1000 * attacked[1][-1]:.0f} ms, memory {grown / 2**20:+.0f} MiB"
        )
