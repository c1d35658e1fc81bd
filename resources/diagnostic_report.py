"""Rules of a report: what a signature asks of it, and that a signed report does not change in place.

`signing_issues` is the part of the signing guard that the report itself and its order and studies decide; every fault
is named at once. Who may sign is for the workflow, which knows the reading task.

FHIR R4 §10.3  http://hl7.org/fhir/R4/diagnosticreport.html
"""

from __future__ import annotations

from collections.abc import Sequence

from resources.codes import CANONICAL, CRITICAL_RESULT, EVENT_STATUS_REASON, REPORT_OUTCOME, code_of
from resources.identifiers import STUDY_UID
from resources.json import Json
from resources.lifecycle import REVISED, SIGNED, check_transition, content
from resources.outcomes import ForbiddenTransition, Issue

PDF_TITLE = "Compte rendu d'imagerie"
"""Title of the attachment that the server makes; the client's own attachments are kept beside it."""
COMPARISON = f"{CANONICAL}/StructureDefinition/report-comparison"
"""An earlier study that the reader compared (valueReference, repeats): R4's DiagnosticReport has no element for it."""
INDICATION = f"{CANONICAL}/StructureDefinition/report-indication"
"""The indication as the reader codes it (valueCodeableConcept), where the order's reason has no code."""


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


def reason_of(report: Json) -> Json | None:
    """Why a report has its status: the CodeableConcept of the standard extension event-statusReason."""
    for extension in report.get("extension", []):
        reason: Json = extension.get("valueCodeableConcept", {})
        if extension.get("url") == EVENT_STATUS_REASON and reason:
            return reason
    return None


def reason_issues(report: Json, what: str) -> list[Issue]:
    """What is missing of the reason of a revision or withdrawal: a code or a text. `what` begins the sentence."""
    reason = reason_of(report) or {}
    coded = any(one.get("code") for one in reason.get("coding", []))
    if coded or str(reason.get("text", "")).strip():
        return []
    text = f"{what} gives its reason, coded or in words, in the extension {EVENT_STATUS_REASON}"
    return [Issue("error", "required", text, ("DiagnosticReport.extension",))]


def priors(report: Json) -> list[str]:
    """The earlier studies that the reader compared: references of the extension `COMPARISON`."""
    found = [one.get("valueReference", {}).get("reference", "") for one in report.get("extension", [])
             if one.get("url") == COMPARISON]
    return [reference for reference in dict.fromkeys(found) if reference.startswith("ImagingStudy/")]


def is_own_entry(element: str, entry: Json) -> bool:
    """Whether an entry of a list is no content of the report: the server's own PDF, the reason of its status."""
    if element == "presentedForm":
        return bool(entry.get("title") == PDF_TITLE)
    return element == "extension" and entry.get("url") == EVENT_STATUS_REASON


def signing_issues(report: Json, orders: Sequence[Json]) -> list[Issue]:
    """Every reason of the report's own why it cannot be signed: identity, code, time, conclusion.

    `orders` are those that it is based on, at least one.
    """
    issues: list[Issue] = []
    if report.get("status") != "final":
        issues.append(_issue("status", "A report is signed as final before it can be revised"))
    subject = report.get("subject", {}).get("reference")
    if not subject or subject != orders[0].get("subject", {}).get("reference"):
        issues.append(_issue("subject", "The report's subject must be the order's subject"))
    code = report.get("code", {})
    if not (code.get("coding") or code.get("text", "").strip()):
        issues.append(_issue("code", "A signed report must name the exam"))
    if not any(report.get(name) for name in ("effectiveDateTime", "effectivePeriod")):
        issues.append(_issue("effective", "A signed report must give the time of the exam (effective[x])"))
    if not report.get("conclusion", "").strip():
        issues.append(_issue("conclusion", "A signed report must have a conclusion"))
    return issues


def study_issues(studies: Sequence[tuple[str, Json | None]], subject: str | None, orders: Sequence[str]) -> list[Issue]:
    """What is wrong with the studies of a report, given as (reference, ImagingStudy or None).

    Each must be of the orders' patient `subject` and of one of `orders` (``ServiceRequest/id``).
    """
    if not studies:
        return [_issue("imagingStudy", "A signed report must name the imaging study that was read")]
    return [issue for index, (reference, study) in enumerate(studies)
            for issue in _study_issues(index, reference, study, subject, orders)]


def _study_issues(
    index: int, reference: str, study: Json | None, subject: str | None, orders: Sequence[str]
) -> list[Issue]:
    at = f"imagingStudy[{index}]"
    if study is None:
        return [_issue(at, f"{reference or 'The reference'} is not an imaging study of this server")]
    issues = []
    if study.get("subject", {}).get("reference") != subject:
        issues.append(_issue(at, f"{reference} is of another patient than the order"))
    if not set(orders) & set(based_on(study)):
        issues.append(_issue(at, f"{reference} is not a study of {' or '.join(orders)}"))
    if study.get("status") == "entered-in-error":
        issues.append(_issue(at, f"{reference} was entered in error"))
    if not any(identifier.get("system") == STUDY_UID for identifier in study.get("identifier", [])):
        issues.append(_issue(at, f"{reference} has no StudyInstanceUID"))
    return issues


def _issue(element: str, text: str) -> Issue:
    return Issue("error", "business-rule", text, (f"DiagnosticReport.{element}",))
