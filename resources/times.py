"""Time: partial dates as half-open intervals on one line, instants as FHIR writes them and as tables keep them.

The line is counted in ticks of 100 ns since 0001-01-01T00:00Z: finer than any instant that a peer sent so far, and
the years 1 to 9999 fit an int64. A date is the interval of what it does not say (`2024-05` is the whole month); an
instant with a fraction of a second is one tick. A date without zone is read in a zone that the caller declares.

FHIR R4 §3.1.1.5.5 http://hl7.org/fhir/R4/search.html#date, http://hl7.org/fhir/R4/datatypes.html#dateTime
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta, tzinfo

from resources.index_rows import MAX_TICKS, MIN_TICKS
from resources.json import Json

Interval = tuple[int, int]
"""Ticks [low, high)."""

SECOND = 10_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
MICROSECOND = 10
UNIX_EPOCH = (date(1970, 1, 1).toordinal() - 1) * DAY
"""1970-01-01T00:00Z in ticks."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TEXT = re.compile(
    r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:T(\d\d):(\d\d)(?::(\d\d)(?:\.(\d+))?)?(Z|[+-]\d\d:\d\d)?)?)?)?", re.ASCII
)
_LAST_ORDINAL = date.max.toordinal()


def interval(text: str, zone: tzinfo = UTC) -> Interval:
    """The ticks that a date, dateTime or instant stands for. ValueError where it is none.

    24:00 is the start of the next day and a second 60 that of the next minute: R4 forbids the one and allows the
    other; refusing content is the validator's work, not this one's.
    """
    match = _TEXT.fullmatch(text)
    if match is None:
        raise ValueError("not a date")
    year, month, day, hour, minute, second, fraction, offset = match.groups()
    if day is None:
        return _days(int(year), int(month) if month else None, zone)
    ordinal = date(int(year), int(month), int(day)).toordinal()
    if hour is None:
        return _midnight(ordinal, zone), _midnight(ordinal + 1, zone)
    seconds = _seconds(int(hour), int(minute), int(second or 0))
    low = (ordinal - 1) * DAY + seconds * SECOND
    low -= _offset(offset) if offset else _zone_offset(low, zone)
    if fraction is not None:
        low += int(fraction[:7].ljust(7, "0"))
        return low, low + 1
    return low, low + (MINUTE if second is None else SECOND)


def _days(year: int, month: int | None, zone: tzinfo) -> Interval:
    first = date(year, 1 if month is None else month, 1).toordinal()
    if month is None:
        after = date(year + 1, 1, 1).toordinal() if year < date.max.year else _LAST_ORDINAL + 1
    elif month < 12:
        after = date(year, month + 1, 1).toordinal()
    else:
        after = date(year, 12, 31).toordinal() + 1
    return _midnight(first, zone), _midnight(after, zone)


def _seconds(hour: int, minute: int, second: int) -> int:
    if hour > 24 or minute > 59 or second > 60 or (hour == 24 and (minute or second)):
        raise ValueError("not a time of day")
    return hour * 3600 + minute * 60 + second


def _midnight(ordinal: int, zone: tzinfo) -> int:
    local = (ordinal - 1) * DAY
    return local - _zone_offset(local, zone)


def _zone_offset(local: int, zone: tzinfo) -> int:
    """Ticks that a wall clock in `zone` is ahead of UTC at `local`; in the hour that comes twice, the first."""
    if zone is UTC:
        return 0
    local = min(max(local, DAY), _LAST_ORDINAL * DAY - DAY)
    wall = datetime(1, 1, 1, tzinfo=zone) + timedelta(microseconds=local // MICROSECOND)
    ahead = wall.utcoffset()
    return 0 if ahead is None else ahead // timedelta(microseconds=1) * MICROSECOND


def _offset(text: str) -> int:
    if text == "Z":
        return 0
    hours, minutes = int(text[1:3]), int(text[4:6])
    if hours > 14 or minutes > 59 or (hours == 14 and minutes):
        raise ValueError("not an offset from UTC")
    ticks = hours * HOUR + minutes * MINUTE
    return -ticks if text[0] == "-" else ticks


def period(value: Json, zone: tzinfo = UTC) -> Interval | None:
    """A Period, open where it has no start or no end; None where it has neither."""
    start, end = value.get("start"), value.get("end")
    if start is None and end is None:
        return None
    low = MIN_TICKS if start is None else interval(start, zone)[0]
    high = MAX_TICKS if end is None else interval(end, zone)[1]
    # A period that ends before it starts is invalid (per-1), but once stored it must not break the index.
    return low, max(low, high)


def timing(value: Json, zone: tzinfo = UTC) -> Interval | None:
    """The outer limits of a Timing: its events and bounds. None where it gives no date.

    "The specific scheduling details are ignored and only the outer limits matter", §3.1.1.5.5.
    """
    repeat = value.get("repeat") or {}
    found = [interval(event, zone) for event in value.get("event") or () if event is not None]
    bounds = period(repeat["boundsPeriod"], zone) if "boundsPeriod" in repeat else None
    if bounds is not None:
        found.append(bounds)
    if not found:
        return None
    return min(low for low, _ in found), max(high for _, high in found)


def ticks(at: datetime) -> int:
    """An aware datetime in ticks."""
    since = at.astimezone(UTC) - datetime(1, 1, 1, tzinfo=UTC)
    return since // timedelta(microseconds=1) * MICROSECOND


_US = timedelta(microseconds=1)


def microseconds(at: datetime) -> int:
    """µs since 1970-01-01T00:00Z of an aware datetime, exactly: the form in which tables keep instants."""
    return (at - _EPOCH) // _US


def of_microseconds(us: int) -> datetime:
    """The aware UTC datetime of µs since 1970-01-01T00:00Z, exactly."""
    return _EPOCH + timedelta(microseconds=us)


def instant_text(at: datetime) -> str:
    """An aware datetime as the server writes a FHIR instant: UTC, milliseconds, Z."""
    if at.tzinfo is not UTC:
        at = at.astimezone(UTC)
    return at.isoformat(timespec="milliseconds")[:23] + "Z"


def parse_instant(text: object) -> datetime | None:
    """A FHIR instant as an aware UTC datetime; None where it is absent, partial or without an offset."""
    if not isinstance(text, str) or "T" not in text:
        return None
    try:
        value = datetime.fromisoformat(text)
    except ValueError:
        return None
    return value.astimezone(UTC) if value.tzinfo else None


def utc_now() -> datetime:
    """The wall clock, aware, UTC. Assembly gives it to whoever needs a clock; nobody else calls it."""
    return datetime.now(UTC)
