"""The spine: no access without permission, none without a record.

Leaving a unit of work commits the change, its index rows, what observers add to it and its audit records together.
Leaving by an exception rolls back; the failed intent is recorded where the answer leaves (`Store.settle`), or at once
for a caller without a `Recording`. A read's record is durable before `work` is left, so build the answer after leaving.
There is no second door (DESIGN §3).

Never hold a unit of work open while streaming, and do nothing slow inside: on SQLite every other writer waits.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from typing import Any, Literal, TypeVar

from sqlalchemy import Connection

from resources.outcomes import Conflict, FhirError, Forbidden, Issue, NotFound, Unavailable
from resources.registry import is_type
from resources.times import microseconds, of_microseconds, utc_now
from store.access import (
    Access,
    Caller,
    Change,
    Draft,
    Interaction,
    Observer,
    Outcome,
    Permit,
    Reads,
    Recording,
    Shelf,
    Trail,
    Version,
    outcome_of_status,
)
from store.engine.database import Database
from store.engine.faults import Outside, is_race, translated
from store.engine.ids import random_id
from store.engine.keyring import Keys
from store.engine.locks import lock
from store.policies import Policies
from store.repository import Repository, current, seen
from store.search.limits import Deadline
from store.search.pages import PageSeal
from store.search.planning import Estimates
from store.versions import snapshots
from store.versions.audiences import Audiences
from store.versions.integrity import Integrity
from store.versions.queries import IndexBuffer
from store.versions.snapshots import Snapshot
from store.versions.standing import Standing

T = TypeVar("T")

ATTEMPTS = 6
"""How often `transact` tries before it answers 409."""
RETRY_PAUSE_S = 0.02
"""Mean of the first pause; it doubles, and is drawn at random so that two losers do not meet again."""
OUTSIDE = 20
"""How often `transact` leaves the transaction to do something slow beside it."""
MAX_CHANGES = 5000
"""Changes of one unit of work, derived ones included: beyond it observers call one another in a circle."""


class UnitOfWork:
    """One transaction of one caller."""

    def __init__(
        self,
        store: Store,
        caller: Caller,
        connection: Connection,
        *,
        write: bool,
        intent: Access | None,
        drawn: list[str] | None = None,
    ) -> None:
        """`drawn`: ids that an attempt before this one has drawn; they are given again, in their order."""
        self.store = store
        self.caller = caller
        self.connection = connection
        self.write = write
        self.intent = intent
        self.attempted: Access | None = None
        """What was last tried: recorded as failed where no intent was given."""
        self.accesses: list[Access] = []
        self._drawn = [] if drawn is None else drawn
        self._given = 0
        self.warnings: list[Issue] = []
        """What the caller is to be told beside the answer to a write that is carried out."""
        self._snapshot: Snapshot | None = None
        self.tx: int | None = None
        """The number of this transaction in the order of all; None in a read."""
        if write:
            now_us = microseconds(store.now()) // 1000 * 1000
            self.tx, at_us = snapshots.begin_tx(connection, now_us, store.epoch(connection))
            self.now = of_microseconds(at_us)
        else:
            self.now = store.now()
        self._changed = 0
        self.resources = Repository(self, caller)
        """What the caller does: permitted, recorded."""

    # What only writes need is made by the first of them.

    @cached_property
    def buffer(self) -> IndexBuffer:
        """Index rows that are still to be written."""
        return IndexBuffer()

    @cached_property
    def changes(self) -> deque[Change]:
        """What the observers have not been told yet."""
        return deque()

    @cached_property
    def fresh_audiences(self) -> set[int]:
        """Numbers of audiences that are new in this transaction."""
        return set()

    @cached_property
    def integrity(self) -> Integrity:
        """The references that this unit of work made and broke."""
        return Integrity(self.connection, self.caller, lenient=self.store.lenient)

    @cached_property
    def system(self) -> Repository:
        """What the server does on the caller's behalf: no permit is asked, each write is recorded as derived."""
        return self.acting_for(self.store.platform)

    def acting_for(self, organization: str) -> Repository:
        """As `system`, and what is created belongs to `organization`."""
        return Repository(self, Caller.system(organization, self.caller), derived=True)

    @cached_property
    def deadline(self) -> Deadline:
        """The time that the caller's searches in this unit of work may take together."""
        return Deadline.of()

    @property
    def policies(self) -> Policies:
        """What was decided by policy."""
        return self.store.policies

    @property
    def new_id(self) -> Callable[[], str]:
        """Draws a logical id."""
        return self._draw

    def _draw(self) -> str:
        if self._given == len(self._drawn):
            self._drawn.append(self.store.new_id())
        self._given += 1
        return self._drawn[self._given - 1]

    @property
    def platform(self) -> str:
        """Logical id of the platform's Organization."""
        return self.store.platform

    @property
    def base_urls(self) -> tuple[str, ...]:
        """FHIR bases of this server."""
        return self.store.base_urls

    def register_audience(self, organizations: frozenset[str]) -> int:
        """The number by which tables name this set of organisations; written in this transaction if it is new."""
        return self.store.audiences.register(self.connection, organizations, self.fresh_audiences)

    def warn(self, issue: Issue) -> None:
        """Tell the caller of `issue` (severity warning) beside the answer; once."""
        if issue not in self.warnings:
            self.warnings.append(issue)

    def note(self, access: Access) -> None:
        """Record what was done beside the repository, e.g. an operation or a DICOMweb access."""
        self.accesses.append(access)

    def note_as_one(self, accesses: Sequence[Access]) -> None:
        """Record these accesses instead of what was noted until now: an operation is one access, whatever it read."""
        self.accesses[:] = accesses

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
    def unsettled(self) -> tuple[int, tuple[int, ...]]:
        """Transactions that have not ended, this one included: those with this number and later, and these earlier."""
        if self.tx is not None and self.store.database.is_sqlite:
            return self.tx, ()
        snapshot = snapshots.current(self.connection, self.store.epoch(self.connection))
        return snapshot.xmax, snapshot.in_progress

    def flush(self) -> None:
        """Write buffered index rows, so that a search sees this transaction's own versions."""
        if self.write:
            self.buffer.flush(self.connection)

    def prepare(self, draft: Draft) -> None:
        """Have every observer complete or refuse a draft."""
        for observer in self.store.observers:
            observer.prepare(self, draft)

    def changed(self, change: Change) -> None:
        """Note a change for the observers."""
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


class Store:
    """The one door to the data. Assembled once per process by `fhir_server.server.services`."""

    def __init__(
        self,
        database: Database,
        *,
        permit: Permit,
        trail: Trail,
        observers: Sequence[Observer] = (),
        clock: Callable[[], datetime] = utc_now,
        ids: Callable[[], str] = random_id,
        platform: str,
        base_urls: Sequence[str] = (),
        references: Literal["strict", "lenient"] = "strict",
        keys: Keys,
    ) -> None:
        """`platform`: Organization id of the teleradiology platform. `keys`: page tokens are sealed with."""
        self.database = database
        self.permit = permit
        self.trail = trail
        self.observers: list[Observer] = list(observers)
        self.now = clock
        self.new_id = ids
        self.platform = platform
        self.base_urls = tuple(base_urls)
        self.lenient = references == "lenient"
        self.pages = PageSeal(keys)
        self.audiences = Audiences()
        self.estimates = Estimates()
        self.standing = Standing()
        self.policies = Policies()
        self.reads: Reads | None = None
        """Who learns of reads."""
        self._epoch: int | None = None

    def shelf(self, type_name: str | None) -> Shelf | None:
        """Where the resources of a type are, if they are no versions of this store."""
        found = self.trail.shelf
        return found if found is not None and found.type == type_name else None

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

    def see(self, caller: Caller, type_name: str, id: str) -> tuple[Version, list[Any]] | None:
        """The current version of a resource, where to read it is one select, and the record that is owed for it.

        Whoever asks makes that durable (`Trail.owed`) before he discloses anything. None where it takes more to answer
        (there is none, it is deleted or another's, the scope is constrained or gives nothing, the type lies elsewhere):
        then nothing is owed, and the caller asks by `look`, which says it all. Raises Unavailable, and what the driver
        raises.
        """
        if not is_type(type_name) or self.shelf(type_name) is not None:
            return None
        try:
            visible = self.permit.visibility(caller, Interaction.READ, type_name)
        except Forbidden:
            return None
        if visible.constraints or caller.grants:
            return None
        with self.database.glance() as connection:
            version = current(connection, self.audiences, visible, type_name, id)
        if version is None or version.deleted:
            return None
        if self.reads is not None and self.reads.is_news(caller, type_name, id, version.version):
            return None
        return version, self.trail.owed(caller, (seen(Interaction.READ, version),), self.now())

    def transact(self, caller: Caller, function: Callable[[UnitOfWork], T], *, intent: Access | None = None) -> T:
        """Run `function` in a write unit of work, again where another transaction won; after that a 409.

        `function` may run several times: it must not alter what it was given. What raises `Outside` is given up, its
        work is done while no transaction is open, and it runs again, with the same ids for what it creates.
        """
        attempt = outside = 0
        drawn: list[str] = []
        while True:
            opened: list[UnitOfWork] = []
            try:
                with self._transaction(caller, True, intent, opened, drawn) as uow:
                    result = function(uow)
            except Exception as error:
                cause = error
                if isinstance(error, Outside) and outside < OUTSIDE:
                    outside += 1
                    try:
                        error.work()
                        continue
                    except Exception as failed:  # noqa: BLE001 - told as what the unit of work failed by
                        cause = failed
                elif is_race(error) and attempt + 1 < ATTEMPTS:
                    time.sleep(random.uniform(0, 2 * RETRY_PAUSE_S * 2**attempt))  # noqa: S311 - jitter
                    attempt += 1
                    drawn = []  # perhaps it was an id that lost
                    continue
                fault = self._failed(cause, caller, intent, opened)
                if fault is error:
                    raise
                raise fault from cause
            _mark(uow)
            return result

    def epoch(self, connection: Connection) -> int:
        """What is added to the database's transaction ids."""
        if self.database.is_sqlite:
            return 0
        if self._epoch is None:
            self._epoch = snapshots.epoch(connection)
        return self._epoch

    def record_failure(self, caller: Caller, intent: Access | None, fault: Exception) -> None:
        """Record that `intent` failed by `fault`: when the answer leaves, else durably now. Raises Unavailable."""
        access = intent or Access(Interaction.OPERATION)
        recording = caller.recording
        if recording is not None and not recording.is_recorded:
            recording.failed(access, fault)
            return
        self.trail.disclose(
            caller, [replace(access, outcome=outcome_of(fault), reason=reason_of(fault))], self.now()
        )

    def settle(self, recording: Recording, status: int) -> None:
        """Record an access that nobody has recorded yet, as the final `status` of its answer says; once.

        Called before the answer leaves. Raises Unavailable: then nothing may be disclosed.
        """
        if recording.is_recorded or recording.is_lost or (recording.is_covered and status < 400):
            return
        accesses = recording.accesses or (Access(Interaction.OPERATION, query=recording.request),)
        if status >= 400:
            if recording.failure is not None:
                accesses = (recording.failure,)
            outcome, reason = _told(recording, status)
            accesses = tuple(replace(access, outcome=outcome, reason=reason) for access in accesses)
        self.trail.disclose(recording.caller or NOBODY, accesses, self.now())
        recording.is_recorded = True
        if status < 400 and recording.then is not None:
            recording.then()

    def _failed(
        self, error: Exception, caller: Caller, intent: Access | None, opened: Sequence[UnitOfWork]
    ) -> Exception:
        """Record that a unit of work failed; what the caller is told of it."""
        fault = translated(error)
        self.record_failure(caller, intent or (opened[0].attempted if opened else None), fault)
        return fault

    @contextmanager
    def _transaction(
        self,
        caller: Caller,
        write: bool,
        intent: Access | None,
        opened: list[UnitOfWork],
        drawn: list[str] | None = None,
    ) -> Iterator[UnitOfWork]:
        opening = self.database.write if write else self.database.read
        with opening() as connection:
            uow = UnitOfWork(self, caller, connection, write=write, intent=intent, drawn=drawn)
            opened.append(uow)
            yield uow
            if write:
                uow.complete()
        if write:
            self.audiences.committed(uow.fresh_audiences)

    def _disclose(self, uow: UnitOfWork) -> None:
        if not uow.write and uow.accesses:
            try:
                self.trail.disclose(uow.caller, uow.accesses, uow.now)
            except Unavailable:
                if uow.caller.recording is not None:
                    uow.caller.recording.is_lost = True
                raise
            if self.reads is not None:
                self.reads.read(self, uow.caller, uow.accesses)
        _mark(uow)


NOBODY = Caller("", "")
"""Who asked, where nothing is known of him."""


def _mark(uow: UnitOfWork) -> None:
    """What the unit of work did is on record. What only the server did of its own accord is not the access."""
    recording = uow.caller.recording
    if recording is not None and not all(access.derived for access in uow.accesses):
        recording.is_recorded = True


def _told(recording: Recording, status: int) -> tuple[Outcome, str]:
    """Outcome and reason of an answer that is no success; the fault says more than the status, if they agree."""
    fault = recording.fault
    if isinstance(fault, FhirError) and fault.status == status:
        return outcome_of(fault), reason_of(fault)
    if fault is not None and status >= 500:
        return outcome_of_status(status), reason_of(fault)
    return outcome_of_status(status), recording.reason or str(status)


def outcome_of(fault: BaseException) -> Outcome:
    """AuditEvent.outcome of a failure: as its status says, but 8 where a 404 hides what is another organisation's."""
    if isinstance(fault, NotFound) and fault.foreign:
        return Outcome.SERIOUS
    return outcome_of_status(fault.status if isinstance(fault, FhirError) else 500)


def reason_of(fault: BaseException) -> str:
    """A fault without the caller's data: the kind, the status and the issue code."""
    if isinstance(fault, NotFound) and fault.foreign:
        return "404 not-found (another organisation's)"
    if isinstance(fault, FhirError):
        return f"{fault.status} {fault.issues[0].code}"
    return type(fault).__name__


__all__ = ["Conflict", "Store", "UnitOfWork", "outcome_of"]
