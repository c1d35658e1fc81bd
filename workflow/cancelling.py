"""Cancelling an order: the hospital's own until its images are here, afterwards a request that a physician grants.

The hospital asks by the extension `CANCEL_REQUESTED` on its order, and takes the request back by leaving it out. The
Task `cancel` is for the reader who has claimed the exam and for whoever is on duty for regulation.

R4 task-code `abort`  http://hl7.org/fhir/R4/codesystem-task-code.html
"""

from __future__ import annotations

from resources import task as tasks
from resources.codes import CANCEL_REQUESTED, STATUS_REASON_EXTENSION, TaskKind
from resources.json import Json
from resources.outcomes import Conflict
from workflow import cases, images
from workflow.cases import Case


def refuse_if_acquired(case: Case) -> None:
    """Raise Conflict (409) where the hospital can no longer cancel by itself."""
    if case.is_acquired:
        raise Conflict(
            "The order can no longer be cancelled: its images have been acquired and sent. Ask for it by the extension "
            f"{CANCEL_REQUESTED}, whose valueCodeableConcept gives the reason",
            expression="ServiceRequest.status",
        )


def follow(case: Case) -> None:
    """The hospital asks to cancel, or takes that back: one Task at a time."""
    why = _extension(case.order_json, CANCEL_REQUESTED)
    if why is None:
        case.move(TaskKind.CANCEL, "cancelled", statusReason=cases.reason("cancelled-by-requester"))
    elif case.is_open and case.is_acquired and not case.is_under_way(TaskKind.CANCEL):
        last = case.task(TaskKind.CANCEL)
        if last is not None and last.get("reasonCode") == why:
            return  # refused, and not asked anew
        elements: Json = {"reasonCode": why, "input": images.inputs(None, images.of_patient(case), shown=True)}
        reader = tasks.owner(case.task(TaskKind.READ) or {})
        if reader and case.status(TaskKind.READ) == "in-progress":
            elements["owner"] = {"reference": reader}
        case.open_again(TaskKind.CANCEL, **elements)


def granted(case: Case) -> None:
    """The physician agrees: the order ends, with everything that is open of it."""
    why = (case.task(TaskKind.CANCEL) or {}).get("reasonCode") or cases.reason("cancelled-by-requester")
    case.move(TaskKind.CANCEL, input=images.inputs(case.task(TaskKind.CANCEL), case.studies(), shown=True))
    case.cancel_open_tasks(why)
    case.settle_order("revoked")


def too_late(case: Case) -> None:
    """The report was signed before anybody decided."""
    case.move(TaskKind.CANCEL, "rejected", statusReason=cases.reason("reported"))


def reason_of(order: Json) -> Json:
    """Why an order was cancelled: R4's ServiceRequest says it in the request-statusReason extension."""
    return _extension(order, STATUS_REASON_EXTENSION) or cases.reason("cancelled-by-requester")


def _extension(order: Json, url: str) -> Json | None:
    found = (one.get("valueCodeableConcept") for one in order.get("extension", []) if one.get("url") == url)
    return next(filter(None, found), None)
