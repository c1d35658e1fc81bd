"""An idle server does next to nothing: how often each loop of the background process may look when nothing happens."""

from __future__ import annotations

import heapq
import time
from typing import Any

import pytest
from sqlalchemy import event

from store.engine.statements import Prepared
from tests.fhir_server.conftest import Api

IDLE_MINUTE: dict[str, tuple[int, int]] = {
    "audit-sequencer": (60, 160),
    "digest-baseline": (2, 4),
    "expired tokens": (2, 10),
    "imaging-studies": (12, 12),
    "subscription-sequencer": (60, 130),
    "subscription-dispatcher": (60, 260),
    "subscription-maintenance": (6, 30),
    "escalation": (2, 10),
    "reading-load": (1, 20),
    "sweep": (1, 6),
    "statistics": (20, 20),
    "objects": (1, 0),
    "objects-compared": (3, 60),
}
"""Turns and statements of a minute in which nothing happens, at most."""


def test_a_minute_in_which_nothing_happens_costs_few_looks(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle worker takes less than 0.5 % of a core (docs/benchmarks): the loops' own clock runs, no time passes."""
    api.admin.create({"resourceType": "Patient"})
    real, passed, statements = time.monotonic, 0.0, 0
    monkeypatch.setattr(time, "monotonic", lambda: real() + passed)
    execute = Prepared._execute

    def count(*_: object) -> None:
        nonlocal statements
        statements += 1

    def counted(*arguments: Any) -> Any:
        count()
        return execute(*arguments)

    monkeypatch.setattr(Prepared, "_execute", counted)
    event.listen(api.services.database.engine, "before_cursor_execute", count)
    assert {loop.name for loop in api.services.loops} == IDLE_MINUTE.keys()
    found = {loop.name: (0, 0) for loop in api.services.loops}
    due = [(0.0, number, loop) for number, loop in enumerate(api.services.loops)]
    settled_s = 30.0
    while due[0][0] < settled_s + 60:
        passed, number, loop = heapq.heappop(due)
        statements = 0
        more = loop.step()
        if passed >= settled_s:
            assert not more, loop.name
            turns, so_far = found[loop.name]
            found[loop.name] = turns + 1, so_far + statements
        heapq.heappush(due, (passed if more else passed + loop.rest_s, number, loop))
    assert {name: one for name, one in found.items() if one[0] > IDLE_MINUTE[name][0] + 1} == {}
    assert {name: one for name, one in found.items() if one[1] > IDLE_MINUTE[name][1]} == {}, "statements"
