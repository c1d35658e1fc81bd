"""The reading task: opened once the images are here, proposed to a reader on duty, claimed by whoever takes it.

`Task.owner` of a ready task is a proposal; the claim makes the caller its owner. Nobody on duty leaves the task ready
without an owner and says so in businessStatus: it is never lost.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import structlog

from resources import task as tasks
from resources.codes import DutyFunction, TaskKind, codings
from resources.json import Json
from resources.lifecycle import FINISHED_TASK
from store.access import Version, Work
from workflow import loads
from workflow.assignment import Candidate, Choice, Order, choose
from workflow.cases import Case
from workflow.rota import Rota

log = structlog.get_logger("vigie.workflow")


@dataclass(frozen=True, slots=True)
class Reading:
    """Opens reading tasks."""

    rota: Rota
    _proposed: WeakKeyDictionary[Work, Counter[str]] = field(default_factory=WeakKeyDictionary)
    """Whom a transaction has proposed already: the numbers move when its rules have ended."""

    def open(self, uow: Work, case: Case, studies: list[Version]) -> None:
        """Make the case's reading task, once, with its studies as inputs."""
        if TaskKind.READ in case.tasks:
            self.add_studies(case, studies)
            return
        case.open(TaskKind.READ, **self._elements(uow, case, studies))

    def open_again(self, uow: Work, case: Case, studies: list[Version], *, reason: Json) -> None:
        """A further reading once the last is finished; `reason` (Task.reasonCode) says why. An open one goes on."""
        task = case.task(TaskKind.READ)
        if task is not None and task.get("status") not in FINISHED_TASK:
            self.add_studies(case, studies)
            case.move(TaskKind.READ, reasonCode=reason)
            return
        case.open_again(TaskKind.READ, **self._elements(uow, case, studies), reasonCode=reason)

    def _elements(self, uow: Work, case: Case, studies: list[Version]) -> Json:
        """What a reading that is to be done says: its studies, and whom it is proposed to."""
        elements: Json = {
            "status": "ready",
            "input": [tasks.part("imaging-study", study.reference) for study in studies],
        }
        choice = self._propose(uow, case)
        if choice is None:
            elements["businessStatus"] = tasks.business_status("no-reader-on-duty")
            log.warning("no reader is on duty", order=case.order.reference)
        else:
            elements["owner"] = {"reference": choice.practitioner}
            elements["note"] = [{"text": choice.because}]
        return elements

    def add_studies(self, case: Case, studies: list[Version]) -> None:
        """Name in the open reading task the studies that came later."""
        task = case.task(TaskKind.READ)
        if task is None or task.get("status") in FINISHED_TASK:
            return
        inputs = task.get("input", [])
        known = set(tasks.references(inputs, "ImagingStudy"))
        new = [tasks.part("imaging-study", study.reference) for study in studies if study.reference not in known]
        if new:
            case.move(TaskKind.READ, input=[*inputs, *new])

    def propose_again(self, uow: Work, case: Case) -> None:
        """Propose a ready reading anew: whom it was proposed to is not on duty any more."""
        if case.status(TaskKind.READ) != "ready":
            return
        choice = self._propose(uow, case)
        if choice is None:
            log.warning("no reader is on duty", order=case.order.reference)
            case.move(TaskKind.READ, business="no-reader-on-duty", owner=None)
        else:
            case.move(TaskKind.READ, business="", owner={"reference": choice.practitioner},
                      note=[{"text": choice.because}])

    def _propose(self, uow: Work, case: Case) -> Choice | None:
        duties = self.rota.on_duty(uow, uow.now, DutyFunction.READING)
        if not duties:
            return None
        load = loads.of(uow, {duty.practitioner for duty in duties})
        proposed = self._proposed.setdefault(uow, Counter())
        candidates = [
            Candidate(one.practitioner, load.get(one.practitioner, 0) + proposed[one.practitioner], one.interval.end,
                      one.specialties)
            for one in duties
        ]
        wanted = frozenset(codings(case.order_json.get("performerType", {})))
        choice = choose(candidates, Order(uow.now, wanted))
        if choice is not None:
            proposed[choice.practitioner] += 1
        return choice
