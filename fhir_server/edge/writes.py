"""The write interactions: create, update, delete, each plain and conditional.

The upper half answers requests; the lower half are functions on a unit of work, which a transaction uses as well.

FHIR R4 §3.1.0 http://hl7.org/fhir/R4/http.html
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from urllib.parse import parse_qsl

from fhir_server.edge import binary, negotiation, summary
from fhir_server.edge.exchange import Answer, Asked, Parse, location, of_json, of_version, told, version_headers
from fhir_server.edge.negotiation import Precondition
from fhir_server.edge.parameters import Given
from fhir_server.edge.ports import Services
from resources import jsontext, sizes, validation
from resources.json import Json
from resources.outcomes import BadRequest, Issue, NotFound, PreconditionFailed, outcome
from store.access import Access, Interaction, Version
from store.unit_of_work import UnitOfWork, outcome_of

Parameters = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Done:
    """What a write did. `version` is None where there was nothing to delete."""

    status: int
    version: Version | None
    warnings: tuple[Issue, ...] = ()
    """What the caller is told beside the answer."""


# — requests —


def create(services: Services, asked: Asked, intent: Access) -> Answer:
    """create, conditional where If-None-Exist or the URL has criteria (R4 §3.1.0.8, §3.1.0.8.1)."""
    type_name = asked.route.type or ""
    resource = _resource(asked)
    criteria = criteria_of(asked.headers.get("if-none-exist"), asked.given)
    return _written(
        services,
        asked,
        intent,
        lambda uow: make(uow, type_name, resource, parse=asked.parse, if_none_exist=criteria),
    )


def update(services: Services, asked: Asked, intent: Access) -> Answer:
    """update by id, or conditional update by criteria (R4 §3.1.0.3, §3.1.0.3.1)."""
    type_name, logical_id = asked.route.type or "", asked.route.id
    resource = _resource(asked)
    condition = negotiation.precondition(asked.headers.get("if-match"), asked.headers.get("if-none-match"))

    def change(uow: UnitOfWork) -> Done:
        if logical_id is None:
            return alter_found(uow, type_name, asked.given.criteria, resource, condition, parse=asked.parse)
        return alter(uow, type_name, logical_id, resource, condition)

    return _written(services, asked, intent, change)


def delete(services: Services, asked: Asked, intent: Access) -> Answer:
    """delete by id, or conditional delete by criteria (R4 §3.1.0.7, §3.1.0.7.1)."""
    type_name, logical_id = asked.route.type or "", asked.route.id
    condition = negotiation.precondition(asked.headers.get("if-match"), None)

    def change(uow: UnitOfWork) -> Done:
        if logical_id is None:
            return remove_found(uow, type_name, asked.given.criteria, condition, parse=asked.parse, raw=asked.raw)
        return remove(uow, type_name, logical_id, condition)

    done = services.store.transact(asked.caller, change, intent=intent)
    headers = () if done.version is None else (("ETag", negotiation.etag(done.version.version)),)
    return Answer(204, headers=headers)


def _resource(asked: Asked) -> Json:
    """The resource that was sent, valid and of the type and id of the URL. Raises BadRequest, InvalidContent."""
    if asked.resource is not None:
        return asked.resource
    type_name, logical_id = asked.route.type or "", asked.route.id
    if type_name == "Binary" and not negotiation.is_fhir_json(asked.headers.get("content-type")):
        resource = binary.of_bytes(
            asked.body, asked.headers.get("content-type"), asked.headers.get("x-security-context")
        )
        if logical_id is not None:
            resource["id"] = logical_id
    else:
        negotiation.require_fhir_json(asked.headers.get("content-type"))
        resource = jsontext.parse(asked.body)
    return checked(type_name, resource, logical_id=logical_id)


def _written(services: Services, asked: Asked, intent: Access, change: Callable[[UnitOfWork], Done]) -> Answer:
    """Carry out the change in a transaction of its own; `Prefer` says what the answer holds (R4 §3.1.0.1.7)."""
    units: list[UnitOfWork] = []

    def carried_out(uow: UnitOfWork) -> Done:
        units.append(uow)
        return change(uow)

    done = services.store.transact(asked.caller, carried_out, intent=intent)
    warnings = units[-1].warnings
    version = done.version
    if version is None:
        return Answer(done.status)
    placed = (("Location", location(asked.base, version)),) if done.status in (200, 201) else ()
    headers = (*placed, *told(warnings))
    match asked.preference.returns:
        case "minimal":
            return Answer(done.status, b"", (*version_headers(version), *headers))
        case "OperationOutcome":
            body = outcome((*warnings, Issue("information", "informational", "Done")))
            return of_json(body, done.status, (*version_headers(version), *headers))
        case _:
            shown = services.shown(version, asked.caller)
            if asked.given.subset is not None:
                shown = summary.subset(shown, asked.given.subset)
            return replace(of_version(version, done.status, headers=headers), body=shown)


def criteria_of(if_none_exist: str | None, given: Given) -> Parameters | None:
    """What a create is conditional on: If-None-Exist (with or without ``Type?`` in front) or the criteria in the URL.

    fhirpy's get_or_create sends them in the URL: a filter is never ignored, so there it is the condition.
    """
    if if_none_exist is None:
        return given.criteria or None
    query = if_none_exist.partition("?")[2] if "?" in if_none_exist else if_none_exist
    return tuple(parse_qsl(query, keep_blank_values=True))


# — in a unit of work —


def checked(type_name: str, resource: Json, *, logical_id: str | None = None) -> Json:
    """`resource`, valid for `type_name` (and bearing `logical_id` on update), or InvalidContent / BadRequest.

    Here, before the write transaction, it is also seen whether it costs too much to keep (`resources.budgets`).
    """
    if resource.get("resourceType") != type_name:
        raise BadRequest(
            f"resourceType must be {type_name}, as in the URL", code="value", expression=f"{type_name}.resourceType"
        )
    if logical_id is not None and resource.get("id") != logical_id:
        raise BadRequest(
            "The resource must bear the id of the URL (R4 §3.1.0.3)", code="value", expression=f"{type_name}.id"
        )
    sizes.check_elements(resource)
    validation.check(resource)
    sizes.check(type_name, resource)
    return resource


def make(
    uow: UnitOfWork, type_name: str, resource: Json, *, parse: Parse, if_none_exist: Parameters | None = None
) -> Done:
    """Create, or conditional create (R4 §3.1.0.8.1): 201 made, 200 it was there, 412 several are there."""
    if if_none_exist is not None:
        found = matches(uow, type_name, if_none_exist, parse)
        if found:  # read, so that the disclosure is on record
            return Done(200, uow.resources.read(type_name, found[0].id))
    return Done(201, uow.resources.create(type_name, resource))


def alter(uow: UnitOfWork, type_name: str, logical_id: str, resource: Json, condition: Precondition) -> Done:
    """Update, or create under the client's id (R4 §3.1.0.3): 200 updated, 201 created.

    PreconditionFailed where the condition does not hold; a deleted resource is none (RFC 9110 §13.1.1, §13.1.2).
    """
    if condition.only_new and uow.resources.exists(type_name, logical_id):
        raise PreconditionFailed("If-None-Match: * and the resource exists")
    _require(uow, type_name, logical_id, condition)
    version = uow.resources.update(type_name, logical_id, resource, if_match=condition.if_match)
    return Done(201 if version.version == 1 or condition.only_new else 200, version)


def alter_found(
    uow: UnitOfWork, type_name: str, criteria: Parameters, resource: Json, condition: Precondition, *, parse: Parse
) -> Done:
    """Conditional update (R4 §3.1.0.3.1): none → create, one → update it, several → 412."""
    found = matches(uow, type_name, criteria, parse)
    given = resource.get("id")
    if not found:
        if condition.only_existing:
            raise PreconditionFailed(_NOTHING_TO_MATCH)
        if given is not None:
            return alter(uow, type_name, given, resource, condition)
        return Done(201, uow.resources.create(type_name, resource))
    target = found[0].id
    if given is not None and given != target:
        raise BadRequest("The id in the body is not that of the resource found", expression=f"{type_name}.id")
    return alter(uow, type_name, target, {**resource, "id": target}, condition)


_NOTHING_TO_MATCH = "If-Match: * and there is no such resource"


def _require(uow: UnitOfWork, type_name: str, logical_id: str, condition: Precondition) -> None:
    if condition.only_existing and not uow.resources.exists(type_name, logical_id):
        raise PreconditionFailed(_NOTHING_TO_MATCH)


def remove(uow: UnitOfWork, type_name: str, logical_id: str, condition: Precondition) -> Done:
    """Delete (R4 §3.1.0.5): 204, also when it was deleted before, was never there, or is another organisation's."""
    _require(uow, type_name, logical_id, condition)
    try:
        return Done(204, uow.resources.delete(type_name, logical_id, if_match=condition.if_match))
    except NotFound as error:
        # The answer is that of a resource that does not exist; the record says what was tried.
        reason = "404 not-found (another organisation's)" if error.foreign else "404 not-found"
        uow.note(Access(Interaction.DELETE, type_name, logical_id, outcome=outcome_of(error), reason=reason))
        return Done(204, None)


def remove_found(
    uow: UnitOfWork, type_name: str, criteria: Parameters, condition: Precondition, *, parse: Parse, raw: str
) -> Done:
    """Conditional delete of one (R4 §3.1.0.7.1): none → 204, one → deleted, several → 412.

    Where nothing is found it was a query all the same, and is recorded as one. `raw`: the request, for that record.
    """
    found = matches(uow, type_name, criteria, parse)
    if not found:
        if condition.only_existing:
            raise PreconditionFailed(_NOTHING_TO_MATCH)
        uow.note(Access(Interaction.SEARCH_TYPE, type_name, query=raw, detail=(("deleted", "0"),)))
        return Done(204, None)
    return remove(uow, type_name, found[0].id, condition)


def matches(uow: UnitOfWork, type_name: str, criteria: Parameters, parse: Parse) -> list[Version]:
    """What the criteria find, at most one; PreconditionFailed for more; BadRequest where they say nothing."""
    query = parse(type_name, criteria)
    if not query.criteria:
        raise BadRequest("Conditional criteria must hold at least one search parameter", code="required")
    found = uow.resources.conditional_match(type_name, query)
    if len(found) > 1:
        raise PreconditionFailed("The criteria find more than one resource", code="multiple-matches")
    return found
