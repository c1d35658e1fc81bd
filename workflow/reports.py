"""Reports: drafts by the reader, the signature and what follows it, revisions, withdrawal (S8 to S10, S14, S15).

A signature is one write: guard (`workflow.signing`), PDF of the stored text with its hash (`workflow.report_press`),
final version, Binary, Provenance, and the end of the reading, the root task and the order of every order that the
report answers, in one commit. A signed report never changes in place (`resources.diagnostic_report`).

FHIR R4 §10.3  http://hl7.org/fhir/R4/diagnosticreport.html
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from resources import diagnostic_report as rules
from resources import report_changes
from resources import task as tasks
from resources.codes import DOCUMENT_COMPLETION, PROVENANCE_PARTICIPANT, TaskKind, concept
from resources.diagnostic_report import based_on
from resources.json import Json
from resources.lifecycle import FINISHED_TASK, IN_ERROR, SIGNED
from resources.outcomes import Forbidden, ForbiddenTransition, Issue
from resources.report_changes import Changed
from resources.times import instant_text
from store.access import Change, Draft, Version, Work
from workflow import cases, context, escalation, milestones, report_pdf, signing, withdrawal
from workflow.cases import Case
from workflow.context import Context, before_of, look_up
from workflow.deadlines import deadline
from workflow.people import AI_ROLES, People
from workflow.report_press import Press, Printed
from workflow.report_sources import Pages
from workflow.signing import Signature

_Printed = dict[str, tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Reports:
    """Observer of DiagnosticReport."""

    context: Context
    people: People
    press: Press
    _printed: WeakKeyDictionary[Work, _Printed] = field(default_factory=WeakKeyDictionary)
    """PDFs made in `prepare` and stored in `changed`, when the report's own version is there to point to."""

    def prepare(self, uow: Work, draft: Draft) -> None:
        before, after = before_of(draft), draft.resource
        if uow.caller.role in AI_ROLES and not uow.caller.is_system:
            raise Forbidden("A device writes Observations, never a report")
        for order_ref in sorted({*based_on(before or {}), *based_on(after or {})}):
            cases.hold(uow, order_ref)
        former = Case.all_of(uow, self.context, before) if before is not None else []
        if after is None:
            if former and before is not None and before.get("status") in SIGNED:
                raise ForbiddenTransition("A signed report is not deleted: send it with status entered-in-error")
            return
        if before is not None:
            rules.check_update(before, after)
        is_signed = before is not None and before.get("status") in SIGNED
        stays = before is not None and based_on(before) == based_on(after)
        found = former if stays else Case.all_of(uow, self.context, after)
        if not (found or former):
            self._refuse_unordered(uow, before, after)
            return
        if not found or (is_signed and not stays):
            raise ForbiddenTransition("A report stays on its order", expression="DiagnosticReport.basedOn")
        if is_signed and before is not None:
            if after.get("status") == IN_ERROR:
                self._withdraw(uow, draft, found, before, after)
            elif rules.is_revision(before, after):
                self._revise(uow, draft, found, before, after)
            return
        if not stays:  # a draft may come to answer more orders, or fewer: all of them are the reader's own
            self._require_reader(uow, former)
        if rules.is_signature(before, after):
            self._sign(uow, draft, found, after)
        else:
            self._require_reader(uow, found)

    def changed(self, uow: Work, change: Change) -> None:
        report = change.after
        if report.type != "DiagnosticReport" or report.deleted or change.derived:
            return
        before = before_of(change)
        after = report.json()
        found = Case.all_of(uow, self.context, after)
        if not found:
            return
        if rules.is_signature(before, after):
            self._store_pdf(uow, report)
            self._attest(uow, report, "LA", None)
            for case in found:
                self._conclude(case, report)
        elif rules.is_revision(before, after):
            self._store_pdf(uow, report)
            self._attest(uow, report, "LA", change.before)
            for case in found:
                case.move(TaskKind.ORDER, business="signed")
        elif before is not None and before.get("status") in SIGNED and after.get("status") == IN_ERROR:
            self._attest(uow, report, "CA", change.before)
            _, pdf = self._printed.get(uow, {}).pop(report.id)
            withdrawal.carry_out(uow, self.context, found, report, pdf)
        if rules.critical_category(after) and after.get("status") != IN_ERROR:
            self._announce(found[0], report)  # one finding is one call, however many orders the report answers

    def delivered(self, uow: Work, report_reference: str) -> None:
        """S10: mark that the hospital has the signed report. Raises ForbiddenTransition for one that is not signed."""
        report = look_up(uow, report_reference)
        if report is None or report.type != "DiagnosticReport":
            return
        if report.json().get("status") not in SIGNED:
            raise ForbiddenTransition("Only a signed report is delivered", expression="DiagnosticReport.status")
        for case in Case.all_of(uow, self.context, report.json()):
            if case.status(TaskKind.ORDER) == "completed":  # one that is open again waits for another report
                if tasks.business_code(case.task(TaskKind.ORDER)) == "signed":  # what came since says more
                    case.move(TaskKind.ORDER, business="delivered")
                milestones.reached(uow, case.order.reference, "T8", report.reference)
        escalation.has_reached(uow, report_reference)

    def _refuse_unordered(self, uow: Work, before: Json | None, after: Json) -> None:
        """A duty radiologist's report is always on an order; reports of others are stored by the general rules."""
        if uow.caller.is_system or not self.people.is_radiologist(uow) or after.get("status") == IN_ERROR:
            return
        if before is not None and before.get("status") in SIGNED:
            return
        raise ForbiddenTransition(
            "A radiologist's report is basedOn the imaging order that it answers",
            expression="DiagnosticReport.basedOn",
        )

    def _require_radiologist(self, uow: Work, what: str) -> None:
        if not uow.caller.is_system and not self.people.is_radiologist(uow):
            raise ForbiddenTransition(f"{what} is for a radiologist of the platform", code="forbidden")

    def _require_reader(self, uow: Work, found: Sequence[Case]) -> None:
        issues = [issue for case in found for issue in signing.reader_issues(self.people, uow, case, "drafted")]
        _refuse(issues)

    def _sign(self, uow: Work, draft: Draft, found: list[Case], report: Json) -> None:
        """The signing guard: every reason at once; then what the server completes."""
        reading = found[0].task(TaskKind.READ) or {}
        signer = tasks.owner(reading) if uow.caller.is_system else uow.caller.practitioner
        studies = self._studies(uow, report)
        refused, warned = signing.judged(
            Signature(uow, self.context, self.people, report, found, studies, signer)
        )
        _refuse(refused)
        for issue in warned:
            uow.warn(issue)
        read = [version for _, version in studies if version is not None]
        self._complete(uow, draft, found, report, signer, read)

    def _revise(self, uow: Work, draft: Draft, found: list[Case], before: Json, report: Json) -> None:
        """A signed report's next version: by a radiologist, of the same patient, with a reason, and other than it."""
        self._require_radiologist(uow, "Revising a signed report")
        issues = []
        if report.get("subject") != before.get("subject"):
            issues.append(Issue("error", "business-rule", "A revised report stays on its patient: mark the wrong one "
                                "entered-in-error", ("DiagnosticReport.subject",)))
        if not report.get("conclusion", "").strip():
            issues.append(Issue("error", "business-rule", "A revised report must have a conclusion",
                                ("DiagnosticReport.conclusion",)))
        report.setdefault("resultsInterpreter", before.get("resultsInterpreter", []))
        changes = report_changes.changes(
            before, report, ignored=rules.is_own_entry, text_of=report_pdf.plain_text
        )
        if not changes:
            issues.append(Issue("error", "business-rule", "The revision says nothing otherwise than the report that it "
                                "replaces", ("DiagnosticReport",)))
        _refuse([*issues, *rules.reason_issues(report, "A revision of a signed report")])
        studies = [version for _, version in self._studies(uow, report) if version is not None]
        self._complete(uow, draft, found, report, uow.caller.practitioner, studies, changes)

    def _withdraw(self, uow: Work, draft: Draft, found: list[Case], before: Json, report: Json) -> None:
        """A signed report is entered in error: with a reason, and a PDF of the withdrawn text that says so."""
        self._require_radiologist(uow, "Marking a signed report entered-in-error")
        _refuse(rules.reason_issues(report, "Marking a signed report entered-in-error"))
        signers = [one.get("reference") for one in before.get("resultsInterpreter", [])]
        read = [version for _, version in self._studies(uow, before) if version is not None]
        page = Pages(uow, self.context, found, draft.id, _version(draft), self.press.sealed_by)
        printed = self.press.take(
            page.withdrawn(before, read, signers[-1] if signers else None, rules.reason_of(report)), uow.now,
            is_withdrawal=True,
        )
        own = [one for one in before.get("presentedForm", []) if one.get("title") == rules.PDF_TITLE]
        url = own[0].get("url", "") if own else ""
        self._printed.setdefault(uow, {})[draft.id] = (url, printed.pdf)
        forms = [one for one in report.get("presentedForm", []) if one.get("title") != rules.PDF_TITLE]
        if url:
            forms.insert(0, attachment(printed, url, page.language))
        if forms:
            report["presentedForm"] = forms

    def _complete(
        self,
        uow: Work,
        draft: Draft,
        found: list[Case],
        report: Json,
        signer: str | None,
        studies: list[Version],
        changes: Sequence[Changed] = (),
    ) -> None:
        """issued, who interpreted and who performed, and the PDF of what is now stored."""
        if signer and not signing.speaks_for(uow, report.get("resultsInterpreter", []), signer):
            report["resultsInterpreter"] = [*report.get("resultsInterpreter", []), {"reference": signer}]
        performers = report.setdefault("performer", [])
        for organization in (self.context.platform_reference, *(f"Organization/{case.order.owner}" for case in found)):
            known = any(one.get("reference") == organization for one in performers)
            if not known and look_up(uow, organization) is not None:
                performers.append({"reference": organization})
        if not performers:
            del report["performer"]
        page = Pages(uow, self.context, found, draft.id, _version(draft), self.press.sealed_by)
        printed = self.press.take(page.signed(report, studies, signer, changes), uow.now)
        report["issued"] = instant_text(printed.at)
        binary_id = self.context.new_id()
        self._printed.setdefault(uow, {})[draft.id] = (binary_id, printed.pdf)
        own = [one for one in report.get("presentedForm", []) if one.get("title") != rules.PDF_TITLE]
        report["presentedForm"] = [attachment(printed, f"Binary/{binary_id}", page.language), *own]

    def _studies(self, uow: Work, report: Json) -> list[tuple[str, Version | None]]:
        references = [one.get("reference", "") for one in report.get("imagingStudy", [])]
        found = [(reference, look_up(uow, reference)) for reference in references]
        return [(ref, v if v is not None and v.type == "ImagingStudy" else None) for ref, v in found]

    def _store_pdf(self, uow: Work, report: Version) -> None:
        """The PDF as a Binary under the report's own access rules (R4 Binary.securityContext)."""
        binary_id, pdf = self._printed.get(uow, {}).pop(report.id)
        body: Json = {
            "resourceType": "Binary",
            "contentType": "application/pdf",
            "securityContext": {"reference": report.reference},
            "data": base64.b64encode(pdf).decode(),
        }
        context.create(uow, "Binary", body, resource_id=binary_id)

    def _attest(self, uow: Work, report: Version, activity: str, previous: Version | None) -> None:
        """Who made this version of a signed report, why, and from which one it was made (R4 Provenance)."""
        who = uow.caller.practitioner or self.context.platform_reference
        agent: Json = {"type": concept(PROVENANCE_PARTICIPANT, "author"), "who": {"reference": who}}
        if uow.caller.practitioner:
            agent["onBehalfOf"] = {"reference": self.context.platform_reference}
        body: Json = {
            "resourceType": "Provenance",
            "target": [{"reference": f"{report.reference}/_history/{report.version}"}],
            "recorded": instant_text(uow.now),
            "activity": concept(DOCUMENT_COMPLETION, activity),
            "agent": [agent],
        }
        reason = rules.reason_of(report.json())
        if reason is not None and previous is not None:
            body["reason"] = [reason]
        if previous is not None:
            what = {"reference": f"{previous.reference}/_history/{previous.version}"}
            body["entity"] = [{"role": "revision", "what": what}]
        context.create(uow, "Provenance", body)

    def _conclude(self, case: Case, report: Version) -> None:
        """The reading, the root task and the order end with the signature."""
        output = [tasks.part("report", report.reference)]
        reading = case.task(TaskKind.READ) or {}
        period: dict[str, Any] = {**reading.get("executionPeriod", {}), "end": instant_text(case.uow.now)}
        case.move(TaskKind.READ, "completed", output=output, executionPeriod=period)
        root = case.task(TaskKind.ORDER) or {}
        case.move(
            TaskKind.ORDER, "completed", business="signed", statusReason=None,
            output=[*root.get("output", []), *output],
        )
        case.settle_order("completed")

    def _announce(self, case: Case, report: Version) -> None:
        """A critical finding always has its communication task, also before the signature (S8c)."""
        known = case.task(TaskKind.COMMUNICATE_CRITICAL)
        if known is not None and known.get("status") not in FINISHED_TASK - {"completed"}:
            return
        case.tasks.pop(TaskKind.COMMUNICATE_CRITICAL, None)
        owner = case.uow.caller.practitioner
        category = rules.critical_category(report.json()) or ""
        end = deadline(case.uow, TaskKind.COMMUNICATE_CRITICAL, case.order, case.uow.now, category=category)
        elements: dict[str, Any] = {
            "input": [tasks.part("report", report.reference)],
            "restriction": {"period": {"end": instant_text(end)}},
        }
        if owner:
            elements["owner"] = {"reference": owner}
        case.open(TaskKind.COMMUNICATE_CRITICAL, **elements)


def attachment(printed: Printed, url: str, language: str) -> Json:
    """The Attachment of a PDF: size in bytes, hash SHA-1 in base64 as R4 asks."""
    digest = hashlib.sha1(printed.pdf, usedforsecurity=False).digest()
    return {
        "contentType": "application/pdf",
        "language": language,
        "url": url,
        "size": len(printed.pdf),
        "hash": base64.b64encode(digest).decode(),
        "title": rules.PDF_TITLE,
        "creation": instant_text(printed.at),
    }


def _version(draft: Draft) -> int:
    """The number that the draft's version will have."""
    return draft.before.version + 1 if draft.before else 1


def _refuse(issues: Sequence[Issue]) -> None:
    if issues:
        raise ForbiddenTransition(issues[0].diagnostics, issues=issues)
