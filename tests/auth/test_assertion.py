"""Client authentication by private_key_jwt: what is accepted, and an attack corpus of what is not.

SMART 2.2 client-confidential-asymmetric https://hl7.org/fhir/smart-app-launch/STU2.2/client-confidential-asymmetric.html
RFC 7523 §3, RFC 8725
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient
from joserfc.jwk import ECKey

from auth.keys import new_key
from store.access import Interaction, Outcome
from tests.auth.engines import ON_ONE_ENGINE
from tests.auth.signing import ABSENT, ORIGIN, OTHER_ORIGIN, TOKEN_URL, Machine, b64, import_private, rsa_pair
from tests.support import Clock, MemoryTrail


def refused(answer: Any, error: str = "invalid_client", status: int = 401) -> dict[str, Any]:
    """The answer is a refusal as RFC 6749 §5.2 has it."""
    body: dict[str, Any] = answer.get_json()
    assert (answer.status_code, body["error"]) == (status, error), answer.text
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Content-Type"] == "application/json"
    assert set(body) <= {"error", "error_description"}
    return body


def test_an_es384_assertion_is_answered_by_a_token(http: FlaskClient, ehr: Machine) -> None:
    """SMART: servers SHALL support ES384 or RS384; this one both."""
    answer = ehr.ask(http)
    body = answer.get_json()
    assert answer.status_code == 200
    assert set(body) == {"access_token", "token_type", "expires_in", "scope"}
    assert body["token_type"] == "Bearer"
    assert body["expires_in"] == 300
    assert type(body["expires_in"]) is int
    assert len(body["access_token"]) == 43


def test_an_rs384_assertion_is_answered_by_a_token(http: FlaskClient, register: Callable[..., Machine]) -> None:
    """SMART: RS384."""
    assert register(pair=rsa_pair()).ask(http).status_code == 200


def test_token_responses_are_not_stored(http: FlaskClient, ehr: Machine) -> None:
    """RFC 6749 §5.1."""
    answer = ehr.ask(http)
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Pragma"] == "no-cache"
    assert answer.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("audience", [TOKEN_URL, [TOKEN_URL], f"{OTHER_ORIGIN}/oauth/token"])
def test_every_configured_token_url_is_an_audience(http: FlaskClient, ehr: Machine, audience: Any) -> None:
    """SMART: aud is the token URL."""
    assert ehr.ask(http, assertion=ehr.assertion(aud=audience)).status_code == 200


@pytest.mark.parametrize(
    "claims",
    [
        pytest.param({"iat": ABSENT}, id="iat is optional"),
        pytest.param({"exp": 329}, id="exp within the leeway"),
        pytest.param({"exp": -20, "iat": -260}, id="a clock that is twenty seconds ahead of the client"),
        pytest.param({"iat": 20}, id="a clock that is twenty seconds behind the client"),
        pytest.param({"nbf": 0}, id="nbf now"),
        pytest.param({"aud": TOKEN_URL, "custom": {"deep": [1]}}, id="unknown claims are ignored"),
    ],
)
def test_assertions_within_the_rules_are_accepted(http: FlaskClient, ehr: Machine, claims: dict[str, Any]) -> None:
    """RFC 7523 §3: clocks may differ a little. Times are offsets from now."""
    assert ehr.ask(http, assertion=ehr.assertion(**at(ehr, claims))).status_code == 200


@ON_ONE_ENGINE
@pytest.mark.parametrize(
    ("claims", "rule"),
    [
        pytest.param({"iss": "somebody-else"}, "iss and sub", id="iss differs"),
        pytest.param({"sub": "somebody-else"}, "iss and sub", id="sub differs"),
        pytest.param({"iss": ABSENT}, "iss and sub", id="no iss"),
        pytest.param({"sub": ABSENT}, "iss and sub", id="no sub"),
        pytest.param({"iss": 5, "sub": 5}, "iss and sub", id="iss is a number"),
        pytest.param({"iss": {"a": 1}, "sub": {"a": 1}}, "iss and sub", id="iss is an object"),
        pytest.param({"iss": "a\0b", "sub": "a\0b"}, "", id="NUL in the client id"),
        pytest.param({"iss": "a b", "sub": "a b"}, "no client_id", id="a space in the client id"),
        pytest.param({"iss": "x" * 200, "sub": "x" * 200}, "no client_id", id="long client id"),
        pytest.param({"aud": ABSENT}, "aud", id="no aud"),
        pytest.param({"aud": "https://elsewhere.example/oauth/token"}, "aud", id="another server's token URL"),
        pytest.param({"aud": ORIGIN}, "aud", id="the issuer is no token URL"),
        pytest.param({"aud": TOKEN_URL + "/"}, "aud", id="nearly the token URL"),
        pytest.param({"aud": []}, "aud", id="empty aud"),
        pytest.param({"aud": [TOKEN_URL, "https://elsewhere.example"]}, "aud", id="also for somebody else"),
        pytest.param({"aud": [5]}, "aud", id="aud is a number"),
        pytest.param({"exp": ABSENT}, "exp", id="no exp"),
        pytest.param({"exp": 331}, "exp", id="six minutes ahead"),
        pytest.param({"exp": 315_360_000}, "exp", id="ten years ahead"),
        pytest.param({"exp": -31}, "expired", id="expired"),
        pytest.param({"exp": "soon"}, "exp", id="exp is text"),
        pytest.param({"exp": True}, "exp", id="exp is a boolean"),
        pytest.param({"exp": None}, "exp", id="exp is null"),
        pytest.param({"iat": -31_536_000}, "iat", id="iat a year ago"),
        pytest.param({"iat": 120}, "iat", id="iat in the future"),
        pytest.param({"iat": "now"}, "iat", id="iat is text"),
        pytest.param({"nbf": 120}, "not valid yet", id="nbf in the future"),
        pytest.param({"nbf": [1]}, "nbf", id="nbf is a list"),
        pytest.param({"exp": 10, "nbf": 20}, "before it begins", id="ends before it begins"),
        pytest.param({"jti": ABSENT}, "jti", id="no jti"),
        pytest.param({"jti": 17}, "jti", id="jti is a number"),
        pytest.param({"jti": ""}, "jti", id="empty jti"),
        pytest.param({"jti": "j" * 300}, "jti", id="long jti"),
    ],
)
def test_claims_that_break_a_rule_are_refused_by_name(
    http: FlaskClient, ehr: Machine, claims: dict[str, Any], rule: str
) -> None:
    """SMART §Protocol details, RFC 7523 §3, RFC 7519 §4.1."""
    body = refused(ehr.ask(http, assertion=ehr.assertion(**at(ehr, claims))))
    assert rule in body["error_description"]


@ON_ONE_ENGINE
@pytest.mark.parametrize(
    ("header", "rule"),
    [
        pytest.param({"typ": ABSENT}, "typ", id="no typ"),
        pytest.param({"typ": "at+jwt"}, "typ", id="an access token as an assertion"),
        pytest.param({"typ": "jwt"}, "typ", id="typ in lower case"),
        pytest.param({"kid": ABSENT}, "kid", id="no kid"),
        pytest.param({"kid": 3}, "kid", id="kid is a number"),
        pytest.param({"jku": 3}, "jku", id="jku is a number"),
        pytest.param({"jku": "https://attacker.example/jwks"}, "does not verify", id="a foreign jku"),
        pytest.param({"kid": "unknown"}, "does not verify", id="an unknown kid"),
        pytest.param({"x5u": "https://attacker.example/cert"}, "registered one", id="x5u"),
        pytest.param({"crit": ["exp"], "exp": 1}, "critical", id="crit"),
        pytest.param({"b64": False, "crit": ["b64"]}, "critical", id="b64"),
    ],
)
def test_headers_that_break_a_rule_are_refused_by_name(
    http: FlaskClient, ehr: Machine, header: dict[str, Any], rule: str
) -> None:
    """SMART §Authentication JWT Header Values; RFC 8725 §2."""
    text = ehr.raw(json.dumps(ehr.header(**header)), json.dumps(ehr.claims()))
    assert rule in refused(ehr.ask(http, assertion=text))["error_description"]


def test_a_key_carried_in_the_header_is_not_used(http: FlaskClient, ehr: Machine) -> None:
    """CVE-2026-27962: the `jwk` of an attacker signs for anybody."""
    private, public = new_key(kid=ehr.key["kid"])
    attacker = Machine(ehr.client_id, private, ehr.clock)
    body = refused(attacker.ask(http, assertion=attacker.assertion(header={"jwk": public})))
    assert "registered one" in body["error_description"]


@ON_ONE_ENGINE
@pytest.mark.parametrize("algorithm", ["none", "None", "HS256", "HS384", "RS256", "ES256", "PS384", "", 5, None])
def test_other_algorithms_are_refused(http: FlaskClient, ehr: Machine, algorithm: Any) -> None:
    """RFC 8725 §3.1: only RS384 and ES384 of SMART, whatever the header says."""
    text = f"{b64(json.dumps(ehr.header(alg=algorithm)))}.{b64(json.dumps(ehr.claims()))}."
    for signature in ("", b64("x" * 96)):
        refused(ehr.ask(http, assertion=text + signature))


def test_a_public_key_is_not_a_shared_secret(http: FlaskClient, register: Callable[..., Machine]) -> None:
    """RFC 8725 §2.1: HS256 keyed with the PEM of the registered RSA key."""
    pair = rsa_pair()
    machine = register(pair=pair)
    signing_input = f"{b64(json.dumps(machine.header(alg='HS256')))}.{b64(json.dumps(machine.claims()))}"
    pem = import_private(pair[0]).as_pem(private=False)
    signature = hmac.digest(pem, signing_input.encode(), "sha256")
    refused(machine.ask(http, assertion=f"{signing_input}.{b64(signature)}"))


def test_an_algorithm_needs_its_own_kind_of_key(http: FlaskClient, register: Callable[..., Machine]) -> None:
    """SMART: exactly one key must match kid and kty."""
    private, public = new_key(kid="rsa")
    machine = register(pair=(private, public))
    other = Machine(machine.client_id, rsa_pair()[0], machine.clock)
    assert "does not verify" in refused(other.ask(http))["error_description"]


def test_a_signature_by_another_key_is_refused(http: FlaskClient, ehr: Machine) -> None:
    """RFC 7523 §3 item 9."""
    private, _ = new_key(kid=ehr.key["kid"])
    refused(Machine(ehr.client_id, private, ehr.clock).ask(http))


def test_a_signature_on_another_curve_is_refused(http: FlaskClient, ehr: Machine) -> None:
    """RFC 7518 §3.4: ES384 is P-384."""
    key = ECKey.generate_key("P-256", private=True)
    text = ehr.assertion(header={"alg": "ES256"}, key=key)
    changed = text.replace(text.split(".")[0], b64(json.dumps(ehr.header())))
    refused(ehr.ask(http, assertion=changed))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_altered_assertion_is_refused(http: FlaskClient, ehr: Machine, place: int) -> None:
    """RFC 7515 §5.2."""
    parts = ehr.assertion().split(".")
    changed = {"0": ehr.header(extra=1), "1": ehr.claims(jti="another")}.get(str(place))
    parts[place] = b64(json.dumps(changed)) if changed else b64("\0" * 96)
    refused(ehr.ask(http, assertion=".".join(parts)))


def test_an_unknown_client_and_a_wrong_signature_have_one_answer(
    http: FlaskClient, ehr: Machine, register: Callable[..., Machine], authority: Any
) -> None:
    """Nobody learns which clients exist."""
    gone = register()
    authority.clients.disable(gone.client_id)
    private, _ = new_key(kid=ehr.key["kid"])
    answers = [
        Machine("no-such-client", private, ehr.clock).ask(http),
        Machine(ehr.client_id, private, ehr.clock).ask(http),
        ehr.ask(http, assertion=ehr.assertion(header={"kid": "other"})),
        gone.ask(http),
    ]
    assert len({(answer.status_code, answer.text) for answer in answers}) == 1


@ON_ONE_ENGINE
@pytest.mark.parametrize(
    "text",
    [
        "garbage",
        "a.b",
        "a.b.c",
        "a.b.c.d.e",
        "..",
        "é.é.é",
        "[1].[2].[3]",
        f"{b64('[]')}.{b64('{}')}.{b64('x')}",
        f"{b64('{}')}.{b64('[]')}.{b64('x')}",
        f"{b64('nul')}.{b64('{}')}.{b64('x')}",
        f"{b64(b'{' + bytes([255]))}.{b64('{}')}.{b64('x')}",
        "A" * 9000,
        f"{b64('{}')}.{'A' * 200_000}.{b64('x')}",
    ],
)
def test_what_is_no_jwt_is_refused(http: FlaskClient, ehr: Machine, text: str) -> None:
    """RFC 7515 §3.1: oversized, cut, or never a JWT."""
    answer = ehr.ask(http, assertion=text)
    assert answer.status_code in (401, 413)
    assert answer.get_json()["error"] in ("invalid_client", "invalid_request")


@ON_ONE_ENGINE
@pytest.mark.parametrize(
    "payload",
    [
        pytest.param('{{{claims}, "sub": "somebody-else"}}', id="a claim twice"),
        pytest.param('{{{claims}, "x": NaN}}', id="NaN"),
        pytest.param('{{{claims}, "x": ' + "[" * 3000 + "]" * 3000 + "}}", id="nesting"),
        pytest.param('{{{claims}, "x": ' + "9" * 5000 + "}}", id="a number of 5,000 digits"),
        pytest.param('{{{claims}, "exp": 1e400}}', id="an exponent without end"),
        pytest.param('{{{claims}, "x": "\\ud800"}}', id="half a character"),
    ],
)
def test_signed_payloads_that_two_readers_read_differently_are_refused(
    http: FlaskClient, ehr: Machine, payload: str
) -> None:
    """RFC 8725 §2.4; RFC 7519 §4: claim names must be unique."""
    claims = json.dumps(ehr.claims())[1:-1]
    if '"exp": 1e' in payload:
        claims = json.dumps(ehr.claims(exp=ABSENT))[1:-1]
    text = ehr.raw(json.dumps(ehr.header()), payload.format(claims=claims))
    refused(ehr.ask(http, assertion=text))


def test_an_assertion_is_used_once(http: FlaskClient, ehr: Machine) -> None:
    """SMART: jti SHALL be unique within the lifetime."""
    assertion = ehr.assertion()
    assert ehr.ask(http, assertion=assertion).status_code == 200
    body = refused(ehr.ask(http, assertion=assertion))
    assert "used before" in body["error_description"]


def test_a_jti_belongs_to_its_issuer(http: FlaskClient, register: Callable[..., Machine]) -> None:
    """RFC 7523 §3 item 7: two clients may choose the same jti."""
    first, second = register(), register()
    assert first.ask(http, assertion=first.assertion(jti="one")).status_code == 200
    assert second.ask(http, assertion=second.assertion(jti="one")).status_code == 200


def test_a_jti_is_spent_only_by_a_good_signature(http: FlaskClient, ehr: Machine) -> None:
    """Otherwise whoever guesses a jti could stop a client from using it."""
    private, _ = new_key(kid=ehr.key["kid"])
    attacker = Machine(ehr.client_id, private, ehr.clock)
    refused(attacker.ask(http, assertion=attacker.assertion(jti="mine")))
    assert ehr.ask(http, assertion=ehr.assertion(jti="mine")).status_code == 200


def test_an_assertion_is_spent_even_if_the_scope_is_refused(http: FlaskClient, ehr: Machine) -> None:
    """SMART: an assertion authenticates once, whatever comes of the request."""
    assertion = ehr.assertion()
    refused(ehr.ask(http, assertion=assertion, scope="system/Patient.sr"), "invalid_scope", 400)
    refused(ehr.ask(http, assertion=assertion))


def test_used_assertions_are_forgotten_only_long_after_they_expired(
    http: FlaskClient, ehr: Machine, authority: Any, clock: Clock
) -> None:
    """A purge must not make a replay possible."""
    assertion = ehr.assertion()
    assert ehr.ask(http, assertion=assertion).status_code == 200
    clock.advance(seconds=269)
    authority.loops[0].step()
    refused(ehr.ask(http, assertion=assertion))
    clock.advance(hours=2)
    authority.loops[0].step()
    assert "expired" in refused(ehr.ask(http, assertion=assertion))["error_description"]


def test_the_registered_jwks_url_may_stand_in_the_header(
    http: FlaskClient, register: Callable[..., Machine]
) -> None:
    """SMART: jku, if present, SHALL match the registered URL."""
    url = "https://ehr.example.org/jwks.json"
    machine = register(jwks_uri=url)
    assert machine.ask(http, assertion=machine.assertion(header={"jku": url})).status_code == 200
    refused(machine.ask(http, assertion=machine.assertion(header={"jku": url + "?x"})))


def test_a_client_id_beside_the_assertion_must_be_the_same(http: FlaskClient, ehr: Machine) -> None:
    """RFC 7521 §4.2."""
    assert ehr.ask(http, client_id=ehr.client_id).status_code == 200
    assert "client_id" in refused(ehr.ask(http, client_id="other"))["error_description"]


def test_a_refusal_is_on_record_with_its_reason(http: FlaskClient, ehr: Machine, trail: MemoryTrail) -> None:
    """IHE BALP: a denied authentication is audited; the caller is told less than the auditor."""
    trail.clear()
    refused(ehr.ask(http, assertion=ehr.assertion(header={"kid": "other"})))
    (access,) = trail.disclosed
    assert access.interaction is Interaction.TOKEN
    assert access.outcome is Outcome.SERIOUS
    assert access.reason == "login: 0 registered keys match kid and kty"
    assert trail.callers[-1].client_id == ehr.client_id
    assert trail.callers[-1].organization == ""


def at(machine: Machine, claims: dict[str, Any]) -> dict[str, Any]:
    """Offsets in seconds become instants."""
    return {
        name: machine.now_s + value
        if name in ("exp", "iat", "nbf") and isinstance(value, int) and not isinstance(value, bool)
        else value
        for name, value in claims.items()
    }
