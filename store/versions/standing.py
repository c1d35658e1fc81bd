"""How the index on disk stands to this code: the numbers of its parameters, the rules its rows were made by."""

from __future__ import annotations

import time
from collections.abc import Mapping

from sqlalchemy import Connection, func, insert, literal, select

from resources import index_rules
from resources.registry import TYPES, type_id
from resources.search_parameters import numbers
from store.access import COUNTED, Waiting
from store.engine.locks import lock
from store.versions.tables import index_rule, resource_version, search_parameter

FIRST = 1
"""The rules of what is not said to have others."""
_LOOK_AGAIN_S = 5.0


class IndexFault(Exception):
    """The index numbers its parameters otherwise than this code; the text says what to do."""


def check(connection: Connection) -> None:
    """Raise IndexFault unless the database's registry of parameters has this code's, with the same numbers."""
    if _missing(connection):
        raise IndexFault("the database does not know all search parameters of this version: ./vigie db upgrade")


def settle(connection: Connection) -> None:
    """Enter what this code has more, and that types without a version have today's rules. Raises IndexFault."""
    lock(connection, "index registry")
    missing = _missing(connection)
    if missing:
        rows = [{"number": number, "type": type_, "code": code} for number, (type_, code) in sorted(missing.items())]
        connection.execute(insert(search_parameter), rows)
    known = {row.type_id for row in connection.execute(select(index_rule.c.type_id))}
    for name in index_rules.OF_TYPE.keys() if index_rules.OF_ALL == FIRST else TYPES:
        number = type_id(name)
        version = resource_version.c
        if number in known or index_rules.version(name) == FIRST:
            continue
        if connection.execute(select(version.pk).where(version.type_id == number).limit(1)).first() is None:
            connection.execute(insert(index_rule).values(type_id=number, rule=index_rules.version(name)))


def stale(connection: Connection) -> Mapping[str, int]:
    """Types whose rows were made by older rules → the version of those."""
    made = {row.type_id: int(row.rule) for row in connection.execute(select(index_rule.c.type_id, index_rule.c.rule))}
    found = {name: made.get(type_id(name), FIRST) for name in TYPES}
    return {name: rule for name, rule in found.items() if rule < index_rules.version(name)}


def waiting(connection: Connection) -> Waiting:
    """Versions of stale types that no pass has come to, as a queue; it has no age."""
    reached = {
        row.type_id: row.through for row in connection.execute(select(index_rule.c.type_id, index_rule.c.through))
    }
    version, left = resource_version.c, 0
    for number in map(type_id, stale(connection)):
        some = (
            select(literal(1))
            .where(version.type_id == number, version.pk > (reached.get(number) or 0), version.deleted == 0)
            .limit(COUNTED)
            .subquery()
        )
        left += int(connection.execute(select(func.count()).select_from(some)).scalar_one())
    return Waiting(min(left, COUNTED), None)


class Standing:
    """What one process knows of it. Rules of a process do not change, so what is well stays well."""

    def __init__(self) -> None:
        self._stale: frozenset[str] | None = None
        self._looked_at = 0.0

    def stale(self, connection: Connection) -> frozenset[str]:
        """Types whose searches may miss something."""
        if self._stale is not None and (not self._stale or time.monotonic() - self._looked_at < _LOOK_AGAIN_S):
            return self._stale
        self._looked_at = time.monotonic()
        self._stale = frozenset(stale(connection))
        return self._stale


def _missing(connection: Connection) -> dict[int, tuple[str, str]]:
    """What this code has and the database has not. Raises IndexFault where one number or pair has two meanings."""
    known = {row.number: (row.type, row.code) for row in connection.execute(select(search_parameter))}
    ours = numbers()
    by_pair = {pair: number for number, pair in known.items()}
    for number, pair in ours.items():
        if known.get(number, pair) != pair or by_pair.get(pair, number) != number:
            raise IndexFault(
                f"the database numbers the search parameter {pair[1]} of {pair[0]} otherwise than this version: "
                "run the version that wrote it"
            )
    return {number: pair for number, pair in ours.items() if number not in known}
