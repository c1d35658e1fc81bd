"""The workflow, assembled: read this first.

`Workflow(platform=…)` gives the observers that the store calls, the operations that the edge routes, and the loops of
the background worker. Everything happens by plain FHIR writes; docs/workflow.md tells the path call by call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from resources import identifiers
from resources.outcomes import ForbiddenTransition, InvalidContent
from store.access import Change, Draft, Loop, Observer, Work
from store.unit_of_work import Store
from workflow import report_pdf
from workflow.context import Context, is_acting
from workflow.lateness import LatenessWatch
from workflow.operations import Operations
from workflow.orders import Orders
from workflow.people import AI_ROLES, People
from workflow.reading import Reading
from workflow.reports import Reports
from workflow.rota import Rota
from workflow.task_steps import TaskSteps

LATENESS_INTERVAL_S = 60.0


class Workflow:
    """Orders and duty. One per process; it keeps nothing but its settings."""

    def __init__(
        self,
        *,
        platform: str,
        require_duty: bool = True,
        required_content: tuple[str, ...] = (),
        zone: str = "Europe/Paris",
    ) -> None:
        """`platform`: Organization id of the platform. `required_content`: names of
        `resources.service_request.REQUIREMENTS` that every imaging order must meet."""
        report_pdf.load_fonts()
        self.context = Context(platform, require_duty, required_content, zone)
        self.rota = Rota(self.context)
        self.people = People(self.context, self.rota)
        self.orders = Orders(self.context, self.people, Reading(self.rota))
        self.reports = Reports(self.context, self.people)
        self.operations = Operations(self.rota)
        self.observers: tuple[Observer, ...] = (_WorkflowObserver(self),)

    def loops(self, store: Store) -> tuple[Loop, ...]:
        """What the background worker runs."""
        watch = LatenessWatch(store, self.context.platform)
        return (Loop("workflow-lateness", watch.step, LATENESS_INTERVAL_S),)

    def delivered(self, uow: Work, report_reference: str) -> None:
        """Tell that the requesting hospital has received a signed report (S10)."""
        self.reports.delivered(uow, report_reference)


@dataclass(frozen=True, slots=True)
class _DeviceRule:
    """What a device says, it says as itself."""

    def prepare(self, uow: Work, draft: Draft) -> None:
        if draft.resource is not None and uow.caller.role in AI_ROLES and not draft.resource.get("device"):
            raise ForbiddenTransition(
                "An Observation of an AI vendor names its Device", expression="Observation.device"
            )


@dataclass(frozen=True, slots=True)
class _IdentityRule:
    """An INS comes with a right key and a qualified identity, or not at all (référentiel INS)."""

    def prepare(self, uow: Work, draft: Draft) -> None:
        if draft.resource is None:
            return
        errors = [issue for issue in identifiers.check_patient(draft.resource) if issue.severity == "error"]
        if errors:
            raise InvalidContent(errors[0].diagnostics, issues=errors)


class _WorkflowObserver:
    """Hands each draft and each change to the part that knows its type; the workflow's own writes need no guard."""

    def __init__(self, workflow: Workflow) -> None:
        steps = TaskSteps(workflow.people)
        self._prepare: Mapping[str, Orders | TaskSteps | Reports | Rota | _DeviceRule | _IdentityRule] = {
            "ServiceRequest": workflow.orders,
            "Task": steps,
            "DiagnosticReport": workflow.reports,
            "Appointment": workflow.rota,
            "Slot": workflow.rota,
            "Observation": _DeviceRule(),
            "Patient": _IdentityRule(),
        }
        self._changed: Mapping[str, Orders | Reports | Rota] = {
            "ServiceRequest": workflow.orders,
            "Task": workflow.orders,
            "ImagingStudy": workflow.orders,
            "DiagnosticReport": workflow.reports,
            "Appointment": workflow.rota,
        }

    def prepare(self, uow: Work, draft: Draft) -> None:
        part = self._prepare.get(draft.type)
        if part is not None and not is_acting():
            part.prepare(uow, draft)

    def changed(self, uow: Work, change: Change) -> None:
        part = self._changed.get(change.after.type)
        if part is not None:
            part.changed(uow, change)
