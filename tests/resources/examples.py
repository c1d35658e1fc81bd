"""Where the examples of others are, for tests of `resources`; they lie beside the repository, not in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

FHIR = Path(__file__).resolve().parents[3] / "shared" / "fhir"

here = pytest.mark.skipif(not FHIR.is_dir(), reason="the examples of others are not beside the repository")


def files(folder: str) -> list[Path]:
    """The example files of a folder, by its index."""
    index = FHIR / folder / "index.json"
    if not index.exists():
        return []
    entries: list[dict[str, Any]] = json.loads(index.read_text(encoding="utf-8"))["entries"]
    return [FHIR / folder / entry["file"] for entry in entries if (FHIR / folder / entry["file"]).exists()]


def name(path: Path) -> str:
    return path.stem
