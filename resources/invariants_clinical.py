"""The R4 invariants of the clinical and administrative resources, as a table like those of `resources.invariants`.

http://hl7.org/fhir/R4/resourcelist.html
"""

from __future__ import annotations

from collections.abc import Mapping

from resources.elements import coded, count, has, has_choice, in_order, items, number, objects, reference_type, text
from resources.invariants import UCUM, Rule, Scope, either, needs, not_both, one_of
from resources.json import Json

_TERMINOLOGY = "http://terminology.hl7.org/CodeSystem/"


def _says(node: Json, name: str, system: str, *codes: str) -> bool:
    return any(coded(node, name, system, code) for code in codes)


def _entered_in_error(node: Json, system: str) -> bool:
    return _says(node, "verificationStatus", _TERMINOLOGY + system, "entered-in-error")


def _repeated_component_code(node: Json, scope: Scope) -> bool:
    if not has_choice(node, "value"):
        return True
    own = _codings(scope.resource)
    return all(own.isdisjoint(_codings(component)) for component in objects(node, "component"))


def _codings(node: Json) -> set[str]:
    """The codings of `code`, each as a text by which it is compared."""
    code = node.get("code")
    codings = objects(code, "coding") if isinstance(code, dict) else []
    return {repr(sorted(coding.items())) for coding in codings}


def _no_home(name: str) -> Rule:
    return lambda node, _scope: [
        f"{name}[{index}]" for index, inner in enumerate(items(node, name)) if text(inner, "use") == "home"
    ]


def _appointment_times(node: Json, _scope: Scope) -> bool:
    return (has(node, "start") and has(node, "end")) or text(node, "status") in ("proposed", "cancelled", "waitlist")


def _percentages(node: Json, _scope: Scope) -> bool:
    probability = node.get("probabilityRange")
    ends = [probability.get(end) for end in ("low", "high")] if isinstance(probability, dict) else []
    return all(text(q, "code") == "%" and text(q, "system") == UCUM for q in ends if isinstance(q, dict))


def _at_most_100(node: Json, _scope: Scope) -> bool:
    value = number(node, "probabilityDecimal")
    return value is None or value <= 100


def _behalf_of_a_practitioner(node: Json, _scope: Scope) -> bool:
    return not has(node, "onBehalfOf") or reference_type(node.get("member")) in (None, "Practitioner")


def _list_entries(mode: str, name: str) -> Rule:
    return lambda node, _scope: text(node, "mode") == mode or not any(has(e, name) for e in objects(node, "entry"))


def _stratified(node: Json, _scope: Scope) -> bool:
    return all(
        has_choice(stratum, "value") != has(stratum, "component")
        for group in objects(node, "group")
        for stratifier in objects(group, "stratifier")
        for stratum in objects(stratifier, "stratum")
    )


def _reference_sequences(node: Json, _scope: Scope) -> bool:
    names = ("genomeBuild", "referenceSeqId", "referenceSeqPointer", "referenceSeqString")
    return sum(has(node, name) for name in names) == 1


def _one_parameter_content(node: Json, _scope: Scope) -> bool:
    return sum((has(node, "part"), has_choice(node, "value"), has(node, "resource"))) == 1


_AIT = "allergyintolerance-verification"
_CON = _TERMINOLOGY + "condition-clinical"

CLINICAL: Mapping[tuple[str, str], Rule] = {
    ("AllergyIntolerance", "ait-1"): lambda node, _: _entered_in_error(node, _AIT) or has(node, "clinicalStatus"),
    ("AllergyIntolerance", "ait-2"): lambda node, _: (
        not (_entered_in_error(node, _AIT) and has(node, "clinicalStatus"))
    ),
    ("Appointment", "app-2"): lambda node, _: has(node, "start") == has(node, "end"),
    ("Appointment", "app-3"): _appointment_times,
    ("Appointment", "app-4"): lambda node, _: (
        not has(node, "cancelationReason") or text(node, "status") in ("no-show", "cancelled")
    ),
    ("Appointment.participant", "app-1"): one_of("type", "actor"),
    ("AppointmentResponse", "apr-1"): one_of("participantType", "actor"),
    ("AuditEvent.entity", "sev-1"): not_both("name", "query"),
    ("CarePlan.activity", "cpl-3"): not_both("detail", "reference"),
    ("CareTeam.participant", "ctm-1"): _behalf_of_a_practitioner,
    ("Composition.section", "cmp-1"): one_of("text", "entry", "section"),
    ("Composition.section", "cmp-2"): not_both("emptyReason", "entry"),
    ("Condition", "con-4"): lambda node, _: (
        not has_choice(node, "abatement") or _says(node, "clinicalStatus", _CON, "resolved", "remission", "inactive")
    ),
    ("Condition", "con-5"): lambda node, _: (
        not (_entered_in_error(node, "condition-ver-status") and has(node, "clinicalStatus"))
    ),
    ("Condition.evidence", "con-2"): one_of("code", "detail"),
    ("Condition.stage", "con-1"): one_of("summary", "assessment"),
    ("Consent", "ppc-1"): one_of("policy", "policyRule"),
    ("CoverageEligibilityResponse.insurance.item", "ces-1"): either("category", "productOrService"),
    ("FamilyMemberHistory", "fhs-1"): not_both("age", "born"),
    ("FamilyMemberHistory", "fhs-2"): lambda node, _: has_choice(node, "age") or not has(node, "estimatedAge"),
    ("Goal.target", "gol-1"): lambda node, _: has(node, "measure") or not has_choice(node, "detail"),
    ("Group", "grp-1"): lambda node, _: not has(node, "member") or node.get("actual") is True,
    ("Immunization.education", "imm-1"): one_of("documentType", "reference"),
    ("ImmunizationRecommendation.recommendation", "imr-1"): one_of("vaccineCode", "targetDisease"),
    ("InsurancePlan", "ipn-1"): one_of("identifier", "name"),
    ("Linkage", "lnk-1"): lambda node, _: count(node, "item") > 1,
    ("List", "lst-1"): not_both("emptyReason", "entry"),
    ("List", "lst-2"): _list_entries("changes", "deleted"),
    ("List", "lst-3"): _list_entries("working", "date"),
    ("MeasureReport", "mrp-1"): lambda node, _: text(node, "type") != "data-collection" or not has(node, "group"),
    ("MeasureReport", "mrp-2"): _stratified,
    ("MedicationAdministration.dosage", "mad-1"): one_of("dose", "rate"),
    ("MedicationDispense", "mdd-1"): lambda node, _: in_order(node, "whenPrepared", "whenHandedOver"),
    ("MolecularSequence", "msq-3"): lambda node, _: number(node, "coordinateSystem") in (None, 0, 1),
    ("MolecularSequence.referenceSeq", "msq-5"): lambda node, _: has(node, "chromosome") == has(node, "genomeBuild"),
    ("MolecularSequence.referenceSeq", "msq-6"): _reference_sequences,
    ("Observation", "obs-6"): not_both("dataAbsentReason", "value"),
    ("Observation", "obs-7"): _repeated_component_code,
    ("Observation.referenceRange", "obs-3"): one_of("low", "high", "text"),
    ("Organization", "org-1"): one_of("identifier", "name"),
    ("Organization", "org-2"): _no_home("address"),
    ("Organization", "org-3"): _no_home("telecom"),
    ("Parameters.parameter", "inv-1"): _one_parameter_content,
    ("Patient.contact", "pat-1"): one_of("name", "telecom", "address", "organization"),
    ("QuestionnaireResponse.item", "qrs-1"): not_both("answer", "item"),
    ("RequestGroup.action", "rqg-1"): either("resource", "action"),
    ("RiskAssessment.prediction", "ras-1"): _percentages,
    ("RiskAssessment.prediction", "ras-2"): _at_most_100,
    ("ServiceRequest", "prr-1"): needs("orderDetail", "code"),
    ("Task", "inv-1"): lambda node, _: in_order(node, "authoredOn", "lastModified"),
}
