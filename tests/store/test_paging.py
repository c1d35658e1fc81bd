"""Order and pages: total, stable under writes, sealed for their caller (FHIR R4 §3.1.1.5.3, §3.1.1.6.1; DESIGN §4)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from resources.outcomes import BadRequest, Gone
from resources.search import parse
from store.access import Version
from store.search import planning
from store.unit_of_work import Store
from tests.support import Clock, caller, patient, service_request

A = caller("hospital-a")
B = caller("hospital-b")

SORTS = ["", "_lastUpdated", "-_lastUpdated", "authored", "-authored", "priority,-authored", "-priority", "_id"]


@pytest.fixture(params=["few", "dense"])
def plan(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether candidates are sorted or the sort index is walked: the answer is the same."""
    chosen = planning.choose
    walk = request.param == "dense"
    monkeypatch.setattr("store.search.execute.choose", lambda *asked: replace(chosen(*asked), walk=walk))
    return str(request.param)


def orders(store: Store, clock: Clock, count: int) -> list[str]:
    """Orders of one patient: every fourth without a time, the times neither rising nor unique."""
    with store.work(A) as uow:
        uow.resources.update("Patient", "p", patient())
    made = []
    for number in range(count):
        clock.advance(seconds=1)
        authored = None if number % 4 == 3 else f"2026-05-{1 + number * 7 % 20:02d}T10:00:00Z"
        priority = ("stat", "urgent", "routine")[number % 3]
        with store.work(A) as uow:
            body = service_request("Patient/p", authored=authored, priority=priority)
            made.append(uow.resources.create("ServiceRequest", body).id)
    return made


def all_pages(store: Store, text: list[tuple[str, str]], between: Any = None) -> list[Version]:
    query = parse("ServiceRequest", text)
    found: list[Version] = []
    token = None
    for _ in range(100):
        with store.work(A, write=False) as uow:
            page = uow.resources.search(query, token=token)
        found += page.matches
        token = page.next
        if token is None:
            return found
        assert len(page.matches) == query.count
        if between:
            between()
    raise AssertionError("the pages do not end")


@pytest.mark.parametrize("sort", SORTS)
def test_pages_together_are_the_whole_in_order(store: Store, clock: Clock, plan: str, sort: str) -> None:
    """Each match exactly once, sorted, those without a value last."""
    made = orders(store, clock, 23)
    wanted = [("status", "active"), *([("_sort", sort)] if sort else [])]
    whole = all_pages(store, [*wanted, ("_count", "1000")])
    paged = all_pages(store, [*wanted, ("_count", "5")])
    assert [v.id for v in paged] == [v.id for v in whole]
    assert sorted(v.id for v in whole) == sorted(made)
    if sort in ("authored", "-authored"):
        times = [v.json().get("authoredOn") for v in whole]
        with_value = [time for time in times if time]
        assert times == sorted(with_value, reverse=sort[0] == "-") + [None] * (len(times) - len(with_value))
    if sort == "priority,-authored":
        assert [v.json()["priority"] for v in whole] == ["stat"] * 8 + ["urgent"] * 8 + ["routine"] * 7
    if sort == "":
        assert [v.id for v in whole] == made[::-1]


@pytest.mark.parametrize("sort", SORTS)
def test_pages_are_stable_under_writes(store: Store, clock: Clock, plan: str, sort: str) -> None:
    """What matched when the first page was made is what the pages show, however it changes meanwhile."""
    made = orders(store, clock, 17)
    left = iter(made)

    def disturb() -> None:
        clock.advance(seconds=1)
        with store.work(A) as uow:
            uow.resources.create("ServiceRequest", service_request("Patient/p", authored="2026-05-09"))
            uow.resources.update(
                "ServiceRequest", next(left), service_request("Patient/p", status="completed", authored="2020-01-01")
            )
            uow.resources.delete("ServiceRequest", next(left))

    wanted = [("status", "active"), ("_count", "3"), *([("_sort", sort)] if sort else [])]
    before = all_pages(store, [*wanted[:1], ("_count", "1000"), *wanted[2:]])
    assert [v.pk for v in all_pages(store, wanted, disturb)] == [v.pk for v in before]


def test_a_multi_valued_element_sorts_by_its_extreme(store: Store, plan: str) -> None:
    """§3.1.1.6.1: ascending by the smallest value, descending by the greatest; met once."""
    families = {"x": ["Adam", "Zorn"], "y": ["Berg"], "z": ["Clos", "Yves"]}
    with store.work(A) as uow:
        for id, names in families.items():
            uow.resources.update("Patient", id, {"resourceType": "Patient", "name": [{"family": n} for n in names]})
    with store.work(A, write=False) as uow:
        rising = uow.resources.search(parse("Patient", [("_sort", "family")])).matches
        falling = uow.resources.search(parse("Patient", [("_sort", "-family")])).matches
    assert [v.id for v in rising] == ["x", "y", "z"]
    assert [v.id for v in falling] == ["x", "z", "y"]


def test_totals_are_given_when_asked_for_or_known(store: Store, clock: Clock) -> None:
    """§3.1.1.5.3 _total; `_count=0` is `_summary=count`."""
    orders(store, clock, 7)

    def search(*text: tuple[str, str]) -> Any:
        with store.work(A, write=False) as uow:
            return uow.resources.search(parse("ServiceRequest", list(text)))

    assert search(("_count", "3"), ("_total", "accurate")).total == 7
    assert search(("_count", "3")).total is None
    assert search(("_count", "30")).total == 7
    assert search(("_count", "30"), ("_total", "none")).total is None
    for counted in (search(("_count", "0")), search(("_summary", "count"))):
        assert (counted.total, counted.matches, counted.next) == (7, [], None)


def test_a_token_is_sealed_for_its_caller_and_query(store: Store, clock: Clock) -> None:
    """L2; DESIGN §5: tampered 400, expired 410."""
    orders(store, clock, 5)
    query = parse("ServiceRequest", [("_count", "2")])
    with store.work(A, write=False) as uow:
        token = uow.resources.search(query).next
    assert token is not None
    others = [
        (B, query, token),
        (caller("hospital-a", client_id="another"), query, token),
        (A, parse("ServiceRequest", [("_count", "2"), ("status", "active")]), token),
        (A, query, token[:-2] + ("AA" if token[-2:] != "AA" else "BB")),
        (A, query, "nonsense"),
        (A, query, ""),
        (A, query, "é"),
    ]
    for who, asked, text in others:
        with pytest.raises(BadRequest), store.work(who, write=False) as uow:
            uow.resources.search(asked, token=text or "=")
    clock.advance(minutes=59)
    with store.work(A, write=False) as uow:
        assert len(uow.resources.search(query, token=token).matches) == 2
    clock.advance(minutes=2)
    with pytest.raises(Gone), store.work(A, write=False) as uow:
        uow.resources.search(query, token=token)


def test_rights_are_asked_again_on_each_page(store: Store, clock: Clock, permit: Any) -> None:
    """A token is no proof of any right."""
    from store.access import Visibility

    orders(store, clock, 5)
    query = parse("ServiceRequest", [("_count", "2")])
    with store.work(A, write=False) as uow:
        token = uow.resources.search(query).next
    permit.visible["hospital-a", "ServiceRequest"] = Visibility(frozenset())
    with store.work(A, write=False) as uow:
        assert uow.resources.search(query, token=token).matches == []


def test_a_search_sees_what_its_own_transaction_wrote(store: Store) -> None:
    """http.html#trules: GET comes last in a transaction and sees its writes."""
    with store.work(A) as uow:
        uow.resources.update("Patient", "p", patient("Noir"))
        uow.resources.update("Patient", "q", patient("Noir"))
        uow.resources.update("Patient", "q", patient("Blanc"))
        page = uow.resources.search(parse("Patient", [("family", "noir"), ("_count", "1")]))
        assert [v.id for v in page.matches] == ["p"]
        page = uow.resources.search(parse("Patient", [("_count", "1")]))
        again = uow.resources.search(parse("Patient", [("_count", "1")]), token=page.next)
        assert {page.matches[0].id, again.matches[0].id} == {"p", "q"}


def test_history_pages_are_stable_under_writes(store: Store, clock: Clock) -> None:
    """§3.1.0.11: newest first, pages of one snapshot; _since and _at."""
    moments = []
    for number in range(7):
        with store.work(A) as uow:
            uow.resources.update("Patient", "p", patient(f"F{number}"))
        moments.append(clock.now)
        clock.advance(seconds=1)
    with store.work(A) as uow:
        uow.resources.delete("Patient", "p")
    seen, token = [], None
    while True:
        with store.work(A, write=False) as uow:
            page = uow.resources.history("Patient", "p", count=3, token=token)
        assert page.total == 8
        seen += [v.version for v in page.versions]
        token = page.next
        if token is None:
            break
        with store.work(A) as uow:
            uow.resources.update("Patient", "p", patient())
    assert seen == [8, 7, 6, 5, 4, 3, 2, 1]
    with store.work(A, write=False) as uow:
        since = uow.resources.history("Patient", "p", since=moments[5])
        assert [v.version for v in since.versions][-1] == 6
        current = uow.resources.history("Patient", "p", at=moments[3])
        assert [v.version for v in current.versions] == [4]
        assert uow.resources.history("Patient").total == uow.resources.history(None).total == 10
