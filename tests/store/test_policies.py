"""Rows of policies: versions that are never altered, on record, known to every process within 5 seconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from resources.outcomes import BadRequest
from resources.policies import EVERYWHERE, Where
from store import policies
from store.access import Caller
from store.policies import LOOK_AGAIN_S
from store.unit_of_work import Store
from tests import builders
from tests.support import PLATFORM

OPERATOR = Caller("command-line", PLATFORM, is_system=True)

@pytest.fixture
def store(make_store: Callable[..., Store]) -> Store:
    made = make_store()

    def furnish(uow: Any) -> None:
        uow.system.create("Organization", builders.organization(name="A"), id="hospital-a")
        uow.system.create("Location", {"resourceType": "Location", "name": "Salle 2"}, id="salle-2")

    made.transact(OPERATOR, furnish)
    return made


def decide(
    store: Store, value: Any, where: Where = EVERYWHERE, name: str = "deadline-unread", reason: str = "r"
) -> Any:
    return store.transact(OPERATOR, lambda uow: policies.decide(uow, name, where, value, reason))


def asked(store: Store, name: str = "deadline-unread", **where: str) -> Any:
    return store.look(OPERATOR, lambda uow: policies.value(uow, name, Where(**where)))


def test_a_decision_holds_where_it_was_made(store: Store) -> None:
    """At once in the process that decided; the default elsewhere, and again once it is withdrawn."""
    assert asked(store) == 10
    decide(store, 7, Where(partner="hospital-a"))
    assert asked(store, partner="hospital-a") == 7
    assert asked(store, partner="hospital-b") == 10
    decide(store, 3, Where(site="salle-2", exam="24725-4"))
    assert asked(store, partner="hospital-a", site="salle-2", exam="24725-4") == 3
    decide(store, None, Where(partner="hospital-a"))
    assert asked(store, partner="hospital-a") == 10


def test_rows_are_versions_and_stay(store: Store) -> None:
    """Who decided what, when and why, from the first on; each is noted with its digest (audit: a detail `row`)."""
    for value, reason in ((7, "contract"), (8, "winter"), (None, "end"), (9, "again")):
        decide(store, value, Where(partner="hospital-a"), reason=reason)
    with store.database.read() as connection:
        found = policies.history(connection, "deadline-unread")
        assert [one.name for one in policies.current(connection)] == ["deadline-unread"]
        digests = dict(policies.rows(connection))
    assert [(one.version, one.value, one.reason, one.by) for one in found] == [
        (1, 7, "contract", "command-line"), (2, 8, "winter", "command-line"),
        (3, None, "end", "command-line"), (4, 9, "again", "command-line"),
    ]  # fmt: skip
    assert set(digests) == {f"policy/deadline-unread/hospital-a/-/-/{number}" for number in range(1, 5)}


@pytest.mark.parametrize(
    ("name", "where", "value", "reason", "expression"),
    [
        ("nothing", Where(), 5, "r", "name"),
        ("deadline-unread", Where(), "soon", "r", "value"),
        ("deadline-unread", Where(), None, "r", "value"),
        ("deadline-unread", Where(), 5, " ", "reason"),
        ("deadline-unread", Where(partner="nobody"), 5, "r", "partner"),
        ("deadline-unread", Where(site="nowhere"), 5, "r", "site"),
        ("deadline-unread", Where(exam="a b"), 5, "r", "exam"),
    ],
)
def test_what_cannot_be_decided_is_refused(
    store: Store, name: str, where: Where, value: Any, reason: str, expression: str
) -> None:
    """A partner or site that is not here, no reason, no such policy, no value of it: nothing is written."""
    with pytest.raises(BadRequest) as refused:
        decide(store, value, where, name, reason)
    assert refused.value.issues[0].expression == (expression,)
    with store.database.read() as connection:
        assert list(policies.rows(connection)) == []


def test_another_process_knows_within_five_seconds(
    store: Store, make_store: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks the database no more often than that."""
    other = make_store()
    now = [1000.0]
    monkeypatch.setattr(policies.time, "monotonic", lambda: now[0])
    assert asked(other) == 10
    decide(store, 7)
    now[0] += LOOK_AGAIN_S
    assert asked(other) == 10
    now[0] += 0.1
    assert asked(other) == 7
