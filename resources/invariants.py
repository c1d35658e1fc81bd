"""The R4 invariants of severity error, by hand, as tables: (path, key) → function.

Data types, Bundle and the clinical and administrative resources are here, the conformance resources in
`resources.invariants_conformance`. A rule says whether the element is in order; one that can say where it is not
gives the places instead. Rules are asked of whatever was sent, right or wrong in structure, and never raise: they
read through `resources.elements` only. The official text of each is in `definitions.constraints()`.

http://hl7.org/fhir/R4/conformance-rules.html#constraints
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from resources.elements import (
    coded,
    count,
    has,
    has_choice,
    in_order,
    items,
    number,
    objects,
    reference_type,
    text,
    texts,
)
from resources.outcomes import Json


@dataclass(slots=True)
class Scope:
    """Where an element is: its resource, and the resource that contains that one (%resource, %rootResource)."""

    resource: Json
    root: Json
    contained: Mapping[str, str | None]
    """The ids of the resources that the root contains, with their types."""

    @classmethod
    def of(cls, resource: Json) -> Scope:
        """The scope of a resource that nothing contains, or that an entry of a Bundle holds."""
        inner = objects(resource, "contained") if "contained" in resource else ()
        return cls(resource, resource, {text(one, "id") or "": text(one, "resourceType") for one in inner})


Rule = Callable[[Json, Scope], "bool | list[str]"]
"""True or no places: in order. False: not so. Places: what is wrong, as expressions below the element."""

UCUM = "http://unitsofmeasure.org"
_TERMINOLOGY = "http://terminology.hl7.org/CodeSystem/"


# Data types


def _ucum(node: Json) -> bool:
    """A code if there is a value, and no system but UCUM."""
    return (has(node, "code") or not has(node, "value")) and text(node, "system") in (None, UCUM)


def _age(node: Json, _scope: Scope) -> bool:
    value = number(node, "value")
    return _ucum(node) and (value is None or value > 0)


def _whole_count(node: Json, _scope: Scope) -> bool:
    value = number(node, "value")
    return _ucum(node) and text(node, "code") in (None, "1") and (value is None or "." not in str(value))


def _duration(node: Json, _scope: Scope) -> bool:
    return not has(node, "code") or (text(node, "system") == UCUM and has(node, "value"))


def _ratio(node: Json, _scope: Scope) -> bool:
    numerator = has(node, "numerator")
    return numerator == has(node, "denominator") and (numerator or has(node, "extension"))


def _range(node: Json, _scope: Scope) -> bool:
    """Comparable only in the same unit."""
    low, high = node.get("low"), node.get("high")
    if not isinstance(low, dict) or not isinstance(high, dict):
        return True
    if (low.get("code") or low.get("unit")) != (high.get("code") or high.get("unit")):
        return True
    least, most = number(low, "value"), number(high, "value")
    return least is None or most is None or least <= most


def _local_reference(node: Json, scope: Scope) -> bool:
    """`#` alone is the container itself (http://hl7.org/fhir/R4/references.html#contained)."""
    reference = text(node, "reference")
    return reference is None or reference[:1] != "#" or reference == "#" or reference[1:] in scope.contained


def _non_negative(name: str) -> Rule:
    def rule(node: Json, _scope: Scope) -> bool:
        value = number(node, name)
        return value is None or value >= 0

    return rule


def needs(name: str, *needed: str) -> Rule:
    """If `name` is there, one of `needed` is."""
    return lambda node, _scope: not has(node, name) or any(has(node, other) for other in needed)


def one_of(*names: str) -> Rule:
    return lambda node, _scope: any(has(node, name) or has_choice(node, name) for name in names)


def not_both(one: str, other: str) -> Rule:
    return lambda node, _scope: (
        not ((has(node, one) or has_choice(node, one)) and (has(node, other) or has_choice(node, other)))
    )


def either(one: str, other: str) -> Rule:
    """One and only one."""
    return lambda node, _scope: (
        (has(node, one) or has_choice(node, one)) != (has(node, other) or has_choice(node, other))
    )


def _offset(node: Json, _scope: Scope) -> bool:
    when = texts(node, "when")
    return not has(node, "offset") or (bool(when) and not set(when) & {"C", "CM", "CD", "CV"})


def _trigger(node: Json, _scope: Scope) -> bool:
    kind = text(node, "type") or ""
    return (
        (kind != "named-event" or has(node, "name"))
        and (kind != "periodic" or has_choice(node, "timing"))
        and (not kind.startswith("data-") or has(node, "data"))
    )


DATA_TYPES: Mapping[tuple[str, str], Rule] = {
    ("Age", "age-1"): _age,
    ("Attachment", "att-1"): needs("data", "contentType"),
    ("ContactPoint", "cpt-2"): needs("value", "system"),
    ("Count", "cnt-3"): _whole_count,
    ("DataRequirement.codeFilter", "drq-1"): either("path", "searchParam"),
    ("DataRequirement.dateFilter", "drq-2"): either("path", "searchParam"),
    ("Distance", "dis-1"): lambda node, _scope: _ucum(node),
    ("Duration", "drt-1"): _duration,
    ("Expression", "exp-1"): one_of("expression", "reference"),
    ("Extension", "ext-1"): either("extension", "value"),
    ("Period", "per-1"): lambda node, _scope: in_order(node, "start", "end"),
    ("Quantity", "qty-3"): needs("code", "system"),
    ("Range", "rng-2"): _range,
    ("Ratio", "rat-1"): _ratio,
    ("Reference", "ref-1"): _local_reference,
    ("Timing.repeat", "tim-1"): needs("duration", "durationUnit"),
    ("Timing.repeat", "tim-10"): not_both("timeOfDay", "when"),
    ("Timing.repeat", "tim-2"): needs("period", "periodUnit"),
    ("Timing.repeat", "tim-4"): _non_negative("duration"),
    ("Timing.repeat", "tim-5"): _non_negative("period"),
    ("Timing.repeat", "tim-6"): needs("periodMax", "period"),
    ("Timing.repeat", "tim-7"): needs("durationMax", "duration"),
    ("Timing.repeat", "tim-8"): needs("countMax", "count"),
    ("Timing.repeat", "tim-9"): _offset,
    ("TriggerDefinition", "trd-1"): not_both("data", "timing"),
    ("TriggerDefinition", "trd-2"): needs("condition", "data"),
    ("TriggerDefinition", "trd-3"): _trigger,
}


# Every resource


def _contained_where(condition: Callable[[Json], bool]) -> Rule:
    """The places of the contained resources of which the condition holds."""
    return lambda node, _scope: [
        f"contained[{index}]" for index, inner in enumerate(items(node, "contained")) if condition(inner)
    ]


def _unreferenced(node: Json, _scope: Scope) -> bool | list[str]:
    if "contained" not in node:
        return True
    links = set(_local_links(node))
    return [
        f"contained[{index}]"
        for index, inner in enumerate(items(node, "contained"))
        if "#" + (text(inner, "id") or " ") not in links and "#" not in _local_links(inner)
    ]


def _local_links(node: Any) -> Iterator[str]:
    """Every string that points into the resource: references, canonicals and URIs begin with `#` for that alone."""
    if isinstance(node, str):
        if node[:1] == "#":
            yield node
    elif isinstance(node, dict):
        for value in node.values():
            yield from _local_links(value)
    elif isinstance(node, list):
        for value in node:
            yield from _local_links(value)


def _meta_has(*names: str) -> Callable[[Json], bool]:
    def condition(inner: Json) -> bool:
        meta = inner.get("meta")
        return isinstance(meta, dict) and any(has(meta, name) for name in names)

    return condition


EVERY_RESOURCE: Mapping[tuple[str, str], Rule] = {
    ("DomainResource", "dom-2"): _contained_where(lambda inner: has(inner, "contained")),
    ("DomainResource", "dom-3"): _unreferenced,
    ("DomainResource", "dom-4"): _contained_where(_meta_has("versionId", "lastUpdated")),
    ("DomainResource", "dom-5"): _contained_where(_meta_has("security")),
}


# Bundle: http://hl7.org/fhir/R4/bundle.html#invs


def _first_is(kind: str, resource_type: str) -> Rule:
    def rule(node: Json, _scope: Scope) -> bool | list[str]:
        if text(node, "type") != kind:
            return True
        entries = items(node, "entry")
        first = entries[0].get("resource") if entries else None
        return isinstance(first, dict) and first.get("resourceType") == resource_type

    return rule


def _each_has(name: str, kinds: frozenset[str]) -> Rule:
    def rule(node: Json, _scope: Scope) -> list[str]:
        wanted = text(node, "type") in kinds
        return [f"entry[{i}]" for i, entry in enumerate(items(node, "entry")) if has(entry, name) != wanted]

    return rule


def _only_in_searches(node: Json, _scope: Scope) -> list[str]:
    if text(node, "type") == "searchset":
        return []
    return [f"entry[{i}].search" for i, entry in enumerate(items(node, "entry")) if has(entry, "search")]


def _unique_full_urls(node: Json, _scope: Scope) -> list[str]:
    if text(node, "type") == "history":
        return []
    seen: set[tuple[str, str | None]] = set()
    twice = []
    for index, entry in enumerate(items(node, "entry")):
        url = text(entry, "fullUrl")
        if url is None:
            continue
        meta = (entry.get("resource") or {}).get("meta") if isinstance(entry.get("resource"), dict) else None
        key = (url, text(meta, "versionId") if isinstance(meta, dict) else None)
        if key in seen:
            twice.append(f"entry[{index}].fullUrl")
        seen.add(key)
    return twice


def _document_identifier(node: Json, _scope: Scope) -> bool:
    identifier = node.get("identifier")
    return text(node, "type") != "document" or (
        isinstance(identifier, dict) and has(identifier, "system") and has(identifier, "value")
    )


BUNDLE: Mapping[tuple[str, str], Rule] = {
    ("Bundle", "bdl-1"): lambda node, _: not has(node, "total") or text(node, "type") in ("searchset", "history"),
    ("Bundle", "bdl-2"): _only_in_searches,
    ("Bundle", "bdl-3"): _each_has("request", frozenset({"batch", "transaction", "history"})),
    ("Bundle", "bdl-4"): _each_has("response", frozenset({"batch-response", "transaction-response", "history"})),
    ("Bundle", "bdl-7"): _unique_full_urls,
    ("Bundle", "bdl-9"): _document_identifier,
    ("Bundle", "bdl-10"): lambda node, _: text(node, "type") != "document" or text(node, "timestamp") is not None,
    ("Bundle", "bdl-11"): _first_is("document", "Composition"),
    ("Bundle", "bdl-12"): _first_is("message", "MessageHeader"),
    ("Bundle.entry", "bdl-5"): one_of("resource", "request", "response"),
    ("Bundle.entry", "bdl-8"): lambda node, _: "/_history/" not in (text(node, "fullUrl") or ""),
}


# Clinical and administrative resources


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
