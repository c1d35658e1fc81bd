"""Criteria to SQL: what each means as a clause on a version, and the versions that one can drive from.

A clause probes (EXISTS) the index rows of a candidate. A driver is a select of candidate keys by an index on the
value. Which criterion drives is decided here and in `planning`, never by the database's planner: SQLite is held to the
order by CROSS JOIN, PostgreSQL by OFFSET 0 (a probe stays a probe, and is not turned into a join).

Versions of other resources that a chain or `_has` passes through are asked for with the caller's rights on *their*
type.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from typing import Any, Protocol

from sqlalchemy import (
    ColumnElement,
    FromClause,
    Select,
    TableClause,
    and_,
    exists,
    false,
    literal_column,
    or_,
    select,
    true,
)

from resources.criteria import Chain, Component, Composite, Criterion, Has, Leaf, Missing, Query
from resources.index_rows import Table
from resources.outcomes import Forbidden
from resources.registry import type_id
from store.access import Interaction, Visibility
from store.engine.statements import OrderedJoin
from store.search.probes import TABLES, condition, id_condition, last_updated_condition, seek
from store.versions.audiences import admits
from store.versions.snapshots import Snapshot
from store.versions.tables import CURRENT, audience_member, resource_version, sp_reference

Clause = ColumnElement[bool]


@cache
def _numbered(table: TableClause, number: int) -> Any:
    return table.alias(f"{table.name}_{number}")


class Rights(Protocol):
    """Who says what the caller may see of a type: the `Repository`."""

    def visibility(self, interaction: Interaction, type_name: str) -> Visibility:
        """Raises Forbidden where no scope covers it."""
        ...


@dataclass(frozen=True, slots=True)
class Asked:
    """How criteria are compiled: for whom, at which time, in which dialect."""

    dialect: str
    snapshot: Snapshot | None
    """None: now, as the transaction sees it."""
    rights: Rights
    numbers: Iterator[int] = field(default_factory=count, repr=False, compare=False)

    def alias(self, table: TableClause) -> Any:
        """A further name for `table`, unlike all others of this search. Made once: its columns are not cheap."""
        return _numbered(table, next(self.numbers))

    def alive(self, version: FromClause) -> list[Clause]:
        """The version is the current one and no deletion."""
        current = version.c.valid_to == CURRENT if self.snapshot is None else self.snapshot.alive(version)
        return [current, version.c.deleted == 0]

    def visible(self, version: FromClause, type_name: str) -> list[Clause]:
        """The caller may see versions of this type. Raises Forbidden where no scope covers it."""
        return self.rights_clauses(version, self.rights.visibility(Interaction.SEARCH_TYPE, type_name))

    def rights_clauses(self, version: FromClause, visible: Visibility) -> list[Clause]:
        """The organisation predicate and the constraints of the caller's scopes."""
        return [*admits(version, visible.organizations), *self.constraints(version, visible.constraints)]

    def constraints(self, version: FromClause, constraints: Sequence[Query]) -> list[Clause]:
        """At least one of the scopes' constraints holds."""
        if not constraints:
            return []
        return [or_(*(and_(true(), *(self.clause(version, c) for c in query.criteria)) for query in constraints))]

    def candidates(self, version: FromClause, type_name: str) -> list[Clause]:
        """Everything a version of this type must fulfil before any criterion."""
        return [version.c.type_id == type_id(type_name), *self.alive(version), *self.visible(version, type_name)]

    # What a criterion means

    def clause(self, version: FromClause, criterion: Criterion) -> Clause:
        """Whether `version` fulfils `criterion`."""
        if isinstance(criterion, Leaf):
            return self._leaf(version, criterion)
        if isinstance(criterion, Missing):
            if criterion.table in (Table.ID, Table.LAST_UPDATED):
                return false() if criterion.missing else true()
            row = self.alias(TABLES[criterion.table])
            found = self._exists(select(row.c.version_pk).where(*_of(row, version, criterion.param_id)), version)
            return ~found if criterion.missing else found
        if isinstance(criterion, Composite):
            return or_(*(self._composite(version, value) for value in criterion.values))
        if isinstance(criterion, Chain):
            return or_(*(self._chain(version, criterion, *one) for one in self._permitted(criterion)))
        return self._has(version, criterion)

    def _leaf(self, version: FromClause, leaf: Leaf) -> Clause:
        if leaf.table is Table.ID:
            found = id_condition(version, leaf.values)
        elif leaf.table is Table.LAST_UPDATED:
            found = last_updated_condition(version, leaf.values)
        else:
            row = self.alias(TABLES[leaf.table])
            found = self._exists(
                select(row.c.version_pk).where(
                    *_of(row, version, leaf.param_id),
                    or_(*(condition(row, value, self.dialect) for value in leaf.values)),
                ),
                version,
            )
        return ~found if leaf.negated else found

    def _composite(self, version: FromClause, components: tuple[Component, ...]) -> Clause:
        rows = [self.alias(TABLES[component.table]) for component in components]
        asked: list[Clause] = []
        for row, component in zip(rows, components, strict=True):
            asked += [
                *_of(row, version, component.param_id),
                condition(row, component.value, self.dialect),
                row.c.group_no == rows[0].c.group_no,
            ]
        joined: FromClause = rows[0]
        for row in rows[1:]:
            joined = OrderedJoin(joined, row)
        return self._exists(select(rows[0].c.version_pk).select_from(joined).where(*asked), version)

    def _permitted(self, chain: Chain) -> list[tuple[str, Criterion]]:
        """The target types that the caller may search. Raises Forbidden where there is none."""
        found = []
        refusal: Forbidden | None = None
        for type_name, inner in chain.alternatives:
            try:
                self.rights.visibility(Interaction.SEARCH_TYPE, type_name)
            except Forbidden as error:
                refusal = error
            else:
                found.append((type_name, inner))
        if refusal is not None and not found:
            raise refusal
        return found

    def _chain(self, version: FromClause, chain: Chain, type_name: str, inner: Criterion) -> Clause:
        row = self.alias(sp_reference)
        target = self.alias(resource_version)
        return self._exists(
            select(row.c.version_pk)
            .select_from(OrderedJoin(row, target))
            .where(
                *_of(row, version, chain.param_id),
                row.c.target_type_id == type_id(type_name),
                target.c.resource_id == row.c.target_id,
                *self.candidates(target, type_name),
                self.clause(target, inner),
            ),
            version,
        )

    def _has(self, version: FromClause, has: Has) -> Clause:
        row = self.alias(sp_reference)
        source = self.alias(resource_version)
        return self._exists(
            select(row.c.version_pk)
            .select_from(OrderedJoin(row, source))
            .where(
                row.c.param_id == has.param_id,
                row.c.target_id == version.c.resource_id,
                row.c.target_type_id == version.c.type_id,
                source.c.pk == row.c.version_pk,
                *self.candidates(source, has.type),
                self.clause(source, has.inner),
            ),
            version,
        )

    def _exists(self, probe: Select[Any], version: FromClause) -> Clause:
        probe = probe.correlate(version)
        if self.dialect == "postgresql":
            probe = probe.offset(literal_column("0"))
        return exists(probe)

    # What can drive

    def driver(self, criterion: Criterion, types: Sequence[str]) -> Select[tuple[int]] | None:
        """Keys (`version_pk`) of versions of `types` among which all that fulfil `criterion` are, and perhaps others.

        None where no index leads there.
        """
        if isinstance(criterion, Leaf):
            return self._leaf_driver(criterion, types)
        if isinstance(criterion, Composite):
            return self._composite_driver(criterion)
        if isinstance(criterion, Chain):
            return self._chain_driver(criterion)
        if isinstance(criterion, Has):
            return self._has_driver(criterion)
        return None

    def _leaf_driver(self, leaf: Leaf, types: Sequence[str]) -> Select[tuple[int]] | None:
        if leaf.negated:
            return None
        if leaf.table in (Table.ID, Table.LAST_UPDATED):
            version = self.alias(resource_version)
            column = id_condition if leaf.table is Table.ID else last_updated_condition
            of_type = version.c.type_id.in_([type_id(name) for name in types])
            return select(version.c.pk.label("version_pk")).where(
                of_type, column(version, leaf.values), *self.alive(version)
            )
        row = self.alias(TABLES[leaf.table])
        seeks = [seek(row, value, self.dialect) for value in leaf.values]
        found = [one for one in seeks if one is not None]
        if len(found) < len(seeks) or not found:
            return None
        return select(row.c.version_pk.label("version_pk")).where(row.c.param_id == leaf.param_id, or_(*found))

    def _composite_driver(self, composite: Composite) -> Select[tuple[int]] | None:
        first = composite.values[0][0]
        row = self.alias(TABLES[first.table])
        seeks = [seek(row, components[0].value, self.dialect) for components in composite.values]
        found = [one for one in seeks if one is not None]
        if len(found) < len(seeks):
            return None
        return select(row.c.version_pk.label("version_pk")).where(row.c.param_id == first.param_id, or_(*found))

    def all_driver(self, types: Sequence[str]) -> Select[tuple[int]]:
        """Keys of all versions of `types`."""
        version = self.alias(resource_version)
        return select(version.c.pk.label("version_pk")).where(
            version.c.type_id.in_([type_id(name) for name in types])
        )

    def audience_driver(self, organizations: frozenset[str], types: Sequence[str]) -> Select[tuple[int]]:
        """Keys of all that the organisations may see of `types`: few, for one hospital in a hundred."""
        version = self.alias(resource_version)
        audiences = (
            select(audience_member.c.audience_id)
            .where(audience_member.c.organization.in_(sorted(organizations)))
            .distinct()
            .subquery()
        )
        return (
            select(version.c.pk.label("version_pk"))
            .select_from(OrderedJoin(audiences, version))
            .where(
                version.c.audience_id == audiences.c.audience_id,
                version.c.type_id.in_([type_id(name) for name in types]),
                *self.alive(version),
            )
        )

    def _chain_driver(self, chain: Chain) -> Select[tuple[int]] | None:
        permitted = self._permitted(chain)
        if len(permitted) != 1:
            return None
        ((type_name, inner),) = permitted
        target = self.alias(resource_version)
        start = self._start(target, type_name, inner)
        if start is None:
            return None
        row = self.alias(sp_reference)
        return (
            select(row.c.version_pk.label("version_pk"))
            .select_from(OrderedJoin(start[0], row))
            .where(
                *start[1],
                row.c.param_id == chain.param_id,
                row.c.target_id == target.c.resource_id,
                row.c.target_type_id == target.c.type_id,
            )
        )

    def _has_driver(self, has: Has) -> Select[tuple[int]] | None:
        source = self.alias(resource_version)
        start = self._start(source, has.type, has.inner)
        if start is None:
            return None
        row = self.alias(sp_reference)
        referred = self.alias(resource_version)
        return (
            select(referred.c.pk.label("version_pk"))
            .select_from(OrderedJoin(OrderedJoin(start[0], row), referred))
            .where(
                *start[1],
                row.c.version_pk == source.c.pk,
                row.c.param_id == has.param_id,
                referred.c.type_id == row.c.target_type_id,
                referred.c.resource_id == row.c.target_id,
                *self.alive(referred),
            )
        )

    def _start(
        self, version: FromClause, type_name: str, inner: Criterion
    ) -> tuple[FromClause, list[Clause]] | None:
        """The versions of a type that fulfil `inner`, from its own driver."""
        asked = [*self.candidates(version, type_name), self.clause(version, inner)]
        driver = self.driver(inner, (type_name,))
        if driver is None:
            return None
        keys = distinct_keys(driver)
        return OrderedJoin(keys, version), [version.c.pk == keys.c.version_pk, *asked]


def distinct_keys(driver: Select[tuple[int]]) -> FromClause:
    """The keys of a driver, each once, as something to select from."""
    return driver.distinct().subquery()


def _of(row: FromClause, version: FromClause, param_id: int) -> list[Clause]:
    return [row.c.version_pk == version.c.pk, row.c.param_id == param_id]
