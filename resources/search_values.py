"""The value of a search parameter: escapes, alternatives, and what each kind reads in it.

A value that cannot be read is refused; nothing is guessed, and no value is repeated in a message, since it may name a
patient.

FHIR R4 §3.1.1.4 http://hl7.org/fhir/R4/search.html#escaping, §3.1.1.5 http://hl7.org/fhir/R4/search.html#ptypes
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import tzinfo
from functools import cache

from resources import definitions, paths, ranges, references, registry, times
from resources.criteria import (
    IdValue,
    QuantityValue,
    RangeValue,
    ReferenceValue,
    StringValue,
    TokenValue,
    UriValue,
    Value,
)
from resources.hashing import bounded, hash64
from resources.index_rows import Table
from resources.indexed_values import URI_LIMIT, of_type_key
from resources.outcomes import BadRequest
from resources.search_parameters import SearchParameter
from resources.strings import composed, folded, normalise

ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
TARGET_TYPES_MAX = 20
"""More target types than this are not told apart by `focus=1`: what is stored is a valid target anyway."""
SPECIAL_VALUES = "http://terminology.hl7.org/CodeSystem/special-values"
"""The implicit system of true and false (§3.1.1.5.11)."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What the values of one request are read with."""

    base_urls: tuple[str, ...]
    zone: tzinfo
    now_ticks: int


def split(text: str, separator: str) -> list[str]:
    """The parts of `text` between `separator`s that no backslash escapes; escapes stay, for the next split."""
    if separator not in text:
        return [text]
    if "\\" not in text:
        return text.split(separator)
    parts, current, position = [], "", 0
    while position < len(text):
        character = text[position]
        if character == "\\":
            current += text[position : position + 2]
            position += 2
            continue
        if character == separator:
            parts.append(current)
            current = ""
        else:
            current += character
        position += 1
    return [*parts, current]


_ESCAPE = re.compile(r"\\([\\,|$])")
_SEPARATOR = re.compile(r"([\\,|$])")


def unescape(text: str) -> str:
    r"""`text` with `\,` `\|` `\$` `\\` as the characters they stand for; another backslash is itself."""
    return _ESCAPE.sub(r"\1", text) if "\\" in text else text


def escape(text: str) -> str:
    """`text` as one value of a search parameter: what separates there is escaped (FHIR R4 §3.1.1.5.7)."""
    return _SEPARATOR.sub(r"\\\1", text)


# Each reader: (value between commas, still escaped; parameter; modifier; reading) → alternatives. ValueError, with the
# rule as its text, where it cannot be read.

Reader = Callable[[str, SearchParameter, str, Reading], tuple[Value, ...]]


def _token(text: str, parameter: SearchParameter, modifier: str, reading: Reading) -> tuple[Value, ...]:
    parts = [unescape(part) for part in split(text, "|")]
    if modifier == "of-type":
        if len(parts) != 3 or not all(parts):
            raise ValueError("must be system|code|value")
        return (TokenValue(hash64(of_type_key(parts[0], parts[1])), bounded(folded(parts[2]))),)
    if len(parts) > 2 or not any(parts):
        raise ValueError("must be code, system|code, |code or system| (a bar in a code is written \\|)")
    if len(parts) == 1:
        return (TokenValue(None, bounded(folded(parts[0]))),)
    system, code = parts
    system_id = 0 if system in _implicit_systems(parameter) and modifier != "identifier" else hash64(system)
    return (TokenValue(system_id, bounded(folded(code)) if code else None),)


@cache
def _implicit_systems(parameter: SearchParameter) -> frozenset[str]:
    """Systems of a parameter whose elements are codes: the index has no system for them, a query may name it."""
    found: set[str] = set()
    for path in parameter.paths:
        for value_set in paths.bound_value_sets(path, parameter.type):
            if value_set is None:
                return frozenset()
            found.update(definitions.codes(value_set) or ())
        if paths.value_types(path, parameter.type) == ("boolean",):
            found.add(SPECIAL_VALUES)
    return frozenset(found)


def _token_text(text: str, parameter: SearchParameter, modifier: str, reading: Reading) -> tuple[Value, ...]:
    return (StringValue("prefix", _normal(text)),)


def _string(text: str, parameter: SearchParameter, modifier: str, reading: Reading) -> tuple[Value, ...]:
    if modifier == "exact":
        return (StringValue("exact", composed(unescape(text))),)
    return (StringValue("contains" if modifier == "contains" else "prefix", _normal(text)),)


def _normal(text: str) -> str:
    norm = normalise(unescape(text))
    if not norm:
        raise ValueError("must have more than white space and accents")
    return norm


def _date(text: str, parameter: SearchParameter, modifier: str, reading: Reading) -> tuple[Value, ...]:
    prefix, written = ranges.split_prefix(unescape(text))
    if " " in written:
        raise ValueError("has a space: the + of an offset is written %2B in a URL")
    fraction = written.partition(".")[2].rstrip("Z").partition("+")[0].partition("-")[0]
    if len(fraction) > 9:
        raise ValueError("has more than nine digits of a second")
    try:
        there, utc = times.interval(written, reading.zone), times.interval(written)
    except ValueError:
        raise ValueError("must be a date: YYYY, YYYY-MM, YYYY-MM-DD or YYYY-MM-DDThh:mm[:ss[.sss]][zone]") from None
    value = RangeValue(prefix, ranges.dates(prefix, *there, reading.now_ticks))
    if there == utc or parameter.table is Table.LAST_UPDATED:
        return (value,)
    # A stored instant is on that day where the zone says so; a stored day (a birth date) is that day everywhere
    # ("dates are not corrected for zones", §3.1.1.4.5): it is indexed as the day of UTC.
    days = RangeValue(prefix, ranges.dates(prefix, *utc, reading.now_ticks), of_days=True)
    return (replace(value, of_days=False), days)


def _number(text: str, parameter: SearchParameter, modifier: str, reading: Reading) -> tuple[Value, ...]:
    prefix, alternatives = _amount(unescape(text))
    return (RangeValue(prefix, alternatives),)


def _amount(text: str) -> tuple[str, ranges.Alternatives]:
    prefix, written = ranges.split_prefix(text)
    try:
        value, half_unit = ranges.number(written)
    except ValueError:
        raise ValueError("must have a number, with or without a prefix") from None
    return prefix, ranges.numbers(prefix, value, half_unit)


def _quantity(text: str, parameter: SearchParameter, modifier: str, reading: Reading) -> tuple[Value, ...]:
    parts = [unescape(part) for part in split(text, "|")]
    if len(parts) not in (1, 3):
        raise ValueError("must be number, number|system|code or number||code")
    prefix, alternatives = _amount(parts[0])
    system, code = parts[1:] if len(parts) == 3 else ("", "")
    return (
        QuantityValue(prefix, alternatives, hash64(system) if system else None, bounded(code) if code else None),
    )


def _reference(text: str, parameter: SearchParameter, modifier: str, reading: Reading) -> tuple[Value, ...]:
    written = unescape(text)
    if modifier == "identifier":
        return _token(text, parameter, modifier, reading)
    type_ids = _type_ids((modifier,) if modifier else parameter.targets)
    if ID.fullmatch(written):
        return (ReferenceValue(type_ids, written, None, None),)
    target = references.parse(written, reading.base_urls)
    if target.id is not None:
        if modifier and target.type != modifier:
            raise ValueError(f"must be a reference to a {modifier}")
        local = ReferenceValue((registry.type_id(str(target.type)),), target.id, target.version, None)
        if not _holds_canonicals(parameter) or written.startswith(str(target.type)):
            return (local,)
        # A canonical below our own base is stored as the URL it is.
        return local, ReferenceValue((), None, None, written)
    if ":" not in written and not written.startswith("#"):
        raise ValueError("must be an id, Type/id or a URL")
    url, bar, version = written.partition("|")
    return (ReferenceValue((), None, bounded(version, URI_LIMIT) if bar else None, bounded(url, URI_LIMIT)),)


@cache
def _holds_canonicals(parameter: SearchParameter) -> bool:
    return any(set(paths.value_types(path, parameter.type)) & {"canonical", "uri"} for path in parameter.paths)


def _type_ids(types: tuple[str, ...]) -> tuple[int, ...]:
    """Numbers of the types that an id alone may belong to; empty (any) where the parameter hardly narrows them."""
    found = sorted(registry.type_id(name) for name in types if registry.is_type(name))
    return tuple(found) if len(found) <= TARGET_TYPES_MAX else ()


def _uri(text: str, parameter: SearchParameter, modifier: str, reading: Reading) -> tuple[Value, ...]:
    uri = unescape(text)
    if modifier and uri.startswith("urn:"):
        raise ValueError("must be a URL: :above and :below do not apply to a URN")
    if modifier == "below":
        return (UriValue((uri,), uri if uri.endswith("/") else uri + "/"),)
    if modifier == "above":
        if len(uri) > URI_LIMIT:
            raise ValueError(f"has more than {URI_LIMIT} characters")
        return (UriValue(_above(uri)),)
    return (UriValue((bounded(uri, URI_LIMIT),)),)


def _above(uri: str) -> tuple[str, ...]:
    """The URL and those whose path leads to it, each with and without a slash at its end."""
    scheme, marker, path = uri.partition("://")
    segments = path.split("/")
    heads = ["/".join(segments[:count]) for count in range(len(segments), 0, -1)]
    return tuple(dict.fromkeys(f"{scheme}{marker}{head}{slash}" for head in heads if head for slash in ("", "/")))


def _id(text: str, parameter: SearchParameter, modifier: str, reading: Reading) -> tuple[Value, ...]:
    written = unescape(text)
    if not ID.fullmatch(written):
        raise ValueError("must be a logical id: letters, digits, - and ., at most 64")
    return (IdValue(written),)


_READERS: Mapping[str, Reader] = {
    "token": _token,
    "string": _string,
    "date": _date,
    "number": _number,
    "quantity": _quantity,
    "reference": _reference,
    "uri": _uri,
}


def read(text: str, parameter: SearchParameter, modifier: str, reading: Reading) -> tuple[Value, ...]:
    """The alternatives that one value (between commas, still escaped) stands for. ValueError: the rule it breaks."""
    if parameter.code == "_id":
        return _id(text, parameter, modifier, reading)
    reader = _token_text if modifier == "text" else _READERS[parameter.kind]
    return reader(text, parameter, modifier, reading)


def refuse(name: str, rule: str, *, code: str = "value", what: str = "Search parameter") -> BadRequest:
    """A refusal of a parameter: names it (if it looks like a name) and the rule, never the value."""
    shown = _shown(name)
    return BadRequest(f"{what} {shown}: {rule}", code=code, expression=place(name))


def place(name: str) -> str:
    """Where a parameter is, as an OperationOutcome says it (R4 OperationOutcome.issue.expression)."""
    return f"http.{_shown(name).partition(':')[0]}"


def _shown(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_\-.:]{1,128}", name) else "(unreadable name)"
