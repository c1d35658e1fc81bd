"""Element paths over plain JSON: the expressions of search parameters, compiled to closures.

The official expressions have few shapes: a path, `as(T)`, `(P as T)`, `ofType(T)`, `where(resolve() is T)`,
`where(x='v')`, `[n]`, `%resource.P`, and one `exists() and != false` (Patient.deceased). Each is resolved against the
element table when it is compiled, so that a value comes with the name of its data type and a choice (`value[x]`)
needs no guessing. Nothing else of FHIRPath is understood: an unknown shape raises PathError when compiled.

FHIR R4 §3.1.1.1.4, http://hl7.org/fhir/R4/fhirpath.html, http://hl7.org/fhir/R4/formats.html#choice
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from resources import definitions, registry
from resources.json import Json

Typed = tuple[str, Any]
"""A value with the name of its data type (a backbone element: its path)."""
Path = Callable[[Json, Json], list[Typed]]
"""(node, the whole resource) → the values found, in document order."""

_Walk = Callable[[Any, Json, list[Typed]], None]


class PathError(ValueError):
    """An expression of a shape that is not understood."""


@cache
def compiled(expression: str, type_name: str) -> Path:
    """The closure of `expression`, which begins at `type_name` or is relative to it (a composite's component)."""
    if expression == f"{type_name}.deceased.exists() and {type_name}.deceased != false":
        return _deceased
    steps = _steps(expression, type_name)
    walk = _compile(steps, (type_name,))

    def values(node: Json, resource: Json) -> list[Typed]:
        found: list[Typed] = []
        walk(node, resource, found)
        return found

    return values


@cache
def value_types(expression: str, type_name: str) -> tuple[str, ...]:
    """The data types that the values of `expression` may have."""
    if expression.endswith("deceased != false"):
        return ("boolean",)
    owners: tuple[str, ...] = (type_name,)
    for kind, *arguments in _steps(expression, type_name):
        if kind == "field":
            owners = tuple(owner for _, owner in _options(owners, arguments[0]))
        elif kind == "as":
            owners = (arguments[0],)
    return owners


@cache
def bound_value_sets(expression: str, type_name: str) -> tuple[str | None, ...]:
    """For a path to elements of type code: the value set that each is bound to by requirement; for others (None,)."""
    types = set(value_types(expression, type_name))
    if types == {"boolean"}:
        return ()
    if types != {"code"}:
        return (None,)
    return tuple(element.codes for element in _last_elements(expression, type_name)) or (None,)


@cache
def reference_targets(expression: str, type_name: str) -> frozenset[str]:
    """The resource types that a Reference at `expression` may have as target; empty: not a Reference, or not told."""
    steps = _steps(expression, type_name)
    if steps and steps[-1][0] == "resolve":
        return frozenset((steps[-1][1],))
    return frozenset().union(*(element.targets for element in _last_elements(expression, type_name)))


def _last_elements(expression: str, type_name: str) -> list[definitions.Element]:
    """The elements that the last field of a path may be."""
    owners: tuple[str, ...] = (type_name,)
    elements: list[definitions.Element] = []
    for kind, *arguments in _steps(expression, type_name):
        if kind == "field":
            elements = [e for owner in owners for e in definitions.children(owner) if e.name == arguments[0]]
            owners = tuple(owner for _, owner in _options(owners, arguments[0]))
        elif kind == "as":
            owners = (arguments[0],)
    return elements


def _deceased(node: Json, resource: Json) -> list[Typed]:
    """`deceased.exists() and deceased != false`: dead by a date as well, and false where nothing is said."""
    said = node.get("deceasedBoolean")
    return [("boolean", said if isinstance(said, bool) else "deceasedDateTime" in node)]


# Tokens: ("field", name) ("as", type) ("resolve", type) ("where", name, value) ("index", n) ("root",)

_Step = tuple[str, ...]
_STEP = re.compile(
    r"""(?P<field>[A-Za-z]+)(?![A-Za-z(])
      | (?:as|ofType)\((?P<as>[A-Za-z]+)\)
      | where\(resolve\(\)\ is\ (?P<resolve>[A-Za-z]+)\)
      | where\((?P<name>[a-zA-Z]+)\s*=\s*'(?P<value>[^']*)'\)
      | \[(?P<index>\d+)\]
      | (?P<root>%resource)""",
    re.VERBOSE,
)
_CAST = re.compile(r"\((?P<path>[^()]+) as (?P<type>[A-Za-z]+)\)(?P<rest>.*)")
_SPELLING = {"DateTime": "dateTime"}
"""Observation-code-value-date writes the type so."""


def _steps(expression: str, type_name: str) -> list[_Step]:
    cast = _CAST.fullmatch(expression)
    if cast:
        rest = cast["rest"]
        return [*_steps(cast["path"], type_name), ("as", cast["type"]), *(_scan(rest[1:]) if rest else ())]
    steps = _scan(expression)
    return steps[1:] if steps[0] == ("field", type_name) else steps


def _scan(expression: str) -> list[_Step]:
    steps: list[_Step] = []
    position = 0
    while position < len(expression):
        match = _STEP.match(expression, position)
        if match is None:
            raise PathError(f"Not understood: {expression}")
        if match["name"]:
            steps.append(("where", match["name"], match["value"]))
        elif match["root"]:
            steps.append(("root",))
        else:
            kind = str(match.lastgroup)
            steps.append((kind, _SPELLING.get(match[kind], match[kind])))
        position = match.end()
        if expression[position : position + 1] == ".":
            position += 1
            if position == len(expression):
                raise PathError(f"Not understood: {expression}")
        elif position < len(expression) and expression[position] != "[":
            raise PathError(f"Not understood: {expression}")
    return steps


def _compile(steps: list[_Step], owners: tuple[str, ...]) -> _Walk:
    """The walk of `steps` from a node whose type is one of `owners`."""
    if not steps:
        if len(owners) != 1:
            raise PathError(f"A value of several types: {owners}")
        return _leaf(owners[0])
    (kind, *arguments), rest = steps[0], steps[1:]
    if kind == "root":
        return _root(rest)
    if kind == "resolve":
        return _where_type(arguments[0], _compile(rest, owners))
    if kind == "where":
        return _where(arguments[0], arguments[1], _compile(rest, owners))
    if kind == "as":
        if arguments[0] not in owners:
            raise PathError(f"No {arguments[0]} among {owners}")
        return _compile(rest, (arguments[0],))
    if kind != "field":
        raise PathError(f"{kind} without an element before it")
    options = _options(owners, arguments[0])
    wanted: str | None = None
    index: int | None = None
    if rest and rest[0][0] == "as":
        wanted, rest = rest[0][1], rest[1:]
        options = [option for option in options if option[1] == wanted]
        if not options:
            raise PathError(f"No {wanted} in {owners}.{arguments[0]}")
    if rest and rest[0][0] == "index":
        index, rest = int(rest[0][1]), rest[1:]
    return _field([(key, _compile(rest, (owner,))) for key, owner in options], index)


def _root(rest: list[_Step]) -> _Walk:
    """`%resource.…`: a component whose value stands outside the composite's element (MolecularSequence)."""
    walks: dict[str, _Walk] = {}

    def walk(node: Any, resource: Json, found: list[Typed]) -> None:
        type_name = resource["resourceType"]
        if type_name not in walks:
            walks[type_name] = _compile(rest, (type_name,))
        walks[type_name](resource, resource, found)

    return walk


def _options(owners: tuple[str, ...], name: str) -> list[tuple[str, str]]:
    """JSON key → data type (or backbone path) of the element `name` of any of `owners`."""
    options = [
        option
        for owner in owners
        for element in definitions.children(owner)
        if element.name == name
        for option in _keys(element)
    ]
    if not options:
        raise PathError(f"No element {name} in {owners}")
    return options


@cache
def json_keys(owner: str) -> Mapping[str, str]:
    """JSON key → data type, or path of a backbone element, of every child of a type or backbone path."""
    return dict(option for element in definitions.children(owner) for option in _keys(element))


@cache
def choice_labels(owner: str) -> Mapping[str, str]:
    """JSON key → how an expression names it, for the choices of a type or path: ``value.ofType(Quantity)``."""
    return {
        key: f"{element.name}.ofType({kind})"
        for element in definitions.children(owner)
        if element.choice
        for key, kind in _keys(element)
    }


def _keys(element: definitions.Element) -> list[tuple[str, str]]:
    if element.same_as:
        return [(element.name, element.same_as)]
    if element.choice:
        return [(element.name + kind[0].upper() + kind[1:], kind) for kind in element.types]
    if element.types[0] in ("BackboneElement", "Element"):
        return [(element.name, element.path)]
    return [(element.name, element.types[0])]


def _leaf(kind: str) -> _Walk:
    def walk(node: Any, resource: Json, found: list[Typed]) -> None:
        found.append((kind, node))

    return walk


def _field(options: list[tuple[str, _Walk]], index: int | None) -> _Walk:
    if len(options) == 1 and index is None:
        (only_key, only_next), *_ = options

        def one(node: Any, resource: Json, found: list[Typed]) -> None:
            value = node.get(only_key)
            if value is None:
                return
            if value.__class__ is list:
                for item in value:
                    if item is not None:
                        only_next(item, resource, found)
            else:
                only_next(value, resource, found)

        return one

    def walk(node: Any, resource: Json, found: list[Typed]) -> None:
        for key, following in options:
            value = node.get(key)
            if value is None:
                continue
            items = value if value.__class__ is list else [value]
            for item in items if index is None else items[index : index + 1]:
                if item is not None:
                    following(item, resource, found)

    return walk


def _where(name: str, wanted: str, following: _Walk) -> _Walk:
    def walk(node: Any, resource: Json, found: list[Typed]) -> None:
        if node.get(name) == wanted:
            following(node, resource, found)

    return walk


def _where_type(wanted: str, following: _Walk) -> _Walk:
    def walk(node: Any, resource: Json, found: list[Typed]) -> None:
        if target_type(node, resource) == wanted:
            following(node, resource, found)

    return walk


_TYPE_IN_URL = re.compile(r"(?:^|/)([A-Z][A-Za-z]+)/[A-Za-z0-9\-.]{1,64}(?:/_history/[A-Za-z0-9\-.]{1,64})?$")


def target_type(reference: Json, resource: Json) -> str | None:
    """The type that a Reference says it points to: by its URL, by what it contains, or by Reference.type.

    `resolve()` in an index cannot fetch: what another server's URL hides stays unknown.
    """
    url = reference.get("reference")
    if isinstance(url, str):
        match = _TYPE_IN_URL.search(url)
        if match and registry.is_type(match[1]):
            return match[1]
        if url.startswith("#"):
            for inner in resource.get("contained") or ():
                if inner.get("id") == url[1:]:
                    return str(inner.get("resourceType"))
    said = reference.get("type")
    return said if isinstance(said, str) else None
