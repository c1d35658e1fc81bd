"""What fhir.resources thinks of a resource: an oracle beside our own tables (docs/decisions/0002)."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import ValidationError

from resources import registry
from resources.json import Json
from resources.models import _model
from resources.outcomes import Issue

_REQUIRED = frozenset({"missing", "model_field_validation.missing"})


def second_opinion(resource: Json) -> list[Issue]:
    """What fhir.resources finds wrong, as issues with places and without values."""
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
