"""PostgreSQL's planner knows the store's size soon after it grew (DESIGN §5: plans do not flip)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import text

from store import loops
from store.access import Caller
from store.engine.database import Database
from store.unit_of_work import Store
from tests.support import patient


def test_a_store_that_grew_is_analysed_once(
    database: Database, store: Store, as_hospital: Callable[..., Caller], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loops, "_AT_LEAST", 3)
    kept = loops.Statistics(database)
    with store.work(as_hospital()) as uow:
        for _ in range(5):
            uow.resources.create("Patient", patient())
    assert kept.step() is False
    if database.is_sqlite:
        assert kept._analysed_at == 0
        return
    with database.read() as connection:
        rows = connection.execute(
            text("SELECT reltuples FROM pg_class WHERE relname = 'resource_version' AND relkind = 'r'")
        ).scalar_one()
    assert rows == 5
    before = kept._analysed_at
    assert before > 0
    kept.step()
    assert kept._analysed_at == before
