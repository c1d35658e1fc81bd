"""What the authorization server says of itself, for one of its origins.

SMART 2.2 §Conformance https://hl7.org/fhir/smart-app-launch/STU2.2/conformance.html, RFC 8414
"""

from __future__ import annotations

from collections.abc import Mapping

from auth.clients import AUTH_METHOD, GRANT_TYPE
from auth.keys import KEY_TYPES
from resources.json import Json

TOKEN, INTROSPECT, REVOKE, JWKS = "/oauth/token", "/oauth/introspect", "/oauth/revoke", "/oauth/jwks"
METADATA = "/.well-known/oauth-authorization-server"

METHODS: Mapping[str, frozenset[str]] = {
    TOKEN: frozenset({"POST"}),
    INTROSPECT: frozenset({"POST"}),
    REVOKE: frozenset({"POST"}),
    JWKS: frozenset({"GET", "HEAD"}),
    METADATA: frozenset({"GET", "HEAD"}),
}
"""Path → methods that it takes; any other is refused."""

SCOPES_SUPPORTED = ("system/*.cruds", "system/*.rs", "system/*.read", "system/*.write", "system/*.*")
"""Patterns: any R4 type may stand for the star, any letters in order, and `?parameter=value`."""


def smart_configuration(origin: str) -> Json:
    """The document of ``/fhir/.well-known/smart-configuration``. URLs are absolute.

    `issuer` and `jwks_uri` belong to sso-openid-connect, which this server does not offer; so they are left out.
    """
    return {
        "token_endpoint": origin + TOKEN,
        "token_endpoint_auth_methods_supported": [AUTH_METHOD],
        "token_endpoint_auth_signing_alg_values_supported": list(KEY_TYPES),
        "grant_types_supported": [GRANT_TYPE],
        "scopes_supported": list(SCOPES_SUPPORTED),
        "introspection_endpoint": origin + INTROSPECT,
        "revocation_endpoint": origin + REVOKE,
        "code_challenge_methods_supported": ["S256"],
        "capabilities": ["client-confidential-asymmetric", "permission-v1", "permission-v2"],
    }


def oauth_metadata(origin: str) -> Json:
    """The document of ``/.well-known/oauth-authorization-server`` (RFC 8414 §2).

    `response_types_supported` is required there although nothing is authorized by a browser yet: `none` is the
    registered value that promises no response.
    """
    algorithms = list(KEY_TYPES)
    return {
        "issuer": origin,
        "token_endpoint": origin + TOKEN,
        "token_endpoint_auth_methods_supported": [AUTH_METHOD],
        "token_endpoint_auth_signing_alg_values_supported": algorithms,
        "jwks_uri": origin + JWKS,
        "scopes_supported": list(SCOPES_SUPPORTED),
        "response_types_supported": ["none"],
        "grant_types_supported": [GRANT_TYPE],
        "revocation_endpoint": origin + REVOKE,
        "revocation_endpoint_auth_methods_supported": [AUTH_METHOD],
        "revocation_endpoint_auth_signing_alg_values_supported": algorithms,
        "introspection_endpoint": origin + INTROSPECT,
        "introspection_endpoint_auth_methods_supported": [AUTH_METHOD, "Bearer"],
        "introspection_endpoint_auth_signing_alg_values_supported": algorithms,
        "code_challenge_methods_supported": ["S256"],
    }
