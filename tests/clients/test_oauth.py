"""Authlib's OAuth2 client with private_key_jwt, on keys registered by `./vigie client add --jwks`; `./vigie token`.

SMART 2.2 https://hl7.org/fhir/smart-app-launch/STU2.2/client-confidential-asymmetric.html
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
from authlib.integrations.requests_client import OAuth2Session
from authlib.oauth2.rfc7523 import PrivateKeyJWT
from joserfc.jwk import ECKey, RSAKey

from tests.clients.site import Site

SCOPE = "system/Patient.cruds system/ServiceRequest.rs"


def registered(site: Site, algorithm: str, folder: Path) -> tuple[str, Any]:
    """The client id and the private key of a client that gave its public key as a JWKS."""
    key: Any
    if algorithm == "RS384":
        key = RSAKey.generate_key(2048, {"kid": "mine", "alg": algorithm, "use": "sig"})
    else:
        key = ECKey.generate_key("P-384", {"kid": "mine", "alg": algorithm, "use": "sig"})
    public = folder / "jwks.json"
    public.write_text(json.dumps({"keys": [key.as_dict(private=False)]}))
    done = site.cli(
        "client", "add", f"Gateway {algorithm}", "--organization", "hopital-a", "--scope", SCOPE, "--role", "hospital",
        "--jwks", str(public),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert "private_key" not in made
    return made["client_id"], key


def signing(token_url: str, algorithm: str) -> PrivateKeyJWT:
    """Authlib's own expiry is an hour, SMART's limit five minutes. Given claims it reuses their jti: one a fetch."""
    return PrivateKeyJWT(token_url, claims={"exp": int(time.time()) + 240}, headers={"kid": "mine"}, alg=algorithm)


@pytest.mark.parametrize("algorithm", ["RS384", "ES384"])
def test_authlibs_session_fetches_a_token_and_works_with_it(site: Site, tmp_path: Path, algorithm: str) -> None:
    """SMART §authentication: RS384 and ES384; each assertion is used once, so each fetch signs a fresh one."""
    client_id, key = registered(site, algorithm, tmp_path)
    token_url = f"{site.base}/oauth/token"
    with OAuth2Session(client_id, key, "private_key_jwt", scope=SCOPE) as session:
        session.trust_env = False
        session.register_client_auth_method(signing(token_url, algorithm))
        first = session.fetch_token(token_url, grant_type="client_credentials")
        assert first["token_type"] == "Bearer"
        assert 0 < first["expires_in"] <= 300
        assert set(first["scope"].split()) == set(SCOPE.split())

        made = session.post(f"{site.fhir}/Patient", json={"resourceType": "Patient", "active": True})
        assert made.status_code == 201, made.text
        assert session.get(made.headers["Location"]).json()["active"] is True
        assert session.get(f"{site.fhir}/AuditEvent").status_code == 403
        session.register_client_auth_method(signing(token_url, algorithm))
        assert session.fetch_token(token_url, grant_type="client_credentials")["access_token"] != first["access_token"]
        with pytest.raises(Exception, match="invalid_client"):  # the same jti again
            session.fetch_token(token_url, grant_type="client_credentials")


def test_a_key_that_was_not_registered_gets_no_token(site: Site, tmp_path: Path) -> None:
    """RFC 6749 §5.2: invalid_client, 401."""
    client_id, _ = registered(site, "ES384", tmp_path)
    stranger = ECKey.generate_key("P-384", {"kid": "mine", "alg": "ES384"})
    token_url = f"{site.base}/oauth/token"
    with OAuth2Session(client_id, stranger, "private_key_jwt", scope=SCOPE) as session:
        session.trust_env = False
        session.register_client_auth_method(signing(token_url, "ES384"))
        with pytest.raises(Exception, match="invalid_client"):
            session.fetch_token(token_url, grant_type="client_credentials")


def test_vigie_token_prints_a_token_alone(site: Site) -> None:
    """DESIGN §11: prints it alone, so that `TOKEN=$(./vigie token …)` works; narrowed where asked."""
    client_id = site.described("auditor")["client_id"]
    done = site.cli("token", client_id, "--port", str(site.port))
    assert done.returncode == 0, done.stderr
    (token,) = done.stdout.splitlines()
    answer = httpx2.get(
        f"{site.fhir}/AuditEvent?_count=1", headers={"Authorization": f"Bearer {token}"}, trust_env=False
    )
    assert answer.status_code == 200

    unknown = site.cli("token", "nobody", "--port", str(site.port))
    assert unknown.returncode == 1
    assert "no private key of nobody" in unknown.stderr
    beyond = site.cli("token", client_id, "--scope", "system/Patient.cruds", "--port", str(site.port))
    assert beyond.returncode == 1
    assert "invalid_scope" in beyond.stderr


def test_a_client_with_a_new_key_can_use_it_at_once(site: Site) -> None:
    """DESIGN §11: prints JSON with its `client_id` and a new private key where none was given."""
    done = site.cli("client", "add", "New", "--organization", "hopital-b", "--scope", "system/Patient.rs", "--keep-key")
    made = json.loads(done.stdout)
    assert made["private_key"]["kty"] in ("EC", "RSA")
    fetched = site.cli("token", made["client_id"], "--port", str(site.port))
    assert fetched.returncode == 0, fetched.stderr

    refused = site.cli("client", "add", "Wrong", "--organization", "hopital-b", "--scope", "patient/Everything.x")
    assert refused.returncode == 1
    assert refused.stderr.startswith("Error: A scope is ")
