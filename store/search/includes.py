"""What matches include: resources they refer to (`_include`) or that refer to them (`_revinclude`).

Of the same snapshot, each once, never a match again; what the caller may not see, or what was deleted, is left out
without a word. `:iterate` follows at most three times; at most a thousand resources are included.

FHIR R4 §3.1.1.5.4 http://hl7.org/fhir/R4/search.html#include
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, FromClause, and_, or_, select, tuple_

from resources.criteria import Include, Query
from resources.registry import TYPES, type_id
from resources.search_parameters import by_id, parameters
from store.access import Interaction, Version
from store.search.compile import Asked, OrderedJoin
from store.search.reader import Reader, types_visible
from store.versions.queries import COLUMNS
from store.versions.tables import ANY_REFERENCE, resource_version, sp_reference

Clause = ColumnElement[bool]

MAX_DEPTH = 3
"""Rounds of `:iterate`."""
MAX_INCLUDED = 1000


@dataclass(slots=True)
class Included:
    """What `_include` and `_revinclude` brought."""

    versions: list[Version] = field(default_factory=list)
    incomplete: bool = False
    """There was more than MAX_INCLUDED."""


def gather(reader: Reader, query: Query, matches: Sequence[Version], asked: Asked) -> Included:
    """Everything that `matches` include."""
    included = Included()
    wanted = [*query.includes, *query.revincludes]
    if not wanted or not matches:
        return included
    seen = {version.pk for version in matches}
    frontier = list(matches)
    for depth in range(MAX_DEPTH + 1):
        active = [include for include in wanted if depth == 0 or include.iterate]
        if not active or not frontier:
            break
        fresh: list[Version] = []
        for version in _round(reader, active, frontier, asked):
            if version.pk in seen:
                continue
            if len(included.versions) + len(fresh) >= MAX_INCLUDED:
                included.incomplete = True
                break
            seen.add(version.pk)
            fresh.append(version)
        included.versions += fresh
        frontier = fresh
        if included.incomplete:
            break
    return included


def _round(
    reader: Reader, includes: Sequence[Include], frontier: Sequence[Version], asked: Asked
) -> list[Version]:
    """What `frontier` includes directly, forward then backward."""
    found: list[Version] = []
    forward = [include for include in includes if not include.reverse]
    backward = [include for include in includes if include.reverse]
    if forward:
        found += _forward(reader, forward, frontier, asked)
    if backward:
        found += _backward(reader, backward, frontier, asked)
    return found


def _forward(
    reader: Reader, includes: Sequence[Include], frontier: Sequence[Version], asked: Asked
) -> list[Version]:
    row = asked.alias(sp_reference)
    target = asked.alias(resource_version)
    followed: list[Clause] = []
    types: set[str] = set()
    for include in includes:
        sources = [version.pk for version in frontier if include.source in (None, version.type)]
        if not sources:
            continue
        clause: list[Clause] = [row.c.version_pk.in_(sources)]
        if include.param_ids:
            clause.append(row.c.param_id.in_(include.param_ids))
        else:
            clause.append(row.c.param_id != ANY_REFERENCE)
        if include.target:
            clause.append(row.c.target_type_id == type_id(include.target))
        followed.append(and_(*clause))
        types.update(_targets(include))
    if not followed:
        return []
    return _versions(
        reader,
        OrderedJoin(row, target),
        [
            or_(*followed),
            row.c.target_id != "",
            target.c.type_id == row.c.target_type_id,
            target.c.resource_id == row.c.target_id,
        ],
        target,
        sorted(types),
        asked,
    )


def _backward(
    reader: Reader, includes: Sequence[Include], frontier: Sequence[Version], asked: Asked
) -> list[Version]:
    row = asked.alias(sp_reference)
    source = asked.alias(resource_version)
    followed: list[Clause] = []
    types: set[str] = set()
    for include in includes:
        targets = [version for version in frontier if include.target in (None, version.type)]
        if not targets:
            continue
        clause: list[Clause] = [
            row.c.param_id.in_(_referring(include)),
            tuple_(row.c.target_id, row.c.target_type_id).in_(
                [(version.id, type_id(version.type)) for version in targets]
            ),
        ]
        followed.append(and_(*clause))
        types.update([include.source] if include.source else TYPES)
    if not followed:
        return []
    return _versions(
        reader,
        OrderedJoin(row, source),
        [or_(*followed), source.c.pk == row.c.version_pk],
        source,
        sorted(types),
        asked,
    )


def _targets(include: Include) -> Sequence[str]:
    """Types that an include may lead to."""
    if include.target:
        return (include.target,)
    targets = {target for param_id in include.param_ids for target in by_id(param_id).targets}
    return tuple(target for target in targets if target in TYPES) or tuple(TYPES)


def _referring(include: Include) -> Sequence[int]:
    """Parameters by which others refer."""
    if include.param_ids:
        return include.param_ids
    sources = (include.source,) if include.source else tuple(TYPES)
    return sorted(
        {
            parameter.id
            for name in sources
            for parameter in parameters(name).values()
            if parameter.kind == "reference"
        }
    )


def _versions(
    reader: Reader,
    source: FromClause,
    clauses: list[Clause],
    version: FromClause,
    types: Sequence[str],
    asked: Asked,
) -> list[Version]:
    groups: list[Clause] = [
        and_(
            version.c.type_id.in_([type_id(name) for name in names]),
            *asked.rights_clauses(version, visible),
        )
        for visible, names in types_visible(reader, Interaction.SEARCH_TYPE, types)
    ]
    if not groups:
        return []
    columns: list[ColumnElement[Any]] = [version.c[column.key] for column in COLUMNS]
    statement = (
        select(*columns)
        .select_from(source)
        .where(*clauses, *asked.alive(version), or_(*groups))
        .distinct()
        .order_by(version.c.pk)
        .limit(MAX_INCLUDED + len(clauses) + 1)
    )
    return [reader.version(tuple(row)) for row in reader.uow.connection.execute(statement)]
