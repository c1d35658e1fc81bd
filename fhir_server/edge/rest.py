"""The FHIR edge: HTTP in, interactions, HTTP out. It reads the request into values, calls one function, answers.

What a request is about is said to its `Recording` first of all: what nobody records by then is recorded when its answer
leaves (`fhir_server.server.recorder`).

FHIR R4 http://hl7.org/fhir/R4/http.html
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial

from auth.guard import RAW_LENGTH
from fhir_server.edge import bundle, errors, negotiation, operations, parameters, public, reads, wire
from fhir_server.edge.exchange import Answer, Asked, warned
from fhir_server.edge.parameters import Given
from fhir_server.edge.ports import Handler, Services
from fhir_server.edge.routes import Route, resolve
from resources import jsontext, media_types
from resources.interactions import Body, Interaction, Parameter
from resources.outcomes import FhirError, NotFound, UnsupportedMediaType
from store.access import Access, Caller

PREFIX = "/fhir"
"""Path of the base."""
HANDLERS: Mapping[Interaction, Handler] = {
    **bundle.ENTRIES,
    Interaction.BATCH: bundle.carry_out,
    Interaction.OPERATION: operations.carry_out,
    Interaction.CAPABILITIES: public.capabilities,
    Interaction.SMART: public.smart_configuration,
}
"""What carries out each interaction that has a path (`resources.interactions`)."""
_JSON = frozenset({negotiation.FHIR_JSON, "application/json"})
_NOBODY = Caller("", "")
_NO_PREFERENCE = negotiation.Preference()


class Edge:
    """Carries out requests at the FHIR edge: a WSGI application for the paths below `PREFIX`."""

    def __init__(self, services: Services) -> None:
        self.services = services

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
            route = route_of(request.method, request.path)
        except FhirError:
            self.services.authority.guard(request)  # a stranger hears 401 wherever he asks
            raise
        request.environ[wire.ROUTE_KIND] = route.interaction
        intent = Access(route.interaction, route.type, route.id, route.version, query=recording.request)
        if route.public:
            caller = _NOBODY
        else:
            recording.propose(intent)
            caller = self.services.authority.guard(request)
        asked = self._asked(route, request, caller, recording.request)
        if asked.raw is not recording.request:  # a form is part of the query
            intent = replace(intent, query=asked.raw)
            recording.propose(intent)
        answer = HANDLERS[route.interaction](self.services, asked, intent)
        return written(answer, asked.given) if asked.given.pairs or asked.given.dropped else answer

    def _asked(self, route: Route, request: wire.Request, caller: Caller, raw: str) -> Asked:
        """The request as values. Raises BadRequest, NotAcceptable, UnsupportedMediaType, TooLarge."""
        headers = request.headers
        pairs = request.parameters()
        body = b""
        if route.form.body is not Body.NONE:
            body = request.body(self.services.max_body_bytes)
        if route.form.body is Body.FORM:
            if media_types.parse(headers.get("content-type")).type != "application/x-www-form-urlencoded":
                raise UnsupportedMediaType("_search by POST takes application/x-www-form-urlencoded")
            pairs += wire.pairs(body)
            raw = f"{raw}\n{body.decode('utf-8', 'replace')}"[: RAW_LENGTH]
        prefer = headers.get("prefer")
        preference = negotiation.preference(prefer) if prefer else _NO_PREFERENCE
        given = parameters.take(
            pairs, _declared(route), criteria=route.form.criteria, lenient=preference.lenient, type_name=route.type
        )
        reads.negotiate(route, headers.get("accept"), given)
        return Asked(
            route=route,
            caller=caller,
            parse=partial(self.services.parse, organization=caller.organization),
            method=request.method,
            origin=request.base,
            base=request.base + PREFIX,
            given=given,
            headers=headers,
            body=body,
            preference=preference,
            raw=raw,
            prefers=prefer is not None and "return=" in prefer.replace(" ", ""),
        )


def _declared(route: Route) -> tuple[Parameter, ...]:
    """All that the route declares. Raises NotFound for an operation that there is not."""
    if route.interaction is Interaction.OPERATION:
        return (*route.form.parameters, *operations.inputs(route))
    return route.form.parameters


def written(answer: Answer, given: Given) -> Answer:
    """The answer as the general parameters ask: indented under `_pretty`; what was left out is told."""
    if given.pretty and answer.body and answer.content_type in _JSON:
        answer = replace(answer, body=jsontext.indented(answer.body))
    return warned(answer, given.dropped)


def route_of(method: str, path: str) -> Route:
    """Which interaction a method on a path of the edge is. Raises BadRequest, NotFound, NotAllowed."""
    return resolve(method, _segments(path))


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
