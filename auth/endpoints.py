"""The HTTP side of the authorization server: /oauth/token, introspect, revoke, jwks and its metadata.

Every answer of the first three is on record before it leaves: where the record cannot be written the answer is 503.
Errors are RFC 6749 §5.2 JSON. A failed client authentication is 401 (RFC 6749 says MAY, SMART allows 400 or 401); the
challenge names the only scheme that this server knows.

RFC 6749, RFC 7009, RFC 7662, RFC 8414
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace

from authlib.oauth2.rfc6749 import (
    InvalidClientError,
    InvalidGrantError,
    InvalidRequestError,
    InvalidScopeError,
    OAuth2Error,
)
from flask import Blueprint, Response, request

from auth import metadata
from auth.assertions import NotAuthenticated, claimed_client
from auth.clients import GRANT_TYPE, Clients, Clock
from auth.forms import MethodNotAllowed, for_the_record, read_form
from auth.guard import CHALLENGE, RECORDING, Guard
from auth.refusals import Refusals
from auth.server import FormRequest, Reply, Server
from resources.json import Json
from resources.outcomes import Unavailable
from store.access import Access, Interaction, Outcome, Recording, Trail, outcome_of_status
from store.engine.faults import DRIVER_ERRORS, is_away

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_NO_STORE = (("Cache-Control", "no-store"), ("Pragma", "no-cache"))
_BEYOND_RIGHTS = (InvalidScopeError, InvalidGrantError)
_REFUSED_FOR_SECURITY = (InvalidClientError, *_BEYOND_RIGHTS)

Answer = Callable[[Server, FormRequest], Reply]


class Endpoints:
    """Reads a request into values, lets the server answer, records and writes the answer."""

    def __init__(
        self,
        server: Server,
        *,
        guard: Guard,
        clients: Clients,
        trail: Trail,
        clock: Clock,
        refusals: Refusals,
        origins: Sequence[str],
        public_keys: Sequence[Json],
    ) -> None:
        self._server = server
        self._guard = guard
        self._clients = clients
        self._trail = trail
        self._clock = clock
        self._refusals = refusals
        self._origins = tuple(origins)
        self._public_keys = list(public_keys)

    def blueprint(self) -> Blueprint:
        """The views, as a Flask blueprint."""
        views = Blueprint("oauth", __name__)

        def add(path: str, name: str, view: Callable[[], Response]) -> None:
            known = metadata.METHODS[path]
            views.add_url_rule(path, name, view, methods=known, provide_automatic_options=False)
            # Refused in the words of OAuth, and recorded.
            views.add_url_rule(path, f"other-{name}", view, methods=_METHODS - known, provide_automatic_options=False)

        add(metadata.TOKEN, "token", lambda: self._serve(Interaction.TOKEN, _token))
        add(metadata.INTROSPECT, "introspect", lambda: self._serve(Interaction.INTROSPECT, _introspect))
        add(metadata.REVOKE, "revoke", lambda: self._serve(Interaction.REVOKE, _revoke))
        add(metadata.JWKS, "jwks", lambda: self._publish({"keys": self._public_keys}))
        add(metadata.METADATA, "metadata", lambda: self._publish(metadata.oauth_metadata(self._origin())))
        return views

    def _serve(self, interaction: Interaction, answer: Answer) -> Response:
        asked = self._request({})
        try:
            try:
                form = read_form(request)
                asked = self._request(form)
                reply = answer(self._server, asked)
            except OAuth2Error as error:
                reply = self._server.handle_error_response(asked, error)
            return self._recorded(interaction, asked, reply)
        except Unavailable:
            return _away()
        except DRIVER_ERRORS as error:
            if not is_away(error):
                raise
            return _away()

    def _request(self, form: dict[str, str]) -> FormRequest:
        asked = for_the_record(request.path, form)
        if request.method != "POST":
            asked = f"{request.method} {request.path}"
        return FormRequest(request.base_url, form, request.headers, self._guard.peer(request), asked)

    def _recorded(self, interaction: Interaction, asked: FormRequest, reply: Reply) -> Response:
        error = asked.error
        if error is None:
            if not asked.recorded:
                access = Access(interaction, query=asked.asked, detail=asked.detail)
                self._trail.disclose(self._server.caller_of(asked), [access], self._clock())
            _mark()
            return _response(reply.status, reply.body, reply.headers)
        wait_s = self._note_refusal(interaction, asked, error, reply.status)
        _mark()
        if wait_s:
            body = {"error": "temporarily_unavailable", "error_description": "Too many failed authentications"}
            return _response(429, body, [("Retry-After", str(wait_s))])
        headers = list(reply.headers)
        if reply.status == 401:
            challenge = CHALLENGE
            if error.error == "invalid_token":
                challenge += f', error="invalid_token", error_description="{error.description}"'
            headers.append(("WWW-Authenticate", challenge))
        if isinstance(error, MethodNotAllowed):
            headers.append(("Allow", "POST"))
        return _response(reply.status, reply.body, headers)

    def _note_refusal(self, interaction: Interaction, asked: FormRequest, error: OAuth2Error, status: int) -> int:
        """Record a refusal; seconds to wait where this address has failed too often as this client, else 0."""
        claimed = claimed_client(asked.form.get("client_assertion", ""))
        caller = self._server.caller_of(asked)
        access = Access(
            interaction,
            query=asked.asked,
            outcome=Outcome.SERIOUS if isinstance(error, _REFUSED_FOR_SECURITY) else outcome_of_status(status),
            reason=_reason(error),
        )
        if not isinstance(error, InvalidClientError):
            if caller.client_id:
                self._trail.disclose(caller, [access], self._clock())
            else:
                self._refusals.note(replace(caller, client_id=claimed), access)
            return 0
        # Names that nobody has share one bucket, so that inventing names gains nothing.
        key = claimed if claimed and self._clients.known(claimed) else ""
        return self._refusals.record(caller if caller.client_id else replace(caller, client_id=claimed), access, key)

    def _publish(self, document: Json) -> Response:
        known = metadata.METHODS[request.path]
        if request.method not in known:
            body = {"error": "invalid_request", "error_description": "Use GET"}
            return _response(405, body, [("Allow", ", ".join(sorted(known)))])
        response = Response(json.dumps(document), 200, content_type="application/json")
        response.headers["Access-Control-Allow-Origin"] = "*"
        response.headers["Cache-Control"] = "max-age=3600"
        return response

    def _origin(self) -> str:
        """The configured origin that the client used, else the first; never one that only the request claims."""
        used = request.host_url.rstrip("/")
        return used if used in self._origins else self._origins[0]


def _token(server: Server, asked: FormRequest) -> Reply:
    if "grant_type" not in asked.form:
        raise InvalidRequestError("grant_type is required")
    if asked.form["grant_type"] != GRANT_TYPE:
        # Authlib's own text would repeat what was sent.
        raise OAuth2Error(error="unsupported_grant_type", description=f"grant_type must be {GRANT_TYPE}")
    _one_authentication(asked)
    reply: Reply = server.create_token_response(asked)
    return reply


def _introspect(server: Server, asked: FormRequest) -> Reply:
    if "Authorization" not in asked.headers:
        _one_authentication(asked)
    reply: Reply = server.create_endpoint_response("introspection", asked)
    return reply


def _revoke(server: Server, asked: FormRequest) -> Reply:
    _one_authentication(asked)
    reply: Reply = server.create_endpoint_response("revocation", asked)
    return reply


def _one_authentication(asked: FormRequest) -> None:
    """A client must not use more than one method of authentication in a request (RFC 6749 §2.3)."""
    others = "Authorization" in asked.headers or "client_secret" in asked.form
    if others and "client_assertion" in asked.form:
        raise InvalidRequestError("Use one method of client authentication")
    if others or "client_assertion" not in asked.form:
        raise NotAuthenticated("Authenticate by private_key_jwt: client_assertion is required", "no assertion")


def _reason(error: OAuth2Error) -> str:
    """Why, for the audit record: an issue code, then our own words."""
    text = getattr(error, "reason", None) or error.description or error.error
    code = "login" if isinstance(error, InvalidClientError) else "invalid"
    return f"{'forbidden' if isinstance(error, _BEYOND_RIGHTS) else code}: {text}"


def _mark() -> None:
    """The request is on record."""
    recording: Recording | None = request.environ.get(RECORDING)
    if recording is not None:
        recording.is_recorded = True


def _response(status: int, body: Json, headers: Sequence[tuple[str, str]] = ()) -> Response:
    response = Response(json.dumps(body), status)
    for name, value in (*headers, *_NO_STORE, ("Content-Type", "application/json")):
        response.headers[name] = value
    return response


def _away() -> Response:
    body = {"error": "temporarily_unavailable", "error_description": "The server cannot serve the request at present"}
    return _response(503, body, [("Retry-After", "5")])
