"""The $operations, as a table: name, types, what it takes at each level, what carries it out.

An operation takes its parameters from the URL or from a Parameters resource alike, and no others than it declares.

FHIR R4 http://hl7.org/fhir/R4/operations.html
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import chain

from audit import access_report, proofs
from dicomweb import notes, reconciling
from fhir_server.edge import granting, negotiation, reads, validate
from fhir_server.edge.exchange import Answer, Asked, of_json, of_version, told, warned
from fhir_server.edge.parameters import Given, take
from fhir_server.edge.ports import Services
from fhir_server.edge.routes import Route
from resources import jsontext
from resources.interactions import PAGE, Level, Parameter
from resources.json import Json
from resources.outcomes import BadRequest, Forbidden, NotFound
from store.access import Access, Interaction, Version
from store.unit_of_work import UnitOfWork
from workflow import milestones

Carry = Callable[[Services, Asked, Access, Json | None], Answer]
"""The parameters are `Asked.given`, wherever they came from; the last is the resource that came with them."""

CANONICAL = "http://hl7.org/fhir/OperationDefinition/"
_BACKPORT = "http://hl7.org/fhir/uv/subscriptions-backport/OperationDefinition/"
_VIGIE = "https://vigie.example/OperationDefinition/"


@dataclass(frozen=True, slots=True)
class Operation:
    """A row: where the operation is defined, what it takes and what carries it out."""

    name: str
    definition: str
    carry_out: Carry
    inputs: Mapping[Level, tuple[Parameter, ...]]
    """Its `in` parameters at each level at which there is such an operation."""
    types: frozenset[str] | None = None
    """None: every type."""
    writes: bool = False
    """It alters something, so only POST may ask for it."""


def carry_out(services: Services, asked: Asked, intent: Access) -> Answer:
    """Carry out the operation that the route names; NotFound (404) where there is none of that name here."""
    operation = find(asked.route)
    if operation.writes and asked.method in ("GET", "HEAD"):
        raise BadRequest("This operation alters state: use POST", code="not-supported")
    intent = replace(intent, query=asked.raw, detail=(("operation", f"${operation.name}"),))
    if asked.caller.recording is not None:
        asked.caller.recording.propose(intent)
    asked, resource, dropped = _with_body(asked, operation)
    return warned(operation.carry_out(services, asked, intent, resource), dropped)


def find(route: Route) -> Operation:
    """The operation that a route names. NotFound (404) where there is none of that name."""
    for operation in TABLE:
        if (
            operation.name == route.operation
            and route.form.level in operation.inputs
            and (operation.types is None or route.type in operation.types)
        ):
            return operation
    raise NotFound("There is no such operation here; see the CapabilityStatement", code="not-supported")


def inputs(route: Route) -> tuple[Parameter, ...]:
    """What the operation of this route takes. NotFound (404) where there is none of that name."""
    return find(route).inputs[route.form.level]


def of_type(type_name: str) -> list[Operation]:
    """The operations of a type, for the CapabilityStatement."""
    return [operation for operation in TABLE if operation.types is None or type_name in operation.types]


def _with_body(asked: Asked, operation: Operation) -> tuple[Asked, Json | None, tuple[str, ...]]:
    """The request with the parameters of its body beside those of the URL, the resource in it, what was left out."""
    declared = operation.inputs[asked.route.form.level]
    resource: Json | None = None
    pairs: list[tuple[str, str]] = []
    if asked.body:
        negotiation.require_fhir_json(asked.headers.get("content-type"))
        resource, pairs = _read(jsontext.parse(asked.body), declared, asked.route.type)
    both = take(
        [*asked.given.pairs, *pairs],
        (*asked.route.form.parameters, *declared),
        lenient=asked.preference.lenient,
        type_name=asked.route.type,
    )
    for parameter in declared:
        present = resource is not None if parameter.type == RESOURCE else parameter.name in both.declared
        if parameter.min and not present:
            raise BadRequest(
                f"The operation needs {parameter.name}", code="required", expression=f"http.{parameter.name}"
            )
    return replace(asked, given=both), resource, both.dropped


RESOURCE = "Resource"
"""The type of a parameter that is a whole resource: in a body alone, as it is or within Parameters."""


def _read(
    body: Json, declared: tuple[Parameter, ...], type_name: str | None
) -> tuple[Json | None, list[tuple[str, str]]]:
    """What a body says: the resource that it is or holds, and its simple parameters as text."""
    holder = next((parameter.name for parameter in declared if parameter.type == RESOURCE), None)
    listed = body.get("parameter", []) if body.get("resourceType") == "Parameters" else None
    if not isinstance(listed, list):
        if holder is None or body.get("resourceType") == "Parameters":
            raise BadRequest("The body must be a Parameters resource", expression="Parameters")
        return body, []
    members = [one if isinstance(one, dict) else {} for one in listed]
    if holder is not None and type_name == "Parameters" and not any(one.get("name") == holder for one in members):
        return body, []
    resource, pairs = None, []
    for index, one in enumerate(members):
        where = f"Parameters.parameter[{index}]"
        if holder is not None and one.get("name") == holder:
            if resource is not None or not isinstance(one.get("resource"), dict):
                raise BadRequest(f"Parameters must hold one {holder}, as a resource", expression=where)
            resource = one["resource"]
        else:
            pairs.append(_simple(one, where))
    return resource, pairs


def _simple(parameter: Json, where: str) -> tuple[str, str]:
    values = [value for key, value in parameter.items() if key.startswith("value")]
    if not isinstance(parameter.get("name"), str) or len(values) != 1 or isinstance(values[0], list | None):
        raise BadRequest("Each parameter must have a name and one simple value", expression=where)
    value = values[0]
    if isinstance(value, dict) and isinstance(value.get("reference"), str) and "valueReference" in parameter:
        return parameter["name"], value["reference"]
    if isinstance(value, dict):
        raise BadRequest("Each parameter must have a name and one simple value", expression=where)
    return parameter["name"], str(value).lower() if isinstance(value, bool) else str(value)


def _of_subscriptions(name: str) -> Carry:
    """$status and $events, which `subscriptions` carries out in a read-only unit of work."""

    def carry(services: Services, asked: Asked, intent: Access, resource: Json | None) -> Answer:
        given = list(chain.from_iterable(((name, value) for value in values) for name, values in _own(asked.given)))
        with services.store.work(asked.caller, write=False, intent=intent) as uow:
            found = services.subscriptions.operations[name](uow, asked.route.id, given, asked.base)
            told = [access for access in uow.accesses if access.interaction is Interaction.OPERATION]
            uow.note_as_one(told or [intent])  # $events tells of each resource, $status of none
        return of_json(found)

    return carry


def _own(given: Given) -> list[tuple[str, tuple[str, ...]]]:
    return [(name, values) for name, values in given.declared.items() if not name.startswith("_")]


def _sign(services: Services, asked: Asked, intent: Access, resource: Json | None) -> Answer:
    """DiagnosticReport/{id}/$sign: the report as stored, made final by its author."""
    if_match = negotiation.if_match(asked.headers.get("if-match"))

    units: list[UnitOfWork] = []

    def sign(uow: UnitOfWork) -> Version:
        units.append(uow)
        signed = services.workflow.operations.sign(uow, asked.route.id or "", if_match=if_match)
        # One access, the update: that it began with a look at the report goes without saying.
        uow.note_as_one([one for one in uow.accesses if one.derived or one.interaction is not Interaction.READ])
        return signed

    signed = services.store.transact(asked.caller, sign, intent=intent)
    return of_version(signed, headers=told(units[-1].warnings))


def _acknowledge(services: Services, asked: Asked, intent: Access, resource: Json | None) -> Answer:
    """Communication/{id}/$acknowledge: the caller has read the message."""

    def acknowledge(uow: UnitOfWork) -> Version:
        told = services.workflow.operations.acknowledge(uow, asked.route.id or "")
        uow.note_as_one([one for one in uow.accesses if one.interaction is not Interaction.READ] or [intent])
        return told

    return of_version(services.store.transact(asked.caller, acknowledge, intent=intent))


def _protocols(services: Services, asked: Asked, intent: Access, resource: Json | None) -> Answer:
    """ServiceRequest/{id}/$protocols: the entries of the catalogue that may be given for this order."""
    with services.store.work(asked.caller, write=False, intent=intent) as uow:
        found = services.workflow.operations.protocols(uow, asked.route.id or "")
        uow.note_as_one([one for one in uow.accesses if one.type == "ServiceRequest"])
    return of_json(found)


def _next(services: Services, asked: Asked, intent: Access, resource: Json | None) -> Answer:
    """Task/$next?function=…: the caller's next case, claimed; an empty Parameters where nothing waits."""
    function = asked.given.one("function")

    def claim(uow: UnitOfWork) -> Version | None:
        uow.resources.visibility(Interaction.SEARCH_TYPE, "Task")
        found = services.workflow.operations.next_task(uow, function)
        if found is None:
            uow.note(intent)
        return found

    claimed = services.store.transact(asked.caller, claim, intent=intent)
    return of_json({"resourceType": "Parameters"}) if claimed is None else of_version(claimed)


def _heartbeat(services: Services, asked: Asked, intent: Access, resource: Json | None) -> Answer:
    """Task/{id}/$heartbeat: its owner is there; until when the claim holds now."""

    def beat(uow: UnitOfWork) -> Json:
        uow.resources.visibility(Interaction.UPDATE, "Task")
        found = services.workflow.operations.heartbeat(uow, asked.route.id or "")
        uow.note_as_one([replace(intent, type="Task", id=asked.route.id)])
        return found

    return of_json(services.store.transact(asked.caller, beat, intent=intent))


def _milestones(services: Services, asked: Asked, intent: Access, resource: Json | None) -> Answer:
    """ServiceRequest/{id}/$milestones: when each step of the case happened."""
    with services.store.work(asked.caller, write=False, intent=intent) as uow:
        order = uow.resources.read("ServiceRequest", asked.route.id or "")
        uow.note_as_one([replace(intent, type="ServiceRequest", id=order.id, patients=order.patients)])
        found = milestones.told(uow, order)
    return of_json(found)


def _on_duty(services: Services, asked: Asked, intent: Access, resource: Json | None) -> Answer:
    """PractitionerRole/$on-duty?at=…&function=…: who is on duty."""
    at, function = asked.given.one("at"), asked.given.one("function")
    with services.store.work(asked.caller, write=False, intent=intent) as uow:
        uow.resources.visibility(Interaction.SEARCH_TYPE, "PractitionerRole")
        uow.note(intent)
        found = services.workflow.operations.on_duty(uow, at=at, function=function)
    return of_json(found)


def _merge(services: Services, asked: Asked, intent: Access, resource: Json | None) -> Answer:
    """Patient/$merge: the record of the source becomes the target's (R5, by R4's means); the outcome and the target."""
    given = asked.given
    source, target = given.one("source-patient") or "", given.one("target-patient") or ""
    preview = given.one("preview") == "true"

    def merge(uow: UnitOfWork) -> tuple[Version, int]:
        found, count = services.workflow.merging.merge(uow, source, target, preview=preview)
        # One access, the update of the source: that both were looked at goes without saying.
        uow.note_as_one([one for one in uow.accesses if one.derived or one.interaction is Interaction.UPDATE])
        if preview:
            uow.note(replace(intent, patients=found.patients))
        return found, count

    _, count = services.store.transact(asked.caller, merge, intent=intent)
    said = "would follow" if preview else "followed"
    outcome = {
        "resourceType": "OperationOutcome",
        "issue": [{"severity": "information", "code": "informational", "diagnostics": f"{count} resources {said}"}],
    }
    return of_json({"resourceType": "Parameters", "parameter": [{"name": "outcome", "resource": outcome}]})


_OF_MERGE = (
    Parameter("source-patient", "Reference"),
    Parameter("target-patient", "Reference"),
    Parameter("preview", "boolean", ("true", "false")),
)


def _access_report(services: Services, asked: Asked, intent: Access, resource: Json | None) -> Answer:
    """Who touched a patient's record: a page of accesses, newest first, of those that the caller may see the events of.

    A patient without any, another organisation's and one that there is not are the same: an empty report.
    """
    given = asked.given
    services.ledger.catch_up()
    criteria = [("patient", f"Patient/{asked.route.id}")]
    criteria += [("date", f"{prefix}{value}") for name, prefix in (("start", "ge"), ("end", "le"))
                 if (value := given.one(name)) is not None]
    criteria += [("_count", given.one("_count") or str(_ACCESSES)), ("_total", "accurate")]
    query = asked.parse("AuditEvent", criteria, lenient=False)
    with services.store.work(asked.caller, write=False, intent=intent) as uow:
        page = uow.resources.search(query, token=given.one(PAGE.name))
        told, patients = [], []
        for version in page.matches:
            patient = version.patients[0] if version.patients else ""
            told.append(access_report.line(version.json(), patient))
            patients.append(patient)
        uow.note_as_one([replace(intent, patients=tuple(dict.fromkeys(filter(None, patients))))])
    following = None
    if page.next is not None:
        path = "/".join(filter(None, (asked.base, asked.route.type, asked.route.id, "$access-report")))
        kept = [pair for pair in given.pairs if pair[0] != PAGE.name]
        following = reads.url(path, [*kept, (PAGE.name, page.next)])
    return of_json(access_report.report(told, page.total, following))


_ACCESSES = 100
"""Accesses of a page of a report where `_count` does not say."""
_OF_REPORT = (Parameter("start", "dateTime"), Parameter("end", "dateTime"), Parameter("_count", "integer"), PAGE)


def _proof(services: Services, asked: Asked, intent: Access, resource: Json | None) -> Answer:
    """AuditEvent/{id}/$proof: that it is in the signed log, for `audit/offline.py` (RFC 6962 §2.1.1)."""
    services.ledger.catch_up()
    with services.store.work(asked.caller, write=False, intent=intent) as uow:
        _only_platform(uow)
        version = uow.resources.read("AuditEvent", asked.route.id or "")
        try:
            proof = proofs.inclusion(uow.connection, version.id)
        except proofs.NoProof as error:
            raise NotFound(f"There is no proof: {error}") from error
        uow.note_as_one([replace(intent, type="AuditEvent", id=version.id, patients=version.patients)])
    return of_json(_told(proof))


def _consistency(services: Services, asked: Asked, intent: Access, resource: Json | None) -> Answer:
    """AuditEvent/$consistency?first=…: that the newest checkpoint continues the one of so many records (§2.1.2)."""
    first = int(asked.given.one("first") or 1)
    services.ledger.catch_up()
    with services.store.work(asked.caller, write=False, intent=intent) as uow:
        _only_platform(uow)
        uow.resources.visibility(Interaction.SEARCH_TYPE, "AuditEvent")
        try:
            proof = proofs.consistency_from(uow.connection, first)
        except proofs.NoProof as error:
            raise BadRequest(f"There is no proof: {error}", expression="http.first") from error
        uow.note(intent)
    return of_json(_told(proof))


def _only_platform(uow: UnitOfWork) -> None:
    """A proof opens the record's head as it was logged, also what a hospital's officer is told otherwise."""
    if uow.caller.organization != uow.platform:
        raise Forbidden("Proofs of the log are given to the platform's auditors")


def _told(proof: Json) -> Json:
    return {
        "resourceType": "Parameters",
        "parameter": [{"name": "proof", "valueString": jsontext.dump(proof).decode()}],
    }


def _reconcile(services: Services, asked: Asked, intent: Access, resource: Json | None) -> Answer:
    """ImagingStudy/{id}/$reconcile: whose images these are, by decision of a person."""
    given = asked.given
    wanted = reconciling.Request(
        given.one("action") or "", given.one("reason") or "", order=given.one("order") or "",
        patient=given.one("patient") or "", series=tuple(given.declared.get("series", ())),
    )
    return _decided(services, asked, intent, services.imaging.reconciliation.reconcile, wanted)


def _reject(services: Services, asked: Asked, intent: Access, resource: Json | None) -> Answer:
    """ImagingStudy/{id}/$reject: images that are taken back, wholly or in part."""
    given = asked.given
    code = given.one("code") or ""
    wanted = reconciling.Request(
        "reject", given.one("reason") or "", series=tuple(given.declared.get("series", ())),
        instances=tuple(given.declared.get("instance", ())), code=int(code) if code.isdigit() and len(code) < 9 else 0,
    )
    return _decided(services, asked, intent, services.imaging.reconciliation.reject, wanted)


def _decided(
    services: Services, asked: Asked, intent: Access,
    carry: Callable[[UnitOfWork, str, reconciling.Request], Version], wanted: reconciling.Request,
) -> Answer:
    def decide(uow: UnitOfWork) -> Version:
        study = carry(uow, asked.route.id or "", wanted)
        detail = (*intent.detail, ("action", wanted.action))
        told = replace(intent, type="ImagingStudy", id=study.id, version=study.version, owner=study.owner,
                       patients=study.patients, detail=detail)
        # One access, the decision, and what the server did because of it; the look at the study goes without saying.
        uow.note_as_one([told, *(one for one in uow.accesses if one.derived)])
        return study

    return of_version(services.store.transact(asked.caller, decide, intent=intent))


# What is missing is told once it is known that there is such a study.
_OF_RECONCILE = (
    Parameter("action", "code", reconciling.ACTIONS),
    Parameter("reason"),
    Parameter("order"),
    Parameter("patient"),
    Parameter("series", repeats=True),
)
_OF_REJECT = (
    Parameter("code", "code", tuple(map(str, notes.CODES))),
    Parameter("reason"),
    Parameter("series", repeats=True),
    Parameter("instance", repeats=True),
)
_OF_VALIDATE = (
    Parameter("resource", RESOURCE),
    Parameter("mode", "code", validate.MODES),
    Parameter("profile", "uri"),
)

TABLE: tuple[Operation, ...] = (
    Operation(
        "validate",
        f"{CANONICAL}Resource-validate",
        validate.carry_out,
        {Level.TYPE: _OF_VALIDATE, Level.INSTANCE: _OF_VALIDATE},
    ),
    Operation(
        "status",
        f"{_BACKPORT}backport-subscription-status",
        _of_subscriptions("status"),
        {
            Level.TYPE: (Parameter("id", "id", repeats=True), Parameter("status", "code", repeats=True)),
            Level.INSTANCE: (),
        },
        frozenset({"Subscription"}),
    ),
    Operation(
        "events",
        f"{_BACKPORT}backport-subscription-events",
        _of_subscriptions("events"),
        {
            Level.INSTANCE: (
                Parameter("eventsSinceNumber"),
                Parameter("eventsUntilNumber"),
                Parameter("content", "code"),
            )
        },
        frozenset({"Subscription"}),
    ),
    Operation(
        "sign",
        f"{_VIGIE}report-sign",
        _sign,
        {Level.INSTANCE: ()},
        frozenset({"DiagnosticReport"}),
        writes=True,
    ),
    Operation(
        "acknowledge",
        f"{_VIGIE}communication-acknowledge",
        _acknowledge,
        {Level.INSTANCE: ()},
        frozenset({"Communication"}),
        writes=True,
    ),
    Operation(
        "protocols",
        f"{_VIGIE}order-protocols",
        _protocols,
        {Level.INSTANCE: ()},
        frozenset({"ServiceRequest"}),
    ),
    Operation(
        "next",
        f"{_VIGIE}task-next",
        _next,
        {Level.TYPE: (Parameter("function", "code"),)},
        frozenset({"Task"}),
        writes=True,
    ),
    Operation(
        "heartbeat",
        f"{_VIGIE}task-heartbeat",
        _heartbeat,
        {Level.INSTANCE: ()},
        frozenset({"Task"}),
        writes=True,
    ),
    Operation(
        "milestones",
        f"{_VIGIE}order-milestones",
        _milestones,
        {Level.INSTANCE: ()},
        frozenset({"ServiceRequest"}),
    ),
    Operation(
        "on-duty",
        f"{_VIGIE}on-duty",
        _on_duty,
        {Level.TYPE: (Parameter("at", "dateTime"), Parameter("function", "code"))},
        frozenset({"PractitionerRole"}),
    ),
    Operation(
        "access-report",
        f"{_VIGIE}access-report",
        _access_report,
        {Level.INSTANCE: _OF_REPORT},
        frozenset({"Patient"}),
    ),
    Operation(
        "reconcile",
        f"{_VIGIE}images-reconcile",
        _reconcile,
        {Level.INSTANCE: _OF_RECONCILE},
        frozenset({"ImagingStudy"}),
        writes=True,
    ),
    Operation(
        "reject",
        f"{_VIGIE}images-reject",
        _reject,
        {Level.INSTANCE: _OF_REJECT},
        frozenset({"ImagingStudy"}),
        writes=True,
    ),
    Operation(
        "merge",
        f"{CANONICAL}Patient-merge",
        _merge,
        {Level.TYPE: _OF_MERGE},
        frozenset({"Patient"}),
        writes=True,
    ),
    Operation(
        "grant", f"{_VIGIE}grant", granting.grant, {Level.INSTANCE: granting.OF_GRANT}, granting.TYPES, writes=True
    ),
    Operation(
        "revoke", f"{_VIGIE}grant-revoke", granting.revoke, {Level.INSTANCE: granting.OF_REVOKE}, granting.TYPES,
        writes=True,
    ),
    Operation("grants", f"{_VIGIE}grants", granting.listed, {Level.INSTANCE: ()}, granting.TYPES),
    Operation("proof", f"{_VIGIE}audit-proof", _proof, {Level.INSTANCE: ()}, frozenset({"AuditEvent"})),
    Operation(
        "consistency",
        f"{_VIGIE}audit-consistency",
        _consistency,
        {Level.TYPE: (Parameter("first", "integer"),)},
        frozenset({"AuditEvent"}),
    ),
)
