"""The sequencer: takes records out of the inbox, in the order in which they were written, into the log.

In one transaction a batch of records gets its positions and its leaves, the frontier moves, and a checkpoint is signed;
so a log that can be read is a log that is signed. Everything that can be computed is computed before: the transaction
is a bulk insert. One process sequences at a time, any process may. A checkpoint that does not extend the last one is
never signed: the sequencer stops and says so.

The inbox is a queue: the leader takes the rows that it sees, and deletes them in the commit that numbers them. No
bound on transactions is asked for, so none that stands open anywhere keeps a record from the log.
"""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
import structlog

from audit import entry, finding, form2, forms, merkle, months, published, queries
from audit.chain import chain
from audit.checkpoint import BadCheckpoint, Checkpoint, Signing, Verifier, handed_over
from audit.forms import Part, Row
from audit.intake import Intake
from audit.spool import Taken
from resources.outcomes import Unavailable
from resources.times import microseconds, utc_now
from store import items
from store.access import Loop
from store.engine import process
from store.engine.database import Database
from store.engine.faults import DRIVER_ERRORS, driver_error, is_race
from store.engine.queue import Floor
from store.versions import snapshots

if TYPE_CHECKING:
    from sqlalchemy import Connection

log = structlog.get_logger("vigie.audit")

NAME = "audit-sequencer"
BATCH = {"sqlite": 1000, "postgresql": 4000}
"""Records of one transaction. On SQLite every writer waits for it: some 20 ms."""
SPOOL_SHARE = 4
"""Of a batch one part in so many may come out of the spool, however much waits in the inbox: they have no order."""
CACHE_KIB = 32 * 1024
"""SQLite: pages that the background's connection keeps. The index over patients and resources is written everywhere."""
POLL_S = 0.2
"""How often the background looks whether something was recorded, while something is."""
IDLE_S = 1.0
"""The same once nothing was recorded for so long."""
LOOKS_S = 5.0
"""How often it looks at length, whatever it looks like."""
PUBLISH_INTERVAL_S = 1.0
TIDY_INTERVAL_S = 5.0
HAND_OVER_TIMEOUT_S = 30.0
HOUSE_INTERVAL_S, HOUSE_AGAIN_S = 3600.0, 60.0
"""How often checkpoints are thinned and partitions looked for; after how long again, if another process sequences."""
CHECKPOINTS_KEPT_US = 24 * 3_600_000_000
"""Each checkpoint is kept for a day, then one of each hour. The published file has them all."""
CHECKPOINTS_AT_ONCE = 5000
CHECKPOINT_INTERVAL_S = 1.0
"""Of the checkpoints that are kept: one in between goes when the next is signed."""
PASSES_S = 5.0
"""A burst of reads goes before the log for so long at most."""
RESTS_BELOW_S = 2.0
"""A log that is less far behind than this gives way to reads that come in: it rests as long as its batch took."""
_REST_MAX_S = 0.1
BURST_BYTES = 100_000
"""Of records (some 500 bytes each) from look to look: so many are a burst of reads, which goes first."""
PASSED_BYTES = 18_000_000
"""That may wait meanwhile: what was sequenced in one to three seconds once the machine was free."""
_OWNERS_KEPT = 50_000


class InconsistentLog(Exception):
    """The log is not what the last checkpoint signed. Nothing is sequenced until an operator has looked."""


class Sequencer:
    """`step` sequences one batch. Every process has one; the database lets one work at a time."""

    def __init__(
        self,
        database: Database,
        signer: Signing,
        *,
        observer: str,
        base_url: str,
        platform: str,
        published: Path | None = None,
        clock: Callable[[], datetime] = utc_now,
        batch: int | None = None,
        checkpoint_interval_s: float = CHECKPOINT_INTERVAL_S,
        intake: Intake | None = None,
    ) -> None:
        """`observer`, `base_url`, `platform`: as of the Ledger. `intake`: the spool, if there is one.

        `published`: an append-only file that checkpoints are copied to; keep it on another volume.
        """
        self._database = database
        self._signer = signer
        self._platform = platform
        self._observer = observer
        self._base_url = base_url
        self._published = published
        self._intake = intake
        self._tidied_at = 0.0
        self._house_due = 0.0
        self._now = clock
        self._batch = batch or BATCH[database.dialect]
        self._checkpoint_interval_us = int(checkpoint_interval_s * 1_000_000)
        self._owners: dict[str, str] = {}
        """Patient → owner, of those that were asked for last: an owner never changes."""
        self._has_cache = False
        self._floor = Floor()
        self._turn, self._pid = threading.Lock(), process.pid()
        self._epoch: int | None = None
        self._signed: Checkpoint | None = None
        self._unpublished: str | None = None
        self._published_size = 0
        self._published_at = 0.0
        self._published_read = False
        self._published_torn = False
        self._published_fault = ""
        self._followed_at = 0.0
        self._lag_s = 0.0
        """Age of the oldest record that the last step found."""
        self._spooled_bytes = self._passed_bytes = 0
        """In the spool at the last look; of bursts that came since the log had everything."""
        self._passes_until = self._looked_at = 0.0
        self._busy_at = 0.0
        """When the background last found something."""
        self._had: Mapping[str, int] | None = None
        """The spool as it was when the log had everything, if that is known."""
        self._looks_at = 0.0
        """When to look at length again in any case."""
        self._in_burst = False
        """Whether many reads came between the last two looks."""

    def step(self) -> bool:
        """Sequence the next batch; True when more is waiting. Raises InconsistentLog.

        A batch that is not full ends the round: records gather meanwhile, and share the next commit.
        """
        if self._pid != process.pid():  # a fork: whoever had the turn in the parent has it there
            self._turn, self._pid = threading.Lock(), process.pid()
        if not self._turn.acquire(blocking=False):
            return False  # another thread sequences; one does at a time, in all processes
        collects = gc.isenabled()
        gc.disable()  # a batch is many small tuples and no circles: to look through them took a sixth of the time
        try:
            return self._step()
        finally:
            if collects:
                gc.enable()
            self._turn.release()

    def _step(self) -> bool:
        self._recall_published()
        with self._database.read() as connection:
            batch = self._next(connection)
            if batch.records:
                prepared = self._prepared(connection, batch)
        if not batch.records:
            self._had = self._written
            self._drop_doubles(batch)
            self._tidy()
            self._keep_house()
            self._lag_s = 0.0
            self._follow()
            self._publish(force=True)
            return False
        self._busy_at = time.monotonic()
        self._lag_s = self._now().timestamp() - min(row.recorded for row in batch.records) / 1_000_000
        try:
            note = self._sequence(batch, prepared)
        except _Lost:
            return False
        except DRIVER_ERRORS as error:
            if is_race(error):
                return False
            raise
        self._unpublished = note
        self._publish(force=False)
        self._tidy()
        self._keep_house()
        return batch.is_full

    def loop(self) -> Loop:
        """The background loop."""
        return Loop(NAME, self.paced_step, IDLE_S, sooner_s=self._pause_s)

    def _pause_s(self) -> float:
        """Until the next look of the background, which may be long once it has found nothing for long."""
        return IDLE_S if time.monotonic() - self._busy_at > IDLE_S else POLL_S

    def paced_step(self) -> bool:
        """`step` for the background: under load it rests after each batch, so that requests have the database first.

        What is acknowledged is durable in the inbox already; only its place in the log waits.
        """
        if self._lets_pass() or self._has_nothing():
            return False
        if not self._has_cache and self._database.is_sqlite:
            with self._database.read() as connection:  # the connection that this thread keeps
                connection.exec_driver_sql(f"PRAGMA cache_size = -{CACHE_KIB}")
            self._has_cache = True
        began = time.monotonic()
        more = self.step()
        if not more:
            self._passed_bytes, self._passes_until = 0, time.monotonic() + PASSES_S
            self._looks_at = began + LOOKS_S
        if more and self._in_burst and self._lag_s < RESTS_BELOW_S:
            time.sleep(min(time.monotonic() - began, _REST_MAX_S))
        return more

    def _lets_pass(self) -> bool:
        """Whether a burst of reads is on that has the machine to itself: it is young, and not much waits yet."""
        now_s = time.monotonic()
        if self._intake is None or now_s - self._looked_at < POLL_S / 2:
            return False
        before, self._spooled_bytes = self._spooled_bytes, self._intake.appended()
        came, rested_s = self._spooled_bytes - before, now_s - self._looked_at
        self._looked_at = now_s
        if came:
            self._busy_at = now_s
        self._in_burst = came >= BURST_BYTES and rested_s < IDLE_S
        if not self._in_burst:
            return False
        self._passed_bytes += came
        return self._passed_bytes < PASSED_BYTES and now_s < self._passes_until

    @property
    def _written(self) -> Mapping[str, int] | None:
        return {} if self._intake is None else self._intake.written

    def _has_nothing(self) -> bool:
        """Whether nothing has come since the log had everything: ten times cheaper than to look at length."""
        if time.monotonic() >= self._looks_at or self._had is None or self._written != self._had:
            return False
        with self._database.glance() as connection:
            return not queries.is_any_pending(connection)

    def epoch(self, connection: Connection) -> int:
        """What the store adds to PostgreSQL's transaction ids."""
        if self._database.is_sqlite:
            return 0
        if self._epoch is None:
            self._epoch = snapshots.epoch(connection)
        return self._epoch

    def _next(self, connection: Connection) -> _Batch:
        """What is to be sequenced next: out of the inbox, then out of the spool; what the log has is left out."""
        inbox = queries.pending(connection, self._floor, self._batch)
        left = max(self._batch - len(inbox), self._batch // SPOOL_SHARE)
        taken = self._intake.next(connection, left) if self._intake is not None and left else []
        spooled = [row for one in taken for row in one.rows]
        # A file of the spool that was brought back from a backup, or beside an older database, is replayed.
        known = queries.known(connection, [row.event_id for row in spooled])
        records = [_Waiting(row.event_id, row.recorded, row.entry) for row in inbox]
        for row in spooled:
            if row.event_id not in known:
                known.add(row.event_id)
                records.append(_Waiting(row.event_id, row.recorded, row.entry))
        is_full = len(inbox) + len(spooled) >= self._batch
        return _Batch(inbox, taken, records, is_full)

    def _prepared(self, connection: Connection, batch: _Batch) -> _Prepared:
        """All that can be computed before the transaction, so that nobody waits for it."""
        try:
            frontier = queries.tree(connection)  # compared with the last checkpoint in the transaction that extends it
        except ValueError as error:
            raise InconsistentLog(f"The audit log cannot be extended: {error}") from error
        before, end = frontier.size, queries.end(connection)
        digest, _ = forms.site_content(self._observer, self._base_url, self._platform)
        split = [entry.split(waiting.entry) for waiting in batch.records]
        owners = self._owners_of(connection, split)
        logged = max(microseconds(self._now()) // 1000 * 1000, end.logged)
        through = end.through
        salts = os.urandom(form2.SALT_BYTES * (2 * len(split) + sum(len(record.patients) for record in split)))
        used = 0

        def salt(size: int) -> bytes:
            nonlocal used
            used += size
            return salts[used - size : used]

        rows, found = [], []
        for waiting, record in zip(batch.records, split, strict=True):
            seq = frontier.size + 1
            own = salt(2 * form2.SALT_BYTES)
            parts = [
                Part(patient, owners.get(patient, ""), salt(form2.SALT_BYTES)) for patient in record.patients
            ]
            try:
                head, particulars, keys = _said(digest, record, parts)
            except Exception as fault:  # noqa: BLE001 - neither is the log stopped nor the access lost
                items.tell(NAME, fault)
                parts = []
                head, particulars, keys = _said(digest, entry.unread(waiting.entry), parts)
            through += max(1, len(parts))
            leaf = form2.leaf(
                seq, waiting.event_id, waiting.recorded, logged, own, head, particulars,
                [part.committed for part in parts],
            )
            frontier.append(leaf)
            rows.append(Row(
                seq, waiting.event_id, forms.FORM_2, leaf, own, waiting.recorded, logged, through, head.decode(),
                particulars.decode(), forms.parts_text(parts)))
            found += [(kind, value, waiting.recorded, seq) for kind, value in keys]
            if "unread" in record.particulars:
                log.error("an audit entry cannot be read: it is logged as it stands", audit_event=waiting.event_id)
        return _Prepared(before, frontier, rows, found)

    def _owners_of(self, connection: Connection, records: Sequence[entry.Record]) -> dict[str, str]:
        """Patient → owner, of all patients of a batch: one statement for those that are not known yet."""
        patients = {patient for record in records for patient in record.patients}
        kept = self._owners
        found = {patient: kept[patient] for patient in patients if patient in kept}
        unknown = [patient for patient in patients - found.keys() if "\0" not in patient]  # PostgreSQL would refuse it
        ids = {patient.removeprefix("Patient/"): patient for patient in unknown}
        fresh = {ids[id]: owner for id, owner in queries.owners(connection, list(ids)).items()}
        self._owners = {**(kept if len(kept) < _OWNERS_KEPT else {}), **fresh} if fresh else kept
        return found | fresh

    def _drop_doubles(self, batch: _Batch) -> None:
        """A spool that only repeats what is in the log, or in which nothing verifies, is past."""
        if batch.spooled:
            with suppress(_Lost), self._database.write() as connection:
                self._advance(connection, batch)

    def _advance(self, connection: Connection, batch: _Batch) -> None:
        if self._intake is not None and not self._intake.advance(connection, batch.spooled):
            raise _Lost

    def _tidy(self) -> None:
        """Now and then, look after the files of the spool that are finished."""
        if self._intake is None or time.monotonic() - self._tidied_at < TIDY_INTERVAL_S:
            return
        self._tidied_at = time.monotonic()
        self._intake.tidy()

    def _keep_house(self) -> None:
        """Hourly: let checkpoints go that others cover, and (PostgreSQL) have this month's partition and the next's, so
        that no batch has to make them."""
        if time.monotonic() < self._house_due:
            return
        self._house_due = time.monotonic() + HOUSE_AGAIN_S
        now = microseconds(self._now())
        try:
            with self._database.write() as connection:
                if not queries.lead(connection):
                    return
                if not self._database.is_sqlite:
                    soon = months.ahead(now)
                    months.ensure(connection, soon, soon)
                gone = queries.thin_checkpoints(connection, now - CHECKPOINTS_KEPT_US, CHECKPOINTS_AT_ONCE)
            if gone < CHECKPOINTS_AT_ONCE:
                self._house_due = time.monotonic() + HOUSE_INTERVAL_S
        except DRIVER_ERRORS as error:
            log.warning("the house of the log could not be kept", reason=type(driver_error(error)).__name__)

    def _sequence(self, batch: _Batch, prepared: _Prepared) -> str:
        frontier = prepared.frontier
        checkpoint = Checkpoint(self._signer.name, frontier.size, frontier.root())
        with self._database.write() as connection:
            if not queries.lead(connection) or not queries.take(connection, self._floor, batch.inbox):
                raise _Lost
            self._advance(connection, batch)
            self._signer.follow(connection)
            if self._frontier(connection).size != prepared.before:
                raise _Lost
            queries.add_site(connection, *forms.site_content(self._observer, self._base_url, self._platform))
            if not queries.append(connection, prepared.rows, prepared.found, prepared.before, frontier):
                raise _Lost
            note = self._signer.sign(checkpoint)
            queries.add_checkpoint(
                connection, frontier.size, note, prepared.rows[-1].logged, self._checkpoint_interval_us)
        self._signed = checkpoint
        return note

    def hand_over(
        self, made: Signing, row: Callable[[Verifier], queries.InboxRow], put: Callable[[Connection], None]
    ) -> int:
        """Have the key `made` sign from the next record on, which names it; the record's position.

        `row` makes that record, of the key that is in use then: another rotation may have come first.

        That record, the checkpoint that the key in use and the new one sign, and `put`, which puts the new one into
        use, are one transaction: there is no moment between them. Raises InconsistentLog, Unavailable.
        """
        deadline = time.monotonic() + HAND_OVER_TIMEOUT_S
        with self._turn:
            self._recall_published()
            while True:
                try:
                    seq, note = self._hand_over(made, row, put)
                    break
                except _Lost as error:  # another process sequences: it lets go after each batch
                    if time.monotonic() > deadline:
                        raise Unavailable("The audit log is being written: try again") from error
                    time.sleep(0.005)
            self._unpublished = note
            self._publish(force=True)
        return seq

    def _hand_over(
        self, made: Signing, row: Callable[[Verifier], queries.InboxRow], put: Callable[[Connection], None]
    ) -> tuple[int, str]:
        with self._database.write() as connection:
            if not queries.lead(connection):
                raise _Lost
            self._signer.follow(connection)
            former = self._signer.verifier
            self._frontier(connection)
            prepared = self._prepared(connection, _Batch([], [], [_Waiting(*row(former)[:3])], is_full=False))
            frontier, seq = prepared.frontier, prepared.frontier.size
            queries.add_site(connection, *forms.site_content(self._observer, self._base_url, self._platform))
            if not queries.append(connection, prepared.rows, prepared.found, prepared.before, frontier):
                raise _Lost
            checkpoint = Checkpoint(self._signer.name, seq, frontier.root())
            note = handed_over(self._signer.sign(checkpoint), made.sign(checkpoint))
            queries.add_checkpoint(connection, seq, note, prepared.rows[-1].logged, self._checkpoint_interval_us)
            queries.add_key(connection, seq, former.text(), made.verifier.text())
            put(connection)
        self._signed = checkpoint
        return seq, note

    def _frontier(self, connection: Connection) -> merkle.Frontier:
        """The frontier, shown to be what the last checkpoint signed (C2SP: never sign an inconsistent checkpoint)."""
        try:
            frontier = queries.tree(connection)
            note = queries.last_checkpoint(connection)
            signed = self._signer.verifier.open(note) if note is not None else None
        except (ValueError, BadCheckpoint) as error:
            raise InconsistentLog(f"The audit log cannot be extended: {error}") from error
        if signed is None:
            if frontier.size or self._signed is not None:
                raise InconsistentLog("The audit log has lost its checkpoints")
            return frontier
        if signed.size != frontier.size or signed.root != frontier.root():
            raise InconsistentLog(f"The tree of {frontier.size} is not the one signed at {signed.size}")
        mine = self._signed
        if mine is not None and (mine.size > signed.size or (mine.size == signed.size and mine.root != signed.root)):
            raise InconsistentLog(
                f"A checkpoint of {mine.size} records was signed; the database holds one of {signed.size}")
        return frontier

    # --- what is told to the outside

    def _recall_published(self) -> None:
        """Before the first batch: the log may not be shorter than what was already published.

        What the process before left unpublished is published now; into a file that is missing or older than that
        nothing is, until an operator has looked.
        """
        if self._published is None or self._published_read:
            return
        if self._published_fault and time.monotonic() - self._followed_at < TIDY_INTERVAL_S:
            return
        self._followed_at = time.monotonic()
        with self._database.read() as connection:
            seen = published.look(self._published, chain(connection, self._signer.verifier))
            if seen is None and not queries.end(connection).seq:
                published.begin(self._published)
            found = published.fault(connection, self._published, seen)
            note = queries.last_checkpoint(connection)
            newest = seen.newest if seen is not None else None
            self._overtake(connection, note, newest)
        if newest is not None and (self._signed is None or newest.size > self._signed.size):
            self._signed = newest
        if found is not None:
            if not self._published_fault:
                log.error("no checkpoint is published: audit verify says why", reason=found)
            self._published_fault = found
            return
        self._published_fault, self._published_read = "", True
        self._published_torn = seen is not None and seen.is_torn

    def _follow(self) -> None:
        """Publish what another process signed, where this one's file is another."""
        if self._published is None or not self._published_read:
            return
        if time.monotonic() - self._followed_at < TIDY_INTERVAL_S:
            return
        self._followed_at = time.monotonic()
        with self._database.read() as connection:
            seen = published.look(self._published, chain(connection, self._signer.verifier))
            self._overtake(connection, queries.last_checkpoint(connection), seen.newest if seen is not None else None)

    def _overtake(self, connection: Connection, note: str | None, newest: Checkpoint | None) -> None:
        """Have the database's newest checkpoint published, if it is more than what is."""
        self._published_size = newest.size if newest is not None else 0
        if note is None:
            return
        try:
            if chain(connection, self._signer.verifier).open(note).size > self._published_size:
                self._unpublished = note
        except BadCheckpoint:
            return  # nothing is sequenced on it either, and verification names it

    def _publish(self, *, force: bool) -> None:
        """Append the newest checkpoint to the published file, once a second under load and before resting.

        Those at which a key followed another are published before it: who trusts the first key alone follows them.
        """
        note = self._unpublished
        if note is None or self._published is None or not self._published_read:
            return
        if not force and time.monotonic() - self._published_at < PUBLISH_INTERVAL_S:
            return
        size = int(note.split("\n")[1])
        with self._database.read() as connection:
            passed = queries.handovers(connection, self._published_size, size)
        try:
            for one in (*(one for _, one in passed), note):
                published.append(self._published, one, is_torn=self._published_torn)
                self._published_torn = False
        except FileNotFoundError:
            self._published_read = False  # it is looked at again, and named
            return
        self._unpublished, self._published_at, self._published_size = None, time.monotonic(), size


def _said(site: str, record: entry.Record, parts: Sequence[Part]) -> tuple[bytes, bytes, finding.Keys]:
    """Head and particulars of a record as they are kept, and by what it is found."""
    head = orjson.dumps({"site": site, **record.head})
    particulars = orjson.dumps(record.particulars) if record.particulars else b""
    return head, particulars, finding.keys(record.head, record.particulars, parts)


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A record that waits, wherever."""

    event_id: str
    recorded: int
    entry: str


@dataclass(frozen=True, slots=True)
class _Batch:
    """What is sequenced in one turn."""

    inbox: list[queries.Pending]
    spooled: list[Taken]
    records: list[_Waiting]
    is_full: bool
    """There may be more."""


@dataclass(frozen=True, slots=True)
class _Prepared:
    """Rows for the log that had `before` records, and the tree with them."""

    before: int
    frontier: merkle.Frontier
    rows: list[Row]
    found: list[queries.IndexRow]


class _Lost(Exception):
    """Another process sequences at this moment."""
