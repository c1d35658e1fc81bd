"""The R4 invariants of the conformance, terminology and test resources, as tables like those of `resources.invariants`.

http://hl7.org/fhir/R4/conformance-module.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from resources.elements import count, distinct, has, has_choice, items, number, objects, text, texts
from resources.invariants import Rule, Scope, either, needs, not_both, one_of
from resources.outcomes import Json


def _inner(node: Json, name: str) -> Json:
    value = node.get(name)
    return value if isinstance(value, dict) else {}


def _unique(name: str, *keys: str) -> Rule:
    """No two items of the list have the same keys; an item without any of them does not count."""

    def rule(node: Json, _scope: Scope) -> bool:
        found = [tuple(text(item, key) for key in keys) for item in objects(node, name)]
        return distinct([key for key in found if any(part is not None for part in key)])

    return rule


def _only_when(name: str, key: str, *values: str) -> Rule:
    """The element exists only if `key` is one of `values`."""
    return lambda node, _scope: not has(node, name) or text(node, key) in values


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
    ("CapabilityStatement", "cpb-7"): _unique("document", "profile", "mode"),
    ("CapabilityStatement.rest", "cpb-9"): _unique("resource", "type"),
    ("CapabilityStatement.rest.resource", "cpb-12"): _unique("searchParam", "name"),
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
    ("Questionnaire.item", "que-10"): _only_when(
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


# ElementDefinition and StructureDefinition

_SLICE = re.compile(r"[a-zA-Z0-9/\-_\[\]@]+")
_NAME = r"[^\s.,:;'\"/|?!@#$%&*()\[\]{}]{1,64}"
_PATH = re.compile(rf"{_NAME}(?:\.{_NAME}(?:\[x\])?(?::[^\s.]+)?)*")
_BINDABLE = frozenset({"code", "Coding", "CodeableConcept", "Quantity", "string", "uri"})
_FHIR_TYPE = re.compile(r"[a-zA-Z0-9.]+|http://hl7\.org/fhirpath/System\.[A-Z][A-Za-z]+")


def _type_codes(node: Json) -> list[str]:
    return [code for code in (text(kind, "code") for kind in objects(node, "type")) if code is not None]


def _min_max(node: Json, _scope: Scope) -> bool:
    least, most = number(node, "min"), text(node, "max")
    return least is None or most is None or not most.isdecimal() or least <= int(most[:9])


def _max(node: Json, _scope: Scope) -> bool:
    most = text(node, "max")
    return most is None or most == "*" or most.isdecimal()


def _content_reference_alone(node: Json, _scope: Scope) -> bool:
    plain = ("type", "example", "maxLength", "binding")
    choices = ("defaultValue", "fixed", "pattern", "minValue", "maxValue")
    return not has(node, "contentReference") or not (
        any(has(node, name) for name in plain) or any(has_choice(node, name) for name in choices)
    )


def _one_type(name: str) -> Rule:
    return lambda node, _scope: not has_choice(node, name) or count(node, "type") <= 1


def _value_set_scheme(node: Json, _scope: Scope) -> bool:
    url = text(node, "valueSet")
    return url is None or url.startswith(("http:", "https", "urn:"))


def _bindable(node: Json, _scope: Scope) -> bool:
    codes = _type_codes(node)
    return not has(node, "binding") or not codes or bool(_BINDABLE & set(codes))


def _slice_name(node: Json, _scope: Scope) -> bool:
    name = text(node, "sliceName")
    return name is None or _SLICE.fullmatch(name) is not None


def _element_path(node: Json, _scope: Scope) -> bool:
    path = text(node, "path")
    return path is None or _PATH.fullmatch(path) is not None


ELEMENT_DEFINITION: Mapping[tuple[str, str], Rule] = {
    ("ElementDefinition", "eld-11"): _bindable,
    ("ElementDefinition", "eld-13"): _unique("type", "code"),
    ("ElementDefinition", "eld-14"): _unique("constraint", "key"),
    ("ElementDefinition", "eld-15"): not_both("defaultValue", "meaningWhenMissing"),
    ("ElementDefinition", "eld-16"): _slice_name,
    ("ElementDefinition", "eld-18"): lambda node, _scope: (
        node.get("isModifier") is not True or has(node, "isModifierReason")
    ),
    ("ElementDefinition", "eld-19"): _element_path,
    ("ElementDefinition", "eld-2"): _min_max,
    ("ElementDefinition", "eld-22"): needs("sliceIsConstraining", "sliceName"),
    ("ElementDefinition", "eld-3"): _max,
    ("ElementDefinition", "eld-5"): _content_reference_alone,
    ("ElementDefinition", "eld-6"): _one_type("fixed"),
    ("ElementDefinition", "eld-7"): _one_type("pattern"),
    ("ElementDefinition", "eld-8"): not_both("pattern", "fixed"),
    ("ElementDefinition.binding", "eld-12"): _value_set_scheme,
    ("ElementDefinition.slicing", "eld-1"): one_of("discriminator", "description"),
    ("ElementDefinition.type", "eld-17"): _only_when("targetProfile", "code", "Reference", "canonical"),
    ("ElementDefinition.type", "eld-4"): _only_when("aggregation", "code", "Reference", "canonical"),
}


def _view(node: Json, name: str) -> list[Json]:
    return objects(_inner(node, name), "element")


def _both_views(node: Json) -> list[Json]:
    return _view(node, "snapshot") + _view(node, "differential")


def _path(element: Json) -> str:
    return text(element, "path") or ""


def _unique_in(name: str, key: str) -> Rule:
    def rule(node: Json, _scope: Scope) -> bool:
        found = [text(element, key) for element in _view(node, name)]
        return distinct([value for value in found if value is not None])

    return rule


def _unique_paths(node: Json, scope: Scope) -> bool:
    return text(node, "derivation") == "constraint" or bool(_unique_in("snapshot", "path")(node, scope))


def _first_path_is_type(node: Json, _scope: Scope) -> bool:
    elements = _view(node, "snapshot")
    return text(node, "kind") == "logical" or not elements or _path(elements[0]) == text(node, "type")


def _root_has_no_type(name: str) -> Rule:
    def rule(node: Json, _scope: Scope) -> bool:
        elements = _view(node, name)
        if text(node, "kind") == "logical" or not elements or "." in _path(elements[0]):
            return True
        return not has(elements[0], "type")

    return rule


def _standard(node: Json) -> bool:
    return (text(node, "url") or "").startswith("http://hl7.org/fhir/StructureDefinition")


def _standard_types(node: Json, _scope: Scope) -> bool:
    codes = [code for element in _both_views(node) for code in _type_codes(element)]
    return not _standard(node) or all(_FHIR_TYPE.fullmatch(code) for code in codes)


def _no_defaults(node: Json, _scope: Scope) -> bool:
    return not _standard(node) or not any(has_choice(element, "defaultValue") for element in _both_views(node))


def _default_in_specialization(node: Json, _scope: Scope) -> bool:
    return text(node, "derivation") == "specialization" or not any(
        has_choice(element, "defaultValue") for element in _view(node, "differential")
    )


def _roots_lack(*names: str) -> Rule:
    return lambda node, _scope: (
        not any(has(element, name) for element in _both_views(node) if "." not in _path(element) for name in names)
    )


def _paths_below_type(node: Json, scope: Scope) -> bool:
    """sdf-8 and 8a: the first element is the type (or, in a differential, begins with it), the others are below it."""
    elements = objects(node, "element")
    if not elements:
        return True
    paths = [_path(element) for element in elements]
    head = paths[0].partition(".")[0]
    is_type = text(scope.resource, "kind") == "logical" or head == text(scope.resource, "type")
    return is_type and all(path.startswith(head + ".") for path in paths[1:])


def _each_element_has(*names: str) -> Rule:
    return lambda node, _scope: [
        f"element[{index}]"
        for index, element in enumerate(items(node, "element"))
        if not all(has(element, name) for name in names)
    ]


def _bound(node: Json, _scope: Scope) -> bool:
    return all(
        has(binding, "valueSet") or has(binding, "description")
        for element in objects(node, "element")
        for binding in [element.get("binding")]
        if isinstance(binding, dict)
    )


STRUCTURE_DEFINITION: Mapping[tuple[str, str], Rule] = {
    ("StructureDefinition", "sdf-1"): _unique_paths,
    ("StructureDefinition", "sdf-11"): _first_path_is_type,
    ("StructureDefinition", "sdf-14"): lambda node, _scope: all(has(element, "id") for element in _both_views(node)),
    ("StructureDefinition", "sdf-15"): _root_has_no_type("snapshot"),
    ("StructureDefinition", "sdf-15a"): _root_has_no_type("differential"),
    ("StructureDefinition", "sdf-16"): _unique_in("snapshot", "id"),
    ("StructureDefinition", "sdf-17"): _unique_in("differential", "id"),
    ("StructureDefinition", "sdf-18"): _only_when("contextInvariant", "type", "Extension"),
    ("StructureDefinition", "sdf-19"): _standard_types,
    ("StructureDefinition", "sdf-21"): _default_in_specialization,
    ("StructureDefinition", "sdf-22"): _no_defaults,
    ("StructureDefinition", "sdf-23"): _roots_lack("sliceName"),
    ("StructureDefinition", "sdf-4"): lambda node, _scope: node.get("abstract") is True or has(node, "baseDefinition"),
    ("StructureDefinition", "sdf-5"): lambda node, _scope: (
        text(node, "type") != "Extension" or text(node, "derivation") == "specialization" or has(node, "context")
    ),
    ("StructureDefinition", "sdf-6"): one_of("snapshot", "differential"),
    ("StructureDefinition", "sdf-9"): _roots_lack("label", "code", "requirements"),
    ("StructureDefinition.differential", "sdf-20"): lambda node, _scope: (
        not any(has(element, "slicing") for element in objects(node, "element") if "." not in _path(element))
    ),
    ("StructureDefinition.differential", "sdf-8a"): _paths_below_type,
    ("StructureDefinition.mapping", "sdf-2"): one_of("name", "uri"),
    ("StructureDefinition.snapshot", "sdf-10"): _bound,
    ("StructureDefinition.snapshot", "sdf-3"): _each_element_has("definition", "min", "max"),
    ("StructureDefinition.snapshot", "sdf-8"): _paths_below_type,
    ("StructureDefinition.snapshot", "sdf-8b"): _each_element_has("base"),
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
    resources = objects(_inner(node, "definition"), "resource")
    return all(set(texts(resource, "fhirVersion")) <= known for resource in resources)


DEFINITIONS: Mapping[tuple[str, str], Rule] = {
    ("ImplementationGuide", "ig-2"): _fhir_versions,
    ("ImplementationGuide.definition", "ig-1"): _groupings,
    ("Measure", "mea-1"): _strata_criteria,
    ("MessageDefinition.focus", "md-1"): _focus_max,
    ("OperationDefinition.parameter", "opd-1"): one_of("type", "part"),
    ("OperationDefinition.parameter", "opd-2"): _only_when("searchType", "type", "string"),
    ("OperationDefinition.parameter", "opd-3"): _only_when("targetProfile", "type", "Reference", "canonical"),
    ("SearchParameter", "spd-1"): needs("xpath", "xpathUsage"),
    ("SearchParameter", "spd-2"): _only_when("chain", "type", "reference"),
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
        or text(_inner(node, "type"), "code") in without
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
    **ELEMENT_DEFINITION,
    **STRUCTURE_DEFINITION,
    **DEFINITIONS,
    **TESTS,
}
