"""Two versions side by side: in a rolling upgrade an older one goes on beside a schema that this one has raised.

    python -m tests.crash.rolling --old COMMIT [--kills N] [--seed N] [--out FILE]

On PostgreSQL. 1: a node of the version before serves alone. 2: `./vigie db upgrade` of this version, while clients
write through it. 3: a node of this version joins; clients write through both, both work in the background, and
children of both are killed (kill -9), so that those of the older one start anew on the newer schema. 4: the older
node ends, and comes back with this version. Then the reckoning of `tests.crash.harness`: nothing lost, numbers
gapless, each told once, the log verifies.

The older version is taken out of git, so this needs a clone with its history; `tests/store/test_rolling.py` asks of
every migration what is needed for it to hold.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.crash.harness import Outcome, Run, conclude, figures
from tests.crash.service import ROOT, Service
from tests.crash.workload import Load

CHILDREN = ("web", "web-worker", "worker", "dimse")
"""Killed: what the supervisor of either version starts anew by itself."""
ALONE_S = 5.0


class Rolling(Run):
    """From one version to the next, without an interruption."""

    def __init__(self, old: Path, folder: Path, seed: int, say: Callable[[str], None] = print) -> None:
        """`old`: a folder with the code of the version before."""
        super().__init__("postgresql", folder, seed, say, nodes=2)
        self.service.root = old

    def run(self, kills: int, longest_pause_s: float = 2.0, *, ehrs: int = 2) -> Outcome:
        """Upgrade under load, with `kills` kills while both versions serve and `kills` / 2 afterwards."""
        began = time.monotonic()
        older, newer = self.nodes
        try:
            older.start()
            older.until(lambda: older.answers() and older.is_whole())
            self._subscribe()
            self._under([older], 0, ehrs, lambda: time.sleep(ALONE_S))
            self._under([older], 1000, ehrs, self._raise)
            newer.start()
            newer.until(lambda: newer.answers() and newer.is_whole())
            self._under(self.nodes, 2000, ehrs, lambda: self._kills(kills, longest_pause_s))
            self._under(self.nodes, 3000, ehrs, lambda: self._replace(older))
            self._under(self.nodes, 4000, ehrs, lambda: self._kills(kills // 2, longest_pause_s))
            self._settle()
            self._check()
        finally:
            self.close()
        self.outcome.seconds = time.monotonic() - began
        return self.outcome

    def _under(self, nodes: list[Service], seed: int, ehrs: int, act: Callable[[], None]) -> None:
        running = Load(nodes, self.promises, ehrs=ehrs, seed=seed)
        running.start()
        try:
            act()
        finally:
            running.stop()

    def _raise(self) -> None:
        """The operator raises the schema, with the version to come."""
        began = time.monotonic()
        done = self.nodes[1].command("db", "upgrade")
        if done.returncode:
            raise RuntimeError(f"db upgrade: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        self._say(f"     schema raised in {time.monotonic() - began:.1f} s beside the older version")
        time.sleep(ALONE_S)

    def _kills(self, kills: int, longest_pause_s: float) -> None:
        for number in range(1, kills + 1):
            time.sleep(self._draw.uniform(0.05, longest_pause_s))
            self._kill(number, CHILDREN[number % len(CHILDREN)])
        time.sleep(1.0)

    def _replace(self, node: Service) -> None:
        """The older version ends, as an operator would end it; this one takes its folder and its ports."""
        node.stop()
        node.root = ROOT
        node.start()
        node.until(lambda: node.answers() and node.is_whole())
        self._say("     the older version is replaced")


def taken(commit: str, folder: Path) -> Path:
    """The code as of a commit, in a new folder beneath `folder`. Raises CalledProcessError where git has it not."""
    made = folder / "old"
    made.mkdir(parents=True)
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, stdout=subprocess.PIPE)
    subprocess.run(["tar", "-x", "-C", str(made)], input=archive.stdout, check=True)
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", required=True, help="Commit of the version before.")
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--pause", type=float, default=2.0, help="Longest seconds between two kills.")
    parser.add_argument("--ehrs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--keep", action="store_true", help="Keep the data and the logs.")
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(10**6)
    folder = Path(tempfile.mkdtemp(prefix="vigie-rolling-"))
    print(f"seed {seed}, {folder}", flush=True)
    run = Rolling(taken(given.old, folder), folder, seed, say=lambda line: print(line, flush=True))
    outcome = run.run(given.kills, given.pause, ehrs=given.ehrs)
    return conclude({**figures(run), "seed": seed, "old": given.old}, folder, given, is_clean=outcome.is_clean)


if __name__ == "__main__":
    sys.exit(main())
