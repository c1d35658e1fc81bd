"""The R4 invariants of severity error, by hand, as tables: (path, key) → function.

Those of data types and of every resource are here, with what the other tables are made of; `invariants_clinical`,
`invariants_conformance`, `invariants_structure` and `bundle_rules` have the others. A rule says whether the element is
in order; one that can say where it is not gives the places instead. Rules are asked of whatever was sent, right or
wrong in structure, and never raise: they read through `resources.elements` only. The official text of each is in
`definitions.constraints()`.

http://hl7.org/fhir/R4/conformance-rules.html#constraints
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from resources.elements import distinct, has, has_choice, in_order, items, number, objects, text, texts
from resources.json import Json


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
    """A rule: at least one of these elements is there (a choice counts by any of its types)."""
    return lambda node, _scope: any(has(node, name) or has_choice(node, name) for name in names)


def not_both(one: str, other: str) -> Rule:
    """A rule: these two elements are not there together."""
    return lambda node, _scope: (
        not ((has(node, one) or has_choice(node, one)) and (has(node, other) or has_choice(node, other)))
    )


def either(one: str, other: str) -> Rule:
    """One and only one."""
    return lambda node, _scope: (
        (has(node, one) or has_choice(node, one)) != (has(node, other) or has_choice(node, other))
    )


def unique(name: str, *keys: str) -> Rule:
    """No two items of the list have the same keys; an item without any of them does not count."""

    def rule(node: Json, _scope: Scope) -> bool:
        found = [tuple(text(item, key) for key in keys) for item in objects(node, name)]
        return distinct([key for key in found if any(part is not None for part in key)])

    return rule


def only_when(name: str, key: str, *values: str) -> Rule:
    """The element exists only if `key` is one of `values`."""
    return lambda node, _scope: not has(node, name) or text(node, key) in values


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
