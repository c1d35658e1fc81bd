"""`_summary` and `_elements`: a part of a resource, tagged SUBSETTED.

FHIR R4 §3.1.1.5.8, §3.1.1.5.9 http://hl7.org/fhir/R4/search.html#summary
"""

from __future__ import annotations

from dataclasses import dataclass

from resources import definitions, jsontext
from resources.json import Json

_SUBSETTED = {"system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue", "code": "SUBSETTED"}
_ALWAYS = ("resourceType", "id", "meta", "implicitRules")


@dataclass(frozen=True, slots=True)
class Subset:
    """What is kept: `mode` is true, text, data or elements."""

    mode: str
    elements: frozenset[str] = frozenset()


def subset(content: bytes, wanted_subset: Subset) -> bytes:
    """The resource text reduced to the subset; mandatory elements stay (they make it valid)."""
    resource = jsontext.parse(content)
    type_name = resource["resourceType"]
    kept = _kept(type_name, wanted_subset)
    reduced: Json = {name: value for name, value in resource.items() if name in _ALWAYS or _root(name, kept) in kept}
    meta = dict(reduced.get("meta") or {})
    meta["tag"] = [*meta.get("tag", ()), _SUBSETTED]
    reduced["meta"] = meta
    return jsontext.dump(reduced)


def _root(name: str, kept: frozenset[str]) -> str:
    """The element that a JSON property belongs to: ``_birthDate`` → birthDate, ``valueQuantity`` → value."""
    bare = name.removeprefix("_")
    if bare in kept:
        return bare
    return next((element for element in kept if bare.startswith(element) and bare[len(element) :][:1].isupper()), bare)


def _kept(type_name: str, wanted_subset: Subset) -> frozenset[str]:
    elements = definitions.children(type_name)
    mandatory = {element.name for element in elements if element.min > 0}
    match wanted_subset.mode:
        case "text":
            return frozenset(mandatory | {"text"})
        case "data":
            return frozenset({element.name for element in elements} - {"text"})
        case "true":
            return frozenset(mandatory | {element.name for element in elements if element.summary})
        case _:
            return frozenset(mandatory | wanted_subset.elements)
