"""The published checkpoints: an append-only file outside the database, which a log that was cut is found by.

A file that is missing where there is a log is not a first use. Nobody makes it anew, and nobody goes on in one that is
older than the log: that would heal in silence what has to be found. The operator says so (`vigie audit publish`).
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Connection

from audit import queries
from audit.checkpoint import BadCheckpoint, Checkpoint, Opening
from audit.offline import split_notes

TAIL_BYTES = 65_536
"""How much of the file is looked at: its newest checkpoint stands there."""
BEHIND_S = 60
"""Of the log's own time: a process that dies leaves a second or two unpublished, and the next one publishes them."""


class Seen(NamedTuple):
    """What is published."""

    newest: Checkpoint | None
    """The largest that is genuine."""
    is_torn: bool
    """It ends within a note."""


def look(path: Path, keys: Opening) -> Seen | None:
    """The newest published checkpoint that the log's keys open; None: there is no file."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_BYTES))
            tail = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return None
    newest = None
    for note in split_notes(tail):
        try:
            checkpoint = keys.open(note)
        except BadCheckpoint:
            continue
        if newest is None or checkpoint.size > newest.size:
            newest = checkpoint
    return Seen(newest, bool(tail) and not tail.endswith("\n\n"))


def fault(connection: Connection, path: Path, seen: Seen | None) -> str | None:
    """What is wrong with the published file beside this log; None: nothing."""
    end = queries.end(connection)
    if not end.seq:
        return None
    if seen is None:
        return f"the published checkpoints ({path.name}) are missing, and the log has {end.seq} records"
    size = seen.newest.size if seen.newest else 0
    since = queries.logged_at(connection, size + 1)
    if since is not None and end.logged - since > BEHIND_S * 1_000_000:
        return f"the published checkpoints ({path.name}) end at record {size}, the log at {end.seq}"
    return None


def begin(path: Path) -> None:
    """Make the empty file of a log that has no records yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(exist_ok=True)


def append(path: Path, note: str, *, is_torn: bool = False) -> None:
    """Add a note, durably. Raises FileNotFoundError: the file is not made by this."""
    handle = os.open(path, os.O_WRONLY | os.O_APPEND)
    with os.fdopen(handle, "a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(("\n\n" if is_torn else "") + note + "\n")
        file.flush()
        os.fsync(file.fileno())
