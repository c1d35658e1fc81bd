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
from resources.codes import STATUS_REASON_EXTENSION, DutyFunction, TaskKind
from resources.diagnostic_report import based_on
from resources.json import Json
from resources.lifecycle import FINISHED_TASK, SIGNED, changed_elements, check_transition
from resources.outcomes import Conflict, ForbiddenTransition, InvalidContent
from resources.policies import where_of
from resources.times import instant_text, parse_instant
from store import policies
from store.access import Change, Draft, Version, Work
from workflow import cases, context, worklist
from workflow.cases import Case
from workflow.context import Context, before_of, look_up
from workflow.deadlines import deadline
from workflow.people import People
from workflow.reading import Reading
from workflow.rota import Rota

_CANCELLED = frozenset({"revoked", "entered-in-error"})
_OPEN = frozenset({"active", "on-hold"})


@dataclass(frozen=True, slots=True)
class Orders:
    """Observer of ServiceRequest, Task and ImagingStudy."""

    context: Context
    people: People
    reading: Reading

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
        case = Case.of(uow, self.context, after)
        if case is None:
            return
        self.people.require_duty(uow, DutyFunction.REGULATION, "Writing a protocol")
        if not case.is_open:
            raise ForbiddenTransition(f"{case.order.reference} is no longer open", expression="ServiceRequest.basedOn")
        if after.get("subject") != case.order_json.get("subject"):
            same = after.get("subject", {}).get("reference") == case.order_json.get("subject", {}).get("reference")
            if not same:
                raise ForbiddenTransition(
                    "The protocol's subject must be the order's subject", expression="ServiceRequest.subject"
                )

    def _prepare_order(self, uow: Work, draft: Draft, before: Json | None, after: Json) -> None:
        old = (before or {}).get("status")
        if old in (None, "draft", "unknown"):
            if after.get("status") in _OPEN:
                where = where_of(after, draft.before.owner if draft.before else uow.caller.organization)
                required = policies.value(uow, "required-content", **where._asdict())
                issues = service_request.check_order(after, tuple(required))
                if issues:
                    raise InvalidContent(issues[0].diagnostics, issues=issues)
                service_request.complete_order(after, draft.id, self.context.platform)
                worklist.name_hospital(uow, draft, after)
            return
        case = self._case(uow, draft)
        if case is None or before is None:
            return
        service_request.complete_order(after, draft.id, self.context.platform, before)
        worklist.name_hospital(uow, draft, after)
        self._check_order_update(uow, case, before, after)

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
        if after.get("status") == before.get("status"):
            return
        if after.get("status") == "completed":
            raise ForbiddenTransition(
                "An order is completed by its signed report, not by hand", expression="ServiceRequest.status"
            )
        if after.get("status") in _CANCELLED and before.get("status") in _OPEN:
            _refuse_if_acquired(case)

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

    def _order_changed(self, uow: Work, change: Change) -> None:
        after = change.after.json()
        if not service_request.is_imaging_order(after):
            return
        before = change.before.json() if change.before is not None and not change.before.deleted else None
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
                _refuse_if_acquired(case)
            case.cancel_open_tasks(_cancellation(after))
        elif before is not None and before.get("priority") != after.get("priority"):
            _reprioritise(case)

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
        before = change.before.json() if change.before is not None and not change.before.deleted else {}
        old, new = before.get("status"), task.get("status")
        if kind is None or old == new:
            return
        if kind is TaskKind.COMMUNICATE_CRITICAL:
            _check_communicated(uow, task)
            return
        case = Case.load(uow, self.context, task.get("focus", {}).get("reference"))
        if case is None:
            return
        if kind is TaskKind.REGULATE:
            self._regulated(uow, case, task)
        elif kind is TaskKind.ACQUIRE:
            self._acquired(uow, case, task)
        elif kind is TaskKind.READ:
            self._read(uow, case, new)

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
        elif status == "completed":
            protocols = _protocols(uow, case, task)
            outputs = [tasks.part("protocol", reference) for reference in protocols]
            case.move(TaskKind.ORDER, "accepted", business="", output=outputs)
            case.open(TaskKind.ACQUIRE, input=outputs)
            self._acquire(uow, case)

    def _acquired(self, uow: Work, case: Case, task: Json) -> None:
        """The technologist, or whoever resolves an incident, moved the acquisition."""
        status = task.get("status")
        if status == "in-progress":
            case.move(TaskKind.ORDER, "in-progress", business="")
            self._acquire(uow, case)  # images may be here already
        elif status in ("on-hold", "failed"):
            case.move(TaskKind.ORDER, business="incident")
        elif status == "completed":
            studies = case.studies()
            if not any(_has_images(study.json()) for study in studies):
                raise ForbiddenTransition(
                    "An acquisition is completed once images of the order are here", expression="Task.status"
                )
            self._images_complete(uow, case, studies)

    def _read(self, uow: Work, case: Case, status: str | None) -> None:
        if status == "in-progress":
            case.move(TaskKind.ORDER, business="reading")
        elif status == "ready":
            case.move(TaskKind.ORDER, business="")
        elif status == "completed":
            reports = uow.system.each("DiagnosticReport", [("based-on", case.order.reference)])
            if not any(report.json().get("status") in SIGNED for report in reports):
                raise ForbiddenTransition(
                    "A reading is completed by signing its report; no report of this order is final",
                    expression="Task.status",
                )

    def _study_changed(self, uow: Work, change: Change) -> None:
        study = change.after
        for reference in based_on(study.json()):
            case = Case.load(uow, self.context, reference)
            if case is not None and study.owner in (case.order.owner, self.context.platform):
                self._acquire(uow, case)

    def _acquire(self, uow: Work, case: Case) -> None:
        """S3 and S4: move the acquisition to where the case's studies are."""
        status = case.status(TaskKind.ACQUIRE)
        if not case.is_open or status is None:
            return  # not accepted yet: the studies wait, and are looked at when it is
        studies = case.studies()
        if status == "completed":
            self.reading.add_studies(case, studies)
            return
        if status == "failed" or (status == "on-hold" and not _held_for_identity(case)):
            return  # a person stopped it, a person goes on
        subject = case.order_json.get("subject", {}).get("reference")
        if any(study.json().get("subject", {}).get("reference") != subject for study in studies):
            case.move(TaskKind.ACQUIRE, "on-hold", statusReason=cases.reason("identity-mismatch"))
            case.move(TaskKind.ORDER, business="incident")
            return
        with_images = [study for study in studies if _has_images(study.json())]
        if not with_images:
            return
        if any(study.json().get("status") == "available" for study in with_images):
            self._images_complete(uow, case, studies)
        else:
            case.move(TaskKind.ACQUIRE, "in-progress", statusReason=None)
            case.move(TaskKind.ORDER, "in-progress", business="")

    def _images_complete(self, uow: Work, case: Case, studies: list[Version]) -> None:
        outputs = [tasks.part("imaging-study", study.reference) for study in studies]
        case.move(TaskKind.ACQUIRE, "completed", statusReason=None, output=outputs)
        case.move(TaskKind.ORDER, "in-progress", business="")
        self.reading.open(uow, case, studies)

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
    Reading(Rota(case.context)).open_again(uow, case, case.studies(), reason=cases.reason("report-withdrawn"))
    return True


def _refuse_if_acquired(case: Case) -> None:
    if case.status(TaskKind.ACQUIRE) == "completed":
        raise Conflict(
            "The order can no longer be cancelled: its images have been acquired and sent",
            expression="ServiceRequest.status",
        )


def _has_images(study: Json) -> bool:
    return study.get("status") in ("registered", "available") and (
        int(study.get("numberOfInstances", 0)) > 0 or any(series.get("instance") for series in study.get("series", []))
    )


def _held_for_identity(case: Case) -> bool:
    held = case.task(TaskKind.ACQUIRE) or {}
    return bool(held.get("statusReason") == cases.reason("identity-mismatch"))


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


def _cancellation(order: Json) -> Json:
    """Why an order was cancelled: R4's ServiceRequest says it in the request-statusReason extension."""
    for extension in order.get("extension", []):
        if extension.get("url") == STATUS_REASON_EXTENSION and extension.get("valueCodeableConcept"):
            reason: Json = extension["valueCodeableConcept"]
            return reason
    return cases.reason("cancelled-by-requester")


def _reprioritise(case: Case) -> None:
    """A new priority gives every open task a new deadline, counted from when the task was made."""
    for kind, version in list(case.tasks.items()):
        if version.json().get("status") in FINISHED_TASK:
            continue
        if kind is TaskKind.COMMUNICATE_CRITICAL:
            continue  # its deadline is that of the finding, whatever the exam's priority was
        since = parse_instant(version.json().get("authoredOn")) or case.uow.now
        end = instant_text(deadline(case.uow, kind, case.order, since))
        case.move(kind, priority=case.priority, restriction={"period": {"end": end}})


def _check_communicated(uow: Work, task: Json) -> None:
    """A critical result is communicated once a completed Communication says to whom and when (ACR; French §5.4)."""
    if task.get("status") != "completed":
        return
    for reference in tasks.references(task.get("output", []), "Communication"):
        version = look_up(uow, reference)
        said = version.json() if version is not None else {}
        if said.get("status") == "completed" and said.get("recipient") and said.get("received"):
            return
    raise ForbiddenTransition(
        "A critical result is closed by a completed Communication with recipient and received in Task.output",
        expression="Task.output",
    )
