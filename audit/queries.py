"""Every statement on the log's tables.

`audit_inbox` holds what was recorded and not yet sequenced: written in the transaction of the change, or by the group
committer. `audit_log` holds a row per record in the order of the Merkle tree, gapless from 1; the event itself is the
AuditEvent version of that id. A record is in exactly one of the two.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Connection,
    Text,
    and_,
    bindparam,
    cast,
    delete,
    func,
    insert,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY

from audit.merkle import Frontier
from audit.tables import audit_checkpoint, audit_inbox, audit_log, audit_spool, audit_tree
from resources.hashing import hash64
from resources.registry import type_id, type_name
from store.access import COUNTED, Waiting
from store.engine.statements import Prepared
from store.versions.tables import MAX, resource_version, tx

AUDIT_EVENT = type_id("AuditEvent")


class Pending(NamedTuple):
    """A record that waits for its place in the log."""

    pk: int
    event_id: str
    recorded: int
    tx_id: int
    entry: str


class LogRow(NamedTuple):
    """One row of audit_log: a leaf of the tree."""

    seq: int
    event_id: str
    leaf: bytes
    salt: bytes
    tx_id: int
    recorded: int


class Stored(NamedTuple):
    """A row of the log with the AuditEvent that is stored under its id (None: there is none, or it is hidden)."""

    seq: int
    event_id: str
    leaf: bytes
    salt: bytes
    tx_id: int
    event: str | None
    visible: bool


# --- the inbox

_FIELDS: dict[str, Any] = {name: bindparam(name) for name in ("event_id", "recorded", "entry")}
_OWN_TX = cast(cast(func.pg_current_xact_id(), Text), BigInteger) + bindparam("epoch", type_=BigInteger)
_ADD = Prepared(
    insert(audit_inbox).inline().values(
        **_FIELDS, tx_id=select(func.coalesce(func.max(tx.c.tx_id), literal_column("0"))).scalar_subquery()
    ),
    postgresql=insert(audit_inbox).inline().values(**_FIELDS, tx_id=_OWN_TX),
)
_given = func.unnest(
    cast(bindparam("event_ids"), ARRAY(Text)), cast(bindparam("recorded"), ARRAY(BigInteger)),
    cast(bindparam("entries"), ARRAY(Text)),
).table_valued("event_id", "recorded", "entry").render_derived()  # fmt: skip
_ADD_AT_ONCE = Prepared(
    insert(audit_inbox).inline().from_select(
        ["event_id", "recorded", "tx_id", "entry"],
        select(_given.c.event_id, _given.c.recorded, _OWN_TX, _given.c.entry),
    )
)
_ORDER = (audit_inbox.c.tx_id, audit_inbox.c.pk)
_PENDING = Prepared(
    select(audit_inbox).order_by(audit_inbox.c.pk).limit(bindparam("size")),
    # A lower transaction id may still commit above this one: only below the oldest running one is the order final.
    postgresql=select(audit_inbox)
    .where(
        audit_inbox.c.tx_id
        < cast(cast(func.pg_snapshot_xmin(func.pg_current_snapshot()), Text), BigInteger)
        + bindparam("epoch", type_=BigInteger)
    )
    .order_by(*_ORDER)
    .limit(bindparam("size")),
)
_LAST = select(func.coalesce(func.max(audit_inbox.c.pk), 0))
_WAITING = select(func.count(), func.min(audit_inbox.c.recorded)).select_from(audit_inbox)


_CONSUMED = Prepared(select(audit_spool.c.file, audit_spool.c.consumed))
_ADVANCE = Prepared(
    update(audit_spool)
    .where(audit_spool.c.file == bindparam("file"), audit_spool.c.consumed == bindparam("before"))
    .values(consumed=bindparam("after"))
)
_BEGIN_FILE = Prepared(
    insert(audit_spool).from_select(
        ["file", "consumed"],
        select(bindparam("file", type_=Text), bindparam("after", type_=BigInteger)).where(
            ~select(audit_spool.c.file).where(audit_spool.c.file == bindparam("file", type_=Text)).exists()
        ),
    )
)


class InboxRow(NamedTuple):
    """In the order of the statement's parameters (checked by a test)."""

    event_id: str
    recorded: int
    entry: str


def add(connection: Connection, rows: Sequence[InboxRow], epoch: int) -> None:
    """Record in the transaction of `connection`."""
    if connection.dialect.name == "sqlite":
        _ADD.many(connection, [(row.event_id, row.recorded, row.entry) for row in rows])
    else:
        _ADD.many(connection, [(row.event_id, row.recorded, epoch, row.entry) for row in rows])


def add_at_once(connection: Connection, rows: Sequence[InboxRow], epoch: int) -> None:
    """PostgreSQL: record in a transaction that is one statement, and so one message to the server and back."""
    _ADD_AT_ONCE.run(connection, {
        "event_ids": [row.event_id for row in rows], "recorded": [row.recorded for row in rows],
        "entries": [row.entry for row in rows], "epoch": epoch,
    })  # fmt: skip


def pending(connection: Connection, size: int, epoch: int) -> list[Pending]:
    """The next records in order, at most `size`."""
    return [Pending(*row) for row in _PENDING.all(connection, {"size": size, "epoch": epoch})]


def take(connection: Connection, batch: Sequence[Pending]) -> bool:
    """Remove `batch` from the inbox; False where another sequencer was faster."""
    keys = [row.pk for row in batch]
    return connection.execute(delete(audit_inbox).where(audit_inbox.c.pk.in_(keys))).rowcount == len(batch)


def consumed(connection: Connection) -> dict[str, int]:
    """How far each file of the spool is in the log, in bytes."""
    return {str(name): int(offset) for name, offset in _CONSUMED.all(connection, {})}


def advance(connection: Connection, name: str, before: int, after: int) -> bool:
    """Remember that a file of the spool is in the log up to `after`; False where another sequencer was faster."""
    row = {"file": name, "before": before, "after": after}
    return (_BEGIN_FILE if before == 0 else _ADVANCE).run(connection, row) == 1


def forget(connection: Connection, names: Sequence[str]) -> None:
    """Files that are removed."""
    connection.execute(delete(audit_spool).where(audit_spool.c.file.in_(names)))


def last_pending(connection: Connection) -> int:
    """The highest key in the inbox; 0 when it is empty."""
    return int(connection.execute(_LAST).scalar_one())


def any_pending_to(connection: Connection, pk: int) -> bool:
    """Whether a record up to this key still waits."""
    return connection.execute(select(audit_inbox.c.pk).where(audit_inbox.c.pk <= pk).limit(1)).first() is not None


def waiting(connection: Connection) -> tuple[int, int | None]:
    """How many records wait, and the oldest one's time in µs."""
    count, oldest = connection.execute(_WAITING).one()
    return int(count), None if oldest is None else int(oldest)


def backlog(connection: Connection) -> Waiting:
    """The inbox as a queue: its oldest record is the one with the lowest key."""
    counted = select(audit_inbox.c.pk).limit(COUNTED).subquery()
    count = connection.execute(select(func.count()).select_from(counted)).scalar_one()
    oldest = connection.execute(select(audit_inbox.c.recorded).order_by(audit_inbox.c.pk).limit(1)).scalar()
    return Waiting(int(count), None if oldest is None else int(oldest))


# --- the log

_APPEND = Prepared(insert(audit_log).inline())
_TREE = Prepared(select(audit_tree.c.size, audit_tree.c.frontier).where(audit_tree.c.id == 1))
_LEAD = select(func.pg_try_advisory_xact_lock(hash64("audit sequencer")))


def lead(connection: Connection) -> bool:
    """Whether this transaction may sequence. SQLite: it is the only writer. PostgreSQL: one advisory lock."""
    return connection.dialect.name == "sqlite" or bool(connection.execute(_LEAD).scalar_one())


def tree(connection: Connection) -> Frontier:
    """The tree's frontier. Raises ValueError where the row is damaged."""
    row = _TREE.first(connection, {})
    return Frontier.decode(int(row[0]), bytes(row[1])) if row else Frontier.empty()


def append(connection: Connection, rows: Sequence[LogRow], before: int, frontier: Frontier) -> bool:
    """Append rows and the new frontier; False where the tree has no longer `before` leaves."""
    values = {"size": frontier.size, "frontier": frontier.encode()}
    if before == 0 and not _TREE.first(connection, {}):
        connection.execute(insert(audit_tree).values(id=1, **values))
    else:
        moved = connection.execute(
            update(audit_tree).where(audit_tree.c.id == 1, audit_tree.c.size == before).values(**values)
        )
        if moved.rowcount != 1:
            return False
    _APPEND.many(connection, [tuple(row) for row in rows])
    return True


def add_checkpoint(connection: Connection, size: int, note: str, signed: int, interval_us: int) -> None:
    """Keep a checkpoint. The last one goes when it came within `interval_us` of the one before: this covers it."""
    kept = connection.execute(
        select(audit_checkpoint.c.size, audit_checkpoint.c.signed).order_by(audit_checkpoint.c.size.desc()).limit(2)
    ).all()
    if len(kept) == 2 and kept[0].signed - kept[1].signed < interval_us:
        connection.execute(delete(audit_checkpoint).where(audit_checkpoint.c.size == kept[0].size))
    connection.execute(insert(audit_checkpoint).values(size=size, note=note, signed=signed))


def last_checkpoint(connection: Connection) -> str | None:
    """The note of the largest size."""
    return connection.execute(
        select(audit_checkpoint.c.note).order_by(audit_checkpoint.c.size.desc()).limit(1)
    ).scalar_one_or_none()


def checkpoints(connection: Connection) -> list[tuple[int, str]]:
    """Every checkpoint, by size."""
    rows = connection.execute(
        select(audit_checkpoint.c.size, audit_checkpoint.c.note).order_by(audit_checkpoint.c.size)
    )
    return [(int(size), note) for size, note in rows]


def leaves(connection: Connection, size: int) -> list[bytes]:
    """The first `size` leaf hashes, for proofs."""
    rows = connection.execute(
        select(audit_log.c.leaf).where(audit_log.c.seq <= size).order_by(audit_log.c.seq)
    )
    return [bytes(row[0]) for row in rows]


def position(connection: Connection, event_id: str) -> LogRow | None:
    """The log row of an AuditEvent."""
    row = connection.execute(select(audit_log).where(audit_log.c.event_id == event_id)).first()
    return LogRow(*row) if row else None


def stored(connection: Connection, audience: int, chunk: int = 2000) -> Iterator[Stored]:
    """Every row of the log in order, with the event as it is stored today.

    An event that a search would no longer show (ended, deleted, another audience than `audience`) is not visible.
    """
    version = resource_version
    joined = audit_log.outerjoin(
        version,
        and_(
            version.c.type_id == AUDIT_EVENT,
            version.c.resource_id == audit_log.c.event_id,
            version.c.version == 1,
        ),
    )
    visible = and_(version.c.valid_to == MAX, version.c.deleted == 0, version.c.audience_id == audience)
    after: int | None = None
    while True:
        statement = (
            select(audit_log.c.seq, audit_log.c.event_id, audit_log.c.leaf, audit_log.c.salt, audit_log.c.tx_id,
                   version.c.content, visible)
            .select_from(joined)
            .order_by(audit_log.c.seq)
            .limit(chunk)
        )
        if after is not None:
            statement = statement.where(audit_log.c.seq > after)
        rows = connection.execute(statement).all()
        for seq, event_id, leaf, salt, tx_id, content, shown in rows:
            yield Stored(int(seq), event_id, bytes(leaf), bytes(salt), int(tx_id), content, bool(shown))
        if len(rows) < chunk:
            return
        after = int(rows[-1][0])


def events_outside(connection: Connection, limit: int = 100) -> list[str]:
    """AuditEvent versions that the log does not know, as references."""
    version = resource_version
    logged = select(audit_log.c.seq).where(audit_log.c.event_id == version.c.resource_id).exists()
    rows = connection.execute(
        select(version.c.resource_id, version.c.version)
        .where(version.c.type_id == AUDIT_EVENT, or_(version.c.version != 1, ~logged))
        .order_by(version.c.pk)
        .limit(limit)
    )
    return [f"AuditEvent/{resource_id}/_history/{number}" for resource_id, number in rows]


def versions_unrecorded(
    connection: Connection, named: Container[int], limit: int = 100, chunk: int = 5000
) -> list[str]:
    """Versions that no record of a write names, as references. A write and its record are one commit.

    `named` holds `hash()` of each reference with version that the log's writes name. What waits in the inbox is let be.
    """
    version = resource_version
    waiting_tx = select(audit_inbox.c.pk).where(audit_inbox.c.tx_id == version.c.tx_id).exists()
    found: list[str] = []
    after = 0
    while True:
        rows = connection.execute(
            select(version.c.pk, version.c.type_id, version.c.resource_id, version.c.version, waiting_tx)
            .where(version.c.pk > after, version.c.type_id != AUDIT_EVENT)
            .order_by(version.c.pk)
            .limit(chunk)
        ).all()
        for _pk, kind, resource_id, number, is_waiting in rows:
            reference = f"{type_name(kind)}/{resource_id}/_history/{number}"
            if hash(reference) not in named and not is_waiting:
                found.append(reference)
                if len(found) == limit:
                    return found
        if len(rows) < chunk:
            return found
        after = int(rows[-1][0])
