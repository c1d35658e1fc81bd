"""A ledger on the test's database, with a key and a published file of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from audit.checkpoint import Signer, create
from audit.service import Ledger
from store.engine.database import Database
from tests.support import BASE_URL, PLATFORM

ORIGIN = "vigie.example/audit"


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return create(tmp_path / "audit" / "key", ORIGIN)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    return tmp_path / "elsewhere" / "checkpoints"


@pytest.fixture
def make_ledger(database: Database, signer: Signer, published: Path) -> Iterator[Callable[..., Ledger]]:
    made: list[Ledger] = []

    def make(**parts: Any) -> Ledger:
        chosen: dict[str, Any] = {"observer": "Device/platform", "base_url": BASE_URL, "platform": PLATFORM,
                                  "published": published, "checkpoint_interval_s": 0}
        made.append(Ledger(database, signer, **(chosen | parts)))
        return made[-1]

    yield make
    for ledger in made:
        ledger.close()


@pytest.fixture
def ledger(make_ledger: Callable[..., Ledger]) -> Ledger:
    return make_ledger()
