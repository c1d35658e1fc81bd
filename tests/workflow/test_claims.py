"""Claims are atomic: of fifty at once one wins, the others are told 412 (DESIGN §10, D-01)."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from resources.outcomes import FhirError, ForbiddenTransition, PreconditionFailed
from store.access import Caller
from tests import builders
from tests.support import PLATFORM, caller
from tests.workflow.conftest import NIGHT, Scene

RACERS = 50


def _readers(scene: Scene) -> list[Caller]:
    """Fifty radiologists on duty."""
    names = [f"r{number:02d}" for number in range(RACERS)]

    def furnish(uow):  # type: ignore[no-untyped-def]
        for name in names:
            uow.system.create("Practitioner", builders.practitioner(name), id=name)
            uow.system.create("Appointment", builders.garde(f"Practitioner/{name}", *NIGHT))

    scene.store.transact(scene.server, furnish)
    return [caller(PLATFORM, role="radiologist", practitioner=f"Practitioner/{name}", client_id=name)
            for name in names]


def test_of_fifty_claims_with_if_match_one_wins_and_the_others_get_412(scene: Scene) -> None:
    """S7: 412 for the loser."""
    scene.acquired()
    readers = _readers(scene)
    task = scene.tasks()["read"]
    start = threading.Barrier(RACERS)

    def claim(who: Caller) -> str:
        body = {**task.json(), "status": "in-progress"}
        start.wait(60)
        try:
            scene.store.transact(
                who, lambda uow: uow.resources.update("Task", task.id, body, if_match=task.version)
            )
        except PreconditionFailed:
            return "412"
        except FhirError as error:
            return type(error).__name__
        return str(who.practitioner)

    with ThreadPoolExecutor(RACERS) as pool:
        outcomes = Counter(pool.map(claim, readers))
    assert outcomes.pop("412") == RACERS - 1
    [winner] = outcomes
    assert scene.task("read")["owner"] == {"reference": winner}
    assert scene.tasks()["read"].version == task.version + 1


def test_a_claim_without_if_match_of_what_is_taken_says_by_whom(scene: Scene) -> None:
    """The second claim is refused with a precise text also without If-Match."""
    scene.claimed()
    task = scene.tasks()["read"]
    with pytest.raises(ForbiddenTransition, match="already claimed by Practitioner/lec1"):
        scene.update(scene.second_reader, task.reference, status="in-progress")
