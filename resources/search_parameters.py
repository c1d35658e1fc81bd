"""Every R4 search parameter of every type, numbered for ever.

Numbers are a registry (`definitions/parameter_numbers.json`) that is only ever appended to, and that each database has
a copy of: whatever order or further rows the standard's file comes with, what is on disk keeps its meaning. Each type
has parameters of its own, also where the standard shares one definition (`clinical-code`). The common ones (`_id`,
`_lastUpdated`, `_profile`, `_security`, `_source`, `_tag`) are numbered once, under `Resource`: a row's type is told by
the version it belongs to, so one number serves type and system searches. Those of our own (`own_parameters`) are
numbered by hand, from 50,000 and below TEXT.

http://hl7.org/fhir/R4/searchparameter-registry.html
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any

from resources import definitions, own_parameters
from resources.index_rows import Table
from resources.paths import reference_targets, value_types

TEXT = 100_000
"""Pseudo parameter `id + TEXT` in sp_string: the texts of a token parameter, for `:text`."""
OF_TYPE = 200_000
"""Pseudo parameter `id + OF_TYPE` in sp_token: identifiers with their type, for `:of-type`."""
IDENTIFIER = 300_000
"""Pseudo parameter `id + IDENTIFIER` in sp_token: Reference.identifier of a reference parameter, for `:identifier`."""
COMPONENT = 400_000
"""Pseudo parameter `id + COMPONENT + n * COMPONENT_STEP`: the values of a composite's n-th component."""
COMPONENT_STEP = 100_000

TABLES: Mapping[str, Table] = {
    "token": Table.TOKEN,
    "string": Table.STRING,
    "date": Table.DATE,
    "number": Table.NUMBER,
    "quantity": Table.QUANTITY,
    "reference": Table.REFERENCE,
    "uri": Table.URI,
}
"""Kind of parameter → where its rows are."""

_COMMON_BASES = ("Resource", "DomainResource")


@dataclass(frozen=True, slots=True)
class ComponentParameter:
    """One component of a composite: a path from the composite's element, and how its value is compared."""

    expression: str
    kind: str
    targets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SearchParameter:
    """A search parameter of one type."""

    id: int
    type: str
    """The base type; ``Resource`` for the common ones."""
    code: str
    kind: str
    """token, string, date, number, quantity, reference, uri, composite or special."""
    paths: tuple[str, ...]
    """The alternatives of the expression that begin at this type."""
    targets: tuple[str, ...] = ()
    """Resource types that a reference parameter may point to; empty or with ``Resource``: any."""
    components: tuple[ComponentParameter, ...] = ()
    definition: str = ""
    """Canonical of what is not the standard's."""
    via: str = ""
    """How its values are derived, where they are not the element's own: a row of `resources.derived_values`."""

    @property
    def table(self) -> Table:
        """Where its rows are; of a composite: those of its first component."""
        if self.code == "_id":
            return Table.ID
        if self.code == "_lastUpdated":
            return Table.LAST_UPDATED
        return TABLES[self.components[0].kind if self.components else self.kind]

    @property
    def row_id(self) -> int:
        """The `param_id` of its rows; of a composite: of its first component."""
        return component_id(self, 0) if self.components else self.id

    @property
    def supported(self) -> bool:
        """Whether the server answers it: `_text`, `_content`, `_query` and `near` are refused, not ignored."""
        return self.kind != "special" and bool(self.paths)


def parameter(type_name: str | None, code: str) -> SearchParameter | None:
    """The parameter `code` of a type, the common ones included; of None (the whole system), only the common ones."""
    return parameters(type_name).get(code)


@cache
def parameters(type_name: str | None) -> Mapping[str, SearchParameter]:
    """Code → parameter of a type, its own and the common ones; sorted by code."""
    by_type = _registry()
    found = dict(by_type["Resource"]) | dict(by_type["DomainResource"])
    if type_name is not None:
        found |= by_type.get(type_name, {})
    return MappingProxyType(dict(sorted(found.items())))


def by_id(number: int) -> SearchParameter:
    """The parameter with this number; KeyError if there is none."""
    return _numbered()[number]


def component_id(composite: SearchParameter, position: int) -> int:
    """The pseudo parameter of a composite's component, counted from 0."""
    return composite.id + COMPONENT + position * COMPONENT_STEP


@cache
def component_parameter(composite: SearchParameter, position: int) -> SearchParameter:
    """A composite's component as a parameter of its own, whose rows are those of the pseudo parameter."""
    component = composite.components[position]
    relative = () if component.expression.startswith("%") else alternatives(component.expression)
    owner = value_types(composite.paths[0], composite.type)[0]
    return SearchParameter(
        component_id(composite, position), owner, composite.code, component.kind, relative, component.targets
    )


def numbers() -> Mapping[int, tuple[str, str]]:
    """Number → (type, code) of every parameter: what a database's copy of the registry has."""
    return {number: (row.type, row.code) for number, row in _numbered().items()}


@cache
def _numbered() -> Mapping[int, SearchParameter]:
    return {row.id: row for of_type in _registry().values() for row in of_type.values()}


@cache
def _registry() -> Mapping[str, Mapping[str, SearchParameter]]:
    rows = definitions.search_parameters()
    by_definition = {row["id"]: row for row in rows}
    pairs = sorted((base, row["code"], row["id"]) for row in rows for base in row["base"])
    numbers = definitions.parameter_numbers()
    found: dict[str, dict[str, SearchParameter]] = {base: {} for base in _COMMON_BASES}
    for base, code, definition in pairs:
        number = numbers.get((base, code))
        if number is None:
            raise ValueError(f"{base} has a parameter {code} without a number: scripts/number_parameters.py")
        found.setdefault(base, {})[code] = _parameter(number, base, by_definition[definition], by_definition)
    taken = {row.id for of_type in found.values() for row in of_type.values()}
    for own in own_parameters.TABLE:
        if own.number in taken or not own_parameters.FIRST <= own.number < TEXT:
            raise ValueError(f"The number of {own.code} is not one of our own, or is given twice")
        if any(own.code in found.get(base, ()) for base in (own.base, *_COMMON_BASES)):
            raise ValueError(f"{own.base} has a parameter {own.code} already")
        taken.add(own.number)
        row = {"code": own.code, "type": own.type, "expression": own.expression, "target": own.target}
        found.setdefault(own.base, {})[own.code] = _parameter(own.number, own.base, row, {}, own.url, own.via)
    return found


def _parameter(
    number: int, base: str, row: dict[str, Any], by_definition: Mapping[str, Any], definition: str = "", via: str = ""
) -> SearchParameter:
    paths = tuple(_paths(base, row.get("expression", "")))
    return SearchParameter(
        id=number,
        type=base,
        code=row["code"],
        kind=row["type"],
        paths=paths,
        targets=_targets(base, paths, row),
        components=tuple(
            ComponentParameter(
                expression=part["expression"],
                kind=by_definition[part["definition"]]["type"],
                targets=tuple(by_definition[part["definition"]].get("target", ())),
            )
            for part in row.get("component", ())
        ),
        definition=definition,
        via=via,
    )


def alternatives(expression: str) -> tuple[str, ...]:
    """The parts of an expression between `|` outside parentheses."""
    parts, depth, start = [], 0, 0
    for position, character in enumerate(expression):
        depth += (character == "(") - (character == ")")
        if character == "|" and depth == 0:
            parts.append(expression[start:position])
            start = position + 1
    parts.append(expression[start:])
    return tuple(part.strip() for part in parts if part.strip())


def _targets(base: str, paths: tuple[str, ...], row: dict[str, Any]) -> tuple[str, ...]:
    """The declared targets, narrowed to what this type's elements allow: a shared definition has those of all types."""
    declared = tuple(row.get("target", ()))
    allowed = [reference_targets(path, base) for path in paths] if declared else []
    if not all(allowed) or any("Resource" in one for one in allowed):
        return declared
    together = frozenset().union(*allowed)
    return tuple(name for name in declared if name in together) or declared


def _paths(base: str, expression: str) -> Iterator[str]:
    for part in alternatives(expression):
        head = part.lstrip("(")
        if head == base or head.startswith(base + "."):
            yield part
        elif head[0].islower():  # InsurancePlan-name is written without its type.
            yield f"{base}.{part}"
