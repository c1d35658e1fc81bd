"""The outbox: every query on changes, subscribers and their numbered events (`tables` has the shape)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, func, insert, select, update

from resources.times import microseconds
from store.engine import wakes
from store.engine.queue import Floor, Queue
from store.engine.statements import Prepared
from subscriptions.tables import aside_table, attempt_table, change_table, event_table, state_table

CHANGES = "subscription-changes"
DUE = "subscriptions-due"
"""What wakes the sequencer and the dispatcher."""


@dataclass(frozen=True, slots=True)
class ChangeRow:
    """One change that nobody has looked at yet."""

    id: int
    tx_id: int
    resource_type: str
    resource_id: str
    version: int
    version_pk: int
    before_pk: int | None
    occurred_at: int


@dataclass(frozen=True, slots=True)
class State:
    """A subscription as it stands."""

    subscription_id: str
    version_pk: int
    organization: str
    client_id: str
    topic: str
    filters: tuple[str, ...]
    content: str
    origin: str
    timeout_s: int
    max_count: int
    heartbeat_s: int | None
    end_at: int | None
    status: str
    since_tx: int
    since_open: str
    events: int
    delivered: int
    batch_last: int | None
    attempts: int
    first_attempt_at: int | None
    retry_at: int | None
    heartbeat_at: int | None
    lease_token: str | None

    def hears(self, tx_id: int) -> bool:
        """Whether what this transaction did counts: it had not ended when the subscription was made. Telling one
        change too many is harmless, one too few is not."""
        return tx_id >= self.since_tx or str(tx_id) in self.since_open.split()


@dataclass(frozen=True, slots=True)
class EventRow:
    """One numbered event."""

    number: int
    resource_type: str
    resource_id: str
    version: int
    version_pk: int
    occurred_at: int


# Changes: written by every unit of work that touches a topic's type, hence a prepared statement.

_APPEND = Prepared(
    insert(change_table).values(
        {name: bindparam(name) for name in (
            "tx_id", "resource_type", "resource_id", "version", "version_pk", "before_pk", "occurred_at")}
    )
)  # fmt: skip


def append_change(
    connection: Connection,
    *,
    tx_id: int,
    resource_type: str,
    resource_id: str,
    version: int,
    version_pk: int,
    before_pk: int | None,
    at: datetime,
) -> None:
    """Note a change, in the transaction that makes it."""
    _APPEND.run(
        connection,
        {"tx_id": tx_id, "resource_type": resource_type, "resource_id": resource_id, "version": version,
         "version_pk": version_pk, "before_pk": before_pk, "occurred_at": microseconds(at)},
    )  # fmt: skip
    wakes.announce(connection, CHANGES)


def oldest_change(connection: Connection) -> int | None:
    """When the first of the waiting changes was made (µs since 1970); None: none waits."""
    return connection.execute(select(change_table.c.occurred_at).order_by(change_table.c.id).limit(1)).scalar()


_QUEUE = Queue(change_table)


def pending_changes(
    connection: Connection, floor: Floor, *, limit: int, first: int | None = None
) -> list[ChangeRow]:
    """The oldest changes that this connection sees. `first`: the id of one that an earlier look found."""
    return [ChangeRow(*row) for row in _QUEUE.rows(connection, floor, limit, first=first)]


def has_more_changes(connection: Connection, floor: Floor, *, than: int) -> bool:
    """Whether more than so many changes wait."""
    return _QUEUE.has_more(connection, floor, than)


def remove_changes(connection: Connection, floor: Floor, changes: Sequence[ChangeRow]) -> bool:
    """Take these changes out of the outbox; False where another took any of them."""
    return _QUEUE.remove(connection, floor, [change.id for change in changes])


# Subscriptions.


def accept(
    connection: Connection,
    *,
    subscription_id: str,
    version_pk: int,
    organization: str,
    client_id: str,
    topic: str,
    filters: Sequence[str],
    content: str,
    origin: str,
    timeout_s: int,
    max_count: int,
    heartbeat_s: int | None,
    end: datetime | None,
    since: tuple[int, Sequence[int]],
    now: datetime,
) -> None:
    """A client asked for (or asked anew for) a subscription: the handshake is due, numbers go on where they were.

    What was not delivered while it was in error is due again; what happened while it was off is not counted.
    `since`: the transactions whose changes count, `Work.unsettled`.
    """
    wakes.announce(connection, DUE)
    earlier = connection.execute(_one(subscription_id)).first()
    began = {"since_tx": since[0], "since_open": " ".join(map(str, since[1]))}
    values: dict[str, Any] = {
        "version_pk": version_pk, "organization": organization, "client_id": client_id, "topic": topic,
        "filters": json.dumps(list(filters)), "content": content, "origin": origin, "timeout_s": timeout_s,
        "max_count": max_count, "heartbeat_s": heartbeat_s, "end_at": None if end is None else microseconds(end),
        "status": "requested", "batch_last": None, "attempts": 0, "first_attempt_at": None, "retry_at": None,
        "heartbeat_at": None, "due_at": microseconds(now), "lease_until": None, "lease_token": None,
    }  # fmt: skip
    if earlier is None:
        fresh = {"subscription_id": subscription_id, **began, "events": 0, "delivered": 0}
        connection.execute(insert(state_table).values(**values, **fresh))
        return
    if earlier.status == "off":
        values |= {**began, "delivered": earlier.events}
    connection.execute(update(state_table).where(state_table.c.subscription_id == subscription_id).values(**values))


def repoint(connection: Connection, subscription_id: str, *, version_pk: int) -> None:
    """The Subscription has a newer version with the same terms."""
    connection.execute(
        update(state_table).where(state_table.c.subscription_id == subscription_id).values(version_pk=version_pk)
    )


def halt(connection: Connection, subscription_id: str, *, status: str, version_pk: int | None = None) -> None:
    """Send nothing more: the subscription is off or in error."""
    values: dict[str, Any] = {
        "status": status, "due_at": None, "retry_at": None, "batch_last": None, "attempts": 0, "first_attempt_at": None,
        "heartbeat_at": None, "lease_until": None, "lease_token": None,
    }  # fmt: skip
    if version_pk is not None:
        values["version_pk"] = version_pk
    connection.execute(update(state_table).where(state_table.c.subscription_id == subscription_id).values(**values))


def forget(connection: Connection, subscription_id: str) -> None:
    """The Subscription was deleted: nothing of it is sent or kept."""
    for table in (aside_table, event_table, attempt_table, state_table):
        connection.execute(delete(table).where(table.c.subscription_id == subscription_id))


def state(connection: Connection, subscription_id: str, *, lock: bool = False) -> State | None:
    """A subscription; `lock` holds its row until the transaction ends."""
    row = (_ONE_LOCKED if lock else _ONE).first(connection, {"id": subscription_id})
    return None if row is None else _state(dict(zip(State.__dataclass_fields__, row, strict=True)))


def listening(connection: Connection, topics: Iterable[str], organizations: Iterable[str] | None) -> list[State]:
    """Subscriptions to any of `topics` that are not off, locked, in a fixed order; by these organisations (None: by
    any)."""
    statement = (
        select(state_table)
        .where(state_table.c.topic.in_(list(topics)), state_table.c.status != "off")
        .order_by(state_table.c.subscription_id)
        .with_for_update()
    )
    if organizations is not None:
        statement = statement.where(state_table.c.organization.in_(list(organizations)))
    return [state_of(row) for row in connection.execute(statement)]


def of_organization(connection: Connection, organization: str) -> list[State]:
    """The subscriptions of an organisation."""
    statement = (
        select(state_table).where(state_table.c.organization == organization).order_by(state_table.c.subscription_id)
    )
    return [state_of(row) for row in connection.execute(statement)]


def count_of(connection: Connection, organization: str) -> int:
    """How many subscriptions an organisation has."""
    statement = select(func.count()).select_from(state_table).where(state_table.c.organization == organization)
    return int(connection.execute(statement).scalar_one())


_LISTENED = Prepared(select(state_table.c.topic).where(state_table.c.status != "off").distinct())


def listened_topics(connection: Connection) -> set[str]:
    """Topics, and types of R4 criteria, that anybody listens to."""
    return {row[0] for row in _LISTENED.all(connection, {})}


def append_events(connection: Connection, subscription: State, changes: Sequence[ChangeRow], *, now: datetime) -> None:
    """Number `changes` as the newest events of `subscription`, whose row is locked."""
    rows = [
        {"subscription_id": subscription.subscription_id, "number": number, "resource_type": change.resource_type,
         "resource_id": change.resource_id, "version": change.version, "version_pk": change.version_pk,
         "occurred_at": change.occurred_at}
        for number, change in enumerate(changes, subscription.events + 1)
    ]  # fmt: skip
    wakes.announce(connection, DUE)
    connection.execute(insert(event_table), rows)
    events = subscription.events + len(rows)
    connection.execute(
        update(state_table)
        .where(state_table.c.subscription_id == subscription.subscription_id)
        .values(events=events, due_at=due_at(replace(subscription, events=events), microseconds(now)))
    )


def repeat_event(connection: Connection, subscription: State, event: EventRow, *, now: datetime) -> None:
    """Number an event anew, as the newest one of `subscription`, whose row is locked."""
    change = ChangeRow(
        0, 0, event.resource_type, event.resource_id, event.version, event.version_pk, None, event.occurred_at
    )
    append_events(connection, subscription, [change], now=now)


def is_overtaken(connection: Connection, subscription_id: str, event: EventRow) -> bool:
    """Whether a later event of the subscription tells of the same resource."""
    later = event_table.c
    statement = select(later.number).where(
        later.subscription_id == subscription_id, later.number > event.number,
        later.resource_type == event.resource_type, later.resource_id == event.resource_id,
    )  # fmt: skip
    return connection.execute(statement.limit(1)).first() is not None


_BETWEEN = Prepared(
    select(event_table)
    .where(
        event_table.c.subscription_id == bindparam("id"),
        event_table.c.number.between(bindparam("first"), bindparam("last")),
    )
    .order_by(event_table.c.number)
    .limit(bindparam("size"))
)


def events_between(
    connection: Connection, subscription_id: str, first: int, last: int, *, limit: int
) -> list[EventRow]:
    """Events with numbers from `first` to `last`, both included."""
    asked = {"id": subscription_id, "first": first, "last": last, "size": limit}
    return [EventRow(*row[1:]) for row in _BETWEEN.all(connection, asked)]


def due_at(subscription: State, now: int) -> int | None:
    """When there is something to send (µs since 1970): the handshake, the next events or a heartbeat; None: nothing."""
    if subscription.status == "requested":
        return now
    if subscription.status != "active":
        return None
    times = [] if subscription.heartbeat_at is None else [subscription.heartbeat_at]
    if subscription.events > subscription.delivered:
        times.append(subscription.retry_at or now)
    return min(times, default=None)


def _one(subscription_id: str) -> Any:
    return select(state_table).where(state_table.c.subscription_id == subscription_id)


_ITS_STATE = select(*(state_table.c[name] for name in State.__dataclass_fields__)).where(
    state_table.c.subscription_id == bindparam("id")
)
_ONE, _ONE_LOCKED = Prepared(_ITS_STATE), Prepared(_ITS_STATE.with_for_update())


def state_of(row: Row[Any], **changes: Any) -> State:
    """The State in a row of `state_table`."""
    return _state({name: getattr(row, name) for name in State.__dataclass_fields__} | changes)


def _state(columns: dict[str, Any]) -> State:
    return State(**columns | {"filters": tuple(json.loads(columns["filters"]))})
