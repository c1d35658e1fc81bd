"""An order that ended is taken up again when what ended it is undone (R4 diagnosticreport-status: entered-in-error)."""

from __future__ import annotations

from resources import task as tasks
from resources.json import Json
from store.unit_of_work import UnitOfWork
from tests import builders
from tests.workflow.conftest import Scene
from workflow import cases
from workflow.cases import Case
from workflow.context import Context
from workflow.orders import reopen

WITHDRAWN: Json = {"text": "Compte rendu d'un autre patient"}


def reopened(scene: Scene) -> bool:
    """What a withdrawn report does to its case."""

    def write(uow: UnitOfWork) -> bool:
        case = Case.load(uow, Context(scene.server.organization), scene.order)
        return case is not None and reopen(uow, case, WITHDRAWN)

    return scene.store.transact(scene.server, write)


def withdrawn(scene: Scene) -> None:
    report = scene.signed()
    scene.update(scene.reader, report, status="entered-in-error", extension=builders.because(WITHDRAWN["text"]))
    assert reopened(scene)


def test_a_reopened_order_is_read_and_signed_again(scene: Scene) -> None:
    """The request is unanswered again: order, root Task and a new reading say so, and a new report ends them."""
    withdrawn(scene)
    assert scene.read(scene.order)["status"] == "active"
    assert (scene.status("order"), scene.business()) == ("in-progress", "report-withdrawn")
    assert scene.task("order")["statusReason"] == WITHDRAWN
    reading = scene.task("read")
    assert reading["status"] == "ready"
    assert reading["reasonCode"] == cases.reason("report-withdrawn")
    assert reading["owner"]
    assert reading["restriction"]["period"]["end"]
    assert tasks.references(reading["input"], "ImagingStudy") == [scene.study]
    scene.update(scene.second_reader, scene.task_ref("read"), status="in-progress")
    draft = builders.diagnostic_report(scene.order, scene.patient, scene.study)
    again = scene.create(scene.second_reader, draft).reference
    scene.update(scene.second_reader, again, status="final")
    assert (scene.status("order"), scene.business(), scene.status("read")) == ("completed", "signed", "completed")
    assert scene.read(scene.order)["status"] == "completed"
    assert len(scene.find("Task", focus=scene.order)) == 5


def test_reopening_twice_opens_one_reading(scene: Scene) -> None:
    """The second finds it open."""
    withdrawn(scene)
    first = scene.task_ref("read")
    assert reopened(scene)
    assert scene.task_ref("read") == first
    assert len(scene.find("Task", focus=scene.order)) == 5


def test_an_order_entered_in_error_is_not_reopened(scene: Scene) -> None:
    """Its sender said that it should never have been."""
    report = scene.signed()
    scene.update(scene.hospital, scene.order, status="entered-in-error")
    scene.update(scene.reader, report, status="entered-in-error", extension=builders.because(WITHDRAWN["text"]))
    assert not reopened(scene)
    assert scene.status("order") == "completed"


def test_a_report_has_the_cases_of_all_its_orders(scene: Scene) -> None:
    """DiagnosticReport.basedOn is 0..*: each order once, in their order; another hospital's is as if it were not."""
    first = scene.ordered()
    body = builders.service_request(scene.patient)
    second = scene.create(scene.hospital, body).reference
    foreign = scene.create(scene.other_hospital, builders.patient()).reference
    other = scene.create(scene.other_hospital, builders.service_request(foreign)).reference
    report = {"basedOn": [builders.ref(one) for one in (second, first, second, other, "ServiceRequest/none")]}
    with scene.store.work(scene.hospital, write=False) as uow:
        found = Case.all_of(uow, Context(scene.server.organization), report)
    assert [case.order.reference for case in found] == [second, first]
