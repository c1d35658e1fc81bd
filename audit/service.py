"""The trail: implements `store.access.Trail` on the inbox.

A write's records are rows of its own transaction; a read's records are durable before `disclose` returns, by the group
committer; where that fails the answer is 503 and nothing is disclosed. What is durable is sequenced soon after.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from audit import entry, queries, spool, spool_rows
from audit.checkpoint import Signing, Verifier
from audit.committer import Drain, GroupCommitter
from audit.intake import Intake, KeyOf
from audit.pressure import BACKLOG, Pressure
from audit.reading import Reading
from audit.sequencer import CHECKPOINT_INTERVAL_S, Sequencer
from audit.spool import Gap, SpoolWriter
from resources.outcomes import Unavailable
from resources.times import microseconds, utc_now
from store.access import COUNTED, Access, Caller, Loop, Shelf, Waiting
from store.engine.database import Database
from store.engine.faults import DRIVER_ERRORS
from store.engine.ids import ordered_id
from store.engine.keyring import KeyFault

if TYPE_CHECKING:
    from sqlalchemy import Connection

log = structlog.get_logger("vigie.audit")

DISCLOSE_TIMEOUT_S = 10.0
CATCH_UP_TIMEOUT_S = 2.0
RECORD_BYTES = 500
"""Of the spool, about."""


class Ledger:
    """Records accesses, and sequences them into the log. One per process; survives a fork."""

    def __init__(
        self,
        database: Database,
        signer: Signing,
        *,
        observer: str,
        base_url: str,
        platform: str,
        base_urls: Sequence[str] = (),
        published: Path | None = None,
        clock: Callable[[], datetime] = utc_now,
        ids: Callable[[], str] = ordered_id,
        timeout_s: float = DISCLOSE_TIMEOUT_S,
        spooled: Path | None = None,
        checkpoint_interval_s: float = CHECKPOINT_INTERVAL_S,
        backlog: int = BACKLOG,
    ) -> None:
        """`observer`: reference of the Device that this server is; `base_url`: its FHIR endpoint; `platform`: id of the
        Organization that runs it, whose auditors see the events; `published`: file that checkpoints are copied to;
        `backlog`: how many records may wait before reads are refused (`audit.pressure`)."""
        self._database = database
        self._signer = signer
        self._now = clock
        self._new_id = ids
        self._timeout_s = timeout_s
        self._pressure = Pressure(self._backlog, bound=backlog)
        self._spooled = spooled if database.is_sqlite else None
        self._intake: Intake | None = None
        if self._spooled is not None:
            self._spooled.mkdir(parents=True, exist_ok=True, mode=0o700)
            key = KeyOf(signer)
            self._intake = Intake(database, self._spooled, key, platform=platform, clock=clock)
            self._writer = SpoolWriter(self._spooled, key, self._intake)
            self._committer = GroupCommitter(self._append_to_spool)
        else:
            self._committer = GroupCommitter(self._commit)
        self.shelf: Shelf | None = Reading(
            observer=observer, platform=platform, base_urls=tuple(base_urls) or (base_url,)
        )
        """The log as AuditEvents."""
        self.sequencer = Sequencer(
            database, signer, observer=observer, base_url=base_url, platform=platform,
            published=published, clock=clock, checkpoint_interval_s=checkpoint_interval_s, intake=self._intake,
        )

    def append(self, connection: Connection, caller: Caller, accesses: Sequence[Access], at: datetime) -> None:
        """Write the records inside the transaction of `connection`: they commit with the data."""
        rows = self._rows(caller, accesses, at)
        if rows:
            queries.add(connection, rows, self.sequencer.epoch(connection))

    def disclose(self, caller: Caller, accesses: Sequence[Access], at: datetime) -> None:
        """Return once the records are durable. Raises Unavailable: then nothing may be disclosed.

        Reads are refused (Unavailable) where too much waits to be logged. Never inside a write transaction: on SQLite
        the committer would wait for the caller's own.
        """
        self._pressure.admit(caller.organization, accesses)
        rows = self._rows(caller, accesses, at)
        if not rows:
            return
        recording = caller.recording
        if recording is not None and recording.deferred is not None:
            recording.deferred.extend(rows)
        else:
            self._committer.submit(rows, self._timeout_s)

    def owed(self, caller: Caller, accesses: Sequence[Access], at: datetime) -> list[queries.InboxRow]:
        """What `disclose` makes durable, for `settle_soon`; `at` is now. Raises Unavailable as `disclose` does."""
        self._pressure.admit(caller.organization, accesses)
        return self._rows(caller, accesses, at, at)

    def settle_soon(self, deferred: Sequence[queries.InboxRow]) -> asyncio.Future[None]:
        """Make durable what a `Recording` deferred, or what is owed.

        Raises Unavailable, by the future: then nothing may be disclosed.

        For an event loop; it has to see to it that it does not wait for ever.
        """
        return self._committer.submit_soon(deferred)

    @property
    def settles_soon(self) -> bool:
        """Whether records can be deferred: the append to a file is short, a round trip to a server is not."""
        return self._spooled is not None

    def hand_over(
        self, caller: Caller, act: Callable[[Verifier], Access], made: Signing, put: Callable[[Connection], None]
    ) -> int:
        """Have another key sign the log from now on (`Sequencer.hand_over`).

        `act` says what is done, given the key that is in use then, and names it and the next one.
        """
        return self.sequencer.hand_over(made, lambda former: self._rows(caller, [act(former)], self._now())[0], put)

    def catch_up(self, timeout_s: float = CATCH_UP_TIMEOUT_S) -> bool:
        """Sequence all that was recorded before the call, or wait for who does; False where time ran out.

        Called before a search of AuditEvents, so that an auditor finds what has just been done.
        """
        with self._database.read() as connection:
            last = queries.last_pending(connection)
        files = spool.files(self._spooled) if self._spooled is not None else []
        deadline = time.monotonic() + timeout_s
        while not self._is_past(last, files):
            more = self.sequencer.step()
            if time.monotonic() > deadline:
                return False
            if not more:
                # Another process sequences, or (PostgreSQL) an older transaction is still running.
                time.sleep(0.005)
        return True

    def _is_past(self, last: int, files: Sequence[str]) -> bool:
        """Whether everything up to this key of the inbox, and all of these files of the spool, is in the log."""
        with self._database.read() as connection:
            if last and queries.any_pending_to(connection, last):
                return False
            return self._intake is None or self._intake.is_past(connection, files)

    def waiting(self) -> int:
        """How many records wait to be sequenced, in inbox and spool."""
        with self._database.read() as connection:
            count, _ = queries.waiting(connection)
        return count + self.waiting_in_spool()[0]

    def waiting_in_spool(self) -> tuple[int, int | None]:
        """How many records of the spool wait, and the oldest one's time in µs."""
        if self._intake is None:
            return 0, None
        with self._database.read() as connection:
            return self._intake.waiting(connection)

    def spool_findings(self) -> list[Gap]:
        """What does not verify in the spool, found until now or here."""
        if self._intake is None:
            return []
        with self._database.read() as connection:
            return self._intake.findings(connection)

    def acknowledge_spool(self, connection: Connection) -> int:
        """An operator knows of all that did not verify until now; how much it was."""
        return spool_rows.acknowledge(connection, microseconds(self._now()))

    def _backlog(self) -> int:
        """About how many records wait, at the price of a few short statements and reads."""
        with self._database.read() as connection:
            count = queries.span(connection)
            if self._intake is not None:
                count += self._intake.bytes_waiting(connection) // RECORD_BYTES
        return count

    def queues(self, connection: Connection) -> Mapping[str, Waiting]:
        """What waits to be sequenced, in the inbox and in this node's spool; how much of the spool did not verify."""
        found = {"audit-inbox": queries.backlog(connection)}
        if self._intake is not None:
            found["audit-spool"] = Waiting(*self._intake.backlog(connection, COUNTED))
            found["audit-spool-damaged"] = Waiting(spool_rows.count_unseen(connection), None)
        return found

    def check_writable(self) -> None:
        """Raise where the record of a read could not be made durable now; nothing remains of the attempt."""
        if self._spooled is not None:
            spool.check_writable(self._spooled)
            return
        with suppress(_Undone), self._database.write() as connection:
            row = queries.InboxRow(self._new_id(), microseconds(self._now()), "{}")
            queries.add(connection, [row], self.sequencer.epoch(connection))
            raise _Undone

    @property
    def verifier(self) -> Verifier:
        """What the checkpoints are verified with."""
        return self._signer.verifier

    def loop(self) -> Loop:
        """The background sequencer."""
        return self.sequencer.loop()

    def prepare(self) -> None:
        """Have a file of the spool ready before the first record; where that fails now, that record tries."""
        if self._spooled is not None:
            try:
                self._writer.prepare()
            except (OSError, Unavailable, KeyFault, *DRIVER_ERRORS):
                log.exception("the audit spool could not be made ready")

    def close(self) -> None:
        """Finish this process's file of the spool, and the threads of the log."""
        self._committer.close()
        if self._spooled is not None:
            self._writer.close()

    def _rows(
        self, caller: Caller, accesses: Sequence[Access], at: datetime, now: datetime | None = None
    ) -> list[queries.InboxRow]:
        recorded = microseconds(now or self._now())
        return [queries.InboxRow(self._new_id(), recorded, entry.written(caller, access, at)) for access in accesses]

    def _append_to_spool(self, drain: Drain[queries.InboxRow]) -> None:
        self._writer.append(drain())

    def _commit(self, drain: Drain[queries.InboxRow]) -> None:
        if self._database.is_sqlite:
            with self._database.write() as connection:
                queries.add(connection, drain(), 0)
        else:
            with self._database.glance() as connection:
                queries.add_at_once(connection, drain(), self.sequencer.epoch(connection))


class _Undone(Exception):
    """Rolls back what was written only to see whether it can be."""
