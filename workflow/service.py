"""The workflow, assembled: read this first.

`Workflow(platform=…)` gives the observers that the store calls, the operations that the edge routes, and the loops of
the background worker. Everything happens by plain FHIR writes; docs/workflow.md tells the path call by call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from resources.codes import DutyFunction
from store.access import Loop, Observer, Waiting, Work
from store.unit_of_work import Store
from workflow import acts, loads, report_pdf
from workflow.context import Context, Unpublished, none_unpublished
from workflow.escalation import Clock, Watching
from workflow.merging import Merging
from workflow.openings import Openings
from workflow.operations import Operations
from workflow.report_press import Press
from workflow.rules import Parts, RulesObserver
from workflow.seal import Seal
from workflow.worklist import Next


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
        self.merging = Merging(self._parts.context)
        self.operations = Operations(self.rota, Next(parts.context, parts.people), parts.dialogue, parts.leases)
        self.openings = Openings(self._parts.context)
        self._clock: Clock | None = None
        self.observers: tuple[Observer, ...] = (RulesObserver(self._parts),)

    def clock(self, store: Store, leaps_s: Callable[[], float] = lambda: 0.0) -> Clock:
        """What acts on what is due. `leaps_s`: how far leaps that were taken over have put the clock, in all."""
        return Clock(
            store, self._parts.context.platform, acts.of(self._parts), Watching(self._parts.context.platform),
            self._parts.leases, leaps_s,
        )

    def loops(self, store: Store, leaps_s: Callable[[], float] = lambda: 0.0) -> tuple[Loop, ...]:
        """What the background worker runs."""
        self._clock = self.clock(store, leaps_s)
        return (self._clock.loop(), loads.loop(store))

    def late(self) -> Mapping[tuple[str, int], Waiting]:
        """What the clock of this process counted last: (kind, level) → how many are past their deadline, the oldest."""
        return {} if self._clock is None else self._clock.seen

    def regulates(self, uow: Work) -> bool:
        """Whether the caller is a regulator on duty."""
        return self._parts.people.has_duty(uow, DutyFunction.REGULATION)

    def delivered(self, uow: Work, report_reference: str) -> None:
        """Tell that the requesting hospital has received a signed report (S10)."""
        self._parts.reports.delivered(uow, report_reference)
