"""One report answers several orders: all of them are completed, or the signature is refused for each that is not.

R4 DiagnosticReport.basedOn 0..*; an imaging report may answer several orders (trauma: head and cervical spine).
"""

from __future__ import annotations

from typing import Any

import pytest

from resources.json import Json
from resources.outcomes import ForbiddenTransition
from tests import builders
from tests.workflow.conftest import Scene, permit, scene, workflow  # noqa: F401 - fixtures

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


class Joint:
    """Two orders of one patient, their images in, claimed by one reader unless said otherwise."""

    def __init__(self, scene: Scene, *, claim_second: bool = True) -> None:  # noqa: F811
        self.scene = scene
        self.first = scene.claimed()
        self.patient, self.study = scene.patient, scene.study
        self.second, self.second_study = self._further()
        if claim_second:
            self.claim(self.second)

    def _further(self, **more: Any) -> tuple[str, str]:
        """A further order of the same patient, with its study."""
        order = self.scene.create(self.scene.hospital, builders.service_request(self.patient, **more)).reference
        self.scene.order = order
        self.scene.update(self.scene.regulator, self.scene.task_ref("regulate"), status="in-progress")
        chosen = self.scene.create(self.scene.regulator, builders.protocol(order, self.patient)).reference
        self.scene.update(self.scene.regulator, self.scene.task_ref("regulate"), status="completed",
                          output=builders.output(chosen))
        return order, self.scene.images(subject=self.patient).reference

    def claim(self, order: str) -> None:
        self.scene.order = order
        self.scene.update(self.scene.reader, self.scene.task_ref("read"), status="in-progress")

    def report(self, **more: Any) -> Json:
        """The report on both."""
        return builders.diagnostic_report(self.first, self.patient, self.study) | {
            "basedOn": [builders.ref(self.first), builders.ref(self.second)],
            "imagingStudy": [builders.ref(self.study), builders.ref(self.second_study)],
        } | more

    def states(self, order: str) -> tuple[str, str, str]:
        self.scene.order = order
        return self.scene.read(order)["status"], self.scene.status("order"), self.scene.status("read")


def test_both_orders_are_completed_in_one_commit(scene: Scene) -> None:  # noqa: F811
    """Order, root Task and reading of each."""
    joint = Joint(scene)
    report = scene.create(scene.reader, joint.report()).reference
    signed = scene.update(scene.reader, report, status="final")
    assert joint.states(joint.first) == ("completed", "completed", "completed")
    assert joint.states(joint.second) == ("completed", "completed", "completed")
    changed = {one.tx for one in scene.find("Task", code="read")}
    assert changed == {signed.tx}


def test_each_order_that_fails_is_named(scene: Scene) -> None:  # noqa: F811
    """Not claimed, without its study: `DiagnosticReport.basedOn[i]`, and nothing is completed."""
    joint = Joint(scene)
    report = scene.create(scene.reader, joint.report()).reference
    scene.order = joint.second
    scene.update(scene.reader, scene.task_ref("read"), status="ready")
    with pytest.raises(ForbiddenTransition) as refused:
        scene.update(scene.reader, report, status="final", imagingStudy=[builders.ref(joint.study)])
    told = {one.expression[0]: one.diagnostics for one in refused.value.issues}
    assert set(told) == {"DiagnosticReport.basedOn[1]"}
    assert len(refused.value.issues) == 2
    assert joint.states(joint.first)[0] == "active"


def test_an_order_of_another_patient_is_refused(scene: Scene) -> None:  # noqa: F811
    """One report is about one person."""
    joint = Joint(scene)
    joint.patient = scene.create(scene.hospital, builders.patient()).reference
    other, study = joint._further()
    joint.claim(other)
    body = joint.report(subject=builders.ref(scene.read(joint.first)["subject"]["reference"]))
    body["basedOn"].append(builders.ref(other))
    body["imagingStudy"].append(builders.ref(study))
    report = scene.create(scene.reader, body).reference
    with pytest.raises(ForbiddenTransition) as refused:
        scene.update(scene.reader, report, status="final")
    assert ("DiagnosticReport.basedOn[2]",) in [one.expression for one in refused.value.issues]


def test_an_order_that_cannot_be_seen_is_none_that_can_be_answered(scene: Scene) -> None:  # noqa: F811
    """An order outside the workflow, or none: refused at its place."""
    joint = Joint(scene)
    lab = scene.create(scene.hospital, {"resourceType": "ServiceRequest", "status": "active", "intent": "order",
                                        "subject": builders.ref(joint.patient), "code": {"text": "NFS"}}).reference
    body = joint.report()
    body["basedOn"].append(builders.ref(lab))
    report = scene.create(scene.reader, body).reference
    with pytest.raises(ForbiddenTransition) as refused:
        scene.update(scene.reader, report, status="final")
    assert [one.expression for one in refused.value.issues] == [("DiagnosticReport.basedOn[2]",)]


def test_a_draft_may_come_to_answer_a_second_order_that_its_reader_claimed(scene: Scene) -> None:  # noqa: F811
    """The second was ordered while the first was read; one that is not the reader's own is refused."""
    joint = Joint(scene, claim_second=False)
    report = scene.create(scene.reader, builders.diagnostic_report(joint.first, joint.patient, joint.study)).reference
    both = {name: joint.report()[name] for name in ("basedOn", "imagingStudy")}
    with pytest.raises(ForbiddenTransition, match="while its reading is claimed"):
        scene.update(scene.reader, report, **both)
    joint.claim(joint.second)
    scene.update(scene.reader, report, **both)
    scene.update(scene.reader, report, status="final")
    assert joint.states(joint.second) == ("completed", "completed", "completed")


def test_a_withdrawn_joint_report_opens_all_its_orders(scene: Scene) -> None:  # noqa: F811
    """Each is unanswered again."""
    joint = Joint(scene)
    report = scene.create(scene.reader, joint.report()).reference
    scene.update(scene.reader, report, status="final")
    scene.update(scene.reader, report, status="entered-in-error", extension=builders.because())
    for order in (joint.first, joint.second):
        assert joint.states(order) == ("active", "in-progress", "ready")


def test_delivery_is_marked_on_every_order(scene: Scene) -> None:  # noqa: F811
    """S10: the hospital has the report of each."""
    joint = Joint(scene)
    report = scene.create(scene.reader, joint.report()).reference
    scene.update(scene.reader, report, status="final")
    scene.store.transact(scene.server, lambda uow: scene.workflow.delivered(uow, report))
    for order in (joint.first, joint.second):
        scene.order = order
        assert scene.business() == "delivered"


def test_a_protocol_of_two_orders_is_of_the_patient_of_both(scene: Scene) -> None:  # noqa: F811
    """ServiceRequest.basedOn 0..*: each order is looked at, not the first alone."""
    first = scene.regulated()
    own = scene.patient
    scene.patient = scene.create(scene.hospital, builders.patient()).reference
    other = scene.create(scene.hospital, builders.service_request(scene.patient)).reference
    body = builders.protocol(first, own, basedOn=[builders.ref(first), builders.ref(other)])
    with pytest.raises(ForbiddenTransition, match="subject must be the order's"):
        scene.create(scene.regulator, body)
    second = scene.create(scene.hospital, builders.service_request(own)).reference
    scene.create(scene.regulator, body | {"basedOn": [builders.ref(first), builders.ref(second)]})
