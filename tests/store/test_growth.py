"""What a request costs does not grow with the archive: SQLite's steps are counted at n, 2n and 4n (house.md A6)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from resources import budgets
from resources.search import parse
from store.search import limits, planning
from store.unit_of_work import Store, UnitOfWork
from tests.store.test_limits import lower
from tests.support import caller, service_request

A = caller("hospital-a")
SIZES = (300, 600, 1200)
OLD = 24
"""Active orders, older than all completed ones."""

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small archive is looked at as a large one would be."""
    monkeypatch.setattr(planning, "FEW", 20)
    monkeypatch.setattr(planning, "REMEMBERED_S", -1.0)
    monkeypatch.setattr(limits, "STEPS", 100)


def fill(store: Store, size: int, made: int) -> None:
    with store.work(A) as uow:
        for number in range(made, size):
            status = "active" if number < OLD else "completed"
            authored = f"20{10 + number // 336}-{1 + number // 28 % 12:02d}-{1 + number % 28:02d}"
            body = service_request(f"Patient/p{number}", status=status, authored=authored)
            uow.resources.create("ServiceRequest", body)


def looks(store: Store, ask: Callable[[UnitOfWork], object]) -> int:
    """How often SQLite was looked at, once in a hundred of its steps."""
    count = 0
    whole = limits.Deadline._look

    def look(deadline: limits.Deadline) -> bool:
        nonlocal count
        count += 1
        return whole(deadline)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits.Deadline, "_look", look)
        store.look(A, ask)
    return count


def grown(make_store: Callable[..., Store], ask: Callable[[UnitOfWork], object]) -> list[int]:
    store = make_store(references="lenient")
    found, made = [], 0
    for size in SIZES:
        fill(store, size, made)
        made = size
        found.append(looks(store, ask))
    return found


def test_a_search_for_what_is_old_does_not_walk_the_archive(make_store: Callable[..., Store]) -> None:
    """`status=active&_sort=-authored`, all matches old: the walk is given up, and the driver finds them."""
    asked = parse("ServiceRequest", [("status", "active"), ("_sort", "-authored"), ("_count", "10")])
    counts = grown(make_store, lambda uow: uow.resources.search(asked))
    assert counts[-1] <= counts[0] + 2, counts


def test_what_the_driver_finds_is_the_same_over_all_pages(
    make_store: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether a page was walked or sorted, the next one begins where it ended."""
    store = make_store(references="lenient")
    fill(store, SIZES[0], 0)

    def pages() -> list[str]:
        found, token = [], None
        asked = parse("ServiceRequest", [("status", "active"), ("_sort", "-authored"), ("_count", "5")])
        while True:
            page = store.look(A, lambda uow, token=token: uow.resources.search(asked, token=token))  # type: ignore[misc]
            found += [version.id for version in page.matches]
            token = page.next
            if token is None:
                return found

    given_up = pages()
    monkeypatch.setattr(limits, "WALK_LOOKS", 10**9)
    assert pages() == given_up
    assert len(given_up) == len(set(given_up)) == OLD


def test_the_first_page_of_a_history_does_not_count_the_archive(
    make_store: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`GET ServiceRequest/_history?_count=1`; Bundle.total is optional, and left out beyond the cap."""
    lower(monkeypatch, budgets.HISTORY_TOTAL, 100)
    for type_name in ("ServiceRequest", None):
        counts = grown(make_store, lambda uow, name=type_name: uow.resources.history(name, count=1))  # type: ignore[misc]
        assert counts[-1] <= counts[0] + 2, counts
