"""What is due when: one row for each thing that a clock acts on, kept by the commits that make, move and end it.

A row says what is watched (kind and subject), when it is due, which level of escalation it has reached, and when
something is to be done next. Whoever acts holds the row (`hold`), so that each level is reached once, on however many
nodes. An index on that instant makes a look at what is due independent of how much waits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from resources.times import microseconds, of_microseconds
from store.access import Waiting, Work
from store.engine import wakes
from workflow.tables import due_item

WAKE = "due-items"
"""What a transaction announces that made or moved a row."""
_COLUMN = due_item.c


@dataclass(frozen=True, slots=True)
class Due:
    """One row."""

    kind: str
    subject: str
    case_id: str
    due: datetime
    level: int
    next_at: datetime | None

    @property
    def order(self) -> str:
        """``ServiceRequest/id`` of the case; empty: it has none."""
        return f"ServiceRequest/{self.case_id}" if self.case_id else ""


def watch(uow: Work, kind: str, subject: str, due: datetime, *, order: str = "", moves: bool = True) -> None:
    """Have the clock act on `subject` from `due` on. Another due instant begins anew; without `moves` the first stays.

    `order`: ``ServiceRequest/id`` of its case.
    """
    found = _one(uow, kind, subject)
    if found is not None and (found.due == due or not moves):
        return
    at = microseconds(due)
    if found is None:
        case_id = order.removeprefix("ServiceRequest/")
        uow.connection.execute(
            insert(due_item).values(kind=kind, subject=subject, case_id=case_id, due=at, level=0, next_at=at)
        )
    else:
        uow.connection.execute(
            update(due_item).where(_COLUMN.kind == kind, _COLUMN.subject == subject).values(due=at, level=0, next_at=at)
        )
    wakes.announce(uow.connection, WAKE)


def settle(uow: Work, kind: str, subject: str) -> bool:
    """It is done, or nobody waits for it any more; whether it was watched."""
    done = uow.connection.execute(delete(due_item).where(_COLUMN.kind == kind, _COLUMN.subject == subject))
    return bool(done.rowcount)


def hold(uow: Work, kind: str, subject: str) -> Due | None:
    """The row, locked until the end of the transaction; None where there is none."""
    return _one(uow, kind, subject, locked=True)


def climb(uow: Work, row: Due, level: int, next_at: datetime | None) -> None:
    """Say which level a row has reached, and when to look at it next."""
    uow.connection.execute(
        update(due_item)
        .where(_COLUMN.kind == row.kind, _COLUMN.subject == row.subject)
        .values(level=level, next_at=None if next_at is None else microseconds(next_at))
    )


def of_subject(uow: Work, subject: str) -> Mapping[str, Due]:
    """Kind → row, of what is watched of one resource."""
    return {row.kind: row for row in _all(uow, _COLUMN.subject == subject)}


def of_case(uow: Work, case_id: str, kind: str) -> list[Due]:
    """The rows of a case of one kind."""
    return list(_all(uow, _COLUMN.case_id == case_id, _COLUMN.kind == kind))


def due(connection: Connection, now_us: int, limit: int, leave_out: Sequence[tuple[str, str]] = ()) -> list[Due]:
    """What is to be acted on now, the longest due first, at most `limit`, but for these (kind, subject)."""
    asked = select(due_item).where(_COLUMN.next_at <= now_us).order_by(_COLUMN.next_at).limit(limit + len(leave_out))
    rows = [_row(row) for row in connection.execute(asked)]
    return [row for row in rows if (row.kind, row.subject) not in leave_out][:limit]


def next_after(connection: Connection, now_us: int) -> int | None:
    """When something is due next (µs), of what is not due yet."""
    found = connection.execute(select(func.min(_COLUMN.next_at)).where(_COLUMN.next_at > now_us)).scalar()
    return None if found is None else int(found)


def shift(uow: Work, after_us: int, by_us: int) -> None:
    """Move what is due later than `after_us`, as the clock leapt by so much."""
    later = _COLUMN.next_at > after_us
    uow.connection.execute(update(due_item).where(later).values(next_at=_COLUMN.next_at + by_us))


def late(connection: Connection, now_us: int, kinds: Sequence[str]) -> dict[tuple[str, int], Waiting]:
    """(kind, level) → how many are past their due instant, and the oldest of these."""
    asked = (
        select(_COLUMN.kind, _COLUMN.level, func.count(), func.min(_COLUMN.due))
        .where(_COLUMN.due < now_us, _COLUMN.kind.in_(kinds))
        .group_by(_COLUMN.kind, _COLUMN.level)
    )
    return {(row[0], int(row[1])): Waiting(int(row[2]), int(row[3])) for row in connection.execute(asked)}


def _one(uow: Work, kind: str, subject: str, *, locked: bool = False) -> Due | None:
    asked = select(due_item).where(_COLUMN.kind == kind, _COLUMN.subject == subject)
    row = uow.connection.execute(asked.with_for_update() if locked else asked).first()
    return None if row is None else _row(row)


def _all(uow: Work, *where: Any) -> Iterator[Due]:
    for row in uow.connection.execute(select(due_item).where(*where)):
        yield _row(row)


def _row(row: Any) -> Due:
    next_at = None if row.next_at is None else of_microseconds(row.next_at)
    return Due(row.kind, row.subject, row.case_id, of_microseconds(row.due), row.level, next_at)
