"""The tables of the log: what waits to be sequenced, the log itself, how it is found, its tree, its checkpoints.

The log lies apart from the clinical record: an AuditEvent is no version of a resource, it is made of a row of
`audit_log` when somebody reads it. Rows are only ever appended.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    LargeBinary,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
)

from store.engine.schema import BinaryText, Key, metadata

audit_inbox = Table(
    "audit_inbox",
    metadata,
    Column("pk", Key, primary_key=True),
    Column("event_id", BinaryText, nullable=False, comment="id of the record"),
    Column("recorded", BigInteger, nullable=False, comment="µs since 1970-01-01T00:00Z"),
    Column("tx_id", BigInteger, nullable=False, comment="transaction that it was recorded in"),
    Column("entry", Text, nullable=False, comment="the access as JSON (audit.entry): a record is made of it"),
    sqlite_autoincrement=True,
)

audit_spool = Table(
    "audit_spool",
    metadata,
    Column("file", Text, primary_key=True, comment="name of a file of the spool"),
    Column("format", SmallInteger, nullable=False, comment="2: chained; 1: of a version before that"),
    Column("header", LargeBinary, nullable=False, comment="what the file begins with; format 1: empty"),
    Column("created", BigInteger, nullable=False, comment="µs since 1970-01-01T00:00Z; 0: not known"),
    Column("owner", Text, nullable=False, comment="process and host that write it"),
    Column("consumed", BigInteger, nullable=False, comment="bytes of it that are in the log"),
    Column("count", BigInteger, nullable=False, comment="records in these"),
    Column("chain", LargeBinary, nullable=False, comment="MAC of the frame that ends there"),
    Column("head_offset", BigInteger, nullable=False, comment="bytes that its writer has said are written"),
    Column("head_count", BigInteger, nullable=False, comment="records in these"),
    Column("head_mac", LargeBinary, nullable=False, comment="MAC of the frame that ends there"),
    Column("done", SmallInteger, nullable=False, comment="1: only to be removed"),
)

audit_spool_gap = Table(
    "audit_spool_gap",
    metadata,
    Column("pk", Key, primary_key=True),
    Column("file", Text, nullable=False, comment="name of the file; it lies in the folder aside, if anywhere"),
    Column("begin", BigInteger, nullable=False, comment="offset from which it does not verify"),
    Column("end", BigInteger, nullable=False, comment="offset up to which it does not"),
    Column("records", BigInteger, nullable=True, comment="how many records stood there; null: nobody knows"),
    Column("kind", Text, nullable=False, comment="altered, truncated, removed, foreign"),
    Column("found", BigInteger, nullable=False, comment="µs since 1970-01-01T00:00Z"),
    Column("seen", BigInteger, nullable=True, comment="when an operator said that it is known; null: not yet"),
)

audit_log = Table(
    "audit_log",
    metadata,
    Column("seq", Key, primary_key=True, autoincrement=False, comment="position, from 1, without gaps"),
    Column("event_id", BinaryText, nullable=False, comment="id of the record; AuditEvent ids begin so"),
    Column("form", SmallInteger, nullable=False, comment="what the texts mean (audit.forms)"),
    Column("leaf", LargeBinary, nullable=False, comment="SHA-256 leaf hash, 32 bytes"),
    Column("salt", LargeBinary, nullable=False, comment="32 bytes; form 2: of the head, then of the particulars"),
    Column("recorded", BigInteger, nullable=False, comment="µs since 1970-01-01T00:00Z"),
    Column("logged", BigInteger, nullable=False, comment="µs since 1970, never less than in the row before"),
    Column("through", BigInteger, nullable=False, comment="AuditEvents up to this row, its own included"),
    Column("head", Text, nullable=True, comment="form 1: the AuditEvent; null: it is gone"),
    Column("particulars", Text, nullable=False, comment="what may concern several patients; empty: nothing"),
    Column("parts", Text, nullable=False, comment="JSON: patient, its owner, salt of each; empty: none"),
    Index("ix_audit_log_recorded", "recorded", "seq"),
    UniqueConstraint("event_id").ddl_if(dialect="sqlite"),
    Index("ix_audit_log_event_id", "event_id").ddl_if(dialect="postgresql"),
    Index("ix_audit_log_seq", "seq", "logged", unique=True).ddl_if(dialect="postgresql"),
    postgresql_partition_by="RANGE (logged)",
)
audit_log.primary_key.ddl_if(dialect="sqlite")  # a unique index of PostgreSQL has the partitions' column in it

audit_index = Table(
    "audit_index",
    metadata,
    Column("kind", SmallInteger, primary_key=True, autoincrement=False, comment="audit.finding.Kind"),
    Column("value", BigInteger, primary_key=True, autoincrement=False, comment="hash64 of what it is found by"),
    Column("at", BigInteger, primary_key=True, autoincrement=False, comment="recorded"),
    Column("seq", BigInteger, primary_key=True, autoincrement=False, comment="audit_log"),
    sqlite_with_rowid=False,
    postgresql_partition_by="RANGE (at)",
)

audit_month = Table(
    "audit_month",
    metadata,
    Column("since", BigInteger, primary_key=True, autoincrement=False, comment="begin of the month in µs since 1970"),
    Column("first", BigInteger, nullable=False, comment="position of the first record that was logged in it"),
    Column("last", BigInteger, nullable=False, comment="of the last one"),
    Column("earliest", BigInteger, nullable=False, comment="of `recorded` of these, in µs since 1970"),
    Column("latest", BigInteger, nullable=False, comment="of `recorded` of these, in µs since 1970"),
    comment="PostgreSQL: which partitions hold what (audit.months); SQLite: empty",
)

audit_site = Table(
    "audit_site",
    metadata,
    Column("digest", BinaryText, primary_key=True, comment="of the content; heads of records name it"),
    Column("content", Text, nullable=False, comment="JSON: what an AuditEvent says of the server itself"),
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

audit_key = Table(
    "audit_key",
    metadata,
    Column("seq", Key, primary_key=True, autoincrement=False, comment="record that names the key; it signs from there"),
    Column("former", Text, nullable=False, comment="verifier key that signed up to there (C2SP signed-note)"),
    Column("key", Text, nullable=False, comment="verifier key that signs from there on"),
)

audit_hold = Table(
    "audit_hold",
    metadata,
    Column("pk", Key, primary_key=True),
    Column("patient", Text, nullable=False, comment="reference of the patient whose records are kept; *: all"),
    Column("reason", Text, nullable=False, comment="what the operator said"),
    Column("since", BigInteger, nullable=False, comment="µs since 1970-01-01T00:00Z"),
    Column("released", BigInteger, nullable=True, comment="µs since 1970-01-01T00:00Z; null: in force"),
)

audit_purge = Table(
    "audit_purge",
    metadata,
    Column("pk", Key, primary_key=True),
    Column("class", Text, nullable=False, comment="audit.retention.CLASSES"),
    Column("first", BigInteger, nullable=False, comment="lowest position"),
    Column("last", BigInteger, nullable=False, comment="highest position"),
    Column("records", BigInteger, nullable=False, comment="how many were emptied"),
    Column("events", BigInteger, nullable=False, comment="AuditEvents that they were"),
)
