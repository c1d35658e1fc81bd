"""The authorization server on Authlib: client_credentials with private_key_jwt, introspection, revocation.

Authlib keeps the order of the protocol; storage, scopes and every check that SMART sharpens are ours. What changes
something (a token issued, a token revoked) and its audit record are one transaction.

RFC 6749 §4.4, RFC 7009, RFC 7662
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2.rfc6749 import (
    InvalidGrantError,
    InvalidRequestError,
    InvalidScopeError,
    OAuth2Error,
    OAuth2Request,
)
from authlib.oauth2.rfc6749.grants import ClientCredentialsGrant
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload
from authlib.oauth2.rfc7009 import RevocationEndpoint
from authlib.oauth2.rfc7662 import IntrospectionEndpoint
from marshmallow import ValidationError
from werkzeug.datastructures import Headers

from auth import parameters, purposes, queries
from auth.assertions import NotAuthenticated, PrivateKeyJwt
from auth.clients import AUTH_METHOD, GRANT_TYPE, Client, Clients, Clock
from auth.guard import Peer
from auth.scopes import MalformedScope
from auth.tokens import Token, Tokens, random_token
from resources.json import Json
from store.access import Access, Caller, Interaction, Trail
from store.engine.database import Database

# Authlib logs what it issues at DEBUG. Its grant is overridden below, and no configuration of a root logger reaches it.
logging.getLogger("authlib").setLevel(logging.INFO)


class Reply(NamedTuple):
    """What the server answers, before it is a Response."""

    status: int
    body: Json
    headers: list[tuple[str, str]]


class FormRequest(OAuth2Request):  # type: ignore[misc]
    """A request whose form was read and judged by `forms`, so that Authlib sees each parameter once, from the body.

    Authlib's constructor asks whether the URL is https. Whether the transport is good enough is settled once, at start
    (`fhir_server.server.settings`); behind a TLS terminator every URL that arrives here says http.
    """

    def __init__(self, uri: str, form: Mapping[str, str], headers: Headers, peer: Peer, asked: str) -> None:
        self.method = "POST"
        self.uri = uri
        self.headers = headers
        self.payload = BasicOAuth2Payload(dict(form))
        self.extensions: Any = None
        """The claim of the assertion that the client authenticated with."""
        self.purpose: str | None = None
        self.client: Client | None = None
        self.auth_method: str | None = None
        self.user = None
        self.authorization_code = None
        self.refresh_token = None
        self.credential = None
        self._body = None
        self._scope = None
        self._form = dict(form)
        self.peer = peer
        self.asked = asked
        """The request as it is put on record: nothing secret."""
        self.error: OAuth2Error | None = None
        self.caller: Caller | None = None
        """Who asked, once that is known."""
        self.detail: tuple[tuple[str, str], ...] = ()
        self.recorded = False
        """The audit record was committed with the change itself."""

    @property
    def args(self) -> Mapping[str, str]:
        return {}

    @property
    def form(self) -> Mapping[str, str]:
        return self._form


class SystemGrant(ClientCredentialsGrant):  # type: ignore[misc]
    """A machine of an organisation asks for itself."""

    TOKEN_ENDPOINT_AUTH_METHODS = [AUTH_METHOD]

    def create_token_response(self) -> tuple[int, Json, list[tuple[str, str]]]:
        self.request.purpose = _purpose(self.request)
        # As Authlib's, without its log line, which holds the token.
        token: Json = self.generate_token(scope=self.request.payload.scope, include_refresh_token=False)
        self.save_token(token)
        return 200, token, self.TOKEN_RESPONSE_HEADER


class Revocation(RevocationEndpoint):  # type: ignore[misc]
    """RFC 7009. A hint changes nothing (§2.1); an unknown token is answered as a revoked one (§2.2)."""

    CLIENT_AUTH_METHODS = [AUTH_METHOD]

    def check_params(self, request: FormRequest, client: Client) -> None:
        _require_token(request)

    def query_token(self, token_string: str, token_type_hint: str | None) -> Token | None:
        found: Token | None = self.server.tokens.find(token_string)
        return found

    def revoke_token(self, token: Token, request: FormRequest) -> None:
        self.server.revoke(token, request)


class Introspection(IntrospectionEndpoint):  # type: ignore[misc]
    """RFC 7662. A resource server shows an access token of its own, or a signed assertion (SMART 2.2)."""

    CLIENT_AUTH_METHODS = [AUTH_METHOD]

    def authenticate_endpoint_client(self, request: FormRequest) -> Client:
        if "Authorization" not in request.headers:
            client: Client = super().authenticate_endpoint_client(request)
        else:
            client = self.server.bearer(request)
        request.client = client
        if request.caller is None:
            request.caller = client.caller(scope="", address=request.peer.address, request_id=request.peer.request_id)
        return client

    def check_params(self, request: FormRequest, client: Client) -> None:
        _require_token(request)

    def query_token(self, token_string: str, token_type_hint: str | None) -> Token | None:
        found: Token | None = self.server.tokens.find(token_string)
        return found if found is not None and found.live(self.server.clock().timestamp()) else None

    def check_permission(self, token: Token, client: Client, request: FormRequest) -> bool:
        """One's own organisation's tokens; the platform, which serves everybody's resources, those of all."""
        own = token.client is not None and token.client.organization == client.organization
        return own or client.organization == self.server.platform

    def create_introspection_payload(self, token: Token | None) -> Json:
        """Whatever is not to be told is told as `active: false` (§2.2)."""
        if token is None or token.client is None:
            return {"active": False}
        record, client = token.record, token.client
        body: Json = {
            "active": True,
            "scope": record.scope,
            "client_id": record.client_id,
            "token_type": "Bearer",
            "exp": record.expires,
            "iat": record.issued,
            "sub": record.client_id,
            "iss": self.server.issuer,
            "organization": client.organization,
            "role": client.role,
            "extensions": {"ihe_iua": {"purpose_of_use": [
                {"system": purposes.SYSTEM, "code": record.purpose or purposes.of_role(client.role)}
            ]}},
        }  # fmt: skip
        if client.practitioner:
            body["fhirUser"] = client.practitioner
        return body

    def authenticate_token(self, request: FormRequest, client: Client) -> Token | None:
        token: Token | None = super().authenticate_token(request, client)
        request.detail = (("active", "true" if token else "false"),)
        if token is not None:
            request.detail += (("introspected", token.record.token_ref),)
        return token


class Server(AuthorizationServer):  # type: ignore[misc]
    """The Flask AuthorizationServer of Authlib on our tables."""

    def __init__(
        self,
        database: Database,
        *,
        clients: Clients,
        tokens: Tokens,
        trail: Trail,
        clock: Clock,
        issuer: str,
        audiences: frozenset[str],
        platform: str,
    ) -> None:
        super().__init__()
        self.database = database
        self.clients = clients
        self.tokens = tokens
        self.trail = trail
        self.clock = clock
        self.issuer = issuer
        self.platform = platform
        self.register_client_auth_method(AUTH_METHOD, PrivateKeyJwt(database, clock=clock, audiences=audiences))
        self.register_token_generator(GRANT_TYPE, self._generate)
        self.register_grant(SystemGrant)
        self.register_endpoint(Revocation)
        self.register_endpoint(Introspection)

    # What Authlib asks of an integration

    def query_client(self, client_id: str) -> Client | None:
        return self.clients.find(client_id)

    def create_oauth2_request(self, request: FormRequest) -> FormRequest:
        return request

    def handle_response(self, status_code: int, payload: Json, headers: list[tuple[str, str]]) -> Reply:
        return Reply(status_code, payload, list(headers))

    def handle_error_response(self, request: FormRequest, error: OAuth2Error) -> Reply:
        request.error = error
        body = {"error": error.error, "error_description": error.description}
        return Reply(error.status_code, {name: text for name, text in body.items() if text}, [])

    def send_signal(self, name: str, *args: Any, **kwargs: Any) -> None:
        """Nobody listens: what must happen happens in the transaction."""

    def validate_requested_scope(self, scope: str | None) -> None:
        """Judged by `Client.get_allowed_scope`, which reads SMART scopes."""

    def save_token(self, token: Json, request: FormRequest) -> None:
        """Store the token's hash, and what was issued to whom, as one."""
        client = request.client
        if client is None:
            raise NotAuthenticated("The client did not authenticate")
        purpose = request.purpose or purposes.of_role(client.role)
        record = self.tokens.new(client, token["scope"], purpose, token["access_token"])
        caller = client.caller(
            scope=record.scope,
            purpose=record.purpose,
            token_ref=record.token_ref,
            address=request.peer.address,
            request_id=request.peer.request_id,
        )
        access = Access(
            Interaction.TOKEN,
            query=request.asked,
            detail=(("scope", record.scope), ("expires_in", str(self.tokens.lifetime_s))),
        )
        with self.database.write() as connection:
            if not queries.touch_client(connection, client.client_id, client.scope, record.issued):
                raise NotAuthenticated("The client was disabled or altered at this moment")
            queries.insert_token(connection, record)
            self.trail.append(connection, caller, [access], self.clock())
        request.recorded = True

    # What the endpoints above ask

    def revoke(self, token: Token, request: FormRequest) -> None:
        """Revoke a token; recorded in the same commit."""
        now = self.clock()
        access = Access(Interaction.REVOKE, query=request.asked, detail=(("token_ref", token.record.token_ref),))
        with self.database.write() as connection:
            queries.revoke_token(connection, token.record.digest, int(now.timestamp()))
            self.trail.append(connection, self.caller_of(request), [access], now)
        self.tokens.forget(token.record.digest)
        request.recorded = True

    def bearer(self, request: FormRequest) -> Client:
        """The client behind the bearer token of a request to introspect."""
        if "client_assertion" in request.form:
            raise InvalidRequestError("Authenticate by an access token or by an assertion, not by both")
        scheme, _, credentials = request.headers["Authorization"].partition(" ")
        token = self.tokens.find(credentials.strip()) if scheme.lower() == "bearer" else None
        if token is None or token.client is None or not token.live(self.clock().timestamp()):
            reason = "unknown token" if token is None else token.fault or "expired token"
            raise InvalidToken(reason)
        request.caller = token.client.caller(
            scope=token.record.scope,
            purpose=token.record.purpose,
            token_ref=token.record.token_ref,
            address=request.peer.address,
            request_id=request.peer.request_id,
        )
        return token.client

    def caller_of(self, request: FormRequest) -> Caller:
        """Who asked: the client once it has authenticated."""
        nobody = Caller("", "", address=request.peer.address, request_id=request.peer.request_id)
        if request.caller is not None:
            return request.caller
        if request.client is None or request.auth_method is None:
            return nobody
        return replace(
            nobody,
            client_id=request.client.client_id,
            organization=request.client.organization,
            role=request.client.role,
            practitioner=request.client.practitioner,
            purpose=purposes.of_role(request.client.role),
        )

    def _generate(self, *, client: Client, scope: str | None = None, **_: Any) -> Json:
        try:
            granted = client.get_allowed_scope(scope)
        except MalformedScope as error:
            raise InvalidScopeError(str(error)) from error
        if granted is None:
            raise InvalidScopeError("Nothing of the requested scope is allowed to this client")
        return {
            "token_type": "Bearer",
            "access_token": random_token(),
            "expires_in": self.tokens.lifetime_s,
            "scope": granted,
        }


class InvalidToken(NotAuthenticated):
    """The bearer token of the caller gives no access (RFC 6750 §3.1)."""

    error = "invalid_token"

    def __init__(self, reason: str) -> None:
        super().__init__("The access token is unknown, expired or revoked", reason)


def _purpose(request: FormRequest) -> str | None:
    """The purpose of use that the client asks for (IHE ITI-71, extension `ihe_iua`); None: it asks for none.

    Raises InvalidRequestError for what is no such claim, InvalidGrantError for a purpose that its role has not.
    """
    try:
        given: Json = parameters.EXTENSIONS.load({} if request.extensions is None else request.extensions)
    except ValidationError:
        form = f"one coding of {purposes.SYSTEM}, in an array"
        raise InvalidRequestError(f"extensions.ihe_iua.purpose_of_use of the assertion must be {form}") from None
    asked = given.get("ihe_iua", {}).get("purpose_of_use")
    if asked is None:
        return None
    code: str = asked[0]["code"]
    if request.client is None or code not in purposes.allowed(request.client.role):
        raise InvalidGrantError("The role of this client does not have this purpose of use")
    return code


def _require_token(request: FormRequest) -> None:
    if "token" not in request.form:
        raise InvalidRequestError("token is required")
