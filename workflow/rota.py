"""Who is on duty at an instant, and no one twice: the garde as Appointment without patient.

The roster is what the platform's own Appointments say, of people whose PractitionerRole is usable then. Two gardes of
the same Practitioner, also through two roles, never overlap: the check runs after all writes of the unit of work (so
a swap in one transaction is possible in any order) and behind a lock by person (so of two racing bookings one sees
the other).

FHIR R4 §12.10  http://hl7.org/fhir/R4/appointment.html
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from resources import scheduling
from resources.codes import DUTY_FUNCTION, DutyFunction, codings
from resources.json import Json
from resources.lifecycle import check_transition, content
from resources.outcomes import Conflict, Forbidden, ForbiddenTransition, InvalidContent
from resources.scheduling import MAX_DUTY, OCCUPIES, ON_DUTY, Interval
from resources.times import instant_text
from store.access import Change, Draft, Version, Work
from workflow.context import Context, before_of, look_up, update

_PEOPLE_AT_ONCE = 50
"""A search takes no more than 100 values of one parameter (`resources.budgets.PARAMETER_VALUES`)."""


@dataclass(frozen=True, slots=True)
class Duty:
    """One person's garde that covers the instant asked for."""

    practitioner: str
    role: str | None
    appointment: str
    function: DutyFunction
    interval: Interval
    specialties: frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Gap:
    """A garde that covers the instant asked for, and that nobody has accepted."""

    appointment: str
    function: DutyFunction
    interval: Interval


@dataclass(frozen=True, slots=True)
class Rota:
    """Questions to the roster, and its Observer."""

    context: Context

    def on_duty(self, uow: Work, at: datetime, function: DutyFunction | None = None) -> list[Duty]:
        """Everyone on duty at `at`, for one function or for all."""
        return self._duties(uow, self._around(uow, at, function), at, function)

    def gaps(self, uow: Work, at: datetime, function: DutyFunction | None = None) -> list[Gap]:
        """The gardes at `at` that nobody has accepted: posts that are planned and stand empty."""
        return [
            Gap(version.reference, found, interval)
            for version, found, interval in self._covering(self._around(uow, at, function), at, function)
            if not scheduling.accepted(version.json())
        ]

    def is_on_duty(self, uow: Work, practitioner: str, function: DutyFunction, at: datetime) -> bool:
        """Whether that person is on duty for that function."""
        if not self.context.require_duty:
            return True
        found = self._appointments(uow, practitioner, Interval(at, at), ON_DUTY)
        return any(duty.practitioner == practitioner for duty in self._duties(uow, found, at, function))

    def practitioner_of(self, uow: Work, person: str | None) -> str | None:
        """``Practitioner/id`` of a participant, who may be named by a PractitionerRole."""
        return next(iter(self._practitioners(uow, [person] if person else [])), None)

    def prepare(self, uow: Work, draft: Draft) -> None:
        if draft.type == "Appointment":
            self._prepare_appointment(uow, draft)
        elif draft.type == "Slot" and draft.resource is not None:
            before = before_of(draft)
            check_transition("Slot", before.get("status") if before else None, draft.resource.get("status"))
            issues = scheduling.check_slot(draft.resource)
            if issues:
                raise InvalidContent(issues[0].diagnostics, issues=issues)

    def changed(self, uow: Work, change: Change) -> None:
        if change.after.type != "Appointment" or change.after.deleted:
            return
        appointment = change.after.json()
        if scheduling.duty_function(appointment) is None:
            return
        if appointment.get("status") in OCCUPIES:
            self._refuse_overlap(uow, change.after)
        self._move_slots(uow, change)

    def _prepare_appointment(self, uow: Work, draft: Draft) -> None:
        before, after = before_of(draft), draft.resource
        if after is None:
            if scheduling.duty_function(before) and before and before.get("status") == "fulfilled":
                raise ForbiddenTransition("A garde that was worked is not deleted: mark it entered-in-error")
            return
        check_transition("Appointment", before.get("status") if before else None, after.get("status"))
        if scheduling.duty_function(before) is None and scheduling.duty_function(after) is None:
            return
        caller = uow.caller
        if not caller.is_system and caller.organization != self.context.platform:
            raise Forbidden("Only the platform plans its gardes")
        if scheduling.duty_function(after) is None:
            raise ForbiddenTransition("A garde stays a garde: cancel it instead", expression="Appointment.serviceType")
        worked = before is not None and before.get("status") == "fulfilled" == after.get("status")
        if before is not None and worked and content(before) != content(after):
            raise ForbiddenTransition(
                "A garde that was worked is not edited: it can only be entered-in-error", expression="Appointment"
            )
        if after.get("status") in OCCUPIES:
            issues = scheduling.check_duty(after)
            if issues:
                raise InvalidContent(issues[0].diagnostics, issues=issues)

    def _refuse_overlap(self, uow: Work, version: Version) -> None:
        appointment = version.json()
        interval = scheduling.interval_of(appointment)
        practitioner = next(iter(self._practitioners(uow, scheduling.planned(appointment))), None)
        if interval is None or practitioner is None:
            return
        uow.lock(f"rota:{practitioner}")
        for other in self._appointments(uow, practitioner, interval, OCCUPIES):
            taken = scheduling.interval_of(other.json())
            if other.id == version.id or taken is None or not taken.overlaps(interval):
                continue
            if scheduling.duty_function(other.json()) is None:
                continue
            if practitioner not in self._practitioners(uow, scheduling.planned(other.json())):
                continue  # declined
            raise Conflict(
                f"The garde overlaps {other.reference} of the same practitioner "
                f"({instant_text(taken.start)} to {instant_text(taken.end)})",
                expression=("Appointment.start", "Appointment.participant"),
            )

    def _move_slots(self, uow: Work, change: Change) -> None:
        """A booked garde makes its slots busy; a cancelled one frees them."""
        after = change.after.json()
        before = before_of(change) or {}
        holds = after.get("status") in OCCUPIES
        held = before.get("status") in OCCUPIES
        if holds == held:
            return
        for slot in after.get("slot", []):
            version = look_up(uow, slot.get("reference"))
            if version is None or version.type != "Slot":
                continue
            status = version.json().get("status")
            if holds and status not in ("free", "busy-tentative"):
                raise Conflict(f"{version.reference} is {status}", expression="Appointment.slot")
            if holds or status == "busy":
                update(uow, version, status="busy" if holds else "free")

    def _appointments(
        self, uow: Work, practitioner: str, interval: Interval, status: Iterable[str]
    ) -> list[Version]:
        """Appointments of that person, through whatever role, that start early enough to touch the interval."""
        roles = [version.reference for version in uow.system.each("PractitionerRole", [("practitioner", practitioner)])]
        asked = [
            ("date", f"gt{instant_text(interval.start - MAX_DUTY)}"),
            ("date", f"le{instant_text(interval.end)}"),
            ("status", ",".join(sorted(status))),
        ]
        found: dict[str, Version] = {}
        people = [practitioner, *roles]
        for first in range(0, len(people), _PEOPLE_AT_ONCE):
            actors = ("actor", ",".join(people[first : first + _PEOPLE_AT_ONCE]))
            found |= {version.id: version for version in uow.system.each("Appointment", [actors, *asked])}
        return list(found.values())

    def _duties(
        self, uow: Work, versions: Iterable[Version], at: datetime, function: DutyFunction | None
    ) -> list[Duty]:
        duties = []
        for version, found, interval in self._covering(versions, at, function):
            for person in scheduling.accepted(version.json()):
                duty = self._duty(uow, version, person, found, interval, at)
                if duty is not None:
                    duties.append(duty)
        return duties

    def _around(self, uow: Work, at: datetime, function: DutyFunction | None) -> list[Version]:
        """The gardes that may cover `at`, for one function or for all."""
        wanted = [function] if function else DutyFunction
        started = [("date", f"le{instant_text(at)}"), ("date", f"gt{instant_text(at - MAX_DUTY)}")]
        status = ("status", ",".join(sorted(ON_DUTY)))
        # Of gardes alone: beside them there are the patients' appointments of all hospitals.
        kinds = ("service-type", ",".join(f"{DUTY_FUNCTION}|{one}" for one in wanted))
        return list(uow.system.each("Appointment", [*started, status, kinds]))

    def _covering(
        self, versions: Iterable[Version], at: datetime, function: DutyFunction | None
    ) -> Iterator[tuple[Version, DutyFunction, Interval]]:
        """The platform's gardes among these that hold `at`: nobody else puts anyone on duty."""
        for version in versions:
            appointment = version.json()
            found = scheduling.duty_function(appointment)
            interval = scheduling.interval_of(appointment)
            if found is None or interval is None or at not in interval or function not in (None, found):
                continue
            if version.owner == self.context.platform:
                yield version, found, interval

    def _duty(
        self, uow: Work, version: Version, person: str, function: DutyFunction, interval: Interval, at: datetime
    ) -> Duty | None:
        found = look_up(uow, person)
        role: Json = {}
        if found is not None and found.type == "PractitionerRole":
            role = found.json()
            found = look_up(uow, role.get("practitioner", {}).get("reference"))
            if not scheduling.role_is_usable(role, at):
                return None
        if found is None or found.type != "Practitioner" or found.json().get("active") is False:
            return None
        specialties = frozenset(codings(role.get("specialty", [])))
        return Duty(found.reference, person if role else None, version.reference, function, interval, specialties)

    def _practitioners(self, uow: Work, people: Iterable[str]) -> list[str]:
        found = []
        for person in people:
            if person.startswith("Practitioner/"):
                found.append(person)
                continue
            role = look_up(uow, person)
            practitioner = role.json().get("practitioner", {}).get("reference") if role else None
            if practitioner:
                found.append(practitioner)
        return found
