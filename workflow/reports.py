"""Reports: drafts by the reader, the signing guard, the signature and what follows it, revisions (S8 to S10, S14, S15).

A signature is one write: guard, PDF of the stored text with its hash, final version, Binary, Provenance, and the end
of the reading, the root task and the order, in one commit. A signed report never changes in place
(`resources.diagnostic_report`).

FHIR R4 §10.3  http://hl7.org/fhir/R4/diagnosticreport.html
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from resources import diagnostic_report as rules
from resources import task as tasks
from resources.codes import DOCUMENT_COMPLETION, PROVENANCE_PARTICIPANT, TaskKind, concept
from resources.diagnostic_report import based_on
from resources.json import Json
from resources.lifecycle import FINISHED_TASK, IN_ERROR, SIGNED
from resources.outcomes import Forbidden, ForbiddenTransition, Issue
from resources.times import instant_text
from store.access import Change, Draft, Version, Work
from workflow import cases, context, images, milestones, report_pdf, report_text
from workflow.cases import Case
from workflow.context import Context, before_of, look_up
from workflow.deadlines import deadline
from workflow.people import AI_ROLES, People

_Printed = dict[str, tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Reports:
    """Observer of DiagnosticReport."""

    context: Context
    people: People
    _printed: WeakKeyDictionary[Work, _Printed] = field(default_factory=WeakKeyDictionary)
    """PDFs made in `prepare` and stored in `changed`, when the report's own version is there to point to."""

    def prepare(self, uow: Work, draft: Draft) -> None:
        before, after = before_of(draft), draft.resource
        if uow.caller.role in AI_ROLES and not uow.caller.is_system:
            raise Forbidden("A device writes Observations, never a report")
        for order_ref in based_on(after or {}):
            cases.hold(uow, order_ref)
        case = next(filter(None, (Case.of(uow, self.context, one) for one in (after, before) if one)), None)
        if after is None:
            if case is not None and before is not None and before.get("status") in SIGNED:
                raise ForbiddenTransition("A signed report is not deleted: send it with status entered-in-error")
            return
        if before is not None:
            rules.check_update(before, after)
        if case is None:
            self._refuse_unordered(uow, before, after)
            return
        if before is not None and based_on(before) != based_on(after):
            raise ForbiddenTransition("A report stays on its order", expression="DiagnosticReport.basedOn")
        if rules.is_signature(before, after):
            self._sign(uow, draft, case, after)
        elif rules.is_revision(before, after):
            self._revise(uow, draft, case, before or {}, after)
        elif before is not None and before.get("status") in SIGNED:
            if after.get("status") == IN_ERROR:
                self._require_radiologist(uow, "Marking a signed report entered-in-error")
        else:
            issues = self._reader_issues(uow, case, "drafted")
            if issues:
                raise ForbiddenTransition(issues[0].diagnostics, issues=issues)

    def changed(self, uow: Work, change: Change) -> None:
        report = change.after
        if report.type != "DiagnosticReport" or report.deleted or change.derived:
            return
        before = change.before.json() if change.before is not None and not change.before.deleted else None
        after = report.json()
        case = Case.of(uow, self.context, after)
        if case is None:
            return
        if rules.is_signature(before, after):
            self._store_pdf(uow, report)
            self._attest(uow, report, "LA", None)
            self._conclude(case, report)
        elif rules.is_revision(before, after):
            self._store_pdf(uow, report)
            self._attest(uow, report, "LA", change.before)
            case.move(TaskKind.ORDER, business="signed")
        elif before is not None and before.get("status") in SIGNED and after.get("status") == IN_ERROR:
            self._attest(uow, report, "CA", change.before)
        if rules.critical_category(after) and after.get("status") != IN_ERROR:
            self._announce(case, report)

    def delivered(self, uow: Work, report_reference: str) -> None:
        """S10: mark that the hospital has the signed report. Raises ForbiddenTransition for one that is not signed."""
        report = look_up(uow, report_reference)
        if report is None or report.type != "DiagnosticReport":
            return
        if report.json().get("status") not in SIGNED:
            raise ForbiddenTransition("Only a signed report is delivered", expression="DiagnosticReport.status")
        case = Case.of(uow, self.context, report.json())
        if case is not None:
            case.move(TaskKind.ORDER, business="delivered")
            milestones.reached(uow, case.order.reference, "T8", report.reference)

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

    def _reader_issues(self, uow: Work, case: Case, verb: str) -> list[Issue]:
        """Why the caller is not the one whose report this is: the reading must be claimed, by the caller."""
        reading = case.task(TaskKind.READ)
        if reading is None:
            return [_issue(f"{case.order.reference} has no reading task yet: its images are not complete")]
        if reading.get("status") != "in-progress":
            return [_issue(f"The reading is {reading.get('status')}: a report is {verb} while its reading is claimed")]
        owner = tasks.owner(reading)
        if not self.people.is_caller(uow, owner):
            return [_issue(f"A report is {verb} by the reader who claimed it; that is {owner}")]
        return []

    def _sign(self, uow: Work, draft: Draft, case: Case, report: Json) -> None:
        """The signing guard: every reason at once; then what the server completes."""
        studies = self._studies(uow, report)
        order_ref = case.order.reference
        issues = rules.signing_issues(report, case.order_json, [(ref, v.json() if v else None) for ref, v in studies],
                                      order_ref)
        issues += self._reader_issues(uow, case, "signed")
        issues += images.signing_issues(case, report)
        if not case.is_open:
            issues.append(_issue(f"{order_ref} is no longer open"))
        issues += self._unpublished(uow, case, [reference for reference, _ in studies])
        signer = tasks.owner(case.task(TaskKind.READ) or {}) if uow.caller.is_system else uow.caller.practitioner
        if report.get("resultsInterpreter") and not self._speaks_for(uow, report["resultsInterpreter"], signer):
            issues.append(
                Issue("error", "business-rule", "The results interpreter of a signed report is its signer",
                      ("DiagnosticReport.resultsInterpreter",))
            )
        if issues:
            raise ForbiddenTransition(issues[0].diagnostics, issues=issues)
        self._complete(uow, draft, case, report, signer, [v for _, v in studies if v is not None])

    def _unpublished(self, uow: Work, case: Case, studies: list[str]) -> list[Issue]:
        """Images, or a correction, that the reader cannot have seen: they are published within a second."""
        named = [*studies, *(study.reference for study in case.studies())]
        return [
            _issue(f"{study} has images or corrections that are not published yet: look at it, and sign again",
                   "DiagnosticReport.imagingStudy")
            for study in self.context.unpublished(uow, case.order, named)
        ]

    def _revise(self, uow: Work, draft: Draft, case: Case, before: Json, report: Json) -> None:
        """A signed report's next version: by a radiologist, of the same patient, with a conclusion."""
        self._require_radiologist(uow, "Revising a signed report")
        issues = []
        if report.get("subject") != before.get("subject"):
            issues.append(Issue("error", "business-rule", "A revised report stays on its patient: mark the wrong one "
                                "entered-in-error", ("DiagnosticReport.subject",)))
        if not report.get("conclusion", "").strip():
            issues.append(Issue("error", "business-rule", "A revised report must have a conclusion",
                                ("DiagnosticReport.conclusion",)))
        if issues:
            raise ForbiddenTransition(issues[0].diagnostics, issues=issues)
        report.setdefault("resultsInterpreter", before.get("resultsInterpreter", []))
        studies = [version for _, version in self._studies(uow, report) if version is not None]
        self._complete(uow, draft, case, report, uow.caller.practitioner, studies)

    def _complete(
        self, uow: Work, draft: Draft, case: Case, report: Json, signer: str | None, studies: list[Version]
    ) -> None:
        """issued, who interpreted and who performed, and the PDF of what is now stored."""
        report["issued"] = instant_text(uow.now)
        if signer and not self._speaks_for(uow, report.get("resultsInterpreter", []), signer):
            report["resultsInterpreter"] = [*report.get("resultsInterpreter", []), {"reference": signer}]
        performers = report.setdefault("performer", [])
        for organization in (self.context.platform_reference, f"Organization/{case.order.owner}"):
            known = any(one.get("reference") == organization for one in performers)
            if not known and look_up(uow, organization) is not None:
                performers.append({"reference": organization})
        if not performers:
            del report["performer"]
        pdf = self._print(uow, draft, case, report, signer, studies)
        binary_id = self.context.new_id()
        self._printed.setdefault(uow, {})[draft.id] = (binary_id, pdf)
        own = [one for one in report.get("presentedForm", []) if one.get("title") != rules.PDF_TITLE]
        report["presentedForm"] = [attachment(pdf, f"Binary/{binary_id}", report["issued"]), *own]

    def _print(
        self, uow: Work, draft: Draft, case: Case, report: Json, signer: str | None, studies: list[Version]
    ) -> bytes:
        regulated = case.task(TaskKind.REGULATE) or {}
        protocols = [look_up(uow, one) for one in tasks.references(regulated.get("output", []), "ServiceRequest")]
        results = [look_up(uow, one.get("reference")) for one in report.get("result", [])]
        sources = report_text.Sources(
            report=report,
            report_id=draft.id,
            version=draft.before.version + 1 if draft.before else 1,
            order=case.order_json,
            patient=_json(look_up(uow, report.get("subject", {}).get("reference"))),
            hospital=_json(look_up(uow, f"Organization/{case.order.owner}")),
            platform=_json(look_up(uow, self.context.platform_reference)),
            signer=_json(look_up(uow, signer)),
            studies=[study.json() for study in studies],
            protocols=[version.json() for version in protocols if version],
            results=[version.json() for version in results if version],
        )
        return report_pdf.render(report_text.layout(sources, uow.now, self.context.zone_info()))

    def _studies(self, uow: Work, report: Json) -> list[tuple[str, Version | None]]:
        references = [one.get("reference", "") for one in report.get("imagingStudy", [])]
        found = [(reference, look_up(uow, reference)) for reference in references]
        return [(ref, v if v is not None and v.type == "ImagingStudy" else None) for ref, v in found]

    def _speaks_for(self, uow: Work, interpreters: list[Json], signer: str | None) -> bool:
        """Whether the signer is among these, as Practitioner or through a PractitionerRole."""
        for one in interpreters:
            reference = one.get("reference", "")
            if reference == signer:
                return True
            role = look_up(uow, reference) if reference.startswith("PractitionerRole/") else None
            if role is not None and role.json().get("practitioner", {}).get("reference") == signer:
                return True
        return False

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
        """Who made this version of a signed report, and from which one it was made (R4 Provenance)."""
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
        case.move(TaskKind.ORDER, "completed", business="signed", output=[*root.get("output", []), *output])
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


def attachment(pdf: bytes, url: str, created: str) -> Json:
    """The Attachment of a PDF: size in bytes, hash SHA-1 in base64 as R4 asks."""
    digest = hashlib.sha1(pdf, usedforsecurity=False).digest()
    return {
        "contentType": "application/pdf",
        "language": "fr-FR",
        "url": url,
        "size": len(pdf),
        "hash": base64.b64encode(digest).decode(),
        "title": rules.PDF_TITLE,
        "creation": created,
    }


def _json(version: Version | None) -> Json | None:
    return version.json() if version is not None else None


def _issue(text: str, expression: str = "DiagnosticReport") -> Issue:
    return Issue("error", "business-rule", text, (expression,))
