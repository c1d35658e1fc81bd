"""The tables of the log: what waits to be sequenced, the log itself, its tree, its checkpoints."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    LargeBinary,
    SmallInteger,
    Table,
    Text,
)

from store.engine.schema import BinaryText, Key, metadata

audit_inbox = Table(
    "audit_inbox",
    metadata,
    Column("pk", Key, primary_key=True),
    Column("event_id", BinaryText, nullable=False, comment="id of the AuditEvent"),
    Column("recorded", BigInteger, nullable=False, comment="µs since 1970-01-01T00:00Z"),
    Column("tx_id", BigInteger, nullable=False, comment="transaction that it was recorded in"),
    Column("entry", Text, nullable=False, comment="the access as JSON (audit.entry): an AuditEvent is made of it"),
    sqlite_autoincrement=True,
)

audit_spool = Table(
    "audit_spool",
    metadata,
    Column("file", Text, primary_key=True, comment="name of a file of the spool"),
    Column("consumed", BigInteger, nullable=False, comment="bytes of it that are in the log"),
)

audit_log = Table(
    "audit_log",
    metadata,
    Column("seq", Key, primary_key=True, autoincrement=False, comment="position, from 1, without gaps"),
    Column("event_id", BinaryText, nullable=False, unique=True, comment="id of the AuditEvent"),
    Column("leaf", LargeBinary, nullable=False, comment="SHA-256 leaf hash, 32 bytes"),
    Column("salt", LargeBinary, nullable=False, comment="key of the leaf's commitment, 32 bytes"),
    Column("tx_id", BigInteger, nullable=False, index=True, comment="transaction that it was recorded in"),
    Column("recorded", BigInteger, nullable=False, comment="µs since 1970-01-01T00:00Z"),
)

audit_tree = Table(
    "audit_tree",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False, comment="1: there is one log"),
    Column("size", BigInteger, nullable=False, comment="number of leaves"),
    Column("frontier", LargeBinary, nullable=False, comment="roots of the perfect subtrees, 32 bytes each"),
)

audit_checkpoint = Table(
    "audit_checkpoint",
    metadata,
    Column("size", Key, primary_key=True, autoincrement=False, comment="number of leaves signed"),
    Column("note", Text, nullable=False, comment="C2SP signed note"),
    Column("signed", BigInteger, nullable=False, comment="µs since 1970-01-01T00:00Z"),
)
