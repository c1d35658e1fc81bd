"""The R4 invariants of ElementDefinition and StructureDefinition, as tables like those of `resources.invariants`.

http://hl7.org/fhir/R4/structuredefinition.html#invs, http://hl7.org/fhir/R4/elementdefinition.html#invs
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from resources.elements import count, distinct, has, has_choice, inner, items, number, objects, text
from resources.invariants import Rule, Scope, needs, not_both, one_of, only_when, unique
from resources.json import Json

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
    ("ElementDefinition", "eld-13"): unique("type", "code"),
    ("ElementDefinition", "eld-14"): unique("constraint", "key"),
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
    ("ElementDefinition.type", "eld-17"): only_when("targetProfile", "code", "Reference", "canonical"),
    ("ElementDefinition.type", "eld-4"): only_when("aggregation", "code", "Reference", "canonical"),
}


def _view(node: Json, name: str) -> list[Json]:
    return objects(inner(node, name), "element")


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
    ("StructureDefinition", "sdf-18"): only_when("contextInvariant", "type", "Extension"),
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

STRUCTURE: Mapping[tuple[str, str], Rule] = {**ELEMENT_DEFINITION, **STRUCTURE_DEFINITION}
