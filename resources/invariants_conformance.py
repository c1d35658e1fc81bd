"""The R4 invariants of the conformance, terminology and test resources, as tables like those of `resources.invariants`.

http://hl7.org/fhir/R4/conformance-module.html
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from resources.elements import count, distinct, has, has_choice, inner, objects, text, texts
from resources.invariants import Rule, Scope, either, needs, not_both, one_of, only_when, unique
from resources.json import Json


def _required_when(name: str, key: str, value: str) -> Rule:
    return lambda node, _scope: text(node, key) != value or has(node, name)


# CapabilityStatement and TerminologyCapabilities


def _kind(kind: str, present: tuple[str, ...], absent: tuple[str, ...]) -> Rule:
    return lambda node, _scope: (
        text(node, "kind") != kind
        or (all(has(node, name) for name in present) and not any(has(node, name) for name in absent))
    )


def _messaging_endpoint(node: Json, _scope: Scope) -> bool:
    return text(node, "kind") == "instance" or not any(has(m, "endpoint") for m in objects(node, "messaging"))


def _version_codes(node: Json, _scope: Scope) -> bool:
    versions = objects(node, "version")
    return len(versions) < 2 or all(has(version, "code") for version in versions)


CAPABILITIES: Mapping[tuple[str, str], Rule] = {
    ("CapabilityStatement", "cpb-1"): one_of("rest", "messaging", "document"),
    ("CapabilityStatement", "cpb-14"): _kind("instance", ("implementation",), ()),
    ("CapabilityStatement", "cpb-15"): _kind("capability", ("software",), ("implementation",)),
    ("CapabilityStatement", "cpb-16"): _kind("requirements", (), ("implementation", "software")),
    ("CapabilityStatement", "cpb-2"): one_of("description", "software", "implementation"),
    ("CapabilityStatement", "cpb-3"): _messaging_endpoint,
    ("CapabilityStatement", "cpb-7"): unique("document", "profile", "mode"),
    ("CapabilityStatement.rest", "cpb-9"): unique("resource", "type"),
    ("CapabilityStatement.rest.resource", "cpb-12"): unique("searchParam", "name"),
    ("TerminologyCapabilities", "tcp-2"): one_of("description", "software", "implementation"),
    ("TerminologyCapabilities", "tcp-3"): _kind("instance", ("implementation",), ()),
    ("TerminologyCapabilities", "tcp-4"): _kind("capability", ("software",), ("implementation",)),
    ("TerminologyCapabilities", "tcp-5"): _kind("requirements", (), ("implementation", "software")),
    ("TerminologyCapabilities.codeSystem", "tcp-1"): _version_codes,
}


# Terminology


def _concept_codes(node: Json) -> Iterator[str | None]:
    for concept in objects(node, "concept"):
        yield text(concept, "code")
        yield from _concept_codes(concept)


def _unique_codes(node: Json, _scope: Scope) -> bool:
    return distinct([code for code in _concept_codes(node) if code is not None])


def _one_preferred(node: Json, _scope: Scope) -> bool:
    return distinct([text(i, "type") for i in objects(node, "uniqueId") if i.get("preferred") is True])


TERMINOLOGY: Mapping[tuple[str, str], Rule] = {
    ("CodeSystem", "csd-1"): _unique_codes,
    ("ConceptMap.group.element.target", "cmd-1"): lambda node, _scope: (
        has(node, "comment") or text(node, "equivalence") not in ("narrower", "inexact")
    ),
    ("ConceptMap.group.unmapped", "cmd-2"): _required_when("code", "mode", "fixed"),
    ("ConceptMap.group.unmapped", "cmd-3"): _required_when("url", "mode", "other-map"),
    ("NamingSystem", "nsd-1"): lambda node, _scope: (
        text(node, "kind") != "root" or all(text(i, "type") != "uuid" for i in objects(node, "uniqueId"))
    ),
    ("NamingSystem", "nsd-2"): _one_preferred,
    ("ValueSet.compose.include", "vsd-1"): one_of("valueSet", "system"),
    ("ValueSet.compose.include", "vsd-2"): lambda node, _scope: (
        has(node, "system") or not (has(node, "concept") or has(node, "filter"))
    ),
    ("ValueSet.compose.include", "vsd-3"): not_both("concept", "filter"),
    ("ValueSet.expansion.contains", "vsd-10"): needs("code", "system"),
    ("ValueSet.expansion.contains", "vsd-6"): one_of("code", "display"),
    ("ValueSet.expansion.contains", "vsd-9"): lambda node, _scope: has(node, "code") or node.get("abstract") is True,
}


# Questionnaire


def _link_ids(node: Json) -> Iterator[str | None]:
    for item in objects(node, "item"):
        yield text(item, "linkId")
        yield from _link_ids(item)


def _unique_link_ids(node: Json, _scope: Scope) -> bool:
    return distinct([link for link in _link_ids(node) if link is not None])


def _not_in(kind: tuple[str, ...], *names: str) -> Rule:
    return lambda node, _scope: text(node, "type") not in kind or not any(has(node, name) for name in names)


def _nesting(node: Json, _scope: Scope) -> bool:
    kind = text(node, "type")
    return (kind != "group" or has(node, "item")) and (kind != "display" or not has(node, "item"))


def _exists_is_boolean(node: Json, _scope: Scope) -> bool:
    return text(node, "operator") != "exists" or has(node, "answerBoolean") or not has_choice(node, "answer")


_ANSWERABLE = ("choice", "open-choice", "decimal", "integer", "date", "dateTime", "time", "string", "quantity")

QUESTIONNAIRE: Mapping[tuple[str, str], Rule] = {
    ("Questionnaire", "que-2"): _unique_link_ids,
    ("Questionnaire.item", "que-1"): _nesting,
    ("Questionnaire.item", "que-10"): only_when(
        "maxLength", "type", "boolean", "decimal", "integer", "string", "text", "url", "open-choice"
    ),
    ("Questionnaire.item", "que-11"): not_both("answerOption", "initial"),
    ("Questionnaire.item", "que-12"): lambda node, _scope: (
        count(node, "enableWhen") <= 2 or has(node, "enableBehavior")
    ),
    ("Questionnaire.item", "que-13"): lambda node, _scope: node.get("repeats") is True or count(node, "initial") <= 1,
    ("Questionnaire.item", "que-3"): _not_in(("display",), "code"),
    ("Questionnaire.item", "que-4"): not_both("answerOption", "answerValueSet"),
    ("Questionnaire.item", "que-5"): lambda node, _scope: (
        text(node, "type") in _ANSWERABLE or not (has(node, "answerValueSet") or has(node, "answerOption"))
    ),
    ("Questionnaire.item", "que-6"): _not_in(("display",), "required", "repeats"),
    ("Questionnaire.item", "que-8"): _not_in(("group", "display"), "initial"),
    ("Questionnaire.item", "que-9"): _not_in(("display",), "readOnly"),
    ("Questionnaire.item.enableWhen", "que-7"): _exists_is_boolean,
}


# The other definitions


def _strata_criteria(node: Json, _scope: Scope) -> bool:
    return all(
        any(has(stratifier, name) for name in ("code", "description", "criteria")) != has(stratifier, "component")
        for group in objects(node, "group")
        for stratifier in objects(group, "stratifier")
    )


def _focus_max(node: Json, _scope: Scope) -> bool:
    most = text(node, "max")
    return most is None or most == "*" or (most.isdecimal() and most.strip("0") != "")


def _groupings(node: Json, _scope: Scope) -> bool:
    known = {text(grouping, "id") for grouping in objects(node, "grouping")}
    return all(text(row, "groupingId") in known | {None} for row in objects(node, "resource"))


def _fhir_versions(node: Json, _scope: Scope) -> bool:
    known = set(texts(node, "fhirVersion"))
    resources = objects(inner(node, "definition"), "resource")
    return all(set(texts(resource, "fhirVersion")) <= known for resource in resources)


DEFINITIONS: Mapping[tuple[str, str], Rule] = {
    ("ImplementationGuide", "ig-2"): _fhir_versions,
    ("ImplementationGuide.definition", "ig-1"): _groupings,
    ("Measure", "mea-1"): _strata_criteria,
    ("MessageDefinition.focus", "md-1"): _focus_max,
    ("OperationDefinition.parameter", "opd-1"): one_of("type", "part"),
    ("OperationDefinition.parameter", "opd-2"): only_when("searchType", "type", "string"),
    ("OperationDefinition.parameter", "opd-3"): only_when("targetProfile", "type", "Reference", "canonical"),
    ("SearchParameter", "spd-1"): needs("xpath", "xpathUsage"),
    ("SearchParameter", "spd-2"): only_when("chain", "type", "reference"),
    ("StructureMap.group.rule.target", "smp-1"): needs("element", "context"),
    ("StructureMap.group.rule.target", "smp-2"): needs("context", "contextType"),
}


# TestScript and TestReport

_ASSERTIONS = (
    "contentType", "expression", "headerField", "minimumId", "navigationLinks", "path", "requestMethod", "resource",
    "responseCode", "response", "validateProfileId",
)  # fmt: skip


def _one_assertion(node: Json, _scope: Scope) -> bool:
    return has(node, "extension") or sum(has(node, name) for name in _ASSERTIONS) <= 1


def _compared(node: Json, _scope: Scope) -> bool:
    return has(node, "compareToSourceId") == (
        has(node, "compareToSourceExpression") or has(node, "compareToSourcePath")
    )


def _no_response_to_a_request(node: Json, _scope: Scope) -> bool:
    return text(node, "direction") != "request" or not (has(node, "response") or has(node, "responseCode"))


def _operation_target(node: Json, _scope: Scope) -> bool:
    without = ("capabilities", "search", "transaction", "history")
    return (
        has(node, "sourceId")
        or sum(has(node, name) for name in ("targetId", "url", "params")) == 1
        or text(inner(node, "type"), "code") in without
    )


def _variable_source(node: Json, _scope: Scope) -> bool:
    return not all(has(node, name) for name in ("expression", "headerField", "path"))


def _capability_use(node: Json, _scope: Scope) -> bool:
    found = objects(node, "capability")
    return not found or any(has(c, "required") or has(c, "validated") for c in found)


TESTS: Mapping[tuple[str, str], Rule] = {
    ("TestReport.setup.action", "inv-1"): either("operation", "assert"),
    ("TestReport.test.action", "inv-2"): either("operation", "assert"),
    ("TestScript.metadata", "tst-4"): _capability_use,
    ("TestScript.setup.action", "tst-1"): either("operation", "assert"),
    ("TestScript.setup.action.assert", "tst-10"): _compared,
    ("TestScript.setup.action.assert", "tst-12"): _no_response_to_a_request,
    ("TestScript.setup.action.assert", "tst-5"): _one_assertion,
    ("TestScript.setup.action.operation", "tst-7"): _operation_target,
    ("TestScript.test.action", "tst-2"): either("operation", "assert"),
    ("TestScript.variable", "tst-3"): _variable_source,
}
"""tst-6, 8, 9, 11 and 13 are tst-5, 7, 7, 10 and 12 at elements that have the content of those of `setup`."""

CONFORMANCE: Mapping[tuple[str, str], Rule] = {
    **CAPABILITIES,
    **TERMINOLOGY,
    **QUESTIONNAIRE,
    **DEFINITIONS,
    **TESTS,
}
