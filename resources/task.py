"""Rules of the workflow's Tasks: which task it is, what its parts are, and what a client may not change in it.

A Task belongs to the workflow by a coding of the local system `TELERADIOLOGY_TASK`; any other Task is stored and left
alone.

FHIR R4 §12.4  http://hl7.org/fhir/R4/task.html
"""

from __future__ import annotations

from typing import Any

from resources.codes import (
    BUSINESS_STATUS,
    STATUS_REASON,
    TASK_CODE,
    TASK_PART,
    TELERADIOLOGY_TASK,
    TaskKind,
    code_of,
    coding,
    concept,
)
from resources.json import Json
from resources.lifecycle import changed_elements
from resources.outcomes import ForbiddenTransition, Issue

SERVER_MADE = frozenset({TaskKind.ORDER, TaskKind.REGULATE, TaskKind.ACQUIRE, TaskKind.READ, TaskKind.CANCEL,
TaskKind.UNEXPECTED_IMAGES})
"""Kinds that only the server creates: of each there is at most one unfinished per order (per study, of the last)."""

FIXED = ("code", "focus", "for", "partOf", "basedOn", "intent", "groupIdentifier", "authoredOn", "requester",
"encounter", "reasonCode", "reasonReference")
"""What says which work this is: it does not change."""
TOLD_BY_SERVER = ("status", "businessStatus", "statusReason", "input", "output", "executionPeriod", "lastModified")
"""What the root task tells the hospital."""
REGULATED = ("priority", "restriction")
"""What sets the deadline: only a regulator changes it."""


_STANDARD = {TaskKind.ORDER: "fulfill", TaskKind.CANCEL: "abort"}
"""Codes of R4's task-code."""


def kind_of(task: Json | None) -> TaskKind | None:
    """The kind of a Task of the workflow; None for any other Task."""
    code = code_of((task or {}).get("code", {}), TELERADIOLOGY_TASK)
    return next((one for one in TaskKind if one == code), None)


def code(kind: TaskKind) -> Json:
    """Task.code of a kind; R4's own code too where there is one, so that any client of the FHIR workflow knows it."""
    if kind in _STANDARD:
        return {"coding": [coding(TASK_CODE, _STANDARD[kind]), coding(TELERADIOLOGY_TASK, kind)]}
    return concept(TELERADIOLOGY_TASK, kind)


def business_status(code: str) -> Json:
    """Task.businessStatus of the workflow."""
    return concept(BUSINESS_STATUS, code)


def business_code(task: Json | None) -> str | None:
    """The code of Task.businessStatus of the workflow."""
    return code_of((task or {}).get("businessStatus", {}), BUSINESS_STATUS)


def part(name: str, reference: str) -> Json:
    """An entry of Task.input or Task.output that points to a resource."""
    return {"type": concept(TASK_PART, name), "valueReference": {"reference": reference}}


def references(parts: list[Json], type_name: str) -> list[str]:
    """The references of that type among a Task's inputs or outputs."""
    found = [entry.get("valueReference", {}).get("reference", "") for entry in parts]
    return [reference for reference in found if reference.startswith(f"{type_name}/")]


def owner(task: Json) -> str | None:
    """The reference in Task.owner; None where there is none."""
    reference: Any = task.get("owner", {}).get("reference")
    return reference if isinstance(reference, str) else None


def order_of(task: Json) -> str | None:
    """The order that a Task of the workflow is of; None where it names none."""
    for one in (task.get("focus", {}), *task.get("basedOn", [])):
        reference = str(one.get("reference", ""))
        if reference.startswith("ServiceRequest/"):
            return reference
    return None


def check_fixed(before: Json, after: Json, *, regulator: bool) -> None:
    """Raise unless the update leaves alone what it may not change; every changed element is named."""
    issues = [
        Issue("error", "business-rule", f"Task.{name} of a workflow task cannot be changed", (f"Task.{name}",))
        for name in changed_elements(before, after, FIXED)
    ]
    if not regulator:
        issues += [
            Issue("error", "business-rule", f"Only a regulator changes Task.{name}", (f"Task.{name}",))
            for name in changed_elements(before, after, REGULATED)
        ]
    if issues:
        raise ForbiddenTransition(issues[0].diagnostics, issues=issues)


def says_no_change(task: Json) -> bool:
    """Whether a further reading ends with the statement that the report stays as it is, and why."""
    reason = task.get("statusReason", {})
    return code_of(reason, STATUS_REASON) == "no-change" and bool(reason.get("text", "").strip())


def check_refusal(task: Json) -> list[Issue]:
    """What is missing of a refusal: a coded reason and a text (TLR flow 3, refused)."""
    reason = task.get("statusReason", {})
    issues = []
    if not any(item.get("code") for item in reason.get("coding", [])):
        issues.append(
            Issue("error", "required", "A refusal must give a coded reason", ("Task.statusReason.coding",))
        )
    if not reason.get("text", "").strip():
        issues.append(
            Issue("error", "required", "A refusal must give its reason in words", ("Task.statusReason.text",))
        )
    return issues
