"""Registered clients: what may be registered, and which keys.

SMART 2.2 §Registering a Client; RFC 7517
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from auth.clients import Client
from auth.keys import checked_key_set, new_key
from auth.queries import TokenRecord
from auth.service import Authority
from auth.tokens import Tokens
from resources.outcomes import BadRequest, Conflict, NotFound
from store.access import Interaction
from tests.auth.engines import ON_ONE_ENGINE
from tests.auth.signing import Machine, rsa_pair
from tests.support import Clock, MemoryTrail


def test_a_client_without_keys_gets_a_new_pair_once(
    authority: Authority, http: FlaskClient, clock: Clock
) -> None:
    """The private half is shown to the operator and kept nowhere."""
    client, private = authority.clients.add("CH de Grand-Bourg, EHR", "hospital-a", "system/Patient.rs", "ehr")
    assert private is not None
    assert "d" in private
    assert client.client_id.startswith("ch-de-grand-bourg-ehr-")
    stored = authority.clients.find(client.client_id)
    assert stored is not None
    assert not {"d", "k"} & stored.record.jwks["keys"][0].keys()
    machine = Machine(client.client_id, private, clock)
    assert machine.ask(http).status_code == 200


def test_registration_and_its_end_are_on_record(authority: Authority, trail: MemoryTrail) -> None:
    """Reference §7.7: role and configuration changes are audited, in the transaction that makes them."""
    client, _ = authority.clients.add("EHR", "hospital-a", "system/Patient.rs", "ehr")
    authority.clients.disable(client.client_id)
    assert [access.interaction for access in trail.appended] == [Interaction.ADMIN, Interaction.ADMIN]
    assert dict(trail.appended[0].detail)["client_id"] == client.client_id
    assert [other.client_id for other in authority.clients.list()] == [client.client_id]
    assert not authority.clients.list()[0].active


def test_the_caller_of_a_delivery_is_the_client_of_now(authority: Authority) -> None:
    """DESIGN §9: the subscriber's rights are asked again when sending."""
    client, _ = authority.clients.add("EHR", "hospital-a", "system/DiagnosticReport.read", "ehr")
    found = authority.caller_of(client.client_id)
    assert found is not None
    assert (found.organization, found.scopes) == ("hospital-a", frozenset({"system/DiagnosticReport.read"}))
    assert authority.caller_of("nobody") is None
    assert authority.caller_of("no\0body") is None


@ON_ONE_ENGINE
@pytest.mark.parametrize(
    "changed",
    [
        {"organization": ""},
        {"organization": "Organization/a"},
        {"organization": "*"},
        {"scope": ""},
        {"scope": "user/Patient.rs"},
        {"scope": "system/Patient.rs patient/Patient.rs"},
        {"scope": "system/Patient.sr"},
        {"scope": "openid"},
        {"name": ""},
        {"name": "a\nb"},
        {"role": "r" * 101},
        {"practitioner": "p1"},
        {"practitioner": "Patient/p1"},
        {"jwks_uri": "http://plain.example/jwks"},
        {"client_id": "a b"},
        {"client_id": "é"},
    ],
)
def test_what_cannot_be_registered(authority: Authority, changed: dict[str, Any]) -> None:
    """A client without an organisation, or with a scope that nobody understands, is no client."""
    given = {"name": "EHR", "organization": "hospital-a", "scope": "system/Patient.rs", "role": "ehr", **changed}
    with pytest.raises(BadRequest):
        authority.clients.add(**given)
    assert authority.clients.list() == []


def test_a_client_id_is_given_once(authority: Authority) -> None:
    """RFC 6749 §2.2: unique to the authorization server."""
    authority.clients.add("EHR", "hospital-a", "system/Patient.rs", "ehr", client_id="ehr-a")
    with pytest.raises(Conflict):
        authority.clients.add("EHR", "hospital-b", "system/*.cruds", "ehr", client_id="ehr-a")


def test_two_keys_are_kept_for_rotation(
    authority: Authority, http: FlaskClient, clock: Clock
) -> None:
    """SMART: a client rotates its keys by kid."""
    (first, first_public), (second, second_public) = new_key(), rsa_pair()
    client, private = authority.clients.add(
        "EHR", "hospital-a", "system/*.rs", "ehr", jwks={"keys": [first_public, second_public]}
    )
    assert private is None
    for key in (first, second):
        assert Machine(client.client_id, key, clock).ask(http).status_code == 200


def _public(key: Any, **more: Any) -> dict[str, Any]:
    return {**key.as_dict(private=False), "kid": "k", **more}


def _p384(**more: Any) -> dict[str, Any]:
    return _public(ECKey.generate_key("P-384", private=True), **more)


BAD_SETS: dict[str, Callable[[], Any]] = {
    "nothing": lambda: None,
    "a list": lambda: [_p384()],
    "no keys": lambda: {"keys": []},
    "keys is no list": lambda: {"keys": _p384()},
    "too many": lambda: {"keys": [_p384(kid=str(n)) for n in range(17)]},
    "a key that is text": lambda: {"keys": ["key"]},
    "a private key": lambda: {"keys": [new_key()[0]]},
    "a private RSA key": lambda: {"keys": [rsa_pair()[0]]},
    "a shared secret": lambda: {"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "k"}]},
    "a shared secret as joserfc writes it": lambda: {"keys": [{**OctKey.generate_key(256).as_dict(), "kid": "k"}]},
    "an OKP key": lambda: {"keys": [_public(OKPKey.generate_key("Ed25519", private=True))]},
    "RSA of 1024 bits": lambda: {"keys": [rsa_pair(1024)[1]]},
    "an RSA exponent of 3": lambda: {"keys": [{**rsa_pair()[1], "e": "Aw"}]},
    "an even RSA exponent": lambda: {"keys": [{**rsa_pair()[1], "e": "AQAA"}]},
    "an endless RSA modulus": lambda: {"keys": [{**rsa_pair()[1], "n": "A" * 10_000}]},
    "P-256": lambda: {"keys": [_public(ECKey.generate_key("P-256", private=True))]},
    "a point off the curve": lambda: {"keys": [{**_p384(), "x": "AAAA"}]},
    "coordinates that are numbers": lambda: {"keys": [{**_p384(), "x": 5}]},
    "no kid": lambda: {"keys": [{name: value for name, value in _p384().items() if name != "kid"}]},
    "kid is a number": lambda: {"keys": [_p384(kid=5)]},
    "one kid twice": lambda: {"keys": [_p384(), _p384()]},
    "a key for encryption": lambda: {"keys": [_p384(use="enc")]},
    "another algorithm": lambda: {"keys": [_p384(alg="ES256")]},
    "the algorithm of another type": lambda: {"keys": [_p384(alg="RS384")]},
    "alg is a list": lambda: {"keys": [_p384(alg=["ES384"])]},
    "a key that signs": lambda: {"keys": [_p384(key_ops=["sign"])]},
}


@pytest.mark.parametrize("name", BAD_SETS)
def test_key_sets_that_are_refused(name: str) -> None:
    """Public halves of strong signing keys only; the fault says where, never what."""
    with pytest.raises(BadRequest) as raised:
        checked_key_set(BAD_SETS[name]())
    assert raised.value.issues[0].expression[0].startswith("jwks.keys")


def test_foreign_members_of_a_key_are_not_kept() -> None:
    """x5c and the like never become a source of keys."""
    key = RSAKey.generate_key(2048, private=True)
    (kept,) = checked_key_set({"keys": [_public(key, x5c=["MII"], custom="x")]})["keys"]
    assert set(kept) == {"kty", "n", "e", "kid"}


@pytest.mark.parametrize("act", ["disable", "scope"])
def test_a_token_that_is_being_issued_does_not_outlive_what_ends_it(
    http: FlaskClient, ehr: Machine, authority: Authority, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    """Between authentication and issue the client was disabled, or given fewer scopes: no token of before is issued."""
    made = Tokens.new

    def meanwhile(self: Tokens, client: Client, scope: str, purpose: str, token: str) -> TokenRecord:
        if act == "disable":
            authority.clients.disable(client.client_id)
        else:
            authority.clients.set_scope(client.client_id, "system/Observation.r")
        return made(self, client, scope, purpose, token)

    monkeypatch.setattr(Tokens, "new", meanwhile)
    assert ehr.ask(http).status_code == 401


def test_acts_on_a_client_are_the_same_again_and_each_is_on_record(
    authority: Authority, trail: MemoryTrail, clock: Clock
) -> None:
    """Idempotent: the second time nothing changes, and says so."""
    client, _ = authority.clients.add("EHR", "hospital-a", "system/Patient.rs", "ehr")
    clients = authority.clients
    acts: list[Callable[[], Client]] = [
        lambda: clients.set_scope(client.client_id, "system/Patient.r"),
        lambda: clients.set_origins(client.client_id, ["https://A.example:443", "https://a.example"]),
        lambda: clients.disable(client.client_id),
        lambda: clients.enable(client.client_id),
    ]
    for act in acts:
        trail.appended.clear()
        first = act().record
        clock.advance(seconds=60)
        assert act().record == first
        assert [dict(access.detail)["changed"] for access in trail.appended] == ["yes", "no"]
    assert first.origins == ("https://a.example",)
    assert (first.active, first.disabled_at, first.disabled_by) == (True, None, None)
    for unknown in ("nobody", "no\0body", ""):
        with pytest.raises(NotFound):
            clients.disable(unknown)


def test_the_last_token_of_a_client_is_known(
    http: FlaskClient, ehr: Machine, authority: Authority, clock: Clock
) -> None:
    """An operator sees which clients are dead."""
    found = authority.clients.find(ehr.client_id)
    assert found is not None
    assert found.record.last_token is None
    ehr.token(http)
    found = authority.clients.find(ehr.client_id)
    assert found is not None
    assert found.record.last_token == int(clock().timestamp())
