"""Rules of a report: what a signature asks of it, and that a signed report does not change in place.

`signing_issues` is the part of the signing guard that the report itself and its order and studies decide; every fault
is named at once. Who may sign is for the workflow, which knows the reading task.

FHIR R4 §10.3  http://hl7.org/fhir/R4/diagnosticreport.html
"""

from __future__ import annotations

from collections.abc import Sequence

from resources.codes import CRITICAL_RESULT, REPORT_OUTCOME, code_of
from resources.identifiers import STUDY_UID
from resources.json import Json
from resources.lifecycle import REVISED, SIGNED, check_transition, content
from resources.outcomes import ForbiddenTransition, Issue

PDF_TITLE = "Compte rendu d'imagerie"
"""Title of the attachment that the server makes; the client's own attachments are kept beside it."""


def check_update(before: Json, after: Json) -> None:
    """Raise ForbiddenTransition unless `after` may replace `before`. Holds for every report, whoever wrote it."""
    old, new = before.get("status"), after.get("status")
    check_transition("DiagnosticReport", old, new)
    if old not in SIGNED or old != new or content(before) == content(after):
        return
    if old in REVISED:  # a second amendment stays "amended": it is a new version with its own Provenance
        return
    raise ForbiddenTransition(
        "A signed report is immutable: to change its content send it with status amended, corrected or appended",
        expression="DiagnosticReport.status",
    )


def is_signature(before: Json | None, after: Json | None) -> bool:
    """Whether this write signs the report: it becomes signed for the first time."""
    return (after or {}).get("status") in SIGNED and (before or {}).get("status") not in SIGNED


def is_revision(before: Json | None, after: Json | None) -> bool:
    """Whether this write is a new signed version of a signed report."""
    if before is None or after is None or before.get("status") not in SIGNED or after.get("status") not in REVISED:
        return False
    return content(before) != content(after)


def critical_category(report: Json) -> str | None:
    """ACR category (1 minutes, 2 hours, 3 days) of a report flagged critical in conclusionCode."""
    return code_of(report.get("conclusionCode", []), CRITICAL_RESULT)


def is_not_interpretable(report: Json) -> bool:
    """Whether the report says by conclusionCode that the images cannot be read."""
    return code_of(report.get("conclusionCode", []), REPORT_OUTCOME) == "not-interpretable"


def based_on(resource: Json) -> list[str]:
    """The ServiceRequests that a resource is based on."""
    found = [entry.get("reference", "") for entry in resource.get("basedOn", [])]
    return [reference for reference in found if reference.startswith("ServiceRequest/")]


def signing_issues(
    report: Json, order: Json, studies: Sequence[tuple[str, Json | None]], order_ref: str
) -> list[Issue]:
    """Every reason of the report's own why it cannot be signed: identity, code, time, conclusion, studies."""
    issues: list[Issue] = []
    if report.get("status") != "final":
        issues.append(_issue("status", "A report is signed as final before it can be revised"))
    subject = report.get("subject", {}).get("reference")
    if not subject or subject != order.get("subject", {}).get("reference"):
        issues.append(_issue("subject", "The report's subject must be the order's subject"))
    code = report.get("code", {})
    if not (code.get("coding") or code.get("text", "").strip()):
        issues.append(_issue("code", "A signed report must name the exam"))
    if not any(report.get(name) for name in ("effectiveDateTime", "effectivePeriod")):
        issues.append(_issue("effective", "A signed report must give the time of the exam (effective[x])"))
    if not report.get("conclusion", "").strip():
        issues.append(_issue("conclusion", "A signed report must have a conclusion"))
    if not studies:
        issues.append(_issue("imagingStudy", "A signed report must name the imaging study that was read"))
    for index, (reference, study) in enumerate(studies):
        issues += _study_issues(index, reference, study, order, order_ref)
    return issues


def _study_issues(index: int, reference: str, study: Json | None, order: Json, order_ref: str) -> list[Issue]:
    at = f"imagingStudy[{index}]"
    if study is None:
        return [_issue(at, f"{reference or 'The reference'} is not an imaging study of this server")]
    issues = []
    if study.get("subject", {}).get("reference") != order.get("subject", {}).get("reference"):
        issues.append(_issue(at, f"{reference} is of another patient than the order"))
    if order_ref not in based_on(study):
        issues.append(_issue(at, f"{reference} is not a study of {order_ref}"))
    if study.get("status") == "entered-in-error":
        issues.append(_issue(at, f"{reference} was entered in error"))
    if not any(identifier.get("system") == STUDY_UID for identifier in study.get("identifier", [])):
        issues.append(_issue(at, f"{reference} has no StudyInstanceUID"))
    return issues


def _issue(element: str, text: str) -> Issue:
    return Issue("error", "business-rule", text, (f"DiagnosticReport.{element}",))
