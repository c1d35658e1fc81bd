"""A signed report that is withdrawn: its orders are open again, its PDF says so, whoever had it is told (S15).

Who had it stands in the audit log: whoever read it or its PDF, and to whom it was delivered. The hospital that ordered
is told in any case.

R4 diagnostic-report-status entered-in-error  http://hl7.org/fhir/R4/valueset-diagnostic-report-status.html
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence

from resources import diagnostic_report as rules
from resources import task as tasks
from resources.codes import COMMUNICATION_CATEGORY, NOTICE, TaskKind, concept
from resources.json import Json
from resources.lifecycle import FINISHED_TASK, SIGNED
from store.access import Outcome, Version, Work
from workflow import cases, context, notices, orders
from workflow.cases import Case
from workflow.context import Context, look_up
from workflow.report_text import concept_text, reason_text

RECORDS_MAX = 20_000
"""Accesses to a report that are looked at for who had it."""


def carry_out(uow: Work, site: Context, found: Sequence[Case], report: Version, pdf: bytes) -> None:
    """Everything that follows from the withdrawal of `report`, which has the status entered-in-error now."""
    body = report.json()
    reason = rules.reason_of(body) or {}
    for case in found:
        if not _is_answered_otherwise(uow, case, report):
            orders.reopen(uow, case, reason)
        _end_call(case, report)
    files = list(_files(uow, report))
    for file in files:
        context.update(uow, file, data=base64.b64encode(pdf).decode())
    for organization in sorted({case.order.owner for case in found} | recipients(uow, report, files)):
        if organization != site.platform and look_up(uow, f"Organization/{organization}") is not None:
            _tell(uow, site, found, report, organization, reason)


def _is_answered_otherwise(uow: Work, case: Case, withdrawn: Version) -> bool:
    """Whether another signed report of the order has read all that the withdrawn one did."""
    read = _studies(withdrawn.json())
    for other in uow.system.each("DiagnosticReport", [("based-on", case.order.reference)]):
        if other.id != withdrawn.id and other.json().get("status") in SIGNED and read <= _studies(other.json()):
            return True
    return False


def _studies(report: Json) -> set[str]:
    return {one.get("reference", "") for one in report.get("imagingStudy", [])}


def _end_call(case: Case, report: Version) -> None:
    """Nobody is called any more about a finding that was withdrawn; who was called is told by the notice."""
    call = case.task(TaskKind.COMMUNICATE_CRITICAL)
    named = tasks.references((call or {}).get("input", []), "DiagnosticReport")
    if call is not None and report.reference in named and call.get("status") not in FINISHED_TASK:
        reason = cases.reason("report-withdrawn")
        case.move(TaskKind.COMMUNICATE_CRITICAL, "cancelled", statusReason=reason)


def _files(uow: Work, report: Version) -> Iterator[Version]:
    """The PDFs of all its signed versions: an address that was passed on leads to the mark too."""
    seen = set()
    for number in range(report.version, 0, -1):
        body = uow.system.vread("DiagnosticReport", report.id, number).json()
        for form in body.get("presentedForm", []):
            url = str(form.get("url", ""))
            if form.get("title") == rules.PDF_TITLE and url.startswith("Binary/") and url not in seen:
                seen.add(url)
                file = look_up(uow, url)
                if file is not None:
                    yield file


def recipients(uow: Work, report: Version, files: Sequence[Version]) -> set[str]:
    """Ids of the organisations that read the report or its PDF, or to which it was delivered."""
    found = set()
    for reference in (report.reference, *(file.reference for file in files)):
        for number, event in enumerate(uow.system.each("AuditEvent", [("entity", reference)])):
            if number >= RECORDS_MAX:
                break
            body = event.json()
            if body.get("outcome", Outcome.SUCCESS) != Outcome.SUCCESS:
                continue
            for agent in body.get("agent", []):
                who = str(agent.get("who", {}).get("reference", ""))
                if who.startswith("Organization/"):
                    found.add(who.partition("/")[2])
    return found


def _tell(
    uow: Work, site: Context, found: Sequence[Case], report: Version, organization: str, reason: Json
) -> None:
    body = report.json()
    exam = concept_text(body.get("code")) or "examen d'imagerie"
    numbers = ", ".join(case.order.reference for case in found)
    text = (
        f"Le compte rendu {report.reference} ({exam}, {numbers}) est annulé et ne doit plus être utilisé. "
        f"Motif : {reason_text(reason)}. Un nouveau compte rendu suivra."
    )
    notices.write(
        uow, [concept(NOTICE, "report-withdrawn"), concept(COMMUNICATION_CATEGORY, "alert")], text,
        [f"Organization/{organization}"], [case.order.reference for case in found], priority="urgent",
        subject=body.get("subject"), about=[{"reference": report.reference}], reasonCode=[reason],
        sender={"reference": site.platform_reference},
    )
