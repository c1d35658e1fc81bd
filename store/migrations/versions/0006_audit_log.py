"""The audit log apart: its records in its own table, found by its own index, and no versions of resources any more.

What was logged until now is form 1: positions, leaves, salts, ids and checkpoints stay as they are, so that the tree and
everything that was published goes on. The AuditEvents move from resource_version, byte for byte, into the log's rows;
their index rows go.

Revision ID: 0006
Revises: 0005
"""

import json
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op

from resources.hashing import hash64

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_AUDIT_EVENT = 7
"""Number of the type, as resource_version has it."""
_CHUNK = 2000
_INDEX_TABLES = ("sp_token", "sp_string", "sp_date", "sp_number", "sp_quantity", "sp_reference", "sp_uri")
_PATIENT, _PERSON, _CLIENT, _ENTITY, _ACT, _OUTCOME, _ORGANIZATION, _DERIVED = range(1, 9)


def upgrade() -> None:
    text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    op.create_table(
        "audit_index",
        sa.Column("kind", sa.SmallInteger(), autoincrement=False, nullable=False, comment="audit.finding.Kind"),
        sa.Column("value", sa.BigInteger(), autoincrement=False, nullable=False, comment="hash64 of what it is found by"),
        sa.Column("at", sa.BigInteger(), autoincrement=False, nullable=False, comment="recorded"),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False, comment="audit_log"),
        sa.PrimaryKeyConstraint("kind", "value", "at", "seq", name=op.f("pk_audit_index")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "audit_site",
        sa.Column("digest", text, nullable=False, comment="of the content; heads of records name it"),
        sa.Column("content", sa.Text(), nullable=False, comment="JSON: what an AuditEvent says of the server itself"),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_audit_site")),
    )
    op.drop_index("ix_audit_log_tx_id", table_name="audit_log")
    with op.batch_alter_table("audit_log") as batch_op:
        batch_op.drop_column("tx_id")
        for column in (
            sa.Column("form", sa.SmallInteger(), server_default="1", nullable=False, comment="what the texts mean (audit.forms)"),
            sa.Column("logged", sa.BigInteger(), server_default="0", nullable=False,
                      comment="µs since 1970, never less than in the row before"),
            sa.Column("through", sa.BigInteger(), server_default="0", nullable=False,
                      comment="AuditEvents up to this row, its own included"),
            sa.Column("head", sa.Text(), nullable=True, comment="form 1: the AuditEvent; null: it is gone"),
            sa.Column("particulars", sa.Text(), server_default="", nullable=False,
                      comment="what may concern several patients; empty: nothing"),
            sa.Column("parts", sa.Text(), server_default="", nullable=False,
                      comment="JSON: patient, its owner, salt of each; empty: none"),
        ):
            batch_op.add_column(column)
    op.create_index("ix_audit_log_recorded", "audit_log", ["recorded", "seq"])
    connection = op.get_bind()
    _move(connection)
    _forget(connection)


def downgrade() -> None:
    raise NotImplementedError("records of form 2 have no place in the schema before")


def _move(connection: sa.Connection) -> None:
    """Every AuditEvent of the log into the log, and what it is found by."""
    read = sa.text(
        "SELECT l.seq, l.recorded, v.content, v.last_updated FROM audit_log l LEFT JOIN resource_version v"
        " ON v.type_id = :type AND v.resource_id = l.event_id AND v.version = 1"
        " WHERE l.seq > :after ORDER BY l.seq LIMIT :chunk"
    )
    keep = sa.text("UPDATE audit_log SET head = :head, logged = :logged, through = :seq WHERE seq = :seq")
    find = sa.text("INSERT INTO audit_index (kind, value, at, seq) VALUES (:kind, :value, :at, :seq)")
    after = logged = 0
    while True:
        rows = connection.execute(read, {"type": _AUDIT_EVENT, "after": after, "chunk": _CHUNK}).all()
        kept, found = [], []
        for seq, recorded, content, last_updated in rows:
            logged = max(logged, last_updated or 0)
            kept.append({"seq": seq, "head": content, "logged": logged})
            if content is not None:
                keys = sorted(set(_keys(content)))
                found += [{"kind": kind, "value": value, "at": recorded, "seq": seq} for kind, value in keys]
        if kept:
            connection.execute(keep, kept)
        if found:
            connection.execute(find, found)
        if len(rows) < _CHUNK:
            return
        after = rows[-1][0]


def _forget(connection: sa.Connection) -> None:
    """The versions that were moved, and their index rows. An AuditEvent that the log does not know stays, as evidence."""
    moved = (
        f"SELECT pk FROM resource_version WHERE type_id = {_AUDIT_EVENT} AND version = 1"  # noqa: S608 - a number
        " AND resource_id IN (SELECT event_id FROM audit_log)"
    )
    for table in _INDEX_TABLES:
        connection.execute(sa.text(f"DELETE FROM {table} WHERE version_pk IN ({moved})"))  # noqa: S608 - our names
    connection.execute(sa.text(f"DELETE FROM resource_version WHERE pk IN ({moved})"))  # noqa: S608 - as above


def _keys(content: str) -> Iterator[tuple[int, int]]:
    """(kind, value) of what an AuditEvent of form 1 is found by: as `audit.finding` had it in this revision."""
    try:
        event: dict[str, Any] = json.loads(content)
        yield from list(_of(event))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return  # it is no AuditEvent: its leaf will say so


def _of(event: dict[str, Any]) -> Iterator[tuple[int, int]]:
    subtypes = [coding.get("code", "") for coding in event.get("subtype", ())]
    yield _ACT, _number(f"{event.get('type', {}).get('code', '')}|{subtypes[0]}|{event.get('action', '')}")
    if "derived" in subtypes:
        yield _DERIVED, 1
    if event.get("outcome", "0") != "0":
        yield _OUTCOME, _number(event["outcome"])
    for agent in event.get("agent", ()):
        who = agent.get("who", {})
        reference = who.get("reference", "")
        if reference.startswith("Practitioner/"):
            yield _PERSON, _number(reference.split("/")[1])
        elif reference.startswith("Organization/"):
            yield _ORGANIZATION, _number(reference.split("/")[1])
        elif not reference and "identifier" in who:
            yield _CLIENT, _number(who["identifier"].get("value", ""))
    for entity in event.get("entity", ()):
        what = entity.get("what", {})
        reference = what.get("reference", "")
        if reference and reference != "#oo":
            parts = reference.split("/")
            is_patient = reference.startswith("Patient/") and "/_history/" not in reference
            yield _PATIENT if is_patient else _ENTITY, _number(parts[1] if len(parts) > 1 else reference)
        value = what.get("identifier", {}).get("value", "")
        if value.startswith("urn:oid:"):
            yield _ENTITY, _number(value)


def _number(text: str) -> int:
    return hash64(text.casefold())
