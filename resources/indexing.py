"""A resource's index rows, by the search parameters of its type.

Each parameter's paths are compiled once; each (kind of parameter, data type) has one function that turns a value into
rows. Resources come validated: a value that is unusable all the same gives no row, never an error.

FHIR R4 §3.1.1 http://hl7.org/fhir/R4/search.html, the data types a kind may meet in §3.1.1.5
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, tzinfo
from functools import cache
from typing import Any

from resources.derived_values import DERIVED
from resources.index_rows import IndexRows
from resources.indexed_values import WRITERS, Context, Writer
from resources.json import Json
from resources.paths import Path, compiled, value_types
from resources.search_parameters import SearchParameter, alternatives, component_id, parameters

__all__ = ["IndexRows", "extract"]

_COLUMNS = frozenset({"_id", "_lastUpdated"})
"""Columns of a version, not rows."""


@dataclass(frozen=True, slots=True)
class _Rule:
    """A parameter (or a component of one) ready to be applied to a node."""

    param_id: int
    writers: Mapping[str, Writer]
    paths: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class _Composite:
    """A composite ready to be applied: each path to its elements, with the components as they are read from there."""

    groups: tuple[tuple[Path, tuple[_Rule, ...]], ...]


def extract(type_name: str, resource: Json, *, base_urls: Sequence[str] = (), zone: tzinfo = UTC) -> IndexRows:
    """The rows of every search parameter of `type_name`, each once.

    Absolute references below one of `base_urls` count as local; a date without zone is read in `zone`.
    """
    context = Context(resource, tuple(base_urls), zone, IndexRows())
    simple, composites = _rules(type_name)
    for rule in simple:
        for path in rule.paths:
            for kind, value in path(resource, resource):
                rule.writers[kind](value, rule.param_id, 0, context)
    for composite in composites:
        _index(composite, resource, context)
    return _once(context.rows)


def _index(composite: _Composite, resource: Json, context: Context) -> None:
    """Rows of each component under the number of the element they were found in (§3.1.1.5.15)."""
    group_no = 0
    for path, components in composite.groups:
        for _, node in path(resource, resource):
            group_no += 1
            found = [
                [(rule, kind, value) for inner in rule.paths for kind, value in inner(node, resource)]
                for rule in components
            ]
            # An element that lacks a component can satisfy no query: it needs no rows.
            if all(found):
                for rule, kind, value in (one for values in found for one in values):
                    rule.writers[kind](value, rule.param_id, group_no, context)


def _once(rows: IndexRows) -> IndexRows:
    for one in fields(rows):
        values: list[Any] = getattr(rows, one.name)
        if len(values) > 1:
            setattr(rows, one.name, list(dict.fromkeys(values)))
    return rows


@cache
def _rules(type_name: str) -> tuple[tuple[_Rule, ...], tuple[_Composite, ...]]:
    indexed = [one for one in parameters(type_name).values() if one.supported and one.code not in _COLUMNS]
    return (
        tuple(_simple(one) for one in indexed if not one.components),
        tuple(_composite(one) for one in indexed if one.components),
    )


def _simple(parameter: SearchParameter) -> _Rule:
    paths = tuple(compiled(path, parameter.type) for path in parameter.paths)
    return _Rule(parameter.id, DERIVED[parameter.via] if parameter.via else WRITERS[parameter.kind], paths)


def _composite(parameter: SearchParameter) -> _Composite:
    return _Composite(
        tuple(
            (compiled(path, parameter.type), _components(parameter, value_types(path, parameter.type)[0]))
            for path in parameter.paths
        )
    )


def _components(parameter: SearchParameter, owner: str) -> tuple[_Rule, ...]:
    return tuple(
        _Rule(
            param_id=component_id(parameter, position),
            writers=WRITERS[component.kind],
            paths=tuple(compiled(part, owner) for part in alternatives(component.expression)),
        )
        for position, component in enumerate(parameter.components)
    )
