"""An access token from a running server, for a client whose private key is at hand.

Client authentication by `private_key_jwt`: https://hl7.org/fhir/smart-app-launch/client-confidential-asymmetric.html
"""

from __future__ import annotations

import json
import secrets
import time
from pathlib import Path
from typing import Any

import httpx2
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

from auth import purposes
from fhir_server.server.faults import CannotRun
from fhir_server.server.settings import Settings

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_ASSERTION_LIFETIME_S = 240


class TokenRefused(CannotRun):
    """Why there is no token."""


def token(settings: Settings, client_id: str, scope: str = "", key_file: Path | None = None, purpose: str = "") -> str:
    """An access token for `client_id` from the running server, or TokenRefused."""
    description = _description(settings, client_id, key_file)
    return fetch_token(
        f"{settings.bases[0]}/oauth/token", client_id, description["private_key"],
        scope or description.get("scope", ""), purpose,
    )  # fmt: skip


def fetch_token(
    token_url: str, client_id: str, private_key: dict[str, Any], scope: str, purpose: str = ""
) -> str:
    """Ask the token endpoint by a fresh assertion."""
    form = {
        "grant_type": "client_credentials",
        "scope": scope,
        "client_assertion_type": ASSERTION_TYPE,
        "client_assertion": assertion(token_url, client_id, private_key, purpose),
    }
    try:
        answer = httpx2.post(token_url, data=form, timeout=15, trust_env=False)
    except httpx2.HTTPError as error:
        raise TokenRefused(f"no server answers at {token_url}") from error
    try:
        body = answer.json()
    except ValueError as error:
        raise TokenRefused(f"what answers at {token_url} is no authorization server") from error
    if answer.status_code != 200:
        raise TokenRefused(f"{body.get('error')}: {body.get('error_description', '')}")
    return str(body["access_token"])


def assertion(token_url: str, client_id: str, private_key: dict[str, Any], purpose: str = "") -> str:
    """A client assertion, signed and good for one use; `purpose`: asked for as IHE IUA has it, empty: none is."""
    algorithm = private_key.get("alg") or ("RS384" if private_key.get("kty") == "RSA" else "ES384")
    key = RSAKey.import_key(private_key) if private_key.get("kty") == "RSA" else ECKey.import_key(private_key)
    now = int(time.time())
    claims: dict[str, Any] = {
        "iss": client_id,
        "sub": client_id,
        "aud": token_url,
        "iat": now,
        "exp": now + _ASSERTION_LIFETIME_S,
        "jti": secrets.token_urlsafe(24),
    }
    if purpose:
        claims["extensions"] = {"ihe_iua": {"purpose_of_use": [{"system": purposes.SYSTEM, "code": purpose}]}}
    header = {"alg": algorithm, "kid": private_key["kid"], "typ": "JWT"}
    return jwt.encode(header, claims, key, algorithms=[algorithm])


def _description(settings: Settings, client_id: str, key_file: Path | None) -> dict[str, Any]:
    if key_file is not None:
        return _of_file(key_file)
    own = settings.data / "clients" / f"{client_id}.json"
    if client_id.replace("-", "").replace("_", "").isalnum() and own.is_file():
        described: dict[str, Any] = json.loads(own.read_text(encoding="utf-8"))
        return described
    for described in demo_clients(settings):
        if described["client_id"] == client_id:
            return described
    raise TokenRefused(f"no private key of {client_id} in the data folder: give one with --key")


def _of_file(file: Path) -> dict[str, Any]:
    """A private JWK, or the JSON that `client add` printed."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        key = found.get("private_key", found)
        (RSAKey if key["kty"] == "RSA" else ECKey).import_key(key)
        if "kid" not in key or "d" not in key:
            raise KeyError("kid")
    except (ValueError, KeyError, TypeError, AttributeError, JoseError) as error:
        raise TokenRefused(f"{file.name} holds no private key (a JWK with kid) and is not of `client add`") from error
    return found if "private_key" in found else {"private_key": found}


def demo_clients(settings: Settings) -> list[dict[str, Any]]:
    """What `serve --demo` wrote: a list of {client_id, organization, scope, private_key, role}."""
    path = settings.data / "demo" / "clients.json"
    if not path.is_file():
        return []
    listed: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return listed
