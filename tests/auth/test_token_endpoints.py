"""/oauth/token, introspect, revoke, jwks and the metadata, beside client authentication itself.

RFC 6749, RFC 7009, RFC 7662, RFC 8414, SMART 2.2
"""

from __future__ import annotations

import gzip
import logging
from collections.abc import Callable
from typing import Any

import pytest
from authlib.oauth2 import rfc8414
from flask import request
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from auth import parameters, purposes
from auth.keys import new_key
from auth.service import Authority
from resources.outcomes import Unavailable
from store.access import Interaction, Outcome
from store.engine.database import Database
from tests.auth.conftest import application
from tests.auth.engines import ON_ONE_ENGINE
from tests.auth.signing import ABSENT, ASSERTION_TYPE, ORIGIN, OTHER_ORIGIN, Machine, import_private
from tests.auth.test_assertion import refused
from tests.support import PLATFORM, Clock, MemoryTrail

ENDPOINTS = ("/oauth/token", "/oauth/introspect", "/oauth/revoke")


# — the request itself —


@ON_ONE_ENGINE
@pytest.mark.parametrize("path", ENDPOINTS)
def test_parameters_in_the_url_are_refused(http: FlaskClient, ehr: Machine, path: str) -> None:
    """RFC 6749 §2.3.1: credentials MUST NOT be in the URI; Authlib would take them."""
    form = ehr.form()
    refused(http.post(path, query_string=form), "invalid_request", 400)
    refused(http.post(path, query_string={"scope": "system/*.cruds"}, data=form), "invalid_request", 400)


@ON_ONE_ENGINE
@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize("name", ["grant_type", "scope", "client_assertion", "token"])
def test_a_parameter_given_twice_is_refused(http: FlaskClient, ehr: Machine, path: str, name: str) -> None:
    """RFC 6749 §3.2: parameters MUST NOT be included more than once."""
    form = [*ehr.form(token="t").items(), (name, "x")]
    body = refused(http.post(path, data=_encoded(form), content_type=_FORM), "invalid_request", 400)
    assert "more than once" in body["error_description"]


@ON_ONE_ENGINE
@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize("content_type", ["application/json", "multipart/form-data; boundary=x", "text/plain", ""])
def test_other_content_types_are_refused(http: FlaskClient, ehr: Machine, path: str, content_type: str) -> None:
    """RFC 6749 §4.4.2: application/x-www-form-urlencoded."""
    answer = http.post(path, data=_encoded(ehr.form().items()), content_type=content_type)
    refused(answer, "invalid_request", 400)


@ON_ONE_ENGINE
@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods_are_refused(http: FlaskClient, path: str, method: str) -> None:
    """RFC 6749 §3.2: the client MUST use POST."""
    answer = http.open(path, method=method)
    refused(answer, "invalid_request", 405)
    assert answer.headers["Allow"] == "POST"


@ON_ONE_ENGINE
@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"grant_type",
        b"grant_type=%FF%FE",
        b"a=%00",
        "grant_type=é".encode(),
        b"&".join(b"p%d=1" % n for n in range(40)),
        b"\x00\xff" * 50,
    ],
)
def test_bodies_that_are_no_forms_are_refused(http: FlaskClient, path: str, body: bytes) -> None:
    """RFC 6749 Appendix B: UTF-8, percent-encoded; and never a 5xx."""
    answer = http.post(path, data=body, content_type=_FORM)
    assert answer.status_code in (400, 401)
    assert answer.get_json()["error"] in ("invalid_request", "invalid_client")


@ON_ONE_ENGINE
@pytest.mark.parametrize("path", ENDPOINTS)
def test_large_and_compressed_bodies_are_refused(http: FlaskClient, path: str) -> None:
    """The form has a limit before it is parsed, and is never inflated."""
    refused(http.post(path, data=b"a=" + b"x" * 40_000, content_type=_FORM), "invalid_request", 413)
    packed = gzip.compress(b"a=" + b"x" * 1_000_000)
    answer = http.post(path, data=packed, content_type=_FORM, headers={"Content-Encoding": "gzip"})
    refused(answer, "invalid_request", 400)


@ON_ONE_ENGINE
@pytest.mark.parametrize(
    ("changed", "error", "status"),
    [
        ({"grant_type": ABSENT}, "invalid_request", 400),
        ({"grant_type": ""}, "invalid_request", 400),
        ({"grant_type": "authorization_code"}, "unsupported_grant_type", 400),
        ({"grant_type": 'pass"word\\'}, "unsupported_grant_type", 400),
        ({"client_assertion_type": "urn:other"}, "invalid_client", 401),
        ({"client_assertion_type": ABSENT}, "invalid_client", 401),
        ({"client_assertion": ABSENT}, "invalid_client", 401),
        ({"client_assertion": ABSENT, "client_secret": "s", "client_id": "c"}, "invalid_client", 401),
        ({"client_secret": "s"}, "invalid_request", 400),
    ],
)
def test_token_requests_that_break_the_protocol(
    http: FlaskClient, ehr: Machine, changed: dict[str, Any], error: str, status: int
) -> None:
    """RFC 6749 §5.2; Inferno's backend services group: 400 or 401 for each."""
    refused(ehr.ask(http, **changed), error, status)


def test_basic_authentication_is_not_offered(http: FlaskClient, ehr: Machine) -> None:
    """private_key_jwt only; two methods at once are refused (RFC 6749 §2.3)."""
    answer = http.post("/oauth/token", data=ehr.form(client_assertion=ABSENT), auth=("a", "b"))
    refused(answer)
    assert answer.headers["WWW-Authenticate"].startswith("Bearer ")
    refused(http.post("/oauth/token", data=ehr.form(), auth=("a", "b")), "invalid_request", 400)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from(ENDPOINTS),
    form=st.dictionaries(
        st.sampled_from(["grant_type", "scope", "client_assertion", "client_assertion_type", "token", "client_id"])
        | st.text(max_size=8),
        st.text(max_size=40) | st.just(ASSERTION_TYPE) | st.just("client_credentials"),
        max_size=6,
    ),
    authorization=st.none() | st.text(st.characters(max_codepoint=255, exclude_categories=["Cc"]), max_size=60),
)
def test_no_form_brings_the_server_down(
    http: FlaskClient, path: str, form: dict[str, str], authorization: str | None
) -> None:
    """Bad input is a 4xx with an OAuth error, never a 5xx."""
    headers = {} if authorization is None else {"Authorization": authorization}
    answer = http.post(path, data=_encoded(form.items()), content_type=_FORM, headers=headers)
    assert 400 <= answer.status_code < 500
    assert answer.get_json()["error"]


# — what is declared —


VALUES = {
    "client_assertion": None,  # the machine's own
    "client_assertion_type": ASSERTION_TYPE,
    "client_id": None,
    "client_secret": "s",
    "grant_type": "client_credentials",
    "scope": "system/Patient.rs",
    "token": "t",
    "token_type_hint": "access_token",
}


@ON_ONE_ENGINE
@pytest.mark.parametrize("path", ENDPOINTS)
def test_an_endpoint_takes_what_it_declares_and_ignores_the_rest(http: FlaskClient, ehr: Machine, path: str) -> None:
    """RFC 6749 §3.2: unrecognized parameters MUST be ignored; each parameter, known or not, once."""
    declared = parameters.DECLARED[path].fields
    assert set(declared) <= set(VALUES)
    base: dict[str, Any] = {} if path == "/oauth/token" else {"token": "t"}
    plain = http.post(path, data=ehr.form(**base))
    assert plain.status_code == 200
    for name in declared:
        value = ehr.client_id if name == "client_id" else VALUES[name]
        form = ehr.form(**base) if value is None else ehr.form(**{**base, name: value})
        answer = http.post(path, data=form)
        assert answer.status_code == (400 if name == "client_secret" else 200), name
        twice = [*form.items(), (name, form[name])]
        refused(http.post(path, data=_encoded(twice), content_type=_FORM), "invalid_request", 400)
    answer = http.post(path, data=ehr.form(**base, colour="red", resource="https://x.example/", redirect_uri="x:"))
    assert (answer.status_code, set(answer.get_json())) == (200, set(plain.get_json()))
    twice = [*ehr.form(**base).items(), ("colour", "red"), ("colour", "red")]
    refused(http.post(path, data=_encoded(twice), content_type=_FORM), "invalid_request", 400)


@ON_ONE_ENGINE
@pytest.mark.parametrize("path", ["/oauth/jwks", "/.well-known/oauth-authorization-server"])
def test_a_document_takes_no_parameter_and_minds_none(http: FlaskClient, path: str) -> None:
    """RFC 8414 §3, RFC 7517: no query is defined; one that passes a cache changes nothing."""
    assert not parameters.DECLARED[path].fields
    answer = http.get(path, query_string=[("colour", "red"), ("colour", "blue")])
    assert (answer.status_code, answer.data) == (200, http.get(path).data)


@ON_ONE_ENGINE
def test_every_endpoint_declares_its_parameters(http: FlaskClient) -> None:
    rules = http.application.url_map.iter_rules()
    assert {rule.rule for rule in rules if rule.endpoint.startswith("oauth.")} == set(parameters.DECLARED)


@ON_ONE_ENGINE
def test_what_is_ignored_is_not_on_record(http: FlaskClient, ehr: Machine, trail: MemoryTrail) -> None:
    """Nor is a secret: only what is declared so."""
    trail.clear()
    http.post("/oauth/introspect", data=ehr.form(token="secret-token", token_type_hint="hint", colour="red-colour"))
    (access,) = trail.disclosed
    assert "token_type_hint=hint" in (access.query or "")
    assert "secret-token" not in repr(access)
    assert "red-colour" not in repr(access)


# — scope —


@pytest.mark.parametrize(
    ("allowed", "asked", "granted"),
    [
        ("system/*.cruds", "system/Patient.rs", "system/Patient.rs"),
        ("system/Patient.rs system/Task.cruds", "system/*.rs", "system/Patient.rs system/Task.rs"),
        ("system/Patient.rs", "system/Patient.cruds", "system/Patient.rs"),
        ("system/*.rs", "system/Patient.read", "system/Patient.read"),
        ("system/*.cruds", "system/*.*", "system/*.*"),
        ("system/*.rs", "system/Patient.*", "system/Patient.read"),
        ("system/Patient.r", "system/Patient.read", "system/Patient.r"),
        ("system/Task.rs?status=accepted", "system/Task.rs", "system/Task.rs?status=accepted"),
        ("system/*.rs", "openid fhirUser system/Patient.rs user/Patient.rs", "system/Patient.rs"),
    ],
)
def test_the_granted_scope_is_what_was_asked_and_may_be_had(
    http: FlaskClient, register: Callable[..., Machine], allowed: str, asked: str, granted: str
) -> None:
    """SMART 2.2 §Scopes; RFC 6749 §3.3: the answer says what was granted."""
    answer = register(scope=allowed).ask(http, scope=asked)
    assert answer.get_json()["scope"] == granted


def test_without_a_scope_all_that_is_registered_is_granted(
    http: FlaskClient, register: Callable[..., Machine]
) -> None:
    """RFC 6749 §3.3: a pre-defined default."""
    machine = register(scope="system/Patient.rs system/Task.r")
    assert machine.ask(http, scope=ABSENT).get_json()["scope"] == "system/Patient.rs system/Task.r"


@pytest.mark.parametrize(
    "asked",
    ["system/Observation.rs", "user/Patient.rs", "openid", "system/Patient.sr", "nonsense", "system/Patient.rs  ",
     "system/Patient.rs system/Patient.read-only", "é", 'system/"', "x" * 9000],
)  # fmt: skip
def test_what_cannot_be_granted_is_refused(http: FlaskClient, register: Callable[..., Machine], asked: str) -> None:
    """RFC 6749 §5.2 invalid_scope: nothing remains, or one part is malformed."""
    refused(register(scope="system/Patient.rs").ask(http, scope=asked), "invalid_scope", 400)


# — what is kept, what is logged, what is on record —


def test_the_database_holds_no_token(http: FlaskClient, ehr: Machine, database: Database) -> None:
    """A copy of the database gives no access."""
    token = ehr.token(http)
    with database.read() as connection:
        row = connection.execute(text("SELECT * FROM oauth_token")).one()
    assert token not in repr(row)
    assert token.encode() not in bytes(row.digest)
    assert row.expires - row.issued == 300


def test_no_secret_is_logged(http: FlaskClient, ehr: Machine, caplog: pytest.LogCaptureFixture) -> None:
    """Authlib logs every token that it issues at DEBUG."""
    caplog.set_level(logging.DEBUG)
    assertion = ehr.assertion()
    token = ehr.ask(http, assertion=assertion).get_json()["access_token"]
    http.post("/oauth/introspect", data={"token": token}, headers={"Authorization": f"Bearer {token}"})
    http.post("/oauth/revoke", data=ehr.form(token=token))
    ehr.ask(http, assertion=assertion)
    assert token not in caplog.text
    assert assertion not in caplog.text
    assert assertion.split(".")[1] not in caplog.text


def test_each_answer_is_on_record_before_it_leaves(http: FlaskClient, ehr: Machine, trail: MemoryTrail) -> None:
    """BALP: issue, introspection and revocation, without the token itself."""
    trail.clear()
    token = ehr.token(http)
    http.post("/oauth/introspect", data={"token": token}, headers={"Authorization": f"Bearer {token}"})
    http.post("/oauth/revoke", data=ehr.form(token=token))
    assert [access.interaction for access in trail.appended] == [Interaction.TOKEN, Interaction.REVOKE]
    assert [access.interaction for access in trail.disclosed] == [Interaction.INTROSPECT]
    issued = trail.callers[0]
    assert issued.client_id == ehr.client_id
    assert issued.token_ref
    assert dict(trail.disclosed[0].detail)["introspected"] == issued.token_ref
    assert token not in repr((trail.appended, trail.disclosed, trail.callers))


def test_a_malformed_request_is_on_record_too(http: FlaskClient, trail: MemoryTrail) -> None:
    """Every refusal is recorded."""
    http.get("/oauth/token")
    (access,) = trail.disclosed
    assert (access.interaction, access.outcome, access.query) == (
        Interaction.TOKEN, Outcome.MINOR, "GET /oauth/token"
    )  # fmt: skip


@pytest.mark.parametrize("path", ENDPOINTS)
def test_without_a_record_there_is_no_answer(
    http: FlaskClient, ehr: Machine, trail: MemoryTrail, path: str
) -> None:
    """DESIGN §3: if the record cannot be written, the answer is 503."""
    token = ehr.token(http)
    trail.failure = Unavailable("The audit trail is away")
    answer = http.post(path, data=ehr.form(token=token))
    assert answer.status_code == 503
    assert answer.get_json()["error"] == "temporarily_unavailable"
    assert token not in answer.text


# — introspection —


def test_introspection_tells_what_a_token_is(
    http: FlaskClient, register: Callable[..., Machine], clock: Clock
) -> None:
    """RFC 7662 §2.2, SMART 2.2 §Token introspection."""
    machine = register(role="radiologist", practitioner="Practitioner/p1")
    token = machine.token(http, "system/Patient.rs")
    answer = http.post("/oauth/introspect", data={"token": token}, headers=bearer(token))
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.get_json() == {
        "active": True,
        "scope": "system/Patient.rs",
        "client_id": machine.client_id,
        "token_type": "Bearer",
        "exp": int(clock().timestamp()) + 300,
        "iat": int(clock().timestamp()),
        "sub": machine.client_id,
        "iss": ORIGIN,
        "organization": "hospital-a",
        "role": "radiologist",
        "extensions": {"ihe_iua": {"purpose_of_use": [{"system": purposes.SYSTEM, "code": "TREAT"}]}},
        "fhirUser": "Practitioner/p1",
    }


# — purpose of use —


def purpose_of_use(*codes: str, **changed: str) -> dict[str, Any]:
    return {"ihe_iua": {"purpose_of_use": [{"system": purposes.SYSTEM, "code": code, **changed} for code in codes]}}


@pytest.mark.parametrize("role", ["ehr", *purposes.OF_ROLE])
def test_a_client_has_the_purposes_of_its_role_and_no_other(
    http: FlaskClient, register: Callable[..., Machine], authority: Authority, trail: MemoryTrail, role: str
) -> None:
    """IHE IUA ITI-71 (`purpose_of_use`), RFC 6749 §5.2: granted, kept, told, recorded; or invalid_grant."""
    machine = register(role=role)
    codes = {*purposes.OF_ROLE.values(), *(code for more in purposes.FURTHER.values() for code in more), "TREAT",
             "ETREAT", "BTG", "HPAYMT", "", "treat"}  # fmt: skip
    for code in codes:
        assertion = machine.assertion(extensions=purpose_of_use(code))
        answer = machine.ask(http, assertion=assertion)
        if code not in purposes.allowed(role):
            assert (answer.status_code, answer.get_json()["error"]) == (400, "invalid_grant"), code
            refused = trail.disclosed[-1]
            assert (refused.outcome, refused.reason[:10]) == (Outcome.SERIOUS, "forbidden:")
            continue
        assert answer.status_code == 200, code
        assert trail.callers[-1].purpose == code, "the record of the token itself"
        token = answer.get_json()["access_token"]
        told = http.post("/oauth/introspect", data={"token": token}, headers=bearer(token)).get_json()
        assert told["extensions"] == purpose_of_use(code)
        with http.application.test_request_context(headers=bearer(token)):
            assert authority.guard(request).purpose == code
    assert codes > purposes.allowed(role), "each of these is tried"


@pytest.mark.parametrize(
    "extensions",
    [
        "TREAT", 1, [], {"ihe_iua": "TREAT"}, {"ihe_iua": {"purpose_of_use": "TREAT"}},
        {"ihe_iua": {"purpose_of_use": ["TREAT"]}}, {"ihe_iua": {"purpose_of_use": [{"code": "TREAT"}]}},
        {"ihe_iua": {"purpose_of_use": [{"system": purposes.SYSTEM}]}}, {"ihe_iua": {"purpose_of_use": None}},
        {"ihe_iua": {"purpose_of_use": [{"system": purposes.SYSTEM, "code": 1}]}},
        purpose_of_use(), purpose_of_use("TREAT", "ETREAT"), purpose_of_use("TREAT", system="urn:x"),
    ],
)  # fmt: skip
def test_what_is_no_purpose_of_use_is_refused(http: FlaskClient, ehr: Machine, extensions: Any) -> None:
    """RFC 6749 §5.2 invalid_request: a client that asks for a purpose never goes on under another."""
    answer = ehr.ask(http, assertion=ehr.assertion(extensions=extensions))
    assert (answer.status_code, answer.get_json()["error"]) == (400, "invalid_request")


@pytest.mark.parametrize(
    "extensions", [ABSENT, None, {}, {"ihe_iua": {}}, {"ihe_iua": {"subject_name": "x"}}, {"hl7-b2b": {"version": "1"}}]
)
def test_without_a_purpose_it_is_that_of_the_role(
    http: FlaskClient, ehr: Machine, trail: MemoryTrail, extensions: Any
) -> None:
    """Extensions that are not understood are ignored, as RFC 7519 §4 has it for claims."""
    answer = ehr.ask(http, assertion=ehr.assertion(extensions=extensions))
    assert answer.status_code == 200
    assert trail.callers[-1].purpose == "TREAT"


def test_a_purpose_is_the_signers_alone(http: FlaskClient, ehr: Machine) -> None:
    """No parameter of the form says it, and no assertion of another key."""
    other = new_key()[0]
    forged = ehr.assertion(extensions=purpose_of_use("ETREAT"), key=import_private({**other, "kid": ehr.key["kid"]}))
    assert ehr.ask(http, assertion=forged).status_code == 401
    token = ehr.ask(http, purpose_of_use="ETREAT").get_json()["access_token"]
    told = http.post("/oauth/introspect", data={"token": token}, headers=bearer(token)).get_json()
    assert told["extensions"] == purpose_of_use("TREAT")


def test_a_signed_assertion_may_introspect(http: FlaskClient, ehr: Machine) -> None:
    """RFC 7662 §2.1: some form of authorization."""
    token = ehr.token(http)
    form = {"token": token, "client_assertion_type": ASSERTION_TYPE, "client_assertion": ehr.assertion()}
    assert http.post("/oauth/introspect", data=form).get_json()["active"] is True


def test_tokens_of_others_are_inactive_to_an_organization(
    http: FlaskClient, register: Callable[..., Machine]
) -> None:
    """RFC 7662 §2.2: what is not to be told is `active: false`; the platform serves everybody."""
    ours, theirs, platform = register(), register("hospital-b"), register(PLATFORM)
    token = theirs.token(http)
    assert introspect(http, ours, token) == {"active": False}
    assert introspect(http, platform, token)["active"] is True
    assert introspect(http, register("hospital-b"), token)["active"] is True


def test_tokens_that_give_no_access_are_inactive(http: FlaskClient, ehr: Machine, clock: Clock) -> None:
    """RFC 7662 §2.2."""
    token = ehr.token(http)
    assert introspect(http, ehr, "unknown") == {"active": False}
    assert introspect(http, ehr, "é\u2028" * 20) == {"active": False}
    clock.advance(seconds=300)
    assert introspect(http, ehr, token) == {"active": False}


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer nothing"}, {"Authorization": "Basic YTpi"}])
def test_introspection_needs_authentication(http: FlaskClient, ehr: Machine, headers: dict[str, str]) -> None:
    """RFC 7662 §2.1: to prevent token scanning."""
    answer = http.post("/oauth/introspect", data={"token": ehr.token(http)}, headers=headers)
    assert answer.status_code == 401
    assert "active" not in answer.get_json()
    assert answer.headers["WWW-Authenticate"].startswith("Bearer ")


def test_introspection_needs_a_token_parameter(http: FlaskClient, ehr: Machine) -> None:
    """RFC 7662 §2.1."""
    refused(http.post("/oauth/introspect", data={"x": "y"}, headers=bearer(ehr.token(http))), "invalid_request", 400)


# — revocation —


def test_a_revoked_token_gives_no_access(http: FlaskClient, ehr: Machine) -> None:
    """RFC 7009 §2.2: at once in the process that revoked it."""
    token = ehr.token(http)
    assert http.get("/fhir/whoami", headers=bearer(token)).status_code == 200
    answer = http.post("/oauth/revoke", data=ehr.form(token=token, token_type_hint="refresh_token"))
    assert (answer.status_code, answer.get_json()) == (200, {})
    assert http.get("/fhir/whoami", headers=bearer(token)).status_code == 401
    assert http.post("/oauth/revoke", data=ehr.form(token=token)).status_code == 200


def test_a_revocation_reaches_every_process_within_five_seconds(
    database: Database, trail: MemoryTrail, clock: Clock, http: FlaskClient, ehr: Machine
) -> None:
    """DESIGN §6. Two authorities on one database are two processes."""
    other = application(
        Authority(database, trail=trail, platform=PLATFORM, origins=(ORIGIN,), clock=clock)
    ).test_client()
    token = ehr.token(http)
    assert other.get("/fhir/whoami", headers=bearer(token)).status_code == 200
    http.post("/oauth/revoke", data=ehr.form(token=token))
    clock.advance(seconds=5)
    assert other.get("/fhir/whoami", headers=bearer(token)).status_code == 401


def test_a_deactivated_client_loses_its_tokens_within_five_seconds(
    http: FlaskClient, ehr: Machine, authority: Authority, clock: Clock
) -> None:
    """A key was stolen: everything that it brought ends."""
    token = ehr.token(http)
    assert http.get("/fhir/whoami", headers=bearer(token)).status_code == 200
    assert authority.caller_of(ehr.client_id) is not None
    assert not authority.clients.disable(ehr.client_id).active
    assert not authority.clients.disable(ehr.client_id).active
    clock.advance(seconds=5)
    assert http.get("/fhir/whoami", headers=bearer(token)).status_code == 401
    assert authority.caller_of(ehr.client_id) is None
    refused(ehr.ask(http))


def test_revoking_needs_the_client_itself(http: FlaskClient, ehr: Machine, register: Callable[..., Machine]) -> None:
    """RFC 7009 §2.1: client authentication, and the token must be this client's."""
    token = ehr.token(http)
    refused(http.post("/oauth/revoke", data={"token": token}))
    refused(http.post("/oauth/revoke", data={"token": token}, headers=bearer(token)))
    refused(http.post("/oauth/revoke", data=register("hospital-b").form(token=token)), "invalid_grant", 400)
    assert http.get("/fhir/whoami", headers=bearer(token)).status_code == 200


def test_an_unknown_token_is_as_good_as_revoked(http: FlaskClient, ehr: Machine, trail: MemoryTrail) -> None:
    """RFC 7009 §2.2: 200 also for invalid tokens."""
    for token in ("unknown", "x" * 43, "é"):
        assert http.post("/oauth/revoke", data=ehr.form(token=token)).status_code == 200
    refused(http.post("/oauth/revoke", data=ehr.form()), "invalid_request", 400)


# — what the server says of itself —


@pytest.mark.parametrize("origin", [ORIGIN, OTHER_ORIGIN])
def test_the_metadata_is_valid(http: FlaskClient, origin: str) -> None:
    """RFC 8414 §2 and §3: validated by Authlib, for the origin that the client used."""
    answer = http.get("/.well-known/oauth-authorization-server", base_url=origin)
    document = answer.get_json()
    rfc8414.AuthorizationServerMetadata(document).validate()
    assert document["issuer"] == origin
    assert document["token_endpoint_auth_methods_supported"] == ["private_key_jwt"]
    assert answer.headers["Access-Control-Allow-Origin"] == "*"


def test_links_never_use_a_host_that_only_the_request_names(http: FlaskClient) -> None:
    """Host header injection: the first configured origin stands in."""
    answer = http.get("/.well-known/oauth-authorization-server", base_url="http://attacker.example")
    assert answer.get_json()["token_endpoint"] == f"{ORIGIN}/oauth/token"


def test_the_smart_configuration_says_what_there_is(authority: Authority) -> None:
    """SMART 2.2 §Conformance: required members; no issuer without sso-openid-connect; S256 and never plain."""
    document = authority.smart_configuration(OTHER_ORIGIN)
    assert document["token_endpoint"] == f"{OTHER_ORIGIN}/oauth/token"
    assert document["grant_types_supported"] == ["client_credentials"]
    assert {"client-confidential-asymmetric", "permission-v2"} <= set(document["capabilities"])
    assert document["code_challenge_methods_supported"] == ["S256"]
    assert set(document["token_endpoint_auth_signing_alg_values_supported"]) == {"RS384", "ES384"}
    assert "issuer" not in document
    assert authority.smart_configuration("https://attacker.example")["token_endpoint"].startswith(ORIGIN)


def test_the_servers_own_keys_are_published(database: Database, trail: MemoryTrail) -> None:
    """RFC 7517: public halves only; a private one is a mistake that stops the start."""
    from auth.keys import new_key

    private, public = new_key()
    made = Authority(database, trail=trail, platform=PLATFORM, origins=(ORIGIN,), signing_keys=(public,))
    answer = application(made).test_client().get("/oauth/jwks")
    assert answer.get_json() == {"keys": [public]}
    with pytest.raises(ValueError, match="public"):
        Authority(database, trail=trail, platform=PLATFORM, origins=(ORIGIN,), signing_keys=(private,))


_FORM = "application/x-www-form-urlencoded"


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def introspect(http: FlaskClient, machine: Machine, token: str) -> dict[str, Any]:
    answer = http.post("/oauth/introspect", data={"token": token}, headers=bearer(machine.token(http)))
    assert answer.status_code == 200
    body: dict[str, Any] = answer.get_json()
    return body


def _encoded(pairs: Any) -> str:
    from urllib.parse import urlencode

    return urlencode(list(pairs))
