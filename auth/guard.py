"""A request becomes a Caller, or is refused with a challenge.

The token comes in the Authorization header and nowhere else: query strings end up in logs. A refusal is on record
before it is answered, so no endpoint can forget it.

RFC 6750 §2.1, §3 https://www.rfc-editor.org/rfc/rfc6750
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol
from urllib.parse import quote

from auth.clients import Clock
from auth.throttle import Throttle
from auth.tokens import Token, Tokens
from resources.outcomes import TooManyRequests, Unauthenticated
from store.access import Access, Caller, Interaction, Outcome, Trail
from store.engine.ids import random_digits

REALM = "Vigie"
CHALLENGE = f'Bearer realm="{REALM}"'
INVALID_TOKEN = "The access token is unknown, expired or revoked"  # noqa: S105 - a message

REQUEST_ID = "vigie.request_id"
"""Key of the WSGI environment where the application has put the id of the request."""

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
        self, tokens: Tokens, *, trail: Trail, clock: Clock, throttle: Throttle, trusted_proxies: int = 0
    ) -> None:
        self._tokens = tokens
        self._trail = trail
        self._clock = clock
        self._throttle = throttle
        self._trusted_proxies = trusted_proxies

    def __call__(self, request: Request) -> Caller:
        peer = self.peer(request)
        header = request.environ.get("HTTP_AUTHORIZATION")
        if header is None:
            raise self._refusal(request, peer, "Send an access token: Authorization: Bearer …", "no access token")
        match = _BEARER.fullmatch(header)
        if match is None:
            raise self._refusal(request, peer, "Only the Bearer scheme is understood", "no bearer token")
        token = self._tokens.find(match[1])
        if token is None or not token.live(self._clock().timestamp()):
            reason = "unknown token" if token is None else token.fault or "expired token"
            raise self._refusal(request, peer, INVALID_TOKEN, reason, token)
        return _caller(token, peer)

    def caller_for_token(self, token: str, *, address: str = "", request_id: str = "") -> Caller | None:
        """The Caller of a token that gives access now; None for any other."""
        found = self._tokens.find(token)
        if found is None or not found.live(self._clock().timestamp()):
            return None
        return _caller(found, Peer(address, request_id))

    def peer(self, request: Request) -> Peer:
        """Address and request id. A proxy is believed only as far as the setting counts them."""
        environ = request.environ
        request_id = environ.get(REQUEST_ID)  # minted or checked at the threshold
        if request_id is None:
            given = environ.get("HTTP_X_REQUEST_ID", "")
            request_id = given if _REQUEST_ID.fullmatch(given) else random_digits()
        return Peer(self._address(environ), request_id)

    def _address(self, environ: dict[str, Any]) -> str:
        address = environ.get("REMOTE_ADDR") or ""
        if self._trusted_proxies:
            forwarded = environ.get("HTTP_X_FORWARDED_FOR", "").split(",")
            if len(forwarded) >= self._trusted_proxies:
                address = forwarded[-self._trusted_proxies].strip()
        return _plain(address)

    def _refusal(
        self, request: Request, peer: Peer, diagnostics: str, reason: str, token: Token | None = None
    ) -> Unauthenticated | TooManyRequests:
        now = self._clock()
        nobody = Caller(client_id="", organization="", address=peer.address, request_id=peer.request_id)
        if token is not None:
            nobody = Caller(
                token.record.client_id, "", token_ref=token.record.token_ref, address=peer.address,
                request_id=peer.request_id,
            )  # fmt: skip
        # A token that expired has its client's own bucket: it must hear 401, fetch a new one and go on.
        wait_s = self._throttle.wait_s(peer.address, nobody.client_id, now.timestamp())
        count = self._throttle.silenced(peer.address, nobody.client_id, now.timestamp()) if wait_s else 1
        if count:
            detail = (("attempts", str(count)),) if count > 1 else ()
            access = Access(
                Interaction.OPERATION,
                query=_raw(request),
                detail=detail,
                outcome=Outcome.SERIOUS,
                reason=f"login: {reason}",
            )
            self._trail.disclose(nobody, [access], now)
        refusal: Unauthenticated | TooManyRequests
        if wait_s:
            refusal = TooManyRequests("Too many requests without a valid access token", retry_after_s=wait_s)
        else:
            self._throttle.failed(peer.address, nobody.client_id, now.timestamp())
            challenge = CHALLENGE
            if "HTTP_AUTHORIZATION" in request.environ:
                challenge += f', error="invalid_token", error_description="{INVALID_TOKEN}"'
            refusal = NotAuthorized(diagnostics, challenge=challenge, caller=nobody)
        refusal.recorded = True
        return refusal


def _raw(request: Request) -> str:
    """Method, path and query as they were sent: still percent-encoded, so that no character of theirs is special."""
    environ = request.environ
    query = environ.get("QUERY_STRING", "").encode("latin-1", "replace").decode("ascii", "replace")
    path = environ.get("PATH_INFO", "").encode("latin-1", "replace")
    return f"{environ['REQUEST_METHOD']} {quote(path)}" + (f"?{query}" if query else "")


@lru_cache(maxsize=4096)
def _plain(address: str) -> str:
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        return ""


def _caller(token: Token, peer: Peer) -> Caller:
    record, client = token.record, token.client
    if client is None:
        raise ValueError("A live token has a client")
    return Caller(
        client_id=record.client_id,
        organization=client.record.organization,
        scopes=token.scopes,
        role=client.record.role,
        practitioner=client.record.practitioner,
        token_ref=record.token_ref,
        address=peer.address,
        request_id=peer.request_id,
    )
