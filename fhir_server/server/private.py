"""Files that hold what is nobody else's: readable by their owner alone, and there whole or not at all."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any

UMASK = 0o077
"""What every process of ours starts with: no other account reads what it writes."""


def begin() -> None:
    """First word of each process and command."""
    os.umask(UMASK)


def write_json(path: Path, content: Any) -> None:
    """Replace the file by this JSON, durably, with mode 0600."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
