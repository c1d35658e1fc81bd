"""QIDO-RS parameters → a query: pure. What is not understood is refused, never taken as "match all".

PS3.18 §8.3.4 (query parameters), §10.6.1.2, PS3.4 §C.2.2.2 (matching).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from dicomweb import attributes, uids
from dicomweb.attributes import KEYS, Attribute, Level, Match
from resources.outcomes import BadRequest

MAX_RESULTS = 5000
"""Results in one answer; Weasis needs at least 1000 per page."""
MAX_VALUES = 500
MAX_TEXT = 1024
CONTROLS = frozenset({"accept", "charset", "multiplevaluematching", "orderby"})
"""Parameters that are taken and change nothing here."""
_TIME = re.compile(r"\d{2}(?:\d{2}(?:\d{2}(?:\.\d{1,6})?)?)?")
_LATEST = "235959.999999"


@dataclass(frozen=True, slots=True)
class Range:
    """Inclusive on both ends; empty: open."""

    low: str
    high: str


@dataclass(frozen=True, slots=True)
class Key:
    attribute: Attribute
    values: tuple[str | Range | int, ...]
    """One of them must match."""


@dataclass(frozen=True, slots=True)
class QidoQuery:
    level: Level
    keys: tuple[Key, ...] = ()
    include: tuple[str, ...] = ()
    include_all: bool = False
    fuzzy: bool = False
    limit: int | None = None
    offset: int = 0


def parse(level: Level, parameters: Iterable[tuple[str, str]]) -> QidoQuery:
    """The query that these parameters ask at this level. Raises BadRequest."""
    keys: list[Key] = []
    include: list[str] = []
    include_all = fuzzy = match_empty = False
    limit: int | None = None
    offset = 0
    pending: list[tuple[str, str]] = []
    for name, value in parameters:
        if not name:
            continue  # Weasis begins its query with "?&"
        lowered = name.lower()
        if lowered == "includefield":
            fields = _fields(value)
            include_all = include_all or "all" in fields
            include += [field for field in fields if field != "all"]
        elif lowered == "fuzzymatching":
            fuzzy = _flag(lowered, value)
        elif lowered == "emptyvaluematching":
            match_empty = _flag(lowered, value)
        elif lowered == "limit":
            limit = _count(lowered, value)
        elif lowered == "offset":
            offset = _count(lowered, value)
        elif lowered not in CONTROLS:
            pending.append((name, value))
    for name, value in pending:
        attribute = _attribute(level, name)
        if match_empty and value == '""':
            keys.append(Key(attribute, ("",)))
        elif value.strip() and value.strip("*"):
            keys.append(Key(attribute, _values(attribute, name, value)))
    return QidoQuery(level, tuple(keys), tuple(dict.fromkeys(include)), include_all, fuzzy, limit, offset)


def _fields(value: str) -> list[str]:
    """The tags of an includefield list, or ``all`` (§8.3.4.3)."""
    found = []
    for field in filter(None, (part.strip() for part in value.split(","))):
        path = field if field == "all" else attributes.path_of(field)
        if path is None:
            raise BadRequest("includefield names an attribute that is not in the data dictionary")
        found.append(path.split(".")[0])
    return found


def _attribute(level: Level, name: str) -> Attribute:
    path = attributes.path_of(name)
    if path is None:
        raise BadRequest("A query key names an attribute that is not in the data dictionary", code="not-supported")
    if path == "00080060" and level is Level.STUDY:
        path = "00080061"  # asked by clients that mean ModalitiesInStudy
    found = KEYS.get(path)
    if found is None or found.level > level:
        raise BadRequest(f"{_shown(path)} is not a query key at this level", code="not-supported")
    return found


def _shown(path: str) -> str:
    from pydicom.datadict import keyword_for_tag

    return ".".join(keyword_for_tag(int(tag, 16)) or tag for tag in path.split("."))


def _flag(name: str, value: str) -> bool:
    if value not in {"true", "false"}:
        raise BadRequest(f"{name} is true or false (PS3.18 §8.3.4)")
    return value == "true"


def _count(name: str, value: str) -> int:
    if not value.isascii() or not value.isdigit() or len(value) > 9:
        raise BadRequest(f"{name} is not an unsigned integer (PS3.18 §8.3.4.4)")
    return int(value)


def _values(attribute: Attribute, name: str, value: str) -> tuple[str | Range | int, ...]:
    if len(value) > MAX_TEXT * 64:
        raise BadRequest(f"The value of {_shown(attribute.path)} is too long")
    value = value.strip()
    listed = attribute.match in {Match.UID, Match.MODALITIES, Match.SOP_CLASSES} or attribute.column == "modality"
    pieces = [part.strip() for part in (re.split(r"[,\\]", value) if listed else value.split("\\"))]
    pieces = [part for part in pieces if part]
    if len(pieces) > MAX_VALUES:
        raise BadRequest(f"More than {MAX_VALUES} values for {_shown(attribute.path)}", code="too-costly")
    return tuple(_value(attribute, piece) for piece in pieces)


def _value(attribute: Attribute, value: str) -> str | Range | int:
    shown = _shown(attribute.path)
    match attribute.match:
        case Match.UID | Match.SOP_CLASSES:
            return uids.require(value, shown)
        case Match.DATE:
            return _range(value, _date, _date, f"{shown} is not a date YYYYMMDD or a range of them (PS3.4 §C.2.2.2.5)")
        case Match.TIME:
            message = f"{shown} is not a time HHMMSS or a range of them (PS3.4 §C.2.2.2.5)"
            return _range(value, _time, _end_of_time, message)
        case Match.NUMBER:
            try:
                number = int(value)
            except ValueError:
                number = 2**31
            if abs(number) >= 2**31:
                raise BadRequest(f"{shown} is not an integer")
            return number
        case _:
            if len(value) > MAX_TEXT:
                raise BadRequest(f"The value of {shown} is too long")
            return value.replace("\0", "")


def _range(value: str, low: object, high: object, message: str) -> Range:
    first, dash, last = value.partition("-")
    begin, end = (first, last) if dash else (first, first)
    found = Range(low(begin) if begin else "", high(end) if end else "")  # type: ignore[operator]
    if (begin and not found.low) or (end and not found.high) or not (begin or end):
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
