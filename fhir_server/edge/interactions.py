"""The write interactions as functions on a unit of work: no Flask, no transaction handling, no rendering.

FHIR R4 §3.1.0 http://hl7.org/fhir/R4/http.html
"""

from __future__ import annotations

from dataclasses import dataclass

from fhir_server.edge.exchange import Parse
from resources import validation
from resources.json import Json
from resources.outcomes import BadRequest, NotFound, PreconditionFailed
from store.access import Access, Interaction, Version
from store.unit_of_work import UnitOfWork, outcome_of

Parameters = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Done:
    """What a write did. `version` is None where there was nothing to delete."""

    status: int
    version: Version | None


def checked(type_name: str, resource: Json, *, logical_id: str | None = None) -> Json:
    """`resource`, valid for `type_name` (and bearing `logical_id` on update), or InvalidContent / BadRequest."""
    if resource.get("resourceType") != type_name:
        raise BadRequest(
            f"resourceType must be {type_name}, as in the URL", code="value", expression=f"{type_name}.resourceType"
        )
    if logical_id is not None and resource.get("id") != logical_id:
        raise BadRequest(
            "The resource must bear the id of the URL (R4 §3.1.0.3)", code="value", expression=f"{type_name}.id"
        )
    validation.check(resource)
    return resource


def create(
    uow: UnitOfWork, type_name: str, resource: Json, *, parse: Parse, if_none_exist: Parameters | None = None
) -> Done:
    """Create, or conditional create (R4 §3.1.0.8.1): 201 made, 200 it was there, 412 several are there."""
    if if_none_exist is not None:
        found = matches(uow, type_name, if_none_exist, parse)
        if found:  # read, so that the disclosure is on record
            return Done(200, uow.resources.read(type_name, found[0].id))
    return Done(201, uow.resources.create(type_name, resource))


def update(
    uow: UnitOfWork,
    type_name: str,
    logical_id: str,
    resource: Json,
    *,
    if_match: int | None,
    if_none_match_any: bool = False,
) -> Done:
    """Update, or create under the client's id (R4 §3.1.0.3): 200 updated, 201 created."""
    if if_none_match_any:
        try:
            uow.resources.read(type_name, logical_id)
        except NotFound:
            pass
        else:
            raise PreconditionFailed("If-None-Match: * and the resource exists")
    version = uow.resources.update(type_name, logical_id, resource, if_match=if_match)
    return Done(201 if version.version == 1 else 200, version)


def conditional_update(
    uow: UnitOfWork, type_name: str, criteria: Parameters, resource: Json, *, parse: Parse, if_match: int | None
) -> Done:
    """Conditional update (R4 §3.1.0.3.1): none → create, one → update it, several → 412."""
    found = matches(uow, type_name, criteria, parse)
    given = resource.get("id")
    if not found:
        if given is not None:
            return update(uow, type_name, given, resource, if_match=if_match)
        return Done(201, uow.resources.create(type_name, resource))
    target = found[0].id
    if given is not None and given != target:
        raise BadRequest("The id in the body is not that of the resource found", expression=f"{type_name}.id")
    return update(uow, type_name, target, {**resource, "id": target}, if_match=if_match)


def delete(uow: UnitOfWork, type_name: str, logical_id: str, *, if_match: int | None) -> Done:
    """Delete (R4 §3.1.0.5): 204, also when it was deleted before, was never there, or is another organisation's."""
    try:
        return Done(204, uow.resources.delete(type_name, logical_id, if_match=if_match))
    except NotFound as error:
        # The answer is that of a resource that does not exist; the record says what was tried.
        reason = "404 not-found (another organisation's)" if error.foreign else "404 not-found"
        uow.note(Access(Interaction.DELETE, type_name, logical_id, outcome=outcome_of(error), reason=reason))
        return Done(204, None)


def conditional_delete(
    uow: UnitOfWork, type_name: str, criteria: Parameters, *, parse: Parse, raw: str
) -> Done:
    """Conditional delete of one (R4 §3.1.0.7.1): none → 204, one → deleted, several → 412.

    Where nothing is found it was a query all the same, and is recorded as one. `raw`: the request, for that record.
    """
    found = matches(uow, type_name, criteria, parse)
    if not found:
        uow.note(Access(Interaction.SEARCH_TYPE, type_name, query=raw, detail=(("deleted", "0"),)))
        return Done(204, None)
    return delete(uow, type_name, found[0].id, if_match=None)


def matches(uow: UnitOfWork, type_name: str, criteria: Parameters, parse: Parse) -> list[Version]:
    """What the criteria find, at most one; PreconditionFailed for more; BadRequest where they say nothing."""
    query = parse(type_name, criteria)
    if not query.criteria:
        raise BadRequest("Conditional criteria must hold at least one search parameter", code="required")
    found = uow.resources.conditional_match(type_name, query)
    if len(found) > 1:
        raise PreconditionFailed("The criteria find more than one resource", code="multiple-matches")
    return found
