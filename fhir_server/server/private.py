"""Files that hold what is nobody else's: readable by their owner alone, and there whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from store.engine.files import write_private

UMASK = 0o077
"""What every process of ours starts with: no other account reads what it writes."""


def begin() -> None:
    """First word of each process and command."""
    os.umask(UMASK)


def write_json(path: Path, content: Any) -> None:
    """Replace the file by this JSON, durably, with mode 0600."""
    write_private(path, json.dumps(content, indent=1))
