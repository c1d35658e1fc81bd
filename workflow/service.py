"""The workflow, assembled: read this first.

`Workflow(platform=…)` gives the observers that the store calls, the operations that the edge routes, and the loops of
the background worker. Everything happens by plain FHIR writes; docs/workflow.md tells the path call by call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from resources.codes import DutyFunction
from store.access import Loop, Observer, Waiting, Work
from store.unit_of_work import Store
from workflow import loads, report_pdf
from workflow.context import Context, Unpublished, none_unpublished
from workflow.lateness import NAME, LatenessWatch
from workflow.openings import Openings
from workflow.operations import Operations
from workflow.report_press import Press
from workflow.rules import Parts, RulesObserver
from workflow.seal import Seal
from workflow.worklist import Next

LATENESS_INTERVAL_S = 60.0


class Workflow:
    """Orders and duty. One per process; it keeps nothing but its settings."""

    def __init__(
        self,
        *,
        platform: str,
        require_duty: bool = True,
        zone: str = "Europe/Paris",
        unpublished: Unpublished = none_unpublished,
        seal: Seal | None = None,
        recorded: Callable[[], object] | None = None,
    ) -> None:
        """`platform`: Organization id of the platform. What partners differ in is asked of `store.policies`.
        `unpublished`: see `Context`. `seal` seals the reports' PDFs. `recorded` has the audit log hold what was
        disclosed until now: who is to be told of a withdrawal stands there."""
        report_pdf.load_fonts()
        self._parts = Parts.of(Context(platform, require_duty, zone, unpublished=unpublished), Press(seal, recorded))
        self.rota = self._parts.rota
        parts = self._parts
        self.operations = Operations(self.rota, Next(parts.context, parts.people), parts.dialogue)
        self.openings = Openings(self._parts.context)
        self._watch: LatenessWatch | None = None
        self.observers: tuple[Observer, ...] = (RulesObserver(self._parts),)

    def loops(self, store: Store) -> tuple[Loop, ...]:
        """What the background worker runs."""
        self._watch = LatenessWatch(store, self._parts.context.platform)
        return (Loop(NAME, self._watch.step, LATENESS_INTERVAL_S), loads.loop(store))

    def late(self) -> Mapping[str, Waiting]:
        """What the watch of this process saw last: kind → how many tasks are past their deadline, the oldest one."""
        return {} if self._watch is None else {kind.value: found for kind, found in self._watch.seen.items()}

    def regulates(self, uow: Work) -> bool:
        """Whether the caller is a regulator on duty."""
        return self._parts.people.has_duty(uow, DutyFunction.REGULATION)

    def delivered(self, uow: Work, report_reference: str) -> None:
        """Tell that the requesting hospital has received a signed report (S10)."""
        self._parts.reports.delivered(uow, report_reference)
