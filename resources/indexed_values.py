"""One value of one data type, turned into index rows for one kind of search parameter.

`WRITERS[kind][data type]` is the whole of it. A Path gives the data type, so nothing is guessed from the looks of JSON.

FHIR R4 §3.1.1.5 http://hl7.org/fhir/R4/search.html#ptypes
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import tzinfo
from decimal import Decimal, InvalidOperation
from typing import Any

from resources import registry, times
from resources.hashing import bounded, hash64
from resources.index_rows import (
    DateRow,
    IndexRows,
    NumberRow,
    QuantityRow,
    ReferenceRow,
    StringRow,
    TokenRow,
    UriRow,
)
from resources.json import Json
from resources.paths import target_type
from resources.ranges import double
from resources.references import parse
from resources.search_parameters import IDENTIFIER, OF_TYPE, TEXT
from resources.strings import composed, folded, normalise
from resources.times import Interval

URI_LIMIT = 1024
"""Longest uri kept as it is, in characters."""
CURRENCY = "urn:iso:std:iso:4217"
"""System of Money.currency (§3.1.1.5.13)."""
_UNBOUNDED = 1.7976931348623157e308


@dataclass(frozen=True, slots=True)
class Context:
    """What a writer needs besides its value, and where its rows go."""

    resource: Json
    base_urls: tuple[str, ...]
    zone: tzinfo
    rows: IndexRows


Writer = Callable[[Any, int, int, Context], None]
"""(value, param_id, group_no, context): appends rows."""


# token: http://hl7.org/fhir/R4/search.html#token


def _token(system: str | None, code: str, param_id: int, group_no: int, context: Context) -> None:
    context.rows.tokens.append(TokenRow(param_id, hash64(system) if system else 0, bounded(folded(code)), group_no))


def _text(text: Any, param_id: int, group_no: int, context: Context) -> None:
    """A text of a token, for `:text`; composites have none."""
    if isinstance(text, str) and group_no == 0:
        context.rows.strings.append(StringRow(param_id + TEXT, normalise(text), composed(text)))


def _coding(value: Json, param_id: int, group_no: int, context: Context) -> None:
    # Without a code the row still says that something is there, and of which system (`s|`).
    _token(value.get("system"), value.get("code") or "", param_id, group_no, context)
    _text(value.get("display"), param_id, group_no, context)


def _codeable_concept(value: Json, param_id: int, group_no: int, context: Context) -> None:
    codings = [coding for coding in value.get("coding") or () if coding]
    for coding in codings:
        _coding(coding, param_id, group_no, context)
    if not codings:
        _token(None, "", param_id, group_no, context)
    _text(value.get("text"), param_id, group_no, context)


def _identifier(value: Json, param_id: int, group_no: int, context: Context) -> None:
    code = value.get("value") or ""
    _token(value.get("system"), code, param_id, group_no, context)
    kind = value.get("type")
    if not kind:
        return
    _text(kind.get("text"), param_id, group_no, context)
    for coding in kind.get("coding") or ():
        _text(coding.get("display"), param_id, group_no, context)
        if code and coding.get("code") and group_no == 0:
            of_type = hash64(of_type_key(coding.get("system") or "", coding["code"]))
            context.rows.tokens.append(TokenRow(param_id + OF_TYPE, of_type, bounded(folded(code))))


def of_type_key(system: str, code: str) -> str:
    """What an OF_TYPE row hashes: the identifier's type."""
    return f"{system}|{folded(code)}"


def _code(value: Any, param_id: int, group_no: int, context: Context) -> None:
    if isinstance(value, str):
        _token(None, value, param_id, group_no, context)


def _boolean(value: Any, param_id: int, group_no: int, context: Context) -> None:
    _token(None, "true" if value is True else "false", param_id, group_no, context)


def _contact_point(value: Json, param_id: int, group_no: int, context: Context) -> None:
    _token(None, value.get("value") or "", param_id, group_no, context)


# string: http://hl7.org/fhir/R4/search.html#string


def _string(value: Any, param_id: int, group_no: int, context: Context) -> None:
    if isinstance(value, str):
        context.rows.strings.append(StringRow(param_id, normalise(value), composed(value), group_no))


def _parts(*names: str) -> Writer:
    """A string of each of these elements."""

    def write(value: Json, param_id: int, group_no: int, context: Context) -> None:
        for name in names:
            part = value.get(name)
            for text in part if isinstance(part, list) else (part,):
                _string(text, param_id, group_no, context)

    return write


_human_name = _parts("text", "family", "given", "prefix", "suffix")
_address = _parts("text", "line", "city", "district", "state", "postalCode", "country")


# date: http://hl7.org/fhir/R4/search.html#date


def _interval(of: Callable[[Any, tzinfo], Interval | None]) -> Writer:
    def write(value: Any, param_id: int, group_no: int, context: Context) -> None:
        try:
            found = of(value, context.zone)
        except (ValueError, TypeError, AttributeError):
            return
        if found is not None:
            context.rows.dates.append(DateRow(param_id, *found, group_no))

    return write


_date = _interval(times.interval)


# number and quantity: http://hl7.org/fhir/R4/search.html#number, http://hl7.org/fhir/R4/search.html#quantity


def _double(value: Any) -> float | None:
    """The double of a JSON number, whatever class the parser made of it."""
    if value is None or isinstance(value, bool):
        return None
    try:
        return double(value if isinstance(value, Decimal) else Decimal(str(value)))
    except (InvalidOperation, OverflowError, ValueError):
        return None


def _number(value: Any, param_id: int, group_no: int, context: Context) -> None:
    number = _double(value)
    if number is not None:
        context.rows.numbers.append(NumberRow(param_id, number, number, group_no))


def _limits(value: Json) -> tuple[float, float]:
    low = _double((value.get("low") or {}).get("value"))
    high = _double((value.get("high") or {}).get("value"))
    return (-_UNBOUNDED if low is None else low), (_UNBOUNDED if high is None else high)


def _number_range(value: Json, param_id: int, group_no: int, context: Context) -> None:
    low, high = _limits(value)
    context.rows.numbers.append(NumberRow(param_id, low, max(low, high), group_no))


def _measured(unit: Json, low: float, high: float, param_id: int, group_no: int, context: Context) -> None:
    """A row by coded unit and, where it reads otherwise, one by human unit: `5.4||mg` asks for either."""
    system, code, human = unit.get("system"), unit.get("code"), unit.get("unit")
    rows = context.rows.quantities
    if code or system or not human:
        rows.append(QuantityRow(param_id, hash64(system or ""), bounded(code or ""), low, high, group_no))
    if human and human != code:
        rows.append(QuantityRow(param_id, 0, bounded(human), low, high, group_no))


def _quantity(value: Json, param_id: int, group_no: int, context: Context) -> None:
    number = _double(value.get("value"))
    if number is None:
        return
    comparator = value.get("comparator") or ""
    low = -_UNBOUNDED if comparator.startswith("<") else number
    high = _UNBOUNDED if comparator.startswith(">") else number
    _measured(value, low, high, param_id, group_no, context)


def _money(value: Json, param_id: int, group_no: int, context: Context) -> None:
    number = _double(value.get("value"))
    if number is not None:
        unit = {"system": CURRENCY, "code": value["currency"]} if value.get("currency") else {}
        _measured(unit, number, number, param_id, group_no, context)


def _range(value: Json, param_id: int, group_no: int, context: Context) -> None:
    low, high = _limits(value)
    _measured(value.get("low") or value.get("high") or {}, low, max(low, high), param_id, group_no, context)


def _sampled_data(value: Json, param_id: int, group_no: int, context: Context) -> None:
    """From the least to the greatest sample: origin + sample × factor. http://hl7.org/fhir/R4/datatypes.html#SampledData"""
    origin = value.get("origin") or {}
    start, factor = _double(origin.get("value")), _double(value.get("factor", 1))
    if start is None or factor is None:
        return
    samples = [number for number in map(_double, str(value.get("data") or "").split()) if number is not None]
    values = [start + sample * factor for sample in samples] or [start]
    _measured(origin, min(values), max(values), param_id, group_no, context)


# reference and uri: http://hl7.org/fhir/R4/search.html#reference, http://hl7.org/fhir/R4/search.html#uri


def _reference(value: Json, param_id: int, group_no: int, context: Context) -> None:
    identifier = value.get("identifier")
    if identifier and group_no == 0:
        _token(identifier.get("system"), identifier.get("value") or "", param_id + IDENTIFIER, 0, context)
    text = value.get("reference")
    rows = context.rows.references
    if isinstance(text, str):
        target = parse(text, context.base_urls)
        if target.id is not None:
            number = registry.type_id(str(target.type))
            rows.append(ReferenceRow(param_id, number, target.id, target.version or "", "", group_no))
            return
    name = target_type(value, context.resource)
    number = registry.type_id(name) if registry.is_type(name) and name else 0
    rows.append(ReferenceRow(param_id, number, "", "", bounded(text, URI_LIMIT) if isinstance(text, str) else "",
                             group_no))


def _canonical_reference(value: Any, param_id: int, group_no: int, context: Context) -> None:
    """A reference parameter over canonicals: the version is kept apart, so that a query may leave it out."""
    if isinstance(value, str):
        url, _, version = value.partition("|")
        context.rows.references.append(
            ReferenceRow(param_id, 0, "", bounded(version, URI_LIMIT), bounded(url, URI_LIMIT), group_no)
        )


def _attachment(value: Json, param_id: int, group_no: int, context: Context) -> None:
    """Consent.source as Attachment: known by its URL, which may be that of a Binary here."""
    _reference({"reference": value["url"]} if value.get("url") else {}, param_id, group_no, context)


def _inline(value: Json, param_id: int, group_no: int, context: Context) -> None:
    """Bundle.entry[0].resource: it is inside, so there is nothing on this server to point to."""
    name = value.get("resourceType")
    number = registry.type_id(name) if registry.is_type(name) and name else 0
    context.rows.references.append(ReferenceRow(param_id, number, "", "", "", group_no))


def _uri(value: Any, param_id: int, group_no: int, context: Context) -> None:
    if isinstance(value, str):
        context.rows.uris.append(UriRow(param_id, bounded(value, URI_LIMIT), group_no))


def _canonical(value: Any, param_id: int, group_no: int, context: Context) -> None:
    _uri(value, param_id, group_no, context)
    if isinstance(value, str) and "|" in value:
        _uri(value.partition("|")[0], param_id, group_no, context)


def _nothing(value: Any, param_id: int, group_no: int, context: Context) -> None:
    """A choice that the kind of parameter cannot compare (an Age among dates): not indexed."""


WRITERS: Mapping[str, Mapping[str, Writer]] = {
    "token": {
        "CodeableConcept": _codeable_concept,
        "Coding": _coding,
        "Identifier": _identifier,
        "ContactPoint": _contact_point,
        "boolean": _boolean,
        **dict.fromkeys(("code", "string", "id", "uri"), _code),
        # Group.characteristic.value[x] of other types, in its composite.
        **dict.fromkeys(("Quantity", "Range", "Reference"), _nothing),
    },
    "string": {"string": _string, "markdown": _string, "HumanName": _human_name, "Address": _address},
    "date": {
        **dict.fromkeys(("date", "dateTime", "instant"), _date),
        # Goal and Immunization choices that are texts, as a rule no dates.
        "string": _nothing,
        "Age": _nothing,
        "Range": _nothing,
        "Period": _interval(times.period),
        "Timing": _interval(times.timing),
    },
    "number": {"decimal": _number, "integer": _number, "Range": _number_range},
    "quantity": {
        **dict.fromkeys(("Quantity", "Age", "Duration"), _quantity),
        "Money": _money,
        "Range": _range,
        "SampledData": _sampled_data,
    },
    "reference": {
        "Reference": _reference,
        "canonical": _canonical_reference,
        "uri": _canonical_reference,
        "Attachment": _attachment,
        "Resource": _inline,
    },
    "uri": {"uri": _uri, "url": _uri, "canonical": _canonical},
}
