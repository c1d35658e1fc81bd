"""What every answer says to browsers and caches, and what none says of the server (§5.1)."""

from __future__ import annotations

import base64

import pytest

from tests.fhir_server.conftest import Client
from tests.security.scene import World

PATHS = (
    "Patient", "Patient/none", "metadata", "Nothing", "_history", "Patient?colour=x", "/dicom-web/studies", "/dicom-web/studies/1.2",  # noqa: E501
    "/livez", "/readyz", "/oauth/jwks", "/oauth/token", "/nothing", ".well-known/smart-configuration",
)  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_no_answer_is_sniffed_cached_or_names_a_version(world: World, path: str) -> None:
    """nosniff everywhere; what is about patients is not kept by caches; no banner with a version."""
    for who in (world.a, Client(world.api.app.test_client(), "nobody", "")):
        answer = who.get(path)
        assert answer.headers.getlist("X-Content-Type-Options") == ["nosniff"]
        if path.startswith("/dicom-web"):
            assert answer.headers.get("Cache-Control", "no-store").split(",")[0] in ("private", "no-store")
        elif path == "metadata":  # nobody's data: it may be kept, and is asked for again by its ETag
            assert answer.headers["Cache-Control"] == "no-cache"
        elif path not in ("/oauth/jwks",):
            assert "no-store" in answer.headers["Cache-Control"]
        for banner in (answer.headers.get("Server", ""), answer.headers.get("X-Powered-By", "")):
            assert not any(character.isdigit() for character in banner), banner


@pytest.mark.parametrize("path", PATHS)
def test_no_other_origin_may_read_but_the_public_documents(world: World, path: str) -> None:
    """CORS: `*` on the CapabilityStatement and the SMART configuration, without credentials; nowhere else."""
    answer = world.a.get(path, Origin="https://evil.example")
    allowed = answer.headers.get("Access-Control-Allow-Origin")
    assert "Access-Control-Allow-Credentials" not in answer.headers
    assert "evil" not in str(answer.headers)
    if path in ("metadata", ".well-known/smart-configuration"):
        assert allowed == "*"
    elif path != "/oauth/jwks":
        assert allowed is None


@pytest.mark.parametrize("media_type", ["text/html", "image/svg+xml", "application/xhtml+xml", "text/javascript"])
def test_no_stored_bytes_run_under_our_origin(world: World, media_type: str) -> None:
    """Stored XSS: a Binary is saved, not shown; its sandbox may do nothing."""
    script = base64.b64encode(b"<script>alert(1)</script>").decode()
    made = world.b.create({"resourceType": "Binary", "contentType": media_type, "data": script})
    answer = world.b.get(f"Binary/{made['id']}", Accept=media_type)
    assert answer.status_code == 200
    assert answer.headers["Content-Disposition"] == "attachment"
    assert answer.headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "media_type", ["text/plain\nX-Injected: yes", "text/plain\r\nSet-Cookie: a=b", "a/b;é=1", "x", "", "a b"]
)
def test_no_media_type_of_a_binary_becomes_a_header_of_its_own(world: World, media_type: str) -> None:
    """R4 `code` admits white space within, so that a newline would pass: refused, or served as octets."""
    made = world.b.post("Binary", {"resourceType": "Binary", "contentType": media_type, "data": "eA=="})
    assert made.status_code in (201, 400, 422), made.get_data(as_text=True)
    if made.status_code == 201:
        answer = world.b.get(f"Binary/{made.get_json()['id']}", Accept="application/octet-stream")
        assert answer.status_code == 200
        assert "X-Injected" not in answer.headers
        assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize("given", ["x" * 65, "a b", "é", "<script>", "a;b"])
def test_no_request_id_is_echoed_unless_it_is_plain(world: World, given: str) -> None:
    """§5.1: otherwise the server gives one."""
    answer = world.a.ask("GET", "Patient?_count=1", X_Request_Id=given)
    assert answer.headers["X-Request-Id"] != given
