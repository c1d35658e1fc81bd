"""Events that could not be made into a notification: the queries on them (`tables` has the shape)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, bindparam, delete, func, insert, select

from resources.times import microseconds
from store.engine.statements import Prepared
from subscriptions.tables import aside_table, attempt_table

UNMADE = "unmade"
"""Result of an attempt that ended before anything was sent."""


def tries(connection: Connection, subscription_id: str, first: int, since: int | None) -> int:
    """How often the notification that begins with this number could not be composed since then (µs)."""
    attempt = attempt_table.c
    statement = select(func.count()).where(
        attempt.subscription_id == subscription_id, attempt.at >= (since or 0), attempt.first_number == first,
        attempt.result == UNMADE,
    )  # fmt: skip
    return int(connection.execute(statement).scalar_one())


_NUMBERS = Prepared(
    select(aside_table.c.number).where(
        aside_table.c.subscription_id == bindparam("id"),
        aside_table.c.number.between(bindparam("first"), bindparam("last")),
    )
)


def numbers(connection: Connection, subscription_id: str, first: int, last: int) -> frozenset[int]:
    """Which of these events are set aside."""
    found = _NUMBERS.all(connection, {"id": subscription_id, "first": first, "last": last})
    return frozenset(int(row[0]) for row in found)


def put(connection: Connection, subscription_id: str, faults: Mapping[int, str], now: datetime) -> None:
    """Set these events aside: number → class of what composing it raised. None of them is."""
    since = microseconds(now)
    rows = [
        {"subscription_id": subscription_id, "number": number, "since": since, "fault": fault}
        for number, fault in sorted(faults.items())
    ]
    connection.execute(insert(aside_table), rows)


def listed(
    connection: Connection, after: tuple[str, int], *, limit: int, subscription_id: str | None = None
) -> list[tuple[str, int]]:
    """(subscription, number) of what is set aside, of all subscriptions or one, in this order, behind `after`."""
    id, number = aside_table.c.subscription_id, aside_table.c.number
    behind: list[ColumnElement[bool]] = [(id > after[0]) | ((id == after[0]) & (number > after[1]))]
    if subscription_id is not None:
        behind.append(id == subscription_id)
    rows = connection.execute(select(id, number).where(*behind).order_by(id, number).limit(limit))
    return [(row[0], int(row[1])) for row in rows]


def take(connection: Connection, subscription_id: str, number: int) -> bool:
    """It is set aside no more; False where it was not."""
    aside = aside_table.c
    its = delete(aside_table).where(aside.subscription_id == subscription_id, aside.number == number)
    return connection.execute(its).rowcount == 1
