"""Is this an R4 resource? Every problem at once, each with its place.

Structure, cardinality, types, primitives, required codes, reference targets, invariants and narrative, by the tables
of `resources.shapes`. Whether references resolve and whether a profile is met is asked elsewhere. What breaks a rule
is answered 422; what is no resource at all, 400.

http://hl7.org/fhir/R4/validation.html, docs/decisions/0002-table-driven-validation.md
"""

from __future__ import annotations

from typing import Any

from resources import registry
from resources.invariants import Scope
from resources.json import Json
from resources.outcomes import InvalidContent, Issue, Malformed
from resources.shapes import Run, check_resource


def validate(resource: Json | Any, *, type_name: str | None = None, bundle_type: str | None = None) -> list[Issue]:
    """All problems of a resource, none if it is in order; at most 100.

    `type_name`: the type it has to be (that of the URL). `bundle_type`: if it is a Bundle, the type it has to have.
    No text of an issue holds a value of the resource.
    """
    if not isinstance(resource, dict):
        return [Issue("error", "structure", "A resource is a JSON object", ("Resource",))]
    name: Any = resource.get("resourceType")
    root = name if registry.is_type(name) else "Resource"
    run = Run(Scope.of({}))
    check_resource(resource, root, run)
    if type_name is not None and registry.is_type(name) and name != type_name:
        run.add("invalid", f"A resource of type {type_name} is expected", (root, "resourceType"))
    if bundle_type is not None and name == "Bundle" and resource.get("type") != bundle_type:
        run.add("value", f"A Bundle of type {bundle_type} is expected", (root, "type"))
    return run.issues


def check(resource: Json | Any, *, type_name: str | None = None, bundle_type: str | None = None) -> None:
    """Raise InvalidContent (422) with every problem, or Malformed (400) if it is no R4 resource."""
    issues = validate(resource, type_name=type_name, bundle_type=bundle_type)
    if not issues:
        return
    is_resource = isinstance(resource, dict) and registry.is_type(resource.get("resourceType"))
    fault = InvalidContent if is_resource else Malformed
    raise fault(issues[0].diagnostics, issues=issues)
