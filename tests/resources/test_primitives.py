"""The primitive types, value by value. http://hl7.org/fhir/R4/datatypes.html#primitive"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from resources import definitions
from resources.jsontext import JsonDecimal
from resources.primitives import CHECKS, base64_size
from tests.resources.examples import FHIR

_KINDS = {
    "base64_binary": "base64Binary",
    "date_time": "dateTime",
    "positive_int": "positiveInt",
    "unsigned_int": "unsignedInt",
}

_LOOSER = {("xhtml", '""')}
"""Google takes an empty xhtml as valid; R4 does not: txt-2, "SHALL have some non-whitespace content"."""


def _cases() -> list[tuple[str, str, bool]]:
    found = []
    for path in sorted((FHIR / "primitives").glob("*.ndjson")):
        kind, expected, _ = path.name.split(".")
        for line in path.read_text(encoding="utf-8").splitlines():
            # A null stands for absence there, and a Reference is no primitive (test_validation has them).
            if line != "null" and kind != "reference":
                found.append((_KINDS.get(kind, kind), line, expected == "valid"))
    return found


@pytest.mark.parametrize(("kind", "line", "valid"), _cases())
def test_the_values_of_others_are_judged_as_they_judge_them(kind: str, line: str, valid: bool) -> None:
    try:
        rule = CHECKS[kind](json.loads(line, parse_float=JsonDecimal))
    except json.JSONDecodeError:
        rule = "Not JSON"
    assert (rule is None) == (valid and (kind, line) not in _LOOSER)


def test_every_primitive_type_has_a_check() -> None:
    names = {row.name for row in definitions.types().values() if row.kind == "primitive-type"}
    assert set(CHECKS) == names


VALID: list[tuple[str, Any]] = [
    ("boolean", False),
    ("integer", -2147483648), ("integer", 2147483647), ("integer", 0), ("integer", JsonDecimal("-0")),
    ("unsignedInt", 0), ("positiveInt", 1), ("positiveInt", 2147483647),
    ("decimal", 1), ("decimal", JsonDecimal("1.50")), ("decimal", JsonDecimal("1E+2")), ("decimal", -3),
    ("string", "a"), ("string", " a "), ("string", "é\n\tz"), ("string", "\u00a0x"), ("markdown", "# a\r\n* b"),
    ("code", "a"), ("code", "a b c"), ("code", "<="), ("id", "a-1.B"), ("id", "x" * 64),
    ("uri", "http://a/b?c#d"), ("uri", "urn:oid:1.2"), ("uri", "a"), ("canonical", "http://a|1.0"), ("url", "ftp://x"),
    ("oid", "urn:oid:1.2.3"), ("oid", "urn:oid:2.16.840.1.113883"),
    ("uuid", "urn:uuid:c757873d-ec9a-4326-a141-556f43239520"),
    ("date", "2024"), ("date", "2024-02"), ("date", "2024-02-29"), ("date", "2000-02-29"), ("date", "0001-01-01"),
    ("dateTime", "2024"), ("dateTime", "2024-12-31"), ("dateTime", "2024-12-31T23:59:59Z"),
    ("dateTime", "2024-12-31T23:59:60Z"), ("dateTime", "2015-02-07T13:28:17.239+02:00"),
    ("dateTime", "2015-02-07T13:28:17-00:00"), ("dateTime", "2015-02-07T13:28:17+14:00"),
    ("instant", "2015-02-07T13:28:17.239+02:00"), ("instant", "2015-02-07T13:28:17.123456789Z"),
    ("time", "00:00:00"), ("time", "23:59:60.5"),
    ("base64Binary", "QQ=="), ("base64Binary", "QUJD\n QUJD"), ("base64Binary", "QUI="),
]  # fmt: skip

INVALID: list[tuple[str, Any]] = [
    ("boolean", "true"), ("boolean", 1), ("boolean", 0),
    ("integer", 2147483648), ("integer", -2147483649), ("integer", "1"), ("integer", JsonDecimal("1.0")),
    ("integer", True), ("unsignedInt", -1), ("unsignedInt", JsonDecimal("-0")), ("positiveInt", 0),
    ("decimal", "1"), ("decimal", True),
    ("string", ""), ("string", " "), ("string", "\n\t"), ("string", "\u00a0"), ("string", "a\x00"), ("string", "a\x1b"),
    ("string", 1), ("string", "x" * (1024 * 1024 + 1)), ("markdown", ""),
    ("code", ""), ("code", " a"), ("code", "a "), ("code", "a  b"), ("code", "a\tb"), ("code", 1), ("code", "a\x01"),
    ("id", ""), ("id", "a_b"), ("id", "x" * 65), ("id", "é"), ("id", "a\n"), ("id", 1),
    ("uri", ""), ("uri", "a b"), ("uri", "a\n"), ("url", " http://a"), ("canonical", "http://a b"),
    ("oid", "1.2.3"), ("oid", "urn:oid:3.1"), ("oid", "urn:oid:1.02"), ("oid", "urn:oid:1"),
    ("uuid", "urn:uuid:C757873D-EC9A-4326-A141-556F43239520"), ("uuid", "c757873d-ec9a-4326-a141-556f43239520"),
    ("date", "2024-02-30"), ("date", "2023-02-29"), ("date", "1900-02-29"), ("date", "2024-04-31"), ("date", "24"),
    ("date", "2024-13"), ("date", "2024-00"), ("date", "2024-01-00"), ("date", "2024-1-1"), ("date", "0000"),
    ("date", "2024-01-01T00:00:00Z"), ("date", "20240101"), ("date", "2024-01-01\n"),
    ("date", "\u0662\u0660\u0662\u0664"),
    ("dateTime", "2024-12-31T23:59:59"), ("dateTime", "2024-12-31T23:59Z"), ("dateTime", "2024-12-31T24:00:00Z"),
    ("dateTime", "2024-02-30T10:00:00Z"), ("dateTime", "2024-12-31T23:59:59+15:00"), ("dateTime", "2024-12T10:00:00Z"),
    ("dateTime", "2024-12-31 23:59:59Z"), ("dateTime", "2024-12-31T23:59:61Z"), ("dateTime", "2024-12-31T23:59:59.Z"),
    ("instant", "2015-02-07"), ("instant", "2015-02-07T13:28:17"), ("instant", "2015-02-30T13:28:17Z"), ("instant", 1),
    ("time", "24:00:00"), ("time", "12:00"), ("time", "12:00:00Z"),
    ("base64Binary", ""), ("base64Binary", "QQ="), ("base64Binary", "QQ"), ("base64Binary", "Q==="),
    ("base64Binary", 1),
    ("base64Binary", "Q!=="), ("base64Binary", "QQ==QQ=="), ("base64Binary", "QQ-_"), ("base64Binary", "é==="),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "value"), VALID)
def test_what_r4_allows_is_accepted(kind: str, value: Any) -> None:
    assert CHECKS[kind](value) is None


@pytest.mark.parametrize(("kind", "value"), INVALID)
def test_what_r4_forbids_is_refused_without_repeating_it(kind: str, value: Any) -> None:
    rule = CHECKS[kind](value)
    assert rule is not None
    assert not isinstance(value, str) or len(value) < 5 or value not in rule


def test_the_checks_keep_to_the_standards_patterns() -> None:
    """Each string that we accept matches the regex of the definition; we are stricter, never looser.

    `\\S` of XML Schema holds the no-break space and `[^\\s]` the control characters; base64Binary's own pattern takes
    padding anywhere.
    """
    for kind, value in VALID:
        pattern = definitions.types()[kind].pattern
        if pattern is not None and isinstance(value, str) and "\u00a0" not in value:
            assert re.fullmatch(pattern, value), (kind, value)


def test_base64_tells_its_size() -> None:
    """RFC 4648 §4"""
    assert [base64_size(text) for text in ("QQ==", "QUI=", "QUJD", "QU JD", "x")] == [1, 2, 3, 3, None]
