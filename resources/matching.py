"""Whether a resource satisfies criteria, in memory, over its index rows.

The same meaning as the store's SQL, for what has no database under it: the constraints of a scope on a draft, and the
filters of a subscription on a change. What needs other resources (chains, `_has`) is refused.

FHIR R4 §3.1.1 http://hl7.org/fhir/R4/search.html
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from resources import ranges, times
from resources.criteria import (
    Chain,
    Composite,
    Criterion,
    Has,
    IdValue,
    Leaf,
    Missing,
    QuantityValue,
    RangeValue,
    ReferenceValue,
    StringValue,
    TokenValue,
    UriValue,
    Value,
)
from resources.index_rows import MAX_TICKS, MIN_TICKS, DateRow, IndexRows, Table
from resources.outcomes import BadRequest

_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def matches(
    criteria: Iterable[Criterion],
    type_name: str,
    id: str | None,
    last_updated: datetime | None,
    rows: IndexRows,
) -> bool:
    """Whether every one of `criteria`, parsed for `type_name`, holds for the resource with these rows.

    A draft has no id or date yet: then nothing equals them. BadRequest for a chain or `_has`.
    """
    return all(_holds(one, id, last_updated, rows) for one in criteria)


def _holds(criterion: Criterion, id: str | None, last_updated: datetime | None, rows: IndexRows) -> bool:
    if isinstance(criterion, Chain | Has):
        raise BadRequest("A chained parameter cannot be evaluated on one resource", code="not-supported")
    if isinstance(criterion, Missing):
        return criterion.missing != any(True for _ in _rows(rows, criterion.table, criterion.param_id))
    if isinstance(criterion, Composite):
        return any(_together(rows, group) for group in criterion.values)
    found: Iterable[Any] = _own(criterion, id, last_updated, rows)
    return criterion.negated != any(satisfies(row, value) for row in found for value in criterion.values)


def _own(leaf: Leaf, id: str | None, last_updated: datetime | None, rows: IndexRows) -> Iterable[Any]:
    if leaf.table is Table.ID:
        return () if id is None else (id,)
    if leaf.table is Table.LAST_UPDATED:
        if last_updated is None:
            return ()
        at = times.ticks(last_updated)
        return (DateRow(leaf.param_id, at, at + 1),)
    return _rows(rows, leaf.table, leaf.param_id)


def _rows(rows: IndexRows, table: Table, param_id: int) -> Iterable[Any]:
    return (row for row in _table(rows, table) if row[0] == param_id)


def _table(rows: IndexRows, table: Table) -> Iterable[Any]:
    tables: Mapping[Table, Iterable[Any]] = {
        Table.TOKEN: rows.tokens,
        Table.STRING: rows.strings,
        Table.DATE: rows.dates,
        Table.NUMBER: rows.numbers,
        Table.QUANTITY: rows.quantities,
        Table.REFERENCE: rows.references,
        Table.URI: rows.uris,
    }
    return tables[table]


def _together(rows: IndexRows, components: Iterable[Any]) -> bool:
    """Whether one element has a value for every component (§3.1.1.5.15)."""
    common: set[int] | None = None
    for component in components:
        groups = {
            row.group_no
            for row in _rows(rows, component.table, component.param_id)
            if satisfies(row, component.value)
        }
        common = groups if common is None else common & groups
        if not common:
            return False
    return True


def satisfies(row: Any, value: Value) -> bool:
    """Whether one row (of the table that the value is for; of `_id` the id itself) is what `value` asks."""
    match value:
        case TokenValue():
            return (value.system_id is None or row.system_id == value.system_id) and (
                value.code is None or row.code == value.code
            )
        case StringValue():
            return _text(row, value)
        case RangeValue():
            return _within(row, value.alternatives) and value.of_days in (None, _is_days(row))
        case QuantityValue():
            return (
                (value.system_id is None or row.system_id == value.system_id)
                and (value.code is None or row.code == value.code)
                and _within(row, value.alternatives)
            )
        case ReferenceValue():
            return _refers(row, value)
        case UriValue():
            return row.uri in value.uris or (value.prefix is not None and row.uri.startswith(value.prefix))
        case IdValue():
            return bool(row == value.id)


def _text(row: Any, value: StringValue) -> bool:
    if value.operator == "exact":
        return bool(row.exact == value.text)
    return bool(value.text in row.norm if value.operator == "contains" else row.norm.startswith(value.text))


def _within(row: Any, alternatives: ranges.Alternatives) -> bool:
    return any(
        all(_COMPARE[bound.operator](getattr(row, bound.column), bound.value) for bound in bounds)
        for bounds in alternatives
    )


def _is_days(row: Any) -> bool:
    """Whether a stored date is of whole calendar days, as the store's SQL has it."""
    begins = row.low == MIN_TICKS or row.low % times.DAY == 0
    return bool(begins and (row.high == MAX_TICKS or row.high % times.DAY == 0))


def _refers(row: Any, value: ReferenceValue) -> bool:
    if value.version is not None and row.target_version != value.version:
        return False
    if value.id is None:
        return bool(row.url == value.url)
    return row.target_id == value.id and (not value.type_ids or row.target_type_id in value.type_ids)
