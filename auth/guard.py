"""A request becomes a Caller, or is refused with a challenge.

The token comes in the Authorization header and nowhere else: query strings end up in logs. A refusal is on record
before it is answered, so no endpoint can forget it.

RFC 6750 §2.1, §3 https://www.rfc-editor.org/rfc/rfc6750
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Protocol
from urllib.parse import quote

from auth import purposes
from auth.admission import ADMITTED, Admission, Admitted, Holder
from auth.clients import Clock
from auth.grants import holding
from auth.refusals import Refusals
from auth.tokens import Token, Tokens
from resources.outcomes import TooManyRequests, Unauthenticated
from resources.values import light
from store.access import Access, Caller, Interaction, Outcome, Recording, outcome_of_status
from store.engine.ids import random_digits

REALM = "Vigie"
CHALLENGE = f'Bearer realm="{REALM}"'
INVALID_TOKEN = "The access token is unknown, expired or revoked"  # noqa: S105 - a message

REQUEST_ID = "vigie.request_id"
"""Key of the WSGI environment where the application has put the id of the request."""
RECORDING = "vigie.recording"
"""Key of the WSGI environment where the application has put the `Recording` of the request."""
CLIENT_ID = "vigie.client_id"
"""Key of the WSGI environment where the guard puts the client of a token that gives access."""
TOKEN = "vigie.token"  # noqa: S105 - a key
"""Key of the WSGI environment: the `Token` of the Authorization header, where a front has looked for it already."""
RAW_LENGTH = 8000
"""Characters of a request line that the audit record keeps."""

_BEARER = re.compile(r"Bearer +([A-Za-z0-9._~+/-]+=*)", re.ASCII | re.IGNORECASE)
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)


class NotAuthorized(Unauthenticated):
    """401 with its challenge. It is already on record."""

    def __init__(self, diagnostics: str, *, challenge: str, caller: Caller) -> None:
        super().__init__(diagnostics)
        self.challenge = challenge
        """Value of the WWW-Authenticate header."""
        self.caller = caller
        """Nobody, with the address and the id of the request."""


@light
@dataclass(frozen=True, slots=True)
class Peer:
    """Where a request comes from and what it is called."""

    address: str
    request_id: str


class Request(Protocol):
    """A request by its WSGI environment (PEP 3333), whatever web framework it came through."""

    @property
    def environ(self) -> dict[str, Any]: ...


class Guard:
    """`guard(request)` gives the Caller. Raises NotAuthorized, TooManyRequests, Unavailable."""

    def __init__(
        self, tokens: Tokens, *, clock: Clock, refusals: Refusals, admission: Admission | None = None,
        trusted_proxies: int = 0,
    ) -> None:
        self.admission = admission or Admission()
        self._tokens = tokens
        self._clock = clock
        self._refusals = refusals
        self._trusted_proxies = trusted_proxies

    def __call__(self, request: Request) -> Caller:
        peer = self.peer(request)
        header = request.environ.get("HTTP_AUTHORIZATION")
        if header is None:
            raise self._refusal(request, peer, "Send an access token: Authorization: Bearer …", "no access token")
        match = _BEARER.fullmatch(header)
        if match is None:
            raise self._refusal(request, peer, "Only the Bearer scheme is understood", "no bearer token")
        now_s = self._clock().timestamp()
        token: Token | None = request.environ.get(TOKEN)
        if token is None or not token.is_fresh(now_s):
            token = self._tokens.find(match[1])
        if token is None or not token.live(now_s):
            reason = "unknown token" if token is None else token.fault or "expired token"
            raise self._refusal(request, peer, INVALID_TOKEN, reason, token)
        request.environ[CLIENT_ID] = token.record.client_id
        caller = _caller(token, now_s, peer.address, peer.request_id, request.environ.get(RECORDING))
        if ADMITTED not in request.environ:
            request.environ[ADMITTED] = self._admitted(request.environ, caller)
        return caller

    def _admitted(self, environ: dict[str, Any], caller: Caller) -> Admitted:
        """Count a request in, or turn it away. Raises TooManyRequests."""
        try:
            return self.admission.admit(Holder(caller.client_id, caller.organization))
        except TooManyRequests as error:
            access = Access(
                Interaction.OPERATION,
                query=raw_request(environ),
                outcome=outcome_of_status(error.status),
                reason=f"{error.status} {error.issues[0].code}",
            )
            self._refusals.count(caller, access)  # there may be very many
            if caller.recording is not None:
                caller.recording.is_recorded = True
            raise

    def remembered(self, environ: dict[str, Any]) -> Holder | None:
        """Whose token a request bears, if it gives access and that is known without a look at the database."""
        now_s = self._clock().timestamp()
        match = _BEARER.fullmatch(environ.get("HTTP_AUTHORIZATION", ""))
        return None if match is None else _held(environ, self._tokens.remembered(match[1], now_s), now_s)

    def again(self, digest: bytes) -> Token | None:
        """The token with this digest, if it gives access and that is known without a look at the database."""
        now_s = self._clock().timestamp()
        token = self._tokens.again(digest, now_s)
        return token if token is not None and token.client is not None and token.live(now_s) else None

    def caller(self, token: Token, address: str, request_id: str) -> Caller:
        """Who asks with a token that gives access, where he asks without a `Recording`."""
        return _caller(token, self._clock().timestamp(), address, request_id)

    def holder(self, environ: dict[str, Any]) -> Holder | None:
        """Whose token a request bears, if it gives access. It is not the permission: `__call__` gives that."""
        match = _BEARER.fullmatch(environ.get("HTTP_AUTHORIZATION", ""))
        if match is None:
            return None
        return _held(environ, self._tokens.find(match[1]), self._clock().timestamp())

    def peer(self, request: Request) -> Peer:
        """Address and request id. A proxy is believed only as far as the setting counts them."""
        return self._peer(request.environ)

    def _peer(self, environ: dict[str, Any]) -> Peer:
        request_id = environ.get(REQUEST_ID)  # minted or checked at the threshold
        if request_id is None:
            given = environ.get("HTTP_X_REQUEST_ID", "")
            request_id = given if _REQUEST_ID.fullmatch(given) else random_digits()
        return Peer(self.address_of(environ), request_id)

    def nobody(self, environ: dict[str, Any]) -> Caller:
        """Who asks where no token was looked at: nobody, with the address and the id of the request."""
        peer = self._peer(environ)
        return Caller("", "", address=peer.address, request_id=peer.request_id)

    def address_of(self, environ: dict[str, Any]) -> str:
        """Where a request comes from, as far as proxies are believed."""
        address = environ.get("REMOTE_ADDR") or ""
        if self._trusted_proxies:
            forwarded = environ.get("HTTP_X_FORWARDED_FOR", "").split(",")
            if len(forwarded) >= self._trusted_proxies:
                address = forwarded[-self._trusted_proxies].strip()
        return _plain(address)

    def _refusal(
        self, request: Request, peer: Peer, diagnostics: str, reason: str, token: Token | None = None
    ) -> Unauthenticated | TooManyRequests:
        nobody = Caller("", "", address=peer.address, request_id=peer.request_id)
        if token is not None:
            nobody = replace(nobody, client_id=token.record.client_id, token_ref=token.record.token_ref)
        environ = request.environ
        recording: Recording | None = environ.get(RECORDING)
        # A token that expired has its client's own bucket: it must hear 401, fetch a new one and go on.
        wait_s = self._refusals.record(
            nobody,
            Access(
                Interaction.OPERATION,
                query=recording.request if recording is not None else raw_request(environ),
                outcome=Outcome.SERIOUS,
                reason=f"login: {reason}",
            ),
        )
        if recording is not None:
            recording.is_recorded = True
        if wait_s:
            return TooManyRequests("Too many requests without a valid access token", retry_after_s=wait_s)
        challenge = CHALLENGE
        if "HTTP_AUTHORIZATION" in environ:
            challenge += f', error="invalid_token", error_description="{INVALID_TOKEN}"'
        return NotAuthorized(diagnostics, challenge=challenge, caller=nobody)


def _held(environ: dict[str, Any], token: Token | None, now_s: float) -> Holder | None:
    """Who holds the token, if it gives access; `environ` keeps it for the guard."""
    if token is None or token.client is None or not token.live(now_s):
        return None
    environ[TOKEN] = token
    return Holder(token.record.client_id, token.client.record.organization)


def raw_request(environ: dict[str, Any]) -> str:
    """Method, URL and query as they were sent: still percent-encoded, so that no character of theirs is special."""
    query = environ.get("QUERY_STRING", "").encode("latin-1", "replace").decode("ascii", "replace")
    path = quote(environ.get("PATH_INFO", "").encode("latin-1", "replace"))
    base = f"{environ.get('wsgi.url_scheme', 'http')}://{environ.get('HTTP_HOST', '')}"
    text = f"{environ['REQUEST_METHOD']} {base}{path}" + (f"?{query}" if query else "")
    return text[:RAW_LENGTH]


@lru_cache(maxsize=4096)
def _plain(address: str) -> str:
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        return ""


def _caller(
    token: Token, now_s: float, address: str, request_id: str, recording: Recording | None = None
) -> Caller:
    record, client = token.record, token.client
    if client is None:
        raise ValueError("A live token has a client")
    caller = Caller(
        client_id=record.client_id,
        organization=client.record.organization,
        scopes=token.scopes,
        role=client.record.role,
        practitioner=client.record.practitioner,
        token_ref=record.token_ref,
        address=address,
        request_id=request_id,
        purpose=record.purpose or purposes.of_role(client.record.role),
        recording=recording,
        grants=holding(client.grants, int(now_s * 1_000_000)) if client.grants else (),
    )
    if recording is not None:
        recording.caller = caller
    return caller
