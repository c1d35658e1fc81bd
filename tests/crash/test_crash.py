"""Few kills of each engine, so that the promise is asked at every change; the full run is `tests.crash.harness`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.conftest import _postgresql_binaries
from tests.crash.harness import Run

KILLS = {"sqlite": 6, "postgresql": 9}
"""One of each kind."""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # pynetdicom's requestor, where a connection is refused
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
def test_nothing_acknowledged_is_lost_when_any_process_is_killed(engine: str, tmp_path: Path) -> None:
    """DESIGN §13; R1–R6: writes, images, events, audit records, over kill -9 at random moments under load."""
    if engine == "postgresql" and _postgresql_binaries() is None and not os.environ.get("CI"):
        pytest.skip("PostgreSQL's binaries are absent")
    run = Run(engine, tmp_path, seed=20261124)
    outcome = run.run(KILLS[engine], longest_pause_s=1.0, ehrs=2)
    assert sum(outcome.kills.values()) == KILLS[engine]
    assert {name: found[:5] for name, found in outcome.lost.items() if found} == {}
    assert run.promises.versions
    assert run.promises.images
    assert outcome.events
