"""What is asked of the file system, whoever keeps files."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Make the names in it durable. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_private(path: Path, text: str, *, replace: bool = True) -> bool:
    """Write a file that is there whole or not at all, readable by its owner alone (0600), durable when this returns.

    It is written beside, synced, then given its name: a process that is killed here leaves no half secret. Where
    `replace` is False and there is one, that one stays, as the first wins; False then. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            draft.replace(path)
        else:
            os.link(draft, path)
        sync_folder(path.parent)
    except FileExistsError:
        return False
    finally:
        draft.unlink(missing_ok=True)
    return True
