"""No secret in any sink: what is planted is looked for in the logs, the names of files and the database (§5.1)."""

from __future__ import annotations

import json
import sqlite3

import httpx2
import pytest

from dicomweb import phantom
from dicomweb.phantom import Phantom
from fhir_server.server import logs
from subscriptions.topics import ORDER_STATUS
from tests import builders
from tests.clients.site import Site
from tests.security.scene import stow_body, subscription

NAME = "KANARIENVOGEL"
NUMBER = "269054958815780"
HEADER = "Bearer-kanaldiener-71f3"
QUERY = "fragezeichen-4711"


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[Site, dict[str, str]]:
    """A real server that has seen canaries at every door, stopped; and the tokens that it gave."""
    site = Site(tmp_path_factory.mktemp("canary") / "data")
    site.start()
    try:
        tokens = {role: site.token(role) for role in ("hospital-a", "hospital-b", "platform", "auditor")}
        _play(site, tokens)
    finally:
        site.stop()
    return site, tokens


def _play(site: Site, tokens: dict[str, str]) -> None:
    with httpx2.Client(timeout=30, trust_env=False) as http:

        def ask(role: str, method: str, path: str, body: object = None, **more: object) -> httpx2.Response:
            headers = {"Authorization": f"Bearer {tokens[role]}", "Content-Type": "application/fhir+json"}
            content = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else None
            headers |= more.pop("headers", {})  # type: ignore[arg-type]
            return http.request(method, f"{site.base}{path}", content=content, headers=headers)

        identifier = [{"system": "urn:oid:1.2.250.1.213.1.4.10", "value": NUMBER}]
        made = ask("hospital-a", "POST", "/fhir/Patient", builders.patient(NAME, identifier=identifier))
        assert made.status_code == 201, made.text
        patient = f"Patient/{made.json()['id']}"
        order = ask(
            "hospital-a", "POST", "/fhir/ServiceRequest", builders.service_request(patient, reasonCode=[{"text": NAME}])
        )
        assert order.status_code == 201
        hook = subscription("http://127.0.0.1:9/x", ORDER_STATUS, header=[f"Authorization: {HEADER}"])
        assert ask("hospital-a", "POST", "/fhir/Subscription", hook).status_code == 201
        scan = phantom.series(Phantom(patient_id=NAME, patient_name=f"{NAME}^X", slices=1, side=8))
        kind = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=xyz'}
        assert ask("hospital-a", "POST", "/dicom-web/studies", stow_body(scan), headers=kind).status_code == 200
        for role in tokens:
            for path in (
                f"/fhir/Patient?family={NAME}&given={QUERY}", f"/fhir/Patient?{QUERY}={NAME}", f"/fhir/{NAME}/{QUERY}",
                f"/dicom-web/studies?PatientName={NAME}", f"/dicom-web/studies?{QUERY}={NAME}", f"/{NAME}/{QUERY}",
                f"/oauth/token?client_assertion={QUERY}", f"/fhir/Patient/{NAME}",
            ):  # fmt: skip
                ask(role, "GET", path)
            for body in (
                b'{"resourceType":"Patient","birthDate":"' + NAME.encode() + b'"}', b'{"resourceType":"Patient","gender":"' + NAME.encode(), NAME.encode(),  # noqa: E501
                json.dumps({"resourceType": "Patient", "gender": NAME, "name": NAME}).encode(),
            ):  # fmt: skip
                refused = ask(role, "POST", "/fhir/Patient", body)
                assert NAME not in refused.text, refused.text
            ask(role, "POST", "/dicom-web/studies", NAME.encode() * 50, headers={"Content-Type": "application/dicom"})
        http.get(f"{site.fhir}/Patient", headers={"Authorization": f"Bearer {NAME}"})
        http.post(f"{site.base}/oauth/token", data={"client_assertion": NAME, "grant_type": NAME, "client_id": QUERY})
        foreign = ask("hospital-b", "GET", f"/fhir/{patient}")
        assert foreign.status_code == 404
        assert NAME not in foreign.text


def _secrets(site: Site, tokens: dict[str, str]) -> dict[str, str]:
    listed = json.loads((site.data / "demo" / "clients.json").read_text(encoding="utf-8"))
    private = {one["role"]: one["private_key"]["d"] for one in listed}
    return {
        **{f"token of {role}": token for role, token in tokens.items()},
        **{f"key of {r}": d for r, d in private.items()},
    }


def test_no_canary_is_in_the_logs(played: tuple[Site, dict[str, str]]) -> None:
    """Neither names, numbers, queries, channel headers, tokens nor keys; and each line is one of ours."""
    site, tokens = played
    text = site.log.read_text(errors="replace") + site.out.read_text(errors="replace")
    for line in site.log.read_text().splitlines():
        if not line.startswith("vigie: "):  # what the launcher says while it makes the environment, on first use
            assert json.loads(line).keys() <= logs.FIELDS.keys(), line
    assert text.count('"request_id"') > 50, "requests are logged at all"
    for what, secret in {
        "name": NAME,
        "INS": NUMBER,
        "channel header": HEADER,
        "query": QUERY,
        **_secrets(site, tokens),
    }.items():
        assert secret not in text, what
        assert secret.lower() not in text.lower(), what


def test_no_canary_is_in_the_name_of_a_file(played: tuple[Site, dict[str, str]]) -> None:
    """Objects lie by digest; the spool is empty or has random names; nothing of it is readable to other accounts."""
    site, _ = played
    for path in site.data.rglob("*"):
        assert NAME not in path.name
        assert NUMBER not in path.name
        assert "2.25." not in path.name, "no UID is a file name"
    assert not [path for path in (site.data / "spool").iterdir() if path.is_file()]
    assert site.data.stat().st_mode & 0o077 == 0
    for path in (site.data / "keys").iterdir():
        assert path.suffix == ".pub" or path.stat().st_mode & 0o077 == 0, path.name


def test_no_token_or_channel_header_is_in_any_file(played: tuple[Site, dict[str, str]]) -> None:
    """Nor in what waits to be sequenced; the keys of the demo's clients are in the one file that is for them."""
    site, tokens = played
    secrets = {"channel header": HEADER, **tokens}
    for path in site.data.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        assert not [what for what, secret in secrets.items() if secret.encode() in content], path.name


def test_no_token_key_or_channel_header_is_in_the_database(played: tuple[Site, dict[str, str]]) -> None:
    """Tokens are there as hashes alone, private keys not at all, channel headers sealed."""
    site, tokens = played
    stored = b"".join(path.read_bytes() for path in site.data.glob("vigie.db*"))
    assert NAME.encode() in stored, "the database is what is looked at"
    for what, secret in {"channel header": HEADER, **_secrets(site, tokens)}.items():
        assert secret.encode() not in stored, what


def test_the_audit_record_holds_no_content(played: tuple[Site, dict[str, str]]) -> None:
    """BALP: references and the raw query of a search; never a name that was only in a body."""
    site, _ = played
    connection = sqlite3.connect(f"file:{site.data / 'vigie.db'}?mode=ro", uri=True)
    try:
        tables = [
            row[0]
            for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'audit%'")
        ]
        assert tables
        for table in tables:
            for row in connection.execute(f'SELECT * FROM "{table}"'):  # noqa: S608 - names of our own
                for value in row:
                    text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
                    assert NUMBER not in text, table
                    assert HEADER not in text, table
    finally:
        connection.close()
