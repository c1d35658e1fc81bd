"""Gardes: intervals by explicit offsets, overlaps, absences."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from resources import scheduling, times
from resources.scheduling import Interval
from tests.builders import garde

AT = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("start", "end", "hours"),
    [
        ("2026-03-28T20:00:00+01:00", "2026-03-29T08:00:00+02:00", 11),
        ("2026-10-24T20:00:00+02:00", "2026-10-25T08:00:00+01:00", 13),
        ("2026-06-01T20:00:00+02:00", "2026-06-02T08:00:00+02:00", 12),
    ],
)
def test_a_night_lasts_as_long_as_its_instants_say(start: str, end: str, hours: int) -> None:
    """P-01: the DST nights of 11 and 13 hours."""
    interval = scheduling.interval_of(garde("Practitioner/a", start, end))
    assert interval is not None
    assert interval.end - interval.start == timedelta(hours=hours)


def test_a_garde_that_starts_when_another_ends_does_not_overlap_it() -> None:
    """Half-open intervals: no hole and no overlap at the handover."""
    first = Interval(AT, AT + timedelta(hours=12))
    second = Interval(AT + timedelta(hours=12), AT + timedelta(hours=24))
    assert not first.overlaps(second)
    assert first.overlaps(Interval(AT + timedelta(hours=11), AT + timedelta(hours=13)))
    assert AT in first
    assert first.end not in first


@pytest.mark.parametrize(
    ("more", "expression"),
    [
        ({"end": "2026-06-01T07:00:00Z"}, "Appointment.end"),
        ({"end": "2026-06-04T07:00:00Z"}, "Appointment.end"),
        ({"start": None}, "Appointment.start"),
        ({"participant": []}, "Appointment.participant"),
    ],
)
def test_an_unusable_garde_is_refused(more: dict[str, object], expression: str) -> None:
    """One person, a start, an end after it, 36 hours at most."""
    body = garde("Practitioner/a", "2026-06-01T08:00:00Z", "2026-06-01T20:00:00Z") | more
    assert [issue.expression for issue in scheduling.check_duty(body)] == [(expression,)]


def test_an_appointment_with_a_patient_is_no_garde() -> None:
    """French context §6.1: a garde is an Appointment without patient."""
    body = garde("Practitioner/a", "2026-06-01T08:00:00Z", "2026-06-01T20:00:00Z")
    assert scheduling.duty_function(body) == "reading"
    body["participant"].append({"actor": {"reference": "Patient/p"}, "status": "accepted"})
    assert scheduling.duty_function(body) is None
    assert scheduling.duty_function({"resourceType": "Appointment"}) is None


@pytest.mark.parametrize(
    ("role", "usable"),
    [
        ({}, True),
        ({"active": False}, False),
        ({"period": {"start": "2026-06"}}, True),
        ({"period": {"start": "2026-06-02"}}, False),
        ({"period": {"end": "2026-06-01"}}, True),
        ({"period": {"end": "2026-05"}}, False),
        ({"period": {"end": "2025"}}, False),
        ({"notAvailable": [{"description": "congés", "during": {"start": "2026-06-01", "end": "2026-06-07"}}]}, False),
        ({"notAvailable": [{"description": "congés", "during": {"start": "2026-06-02"}}]}, True),
        ({"notAvailable": [{"description": "sans dates"}]}, True),
    ],
)
def test_a_role_serves_within_its_period_and_outside_its_absences(role: dict[str, object], usable: bool) -> None:
    """PractitionerRole.active, period, notAvailable; partial dates count to their precision."""
    assert scheduling.role_is_usable(role, AT) is usable


@pytest.mark.parametrize("text", ["2026-06-01", "2026-06-01T08:00:00", "nonsense", "2026-13-01T00:00:00Z", None, 5])
def test_what_is_no_instant_is_none(text: object) -> None:
    """An instant has a time and an offset (R4 instant)."""
    assert times.parse_instant(text) is None


def test_a_slot_ends_after_it_starts() -> None:
    """Slot.end."""
    slot = {"start": "2026-06-01T08:00:00Z", "end": "2026-06-01T08:00:00Z"}
    assert scheduling.check_slot(slot)[0].expression == ("Slot.end",)
