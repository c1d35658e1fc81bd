"""batch and transaction: the entries of one Bundle.

A transaction is one unit of work: conditional references and creates are resolved first, then DELETE, POST, PUT, GET
are carried out in that order, whatever the order of the entries; any failure undoes all, and the error names the entry.
Entries of a batch stand alone.

FHIR R4 §3.1.0.11 http://hl7.org/fhir/R4/http.html#transaction, http://hl7.org/fhir/R4/bundle.html#references
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from urllib.parse import parse_qsl, unquote, urlsplit

from auth.guard import RAW_LENGTH
from fhir_server.edge import negotiation, writes
from fhir_server.edge.exchange import Answer, Asked, Parse, location, warned
from fhir_server.edge.parameters import Given, left_out, take
from fhir_server.edge.routes import Route, resolve
from fhir_server.edge.writes import Done, Parameters
from resources import bundles, references, sizes, times, validation
from resources.budgets import BATCH_ANSWER_BYTES, BUNDLE_ELEMENTS, BUNDLE_ENTRIES, TRANSACTION_INDEX_ROWS
from resources.interactions import FORMAT, Interaction
from resources.json import Json
from resources.outcomes import BadRequest, FhirError, InvalidContent, Issue, NotAllowed, PreconditionFailed, outcome
from store.access import Recording, Version
from store.unit_of_work import UnitOfWork

_IN_ENTRY = re.compile(r"^Bundle\.entry\[(\d+)\]\.resource\b(.*)$")

Reader = Callable[[UnitOfWork, Asked], Answer]
"""Carries out a read interaction inside a unit of work."""


@dataclass(slots=True)
class Spent:
    """Bytes of the answers to the entries of one Bundle so far: a thousand reads of a large resource fill no memory."""

    answered: int = 0

    @property
    def is_over(self) -> bool:
        """Nothing more is read; what is written is answered without its resource."""
        return self.answered > BATCH_ANSWER_BYTES.value

    def admit(self) -> None:
        """Before an entry that reads: BadRequest (too-costly) where those before it have used up the answer."""
        BATCH_ANSWER_BYTES.check(self.answered)

    def add(self, content: bytes) -> None:
        """Count an answer."""
        self.answered += len(content)


@dataclass(slots=True)
class Planned:
    """One entry, understood: what it asks for and, while it is carried out, what became of it."""

    index: int
    route: Route
    full_url: str | None
    given: Given
    resource: Json | None
    """As sent; never altered, so that the transaction can be tried again."""
    condition: negotiation.Precondition
    if_none_exist: Parameters | None
    headers: dict[str, str] = field(default_factory=dict)
    raw: str = ""
    """What it asks for, as a request of its own."""
    resolved: Json | None = None
    """`resource` with its references put right."""
    target: str | None = None
    """Logical id that the resource has or will have."""
    existing: Version | None = None
    """The resource that a conditional create found."""
    answer: Answer | None = None
    done: Done | None = None


def plan(
    bundle: Json, base_of: Callable[[str], str | None], base: str, *, lenient: bool = False
) -> list[Planned]:
    """The entries of a transaction as `Planned`.

    BadRequest or InvalidContent, naming the entry, where one makes no sense or costs too much to keep.
    """
    planned = []
    for index, entry in enumerate(bundle.get("entry", [])):
        try:
            one = plan_one(index, entry, base_of, lenient=lenient)
            one.raw = raw_request(entry, base)
            planned.append(one)
        except FhirError as error:
            raise error.within(f"Bundle.entry[{index}]") from error
    check_rows(planned)
    return planned


def check_size(bundle: Json) -> None:
    """Refuse (413) a batch or transaction of too many entries or values: before anything else looks at it."""
    entries = bundle.get("entry")
    BUNDLE_ENTRIES.check(len(entries) if isinstance(entries, list) else 0, "Bundle.entry")
    BUNDLE_ELEMENTS.check(sizes.elements(bundle), "Bundle.entry")


def check_rows(planned: list[Planned]) -> None:
    """Refuse (422) a transaction of which a resource, or all together, would have too many index rows."""
    most = 0
    for one in planned:
        if one.resource is not None:
            with _Entry(one):
                most += sizes.check(one.route.type or "", one.resource)
    if most <= TRANSACTION_INDEX_ROWS.value:
        return
    total = sum(sizes.index_rows(one.route.type or "", one.resource) for one in planned if one.resource is not None)
    TRANSACTION_INDEX_ROWS.check(total, "Bundle.entry")


def transaction(
    uow: UnitOfWork, asked: Asked, planned: list[Planned], *, reader: Reader, new_id: Callable[[], str]
) -> list[Planned]:
    """Carry out all entries in this unit of work, in the order of R4 §3.1.0.11.2; the caller commits."""
    for one in planned:  # a transaction that is tried again starts from what was sent
        one.existing = one.answer = one.done = one.target = None
    _refuse_twice(planned)
    spent = Spent()
    mapping = _identities(uow, planned, new_id, asked.parse, spent)
    writes = [one for one in planned if one.resource is not None and one.existing is None]
    for one in writes:
        with _Entry(one):
            one.resolved = _resolved(uow, one, mapping, asked.parse)
    for method in ("DELETE", "POST", "PUT", "GET"):
        # Writes in one order for everyone: two transactions cannot wait for each other.
        for one in sorted(
            (p for p in planned if p.route.form.entry == method),
            key=lambda p: (p.route.type or "", p.target or "") if method != "GET" else ("", ""),
        ):
            with _Entry(one):
                _carry_out(uow, asked, one, reader, spent)
    return planned


def batch(entry: Callable[[], Answer], recording: Recording) -> list[bundles.Entry]:
    """Carry out one entry by itself; what fails says so in its own entry (R4 §3.1.0.11.1), and to its recording."""
    try:
        return [answered(entry())]
    except FhirError as error:
        recording.failed(None, error)
        return [
            bundles.Entry(None, None, {"response": {"status": _status(error.status), "outcome": outcome(error.issues)}})
        ]


def status_of(entries: list[bundles.Entry]) -> int:
    """The status that the response entry of one batch entry tells."""
    return int(entries[0].parts["response"]["status"][:3])


def raw_request(entry: Json, base: str) -> str:
    """What an entry of a Bundle asks for, as it would stand in a request of its own: for its audit record."""
    request = entry.get("request")
    if not isinstance(request, dict):
        return f"(no request) {base}"
    url = str(request.get("url", ""))
    if not urlsplit(url).scheme:
        url = f"{base}/{url.lstrip('/')}"
    condition = request.get("ifNoneExist")
    raw = f"{request.get('method', '')} {url}"
    return (f"{raw}\nIf-None-Exist: ?{condition}" if isinstance(condition, str) else raw)[:RAW_LENGTH]


def answered(answer: Answer) -> bundles.Entry:
    """The response entry of an `Answer`."""
    headers = {name.lower(): value for name, value in answer.headers}
    response: Json = {"status": _status(answer.status)}
    for name, element in (("location", "location"), ("etag", "etag")):
        if name in headers:
            response[element] = headers[name]
    told = [Issue("warning", "not-supported", text) for name, text in answer.headers if name == "Warning"]
    if told:
        response["outcome"] = outcome(told)
    body = answer.body or None
    return bundles.Entry(None, body, {"response": response})


def response_entry(one: Planned, asked: Asked, shown: Callable[[Version, Asked], bytes]) -> bundles.Entry:
    """The response entry of a transaction's entry; the resource is in it only where Prefer asks."""
    if one.answer is not None:
        return answered(one.answer)
    done = one.done
    if done is None:
        raise BadRequest("The entry was not carried out")
    response: Json = {"status": _status(done.status)}
    content = None
    version = done.version
    if version is not None:
        response["etag"] = negotiation.etag(version.version)
        response["lastModified"] = times.instant_text(version.last_updated)
        if not version.deleted:
            response["location"] = location(asked.base, version)
            if asked.prefers and asked.preference.returns == "representation":
                content = shown(version, asked)
    told = [Issue("warning", "not-supported", left_out(name)) for name in one.given.dropped]
    told += done.warnings
    if asked.preference.returns == "OperationOutcome":
        told.append(Issue("information", "informational", "Done"))
    if told:
        response["outcome"] = outcome(told)
    full_url = f"{asked.base}/{version.reference}" if version is not None else None
    return bundles.Entry(full_url, content, {"response": response})


def split_issues(bundle: Json) -> tuple[list[Issue], dict[int, list[Issue]]]:
    """Validation of a batch: the issues of the Bundle itself, and those of each entry's resource by index."""
    own: list[Issue] = []
    of_entry: dict[int, list[Issue]] = {}
    for issue in validation.validate(bundle):
        if issue.severity not in ("error", "fatal"):
            continue
        found = _IN_ENTRY.match(issue.expression[0]) if issue.expression else None
        if found is None:
            own.append(issue)
        else:
            of_entry.setdefault(int(found[1]), []).append(issue)
    return own, of_entry


# — planning —

_HEADERS = (
    ("ifMatch", "if-match"),
    ("ifNoneMatch", "if-none-match"),
    ("ifModifiedSince", "if-modified-since"),
    ("ifNoneExist", "if-none-exist"),
)
"""Bundle.entry.request's elements that are headers of the interaction."""


def plan_one(index: int, entry: Json, base_of: Callable[[str], str | None], *, lenient: bool = False) -> Planned:
    """One entry as `Planned`. Raises what a request of its own would hear."""
    request = entry.get("request")
    if not isinstance(request, dict):
        raise InvalidContent(
            "Each entry of a batch or transaction has a request (bdl-3)", code="required", expression="request"
        )
    segments, query = _target(str(request.get("url", "")), base_of)
    route = resolve(str(request.get("method", "")), segments)
    method = route.form.entry
    if method is None:
        raise NotAllowed("This interaction cannot stand in a batch or transaction here", expression="request")
    resource = entry.get("resource")
    wants_body = method in ("POST", "PUT")
    if wants_body != (resource is not None):
        text = "needs a resource" if wants_body else "takes no resource"
        raise InvalidContent(f"This request {text}", code="required", expression="resource")
    if resource is not None and resource["resourceType"] != route.type:
        raise BadRequest("request.url names another type than the resource", expression="request.url")
    if resource is not None and route.id is not None and resource.get("id") != route.id:
        raise BadRequest("The resource must bear the id of request.url", expression="resource.id")
    given = take(
        query, route.form.parameters, criteria=route.form.criteria, lenient=lenient, type_name=route.type
    )
    negotiation.accepted_format(None, given.one(FORMAT.name))
    if_none_exist = None
    if route.interaction is Interaction.CREATE:
        conditional = request.get("ifNoneExist")
        if_none_exist = writes.criteria_of(None if conditional is None else str(conditional), given)
    return Planned(
        index=index,
        route=route,
        full_url=entry.get("fullUrl"),
        given=given,
        resource=resource,
        condition=negotiation.precondition(request.get("ifMatch"), request.get("ifNoneMatch")),
        if_none_exist=if_none_exist,
        headers={name: str(request[key]) for key, name in _HEADERS if key in request},
    )


def _target(url: str, base_of: Callable[[str], str | None]) -> tuple[list[str], Parameters]:
    parts = urlsplit(url)
    path = parts.path
    if parts.scheme:
        base = base_of(url)
        if base is None:
            raise BadRequest("request.url is not below this server's base", expression="request.url")
        path = urlsplit(url[len(base) :]).path
    segments = [unquote(segment) for segment in path.strip("/").split("/") if segment]
    return segments, tuple(parse_qsl(parts.query, keep_blank_values=True))


# — transaction —


def _refuse_twice(planned: list[Planned]) -> None:
    seen: dict[tuple[str | None, str], int] = {}
    urls: dict[str, int] = {}
    for one in planned:
        if one.route.id is not None and one.route.form.entry != "GET":
            key = (one.route.type, one.route.id)
            if key in seen:
                raise BadRequest(
                    "A resource stands at most once in a transaction (R4 §3.1.0.11.2)",
                    code="duplicate",
                    expression=(f"Bundle.entry[{seen[key]}]", f"Bundle.entry[{one.index}]"),
                )
            seen[key] = one.index
        if one.full_url and one.resource is not None:
            if one.full_url in urls:
                raise BadRequest(
                    "Two entries have the same fullUrl (bdl-7)",
                    code="duplicate",
                    expression=(f"Bundle.entry[{urls[one.full_url]}]", f"Bundle.entry[{one.index}]"),
                )
            urls[one.full_url] = one.index


def _identities(
    uow: UnitOfWork, planned: list[Planned], new_id: Callable[[], str], parse: Parse, spent: Spent
) -> dict[str, str]:
    """Give every written resource its id, find what conditional entries mean; fullUrl → ``Type/id``."""
    agreed: dict[tuple[str, Parameters], Planned] = {}
    conditional = [
        one
        for one in planned
        if one.if_none_exist is not None or (one.route.interaction is Interaction.UPDATE and one.route.id is None)
    ]
    for one in sorted(conditional, key=lambda p: (p.route.type or "", p.if_none_exist or p.given.criteria)):
        with _Entry(one):
            wanted = one.if_none_exist if one.if_none_exist is not None else one.given.criteria
            key = (one.route.type or "", tuple(sorted(wanted)))
            if key in agreed:
                raise BadRequest(
                    "Two entries have the same conditional criteria", code="duplicate", expression="request.ifNoneExist"
                )
            agreed[key] = one
            found = writes.matches(uow, one.route.type or "", wanted, parse)
            if found and one.if_none_exist is not None:
                spent.admit()
                one.existing = uow.resources.read(found[0].type, found[0].id)
                spent.add(one.existing.content)
                one.done = Done(200, one.existing)
            one.target = found[0].id if found else None
    mapping: dict[str, str] = {}
    for one in planned:
        if one.resource is None:
            one.target = one.route.id
            continue
        if one.target is None:
            given = one.resource.get("id") if one.route.interaction is not Interaction.CREATE else None
            one.target = one.route.id or given or new_id()
        if one.full_url:
            mapping[one.full_url] = f"{one.route.type}/{one.target}"
    return mapping


def _resolved(uow: UnitOfWork, one: Planned, mapping: dict[str, str], parse: Parse) -> Json:
    """The entry's resource with its references to other entries and its conditional references put right."""
    resource = one.resource or {}
    near = mapping
    base = _restful_base(one.full_url)
    if base is not None:
        # R4 bundle.html#references: a relative reference is first looked for below the base of its own fullUrl.
        near = {**mapping, **{url[len(base) :]: to for url, to in mapping.items() if url.startswith(base)}}
    wanted = {
        found.holder["reference"]
        for found in references.walk(resource)
        if isinstance(found.holder.get("reference"), str) and "?" in found.holder["reference"]
    }
    if wanted:
        near = {**near, **{text: _conditional_reference(uow, text, parse) for text in sorted(wanted)}}
    return references.rewrite(resource, near) if near else resource


def _restful_base(full_url: str | None) -> str | None:
    if not full_url or not full_url.startswith(("http://", "https://")):
        return None
    pieces = full_url.rsplit("/", 2)
    return f"{pieces[0]}/" if len(pieces) == 3 else None


def _conditional_reference(uow: UnitOfWork, text: str, parse: Parse) -> str:
    type_name, _, query = text.partition("?")
    resolve("GET", [type_name])
    found = uow.resources.search(parse(type_name, (*parse_qsl(query, keep_blank_values=True), ("_count", "2"))))
    if len(found.matches) != 1:
        raise PreconditionFailed(
            "A conditional reference must find exactly one resource",
            code="not-found" if not found.matches else "multiple-matches",
        )
    return found.matches[0].reference


def _carry_out(uow: UnitOfWork, asked: Asked, one: Planned, reader: Reader, spent: Spent) -> None:
    route = one.route
    type_name = route.type or ""
    heard = len(uow.warnings)
    match route.interaction:
        case Interaction.CREATE:
            if one.existing is None:
                one.done = Done(201, uow.resources.create(type_name, one.resolved or {}, id=one.target))
        case Interaction.UPDATE:
            body = {**(one.resolved or {}), "id": one.target}
            one.done = writes.alter(uow, type_name, one.target or "", body, one.condition)
        case Interaction.DELETE if route.id is None:
            one.done = writes.remove_found(
                uow, type_name, one.given.criteria, one.condition, parse=asked.parse, raw=one.raw
            )
        case Interaction.DELETE:
            one.done = writes.remove(uow, type_name, route.id or "", one.condition)
        case _:
            # In a Bundle a Binary is a resource: its bytes would become the JSON around them.
            headers = {**one.headers, "accept": negotiation.FHIR_JSON}
            spent.admit()
            single = replace(asked, route=route, given=one.given, headers=headers)
            one.answer = warned(reader(uow, single), one.given.dropped)
            spent.add(one.answer.body)
    if one.done is not None:
        one.done = replace(one.done, warnings=tuple(uow.warnings[heard:]))


class _Entry:
    """Names the entry in whatever goes wrong while it is carried out."""

    def __init__(self, one: Planned) -> None:
        self.one = one

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, FhirError):
            raise error.within(f"Bundle.entry[{self.one.index}]") from error


def _status(code: int) -> str:
    return f"{code} {HTTPStatus(code).phrase}"
