"""The spine: observers, references, records, retries (DESIGN §3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select

from resources.outcomes import Conflict, Forbidden, InvalidContent, Unavailable
from resources.search import parse
from store import loops, unit_of_work
from store.access import Access, Change, Draft, Interaction, Outcome
from store.engine.faults import LostRace
from store.loops import sweep
from store.unit_of_work import Store, UnitOfWork
from store.versions.tables import sp_token, sp_uri, tx
from tests.support import BASE_URL, PLATFORM, Clock, MemoryTrail, OpenPermit, caller, patient, service_request

A = caller("hospital-a")
P = caller(PLATFORM)


class Recording:
    """An observer that notes what it is told, and does what a test wants."""

    def __init__(self) -> None:
        self.drafts: list[tuple[str, str]] = []
        self.changes: list[Change] = []
        self.on_prepare: Callable[[UnitOfWork, Draft], None] = lambda _uow, _draft: None
        self.on_change: Callable[[UnitOfWork, Change], None] = lambda _uow, _change: None

    def prepare(self, uow: UnitOfWork, draft: Draft) -> None:
        self.drafts.append((draft.interaction, draft.type))
        self.on_prepare(uow, draft)

    def changed(self, uow: UnitOfWork, change: Change) -> None:
        self.changes.append(change)
        self.on_change(uow, change)


@pytest.fixture
def observer() -> Recording:
    return Recording()


@pytest.fixture
def observed(make_store: Callable[..., Store], observer: Recording) -> Store:
    return make_store(observers=[observer])


def test_an_observer_completes_a_draft_without_touching_the_callers_own(observed: Store, observer: Recording) -> None:
    def complete(_uow: UnitOfWork, draft: Draft) -> None:
        assert draft.resource is not None
        draft.resource["name"][0]["given"] = ["Jean"]

    observer.on_prepare = complete
    body = patient()
    with observed.work(A) as uow:
        made = uow.resources.create("Patient", body)
    assert made.json()["name"][0]["given"] == ["Jean"]
    assert body == patient()


def test_derived_writes_are_observed_committed_and_recorded_with_their_cause(
    observed: Store, observer: Recording, trail: MemoryTrail
) -> None:
    """A change's consequences are part of the same commit."""

    def react(uow: UnitOfWork, change: Change) -> None:
        if change.after.type == "ServiceRequest":
            uow.system.create(
                "Task",
                {
                    "resourceType": "Task",
                    "status": "requested",
                    "intent": "order",
                    "focus": {"reference": change.after.reference},
                },
            )

    observer.on_change = react
    with observed.work(A) as uow:
        uow.resources.update("Patient", "p", patient())
        uow.resources.create("ServiceRequest", service_request("Patient/p"))
        assert not observer.changes
    assert [(change.after.type, change.derived) for change in observer.changes] == [
        ("Patient", False), ("ServiceRequest", False), ("Task", True),
    ]  # fmt: skip
    assert [(access.type, access.derived) for access in trail.appended] == [
        ("Patient", False), ("ServiceRequest", False), ("Task", True),
    ]  # fmt: skip
    with observed.work(P, write=False) as uow:
        (task,) = uow.system.find("Task", [("focus", observer.changes[1].after.reference)])
    assert task.owner == PLATFORM


def test_an_observer_that_refuses_undoes_everything(
    observed: Store, observer: Recording, trail: MemoryTrail
) -> None:
    def refuse(uow: UnitOfWork, change: Change) -> None:
        uow.system.create("Task", {"resourceType": "Task", "status": "requested", "intent": "order"})
        raise InvalidContent("no", expression="Patient.name")

    observer.on_change = refuse
    with pytest.raises(InvalidContent), observed.work(A) as uow:
        uow.resources.update("Patient", "p", patient())
    with observed.work(P, write=False) as uow:
        assert uow.system.search(parse(None, [("_type", "Patient,Task"), ("_total", "accurate")])).total == 0
    assert [access.outcome for access in trail.disclosed[:1]] == [Outcome.MINOR]


def test_observers_in_a_circle_are_stopped(
    observed: Store, observer: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unit_of_work, "MAX_CHANGES", 50)

    def again(uow: UnitOfWork, change: Change) -> None:
        uow.system.update("Patient", "p", patient())

    observer.on_change = again
    with pytest.raises(RuntimeError), observed.work(A) as uow:
        uow.resources.update("Patient", "p", patient())


def test_each_failure_has_its_outcome_in_the_record(store: Store, permit: OpenPermit, trail: MemoryTrail) -> None:
    """AuditEvent.outcome: 4, 8, 12; the intent is what is recorded."""
    intent = Access(Interaction.CREATE, "Patient", query="POST /fhir/Patient")

    def fail_with(error: Exception) -> Access:
        trail.clear()
        with pytest.raises(type(error)), store.work(A, intent=intent):
            raise error
        (access,) = trail.disclosed
        return access

    assert fail_with(InvalidContent("x")).outcome == Outcome.MINOR
    assert fail_with(Forbidden("x")).outcome == Outcome.SERIOUS
    assert fail_with(Unavailable("x")).outcome == Outcome.MAJOR
    broken = fail_with(ZeroDivisionError("patient Martin"))
    assert (broken.outcome, broken.reason) == (Outcome.MAJOR, "ZeroDivisionError")
    assert broken.query == intent.query
    permit.forbidden.add(("hospital-a", "Patient"))
    trail.clear()
    with pytest.raises(Forbidden), store.work(A, write=False) as uow:
        uow.resources.read("Patient", "x")
    assert [(a.interaction, a.outcome) for a in trail.disclosed] == [(Interaction.READ, Outcome.SERIOUS)]


def test_nothing_is_disclosed_or_written_without_its_record(store: Store, trail: MemoryTrail) -> None:
    """DESIGN §3: the record first, else 503."""
    with store.work(A) as uow:
        uow.resources.update("Patient", "p", patient())
    trail.failure = Unavailable("The log cannot be written")
    with pytest.raises(Unavailable), store.work(A, write=False) as uow:
        uow.resources.read("Patient", "p")
    with pytest.raises(Unavailable), store.work(A) as uow:
        uow.resources.update("Patient", "p", patient())
    trail.failure = None
    with store.work(A, write=False) as uow:
        assert uow.resources.read("Patient", "p").version == 1


def test_a_lost_race_is_tried_again_and_then_a_conflict(store: Store, trail: MemoryTrail) -> None:
    """DESIGN §4: retried with jitter, then 409 + Retry-After; one record of the failure."""
    runs = []

    def lose(uow: UnitOfWork) -> None:
        runs.append(uow.tx)
        if len(runs) < 3 or len(runs) > 3:
            raise LostRace

    store.transact(A, lose)
    assert len(runs) == 3
    assert not trail.disclosed
    with pytest.raises(Conflict) as error:
        store.transact(A, lose)
    assert error.value.retry_after_s
    assert len(trail.disclosed) == 1


@pytest.mark.parametrize(
    ("reference", "expression"),
    [
        ("Patient/none", "ServiceRequest.subject"),
        (f"{BASE_URL}/Patient/none", "ServiceRequest.subject"),
        ("Patient/none/_history/1", "ServiceRequest.subject"),
    ],
)
def test_a_reference_into_the_void_is_refused_where_it_stands(store: Store, reference: str, expression: str) -> None:
    """DESIGN §5: 409 with `expression`."""
    with pytest.raises(Conflict) as error, store.work(A) as uow:
        uow.resources.create("ServiceRequest", service_request(reference))
    assert [issue.expression for issue in error.value.issues] == [(expression,)]


@pytest.mark.parametrize("reference", ["#inside", "urn:uuid:0", "http://elsewhere.example/fhir/Patient/1"])
def test_references_that_are_not_to_this_server_are_not_resolved(store: Store, reference: str) -> None:
    """references.html: contained, urn, absolute and logical ones."""
    with store.work(A) as uow:
        uow.resources.create("ServiceRequest", service_request(reference))
        uow.resources.create(
            "ServiceRequest", service_request("") | {"subject": {"identifier": {"value": "1"}}, "id": "x"}
        )


def test_references_may_be_in_any_order_and_in_a_circle(store: Store) -> None:
    """http.html#trules: asked at the end of the transaction."""
    with store.work(A) as uow:
        uow.resources.update("ServiceRequest", "s", service_request("Patient/p"))
        linked = [{"other": {"reference": "Patient/q"}, "type": "seealso"}]
        uow.resources.update("Patient", "p", patient(link=linked))
        linked = [{"other": {"reference": "Patient/p"}, "type": "seealso"}]
        uow.resources.update("Patient", "q", patient(link=linked))


def test_what_others_refer_to_is_not_deleted_unless_they_go_too(store: Store) -> None:
    """DESIGN §5."""
    with store.work(A) as uow:
        uow.resources.update("Patient", "p", patient())
        uow.resources.update("ServiceRequest", "s", service_request("Patient/p"))
    with pytest.raises(Conflict), store.work(A) as uow:
        uow.resources.delete("Patient", "p")
    with store.work(A) as uow:
        uow.resources.delete("Patient", "p")
        uow.resources.delete("ServiceRequest", "s")
    with pytest.raises(Conflict), store.work(A) as uow:
        uow.resources.update("ServiceRequest", "s", service_request("Patient/p"))


def test_a_provenance_does_not_keep_its_target(store: Store) -> None:
    """A record of the past outlives what it tells of."""
    with store.work(A) as uow:
        uow.resources.update("Patient", "p", patient())
        uow.resources.create(
            "Provenance",
            {
                "resourceType": "Provenance",
                "target": [{"reference": "Patient/p"}],
                "recorded": "2026-06-01T08:00:00Z",
                "agent": [{"who": {"display": "x"}}],
            },
        )
    with store.work(A) as uow:
        uow.resources.delete("Patient", "p")


def test_a_lenient_store_takes_references_as_they_are(make_store: Callable[..., Store]) -> None:
    """DESIGN §5: a deployment's choice."""
    store = make_store(references="lenient")
    with store.work(A) as uow:
        uow.resources.update("ServiceRequest", "s", service_request("Patient/none"))


def test_the_rows_of_dead_versions_are_swept_once_no_token_reaches_them(store: Store, clock: Clock) -> None:
    """DESIGN §4: they stay until the oldest valid page token, then go; the versions stay."""
    for number in range(5):
        with store.work(A) as uow:
            body = patient(active=True, meta={"profile": [f"http://x/{number}"]})
            uow.resources.update("Patient", "p", body)

    def rows() -> int:
        with store.database.read() as connection:
            return len(connection.execute(sp_uri.select()).all())

    assert not sweep(store)
    assert rows() == 5
    clock.advance(minutes=66)
    with store.work(A) as uow:
        uow.resources.update("Patient", "p", patient(meta={"profile": ["http://x/5"]}))
    assert not sweep(store)
    assert rows() == 2, "the last one ended just now"
    assert not sweep(store)
    clock.advance(minutes=66)
    with store.work(A) as uow:
        uow.resources.update("Patient", "q", patient())
    sweep(store)
    assert rows() == 1
    with store.work(A, write=False) as uow:
        assert uow.resources.vread("Patient", "p", 1).version == 1
        assert len(uow.resources.search(parse("Patient", [("_profile", "http://x/5")])).matches) == 1


def test_the_times_of_transactions_do_not_gather(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DESIGN §4: they say which versions no page can reach, for as long as a page token lives. The newest stays."""
    monkeypatch.setattr(loops, "TIMES", 4)
    kept = []
    for writes in (5, 10, 20):
        for number in range(writes):
            with store.work(A) as uow:
                uow.resources.update("Patient", f"p{number}", patient())
        newest = _transactions(store)[-1]
        sweep(store)
        assert len(_transactions(store)) > writes - 1, "a page of the last hour may still need them"
        clock.advance(minutes=66)
        while sweep(store):
            pass
        assert _transactions(store) == [newest]
        kept.append(len(_transactions(store)))
    with store.work(A) as uow:
        uow.resources.update("Patient", "p0", patient())
    assert _transactions(store)[-1] > newest
    assert kept == [1, 1, 1]


def _transactions(store: Store) -> list[int]:
    with store.database.read() as connection:
        return sorted(connection.execute(select(tx.c.tx_id)).scalars())


def test_a_read_is_one_select(store: Store) -> None:
    """DESIGN §4: header and bytes."""
    with store.work(A) as uow:
        uow.resources.update("Patient", "p", patient())
    with store.work(A, write=False) as uow:
        uow.resources.read("Patient", "p")
    statements = _statements(store, lambda uow: uow.resources.read("Patient", "p"), write=False)
    assert [text.split()[0] for text in statements] == ["BEGIN", "SELECT", "COMMIT"]


def test_a_create_is_few_statements(store: Store) -> None:
    """One insert for the version, one for each index table that has rows."""
    with store.work(A) as uow:
        uow.resources.update("Patient", "p", patient())
        uow.resources.create("ServiceRequest", service_request("Patient/p"))
    statements = _statements(
        store, lambda uow: uow.resources.create("ServiceRequest", service_request("Patient/p")), write=True
    )
    kinds = {text.split("(")[0].strip() for text in statements if text.startswith("INSERT")}
    assert "INSERT INTO resource_version" in kinds
    assert len([text for text in statements if text.startswith("SELECT")]) == 1, "the reference is looked up"
    with store.database.read() as connection:
        assert connection.execute(sp_token.select()).first()


def _statements(store: Store, function: Callable[[UnitOfWork], Any], *, write: bool) -> list[str]:
    """What the driver is sent (SQLite tells; each inserted row counts once a statement)."""
    if not store.database.is_sqlite:
        pytest.skip("SQLite tells each statement")
    seen: list[str] = []
    with store.database.read() as connection:
        driver: Any = connection.connection.driver_connection
    driver.set_trace_callback(seen.append)
    try:
        with store.work(A, write=write) as uow:
            function(uow)
    finally:
        driver.set_trace_callback(None)
    return list(dict.fromkeys(seen))
