"""A machine with a private key: it signs assertions, right ones and wrong ones."""

from __future__ import annotations

import base64
import json
import secrets
import warnings
from typing import Any

from flask.testing import FlaskClient
from joserfc import jws, jwt
from joserfc.errors import SecurityWarning
from joserfc.jwk import ECKey, OctKey, RSAKey
from werkzeug.test import TestResponse

from tests.support import Clock

ORIGIN = "http://localhost:8080"
OTHER_ORIGIN = "https://vigie.example.org"
TOKEN_URL = f"{ORIGIN}/oauth/token"
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

ABSENT = object()
"""Leave a header or claim out."""


class Machine:
    """A registered client as it behaves on the wire."""

    def __init__(self, client_id: str, key: dict[str, Any], clock: Clock) -> None:
        self.client_id = client_id
        self.key = key
        self.clock = clock

    @property
    def now_s(self) -> int:
        return int(self.clock().timestamp())

    def claims(self, **changed: Any) -> dict[str, Any]:
        claims = {
            "iss": self.client_id,
            "sub": self.client_id,
            "aud": TOKEN_URL,
            "iat": self.now_s,
            "exp": self.now_s + 240,
            "jti": secrets.token_urlsafe(16),
            **changed,
        }
        return {name: value for name, value in claims.items() if value is not ABSENT}

    def header(self, **changed: Any) -> dict[str, Any]:
        header = {"alg": self.key.get("alg", "ES384"), "kid": self.key["kid"], "typ": "JWT", **changed}
        return {name: value for name, value in header.items() if value is not ABSENT}

    def assertion(self, *, header: dict[str, Any] | None = None, key: Any = None, **claims: Any) -> str:
        """A signed assertion; `header` and `claims` replace parts of it."""
        shown = self.header(**(header or {}))
        used = key or import_private(self.key)
        return jwt.encode(shown, self.claims(**claims), used, algorithms=[shown["alg"]], default_type=None)

    def raw(self, header: str, payload: str, algorithm: str = "ES384") -> str:
        """These very texts as header and payload, rightly signed."""
        signing_input = f"{b64(header)}.{b64(payload)}"
        model = jws.JWSRegistry(algorithms=[algorithm]).get_alg(algorithm)
        signature = model.sign(signing_input.encode(), import_private(self.key))
        return f"{signing_input}.{b64(signature)}"

    def form(self, *, assertion: str | None = None, **changed: Any) -> dict[str, Any]:
        form = {
            "grant_type": "client_credentials",
            "scope": "system/*.cruds",
            "client_assertion_type": ASSERTION_TYPE,
            "client_assertion": assertion or self.assertion(),
            **changed,
        }
        return {name: value for name, value in form.items() if value is not ABSENT}

    def ask(self, http: FlaskClient, **changed: Any) -> TestResponse:
        """POST to the token endpoint."""
        return http.post("/oauth/token", data=self.form(**changed), base_url=ORIGIN)

    def token(self, http: FlaskClient, scope: str = "system/*.cruds") -> str:
        answer = self.ask(http, scope=scope)
        assert answer.status_code == 200, answer.text
        return str(answer.get_json()["access_token"])


def import_private(key: dict[str, Any]) -> RSAKey | ECKey | OctKey:
    kinds: dict[str, Any] = {"RSA": RSAKey, "EC": ECKey, "oct": OctKey}
    imported: RSAKey | ECKey | OctKey = kinds[key["kty"]].import_key(
        {name: value for name, value in key.items() if name not in ("alg", "use")}
    )
    return imported


def b64(data: str | bytes) -> str:
    raw = data.encode() if isinstance(data, str) else data
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def rsa_pair(bits: int = 2048, kid: str = "rsa") -> tuple[dict[str, Any], dict[str, Any]]:
    """(private, public) RSA JWKs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SecurityWarning)  # a weak key is what some tests need
        key = RSAKey.generate_key(bits, private=True)
    extra = {"kid": kid, "alg": "RS384", "use": "sig"}
    return {**key.as_dict(private=True), **extra}, {**key.as_dict(private=False), **extra}


def payload_of(assertion: str) -> dict[str, Any]:
    segment = assertion.split(".")[1]
    return dict(json.loads(base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))))
