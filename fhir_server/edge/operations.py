"""The $operations, as a table: (type, name, level) → what carries it out.

FHIR R4 http://hl7.org/fhir/R4/operations.html
"""

from __future__ import annotations

from dataclasses import dataclass

from fhir_server.edge import negotiation
from fhir_server.edge.exchange import Answer, Asked, of_json, of_version
from fhir_server.edge.ports import Handler, Services
from resources import jsontext, sizes, validation
from resources.json import Json
from resources.outcomes import BadRequest, Issue, NotFound, outcome
from store.access import Access, Interaction
from subscriptions import operations as subscription_operations

CANONICAL = "http://hl7.org/fhir/OperationDefinition/"


@dataclass(frozen=True, slots=True)
class Operation:
    """A row: where the operation is defined and what carries it out."""

    name: str
    definition: str
    carry_out: Handler
    types: frozenset[str] | None
    """None: every type."""
    on_type: bool = False
    on_instance: bool = False
    writes: bool = False
    """It alters something, so only POST may ask for it."""


def carry_out(services: Services, asked: Asked, intent: Access) -> Answer:
    """Carry out the operation that the route names; NotFound (404) where there is none of that name here."""
    operation = find(asked)
    if operation is None:
        raise NotFound("There is no such operation here; see the CapabilityStatement", code="not-supported")
    if operation.writes and asked.method in ("GET", "HEAD"):
        raise BadRequest("This operation alters state: use POST", code="not-supported")
    intent = Access(
        Interaction.OPERATION,
        asked.route.type,
        asked.route.id,
        query=asked.raw,
        detail=(("operation", f"${operation.name}"),),
    )
    if asked.caller.recording is not None:
        asked.caller.recording.propose(intent)
    return operation.carry_out(services, asked, intent)


def find(asked: Asked) -> Operation | None:
    route = asked.route
    for operation in TABLE:
        fits = operation.on_instance if route.id else operation.on_type
        if (
            operation.name == route.operation
            and fits
            and route.type
            and (operation.types is None or route.type in operation.types)
        ):
            return operation
    return None


def of_type(type_name: str) -> list[Operation]:
    """The operations of a type, for the CapabilityStatement."""
    return [operation for operation in TABLE if operation.types is not None and type_name in operation.types]


def _validate(services: Services, asked: Asked, intent: Access) -> Answer:
    """$validate: every problem of a resource, without storing it."""
    negotiation.require_fhir_json(asked.headers.get("content-type"))
    body = jsontext.parse(asked.body)
    resource = _resource_parameter(body) if body.get("resourceType") == "Parameters" else body
    sizes.check_elements(resource)
    issues = list(validation.validate(resource))
    if resource.get("resourceType") != asked.route.type:
        issues.append(Issue("error", "value", "The resource is of another type than the URL", ("resourceType",)))
    return of_json(outcome(issues or [Issue("information", "informational", "No problem was found")]))


def _resource_parameter(parameters: Json) -> Json:
    for parameter in parameters.get("parameter", []):
        if isinstance(parameter, dict) and parameter.get("name") == "resource" and "resource" in parameter:
            found = parameter["resource"]
            if isinstance(found, dict):
                return found
    raise BadRequest("Parameters must hold one named resource", code="required", expression="Parameters.parameter")


def _of_subscriptions(name: str) -> Handler:
    """$status and $events, which `subscriptions` carries out in a read-only unit of work."""

    def carry(services: Services, asked: Asked, intent: Access) -> Answer:
        parameters = list(asked.parameters)
        if asked.body:
            negotiation.require_fhir_json(asked.headers.get("content-type"))
            parameters += subscription_operations.flatten(jsontext.parse(asked.body))
        with services.store.work(asked.caller, write=False, intent=intent) as uow:
            resource = services.subscriptions.operations[name](uow, asked.route.id, parameters, asked.base)
            told = [access for access in uow.accesses if access.interaction is Interaction.OPERATION]
            uow.note_as_one(told or [intent])  # $events tells of each resource, $status of none
        return of_json(resource)

    return carry


def _sign(services: Services, asked: Asked, intent: Access) -> Answer:
    """DiagnosticReport/{id}/$sign: the report as stored, made final by its author."""
    parameters = jsontext.parse(asked.body) if asked.body else None
    if_match = negotiation.if_match(asked.headers.get("if-match"))
    version = services.store.transact(
        asked.caller,
        lambda uow: services.workflow.operations.sign(uow, asked.route.id or "", parameters, if_match=if_match),
        intent=intent,
    )
    return of_version(version)


def _on_duty(services: Services, asked: Asked, intent: Access) -> Answer:
    """PractitionerRole/$on-duty?at=…&function=…: who is on duty."""
    given = {name: value for name, value in asked.parameters if name not in ("_format", "_pretty")}
    unknown = given.keys() - {"at", "function"}
    if unknown:
        raise BadRequest("$on-duty takes at and function", code="not-supported")
    with services.store.work(asked.caller, write=False, intent=intent) as uow:
        uow.resources.visibility(Interaction.SEARCH_TYPE, "PractitionerRole")
        uow.note(intent)
        found = services.workflow.operations.on_duty(uow, at=given.get("at"), function=given.get("function"))
    return of_json(found)


_BACKPORT = "http://hl7.org/fhir/uv/subscriptions-backport/OperationDefinition/"

TABLE: tuple[Operation, ...] = (
    Operation("validate", f"{CANONICAL}Resource-validate", _validate, None, on_type=True, on_instance=True),
    Operation(
        "status",
        f"{_BACKPORT}backport-subscription-status",
        _of_subscriptions("status"),
        frozenset({"Subscription"}),
        on_type=True,
        on_instance=True,
    ),
    Operation(
        "events",
        f"{_BACKPORT}backport-subscription-events",
        _of_subscriptions("events"),
        frozenset({"Subscription"}),
        on_instance=True,
    ),
    Operation(
        "sign",
        "https://vigie.example/OperationDefinition/report-sign",
        _sign,
        frozenset({"DiagnosticReport"}),
        on_instance=True,
        writes=True,
    ),
    Operation(
        "on-duty",
        "https://vigie.example/OperationDefinition/on-duty",
        _on_duty,
        frozenset({"PractitionerRole"}),
        on_type=True,
    ),
)
