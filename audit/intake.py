"""The spool between files and database: registered, taken into the log, tidied; what does not verify is told.

What does not verify is never removed: its file is moved into the folder `aside`, each gap is a row of audit_spool_gap
and a record of the log itself, and `verify`, `doctor` and a metric tell of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from audit import entry, frames, queries, spool, spool_rows
from audit.checkpoint import Signing
from audit.frames import Key, Place
from audit.spool import CHAINED, UNREADABLE, Gap, SpoolFile, Taken
from resources.times import microseconds
from store.access import Access, Caller, Interaction, Outcome
from store.engine.database import Database
from store.engine.files import sync_folder
from store.engine.ids import ordered_id

if TYPE_CHECKING:
    from sqlalchemy import Connection

log = structlog.get_logger("vigie.audit")

ASK_AGAIN_S = 5.0
"""So soon a rotation is known."""
SETTLED_NS = 100_000_000
"""A file that was written to before that long is seen to be, once it is written to again."""


class KeyOf:
    """The key of the spool: it comes of the deployment's audit key, which is not opened before it is needed."""

    def __init__(self, signer: Signing) -> None:
        self._signer = signer
        self._key: Key | None = None
        self._asked_at = 0.0

    def __call__(self) -> Key:
        """The key; what was made with audit keys of before is opened too."""
        now_s = time.monotonic()
        if self._key is None or now_s - self._asked_at > ASK_AGAIN_S:
            self._key, self._asked_at = self._derived(), now_s
        return self._key

    def that_opens(self, headers: Iterable[bytes]) -> Key:
        """The key; asked for again where it opens not all of these, which a file of a newer key does not."""
        key = self()
        if all(key.opened(header) is not None for header in headers):
            return key
        self._key, self._asked_at = self._derived(again=True), time.monotonic()
        return self._key

    def _derived(self, *, again: bool = False) -> Key:
        newest, *former = self._signer.derived(b"vigie audit spool 2", again=again)
        return Key(newest, tuple(former))


class Intake:
    """The spool of one folder. Implements `audit.spool.Books`."""

    def __init__(
        self, database: Database, folder: Path, key: KeyOf, *, platform: str, clock: Callable[[], datetime]
    ) -> None:
        """`platform`: as of the Ledger."""
        self.folder = folder
        self._key = key
        self._database = database
        self._platform = platform
        self._now = clock
        self._last = ""
        """The file that was read last."""
        self._written: Mapping[str, int] | None = None
        self._appended = 0

    # --- the writer's side

    def begin(self, name: str, header: bytes, created: int, owner: str) -> None:
        """Register a file; durable when this returns."""
        with self._database.write() as connection:
            spool_rows.begin(connection, name, header, created, owner)

    def heads(self, heads: Mapping[str, Place]) -> None:
        """Note how far files are written."""
        with self._database.write() as connection:
            spool_rows.note_heads(connection, heads)

    # --- the sequencer's side

    def appended(self) -> int:
        """How many bytes of records the files hold, consumed ones included, within a block a file; see `written`."""
        written, settled = spool.written(self.folder), time.time_ns() - SETTLED_NS
        if written != self._written:
            self._appended = spool.bytes_waiting(self.folder, {})
            self._written = written if all(at < settled for at in written.values()) else None
        return self._appended

    @property
    def written(self) -> Mapping[str, int] | None:
        """When each file was last written to, as the last look at what was appended saw it; None: something is being
        written. What comes later has another instant."""
        return self._written

    def next(self, connection: Connection, limit: int) -> list[Taken]:
        """What is next in the files, some `limit` records. Files take turns: one that fills fast holds up no other."""
        states = spool_rows.states(connection)
        taken = spool.take(self.folder, self._key_for(states), states, limit, after=self._last)
        if taken:
            self._last = taken[-1].file
        return taken

    def advance(self, connection: Connection, taken: Sequence[Taken]) -> bool:
        """What was taken is in the log with this transaction; False where another sequencer was faster."""
        if not all(spool_rows.advance(connection, one) for one in taken):
            return False
        self._tell(connection, [gap for one in taken for gap in one.gaps])
        for one in taken:
            if one.state is None:
                log.warning("a file of the audit spool that nobody registered was read", count=len(one.rows))
        return True

    def is_past(self, connection: Connection, names: Sequence[str]) -> bool:
        """Whether all that stands in these files by now is in the log."""
        states = spool_rows.states(connection)
        key = self._key_for(states)
        found = (spool.take_of(self.folder, key, name, states.get(name), 1) for name in names)
        return not any(taken is not None and (taken.rows or taken.gaps) for taken in found)

    def _key_for(self, states: Mapping[str, SpoolFile]) -> Key:
        return self._key.that_opens(one.header for one in states.values() if one.format == CHAINED)

    def tidy(self) -> None:
        """Remove files that nobody writes any more and that are in the log; move aside those that did not verify."""
        with self._database.read() as connection:
            states = spool_rows.states(connection)
            damaged = {gap.file for gap in spool_rows.gaps(connection)}
        there = spool.files(self.folder)
        done = []
        for name in there:
            state = states.get(name)
            if state is not None and state.is_done:
                if name in damaged:  # we were killed before it was moved
                    self._set_aside(name, ())
                else:
                    done.append(name)
            elif spool.is_dead(self.folder, name) and not self._is_waiting(name, state):
                gaps = spool.examine(self.folder, self._key(), name, state)
                if any(gap.kind == UNREADABLE for gap in gaps):
                    continue
                if gaps or name in damaged:
                    self._set_aside(name, gaps)
                else:
                    done.append(name)
        gone = states.keys() - set(there)
        if gone:
            self._miss(gone)
        self._remove(done, states)

    def _is_waiting(self, name: str, state: SpoolFile | None) -> bool:
        taken = spool.take_of(self.folder, self._key(), name, state, 1)
        return taken is not None and bool(taken.rows or taken.gaps)

    def _remove(self, names: Sequence[str], states: Mapping[str, SpoolFile]) -> None:
        """In an order in which a file is never missed that was removed by us."""
        if not names:
            return
        fresh = [name for name in names if name in states and not states[name].is_done]
        if fresh:
            with self._database.write() as connection:
                for name in fresh:
                    spool_rows.finish(connection, name)
        removed = [name for name in names if spool.remove(self.folder, name, if_empty=name not in states)]
        known = [name for name in removed if name in states]
        if known:
            with self._database.write() as connection:
                spool_rows.forget(connection, known)

    def _set_aside(self, name: str, gaps: Sequence[Gap]) -> None:
        aside = self.folder / spool.ASIDE
        aside.mkdir(exist_ok=True, mode=0o700)
        with self._database.write() as connection:
            self._tell(connection, gaps)
            spool_rows.finish(connection, name)
        if (self.folder / name).exists():
            (self.folder / name).replace(aside / name)
            sync_folder(aside)
            sync_folder(self.folder)
        with self._database.write() as connection:
            spool_rows.forget(connection, [name])

    def _miss(self, names: set[str]) -> None:
        """Files that are registered and not there."""
        with self._database.write() as connection:
            states = spool_rows.states(connection)
            for name in sorted(names & states.keys()):
                state = states[name]
                if (self.folder / name).exists():
                    continue
                if not state.is_done:
                    self._tell(connection, [removed(state)])
                spool_rows.forget(connection, [name])

    def _tell(self, connection: Connection, gaps: Sequence[Gap]) -> None:
        """Keep what did not verify, in the log too."""
        at = self._now()
        for gap in spool_rows.add_gaps(connection, gaps, microseconds(at)):
            log.error("part of the audit spool does not verify", kind=gap.kind, count=gap.records or 0,
                      size=gap.end - gap.begin)
            detail = (("operation", "audit-spool"), ("finding", gap.text()))
            access = Access(Interaction.ADMIN, detail=detail, outcome=Outcome.MAJOR,
                            reason="exception: part of the audit spool does not verify")
            text = entry.written(Caller.system(self._platform), access, at)
            queries.add(connection, [queries.InboxRow(ordered_id(), microseconds(at), text)], 0)

    # --- for whoever looks

    def findings(self, connection: Connection) -> list[Gap]:
        """All that does not verify, whether the sequencer has come upon it or not. Nothing is altered."""
        return findings(self.folder, self._key_for(spool_rows.states(connection)), connection)

    def waiting(self, connection: Connection) -> tuple[int, int | None]:
        """How many records wait, and the oldest one's time in µs."""
        states = spool_rows.states(connection)
        return spool.waiting(self.folder, self._key_for(states), states)

    def backlog(self, connection: Connection, limit: int) -> tuple[int, int | None]:
        """The same by short looks, counted up to `limit`."""
        return spool.backlog(self.folder, self._key(), spool_rows.states(connection), limit)

    def bytes_waiting(self, connection: Connection) -> int:
        """About how many bytes wait."""
        return spool.bytes_waiting(self.folder, spool_rows.states(connection))


def findings(folder: Path, key: Key, connection: Connection) -> list[Gap]:
    """All that does not verify in the spool: what was found until now, and what files and database say."""
    known = spool_rows.gaps(connection)
    states = spool_rows.states(connection)
    found = list(known)
    there = spool.files(folder)
    for name in there:
        found += [
            gap for gap in spool.examine(folder, key, name, states.get(name))
            if not any(one.file == name and one.begin <= gap.begin and one.end >= gap.end for one in known)
        ]  # fmt: skip
    aside = set(spool.set_aside(folder))
    for name in sorted(states.keys() - set(there) - aside):
        if not states[name].is_done:
            found.append(removed(states[name]))
    for name in sorted({gap.file for gap in known if gap.kind != "removed"} - aside - set(there)):
        found.append(Gap(name, 0, 0, None, "removed"))
    return found


def removed(state: SpoolFile) -> Gap:
    """A registered file that is gone."""
    head = state.head or Place(frames.HEADER_BYTES, 0, b"")
    missing = max(0, head.records - state.records) if state.format == CHAINED else None
    return Gap(state.file, state.consumed, max(head.offset, state.consumed), missing, "removed")


def adopt(database: Database, folder: Path, *, for_good: bool = True) -> None:
    """At an upgrade: the files that the version before left are read as it wrote them. Later none is.

    `for_good`: that version serves no more. Until then it goes on to leave files.
    """
    if not database.is_sqlite:
        return
    names = []
    for name in spool.files(folder) if folder.is_dir() else ():
        with (folder / name).open("rb") as file:
            if file.read(len(frames.MAGIC)) != frames.MAGIC:
                names.append(name)
    with database.write() as connection:
        spool_rows.adopt(connection, names, for_good=for_good)
