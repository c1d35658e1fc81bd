"""Legal holds, and the purge of records whose time is over: acts of an operator, each on record."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from audit import retention
from audit.offline import PURGE
from audit.retention import CLASSES, EVERYTHING
from fhir_server.duties import acts, deployment
from fhir_server.duties.upkeep import EXPORT_CATCHES_UP_S
from fhir_server.server.faults import CannotRun
from fhir_server.server.services import Services
from fhir_server.server.settings import Settings
from resources.times import instant_text, microseconds, of_microseconds
from store.access import Access, Interaction
from store.engine.faults import DRIVER_ERRORS

REASON_CHARACTERS = 200


class Done(NamedTuple):
    """What a purge did."""

    records: int
    held: int


def hold(settings: Settings, patient: str, reason: str) -> None:
    """Keep the records of a patient, or of all. Raises CannotRun. The reason stays out of the log."""
    with deployment.opened(settings) as services, acts.recorded(services, "audit-hold") as act:
        concerned = _checked(patient)
        if not 0 < len(reason) <= REASON_CHARACTERS:
            raise CannotRun(f"a reason has 1 to {REASON_CHARACTERS} characters")
        with services.database.write() as connection:
            retention.hold(connection, patient, reason, microseconds(services.clock()))
        act.conclude(patients=concerned)


def release(settings: Settings, patient: str) -> int:
    """End the holds of a patient; how many there were. Raises CannotRun."""
    with deployment.opened(settings) as services, acts.recorded(services, "audit-release") as act:
        concerned = _checked(patient)
        with services.database.write() as connection:
            count = retention.release(connection, patient, microseconds(services.clock()))
        act.conclude(patients=concerned)
        return count


def listed(settings: Settings) -> list[str]:
    """A line for each hold in force."""
    with deployment.opened(settings) as services, acts.recorded(services, "audit-holds"):
        with services.database.read() as connection:
            held = retention.holds(connection)
        return [f"{instant_text(of_microseconds(one.since))}  {one.patient}  {one.reason}" for one in held]


def purge(settings: Settings, name: str, before: str = "") -> Done:
    """Empty the records of a class that were recorded before a date (without one: all whose time is over).

    Raises CannotRun for a class that there is not, and for a date within its time. Killed in between, it has emptied
    some, each on record.
    """
    with deployment.opened(settings) as services, acts.attempted(services, PURGE, ("class", name)):
        until = _until(services, name, before)
        services.ledger.catch_up(EXPORT_CATCHES_UP_S)
        records = held = 0
        for done in _batches(services, name, until):
            records, held = records + len(done.positions), held + done.held
        if not records:
            caller = acts.operator(settings)
            services.ledger.disclose(caller, [acts.access(PURGE, ("class", name))], services.clock())
        services.ledger.catch_up(EXPORT_CATCHES_UP_S)
        _give_back(services)
        return Done(records, held)


def _give_back(services: Services) -> None:
    """The room of what was purged. Where somebody reads the log just now, the next purge does it."""
    with suppress(*DRIVER_ERRORS):
        given: str | None = ""
        while given is not None:
            with services.database.write() as connection:
                given = retention.give_back(connection)


def _batches(services: Services, name: str, until: int) -> Iterator[retention.Purged]:
    after = 0
    while True:
        with services.database.write() as connection:
            done = retention.purge(connection, name, until, after)
            if done.positions:
                detail = (*retention.record_detail(name, done.positions), ("uid", str(os.getuid())))
                access = Access(Interaction.ADMIN, detail=detail)
                services.ledger.append(connection, acts.operator(services.settings), [access], services.clock())
        if not done.last:
            return
        after = done.last
        yield done


def _until(services: Services, name: str, before: str) -> int:
    if name not in CLASSES:
        raise CannotRun(f"there is no class {name}: {', '.join(CLASSES)}")
    latest = services.clock() - timedelta(days=CLASSES[name].days)
    if not before:
        return microseconds(latest)
    try:
        given = datetime.fromisoformat(before)
    except ValueError:
        raise CannotRun("a date is written as in 2026-02-14") from None
    given = given if given.tzinfo else given.replace(tzinfo=UTC)
    if given > latest:
        raise CannotRun(f"records of the class {name} are kept {CLASSES[name].days} days: give an earlier date")
    return microseconds(given)


def _checked(patient: str) -> tuple[str, ...]:
    """Whom an act concerns, for its record: what is no reference may be a name, and is not written down."""
    if patient == EVERYTHING:
        return ()
    if not re.fullmatch(r"Patient/[A-Za-z0-9.-]{1,64}", patient):
        raise CannotRun("what is held is a patient, as Patient/ID, or * for all")
    return (patient,)
