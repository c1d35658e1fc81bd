"""Claims are leases: what a dead console or an ended garde holds goes back to those who are there, with its draft.

A claim of a regulation or a reading holds for `claim-lease-minutes`. Every write of its owner on the case renews it,
and so does ``Task/{id}/$heartbeat``, which writes no version. When it ends, the Task is ready (requested) again,
nothing that was written is lost, and its owner of before is told. At the end of a garde what was proposed to its person
is proposed to somebody who is on duty; what is claimed is left for `handover-grace-minutes` and then given back the
same way, unless the person is on duty still.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from resources import scheduling
from resources import task as tasks
from resources.codes import ESCALATION, TELERADIOLOGY_TASK, DutyFunction, TaskKind, concept
from resources.diagnostic_report import based_on
from resources.outcomes import ForbiddenTransition
from resources.policies import where_of
from resources.scheduling import ON_DUTY
from store import policies
from store.access import Change, Version, Work
from workflow import alarms, notices
from workflow.alarms import Due
from workflow.cases import Case
from workflow.context import Context, look_up
from workflow.reading import Reading
from workflow.rota import Rota

log = structlog.get_logger("vigie.workflow")

LEASE, HANDOVER = "lease", "handover"
LEASED = {TaskKind.REGULATE: (DutyFunction.REGULATION, "requested"), TaskKind.READ: (DutyFunction.READING, "ready")}
"""Kind of Task → the function that claims it, and the status that it goes back to."""
_FUNCTION_OF = {function: kind for kind, (function, _) in LEASED.items()}


@dataclass(frozen=True, slots=True)
class Leases:
    """Sequel of what an owner writes and of gardes, and what the clock does."""

    context: Context
    rota: Rota
    reading: Reading

    def changed(self, uow: Work, change: Change) -> None:
        """A claim begins, is renewed or ends; a garde is planned or moved."""
        after = change.after
        if after.type == "Appointment":
            self.garde(uow, after)
            return
        if after.type == "Task":
            self.claim(uow, after)
        person = uow.caller.practitioner
        if change.derived or person is None or after.deleted:
            return
        content = after.json()
        orders = [content.get("focus", {}).get("reference", "")] if after.type == "Task" else based_on(content)
        for order in orders:
            if order.startswith("ServiceRequest/"):
                for row in alarms.of_case(uow, order.removeprefix("ServiceRequest/"), LEASE):
                    self._renew(uow, row, person)

    def claim(self, uow: Work, version: Version) -> None:
        """Watch a Task as long as somebody has claimed it."""
        task = {} if version.deleted else version.json()
        kind = tasks.kind_of(task)
        if kind not in LEASED or version.owner != self.context.platform:
            return
        order = task.get("focus", {}).get("reference", "")
        if task.get("status") == "in-progress" and tasks.owner(task) is not None:
            until = self._until(uow, order)
            if until is not None:
                alarms.watch(uow, LEASE, version.reference, until, order=order, moves=False)
        else:
            alarms.settle(uow, LEASE, version.reference)

    def garde(self, uow: Work, version: Version) -> None:
        """Watch the end of a garde."""
        garde = {} if version.deleted else version.json()
        interval = scheduling.interval_of(garde)
        function = scheduling.duty_function(garde)
        counts = function in _FUNCTION_OF and garde.get("status") in ON_DUTY and version.owner == self.context.platform
        if not counts or interval is None:
            alarms.settle(uow, HANDOVER, version.reference)
        elif interval.end > uow.now or HANDOVER in alarms.of_subject(uow, version.reference):
            alarms.watch(uow, HANDOVER, version.reference, interval.end)

    def heartbeat(self, uow: Work, task_id: str) -> datetime:
        """The owner is there: until when the claim holds now. Raises NotFound, ForbiddenTransition."""
        version = uow.resources.read("Task", task_id)
        task = version.json()
        if tasks.kind_of(task) not in LEASED or task.get("status") != "in-progress":
            raise ForbiddenTransition("Only a claimed regulation or reading has a lease", expression="Task.status")
        owner = tasks.owner(task)
        if owner is None or owner != uow.caller.practitioner:
            raise ForbiddenTransition(
                f"The lease is renewed by who holds the task: {owner}", code="forbidden", expression="Task.owner"
            )
        until = self._until(uow, task.get("focus", {}).get("reference", ""))
        if until is None:
            raise ForbiddenTransition("The task has no order any more", expression="Task.focus")
        alarms.watch(uow, LEASE, version.reference, until, order=task.get("focus", {}).get("reference", ""))
        return until

    def expired(self, uow: Work, row: Due) -> None:
        """The lease has ended without a sign of life."""
        version = look_up(uow, row.subject)
        alarms.settle(uow, LEASE, row.subject)
        if version is not None:
            self._give_back(uow, version, "lease-expired")

    def ended(self, uow: Work, row: Due) -> None:
        """A garde has ended: first what was proposed, then, after the grace, what is claimed."""
        garde = look_up(uow, row.subject)
        function = scheduling.duty_function(garde.json()) if garde is not None else None
        if garde is None or function not in _FUNCTION_OF:
            alarms.settle(uow, HANDOVER, row.subject)
            return
        kind = _FUNCTION_OF[function]
        people = {self.rota.practitioner_of(uow, one) for one in scheduling.people(garde.json())} - {None}
        present = {duty.practitioner for duty in self.rota.on_duty(uow, uow.now, function)}
        gone = sorted(one for one in people - present if one is not None)
        if row.level == 0:
            if kind is TaskKind.READ:
                for task in self._held(uow, gone, kind, "ready"):
                    case = Case.load(uow, self.context, task.json().get("focus", {}).get("reference"))
                    if case is not None:
                        self.reading.propose_again(uow, case)
            grace: int = policies.value(uow, "handover-grace-minutes")
            alarms.climb(uow, row, 1, row.due + timedelta(minutes=grace))
            return
        for task in self._held(uow, gone, kind, "in-progress"):
            self._give_back(uow, task, "garde-ended")
        alarms.settle(uow, HANDOVER, row.subject)

    def _held(self, uow: Work, people: list[str], kind: TaskKind, status: str) -> list[Version]:
        asked = [("status", status), ("code", f"{TELERADIOLOGY_TASK}|{kind}")]
        return [task for one in people for task in uow.system.each("Task", [("owner", one), *asked])]

    def _give_back(self, uow: Work, version: Version, why: str) -> None:
        """The Task as it was before the claim; what was written stays; who held it is told."""
        task = version.json()
        kind, owner = tasks.kind_of(task), tasks.owner(task)
        if kind not in LEASED or task.get("status") != "in-progress":
            return
        case = Case.load(uow, self.context, task.get("focus", {}).get("reference"))
        if case is None or kind not in case.tasks or case.tasks[kind].id != version.id:
            return
        _, status = LEASED[kind]
        case.move(kind, status, owner=None)
        if kind is TaskKind.READ:
            if not case.is_reported:  # a further reading: the order goes on saying so
                case.move(TaskKind.ORDER, business="")
            self.reading.propose_again(uow, case)
        else:
            case.move(TaskKind.ORDER, "requested", business="")
        log.warning("a claim was given back", task=version.id, kind=kind.value, reason=why)
        if owner is not None:
            self._tell(uow, case, version, owner, why)

    def _tell(self, uow: Work, case: Case, task: Version, owner: str, why: str) -> None:
        notices.write(
            uow, [concept(ESCALATION, "returned")], "La tâche a été remise à disposition ; le brouillon est conservé.",
            [owner], [case.order.reference], status="completed", reasonCode=[concept(ESCALATION, why)],
            subject=case.order_json.get("subject"), about=[{"reference": task.reference}],
        )

    def _renew(self, uow: Work, row: Due, person: str) -> None:
        version = look_up(uow, row.subject)
        until = self._until(uow, row.order)
        if version is not None and until is not None and tasks.owner(version.json()) == person:
            alarms.watch(uow, LEASE, row.subject, until, order=row.order)

    def _until(self, uow: Work, order: str) -> datetime | None:
        version = look_up(uow, order)
        if version is None:
            return None
        minutes: int = policies.value(uow, "claim-lease-minutes", where_of(version.json(), version.owner))
        return uow.now + timedelta(minutes=minutes)
