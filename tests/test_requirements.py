"""docs/requirements.csv: clause → test. A whole run also demands that each row's test has passed (tests/proven.py)."""

from __future__ import annotations

import ast
from collections import Counter
from functools import cache

import pytest

from tests.proven import ROOT, Proof, Requirement, requirements


@cache
def _functions(file: str) -> frozenset[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("row", requirements(), ids=lambda row: row.id)
def test_a_row_names_a_clause_and_a_test_that_exists(row: Requirement) -> None:
    """DESIGN §14: a requirement row is tied to the test that proves it."""
    file, _, name = row.test.partition("::")
    assert row.clause
    assert row.requirement
    assert name in _functions(file)


def test_no_two_rows_have_one_id() -> None:
    """A clause that is quoted by its id means one row."""
    assert not [id for id, count in Counter(row.id for row in requirements()).items() if count > 1]


def test_a_row_that_nothing_has_proven_is_told() -> None:
    """A whole run fails on it."""
    proof = Proof()
    rows = requirements()
    assert len(list(proof.unproven())) == len(rows)
    report = pytest.TestReport(
        nodeid=f"{rows[0].test}[sqlite]", location=("", 0, ""), keywords={}, outcome="passed", longrepr=None,
        when="call",
    )
    proof.pytest_runtest_logreport(report)
    proven = sum(row.test == rows[0].test for row in rows)
    assert len(list(proof.unproven())) == len(rows) - proven
    report.outcome = "failed"
    proof.pytest_runtest_logreport(report)
    assert len(list(proof.unproven())) == len(rows)
