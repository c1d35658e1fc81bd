"""Images that no open order expects: a Task for whoever is on duty for regulation, so that they reach a person.

They come for an order that was revoked, refused or entered in error, or late for an order and are not known to be its
patient's. The Task is about the study (`focus`), there is one unfinished at a time, and it ends by itself once the
study is withdrawn or is read under an order.

FHIR R4 §12.4  http://hl7.org/fhir/R4/task.html
"""

from __future__ import annotations

from resources.codes import TELERADIOLOGY_TASK, V2_0203, TaskKind, has_coding
from resources.lifecycle import FINISHED_TASK
from resources.search_values import escape
from resources.times import instant_text
from store.access import Version, Work
from workflow import cases, context, images
from workflow.cases import Case
from workflow.context import Context, look_up

_ENDED = ("revoked", "entered-in-error")


def raise_for(case: Case, study: Version, code: str) -> None:
    """Have a person look at this study, once for the images that it has; `code` of the status reasons says why."""
    uow = case.uow
    known = _tasks_of(uow, study)
    if any(task.json().get("status") not in FINISHED_TASK for task in known):
        return
    if any(not images.new_instances(study.json(), images.noted_version(uow, study, task.json())) for task in known):
        return  # a person has decided on these
    granted = case.task(TaskKind.CANCEL) or {}
    if granted.get("status") == "completed":
        seen = images.noted_version(uow, study, granted)
        if seen is not None and not images.new_instances(study.json(), seen):
            return  # whoever granted the cancellation knew of them
    body = cases.new_task(uow, case.context, TaskKind.UNEXPECTED_IMAGES, case.order, platform=True)
    body |= {
        "focus": {"reference": study.reference},
        "partOf": [{"reference": case.tasks[TaskKind.ORDER].reference}],
        "reasonCode": cases.reason(code),
        "input": images.inputs(None, [study], shown=True),
    }
    if study.json().get("subject") != body.get("for"):
        body.pop("for", None)  # whose images they are is what a person is to find out
        body.pop("encounter", None)
    context.create(uow, "Task", body)


def settle(uow: Work, study: Version) -> None:
    """Nothing is left to decide on this study: it was withdrawn, or a reading names it."""
    for version in _tasks_of(uow, study):
        if version.json().get("status") not in FINISHED_TASK:
            why = cases.reason("settled")
            context.update(uow, version, status="completed", statusReason=why, lastModified=instant_text(uow.now))


def decided(uow: Work, task: Version) -> None:
    """A person has settled it: for the images that the study has now."""
    if task.json().get("status") != "completed":
        return
    study = look_up(uow, task.json().get("focus", {}).get("reference"))
    if study is not None and study.type == "ImagingStudy":
        context.update(uow, task, input=images.inputs(task.json(), [study], shown=True))


def ended_order_of(uow: Work, deployment: Context, study: Version) -> Case | None:
    """The ended order whose accession number a study without an order carries; None where there is none."""
    numbers = [
        one
        for one in study.json().get("identifier", [])
        if has_coding(one.get("type", {}), [(V2_0203, "ACSN")]) and one.get("value")
    ]
    for number in numbers:
        asked = [("identifier", escape(str(number["value"]))), ("status", ",".join(_ENDED))]
        for order in uow.acting_for(study.owner).each("ServiceRequest", asked, owner=study.owner, portion=100):
            case = Case.load(uow, deployment, order.reference)
            if case is not None:
                return case
    return None


def _tasks_of(uow: Work, study: Version) -> list[Version]:
    asked = [("focus", study.reference), ("code", f"{TELERADIOLOGY_TASK}|{TaskKind.UNEXPECTED_IMAGES}")]
    return [one for one in uow.system.each("Task", asked) if one.owner == uow.platform]
