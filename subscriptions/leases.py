"""Leases on subscriptions, the circuit breaker of their endpoints, and the record of attempts: queries on the
tables of delivery.

A lease is a row held until a time: whoever dies holding it is overtaken after the request's timeout and a margin, or as
soon as another process of the same machine sees that it is gone. Its token makes a late settlement harmless. `SKIP
LOCKED` lets dispatchers of many processes lease at once on PostgreSQL; on SQLite the writer is alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    and_,
    bindparam,
    cast,
    delete,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)

from resources.times import microseconds, of_microseconds
from store.access import COUNTED, Waiting
from store.engine.clock import since_boot_ns
from store.engine.ids import random_digits
from store.engine.statements import Prepared
from subscriptions import holders, outbox, schedule
from subscriptions.outbox import State
from subscriptions.tables import (
    RETENTION,
    aside_table,
    attempt_table,
    change_table,
    endpoint_table,
    event_table,
    state_table,
)

LEASE_MARGIN_S = 10
"""What a dispatcher needs beside the request itself."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A subscription held by one dispatcher, and how its endpoint fares."""

    state: State
    token: str
    failures: int
    """Consecutive failures of the endpoint."""
    taken_ns: int
    """Time since boot at which it was taken."""

    @property
    def may_send(self) -> bool:
        """Whether a request that begins now ends while the lease runs, however long this process stood still."""
        return since_boot_ns() - self.taken_ns < LEASE_MARGIN_S * 1_000_000_000


@dataclass(frozen=True, slots=True)
class Lane:
    """Which endpoints a group of threads serves, and how many requests an origin may have in flight."""

    failing: bool
    """The endpoints that failed last time: they delay nobody else, and are asked one request at a time."""
    per_origin: int
    busy: Mapping[str, int]
    """Requests under way by origin."""

    @property
    def full(self) -> list[str]:
        """Origins that have as many requests under way as they may."""
        return [origin for origin, count in self.busy.items() if count >= self.per_origin]


@dataclass(frozen=True, slots=True)
class Attempt:
    """What was tried."""

    subscription_id: str
    kind: str
    first_number: int
    last_number: int
    at: datetime
    duration_ms: int
    http_status: int | None
    result: str
    """delivered, failed, suppressed, unmade."""
    fault: str | None


def new_token() -> str:
    """A token that nobody else has and that tells who holds the lease."""
    return f"{holders.mine()}/{random_digits()}"


_HELD = Prepared(
    select(state_table.c.lease_token).where(state_table.c.lease_until > bindparam("at", type_=BigInteger)).distinct()
)


def of_the_dead(connection: Connection, now: datetime) -> list[str]:
    """Tokens of running leases whose process is known to have ended."""
    tokens = [row[0] for row in _HELD.all(connection, {"at": microseconds(now)})]
    return [token for token in tokens if token and holders.is_gone(token.partition("/")[0])]


def end(connection: Connection, tokens: Sequence[str]) -> None:
    """Let go of these leases: what they were for is due again, with the numbers that were fixed."""
    connection.execute(
        update(state_table).where(state_table.c.lease_token.in_(tokens)).values(lease_token=None, lease_until=None)
    )


_NEXT_DUE = Prepared(select(func.min(state_table.c.due_at)))


def next_due(connection: Connection) -> int | None:
    """When there is next something to send (µs), be it that somebody sends it: what an idle dispatcher asks again and
    again."""
    row = _NEXT_DUE.first(connection, {})
    return None if row is None else row[0]


def is_due(connection: Connection, now: datetime, lane: Lane) -> bool:
    """Whether there is something to send, so that an idle dispatcher takes no write lock."""
    return connection.execute(_due_now(microseconds(now), lane).limit(1)).first() is not None


def queues(connection: Connection, now: datetime) -> dict[str, Waiting]:
    """What waits: changes to be numbered; notifications that are due (those of an endpoint whose breaker is open are
    not); subscriptions whose last attempt failed, by their first one; subscriptions that were given up; and events
    that were set aside.

    The three in between look at one row per subscription.
    """
    at = microseconds(now)
    changes = select(change_table.c.id).limit(COUNTED).subquery()
    due = (
        select(func.count(), func.min(state_table.c.due_at))
        .outerjoin(endpoint_table, endpoint_table.c.origin == state_table.c.origin)
        .where(
            state_table.c.due_at <= at,
            or_(endpoint_table.c.open_until.is_(None), endpoint_table.c.open_until <= at),
        )
    )
    failing = select(func.count(), func.min(state_table.c.first_attempt_at)).where(state_table.c.attempts > 0)
    ended = select(func.count()).where(state_table.c.status == "error")
    aside = select(func.count(), func.min(aside_table.c.since)).select_from(aside_table)
    return {
        "subscription-changes": Waiting(
            int(connection.execute(select(func.count()).select_from(changes)).scalar_one()),
            outbox.oldest_change(connection),
        ),
        "deliveries-due": Waiting(*connection.execute(due).one()),
        "deliveries-failing": Waiting(*connection.execute(failing).one()),
        "subscriptions-in-error": Waiting(int(connection.execute(ended).scalar_one()), None),
        "events-set-aside": Waiting(*connection.execute(aside).one()),
    }


def take(connection: Connection, now: datetime, *, token: str, limit: int, lane: Lane) -> list[Lease]:
    """Lease up to `limit` due subscriptions of a lane, the longest due first. However many of an origin that is full
    are due, those of others behind them are found."""
    at, taken_ns = microseconds(now), since_boot_ns()
    taken = dict(lane.busy)
    leased: dict[str, Lease] = {}
    passes = True
    while passes and len(leased) < limit:
        statement = _due_now(at, replace(lane, busy=taken)).order_by(state_table.c.due_at).limit(4 * limit)
        rows = connection.execute(statement.with_for_update(of=state_table, skip_locked=True)).all()
        passes = False
        for row in rows:
            if len(leased) == limit or row.subscription_id in leased:
                continue
            if taken.get(row.origin, 0) >= lane.per_origin:
                passes = len(rows) == 4 * limit  # others may stand behind
                continue
            taken[row.origin] = taken.get(row.origin, 0) + 1
            state = _fixed(outbox.state_of(row, lease_token=token), at)
            leased[row.subscription_id] = Lease(state, token, row.failures or 0, taken_ns)
    found = list(leased.values())
    for held in found:
        until = _until(at, held.state)
        connection.execute(
            update(state_table)
            .where(state_table.c.subscription_id == held.state.subscription_id)
            .values(
                lease_until=until, lease_token=token, batch_last=held.state.batch_last,
                first_attempt_at=held.state.first_attempt_at,
            )
        )  # fmt: skip
        if held.failures:  # half open: nobody else probes while this probe is out
            connection.execute(
                update(endpoint_table).where(endpoint_table.c.origin == held.state.origin).values(open_until=until)
            )
    return found


def _fixed(state: State, at: int) -> State:
    """Which numbers the notification carries, settled before it is first sent, whatever happens to it."""
    if state.status != "active" or state.batch_last is not None or state.events <= state.delivered:
        return state
    last = min(state.events, state.delivered + state.max_count)
    return replace(state, batch_last=last, first_attempt_at=state.first_attempt_at or at)


def is_held(connection: Connection, held: Lease) -> bool:
    """Whether the lease is still ours, without locking its row."""
    current = outbox.state(connection, held.state.subscription_id)
    return current is not None and current.lease_token == held.token


def held_state(connection: Connection, held: Lease) -> State | None:
    """The row of a lease as it is now, locked; None if the lease was lost."""
    current = outbox.state(connection, held.state.subscription_id, lock=True)
    return current if current is not None and current.lease_token == held.token else None


def release(connection: Connection, after: State, now: datetime) -> None:
    """Give the lease back, leaving the subscription as `after` says."""
    _write(connection, replace(after, lease_token=None), lease_until=None, now=now)


def keep(connection: Connection, held: Lease, after: State, now: datetime) -> Lease:
    """Hold on to the lease for the next notification."""
    at, taken_ns = microseconds(now), since_boot_ns()
    fixed = _fixed(after, at)
    _write(connection, fixed, lease_until=_until(at, fixed), now=now)
    return Lease(fixed, held.token, 0, taken_ns)


_KEPT = ("status", "delivered", "batch_last", "attempts", "first_attempt_at", "retry_at", "heartbeat_at", "lease_token")
_WRITE = Prepared(
    update(state_table)
    .where(state_table.c.subscription_id == bindparam("id"))
    .values({name: bindparam(f"new_{name}") for name in (*_KEPT, "lease_until", "due_at")})
)


def _write(connection: Connection, after: State, *, lease_until: int | None, now: datetime) -> None:
    _WRITE.run(
        connection,
        {
            **{f"new_{name}": getattr(after, name) for name in _KEPT},
            "new_lease_until": lease_until,
            "new_due_at": outbox.due_at(after, microseconds(now)),
            "id": after.subscription_id,
        },
    )


# Instants that a wrong clock left behind.

AHEAD_S = 5
"""How far the clocks of two nodes may differ before what one wrote looks wrong to the other."""
_AHEAD_US = AHEAD_S * 1_000_000
_RETRY_US = schedule.RETRY_AFTER_MAX_S * 1_000_000
_OPEN_US = (max(schedule.BREAKER_OPEN_S, schedule.TIMEOUT_MAX_S + LEASE_MARGIN_S)) * 1_000_000


def _too_far() -> ColumnElement[bool]:
    """Of a state; the parameter `bound`: how far ahead an instant may lie that has no step."""
    columns = state_table.c
    bound = bindparam("bound", type_=BigInteger)
    return or_(
        columns.first_attempt_at > bound,
        columns.retry_at > bound + _RETRY_US,
        columns.heartbeat_at > bound + cast(columns.heartbeat_s, BigInteger) * 1_000_000,
        columns.lease_until > bound + (cast(columns.timeout_s, BigInteger) + LEASE_MARGIN_S) * 1_000_000,
        and_(columns.due_at > bound, columns.status == "requested"),
        and_(columns.due_at > bound, columns.events > columns.delivered, columns.retry_at.is_(None)),
    )


_TOO_FAR = _too_far()
_ANY_TOO_FAR = Prepared(select(state_table.c.subscription_id).where(_TOO_FAR).limit(1))
_ANY_SHUT = Prepared(
    select(endpoint_table.c.origin).where(endpoint_table.c.open_until > bindparam("bound", type_=BigInteger)).limit(1)
)


def correct(connection: Connection, now: datetime) -> int:
    """Bring nearer what lies further ahead than its own longest step: it was written by a clock that was wrong, and
    would hold up a subscription for as long as the clock was off. Returns how many rows that concerned."""
    at = microseconds(now)
    far = select(state_table).where(_TOO_FAR).with_for_update()
    rows = connection.execute(far, {"bound": at + _AHEAD_US}).all()
    for row in rows:
        state = outbox.state_of(row)
        until = row.lease_until
        heartbeat = None if state.heartbeat_s is None else at + state.heartbeat_s * 1_000_000
        after = replace(
            state,
            first_attempt_at=_nearer(state.first_attempt_at, at, at),
            retry_at=_nearer(state.retry_at, at + _RETRY_US, at),
            heartbeat_at=_nearer(state.heartbeat_at, heartbeat or at, heartbeat),
        )
        _write(connection, after, lease_until=_nearer(until, _until(at, state), _until(at, state)), now=now)
    shut = connection.execute(
        update(endpoint_table).where(endpoint_table.c.open_until > at + _OPEN_US + _AHEAD_US).values(open_until=at)
    ).rowcount
    return len(rows) + shut


def is_too_far(connection: Connection, now: datetime) -> bool:
    """Whether `correct` has something to do."""
    bound = microseconds(now) + _AHEAD_US
    return (
        _ANY_TOO_FAR.first(connection, {"bound": bound}) is not None
        or _ANY_SHUT.first(connection, {"bound": bound + _OPEN_US}) is not None
    )


def _nearer(value: int | None, most: int, instead: int | None) -> int | None:
    return instead if value is not None and value > most + _AHEAD_US else value


# Endpoints: the circuit breaker.


_ANSWERED = Prepared(
    update(endpoint_table)
    .where(endpoint_table.c.origin == bindparam("its_origin"), endpoint_table.c.failures > 0)
    .values(failures=0, open_until=None)
)


def endpoint_answered(connection: Connection, origin: str, now: datetime) -> None:
    """The origin works. If it did not before, everything that waits for it is due at once."""
    if not _ANSWERED.run(connection, {"its_origin": origin}):
        return
    at = microseconds(now)
    connection.execute(
        update(state_table)
        .where(state_table.c.origin == origin, state_table.c.status == "active", state_table.c.retry_at > at)
        .values(retry_at=None, due_at=at)
    )


def endpoint_failed(connection: Connection, origin: str) -> int:
    """Count a failure; returns how many there were in a row."""
    counted = connection.execute(
        update(endpoint_table)
        .where(endpoint_table.c.origin == origin)
        .values(failures=endpoint_table.c.failures + 1)
        .returning(endpoint_table.c.failures)
    ).scalar()
    if counted is not None:
        return int(counted)
    connection.execute(insert(endpoint_table).values(origin=origin, failures=1, open_until=None))
    return 1


def set_breaker(connection: Connection, origin: str, until: datetime | None) -> None:
    """Leave the origin alone until then; None: it may be asked."""
    connection.execute(
        update(endpoint_table)
        .where(endpoint_table.c.origin == origin)
        .values(open_until=None if until is None else microseconds(until))
    )


# Attempts, ends, retention.


_NOTED = tuple(column.name for column in attempt_table.c if column.name != "id")
_NOTE = Prepared(insert(attempt_table).inline().values({name: bindparam(name) for name in _NOTED}))


def note_attempt(connection: Connection, attempt: Attempt) -> None:
    """Keep what was tried."""
    noted = {name: getattr(attempt, name) for name in _NOTED}
    _NOTE.run(connection, noted | {"at": microseconds(attempt.at)})


def attempts_of(connection: Connection, subscription_id: str, *, limit: int = 1000) -> Sequence[Attempt]:
    """What was tried for a subscription, newest first."""
    statement = (
        select(attempt_table)
        .where(attempt_table.c.subscription_id == subscription_id)
        .order_by(attempt_table.c.id.desc())
        .limit(limit)
    )
    return [
        Attempt(
            row.subscription_id, row.kind, row.first_number, row.last_number, of_microseconds(row.at), row.duration_ms,
            row.http_status, row.result, row.fault,
        )
        for row in connection.execute(statement)
    ]  # fmt: skip


def ended(connection: Connection, now: datetime) -> list[State]:
    """Subscriptions whose `end` has passed and that are not off."""
    statement = select(state_table).where(state_table.c.end_at <= microseconds(now), state_table.c.status != "off")
    return [outbox.state_of(row) for row in connection.execute(statement)]


def sweep(connection: Connection, now: datetime) -> int:
    """Remove events and attempts older than the retention; returns how many.

    What was not delivered is kept as long as its subscription: one in `error` gets it once it is asked for anew, and
    what was set aside is tried again.
    """
    before = microseconds(now - RETENTION)
    event, state = event_table.c, state_table.c
    wanted = (
        select(literal(1))
        .where(
            state.subscription_id == event.subscription_id, state.status != "off", state.delivered < event.number
        )
        .correlate(event_table)
        .exists()
    )
    aside = (
        select(literal(1))
        .where(aside_table.c.subscription_id == event.subscription_id, aside_table.c.number == event.number)
        .correlate(event_table)
        .exists()
    )
    events = connection.execute(delete(event_table).where(event.occurred_at < before, ~wanted, ~aside)).rowcount
    attempts = connection.execute(delete(attempt_table).where(attempt_table.c.at < before)).rowcount
    return events + attempts


def _until(at: int, state: State) -> int:
    return at + (state.timeout_s + LEASE_MARGIN_S) * 1_000_000


def _due_now(at: int, lane: Lane) -> Any:
    failures = endpoint_table.c.failures
    statement = (
        select(state_table, failures)
        .outerjoin(endpoint_table, endpoint_table.c.origin == state_table.c.origin)
        .where(
            state_table.c.due_at <= at,
            or_(state_table.c.lease_until.is_(None), state_table.c.lease_until <= at),
            failures > 0 if lane.failing else or_(failures.is_(None), failures == 0),
        )
    )
    if lane.failing:
        statement = statement.where(or_(endpoint_table.c.open_until.is_(None), endpoint_table.c.open_until <= at))
    if lane.full:
        statement = statement.where(state_table.c.origin.not_in(lane.full))
    return statement
