"""Rules of Schedule, Slot, Appointment and PractitionerRole as a rota: what a garde is, when it is, when two collide.

A garde is an Appointment without a patient whose serviceType carries a duty function. Instants have explicit offsets,
so a night of 11 or 13 hours (DST) is what its two instants say. Intervals are half-open: one garde may end when the
next starts.

FHIR R4 §12.10 http://hl7.org/fhir/R4/appointment.html, §12.9 http://hl7.org/fhir/R4/slot.html
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from resources.codes import DUTY_FUNCTION, DutyFunction, code_of
from resources.json import Json
from resources.outcomes import Issue
from resources.times import parse_instant

MAX_DUTY = timedelta(hours=36)
"""No garde is longer: so the gardes that can touch an instant are those that start in the 36 hours before it."""

ON_DUTY = frozenset({"booked", "arrived", "checked-in"})
"""Appointment.status of a garde whose person can be asked to work."""
OCCUPIES = ON_DUTY | {"fulfilled"}
"""Appointment.status of a garde that takes its person's time."""

ACCEPTED = frozenset({"accepted"})
"""Appointment.participant.status of who takes part (R4 participationstatus: `declined` will not, the others may)."""


@dataclass(frozen=True, slots=True)
class Interval:
    """Half-open: start ≤ t < end."""

    start: datetime
    end: datetime

    def __contains__(self, at: datetime) -> bool:
        return self.start <= at < self.end

    def overlaps(self, other: Interval) -> bool:
        """Whether both hold some instant."""
        return self.start < other.end and other.start < self.end


def interval_of(resource: Json) -> Interval | None:
    """When an Appointment or a Slot is; None where start or end is missing."""
    start, end = parse_instant(resource.get("start")), parse_instant(resource.get("end"))
    return Interval(start, end) if start and end else None


def duty_function(appointment: Json | None) -> DutyFunction | None:
    """What the garde is for; None where this Appointment is not a garde."""
    if appointment is None or any(actor.startswith("Patient/") for actor in actors(appointment)):
        return None
    code = code_of(appointment.get("serviceType", []), DUTY_FUNCTION)
    return next((one for one in DutyFunction if one == code), None)


def actors(appointment: Json) -> list[str]:
    """References of everyone and everything that takes part."""
    found = [one.get("actor", {}).get("reference", "") for one in appointment.get("participant", [])]
    return [reference for reference in found if reference]


def people(appointment: Json) -> list[str]:
    """The Practitioner and PractitionerRole references among the participants."""
    return [actor for actor in actors(appointment) if actor.startswith(("Practitioner/", "PractitionerRole/"))]


def accepted(appointment: Json) -> list[str]:
    """Those of `people` who will come: participant.status `accepted`. Whoever was only asked, or declined, does not."""
    return _people_with(appointment, ACCEPTED)


def planned(appointment: Json) -> list[str]:
    """Those of `people` whose time the garde takes: all but who declined."""
    return _people_with(appointment, ACCEPTED | {"tentative", "needs-action"})


def _people_with(appointment: Json, status: frozenset[str]) -> list[str]:
    wanted = {
        one.get("actor", {}).get("reference") for one in appointment.get("participant", [])
        if one.get("status") in status
    }  # fmt: skip
    return [person for person in people(appointment) if person in wanted]


def check_duty(appointment: Json) -> list[Issue]:
    """What makes a garde unusable: no times, no person, an end before its start, more than 36 hours."""
    issues: list[Issue] = []
    interval = interval_of(appointment)
    if interval is None:
        issues.append(_issue("A garde has a start and an end with explicit offsets", "Appointment.start"))
    elif interval.end <= interval.start:
        issues.append(_issue("A garde ends after it starts", "Appointment.end"))
    elif interval.end - interval.start > MAX_DUTY:
        issues.append(_issue("A garde lasts 36 hours at most", "Appointment.end"))
    if len(people(appointment)) != 1:
        text = "A garde has exactly one Practitioner or PractitionerRole as participant"
        issues.append(_issue(text, "Appointment.participant"))
    return issues


def check_slot(slot: Json) -> list[Issue]:
    """A Slot ends after it starts."""
    interval = interval_of(slot)
    if interval is not None and interval.end <= interval.start:
        return [_issue("A slot ends after it starts", "Slot.end")]
    return []


def role_is_usable(role: Json, at: datetime) -> bool:
    """Whether a PractitionerRole can serve at that instant: active, within its period, not in notAvailable."""
    if role.get("active") is False or not _covers(role.get("period"), at):
        return False
    return not any(absence.get("during") and _covers(absence["during"], at) for absence in role.get("notAvailable", []))


def _covers(period: Json | None, at: datetime) -> bool:
    """Whether a Period holds an instant; a missing end is open, an end counts up to its precision (R4 §2.24.0.11)."""
    if not period:
        return True
    start, end = _partial(period.get("start")), _partial(period.get("end"))
    return (start is None or start.start <= at) and (end is None or at < end.end)


def _partial(text: object) -> Interval | None:
    """A partial dateTime as the interval that it names; a date without a zone is read in UTC."""
    if not isinstance(text, str):
        return None
    exact = parse_instant(text)
    if exact:
        return Interval(exact, exact + timedelta(seconds=1))
    try:
        parts = [int(part) for part in text.split("-")]
        year, month, day = [*parts, 1, 1][:3]
        start = datetime(year, month, day, tzinfo=UTC)
    except ValueError:
        return None
    if len(parts) >= 3:
        return Interval(start, start + timedelta(days=1))
    if len(parts) == 2:
        month_later = start.replace(day=28) + timedelta(days=4)
        return Interval(start, month_later.replace(day=1))
    return Interval(start, start.replace(year=start.year + 1))


def _issue(text: str, expression: str) -> Issue:
    return Issue("error", "business-rule", text, (expression,))
