"""Reading elements of a resource whose structure nobody has vouched for: every reader gives something and none raises.

An element exists if it has a value or, being primitive, an extension beside it (`_birthDate`).
http://hl7.org/fhir/R4/json.html
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from resources.json import Json


def has(node: Json, name: str) -> bool:
    """Whether the element exists, by value or extension."""
    return name in node or "_" + name in node


def has_choice(node: Json, name: str) -> bool:
    """Whether a choice element ``name[x]`` exists in any of its types."""
    length = len(name)
    for key in node:
        key = key.removeprefix("_")
        if key.startswith(name) and key[length : length + 1].isupper():
            return True
    return False


def text(node: Json, name: str) -> str | None:
    """The string at `name`; None where there is none."""
    value = node.get(name)
    return value if isinstance(value, str) else None


def texts(node: Json, name: str) -> list[str]:
    """The strings of the list at `name`."""
    value = node.get(name)
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def number(node: Json, name: str) -> int | Decimal | None:
    """The number at `name`; None where there is none."""
    value = node.get(name)
    return value if isinstance(value, (int, Decimal)) and not isinstance(value, bool) else None


def inner(node: Json, name: str) -> Json:
    """The object, or an empty one."""
    value = node.get(name)
    return value if isinstance(value, dict) else {}


def items(node: Json, name: str) -> list[Json]:
    """The list, with an empty object in the place of what is none, so that positions stay."""
    value = node.get(name)
    if not isinstance(value, list):
        return []
    return [item if isinstance(item, dict) else {} for item in value]


def objects(node: Json, name: str) -> list[Json]:
    """The objects of a list, whatever else it holds."""
    value = node.get(name)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def count(node: Json, name: str) -> int:
    """How many values `name` has."""
    value = node.get(name)
    return len(value) if isinstance(value, list) else int(has(node, name))


def distinct(values: list[Any]) -> bool:
    """Whether no two values are equal."""
    return len(values) == len(set(values))


def coded(node: Json, name: str, system: str, code: str) -> bool:
    """Whether a CodeableConcept has this coding."""
    concept = node.get(name)
    codings = objects(concept, "coding") if isinstance(concept, dict) else []
    return any(coding.get("system") == system and coding.get("code") == code for coding in codings)


_TYPED = re.compile(r"(?:^|/)([A-Z][A-Za-z]{1,63})/[A-Za-z0-9\-.]{1,64}(?:/_history/[A-Za-z0-9\-.]{1,64})?$")
_CONDITIONAL = re.compile(r"([A-Z][A-Za-z]{1,63})\?.")


def reference_type(reference: Any) -> str | None:
    """The type a Reference says to point to, by its literal or its `type`; None if it does not say."""
    if not isinstance(reference, dict):
        return None
    literal = text(reference, "reference")
    if literal is None:
        return text(reference, "type")
    found = _TYPED.search(literal) or _CONDITIONAL.match(literal)
    return found[1] if found else None


def in_order(node: Json, first: str, second: str) -> bool:
    """Whether the first time is known not to be later than the second; true if either is absent.

    Times of different precision are compared as far as both go; equal so far, their order is not known, and FHIRPath
    gives no answer, which is not true (http://hl7.org/fhirpath/N1/#comparison): a day is not before an hour of it.
    """
    one, other = text(node, first), text(node, second)
    if one is None or other is None:
        return True
    if "T" in one and "T" in other:
        start, end = _moment(one), _moment(other)
        return start is None or end is None or start <= end
    if len(one) == len(other):
        return one <= other
    known = min(len(one), len(other), 10)
    return one[:known] < other[:known]


_FRACTION = re.compile(r"\.([0-9]+)")


def _moment(value: str) -> tuple[datetime, str] | None:
    """The whole second in UTC, and the fraction with as many digits as it has (a str compares digit by digit)."""
    fraction = _FRACTION.search(value)
    whole = _FRACTION.sub("", value)
    try:
        moment = datetime.fromisoformat(whole.replace(":60", ":59"))
        if moment.tzinfo is None:
            return None
        leap = timedelta(seconds=1 if ":60" in whole else 0)
        return moment.astimezone(UTC) + leap, fraction[1].rstrip("0") if fraction else ""
    except (ValueError, OverflowError):
        return None
