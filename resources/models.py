"""The one gateway to fhir.resources: its R4B models, for resources of our own making and as a second opinion.

R4B 4.3.0 has the elements, cardinalities and types of R4 4.0.1 in all our types. A model is never the truth: it
loses digits of decimals and rewrites instants, so what was sent is kept as sent and checked by
`resources.validation`; a model is built from it only to be read.

The library is loaded on first use (a fifth of a second, 45 MB with a dozen types).
https://pypi.org/project/fhir.resources/, http://hl7.org/fhir/R4B/versions.html
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from resources import registry
from resources.json import Json
from resources.outcomes import Issue

_REQUIRED = frozenset({"missing", "model_field_validation.missing"})


def build(type_name: str, **elements: Any) -> Json:
    """A resource of our own making as JSON; elements that are None are left out.

    Takes JSON values, dates and datetimes with a zone, and models. A mistake here is ours, hence a ValueError.
    """
    given = {name: value for name, value in elements.items() if value is not None}
    try:
        model = _model(type_name).model_validate({"resourceType": type_name, **given})
    except KeyError as unknown:
        raise ValueError(f"An inner resource of {type_name} has no R4B model") from unknown
    built: Json = json.loads(model.model_dump_json())
    return built


def second_opinion(resource: Json) -> list[Issue]:
    """What fhir.resources finds wrong, as issues with places and without values."""
    from pydantic import ValidationError

    name = resource.get("resourceType")
    if not isinstance(name, str) or not _has_model(name):
        return [Issue("error", "structure", "There is no model of this resource type", ("Resource.resourceType",))]
    try:
        _model(name).model_validate(resource)
    except ValidationError as refusal:
        return [_issue(name, fault) for fault in refusal.errors(include_input=False, include_url=False)]
    except (KeyError, ValueError):
        # A contained or entry resource of an unknown type raises a bare KeyError('R4.FooType').
        return [Issue("error", "structure", "An inner resource is of a type without a model", (name,))]
    return []


def _issue(name: str, fault: Any) -> Issue:
    """A pydantic fault as an issue. Its own text is left out: for some faults it quotes the value."""
    where = name
    for part in fault["loc"]:
        where += f"[{part}]" if isinstance(part, int) else f".{part}"
    if fault["type"] in _REQUIRED:
        return Issue("error", "required", "A required element is missing", (where,))
    if fault["type"] == "extra_forbidden":
        return Issue("error", "structure", "R4 has no such element here", (where,))
    return Issue("error", "structure", "The element is not of its type", (where,))


@cache
def _has_model(name: str) -> bool:
    """R4B dropped a few types of R4 (EffectEvidenceSynthesis, the MedicinalProduct family, …)."""
    if not registry.is_type(name):
        return False
    try:
        _model(name)
    except (KeyError, ValueError, ImportError):
        return False
    return True


@cache
def _model(name: str) -> Any:
    from fhir.resources.R4B import get_fhir_model_class

    return get_fhir_model_class(name)
