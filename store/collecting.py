"""Objects and the rows that name them, compared: objects that no row names are removed, rows without objects are told.

An object is placed in the transaction that writes its row (`ObjectStore.place`). What ends between the two, by a kill
or a rollback, leaves an object that nobody can find. It is removed under four conditions, each enough against another
danger:

- *No row names it, asked while the lock `objects.LOCK` is held alone.* Whoever places an object shares it until the
  commit, on every node; so an upload of the same bytes has either committed its row, which is then seen, or places its
  own file afterwards. SQLite has one writer anyway. The lock is only tried: nobody who stores images waits behind
  somebody who waits for it.
- *Its bytes were written a day ago or earlier.* A transaction that is tried again finds what it placed.
- *What is taken from its place is old.* A node of a version that knew no lock may place the same bytes at this moment.
- *It is one of few.* A kill leaves a group of objects at most. If there are more, the database is probably not the one
  of these objects, or an older one: nothing is removed until somebody says so.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import structlog
from sqlalchemy import Column, Connection, select

from resources.outcomes import NotFound
from resources.times import microseconds
from store import items
from store.access import Access, Caller, Interaction, Waiting, Work
from store.engine.locks import try_lock
from store.objects import LOCK, ObjectStore
from store.unit_of_work import Store
from store.versions.kept import keep, kept

log = structlog.get_logger("vigie.objects")

AGE_S = 24 * 3600.0
"""What is younger may still get its row."""
FEW = 100
"""So many objects without rows are what kills leave, in a store of any size; of a large one a hundredth."""
AT_ONCE = 50
"""Objects that are removed in one transaction."""
COMPARING = "objects-compared"
"""The loop."""
SETTING = "objects"
_TRIES = 20
_PAUSE_S = 0.05


@dataclass(slots=True)
class Found:
    """What was found in some folders."""

    objects: int = 0
    unnamed: list[str] = field(default_factory=list)
    """Digests of old objects that no row names."""
    young: int = 0
    """Objects that no row names yet."""
    lost: list[str] = field(default_factory=list)
    """Digests that rows name and of which there is no object."""

    def __iadd__(self, other: Found) -> Found:
        self.objects += other.objects
        self.unnamed += other.unnamed
        self.young += other.young
        self.lost += other.lost
        return self

    @property
    def are_few(self) -> bool:
        """Whether the objects without rows can be what kills have left."""
        count = len(self.unnamed)
        return count <= max(FEW, self.objects // 100) and 2 * count <= self.objects


@dataclass(frozen=True, slots=True)
class Removed:
    """How many objects went, and their bytes together."""

    count: int = 0
    size: int = 0

    def __add__(self, other: Removed) -> Removed:
        return Removed(self.count + other.count, self.size + other.size)


@dataclass(frozen=True, slots=True)
class Round:
    """What the last whole look has found, as the database remembers it."""

    ended_us: int
    objects: int
    unnamed: int
    """Old objects without rows that were left."""
    lost: int
    """Rows without objects."""


class Collector:
    """Compares the object store with the columns that name objects."""

    def __init__(self, store: Store, objects: ObjectStore, columns: Sequence[Column[Any]]) -> None:
        """`columns`: every column that holds digests of objects, each with an index."""
        self._store = store
        self._objects = objects
        self._columns = tuple(columns)

    def look(self, folder: str, older_than_s: float = AGE_S) -> Found:
        """Compare one folder with the rows."""
        before_s = time.time() - older_than_s
        # Rows first: an object is there before its row can be seen. One whose row came meanwhile is young.
        with self._store.database.read() as connection:
            named = set(self._named_in(connection, folder))
        there = self._objects.names(folder)
        found = Found(objects=len(there), lost=sorted(named.difference(there)))
        for digest in sorted(set(there) - named):
            if self._is_old(digest, before_s):
                found.unnamed.append(digest)
            else:
                found.young += 1
        return found

    def remove(
        self, caller: Caller, digests: Iterable[str], detail: tuple[tuple[str, str], ...] = (),
        older_than_s: float = AGE_S,
    ) -> Removed:
        """Remove those that no row names and that are old, on record; fewer where others keep storing."""
        wanted = sorted(digests)
        done = Removed()
        for start in range(0, len(wanted), AT_ONCE):
            some = wanted[start : start + AT_ONCE]
            before_s = time.time() - older_than_s
            intent = Access(Interaction.ADMIN, detail=(("operation", "objects-remove"), *detail))
            with self._store.work(caller, intent=intent) as uow:
                if _alone(uow.connection):
                    done += self._remove(uow, some, before_s, intent)
        return done

    def _remove(self, uow: Work, digests: Sequence[str], before_s: float, intent: Access) -> Removed:
        named = set(self._named(uow.connection, digests))
        sizes = [self._objects.remove_older(digest, before_s) for digest in digests if digest not in named]
        gone = [size for size in sizes if size is not None]
        if gone:
            counted = (("removed", str(len(gone))), ("bytes", str(sum(gone))))
            uow.note(Access(Interaction.ADMIN, detail=(*intent.detail, *counted)))
        return Removed(len(gone), sum(gone))

    def remember(self, found: Found, removed: Removed) -> None:
        """Keep what a whole look has found, for metrics and the doctor."""
        value = orjson.dumps({
            "ended": microseconds(self._store.now()), "objects": found.objects,
            "unnamed": len(found.unnamed) - removed.count, "lost": len(found.lost),
        }).decode()
        with self._store.database.write() as connection:
            keep(connection, SETTING, value)

    def _is_old(self, digest: str, before_s: float) -> bool:
        try:
            return self._objects.written_at(digest) < before_s
        except NotFound:
            return False

    def _named_in(self, connection: Connection, folder: str) -> Iterator[str]:
        for column in self._columns:  # `g` is behind every digit of a digest
            statement = select(column).where(column >= folder, column < f"{folder}g")
            yield from (str(row[0]) for row in connection.execute(statement))

    def _named(self, connection: Connection, digests: Sequence[str]) -> Iterator[str]:
        for column in self._columns:
            yield from (str(row[0]) for row in connection.execute(select(column).where(column.in_(digests))))


class Rounds:
    """The same in the background: a folder a turn, and after the last one what the whole has shown.

    A folder that cannot be read is told and left out; then the last whole look is what is remembered.
    """

    def __init__(self, collector: Collector, folders: Sequence[str], caller: Caller) -> None:
        self._collector = collector
        self._folders = folders
        self._caller = caller
        self._left: list[str] = []
        self._found = Found()
        self._is_whole = True
        """Whether every folder of this round could be looked at."""

    def step(self) -> bool:
        """Look at the next folder; never asks to be called again at once."""
        if not self._left:
            self._left, self._found, self._is_whole = list(reversed(self._folders)), Found(), True
        looked = None
        with items.apart(COMPARING):
            looked = self._collector.look(self._left[-1])
        self._left.pop()
        if looked is None:
            self._is_whole = False
        else:
            self._found += looked
        if not self._left:
            self._end(self._found)
        return False

    def _end(self, found: Found) -> None:
        removed = Removed()
        if not found.are_few:
            log.error("more objects without rows than kills leave: none is removed", count=len(found.unnamed))
        elif found.unnamed:
            removed = self._collector.remove(self._caller, found.unnamed)
            log.warning("objects without rows were removed", count=removed.count, size=removed.size)
        if found.lost:
            log.error("rows without objects", count=len(found.lost))
        if self._is_whole:
            self._collector.remember(found, removed)


def last_round(connection: Connection) -> Round | None:
    """What the last whole look has found; None: there was none yet."""
    found = kept(connection, SETTING)
    if found is None:
        return None
    told = orjson.loads(found)
    return Round(told["ended"], told["objects"], told["unnamed"], told["lost"])


def queues(connection: Connection) -> dict[str, Waiting]:
    """The findings of the last look as queues, which have no age."""
    last = last_round(connection)
    return {
        "objects-without-rows": Waiting(last.unnamed if last else 0, None),
        "rows-without-objects": Waiting(last.lost if last else 0, None),
    }


def _alone(connection: Connection) -> bool:
    """Hold the lock alone until the end of the transaction; False where others keep storing."""
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(_PAUSE_S)
        if try_lock(connection, LOCK):
            return True
    return False
