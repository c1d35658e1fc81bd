"""Public keys of clients: what may be registered, which one signed, and new pairs.

Only keys that can sign as SMART asks are taken (RSA of at least 2048 bits for RS384, P-384 for ES384), and only their
public halves: a private or symmetric key that arrives here has been shown to somebody it should not have been.

RFC 7517, SMART 2.2 https://hl7.org/fhir/smart-app-launch/STU2.2/client-confidential-asymmetric.html
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey
from joserfc.util import base64_to_int

from resources.json import Json
from resources.outcomes import BadRequest

KEY_TYPES = {"RS384": "RSA", "ES384": "EC"}
"""Signature algorithms of SMART backend services, and the key type that each needs (RFC 7518 §3.1)."""

MAX_KEYS = 16
MIN_RSA_BITS, MAX_RSA_BITS = 2048, 8192
PRIVATE_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_PUBLIC_MEMBERS = {"RSA": ("n", "e"), "EC": ("crv", "x", "y")}
_DESCRIPTION = ("kid", "alg", "use", "key_ops")

PublicKey = RSAKey | ECKey


def new_key(kid: str | None = None) -> tuple[Json, Json]:
    """A fresh ES384 pair as (private JWK, public JWK), named by its thumbprint (RFC 7638) unless `kid` is given."""
    key = ECKey.generate_key("P-384", private=True)
    described = {"kid": kid or key.thumbprint(), "alg": "ES384", "use": "sig"}
    private, public = dict(key.as_dict(private=True)), dict(key.as_dict(private=False))
    private.pop("kid", None)
    public.pop("kid", None)
    return {**private, **described}, {**public, **described}


def checked_key_set(jwks: object) -> Json:
    """The same JWK Set with nothing but public members. Raises BadRequest, naming the key by its place."""
    keys = jwks.get("keys") if isinstance(jwks, Mapping) else None
    if not isinstance(keys, list) or not 1 <= len(keys) <= MAX_KEYS:
        raise BadRequest(f"A JWK Set is an object with 1 to {MAX_KEYS} keys", expression="jwks.keys")
    checked = [_checked(key, f"jwks.keys[{place}]") for place, key in enumerate(keys)]
    names = [(key["kid"], key["kty"]) for key in checked]
    if len(set(names)) != len(names):
        raise BadRequest("Two keys have the same kid and kty: exactly one must match", expression="jwks.keys")
    return {"keys": checked}


def import_public(key: Mapping[str, Any]) -> PublicKey:
    """A checked JWK, ready to verify with."""
    return RSAKey.import_key(dict(key)) if key["kty"] == "RSA" else ECKey.import_key(dict(key))


def _checked(key: object, where: str) -> Json:
    if not isinstance(key, Mapping):
        raise BadRequest("A key is a JSON object", expression=where)
    if PRIVATE_MEMBERS & key.keys():
        raise BadRequest("The key holds secret members: register public keys only", expression=where)
    kty = key.get("kty")
    if kty not in _PUBLIC_MEMBERS:
        raise BadRequest("kty must be RSA or EC", expression=f"{where}.kty")
    _check_description(key, str(kty), where)
    public: Json = {"kty": kty, **{name: key.get(name) for name in (*_PUBLIC_MEMBERS[str(kty)], *_DESCRIPTION)}}
    public = {name: value for name, value in public.items() if value is not None}
    _check_strength(public, where)
    return public


def _check_description(key: Mapping[str, Any], kty: str, where: str) -> None:
    kid = key.get("kid")
    if not isinstance(kid, str) or not 1 <= len(kid) <= 255 or not kid.isprintable():
        raise BadRequest("kid is required: 1 to 255 printable characters", expression=f"{where}.kid")
    algorithm = key.get("alg")
    if algorithm is not None and (not isinstance(algorithm, str) or KEY_TYPES.get(algorithm) != kty):
        raise BadRequest("alg must be RS384 with RSA or ES384 with EC", expression=f"{where}.alg")
    if key.get("use", "sig") != "sig":
        raise BadRequest("use must be sig", expression=f"{where}.use")
    if key.get("key_ops", ["verify"]) != ["verify"]:
        raise BadRequest("key_ops must be verify alone", expression=f"{where}.key_ops")


def _check_strength(key: Json, where: str) -> None:
    for name in _PUBLIC_MEMBERS[key["kty"]]:
        if not isinstance(key.get(name), str) or len(key[name]) > 2048:
            raise BadRequest(f"{name} is required, as text", expression=f"{where}.{name}")
    if key["kty"] == "EC" and key["crv"] != "P-384":
        raise BadRequest("crv must be P-384, the curve of ES384", expression=f"{where}.crv")
    try:
        if key["kty"] == "RSA":
            _check_rsa(base64_to_int(key["n"]), base64_to_int(key["e"]), where)
        import_public(key)  # a point off the curve is found here
    except (JoseError, ValueError, TypeError, KeyError) as error:
        raise BadRequest("The key cannot be read", expression=where) from error


def _check_rsa(modulus: int, exponent: int, where: str) -> None:
    if not MIN_RSA_BITS <= modulus.bit_length() <= MAX_RSA_BITS:
        raise BadRequest(f"An RSA key has {MIN_RSA_BITS} to {MAX_RSA_BITS} bits", expression=f"{where}.n")
    # FIPS 186-5 §5.4: odd, 2^16 < e < 2^256.
    if exponent % 2 == 0 or not 2**16 < exponent < 2**256:
        raise BadRequest("The RSA exponent must be odd and between 2^16 and 2^256", expression=f"{where}.e")
