"""No sequence of updates takes a signed report back (stateful, through the store)."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from auth.policy import Policy
from resources.lifecycle import SIGNED
from resources.outcomes import FhirError
from store.engine.database import open_engine
from store.engine.keyring import Fixed
from store.unit_of_work import Store
from tests.support import BASE_URL, PLATFORM, Clock, MemoryTrail
from tests.workflow.conftest import Scene
from workflow.service import Workflow

PEOPLE = ("reader", "second_reader", "regulator", "hospital", "planner", "off_duty", "ai_vendor")
STATUSES = ("registered", "partial", "preliminary", "final", "amended", "corrected", "appended", "cancelled",
            "entered-in-error", "unknown")


class SignedReport(RuleBasedStateMachine):
    """Anyone tries anything on a report; what was signed stays signed, and each signed version stays as it was."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        database = open_engine(f"sqlite:///{Path(self.folder.name)}/vigie.sqlite")
        database.create_all()
        self.database = database
        workflow = Workflow(platform=PLATFORM)
        store = Store(database, permit=Policy(PLATFORM), trail=MemoryTrail(), clock=Clock(), platform=PLATFORM,
                      base_urls=(BASE_URL,), observers=workflow.observers, keys=Fixed(b"k"))
        self.scene = Scene(store, workflow)
        self.scene.furnish()
        self.report = self.scene.drafted()
        self.signed: dict[int, bytes] = {}

    @rule(who=st.sampled_from(PEOPLE), status=st.sampled_from(STATUSES), text=st.sampled_from(("a", "b", "")))
    def write(self, who: str, status: str, text: str) -> None:
        self._try(lambda: self.scene.update(getattr(self.scene, who), self.report, status=status,
                                            conclusion=text or None))

    @rule(who=st.sampled_from(PEOPLE))
    def delete(self, who: str) -> None:
        self._try(lambda: self.scene.delete(getattr(self.scene, who), self.report) if self.signed else None)

    @rule(who=st.sampled_from(PEOPLE), status=st.sampled_from(("ready", "in-progress", "completed", "cancelled")))
    def move_the_reading(self, who: str, status: str) -> None:
        self._try(lambda: self.scene.update(getattr(self.scene, who), self.scene.task_ref("read"), status=status))

    @invariant()
    def what_was_signed_stays_signed(self) -> None:
        with self.scene.store.work(self.scene.server, write=False) as uow:
            current = uow.system.read(*self.report.split("/"))
            for version, content in self.signed.items():
                assert uow.system.vread(*self.report.split("/"), version).content == content
        status = current.json()["status"]
        if self.signed:
            assert status in SIGNED | {"entered-in-error"}
        if status in SIGNED:
            self.signed[current.version] = current.content
            assert self.scene.status("read") == "completed"
            assert self.scene.read(current.json()["presentedForm"][0]["url"])["contentType"] == "application/pdf"

    def teardown(self) -> None:
        self.database.dispose()
        self.folder.cleanup()

    def _try(self, step: Any) -> None:
        try:
            step()
        except FhirError as error:
            if error.status not in (403, 404, 409, 410, 412, 422):
                raise


def test_no_sequence_of_updates_takes_a_signed_report_back() -> None:
    """Style guide §3.8; French context §0.9."""
    run_state_machine_as_test(
        SignedReport,
        settings=settings(max_examples=12, stateful_step_count=15, deadline=None,
                          suppress_health_check=list(HealthCheck)),
    )
