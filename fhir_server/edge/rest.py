"""The FHIR edge: HTTP in, interactions, HTTP out. It reads the request into values, calls one function, answers.

What a request is about is said to its `Recording` first of all: what nobody records by then is recorded when its answer
leaves (`fhir_server.server.recorder`).

FHIR R4 http://hl7.org/fhir/R4/http.html
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from auth.guard import RAW_LENGTH
from fhir_server.edge import batch, binary, capability, errors, interactions, negotiation, operations, reads, wire
from fhir_server.edge.exchange import Answer, Asked, location, of_json, of_version, version_headers
from fhir_server.edge.interactions import Done, Parameters
from fhir_server.edge.ports import Services
from fhir_server.edge.routes import Kind, Route, resolve
from resources import bundles, jsontext, times
from resources.json import Json
from resources.outcomes import (
    BadRequest,
    FhirError,
    InvalidContent,
    Issue,
    NotAllowed,
    NotFound,
    UnsupportedMediaType,
    outcome,
)
from store.access import Access, Caller, Interaction, Recording, Version
from store.unit_of_work import UnitOfWork

PREFIX = "/fhir"
"""Path of the base."""
_PUBLIC = {Kind.CAPABILITIES, Kind.SMART}
_WITH_BODY = {"POST", "PUT", "PATCH"}
_BYTES = {Kind.READ, Kind.VREAD, Kind.CREATE, Kind.UPDATE}
"""Interactions in which a Binary may also be the bytes that it holds."""
_ONE = {Kind.READ, Kind.VREAD}
_NO_PREFERENCE = negotiation.Preference()

_INTERACTION = {
    Kind.READ: Interaction.READ,
    Kind.VREAD: Interaction.VREAD,
    Kind.CREATE: Interaction.CREATE,
    Kind.UPDATE: Interaction.UPDATE,
    Kind.CONDITIONAL_UPDATE: Interaction.UPDATE,
    Kind.PATCH: Interaction.PATCH,
    Kind.CONDITIONAL_PATCH: Interaction.PATCH,
    Kind.DELETE: Interaction.DELETE,
    Kind.CONDITIONAL_DELETE: Interaction.DELETE,
    Kind.SEARCH_TYPE: Interaction.SEARCH_TYPE,
    Kind.SEARCH_SYSTEM: Interaction.SEARCH_SYSTEM,
    Kind.SEARCH_COMPARTMENT: Interaction.SEARCH_TYPE,
    Kind.HISTORY_INSTANCE: Interaction.HISTORY_INSTANCE,
    Kind.HISTORY_TYPE: Interaction.HISTORY_TYPE,
    Kind.HISTORY_SYSTEM: Interaction.HISTORY_SYSTEM,
    Kind.BATCH: Interaction.BATCH,
    Kind.OPERATION: Interaction.OPERATION,
}


class Edge:
    """Carries out requests at the FHIR edge: a WSGI application for the paths below `PREFIX`."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.store = services.store

    @staticmethod
    def serves(path: str) -> bool:
        """Whether a path is the FHIR base or below it."""
        return path.startswith(PREFIX) and (len(path) == len(PREFIX) or path[len(PREFIX)] == "/")

    def __call__(self, environ: wire.Environ, start_response: Callable[..., object]) -> Iterable[bytes]:
        request = wire.Request(environ)
        try:
            answer = self.answer(request)
        except Exception as error:  # noqa: BLE001 - whatever it was, the caller gets an OperationOutcome
            answer = errors.answer_of(error, environ)
        return wire.send(answer, request.method, start_response)

    def answer(self, request: wire.Request) -> Answer:
        """Raises what `errors` knows how to tell."""
        recording = request.recording
        try:
            route = resolve(request.method, _segments(request.path))
        except FhirError:
            self.services.authority.guard(request)  # a stranger hears 401 wherever he asks
            raise
        request.environ[wire.ROUTE_KIND] = route.kind
        if route.kind in _PUBLIC:
            return self._public(route, request)
        intent = Access(_INTERACTION[route.kind], route.type, route.id, route.version, query=recording.request)
        recording.propose(intent)
        caller = self.services.authority.guard(request)
        asked = self._asked(route, request, caller, recording.request)
        if asked.raw is not recording.request:  # a form is part of the query
            intent = replace(intent, query=asked.raw)
            recording.propose(intent)
        return self._dispatch(asked, intent)

    # — what a request is —

    def _asked(self, route: Route, request: wire.Request, caller: Caller, raw: str) -> Asked:
        headers = request.headers
        parameters = request.parameters()
        body = b""
        if request.method in _WITH_BODY:
            body = request.body(self.services.max_body_bytes)
            if route.kind in (Kind.SEARCH_TYPE, Kind.SEARCH_SYSTEM):
                kind, _ = negotiation.split_media_type(headers.get("content-type", ""))
                if kind != "application/x-www-form-urlencoded":
                    raise UnsupportedMediaType("_search by POST takes application/x-www-form-urlencoded")
                parameters += wire.pairs(body)
                raw = f"{raw}\n{body.decode('utf-8', 'replace')}"[: RAW_LENGTH]
        if route.type != "Binary" or route.kind not in _BYTES:
            negotiation.accepted_format(headers.get("accept"), dict(parameters).get("_format"))
        prefer = headers.get("prefer")
        return Asked(
            route=route,
            caller=caller,
            parse=self.services.parse,
            method=request.method,
            base=request.base + PREFIX,
            parameters=parameters,
            headers=headers,
            body=body,
            preference=negotiation.preference(prefer) if prefer else _NO_PREFERENCE,
            raw=raw,
            prefers=prefer is not None and "return=" in prefer.replace(" ", ""),
        )

    def _dispatch(self, asked: Asked, intent: Access) -> Answer:
        match asked.route.kind:
            case (
                Kind.READ
                | Kind.VREAD
                | Kind.SEARCH_TYPE
                | Kind.SEARCH_SYSTEM
                | Kind.HISTORY_INSTANCE
                | Kind.HISTORY_TYPE
                | Kind.HISTORY_SYSTEM
            ):
                return self._read(asked, intent)
            case Kind.CREATE:
                return self._create(asked, intent)
            case Kind.UPDATE:
                return self._update(asked, intent)
            case Kind.CONDITIONAL_UPDATE:
                return self._conditional_update(asked, intent)
            case Kind.DELETE | Kind.CONDITIONAL_DELETE:
                return self._delete(asked, intent)
            case Kind.BATCH:
                return self._bundle(asked, intent)
            case Kind.OPERATION:
                return operations.carry_out(self.services, asked, intent)
            case _:
                raise NotAllowed("This interaction is not supported here; see the CapabilityStatement")

    def _public(self, route: Route, request: wire.Request) -> Answer:
        negotiation.accepted_format(
            None if route.kind is Kind.SMART else request.headers.get("accept"),
            dict(request.parameters()).get("_format"),
        )
        base = request.base
        if route.kind is Kind.SMART:
            body = jsontext.dump(self.services.authority.smart_configuration(base))
            return Answer(200, body, (("Access-Control-Allow-Origin", "*"),), "application/json")
        return of_json(capability.statement(self.services, base), headers=(("Access-Control-Allow-Origin", "*"),))

    # — reads —

    def _read(self, asked: Asked, intent: Access) -> Answer:
        if asked.route.type == "AuditEvent":
            asked = replace(asked, is_behind=not self.services.ledger.catch_up())
        return self.store.look(
            asked.caller,
            lambda uow: self._reader(uow, asked),
            intent=intent,
            glance=asked.route.kind in _ONE,
        )

    def _reader(self, uow: UnitOfWork, asked: Asked) -> Answer:
        match asked.route.kind:
            case Kind.READ | Kind.VREAD:
                if asked.route.type == "Binary" and binary.wants_bytes(
                    asked.headers.get("accept"), dict(asked.parameters).get("_format")
                ):
                    return reads.read(uow, asked, self._shown, bytes_of=binary.as_bytes)
                return reads.read(uow, asked, self._shown)
            case Kind.SEARCH_TYPE | Kind.SEARCH_SYSTEM:
                return reads.search_type(uow, asked, self._shown, self.services.new_id)
            case _:
                return reads.history(uow, asked, self._shown, self.services.new_id)

    def _shown(self, version: Version, asked: Asked) -> bytes:
        return self.services.shown(version, asked.caller)

    # — writes —

    def _create(self, asked: Asked, intent: Access) -> Answer:
        type_name = asked.route.type or ""
        resource = self._resource(asked, type_name, None)
        if_none_exist = asked.headers.get("if-none-exist")
        criteria: Parameters | None = None
        if if_none_exist is not None:
            criteria = batch.criteria(if_none_exist)
        elif asked.parameters:
            # fhirpy's get_or_create sends its criteria in the URL: a filter is never ignored, so it is the condition.
            criteria = tuple(pair for pair in asked.parameters if pair[0] not in ("_format", "_pretty")) or None
        done = self._write(
            asked,
            intent,
            lambda uow: interactions.create(uow, type_name, resource, parse=asked.parse, if_none_exist=criteria),
        )
        return self._written(asked, done)

    def _update(self, asked: Asked, intent: Access) -> Answer:
        type_name, logical_id = asked.route.type or "", asked.route.id or ""
        resource = self._resource(asked, type_name, logical_id)
        if_match = negotiation.if_match(asked.headers.get("if-match"))
        only_new = asked.headers.get("if-none-match", "").strip() == "*"
        done = self._write(
            asked,
            intent,
            lambda uow: interactions.update(
                uow, type_name, logical_id, resource, if_match=if_match, if_none_match_any=only_new
            ),
        )
        return self._written(asked, done)

    def _conditional_update(self, asked: Asked, intent: Access) -> Answer:
        type_name = asked.route.type or ""
        resource = self._resource(asked, type_name, None)
        if_match = negotiation.if_match(asked.headers.get("if-match"))
        done = self._write(
            asked,
            intent,
            lambda uow: interactions.conditional_update(
                uow, type_name, asked.parameters, resource, parse=asked.parse, if_match=if_match
            ),
        )
        return self._written(asked, done)

    def _delete(self, asked: Asked, intent: Access) -> Answer:
        type_name = asked.route.type or ""
        if_match = negotiation.if_match(asked.headers.get("if-match"))
        if asked.route.id is None:
            done = self._write(
                asked,
                intent,
                lambda uow: interactions.conditional_delete(
                    uow, type_name, asked.parameters, parse=asked.parse, raw=asked.raw
                ),
            )
        else:
            logical_id = asked.route.id
            done = self._write(
                asked, intent, lambda uow: interactions.delete(uow, type_name, logical_id, if_match=if_match)
            )
        headers = () if done.version is None else (("ETag", negotiation.etag(done.version.version)),)
        return Answer(204, headers=headers)

    def _resource(self, asked: Asked, type_name: str, logical_id: str | None) -> Json:
        if type_name == "Binary" and not negotiation.is_fhir_json(asked.headers.get("content-type")):
            resource = binary.of_bytes(
                asked.body, asked.headers.get("content-type"), asked.headers.get("x-security-context")
            )
            if logical_id is not None:
                resource["id"] = logical_id
        else:
            negotiation.require_fhir_json(asked.headers.get("content-type"))
            resource = jsontext.parse(asked.body)
        return interactions.checked(type_name, resource, logical_id=logical_id)

    def _write(self, asked: Asked, intent: Access, function: Callable[[UnitOfWork], Done]) -> Done:
        return self.store.transact(asked.caller, function, intent=intent)

    def _written(self, asked: Asked, done: Done) -> Answer:
        version = done.version
        if version is None:
            return Answer(done.status)
        headers = (("Location", location(asked.base, version)),) if done.status in (200, 201) else ()
        match asked.preference.returns:
            case "minimal":
                return Answer(done.status, b"", (*version_headers(version), *headers))
            case "OperationOutcome":
                body = outcome((Issue("information", "informational", "Done"),))
                return of_json(body, done.status, (*version_headers(version), *headers))
            case _:
                shown = self.services.shown(version, asked.caller)
                return replace(of_version(version, done.status, headers=headers), body=shown)

    # — batch and transaction —

    def _bundle(self, asked: Asked, intent: Access) -> Answer:
        negotiation.require_fhir_json(asked.headers.get("content-type"))
        bundle = jsontext.parse(asked.body)
        if bundle.get("resourceType") != "Bundle":
            raise BadRequest("A Bundle is posted to the base", code="value", expression="resourceType")
        kind = bundle.get("type")
        if kind not in ("batch", "transaction"):
            own, of_entry = batch.split_issues(bundle)
            issues = [*own, *(issue for listed in of_entry.values() for issue in listed)]
            wrong = Issue("error", "value", "Bundle.type must be batch or transaction", ("Bundle.type",))
            raise InvalidContent("Bundle.type must be batch or transaction", issues=(*issues, wrong))
        own, of_entry = batch.split_issues(bundle)
        if kind == "transaction" and asked.caller.recording is not None:
            asked.caller.recording.propose(replace(intent, interaction=Interaction.TRANSACTION))
        if own or (kind == "transaction" and of_entry):
            raise InvalidContent("The Bundle is not valid", issues=(*own, *(i for e in of_entry.values() for i in e)))
        if kind == "transaction":
            entries = self._transaction(asked, bundle)
        else:
            entries = self._batch(asked, bundle, of_entry)
        return Answer(
            200,
            bundles.bundle(
                f"{kind}-response",
                entries,
                dump=jsontext.dump,
                identifier=self.services.new_id(),
                instant=times.instant_text(self.services.clock()),
            ),
        )

    def _transaction(self, asked: Asked, bundle: Json) -> list[bundles.Entry]:
        planned = batch.plan(bundle, self._base_of, asked.base)
        done = self.store.transact(
            asked.caller,
            lambda uow: batch.transaction(uow, asked, planned, reader=self._reader, new_id=self.services.new_id),
            intent=Access(Interaction.TRANSACTION, query=asked.raw),
        )
        return [batch.response_entry(one, asked, self._shown) for one in done]

    def _batch(self, asked: Asked, bundle: Json, of_entry: dict[int, list[Issue]]) -> list[bundles.Entry]:
        entries: list[bundles.Entry] = []
        for index, entry in enumerate(bundle.get("entry", [])[: batch.MAX_ENTRIES + 1]):
            if index == batch.MAX_ENTRIES:
                raise BadRequest(f"A Bundle holds at most {batch.MAX_ENTRIES} entries here", code="too-costly")

            def one_entry(single: Asked, entry: Json = entry, index: int = index) -> Answer:
                if index in of_entry:
                    raise InvalidContent("The resource is not valid", issues=of_entry[index])
                return self._entry(single, batch.plan_one(index, entry, self._base_of))

            entries.extend(self._recorded(asked, batch.raw_request(entry, asked.base), one_entry))
        return entries

    def _recorded(
        self, asked: Asked, raw: str, carry_out: Callable[[Asked], Answer]
    ) -> list[bundles.Entry]:
        """Carry out one entry of a batch, which is an access of its own, with a record of its own."""
        recording = Recording(raw)
        recording.propose(Access(Interaction.BATCH, query=raw))
        recording.caller = caller = replace(asked.caller, recording=recording)
        status = 500
        try:
            entries = batch.batch(lambda: carry_out(replace(asked, caller=caller, raw=raw)), recording)
            status = batch.status_of(entries)
        finally:
            self.store.settle(recording, status)
            if asked.caller.recording is not None:
                asked.caller.recording.is_recorded = True
        return entries

    def _entry(self, asked: Asked, one: batch.Planned) -> Answer:
        route = one.route
        headers = dict(one.headers)
        if one.if_match is not None:
            headers["if-match"] = negotiation.etag(one.if_match)
        intent = Access(_INTERACTION[route.kind], route.type, route.id, route.version, query=asked.raw)
        if asked.caller.recording is not None:
            asked.caller.recording.propose(intent)
        prefers = replace(asked.preference, returns=asked.preference.returns if asked.prefers else "minimal")
        single = replace(
            asked,
            route=route,
            parameters=one.parameters,
            headers={**headers, "content-type": negotiation.FHIR_JSON, "accept": negotiation.FHIR_JSON},
            body=jsontext.dump(one.resource) if one.resource is not None else b"",
            preference=prefers,
        )
        if one.if_none_exist is not None:
            done = self._write(
                single,
                intent,
                lambda uow: interactions.create(
                    uow, route.type or "", one.resource or {}, parse=asked.parse, if_none_exist=one.if_none_exist
                ),
            )
            return self._written(single, done)
        return self._dispatch(single, intent)

    def _base_of(self, url: str) -> str | None:
        bases = [f"{base}/fhir/" for base in self.services.bases]
        return next((base for base in bases if url.startswith(base)), None)


def _segments(path: str) -> list[str]:
    """The path below the base, in pieces. Raises NotFound for one that is empty."""
    rest = path[len(PREFIX) + 1 :]
    if not rest:
        return []
    segments = rest.split("/")
    if not segments[-1]:
        del segments[-1]  # a slash at the end
    if not all(segments):
        raise NotFound("No such path", code="not-supported")
    return segments
