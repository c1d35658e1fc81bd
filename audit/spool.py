"""The spool: the records of disclosures on SQLite, one append-only file per process, durable before an answer leaves.

SQLite has one writer. If every read had to pass the write gate for its record, reads would wait for writers, for one
another's processes and for the sequencer. So each process appends to a file of its own and syncs it; the sequencer
moves what stands there into the log, and in the same transaction remembers how far it has come (`audit_spool`): no
record is lost or logged twice, whenever anybody is killed. A write's records need none of this: they are rows of its
own transaction. On PostgreSQL there is no spool: a node's disk may not survive the node.

A frame is length, CRC-32, then the record; zeros follow the last. A writer that dies in the middle leaves a torn frame,
which was never acknowledged. The lock on its file, held for life, tells who is alive.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import struct
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from store.engine import process

_FRAME = struct.Struct(">II")
_HEAD = struct.Struct(">QB")
FILE_BYTES = 4 * 1024 * 1024
"""A file is written full of zeros when it is made: to sync what overwrites them changes no metadata, so that processes
do not wait for one another in the file system's journal. A full file is finished, and removed once it is sequenced."""
_BLOCK = 4096
MAX_FRAME_BYTES = 64 * 1024 * 1024


class SpoolRow(NamedTuple):
    """A record in the spool. `end`: offset behind its frame."""

    file: str
    end: int
    event_id: str
    recorded: int
    entry: str


class SpoolWriter:
    """Appends records to this process's file. Not thread-safe: the group committer lets one thread in at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pid = -1
        self._descriptor = -1
        self._offset = 0
        self._opening = threading.Lock()

    def append(self, rows: Sequence[tuple[str, int, str]]) -> None:
        """Make (event id, recorded µs, entry) durable. Raises OSError; then nothing of it may be acknowledged."""
        content = b"".join(_frame(*row) for row in rows)
        descriptor = self._file(len(content))
        try:
            _write_all(descriptor, content, self._offset)
        except OSError:
            self.close()  # what stands after a torn frame would not be found: go on in a new file
            raise
        self._offset += len(content)

    def close(self) -> None:
        """Finish the file: from now on the sequencer may remove it."""
        if self._descriptor >= 0 and self._pid == process.pid():
            os.close(self._descriptor)
        self._descriptor, self._pid = -1, -1

    def _file(self, size: int) -> int:
        """The descriptor of a file that has room for `size` bytes (or is new)."""
        if self._pid == process.pid() and self._descriptor >= 0:
            if self._offset + size <= FILE_BYTES:
                return self._descriptor
            self.close()
        with self._opening:
            self._descriptor = _new_file(self._folder)
            self._pid, self._offset = process.pid(), 0
        return self._descriptor


def check_writable(folder: Path) -> None:
    """Raise OSError where no record could be made durable in the spool: tried with a file that is removed again."""
    probe = folder / f"{os.getpid()}-{secrets.token_hex(8)}.probe"
    descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_DSYNC, 0o600)
    try:
        _write_all(descriptor, bytes(4096), 0)
    finally:
        os.close(descriptor)
        probe.unlink()


def _new_file(folder: Path) -> int:
    """The descriptor of a new file, locked and full of zeros. Raises OSError, and then nothing of it is left.

    The space is asked for first: on a full disk that fails at once, and does not eat what little others still have.
    """
    path = folder / f"{os.getpid()}-{secrets.token_hex(8)}.spool"
    # O_DSYNC: each write returns once it is on the disk. A sync of its own would be a second call.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_DSYNC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.posix_fallocate(descriptor, 0, FILE_BYTES)
        _write_all(descriptor, bytes(FILE_BYTES), 0)
        os.fsync(descriptor)
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except BaseException:
        # A descriptor kept here for each refused request once ended a process that could have gone on.
        path.unlink(missing_ok=True)
        os.close(descriptor)
        raise
    return descriptor


def files(folder: Path) -> list[str]:
    """The names of the spool's files."""
    return sorted(entry.name for entry in os.scandir(folder) if entry.name.endswith(".spool"))


def read(folder: Path, consumed: Mapping[str, int], limit: int) -> list[SpoolRow]:
    """The next records beyond what is consumed, at most `limit`, file by file in order."""
    found: list[SpoolRow] = []
    for name in files(folder):
        if len(found) >= limit:
            break
        found.extend(_rows(folder, name, consumed.get(name, 0), limit - len(found)))
    return found


def waiting(folder: Path, consumed: Mapping[str, int]) -> tuple[int, int | None]:
    """How many records wait, and the oldest one's time in µs."""
    count, oldest = 0, None
    for name in files(folder):
        for row in _rows(folder, name, consumed.get(name, 0), None):
            count += 1
            oldest = row.recorded if oldest is None else min(oldest, row.recorded)
    return count, oldest


def backlog(folder: Path, consumed: Mapping[str, int], limit: int) -> tuple[int, int | None]:
    """As `waiting`, counted up to `limit` and by the frames' heads alone: only each file's first record is read."""
    count, oldest = 0, None
    for name in files(folder):
        offset = consumed.get(name, 0)
        first = next(iter(_rows(folder, name, offset, 1)), None)
        if first is None:
            continue
        oldest = first.recorded if oldest is None else min(oldest, first.recorded)
        count += _heads(folder, name, offset, limit - count)
    return count, oldest


def bytes_waiting(folder: Path, consumed: Mapping[str, int]) -> int:
    """How many bytes of records are not consumed, within a block a file: zeros follow the last, so it is found by
    halving."""
    total = 0
    for name in files(folder):
        try:
            descriptor = os.open(folder / name, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            low, high = consumed.get(name, 0), os.fstat(descriptor).st_size
            while high - low > _BLOCK:
                middle = (low + high) // 2
                if any(os.pread(descriptor, _BLOCK, middle)):
                    low = middle
                else:
                    high = middle
            if any(os.pread(descriptor, _BLOCK, low)):
                total += high - consumed.get(name, 0)
        finally:
            os.close(descriptor)
    return total


def _heads(folder: Path, name: str, offset: int, limit: int) -> int:
    """How many frames stand behind `offset`, as their heads say."""
    try:
        descriptor = os.open(folder / name, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        count = 0
        while count < limit:
            head = os.pread(descriptor, _FRAME.size, offset)
            if len(head) < _FRAME.size:
                break
            length, _ = _FRAME.unpack(head)
            if not _HEAD.size < length <= MAX_FRAME_BYTES:
                break
            offset += _FRAME.size + length
            count += 1
        return count
    finally:
        os.close(descriptor)


def sizes(folder: Path) -> dict[str, int]:
    """How long each file is: what was acknowledged until now stands before that."""
    found = {}
    for name in files(folder):
        with suppress(FileNotFoundError):
            found[name] = (folder / name).stat().st_size
    return found


def is_past(folder: Path, name: str, consumed: int, size: int) -> bool:
    """Whether all whole records of the file's first `size` bytes are consumed."""
    return consumed >= size or next(iter(_rows(folder, name, consumed, 1)), None) is None


def remove_finished(folder: Path, consumed: Mapping[str, int]) -> list[str]:
    """Remove files that nobody writes any more and that are consumed; their names."""
    removed = []
    for name in files(folder):
        try:
            descriptor = os.open(folder / name, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            if next(iter(_rows(folder, name, consumed.get(name, 0), 1)), None) is None:
                (folder / name).unlink(missing_ok=True)
                removed.append(name)
        except BlockingIOError:
            pass
        finally:
            os.close(descriptor)
    return removed


def _rows(folder: Path, name: str, offset: int, limit: int | None) -> Iterator[SpoolRow]:
    try:
        file = (folder / name).open("rb")
    except FileNotFoundError:
        return
    with file:
        file.seek(offset)
        count = 0
        while limit is None or count < limit:
            head = file.read(_FRAME.size)
            if len(head) < _FRAME.size:
                return
            length, checksum = _FRAME.unpack(head)
            if not _HEAD.size < length <= MAX_FRAME_BYTES:
                return
            body = file.read(length)
            if len(body) < length or zlib.crc32(body) != checksum:
                return  # being written at this moment, or torn by a death
            offset += _FRAME.size + length
            recorded, id_length = _HEAD.unpack_from(body)
            text = body[_HEAD.size :]
            yield SpoolRow(name, offset, text[:id_length].decode(), recorded, text[id_length:].decode())
            count += 1


def _frame(event_id: str, recorded: int, entry: str) -> bytes:
    key = event_id.encode()
    body = _HEAD.pack(recorded, len(key)) + key + entry.encode()
    return _FRAME.pack(len(body), zlib.crc32(body)) + body


def _write_all(descriptor: int, content: bytes, offset: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
