"""JSON text in and out: hygiene before meaning, and every number as it was sent.

What cannot be read in one way only is refused with 400 before anything looks at it: two members of one name, numbers
that are none (NaN), half a character (a lone surrogate), nesting without end. Numbers keep their text, since
``1.50`` and ``1.5`` are different precisions (http://hl7.org/fhir/R4/datatypes.html#decimal); `dump` writes them back
digit for digit.

RFC 8259 https://www.rfc-editor.org/rfc/rfc8259, http://hl7.org/fhir/R4/json.html
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from itertools import islice
from typing import Any, NoReturn, Self

import orjson

from resources.budgets import BODY_BYTES, JSON_DEPTH, NUMBER_DIGITS, NUMBER_EXPONENT
from resources.json import Json
from resources.outcomes import Malformed, TooLarge


class JsonDecimal(Decimal):
    """A number with a fraction, an exponent, a sign before zero or more than 18 digits, with its text."""

    __slots__ = ("text",)
    text: str

    def __new__(cls, text: str) -> Self:
        number = Decimal.__new__(cls, text)
        number.text = text
        return number

    def __reduce__(self) -> tuple[type[Self], tuple[str]]:
        return type(self), (self.text,)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


def parse(raw: bytes | str, *, max_bytes: int = BODY_BYTES.value, max_depth: int = JSON_DEPTH.value) -> Json:
    """The object that the text says.

    Whole numbers become int, others `JsonDecimal`. A byte order mark at the head is ignored, as RFC 8259 §8.1 allows.
    Raises TooLarge (413) or Malformed (400); the fault carries an expression where the place is known, never a value.
    """
    text = _decode(raw, max_bytes)
    _check_depth(text, max_depth)
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as fault:
        raise Malformed(
            f"Not JSON: {fault.msg.lower()} (line {fault.lineno}, column {fault.colno})",
            expression=_locate(text, fault.pos),
        ) from None
    except _DuplicateKey:
        raise Malformed("An object has two members of one name (RFC 8259 §4)", expression=_duplicates(text)) from None
    except RecursionError:
        raise Malformed("Objects and arrays are nested too deep", code="too-costly") from None
    except _BadNumber as fault:
        raise Malformed(fault.rule, code="value", expression=_number(text, fault.number)) from None
    if not isinstance(value, dict):
        raise Malformed("A resource is a JSON object")
    if _SUSPECT_ESCAPE.search(text):
        _check_characters(value, text)
    return value


def dump(value: Any) -> bytes:
    """Compact UTF-8 with the members in their order and every number as it was parsed."""
    return orjson.dumps(value, default=_number_text)


def indented(text: bytes) -> bytes:
    """The same object for people to read: a member a line, numbers and order as they are. For text of our own."""
    value = json.loads(text, object_pairs_hook=dict, parse_float=JsonDecimal)
    return orjson.dumps(value, default=_number_text, option=orjson.OPT_INDENT_2)


def _number_text(value: Any) -> orjson.Fragment:
    if isinstance(value, JsonDecimal):
        return orjson.Fragment(value.text)
    if isinstance(value, Decimal) and value.is_finite():
        return orjson.Fragment(str(value))
    raise TypeError(f"Not JSON: {type(value).__name__}")


# Before parsing


def _decode(raw: bytes | str, max_bytes: int) -> str:
    if isinstance(raw, str):
        try:
            raw = raw.encode()
        except UnicodeEncodeError:
            raise Malformed("The text holds half a character (a lone surrogate)") from None
    if len(raw) > max_bytes:
        raise TooLarge(f"The body is larger than {max_bytes} bytes")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as fault:
        raise Malformed(f"Not UTF-8 (byte {fault.start})") from None
    return text.removeprefix("\ufeff")


_ALL_BUT_STRUCTURE = "".join(map(chr, range(128))).translate(str.maketrans("", "", '"[]{}')).encode()


def _check_depth(text: str, max_depth: int) -> None:
    """Refuse nesting before the parser recurses into it; brackets inside strings do not count."""
    if text.count("{") + text.count("[") <= max_depth:
        return
    text = text.replace("\\\\", "").replace('\\"', "")
    marks = text.encode().translate(None, _ALL_BUT_STRUCTURE + bytes(range(128, 256)))
    depth = 0
    for mark in b"".join(marks.split(b'"')[::2]):
        depth += 1 if mark in b"[{" else -1
        if depth > max_depth:
            raise Malformed(f"Objects and arrays are nested more than {max_depth} deep", code="too-costly")


# While parsing


class _DuplicateKey(Exception):
    pass


class _BadNumber(Exception):
    def __init__(self, number: str, rule: str) -> None:
        super().__init__(rule)
        self.number = number
        self.rule = rule


_MOST_DIGITS, _MOST_EXPONENT = NUMBER_DIGITS.value, NUMBER_EXPONENT.value
_RANGE = NUMBER_EXPONENT.text


def _members(pairs: list[tuple[str, Any]]) -> Json:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _DuplicateKey
    return found


def _whole(text: str) -> int | JsonDecimal:
    if len(text) < 19 and text != "-0":
        return int(text)
    return _fraction(text)


def _fraction(text: str) -> JsonDecimal:
    if len(text) < 32 and "e" not in text and "E" not in text:
        return JsonDecimal(text)
    if len(text) > _MOST_DIGITS:
        raise _BadNumber(text, NUMBER_DIGITS.text)
    try:
        number = JsonDecimal(text)
    except InvalidOperation:
        raise _BadNumber(text, _RANGE) from None
    if abs(number.adjusted()) > _MOST_EXPONENT:
        raise _BadNumber(text, _RANGE)
    return number


def _constant(text: str) -> NoReturn:
    raise _BadNumber(text, "NaN and Infinity are not JSON numbers (RFC 8259 §6)")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_members, parse_int=_whole, parse_float=_fraction, parse_constant=_constant
)


# After parsing

_SUSPECT_ESCAPE = re.compile(r"\\u(?:[dD][89a-fA-F]|0000)")
"""An escape that may be half a surrogate pair, or NUL, which no FHIR string may hold and no database keeps."""

_NOT_TEXT = re.compile("[\ud800-\udfff\x00]")


def _check_characters(value: Json, text: str) -> None:
    try:
        if b"\\u0000" not in dump(value).replace(b"\\\\", b""):
            return
    except TypeError:  # orjson's word for a surrogate
        pass
    found = (where for where, string in _strings(value, _root(value)) if _NOT_TEXT.search(string))
    where = next(found, ()) if len(text) < _LOCATED else ()
    raise Malformed("A string holds NUL or half a character (a lone surrogate)", expression=where)


# Where a fault is: only once there is one


_LOCATED = 1024 * 1024
"""Characters of the longest text in which a place is looked for: further on it is not worth what an attacker could
make it cost."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_MARK = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[{}\[\]:,]|[^\s{}\[\]:,"]+', re.DOTALL)
_RESOURCE_TYPE = re.compile(r'"resourceType"\s*:\s*"([A-Za-z]{1,64})"')


def _root(value: Any) -> str:
    name = value.get("resourceType") if isinstance(value, dict) else None
    return name if isinstance(name, str) and name.isalpha() and name.isascii() else "Resource"


def _below(expression: str, key: str) -> str:
    """A name that could be an element's is part of the place; any other is the sender's own text and is left out."""
    return f"{expression}.{key}" if _NAME.fullmatch(key) else expression


def _strings(node: Any, expression: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, str):
        yield expression, node
    elif isinstance(node, dict):
        for key, value in node.items():
            yield expression, key
            yield from _strings(value, _below(expression, key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _strings(value, f"{expression}[{index}]")


class _Pairs(list[tuple[str, Any]]):
    """An object as its members, repeated ones too."""


def _duplicates(text: str) -> tuple[str, ...]:
    """The places of the first ten names that are there again, if the text is JSON otherwise."""
    if len(text) > _LOCATED:
        return ()
    try:
        tree = json.loads(text, object_pairs_hook=_Pairs, parse_int=str, parse_float=str)
    except json.JSONDecodeError:
        return ()
    root = _root(dict(tree)) if isinstance(tree, _Pairs) else "Resource"
    return tuple(islice(_repeated(tree, root), 10))


def _repeated(node: Any, expression: str) -> Iterator[str]:
    if isinstance(node, _Pairs):
        seen: set[str] = set()
        for key, value in node:
            if key in seen:
                yield _below(expression, key)
            seen.add(key)
            yield from _repeated(value, _below(expression, key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _repeated(value, f"{expression}[{index}]")


def _number(text: str, number: str) -> tuple[str, ...]:
    """The place of the first number with this text."""
    marks = _MARK.finditer(text, 0, _LOCATED)
    return _locate(text, next((mark.start() for mark in marks if mark[0] == number), _LOCATED))


def _locate(text: str, position: int) -> tuple[str, ...]:
    """The element that the parser was in when it stopped, as far as the text before it tells."""
    head = _RESOURCE_TYPE.search(text)
    expression = head[1] if head else "Resource"
    path: list[str | int] = []
    last = ""
    for match in _MARK.finditer(text, 0, position if position < _LOCATED else 0):
        mark = match[0]
        if mark == "{":
            path.append("")
        elif mark == "[":
            path.append(0)
        elif mark in "}]":
            del path[-1:]
        elif path and mark == ",":
            top = path[-1]
            path[-1] = top + 1 if isinstance(top, int) else ""
        elif path and mark == ":":
            name = last.strip('"')
            path[-1] = name if _NAME.fullmatch(name) else ""
        last = mark
    for part in path:
        expression += f"[{part}]" if isinstance(part, int) else f".{part}" if part else ""
    return (expression,)
