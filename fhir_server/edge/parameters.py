"""What the URL says, held against what the route declares: nothing is ignored in silence.

What is left over is refused (400, `expression` names it) or, under `Prefer: handling=lenient`, left out and told: in a
`Warning` header, in a searchset as an outcome entry as well. A condition (If-None-Exist, a conditional update) is never
weakened so: there an unknown parameter is refused whatever the client prefers.

FHIR R4 http://hl7.org/fhir/R4/http.html#parameters, §3.1.1.2 http://hl7.org/fhir/R4/search.html#errors
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from fhir_server.edge.summary import Subset
from resources.interactions import ELEMENTS, PRETTY, SUMMARY, Parameter
from resources.outcomes import BadRequest
from resources.search import element_names
from resources.search_criteria import UnknownParameter
from resources.search_values import refuse

Pairs = tuple[tuple[str, str], ...]

_PLAIN = re.compile(r"[A-Za-z0-9_\-.:$]{1,60}")
_CHECKS: Mapping[str, tuple[Callable[[str], object], str]] = {
    "integer": (re.compile(r"[0-9]{1,9}").fullmatch, "must be a whole number of 0 or more"),
    "boolean": (re.compile("true|false").fullmatch, "must be true or false"),
}
"""Type → what its text must look like. Other types are read by whoever uses the value."""


@dataclass(frozen=True, slots=True)
class Given:
    """The parameters of one request, all of them known."""

    pairs: Pairs = ()
    """What is heeded, in the order sent."""
    declared: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Declared parameter → its values."""
    criteria: Pairs = ()
    """The others: a search's, or a condition's."""
    dropped: tuple[str, ...] = ()
    """Names that were left out under `handling=lenient`."""
    subset: Subset | None = None
    """What `_summary` and `_elements` leave of each resource."""

    def one(self, name: str) -> str | None:
        """The value of a parameter that is given once."""
        values = self.declared.get(name)
        return values[0] if values else None

    @property
    def pretty(self) -> bool:
        """Whether the answer is to be indented (`_pretty`)."""
        return self.one(PRETTY.name) == "true"


NOTHING = Given()


def take(
    pairs: Sequence[tuple[str, str]],
    declared: Sequence[Parameter],
    *,
    criteria: bool = False,
    lenient: bool = False,
    type_name: str | None = None,
) -> Given:
    """Hold `pairs` against `declared`. Raises BadRequest for what is unknown, empty, repeated or of no such value.

    `criteria`: the others belong to a search or a condition, which judges them itself. `type_name`: whose elements
    `_elements` may name; None: of any type.
    """
    if not pairs:
        return NOTHING
    known = {parameter.name: parameter for parameter in declared}
    kept, others, dropped = [], [], []
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        parameter = known.get(name)
        if parameter is None and criteria:
            others.append((name, value))
        else:
            try:
                _check(name, value, parameter, found, type_name)
            except UnknownParameter:
                if not lenient:
                    raise
                dropped.append(name)
                continue
            found.setdefault(name, []).append(value)
        kept.append((name, value))
    given = {name: tuple(values) for name, values in found.items()}
    return Given(tuple(kept), given, tuple(others), tuple(dropped), _subset(given))


def left_out(name: str) -> str:
    """The sentence that tells of a parameter left out; its name, if it is plainly one."""
    return f"The parameter {shown(name)} is not known or not supported here and was left out"


def shown(name: str) -> str:
    """A parameter's name as it may be repeated in an answer."""
    return name if _PLAIN.fullmatch(name) else "(unreadable name)"


def _check(
    name: str, value: str, parameter: Parameter | None, found: Mapping[str, list[str]], type_name: str | None
) -> None:
    if parameter is None:
        raise _unknown(name, "is not known here", "not-supported")
    if not value:
        raise _unknown(name, "has no value", "value")
    if name in found and not parameter.repeats:
        raise _refuse(name, "is given more than once")
    if parameter.values and value not in parameter.values:
        raise _refuse(name, f"must be one of {', '.join(parameter.values)}")
    check = _CHECKS.get(parameter.type)
    if check is not None and not check[0](value):
        raise _refuse(name, check[1])
    if name == ELEMENTS.name:
        element_names(type_name, name, value)


def _refuse(name: str, rule: str, code: str = "value") -> BadRequest:
    return refuse(name, rule, code=code, what="Parameter")


def _unknown(name: str, rule: str, code: str) -> UnknownParameter:
    fault = _refuse(name, rule, code)
    return UnknownParameter(fault.diagnostics, issues=fault.issues)


def _subset(given: Mapping[str, tuple[str, ...]]) -> Subset | None:
    """`_summary` wins over `_elements`; `count` and `false` leave the resources whole."""
    mode = given.get(SUMMARY.name, ("",))[0]
    if mode in ("true", "text", "data"):
        return Subset(mode)
    names = [name.strip().split(".")[-1] for value in given.get(ELEMENTS.name, ()) for name in value.split(",")]
    return Subset("elements", frozenset(names)) if names else None
