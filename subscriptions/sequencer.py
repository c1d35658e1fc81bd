"""Changes → numbered events, in the order of the outbox, by one leader, in one transaction.

For each change that is visible: which topics fire, which subscriptions of the organisations in its audience listen,
which of their filters it passes, whether the subscriber may see the version **today**; each that remains gets the
subscription's next number. The change rows leave the outbox in the same transaction, so a crash repeats nothing and
loses nothing. `store.engine.queue` says why that order is enough, and why no transaction elsewhere matters.

A change that cannot be judged is told, counted and passed over; a subscription that cannot be judged goes into error,
where its owner sees it. Neither stops the others. Where a statement about one of them fails, the batch is begun anew
with a savepoint before each judgement: on PostgreSQL a failed statement leaves nothing usable of its transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache

from sqlalchemy import Connection

from resources.outcomes import InvalidContent
from resources.times import microseconds
from store import items
from store.access import EVERYONE, Caller, Version, Work
from store.engine.faults import DRIVER_ERRORS
from store.engine.queue import Floor, lead
from store.unit_of_work import Store
from store.versions.audiences import audience_of
from subscriptions import outbox, topics
from subscriptions.filters import Filter, read_criteria, read_filter
from subscriptions.outbox import ChangeRow, State
from subscriptions.statuses import server_for, write_status
from subscriptions.topics import Topic
from subscriptions.versions import Versions

BATCH = 100
"""Changes looked at in one transaction: on SQLite other writers wait meanwhile."""
UNHEARD_MAX = 1000
"""While nobody listens, changes are cleared away by the thousand: a write transaction for each would be waste."""
UNHEARD_S = 10
"""…and those of a quiet server after so long, so that an old change always means that something is late."""
NAME = "subscription-sequencer"
LEADER_KEY = 0x56496753_75625331  # "VIgSubS1"

CallerOf = Callable[[str], Caller | None]
HoldersOf = Callable[[Connection, frozenset[str]], frozenset[str]]
"""Organisations that may see, by a grant, what is shown to these audience members."""


def nobody(connection: Connection, members: frozenset[str]) -> frozenset[str]:
    """Where nothing is granted."""
    return frozenset()


class _Overtaken(Exception):
    """Somebody else has taken a change meanwhile, though there is one leader. Nothing of this attempt stays."""


class Sequencer:
    """Gives events their numbers."""

    def __init__(
        self, store: Store, versions: Versions, caller_of: CallerOf, clock: Callable[[], datetime],
        holders_of: HoldersOf = nobody,
    ) -> None:
        self._store = store
        self._versions = versions
        self._caller_of = caller_of
        self._holders = holders_of
        self._clock = clock
        self._broken: dict[str, tuple[str, str]] = {}
        self._filters = lru_cache(maxsize=1024)(self._read_filter)
        self._floor = Floor()
        self._saves = False
        """Whether each judgement has a savepoint before it."""

    def step(self) -> bool:
        """Number what was committed since; False if there was nothing to do."""
        with self._store.database.glance() as connection:
            first = outbox.pending_changes(connection, self._floor, limit=1)
            if not first:
                return False
            young = first[0].occurred_at > microseconds(self._clock()) - UNHEARD_S * 1_000_000
            if (
                young
                and not outbox.listened_topics(connection)
                and not outbox.has_more_changes(connection, self._floor, than=UNHEARD_MAX)
            ):
                return False
        try:
            worked = self._batch(first[0].id)
        except _Overtaken:
            return True
        self._report_broken()
        return worked

    def _batch(self, first: int) -> bool:
        try:
            with self._store.database.write() as connection:
                return lead(connection, LEADER_KEY) and self._sequence(connection, first)
        except DRIVER_ERRORS as fault:
            if self._saves or not items.is_its_own(fault):
                raise
        self._saves = True
        try:
            return self._batch(first)
        finally:
            self._saves = False

    @contextmanager
    def _apart(self, connection: Connection) -> Iterator[None]:
        """`with` one judgement: what it raises spoils nothing else of the batch."""
        if not self._saves:
            with items.apart(NAME, shared=True):
                yield
            return
        with items.apart(NAME), connection.begin_nested():
            yield

    def _report_broken(self) -> None:
        while self._broken:
            subscription_id, (organization, reason) = self._broken.popitem()

            def fail(uow: Work, id: str = subscription_id, reason: str = reason) -> None:
                if write_status(uow, id, "error", error=reason):
                    outbox.halt(uow.connection, id, status="error")

            with items.apart(NAME):
                self._store.transact(server_for(organization), fail)

    def _sequence(self, connection: Connection, first: int) -> bool:
        heard = outbox.listened_topics(connection)
        limit = BATCH if heard else UNHEARD_MAX
        changes = outbox.pending_changes(connection, self._floor, limit=limit, first=first)
        if not changes:
            return False
        numbered: dict[str, tuple[State, list[ChangeRow]]] = {}
        callers: dict[str, Caller | None] = {}
        for change, version, fired in self._fired(connection, changes, heard):
            for subscription in self._candidates(connection, version, fired):
                if subscription.hears(change.tx_id) and self._concerns(connection, subscription, version, callers):
                    numbered.setdefault(subscription.subscription_id, (subscription, []))[1].append(change)
        now = self._clock()
        for subscription, events in numbered.values():
            outbox.append_events(connection, subscription, events, now=now)
        if not outbox.remove_changes(connection, self._floor, changes):
            raise _Overtaken
        return True

    def _fired(
        self, connection: Connection, changes: Iterable[ChangeRow], heard: set[str]
    ) -> Iterable[tuple[ChangeRow, Version, list[Topic]]]:
        """Changes that fire a topic that anybody listens to."""
        relevant = [
            change for change in changes if any(topic.url in heard for topic in topics.of_type(change.resource_type))
        ]
        pks = {pk for change in relevant for pk in (change.version_pk, change.before_pk) if pk is not None}
        versions = self._versions.get(connection, pks) if pks else {}
        for change in relevant:
            after = versions.get(change.version_pk)
            if after is None or after.deleted:
                continue
            before = None if change.before_pk is None else versions.get(change.before_pk)
            fired = []
            with self._apart(connection):
                earlier = None if before is None or before.deleted else before.json()
                fired = [
                    topic
                    for topic in topics.of_type(change.resource_type)
                    if topic.url in heard and topic.fires(earlier, after.json())
                ]
            if fired:
                yield change, after, fired

    def _candidates(self, connection: Connection, version: Version, fired: list[Topic]) -> list[State]:
        """Subscriptions to these topics by organisations in the version's audience: few, however many there are."""
        organizations = audience_of(connection, version.pk)
        urls = [topic.url for topic in fired]
        if EVERYONE in organizations:
            return outbox.listening(connection, urls, None)
        return outbox.listening(connection, urls, organizations | self._holders(connection, organizations))

    def _concerns(
        self, connection: Connection, subscription: State, version: Version, callers: dict[str, Caller | None]
    ) -> bool:
        if subscription.client_id not in callers:
            callers[subscription.client_id] = self._caller_of(subscription.client_id)
        caller = callers[subscription.client_id]
        if caller is None or caller.organization != subscription.organization:
            return False
        try:
            filters = [self._filters(text, subscription.topic) for text in subscription.filters]
        except InvalidContent as error:
            # Accepted by an earlier release, not understood by this one: say so to its owner, and let the others go on.
            self._broken[subscription.subscription_id] = (subscription.organization, error.diagnostics)
            return False
        with self._apart(connection):
            return self._versions.passes(version, filters) and self._versions.visible(connection, caller, version)
        self._broken[subscription.subscription_id] = (subscription.organization, "An event could not be judged")
        return False

    def _read_filter(self, text: str, topic: str) -> Filter:
        if not topics.is_published(topic):
            return read_criteria(text, base_urls=self._store.base_urls)
        known = topics.by_url(topic)
        if known is None:
            raise InvalidContent("The topic is not published any more")
        return read_filter(text, known, base_urls=self._store.base_urls)
