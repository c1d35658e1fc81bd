"""The data set of a message on its way: in memory while it is small, else in a nameless file of the spool.

PS3.7 §6.3.1: a message is command set and data set, in fragments. What is written has no name in the file system, so
nothing is left of it when its association, or the process, is killed.
"""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from dicomweb.reader import Buffer

IN_MEMORY_BYTES = 1024 * 1024
"""A slice of CT has half of it."""


class DataSet(BytesIO):
    """What pynetdicom writes the fragments to. A full disk is told by `is_lost`, once the message is complete."""

    def __init__(self, folder: Path | None) -> None:
        super().__init__()
        self._folder = folder
        self._file: IO[bytes] | None = None
        self.is_lost = False
        self.size = 0

    def write(self, data: Any, /) -> int:
        """Take the next fragment."""
        self.size += len(data)
        if self.is_lost:
            return len(data)
        try:
            if self._file is None and self.size > IN_MEMORY_BYTES:
                self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115 - closed with this
                _write(self._file, self.getbuffer())
                self.seek(0)
                self.truncate()
            if self._file is None:
                return super().write(data)
            _write(self._file, memoryview(data))
        except OSError:
            self.is_lost = True
            self.close_file()
        return len(data)

    @contextmanager
    def body(self) -> Iterator[Buffer]:
        """The bytes, in memory or mapped. Raises OSError."""
        if self.is_lost:
            raise OSError("the data set could not be written")
        if self._file is None:
            yield self.getvalue()
            return
        try:
            yield mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        finally:
            self.close_file()

    def close_file(self) -> None:
        """Forget what lies in the file."""
        file, self._file = self._file, None
        if file is not None:
            file.close()


def _write(file: IO[bytes], data: memoryview) -> None:
    while len(data):
        data = data[file.write(data) :]
