"""Index rows made anew by today's rules, beside clients that read and write.

One pass over the versions in the order of their keys, in windows. Of each window the rows that there should be are
compared with those that are, in a read transaction; only where they differ a short write transaction puts the new ones
in the place of the old, and notes in the same commit how far the pass has come: killed anywhere, it goes on from there.
Versions are immutable and this code writes new ones by the new rules, so nothing can be overtaken. Versions whose rows
were swept (no page token reaches them) stay without; the sweep and this exclude each other by a lock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, insert, select, tuple_, update

from resources import index_rules, jsontext
from resources.registry import type_id, type_name
from store.engine.database import Database
from store.engine.locks import lock
from store.engine.statements import Row
from store.versions import integrity, standing
from store.versions.queries import IndexBuffer, extract
from store.versions.sweeping import LOCK, swept_to
from store.versions.tables import (
    INDEX_TABLES,
    index_rule,
    resource_version,
    sp_date,
    sp_number,
    sp_quantity,
    sp_reference,
    sp_string,
    sp_token,
    sp_uri,
)

WINDOW = 500
"""Keys of one window."""
AT_ONCE = 50
"""Versions whose rows one write transaction replaces: on SQLite every writer waits for it."""
RATE = 2000
"""Versions a second, at most."""
_REST = 0.5
"""Of the time that a window took, before the next: writers and readers have the database meanwhile."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a pass has come."""

    through: int
    """Versions up to this key are done."""
    last: int
    """The newest version's key when it was looked at."""
    versions: int
    """Looked at by this call."""
    altered: int
    """Of them, those that got other rows."""


class Reindex:
    """A pass over the versions of some types."""

    def __init__(self, database: Database, types: Iterable[str], *, base_urls: Sequence[str], rate: int = RATE) -> None:
        """`base_urls`: absolute references below one of these are local, as when the versions were written."""
        self._database = database
        self._types = {type_id(name): index_rules.version(name) for name in types}
        self._base_urls = tuple(base_urls)
        self._rate = rate

    def run(self, told: Callable[[Progress], None], sleep: Callable[[float], None] = time.sleep) -> Progress:
        """Make the rows of all versions anew, from where a former call ended. `told`: after each window."""
        through = self._begin()
        versions = altered = 0
        while True:
            began = time.monotonic()
            window = self._window(through)
            if window is None:
                break
            upper, last, looked, found = window
            for first in range(0, len(found), AT_ONCE):
                altered += self._replace(found[first : first + AT_ONCE])
            through = upper
            self._note(through)
            versions += looked
            told(Progress(through, last, versions, altered))
            took_s = time.monotonic() - began
            sleep(max(_REST * took_s, looked / self._rate - took_s))
        self._end()
        return Progress(through, through, versions, altered)

    def _begin(self) -> int:
        """Note what is being done; the key up to which it is."""
        reached = []
        with self._database.write() as connection:
            known = {row.type_id: row for row in connection.execute(select(index_rule))}
            for number, target in self._types.items():
                row = known.get(number)
                if row is None:
                    values = {"type_id": number, "rule": standing.FIRST, "target": target, "through": 0}
                    connection.execute(insert(index_rule).values(values))
                elif row.target != target:
                    self._set(connection, number, target=target, through=0)
                else:
                    reached.append(int(row.through))
                    continue
                reached.append(0)
        return min(reached, default=0)

    def _window(self, through: int) -> tuple[int, int, int, list[tuple[int, list[Row | tuple[object, ...]]]]] | None:
        """(last key, newest of all, versions looked at, those whose rows are not as they should be); None: no more."""
        version = resource_version.c
        with self._database.read() as connection:
            last = connection.execute(select(func.max(version.pk))).scalar()
            if last is None or int(last) <= through:
                return None
            upper = min(through + WINDOW, int(last))
            rows = connection.execute(
                select(version.pk, version.type_id, version.content)
                .where(
                    version.pk > through,
                    version.pk <= upper,
                    version.type_id.in_(self._types),
                    version.deleted == 0,
                    tuple_(version.valid_to, version.pk) > tuple_(*swept_to(connection)),
                )
                .order_by(version.pk)
            ).all()
            wanted = {int(row.pk): self._rows(int(row.pk), row.type_id, row.content) for row in rows}
            held = _held(connection, list(wanted))
        return upper, int(last), len(rows), [(pk, own) for pk, own in wanted.items() if held[pk] != _comparable(own)]

    def _rows(self, pk: int, type_number: int, content: str) -> list[Row | tuple[object, ...]]:
        name = type_name(type_number)
        resource = jsontext.parse(content.encode())
        past = name in integrity.RECORDS_OF_THE_PAST
        mentions = () if past else integrity.mentions(resource, self._base_urls)
        buffer = IndexBuffer()
        buffer.add(pk, extract(name, resource, self._base_urls), dict.fromkeys(one.target for one in mentions))
        return [(place, *row) for place, rows in enumerate(_of(buffer)) for row in rows]

    def _replace(self, found: Sequence[tuple[int, list[Row | tuple[object, ...]]]]) -> int:
        version = resource_version.c
        with self._database.write() as connection:
            lock(connection, LOCK)
            keys = [pk for pk, _ in found]
            alive = set(
                connection.execute(
                    select(version.pk).where(
                        version.pk.in_(keys), tuple_(version.valid_to, version.pk) > tuple_(*swept_to(connection))
                    )
                ).scalars()
            )
            for table in INDEX_TABLES:
                connection.execute(delete(table).where(table.c.version_pk.in_(keys)))
            buffer = IndexBuffer()
            lists = _of(buffer)
            for pk, rows in found:
                if pk in alive:
                    for place, *row in rows:
                        lists[int(str(place))].append(tuple(row))
            buffer.flush(connection)
        return len(alive)

    def _note(self, through: int) -> None:
        with self._database.write() as connection:
            for number in self._types:
                connection.execute(
                    update(index_rule)
                    .where(index_rule.c.type_id == number, index_rule.c.through < through)
                    .values(through=through)
                )

    def _end(self) -> None:
        with self._database.write() as connection:
            for number, target in self._types.items():
                self._set(connection, number, rule=target, target=None, through=None)

    @staticmethod
    def _set(connection: Connection, number: int, **values: int | None) -> None:
        connection.execute(update(index_rule).where(index_rule.c.type_id == number).values(values))


_TABLES = (sp_token, sp_string, sp_date, sp_number, sp_quantity, sp_reference, sp_uri)


def _of(buffer: IndexBuffer) -> tuple[list[Row], ...]:
    """The rows of a buffer in the order of `_TABLES`."""
    return (
        buffer.tokens, buffer.strings, buffer.dates, buffer.numbers, buffer.quantities, buffer.references, buffer.uris,
    )  # fmt: skip


def _held(connection: Connection, keys: Sequence[int]) -> dict[int, frozenset[tuple[object, ...]]]:
    """Version → its rows as they are."""
    found: dict[int, set[tuple[object, ...]]] = {pk: set() for pk in keys}
    for place, table in enumerate(_TABLES):
        for row in connection.execute(select(table).where(table.c.version_pk.in_(keys))):
            found[row[0]].add((place, *row))
    return {pk: frozenset(rows) for pk, rows in found.items()}


def _comparable(rows: Iterable[Row | tuple[object, ...]]) -> frozenset[tuple[object, ...]]:
    return frozenset(tuple(row) for row in rows)
