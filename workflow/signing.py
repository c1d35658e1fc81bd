"""What is asked of a signature: one table of checks, each with its clause. All faults are told at once.

A check is a function of the `Signature` that gives issues: an `error` refuses, a `warning` is told beside the signed
report. Who adds a check adds a row.

The checklist is §7.4 of the project's reference on French practice; docs/workflow.md S9 tells it to clients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from resources import diagnostic_report as rules
from resources import dose
from resources import task as tasks
from resources.codes import CONCLUSION_CATEGORY, DISPLAYS, TaskKind, code_of
from resources.json import Json
from resources.outcomes import Issue
from store.access import Version, Work
from workflow import critical, images
from workflow.cases import Case
from workflow.context import Context, look_up
from workflow.people import People


@dataclass(frozen=True, slots=True)
class Signature:
    """A report about to be signed, and what it is judged by."""

    uow: Work
    context: Context
    people: People
    report: Json
    cases: Sequence[Case]
    """Of the orders that it is based on, at least one."""
    studies: Sequence[tuple[str, Version | None]]
    """The ImagingStudy references of the report, and what is behind them."""
    signer: str | None
    """``Practitioner/id``."""

    @property
    def read(self) -> list[Json]:
        """The studies that are there."""
        return [version.json() for _, version in self.studies if version is not None]

    def place(self, case: Case) -> str:
        """Where the report names a case's order: ``DiagnosticReport.basedOn[i]``."""
        for index, one in enumerate(self.report.get("basedOn", [])):
            if one.get("reference") == case.order.reference:
                return f"DiagnosticReport.basedOn[{index}]"
        return "DiagnosticReport.basedOn"


@dataclass(frozen=True, slots=True)
class Check:
    """A row: what is checked, by what, and which rule asks for it."""

    name: str
    find: Callable[[Signature], Iterable[Issue]]
    clause: str


def judged(signature: Signature) -> tuple[list[Issue], list[Issue]]:
    """What refuses the signature, and what its signer is warned of."""
    found = [issue for check in CHECKS for issue in check.find(signature)]
    return [one for one in found if one.severity != "warning"], [one for one in found if one.severity == "warning"]


def reader_issues(people: People, uow: Work, case: Case, verb: str, where: str = "DiagnosticReport") -> list[Issue]:
    """Why the caller is not the one whose report this is: the reading must be claimed, by the caller."""
    reading = case.task(TaskKind.READ)
    if reading is None:
        return [_issue(f"{case.order.reference} has no reading task yet: its images are not complete", where)]
    if reading.get("status") != "in-progress":
        text = f"The reading is {reading.get('status')}: a report is {verb} while its reading is claimed"
        return [_issue(text, where)]
    owner = tasks.owner(reading)
    if not people.is_caller(uow, owner):
        return [_issue(f"A report is {verb} by the reader who claimed it; that is {owner}", where)]
    return []


def speaks_for(uow: Work, interpreters: Sequence[Json], signer: str | None) -> bool:
    """Whether the signer is among these, as Practitioner or through a PractitionerRole."""
    for one in interpreters:
        reference = one.get("reference", "")
        if reference == signer:
            return True
        role = look_up(uow, reference) if reference.startswith("PractitionerRole/") else None
        if role is not None and role.json().get("practitioner", {}).get("reference") == signer:
            return True
    return False


def _content(signature: Signature) -> Iterable[Issue]:
    return rules.signing_issues(signature.report, [case.order_json for case in signature.cases])


def _orders(signature: Signature) -> Iterator[Issue]:
    """Every order named is answered: it is of the workflow, open, claimed by the signer, of the same patient and
    hospital, and has images that the report names."""
    report = signature.report
    known = {case.order.reference: case for case in signature.cases}
    first = signature.cases[0]
    for index, reference in enumerate(one.get("reference", "") for one in report.get("basedOn", [])):
        where = f"DiagnosticReport.basedOn[{index}]"
        case = known.get(reference)
        if case is None:
            if reference.startswith("ServiceRequest/") and not _is_protocol_of(signature, reference):
                yield _issue(f"{reference} is no order that this report can answer", where)
            continue
        if not case.is_open:
            yield _issue(f"{reference} is no longer open", where)
        yield from reader_issues(signature.people, signature.uow, case, "signed", where)
        if _patient(case) != _patient(first):
            yield _issue(f"{reference} is of another patient than {first.order.reference}", where)
        if case.order.owner != first.order.owner:
            yield _issue(f"{reference} is another organisation's than {first.order.reference}", where)
        if signature.read and not any(reference in rules.based_on(study) for study in signature.read):
            yield _issue(f"The report names no imaging study of {reference}", where)


def _patient(case: Case) -> str:
    return str(case.order_json.get("subject", {}).get("reference", ""))


def _is_protocol_of(signature: Signature, reference: str) -> bool:
    found = look_up(signature.uow, reference)
    orders = {case.order.reference for case in signature.cases}
    return found is not None and found.json().get("intent") == "filler-order" and bool(
        orders & set(rules.based_on(found.json()))
    )


def _studies(signature: Signature) -> Iterable[Issue]:
    found = [(reference, version.json() if version else None) for reference, version in signature.studies]
    orders = [case.order.reference for case in signature.cases]
    return rules.study_issues(found, _patient(signature.cases[0]), orders)


def _images(signature: Signature) -> Iterator[Issue]:
    """What came while the report was written was seen, and no study of the order is left out."""
    for case in signature.cases:
        yield from images.signing_issues(case, signature.report)


def _published(signature: Signature) -> Iterator[Issue]:
    """Images, or a correction, that the reader cannot have seen: they are published within a second."""
    for case in signature.cases:
        of_case = {study.reference for study in case.studies()}
        named = [ref for ref, study in signature.studies
                 if study is None or case.order.reference in rules.based_on(study.json())]
        for reference in signature.context.unpublished(signature.uow, case.order, [*named, *sorted(of_case)]):
            yield _issue(
                f"{reference} has images or corrections that are not published yet: look at it, and sign again",
                "DiagnosticReport.imagingStudy",
            )


def _priors(signature: Signature) -> Iterator[Issue]:
    """What was compared is a study of the same patient."""
    for reference in rules.priors(signature.report):
        study = look_up(signature.uow, reference)
        subject = study.json().get("subject", {}).get("reference") if study is not None else None
        if subject != _patient(signature.cases[0]):
            yield _issue(f"{reference}, named for comparison, is no study of the report's patient",
                         "DiagnosticReport.extension")


def _interpreter(signature: Signature) -> Iterator[Issue]:
    named = signature.report.get("resultsInterpreter")
    if named and not speaks_for(signature.uow, named, signature.signer):
        yield _issue("The results interpreter of a signed report is its signer", "DiagnosticReport.resultsInterpreter")


def _dose(signature: Signature) -> Iterator[Issue]:
    """A CT has its dose, from its Radiation Dose SR, or says why there is none."""
    if dose.absent_reason(signature.report) is not None:
        return
    for index, (reference, version) in enumerate(signature.studies):
        study = version.json() if version is not None else {}
        found = dose.of_study(study)
        if dose.is_ct(study) and (found is None or not found.is_known):
            yield _issue(
                f"{reference} is a CT without its dose: send its Radiation Dose SR, or say why there is none in the "
                f"extension {dose.ABSENT} (coded)",
                f"DiagnosticReport.imagingStudy[{index}]",
            )


def _indication(signature: Signature) -> Iterator[Issue]:
    for case in signature.cases:
        if not case.policy("coded-indication"):
            continue
        regulated = case.task(TaskKind.REGULATE) or {}
        protocols = [look_up(signature.uow, one) for one in
                     tasks.references(regulated.get("output", []), "ServiceRequest")]
        requests = [case.order_json, *(one.json() for one in protocols if one is not None)]
        concepts = [concept for request in requests for concept in request.get("reasonCode", [])]
        concepts += [one.get("valueCodeableConcept", {}) for one in signature.report.get("extension", [])
                     if one.get("url") == rules.INDICATION]
        if not any(one.get("code") for concept in concepts for one in concept.get("coding", [])):
            yield _issue(
                f"The indication of {case.order.reference} must be coded: in the order's or the protocol's reasonCode, "
                f"or in the extension {rules.INDICATION}",
                signature.place(case),
            )


def _category(signature: Signature) -> Iterator[Issue]:
    category = code_of(signature.report.get("conclusionCode", []), CONCLUSION_CATEGORY)
    known = ", ".join(DISPLAYS[CONCLUSION_CATEGORY])
    if category is not None and category not in DISPLAYS[CONCLUSION_CATEGORY]:
        yield _issue(f"A conclusion category is one of {known}", "DiagnosticReport.conclusionCode")
    elif category is None and any(case.policy("coded-conclusion") for case in signature.cases):
        yield _issue(f"The conclusion must have a category of {CONCLUSION_CATEGORY}: {known}",
                     "DiagnosticReport.conclusionCode")


def _authentication(signature: Signature) -> Iterator[Issue]:
    """How and when the signer proved who he is: asked where the token says it, or where policy asks for it."""
    caller, now = signature.uow.caller, signature.uow.now
    if caller.is_system:
        return
    case = signature.cases[0]
    wanted, minutes = str(case.policy("signing-acr")), int(case.policy("signing-max-age"))
    if wanted and caller.acr != wanted:
        yield Issue("error", "forbidden", f"A report is signed with a token of acr {wanted}", ("DiagnosticReport",))
    if caller.auth_time is None:
        if minutes:
            text = "A report is signed with a token that says when its person authenticated (auth_time)"
            yield Issue("error", "forbidden", text, ("DiagnosticReport",))
    elif caller.auth_time > now + SKEW or (minutes and caller.auth_time < now - timedelta(minutes=minutes)):
        text = f"The signer must have authenticated within the last {minutes} minutes: authenticate again"
        yield Issue("error", "forbidden", text, ("DiagnosticReport",))


SKEW = timedelta(seconds=30)
"""How far the clocks of two servers may differ."""

def _critical(sign: Signature) -> Iterable[Issue]:
    """Signing is no call: who signs is told while nobody of the hospital has heard of the critical result."""
    if rules.critical_category(sign.report):
        for case in sign.cases[:1]:
            if case.status(TaskKind.COMMUNICATE_CRITICAL) != "completed":
                yield Issue("warning", "business-rule", critical.WARNING, ("DiagnosticReport.conclusionCode",))


CHECKS: tuple[Check, ...] = (
    Check("content", _content, "R4 DiagnosticReport; arrêté du 22 septembre 2006"),
    Check("orders", _orders, "R4 DiagnosticReport.basedOn 0..*"),
    Check("studies", _studies, "RNIV; R4 DiagnosticReport.imagingStudy"),
    Check("images", _images, "docs/workflow.md, S8: no image acknowledged is read by nobody"),
    Check("published", _published, "PS3.18 §10.5: what was stored is to be seen before it is signed"),
    Check("priors", _priors, "RNIV"),
    Check("interpreter", _interpreter, "CSP R6316-3"),
    Check("dose", _dose, "arrêté du 22 septembre 2006; PS3.16 TID 10011"),
    Check("indication", _indication, "policy coded-indication"),
    Check("conclusion-category", _category, "policy coded-conclusion"),
    Check("critical", _critical, "ACR Practice Parameter for Communication; docs/workflow.md, S8"),
    Check("authentication", _authentication, "OpenID Connect Core §2 (acr, auth_time); PGSSI-S"),
)


def _issue(text: str, where: str) -> Issue:
    return Issue("error", "business-rule", text, (where,))
