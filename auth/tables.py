"""The tables of the authorization server: clients, issued tokens, used assertions; and the grants.

A token is kept as its SHA-256: who reads the database cannot use it.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Index, LargeBinary, Table, Text

from store.engine.schema import BinaryText, metadata

oauth_client = Table(
    "oauth_client",
    metadata,
    Column("client_id", Text, primary_key=True),
    Column("name", Text, nullable=False, comment="for people; no secret, no personal data"),
    Column("organization", Text, nullable=False, comment="logical id of the Organization it belongs to"),
    Column("scope", Text, nullable=False, comment="SMART v2 scopes that it may ask for, by spaces"),
    Column("role", Text, nullable=False),
    Column("practitioner", Text, comment="Practitioner/id of the person behind it, if there is one"),
    Column("jwks", Text, nullable=False, comment="JWK Set as JSON text, public keys only"),
    Column("jwks_uri", Text, comment="the only jku that its assertions may carry"),
    Column("active", Boolean, nullable=False),
    Column("created", BigInteger, nullable=False, comment="s since 1970-01-01T00:00Z"),
    Column("origins", Text, nullable=False, server_default="", comment="web origins of its pages (CORS), by spaces"),
    Column("disabled_at", BigInteger, comment="s since 1970-01-01T00:00Z; null: active"),
    Column("disabled_by", Text, comment="agent and account number; no name"),
    Column("last_token", BigInteger, comment="when it last fetched a token, s since 1970-01-01T00:00Z"),
)

oauth_token = Table(
    "oauth_token",
    metadata,
    Column("digest", LargeBinary(32), primary_key=True, comment="SHA-256 of the token"),
    Column("token_ref", Text, nullable=False, unique=True, comment="random name of the token, for the audit record"),
    Column("client_id", Text, nullable=False),
    Column("scope", Text, nullable=False, comment="as granted"),
    Column("purpose", Text, comment="purpose of use (v3-ActReason); null: issued before it was kept"),
    Column("issued", BigInteger, nullable=False, comment="s since 1970-01-01T00:00Z"),
    Column("expires", BigInteger, nullable=False, comment="s since 1970-01-01T00:00Z, exclusive"),
    Column("revoked", BigInteger, comment="s since 1970-01-01T00:00Z"),
    Index("ix_oauth_token_expires", "expires"),
)

oauth_assertion = Table(
    "oauth_assertion",
    metadata,
    Column("digest", LargeBinary(32), primary_key=True, comment="SHA-256 of iss and jti"),
    Column("expires", BigInteger, nullable=False, comment="s since 1970-01-01T00:00Z: exp with its leeway"),
    Index("ix_oauth_assertion_expires", "expires"),
)

access_grant = Table(
    "access_grant",
    metadata,
    Column("id", BinaryText, primary_key=True),
    Column("subject", BinaryText, nullable=False, comment="Organization/id, Practitioner/id or Client/id: who holds"),
    Column("object", BinaryText, nullable=False, comment="Type/id of what it opens"),
    Column("extent", Text, nullable=False, comment="organization, case, patient or resource"),
    Column("letters", Text, nullable=False, comment="out of cruds, as in a SMART scope"),
    Column("since", BigInteger, nullable=False, comment="µs since 1970-01-01T00:00Z, inclusive"),
    Column("until", BigInteger, nullable=False, comment="µs since 1970-01-01T00:00Z, exclusive"),
    Column("reason", Text, nullable=False, comment="for people; no personal data"),
    Column("source", Text, nullable=False, comment="auth.grants.Source"),
    Column("owner", Text, nullable=False, comment="logical id of the Organization whose data it opens"),
    Column("granted_by", Text, nullable=False, comment="agent; no name"),
    Column("granted_at", BigInteger, nullable=False, comment="µs since 1970-01-01T00:00Z"),
    Column("revoked_at", BigInteger, comment="µs since 1970-01-01T00:00Z; null: it was not"),
    Column("revoked_by", Text, comment="agent; no name"),
    Index("ix_access_grant_subject", "subject", "until"),
    Index("ix_access_grant_object", "object", "until"),
    Index("ix_access_grant_until", "until"),
)
