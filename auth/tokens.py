"""Access tokens: opaque, short-lived, kept as hashes.

A token is 32 random bytes and means nothing by itself; what it allows is looked up. Each process remembers a lookup
for at most five seconds, so a revocation, or the end of a client or of a grant, takes effect everywhere within that
time.

RFC 6750, SMART 2.2 backend services: `expires_in` SHOULD NOT exceed 300 s
https://hl7.org/fhir/smart-app-launch/STU2.2/backend-services.html
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass

from sqlalchemy import Connection

from auth import queries
from auth.clients import Client, Clock, with_grants
from auth.queries import TokenRecord, digest_of
from store.engine.database import Database

MAX_LIFETIME_S = 300
LEEWAY_S = 30
"""How far the clocks of two nodes may differ."""
REMEMBERED_FOR_S = 5.0
MAX_REMEMBERED = 20_000
TOKEN_BYTES = 32
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)

PURGE_AFTER_S = 3600
"""What expired stays this long: whatever the clocks of other processes say, a used assertion is not forgotten early."""
PURGE_BATCH = 500


@dataclass(frozen=True, slots=True)
class Token:
    """A stored token and its client, as Authlib asks of one (its `TokenMixin`)."""

    record: TokenRecord
    client: Client | None
    scopes: frozenset[str]
    fault: str | None
    """Why it gives no access (`revoked`, `client inactive`), time apart; None: it does until it expires."""
    seen_s: float
    """When the database said so."""

    def live(self, now_s: float) -> bool:
        """Whether it gives access at that time (s since 1970). One from a future that a wrong clock had gives none."""
        issued, expires = self.record.issued, self.record.expires
        return self.fault is None and issued - LEEWAY_S <= now_s < expires <= now_s + MAX_LIFETIME_S + LEEWAY_S

    def is_fresh(self, now_s: float) -> bool:
        """Whether the database need not be asked again yet. A time before that in which it said so is no time."""
        return 0 <= now_s - self.seen_s < REMEMBERED_FOR_S

    def check_client(self, client: Client) -> bool:
        return self.record.client_id == client.client_id


class Tokens:
    """Issue, find, revoke and purge."""

    def __init__(self, database: Database, *, clock: Clock, lifetime_s: int = MAX_LIFETIME_S) -> None:
        if not 1 <= lifetime_s <= MAX_LIFETIME_S:
            raise ValueError(f"A token lives for 1 to {MAX_LIFETIME_S} seconds")
        self.lifetime_s = lifetime_s
        self._database = database
        self._clock = clock
        self._remembered: dict[bytes, Token] = {}

    def new(self, client: Client, scope: str, purpose: str, token: str) -> TokenRecord:
        """The record of a fresh token, to be inserted."""
        issued = int(self._clock().timestamp())
        return TokenRecord(
            digest=digest_of(token),
            token_ref=secrets.token_hex(16),
            client_id=client.client_id,
            scope=scope,
            purpose=purpose,
            issued=issued,
            expires=issued + self.lifetime_s,
            revoked=None,
            client=client.record,
        )

    def find(self, token: str) -> Token | None:
        """What is known of a token, at most `REMEMBERED_FOR_S` old; None: it was never issued, or is long expired."""
        if not _TOKEN.fullmatch(token):
            return None
        digest = digest_of(token)
        now_s = self._clock().timestamp()
        found = self._remembered.get(digest)
        if found is not None and found.is_fresh(now_s):
            return found
        return self._look_up(digest, now_s)

    def remembered(self, token: str, now_s: float) -> Token | None:
        """As `find`, without a look at the database; None too where it would take one."""
        return self.again(digest_of(token), now_s)

    def again(self, digest: bytes, now_s: float) -> Token | None:
        """As `remembered`, by the token's digest."""
        found = self._remembered.get(digest)
        return found if found is not None and found.is_fresh(now_s) else None

    def forget(self, digest: bytes) -> None:
        """Ask the database about this token next time."""
        self._remembered.pop(digest, None)

    def purge(self) -> bool:
        """Remove what expired long ago; whether there may be more."""
        before_s = int(self._clock().timestamp()) - PURGE_AFTER_S
        with self._database.read() as connection:
            if not queries.purgeable(connection, before_s):
                return False
        with self._database.write() as connection:
            return queries.purge(connection, before_s, PURGE_BATCH) >= PURGE_BATCH

    def _look_up(self, digest: bytes, now_s: float) -> Token | None:
        with self._database.read() as connection:
            record = queries.find_token(connection, digest)
            if record is None:
                self._remembered.pop(digest, None)
                return None
            found = _token(connection, record, now_s)
        if len(self._remembered) >= MAX_REMEMBERED:
            self._remembered.clear()
        self._remembered[digest] = found
        return found


def random_token() -> str:
    """43 characters that nobody can guess (RFC 6749 §10.10 asks for 2^-128 at most; these are 2^-256)."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def _token(connection: Connection, record: TokenRecord, now_s: float) -> Token:
    client = None if record.client is None else with_grants(connection, record.client, int(now_s * 1_000_000))
    fault = None
    if record.revoked is not None:
        fault = "revoked"
    elif client is None or not client.active:
        fault = "client inactive"
    return Token(record, client, frozenset(record.scope.split()), fault, now_s)
