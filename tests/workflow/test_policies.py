"""What partners differ in: content of orders and deadlines, by rows (CSP R1333-52; French reference §7.3 S0')."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from resources.outcomes import InvalidContent
from resources.policies import Where
from resources.times import parse_instant
from store import policies
from tests.support import Clock
from tests.workflow.conftest import Scene


def decide(scene: Scene, name: str, value: Any, **where: str) -> None:
    scene.store.transact(
        scene.server, lambda uow: policies.decide(uow, name, Where(**where), value, "as agreed")
    )


def test_what_an_order_must_say_is_the_partners(scene: Scene) -> None:
    """Every missing element at once, for that hospital alone."""
    decide(scene, "required-content", ["region", "placer"], partner="hospital-a")
    with pytest.raises(InvalidContent) as refused:
        scene.ordered(identifier=None, bodySite=None)
    assert {one.expression for one in refused.value.issues} == {
        ("ServiceRequest.bodySite",), ("ServiceRequest.identifier",)
    }  # fmt: skip
    decide(scene, "required-content", [], partner="hospital-a", exam="24725-4")
    scene.ordered(identifier=None, bodySite=None)


def test_a_deadline_is_the_partners(scene: Scene, clock: Clock) -> None:
    """Of the task, and of the root task's sum."""
    decide(scene, "deadline-regulate", {"stat": 3}, partner="hospital-a")
    scene.ordered(priority="stat")
    ends = {kind: parse_instant(scene.task(kind)["restriction"]["period"]["end"]) for kind in ("regulate", "order")}
    assert ends == {"regulate": clock.now + timedelta(minutes=3), "order": clock.now + timedelta(minutes=53)}


def test_a_critical_result_is_due_by_its_category(scene: Scene, clock: Clock) -> None:
    """ACR: minutes, hours, days."""
    code = [{"coding": [{"system": "https://vigie.example/CodeSystem/critical-result", "code": "2"}]}]
    scene.drafted(conclusionCode=code)
    end = parse_instant(scene.task("communicate-critical")["restriction"]["period"]["end"])
    assert end == clock.now + timedelta(minutes=120)
