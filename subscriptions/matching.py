"""The Observer: changes of topic types go to the outbox, and Subscriptions are accepted, inside the write's
transaction.

One insert per change, no matching here: the sequencer does that, in commit order. So a change and its outbox row are
one commit (nothing is lost between them) and a writer never waits for a subscriber.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

from resources.outcomes import InvalidContent
from store.access import Change, Draft, Work
from subscriptions import outbox, terms, topics
from subscriptions.acceptance import Acceptance, is_over
from subscriptions.channels.port import Channels

SUBSCRIPTIONS_MAX = 200
"""Per organisation, whatever their status: each costs the sequencer a look at each event of its topic."""


class Watch:
    """store.access.Observer for subscriptions."""

    def __init__(self, acceptance: Acceptance, channels: Channels) -> None:
        self._acceptance = acceptance
        self._channels = channels
        self._heard: WeakKeyDictionary[Work, set[str]] = WeakKeyDictionary()

    def prepare(self, uow: Work, draft: Draft) -> None:
        self._acceptance.prepare(uow, draft)

    def changed(self, uow: Work, change: Change) -> None:
        after = change.after
        if after.type == "Subscription":
            self._subscription(uow, change)
        elif not after.deleted and self._may_be_heard(uow, after.type):
            outbox.append_change(
                uow.connection,
                tx_id=after.tx,
                resource_type=after.type,
                resource_id=after.id,
                version=after.version,
                version_pk=after.pk,
                before_pk=None if change.before is None else change.before.pk,
                at=uow.now,
            )

    def _may_be_heard(self, uow: Work, type_name: str) -> bool:
        """Published topics hear all that their types do. What only R4 criteria ask about is noted while they do: for
        most types nobody does, and a write should cost no more for it than one look."""
        if type_name in topics.TYPES:
            return True
        if topics.every(type_name) is None:
            return False
        heard = self._heard.get(uow)
        if heard is None:
            heard = self._heard[uow] = outbox.listened_topics(uow.connection)
        return type_name in heard

    def _subscription(self, uow: Work, change: Change) -> None:
        after = change.after
        if after.deleted:
            outbox.forget(uow.connection, after.id)
            return
        if change.derived or change.caller.is_system:
            outbox.repoint(uow.connection, after.id, version_pk=after.pk)
            return
        resource = after.json()
        if resource.get("status") == "off" or is_over(resource):
            outbox.halt(uow.connection, after.id, status="off", version_pk=after.pk)
            return
        if outbox.count_of(uow.connection, after.owner) >= SUBSCRIPTIONS_MAX and change.before is None:
            raise InvalidContent(
                f"An organization has at most {SUBSCRIPTIONS_MAX} Subscriptions",
                expression="Subscription",
                code="too-costly",
            )
        accepted = terms.stored(resource, self._channels)
        if accepted is None:  # prepare has just admitted it
            raise RuntimeError("an accepted Subscription has no terms")
        outbox.accept(
            uow.connection,
            subscription_id=after.id,
            version_pk=after.pk,
            organization=after.owner,
            client_id=change.caller.client_id,
            topic=accepted.topic.url,
            filters=accepted.filters,
            content=accepted.content,
            origin=accepted.address.origin,
            timeout_s=accepted.timeout_s,
            max_count=accepted.max_count,
            heartbeat_s=accepted.heartbeat_s,
            end=accepted.end,
            since=uow.unsettled,
            now=uow.now,
        )
        self._heard.pop(uow, None)
