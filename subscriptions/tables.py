"""The tables of delivery: changes, subscribers, events, endpoints, attempts.

    subscription_change     what was written and not yet looked at; in the write's own transaction
    subscription_state      one row per Subscription: how far it has got, what it waits for, who holds it
    subscription_event      the numbered events of a subscription, kept 30 days for $events
    subscription_endpoint   consecutive failures of an origin: the circuit breaker
    subscription_attempt    what was tried, for operators
    subscription_aside      the events that could not be made into a notification

An event's number is `subscription_state.events` after it; `delivered` is the greatest number that is settled. So "in
order, one at a time" needs no row per pending delivery: a subscription has one head, and one lease.

Times are µs since 1970-01-01T00:00Z. docs/decisions/0007-delivery.md says why this shape.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import BigInteger, Column, Index, Integer, SmallInteger, Table, Text

from store.engine.schema import BinaryText, Key, metadata

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
RETENTION = timedelta(days=30)

change_table = Table(
    "subscription_change",
    metadata,
    Column("id", Key, primary_key=True, comment="orders changes: store.engine.queue"),
    Column("tx_id", BigInteger, nullable=False, comment="transaction that made it"),
    Column("resource_type", Text, nullable=False),
    Column("resource_id", BinaryText, nullable=False),
    Column("version", Integer, nullable=False),
    Column("version_pk", BigInteger, nullable=False, comment="resource_version.pk after the change"),
    Column("before_pk", BigInteger, comment="resource_version.pk before it; null: created"),
    Column("occurred_at", BigInteger, nullable=False, comment="µs since 1970"),
)

state_table = Table(
    "subscription_state",
    metadata,
    Column("subscription_id", BinaryText, primary_key=True),
    Column("version_pk", BigInteger, nullable=False, comment="resource_version.pk of the Subscription in effect"),
    Column("organization", BinaryText, nullable=False),
    Column("client_id", Text, nullable=False, comment="the subscriber, whose rights decide"),
    Column("topic", Text, nullable=False),
    Column("filters", Text, nullable=False, comment="JSON array of backport-filter-criteria"),
    Column("content", Text, nullable=False, comment="empty, id-only, full-resource"),
    Column("origin", Text, nullable=False, comment="scheme://host:port, the lane"),
    Column("timeout_s", SmallInteger, nullable=False, comment="seconds"),
    Column("max_count", SmallInteger, nullable=False, comment="events per notification"),
    Column("heartbeat_s", Integer, comment="seconds; null: none asked"),
    Column("end_at", BigInteger, comment="µs since 1970"),
    Column("status", Text, nullable=False, comment="requested, active, error, off"),
    Column("since_tx", BigInteger, nullable=False, comment="changes of this tx_id and later count, and…"),
    Column("since_open", Text, nullable=False, server_default="", comment="…of these, by spaces: then under way"),
    Column("events", BigInteger, nullable=False, comment="number of the newest event"),
    Column("delivered", BigInteger, nullable=False, comment="number of the newest settled event"),
    Column("batch_last", BigInteger, comment="last number of the notification being tried; fixed over retries"),
    Column("attempts", Integer, nullable=False, comment="failures of that notification so far"),
    Column("first_attempt_at", BigInteger, comment="µs since 1970"),
    Column("retry_at", BigInteger, comment="µs since 1970; null: not backing off"),
    Column("heartbeat_at", BigInteger, comment="µs since 1970"),
    Column("due_at", BigInteger, comment="µs since 1970: when there is something to send; null: nothing"),
    Column("lease_until", BigInteger, comment="µs since 1970"),
    Column("lease_token", Text, comment="who holds it"),
    Index("ix_subscription_state_due", "due_at"),
    Index("ix_subscription_state_topic", "topic", "organization"),
    Index("ix_subscription_state_origin", "origin"),
)

event_table = Table(
    "subscription_event",
    metadata,
    Column("subscription_id", BinaryText, primary_key=True),
    Column("number", BigInteger, primary_key=True, comment="gapless from 1 per subscription"),
    Column("resource_type", Text, nullable=False),
    Column("resource_id", BinaryText, nullable=False),
    Column("version", Integer, nullable=False),
    Column("version_pk", BigInteger, nullable=False),
    Column("occurred_at", BigInteger, nullable=False, comment="µs since 1970"),
    Index("ix_subscription_event_age", "occurred_at"),
)

endpoint_table = Table(
    "subscription_endpoint",
    metadata,
    Column("origin", Text, primary_key=True),
    Column("failures", Integer, nullable=False, comment="consecutive"),
    Column("open_until", BigInteger, comment="µs since 1970: no request before, then one probe"),
)

attempt_table = Table(
    "subscription_attempt",
    metadata,
    Column("id", Key, primary_key=True),
    Column("subscription_id", BinaryText, nullable=False),
    Column("kind", Text, nullable=False, comment="handshake, heartbeat, event-notification"),
    Column("first_number", BigInteger, nullable=False),
    Column("last_number", BigInteger, nullable=False),
    Column("at", BigInteger, nullable=False, comment="µs since 1970"),
    Column("duration_ms", Integer, nullable=False),
    Column("http_status", Integer, comment="null: no answer"),
    Column("result", Text, nullable=False, comment="delivered, failed, suppressed, unmade"),
    Column("fault", Text, comment="why it failed, machine text"),
    Index("ix_subscription_attempt_subscription", "subscription_id", "at"),
    Index("ix_subscription_attempt_age", "at"),
)

aside_table = Table(
    "subscription_aside",
    metadata,
    Column("subscription_id", BinaryText, primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False, comment="of the event"),
    Column("since", BigInteger, nullable=False, comment="µs since 1970"),
    Column("fault", Text, nullable=False, comment="class of what composing it raised"),
)
