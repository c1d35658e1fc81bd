"""Immutable bytes by their SHA-256: DICOM instances, Binary, report PDFs.

`put` returns once the bytes would survive a power cut: written beside their place, fsynced, renamed, the folder
fsynced. The same bytes are one object. Names are digests that the server computed, so no path comes from outside.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from sqlalchemy import Connection

from resources.outcomes import NotFound
from store import items
from store.engine.files import sync_folder
from store.engine.locks import lock_shared

CHUNK_BYTES = 1024 * 1024
LOCK = "objects"
CLEANING = "objects"
"""The loop that cleans."""
"""Shared by the transactions that give objects their rows, to their commit; held alone by the one that removes those
without (`store.collecting`)."""

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Staged:
    """Bytes that are durable but no object yet: `ObjectStore.place` makes them one, `discard` forgets them."""

    digest: str
    file: Path


class ObjectStore:
    """Objects in 256 folders, made beforehand: a new folder on the way would cost its own fsyncs."""

    def __init__(self, folder: Path | str) -> None:
        self._folder = Path(folder)
        self._incoming = self._folder / "incoming"
        self._incoming.mkdir(parents=True, exist_ok=True)
        for number in range(256):
            (self._folder / f"{number:02x}").mkdir(exist_ok=True)
        sync_folder(self._folder)

    def put(self, source: bytes | bytearray | memoryview | BinaryIO) -> str:
        """Keep the bytes durably and return their digest (64 hexadecimal digits). A stream is read to its end.

        For what no row names: such an object is removed once it is old. What is to have a row is staged and placed.
        """
        if not isinstance(source, bytes | bytearray | memoryview):
            return self._put_stream(source)
        digest = sha256(source).hexdigest()
        if not self.exists(digest):
            temporary = self._temporary()
            with self._discarded_on_error(temporary), open(temporary, "xb", buffering=0) as file:  # noqa: PTH123
                _write_all(file.fileno(), memoryview(source))
                os.fsync(file.fileno())
            self._place([Staged(digest, temporary)])
        else:  # its writer may not have come to this yet
            sync_folder(self.path(digest).parent)
        return digest

    def stage(self, source: bytes | bytearray | memoryview | BinaryIO) -> Staged:
        """Write the bytes durably beside their place, for a decision that comes after: `place` or `discard`.

        Nobody can read them until then. What a killed process leaves staged is removed by `clean`.
        """
        stream = BytesIO(source) if isinstance(source, bytes | bytearray | memoryview) else source
        temporary = self._temporary()
        hashing = sha256()
        with self._discarded_on_error(temporary), open(temporary, "xb", buffering=0) as file:  # noqa: PTH123
            while piece := stream.read(CHUNK_BYTES):
                hashing.update(piece)
                _write_all(file.fileno(), memoryview(piece))
            os.fsync(file.fileno())
        return Staged(hashing.hexdigest(), temporary)

    def place(self, connection: Connection, staged: Iterable[Staged]) -> None:
        """Make objects of what was staged, durably; again is harmless. Raises OSError.

        `connection`: of the transaction that writes the rows which name them. Nobody removes what it places, or what
        was there in its place, until that has ended.
        """
        lock_shared(connection, (LOCK,))
        self._place(staged)

    def _place(self, staged: Iterable[Staged]) -> None:
        folders: set[Path] = set()
        for one in staged:
            place = self.path(one.digest)
            try:
                one.file.replace(place)
            except FileNotFoundError:
                if not place.is_file():
                    raise
            folders.add(place.parent)
        for folder in folders:  # after all renames: the first sync makes most of them durable
            sync_folder(folder)

    def discard(self, staged: Staged) -> None:
        """Forget what was staged, unless it was placed."""
        staged.file.unlink(missing_ok=True)

    def exists(self, digest: str) -> bool:
        """Whether an object of that digest is kept."""
        return self.path(digest).is_file()

    def size(self, digest: str) -> int:
        """Bytes. Raises NotFound."""
        with _not_found():
            return self.path(digest).stat().st_size

    def open(self, digest: str, *, verify: bool = False) -> BinaryIO:
        """The object as a file, to be closed by the caller. `verify` reads it once to compare the digest.

        Raises NotFound where it is absent or, verified, is not what it was.
        """
        with _not_found():
            file = self.path(digest).open("rb")
        try:
            if verify and _digest_of(file) != digest:
                raise NotFound("The stored object is damaged")
            file.seek(0)
        except BaseException:
            file.close()
            raise
        return file

    def range(self, digest: str, offset: int, length: int) -> bytes:
        """At most `length` bytes from `offset`; fewer at the end. Raises NotFound."""
        if offset < 0 or length < 0:
            raise ValueError("A range begins and extends forward")
        with _not_found():
            descriptor = os.open(self.path(digest), os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(descriptor, length, offset)
        finally:
            os.close(descriptor)

    def chunks(self, digest: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """The bytes in pieces of constant size, for streaming. Raises NotFound before the first piece."""
        pieces = _pieces(self.open(digest), offset, length)
        next(pieces)  # begun, it closes the file also where nobody takes a piece (HEAD, a client that went away)
        return pieces

    def path(self, digest: str) -> Path:
        """Where the object is. Raises NotFound for what is no digest."""
        if not _DIGEST.fullmatch(digest):
            raise NotFound("No such object")
        return self._folder / digest[:2] / digest

    def remove(self, digest: str) -> None:
        """Forget the object, if it is there. Only for what no version refers to."""
        with suppress(FileNotFoundError):
            self.path(digest).unlink()

    def folders(self) -> list[str]:
        """The names of the folders: each has the objects whose digest begins so."""
        return [f"{number:02x}" for number in range(256)]

    def names(self, folder: str) -> list[str]:
        """The digests of the objects in one folder."""
        with os.scandir(self._folder / folder) as entries:  # of a hundred thousand, no path is made
            return [entry.name for entry in entries if _DIGEST.fullmatch(entry.name)]

    def written_at(self, digest: str) -> float:
        """When its bytes were written, seconds since 1970. Raises NotFound."""
        with _not_found():
            return self.path(digest).stat().st_mtime

    def remove_older(self, digest: str, before_s: float) -> int | None:
        """Remove the object if it was written before that time; its size, None where it stays or is not there.

        It is taken from its place before it is looked at, so what is put there at this very moment is not removed for
        what was there: it goes back.
        """
        place, taken = self.path(digest), self._temporary()
        try:
            place.rename(taken)
        except FileNotFoundError:
            return None
        found = taken.stat()
        if found.st_mtime >= before_s:
            taken.replace(place)
            sync_folder(place.parent)
            return None
        taken.unlink()
        return found.st_size

    def clean(self, older_than_s: float, now_s: float) -> int:
        """Remove what interrupted writers left in `incoming`; returns how many."""
        removed = 0
        for left in self._incoming.iterdir():
            with items.apart(CLEANING), suppress(FileNotFoundError):
                if now_s - left.stat().st_mtime > older_than_s:
                    left.unlink()
                    removed += 1
        return removed

    def _put_stream(self, source: BinaryIO) -> str:
        staged = self.stage(source)
        self._place([staged])
        return staged.digest

    def _temporary(self) -> Path:
        return self._incoming / secrets.token_hex(16)

    def _discarded_on_error(self, temporary: Path) -> _Discarded:
        return _Discarded(temporary)


class _Discarded:
    """Removes a file when leaving by an exception."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self._file.unlink(missing_ok=True)


class _not_found:  # noqa: N801 - reads as a phrase
    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: object, *_: object) -> None:
        if isinstance(error, FileNotFoundError):
            raise NotFound("No such object") from None


def _write_all(descriptor: int, data: memoryview) -> None:
    data = data.cast("B")
    while data:
        data = data[os.write(descriptor, data) :]


def _digest_of(file: BinaryIO) -> str:
    hashing = sha256()
    while piece := file.read(CHUNK_BYTES):
        hashing.update(piece)
    return hashing.hexdigest()


def _pieces(file: BinaryIO, offset: int, length: int | None) -> Iterator[bytes]:
    with file:
        file.seek(offset)
        left = length
        yield b""
        while left is None or left > 0:
            piece = file.read(CHUNK_BYTES if left is None else min(CHUNK_BYTES, left))
            if not piece:
                return
            if left is not None:
                left -= len(piece)
            yield piece
