"""What comes in and what goes out at the FHIR edge, as plain values: no Flask below `rest`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from fhir_server.edge.negotiation import FHIR_JSON, Preference, etag, http_date
from fhir_server.edge.parameters import NOTHING, Given, left_out
from fhir_server.edge.routes import Route
from resources import jsontext
from resources.json import Json
from resources.outcomes import Issue
from resources.search import Query
from resources.values import light
from store.access import Caller, Version


class Parse(Protocol):
    """Search parameters → Query, with this deployment's bases and clock."""

    def __call__(
        self, type_name: str | None, parameters: Sequence[tuple[str, str]], *, lenient: bool = False
    ) -> Query: ...


@light
@dataclass(frozen=True, slots=True)
class Asked:
    """A request at the FHIR edge."""

    route: Route
    caller: Caller
    parse: Parse
    base: str
    """The FHIR base that the client used, e.g. ``https://host/fhir``."""
    origin: str = ""
    """The same without the path, e.g. ``https://host``."""
    given: Given = NOTHING
    """The parameters of the query and, for POST _search, of the form."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Header names in lower case."""
    body: bytes = b""
    resource: Json | None = None
    """What the body holds, where it is known to be valid already (an entry of a Bundle)."""
    preference: Preference = field(default_factory=Preference)
    method: str = "GET"
    raw: str = ""
    """Method and URL as received, for the audit record of a query."""
    is_behind: bool = False
    """A search of AuditEvents: the log does not have everything yet that was recorded before."""
    prefers: bool = False
    """Whether the client sent a Prefer header with `return`."""


@light
@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of the FHIR edge."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    content_type: str = FHIR_JSON


def of_json(resource: Json, status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
    """An answer with a resource that the server made."""
    return Answer(status, jsontext.dump(resource), headers)


def of_version(version: Version, status: int = 200, *, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
    """The stored text of a version, with ETag and Last-Modified (R4 §3.1.0.1.3)."""
    return Answer(status, version.content, (*version_headers(version), *headers))


def version_headers(version: Version) -> tuple[tuple[str, str], ...]:
    """ETag and Last-Modified of a version (R4 §3.1.0.1)."""
    return (("ETag", etag(version.version)), ("Last-Modified", http_date(version.last_updated)))


def location(base: str, version: Version) -> str:
    """The URL of a version."""
    return f"{base}/{version.type}/{version.id}/_history/{version.version}"


def told(warnings: Sequence[Issue]) -> tuple[tuple[str, str], ...]:
    """Warnings as headers (RFC 7234 §5.5: 299, a persistent warning); what a header cannot hold is left out of it."""
    texts = ("".join(one for one in issue.diagnostics if " " <= one <= "~" and one not in '"\\') for issue in warnings)
    return tuple(("Warning", f'299 - "{text}"') for text in texts)


def warned(answer: Answer, dropped: Sequence[str]) -> Answer:
    """The answer, telling what was left out (RFC 7234 §5.5: 299, a persistent warning)."""
    if not dropped:
        return answer
    told = tuple(("Warning", f'299 - "{left_out(name)}"') for name in dropped)
    return replace(answer, headers=(*answer.headers, *told))
