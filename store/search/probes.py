"""The rows that one search value asks for, as a condition on an index table.

`condition` is what the value means, asked of the few rows of one version: its columns are written so that no index on
values is used, for a planner may prefer a long range of values to the version's own rows. `seek` is the same by an
index, with what makes a range narrow enough to *drive* from; None where no index leads to the rows.
"""

from __future__ import annotations

from functools import cache
from typing import Any, TypeAlias

from sqlalchemy import (
    ColumnElement,
    Double,
    FromClause,
    Integer,
    and_,
    false,
    func,
    literal,
    literal_column,
    not_,
    or_,
    true,
)

from resources.criteria import (
    Bound,
    IdValue,
    QuantityValue,
    RangeValue,
    ReferenceValue,
    StringValue,
    TokenValue,
    UriValue,
    Value,
)
from resources.index_rows import Table
from resources.strings import normalise
from resources.times import DAY, MICROSECOND, UNIX_EPOCH
from store.versions import tables
from store.versions.queries import indexable

Condition: TypeAlias = ColumnElement[bool]
Columns: TypeAlias = Any
"""Columns by name: of a table, or plain ones."""

TABLES: dict[Table, Any] = {
    Table.TOKEN: tables.sp_token,
    Table.STRING: tables.sp_string,
    Table.DATE: tables.sp_date,
    Table.NUMBER: tables.sp_number,
    Table.QUANTITY: tables.sp_quantity,
    Table.REFERENCE: tables.sp_reference,
    Table.URI: tables.sp_uri,
}

LAST_CHARACTER = "\U0010ffff"
"""Sorts after every text that goes on from a prefix: the order is that of code points."""

_MIN, _MAX = -(2**63), 2**63 - 1


@cache
def plain_columns(row: FromClause) -> Columns:
    """The columns of an index table, each as an expression that no index has."""
    zero: ColumnElement[int] = literal_column("0")
    nothing: ColumnElement[str] = literal_column("''")
    return {
        column.key: column + zero if isinstance(column.type, Integer | Double) else column.concat(nothing)
        for column in row.c
    }


def condition(row: FromClause, value: Value, dialect: str) -> Condition:
    """Whether an index row satisfies `value`."""
    return _condition(plain_columns(row), value, dialect)


def _condition(row: Columns, value: Value, dialect: str) -> Condition:
    if isinstance(value, TokenValue):
        return _token(row, value)
    if isinstance(value, StringValue):
        return _string(row, value, dialect)
    if isinstance(value, RangeValue):
        within = _any_of([_bounds(row, bounds) for bounds in value.alternatives])
        if value.of_days is None:
            return within
        days = _is_days(row)
        return and_(within, days if value.of_days else not_(days))
    if isinstance(value, QuantityValue):
        unit = [] if value.system_id is None else [row["system_id"] == value.system_id]
        if value.code is not None:
            unit.append(row["code"] == indexable(value.code))
        return and_(_any_of([_bounds(row, bounds) for bounds in value.alternatives]), *unit)
    if isinstance(value, ReferenceValue):
        return _reference(row, value)
    if isinstance(value, UriValue):
        return _uri(row, value)
    raise TypeError(f"{type(value).__name__} is a column of the version, not an index row")


def seek(row: FromClause, value: Value, dialect: str) -> Condition | None:
    """As `condition`, in a form that an index answers without reading much else; None where there is none."""
    columns = row.c
    if isinstance(value, TokenValue):
        return _token(columns, value) if value.code is not None else None
    if isinstance(value, StringValue):
        return _string_seek(columns, value, dialect)
    if isinstance(value, RangeValue | QuantityValue):
        narrowed = [_narrow(bounds) for bounds in value.alternatives]
        if any(bounds is None for bounds in narrowed):
            return None
        ranges = _any_of([_bounds(columns, bounds) for bounds in narrowed if bounds is not None])
        return and_(_condition(plain_columns(row), value, dialect), ranges)
    if isinstance(value, ReferenceValue):
        return _reference(columns, value) if value.id or value.url else None
    if isinstance(value, UriValue):
        return _uri(columns, value) if value.prefix != "" else None
    return None


def id_condition(version: FromClause, values: tuple[Value, ...]) -> Condition:
    """`_id`: a column of the version."""
    return version.c.resource_id.in_([indexable(value.id) for value in values if isinstance(value, IdValue)])


def last_updated_condition(version: FromClause, values: tuple[Value, ...]) -> Condition:
    """`_lastUpdated`: the version's own time, as the interval of one tick."""
    return _any_of(
        [
            and_(true(), *(_moment(version.c.last_updated, bound) for bound in bounds))
            for value in values
            if isinstance(value, RangeValue)
            for bounds in value.alternatives
        ]
    )


def _any_of(conditions: list[Condition]) -> Condition:
    return or_(*conditions) if conditions else false()


def _token(row: Columns, value: TokenValue) -> Condition:
    asked = [] if value.code is None else [row["code"] == indexable(value.code)]
    if value.system_id is not None:
        asked.append(row["system_id"] == value.system_id)
    return and_(true(), *asked)


def _string(row: Columns, value: StringValue, dialect: str) -> Condition:
    text = value.text.replace("\0", "\ufffd")
    if value.operator == "exact":
        same: Condition = row["exact"] == text
        return same
    if value.operator == "prefix":
        return _begins(row, text)
    position = func.strpos if dialect == "postgresql" else func.instr
    found: Condition = position(row["norm"] + row["rest"], text) > 0
    return found


def _string_seek(row: Columns, value: StringValue, dialect: str) -> Condition | None:
    if value.operator == "contains" or not value.text:
        return None
    if value.operator == "prefix":
        return _string(row, value, dialect)
    return and_(_begins(row, normalise(value.text.replace("\0", "\ufffd"))), _string(row, value, dialect))


def _begins(row: Columns, norm: str) -> Condition:
    lead, rest = norm[: tables.NORM_LENGTH], norm[tables.NORM_LENGTH :]
    begun = and_(row["norm"] >= lead, row["norm"] < lead + LAST_CHARACTER)
    return and_(begun, row["rest"] >= rest, row["rest"] < rest + LAST_CHARACTER) if rest else begun


def _reference(row: Columns, value: ReferenceValue) -> Condition:
    asked: list[Condition] = []
    if value.id is not None:
        asked.append(row["target_id"] == indexable(value.id))
        if value.type_ids:
            asked.append(row["target_type_id"].in_(value.type_ids))
    else:
        asked.append(row["url"] == indexable(value.url or ""))
        asked.append(row["url"] != _empty())
    if value.version is not None:
        asked.append(row["target_version"] == indexable(value.version))
    return and_(*asked)


def _empty() -> ColumnElement[str]:
    """The empty text written into the statement, as the partial index on url has it."""
    return literal("", literal_execute=True)


def _uri(row: Columns, value: UriValue) -> Condition:
    asked: list[Condition] = [row["uri"].in_([indexable(uri) for uri in value.uris])] if value.uris else []
    if value.prefix is not None:
        prefix = value.prefix.replace("\0", "\ufffd")
        asked.append(and_(row["uri"] >= prefix, row["uri"] < prefix + LAST_CHARACTER))
    return _any_of(asked)


_OPERATORS: dict[str, Any] = {
    "<": lambda column, value: column < value,
    "<=": lambda column, value: column <= value,
    ">": lambda column, value: column > value,
    ">=": lambda column, value: column >= value,
}


def _is_days(row: Columns) -> Condition:
    """Whether a stored date is of whole calendar days: it begins and ends at midnight UTC, or is open."""
    return and_(
        or_(row["low"] == _MIN, (row["low"] // DAY) * DAY == row["low"]),
        or_(row["high"] == _MAX, (row["high"] // DAY) * DAY == row["high"]),
    )


def _bounds(row: Columns, bounds: tuple[Bound, ...]) -> Condition:
    return and_(true(), *(_OPERATORS[b.operator](row[b.column], _storable(b.value)) for b in bounds))


def _narrow(bounds: tuple[Bound, ...]) -> tuple[Bound, ...] | None:
    """`bounds` and what follows from low <= high, so that one column is bounded on both sides if it can be."""
    lower = [b for b in bounds if b.operator[0] == ">"]
    upper = [b for b in bounds if b.operator[0] == "<"]
    if not lower or not upper:
        return bounds if bounds else None
    starts = [b for b in lower if b.column == "low"]
    ends = [b for b in upper if b.column == "high"]
    if starts and ends:
        # low >= a and high <= b: low cannot exceed b either.
        return (*starts, *(Bound("low", b.operator, b.value) for b in ends))
    if {b.column for b in bounds} == {"low"} or {b.column for b in bounds} == {"high"}:
        return bounds
    return None  # an overlap: long intervals may begin at any time


def _moment(last_updated: ColumnElement[int], bound: Bound) -> Condition:
    """A bound on the tick of an instant, in µs."""
    ticks = int(bound.value) - UNIX_EPOCH - (1 if bound.column == "high" else 0)
    down, up = ticks // MICROSECOND, -(-ticks // MICROSECOND)
    rounded = {"<": up, "<=": down, ">": down, ">=": up}[bound.operator]
    return _OPERATORS[bound.operator](last_updated, _storable(rounded))  # type: ignore[no-any-return]


def _storable(value: int | float) -> int | float:
    return min(max(value, _MIN), _MAX) if isinstance(value, int) else value
