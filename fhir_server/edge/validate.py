"""$validate: every problem of a resource, without storing it; and what was not checked, said.

A nominated profile that this server does not have is an error (R4: the server SHALL return an error if it cannot
validate against the nominated profile); each claim in `meta.profile` that was not checked is a warning.

FHIR R4 http://hl7.org/fhir/R4/resource-operation-validate.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from fhir_server.edge.exchange import Answer, Asked, of_json
from fhir_server.edge.ports import Services
from resources import sizes, validation
from resources.json import Json
from resources.outcomes import BadRequest, Conflict, Forbidden, ForbiddenTransition, Issue, outcome
from store.access import Access, Version

MODES = ("create", "update", "delete", "profile")
"""http://hl7.org/fhir/R4/valueset-resource-validation-mode.html; none: general validation."""

_BASE = "http://hl7.org/fhir/StructureDefinition/"
_CANONICAL = re.compile(r"[A-Za-z0-9.:/_#|\-]{1,250}")


def carry_out(services: Services, asked: Asked, intent: Access, resource: Json | None) -> Answer:
    """Validate what was sent or, at an instance without a body, what is stored there. Raises BadRequest, NotFound."""
    mode, profile = asked.given.one("mode"), asked.given.one("profile")
    type_name, logical_id = asked.route.type or "", asked.route.id
    _check_mode(mode, profile, logical_id, resource)
    if mode == "delete":
        return _told(_of_deletion(services, asked, intent))
    stored = None
    if resource is None:
        stored = _stored(services, asked, intent)
        resource = stored.json()
    sizes.check_elements(resource)
    issues = list(validation.validate(resource))
    if resource.get("resourceType") != type_name:
        issues.append(Issue("error", "value", "The resource is of another type than the URL", ("resourceType",)))
    if stored is None:
        issues += _of_id(mode, type_name, logical_id, resource)
    issues += _unchecked(type_name, profile, resource)
    return _told(issues)


def _check_mode(mode: str | None, profile: str | None, logical_id: str | None, resource: Json | None) -> None:
    """Raise BadRequest for what makes no sense together."""
    if mode == "delete" and logical_id is None:
        raise BadRequest("mode delete is asked of one resource: [type]/[id]/$validate", expression="http.mode")
    if mode == "profile" and (logical_id is None or resource is not None or profile is None):
        text = "mode profile asks of one stored resource ([type]/[id]/$validate, no body) whether it fits a profile"
        raise BadRequest(text, expression="http.mode")
    if resource is None and (logical_id is None or mode == "create"):
        raise BadRequest("There is no resource to validate", code="required", expression="http.resource")


def _stored(services: Services, asked: Asked, intent: Access) -> Version:
    with services.store.work(asked.caller, write=False, intent=intent) as uow:
        version = uow.resources.read(asked.route.type or "", asked.route.id or "")
        uow.note_as_one([_about(intent, version)])
    return version


def _of_deletion(services: Services, asked: Asked, intent: Access) -> list[Issue]:
    """Whether a deletion would be allowed; nothing is deleted."""
    type_name, logical_id = asked.route.type or "", asked.route.id or ""
    issues: list[Issue] = []
    with services.store.work(asked.caller, write=False, intent=intent) as uow:
        version = uow.resources.read(type_name, logical_id)
        try:
            uow.resources.check_delete(type_name, logical_id)
        except (Conflict, Forbidden, ForbiddenTransition) as error:
            issues += error.issues
        uow.note_as_one([_about(intent, version)])
    return issues


def _about(intent: Access, version: Version) -> Access:
    return replace(intent, version=version.version, patients=version.patients, owner=version.owner)


def _of_id(mode: str | None, type_name: str, logical_id: str | None, resource: Json) -> Iterator[Issue]:
    """What an update asks of the id (R4 §3.1.0.3)."""
    given = resource.get("id")
    if mode == "update" and given is None:
        yield Issue("error", "required", "An update bears the id of its resource", (f"{type_name}.id",))
    if logical_id is not None and mode != "create" and given not in (None, logical_id):
        yield Issue("error", "value", "The resource bears another id than the URL", (f"{type_name}.id",))


def _unchecked(type_name: str, nominated: str | None, resource: Json) -> Iterator[Issue]:
    if nominated is not None and not _is_checked(type_name, nominated):
        text = f"{_shown(nominated)} was not checked: this server does not have the profile"
        yield Issue("error", "not-supported", text, ("http.profile",))
    meta = resource.get("meta")
    claims = meta.get("profile") if isinstance(meta, dict) else None
    for index, claim in enumerate(claims if isinstance(claims, list) else ()):
        if isinstance(claim, str) and not _is_checked(type_name, claim):
            text = f"{_shown(claim)} was not checked: this server does not have the profile"
            yield Issue("warning", "not-supported", text, (f"{type_name}.meta.profile[{index}]",))


def _is_checked(type_name: str, canonical: str) -> bool:
    """Whether every validation checks it: the definition of the type itself, and those that it is made of."""
    url, _, version = canonical.partition("|")
    name = url.removeprefix(_BASE)
    return url != name and name in (type_name, "DomainResource", "Resource") and version in ("", "4.0", "4.0.1")


def _shown(canonical: str) -> str:
    """A canonical names a profile, not a person; what is none is not repeated."""
    return canonical if _CANONICAL.fullmatch(canonical) else "A profile"


def _told(issues: list[Issue]) -> Answer:
    return of_json(outcome(issues or [Issue("information", "informational", "No problem was found")]))
