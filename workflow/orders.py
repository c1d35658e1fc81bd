"""Orders: what a ServiceRequest, its Tasks and its studies do to one another (S0 to S4 of docs/workflow.md).

`prepare` judges a caller's write of a ServiceRequest; `changed` draws the consequences, after all of the caller's
writes, in the same transaction. Consequences are computed from the state that is there, not from the order of events:
images may come before the protocol, a protocol and its task in one Bundle in any order.

FHIR R4 workflow module  http://hl7.org/fhir/R4/workflow-module.html
"""

from __future__ import annotations

from dataclasses import dataclass

from resources import service_request
from resources import task as tasks
from resources.codes import DutyFunction, TaskKind
from resources.diagnostic_report import based_on, is_not_interpretable, is_revision, is_signature
from resources.json import Json
from resources.lifecycle import SIGNED, changed_elements, check_transition
from resources.outcomes import ForbiddenTransition, InvalidContent
from resources.policies import where_of
from resources.times import instant_text
from store import policies
from store.access import Change, Draft, Version, Work
from workflow import (
    cancelling,
    cases,
    context,
    critical,
    images,
    invalidation,
    notices,
    priorities,
    unexpected,
    worklist,
)
from workflow.acquisition import Acquisition, asks_for_retake
from workflow.cases import Case
from workflow.context import Context, before_of, look_up
from workflow.people import People
from workflow.protocols import Protocols
from workflow.reading import Reading
from workflow.rota import Rota

_CANCELLED = frozenset({"revoked", "entered-in-error"})
_OPEN = frozenset({"active", "on-hold"})


@dataclass(frozen=True, slots=True)
class Orders:
    """Observer of ServiceRequest, Task, ImagingStudy and DiagnosticReport."""

    context: Context
    people: People
    reading: Reading
    acquisition: Acquisition

    def prepare(self, uow: Work, draft: Draft) -> None:
        """A caller's write of a ServiceRequest."""
        before, after = before_of(draft), draft.resource
        if after is None:
            if self._case(uow, draft) is not None:
                raise ForbiddenTransition("An order in the workflow is not deleted: send it with status revoked")
            return
        check_transition("ServiceRequest", before.get("status") if before else None, after.get("status"))
        if service_request.is_protocol(after):
            self._prepare_protocol(uow, before, after)
        elif service_request.is_imaging_order(after) or (before and service_request.is_imaging_order(before)):
            self._prepare_order(uow, draft, before, after)

    def _prepare_protocol(self, uow: Work, before: Json | None, after: Json) -> None:
        found = Case.all_of(uow, self.context, after)
        if not found:
            return
        self.people.require_duty(uow, DutyFunction.REGULATION, "Writing a protocol")
        for case in found:  # one protocol may be of several orders: head and neck in one acquisition
            order = case.order_json
            if not case.is_open:
                raise ForbiddenTransition(
                    f"{case.order.reference} is no longer open", expression="ServiceRequest.basedOn"
                )
            if after.get("subject", {}).get("reference") != order.get("subject", {}).get("reference"):
                raise ForbiddenTransition(
                    "The protocol's subject must be the order's subject", expression="ServiceRequest.subject"
                )
        if after.get("status") in _OPEN:
            Protocols(self.context).pin(uow, found[0], after)

    def _prepare_order(self, uow: Work, draft: Draft, before: Json | None, after: Json) -> None:
        case = self._case(uow, draft)
        if case is not None and before is not None:
            service_request.complete_order(after, draft.id, self.context.platform, before)
            worklist.name_hospital(uow, draft, after)
            self._check_order_update(uow, case, before, after)
        elif after.get("status") in _OPEN and (before or {}).get("status") in (None, "draft", "unknown"):
            where = where_of(after, draft.before.owner if draft.before else uow.caller.organization)
            required = policies.value(uow, "required-content", where)
            issues = service_request.check_order(after, tuple(required))
            if issues:
                raise InvalidContent(issues[0].diagnostics, issues=issues)
            service_request.complete_order(after, draft.id, self.context.platform)
            worklist.name_hospital(uow, draft, after)

    def _check_order_update(self, uow: Work, case: Case, before: Json, after: Json) -> None:
        if uow.caller.is_system:
            return
        fixed = changed_elements(before, after, ("subject", "intent"))
        if fixed or not service_request.is_imaging_order(after):
            names = ", ".join(f"ServiceRequest.{name}" for name in fixed) or "ServiceRequest.category"
            raise ForbiddenTransition(
                f"{names} of an order in the workflow cannot be changed: revoke it and send a new one",
                expression=names.split(", ")[0],
            )
        if invalidation.changed(before, after) and case.is_acquired:
            raise invalidation.refused()
        if after.get("status") == before.get("status"):
            return
        if after.get("status") == "completed":
            raise ForbiddenTransition(
                "An order is completed by its signed report, not by hand", expression="ServiceRequest.status"
            )
        if after.get("status") not in _OPEN | _CANCELLED:
            raise ForbiddenTransition(
                "An order in the workflow is active or on-hold until it is revoked or completed",
                expression="ServiceRequest.status",
            )
        if after.get("status") in _CANCELLED and before.get("status") in _OPEN:
            cancelling.refuse_if_acquired(case)

    def changed(self, uow: Work, change: Change) -> None:
        after = change.after
        if after.deleted:
            return
        if after.type == "ServiceRequest" and not change.derived:
            self._order_changed(uow, change)
        elif after.type == "Task" and not change.derived:
            self._task_changed(uow, change)
        elif after.type == "ImagingStudy":
            self._study_changed(uow, change)
        elif after.type == "DiagnosticReport" and not change.derived:
            self._report_changed(uow, change)

    def _order_changed(self, uow: Work, change: Change) -> None:
        after = change.after.json()
        if not service_request.is_imaging_order(after):
            return
        before = before_of(change)
        new = change.before is None
        case = None if new else Case.load(uow, self.context, change.after.reference)
        if case is None:
            if after.get("status") in _OPEN and (before or {}).get("status") in (None, "draft", "unknown"):
                self._open(uow, change.after)
            return
        if after.get("status") in _CANCELLED:
            if before is not None and before.get("status") in _OPEN and not uow.caller.is_system:
                # Images that were published since the guard looked: whoever commits later must see the other. What is
                # published after this look alters the task that is cancelled below, so one of the two is refused.
                cancelling.refuse_if_acquired(case)
            case.cancel_open_tasks(cancelling.reason_of(after))
            self.acquisition.follow(uow, case)  # images may be here already
            return
        if before is not None and before.get("priority") != after.get("priority"):
            priorities.follow(case, str(before.get("priority", "routine")))
        cancelling.follow(case)

    def _open(self, uow: Work, order: Version) -> None:
        """S0: the root task, for the hospital to follow, and the regulator's."""
        body = cases.new_task(uow, self.context, TaskKind.ORDER, order, platform=False)
        requester = order.json().get("requester", {}).get("reference", "")
        if "/" in requester and not requester.startswith("#"):
            body["requester"] = {"reference": requester}
        body["owner"] = {"reference": self.context.platform_reference}
        worklist.complete(uow, order, body)
        root = context.create(uow, "Task", body)
        case = Case(uow, self.context, order, {TaskKind.ORDER: root})
        case.open(TaskKind.REGULATE)

    def _task_changed(self, uow: Work, change: Change) -> None:
        task = change.after.json()
        kind = tasks.kind_of(task)
        before = before_of(change) or {}
        if kind is None or before.get("status") == task.get("status"):
            return
        if kind is TaskKind.COMMUNICATE_CRITICAL:
            critical.check_closed(uow, task)
            return
        if kind is TaskKind.UNEXPECTED_IMAGES:
            unexpected.decided(uow, change.after)
            return
        case = Case.load(uow, self.context, task.get("focus", {}).get("reference"))
        if case is None:
            return
        if kind is TaskKind.REGULATE:
            self._regulated(uow, case, task)
        elif kind is TaskKind.ACQUIRE:
            self.acquisition.acquired(uow, case, task)
        elif kind is TaskKind.READ:
            self._read(uow, case, task)
        elif kind is TaskKind.CANCEL and task.get("status") == "completed":
            if not case.is_open:
                raise ForbiddenTransition(f"{case.order.reference} is no longer open", expression="Task.status")
            cancelling.granted(case)

    def _regulated(self, uow: Work, case: Case, task: Json) -> None:
        status = task.get("status")
        if not case.is_open:
            raise ForbiddenTransition(f"{case.order.reference} is no longer open", expression="Task.status")
        if status == "in-progress":
            case.move(TaskKind.ORDER, "received", business="")
        elif status == "requested":
            case.move(TaskKind.ORDER, "requested", business="")
        elif status == "on-hold":
            case.move(TaskKind.ORDER, "on-hold", business="info-requested")
        elif status == "rejected":
            case.move(TaskKind.ORDER, "rejected", business="", statusReason=task.get("statusReason"))
            case.settle_order("revoked")
            self.acquisition.follow(uow, case)  # images may be here already
        elif status == "completed":
            protocols = _protocols(uow, case, task)
            outputs = [tasks.part("protocol", reference) for reference in protocols]
            case.move(TaskKind.ORDER, "accepted", business="", output=outputs)
            case.open_again(TaskKind.ACQUIRE, input=outputs)
            self.acquisition.follow(uow, case)

    def _read(self, uow: Work, case: Case, task: Json) -> None:
        status = task.get("status")
        if status == "in-progress":
            _reading(case, "reading")
        elif status == "ready":
            case.move(TaskKind.READ, business="", statusReason=None)
            self.reading.more(uow, case)
            _reading(case, "")
        elif status == "on-hold" and asks_for_retake(task):
            self.acquisition.retake(case, task)
        elif status == "on-hold":
            case.move(TaskKind.READ, business="")
            self.reading.more(uow, case)
            _reading(case, "")
        elif status == "completed":
            self._read_to_the_end(uow, case, task)

    def _read_to_the_end(self, uow: Work, case: Case, task: Json) -> None:
        """By hand: with its report, which ends it anyhow, or after the signature saying that nothing changes."""
        if case.is_reported:
            if not tasks.says_no_change(task):
                raise ForbiddenTransition(
                    "A further reading is completed by a revised report, or with statusReason no-change and in words "
                    "why the report stays as it is",
                    expression="Task.statusReason",
                )
            if images.unread(case) or images.is_flagged(task):
                raise ForbiddenTransition("More images have come: take note of them first", expression="Task.status")
            report = task.get("reasonReference", {}).get("reference")
            _end_reading(case, [tasks.part("report", report)] if report else [])
            case.move(TaskKind.ORDER, business="addendum-no-change", statusReason=task.get("statusReason"))
            return
        reports = uow.system.each("DiagnosticReport", [("based-on", case.order.reference)])
        if not any(report.json().get("status") in SIGNED for report in reports):
            raise ForbiddenTransition(
                "A reading is completed by signing its report; no report of this order is final",
                expression="Task.status",
            )

    def _report_changed(self, uow: Work, change: Change) -> None:
        """What else of the case ends with a signature, and with a revision (`workflow.reports` did its own)."""
        before = before_of(change)
        after = change.after.json()
        signed, revised = is_signature(before, after), is_revision(before, after)
        for case in Case.all_of(uow, self.context, after) if signed or revised else ():
            if signed:
                cancelling.too_late(case)
                _end_retake(case)
                self.acquisition.follow(uow, case)  # what waited with the retake goes on by itself
            elif case.is_under_way(TaskKind.READ):
                _revised(case, change.after)
            readable = not is_not_interpretable(after)
            why = None if readable else cases.reason("not-interpretable")
            case.move(TaskKind.ORDER, statusReason=why)
            if (not readable and not is_not_interpretable(before or {})) or (signed and not readable):
                text = str(after.get("conclusion", ""))
                notices.tell_hospital(case, "not-interpretable", text, why=why, about=change.after.reference)

    def _study_changed(self, uow: Work, change: Change) -> None:
        study = change.after
        before = before_of(change)
        arrived = images.new_instances(study.json(), before) > 0
        orders = dict.fromkeys([*based_on(study.json()), *based_on(before or {})])
        is_read = False
        for reference in orders:
            cases.hold(uow, reference)
            case = Case.load(uow, self.context, reference)
            if case is not None and study.owner in (case.order.owner, self.context.platform):
                self.acquisition.follow(uow, case, arrived=arrived)
                here = any(one.reference == study.reference for one in images.of_patient(case))
                is_read = is_read or (here and (case.is_open or case.is_reported))
        if is_read or not images.has_images(study.json()):
            unexpected.settle(uow, study)
        elif not based_on(study.json()):
            ended = unexpected.ended_order_of(uow, self.context, study)
            if ended is not None:
                unexpected.raise_for(ended, study, "order-ended")

    def _case(self, uow: Work, draft: Draft) -> Case | None:
        return Case.load(uow, self.context, f"ServiceRequest/{draft.id}") if draft.before is not None else None


def reopen(uow: Work, case: Case, reason: Json) -> bool:
    """Take a case up again whose report was withdrawn: the order is unanswered, its images are to be read anew.

    The order is `active` again, the root Task `in-progress` with businessStatus `report-withdrawn` and the reason, and
    there is a `read` Task with deadline and proposal. Twice is harmless. False where the order has ended otherwise
    (revoked, entered in error): then nothing is read anew.
    """
    if case.order_json.get("status") not in ("completed", "active", "on-hold"):
        return False
    case.resume("report-withdrawn", reason)
    Reading(Rota(case.context)).open_again(uow, case, why=cases.reason("report-withdrawn"))
    return True


def _reading(case: Case, business: str) -> None:
    """Tell on the root Task that somebody reads, or that nobody does; after the signature it goes on saying why."""
    if not case.is_reported:
        case.move(TaskKind.ORDER, business=business)


def _revised(case: Case, report: Version) -> None:
    """A revision ends the further reading of whoever has claimed it; one nobody has claimed is still to be done."""
    task = case.task(TaskKind.READ) or {}
    practitioner = case.uow.caller.practitioner
    if task.get("status") == "in-progress" and practitioner and tasks.owner(task) == practitioner:
        issues = images.signing_issues(case, report.json())
        if issues:
            raise ForbiddenTransition(issues[0].diagnostics, issues=issues)
        _end_reading(case, [tasks.part("report", report.reference)])
    else:
        case.move(TaskKind.ORDER, business="addendum")


def _end_reading(case: Case, output: list[Json]) -> None:
    period = (case.task(TaskKind.READ) or {}).get("executionPeriod", {})
    ended: Json = {"executionPeriod": {**period, "end": instant_text(case.uow.now)}}
    case.move(TaskKind.READ, output=output or None, **ended)
    case.move(TaskKind.READ, "completed")
    _end_retake(case)


def _end_retake(case: Case) -> None:
    """Nobody waits for images any more: what was to be read is read."""
    if case.is_under_way(TaskKind.ACQUIRE) or case.status(TaskKind.ACQUIRE) == "failed":
        case.move(TaskKind.ACQUIRE, "cancelled", statusReason=cases.reason("reported"))


def _protocols(uow: Work, case: Case, task: Json) -> list[str]:
    """The protocols that an accepted order's task names; refuses one that is none, or is another order's."""
    references = tasks.references(task.get("output", []), "ServiceRequest")
    for reference in references:
        version = look_up(uow, reference)
        protocol = version.json() if version is not None else {}
        if not service_request.is_protocol(protocol) or case.order.reference not in based_on(protocol):
            raise ForbiddenTransition(
                f"{reference} is not a protocol of {case.order.reference}: it needs intent filler-order and basedOn "
                "that order",
                expression="Task.output",
            )
        if not service_request.has_protocol_content(protocol):
            raise ForbiddenTransition(
                f"{reference} says nothing of how the exam is done: give note, orderDetail or instantiatesCanonical",
                expression="Task.output",
            )
    return references
