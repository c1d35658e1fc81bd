"""What a prefix asks of the range of a stored value: one table for dates, one for numbers.

A date is half-open in the index and in the query. A number in the index is closed (a plain one has low == high); in
the query `eq`, `ne` and `ap` have the implicit precision of how it was written, the other prefixes have none.

FHIR R4 §3.1.1.4.4 http://hl7.org/fhir/R4/search.html#prefix
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation

from resources.criteria import Bound

Alternatives = tuple[tuple[Bound, ...], ...]

PREFIXES = frozenset({"eq", "ne", "gt", "lt", "ge", "le", "sa", "eb", "ap"})

_DOUBLE_MAX = 1.7976931348623157e308


def split_prefix(text: str) -> tuple[str, str]:
    """The prefix of a date, number or quantity (`eq` if there is none), and what follows it."""
    return (text[:2], text[2:]) if text[:2] in PREFIXES else ("eq", text)


def _low(operator: str, value: int | float) -> Bound:
    return Bound("low", operator, value)  # type: ignore[arg-type]


def _high(operator: str, value: int | float) -> Bound:
    return Bound("high", operator, value)  # type: ignore[arg-type]


# What the standard says of each prefix, with [low, high) of the query. `ge` in its words is "the range above
# intersects, or the query contains it": high > H or (low >= L and high <= H), which is the shorter form below.
_DATES: dict[str, Callable[[int, int], Alternatives]] = {
    "eq": lambda low, high: ((_low(">=", low), _high("<=", high)),),
    "ne": lambda low, high: ((_low("<", low),), (_high(">", high),)),
    "gt": lambda low, high: ((_high(">", high),),),
    "lt": lambda low, high: ((_low("<", low),),),
    "ge": lambda low, high: ((_high(">", high),), (_low(">=", low),)),
    "le": lambda low, high: ((_low("<", low),), (_high("<=", high),)),
    "sa": lambda low, high: ((_low(">=", high),),),
    "eb": lambda low, high: ((_high("<=", low),),),
    "ap": lambda low, high: ((_low("<", high), _high(">", low)),),
}


def dates(prefix: str, low: int, high: int, now: int = 0) -> Alternatives:
    """What `prefix` asks of a stored date, for a query of the ticks [low, high).

    `ap` widens by a tenth of the distance between `now` and the date, as the standard suggests. An exact instant
    is a point, which has no inside: `ge` then also holds of what lasts until that very tick, `le` of what begins at it.
    """
    if prefix == "ap":
        distance = max(low - now, now - high, 0) // 10
        low, high = low - distance, high + distance
    if high - low == 1 and prefix == "ge":
        return ((_high(">", low),),)
    if high - low == 1 and prefix == "le":
        return ((_low("<", high),),)
    return _DATES[prefix](low, high)


_NUMBER = re.compile(r"[+-]?\d+(?:\.(\d+))?(?:[eE]([+-]?\d+))?", re.ASCII)


def number(text: str) -> tuple[Decimal, Decimal]:
    """A number of a query and half the unit of its last digit. ValueError where it is none.

    `100` is ±0.5, `5.40e-3` ±0.000005. The standard's own example makes `1e2` ±5 and not ±50: one digit more
    where a whole number is scaled up (§3.1.1.5.4).
    """
    match = _NUMBER.fullmatch(text)
    if match is None or len(text) > 64:
        raise ValueError("not a number")
    decimals, exponent = len(match[1] or ""), int(match[2] or 0)
    if abs(exponent) > 400:
        raise ValueError("a number out of range")
    unit = exponent - decimals - (1 if exponent > 0 and not decimals else 0)
    try:
        return Decimal(text), Decimal("0.5").scaleb(unit)
    except InvalidOperation as error:
        raise ValueError("not a number") from error


def double(value: Decimal) -> float:
    """The nearest double, never infinite: what a database can keep and compare."""
    return min(max(float(value), -_DOUBLE_MAX), _DOUBLE_MAX)


def numbers(prefix: str, value: Decimal, half_unit: Decimal) -> Alternatives:
    """What `prefix` asks of a stored number or range of numbers."""
    point = double(value)
    low, high = double(value - half_unit), double(value + half_unit)
    if prefix == "ap":
        around = max(abs(value) / 10, half_unit)
        return ((_low("<=", double(value + around)), _high(">=", double(value - around))),)
    if prefix == "eq":
        return ((_low(">=", low), _high("<", high)),)
    if prefix == "ne":
        return ((_low("<", low),), (_high(">=", high),))
    column, operator = {
        "gt": ("high", ">"), "ge": ("high", ">="), "lt": ("low", "<"), "le": ("low", "<="),
        "sa": ("low", ">"), "eb": ("high", "<"),
    }[prefix]  # fmt: skip
    return ((Bound(column, operator, point),),)  # type: ignore[arg-type]
