"""Which interaction a request is: method and path → Route. Pure; the batch uses it for its entries too.

FHIR R4 §3.1.0.1.2 http://hl7.org/fhir/R4/http.html#summary
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from resources import registry
from resources.outcomes import BadRequest, NotAllowed, NotFound

_ID = re.compile(r"^[A-Za-z0-9\-.]{1,64}$")
_VERSION = re.compile(r"^[0-9]{1,18}$")


class Kind(StrEnum):
    CAPABILITIES = "capabilities"
    SMART = "smart-configuration"
    READ = "read"
    VREAD = "vread"
    CREATE = "create"
    UPDATE = "update"
    PATCH = "patch"
    DELETE = "delete"
    CONDITIONAL_UPDATE = "conditional-update"
    CONDITIONAL_DELETE = "conditional-delete"
    CONDITIONAL_PATCH = "conditional-patch"
    SEARCH_TYPE = "search-type"
    SEARCH_SYSTEM = "search-system"
    SEARCH_COMPARTMENT = "search-compartment"
    HISTORY_INSTANCE = "history-instance"
    HISTORY_TYPE = "history-type"
    HISTORY_SYSTEM = "history-system"
    BATCH = "batch"
    OPERATION = "operation"


@dataclass(frozen=True, slots=True)
class Route:
    kind: Kind
    type: str | None = None
    id: str | None = None
    version: int | None = None
    operation: str | None = None
    compartment: tuple[str, str] | None = None


UNSUPPORTED = frozenset({Kind.PATCH, Kind.CONDITIONAL_PATCH})
"""Interactions of R4 that this server does not carry out yet."""

_NEEDS: Mapping[Kind, str] = {
    Kind.CREATE: "create",
    Kind.UPDATE: "update",
    Kind.CONDITIONAL_UPDATE: "update",
    Kind.DELETE: "delete",
    Kind.CONDITIONAL_DELETE: "delete",
}
"""The interaction that a type must have in the registry: an AuditEvent has none of these."""

_SYSTEM: Mapping[str, Mapping[str, Kind]] = {
    "": {"GET": Kind.SEARCH_SYSTEM, "POST": Kind.BATCH, "OPTIONS": Kind.CAPABILITIES},
    "metadata": {"GET": Kind.CAPABILITIES},
    "_search": {"POST": Kind.SEARCH_SYSTEM},
    "_history": {"GET": Kind.HISTORY_SYSTEM},
}
_TYPE: Mapping[str, Mapping[str, Kind]] = {
    "": {
        "GET": Kind.SEARCH_TYPE,
        "POST": Kind.CREATE,
        "PUT": Kind.CONDITIONAL_UPDATE,
        "DELETE": Kind.CONDITIONAL_DELETE,
        "PATCH": Kind.CONDITIONAL_PATCH,
    },
    "_search": {"POST": Kind.SEARCH_TYPE},
    "_history": {"GET": Kind.HISTORY_TYPE},
}
_INSTANCE: Mapping[str, Mapping[str, Kind]] = {
    "": {"GET": Kind.READ, "PUT": Kind.UPDATE, "DELETE": Kind.DELETE, "PATCH": Kind.PATCH},
    "_history": {"GET": Kind.HISTORY_INSTANCE},
}


def resolve(method: str, segments: Sequence[str]) -> Route:
    """The interaction that `method` on these path segments below the base asks for.

    NotFound (404) where no such path or resource type exists, NotAllowed (405) where the path does not know the method,
    BadRequest (400) where an id breaks the syntax of R4 (datatypes.html#id).
    """
    method = "GET" if method == "HEAD" else method
    if segments == [".well-known", "smart-configuration"]:
        return Route(_kind({"GET": Kind.SMART}, method))
    if len(segments) <= 1 and (not segments or segments[0] in _SYSTEM):
        return Route(_kind(_SYSTEM[segments[0] if segments else ""], method))
    if len(segments) == 1 and segments[0].startswith("$"):
        return Route(_operation(method), operation=segments[0][1:])
    type_name = segments[0]
    if type_name not in registry.TYPES:
        raise NotFound(f"{_shown(type_name)} is not a resource type of R4", code="not-supported")
    route = _type_route(method, type_name, segments[1:])
    asked = _NEEDS.get(route.kind)
    if asked is not None and asked not in registry.TYPES[type_name].interactions:
        raise NotAllowed.but({"GET"}, f"{type_name} knows no {asked} from outside")
    return route


def _type_route(method: str, type_name: str, rest: Sequence[str]) -> Route:
    if not rest or (len(rest) == 1 and rest[0] in _TYPE):
        return Route(_kind(_TYPE[rest[0] if rest else ""], method), type_name)
    if rest[0].startswith("$"):
        if len(rest) > 1:
            raise NotFound("No such path", code="not-supported")
        return Route(_operation(method), type_name, operation=rest[0][1:])
    logical_id, *tail = rest
    if not _ID.match(logical_id):
        raise BadRequest("A logical id is 1 to 64 of A-Z a-z 0-9 - .", code="value", expression=f"{type_name}.id")
    if not tail or (len(tail) == 1 and tail[0] in _INSTANCE):
        return Route(_kind(_INSTANCE[tail[0] if tail else ""], method), type_name, logical_id)
    if len(tail) == 2 and tail[0] == "_history":
        if not _VERSION.match(tail[1]):
            raise NotFound("No such version")
        return Route(_kind({"GET": Kind.VREAD}, method), type_name, logical_id, version=int(tail[1]))
    if len(tail) == 1 and tail[0].startswith("$"):
        return Route(_operation(method), type_name, logical_id, operation=tail[0][1:])
    if len(tail) == 1 and (tail[0] in registry.TYPES or tail[0] == "*"):
        kind = _kind({"GET": Kind.SEARCH_COMPARTMENT}, method)
        found = None if tail[0] == "*" else tail[0]
        return Route(kind, found, compartment=(type_name, logical_id))
    raise NotFound("No such path", code="not-supported")


def _kind(methods: Mapping[str, Kind], method: str) -> Kind:
    defined = {name: kind for name, kind in methods.items() if kind not in UNSUPPORTED}
    if method not in defined:
        raise NotAllowed.but(
            defined.keys(), f"{_shown(method)} is not defined here; allowed: {', '.join(sorted(defined))}"
        )
    return defined[method]


def _operation(method: str) -> Kind:
    return _kind({"GET": Kind.OPERATION, "POST": Kind.OPERATION}, method)


def _shown(text: str) -> str:
    """A name from the URL, repeated only if it is plainly a name."""
    return text if re.fullmatch(r"[A-Za-z]{1,40}", text) else "This"
