"""Random steps of everybody: no image unread, no order of nobody, no report that reached nobody (docs/workflow.md).

`VIGIE_WALK_STEPS` (default 300) and `VIGIE_WALK_SEED` (default: three fixed ones) make it long:

    VIGIE_WALK_STEPS=100000 VIGIE_WALK_SEED=7 python -m pytest -s tests/workflow/test_walk.py
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.workflow import walk

STEPS = int(os.environ.get("VIGIE_WALK_STEPS", "300"))
SEEDS = [int(one) for one in os.environ.get("VIGIE_WALK_SEED", "1,2,3").split(",")]


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_everybody_does_the_invariants_hold(tmp_path: Path, seed: int) -> None:
    """French reference on teleradiology §7.3; R4 §12.4."""
    seen = walk.walk(tmp_path, seed, STEPS, say=print)
    print(f"seed {seed}, {STEPS} steps: {dict(sorted(seen.items()))}")
    assert sum(number for name, number in seen.items() if name.endswith("done")) > STEPS // 4
