"""The store's tables: one row per version, narrow typed index tables keyed by version, transactions, audiences.

A version is alive at *t* when ``valid_from <= t < valid_to``; the current one has ``valid_to = MAX``. Index rows belong
to one version and never change, so a search is a search *at t*. Every other package declares its own tables on
`store.engine.schema.metadata`.

Each index table is reached two ways: by value (``param_id, value…, version_pk``, covering) to find candidates, and by
version (the primary key) to probe a candidate. `docs/decisions/0003-storage.md` has the measurements behind this.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Double,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    Table,
    Text,
    literal_column,
    text,
)

from store.engine.schema import BinaryText, Key, metadata

MAX = 2**63 - 1
"""`valid_to` of a current version: later than any transaction."""
CURRENT: ColumnElement[int] = literal_column(str(MAX), BigInteger)
"""MAX written into the statement: a bound value does not let the planner use the index of current versions."""

tx = Table(
    "tx",
    metadata,
    Column("tx_id", Key, primary_key=True, comment="order of everything; PostgreSQL: transaction id + epoch"),
    Column("at", BigInteger, nullable=False, comment="µs since 1970-01-01T00:00Z, whole milliseconds"),
    Index("ix_tx_at", "at"),
)

store_setting = Table(
    "store_setting",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

audience_member = Table(
    "audience_member",
    metadata,
    Column("audience_id", BigInteger, primary_key=True, comment="hash64 of the sorted organisation ids"),
    Column("organization", BinaryText, primary_key=True, comment="Organization id, or * for every one"),
    Index("ix_audience_member_organization", "organization", "audience_id"),
    sqlite_with_rowid=False,
)

resource_version = Table(
    "resource_version",
    metadata,
    Column("pk", Key, primary_key=True),
    Column("type_id", SmallInteger, nullable=False, comment="resources.registry"),
    Column("resource_id", BinaryText, nullable=False),
    Column("version", Integer, nullable=False, comment="meta.versionId"),
    Column("tx_id", BigInteger, nullable=False),
    Column("valid_from", BigInteger, nullable=False, comment="tx_id, inclusive"),
    Column("valid_to", BigInteger, nullable=False, comment="tx_id, exclusive; 2^63-1: current"),
    Column("deleted", SmallInteger, nullable=False, comment="1: this version is a deletion"),
    Column("method", Text, nullable=False, comment="POST PUT PATCH DELETE"),
    Column("owner_id", BigInteger, nullable=False, comment="hash64 of the owner; its name is in audience_member"),
    Column("audience_id", BigInteger, nullable=False),
    Column("last_updated", BigInteger, nullable=False, comment="µs since 1970-01-01T00:00Z, whole milliseconds"),
    Column("patients", Text, nullable=False, comment="ids of the patients concerned, by spaces: for the audit record"),
    Column("content", Text, nullable=False, comment="JSON as it is served; empty for a deletion"),
    Column("salt", LargeBinary, comment="of its digest in the audit log (store.versions.digests); null: none yet"),
    Index("uq_resource_version_instance", "type_id", "resource_id", "version", unique=True),
    Index(
        "uq_resource_version_current",
        "type_id",
        "resource_id",
        unique=True,
        sqlite_where=text(f"valid_to = {MAX}"),
        postgresql_where=text(f"valid_to = {MAX}"),
    ),
    Index("ix_resource_version_recent", "type_id", "last_updated", "pk"),
    Index("ix_resource_version_audience", "audience_id", "type_id", "last_updated", "pk"),
    Index("ix_resource_version_system", "last_updated", "pk"),
    Index(
        "ix_resource_version_ended",
        "valid_to",
        sqlite_where=text(f"valid_to < {MAX}"),
        postgresql_where=text(f"valid_to < {MAX}"),
    ),
    Index(
        "ix_resource_version_unsalted",
        "pk",
        sqlite_where=text("salt IS NULL"),
        postgresql_where=text("salt IS NULL"),
    ),
)


def _index_table(name: str, *values: Column[Any]) -> Table:
    return Table(
        name,
        metadata,
        Column("version_pk", BigInteger, primary_key=True),
        Column("param_id", Integer, primary_key=True, comment="resources.search_parameters"),
        Column("row_no", Integer, primary_key=True, comment="distinguishes the rows of one version and parameter"),
        Column("group_no", Integer, nullable=False, comment="rows of one component, for composites"),
        *values,
        sqlite_with_rowid=False,
    )


sp_token = _index_table(
    "sp_token",
    Column("system_id", BigInteger, nullable=False, comment="hash64 of the system; 0: none"),
    Column("code", BinaryText, nullable=False),
)
# `code` before `system_id` and the version between them: a code without a system is probed as directly as one with.
Index("ix_sp_token_value", sp_token.c.param_id, sp_token.c.code, sp_token.c.version_pk, sp_token.c.system_id)

NORM_LENGTH = 256
"""Characters of `norm`: PostgreSQL refuses index rows above a third of a page."""

sp_string = _index_table(
    "sp_string",
    Column("norm", BinaryText, nullable=False, comment="without case and accents, its first 256 characters"),
    Column("rest", BinaryText, nullable=False, comment="what follows them, mostly nothing"),
    Column("exact", BinaryText, nullable=False),
)
Index("ix_sp_string_value", sp_string.c.param_id, sp_string.c.norm, sp_string.c.version_pk)

sp_date = _index_table(
    "sp_date",
    Column("low", BigInteger, nullable=False, comment="100 ns since 0001-01-01T00:00Z, inclusive"),
    Column("high", BigInteger, nullable=False, comment="100 ns since 0001-01-01T00:00Z, exclusive"),
)
Index("ix_sp_date_low", sp_date.c.param_id, sp_date.c.low, sp_date.c.version_pk, sp_date.c.high)
Index("ix_sp_date_high", sp_date.c.param_id, sp_date.c.high, sp_date.c.version_pk, sp_date.c.low)

sp_number = _index_table(
    "sp_number",
    Column("low", Double, nullable=False),
    Column("high", Double, nullable=False),
)
Index("ix_sp_number_low", sp_number.c.param_id, sp_number.c.low, sp_number.c.version_pk, sp_number.c.high)

sp_quantity = _index_table(
    "sp_quantity",
    Column("system_id", BigInteger, nullable=False, comment="hash64 of the unit system; 0: none"),
    Column("code", BinaryText, nullable=False, comment="unit code, or the human unit"),
    Column("low", Double, nullable=False),
    Column("high", Double, nullable=False),
)
Index(
    "ix_sp_quantity_low", sp_quantity.c.param_id, sp_quantity.c.low, sp_quantity.c.version_pk, sp_quantity.c.high
)

ANY_REFERENCE = 0
"""`param_id` of the rows that name every resource of this server that a version refers to, for integrity."""

sp_reference = _index_table(
    "sp_reference",
    Column("target_type_id", SmallInteger, nullable=False, comment="0: not a resource of this server"),
    Column("target_id", BinaryText, nullable=False),
    Column("target_version", Text, nullable=False),
    Column("url", BinaryText, nullable=False, comment="of a reference that is not to this server; else empty"),
)
Index(
    "ix_sp_reference_target",
    sp_reference.c.param_id,
    sp_reference.c.target_id,
    sp_reference.c.target_type_id,
    sp_reference.c.version_pk,
)
Index(
    "ix_sp_reference_url",
    sp_reference.c.param_id,
    sp_reference.c.url,
    sp_reference.c.version_pk,
    sqlite_where=text("url <> ''"),
    postgresql_where=text("url <> ''"),
)

sp_uri = _index_table("sp_uri", Column("uri", BinaryText, nullable=False))
Index("ix_sp_uri_value", sp_uri.c.param_id, sp_uri.c.uri, sp_uri.c.version_pk)

search_parameter = Table(
    "search_parameter",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False, comment="param_id of index rows, for ever"),
    Column("type", Text, nullable=False),
    Column("code", Text, nullable=False),
    Index("uq_search_parameter_type_code", "type", "code", unique=True),
)

index_rule = Table(
    "index_rule",
    metadata,
    Column("type_id", SmallInteger, primary_key=True, autoincrement=False, comment="resources.registry"),
    Column("rule", Integer, nullable=False, comment="resources.index_rules: what its rows were made by; no row: 1"),
    Column("target", Integer, nullable=True, comment="what they are being made anew by; null: they are not"),
    Column("through", BigInteger, nullable=True, comment="versions up to this pk are made anew"),
)

INDEX_TABLES = (sp_token, sp_string, sp_date, sp_number, sp_quantity, sp_reference, sp_uri)
