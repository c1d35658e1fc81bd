"""PostgreSQL: the log's tables by months. SQLite keeps one table of each, and nothing here does anything there.

`audit_log` has a partition for each month of `logged`, `audit_index` one for each month of `recorded`. `logged` never
decreases along the positions, so a month of the log is a range of positions: `audit_month` has its first and its last,
and between which instants its records were recorded. By it a position, and a date, lead to the partitions that are to
be looked at. It is derived, written in the commit of the records, and compared with them by `audit.verify`.

The sequencer makes partitions, ahead and where one is absent in its own transaction: CREATE TABLE and ATTACH take no
lock that a reader, a dump or a writer of the inbox would wait for, since there is no default partition. decisions/0021
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Connection,
    Text,
    bindparam,
    cast,
    column,
    false,
    func,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import insert

from audit.forms import Row
from audit.tables import audit_log, audit_month
from resources.times import microseconds, of_microseconds
from store.engine.statements import Prepared

LAST = (9999 - 1970) * 12 + 11
"""The month in which all is that is later; in month 0, that of 1970-01, is all that is earlier."""
_END_US = microseconds(datetime(9999, 12, 1, tzinfo=UTC))


class Month(NamedTuple):
    """A row of audit_month."""

    since: int
    """µs: its begin."""
    first: int
    last: int
    """Positions."""
    earliest: int
    latest: int
    """µs: of `recorded`."""

    @classmethod
    def of(cls, row: Row) -> Month:
        """The month of one record."""
        return cls(begin_of(number_of(row.logged)), row.seq, row.seq, row.recorded, row.recorded)

    def joined(self, row: Row) -> Month:
        """With the next record of it."""
        return Month(
            self.since, self.first, row.seq, min(self.earliest, row.recorded), max(self.latest, row.recorded)
        )


def number_of(at: int) -> int:
    """The month of this µs: 0 is that of 1970-01."""
    if at < 0 or at >= _END_US:
        return 0 if at < 0 else LAST
    day = of_microseconds(at)
    return (day.year - 1970) * 12 + day.month - 1


def begin_of(month: int) -> int:
    """Its first µs."""
    return microseconds(datetime(1970 + month // 12, month % 12 + 1, 1, tzinfo=UTC))


def partition_of(table: str, month: int) -> str:
    """The name of a month's partition."""
    return f"{table}_{1970 + month // 12:04d}{month % 12 + 1:02d}"


# --- partitions

_ABSENT = Prepared(
    select(column("name")).select_from(
        func.unnest(cast(bindparam("names"), ARRAY(Text))).table_valued("name", name="wanted").render_derived()
    ).where(func.to_regclass(column("name")).is_(None))
)  # fmt: skip


def ensure(connection: Connection, logged: Iterable[int], recorded: Iterable[int]) -> None:
    """Have a partition for each of these µs. For the leader of the log: nobody else makes or drops any."""
    if connection.dialect.name == "sqlite":
        return
    wanted = {
        partition_of(table, month): (table, month)
        for table, instants in (("audit_log", logged), ("audit_index", recorded))
        for month in set(map(number_of, instants))
    }
    for (name,) in _ABSENT.all(connection, {"names": sorted(wanted)}):
        table, month = wanted[name]
        attach(connection, table, name, month)


def attach(connection: Connection, table: str, name: str, month: int, *, makes: bool = True) -> None:
    """Make the partition, and attach it: PARTITION OF in one statement would lock out every reader."""
    if makes:
        connection.execute(text(f"CREATE TABLE {name} (LIKE {table} INCLUDING DEFAULTS)"))
    low = "MINVALUE" if month == 0 else str(begin_of(month))
    high = "MAXVALUE" if month == LAST else str(begin_of(month + 1))
    connection.execute(text(f"ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ({low}) TO ({high})"))


def ahead(now: int) -> tuple[int, int]:
    """Instants in this month and in the next."""
    return now, begin_of(min(number_of(now) + 1, LAST))


# --- what is where

_GROUPED = f"""
    SELECT month * 1000000, min(seq), max(seq), min(recorded), max(recorded) FROM (
        SELECT seq, recorded, extract(epoch FROM date_trunc('month', TIMESTAMP '1970-01-01'
            + greatest(0, least(logged, {_END_US})) * INTERVAL '1 microsecond'))::bigint AS month
        FROM audit_log WHERE seq > :after AND seq <= :upto AND logged >= :since
    ) AS found GROUP BY month ORDER BY month
"""  # noqa: S608 - a number
_LAST = Prepared(select(audit_month.c.since, audit_month.c.last).order_by(audit_month.c.since.desc()).limit(1))


def note(connection: Connection, rows: Sequence[Row], before: int) -> None:
    """Remember where the rows are that are appended behind position `before`."""
    if connection.dialect.name == "sqlite":
        return
    newest = _LAST.first(connection, {})
    since, last = (int(newest[0]), int(newest[1])) if newest else (-(2**63), 0)
    found: list[Month] = []
    if last < before:  # the version before, which knows no months, sequenced meanwhile
        given = {"after": last, "upto": before, "since": since}
        found = [Month(*map(int, row)) for row in connection.execute(text(_GROUPED), given)]
    fresh: list[Month] = []
    for row in rows:
        add(fresh, row)
    for one in (*found, *fresh):
        added = insert(audit_month).values(one._asdict())
        kept = audit_month.c
        connection.execute(added.on_conflict_do_update(index_elements=["since"], set_={
            "last": added.excluded.last,
            "earliest": func.least(kept.earliest, added.excluded.earliest),
            "latest": func.greatest(kept.latest, added.excluded.latest),
        }))  # fmt: skip


def add(found: list[Month], row: Row) -> None:
    """Add the next record to the months of those before it."""
    if found and found[-1].since == begin_of(number_of(row.logged)):
        found[-1] = found[-1].joined(row)
    else:
        found.append(Month.of(row))


def known(connection: Connection) -> list[Month]:
    """All months, the oldest first."""
    return [Month(*map(int, row)) for row in connection.execute(select(audit_month).order_by(audit_month.c.since))]


_AROUND = Prepared(
    select(
        select(func.max(audit_month.c.since)).where(audit_month.c.first <= bindparam("first", type_=BigInteger))
        .scalar_subquery(),
        select(func.min(audit_month.c.since)).where(audit_month.c.last >= bindparam("last", type_=BigInteger))
        .scalar_subquery(),
    )
)  # fmt: skip


def of_positions(connection: Connection, first: int, last: int | None = None) -> list[ColumnElement[bool]]:
    """What bounds `audit_log.logged` for positions from `first` to `last` (None: to the end)."""
    if connection.dialect.name == "sqlite":
        return []
    row = _AROUND.first(connection, {"first": first, "last": 2**62 if last is None else last})
    low, high = row or (None, None)
    return _logged(None if low is None else number_of(int(low)), None if high is None else number_of(int(high)))


def of_instants(
    connection: Connection, earliest: int | None, latest: int | None, upto: int
) -> list[ColumnElement[bool]]:
    """What bounds `audit_log.logged` for what was recorded between these µs, up to the position `upto`."""
    if connection.dialect.name == "sqlite" or (earliest is None and latest is None):
        return []
    months = known(connection)
    if not months:
        return []
    with_some = [
        number_of(month.since) for month in months
        if (earliest is None or month.latest >= earliest) and (latest is None or month.earliest <= latest)
    ]  # fmt: skip
    if months[-1].last < upto:  # logged by the version before: nobody has noted it yet
        newest = number_of(months[-1].since)
        return _logged(min(with_some, default=newest), None)
    return _logged(with_some[0], with_some[-1]) if with_some else [false()]


def of_id(connection: Connection, event_id: str) -> list[ColumnElement[bool]] | None:
    """What bounds `audit_log.logged` for the record with this id, most likely: it tells its time (UUID version 7)."""
    if connection.dialect.name == "sqlite" or len(event_id) != 36 or event_id[14] != "7":
        return None
    try:
        made = int(event_id[:8] + event_id[9:13], 16) * 1000
    except ValueError:
        return None
    month = number_of(made)
    return _logged(month, min(month + 1, LAST))


def _logged(first: int | None, last: int | None) -> list[ColumnElement[bool]]:
    bounds: list[ColumnElement[bool]] = []
    if first:
        bounds.append(audit_log.c.logged >= begin_of(first))
    if last is not None and last < LAST:
        bounds.append(audit_log.c.logged < begin_of(last + 1))
    return bounds


def before(connection: Connection, at: int, upto: int) -> tuple[int, int]:
    """Between which positions the last one is that was logged before this µs: (surely before or 0, perhaps not)."""
    if connection.dialect.name == "sqlite":
        return 0, upto
    since = begin_of(number_of(at))
    low, high = 0, 0
    months = known(connection)
    for month in months:
        if month.since < since:
            low = high = month.last
        elif month.since == since:
            high = month.last
    if not months or (months[-1].since <= since and months[-1].last < upto):
        high = upto
    return min(low, upto), min(high, upto)


# --- what became empty


def emptied(connection: Connection, lead: Callable[[Connection], bool]) -> str | None:
    """Give the room of one month back of which everything was purged; the partition's name, None: there is none.

    Of the index it goes away (by the leader: else a batch that saw it would miss it). Of the log its rows, which are
    position, id, leaf and instants only, move into a partition of their size: all proofs need the leaves.
    For who holds the lock of the purge. Locks readers out for a moment, and waits for those who read the table.
    """
    newest = None if connection.dialect.name == "sqlite" else _LAST.first(connection, {})
    if newest is None:
        return None
    for table, name, month in partitions(connection):
        if month >= number_of(int(newest[0])):
            continue
        holds = "head IS NOT NULL" if table == "audit_log" else "true"
        if connection.execute(text(f"SELECT 1 FROM {name} WHERE {holds} LIMIT 1")).first():  # noqa: S608 - our names
            continue
        if table == "audit_log":
            _keep_leaves(connection, name, month)
        elif not lead(connection):
            continue
        else:
            connection.execute(text(f"DROP TABLE {name}"))
        return name
    return None


def _keep_leaves(connection: Connection, name: str, month: int) -> None:
    leaves = f"{name}_leaves"
    connection.execute(text(f"CREATE TABLE {leaves} (LIKE audit_log INCLUDING DEFAULTS)"))
    connection.execute(text(f"INSERT INTO {leaves} SELECT * FROM {name} ORDER BY seq"))  # noqa: S608 - our names
    connection.execute(text(f"ALTER TABLE audit_log DETACH PARTITION {name}"))
    connection.execute(text(f"DROP TABLE {name}"))
    attach(connection, "audit_log", leaves, month, makes=False)


def partitions(connection: Connection) -> list[tuple[str, str, int]]:
    """(table, name, month) of those that may hold contents, the oldest first."""
    rows = connection.execute(text(
        "SELECT parent.relname, child.relname FROM pg_inherits i JOIN pg_class parent ON parent.oid = i.inhparent"
        " JOIN pg_class child ON child.oid = i.inhrelid WHERE parent.oid IN"
        " (to_regclass('audit_log'), to_regclass('audit_index')) ORDER BY child.relname"
    ))  # fmt: skip
    found = []
    for table, name in rows:
        digits = name.removeprefix(f"{table}_")
        if len(digits) == 6 and digits.isdigit():
            found.append((table, name, (int(digits[:4]) - 1970) * 12 + int(digits[4:]) - 1))
    return found
