"""Statements of the hot paths: written in SQLAlchemy Core, compiled once per dialect, executed by the driver itself.

The text comes from Core, so a column that is renamed breaks at import; at run time nothing is built, hashed or looked
up. Driver errors arrive unwrapped: `store.faults` knows both forms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, Dialect, Executable, FromClause, Join, true
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import ClauseElement

Row = tuple[Any, ...]
_Compiled = tuple[str, tuple[str, ...], Callable[[Mapping[str, Any]], Sequence[Any]]]
"""The text, the names of its parameters in order, and what puts values into that order."""

_DIALECTS: dict[str, Dialect] = {
    "sqlite": SQLiteDialect_pysqlite(paramstyle="qmark"),
    "postgresql": PGDialect_psycopg(paramstyle="format"),  # type: ignore[no-untyped-call]
}


class Prepared:
    """A Core statement with named parameters, in the dialects' own words."""

    def __init__(self, statement: Executable, **by_dialect: Executable) -> None:
        """`by_dialect` replaces `statement` for one dialect."""
        self._statement = statement
        self._by_dialect = by_dialect
        self._compiled: dict[str, _Compiled] = {}

    def all(self, connection: Connection, parameters: Mapping[str, Any]) -> list[Row]:
        """Run it; all rows."""
        rows: list[Row] = self._execute(connection, parameters).fetchall()
        return rows

    def first(self, connection: Connection, parameters: Mapping[str, Any]) -> Row | None:
        """Run it; the first row, or None."""
        row: Row | None = self._execute(connection, parameters).fetchone()
        return row

    def each(self, connection: Connection, parameters: Mapping[str, Any]) -> Iterator[Row]:
        """The rows one by one, as the driver has them: SQLite finds each when it is asked for."""
        yield from self._execute(connection, parameters)

    def run(self, connection: Connection, parameters: Mapping[str, Any]) -> int:
        """Execute and return the number of rows touched."""
        return int(self._execute(connection, parameters).rowcount)

    def many(self, connection: Connection, rows: Sequence[Row]) -> None:
        """Execute once per row, each a tuple in the order of the statement's parameters."""
        sql, _names, _values = self._for(connection)
        cursor = connection.connection.cursor()
        try:
            cursor.executemany(sql, rows)
        finally:
            cursor.close()

    def sql(self, dialect: str) -> str:
        """The text sent to `dialect`."""
        return self._compile(dialect)[0]

    def _execute(self, connection: Connection, parameters: Mapping[str, Any]) -> Any:
        sql, _names, values = self._for(connection)
        driver: Any = connection.connection.driver_connection
        return driver.execute(sql, values(parameters))

    def _for(self, connection: Connection) -> _Compiled:
        dialect = connection.dialect.name
        return self._compiled.get(dialect) or self._compile(dialect)

    def _compile(self, dialect: str) -> _Compiled:
        statement = self._by_dialect.get(dialect, self._statement)
        assert isinstance(statement, ClauseElement)  # noqa: S101 - for the type checker
        compiled: Any = statement.compile(dialect=_DIALECTS[dialect])
        names = tuple(compiled.positiontup or ())
        self._compiled[dialect] = found = (str(compiled), names, _in_order(names, compiled.params))
        return found


def _in_order(names: tuple[str, ...], fixed: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], Sequence[Any]]:
    """What puts named parameters into the order of `names`: those of the statement where none is given."""
    quick = itemgetter(*names) if len(names) > 1 else None  # of one name it gives no tuple

    def values(given: Mapping[str, Any]) -> Sequence[Any]:
        try:
            if quick is not None:
                return quick(given)  # type: ignore[no-any-return]
        except KeyError:
            pass
        return [given[name] if name in given else fixed[name] for name in names]

    return values


class OrderedJoin(Join):
    """`left` first, then `right` for each of its rows; the conditions are in WHERE."""

    inherit_cache = True

    def __init__(self, left: FromClause, right: FromClause) -> None:
        super().__init__(left, right, onclause=true())


@compiles(OrderedJoin)
def _ordered_join(element: OrderedJoin, compiler: SQLCompiler, **kwargs: Any) -> str:
    """CROSS JOIN: SQLite never reorders it (https://www.sqlite.org/optoverview.html#crossjoin)."""
    kwargs["asfrom"] = True
    left = compiler.process(element.left, **_without_linter(kwargs))
    right = compiler.process(element.right, **_without_linter(kwargs))
    return f"{left} CROSS JOIN {right}"


def _without_linter(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in kwargs.items() if key != "from_linter"}
