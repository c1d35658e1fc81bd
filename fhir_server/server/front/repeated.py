"""Reads asked again in the same words.

A client that reads sends the same header fields each time, with another id in the path. What follows from those fields
alone (that the head is well-formed, what the client accepts, where it comes from, whose token it is, which fields the
answer has) was found out by the whole core the first time, and is kept here. What may change is asked each time, by
the same doors as ever: the token, the admission, the scope, the organisation predicate, the record (`Store.see`).

Only what ended in a plain 200 is kept, and only a plain 200 is answered here. Everything else, errors included, goes
the long way, as does a head with a field that is not in `FIELDS`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from auth.admission import Accounts, Admission
from auth.guard import TOKEN, Guard
from auth.tokens import Token
from fhir_server.edge.negotiation import etag, http_date
from fhir_server.server import encoding, logs
from fhir_server.server.front.answers import DIRECT_BYTES, Reply
from fhir_server.server.front.inline import PLAIN
from fhir_server.server.front.protocol import Environ, Headers, Scope
from resources.outcomes import TooManyRequests
from store.access import Caller, Version
from store.engine.ids import random_digits

FIELDS = frozenset(
    {"host", "authorization", "accept", "accept-encoding", "accept-language", "user-agent", "connection",
     "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"}
)  # fmt: skip
"""Fields of a head that is kept. Others differ from request to request, or make the read more than a plain one."""
MAX_HEADS = 4096
MAX_BYTES = 4096
"""Of a head that is kept."""
_PLAIN = re.compile(PLAIN, re.ASCII)
_OF_THE_READ = ("ETag", "Last-Modified", "Content-Length", "X-Request-Id")
"""Fields of the answer that differ from read to read."""
_ROUTE = "fhir/read"

_Head = tuple[Any, ...]


class Sees(Protocol):
    """The store, as far as it is needed here."""

    def see(self, caller: Caller, type_name: str, id: str, /) -> tuple[Version, list[Any]] | None: ...


class Kept(NamedTuple):
    """What is known of a head."""

    token: bytes
    """Digest of its access token."""
    address: str
    coding: str | None
    """The content coding that it asks for."""
    answers: dict[bool, _Template]
    """Whether the answer is encoded → its fields."""


class _Template(NamedTuple):
    """The fields of an answer, and where those stand that differ."""

    headers: Headers
    etag: int
    modified: int
    length: int
    request_id: int


class Entered(NamedTuple):
    """A read that is let in, and counts as in flight until it is released."""

    kept: Kept
    type_name: str
    id: str
    token: Token
    organization: str
    admission: Admission
    accounts: Accounts
    began: float
    """Monotonic s."""

    def release(self) -> None:
        """It is over: its place among the requests in flight is free again. Once."""
        self.admission.release(self.accounts)


class Held(NamedTuple):
    """A read that is carried out. Its answer, 200, may leave once what is owed is durable."""

    headers: Headers
    body: bytes
    owed: list[Any]


class Repeated:
    """The heads that this process knows."""

    def __init__(self, guard: Guard, store: Sees, shown: Callable[[Version, Caller], bytes]) -> None:
        """`shown`: the text of a version as a caller may see it."""
        self._guard = guard
        self._store = store
        self._shown = shown
        self._kept: dict[_Head, Kept] = {}

    def find(self, scope: Scope) -> Kept | None:
        """What is known of the head of a request, if it is a plain read's."""
        if scope.method != "GET" or scope.query_string:
            return None
        return self._kept.get(_head(scope))

    def learn(self, scope: Scope, environ: Environ, reply: Reply) -> None:
        """Keep what the core has found out of a head, if its answer was a plain one."""
        if reply.status != 200 or reply.rest is not None or scope.method != "GET" or scope.query_string:
            return
        fields = scope.headers.items()
        token: Token | None = environ.get(TOKEN)
        if (
            token is None
            or _PLAIN.fullmatch(scope.path) is None
            or not FIELDS.issuperset(name for name, _ in fields)
            or sum(len(name) + len(value) for name, value in fields) > MAX_BYTES
        ):
            return
        template = _template(reply.headers)
        if template is None:
            return
        head = _head(scope)
        kept = self._kept.get(head)
        if kept is None:
            if len(self._kept) >= MAX_HEADS:
                self._kept.clear()
            accepted = environ.get("HTTP_ACCEPT_ENCODING")
            coding = None if accepted is None else encoding.chosen(accepted)
            kept = self._kept[head] = Kept(token.record.digest, self._guard.address_of(environ), coding, {})
        kept.answers[any(name == "Content-Encoding" for name, _ in reply.headers)] = template

    def enter(self, kept: Kept, path: str) -> Entered | None:
        """Let in the read of `path` by a known head; None: nothing has happened, and it is to be carried out at length.

        Whoever gets one releases it.
        """
        began = time.monotonic()
        match = _PLAIN.fullmatch(path)
        token = self._guard.again(kept.token) if match is not None else None
        if match is None or token is None or token.client is None:
            return None
        admission, organization = self._guard.admission, token.client.record.organization
        try:
            accounts = admission.enter(token.record.client_id, organization)
        except TooManyRequests:
            return None  # and so it will be again
        return Entered(kept, match[1], match[2], token, organization, admission, accounts, began)

    def carry_out(self, entered: Entered) -> Held | None:
        """The read; None: nothing is owed, and it is to be carried out at length."""
        kept, token = entered.kept, entered.token
        request_id = random_digits()
        caller = self._guard.caller(token, kept.address, request_id)
        seen = self._store.see(caller, entered.type_name, entered.id)
        if seen is None:
            return None
        version, owed = seen
        body = self._shown(version, caller)
        if kept.coding is not None and len(body) >= encoding.FROM_BYTES:
            body, template = encoding.packed(body, kept.coding), kept.answers.get(True)
        else:
            template = kept.answers.get(False)
        if template is None or len(body) > DIRECT_BYTES:
            return None
        headers = template.headers.copy()
        headers[template.etag] = ("ETag", etag(version.version))
        headers[template.modified] = ("Last-Modified", http_date(version.last_updated))
        headers[template.length] = ("Content-Length", str(len(body)))
        headers[template.request_id] = ("X-Request-Id", request_id)
        logs.request("GET", _ROUTE, 200, (time.monotonic() - entered.began) * 1000, request_id)
        return Held(headers, body, owed)


def _head(scope: Scope) -> _Head:
    """All of a request's head but its target and the port that it comes from."""
    return (
        scope.client.rpartition(":")[0], scope.http_version, scope.scheme, scope.authority, *scope.headers.items()
    )  # fmt: skip


def _template(headers: Headers) -> _Template | None:
    names = [name for name, _ in headers]
    if any(names.count(name) != 1 for name in _OF_THE_READ):
        return None
    return _Template(list(headers), *map(names.index, _OF_THE_READ))
