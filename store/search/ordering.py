"""The order of matches, and the place in it where a page ended.

Newest first, unless `_sort` asks otherwise. A resource with several values stands where its smallest stands
(descending: its greatest); one without a value comes last, either way. What is equal goes by the version's key, in the
direction of the first key: with it the order is total, so that a page begins exactly where the one before ended.

FHIR R4 §3.1.1.6.1 http://hl7.org/fhir/R4/search.html#sort
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, FromClause, Select, and_, exists, func, or_, select

from resources.criteria import SortKey
from resources.index_rows import Table
from store.search.compile import Asked
from store.search.probes import TABLES, plain_columns
from store.versions.tables import resource_version

Clause = ColumnElement[bool]

_COLUMNS = {
    Table.TOKEN: ("code", "code"),
    Table.STRING: ("norm", "norm"),
    Table.DATE: ("low", "high"),
    Table.NUMBER: ("low", "high"),
    Table.QUANTITY: ("low", "high"),
    Table.REFERENCE: ("target_id", "target_id"),
    Table.URI: ("uri", "uri"),
}
"""Column of the index rows for ascending and descending order."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key of the order, as an expression on a version."""

    value: ColumnElement[Any]
    descending: bool


@dataclass(frozen=True, slots=True)
class Order:
    """The order of one search."""

    sort: tuple[SortKey, ...]
    asked: Asked

    @property
    def descending(self) -> bool:
        """Direction of the first key, and so of the tie."""
        return self.sort[0].descending if self.sort else True

    def keys(self, version: FromClause) -> list[Key]:
        """The columns that it sorts by; without `_sort` the newest first."""
        if not self.sort:
            return [Key(version.c.last_updated, True)]
        return [Key(self._value(version, key), key.descending) for key in self.sort]

    def order_by(self, version: FromClause) -> list[Any]:
        """For candidates that are all fetched and sorted."""
        found: list[Any] = []
        for key in self.keys(version):
            ordered = key.value.desc() if key.descending else key.value.asc()
            found.append(ordered.nulls_last() if self._may_miss(key, version) else ordered)
        return [*found, version.c.pk.desc() if self.descending else version.c.pk.asc()]

    def after(self, version: FromClause, last: Sequence[Any], last_pk: int) -> Clause:
        """Whether `version` comes after the one with the values `last`."""
        equal: list[Clause] = []
        alternatives: list[Clause] = []
        for key, value in zip(self.keys(version), last, strict=True):
            if value is not None:
                beyond = key.value < value if key.descending else key.value > value
                alternatives.append(and_(*equal, or_(beyond, key.value.is_(None))))
            equal.append(key.value.is_(None) if value is None else key.value == value)
        tie = version.c.pk < last_pk if self.descending else version.c.pk > last_pk
        return or_(*alternatives, and_(*equal, tie))

    def last_values(self, last_pk: int) -> Select[Any]:
        """The values of the keys of the version `last_pk`."""
        version = self.asked.alias(resource_version)
        return select(*(key.value for key in self.keys(version))).where(version.c.pk == last_pk)

    def _value(self, version: FromClause, key: SortKey) -> ColumnElement[Any]:
        if key.table in (Table.ID, Table.LAST_UPDATED):
            own: ColumnElement[Any] = version.c.resource_id if key.table is Table.ID else version.c.last_updated
            return own
        row = self.asked.alias(TABLES[key.table])
        # Not the bare column: for its extreme SQLite would walk the index of all values.
        column = plain_columns(row)[_COLUMNS[key.table][key.descending]]
        extreme = func.max(column) if key.descending else func.min(column)
        return (
            select(extreme)
            .where(row.c.version_pk == version.c.pk, row.c.param_id == key.param_id)
            .correlate(version)
            .scalar_subquery()
        )

    def _may_miss(self, key: Key, version: FromClause) -> bool:
        return key.value is not version.c.last_updated and key.value is not version.c.resource_id


@dataclass(frozen=True, slots=True)
class Walk:
    """The order as an index gives it: versions are met in it, and the walk ends when the page is full."""

    order: Order

    @staticmethod
    def along(order: Order) -> Walk | None:
        """A walk in this order, or None where no index has it."""
        if len(order.sort) > 1:
            return None
        if not order.sort or order.sort[0].table is Table.LAST_UPDATED:
            return Walk(order)
        table = order.sort[0].table
        by_low_alone = table in (Table.NUMBER, Table.QUANTITY) and not order.descending
        if by_low_alone or table in (Table.DATE, Table.TOKEN, Table.STRING, Table.URI):
            return Walk(order)
        return None

    @property
    def by_column(self) -> bool:
        """The index is that of the versions themselves."""
        return not self.order.sort or self.order.sort[0].table is Table.LAST_UPDATED

    def columns(self, version: FromClause, row: FromClause | None) -> tuple[ColumnElement[Any], ColumnElement[int]]:
        """What the index is sorted by: the value and the version's key."""
        if row is None:
            return version.c.last_updated, version.c.pk
        key = self.order.sort[0]
        return row.c[_COLUMNS[key.table][key.descending]], row.c.version_pk

    def row(self) -> FromClause | None:
        """An alias of the index table that is walked."""
        found: FromClause | None = None if self.by_column else self.order.asked.alias(TABLES[self.order.sort[0].table])
        return found

    def order_by(self, version: FromClause, row: FromClause | None) -> list[Any]:
        """ORDER BY of the walk."""
        columns = self.columns(version, row)
        return [column.desc() if self.order.descending else column.asc() for column in columns]

    def clauses(self, version: FromClause, row: FromClause | None) -> list[Clause]:
        """A version is met once: at its smallest (descending: greatest) value."""
        if row is None:
            return []
        key = self.order.sort[0]
        value, _ = self.columns(version, row)
        other = self.order.asked.alias(TABLES[key.table])
        other_value = other.c[value.key]
        beyond = other_value > value if key.descending else other_value < value
        return [
            row.c.param_id == key.param_id,
            version.c.pk == row.c.version_pk,
            ~exists()
            .where(
                other.c.version_pk == row.c.version_pk,
                other.c.param_id == key.param_id,
                or_(beyond, and_(other_value == value, other.c.row_no < row.c.row_no)),
            )
            .correlate(row),
        ]

    def after(self, version: FromClause, row: FromClause | None, last: Any, last_pk: int) -> Clause:
        """What comes after the row that the last page ended with."""
        value, pk = self.columns(version, row)
        if self.order.descending:
            return and_(value <= last, or_(value < last, pk < last_pk))
        return and_(value >= last, or_(value > last, pk > last_pk))
