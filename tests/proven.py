"""Each row of docs/requirements.csv is proven by a test that ran and passed: a run of the whole suite fails otherwise.

A row's test may be left out where its material is absent (skipped), but not on a machine that says that it is CI.
"""

from __future__ import annotations

import csv
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "docs" / "requirements.csv"


@dataclass(frozen=True)
class Requirement:
    """One row: what is asked, by whom, and the test function that shows it."""

    id: str
    clause: str
    requirement: str
    test: str
    """``tests/file.py::test_name``; all its parameters must pass."""


def requirements() -> list[Requirement]:
    """The rows in order."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        return [Requirement(**row) for row in csv.DictReader(file)]


class Proof:
    """A pytest plugin: notes how each test function ended."""

    def __init__(self) -> None:
        self._outcomes: dict[str, set[str]] = defaultdict(set)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            self._outcomes[report.nodeid.partition("[")[0]].add(report.outcome)

    def unproven(self) -> Iterator[str]:
        """A line for each row that nothing has proven."""
        for row in requirements():
            outcomes = self._outcomes.get(row.test, set())
            if "failed" in outcomes or not outcomes or (outcomes == {"skipped"} and os.environ.get("CI")):
                yield f"{row.id} is unproven: {row.test} {'failed' if 'failed' in outcomes else 'did not run'}"

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for line in self.unproven():
            terminalreporter.write_line(line, red=True)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if session.exitstatus == pytest.ExitCode.OK and any(self.unproven()):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def is_whole(config: pytest.Config) -> bool:
    """Whether this is a run of the whole suite, in the process that hears every report."""
    asked = [(ROOT / path).resolve() for path in config.args]
    narrowed = ("keyword", "markexpr", "collectonly", "lf")
    chosen = any(getattr(config.option, name, None) for name in narrowed)
    return not chosen and not hasattr(config, "workerinput") and asked in ([ROOT], [ROOT / "tests"])
