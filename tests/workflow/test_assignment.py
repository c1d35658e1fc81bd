"""The pure choice of a reader, deadlines, and lateness."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources.codes import TaskKind
from resources.policies import CRITICAL_CATEGORIES
from resources.service_request import PRIORITIES
from workflow.assignment import Candidate, Order, choose
from workflow.deadlines import TARGET_MINUTES

NOW = datetime(2026, 6, 1, 22, 0, tzinfo=UTC)
NEURO = ("urn:specialty", "neuro")


def _candidate(name: str, load: int = 0, hours: float = 8, *specialties: tuple[str, str]) -> Candidate:
    return Candidate(f"Practitioner/{name}", load, NOW + timedelta(hours=hours), frozenset(specialties))


@pytest.mark.parametrize(
    ("candidates", "chosen"),
    [
        ([_candidate("a", 3), _candidate("b", 1), _candidate("c", 2)], "b"),
        ([_candidate("a", 1), _candidate("b", 1, 8, NEURO)], "b"),
        ([_candidate("a", 0), _candidate("b", 1, 8, NEURO)], "a"),
        ([_candidate("a", 1, 2), _candidate("b", 1, 8)], "b"),
        ([_candidate("b"), _candidate("a")], "a"),
        ([_candidate("a", 0, 0.1), _candidate("b", 5)], "b"),
        ([_candidate("a", 0, 0.1)], "a"),
        ([], None),
    ],
)
def test_the_choice_is_by_load_then_specialty_then_time_left(candidates: list[Candidate], chosen: str | None) -> None:
    """French context §6.3."""
    choice = choose(candidates, Order(NOW, frozenset({NEURO})))
    assert (choice.practitioner.split("/")[1] if choice else None) == chosen
    assert choice is None or choice.because.startswith("Proposé : charge")


@given(st.lists(st.builds(_candidate, st.sampled_from("abcdef"), st.integers(0, 5), st.floats(0.1, 12)), max_size=8),
       st.randoms())
def test_the_choice_does_not_depend_on_the_order_of_the_candidates(candidates: list[Candidate], random) -> None:  # type: ignore[no-untyped-def]
    """Every process that computes it proposes the same person."""
    shuffled = candidates[:]
    random.shuffle(shuffled)
    left, right = choose(candidates, Order(NOW)), choose(shuffled, Order(NOW))
    assert (left and left.practitioner) == (right and right.practitioner)


@pytest.mark.parametrize("kind", TARGET_MINUTES)
def test_a_graver_priority_is_never_due_later(kind: TaskKind) -> None:
    """stat ≤ asap ≤ urgent ≤ routine."""
    names = CRITICAL_CATEGORIES if kind is TaskKind.COMMUNICATE_CRITICAL else PRIORITIES
    minutes = [TARGET_MINUTES[kind][name] for name in names]
    assert minutes == sorted(minutes)
