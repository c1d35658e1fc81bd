"""Two at once: whoever loses starts anew on what the other left; nothing is made twice, nobody is told 412 unasked."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from resources import task as tasks
from resources.outcomes import Conflict, FhirError
from store.access import Change, Draft, Work
from tests import builders
from tests.workflow.conftest import Scene


def _at_once(steps: Sequence[Callable[[], object]]) -> Counter[str]:
    """Run all steps together; how each ended."""
    start = threading.Barrier(len(steps))

    def run(step: Callable[[], object]) -> str:
        start.wait(60)
        try:
            step()
        except FhirError as error:
            return f"{error.status} {error.diagnostics[:60]}"
        return "done"

    with ThreadPoolExecutor(len(steps)) as pool:
        return Counter(pool.map(run, steps))


def test_studies_that_arrive_together_open_one_reading_with_all_of_them(scene: Scene) -> None:
    """S4: one `read` Task per order, whatever arrives when."""
    scene.accepted()
    assert _at_once([scene.images] * 6) == {"done": 6}
    readings = [one for one in scene.find("Task", focus=scene.order) if tasks.kind_of(one.json()) == "read"]
    assert len(readings) == 1
    assert len(set(tasks.references(readings[0].json()["input"], "ImagingStudy"))) == 6


def test_a_cancellation_and_the_images_do_not_both_win(scene: Scene) -> None:
    """S2d against S4: cancelled without a reading, or read and not cancelled."""
    for _ in range(5):
        scene.accepted()
        outcome = _at_once([
            lambda: scene.update(scene.hospital, scene.order, status="revoked"),
            scene.images,
        ])
        if scene.read(scene.order)["status"] == "revoked":
            assert outcome == {"done": 2}
            assert "read" not in scene.tasks()
            assert scene.status("order") == "cancelled"
        else:
            assert any(text.startswith("409") for text in outcome)
            assert scene.status("read") == "ready"


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_images_published_while_a_cancellation_is_guarded_refuse_it(scene: Scene) -> None:
    """S2d against S4: another connection commits the images between the guard and the tasks' end (READ COMMITTED)."""

    class Scanner:
        """Sends the images once, after the guard has let the cancellation pass."""

        sent = False

        def prepare(self, uow: Work, draft: Draft) -> None:
            if draft.type == "ServiceRequest" and not self.sent:
                self.sent = True
                with ThreadPoolExecutor(1) as elsewhere:
                    elsewhere.submit(scene.images).result(timeout=30)

        def changed(self, uow: Work, change: Change) -> None:
            """Nothing follows."""

    scene.accepted()
    scene.store.observers.append(Scanner())
    with pytest.raises(Conflict, match="no longer be cancelled"):
        scene.update(scene.hospital, scene.order, status="revoked")
    assert scene.read(scene.order)["status"] == "active"
    assert scene.status("read") == "ready"


def test_a_report_that_is_signed_twice_at_once_is_signed_once(scene: Scene) -> None:
    """S9: one PDF, one Provenance."""
    report = scene.drafted()
    outcome = _at_once([lambda: scene.update(scene.reader, report, status="final")] * 4)
    assert outcome["done"] >= 1
    assert len(scene.find("Provenance", target=report)) == 1
    assert scene.status("order") == "completed"


def test_an_order_that_becomes_active_twice_at_once_has_one_case(scene: Scene) -> None:
    """S0: exactly one root Task."""
    scene.ordered(status="draft")
    _at_once([lambda: scene.update(scene.hospital, scene.order, status="active")] * 4)
    assert len(scene.find("Task", focus=scene.order)) == 2


def test_two_protocols_accepted_at_once_open_one_acquisition(scene: Scene) -> None:
    """S2a."""
    scene.regulated()
    chosen = [scene.create(scene.regulator, builders.protocol(scene.order, scene.patient)).reference for _ in range(2)]
    task = scene.task_ref("regulate")
    _at_once([
        lambda one=one: scene.update(scene.regulator, task, status="completed", output=builders.output(one))
        for one in chosen
    ])
    assert len(scene.find("Task", focus=scene.order)) == 3
