"""Client authentication by a signed assertion (private_key_jwt), to SMART's letter.

Authlib's own class takes the wrong algorithms and checks too little (measured: RS384 and ES384 refused, HS256 with an
`oct` key, a ten-year `exp` and a foreign `jku` accepted), so each rule is stated here and Authlib keeps the flow.
What can be judged without knowing the client is judged first and named precisely; what depends on the client (is it
registered, active, whose key) has one answer, and the audit record has the reason.

RFC 7523 §3, SMART 2.2 https://hl7.org/fhir/smart-app-launch/STU2.2/client-confidential-asymmetric.html
"""

from __future__ import annotations

import binascii
import math
import re
from base64 import urlsafe_b64decode
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from authlib.oauth2.rfc6749 import InvalidClientError
from authlib.oauth2.rfc7523 import JWTBearerClientAssertion
from joserfc import jwt
from joserfc.errors import JoseError

from auth import queries
from auth.clients import AUTH_METHOD, Client, Clock
from auth.keys import KEY_TYPES, import_public
from auth.registration import CLIENT_ID
from resources import jsontext
from resources.json import Json
from resources.outcomes import FhirError
from store.engine.database import Database

MAX_LIFETIME_S = 300
"""SMART: exp SHALL be no more than five minutes in the future."""
LEEWAY_S = 30
"""How far the clock of a client may be off."""
MAX_ASSERTION = 8192
MAX_JTI = 255
MAX_DEPTH = 6
"""A coding in an array of an extension is the fifth level."""

UNVERIFIED = "The client is not registered or the assertion does not verify with one of its registered keys"

_COMPACT = re.compile(r"([A-Za-z0-9_-]{1,1024})\.([A-Za-z0-9_-]{1,4096})\.([A-Za-z0-9_-]{1,2048})", re.ASCII)
_KEYS_FROM_ELSEWHERE = frozenset({"jwk", "x5c", "x5u"})


class BadAssertion(ValueError):
    """The assertion breaks a rule. The message names the rule, never a value."""


class NotAuthenticated(InvalidClientError):  # type: ignore[misc]
    """invalid_client, with the reason that only the audit record is told."""

    def __init__(self, description: str, reason: str | None = None) -> None:
        super().__init__(description=description, status_code=401)
        self.reason = reason or description


@dataclass(frozen=True, slots=True)
class Assertion:
    """What an assertion claims, every rule that needs no client being kept."""

    algorithm: str
    kid: str
    jku: str | None
    client_id: str
    jti: str
    expires_s: float
    extensions: Any
    """The claim as it came; None: there is none."""


def read(text: str, *, audiences: frozenset[str], now_s: float, leeway_s: float = LEEWAY_S) -> Assertion:
    """Judge an assertion by itself. Its signature is not checked. Raises BadAssertion."""
    if len(text) > MAX_ASSERTION:
        raise BadAssertion(f"The assertion is longer than {MAX_ASSERTION} characters")
    parts = _COMPACT.fullmatch(text)
    if parts is None:
        raise BadAssertion("The assertion is no signed JWT in compact form")
    header, claims = _object(parts[1], "header"), _object(parts[2], "payload")
    algorithm, kid = _header(header)
    client_id = _client_id(claims)
    _check_audience(claims, audiences)
    expires_s = _check_times(claims, now_s, leeway_s)
    jti = claims.get("jti")
    if not isinstance(jti, str) or not 1 <= len(jti) <= MAX_JTI:
        raise BadAssertion(f"jti is required: text of 1 to {MAX_JTI} characters")
    jku = header.get("jku")
    if "jku" in header and not isinstance(jku, str):
        raise BadAssertion("jku must be text")
    return Assertion(algorithm, kid, jku, client_id, jti, expires_s, claims.get("extensions"))


def claimed_client(text: str) -> str:
    """Whose name an assertion uses, for records and limits only; empty where it has none."""
    parts = _COMPACT.fullmatch(text) if len(text) <= MAX_ASSERTION else None
    try:
        claimed = _object(parts[2], "payload").get("sub") if parts else None
    except BadAssertion:
        return ""
    return claimed if isinstance(claimed, str) and CLIENT_ID.fullmatch(claimed) else ""


@dataclass(frozen=True, slots=True)
class RegisteredKeys:
    """The keys of one client, for Authlib to hand from one hook to the next."""

    jwks: Json
    jwks_uri: str | None

    def the_one(self, assertion: Assertion) -> Json:
        """The key with this kid and the key type of the algorithm: exactly one, or the assertion is refused."""
        kty = KEY_TYPES[assertion.algorithm]
        found = [key for key in self.jwks["keys"] if key["kid"] == assertion.kid and key["kty"] == kty]
        if len(found) != 1:
            raise NotAuthenticated(UNVERIFIED, f"{len(found)} registered keys match kid and kty")
        key: Json = found[0]
        if key.get("alg", assertion.algorithm) != assertion.algorithm:
            raise NotAuthenticated(UNVERIFIED, "the key is registered for another algorithm")
        return key


class PrivateKeyJwt(JWTBearerClientAssertion):  # type: ignore[misc]
    """Authlib's flow with SMART's rules and a jti that is used once across all processes."""

    CLIENT_AUTH_METHOD = AUTH_METHOD

    def __init__(self, database: Database, *, clock: Clock, audiences: frozenset[str]) -> None:
        super().__init__(leeway=LEEWAY_S)
        self._database = database
        self._clock = clock
        self._audiences = audiences

    def __call__(self, query_client: Callable[[str], Client | None], request: Any) -> Client | None:
        form = request.form
        if "client_assertion" not in form and "client_assertion_type" not in form:
            return None
        if form.get("client_assertion_type") != self.CLIENT_ASSERTION_TYPE or "client_assertion" not in form:
            raise NotAuthenticated(f"client_assertion_type must be {self.CLIENT_ASSERTION_TYPE}")
        assertion = self._read(form["client_assertion"])
        if form.get("client_id", assertion.client_id) != assertion.client_id:
            raise NotAuthenticated("client_id differs from the subject of the assertion")  # RFC 7521 §4.2

        def active(client_id: str) -> Client:
            client = query_client(client_id)
            if client is None or not client.active:
                raise NotAuthenticated(UNVERIFIED, "no such client" if client is None else "client inactive")
            return client

        client: Client | None = super().__call__(active, request)
        request.extensions = assertion.extensions  # its signature is verified now
        return client

    def resolve_client_public_key(self, client: Client) -> RegisteredKeys:
        return RegisteredKeys(client.record.jwks, client.record.jwks_uri)

    def process_assertion_claims(self, assertion: str, resolve_key: RegisteredKeys) -> Json:
        judged = self._read(assertion)
        if judged.jku is not None and judged.jku != resolve_key.jwks_uri:
            raise NotAuthenticated(UNVERIFIED, "jku is not the registered JWKS URL")
        key = import_public(resolve_key.the_one(judged))
        try:
            token = jwt.decode(assertion, key, algorithms=[judged.algorithm])
        except (JoseError, ValueError, TypeError) as error:
            raise NotAuthenticated(UNVERIFIED, f"signature: {type(error).__name__}") from error
        # Only now: who cannot sign cannot fill the table of used assertions.
        if not self.validate_jti(judged, judged.jti):
            raise NotAuthenticated("The assertion was used before: jti must be new")
        return token.claims

    def validate_jti(self, claims: Assertion, jti: str) -> bool:
        with self._database.write() as connection:
            expires = math.ceil(claims.expires_s) + LEEWAY_S
            return queries.use_assertion(connection, claims.client_id, jti, expires)

    def get_audiences(self) -> list[str]:
        return sorted(self._audiences)

    def _read(self, text: str) -> Assertion:
        try:
            return read(text, audiences=self._audiences, now_s=self._clock().timestamp())
        except BadAssertion as error:
            raise NotAuthenticated(str(error)) from error


def _object(segment: str, what: str) -> Json:
    try:
        raw = urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
        return jsontext.parse(raw, max_bytes=MAX_ASSERTION, max_depth=MAX_DEPTH)
    except (FhirError, binascii.Error, ValueError):
        raise BadAssertion(f"The {what} of the assertion is no JSON object") from None


def _header(header: Json) -> tuple[str, str]:
    algorithm, kid = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or algorithm not in KEY_TYPES:
        raise BadAssertion("alg must be RS384 or ES384")
    if header.get("typ") != "JWT":
        raise BadAssertion("typ must be JWT")
    if not isinstance(kid, str) or not 1 <= len(kid) <= 255:
        raise BadAssertion("kid is required")
    if _KEYS_FROM_ELSEWHERE & header.keys():
        raise BadAssertion("The key of an assertion is the registered one: jwk, x5c and x5u are refused")
    if "crit" in header or "b64" in header:
        raise BadAssertion("No critical header extension is understood")
    return algorithm, kid


def _client_id(claims: Json) -> str:
    issuer, subject = claims.get("iss"), claims.get("sub")
    if not isinstance(issuer, str) or not isinstance(subject, str):
        raise BadAssertion("iss and sub are required: the client_id")
    if issuer != subject:
        raise BadAssertion("iss and sub must both be the client_id")
    if not CLIENT_ID.fullmatch(subject):
        raise BadAssertion("sub is no client_id")
    return subject


def _check_audience(claims: Json, audiences: frozenset[str]) -> None:
    """The token URL, alone or in a list: an assertion that is also meant for others could be brought here by them."""
    audience = claims.get("aud")
    named = audience if isinstance(audience, list) else [audience]
    if not named or not all(isinstance(one, str) and one in audiences for one in named):
        raise BadAssertion("aud must be the token URL of this server")


def _check_times(claims: Json, now_s: float, leeway_s: float) -> float:
    expires_s = _instant(claims, "exp")
    if expires_s is None:
        raise BadAssertion("exp is required")
    if expires_s <= now_s - leeway_s:
        raise BadAssertion("The assertion has expired")
    if expires_s > now_s + MAX_LIFETIME_S + leeway_s:
        raise BadAssertion(f"exp must be at most {MAX_LIFETIME_S} seconds ahead")
    issued_s, from_s = _instant(claims, "iat"), _instant(claims, "nbf")
    if issued_s is not None and not now_s - MAX_LIFETIME_S - leeway_s <= issued_s <= now_s + leeway_s:
        raise BadAssertion("iat must lie within the last five minutes")
    if from_s is not None and from_s > now_s + leeway_s:
        raise BadAssertion("The assertion is not valid yet")
    if any(start_s is not None and start_s > expires_s for start_s in (issued_s, from_s)):
        raise BadAssertion("The assertion expires before it begins")
    return expires_s


def _instant(claims: Json, name: str) -> float | None:
    """A NumericDate (RFC 7519 §2)."""
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | Decimal) or not 0 <= value < 2**40:
        raise BadAssertion(f"{name} must be a number of seconds")
    return float(value)
