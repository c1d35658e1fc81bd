"""The spool: the records of disclosures on SQLite, append-only files of each process, durable before an answer leaves.

SQLite has one writer. If every read had to pass the write gate for its record, reads would wait for writers, for one
another's processes and for the sequencer. So each process appends to a file of its own and syncs it; the sequencer
moves what stands there into the log, and in the same transaction remembers how far it has come (`audit_spool`): no
record is lost or logged twice, whenever anybody is killed. A write's records need none of this: they are rows of its
own transaction. On PostgreSQL there is no spool: a node's disk may not survive the node.

What a file holds is authenticated and chained (`audit.frames`). A file is registered in the database before its first
record is acknowledged, and each process notes there every second how far its chain has come: so what was changed,
inserted, removed, moved or cut off before that is found. The lock on its file, held for life, tells who is alive.

This module knows files; `audit.intake` the database's side of them.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import structlog

from audit import frames
from audit.frames import Entry, Group, Key, Opened, Place
from store.engine import process
from store.engine.files import sync_folder

log = structlog.get_logger("vigie.audit")

FILE_BYTES = 4 * 1024 * 1024
"""A file is written full of zeros when it is made: to sync what overwrites them changes no metadata, so that processes
do not wait for one another in the file system's journal. A full file is finished, and removed once it is sequenced."""
HEAD_INTERVAL_S = 1.0
"""So many seconds' records at the end of a file can be cut off without a trace in the database."""
ASIDE = "aside"
"""Folder, in the spool, of files that did not verify."""
_BLOCK = 4096
_READ = 64 * 1024
OLD, CHAINED = 1, 2
"""Formats of a file."""
UNREADABLE = "unreadable"
"""Kind of a gap: the key of the file is another than ours. It is left where it is."""


class SpoolFile(NamedTuple):
    """What the database knows of a file: a row of audit_spool."""

    file: str
    format: int
    header: bytes
    consumed: int
    """Offset up to which it is in the log."""
    records: int
    """Records up to there."""
    chain: bytes
    """MAC of the frame that ends there."""
    head: Place | None
    """How far it was written when the writer last said so."""
    is_done: bool
    """Only to be removed."""


class Gap(NamedTuple):
    """What does not verify: between these offsets of a file; so many records stood there (None: nobody knows)."""

    file: str
    begin: int
    end: int
    records: int | None
    kind: str
    """altered, truncated, removed, foreign, unreadable."""

    def text(self) -> str:
        """For whoever verifies."""
        many = "an unknown number of" if self.records is None else str(self.records)
        return f"{self.file}, bytes {self.begin} to {self.end}: {self.kind}, {many} records"


@dataclass(slots=True)
class Taken:
    """What is next in a file: the records up to `place`, and what did not verify between them."""

    file: str
    state: SpoolFile | None
    """None: it is not registered."""
    header: bytes
    place: Place
    rows: list[Entry] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)


class Books(Protocol):
    """Where files are registered. Implemented by `audit.intake`."""

    def begin(self, name: str, header: bytes, created: int, owner: str) -> None: ...

    def heads(self, heads: Mapping[str, Place]) -> None: ...


# --- writing


class SpoolWriter:
    """Appends records to this process's file. Not thread-safe: the group committer lets one thread in at a time.

    A thread of its own notes heads, and makes the next file ready while one is filled.
    """

    def __init__(self, folder: Path, key: Callable[[], Key], books: Books | None = None) -> None:
        """`books`: None in tests of files alone."""
        self._folder = folder
        self._key = key
        self._books = books
        self._fresh()

    def _fresh(self) -> None:
        self._pid = process.pid()
        self._file: _Open | None = None
        self._spare: _Open | None = None
        self._opening, self._dirty, self._stopped = threading.Lock(), threading.Event(), threading.Event()
        self._unnoted: dict[str, Place] = {}
        self._keeper: threading.Thread | None = None

    def append(self, rows: Sequence[Entry | tuple[str, int, str]]) -> None:
        """Make the records durable. Raises OSError; then nothing of it may be acknowledged."""
        if not rows:
            return
        if self._pid != process.pid():  # a fork: the parent's file is the parent's
            self._fresh()
        file = self._file if self._file is not None and self._file.is_of(self._key()) else self._next()
        content, place = frames.frame(file.opened, file.place, rows)
        if place.offset > FILE_BYTES and file.place.records:
            file = self._next()
            content, place = frames.frame(file.opened, file.place, rows)
        try:
            _write_all(file.descriptor, content, file.place.offset)
        except OSError:
            self._finish()  # the frame that was begun may stand there: go on in a new file
            raise
        file.place = place
        if not self._dirty.is_set():
            self._dirty.set()

    def prepare(self) -> None:
        """Make the first file ready, so that no record waits for the transaction that registers it. Raises OSError, and
        what the database raises."""
        if self._pid != process.pid():
            self._fresh()
        if self._file is None and self._spare is None:
            spare = self._made()
            with self._opening:
                self._spare = spare

    def close(self) -> None:
        """Finish the file, and note its head: from now on the sequencer may remove it."""
        if self._pid != process.pid():
            return
        self._stopped.set()
        self._dirty.set()
        with self._opening:
            self._finish()
            if self._spare is not None:
                os.close(self._spare.descriptor)
                self._spare = None
        self._note()
        self._fresh()

    def note(self) -> None:
        """Note the heads now."""
        self._note()

    def _next(self) -> _Open:
        """The file that is written from now on. The finished one's head is noted later."""
        with self._opening:
            self._finish()
            spare, self._spare = self._spare, None
            if spare is not None and not spare.is_of(self._key()):
                os.close(spare.descriptor)  # empty: whoever tidies removes it
                spare = None
            self._file = spare or self._made()
            if self._books is not None and self._keeper is None:
                self._keeper = threading.Thread(
                    target=self._keep, args=(self._dirty, self._stopped), name="audit-spool", daemon=True)
                self._keeper.start()
            return self._file

    def _finish(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            if file.place.records:
                self._unnoted[file.name] = file.place
            os.close(file.descriptor)

    def _made(self) -> _Open:
        """A new file, registered."""
        created = time.time_ns() // 1000
        key = self._key()
        header = key.header(created, FILE_BYTES)
        name, descriptor = _new_file(self._folder, header)
        opened = key.opened(header)
        try:
            if opened is None:
                raise OSError("the header of the file does not verify")
            if self._books is not None:
                self._books.begin(name, header, created, f"{os.getpid()}@{socket.gethostname()}")
        except BaseException:
            (self._folder / name).unlink(missing_ok=True)
            os.close(descriptor)
            raise
        return _Open(name, descriptor, opened, Place(frames.HEADER_BYTES, 0, opened.start), key.id)

    def _keep(self, dirty: threading.Event, stopped: threading.Event) -> None:
        while not stopped.is_set():
            dirty.wait()
            if stopped.wait(HEAD_INTERVAL_S):
                return
            dirty.clear()
            try:
                self._note()
                self._provide()
            except Exception:  # the database may be away, the disk full: whoever appends will be told
                log.exception("the head of the audit spool could not be noted")
                dirty.set()

    def _note(self) -> None:
        if self._books is None:
            return
        heads, file = dict(self._unnoted), self._file
        if file is not None and file.place.records and file.noted != file.place:
            heads[file.name] = file.place
        if not heads:
            return
        self._books.heads(heads)
        if file is not None and file.name in heads:
            file.noted = heads[file.name]
        for name, place in heads.items():
            if self._unnoted.get(name) == place:
                del self._unnoted[name]

    def _provide(self) -> None:
        """Make the next file ready, once the present one is half full: to make it while somebody waits takes long."""
        file = self._file
        if file is None or self._spare is not None or file.place.offset < FILE_BYTES // 2:
            return
        spare = self._made()
        with self._opening:
            if self._spare is None and not self._stopped.is_set():
                self._spare = spare
                return
        os.close(spare.descriptor)


@dataclass(slots=True)
class _Open:
    """A file that is written."""

    name: str
    descriptor: int
    opened: Opened
    place: Place
    key_id: bytes
    noted: Place | None = None

    def is_of(self, key: Key) -> bool:
        """Whether it was begun under the key that is in use: none is gone on with under a key that was retired."""
        return self.key_id == key.id


def check_writable(folder: Path) -> None:
    """Raise OSError where no record could be made durable in the spool: tried with a file that is removed again."""
    probe = folder / f"{os.getpid()}-{secrets.token_hex(8)}.probe"
    descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_DSYNC, 0o600)
    try:
        _write_all(descriptor, bytes(4096), 0)
    finally:
        os.close(descriptor)
        probe.unlink()


def _new_file(folder: Path, header: bytes) -> tuple[str, int]:
    """Name and descriptor of a new file, locked and full of zeros. Raises OSError, and then nothing of it is left.

    The space is asked for first: on a full disk that fails at once, and does not eat what little others still have.
    """
    path = folder / f"{os.getpid()}-{secrets.token_hex(8)}.spool"
    # O_DSYNC: each write returns once it is on the disk. A sync of its own would be a second call.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_DSYNC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if not os.fstat(descriptor).st_nlink:
            raise OSError(errno.EAGAIN, "the file was removed before it was locked")
        os.posix_fallocate(descriptor, 0, FILE_BYTES)
        _write_all(descriptor, header + bytes(FILE_BYTES - len(header)), 0)
        os.fsync(descriptor)
        sync_folder(folder)
    except BaseException:
        # A descriptor kept here for each refused request once ended a process that could have gone on.
        path.unlink(missing_ok=True)
        os.close(descriptor)
        raise
    return path.name, descriptor


def _write_all(descriptor: int, content: bytes, offset: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


# --- reading


def files(folder: Path) -> list[str]:
    """The names of the spool's files."""
    return sorted(entry.name for entry in os.scandir(folder) if entry.name.endswith(".spool"))


def written(folder: Path) -> dict[str, int]:
    """When each file was last written to (ns since 1970). Writes within some milliseconds may share an instant."""
    found = {}
    for name in files(folder):
        with suppress(FileNotFoundError):
            found[name] = (folder / name).stat().st_mtime_ns
    return found


def set_aside(folder: Path) -> list[str]:
    """The names of the files that did not verify."""
    aside = folder / ASIDE
    return sorted(entry.name for entry in os.scandir(aside)) if aside.is_dir() else []


def take(
    folder: Path, key: Key, states: Mapping[str, SpoolFile], limit: int, *, after: str = ""
) -> list[Taken]:
    """The next records beyond what is consumed, some `limit`, file by file. `states` was read before.

    `after`: begin with the file that follows this one, so that files take turns. Frames are taken whole, so one may go
    beyond the limit.
    """
    found: list[Taken] = []
    left = limit
    names = files(folder)
    for name in [*(one for one in names if one > after), *(one for one in names if one <= after)]:
        if left <= 0:
            break
        taken = take_of(folder, key, name, states.get(name), left)
        if taken is not None and (taken.rows or taken.gaps):
            found.append(taken)
            left -= len(taken.rows)
    return found


def take_of(folder: Path, key: Key, name: str, state: SpoolFile | None, limit: int) -> Taken | None:
    """The same of one file; None where it is gone, done or not ours to read."""
    if state is not None and state.is_done:
        return None
    with _opened(folder / name) as descriptor:
        if descriptor is None:
            return None
        if state is not None and state.format == OLD:
            return _take_old(descriptor, name, state, limit)
        file = _File.of(descriptor, key, name, state)
        return None if file is None else file.walk(limit)


def examine(folder: Path, key: Key, name: str, state: SpoolFile | None) -> list[Gap]:
    """What does not verify in a whole file, consumed or not. What is being written at this moment is let be."""
    with _opened(folder / name) as descriptor:
        if descriptor is None or (state is not None and state.is_done):
            return []
        size = os.fstat(descriptor).st_size
        if state is not None and state.format == OLD:
            return _examine_old(descriptor, name, size)
        whole = None if state is None else state._replace(consumed=0, records=0, chain=b"")
        file = _File.of(descriptor, key, name, whole)
        if file is None:
            is_made = _is_dead(descriptor) and not frames.is_zero(os.pread(descriptor, size, 0))
            if state is not None:
                return [Gap(name, 0, size, None, UNREADABLE)]
            return [Gap(name, 0, size, None, "foreign")] if is_made else []
        taken = file.walk(2**62, is_thorough=True)
        return taken.gaps


def is_dead(folder: Path, name: str) -> bool:
    """Whether nobody writes the file any more."""
    with _opened(folder / name) as descriptor:
        return descriptor is not None and _is_dead(descriptor)


def remove(folder: Path, name: str, *, if_empty: bool) -> bool:
    """Remove a file that nobody writes; False where it is written. `if_empty`: only where no record stands in it.

    Its lock is held meanwhile: whoever has just made it and has no lock yet sees that it is gone.
    """
    with _opened(folder / name) as descriptor:
        if descriptor is None:
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        size = os.fstat(descriptor).st_size
        if if_empty and not frames.is_zero(os.pread(descriptor, size, frames.HEADER_BYTES)):
            return False
        (folder / name).unlink(missing_ok=True)
        return True


def waiting(folder: Path, key: Key, states: Mapping[str, SpoolFile]) -> tuple[int, int | None]:
    """How many records wait, and the oldest one's time in µs."""
    times = [row.recorded for taken in take(folder, key, states, 2**62) for row in taken.rows]
    return len(times), min(times, default=None)


def backlog(folder: Path, key: Key, states: Mapping[str, SpoolFile], limit: int) -> tuple[int, int | None]:
    """As `waiting`, counted up to `limit` and by the frames' heads alone: only each file's first frame is read."""
    count, oldest = 0, None
    for name in files(folder):
        if count >= limit:
            break
        state = states.get(name)
        taken = take_of(folder, key, name, state, 1)
        if taken is None or not taken.rows:
            continue
        first = taken.rows[0].recorded
        oldest = first if oldest is None else min(oldest, first)
        if state is not None and state.format == OLD:
            rest = take_of(folder, key, name, state, limit - count)
            count += 0 if rest is None else len(rest.rows)
        else:
            count += len(taken.rows) + _heads(folder, name, taken.place.offset, limit - count)
    return min(count, limit), oldest


def bytes_waiting(folder: Path, states: Mapping[str, SpoolFile]) -> int:
    """How many bytes of records are not consumed, within a block a file: zeros follow the last, so it is found by
    halving."""
    total = 0
    for name in files(folder):
        with _opened(folder / name) as descriptor:
            if descriptor is None:
                continue
            state = states.get(name)
            consumed = 0 if state is None else state.consumed
            begin = max(consumed, frames.HEADER_BYTES)
            low, high = begin, max(begin, os.fstat(descriptor).st_size)
            while high - low > _BLOCK:
                middle = (low + high) // 2
                if any(os.pread(descriptor, _BLOCK, middle)):
                    low = middle
                else:
                    high = middle
            if any(os.pread(descriptor, _BLOCK, low)):
                total += high - begin
    return total


def _heads(folder: Path, name: str, offset: int, limit: int) -> int:
    """How many records stand behind `offset`, as the frames' heads say."""
    with _opened(folder / name) as descriptor:
        count = 0
        while descriptor is not None and count < limit:
            said = frames.records_at(os.pread(descriptor, frames.HEAD_BYTES, offset))
            if said is None:
                break
            offset += said[0]
            count += said[1]
        return count


class _File:
    """A chained file that is read, from where it was left."""

    def __init__(self, descriptor: int, name: str, state: SpoolFile | None, header: bytes, opened: Opened) -> None:
        self._descriptor = descriptor
        self._opened = opened
        self._name = name
        place = Place(frames.HEADER_BYTES, 0, opened.start)
        self.taken = Taken(name, state, header, place)
        if state is not None and state.consumed:
            self.taken.place = Place(state.consumed, state.records, state.chain)
        self._head = state.head if state is not None and state.head is not None else Place(0, 0, b"")

    @staticmethod
    def of(descriptor: int, key: Key, name: str, state: SpoolFile | None) -> _File | None:
        """None where neither the database's header nor the file's own is one of ours."""
        own = os.pread(descriptor, frames.HEADER_BYTES, 0)
        header = own if state is None else state.header
        opened = key.opened(header)
        if opened is None:
            return None
        file = _File(descriptor, name, state, header, opened)
        if own != header and (state is None or not state.consumed):
            file._gap(0, frames.HEADER_BYTES, 0, "altered")
        return file

    def walk(self, limit: int, *, is_thorough: bool = False) -> Taken:
        """Take some `limit` records. `is_thorough`: look at what follows the last too, where nobody writes any more."""
        taken = self.taken
        base = taken.place.offset
        content = self._read(base, _READ)
        while True:
            group = frames.group_at(self._opened, content, taken.place.offset - base, base)
            if group is not None:
                if not self._add(group, limit):
                    return taken
                continue
            if base != taken.place.offset:
                base = taken.place.offset
                content = self._read(base, _READ)
                continue
            longer = self._read(base, frames.length_at(content, 0) or 0)
            if len(longer) > len(content):
                content = longer
                continue
            is_end = frames.is_zero(content[: frames.HEAD_BYTES]) and base >= self._head.offset
            if (is_end and not is_thorough) or not self._pass_over():
                return taken
            base = taken.place.offset
            content = self._read(base, _READ)

    def _add(self, group: Group, limit: int) -> bool:
        """False where the limit does not allow it."""
        taken = self.taken
        rows = group.rows()
        if taken.rows and len(taken.rows) + len(rows) > limit:
            return False
        if (group.before, group.previous) != (taken.place.records, taken.place.mac):
            self._gap(group.begin, group.begin, max(0, group.before - taken.place.records), "altered")
        taken.rows += rows
        taken.place = group.end
        return len(taken.rows) < limit

    def _pass_over(self) -> bool:
        """Where no frame verifies: go to where one does, or to the end; False where there is nothing more to read."""
        taken, begin = self.taken, self.taken.place
        is_dead = _is_dead(self._descriptor)  # asked before the rest is read: then it is the last word
        size = os.fstat(self._descriptor).st_size
        rest = self._read(begin.offset, max(0, size - begin.offset))
        if frames.group_at(self._opened, rest, 0, begin.offset) is not None:
            return True  # it was written while it was read
        found = frames.next_group(self._opened, rest, 0, begin.offset)
        if found is not None:
            again = self._read(begin.offset, found.begin - begin.offset)
            if frames.group_at(self._opened, again, 0, begin.offset) is not None:
                return True  # as above: the one that was found came after it
            self._gap(begin.offset, found.begin, max(0, found.before - begin.records), "altered")
            taken.place = Place(found.begin, found.before, found.previous)
            return True
        head = self._head
        if begin.offset < head.offset:
            kind = "truncated" if frames.is_zero(rest) else "altered"
            end = max(size, head.offset) if is_dead else head.offset
            self._gap(begin.offset, end, max(0, head.records - begin.records), kind)
            taken.place = Place(end, head.records, head.mac)
            return not is_dead
        if not is_dead or begin.offset > size:
            return False
        if frames.is_zero(rest):
            if size != max(self._opened.size, begin.offset):
                self._gap(begin.offset, size, None, "truncated" if size < self._opened.size else "altered")
                taken.place = Place(max(size, begin.offset), begin.records, begin.mac)
        elif not frames.is_torn(rest, begin.offset):
            self._gap(begin.offset, size, None, "altered")
            taken.place = Place(size, begin.records, begin.mac)
        return False

    def _gap(self, begin: int, end: int, records: int | None, kind: str) -> None:
        self.taken.gaps.append(Gap(self._name, begin, end, records, kind))

    def _read(self, offset: int, size: int) -> bytes:
        return os.pread(self._descriptor, size, offset)


def _take_old(descriptor: int, name: str, state: SpoolFile, limit: int) -> Taken:
    content = os.pread(descriptor, os.fstat(descriptor).st_size, state.consumed)
    taken = Taken(name, state, b"", Place(state.consumed, 0, b""))
    for end, row in frames.old_rows(content, state.consumed):
        taken.rows.append(row)
        taken.place = Place(end, 0, b"")
        if len(taken.rows) >= limit:
            break
    return taken


def _examine_old(descriptor: int, name: str, size: int) -> list[Gap]:
    content = os.pread(descriptor, size, 0)
    end = max((end for end, _ in frames.old_rows(content, 0)), default=0)
    if not _is_dead(descriptor) or frames.is_zero(content, end) or frames.is_old_torn(content[end:]):
        return []
    return [Gap(name, end, size, None, "altered")]


@contextmanager
def _opened(path: Path) -> Iterator[int | None]:
    """A descriptor for reading; None where there is no such file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _is_dead(descriptor: int) -> bool:
    """Whether nobody writes the file: a writer holds its lock for life."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    return True
