"""Rules of an imaging order: what makes a ServiceRequest one, what it must say, what makes a protocol.

Only what the state machine cannot do without is refused here; which further content of the demande d'examen
(CSP R1333-52, TLR flow 1) a partner must send is for that partner's policy, `missing_content`.

FHIR R4 §12.15  http://hl7.org/fhir/R4/servicerequest.html
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from resources.codes import IMAGING_CATEGORIES, LOINC, codings, has_coding
from resources.exams import EXAMS
from resources.identifiers import ORDER, accession_identifier, accession_number, is_accession
from resources.json import Json
from resources.outcomes import Issue

PRIORITIES = ("stat", "asap", "urgent", "routine")
"""request-priority, the gravest first."""

Requirement = tuple[str, str, Callable[[Json], bool]]

REQUIREMENTS: Mapping[str, Requirement] = {
    "requester": (
        "ServiceRequest.requester",
        "The order must name its requester",
        lambda order: bool(order.get("requester")),
    ),
    "justification": (
        "ServiceRequest.reasonCode",
        "The order must give its justification (reasonCode or reasonReference)",
        lambda order: bool(order.get("reasonCode") or order.get("reasonReference")),
    ),
    "history": (
        "ServiceRequest.supportingInfo",
        "The order must give the clinical context (supportingInfo or note)",
        lambda order: bool(order.get("supportingInfo") or order.get("note")),
    ),
    "region": (
        "ServiceRequest.bodySite",
        "The order must name the anatomical region",
        lambda order: bool(order.get("bodySite")),
    ),
    "encounter": (
        "ServiceRequest.encounter",
        "The order must name the encounter",
        lambda order: bool(order.get("encounter")),
    ),
    "placer": (
        "ServiceRequest.identifier",
        "The order must carry the hospital's own order number",
        lambda order: any(
            not is_accession(identifier) and identifier.get("system") != ORDER
            for identifier in order.get("identifier", [])
        ),
    ),
}
"""Content that a partner's policy can ask for, by name."""


def is_imaging_order(resource: Json) -> bool:
    """Whether this ServiceRequest is an order to the workflow: intent order, to be performed, and imaging by its
    category or by a LOINC exam code. Everything else is stored and left alone."""
    if resource.get("intent") != "order" or resource.get("doNotPerform"):
        return False
    if has_coding(resource.get("category", []), IMAGING_CATEGORIES):
        return True
    return any(system == LOINC and code in EXAMS for system, code in codings(resource.get("code", {})))


def is_protocol(resource: Json) -> bool:
    """Whether this ServiceRequest is a protocol: the filler's order, based on the hospital's."""
    return resource.get("intent") == "filler-order" and bool(resource.get("basedOn"))


def has_protocol_content(resource: Json) -> bool:
    """Whether a protocol says how the exam is to be done."""
    if resource.get("instantiatesCanonical") or resource.get("instantiatesUri") or resource.get("orderDetail"):
        return True
    texts = [note.get("text", "") for note in resource.get("note", [])] + [resource.get("patientInstruction", "")]
    return any(text.strip() for text in texts)


def check_order(order: Json, required: tuple[str, ...] = ()) -> list[Issue]:
    """What is missing of an imaging order: a subject that is a Patient, a code, and the `required` by policy."""
    issues: list[Issue] = []
    if not order.get("subject", {}).get("reference", "").startswith("Patient/"):
        issues.append(_required("The order must name its patient, a Patient of this server", "ServiceRequest.subject"))
    code = order.get("code", {})
    if not (code.get("coding") or code.get("text", "").strip()):
        issues.append(_required("The order must name the exam, by code or in words", "ServiceRequest.code"))
    for name in required:
        expression, text, test = REQUIREMENTS[name]
        if not test(order):
            issues.append(_required(text, expression))
    return issues


def complete_order(order: Json, order_id: str, platform: str, before: Json | None = None) -> None:
    """Give the order what the server adds: a priority, an accession number, kept over the sender's later updates."""
    order.setdefault("priority", "routine")
    identifiers = order.get("identifier", [])
    if any(is_accession(identifier) for identifier in identifiers):
        return
    kept = [identifier for identifier in (before or {}).get("identifier", []) if is_accession(identifier)]
    order["identifier"] = [*identifiers, *(kept or [accession_identifier(accession_number(order_id), platform)])]


def _required(text: str, expression: str) -> Issue:
    return Issue("error", "required", text, (expression,))
