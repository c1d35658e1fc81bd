"""How many open readings each person has, kept as numbers, so that a proposal costs the same on a bad day.

Counting them each time steps over every open reading there is. Here each transaction that opens, hands over or ends a
reading moves the number with it, and `Loads.recount` (a loop) puts right what a server of an earlier version, which
knows nothing of the numbers, has done. A number that is wrong for a while costs an uneven proposal and nothing else.

Until the numbers were counted for the first time, whoever asks counts for himself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Column, Connection, Integer, Select, Table, delete, insert, select
from sqlalchemy.dialects import postgresql, sqlite

from resources import task as tasks
from resources.codes import TELERADIOLOGY_TASK, TaskKind
from store.access import Caller, Change, Loop, Version, Work
from store.engine.locks import lock, lock_shared
from store.engine.schema import BinaryText, metadata
from store.unit_of_work import Store

OPEN_READING = ("ready", "in-progress", "on-hold")
NAME = "reading-load"
RECOUNT_INTERVAL_S = 3600.0
COUNTED = ""
"""The row that says that the others are counted."""
_LOCK = "reading-load"
_ASKED = [("status", ",".join(OPEN_READING)), ("code", f"{TELERADIOLOGY_TASK}|{TaskKind.READ}")]

load_table = Table(
    "reading_load",
    metadata,
    Column("practitioner", BinaryText, primary_key=True, comment="Practitioner/id; empty: the numbers are counted"),
    Column("readings", Integer, nullable=False, comment="open ones that are proposed to or claimed by this person"),
)


def of(uow: Work, practitioners: Iterable[str]) -> dict[str, int]:
    """Open readings of each of these; who has none may be left out."""
    wanted = [COUNTED, *practitioners]
    kept = _kept(uow.connection, wanted)
    if COUNTED not in kept:
        return uow.system.count_by("Task", _ASKED, "owner")
    return kept


class Loads:
    """The Sequel of Task that moves the numbers."""

    def changed(self, uow: Work, change: Change) -> None:
        """A reading has another owner, is open now, or is no longer."""
        before, after = _holder(change.before), _holder(change.after)
        if before == after:
            return
        # Shared: whoever recounts waits for the end of this transaction, and this one for his.
        lock_shared(uow.connection, [_LOCK])
        if COUNTED not in _kept(uow.connection, [COUNTED]):
            return
        # In one order, so that two who hand over to one another do not wait in a circle.
        for holder, by in sorted([(before, -1), (after, 1)]):
            if holder:
                _add(uow.connection, holder, by)


def recount(store: Store) -> bool:
    """Count anew. Returns False: there is nothing more to do at once."""

    def write(uow: Work) -> None:
        lock(uow.connection, _LOCK)
        counted = {COUNTED: 0, **uow.system.count_by("Task", _ASKED, "owner")}
        kept = _numbers(uow.connection, select(load_table.c.practitioner, load_table.c.readings))
        if {name: number for name, number in kept.items() if number or name == COUNTED} != counted:
            uow.connection.execute(delete(load_table))
            rows = [{"practitioner": name, "readings": number} for name, number in counted.items()]
            uow.connection.execute(insert(load_table), rows)

    store.transact(Caller.system(store.platform), write)
    return False


def loop(store: Store) -> Loop:
    """The loop that recounts."""
    return Loop(NAME, lambda: recount(store), RECOUNT_INTERVAL_S)


def _kept(connection: Connection, names: Sequence[str]) -> dict[str, int]:
    found = select(load_table.c.practitioner, load_table.c.readings).where(load_table.c.practitioner.in_(names))
    return _numbers(connection, found)


def _numbers(connection: Connection, asked: Select[Any]) -> dict[str, int]:
    return {row[0]: row[1] for row in connection.execute(asked)}


def _add(connection: Connection, practitioner: str, by: int) -> None:
    dialect: Any = postgresql if connection.dialect.name == "postgresql" else sqlite
    added = dialect.insert(load_table).values(practitioner=practitioner, readings=by)
    connection.execute(
        added.on_conflict_do_update(
            index_elements=["practitioner"], set_={"readings": load_table.c.readings + by}
        )
    )


def _holder(version: Version | None) -> str:
    """Whose open reading it is; empty: nobody's, or it is none."""
    if version is None or version.deleted:
        return ""
    task = version.json()
    if tasks.kind_of(task) is not TaskKind.READ or task.get("status") not in OPEN_READING:
        return ""
    return tasks.owner(task) or ""
