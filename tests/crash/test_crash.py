"""Few kills of each engine, so that the promise is asked at every change; the full run is `tests.crash.harness`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import _postgresql_binaries
from tests.crash.service import ROOT

KILLS = {"sqlite": 6, "postgresql": 9}
"""One of each kind."""


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "nodes"), [("sqlite", 1), ("postgresql", 1), ("postgresql", 2)])
def test_nothing_acknowledged_is_lost_when_any_process_is_killed(engine: str, nodes: int, tmp_path: Path) -> None:
    """DESIGN §13; R1–R6: writes, images, events, audit records, over kill -9 at random moments under load."""
    if engine == "postgresql" and _postgresql_binaries() is None and not os.environ.get("CI"):
        pytest.skip("PostgreSQL's binaries are absent")
    out = tmp_path / "figures.json"
    # In a process of its own: pynetdicom's requestor leaves sockets open when a peer is killed.
    run = subprocess.run(
        [
            *(sys.executable, "-m", "tests.crash.harness", "--database", engine, "--kills", str(KILLS[engine])),
            *("--nodes", str(nodes), "--seed", "20261124", "--pause", "1", "--ehrs", "2", "--out", str(out)),
        ],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert out.exists(), run.stdout[-2000:] + run.stderr[-2000:]
    figures = json.loads(out.read_text(encoding="utf-8"))
    assert figures["lost_first"] == {}
    assert run.returncode == 0
    assert figures["kills"] == KILLS[engine]
    assert figures["acknowledged"]["versions"]
    assert figures["acknowledged"]["images"]
    assert figures["events"]["numbered"]
