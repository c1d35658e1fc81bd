"""What tests of every package share: a clock, ids, callers, and the plainest real Permit and Trail.

`OpenPermit` lets every client do everything within its organisation; `MemoryTrail` keeps the accesses in lists.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection

from audit.entry import split
from resources.json import Json
from resources.outcomes import Forbidden
from store.access import EVERYONE, Access, Audience, Caller, Draft, Interaction, Outcome, Shelf, Visibility
from store.unit_of_work import Store, UnitOfWork

if TYPE_CHECKING:
    from dicomweb.service import Imaging

PLATFORM = "platform"
BASE_URL = "http://localhost:8080/fhir"
DIRECTORY = frozenset({"Organization", "Practitioner", "PractitionerRole", "Location", "HealthcareService"})


class Clock:
    """Time that passes only when told to."""

    def __init__(self, now: datetime = datetime(2026, 6, 1, 8, 0, tzinfo=UTC)) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **by: float) -> datetime:
        """Let `timedelta(**by)` pass (negative: set the clock back)."""
        self.now += timedelta(**by)
        return self.now


class Ids:
    """Ids in order: …-000000000001, …-000000000002."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0

    def __call__(self) -> str:
        with self._lock:
            self._last += 1
            return f"00000000-0000-4000-8000-{self._last:012d}"


def caller(organization: str = "hospital-a", **more: Any) -> Caller:
    """A client of an organisation, named after it."""
    return Caller(
        more.pop("client_id", f"client-of-{organization}"),
        organization,
        more.pop("scopes", frozenset({"system/*.cruds"})),
        **more,
    )


class OpenPermit:
    """Everything within the organisation. `visible`, `audiences` and `forbidden` override it for one test."""

    def __init__(self) -> None:
        self.visible: dict[tuple[str, str], Visibility] = {}
        """(organization, type) → what it sees."""
        self.audiences: dict[str, Audience] = {}
        """type → owner and audience of what is written."""
        self.forbidden: set[tuple[str, str]] = set()
        """(organization, type): no scope covers it."""

    def visibility(self, caller: Caller, interaction: Interaction, type_name: str) -> Visibility:
        if (caller.organization, type_name) in self.forbidden:
            raise Forbidden(f"No scope covers {interaction} of {type_name}")
        if caller.is_system:
            return Visibility(None)
        return self.visible.get(
            (caller.organization, type_name), Visibility(frozenset({caller.organization, EVERYONE}))
        )

    def authorise_write(self, uow: UnitOfWork, caller: Caller, draft: Draft) -> None:
        if (caller.organization, draft.type) in self.forbidden:
            raise Forbidden(f"No scope covers {draft.interaction} of {draft.type}")

    def audience(self, uow: UnitOfWork, caller: Caller, draft: Draft) -> Audience:
        if draft.type in self.audiences:
            return self.audiences[draft.type]
        if draft.type in DIRECTORY:
            return Audience(caller.organization, frozenset({EVERYONE}))
        return Audience(caller.organization, frozenset({caller.organization, PLATFORM}))


class MemoryTrail:
    """Keeps the accesses. `failure`, when set, is raised instead."""

    shelf: Shelf | None = None

    def __init__(self) -> None:
        self.appended: list[Access] = []
        """Inside a transaction: of writes. Also those of a transaction that failed to commit afterwards."""
        self.disclosed: list[Access] = []
        """Durable before the answer: reads and failures."""
        self.callers: list[Caller] = []
        self.failure: Exception | None = None
        self._of_transactions: dict[tuple[str, str], tuple[Caller, Access]] = {}
        self._of_reads: list[tuple[Caller, Access]] = []

    def written(self) -> list[tuple[Caller, Access]]:
        """Everything since the beginning; what a transaction wrote that was tried again, once."""
        return [*self._of_transactions.values(), *self._of_reads]

    def append(self, connection: Connection, caller: Caller, accesses: Sequence[Access], at: datetime) -> None:
        if self.failure:
            raise self.failure
        self.appended += accesses
        self._of_transactions |= {(caller.request_id, str(access)): (caller, access) for access in accesses}
        self.callers += [caller] * len(accesses)

    def disclose(self, caller: Caller, accesses: Sequence[Access], at: datetime) -> None:
        if self.failure:
            raise self.failure
        self.disclosed += accesses
        self._of_reads += [(caller, access) for access in accesses]
        self.callers += [caller] * len(accesses)

    def clear(self) -> None:
        self.appended.clear()
        self.disclosed.clear()
        self.callers.clear()


def patient(family: str = "Martin", **more: Any) -> Json:
    return {"resourceType": "Patient", "name": [{"family": family}], **more}


def service_request(subject: str, *, status: str = "active", authored: str | None = None, **more: Any) -> Json:
    """An order for a CT of the head."""
    body: Json = {
        "resourceType": "ServiceRequest",
        "status": status,
        "intent": "order",
        "priority": more.pop("priority", "stat"),
        "code": {"coding": [{"system": "http://loinc.org", "code": "24725-4", "display": "CT Head"}]},
        "subject": {"reference": subject},
    }
    if authored is not None:
        body["authoredOn"] = authored
    return {**body, **more}


def access_of(entry: str) -> tuple[str, Access]:
    """The request id and the access of an entry of the ledger (`audit.entry`)."""
    record = split(entry)
    head, particulars = record.head["access"], record.particulars
    access = Access(
        Interaction(head["interaction"]),
        **{name: head.get(name) for name in ("type", "id", "version", "owner")},
        patients=record.patients,
        query=particulars.get("query"),
        detail=tuple((name, value) for name, value in particulars.get("detail", ())),
        outcome=Outcome(head.get("outcome", Outcome.SUCCESS)),
        reason=particulars.get("reason"),
        derived=head.get("derived", False),
        context=tuple(particulars.get("context", ())),
    )
    return record.head["caller"].get("request_id", ""), access


def settled(imaging: Imaging, store: Store) -> None:
    """Let the worker publish what waits, as it does within a second of quiet: time passes where a test tells it to."""
    (loop,) = imaging.loops
    for _ in range(1000):
        if loop.step():
            continue
        if loop.rest_s >= 60:
            return
        if isinstance(store.now, Clock):
            store.now.advance(seconds=loop.rest_s)
        else:
            time.sleep(loop.rest_s)
    raise AssertionError("the publisher does not come to rest")
