"""Rules of the workflow's Tasks: which task it is, what its parts are, and what a client may not change in it.

A Task belongs to the workflow by a coding of the local system `TELERADIOLOGY_TASK`; any other Task is stored and left
alone.

FHIR R4 §12.4  http://hl7.org/fhir/R4/task.html
"""

from __future__ import annotations

from typing import Any

from resources.codes import (
    BUSINESS_STATUS,
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

SERVER_MADE = frozenset({TaskKind.ORDER, TaskKind.REGULATE, TaskKind.ACQUIRE, TaskKind.READ})
"""Kinds that only the server creates: there is exactly one of each per order."""

FIXED = ("code", "focus", "for", "partOf", "basedOn", "intent", "groupIdentifier", "authoredOn", "requester",
"encounter")
"""What says which work this is: it does not change."""
TOLD_BY_SERVER = ("status", "businessStatus", "statusReason", "input", "output", "executionPeriod", "lastModified")
"""What the root task tells the hospital."""
REGULATED = ("priority", "restriction")
"""What sets the deadline: only a regulator changes it."""


def kind_of(task: Json | None) -> TaskKind | None:
    """The kind of a Task of the workflow; None for any other Task."""
    code = code_of((task or {}).get("code", {}), TELERADIOLOGY_TASK)
    return next((one for one in TaskKind if one == code), None)


def code(kind: TaskKind) -> Json:
    """Task.code of a kind; the root task also says `fulfill`, so that any client of the FHIR workflow knows it."""
    if kind is TaskKind.ORDER:
        return {"coding": [coding(TASK_CODE, "fulfill"), coding(TELERADIOLOGY_TASK, kind)]}
    return concept(TELERADIOLOGY_TASK, kind)


def business_status(code: str) -> Json:
    """Task.businessStatus of the workflow."""
    return concept(BUSINESS_STATUS, code)


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
