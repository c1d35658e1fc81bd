"""What a search may take: time, bytes, rounds (security.md M5, house.md A4).

`tests/fhir_server/test_budgets.py` has the table; here is what its rows need of the store.
"""

from __future__ import annotations

import sys
import threading
from dataclasses import replace

import pytest
from sqlalchemy import text

from resources import budgets
from resources.json import Json
from resources.outcomes import BadRequest, InvalidContent
from resources.search import parse
from store.access import SearchPage
from store.search.limits import Deadline
from store.unit_of_work import Store, UnitOfWork
from store.versions.queries import contents
from tests.support import caller, patient

A = caller("hospital-a")

ENDLESS = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
    "postgresql": "SELECT pg_sleep(600)",
}


def lower(monkeypatch: pytest.MonkeyPatch, budget: budgets.Budget, value: int) -> None:
    """Another value for a limit, wherever it is used."""
    low = replace(budget, value=value)
    for module in list(sys.modules.values()):
        if getattr(module, budget.name, None) is budget:
            monkeypatch.setattr(module, budget.name, low)


@pytest.mark.parametrize("write", [False, True])
def test_a_statement_that_takes_too_long_is_stopped_and_holds_nothing(store: Store, write: bool) -> None:
    """400 too-costly, and the next write does not wait. (On PostgreSQL a write keeps its connection's timeout.)"""
    write = write and store.database.is_sqlite
    endless = text(ENDLESS[store.database.dialect])
    with (
        pytest.raises(BadRequest) as refused,
        store.work(A, write=write) as uow,
        Deadline(0.2).running(uow.connection, write=write),
    ):
        uow.connection.execute(endless)
    assert refused.value.issues[0].code == "too-costly"
    written = threading.Event()

    def create() -> None:
        with store.work(A) as uow:
            uow.resources.create("Patient", patient())
        written.set()

    threading.Thread(target=create, daemon=True).start()
    assert written.wait(30)


def test_the_deadline_ends_with_the_search(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the same transaction does afterwards is not stopped by a handler that was left behind."""
    counted = text(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000) SELECT count(*) FROM n"
    )
    with store.work(A, write=False) as uow:
        with Deadline(60).running(uow.connection, write=True):
            monkeypatch.setattr("store.search.limits.clock", lambda: 10.0**12)
        assert uow.connection.execute(counted).scalar_one() == 300_000


def test_the_time_of_all_searches_of_a_unit_of_work_is_one(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each search of a transaction of a thousand would otherwise have the whole time for itself."""
    ticks = iter(range(10_000))
    monkeypatch.setattr("store.search.limits.clock", lambda: float(next(ticks)))

    def search_often(uow: UnitOfWork) -> None:
        for _ in range(budgets.SEARCH_MS.value // 1000):
            uow.resources.search(parse("Patient", [("family", "x")]))

    with pytest.raises(BadRequest) as refused:
        store.look(A, search_often)
    assert refused.value.issues[0].code == "too-costly"


@pytest.fixture
def large(store: Store) -> list[str]:
    """Five patients of 10 kB, newest last."""
    with store.work(A) as uow:
        return [uow.resources.create("Patient", _large()).id for _ in range(5)]


def _large() -> Json:
    return patient(extension=[{"url": "urn:x", "valueString": "é" * 5000}])


def test_a_page_ends_early_where_its_bytes_do(
    store: Store, large: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fewer than `_count`, with a next link; over all pages each once and in order (R4 §3.1.1.5.3)."""
    lower(monkeypatch, budgets.ANSWER_BYTES, 25_000)
    query = parse("Patient", [("_count", "4")])
    pages: list[SearchPage] = []
    token = None
    while not pages or token:
        with store.work(A, write=False) as uow:
            pages.append(uow.resources.search(query, token=token))
        token = pages[-1].next
    assert [len(page.matches) for page in pages] == [2, 2, 1]
    assert [version.id for page in pages for version in page.matches] == large[::-1]
    assert pages[0].total is None
    with store.work(A, write=False) as uow:
        first = uow.resources.history("Patient", count=4)
        second = uow.resources.history("Patient", count=4, token=first.next)
    assert [version.id for version in (*first.versions, *second.versions)] == large[:0:-1]
    assert (first.total, second.total) == (5, 5)


def test_one_resource_is_answered_however_large_it_is(
    store: Store, large: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page without an entry and with a next link would never end."""
    lower(monkeypatch, budgets.ANSWER_BYTES, 10)
    with store.work(A, write=False) as uow:
        page = uow.resources.search(parse("Patient", []))
        assert [version.id for version in page.matches] == [large[-1]]
        assert len(uow.resources.history("Patient").versions) == 1


def test_contents_are_read_as_far_as_they_fit_and_in_order(store: Store, large: list[str]) -> None:
    with store.work(A, write=False) as uow:
        pks = [uow.resources.read("Patient", id).pk for id in large]
        found = contents(uow.connection, [pks[3], pks[0], pks[4]], 25_000)
        whole = contents(uow.connection, pks, 10**9)
        assert found == [whole[3], whole[0]]
        size = len(whole[0].encode())
        assert len(contents(uow.connection, pks, size * 2)) == 2
        assert len(contents(uow.connection, pks, size - 1)) == 1
        assert contents(uow.connection, pks, size - 1, at_least_one=False) == []
        assert contents(uow.connection, pks, 0, at_least_one=False) == []


def test_matches_that_are_met_again_leave_room_for_what_is_included(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve matches refer to one another; the one that is none has the greatest key and is not lost unsaid."""
    lower(monkeypatch, budgets.INCLUDED, 1)

    def observation(*members: str) -> Json:
        return {
            "resourceType": "Observation",
            "status": "final",
            "code": {"text": "match" if len(members) < 2 else "x"},
            "hasMember": [{"reference": f"Observation/{member}"} for member in members],
        }

    with store.work(A) as uow:
        for number in range(13):
            body = observation(f"o{(number + 1) % 12}") | ({"status": "registered"} if number == 12 else {})
            uow.resources.update("Observation", f"o{number}", body)
        uow.resources.update("Observation", "o11", observation("o12"))
    with store.work(A, write=False) as uow:
        asked = parse("Observation", [("status", "final"), ("_include", "Observation:has-member")])
        page = uow.resources.search(asked)
    assert len(page.matches) == 12
    assert [version.id for version in page.includes] == ["o12"]
    assert page.cuts == ()


def test_index_rows_are_counted_whichever_way_a_resource_comes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The edge counts before the transaction; a rule, a batch of images or a command does not pass there."""
    def coded(count: int) -> Json:
        return {"resourceType": "Basic", "code": {"coding": [{"code": f"c{number}"} for number in range(count)]}}

    with store.work(A) as uow:
        uow.resources.create("Basic", coded(20))
    lower(monkeypatch, budgets.RESOURCE_INDEX_ROWS, 10)
    with pytest.raises(InvalidContent) as refused, store.work(A) as uow:
        uow.resources.create("Basic", coded(20))
    assert refused.value.issues[0].code == "too-costly"
    with store.work(A) as uow:
        uow.resources.create("Basic", coded(1))
