"""Queues: rows that every write may add to, and that one leader at a time takes, in the order in which they were added.

The key of a row is drawn from a sequence when the row is written, after the locks of the row that it tells of. So of
two changes of one resource the second draws the greater key, after the first has committed: whoever sees the second
sees the first, and the order per resource is that of the keys. Nothing is asked of transactions: the leader takes the
rows that it *sees*, in the order of their keys, and deletes them in the commit that does what they ask for. A row that
becomes visible later, below those that were taken, is taken then. A bound such as ``pg_snapshot_xmin`` would let any
idle transaction of the cluster stop the queue; a watermark loses what commits late; SKIP LOCKED breaks the order.

A sequence must hand out its numbers one by one (``CACHE 1``), else a session draws from numbers set aside earlier.

Behind an open snapshot (a dump, a forgotten transaction) PostgreSQL keeps every row that was deleted since, and a look
at the queue would step over all of them each time. So a look begins at a *floor*, below what was taken two seconds ago,
and once a second the whole is looked at.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from sqlalchemy import BigInteger, Column, Connection, Table, bindparam, cast, delete, func, literal_column, select
from sqlalchemy import table as sql_table
from sqlalchemy.dialects.postgresql import ARRAY

from store.engine.statements import Prepared, Row

LEADER_IDLE_S = 5
"""A leader that asks nothing more for so long, frozen or cut off, loses its session, and another leads."""
LEADER_LOCK_S = 10
"""A leader waits no longer for a row that another transaction holds."""
FULL_LOOK_S = 1.0
SETTLED_S = 2.0
"""A transaction commits within this time after it wrote to the queue; the full look finds those that did not."""
FULL_LOOK_SHARE = 20
"""A full look may take one part in so many of the time."""

_LEAD = Prepared(
    select(
        func.pg_try_advisory_xact_lock(bindparam("key", type_=BigInteger)),
        func.set_config("idle_in_transaction_session_timeout", bindparam("idle"), True),
        func.set_config("lock_timeout", bindparam("lock"), True),
    )
)


def lead(connection: Connection, key: int) -> bool:
    """Become the one leader of the queue `key` until this transaction ends. SQLite: whoever writes is alone."""
    if connection.dialect.name == "sqlite":
        return True
    row = _LEAD.first(connection, {"key": key, "idle": f"{LEADER_IDLE_S}s", "lock": f"{LEADER_LOCK_S}s"})
    return bool(row and row[0])


class Floor:
    """From which key on a look at a queue must look. One per process and queue; used by one thread."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._floor = 0
        self._full_due = 0.0
        self._taken: deque[tuple[float, int]] = deque()

    @contextmanager
    def look(self) -> Iterator[int]:
        """The key above which to look; 0 when a full look is due. What is done inside is what a full look costs."""
        began = self._monotonic()
        while self._taken and began - self._taken[0][0] >= SETTLED_S:
            self._floor = max(self._floor, self._taken.popleft()[1])
        if began < self._full_due:
            yield self._floor
            return
        yield 0
        ended = self._monotonic()
        self._full_due = ended + max(FULL_LOOK_S, FULL_LOOK_SHARE * (ended - began))

    @property
    def key(self) -> int:
        """Where it is."""
        return self._floor

    @property
    def asks(self) -> bool:
        """Whether nothing has been taken for a second: then others may have, or transactions were rolled back."""
        return not self._taken or self._monotonic() - self._taken[-1][0] > FULL_LOOK_S

    def gone(self, key: int) -> None:
        """What was visible up to this key is being taken, or was taken by others. Should it not be, because a
        transaction fails, the full look finds it."""
        self._taken.append((self._monotonic(), key))


class Queue:
    """A table as a queue, by its integer key. Rows are added by whoever writes, with a plain insert."""

    def __init__(self, table: Table, key: str = "id") -> None:
        column: Column[int] = table.c[key]
        above = column > bindparam("above", type_=BigInteger)
        self._rows = Prepared(select(table).where(above).order_by(column).limit(bindparam("size")))
        self._beyond = Prepared(select(column).where(above).order_by(column).limit(1).offset(bindparam("more_than")))
        listed = func.json_each(bindparam("keys")).table_valued("value", name="listed")
        self._remove = Prepared(
            delete(table).where(column.in_(select(listed.c.value))),
            postgresql=delete(table).where(column == func.any(cast(bindparam("keys"), ARRAY(BigInteger)))),
        )
        drawn = select(literal_column("last_value", BigInteger)).select_from(sql_table(f"{table.name}_{key}_seq"))
        self._drawn = Prepared(drawn)

    def rows(self, connection: Connection, floor: Floor, size: int, *, first: int | None = None) -> list[Row]:
        """The visible rows in the order of their keys, at most `size`: every column, as the table has them.

        `first`: the key of the first row that an earlier look has found, which may lie below the floor.
        """
        if connection.dialect.name == "sqlite":  # what is deleted is gone, and its key may come again
            return self._rows.all(connection, {"above": 0, "size": size})
        if first is not None:
            return self._rows.all(connection, {"above": min(floor.key, first - 1), "size": size})
        drawn = self._drawn.first(connection, {}) if floor.asks else None
        with floor.look() as above:
            found = self._rows.all(connection, {"above": above, "size": size})
        if drawn is not None and not found:  # the number that was drawn last may not be committed yet, or be the next
            floor.gone(int(drawn[0]) - 1)
        return found

    def has_more(self, connection: Connection, floor: Floor, than: int) -> bool:
        """Whether more than so many rows wait."""
        above = 0 if connection.dialect.name == "sqlite" else floor.key
        return self._beyond.first(connection, {"above": above, "more_than": than}) is not None

    def remove(self, connection: Connection, floor: Floor, keys: Sequence[int]) -> bool:
        """Delete the rows with these keys (ascending); False where another has taken any: then roll back."""
        if not keys:
            return True
        given = f"[{','.join(map(str, keys))}]" if connection.dialect.name == "sqlite" else list(keys)
        if self._remove.run(connection, {"keys": given}) != len(keys):
            return False
        floor.gone(keys[-1])
        return True
