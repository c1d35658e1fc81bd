"""Partial dates as half-open intervals.

FHIR R4 §3.1.1.5.5 http://hl7.org/fhir/R4/search.html#date, http://hl7.org/fhir/R4/datatypes.html#dateTime
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources import times
from resources.index_rows import MAX_TICKS, MIN_TICKS
from resources.times import DAY, HOUR, MINUTE, SECOND, interval, ticks

PARIS = ZoneInfo("Europe/Paris")


def _at(text: str) -> int:
    return ticks(datetime.fromisoformat(text))


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("2024", "2024-01-01T00:00:00+00:00", "2025-01-01T00:00:00+00:00"),
        ("2024-02", "2024-02-01T00:00:00+00:00", "2024-03-01T00:00:00+00:00"),
        ("2024-12", "2024-12-01T00:00:00+00:00", "2025-01-01T00:00:00+00:00"),
        ("2024-02-29", "2024-02-29T00:00:00+00:00", "2024-03-01T00:00:00+00:00"),
        ("2024-02-29T10:05Z", "2024-02-29T10:05:00+00:00", "2024-02-29T10:06:00+00:00"),
        ("2024-02-29T10:05:06Z", "2024-02-29T10:05:06+00:00", "2024-02-29T10:05:07+00:00"),
        ("2024-02-29T10:05:06+02:00", "2024-02-29T08:05:06+00:00", "2024-02-29T08:05:07+00:00"),
        ("2024-01-01T00:30:00+14:00", "2023-12-31T10:30:00+00:00", "2023-12-31T10:30:01+00:00"),
        ("2024-01-01T00:30:00-12:00", "2024-01-01T12:30:00+00:00", "2024-01-01T12:30:01+00:00"),
        ("2024-02-29T10:05:06", "2024-02-29T10:05:06+00:00", "2024-02-29T10:05:07+00:00"),
        ("2024-02-29T24:00:00Z", "2024-03-01T00:00:00+00:00", "2024-03-01T00:00:01+00:00"),
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00+00:00", "2017-01-01T00:00:01+00:00"),
    ],
)
def test_a_date_is_the_interval_of_what_it_does_not_say(text: str, low: str, high: str) -> None:
    """24:00 and a leap second are read without error: refusing them is the validator's work."""
    assert interval(text) == (_at(low), _at(high))


@pytest.mark.parametrize(
    ("text", "fraction"),
    [(".1", 1_000_000), (".123", 1_230_000), (".1234567", 1_234_567), (".123456789", 1_234_567), (".000", 0)],
)
def test_an_instant_with_a_fraction_is_one_tick(text: str, fraction: int) -> None:
    """A hundred nanoseconds: finer digits are cut, coarser ones are not a range."""
    low, high = interval(f"2024-01-01T00:00:00{text}Z")
    assert (low, high) == (_at("2024-01-01T00:00:00+00:00") + fraction, low + 1)


@pytest.mark.parametrize(
    "text",
    ["", "24", "2024-13", "2024-00", "2024-02-30", "2023-02-29", "0000", "2024-1-1", "2024-01-01T", "2024-01-01T10",
     "2024-01-01T25:00", "2024-01-01T10:60", "2024-01-01T10:00:61", "2024-01-01T24:01", "2024-01-01T10:00:00+15:00",
     "2024-01-01T10:00:00+14:01", "2024-01-01 10:00", "2024-01-01Z", "٢٠٢٤", "2024-01-01T10:00:00.Z", " 2024", "x"],
)  # fmt: skip
def test_what_is_no_date_is_refused(text: str) -> None:
    """http://hl7.org/fhir/R4/datatypes.html#dateTime"""
    with pytest.raises(ValueError):
        interval(text)


def test_a_date_without_zone_is_read_in_the_declared_zone() -> None:
    """§3.1.1.5.5: "where both search parameters and resource element are without timezone, the servers local ..."."""
    assert interval("2024-07-14", PARIS) == (_at("2024-07-13T22:00:00+00:00"), _at("2024-07-14T22:00:00+00:00"))
    assert interval("2024-07-14T10:00:00", PARIS)[0] == _at("2024-07-14T08:00:00+00:00")
    assert interval("2024-07-14T10:00:00Z", PARIS)[0] == _at("2024-07-14T10:00:00+00:00")


@pytest.mark.parametrize(("day", "hours"), [("2024-03-31", 23), ("2024-10-27", 25), ("2024-10-28", 24)])
def test_the_days_on_which_the_clocks_change_have_23_and_25_hours(day: str, hours: int) -> None:
    low, high = interval(day, PARIS)
    assert high - low == hours * HOUR


@pytest.mark.parametrize("zone", [UTC, PARIS, ZoneInfo("Pacific/Kiritimati"), ZoneInfo("America/Adak")])
@pytest.mark.parametrize("text", ["0001", "0001-01-01", "9999", "9999-12", "9999-12-31", "9999-12-31T23:59:59Z"])
def test_the_first_and_the_last_year_have_intervals(text: str, zone: ZoneInfo) -> None:
    low, high = interval(text, zone)
    assert MIN_TICKS < low < high < MAX_TICKS


def test_a_period_is_open_where_it_has_no_end() -> None:
    """§3.1.1.5.5: "If the start element is missing, the start is treated as less than any actual date"."""
    assert times.period({"start": "2024"}) == (_at("2024-01-01T00:00:00+00:00"), MAX_TICKS)
    assert times.period({"end": "2024-05-17"}) == (MIN_TICKS, _at("2024-05-18T00:00:00+00:00"))
    assert times.period({}) is None


def test_a_period_that_ends_before_it_starts_does_not_break_the_index() -> None:
    low, high = times.period({"start": "2024", "end": "2023-01-01"}) or (1, 0)
    assert low <= high


@pytest.mark.parametrize(
    ("timing", "limits"),
    [
        ({"event": ["2024-03-24", "2024-01-31"]}, ("2024-01-31", "2024-03-24")),
        ({"repeat": {"boundsPeriod": {"start": "2024-01-31", "end": "2024-03-24"}}}, ("2024-01-31", "2024-03-24")),
        ({"event": ["2024-01-31"], "repeat": {"boundsPeriod": {"start": "2024-02-01", "end": "2024-03-24"}}},
         ("2024-01-31", "2024-03-24")),
    ],
)  # fmt: skip
def test_of_a_timing_the_outer_limits_matter(timing: dict[str, object], limits: tuple[str, str]) -> None:
    """§3.1.1.5.5: "the specific scheduling details are ignored and only the outer limits matter"."""
    assert times.timing(timing) == (interval(limits[0])[0], interval(limits[1])[1])


def test_a_timing_without_dates_has_no_interval() -> None:
    assert times.timing({"repeat": {"boundsDuration": {"value": 3, "unit": "d"}, "frequency": 1}}) is None


@given(st.datetimes(timezones=st.just(UTC)))
def test_ticks_and_times_are_one_line(at: datetime) -> None:
    assert datetime(1, 1, 1, tzinfo=UTC) + timedelta(microseconds=ticks(at) // times.MICROSECOND) == at
    assert ticks(at + timedelta(microseconds=1) if at.year < 9999 else at) >= ticks(at)


def test_the_units_of_the_line() -> None:
    assert (SECOND, MINUTE, HOUR, DAY) == (10**7, 60 * 10**7, 3600 * 10**7, 86400 * 10**7)
    assert _at("1970-01-01T00:00:00+00:00") == times.UNIX_EPOCH


@pytest.mark.parametrize(
    ("at", "text"),
    [
        (datetime(2024, 2, 29, 10, 5, 6, 123999, tzinfo=UTC), "2024-02-29T10:05:06.123Z"),
        (datetime(2024, 7, 14, 12, 0, tzinfo=PARIS), "2024-07-14T10:00:00.000Z"),
        (datetime(7, 1, 1, tzinfo=UTC), "0007-01-01T00:00:00.000Z"),
    ],
)
def test_an_instant_of_the_server_has_milliseconds_and_z(at: datetime, text: str) -> None:
    """http://hl7.org/fhir/R4/datatypes.html#instant"""
    assert times.instant_text(at) == text
