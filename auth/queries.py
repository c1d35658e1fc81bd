"""The statements of the authorization server: clients, issued tokens, used assertions.

An assertion's (iss, jti) is a row of the shared database, so that it is used once whatever process sees it. Nothing
here decides; the callers do.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection, Row, select
from sqlalchemy.dialects import postgresql, sqlite

from auth.tables import oauth_assertion, oauth_client, oauth_token
from resources.json import Json
from store.versions import digests


@dataclass(frozen=True, slots=True)
class ClientRecord:
    """One row of oauth_client, a field for each column."""

    client_id: str
    name: str
    organization: str
    scope: str
    role: str
    practitioner: str | None
    jwks: Json
    jwks_uri: str | None
    active: bool
    created: int
    origins: tuple[str, ...] = ()
    disabled_at: int | None = None
    disabled_by: str | None = None
    last_token: int | None = None


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """One row of oauth_token, a field for each column."""

    digest: bytes
    token_ref: str
    client_id: str
    scope: str
    purpose: str | None
    issued: int
    expires: int
    revoked: int | None
    client: ClientRecord | None
    """Whom it was issued to; None: there is no such client any more."""


def digest_of(secret: str) -> bytes:
    """SHA-256: what is kept of a secret."""
    return sha256(secret.encode()).digest()


def insert_client(connection: Connection, client: ClientRecord) -> None:
    """Register a client."""
    values = {column.name: getattr(client, column.name) for column in oauth_client.c}
    jwks = json.dumps(client.jwks, separators=(",", ":"), sort_keys=True)
    connection.execute(oauth_client.insert().values(**values | {"jwks": jwks, "origins": " ".join(client.origins)}))


def find_client(connection: Connection, client_id: str) -> ClientRecord | None:
    """A client by its id; None where there is none."""
    row = connection.execute(select(oauth_client).where(oauth_client.c.client_id == client_id)).one_or_none()
    return None if row is None else _client(row)


def list_clients(connection: Connection) -> list[ClientRecord]:
    """Every client, the oldest first."""
    rows = connection.execute(select(oauth_client).order_by(oauth_client.c.created, oauth_client.c.client_id))
    return [_client(row) for row in rows]


def client_rows(connection: Connection, client_id: str | None = None) -> Iterator[tuple[str, str]]:
    """(``client_id/…``, digest of the row) of one client, or of every one: what the audit log says of the registry.

    All but when it last fetched a token.
    """
    columns = [column for column in oauth_client.c if column is not oauth_client.c.last_token]
    statement = select(*columns).order_by(oauth_client.c.client_id)
    if client_id is not None:
        statement = statement.where(oauth_client.c.client_id == client_id)
    for row in connection.execute(statement):
        yield f"client_id/{row.client_id}", digests.of_row("oauth_client", row._asdict())


def organizations_of(connection: Connection, subjects: Iterable[str]) -> frozenset[str]:
    """The organisations of these holders of grants (``Organization/id``, ``Practitioner/id``, ``Client/id``)."""
    named = frozenset(subjects)
    organizations = {name.partition("/")[2] for name in named if name.startswith("Organization/")}
    clients = [name.partition("/")[2] for name in named if name.startswith("Client/")]
    people = [name for name in named if name.startswith("Practitioner/")]
    if clients or people:
        asked = select(oauth_client.c.organization).where(
            oauth_client.c.client_id.in_(clients) | oauth_client.c.practitioner.in_(people)
        )
        organizations.update(connection.execute(asked).scalars())
    return frozenset(organizations)


def update_client(connection: Connection, client_id: str, **values: Any) -> None:
    """Set columns of one client."""
    connection.execute(oauth_client.update().where(oauth_client.c.client_id == client_id).values(**values))


def touch_client(connection: Connection, client_id: str, scope: str, at_s: int) -> bool:
    """Note that a client fetches a token; False where it was disabled or given other scopes meanwhile.

    Holds its row, so that whoever revokes its tokens at the same moment sees this one.
    """
    touched = connection.execute(
        oauth_client.update()
        .where(oauth_client.c.client_id == client_id, oauth_client.c.active.is_(True), oauth_client.c.scope == scope)
        .values(last_token=at_s)
    )
    return touched.rowcount == 1


def active_origins(connection: Connection, limit: int) -> set[str]:
    """The web origins of all active clients, out of at most `limit` clients that have any."""
    columns = select(oauth_client.c.origins).where(oauth_client.c.active.is_(True), oauth_client.c.origins != "")
    return {origin for text in connection.execute(columns.limit(limit)).scalars() for origin in text.split()}


def revoke_tokens_of(connection: Connection, client_id: str, at_s: int) -> int:
    """Revoke all tokens of a client that still give access; how many."""
    changed = connection.execute(
        oauth_token.update()
        .where(
            oauth_token.c.client_id == client_id, oauth_token.c.revoked.is_(None), oauth_token.c.expires > at_s
        )
        .values(revoked=at_s)
    )
    return changed.rowcount


def insert_token(connection: Connection, token: TokenRecord) -> None:
    """Keep an issued token."""
    values = {column.name: getattr(token, column.name) for column in oauth_token.c}
    connection.execute(oauth_token.insert().values(**values))


def find_token(connection: Connection, digest: bytes) -> TokenRecord | None:
    """A token by its digest, with its client; None where there is none."""
    row = connection.execute(select(oauth_token).where(oauth_token.c.digest == digest)).one_or_none()
    if row is None:
        return None
    return TokenRecord(**row._mapping, client=find_client(connection, row.client_id))


def revoke_token(connection: Connection, digest: bytes, at_s: int) -> None:
    """Mark a token as revoked, once."""
    connection.execute(
        oauth_token.update()
        .where(oauth_token.c.digest == digest, oauth_token.c.revoked.is_(None))
        .values(revoked=at_s)
    )


def use_assertion(connection: Connection, issuer: str, jti: str, expires: int) -> bool:
    """Record this assertion as used; False if it already was. One statement, so one of many processes wins."""
    insert: Any = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    # The lengths keep ("ab", "c") and ("a", "bc") apart.
    digest = digest_of(f"{len(issuer)}:{issuer}{jti}")
    statement = insert(oauth_assertion).values(digest=digest, expires=expires)
    inserted = statement.on_conflict_do_nothing().returning(oauth_assertion.c.expires)
    return connection.execute(inserted).first() is not None


def purgeable(connection: Connection, before_s: int) -> bool:
    """Whether anything expired before `before_s`: asked first, so that an idle server writes nothing."""
    return any(
        connection.execute(select(table.c.expires).where(table.c.expires < before_s).limit(1)).first() is not None
        for table in (oauth_token, oauth_assertion)
    )


def purge(connection: Connection, before_s: int, limit: int) -> int:
    """Forget tokens and assertions that expired before `before_s`, at most `limit` of each; how many there were."""
    removed = 0
    for table in (oauth_token, oauth_assertion):
        old = select(table.c.digest).where(table.c.expires < before_s).limit(limit)
        removed += connection.execute(table.delete().where(table.c.digest.in_(old))).rowcount
    return removed


def _client(row: Row[Any]) -> ClientRecord:
    given = {**row._mapping, "jwks": json.loads(row.jwks), "active": bool(row.active)}
    return ClientRecord(**given | {"origins": tuple(row.origins.split())})
