"""The guards of the workflow's Tasks: who may move which task where, before it is written.

Only the caller's own wish is judged here, one Task at a time; what several resources must show together (a protocol,
a signed report) is checked after all writes, by `workflow.orders`. The path is docs/workflow.md; tables in
`resources.lifecycle`.

FHIR R4 §12.4  http://hl7.org/fhir/R4/task.html
"""

from __future__ import annotations

from dataclasses import dataclass

from resources import flags
from resources import task as tasks
from resources.codes import DutyFunction, TaskKind
from resources.json import Json
from resources.lifecycle import PERSONS, Role, changed_elements, check_transition, roles_of_step
from resources.outcomes import ForbiddenTransition, InvalidContent, Issue
from resources.times import instant_text
from store.access import Draft, Work
from workflow import cases, images, worklist
from workflow.acquisition import asks_for_retake
from workflow.cases import Case
from workflow.context import before_of, look_up
from workflow.people import AI_ROLES, People


@dataclass(frozen=True, slots=True)
class TaskSteps:
    """Observer.prepare for Task."""

    people: People

    def prepare(self, uow: Work, draft: Draft) -> None:
        before, after = before_of(draft), draft.resource
        kind = tasks.kind_of(before)
        if after is None:
            if kind is not None:
                raise ForbiddenTransition(f"A Task {kind.value} of the workflow is not deleted: its history is kept")
            return
        if kind is None:
            self._prepare_new(uow, before, after)
            return
        assert before is not None  # noqa: S101 - a kind was found in it
        self._prepare_known(uow, kind, before, after)

    def _prepare_new(self, uow: Work, before: Json | None, after: Json) -> None:
        """A Task that is not of the workflow yet."""
        kind = tasks.kind_of(after)
        if kind in tasks.SERVER_MADE and not uow.caller.is_system:
            raise ForbiddenTransition(
                f"A Task {kind.value} is made by the server, one per order", expression="Task.code"
            )
        if kind is TaskKind.COMMUNICATE_CRITICAL and not (uow.caller.is_system or self.people.is_radiologist(uow)):
            raise ForbiddenTransition("A critical result is announced by a radiologist", expression="Task.code")
        check_transition("Task", before.get("status") if before else None, after.get("status"))

    def _prepare_known(self, uow: Work, kind: TaskKind, before: Json, after: Json) -> None:
        cases.hold(uow, tasks.order_of(before))
        check_transition("Task", before.get("status"), after.get("status"), kind=kind)
        reschedules = bool(changed_elements(before, after, tasks.REGULATED))
        regulator = reschedules and self.people.has_duty(uow, DutyFunction.REGULATION)
        tasks.check_fixed(before, after, regulator=regulator)
        step = _STEPS.get(kind)
        if step is not None and not uow.caller.is_system:
            if before.get("status") != after.get("status") == "cancelled" and kind in tasks.SERVER_MADE:
                raise ForbiddenTransition(
                    f"A Task {kind.value} is cancelled with its order: revoke the ServiceRequest",
                    expression="Task.status",
                )
            step(self, uow, before, after)
            self._check_role(uow, kind, before, after)
        order = look_up(uow, after.get("focus", {}).get("reference"))
        if order is not None and order.type == "ServiceRequest":
            worklist.complete(uow, order, after)
        flags.keep(before, after)
        after["lastModified"] = instant_text(uow.now)

    def _check_role(self, uow: Work, kind: TaskKind, before: Json, after: Json) -> None:
        """Whoever takes the step is one of those for whom the state table has it."""
        old, new = str(before.get("status")), str(after.get("status"))
        if old == new:
            return
        allowed = roles_of_step(kind, old, new)
        if not any(self._is(uow, role, kind, before) for role in allowed):
            names = " or ".join(sorted(role.value for role in allowed & PERSONS)) or "the server alone"
            raise ForbiddenTransition(
                f"A Task {kind.value} goes from {old} to {new} by: {names}", code="forbidden", expression="Task.status"
            )

    def _is(self, uow: Work, role: Role, kind: TaskKind, task: Json) -> bool:
        caller = uow.caller
        if role is Role.HOSPITAL:
            return caller.organization != self.people.context.platform
        if role is Role.PLATFORM:
            return caller.organization == self.people.context.platform and caller.role not in AI_ROLES
        if role is Role.REGULATOR:
            return self.people.has_duty(uow, DutyFunction.REGULATION)
        if role is Role.READER:
            return self.people.has_duty(uow, DutyFunction.READING)
        if role is Role.RADIOLOGIST:
            return self.people.is_radiologist(uow)
        if role is Role.OWNER:
            return self._is_reader(uow, kind, task)
        return False

    def _is_reader(self, uow: Work, kind: TaskKind, task: Json) -> bool:
        """Whether the caller has claimed the reading: this Task, or that of the same order."""
        if kind is TaskKind.READ:
            return self.people.is_caller(uow, tasks.owner(task))
        case = Case.load(uow, self.people.context, tasks.order_of(task))
        reading = (case.task(TaskKind.READ) if case is not None else None) or {}
        return reading.get("status") == "in-progress" and self.people.is_caller(uow, tasks.owner(reading))

    def _order(self, uow: Work, before: Json, after: Json) -> None:
        told = changed_elements(before, after, tasks.TOLD_BY_SERVER)
        if told:
            raise ForbiddenTransition(
                "The root task follows its parts and its order, so only the server changes its "
                + ", ".join(told)
                + "; to cancel, revoke the ServiceRequest",
                expression=tuple(f"Task.{name}" for name in told),
            )
        _keep_owner(before, after)

    def _regulate(self, uow: Work, before: Json, after: Json) -> None:
        old, new = before.get("status"), after.get("status")
        self.people.require_duty(uow, DutyFunction.REGULATION, "Regulating an order")
        owner = tasks.owner(before)
        if old in ("in-progress", "on-hold") and not self.people.is_caller(uow, owner) and owner is not None:
            if old == "in-progress" and self.people.rota.is_on_duty(uow, owner, DutyFunction.REGULATION, uow.now):
                raise ForbiddenTransition(
                    f"The order is being regulated by {owner}, who is on duty", expression="Task.owner"
                )
            self._take(uow, after)
        elif (old == "requested" and new != "requested") or owner is None:
            self._take(uow, after)
        else:
            _keep_owner(before, after)
        if new == "requested":
            after.pop("owner", None)
        if new == "rejected":
            _refuse(tasks.check_refusal(after))
        if new == "completed" and not tasks.references(after.get("output", []), "ServiceRequest"):
            raise ForbiddenTransition(
                "An accepted order needs its protocol: Task.output must refer to the filler-order ServiceRequest",
                expression="Task.output",
            )

    def _acquire(self, uow: Work, before: Json, after: Json) -> None:
        new = after.get("status")
        if changed_elements(before, after, ("owner",)):
            raise ForbiddenTransition("The acquisition is the hospital's", expression="Task.owner")
        if new in ("on-hold", "failed") and new != before.get("status") and not after.get("statusReason"):
            raise ForbiddenTransition(
                "An acquisition that stops gives its reason", expression="Task.statusReason"
            )

    def _read(self, uow: Work, before: Json, after: Json) -> None:
        old, new = before.get("status"), after.get("status")
        owner = tasks.owner(before)
        if _images(before) != _images(after):
            raise ForbiddenTransition(
                "Task.input names the images as the server knows them: read the task again", expression="Task.input"
            )
        if new == "in-progress" and old in ("ready", "on-hold"):
            self.people.require_duty(uow, DutyFunction.READING, "Claiming a reading")
            self._take(uow, after)
            after["executionPeriod"] = {"start": instant_text(uow.now)}
            self._note_images(uow, after)
            return
        if old == "in-progress" and new == "in-progress" and not self.people.is_caller(uow, owner):
            raise ForbiddenTransition(f"The reading is already claimed by {owner}", expression="Task.status")
        if old == "in-progress" and not self.people.is_caller(uow, owner):
            self.people.require_duty(uow, DutyFunction.REGULATION, "Taking a reading from its reader")
            if new == "completed":
                raise ForbiddenTransition("A reading is completed by its reader", expression="Task.owner")
        if old == new == "in-progress" and images.is_flagged(before) and not images.is_flagged(after):
            self._note_images(uow, after)
        if new == "on-hold" and old == "in-progress" and asks_for_retake(after):
            if not self.people.is_caller(uow, owner):
                raise ForbiddenTransition(f"A retake is asked for by the reader, {owner}", expression="Task.owner")
            _refuse(tasks.check_refusal(after))
        if old != "in-progress" and old != new:
            self.people.require_duty(uow, DutyFunction.REGULATION, "Holding or releasing a reading")
        if old == "ready" == new and before.get("owner") != after.get("owner"):
            self.people.require_duty(uow, DutyFunction.REGULATION, "Proposing a reader")
            return
        _keep_owner(before, after)

    def _note_images(self, uow: Work, after: Json) -> None:
        """Its reader sees what is here: at the claim, and when taking note of what came since."""
        case = Case.load(uow, self.people.context, tasks.order_of(after))
        if case is not None:
            after["input"] = images.inputs(after, images.of_patient(case), shown=True)
        after.pop("businessStatus", None)
        after.pop("statusReason", None)

    def _critical(self, uow: Work, before: Json, after: Json) -> None:
        if not self.people.is_radiologist(uow):
            raise ForbiddenTransition("A critical result is communicated by a radiologist", code="forbidden")
        known = after.get("output", [])
        tried = [part for part in before.get("output", []) if part not in known]
        if tried:  # what was tried stays on the Task
            after["output"] = [*tried, *known]
        if after.get("status") in ("in-progress", "completed") and tasks.owner(after) is None:
            self._take(uow, after)

    def _cancel(self, uow: Work, before: Json, after: Json) -> None:
        if after.get("status") == "rejected":
            _refuse(tasks.check_refusal(after))
        if _images(before) != _images(after):
            raise ForbiddenTransition("Task.input is told by the server", expression="Task.input")
        if before.get("status") != after.get("status") and uow.caller.practitioner:
            self._take(uow, after)
        else:
            _keep_owner(before, after)

    def _unexpected(self, uow: Work, before: Json, after: Json) -> None:
        new = after.get("status")
        self.people.require_duty(uow, DutyFunction.REGULATION, "Deciding on images that nobody expects")
        if _images(before) != _images(after):
            raise ForbiddenTransition("Task.input is told by the server", expression="Task.input")
        if new == "completed" and new != before.get("status") and not after.get("statusReason", {}).get("text"):
            raise ForbiddenTransition(
                "Say in words what was done with the images", expression="Task.statusReason.text"
            )
        if new == "requested":
            after.pop("owner", None)
        else:
            self._take(uow, after)

    def _take(self, uow: Work, after: Json) -> None:
        """The caller becomes the owner, whatever was sent: nobody takes work in another's name."""
        after["owner"] = {"reference": uow.caller.practitioner}


_STEPS = {
    TaskKind.ORDER: TaskSteps._order,
    TaskKind.REGULATE: TaskSteps._regulate,
    TaskKind.ACQUIRE: TaskSteps._acquire,
    TaskKind.READ: TaskSteps._read,
    TaskKind.COMMUNICATE_CRITICAL: TaskSteps._critical,
    TaskKind.CANCEL: TaskSteps._cancel,
    TaskKind.UNEXPECTED_IMAGES: TaskSteps._unexpected,
}


def _images(task: Json) -> list[Json]:
    return [one for one in task.get("input", []) if tasks.references([one], "ImagingStudy")]


def _keep_owner(before: Json, after: Json) -> None:
    if "owner" in before:
        after.setdefault("owner", before["owner"])
    if before.get("owner") != after.get("owner"):
        raise ForbiddenTransition("Task.owner changes only by claiming the task", expression="Task.owner")


def _refuse(issues: list[Issue]) -> None:
    if issues:
        raise InvalidContent(issues[0].diagnostics, issues=issues)
