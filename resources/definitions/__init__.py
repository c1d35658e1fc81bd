"""The standard's own definitions as compact tables, for all R4 types.

`scripts/derive_definitions.py` writes the JSON beside this file from hl7.fhir.r4.core 4.0.1; nothing here is typed by
hand. Each table is read on first use and kept; callers must not change what they are given.

http://hl7.org/fhir/R4/downloads.html
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from resources.json import Json

_FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Type:
    """A resource, complex or primitive type. http://hl7.org/fhir/R4/datatypes.html"""

    name: str
    kind: str
    """``resource``, ``complex-type`` or ``primitive-type``."""
    base: str | None
    abstract: bool
    pattern: str | None
    """The standard's regex of a primitive, in the dialect of XML Schema."""


@dataclass(frozen=True, slots=True)
class Element:
    """One row of a type: a child element. http://hl7.org/fhir/R4/elementdefinition.html"""

    path: str
    """As declared, e.g. ``Observation.component.value[x]`` or, if inherited, ``DomainResource.text``."""
    name: str
    """The last part of the path, without ``[x]``."""
    choice: bool
    min: int
    many: bool
    """Whether max is more than 1: a JSON array."""
    max: int | None
    """None: any number."""
    types: tuple[str, ...]
    """Type names; (``BackboneElement`` | ``Element``,) where the children are at `path`."""
    same_as: str | None
    """The path whose content this element has (contentReference)."""
    targets: frozenset[str]
    """Resource types that a Reference may point to; empty: not a Reference. ``Resource`` is any."""
    profile: str | None
    """A profile of the standard that the type must satisfy (SimpleQuantity)."""
    codes: str | None
    """The value set of a required binding."""
    summary: bool
    modifier: bool


@dataclass(frozen=True, slots=True)
class Constraint:
    """An invariant of the standard, at the path that declares it. http://hl7.org/fhir/R4/conformance-rules.html"""

    path: str
    key: str
    severity: str
    human: str
    expression: str


def _read(name: str) -> Any:
    return json.loads((_FOLDER / name).read_text(encoding="utf-8"))


@cache
def search_parameters() -> list[Json]:
    """The 1375 official SearchParameters: id, code, type, base, and where given expression, target, component.

    A component is `{"definition": id of a parameter, "expression": path}`. `Resource` and `DomainResource` are bases
    of the common ones. http://hl7.org/fhir/R4/searchparameter-registry.html
    """
    rows: list[Json] = _read("search_parameters.json")
    return rows


@cache
def parameter_numbers() -> Mapping[tuple[str, str], int]:
    """(base, code) → the number of each standard parameter, given once and for ever (scripts/number_parameters.py)."""
    return {(base, code): number for number, base, code in _read("parameter_numbers.json")}


@cache
def compartments() -> Mapping[str, Mapping[str, tuple[str, ...]]]:
    """Compartment (`Patient`, `Encounter`, …) → type → codes of the parameters that put a resource into it.

    The code `{def}` stands for the resource itself. http://hl7.org/fhir/R4/compartmentdefinition.html
    """
    return {
        row["code"]: {name: tuple(codes) for name, codes in row["members"].items()}
        for row in _read("compartments.json")
    }


@cache
def types() -> Mapping[str, Type]:
    """Name → type, resources and data types, abstract ones included."""
    return {
        row["name"]: Type(row["name"], row["kind"], row.get("base"), row.get("abstract", False), row.get("pattern"))
        for row in _read("types.json")
    }


@cache
def elements() -> Mapping[str, tuple[Element, ...]]:
    """Owner → its own child elements in order; the owner is a type or the path of a backbone element."""
    owned: dict[str, list[Element]] = {}
    for row in _read("elements.json"):
        owned.setdefault(row["path"].rpartition(".")[0], []).append(_element(row))
    return {owner: tuple(rows) for owner, rows in owned.items()}


def _element(row: Json) -> Element:
    name = row["path"].rpartition(".")[2]
    most = row.get("max", "1")
    return Element(
        path=row["path"],
        name=name.removesuffix("[x]"),
        choice=name.endswith("[x]"),
        min=row.get("min", 0),
        many=most not in ("0", "1"),
        max=None if most == "*" else int(most),
        types=tuple(row.get("types", ())),
        same_as=row.get("same_as"),
        targets=frozenset(row.get("targets", ())),
        profile=row["profile"][0] if "profile" in row else None,
        codes=row.get("codes"),
        summary=row.get("summary", False),
        modifier=row.get("modifier", False),
    )


@cache
def children(owner: str) -> tuple[Element, ...]:
    """The child elements of a type or backbone path, those of its bases first. Empty for what does not exist."""
    own = elements().get(owner, ())
    if owner in types():
        base = types()[owner].base
        return (children(base) if base else ()) + own
    if not own:
        return ()
    parent, _, name = owner.rpartition(".")
    declared = next(element for element in elements()[parent] if element.name == name)
    return children(declared.types[0]) + own


@cache
def codes(value_set: str) -> Mapping[str, frozenset[str]] | None:
    """System → codes of a value set with a required binding; None if it cannot be enumerated (BCP 13, ISO 4217)."""
    return _value_sets()[value_set]


@cache
def _value_sets() -> Mapping[str, Mapping[str, frozenset[str]] | None]:
    return {
        row["url"]: {system: frozenset(found) for system, found in row["systems"].items()} if "systems" in row else None
        for row in _read("value_sets.json")
    }


@cache
def constraints() -> tuple[Constraint, ...]:
    """The invariants of all types, errors and warnings."""
    return tuple(Constraint(**row) for row in _read("constraints.json"))
