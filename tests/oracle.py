"""A naive matcher: what a search should find, over plain JSON, written from the standard and not from the index.

It knows a few types and parameters by hand (`PARAMETERS`), reads elements by name, and computes each prefix in the
words of the standard's own table with exact fractions. It shares no code with `resources`, so that the two can only
agree by both being right. `finds` takes the other resources too, for chains and `_has`.

FHIR R4 §3.1.1 http://hl7.org/fhir/R4/search.html
"""

from __future__ import annotations

import re
import unicodedata
from calendar import monthrange
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

from resources.json import Json

Pairs = Sequence[tuple[str, str]]
Range = tuple[Fraction, Fraction, bool]
"""Low, high, and whether high belongs to it."""

FOREVER = Fraction(10**30)

# type → code → (kind, paths). A path is names with dots; `x?` asks that the Reference found is to the type x.
PARAMETERS: dict[str, dict[str, tuple[str, tuple[str, ...]]]] = {
    "Patient": {
        "active": ("token", ("active",)),
        "address-city": ("string", ("address.city",)),
        "birthdate": ("date", ("birthDate",)),
        "family": ("string", ("name.family",)),
        "gender": ("token", ("gender",)),
        "general-practitioner": ("reference", ("generalPractitioner",)),
        "given": ("string", ("name.given",)),
        "identifier": ("token", ("identifier",)),
        "name": ("string", ("name.family", "name.given", "name.text", "name.prefix", "name.suffix")),
        "organization": ("reference", ("managingOrganization",)),
    },
    "Observation": {
        "category": ("token", ("category",)),
        "code": ("token", ("code",)),
        "component-code": ("token", ("component.code",)),
        "date": ("date", ("effectiveDateTime", "effectivePeriod", "effectiveInstant")),
        "patient": ("reference", ("subject/Patient?",)),
        "status": ("token", ("status",)),
        "subject": ("reference", ("subject",)),
        "value-concept": ("token", ("valueCodeableConcept",)),
        "value-quantity": ("quantity", ("valueQuantity",)),
    },
    "ServiceRequest": {
        "authored": ("date", ("authoredOn",)),
        "based-on": ("reference", ("basedOn",)),
        "code": ("token", ("code",)),
        "identifier": ("token", ("identifier",)),
        "intent": ("token", ("intent",)),
        "occurrence": ("date", ("occurrenceDateTime", "occurrencePeriod")),
        "patient": ("reference", ("subject/Patient?",)),
        "priority": ("token", ("priority",)),
        "status": ("token", ("status",)),
        "subject": ("reference", ("subject",)),
    },
    "ValueSet": {"url": ("uri", ("url",)), "name": ("string", ("name",)), "status": ("token", ("status",))},
}
COMMON: dict[str, tuple[str, tuple[str, ...]]] = {
    "_id": ("id", ("id",)),
    "_lastUpdated": ("date", ("meta.lastUpdated",)),
    "_tag": ("token", ("meta.tag",)),
    "_profile": ("uri", ("meta.profile",)),
}
COMPOSITES: dict[str, dict[str, tuple[str, tuple[tuple[str, str], ...]]]] = {
    "Observation": {
        "code-value-quantity": ("", (("token", "code"), ("quantity", "valueQuantity"))),
        "component-code-value-quantity": ("component", (("token", "code"), ("quantity", "valueQuantity"))),
    }
}


def finds(resource: Json, query: Pairs, others: Sequence[Json] = ()) -> bool:
    """Whether `resource` is a match of every `name=value`; `others` are all resources of the server."""
    return all(_holds(resource, name, value, others) for name, value in query)


def _holds(resource: Json, name: str, value: str, others: Sequence[Json]) -> bool:
    type_name = resource["resourceType"]
    if name.startswith("_has:"):
        _, source, code, rest = name.split(":", 3)
        me = f"{type_name}/{resource['id']}"
        return any(
            me in [target for target, _ in _references(other, code)] and _holds(other, rest, value, others)
            for other in others
            if other["resourceType"] == source
        )
    head, dot, rest = name.partition(".")
    if dot:
        code, _, wanted = head.partition(":")
        targets = {target for target, _ in _references(resource, code)}
        return any(
            f"{other['resourceType']}/{other['id']}" in targets and _holds(other, rest, value, others)
            for other in others
            if wanted in ("", other["resourceType"]) and _knows(other["resourceType"], rest)
        )
    code, _, modifier = name.partition(":")
    if code in COMPOSITES.get(type_name, {}):
        return _composite(resource, code, value)
    kind, paths = COMMON.get(code) or PARAMETERS[type_name][code]
    found = [one for path in paths for one in _values(resource, path)]
    if modifier == "missing":
        return (value == "true") == (not found)
    matched = any(_value(kind, modifier, one, part) for part in _split(value, ",") for one in found)
    return not matched if modifier == "not" else matched


def _knows(type_name: str, name: str) -> bool:
    code = re.split(r"[:.]", name)[0]
    return code in COMMON or code in PARAMETERS.get(type_name, {})


def _composite(resource: Json, code: str, value: str) -> bool:
    element, components = COMPOSITES[resource["resourceType"]][code]
    nodes = list(_values(resource, element)) if element else [resource]
    return any(
        all(
            any(_value(kind, "", one, part) for one in _values(node, path))
            for (kind, path), part in zip(components, _split(group, "$"), strict=True)
        )
        for group in _split(value, ",")
        for node in nodes
    )


def _values(node: Any, path: str) -> Iterator[Any]:
    path, _, wanted = path.partition("/")
    nodes = [node]
    for name in path.split("."):
        found = [one[name] for one in nodes if name in one]
        nodes = [item for one in found for item in (one if isinstance(one, list) else [one])]
    for one in nodes:
        if not wanted or str(one.get("reference", "")).startswith(wanted[:-1] + "/"):
            yield one


def _references(resource: Json, code: str) -> Iterator[tuple[str, Json]]:
    for path in PARAMETERS[resource["resourceType"]][code][1]:
        for one in _values(resource, path):
            text = one.get("reference", "")
            yield text.partition("/_history/")[0], one


def _split(text: str, separator: str) -> list[str]:
    return re.findall(rf"(?:\\.|[^\\{re.escape(separator)}])+", text)


def _plain(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def _value(kind: str, modifier: str, found: Any, asked: str) -> bool:
    match kind:
        case "id":
            return bool(found == asked)
        case "token":
            return _token(modifier, found, asked)
        case "string":
            return _string(modifier, found, _plain(asked))
        case "uri":
            return _uri(modifier, found, _plain(asked))
        case "reference":
            return _reference(modifier, found, _plain(asked))
        case "date":
            return _prefixed(asked, _date_range(found), _date_asked, 0)
        case "quantity":
            return _quantity(found, asked)
    raise AssertionError(kind)


# token: a list of (system, code) and one of texts, whatever the data type


def _codes(found: Any) -> list[tuple[str, str]]:
    if isinstance(found, bool):
        return [("", "true" if found else "false")]
    if isinstance(found, str):
        return [("", found)]
    if "coding" in found or "text" in found:
        return [code for coding in found.get("coding", []) for code in _codes(coding)]
    return [(found.get("system", ""), found.get("code") or found.get("value") or "")]


def _token(modifier: str, found: Any, asked: str) -> bool:
    if modifier == "text":
        texts = [found.get("text"), found.get("display")] + [c.get("display") for c in found.get("coding", [])]
        return any(_string("", text, _plain(asked)) for text in texts if text)
    parts = [_plain(part) for part in re.split(r"(?<!\\)\|", asked)]
    if modifier == "of-type":
        kinds = [(c.get("system", ""), c.get("code")) for c in found.get("type", {}).get("coding", [])]
        return (parts[0], parts[1]) in kinds and found.get("value", "").lower() == parts[2].lower()
    for system, code in _codes(found):
        same = code.lower() == parts[-1].lower()
        if len(parts) == 1 and same:
            return True
        if len(parts) == 2 and system == parts[0] and (same or not parts[1]):
            return True
    return False


def _string(modifier: str, found: str, asked: str) -> bool:
    if modifier == "exact":
        return found == asked
    mine, theirs = _bare(found), _bare(asked)
    return theirs in mine if modifier == "contains" else mine[: len(theirs)] == theirs


def _bare(text: str) -> str:
    kept = [c for c in unicodedata.normalize("NFD", text.casefold()) if unicodedata.category(c) != "Mn"]
    return re.sub(r"\s+", " ", "".join(kept)).strip()


def _uri(modifier: str, found: str, asked: str) -> bool:
    mine = found.partition("|")[0] if "|" not in asked else found
    if modifier == "below":
        return mine == asked or mine.startswith(asked.rstrip("/") + "/")
    return mine == asked


def _reference(modifier: str, found: Json, asked: str) -> bool:
    if modifier == "identifier":
        return "identifier" in found and _token("", found["identifier"], asked)
    text = found.get("reference", "")
    target, _, _ = text.partition("/_history/")
    if "/" not in asked:
        kind, _, id = target.rpartition("/")
        return bool(id == asked and (not modifier or kind == modifier) and re.fullmatch(r"[A-Za-z]+", kind))
    return bool(asked == (text if "/_history/" in asked else target))


# ranges: the standard's table of prefixes, in its own words (§3.1.1.4.4)


def _prefixed(asked: str, target: Range, read: Any, fuzz: int) -> bool:
    prefix, text = (asked[:2], asked[2:]) if asked[:2].isalpha() else ("eq", asked)
    low, high, closed = read(prefix, text)
    t_low, t_high, t_closed = target

    def overlaps(a_low: Fraction, a_high: Fraction, a_closed: bool) -> bool:
        starts_in_time = t_low < a_high or (t_low == a_high and a_closed)
        ends_late_enough = a_low < t_high or (a_low == t_high and t_closed)
        return starts_in_time and ends_late_enough

    contained = low <= t_low and (t_high < high or (t_high == high and (closed or not t_closed)))
    point = low == high and closed
    above = t_high > high or (t_high == high and t_closed and not closed)
    below = t_low < low
    match prefix:
        case "eq":
            return contained
        case "ne":
            return not contained
        case "gt":
            return above
        case "lt":
            return below
        case "ge":
            return above or contained or (point and overlaps(low, high, closed))
        case "le":
            return below or contained or (point and overlaps(low, high, closed))
        case "sa":
            return not overlaps(low, high, closed) and t_low >= high
        case "eb":
            return not overlaps(low, high, closed) and t_high <= low
    raise AssertionError(prefix)


def _span(text: str) -> Range:
    """A date as seconds since year 1; an instant with a fraction is a point."""
    if "T" not in text:
        parts = [int(part) for part in text.split("-")]
        year, month, day = (*parts, 1, 1)[:3]
        start = datetime(year, month, day, tzinfo=UTC)
        days = {1: 366 if monthrange(year, 2)[1] == 29 else 365, 2: monthrange(year, month)[1], 3: 1}[len(parts)]
        low = _seconds(start)
        return low, low + days * 86400, False
    clock, fraction, zone = re.fullmatch(r"([^.Z+]+?)(\.\d+)?(Z|[+-]\d\d:\d\d)?", text).groups()  # type: ignore[union-attr]
    width = 60 if clock.count(":") == 1 else 1
    start = datetime.fromisoformat(clock + (":00" if width == 60 else "") + (zone or "+00:00").replace("Z", "+00:00"))
    low = _seconds(start)
    if fraction:
        low += Fraction(fraction[:8])
        return low, low, True
    return low, low + width, False


def _seconds(at: datetime) -> Fraction:
    return Fraction((at - datetime(1, 1, 1, tzinfo=UTC)) // timedelta(seconds=1))


def _date_range(found: Any) -> Range:
    if isinstance(found, str):
        return _span(found)
    low = _span(found["start"])[0] if "start" in found else -FOREVER
    _, high, closed = _span(found["end"]) if "end" in found else (0, FOREVER, False)
    return low, high, closed


def _date_asked(prefix: str, text: str) -> Range:
    return _span(text)


def _number_asked(prefix: str, text: str) -> Range:
    value = Fraction(text)
    if prefix not in ("eq", "ne"):
        return value, value, True
    half = Fraction(1, 2) / 10 ** len(text.partition(".")[2])
    return value - half, value + half, False


def _quantity(found: Json, asked: str) -> bool:
    number, *unit = asked.split("|")
    if unit:
        system, code = unit
        by_code = found.get("code") == code and system in ("", found.get("system"))
        by_name = not system and found.get("unit") == code
        if not by_code and not by_name:
            return False
    value = Fraction(str(found["value"]))
    comparator = found.get("comparator", "")
    low = -FOREVER if comparator.startswith("<") else value
    high = FOREVER if comparator.startswith(">") else value
    return _prefixed(number, (low, high, True), _number_asked, 0)
