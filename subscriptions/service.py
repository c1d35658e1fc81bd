"""Subscriptions: what the composition root takes from this package.

observer     accepts Subscriptions and fills the outbox, inside every write
loops        sequencer, dispatcher, maintenance
operations   $status, $events
mask, shown  a Subscription as its reader may see it
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from sqlalchemy import Connection

from resources import jsontext
from resources.json import Json
from resources.times import utc_now
from store import items
from store.access import Caller, Loop, Observer, Version, Waiting, Work
from store.engine.keyring import Keys
from store.unit_of_work import Store
from subscriptions import dispatcher, leases, outbox, sequencer, topics
from subscriptions.acceptance import Acceptance
from subscriptions.again import Again, Retried
from subscriptions.channels.port import Channel, Channels
from subscriptions.channels.rest_hook import RestHook
from subscriptions.composition import Composer
from subscriptions.dispatcher import FAILING_THREADS, HEALTHY_THREADS, Dispatcher, OnDelivered
from subscriptions.endpoints import EndpointPolicy
from subscriptions.matching import Watch
from subscriptions.operations import Operation, Operations
from subscriptions.sequencer import CallerOf, HoldersOf, Sequencer, nobody
from subscriptions.signature import Keyring
from subscriptions.statuses import server_for, write_status
from subscriptions.versions import Versions

INTERVAL_S = 1.0
"""Of the sequencer and the dispatcher, which commits wake: what they look for in any case, should a word be lost."""
MAINTENANCE_INTERVAL_S = 10.0
MAINTENANCE = "subscription-maintenance"


@dataclass(frozen=True, slots=True)
class SubscriptionSettings:
    """What a deployment says about delivery."""

    keys: Keys
    """Signing keys are derived from `webhooks`, channel headers are sealed by `sealing`."""
    base_url: str
    """FHIR base URL used in notifications, without a slash at the end."""
    endpoints: EndpointPolicy = field(default_factory=EndpointPolicy)
    healthy_threads: int = HEALTHY_THREADS
    failing_threads: int = FAILING_THREADS
    further_channels: tuple[Channel, ...] = ()
    """Channels beside the rest-hook."""
    ssl_context: ssl.SSLContext | None = None
    """For a private CA or a client certificate; None: the system's authorities."""


def channels_of(settings: SubscriptionSettings) -> Channels:
    """The channels that a deployment serves, by code."""
    served = (RestHook(settings.endpoints, ssl_context=settings.ssl_context), *settings.further_channels)
    return {channel.code: channel for channel in served}


class Subscriptions:
    """Reports out. One per process; only the background process turns its loops."""

    def __init__(
        self,
        store: Store,
        caller_of: CallerOf,
        settings: SubscriptionSettings,
        *,
        clock: Callable[[], datetime] | None = None,
        on_delivered: OnDelivered | None = None,
        holders_of: HoldersOf = nobody,
    ) -> None:
        """`holders_of`: whose subscriptions to ask beside those of a version's audience: they may see it by a grant.

        `on_delivered`: told, in a unit of work of the server, of each signed report that a hospital's endpoint has
        accepted the notification of; perhaps more than once."""
        self._store = store
        self._clock = clock or utc_now
        keyring, channels = Keyring(settings.keys), channels_of(settings)
        versions = Versions(store.permit, store.audiences, store.base_urls)
        composer = Composer(store, versions, caller_of, keyring, channels, settings.base_url)
        self._acceptance = Acceptance(keyring, channels)
        self.observer: Observer = Watch(self._acceptance, channels)
        self.sequencer = Sequencer(store, versions, caller_of, self._clock, holders_of)
        self.dispatcher = Dispatcher(
            store, composer, channels, store.trail, self._clock,
            healthy_threads=settings.healthy_threads, failing_threads=settings.failing_threads,
            on_delivered=on_delivered,
        )  # fmt: skip
        self._again = Again(store, composer, self._clock)
        self.operations: Mapping[str, Operation] = Operations(composer).table

    @property
    def loops(self) -> tuple[Loop, ...]:
        """What the background worker runs."""
        return (
            Loop(sequencer.NAME, self.sequencer.step, INTERVAL_S, wake=outbox.CHANGES),
            Loop(
                dispatcher.NAME, self.dispatcher.step, INTERVAL_S, wake=outbox.DUE,
                sooner_s=self.dispatcher.due_in_s,
            ),
            Loop(MAINTENANCE, self.maintain, MAINTENANCE_INTERVAL_S),
        )

    def queues(self, connection: Connection) -> Mapping[str, Waiting]:
        """What waits to be numbered and to be delivered."""
        return leases.queues(connection, self._clock())

    @property
    def topics(self) -> tuple[str, ...]:
        """Canonical URLs for the CapabilityStatement."""
        return tuple(topic.url for topic in topics.TOPICS)

    def mask(self, resource: Json, caller: Caller) -> Json:
        """`resource` as `caller` may see it (see `Acceptance.mask`)."""
        return self._acceptance.mask(resource, caller)

    def shown(self, version: Version, caller: Caller) -> bytes:
        """The JSON text of a version as `caller` may see it."""
        if version.type != "Subscription" or version.deleted:
            return version.content
        return jsontext.dump(self.mask(version.json(), caller))

    def maintain(self) -> bool:
        """Turn off what has reached its end; drop what is older than 30 days; try what was set aside."""
        now = self._clock()
        with self._store.database.read() as connection:
            ended = leases.ended(connection, now)
        for state in ended:
            turn_off = partial(_turn_off, subscription_id=state.subscription_id)
            with items.apart(MAINTENANCE):
                self._store.transact(server_for(state.organization), turn_off)
        with self._store.database.write() as connection:
            leases.sweep(connection, now)
        self._again.step(MAINTENANCE)
        return False

    def retry(self, subscription_id: str | None = None) -> Retried | None:
        """Try what was set aside now, all or of one subscription; None: there is no such subscription."""
        if subscription_id is not None:
            with self._store.database.read() as connection:
                if outbox.state(connection, subscription_id) is None:
                    return None
        return self._again.retry(MAINTENANCE, subscription_id)

    def close(self) -> None:
        """Settle what is under way and stop the threads."""
        self.dispatcher.close()


def _turn_off(uow: Work, subscription_id: str) -> None:
    if write_status(uow, subscription_id, "off"):
        outbox.halt(uow.connection, subscription_id, status="off")
