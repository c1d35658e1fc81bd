"""Every statement on the log's tables.

`audit_inbox` holds what was recorded and not yet sequenced: written in the transaction of the change, or by the group
committer. `audit_log` holds a row per record in the order of the Merkle tree, gapless from 1. A record is in exactly
one of the two. What a search asks is in `audit.reading`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import orjson
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    LargeBinary,
    Text,
    bindparam,
    cast,
    delete,
    func,
    insert,
    literal_column,
    select,
    tuple_,
    type_coerce,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY

from audit import months
from audit.forms import Row
from audit.merkle import Frontier
from audit.tables import (
    audit_checkpoint,
    audit_inbox,
    audit_index,
    audit_key,
    audit_log,
    audit_month,
    audit_site,
    audit_tree,
)
from resources.hashing import hash64
from resources.registry import type_id
from store.access import COUNTED, Waiting
from store.engine import queue
from store.engine.queue import Floor
from store.engine.statements import Prepared
from store.versions.tables import CURRENT, audience_member, resource_version, tx

AUDIT_EVENT = type_id("AuditEvent")
CHUNK, LEAVES, INDEX_ROWS = 1000, 2000, 10_000
"""Records, leaves and index rows that are read at a time by who reads them all."""


class Pending(NamedTuple):
    """A record that waits for its place in the log."""

    pk: int
    event_id: str
    recorded: int
    tx_id: int
    entry: str


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
_listed = func.json_each(bindparam("keys")).table_valued("value", name="listed")
_LAST = select(func.coalesce(func.max(audit_inbox.c.pk), 0))
_SPAN = select(
    select(func.min(audit_inbox.c.pk)).scalar_subquery(), select(func.max(audit_inbox.c.pk)).scalar_subquery()
)
_WAITING = select(func.count(), func.min(audit_inbox.c.recorded)).select_from(audit_inbox)


_INBOX = queue.Queue(audit_inbox, "pk")


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


def pending(connection: Connection, floor: Floor, size: int) -> list[Pending]:
    """The next visible records in the order in which they were written; at most `size`."""
    return [Pending(*row) for row in _INBOX.rows(connection, floor, size)]


def take(connection: Connection, floor: Floor, batch: Sequence[Pending]) -> bool:
    """Remove `batch` from the inbox; False where another sequencer was faster."""
    return _INBOX.remove(connection, floor, [row.pk for row in batch])


def last_pending(connection: Connection) -> int:
    """The highest key in the inbox; 0 when it is empty."""
    return int(connection.execute(_LAST).scalar_one())


_ANY = Prepared(select(audit_inbox.c.pk).limit(1))


def is_any_pending(connection: Connection) -> bool:
    """Whether any record is in the inbox."""
    return _ANY.first(connection, {}) is not None


def any_pending_to(connection: Connection, pk: int) -> bool:
    """Whether a record up to this key still waits."""
    return connection.execute(select(audit_inbox.c.pk).where(audit_inbox.c.pk <= pk).limit(1)).first() is not None


def waiting(connection: Connection) -> tuple[int, int | None]:
    """How many records wait, and the oldest one's time in µs."""
    count, oldest = connection.execute(_WAITING).one()
    return int(count), None if oldest is None else int(oldest)


def span(connection: Connection) -> int:
    """About how many records wait: what lies between the lowest and the highest key, by two looks at the index."""
    first, last = connection.execute(_SPAN).one()
    return 0 if first is None else int(last) - int(first) + 1


def backlog(connection: Connection) -> Waiting:
    """The inbox as a queue: its oldest record is the one with the lowest key."""
    counted = select(audit_inbox.c.pk).limit(COUNTED).subquery()
    count = connection.execute(select(func.count()).select_from(counted)).scalar_one()
    oldest = connection.execute(select(audit_inbox.c.recorded).order_by(audit_inbox.c.pk).limit(1)).scalar()
    return Waiting(int(count), None if oldest is None else int(oldest))


# --- the log

_APPEND = Prepared(insert(audit_log).inline())
_FIND = Prepared(insert(audit_index).inline())
_TREE = Prepared(select(audit_tree.c.size, audit_tree.c.frontier).where(audit_tree.c.id == 1))
_MOVE = Prepared(
    update(audit_tree)
    .where(audit_tree.c.id == 1, audit_tree.c.size == bindparam("before"))
    .values(size=bindparam("after"), frontier=bindparam("frontier"))
)
_NEWEST = select(audit_log.c.seq, audit_log.c.logged, audit_log.c.through).order_by(audit_log.c.seq.desc()).limit(1)
_END = Prepared(_NEWEST)
_END_OF_MONTH = Prepared(
    _NEWEST.where(audit_log.c.logged >= select(func.max(audit_month.c.since)).scalar_subquery())
)
"""PostgreSQL: in the partition of the newest month."""
_LEADER = hash64("audit sequencer")
_KNOWN = Prepared(
    select(audit_log.c.event_id).where(audit_log.c.event_id.in_(select(_listed.c.value))),
    postgresql=select(audit_log.c.event_id).where(
        audit_log.c.event_id == func.any(cast(bindparam("keys"), ARRAY(Text)))
    ),
)
_OWNERS_OF = (
    select(resource_version.c.resource_id, audience_member.c.organization)
    .join(audience_member, audience_member.c.audience_id == resource_version.c.owner_id)
    .where(resource_version.c.type_id == type_id("Patient"), resource_version.c.valid_to == CURRENT)
)
_OWNERS = Prepared(
    _OWNERS_OF.where(resource_version.c.resource_id.in_(select(_listed.c.value))),
    postgresql=_OWNERS_OF.where(
        resource_version.c.resource_id == func.any(cast(bindparam("keys"), ARRAY(Text)))
    ),
)
_INDEXED = Prepared(
    select(audit_index.c.seq).where(
        audit_index.c.kind == bindparam("kind"), audit_index.c.value == bindparam("value"),
        audit_index.c.at == bindparam("at"), audit_index.c.seq == bindparam("seq"),
    )
)
_SITE = Prepared(select(audit_site.c.content).where(audit_site.c.digest == bindparam("digest")))

IndexRow = tuple[int, int, int, int]
"""kind, value, at, seq."""


class End(NamedTuple):
    """Of the newest record: its position, when it was logged, how many AuditEvents there are up to it."""

    seq: int
    logged: int
    through: int


def lead(connection: Connection) -> bool:
    """Whether this transaction may sequence: one at a time does."""
    return queue.lead(connection, _LEADER)


def tree(connection: Connection) -> Frontier:
    """The tree's frontier. Raises ValueError where the row is damaged."""
    row = _TREE.first(connection, {})
    return Frontier.decode(int(row[0]), bytes(row[1])) if row else Frontier.empty()


def end(connection: Connection) -> End:
    """The newest record; zeros where there is none."""
    is_whole = connection.dialect.name == "sqlite"
    row = None if is_whole else _END_OF_MONTH.first(connection, {})
    row = row or _END.first(connection, {})
    return End(int(row[0]), int(row[1]), int(row[2])) if row else End(0, 0, 0)


def logged_at(connection: Connection, seq: int) -> int | None:
    """When the record at this position was logged, in µs; None: there is none."""
    return _at(connection, audit_log.c.logged, seq)


def recorded_at(connection: Connection, seq: int) -> int | None:
    """When the record at this position was recorded, in µs; None: there is none."""
    return _at(connection, audit_log.c.recorded, seq)


def _at(connection: Connection, column: ColumnElement[int], seq: int) -> int | None:
    where = months.of_positions(connection, seq, seq)
    found = connection.execute(select(column).where(audit_log.c.seq == seq, *where)).scalar()
    return None if found is None else int(found)


def known(connection: Connection, ids: Sequence[str]) -> set[str]:
    """Which of these records are in the log already."""
    return {row[0] for row in _KNOWN.all(connection, {"keys": _texts(connection, ids)})} if ids else set()


def owners(connection: Connection, patients: Sequence[str]) -> dict[str, str]:
    """Logical id of a patient → the organisation that it belongs to, of those that there are."""
    rows = _OWNERS.all(connection, {"keys": _texts(connection, patients)}) if patients else []
    return {str(row[0]): str(row[1]) for row in rows}


def _texts(connection: Connection, texts: Sequence[str]) -> Any:
    return orjson.dumps(list(texts)).decode() if connection.dialect.name == "sqlite" else list(texts)


def append(
    connection: Connection, rows: Sequence[Row], found: Sequence[IndexRow], before: int, frontier: Frontier
) -> bool:
    """Append rows, what they are found by, and the new frontier; False where the tree has no longer `before` leaves.

    For the leader. PostgreSQL: a partition that is absent is made in the same transaction.
    """
    if before == 0 and not _TREE.first(connection, {}):
        connection.execute(insert(audit_tree).values(id=1, size=frontier.size, frontier=frontier.encode()))
    else:
        values = {"before": before, "after": frontier.size, "frontier": frontier.encode()}
        if _MOVE.run(connection, values) != 1:
            return False
    if connection.dialect.name == "sqlite":
        _APPEND.many(connection, rows)
        _FIND.many(connection, found)
    else:
        months.ensure(connection, {row.logged for row in rows}, {at for _kind, _value, at, _seq in found})
        months.note(connection, rows, before)
        _copy(connection, rows, found)
    return True


def _copy(connection: Connection, rows: Sequence[Row], found: Sequence[IndexRow]) -> None:
    """PostgreSQL: COPY, as text written in one go; a statement per row costs more than everything else together."""
    driver: Any = connection.connection.driver_connection
    with driver.cursor() as cursor:
        with cursor.copy(_COPY_LOG) as copy:
            copy.write("".join(map(_line, rows)))
        with cursor.copy(_COPY_INDEX) as copy:
            copy.write("".join([f"{kind}\t{value}\t{at}\t{seq}\n" for kind, value, at, seq in found]))


def _line(row: Row) -> str:
    """A row as COPY's text format has it. Our JSON holds no control characters, so only backslashes are escaped."""
    seq, event_id, form, leaf, salt, recorded, logged, through, head, particulars, parts = row
    event_id, head, particulars, parts = (
        text.replace("\\", "\\\\") if "\\" in text else text for text in (event_id, head or "", particulars, parts)
    )
    return (
        f"{seq}\t{event_id}\t{form}\t\\\\x{leaf.hex()}\t\\\\x{salt.hex()}\t{recorded}\t{logged}\t{through}"
        f"\t{head}\t{particulars}\t{parts}\n"
    )


_COPY_LOG = f"COPY audit_log ({', '.join(Row._fields)}) FROM STDIN"
_COPY_INDEX = "COPY audit_index (kind, value, at, seq) FROM STDIN"


def add_site(connection: Connection, digest: str, content: str) -> None:
    """Keep what heads of records name; what is there already stays."""
    if _SITE.first(connection, {"digest": digest}) is None:
        connection.execute(insert(audit_site).values(digest=digest, content=content))


def site(connection: Connection, digest: str) -> str | None:
    """The content that has this digest."""
    row = _SITE.first(connection, {"digest": digest})
    return str(row[0]) if row else None


def sites(connection: Connection) -> list[tuple[str, str]]:
    """(digest, content) of all."""
    return [(row[0], row[1]) for row in connection.execute(select(audit_site).order_by(audit_site.c.digest))]


def add_checkpoint(connection: Connection, size: int, note: str, signed: int, interval_us: int) -> None:
    """Keep a checkpoint. The last one goes when it came within `interval_us` of the one before: this covers it.

    Those at which a key was followed by another stay: they are the chain of keys.
    """
    kept = connection.execute(
        select(audit_checkpoint.c.size, audit_checkpoint.c.signed).order_by(audit_checkpoint.c.size.desc()).limit(2)
    ).all()
    is_close = len(kept) == 2 and kept[0].signed - kept[1].signed < interval_us
    if is_close and connection.execute(select(audit_key.c.seq).where(audit_key.c.seq == kept[0].size)).first() is None:
        connection.execute(delete(audit_checkpoint).where(audit_checkpoint.c.size == kept[0].size))
    connection.execute(insert(audit_checkpoint).values(size=size, note=note, signed=signed))


_HOUR_US = 3_600_000_000


def thin_checkpoints(connection: Connection, before: int, limit: int) -> int:
    """Of those that were signed before then (µs), keep the last of each hour and where a key was followed by another.

    The larger one covers what the smaller covered. How many went, `limit` at most.
    """
    c = audit_checkpoint.c
    hour = c.signed.op("/")(_HOUR_US)
    following = select(
        c.size, hour.label("hour"), func.lead(hour).over(order_by=c.size).label("next")
    ).where(c.signed < before).subquery()  # fmt: skip
    covered = (
        select(following.c.size)
        .where(following.c.hour == following.c.next, following.c.size.not_in(select(audit_key.c.seq)))
        .order_by(following.c.size)
        .limit(limit)
    )
    return connection.execute(delete(audit_checkpoint).where(c.size.in_(covered))).rowcount


def last_checkpoint(connection: Connection) -> str | None:
    """The note of the largest size."""
    return connection.execute(
        select(audit_checkpoint.c.note).order_by(audit_checkpoint.c.size.desc()).limit(1)
    ).scalar_one_or_none()


def last_signed(connection: Connection) -> int:
    """The largest size that is signed; 0: none."""
    return int(connection.execute(select(func.coalesce(func.max(audit_checkpoint.c.size), 0))).scalar_one())


def checkpoints(connection: Connection, after: int = -(2**63)) -> Iterator[tuple[int, str, int]]:
    """(size, note, when it was signed) of every checkpoint, by size, of more than `after` records; damaged ones too."""
    c = audit_checkpoint.c
    columns = (c.size, as_bytes(connection, c.note), c.signed)
    while True:
        rows = connection.execute(
            select(*columns).where(c.size > after).order_by(c.size).limit(CHUNK)
        ).all()
        for size, note, signed in rows:
            yield int(size), as_text(note), int(signed)
        if len(rows) < CHUNK:
            return
        after = int(rows[-1][0])


def add_key(connection: Connection, seq: int, former: str, key: str) -> None:
    """The record at `seq` names the verifier key `key`, which follows `former`."""
    connection.execute(insert(audit_key).values(seq=seq, former=former, key=key))


def keys(connection: Connection) -> list[tuple[int, str, str]]:
    """(position of the record that says so, former verifier key, the one that follows it), in order."""
    c = audit_key.c
    columns = (c.seq, as_bytes(connection, c.former), as_bytes(connection, c.key))
    return [(int(seq), as_text(former), as_text(key)) for seq, former, key in
            connection.execute(select(*columns).order_by(c.seq))]  # fmt: skip


def handovers(connection: Connection, after: int, before: int = 2**63 - 1) -> list[tuple[int, str]]:
    """(size, note) of the checkpoints at which one key follows another, of sizes between `after` and `before`."""
    c = audit_checkpoint.c
    columns = (c.size, as_bytes(connection, c.note))
    statement = select(*columns).where(c.size.in_(select(audit_key.c.seq)), c.size > after, c.size < before)
    return [(int(size), as_text(note)) for size, note in connection.execute(statement.order_by(c.size))]


def leaves(connection: Connection, size: int) -> list[bytes]:
    """The first `size` leaf hashes, for proofs."""
    rows = connection.execute(
        select(audit_log.c.leaf).where(audit_log.c.seq <= size).order_by(audit_log.c.seq)
    )
    return [bytes(row[0]) for row in rows]


def by_id(connection: Connection, event_id: str) -> Row | None:
    """The record with this id."""
    statement = select(audit_log).where(audit_log.c.event_id == event_id)
    likely = months.of_id(connection, event_id)
    row = connection.execute(statement.where(*likely)).first() if likely else None
    row = row or connection.execute(statement).first()
    return _row(row) if row else None


def rows(connection: Connection, seqs: Sequence[int]) -> dict[int, Row]:
    """The records at these positions."""
    if not seqs:
        return {}
    where = months.of_positions(connection, min(seqs), max(seqs))
    found = connection.execute(select(audit_log).where(audit_log.c.seq.in_(seqs), *where))
    return {row.seq: row for row in map(_row, found)}


def stored(connection: Connection, after: int = 0) -> Iterator[Row]:
    """Every row of the log in order, from behind position `after`; damaged texts too (`as_bytes`)."""
    columns = [as_bytes(connection, column) if isinstance(column.type, Text) else column for column in audit_log.c]
    while True:
        rows = connection.execute(
            select(*columns).where(audit_log.c.seq > after, *months.of_positions(connection, after + 1))
            .order_by(audit_log.c.seq).limit(CHUNK)
        ).all()  # fmt: skip
        for seq, event_id, form, leaf, salt, recorded, logged, through, head, particulars, parts in rows:
            yield Row(
                seq, as_text(event_id), form, bytes(leaf), bytes(salt), recorded, logged, through,
                None if head is None else as_text(head), as_text(particulars), as_text(parts),
            )
        if len(rows) < CHUNK:
            return
        after = int(rows[-1][0])


def as_bytes(connection: Connection, column: ColumnElement[Any]) -> ColumnElement[Any]:
    """A text as SQLite has it in its file: what was damaged is no text any more, and has to be read all the same."""
    return cast(column, LargeBinary) if connection.dialect.name == "sqlite" else type_coerce(column, Text)


def as_text(value: Any) -> str:
    """The text of such a column; a byte that is none of UTF-8 becomes a surrogate (PEP 383)."""
    return value if isinstance(value, str) else bytes(value).decode("utf-8", "surrogateescape")


def leaves_to(connection: Connection, size: int) -> Iterator[bytes]:
    """The first `size` leaf hashes, read as they are asked for."""
    after = 0
    while after < size:
        rows = connection.execute(
            select(audit_log.c.seq, audit_log.c.leaf)
            .where(audit_log.c.seq > after, audit_log.c.seq <= size, *months.of_positions(connection, after + 1, size))
            .order_by(audit_log.c.seq).limit(LEAVES)
        ).all()  # fmt: skip
        if not rows:
            return
        for _seq, leaf in rows:
            yield bytes(leaf)
        after = int(rows[-1][0])


def through(connection: Connection, seq: int) -> int:
    """How many AuditEvents there are up to this position."""
    return _at(connection, audit_log.c.through, seq) or 0


def index_rows(connection: Connection) -> Iterator[IndexRow]:
    """Every row by which a record is found, in the order of the table."""
    columns = (audit_index.c.kind, audit_index.c.value, audit_index.c.at, audit_index.c.seq)
    last: IndexRow | None = None
    while True:
        statement = select(*columns).order_by(*columns).limit(INDEX_ROWS)
        if last is not None:
            statement = statement.where(tuple_(*columns) > tuple_(*last))
        rows = connection.execute(statement).all()
        for kind, value, at, seq in rows:
            yield int(kind), int(value), int(at), int(seq)
        if len(rows) < INDEX_ROWS:
            return
        last = tuple(map(int, rows[-1]))  # type: ignore[assignment]


def about(connection: Connection, kind: int, value: int) -> Iterator[Row]:
    """The records that are found by this."""
    found = connection.execute(
        select(audit_index.c.seq).where(audit_index.c.kind == kind, audit_index.c.value == value)
    ).scalars().all()
    for at in range(0, len(found), 200):
        yield from rows(connection, found[at : at + 200]).values()


def is_indexed(connection: Connection, row: IndexRow) -> bool:
    """Whether there is such a row."""
    return _INDEXED.first(connection, dict(zip(("kind", "value", "at", "seq"), row, strict=True))) is not None


def _row(row: Any) -> Row:
    found = Row(*row)
    return found._replace(leaf=bytes(found.leaf), salt=bytes(found.salt))


def events_outside(connection: Connection, limit: int = 100) -> list[str]:
    """AuditEvents among the resources, as references: the log knows none there."""
    version = resource_version
    rows = connection.execute(
        select(version.c.resource_id, version.c.version)
        .where(version.c.type_id == AUDIT_EVENT)
        .order_by(version.c.pk)
        .limit(limit)
    )
    return [f"AuditEvent/{resource_id}/_history/{number}" for resource_id, number in rows]
