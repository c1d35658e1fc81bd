"""One item that cannot be worked off holds up none of the others, in any loop of the background process.

Every loop has a row: the tests that prove it, or the words why no single item can fail in it.
"""

from __future__ import annotations

import os
import time

import pytest
from structlog.testing import capture_logs

from tests.fhir_server.conftest import Api
from tests.test_requirements import _functions

STATEMENT = "one statement takes a batch by its age: nothing of a row is read, so none can be at fault"

PROOFS: dict[str, tuple[str, ...] | str] = {
    "audit-sequencer": (
        "tests/audit/test_upgrade.py::test_what_waited_is_logged_once",
        "tests/audit/test_spool_damage.py::test_a_flipped_bit_costs_its_own_frame_alone_and_is_told_everywhere",
    ),
    "digest-baseline": ("tests/audit/test_clinical.py::test_a_version_that_lost_its_salt_gets_no_other",),
    "expired tokens": STATEMENT,
    "imaging-studies": ("tests/dicomweb/test_publishing.py::test_a_study_that_cannot_be_published_stops_no_other",),
    "subscription-sequencer": (
        "tests/subscriptions/test_items.py::test_a_change_that_cannot_be_judged_stops_none_and_is_counted",
        "tests/subscriptions/test_crashes.py::test_what_cannot_be_judged_stops_nobody_else",
    ),
    "subscription-dispatcher": (
        "tests/subscriptions/test_set_aside.py::test_an_event_that_cannot_be_composed_holds_up_no_other",
        "tests/subscriptions/test_set_aside.py::test_no_content_holds_up_the_next",
        "tests/subscriptions/test_channels.py::test_a_channel_that_raises_has_failed_and_is_tried_again",
    ),
    "subscription-maintenance": (
        "tests/subscriptions/test_items.py::test_a_subscription_that_cannot_be_ended_keeps_none_from_it",
        "tests/subscriptions/test_set_aside.py::test_it_is_tried_again_after_a_restart_and_told_under_the_next_number",
    ),
    "workflow-lateness": ("tests/workflow/test_assignment.py::test_a_task_that_cannot_be_read_hides_no_other",),
    "sweep": STATEMENT,
    "statistics": "it takes no items",
    "objects": ("tests/fhir_server/test_loops.py::test_what_cannot_be_cleaned_away_keeps_nothing_else",),
    "objects-compared": (
        "tests/dicomweb/test_collecting.py::test_a_folder_that_cannot_be_read_keeps_none_from_being_compared",
    ),
}  # fmt: skip


def test_every_loop_has_its_proof(api: Api) -> None:
    """A loop that is added says what one bad item does to it."""
    assert {loop.name for loop in api.services.loops} == PROOFS.keys()


@pytest.mark.parametrize("proof", [one for proofs in PROOFS.values() if isinstance(proofs, tuple) for one in proofs])
def test_the_proof_exists(proof: str) -> None:
    file, _, name = proof.partition("::")
    assert name in _functions(file)


@pytest.mark.parametrize("place", ["spool", "objects"])
def test_what_cannot_be_cleaned_away_keeps_nothing_else(api: Api, place: str) -> None:
    """A file that the system will not remove (here: a folder in its place) is told; what else was left goes."""
    settings = api.services.settings
    folder = settings.data / "spool" if place == "spool" else settings.objects_folder / "incoming"
    left = [folder / "left-0", folder / "left-1", folder / "left-2"]
    for number, one in enumerate(left):
        one.mkdir() if number == 1 else one.write_bytes(b"")
        os.utime(one, (0, time.time() - 10 * 86400))
    (loop,) = (loop for loop in api.services.loops if loop.name == "objects")
    with capture_logs() as told:
        assert not loop.step()
    assert [one.exists() for one in left] == [False, True, False]
    assert [(one["event"], one["loop"]) for one in told] == [("an item of a loop failed", "objects")]
