"""The sequencer: takes records out of the inbox, in the order of their transactions, into the log.

In one transaction each record gets its position, its leaf and its AuditEvent version with index rows, the frontier
moves, and a checkpoint is signed; so a log that can be read is a log that is signed. One process sequences at a time,
any process may. A checkpoint that does not extend the last one is never signed: the sequencer stops and says so.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
import structlog

from audit import entry, events, merkle, queries, spool
from audit.checkpoint import BadCheckpoint, Checkpoint, Signer
from audit.offline import split_notes
from resources.index_rows import IndexRows
from resources.json import Json
from resources.registry import patients_of
from resources.times import instant_text, microseconds, of_microseconds, utc_now
from store.access import Loop
from store.engine.database import Database
from store.engine.faults import DRIVER_ERRORS, is_race
from store.versions import queries as versions
from store.versions import snapshots
from store.versions.audiences import Audiences

if TYPE_CHECKING:
    from sqlalchemy import Connection

log = structlog.get_logger("vigie.audit")

BATCH = 100
"""Records of one transaction: on SQLite every writer waits for it."""
PUBLISH_INTERVAL_S = 1.0
TIDY_INTERVAL_S = 5.0
CHECKPOINT_INTERVAL_S = 1.0
"""Of the checkpoints that are kept: one in between goes when the next is signed."""
PUBLISHED_TAIL_BYTES = 65_536
"""How much of the published file is looked at on start."""
_RESTS = ((10.0, 8.0), (60.0, 3.0), (300.0, 1.0), (float("inf"), 0.5))
"""(age of the oldest record below which it holds, rest after a batch as a multiple of the batch's own time)."""
_REST_MAX_S = 0.5
_LAST_UPDATED = "0000-00-00T00:00:00.000Z"
"""Stands in for meta.lastUpdated until the transaction has its time."""


class InconsistentLog(Exception):
    """The log is not what the last checkpoint signed. Nothing is sequenced until an operator has looked."""


class Sequencer:
    """`step` sequences one batch. Every process has one; the database lets one work at a time."""

    def __init__(
        self,
        database: Database,
        signer: Signer,
        *,
        observer: str,
        base_url: str,
        platform: str,
        base_urls: Sequence[str] = (),
        published: Path | None = None,
        clock: Callable[[], datetime] = utc_now,
        batch: int = BATCH,
        checkpoint_interval_s: float = CHECKPOINT_INTERVAL_S,
        spooled: Path | None = None,
    ) -> None:
        """`observer`, `base_url`, `platform`: as of the Ledger. `spooled`: folder of the spool, if there is one.

        `published`: an append-only file that checkpoints are copied to; keep it on another volume.
        """
        self._database = database
        self._signer = signer
        self._verifier = signer.verifier
        self._platform = platform
        self._observer = observer
        self._base_url = base_url
        self._base_urls = tuple(base_urls) or (base_url,)
        self._published = published
        self._spooled = spooled
        self._tidied_at = 0.0
        self._now = clock
        self._batch = batch
        self._checkpoint_interval_us = int(checkpoint_interval_s * 1_000_000)
        self._audiences = Audiences()
        self._epoch: int | None = None
        self._signed: Checkpoint | None = None
        self._unpublished: str | None = None
        self._published_at = 0.0
        self._published_read = False
        self._published_torn = False
        self._lag_s = 0.0
        """Age of the oldest record that the last step found."""

    def step(self) -> bool:
        """Sequence the next batch; True when more is waiting. Raises InconsistentLog.

        A batch that is not full ends the round: records gather meanwhile, and share the next commit.
        """
        self._recall_published()
        with self._database.read() as connection:
            inbox = queries.pending(connection, self._batch, self.epoch(connection))
            consumed = queries.consumed(connection) if self._spooled is not None else {}
        spooled = self._from_spool(consumed, self._batch - len(inbox))
        batch = [*inbox, *(queries.Pending(0, row.event_id, row.recorded, 0, row.entry) for row in spooled)]
        if not batch:
            self._tidy(consumed)
            self._lag_s = 0.0
            self._publish(force=True)
            return False
        self._lag_s = self._now().timestamp() - min(row.recorded for row in batch) / 1_000_000
        prepared = [self._prepared(row) for row in batch]
        try:
            note = self._sequence(inbox, spooled, consumed, batch, prepared)
        except _Lost:
            return False
        except DRIVER_ERRORS as error:
            if is_race(error):
                return False
            raise
        self._unpublished = note
        self._publish(force=False)
        return len(batch) == self._batch

    def loop(self) -> Loop:
        """The background loop."""
        return Loop("audit-sequencer", self.paced_step, 0.05)

    def paced_step(self) -> bool:
        """`step` for the background: under load it rests after each batch, so that requests have the database first.

        What is acknowledged is durable in the inbox already; only its place in the log waits. The rest shrinks with the
        age of the oldest record, so the log cannot fall behind for ever.
        """
        began = time.monotonic()
        more = self.step()
        if more:
            rest = next(share for age_s, share in _RESTS if self._lag_s < age_s)
            time.sleep(min(rest * (time.monotonic() - began), _REST_MAX_S))
        return more

    def epoch(self, connection: Connection) -> int:
        """What the store adds to PostgreSQL's transaction ids."""
        if self._database.is_sqlite:
            return 0
        if self._epoch is None:
            self._epoch = snapshots.epoch(connection)
        return self._epoch

    def _prepared(self, row: queries.Pending) -> _Prepared:
        """All that can be computed before the transaction, so that nobody waits for it."""
        event = self._event(row)
        meta = {"versionId": "1", "lastUpdated": _LAST_UPDATED, **event.pop("meta", {})}
        stamped: Json = {"resourceType": "AuditEvent", "id": row.event_id, "meta": meta}
        stamped.update((key, value) for key, value in event.items() if key not in stamped)
        head, _, tail = orjson.dumps(stamped).partition(_LAST_UPDATED.encode())
        try:
            rows = versions.extract("AuditEvent", stamped, self._base_urls)
        except Exception:
            # One event that cannot be indexed must not stop the log: it is logged, signed and read by its id.
            log.exception("an audit event could not be indexed", audit_event=row.event_id)
            rows = IndexRows()
        return _Prepared(head, tail, rows, tuple(patients_of("AuditEvent", stamped)))

    def _event(self, row: queries.Pending) -> Json:
        """The AuditEvent of a record."""
        site = {"observer": self._observer, "base_url": self._base_url, "platform": self._platform}
        recorded = of_microseconds(row.recorded)
        try:
            caller, access, at = entry.parse(row.entry)
            (event,) = events.build(caller, access, at, recorded=recorded, new_id=lambda: row.event_id, **site)
        except Exception:
            # One entry that nobody can read must not stop the log, nor be lost: it is logged as it stands.
            log.exception("an audit event could not be built", audit_event=row.event_id)
            event = events.unread(row.entry, recorded, **site)
        return event

    def _from_spool(self, consumed: Mapping[str, int], size: int) -> list[spool.SpoolRow]:
        if self._spooled is None or size <= 0:
            return []
        return spool.read(self._spooled, consumed, size)

    def _tidy(self, consumed: Mapping[str, int]) -> None:
        """Now and then, remove the files of the spool that are finished."""
        if self._spooled is None or time.monotonic() - self._tidied_at < TIDY_INTERVAL_S:
            return
        self._tidied_at = time.monotonic()
        gone = [*spool.remove_finished(self._spooled, consumed), *(consumed.keys() - set(spool.files(self._spooled)))]
        known = [name for name in gone if name in consumed]
        if known:
            with self._database.write() as connection:
                queries.forget(connection, known)

    def _sequence(
        self,
        inbox: Sequence[queries.Pending],
        spooled: Sequence[spool.SpoolRow],
        consumed: Mapping[str, int],
        batch: Sequence[queries.Pending],
        prepared: Sequence[_Prepared],
    ) -> str:
        fresh: set[int] = set()
        ends = {row.file: row.end for row in spooled}
        with self._database.write() as connection:
            if not queries.lead(connection) or not queries.take(connection, inbox):
                raise _Lost
            for name, end in ends.items():
                if not queries.advance(connection, name, consumed.get(name, 0), end):
                    raise _Lost
            frontier = self._frontier(connection)
            before = frontier.size
            now_us = microseconds(self._now()) // 1000 * 1000
            tx, at_us = snapshots.begin_tx(connection, now_us, self.epoch(connection))
            audience = self._audiences.register(connection, frozenset({self._platform}), fresh)
            stamp = instant_text(of_microseconds(at_us)).encode()
            news, log = [], []
            for row, ready in zip(batch, prepared, strict=True):
                content = ready.head + stamp + ready.tail
                seq, salt = frontier.size + 1, secrets.token_bytes(32)
                leaf = merkle.leaf_hash(merkle.commitment(seq, content, salt))
                frontier.append(leaf)
                log.append(queries.LogRow(seq, row.event_id, leaf, salt, row.tx_id, row.recorded))
                news.append(versions.NewVersion(
                    queries.AUDIT_EVENT, row.event_id, 1, False, "POST", audience, audience, ready.patients, content))
            buffer = versions.IndexBuffer()
            keys = versions.insert_versions(connection, news, tx, at_us)
            for key, ready in zip(keys, prepared, strict=True):
                buffer.add(key, ready.rows)
            buffer.flush(connection)
            if not queries.append(connection, log, before, frontier):
                raise _Lost
            checkpoint = Checkpoint(self._signer.name, frontier.size, frontier.root())
            note = self._signer.sign(checkpoint)
            queries.add_checkpoint(connection, frontier.size, note, at_us, self._checkpoint_interval_us)
        self._audiences.committed(fresh)
        self._signed = checkpoint
        return note

    def _frontier(self, connection: Connection) -> merkle.Frontier:
        """The frontier, shown to be what the last checkpoint signed (C2SP: never sign an inconsistent checkpoint)."""
        try:
            frontier = queries.tree(connection)
            note = queries.last_checkpoint(connection)
            signed = self._verifier.open(note) if note is not None else None
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
        """Before the first batch: the log may not be shorter than what was already published."""
        if self._published_read:
            return
        self._published_read = True
        if self._published is None or not self._published.exists():
            return
        with self._published.open("rb") as file:
            file.seek(max(0, self._published.stat().st_size - PUBLISHED_TAIL_BYTES))
            tail = file.read().decode("utf-8", "replace")
        self._published_torn = bool(tail) and not tail.endswith("\n\n")
        for note in split_notes(tail):
            try:
                checkpoint = self._verifier.open(note)
            except BadCheckpoint:
                continue
            if self._signed is None or checkpoint.size > self._signed.size:
                self._signed = checkpoint

    def _publish(self, *, force: bool) -> None:
        """Append the newest checkpoint to the published file, once a second under load and before resting."""
        note = self._unpublished
        if note is None or self._published is None:
            return
        if not force and time.monotonic() - self._published_at < PUBLISH_INTERVAL_S:
            return
        self._published.parent.mkdir(parents=True, exist_ok=True)
        with self._published.open("a", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(("\n\n" if self._published_torn else "") + note + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._unpublished, self._published_at, self._published_torn = None, time.monotonic(), False


@dataclass(frozen=True, slots=True)
class _Prepared:
    """An AuditEvent but for its time: the text before and after it, index rows, patients."""

    head: bytes
    tail: bytes
    rows: IndexRows
    patients: tuple[str, ...]


class _Lost(Exception):
    """Another process sequences at this moment."""
