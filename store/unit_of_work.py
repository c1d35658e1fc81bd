"""The spine: no access without permission, none without a record.

Leaving a unit of work commits the change, its index rows, what observers add to it and its audit records together.
Leaving by an exception rolls back, and the failed intent is recorded in a transaction of its own. A read's record is
durable before `work` is left, so build the answer after leaving. There is no second door (DESIGN §3).

Never hold a unit of work open while streaming, and do nothing slow inside: on SQLite every other writer waits.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Literal, TypeVar

from sqlalchemy import Connection

from resources.outcomes import Conflict, FhirError, Forbidden, NotFound, Unauthenticated
from resources.times import microseconds, of_microseconds
from store.access import Access, Caller, Change, Draft, Interaction, Observer, Outcome, Permit, Trail
from store.engine.database import Database
from store.engine.faults import is_race, translated
from store.engine.ids import random_id
from store.engine.locks import lock
from store.repository import Repository
from store.search.pages import PageSeal
from store.search.planning import Estimates
from store.versions import snapshots
from store.versions.audiences import Audiences
from store.versions.integrity import Integrity
from store.versions.queries import IndexBuffer
from store.versions.snapshots import Snapshot

T = TypeVar("T")

ATTEMPTS = 6
"""How often `transact` tries before it answers 409."""
RETRY_PAUSE_S = 0.02
"""Mean of the first pause; it doubles, and is drawn at random so that two losers do not meet again."""
MAX_CHANGES = 5000
"""Changes of one unit of work, derived ones included: beyond it observers call one another in a circle."""


class UnitOfWork:
    """One transaction of one caller."""

    def __init__(
        self, store: Store, caller: Caller, connection: Connection, *, write: bool, intent: Access | None
    ) -> None:
        self.store = store
        self.caller = caller
        self.connection = connection
        self.write = write
        self.intent = intent
        self.attempted: Access | None = None
        """What was last tried: recorded as failed where no intent was given."""
        self.accesses: list[Access] = []
        self.buffer = IndexBuffer()
        self.changes: deque[Change] = deque()
        self.fresh_audiences: set[int] = set()
        self.integrity = Integrity(connection, caller, lenient=store.lenient)
        self._changed = 0
        self._snapshot: Snapshot | None = None
        self.tx: int | None = None
        """The number of this transaction in the order of all; None in a read."""
        if write:
            now_us = microseconds(store.now()) // 1000 * 1000
            self.tx, at_us = snapshots.begin_tx(connection, now_us, store.epoch(connection))
            self.now = of_microseconds(at_us)
        else:
            self.now = store.now()
        self.resources = Repository(self, caller)
        """What the caller does: permitted, recorded."""

    @cached_property
    def system(self) -> Repository:
        """What the server does on the caller's behalf: no permit is asked, each write is recorded as derived."""
        return self.acting_for(self.store.platform)

    def acting_for(self, organization: str) -> Repository:
        """As `system`, and what is created belongs to `organization`."""
        return Repository(self, Caller.system(organization, self.caller), derived=True)

    @property
    def new_id(self) -> Callable[[], str]:
        return self.store.new_id

    @property
    def platform(self) -> str:
        return self.store.platform

    @property
    def base_urls(self) -> tuple[str, ...]:
        return self.store.base_urls

    def register_audience(self, organizations: frozenset[str]) -> int:
        """The number by which tables name this set of organisations; written in this transaction if it is new."""
        return self.store.audiences.register(self.connection, organizations, self.fresh_audiences)

    def note(self, access: Access) -> None:
        """Record what was done beside the repository, e.g. an operation or a DICOMweb access."""
        self.accesses.append(access)

    def lock(self, key: str) -> None:
        """Hold `key` until the end of the transaction: others that ask for it wait. SQLite has one writer anyway."""
        lock(self.connection, key)

    @property
    def snapshot(self) -> Snapshot:
        """What this transaction sees, its own writes included."""
        if self.write:
            return snapshots.current(self.connection, self.store.epoch(self.connection)).including(self.tx)
        if self._snapshot is None:
            self._snapshot = snapshots.current(self.connection, self.store.epoch(self.connection))
        return self._snapshot

    @property
    def oldest_unsettled_tx(self) -> int:
        """The lowest number of a transaction that had not ended when this one looked; its own where it is alone."""
        snapshot = self.snapshot
        own = snapshot.xmax if self.tx is None else self.tx
        return min((own, *snapshot.in_progress))

    def flush(self) -> None:
        """Write buffered index rows, so that a search sees this transaction's own versions."""
        if self.write:
            self.buffer.flush(self.connection)

    def prepare(self, draft: Draft) -> None:
        for observer in self.store.observers:
            observer.prepare(self, draft)

    def changed(self, change: Change) -> None:
        self._changed += 1
        if self._changed > MAX_CHANGES:
            raise RuntimeError("The observers of this unit of work do not come to an end")
        self.changes.append(change)

    def complete(self) -> None:
        """Everything between the caller's last word and the commit."""
        while self.changes:
            change = self.changes.popleft()
            for observer in self.store.observers:
                observer.changed(self, change)
        self.flush()
        self.integrity.check()
        if self.accesses:
            self.store.trail.append(self.connection, self.caller, self.accesses, self.now)


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Store:
    """The one door to the data. Assembled once per process by `fhir_server.server.services`."""

    def __init__(
        self,
        database: Database,
        *,
        permit: Permit,
        trail: Trail,
        observers: Sequence[Observer] = (),
        clock: Callable[[], datetime] = _utc_now,
        ids: Callable[[], str] = random_id,
        platform: str,
        base_urls: Sequence[str] = (),
        references: Literal["strict", "lenient"] = "strict",
        page_key: bytes,
    ) -> None:
        """`platform`: Organization id of the teleradiology platform. `page_key`: secret that signs page tokens."""
        self.database = database
        self.permit = permit
        self.trail = trail
        self.observers: list[Observer] = list(observers)
        self.now = clock
        self.new_id = ids
        self.platform = platform
        self.base_urls = tuple(base_urls)
        self.lenient = references == "lenient"
        self.pages = PageSeal(page_key)
        self.audiences = Audiences()
        self.estimates = Estimates()
        self._epoch: int | None = None

    @contextmanager
    def work(self, caller: Caller, *, write: bool = True, intent: Access | None = None) -> Iterator[UnitOfWork]:
        """A unit of work of `caller`. `intent` says what to record if it fails; by default what was last tried."""
        opened: list[UnitOfWork] = []
        try:
            with self._transaction(caller, write, intent, opened) as uow:
                yield uow
        except Exception as error:
            fault = self._failed(error, caller, intent, opened)
            if fault is error:
                raise
            raise fault from error
        self._disclose(uow)

    def look(
        self, caller: Caller, function: Callable[[UnitOfWork], T], *, intent: Access | None = None, glance: bool = False
    ) -> T:
        """Run `function` in a read unit of work; what it gives is given once the record of it is durable.

        `glance`: it is the read of one resource, one select, which needs no transaction around it.
        """
        opened: list[UnitOfWork] = []
        opening = self.database.glance if glance else self.database.read
        try:
            with opening() as connection:
                uow = UnitOfWork(self, caller, connection, write=False, intent=intent)
                opened.append(uow)
                result = function(uow)
        except Exception as error:
            fault = self._failed(error, caller, intent, opened)
            if fault is error:
                raise
            raise fault from error
        self._disclose(uow)
        return result

    def transact(self, caller: Caller, function: Callable[[UnitOfWork], T], *, intent: Access | None = None) -> T:
        """Run `function` in a write unit of work, again where another transaction won; after that a 409.

        `function` may run several times: it must not alter what it was given.
        """
        for attempt in range(ATTEMPTS):
            opened: list[UnitOfWork] = []
            try:
                with self._transaction(caller, True, intent, opened) as uow:
                    result = function(uow)
            except Exception as error:
                if is_race(error) and attempt + 1 < ATTEMPTS:
                    time.sleep(random.uniform(0, 2 * RETRY_PAUSE_S * 2**attempt))  # noqa: S311 - jitter
                    continue
                fault = self._failed(error, caller, intent, opened)
                if fault is error:
                    raise
                raise fault from error
            return result
        raise AssertionError("unreachable")

    def epoch(self, connection: Connection) -> int:
        """What is added to the database's transaction ids."""
        if self.database.is_sqlite:
            return 0
        if self._epoch is None:
            self._epoch = snapshots.epoch(connection)
        return self._epoch

    def record_failure(self, caller: Caller, intent: Access | None, fault: Exception) -> None:
        """Record that `intent` failed by `fault`, durably. Raises Unavailable where it cannot."""
        access = intent or Access(Interaction.OPERATION)
        self.trail.disclose(
            caller, [replace(access, outcome=outcome_of(fault), reason=_reason(fault))], self.now()
        )

    def _failed(
        self, error: Exception, caller: Caller, intent: Access | None, opened: Sequence[UnitOfWork]
    ) -> Exception:
        """Record that a unit of work failed; what the caller is told of it."""
        fault = translated(error)
        self.record_failure(caller, intent or (opened[0].attempted if opened else None), fault)
        return fault

    @contextmanager
    def _transaction(
        self, caller: Caller, write: bool, intent: Access | None, opened: list[UnitOfWork]
    ) -> Iterator[UnitOfWork]:
        opening = self.database.write if write else self.database.read
        with opening() as connection:
            uow = UnitOfWork(self, caller, connection, write=write, intent=intent)
            opened.append(uow)
            yield uow
            if write:
                uow.complete()
        if write:
            self.audiences.committed(uow.fresh_audiences)

    def _disclose(self, uow: UnitOfWork) -> None:
        if not uow.write and uow.accesses:
            self.trail.disclose(uow.caller, uow.accesses, uow.now)


def outcome_of(fault: BaseException) -> Outcome:
    """AuditEvent.outcome of a failure: 8 a refusal for security, 4 another fault of the caller, 12 the server's."""
    if isinstance(fault, Unauthenticated | Forbidden) or (isinstance(fault, NotFound) and fault.foreign):
        return Outcome.SERIOUS
    if isinstance(fault, FhirError) and fault.status < 500:
        return Outcome.MINOR
    return Outcome.MAJOR


def _reason(fault: BaseException) -> str:
    """A fault without the caller's data: the kind, the status and the issue code."""
    if isinstance(fault, NotFound) and fault.foreign:
        return "404 not-found (another organisation's)"
    if isinstance(fault, FhirError):
        return f"{fault.status} {fault.issues[0].code}"
    return type(fault).__name__


__all__ = ["Conflict", "Store", "UnitOfWork", "outcome_of"]
