"""The primitive types: a check for each, by the standard's regexes and by the calendar.

A check takes a JSON value and gives the rule that it breaks, or None. The text of a rule never holds the value, which
may be a patient's.

http://hl7.org/fhir/R4/datatypes.html#primitive, http://hl7.org/fhir/R4/json.html#primitive
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from resources import narrative
from resources.jsontext import JsonDecimal

Check = Callable[[Any], str | None]

MAX_STRING = 1024 * 1024
"""Characters of a string: "strings SHALL NOT exceed 1MB in size"."""

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")
_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
_CODE = re.compile(r"[^\s\x00-\x1f]+(?: [^\s\x00-\x1f]+)*")
_URI = re.compile(r"[^\s\x00-\x1f]+")
_OID = re.compile(r"urn:oid:[0-2](?:\.(?:0|[1-9][0-9]*))+")
_UUID = re.compile(r"urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_WHITE = str.maketrans("", "", " \t\r\n")

_CLOCK = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:(?:[0-5][0-9]|60)(?:\.[0-9]+)?"
_ZONE = r"(?:Z|[+-](?:(?:0[0-9]|1[0-3]):[0-5][0-9]|14:00))"
_DAY = r"(?!0000)([0-9]{4})(?:-(0[1-9]|1[0-2])(?:-(0[1-9]|[12][0-9]|3[01])%s)?)?"
_TIME = re.compile(_CLOCK)
_DATE = re.compile(_DAY % "")
_DATE_TIME = re.compile(_DAY % f"(?:T{_CLOCK}{_ZONE})?")
_INSTANT = re.compile(rf"(?!0000)([0-9]{{4}})-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T{_CLOCK}{_ZONE}")

_LAST_DAY = {2: 29, 4: 30, 6: 30, 9: 30, 11: 30}


def string(value: Any) -> str | None:
    """Why a value is no string; None where it is one (R4 datatypes.html#string)."""
    if not isinstance(value, str):
        return "Not a JSON string"
    if value.isprintable() and value and value[0] != " ":
        return None if len(value) <= MAX_STRING else "A string is longer than 1 MB"
    if not value or value.isspace():
        return "A string is empty or only white space"
    if _CONTROL.search(value):
        return "A string holds control characters"
    return None if len(value) <= MAX_STRING else "A string is longer than 1 MB"


def boolean(value: Any) -> str | None:
    """Why a value is no boolean; None where it is one."""
    return None if value is True or value is False else "Not true or false"


def _by_pattern(pattern: re.Pattern[str], rule: str) -> Check:
    matches = pattern.fullmatch

    def check(value: Any) -> str | None:
        if not isinstance(value, str):
            return "Not a JSON string"
        return None if matches(value) else rule

    return check


def _by_calendar(pattern: re.Pattern[str], rule: str) -> Check:
    matches = pattern.fullmatch

    def check(value: Any) -> str | None:
        if not isinstance(value, str):
            return "Not a JSON string"
        match = matches(value)
        if match is None:
            return rule
        day = match[3]
        return None if day is None or day < "29" or _exists(match) else "No such day in the calendar"

    return check


def _exists(match: re.Match[str]) -> bool:
    year, month, day = int(match[1]), int(match[2]), int(match[3])
    if month == 2 and day == 29:
        return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    return day <= _LAST_DAY.get(month, 31)


def decimal(value: Any) -> str | None:
    """Why a value is no decimal; None where it is one."""
    if isinstance(value, (int, Decimal, float)) and not isinstance(value, bool):
        return None
    return "Not a JSON number"


def _whole(least: int, rule: str) -> Check:
    def check(value: Any) -> str | None:
        if isinstance(value, JsonDecimal) and value.text == "-0" and least < 0:
            return None
        if not isinstance(value, int) or isinstance(value, bool):
            return "Not a whole JSON number"
        return None if least <= value <= 2147483647 else rule

    return check


def base64_binary(value: Any) -> str | None:
    """Why a value is no base64Binary; None where it is one."""
    if not isinstance(value, str):
        return "Not a JSON string"
    return None if base64_size(value) else "Not base64 (RFC 4648 §4), or empty"


def base64_size(value: str) -> int | None:
    """The number of bytes that the text stands for, white space left out; None if it is not base64."""
    try:
        return len(binascii.a2b_base64(value.translate(_WHITE), strict_mode=True))
    except ValueError:
        return None


def xhtml(value: Any) -> str | None:
    """Why a value is no narrative; None where it is one (R4 narrative.html)."""
    return narrative.problem(value) if isinstance(value, str) else "Not a JSON string"


CHECKS: Mapping[str, Check] = {
    "base64Binary": base64_binary,
    "boolean": boolean,
    "canonical": _by_pattern(_URI, "Not a canonical: empty or with white space"),
    "code": _by_pattern(_CODE, "Not a code: empty, or with white space other than single spaces inside"),
    "date": _by_calendar(_DATE, "Not a date: YYYY, YYYY-MM or YYYY-MM-DD"),
    "dateTime": _by_calendar(_DATE_TIME, "Not a dateTime: a date, or YYYY-MM-DDThh:mm:ss with a time zone"),
    "decimal": decimal,
    "id": _by_pattern(_ID, "Not an id: 1 to 64 of A-Z a-z 0-9 - ."),
    "instant": _by_calendar(_INSTANT, "Not an instant: YYYY-MM-DDThh:mm:ss with a time zone"),
    "integer": _whole(-2147483648, "Not a 32-bit integer"),
    "markdown": string,
    "oid": _by_pattern(_OID, "Not an oid: urn:oid:…"),
    "positiveInt": _whole(1, "Not between 1 and 2,147,483,647"),
    "string": string,
    "time": _by_pattern(_TIME, "Not a time: hh:mm:ss"),
    "unsignedInt": _whole(0, "Not between 0 and 2,147,483,647"),
    "uri": _by_pattern(_URI, "Not a URI: empty or with white space"),
    "url": _by_pattern(_URI, "Not a URL: empty or with white space"),
    "uuid": _by_pattern(_UUID, "Not a uuid: urn:uuid:… in lower case"),
    "xhtml": xhtml,
}
