"""What is sent to a subscriber now: the notification and its audit records. Rights are asked again here.

A topic's notification is a Bundle; of R4 criteria it is the resource itself, or empty where no payload is asked for
(R4 §2.46.7). How it is sent is the channel's.

An event was numbered when the subscriber could see it; what it may not see any more when it is sent stays out
(Backport IG §safety-security: "ensure that authorization is still in place when sending"). The focus is the event's
own version; what goes along as additional-context is the current one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType

from sqlalchemy import Connection

from resources import jsontext
from resources.lifecycle import SIGNED
from resources.times import microseconds, of_microseconds
from store import items
from store.access import Access, Caller, Interaction, Outcome, Version
from store.unit_of_work import Store
from store.versions.audiences import audiences_of
from subscriptions import aside, notifications, outbox, signature, terms, topics
from subscriptions.channels.port import Address, Channels, Notice
from subscriptions.leases import Lease
from subscriptions.notifications import Event, Kind, Notified, Status
from subscriptions.outbox import EventRow, State
from subscriptions.sequencer import CallerOf
from subscriptions.signature import Keyring
from subscriptions.terms import Terms
from subscriptions.versions import Versions

CLIENT_INACTIVE = "the subscriber's client is not active"
RIGHTS_LOST = "the subscriber may not see this any more"
NOT_KEPT = "the events are not kept any more"
SET_ASIDE = "the event could not be made into a notification"
ENDPOINT_REFUSED = "this deployment does not send to the endpoint any more"


@dataclass(frozen=True, slots=True)
class Message:
    """One notification, ready to be sent; or, without `notice`, why nothing is."""

    kind: Kind
    subscription: str
    first: int
    last: int
    """Numbers of the events that it settles; for a handshake or heartbeat both are the newest event's."""
    recipient: Caller
    accesses: tuple[Access, ...]
    detail: tuple[tuple[str, str], ...]
    channel: str = ""
    """Code of the channel that it goes by."""
    address: Address | None = None
    notice: Notice | None = None
    withheld: str = ""
    """Why nothing is sent."""
    activates: bool = False
    """R4 criteria have no handshake: nothing is sent, the endpoint's address is checked."""
    signed: tuple[str, ...] = ()
    """References of the signed reports that it tells of."""


class Unmade(Exception):
    """A notification cannot be composed, by no fault of the database."""

    def __init__(self, kind: Kind, numbers: tuple[int, int], fault: Exception, faults: Mapping[int, Exception]) -> None:
        """`faults`: number of the event → what it raised; empty where no event is to blame but the subscription."""
        super().__init__()
        self.kind, self.numbers, self.fault, self.faults = kind, numbers, fault, faults


@dataclass(frozen=True, slots=True)
class Found:
    """Events as one caller may see them."""

    told: list[tuple[tuple[EventRow, Version], Event]] = field(default_factory=list)
    withheld: list[EventRow] = field(default_factory=list)
    faults: dict[int, Exception] = field(default_factory=dict)
    """Number → what composing it raised."""
    under: dict[int, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    """Number → the grants without which the caller would not see it."""

    def with_bare(self, rows: Sequence[EventRow]) -> list[Event]:
        """What is told, and of those of `rows` that cannot be composed their numbers, in order."""
        bare = [_bare(row) for row in rows if row.number in self.faults]
        return sorted([*(event for _, event in self.told), *bare], key=lambda event: event.number)


class Composer:
    """Renders notifications."""

    def __init__(
        self,
        store: Store,
        versions: Versions,
        caller_of: CallerOf,
        keyring: Keyring,
        channels: Channels,
        base_url: str,
    ) -> None:
        self._store = store
        self._versions = versions
        self._caller_of = caller_of
        self._keyring = keyring
        self._channels = channels
        self._base_url = base_url

    def compose(self, held: Lease, now: datetime) -> Message | None:
        """What to send for this lease at `now`; None: nothing is due any more. Raises Unmade."""
        kind = due_kind(held.state, now)
        if kind is None:
            return None
        numbers = _numbers(held.state, kind)
        try:
            return self._compose(held.state, kind, numbers, now)
        except Unmade:
            raise
        except Exception as fault:
            if not items.is_its_own(fault):
                raise
            raise Unmade(kind, numbers, fault, {}) from fault

    def _compose(self, state: State, kind: Kind, numbers: tuple[int, int], now: datetime) -> Message:
        first, last = numbers
        caller = self._caller_of(state.client_id)
        if caller is None or caller.organization != state.organization:
            everything = state.events if kind is Kind.EVENT else last
            return self._withheld(state, kind, (first, everything), CLIENT_INACTIVE)
        with self._store.database.read() as connection:
            resource = self._versions.get(connection, [state.version_pk])[state.version_pk].json()
            accepted = terms.stored(resource, self._channels)
            if accepted is None:
                return self._withheld(state, kind, (first, last), ENDPOINT_REFUSED)
            if kind is Kind.HANDSHAKE and not topics.is_published(state.topic):
                detail = _detail(state, kind, (first, last), state.origin)
                accesses = _accesses(state, kind, detail, (), ())
                return Message(
                    kind, state.subscription_id, first, last, caller, accesses, detail, accepted.channel,
                    accepted.address, activates=True,
                )  # fmt: skip
            if kind is not Kind.EVENT:
                return self._message(state, kind, numbers, caller, accepted, now)
            rows = outbox.events_between(connection, state.subscription_id, first, last, limit=terms.MAX_COUNT_MAX)
            set_aside = aside.numbers(connection, state.subscription_id, first, last)
        bare = [row for row in rows if row.number in set_aside]
        found = self._apart(caller, [row for row in rows if row.number not in set_aside], state)
        if found.faults:
            raise Unmade(kind, numbers, next(iter(found.faults.values())), found.faults)
        if not found.told and not (bare and topics.is_published(state.topic)):
            why = SET_ASIDE if bare else RIGHTS_LOST if rows else NOT_KEPT
            return self._withheld(state, kind, numbers, why, bare or found.withheld)
        try:
            return self._message(state, kind, numbers, caller, accepted, now, found=found, bare=bare)
        except Exception as fault:
            if not items.is_its_own(fault) or not topics.is_published(state.topic):
                raise
            self._message(state, kind, numbers, caller, accepted, now, bare=rows)  # raises: it is no event's fault
            faults = {row.number: fault for row in rows if not self.can_make(state, row)}
            raise Unmade(kind, numbers, fault, faults) from fault

    def can_make(self, state: State, row: EventRow) -> bool:
        """Whether this event of a subscription can be composed; so it is if the subscriber may not see it any more."""
        caller = self._caller_of(state.client_id)
        if caller is None:
            return True
        found = self._apart(caller, [row], state)
        try:
            for _, event in found.told:
                self._bundle(state, Kind.EVENT, [event], of_microseconds(row.occurred_at))
        except Exception as fault:
            if not items.is_its_own(fault):
                raise
            return False
        return not found.faults

    def _apart(self, caller: Caller, rows: Sequence[EventRow], state: State) -> Found:
        """`events`, where an error of the database spoils one event alone."""
        asked = {"topic": state.topic, "content": state.content}
        try:
            with self._store.database.read() as connection:
                return self.events(connection, caller, rows, **asked)
        except Exception as fault:
            if not items.is_its_own(fault):
                raise
            if len(rows) == 1:
                return Found(faults={rows[0].number: fault})
        each = [self._apart(caller, [row], state) for row in rows]
        return Found(
            [one for found in each for one in found.told],
            [row for found in each for row in found.withheld],
            {number: fault for found in each for number, fault in found.faults.items()},
            {number: grants for found in each for number, grants in found.under.items()},
        )

    def events(
        self, connection: Connection, caller: Caller, rows: Sequence[EventRow], *, topic: str, content: str
    ) -> Found:
        """These events as the caller may see them today. An error of the database ends it: the transaction is lost."""
        versions = self._versions.get(connection, [row.version_pk for row in rows])
        found = Found()
        for row in rows:
            version = versions.get(row.version_pk)
            try:
                if version is None or not self._versions.visible(connection, caller, version):
                    found.withheld.append(row)
                    continue
                event = self.event(connection, caller, row, version, topic=topic, content=content)
                if caller.grants:
                    found.under[row.number] = caller.under(audiences_of(connection, [version.pk]))
                version.json()  # what is never looked at is not told either
            except Exception as fault:
                if not items.is_its_own(fault, shared=True):
                    raise
                found.faults[row.number] = fault
            else:
                found.told.append(((row, version), event))
        return found

    def event(
        self, connection: Connection, caller: Caller, row: EventRow, version: Version, *, topic: str, content: str
    ) -> Event:
        """One event as `caller` may see it, with what goes along."""
        full = content == "full-resource"
        context: tuple[Notified, ...] = ()
        published = topics.by_url(topic)
        if content != "empty" and published is not None:
            context = tuple(
                _notified(found, full=full)
                for found in self._versions.current(connection, published.references(version.json()))
                if self._versions.visible(connection, caller, found)
            )
        return Event(row.number, of_microseconds(row.occurred_at), _notified(version, full=full), context)

    def _message(
        self,
        state: State,
        kind: Kind,
        numbers: tuple[int, int],
        caller: Caller,
        accepted: Terms,
        now: datetime,
        *,
        found: Found | None = None,
        bare: Sequence[EventRow] = (),
    ) -> Message:
        """`bare`: the events that cannot be composed."""
        found = found or Found()
        allowed, events = [pair for pair, _ in found.told], [event for _, event in found.told]
        resource: str | None = None
        if topics.is_published(state.topic):
            told = sorted([*events, *map(_bare, bare)], key=lambda event: event.number)
            body = self._bundle(state, kind, told, now)
        elif not accepted.mime_type:
            body = b""
        else:
            ((_, version),) = allowed
            resource, body = version.reference, version.content
        identifier = (
            signature.message_id(state.subscription_id, *numbers)
            if kind is Kind.EVENT
            else f"sub/{state.subscription_id}/{kind}/{microseconds(now)}"
        )
        notice = Notice(
            identifier, now, self._keyring.secrets(state.subscription_id, state.client_id, now),
            tuple(self._opened(accepted, state)), accepted.mime_type, body, resource,
        )  # fmt: skip
        detail = _detail(state, kind, numbers, accepted.address.origin)
        accesses = (
            *_accesses(state, kind, detail, allowed, events, found.under),
            *_withheld_accesses(state, detail, found.withheld),
            *_withheld_accesses(state, detail, bare, SET_ASIDE),
        )
        return Message(
            kind, state.subscription_id, *numbers, caller, accesses, detail, accepted.channel, accepted.address, notice,
            signed=tuple(version.reference for _, version in allowed if _is_signed(version)),
        )  # fmt: skip

    def _bundle(self, state: State, kind: Kind, events: Sequence[Event], now: datetime) -> bytes:
        status = Status(state.subscription_id, state.topic, state.status, state.events)
        return jsontext.dump(
            notifications.bundle(kind, status, events, content=state.content, base_url=self._base_url, at=now)
        )

    def _opened(self, accepted: Terms, state: State) -> list[tuple[str, str]]:
        opened = []
        for name, value in accepted.headers:
            plain = self._keyring.open(value, state.subscription_id, state.client_id)
            if plain is not None:
                opened.append((name, plain))
        return opened

    def _withheld(
        self, state: State, kind: Kind, numbers: tuple[int, int], why: str, rows: Sequence[EventRow] = ()
    ) -> Message:
        """Nothing is sent: to the record goes what was held back, under the subscriber's name."""
        recipient = Caller(state.client_id, state.organization)
        detail = _detail(state, kind, numbers, state.origin)
        accesses = _withheld_accesses(state, detail, rows, SET_ASIDE if why == SET_ASIDE else RIGHTS_LOST) or (
            Access(
                Interaction.NOTIFY, "Subscription", state.subscription_id, owner=state.organization, detail=detail,
                outcome=Outcome.SERIOUS, reason=f"suppressed: {why}",
            ),
        )  # fmt: skip
        return Message(kind, state.subscription_id, *numbers, recipient, accesses, detail, withheld=why)


def _bare(row: EventRow) -> Event:
    return Event(row.number, of_microseconds(row.occurred_at), None)


def _is_signed(version: Version) -> bool:
    return version.type == "DiagnosticReport" and version.json().get("status") in SIGNED


def due_kind(state: State, now: datetime) -> Kind | None:
    """What a leased subscription is due for. Events go before a heartbeat: they say more."""
    at = microseconds(now)
    if state.status == "requested":
        return Kind.HANDSHAKE
    if state.status != "active":
        return None
    if state.events > state.delivered and (state.retry_at is None or state.retry_at <= at):
        return Kind.EVENT
    if state.heartbeat_at is not None and state.heartbeat_at <= at:
        return Kind.HEARTBEAT
    return None


def _numbers(state: State, kind: Kind) -> tuple[int, int]:
    if kind is not Kind.EVENT:
        return state.events, state.events
    first = state.delivered + 1
    return first, state.batch_last or min(state.events, state.delivered + state.max_count)


def _notified(version: Version, *, full: bool) -> Notified:
    return Notified(
        version.reference, version.version, version.method, version.last_updated,
        version.json() if full else None, version.patients,
    )  # fmt: skip


def _detail(state: State, kind: Kind, numbers: tuple[int, int], origin: str) -> tuple[tuple[str, str], ...]:
    return (
        ("subscription", state.subscription_id),
        ("notification", str(kind)),
        ("events", f"{numbers[0]}-{numbers[1]}"),
        ("content", state.content),
        ("endpoint", origin),
    )


def _accesses(
    state: State,
    kind: Kind,
    detail: tuple[tuple[str, str], ...],
    allowed: Sequence[tuple[EventRow, Version]],
    events: Sequence[Event],
    under: Mapping[int, tuple[tuple[str, str], ...]] = MappingProxyType({}),
) -> tuple[Access, ...]:
    """One record per focus with what goes along; its patients where content leaves (a disclosure), not an id."""
    if kind is not Kind.EVENT:
        return (
            Access(Interaction.NOTIFY, "Subscription", state.subscription_id, owner=state.organization, detail=detail),
        )
    return tuple(
        Access(
            Interaction.NOTIFY, version.type, version.id, version.version, patients=event.disclosed_patients(),
            owner=version.owner, detail=(*detail, *under.get(row.number, ())), context=event.disclosed_context(),
        )
        for (row, version), event in zip(allowed, events, strict=True)
    )  # fmt: skip


def _withheld_accesses(
    state: State, detail: tuple[tuple[str, str], ...], rows: Sequence[EventRow], why: str = RIGHTS_LOST
) -> tuple[Access, ...]:
    return tuple(
        Access(
            Interaction.NOTIFY,
            row.resource_type,
            row.resource_id,
            row.version,
            owner=state.organization,
            detail=detail,
            outcome=Outcome.SERIOUS,
            reason=f"suppressed: {why}",
        )
        for row in rows
    )
