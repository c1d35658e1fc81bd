"""What matches include: resources they refer to (`_include`) or that refer to them (`_revinclude`).

Of the same snapshot, each once, never a match again; what the caller may not see, or what was deleted, is left out
without a word. How far `:iterate` follows and how much is included is limited (`resources.budgets`), and a cut is told.

FHIR R4 §3.1.1.5.4 http://hl7.org/fhir/R4/search.html#include
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, FromClause, and_, or_, select, tuple_

from resources.budgets import ANSWER_BYTES, INCLUDE_ROUNDS, INCLUDED, Budget
from resources.criteria import Include, Query
from resources.registry import TYPES, type_id, type_name
from resources.search_parameters import by_id, parameters
from store.access import Interaction, Version
from store.engine.statements import OrderedJoin, Row
from store.search.compile import Asked
from store.search.reader import Reader, types_visible
from store.versions.queries import HEAD, contents
from store.versions.tables import ANY_REFERENCE, resource_version, sp_reference

Clause = ColumnElement[bool]

@dataclass(frozen=True, slots=True)
class _Node:
    """A resource that something refers to or is referred to from: a match, or what was included."""

    pk: int
    type: str
    id: str


@dataclass(slots=True)
class Included:
    """What is included, and the limits at which it was cut."""

    versions: list[Version] = field(default_factory=list)
    cuts: list[Budget] = field(default_factory=list)


def gather(
    reader: Reader,
    query: Query,
    matches: Sequence[Version],
    asked: Asked,
    referred: Mapping[int, Sequence[tuple[int, str]]] | None = None,
) -> Included:
    """Everything that `matches` include, as far as the limits let it; what was cut is said in `Included.cuts`.

    `referred`: of matches that are no versions of the store, by parameter: (type, id) of what they refer to.
    """
    included = Included()
    wanted = [*query.includes, *query.revincludes]
    if not wanted or not matches:
        return included
    uow = reader.uow
    rows = _rows(reader, wanted, matches, asked, included.cuts, referred)
    left = ANSWER_BYTES.value - sum(len(version.content) for version in matches)
    texts = contents(uow.connection, [row[0] for row in rows], left, at_least_one=False)
    if len(texts) < len(rows):
        included.cuts.append(ANSWER_BYTES)
    included.versions = [reader.version((*row, text)) for row, text in zip(rows, texts, strict=False)]
    return included


def _rows(
    reader: Reader, wanted: Sequence[Include], matches: Sequence[Version], asked: Asked, cuts: list[Budget],
    referred: Mapping[int, Sequence[tuple[int, str]]] | None,
) -> list[Row]:
    """Rows of HEAD of all that is included, each once and never a match, round by round."""
    found: list[Row] = []
    seen = {version.pk for version in matches} if referred is None else set()
    frontier = [_Node(version.pk, version.type, version.id) for version in matches]
    for depth in range(INCLUDE_ROUNDS.value + 2):
        active = [include for include in wanted if depth == 0 or include.iterate]
        if not active or not frontier:
            break
        reader.uow.deadline.check()
        left = INCLUDED.value - len(found)
        most = left + len(seen) + 1
        if depth == 0 and referred is not None:
            rows = _named(reader, active, referred, asked, most)
        else:
            rows = _round(reader, active, frontier, asked, most)
        fresh = list({row[0]: row for row in rows if row[0] not in seen}.values())
        if depth > INCLUDE_ROUNDS.value:  # one round more than there are: only to know whether something is cut
            if fresh:
                cuts.append(INCLUDE_ROUNDS)
            break
        found += fresh[:left]
        if len(fresh) > left:
            cuts.append(INCLUDED)
            break
        seen.update(row[0] for row in fresh)
        frontier = [_Node(row[0], type_name(row[1]), row[2]) for row in fresh]
    return found


def _round(
    reader: Reader, includes: Sequence[Include], frontier: Sequence[_Node], asked: Asked, limit: int
) -> list[Row]:
    """What `frontier` includes directly, forward then backward; each way at most `limit`."""
    found: list[Row] = []
    forward = [include for include in includes if not include.reverse]
    backward = [include for include in includes if include.reverse]
    if forward:
        found += _forward(reader, forward, frontier, asked, limit)
    if backward:
        found += _backward(reader, backward, frontier, asked, limit)
    return found


def _forward(
    reader: Reader, includes: Sequence[Include], frontier: Sequence[_Node], asked: Asked, limit: int
) -> list[Row]:
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
    return _select(
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
        limit,
    )


def _named(
    reader: Reader,
    includes: Sequence[Include],
    referred: Mapping[int, Sequence[tuple[int, str]]],
    asked: Asked,
    limit: int,
) -> list[Row]:
    """What matches that are kept elsewhere include: what they refer to is known, what refers to them is nothing."""
    keys = {
        key
        for include in includes
        if not include.reverse
        for param_id, targets in referred.items()
        if not include.param_ids or param_id in include.param_ids
        for key in targets
        if include.target is None or key[0] == type_id(include.target)
    }
    if not keys:
        return []
    target = asked.alias(resource_version)
    clause = tuple_(target.c.type_id, target.c.resource_id).in_(sorted(keys))
    types = sorted({type_name(number) for number, _ in keys})
    return _select(reader, target, [clause], target, types, asked, limit)


def _backward(
    reader: Reader, includes: Sequence[Include], frontier: Sequence[_Node], asked: Asked, limit: int
) -> list[Row]:
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
    return _select(
        reader,
        OrderedJoin(row, source),
        [or_(*followed), source.c.pk == row.c.version_pk],
        source,
        sorted(types),
        asked,
        limit,
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


def _select(
    reader: Reader,
    source: FromClause,
    clauses: list[Clause],
    version: FromClause,
    types: Sequence[str],
    asked: Asked,
    limit: int,
) -> list[Row]:
    groups: list[Clause] = [
        and_(
            version.c.type_id.in_([type_id(name) for name in names]),
            *asked.rights_clauses(version, visible),
        )
        for visible, names in types_visible(reader, Interaction.SEARCH_TYPE, types)
    ]
    if not groups:
        return []
    columns: list[ColumnElement[Any]] = [version.c[column.key] for column in HEAD]
    statement = (
        select(*columns)
        .select_from(source)
        .where(*clauses, *asked.alive(version), or_(*groups))
        .distinct()
        .order_by(version.c.pk)
        .limit(limit)
    )
    return [tuple(row) for row in reader.uow.connection.execute(statement)]
