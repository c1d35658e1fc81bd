"""Verification on the server, and the export for verification elsewhere.

Recomputes every leaf from the AuditEvent versions as they are stored, the tree, and every checkpoint; and asks what
only the database can tell: that no AuditEvent stands outside the log or is hidden, that every version has a record.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from audit import merkle, queries
from audit.checkpoint import Verifier
from audit.offline import FORMAT, Judge, Key, Report
from resources.times import instant_text, microseconds, utc_now
from store.engine.database import Database
from store.versions.audiences import audience_id

if TYPE_CHECKING:
    from sqlalchemy import Connection

_WRITE = re.compile(r'"action":"[CUD]"')
_NAMED = re.compile(r'"what":\{"reference":"([A-Za-z]+/[^/"]+/_history/\d+)"')

OVERDUE_S = 60
"""A record older than this in the inbox means that nobody sequences."""


def verify(
    database: Database,
    verifier: Verifier,
    *,
    platform: str,
    elsewhere: Iterable[str] = (),
    now: datetime | None = None,
    spooled: tuple[int, int | None] = (0, None),
) -> Report:
    """Verify the whole log. `spooled`: what waits in the spool (`Ledger.waiting_in_spool`).

    `elsewhere`: checkpoints kept outside the database; a log cut after them is found so.
    """
    judge = Judge(Key(verifier.text()), elsewhere)
    with database.read() as connection:
        pending = iter(queries.checkpoints(connection))
        checkpoint = next(pending, None)
        tree = queries.tree(connection)
        written: set[int] = set()
        for row in queries.stored(connection, audience_id({platform})):
            while checkpoint is not None and checkpoint[0] < row.seq:
                judge.checkpoint(*checkpoint)
                checkpoint = next(pending, None)
            judge.record(row.seq, row.event_id, row.leaf, row.salt, None if row.event is None else row.event.encode())
            if row.event is not None and _WRITE.search(row.event):
                written.update(map(hash, _NAMED.findall(row.event)))
            if row.event is not None and not row.visible:
                judge.outside(row.seq, "altered", f"AuditEvent/{row.event_id} is hidden from its auditors")
        while checkpoint is not None:
            judge.checkpoint(*checkpoint)
            checkpoint = next(pending, None)
        end = judge.report.records + 1
        report = judge.finish()
        if (tree.size, tree.root()) != (end - 1, report.root):
            judge.outside(end, "root", f"the kept frontier of {tree.size} is not that of the log")
        for reference in queries.events_outside(connection):
            judge.outside(end, "outside", f"{reference} is not in the log")
        for reference in queries.versions_unrecorded(connection, written):
            judge.outside(end, "unrecorded", f"{reference} was written without an audit record")
        _inbox(connection, judge, end, now or utc_now(), spooled)
    return report


@dataclass(frozen=True, slots=True)
class Proof:
    """That an AuditEvent is in the log that `checkpoint` signs: RFC 6962 §2.1.1, `path` from the leaf up."""

    seq: int
    leaf: bytes
    salt: bytes
    path: tuple[bytes, ...]
    checkpoint: str


def proof(database: Database, event_id: str) -> Proof | None:
    """The inclusion proof of an AuditEvent against the newest checkpoint; None while it is not in the log."""
    with database.read() as connection:
        row = queries.position(connection, event_id)
        kept = queries.checkpoints(connection)
        if row is None or not kept:
            return None
        size, note = kept[-1]
        path = merkle.inclusion_proof(queries.leaves(connection, size), row.seq - 1, size)
    return Proof(row.seq, bytes(row.leaf), bytes(row.salt), tuple(path), note)


def export(database: Database, file: Path, verifier: Verifier) -> int:
    """Write the log for `audit/offline.py`; returns the number of records. The file appears whole or not at all."""
    draft = file.with_name(f".{file.name}.{secrets.token_hex(6)}")
    count = 0
    try:
        with gzip.open(draft, "wt", encoding="utf-8", newline="\n", compresslevel=3) as out:
            for line in _export_lines(database, verifier):
                count += "event" in line
                out.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n")
        with draft.open("rb") as written:
            os.fsync(written.fileno())
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)
    return count


def _inbox(
    connection: Connection, judge: Judge, end: int, now: datetime, spooled: tuple[int, int | None]
) -> None:
    count, oldest = queries.waiting(connection)
    count += spooled[0]
    oldest = min((one for one in (oldest, spooled[1]) if one is not None), default=None)
    if not count or oldest is None:
        return
    age_s = (microseconds(now) - oldest) // 1_000_000
    if age_s > OVERDUE_S:
        judge.outside(end, "unsigned", f"{count} records wait to be sequenced, the oldest for {age_s} s")
    else:
        judge.report.notes.append(f"{count} records wait to be sequenced")


def _export_lines(database: Database, verifier: Verifier) -> Iterator[dict[str, object]]:
    yield {"format": FORMAT, "origin": verifier.name, "key": verifier.text(),
           "exported": instant_text(utc_now())}
    with database.read() as connection:
        notes = queries.checkpoints(connection)
        at = 0
        last = 0
        for row in queries.stored(connection, 0):
            while at < len(notes) and notes[at][0] < row.seq:
                yield {"checkpoint": notes[at][1], "size": notes[at][0]}
                at += 1
            yield {"seq": row.seq, "id": row.event_id, "leaf": row.leaf.hex(), "salt": row.salt.hex(),
                   "event": row.event}
            last = row.seq
        for size, note in notes[at:]:
            yield {"checkpoint": note, "size": size}
    yield {"end": last}
