"""QIDO-RS parameters → a query: pure. What is not understood is refused, never taken as "match all".

PS3.18 §8.3.4 (query parameters), §10.6.1.2, PS3.4 §C.2.2.2 (matching).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from dicomweb import attributes, parameters, uids
from dicomweb.attributes import KEYS, Attribute, Level, Match, shown
from dicomweb.parameters import Asked
from resources.budgets import QIDO_VALUES
from resources.outcomes import BadRequest

MAX_TEXT = 1024
_TIME = re.compile(r"\d{2}(?:\d{2}(?:\d{2}(?:\.\d{1,6})?)?)?")
_LATEST = "235959.999999"


@dataclass(frozen=True, slots=True)
class DateRange:
    """Days, inclusive on both ends; empty: open. Never backwards: there is no day before the first and after the last
    (PS3.4 §C.2.2.2.5)."""

    low: str
    high: str


@dataclass(frozen=True, slots=True)
class TimeRange:
    """Times of day, inclusive on both ends; empty: open. One that ends before it begins goes over midnight."""

    low: str
    high: str


Value = str | DateRange | TimeRange | int


@dataclass(frozen=True, slots=True)
class Key:
    """One matching key and its alternatives."""

    attribute: Attribute
    values: tuple[Value, ...]
    """One of them must match."""


@dataclass(frozen=True, slots=True)
class QidoQuery:
    """A QIDO-RS request as values."""

    level: Level
    keys: tuple[Key, ...] = ()
    include: tuple[str, ...] = ()
    include_all: bool = False
    fuzzy: bool = False
    literal: bool = False
    """Whether fuzzy matching was asked of a name with wildcards, which is matched as it stands."""
    limit: int | None = None
    offset: int = 0


def query(level: Level, asked: Asked) -> QidoQuery:
    """The query that these parameters ask at this level. Raises BadRequest."""
    include = [tag for one in asked["includefield"] for tag in one]
    keys: list[Key] = []
    seen: set[str] = set()
    for name, value in asked.keys:
        attribute = _attribute(level, name)
        path = attributes.path_of(name) or ""
        if path in seen:
            raise BadRequest(f"{shown(path)} is given more than once (PS3.18 §8.3.4.1)")
        seen.add(path)
        if asked["emptyvaluematching"] and value == '""':
            keys.append(Key(attribute, ("",)))
        elif value.strip() and value.strip("*"):
            keys.append(Key(attribute, _values(attribute, value, several=asked["multiplevaluematching"])))
    QIDO_VALUES.check(sum(_cost(key, fuzzy=asked["fuzzymatching"]) for key in keys))
    literal = asked["fuzzymatching"] and any(
        key.attribute.match is Match.NAME and set(str(value)) & {"*", "?"} for key in keys for value in key.values
    )
    return QidoQuery(
        level, tuple(keys), tuple(dict.fromkeys(tag for tag in include if tag != "all")), "all" in include,
        asked["fuzzymatching"], literal, asked["limit"], asked["offset"],
    )


def _cost(key: Key, *, fuzzy: bool) -> int:
    """Conditions that a key makes: fuzzy matching looks for each word of a name."""
    if fuzzy and key.attribute.match is Match.NAME:
        return sum(1 + len(str(value).replace("^", " ").split()) for value in key.values)
    return len(key.values)


def _attribute(level: Level, name: str) -> Attribute:
    path = attributes.path_of(name)
    if path is None:
        text = f"{parameters.shown(name)} is neither defined here nor an attribute of the data dictionary"
        raise BadRequest(text, code="not-supported")
    if path == "00080060" and level is Level.STUDY:
        path = "00080061"  # asked by clients that mean ModalitiesInStudy
    found = KEYS.get(path)
    if found is None or found.level > level:
        raise BadRequest(f"{shown(path)} is not a query key at this level", code="not-supported")
    return found


def _values(attribute: Attribute, value: str, *, several: bool) -> tuple[Value, ...]:
    if len(value) > MAX_TEXT * 64:
        raise BadRequest(f"The value of {shown(attribute.path)} is too long")
    value = value.strip()
    listed = attribute.match in {Match.UID, Match.MODALITIES, Match.SOP_CLASSES} or attribute.column == "modality"
    pieces = [part.strip() for part in (re.split(r"[,\\]", value) if listed else value.split("\\"))]
    pieces = [part for part in pieces if part]
    QIDO_VALUES.check(len(pieces))
    if len(pieces) > 1 and not several and not listed:
        raise BadRequest(f"{shown(attribute.path)} has several values, and multiplevaluematching is false")
    return tuple(_value(attribute, piece) for piece in pieces)


def _value(attribute: Attribute, value: str) -> Value:
    name = shown(attribute.path)
    match attribute.match:
        case Match.UID | Match.SOP_CLASSES:
            return uids.require(value, name)
        case Match.DATE:
            return DateRange(*_days(name, value))
        case Match.TIME:
            return TimeRange(*_times(name, value))
        case Match.NUMBER:
            try:
                number = int(value)
            except ValueError:
                number = 2**31
            if abs(number) >= 2**31:
                raise BadRequest(f"{name} is not an integer")
            return number
        case _:
            if len(value) > MAX_TEXT:
                raise BadRequest(f"The value of {name} is too long")
            return value.replace("\0", "")


def _days(name: str, value: str) -> tuple[str, str]:
    message = f"{name} is not a date YYYYMMDD or a range of them (PS3.4 §C.2.2.2.5)"
    low, high = _ends(value, _date, _date, message)
    if low and high and low > high:
        raise BadRequest(f"{name} is a range that ends before it begins (PS3.4 §C.2.2.2.5)")
    return low, high


def _times(name: str, value: str) -> tuple[str, str]:
    return _ends(value, _time, _end_of_time, f"{name} is not a time HHMMSS or a range of them (PS3.4 §C.2.2.2.5)")


def _ends(
    value: str, low: Callable[[str], str], high: Callable[[str], str], message: str
) -> tuple[str, str]:
    """Both ends of ``a``, ``a-``, ``-b`` or ``a-b``, each as its function reads it; empty where open."""
    first, dash, last = value.partition("-")
    begin, end = (first, last) if dash else (first, first)
    found = (low(begin) if begin else "", high(end) if end else "")
    if (begin and not found[0]) or (end and not found[1]) or not (begin or end):
        raise BadRequest(message)
    return found


def _date(text: str) -> str:
    try:
        datetime.strptime(text, "%Y%m%d")  # noqa: DTZ007 - a calendar date has no zone
    except ValueError:
        return ""
    return text if len(text) == 8 else ""


def _time(text: str) -> str:
    text = text.replace(":", "")
    return text if _TIME.fullmatch(text) else ""


def _end_of_time(text: str) -> str:
    """The last instant that a time of this precision stands for."""
    text = _time(text)
    return text + _LATEST[len(text):] if text else ""
