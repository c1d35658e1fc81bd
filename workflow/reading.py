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
from store.access import Work
from workflow import images, loads
from workflow.assignment import Candidate, Choice, Order, choose
from workflow.cases import Case, reason
from workflow.rota import Rota

log = structlog.get_logger("vigie.workflow")


@dataclass(frozen=True, slots=True)
class Reading:
    """Opens reading tasks, and tells them of images."""

    rota: Rota
    _proposed: WeakKeyDictionary[Work, Counter[str]] = field(default_factory=WeakKeyDictionary)
    """Whom a transaction has proposed already: the numbers move when its rules have ended."""

    def open(self, uow: Work, case: Case) -> None:
        """Make the case's reading task, once, with its studies as inputs; an open one gets those that came later."""
        if TaskKind.READ in case.tasks:
            self.more(uow, case)
        else:
            case.open(TaskKind.READ, **self._elements(uow, case))

    def open_again(self, uow: Work, case: Case, *, why: Json, report: str | None = None) -> None:
        """A further reading once the last is finished; `why` is its Task.reasonCode. An open one goes on.

        `report`: what is to be completed or replaced, as Task.reasonReference.
        """
        last = case.task(TaskKind.READ) or {}
        about: Json = {"reasonCode": why} | ({"reasonReference": {"reference": report}} if report else {})
        if last and last.get("status") not in FINISHED_TASK:
            self.more(uow, case)
            case.move(TaskKind.READ, **about)
            return
        prefer = tasks.owner(last) if report else None
        case.open_again(TaskKind.READ, **self._elements(uow, case, prefer), **about)

    def more(self, uow: Work, case: Case) -> None:
        """Bring an open reading up to the studies that are here: who has claimed it is told of images that are new."""
        task = case.task(TaskKind.READ)
        if task is None or task.get("status") in FINISHED_TASK:
            return
        if task.get("status") != "in-progress":
            case.move(TaskKind.READ, input=images.inputs(task, images.of_patient(case)))
            return
        new, gone = sum(images.unread(case).values()), images.gone(case)
        if new or gone:
            texts = [f"{new} nouvelle(s) image(s)"] * bool(new) + [f"{gone} examen(s) retiré(s)"] * bool(gone)
            case.move(
                TaskKind.READ,
                business="new-images",
                statusReason=reason("new-images", ", ".join(texts) + " depuis la prise en charge"),
                input=images.inputs(task, images.of_patient(case), counted=True),
            )

    def resume(self, uow: Work, case: Case, business: str, why: Json | None = None) -> None:
        """What the reading waited for is here, or will not come: back to the same reader, with a new deadline."""
        task = case.task(TaskKind.READ) or {}
        if task.get("status") != "on-hold":
            self.more(uow, case)
            return
        elements = self._elements(uow, case, tasks.owner(task))
        elements.setdefault("owner", None)
        case.move(
            TaskKind.READ,
            elements.pop("status"),
            **elements | {"businessStatus": tasks.business_status(business), "statusReason": why},
            restriction=case.restriction(TaskKind.READ),
        )

    def _elements(self, uow: Work, case: Case, prefer: str | None = None) -> Json:
        """What a reading that is to be done says: its studies, and whom it is proposed to (`prefer`, if on duty)."""
        elements: Json = {
            "status": "ready",
            "input": images.inputs(case.task(TaskKind.READ), images.of_patient(case)),
        }
        if prefer and self.rota.is_on_duty(uow, prefer, DutyFunction.READING, uow.now):
            choice: Choice | None = Choice(prefer, "Proposé : a lu ou lit cet examen")
        else:
            choice = self._propose(uow, case)
        if choice is None:
            elements["businessStatus"] = tasks.business_status("no-reader-on-duty")
            log.warning("no reader is on duty", order=case.order.reference)
        else:
            elements["owner"] = {"reference": choice.practitioner}
            elements["note"] = [{"text": choice.because}]
        return elements

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
