"""The dispatcher: lease what is due, send it, settle it. Handshakes, events and heartbeats.

    lease ──► compose (rights asked again) ──► audit, durable ──► POST ──► settle
      ▲                                                                   │ delivered: the next batch
      └────────────── retry ladder, breaker, or error ◄───────────────────┘

One request in flight per subscription, so events arrive in order. A crash anywhere leaves a lease that runs out, or is
ended once its process is seen to be gone, and a batch whose numbers are fixed: the same notification goes out again
under the same webhook-id. Healthy and failing endpoints have threads of their own, so that one that hangs delays nobody
else.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import structlog
from sqlalchemy import Connection

from resources.outcomes import Unavailable
from resources.times import microseconds, of_microseconds
from store import items
from store.access import Access, Caller, Interaction, Outcome, Trail, Work
from store.engine.faults import LostRace, is_race
from store.unit_of_work import Store
from store.versions.audiences import audience_of
from subscriptions import aside, leases, outbox, schedule
from subscriptions.channels.port import Answer, Channels
from subscriptions.composition import ENDPOINT_REFUSED, Composer, Message, Unmade
from subscriptions.leases import Attempt, Lease
from subscriptions.notifications import Kind
from subscriptions.outbox import State
from subscriptions.senders import Threads
from subscriptions.statuses import server_for, write_status

NAME = "subscription-dispatcher"
PER_ORIGIN = 4
"""Requests in flight per origin and process."""
HEALTHY_THREADS = 32
FAILING_THREADS = 8
IN_SUCCESSION = 50
"""Notifications of one subscription that a thread sends before it lets others go first."""
SETTLE_ATTEMPTS = 5
AGAIN_S = 0.2
"""After so long it is seen again whether what is due can be sent."""
LOOK_INTERVAL_S = 1.0
"""Between two looks for leases whose process has died."""
RECORD_PAUSE = timedelta(seconds=1)
CHANNEL_FAILED = "the channel failed"
UNMADE = "A notification could not be composed"
"""Subscription.error."""

log = structlog.get_logger("vigie.subscriptions")


OnDelivered = Callable[[Work, str], None]
"""(unit of work of the server, ``DiagnosticReport/id``): the endpoint of another organisation than the platform has
accepted a notification of this signed report. May be told again."""


def _is_for(uow: Work, recipient: Caller, reference: str) -> bool:
    """Whether the recipient is the hospital that a report is for, or acts for it: not who only was shown the case."""
    version = uow.system.read(*reference.split("/", 1))
    members = audience_of(uow.connection, version.pk)
    return any(name in members for name in recipient.names("r") if not name.startswith("grant:"))


class Dispatcher:
    """Sends what the sequencer numbered."""

    def __init__(
        self,
        store: Store,
        composer: Composer,
        channels: Channels,
        trail: Trail,
        clock: Callable[[], datetime],
        *,
        healthy_threads: int = HEALTHY_THREADS,
        failing_threads: int = FAILING_THREADS,
        on_delivered: OnDelivered | None = None,
    ) -> None:
        self._store = store
        self._on_delivered = on_delivered
        self._database = store.database
        self._composer = composer
        self._channels = channels
        self._trail = trail
        self._clock = clock
        self._looked_at = -LOOK_INTERVAL_S
        self._next_due: int | None = None
        """What the last step saw to be due next (µs)."""
        self._threads = (
            Threads("deliver", healthy_threads, PER_ORIGIN, failing=False),
            Threads("deliver-failing", failing_threads, 1, failing=True),
        )

    def step(self) -> bool:
        """Hand what is due to the threads. Returns whether anything was."""
        handed = False
        self._end_leases_of_the_dead()
        with self._database.glance() as connection:
            self._next_due = leases.next_due(connection)
        if self._next_due is None or self._next_due > microseconds(self._clock()):
            return False
        for threads in self._threads:
            for held in self.lease(threads):
                threads.submit(held, self._work)
                handed = True
        return handed

    def due_in_s(self) -> float:
        """In how many seconds there may be something to send, as the last step saw it.

        What is due and is not taken waits for a thread or an endpoint, here or in another process.
        """
        if self._next_due is None:
            return math.inf
        return max(AGAIN_S, (self._next_due - microseconds(self._clock())) / 1_000_000)

    def drain(self) -> None:
        """Wait until every request under way is settled (shutdown, tests)."""
        for threads in self._threads:
            threads.drain()

    def close(self) -> None:
        """Settle what is under way, then stop."""
        for threads in self._threads:
            threads.close()
        for channel in self._channels.values():
            channel.close()

    def lease(self, threads: Threads | None = None) -> list[Lease]:
        """Take what is due and may be sent now, by default to healthy endpoints."""
        threads = threads or self._threads[0]
        limit, lane = threads.free, threads.lane
        if limit <= 0:
            return []
        now = self._clock()
        with self._database.read() as connection:
            if not leases.is_due(connection, now, lane):
                return []
        with self._database.write() as connection:
            return leases.take(connection, now, token=leases.new_token(), limit=limit, lane=lane)

    def _end_leases_of_the_dead(self) -> None:
        """Now and then: whoever was killed with a request under way must not hold up its subscription, nor an instant
        that a wrong clock has set."""
        if time.monotonic() - self._looked_at < LOOK_INTERVAL_S:
            return
        self._looked_at = time.monotonic()
        now = self._clock()
        with self._database.glance() as connection:
            tokens = leases.of_the_dead(connection, now)
            wrong = leases.is_too_far(connection, now)
        if tokens:
            with self._database.write() as connection:
                leases.end(connection, tokens)
        if wrong:
            with self._database.write() as connection:
                count = leases.correct(connection, now)
            log.warning("instants of delivery that a wrong clock had set were corrected", count=count)

    def attempt(self, held: Lease) -> Lease | None:
        """Send what the lease is for, once, and settle it. Returns the lease for the next notification, if there is one
        at once."""
        try:
            message = self._composer.compose(held, self._clock())
        except Unmade as unmade:
            self._unmade(held, unmade)
            return None
        if message is None:  # nothing to say any more
            self._settled(held, lambda connection, current: self._release(connection, held, current))
            return None
        channel = self._channels.get(message.channel)
        if channel is None or message.address is None:
            self._withhold(held, message)
            return None
        if message.activates:
            self._activate(held, message, channel.refusal(message.address))
            return None
        if message.notice is None:
            self._withhold(held, message)
            return None
        with self._database.glance() as connection:
            if not leases.is_held(connection, held):
                return None
        started = time.monotonic()
        try:
            self._trail.disclose(message.recipient, message.accesses, self._clock())
        except Unavailable:
            self._postpone(held, message)
            return None
        if not held.may_send:
            log.warning("a lease was held too long to send under it", subscription=message.subscription)
            self._settled(held, lambda connection, current: self._release(connection, held, current))
            return None
        answer = Answer(False, CHANNEL_FAILED)
        with items.apart(NAME):  # a channel does not raise; if it does, that is a failure like any other
            answer = channel.send(message.address, message.notice, timeout_s=held.state.timeout_s)
        duration_ms = round((time.monotonic() - started) * 1000)
        if answer.accepted:
            self._tell_delivered(held, message)
            return self._delivered(held, message, answer, duration_ms)
        self._failed(held, message, answer, duration_ms)
        return None

    def _activate(self, held: Lease, message: Message, refusal: str | None) -> None:
        """R4 criteria: the server checks and activates, without a word to the endpoint (R4 Subscription.status)."""
        if refusal is not None:
            self._withhold(held, replace(message, withheld=refusal))
            return

        def settle(connection: Connection, current: State) -> None:
            self._release(connection, held, replace(current, status="active"))

        self._settled(held, settle, status="active")

    def _tell_delivered(self, held: Lease, message: Message) -> None:
        """Say that the hospital has these reports: before the delivery is settled, so that a crash in between repeats
        both rather than loses this. It may happen twice, and its failure is no failure of the delivery."""
        if self._on_delivered is None or held.state.organization == self._store.platform:
            return
        tell = self._on_delivered
        for reference in message.signed:

            def note(uow: Work, reference: str = reference) -> None:
                if _is_for(uow, message.recipient, reference):
                    tell(uow, reference)

            try:
                self._store.transact(Caller.system(self._store.platform), note)
            except Exception as fault:  # whatever it is, the hospital has the report
                log.error("a delivery could not be noted", subscription=message.subscription, exc_info=fault)

    def _work(self, held: Lease) -> None:
        following: Lease | None = held
        for _ in range(IN_SUCCESSION):
            if following is None:
                return
            following = self.attempt(following)
        if following is not None:
            last = following
            self._settled(last, lambda connection, current: self._release(connection, last, current))

    def _delivered(self, held: Lease, message: Message, answer: Answer, duration_ms: int) -> Lease | None:
        now = self._clock()
        following: list[Lease] = []

        def settle(connection: Connection, current: State) -> None:
            leases.endpoint_answered(connection, current.origin, now)
            leases.note_attempt(connection, _attempt(message, answer, duration_ms, "delivered", now))
            after = replace(current, heartbeat_at=_next_heartbeat(current, now))
            if message.kind is Kind.HANDSHAKE:
                after = replace(after, status="active")
            elif message.kind is Kind.EVENT:
                after = replace(
                    after, delivered=message.last, batch_last=None, attempts=0, first_attempt_at=None, retry_at=None
                )
                if after.events > after.delivered:
                    following.append(leases.keep(connection, held, after, now))
                    return
            leases.release(connection, after, now)

        self._settled(held, settle, status="active" if message.kind is Kind.HANDSHAKE else None)
        return following[0] if following else None

    def _failed(self, held: Lease, message: Message, answer: Answer, duration_ms: int) -> None:
        now = self._clock()
        reason = answer.reason
        log.warning("a notification failed", subscription=message.subscription, kind=str(message.kind), reason=reason)
        retry_at = _retry_at(held.state, message.kind, answer, now)
        ends = retry_at is None and message.kind is not Kind.HEARTBEAT

        def settle(connection: Connection, current: State) -> None:
            failures = leases.endpoint_failed(connection, current.origin)
            leases.set_breaker(connection, current.origin, schedule.breaker_open_until(failures, now))
            leases.note_attempt(connection, _attempt(message, answer, duration_ms, "failed", now))
            self._trail.append(connection, message.recipient, [_failure(message, reason)], now)
            if ends:
                outbox.halt(connection, current.subscription_id, status="error")
            elif message.kind is Kind.HEARTBEAT:
                leases.release(connection, replace(current, heartbeat_at=_next_heartbeat(current, now)), now)
            else:
                after = replace(current, attempts=current.attempts + 1, retry_at=_micros(retry_at))
                leases.release(connection, after, now)

        self._settled(held, settle, status="error" if ends else None, error=reason)

    def _withhold(self, held: Lease, message: Message) -> None:
        """The subscriber may not have it any more: nothing is sent, it counts as settled, and it is on record."""
        now = self._clock()
        ends = message.kind is Kind.HANDSHAKE or message.withheld == ENDPOINT_REFUSED

        def settle(connection: Connection, current: State) -> None:
            self._trail.append(connection, message.recipient, message.accesses, now)
            leases.note_attempt(connection, _attempt(message, Answer(False, message.withheld), 0, "suppressed", now))
            if ends:
                outbox.halt(connection, current.subscription_id, status="error")
                return
            after = replace(current, heartbeat_at=_next_heartbeat(current, now))
            if message.kind is Kind.EVENT:
                after = replace(
                    after, delivered=message.last, batch_last=None, attempts=0, first_attempt_at=None, retry_at=None
                )
            self._release(connection, held, after)

        self._settled(held, settle, status="error" if ends else None, error=message.withheld)

    def _unmade(self, held: Lease, unmade: Unmade) -> None:
        """Nothing can be sent: it is tried again, then the events to blame are set aside, or else it is an error."""
        items.tell(NAME, unmade.fault)
        now, id = self._clock(), held.state.subscription_id
        first, last = unmade.numbers
        with self._database.read() as connection:
            tried = aside.tries(connection, id, first, held.state.first_attempt_at)
        is_last = unmade.kind is Kind.HANDSHAKE or (unmade.kind is Kind.EVENT and tried >= len(schedule.UNMADE_S))
        ends = is_last and not unmade.faults
        fault = type(unmade.fault).__name__
        attempt = Attempt(id, str(unmade.kind), first, last, now, 0, None, aside.UNMADE, fault)

        def settle(connection: Connection, current: State) -> None:
            leases.note_attempt(connection, attempt)
            if ends:
                outbox.halt(connection, id, status="error")
                return
            if is_last:  # at once, with their numbers; what fails then has its own tries
                aside.put(connection, id, {number: type(one).__name__ for number, one in unmade.faults.items()}, now)
                after = replace(current, retry_at=None, first_attempt_at=microseconds(now) + 1)
            elif unmade.kind is Kind.EVENT:
                pause = timedelta(seconds=schedule.UNMADE_S[tried])
                after = replace(current, retry_at=microseconds(now + pause))
            else:
                after = replace(current, heartbeat_at=_next_heartbeat(current, now))
            self._release(connection, held, after)

        self._settled(held, settle, status="error" if ends else None, error=UNMADE)
        if is_last and not ends:
            log.error("an event cannot be composed: it is set aside", subscription=id, count=len(unmade.faults))

    def _postpone(self, held: Lease, message: Message) -> None:
        """No record, no disclosure: try again soon, without counting it against the endpoint."""
        log.error(
            "a notification could not be recorded, hence is not sent",
            subscription=message.subscription, kind=str(message.kind),
        )  # fmt: skip
        soon = microseconds(self._clock() + RECORD_PAUSE)

        def settle(connection: Connection, current: State) -> None:
            heartbeat_at = None if current.heartbeat_at is None else max(current.heartbeat_at, soon)
            self._release(connection, held, replace(current, retry_at=soon, heartbeat_at=heartbeat_at))

        self._settled(held, settle)

    def _release(self, connection: Connection, held: Lease, after: State) -> None:
        """Give the lease back without having asked the endpoint."""
        if held.failures:
            leases.set_breaker(connection, after.origin, None)
        leases.release(connection, after, self._clock())

    def _settled(
        self,
        held: Lease,
        function: Callable[[Connection, State], None],
        *,
        status: str | None = None,
        error: str | None = None,
    ) -> None:
        """Run `function` on the leased row if the lease is still ours; with `status`, also write the Subscription
        itself."""
        if status is not None:
            self._store.transact(
                server_for(held.state.organization), lambda uow: self._with_status(uow, held, function, status, error)
            )
            return
        for attempt in range(SETTLE_ATTEMPTS):
            try:
                with self._database.write() as connection:
                    current = leases.held_state(connection, held)
                    if current is not None:
                        function(connection, current)
            except Exception as fault:
                if attempt + 1 == SETTLE_ATTEMPTS or not is_race(fault):
                    raise
                time.sleep(random.uniform(0, 0.05))  # noqa: S311
            else:
                return

    @staticmethod
    def _with_status(
        uow: Work, held: Lease, function: Callable[[Connection, State], None], status: str, error: str | None
    ) -> None:
        # The Subscription first, then its delivery row: the order in which a client's write takes them.
        if not leases.is_held(uow.connection, held):
            return
        if not write_status(uow, held.state.subscription_id, status, error=error):
            return
        current = leases.held_state(uow.connection, held)
        if current is None:
            raise LostRace
        function(uow.connection, current)


def _retry_at(state: State, kind: Kind, answer: Answer, now: datetime) -> datetime | None:
    """When to try again; None: never, the subscription goes into error. A handshake has one chance (the IG's words)."""
    if kind is not Kind.EVENT or answer.gone:
        return None
    return schedule.next_attempt(
        state.attempts + 1,
        now,
        first_attempt_at=now if state.first_attempt_at is None else of_microseconds(state.first_attempt_at),
        share=random.random(),  # noqa: S311 - jitter
        retry_after_s=answer.retry_after_s,
    )


def _next_heartbeat(current: State, now: datetime) -> int | None:
    if not current.heartbeat_s:
        return None
    share = random.random()  # noqa: S311 - jitter
    return microseconds(schedule.next_heartbeat(current.heartbeat_s, now, share=share))


def _micros(at: datetime | None) -> int | None:
    return None if at is None else microseconds(at)


def _failure(message: Message, reason: str) -> Access:
    return Access(
        Interaction.NOTIFY, "Subscription", message.subscription, owner=message.recipient.organization,
        detail=message.detail, outcome=Outcome.MAJOR, reason=reason,
    )  # fmt: skip


def _attempt(message: Message, answer: Answer, duration_ms: int, result: str, now: datetime) -> Attempt:
    return Attempt(
        subscription_id=message.subscription, kind=str(message.kind), first_number=message.first,
        last_number=message.last, at=now, duration_ms=duration_ms, http_status=answer.status, result=result,
        fault=None if answer.accepted else answer.reason,
    )  # fmt: skip
