"""A point in the order of transactions, at which a search or a history can be asked again.

A transaction is visible at a snapshot when its number is below `xmax` and not among `in_progress`. On SQLite the single
writer leaves none in progress. On PostgreSQL a number is `pg_current_xact_id()` plus the epoch of the database (a
restored dump starts a new cluster's counter), so numbers are given before commit and the gaps must be carried.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, FromClause, and_, bindparam, delete, func, insert, or_, select
from sqlalchemy.sql import cast
from sqlalchemy.types import BigInteger, Text

from store.engine.statements import Prepared
from store.versions.tables import store_setting, tx


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Which transactions are visible."""

    xmax: int
    in_progress: tuple[int, ...] = ()

    def seen(self, column: ColumnElement[int]) -> ColumnElement[bool]:
        """Whether the transaction in `column` is visible."""
        if self.in_progress:
            return and_(column < self.xmax, column.not_in(self.in_progress))
        return column < self.xmax

    def alive(self, version: FromClause) -> ColumnElement[bool]:
        """Whether `version` is the one that was current."""
        begun = self.seen(version.c.valid_from)
        if self.in_progress:
            return and_(begun, or_(version.c.valid_to >= self.xmax, version.c.valid_to.in_(self.in_progress)))
        return and_(begun, version.c.valid_to >= self.xmax)

    def including(self, own: int | None) -> Snapshot:
        """The same, with the reader's own transaction visible."""
        if own is None or (own < self.xmax and own not in self.in_progress):
            return self
        between = range(self.xmax, own)
        others = {number for number in self.in_progress if number != own} | set(between)
        return Snapshot(max(self.xmax, own + 1), tuple(sorted(others)))


_LAST_TX = select(func.coalesce(func.max(tx.c.tx_id), 0)).scalar_subquery()
_SNAPSHOT = Prepared(
    select(_LAST_TX + 1),
    postgresql=select(cast(func.pg_current_snapshot(), Text)),
)
_NOW = bindparam("now", type_=BigInteger)
_BEGIN = Prepared(
    insert(tx).from_select(["at"], select(_NOW)).returning(tx.c.tx_id, tx.c.at),
    postgresql=insert(tx)
    .from_select(
        ["tx_id", "at"],
        select(
            cast(cast(func.pg_current_xact_id(), Text), BigInteger) + bindparam("epoch", type_=BigInteger),
            _NOW,
        ),
    )
    .returning(tx.c.tx_id, tx.c.at),
)
_EPOCH = Prepared(select(store_setting.c.value).where(store_setting.c.name == "tx_epoch"))


def epoch(connection: Connection) -> int:
    """What is added to PostgreSQL's transaction ids; 0 unless the database was restored from a dump."""
    row = _EPOCH.first(connection, {})
    return int(row[0]) if row else 0


def continue_numbers(connection: Connection) -> None:
    """After a dump was restored: number from above what it holds. The new cluster's own counter may be anywhere."""
    if connection.dialect.name == "sqlite":
        return
    last = int(connection.execute(select(_LAST_TX)).scalar_one())
    connection.execute(delete(store_setting).where(store_setting.c.name == "tx_epoch"))
    connection.execute(insert(store_setting).values(name="tx_epoch", value=str(last)))


def begin_tx(connection: Connection, now_us: int, epoch: int) -> tuple[int, int]:
    """Number this transaction; returns (tx, at µs). The number is the order; the time is that of the clock, and steps
    back where the clock does."""
    row = _BEGIN.first(connection, {"now": now_us, "epoch": epoch})
    assert row is not None  # noqa: S101 - RETURNING returns
    return int(row[0]), int(row[1])


def current(connection: Connection, epoch: int) -> Snapshot:
    """What `connection` sees now."""
    row = _SNAPSHOT.first(connection, {})
    assert row is not None  # noqa: S101 - a select without FROM
    if connection.dialect.name == "sqlite":
        return Snapshot(int(row[0]))
    return parse_postgresql(str(row[0]), epoch)


def parse_postgresql(snapshot: str, epoch: int) -> Snapshot:
    """``xmin:xmax:xip,…`` as PostgreSQL writes it."""
    _xmin, xmax, xip = snapshot.split(":")
    return Snapshot(int(xmax) + epoch, tuple(int(number) + epoch for number in xip.split(",") if number))


