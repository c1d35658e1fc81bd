"""Which resource types have rules of the workflow, as a table: what guards a write, and what follows from it.

A type with rules is a row here, a file with the rules, and a test (docs/extending.md). A rule may guard several types,
and a type may have several rows; they are asked in the order of the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from resources.registry import TYPES
from store.access import Change, Draft, Work
from workflow.acquisition import Acquisition
from workflow.answers import Answers, Leaving
from workflow.context import Context, is_acting
from workflow.critical import Critical
from workflow.dialogue import Dialogue
from workflow.escalation import Escalations, Watching
from workflow.leases import Leases
from workflow.loads import Loads
from workflow.merging import Merging
from workflow.milestones import Milestones
from workflow.observations import Observations
from workflow.orders import Orders
from workflow.patients import Patients
from workflow.people import People
from workflow.protocols import Protocols
from workflow.reading import Reading
from workflow.report_press import Press
from workflow.reports import Reports
from workflow.rota import Rota
from workflow.task_steps import TaskSteps

Rule = TypeVar("Rule")


class Guard(Protocol):
    """Refuses or completes a caller's write before it becomes a version."""

    def prepare(self, uow: Work, draft: Draft) -> None:
        """Complete `draft.resource` in place, or raise."""
        ...


class Sequel(Protocol):
    """Does what follows from a write, in the same commit."""

    def changed(self, uow: Work, change: Change) -> None:
        """React by writes through `uow.system`, or raise to refuse the whole."""
        ...


@dataclass(frozen=True, slots=True)
class Parts:
    """What the rows choose from: one object of each kind."""

    context: Context
    rota: Rota
    people: People
    reading: Reading
    orders: Orders
    reports: Reports
    task_steps: TaskSteps
    dialogue: Dialogue
    leases: Leases
    escalations: Escalations

    @staticmethod
    def of(context: Context, press: Press) -> Parts:
        """The parts of a deployment."""
        rota = Rota(context)
        people = People(context, rota)
        reading = Reading(rota)
        orders = Orders(context, people, reading, Acquisition(reading))
        dialogue = Dialogue(context, people)
        reports = Reports(context, people, press)
        return Parts(
            context, rota, people, reading, orders, reports, TaskSteps(people), dialogue,
            Leases(context, rota, reading), Escalations(context, rota),
        )


@dataclass(frozen=True, slots=True)
class Row:
    """The rules of one type."""

    type: str
    guard: Callable[[Parts], Guard] | None = None
    sequel: Callable[[Parts], Sequel] | None = None


RULES: tuple[Row, ...] = (
    Row("ServiceRequest", guard=lambda parts: parts.dialogue),
    Row("ServiceRequest", guard=lambda parts: parts.orders, sequel=lambda parts: parts.orders),
    Row("Task", guard=lambda parts: parts.task_steps, sequel=lambda parts: parts.orders),
    Row("Task", sequel=lambda parts: Loads()),
    Row("ImagingStudy", sequel=lambda parts: parts.orders),
    Row("DiagnosticReport", guard=lambda parts: parts.reports, sequel=lambda parts: parts.reports),
    Row("DiagnosticReport", sequel=lambda parts: parts.orders),
    Row("Appointment", guard=lambda parts: parts.rota, sequel=lambda parts: parts.rota),
    Row("Appointment", sequel=lambda parts: Leaving(parts.context, parts.rota, parts.reading)),
    Row(
        "AppointmentResponse",
        guard=lambda parts: Answers(parts.context, parts.rota),
        sequel=lambda parts: Answers(parts.context, parts.rota),
    ),
    *(
        Row(name, sequel=lambda parts: Milestones(parts.context.platform))
        for name in ("Task", "ImagingStudy", "DiagnosticReport")
    ),
    *(
        Row(name, sequel=lambda parts: Watching(parts.context.platform))
        for name in ("Task", "ImagingStudy", "DiagnosticReport", "Communication")
    ),
    *(
        Row(name, sequel=lambda parts: parts.leases)
        for name in ("Task", "DiagnosticReport", "ServiceRequest", "Communication", "Observation", "Appointment")
    ),
    *(Row(name, sequel=lambda parts: Critical(parts.context.platform, parts.escalations))
      for name in ("Communication", "Task")),
    Row("Slot", guard=lambda parts: parts.rota),
    Row("Observation", guard=lambda parts: Observations()),
    Row("ActivityDefinition", guard=lambda parts: Protocols(parts.context)),
    Row("Communication", guard=lambda parts: parts.dialogue, sequel=lambda parts: parts.dialogue),
    Row("ServiceRequest", sequel=lambda parts: parts.dialogue),
    Row("Task", sequel=lambda parts: parts.dialogue),
    Row("Patient", guard=lambda parts: Patients()),
    Row("Patient", guard=lambda parts: Merging(parts.context), sequel=lambda parts: Merging(parts.context)),
)


class RulesObserver:
    """Hands each draft and each change to the rules of its type; the workflow's own writes need no guard."""

    def __init__(self, parts: Parts, rows: tuple[Row, ...] = RULES) -> None:
        unknown = sorted({row.type for row in rows} - TYPES.keys())
        if unknown:
            raise ValueError(f"Not resource types of R4: {', '.join(unknown)}")
        self._guards = _by_type((row.type, row.guard(parts)) for row in rows if row.guard is not None)
        self._sequels = _by_type((row.type, row.sequel(parts)) for row in rows if row.sequel is not None)

    def prepare(self, uow: Work, draft: Draft) -> None:
        """As the store's Observer."""
        if not is_acting():
            for guard in self._guards.get(draft.type, ()):
                guard.prepare(uow, draft)

    def changed(self, uow: Work, change: Change) -> None:
        """As the store's Observer."""
        for sequel in self._sequels.get(change.after.type, ()):
            sequel.changed(uow, change)


def _by_type(found: Iterable[tuple[str, Rule]]) -> Mapping[str, tuple[Rule, ...]]:
    rules: dict[str, tuple[Rule, ...]] = {}
    for name, rule in found:
        rules[name] = (*rules.get(name, ()), rule)
    return rules
