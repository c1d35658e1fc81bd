"""The read interactions: read, vread, search and history.

`carry_out` answers a request; `within` is the same inside a unit of work, as a transaction needs it.

FHIR R4 §3.1.0.2, §3.1.0.9, §3.1.1 http://hl7.org/fhir/R4/http.html
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from urllib.parse import urlencode

from audit import tde
from fhir_server.edge import binary, negotiation, summary
from fhir_server.edge.exchange import Answer, Asked, version_headers
from fhir_server.edge.parameters import Given, left_out
from fhir_server.edge.parameters import shown as shown_name
from fhir_server.edge.ports import Services
from fhir_server.edge.routes import Route
from resources import bundles, jsontext, times
from resources.interactions import FORMAT, PAGE, RENDERING, SUMMARY, Body, Interaction
from resources.outcomes import BadRequest, Issue, outcome
from store.access import Access, Version
from store.unit_of_work import UnitOfWork

Shown = Callable[[Version, Asked], bytes]
"""How a version is shown to a caller: its text, or with what is not the caller's masked."""

_ONE = frozenset({Interaction.READ, Interaction.VREAD})
"""Reads of one resource, which need no transaction of their own (`Store.look`)."""


def carry_out(services: Services, asked: Asked, intent: Access) -> Answer:
    """Answer a read interaction; its record is durable before the answer leaves."""
    if asked.route.type == "AuditEvent":
        asked = replace(asked, is_behind=not services.ledger.catch_up())
    return services.store.look(
        asked.caller,
        lambda uow: within(services, uow, asked),
        intent=intent,
        glance=asked.route.interaction in _ONE,
    )


def within(services: Services, uow: UnitOfWork, asked: Asked) -> Answer:
    """Answer a read interaction in this unit of work."""

    def shown(version: Version, asked: Asked) -> bytes:
        whole = services.shown(version, asked.caller)
        return whole if asked.given.subset is None else summary.subset(whole, asked.given.subset)

    match asked.route.interaction:
        case Interaction.READ | Interaction.VREAD:
            if _wants_bytes(asked.route, asked.headers.get("accept"), asked.given):
                accept = (asked.given.one(FORMAT.name) or "").replace(" ", "+") or asked.headers.get("accept")
                return read(uow, asked, shown, bytes_of=lambda version: binary.as_bytes(version, accept))
            return read(uow, asked, shown)
        case Interaction.SEARCH_TYPE | Interaction.SEARCH_SYSTEM:
            return search(uow, asked, shown, services.new_id)
        case _:
            return history(uow, asked, shown, services.new_id)


def negotiate(route: Route, accept: str | None, given: Given) -> None:
    """NotAcceptable (406) where the client takes nothing that this interaction answers with.

    The content of a Binary is compared when it is known (`binary.as_bytes`); who stores one is told of it in FHIR.
    """
    if route.interaction is Interaction.SMART or _wants_bytes(route, accept, given):
        return
    if route.type == "Binary" and route.form.body is Body.RESOURCE and given.one(FORMAT.name) is None:
        return
    negotiation.accepted_format(accept, given.one(FORMAT.name))


def _wants_bytes(route: Route, accept: str | None, given: Given) -> bool:
    """Whether the content of a Binary is asked for: a part of a resource is FHIR, whatever else is accepted."""
    if route.type != "Binary" or route.interaction not in _ONE or given.subset is not None:
        return False
    return binary.wants_bytes(accept, given.one(FORMAT.name))


def read(uow: UnitOfWork, asked: Asked, shown: Shown, bytes_of: Callable[[Version], Answer] | None = None) -> Answer:
    """read and vread; 304 where the client has this version (R4 §3.1.0.2, §3.1.0.1.5).

    `bytes_of` renders a Binary as the content that it holds.
    """
    route = asked.route
    if route.type is None or route.id is None:
        raise BadRequest("A read names a type and an id")
    if route.version is None:
        version = uow.resources.read(route.type, route.id)
    else:
        version = uow.resources.vread(route.type, route.id, route.version)
    headers = asked.headers
    if negotiation.not_modified(
        version.version, version.last_updated, headers.get("if-none-match"), headers.get("if-modified-since")
    ):
        return Answer(304, b"", version_headers(version))
    if bytes_of is not None:
        return bytes_of(version)
    return Answer(200, shown(version, asked), version_headers(version))


def search(uow: UnitOfWork, asked: Asked, shown: Shown, new_id: Callable[[], str]) -> Answer:
    """search at type and system level (R4 §3.1.1): a searchset Bundle with truthful self and next links."""
    asks = [pair for pair in asked.given.pairs if pair[0] not in _OF_THE_EDGE]
    in_tde = asked.route.type == "AuditEvent" and _IN_TDE in asks
    if in_tde:
        asks, shown = _of_tde(asks), _in_tde(shown)
    query = asked.parse(asked.route.type, asks, lenient=asked.preference.lenient)
    page = uow.resources.search(query, token=asked.given.one(PAGE.name))
    entries = [
        bundles.Entry(f"{asked.base}/{version.reference}", shown(version, asked), {"search": {"mode": mode}})
        for mode, versions in (("match", page.matches), ("include", page.includes))
        for version in versions
    ]
    ignored = (*asked.given.dropped, *(name for name, _ in query.ignored))
    if ignored:
        issues = [Issue("warning", "not-supported", left_out(name), (f"http.{shown_name(name)}",)) for name in ignored]
        entries.append(bundles.Entry(None, jsontext.dump(outcome(issues)), {"search": {"mode": "outcome"}}))
    entries += [_warning(cut.code, cut.text, "http._include") for cut in page.cuts]
    if asked.is_behind:
        behind = "The log is behind: what was recorded last is not in it yet. Ask again in a minute"
        entries.append(_warning("incomplete", behind))
    stale = uow.store.standing.stale(uow.connection)
    if stale and (asked.route.type is None or asked.route.type in stale or _goes_on(asks)):
        entries.append(_warning("incomplete", "An index is being rebuilt: what was stored before may be missing"))
    path = f"{asked.base}/{asked.route.type}" if asked.route.type else asked.base
    processed = [*query.parameters(), *([_IN_TDE] if in_tde else ())]
    return _bundle("searchset", uow, new_id, entries, path, processed, page.total, page.next)


_IN_TDE = ("_profile", tde.PROFILE)
"""How events are asked for in the French profile."""


def _of_tde(asks: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The search without the profile, which each event is projected to. BadRequest (400) without a bound of `date`."""
    if not any(name == "date" for name, _ in asks):
        raise BadRequest("In the profile TDE a search needs a date", code="required", expression="http.date")
    return [pair for pair in asks if pair != _IN_TDE]


def _in_tde(shown: Shown) -> Shown:
    """AuditEvents in the profile; what was included besides as it is."""

    def projected(version: Version, asked: Asked) -> bytes:
        if version.type != "AuditEvent":
            return shown(version, asked)
        text = jsontext.dump(tde.project(version.json()))
        return text if asked.given.subset is None else summary.subset(text, asked.given.subset)

    return projected


def history(uow: UnitOfWork, asked: Asked, shown: Shown, new_id: Callable[[], str]) -> Answer:
    """history at instance, type and system level, newest first (R4 §3.1.0.9)."""
    given = asked.given
    since, at = (_instant(name, given.one(name)) for name in ("_since", "_at"))
    counts_only = given.one(SUMMARY.name) == "count"
    count = 0 if counts_only else int(given.one("_count") or HISTORY_COUNT)
    page = uow.resources.history(
        asked.route.type, asked.route.id, since=since, at=at, count=count, token=given.one(PAGE.name)
    )
    entries = [_history_entry(version, asked, shown) for version in page.versions]
    path = "/".join(part for part in (asked.base, asked.route.type, asked.route.id) if part) + "/_history"
    kept = [pair for pair in given.pairs if pair[0] not in _OF_THE_EDGE]
    return _bundle("history", uow, new_id, entries, path, kept, page.total, page.next)


def _bundle(
    kind: str,
    uow: UnitOfWork,
    new_id: Callable[[], str],
    entries: Sequence[bundles.Entry],
    path: str,
    processed: Sequence[tuple[str, str]],
    total: int | None,
    token: str | None,
) -> Answer:
    """One page: `self` says what was processed, `next` is there unless this is the last."""
    links = [("self", url(path, processed))]
    if token:
        links.append(("next", url(path, [*processed, (PAGE.name, token)])))
    instant = times.instant_text(uow.now)
    content = bundles.bundle(
        kind, entries, dump=jsontext.dump, identifier=new_id(), instant=instant, total=total, links=links
    )
    return Answer(200, content)


def _history_entry(version: Version, asked: Asked, shown: Shown) -> bundles.Entry:
    created = version.method == "POST"
    request = {"method": version.method, "url": version.type if created else version.reference}
    status = "204" if version.deleted else "201" if version.version == 1 else "200"
    response = {
        "status": status,
        "etag": negotiation.etag(version.version),
        "lastModified": times.instant_text(version.last_updated),
    }
    content = None if version.deleted else shown(version, asked)
    return bundles.Entry(f"{asked.base}/{version.reference}", content, {"request": request, "response": response})


HISTORY_COUNT = 50
"""Versions a page where `_count` does not say."""
_OF_THE_EDGE = frozenset({PAGE.name, *(parameter.name for parameter in RENDERING)})
"""Parameters that are no part of what is asked: a link need not repeat them."""


def _instant(name: str, value: str | None) -> datetime | None:
    if value is None:
        return None
    try:
        parsed = datetime.fromisoformat(value.replace(" ", "+"))
    except ValueError:
        raise BadRequest(f"{name} must be an instant", code="value", expression=f"http.{name}") from None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def _goes_on(asks: Sequence[tuple[str, str]]) -> bool:
    """Whether a search looks at other types too: a chain, `_has`, an include."""
    return any("." in name or name.startswith(("_has", "_include", "_revinclude")) for name, _ in asks)


def _warning(code: str, text: str, *expression: str) -> bundles.Entry:
    """What a searchset lacks, told in it (R4 §3.1.1.4.2, search.mode `outcome`)."""
    issue = Issue("warning", code, text, expression)
    return bundles.Entry(None, jsontext.dump(outcome((issue,))), {"search": {"mode": "outcome"}})


def url(path: str, parameters: Sequence[tuple[str, str]]) -> str:
    """The URL of a page of what is asked at `path`."""
    return f"{path}?{urlencode(parameters)}" if parameters else path

