"""JSON in and out: what is refused before it is understood, and numbers that keep their digits.

RFC 8259; http://hl7.org/fhir/R4/json.html; http://hl7.org/fhir/R4/datatypes.html#decimal
"""

from __future__ import annotations

import contextlib
import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resources.jsontext import JsonDecimal, dump, parse
from resources.outcomes import FhirError, Malformed, TooLarge
from tests.resources.examples import files, name


class _Number(str):
    """A number as its text: the test's own reading, which never computes."""

    __slots__ = ()


def _as_text(raw: bytes) -> Any:
    return json.loads(raw, parse_float=_Number, parse_int=_Number)


def _refusal(text: str | bytes, **limits: int) -> FhirError:
    with pytest.raises(FhirError) as raised:
        parse(text, **limits)
    return raised.value


@pytest.mark.parametrize(
    "number",
    ["0.40", "1.50", "1.5", "42.256500", "1E+2", "1e-7", "-0.0", "-0", "0", "7", "-12", "0.000000000000000001",
     "1.2345678901234567890123", "123456789012345678901234567890", "9223372036854775808", "0E-17"],
)  # fmt: skip
def test_a_number_is_written_as_it_was_sent(number: str) -> None:
    """Datatypes §decimal: the precision of the decimal value has significance."""
    assert dump(parse(f'{{"value":{number}}}')) == f'{{"value":{number}}}'.encode()


def test_a_decimal_counts_as_a_number_and_keeps_its_text() -> None:
    value = parse('{"value":1.50}')["value"]
    assert value * 2 == 3
    assert copy.deepcopy(value).text == pickle.loads(pickle.dumps(value)).text == "1.50"  # noqa: S301 - our own bytes


def test_members_keep_their_order() -> None:
    assert dump(parse('{"b":1,"a":{"d":[],"c":null}}')) == b'{"b":1,"a":{"d":[],"c":null}}'


@pytest.mark.parametrize("path", files("examples-valid"), ids=name)
def test_every_example_comes_back_with_every_value(path: Path) -> None:
    raw = path.read_bytes()
    assert _as_text(dump(parse(raw))) == _as_text(raw)


@pytest.mark.parametrize(
    ("text", "expression"),
    [
        ('{"resourceType":"Patient","id":"a","id":"b"}', "Patient.id"),
        ('{"resourceType":"Patient","name":[{},{"given":{"x":1,"x":2}}]}', "Patient.name[1].given.x"),
        ('{"resourceType":"Patient","not a name":{"id":1,"id":2}}', "Patient.id"),
        ('{"resourceType":"Patient","multipleBirthInteger":NaN}', "Patient.multipleBirthInteger"),
        ('{"resourceType":"Observation","component":[{"valueQuantity":{"value":-Infinity}}]}',
         "Observation.component[0].valueQuantity.value"),
        ('{"resourceType":"Patient","id":"\\ud800"}', "Patient.id"),
        ('{"resourceType":"Patient","name":[{"family":"a\\u0000"}]}', "Patient.name[0].family"),
        ('{"resourceType":"Patient","x":1' + "0" * 5000 + "}", "Patient.x"),
        ('{"resourceType":"Patient","x":0.' + "1" * 5000 + "}", "Patient.x"),
        ('{"resourceType":"Patient","x":1e999999999999999999999}', "Patient.x"),
        ('{"resourceType":"Patient","name":[{"given":["A","B",]}]}', "Patient.name[0].given[2]"),
        ('{"resourceType":"Patient","name":[{"given":["A" "B"]}]}', "Patient.name[0].given[0]"),
        ('{"resourceType":"Patient"', "Patient.resourceType"),
        ("{'resourceType':'Patient'}", "Resource"),
        ('{"resourceType":"Patient"} x', "Patient"),
        ("", "Resource"),
        ("// comment\n{}", "Resource"),
    ],
)  # fmt: skip
def test_what_is_not_json_is_refused_with_the_place(text: str, expression: str) -> None:
    """RFC 8259 §4 (names are unique), §6 (numbers), §8.2 (surrogates), §2 (grammar)."""
    refusal = _refusal(text)
    assert isinstance(refusal, Malformed)
    assert refusal.status == 400
    assert refusal.issues[0].expression == (expression,)


@pytest.mark.parametrize("text", ["[]", '"a"', "null", "3", '[{"resourceType":"Patient"}]'])
def test_a_resource_is_an_object(text: str) -> None:
    """http://hl7.org/fhir/R4/json.html#resources"""
    assert isinstance(_refusal(text), Malformed)


def test_a_refusal_does_not_repeat_what_was_sent() -> None:
    """DESIGN §11 and house rule: no personal data in error text."""
    for text in ('{"family":"Durand","family":"Durand"}', '{"family":Durand}', '{"Durand":1,"Durand":1.e}'):
        assert "Durand" not in _refusal(text).diagnostics


@pytest.mark.parametrize("raw", [b"\xff\xfe{\x00}\x00", b'{"a":"\xe9"}', b'{"a":"\xed\xa0\x80"}'])
def test_text_is_utf_8(raw: bytes) -> None:
    """RFC 8259 §8.1; the last is a surrogate in disguise."""
    assert isinstance(_refusal(raw), Malformed)


def test_half_a_character_in_text_is_refused() -> None:
    assert isinstance(_refusal('{"a":"\ud800"}'), Malformed)


def test_a_pair_of_surrogates_is_a_character() -> None:
    """RFC 8259 §7"""
    assert parse('{"a":"\\ud83d\\ude00"}') == {"a": "\U0001f600"}


def test_a_byte_order_mark_is_ignored() -> None:
    """RFC 8259 §8.1: parsers MAY ignore the presence of a byte order mark."""
    assert parse(b'\xef\xbb\xbf{"a":1}') == {"a": 1}


def test_a_body_has_a_size() -> None:
    assert isinstance(_refusal('{"a":"' + "x" * 100 + '"}', max_bytes=100), TooLarge)


@pytest.mark.parametrize("opened", ["[", '{"a":'])
def test_nesting_has_an_end(opened: str) -> None:
    """Ten thousand brackets must not reach the recursive parser."""
    assert isinstance(_refusal('{"a":' + opened * 10_000), Malformed)
    assert isinstance(_refusal('{"a":' + "[" * 50 + "]" * 50 + "}"), Malformed)
    parse('{"a":' + "[" * 49 + "]" * 49 + "}")


def test_brackets_in_strings_are_not_nesting() -> None:
    parse('{"a":"' + "[{" * 1000 + '","b":"\\"' + "[" * 1000 + '\\\\"}')


_NUMBERS = st.from_regex(r"\A-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,2})?\Z").map(_Number)
_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)
_TREES = st.recursive(
    st.none() | st.booleans() | _TEXT | _NUMBERS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(_TEXT, inner, max_size=5),
    max_leaves=30,
)


def _written(tree: Any) -> str:
    if isinstance(tree, _Number):
        return tree
    if isinstance(tree, list):
        return "[" + " , ".join(map(_written, tree)) + "]"
    if isinstance(tree, dict):
        return "{" + ",".join(f"{json.dumps(key)} : {_written(value)}" for key, value in tree.items()) + "\n}"
    return json.dumps(tree)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(_TEXT, _TREES, max_size=6))
def test_any_json_comes_back_as_it_was(tree: dict[str, Any]) -> None:
    """Every value, every digit, every key in its order."""
    text = _written(tree)
    back = dump(parse(text))
    assert _as_text(back) == tree
    assert list(_as_text(back)) == list(tree)
    assert dump(parse(back)) == back


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet='{}[]":,\\ue0d8N-+.1 \n', max_size=60) | st.binary(max_size=40))
def test_no_text_does_anything_but_parse_or_be_refused(text: str | bytes) -> None:
    with contextlib.suppress(Malformed, TooLarge):
        parse(text)


def test_a_foreign_decimal_is_written_too() -> None:
    """What the server computes itself."""
    assert dump({"value": JsonDecimal("2.50")}) == b'{"value":2.50}'
    with pytest.raises(TypeError):
        dump({"value": object()})


@pytest.mark.parametrize(
    "text",
    [
        '{"a":"' + '\\"' * 200_000,
        '{"a":' + "[]," * 200_000,
        '{"a":[' + '"b":1,' * 200_000,
        '{"a":1' + ',"a":1' * 200_000 + "}",
        "\\" * 400_000,
        '{"a":[' + "1e5," * 200_000 + "NaN]}",
        '"' * 400_001,
    ],
)
def test_a_long_fault_is_refused_in_the_time_of_its_length(text: str) -> None:
    """The place of a fault is looked for once, from left to right; a quadratic search would not end within the test."""
    assert isinstance(_refusal(text), Malformed)


@pytest.mark.parametrize("text", ['[{"a":1,"a":2}]', '{"b":{"a":1,"a":2},', '{"b":{"a":1,"a":2}}}', '{"a":1,"a":2'])
def test_a_fault_beside_another_is_still_a_refusal(text: str) -> None:
    """The second look for the place meets what the first parse had not come to."""
    assert isinstance(_refusal(text), Malformed)


def test_the_text_of_an_escape_is_not_the_escape() -> None:
    """A backslash before u0000 that is itself escaped is seven characters of text."""
    assert parse('{"a":"\\\\u0000 \\ud83d\\ude00"}') == {"a": "\\u0000 \U0001f600"}
