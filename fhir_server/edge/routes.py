"""Which interaction a request is: method and path → Route. Pure; the batch uses it for its entries too.

The paths are those of the forms in `resources.interactions`.

FHIR R4 §3.1.0.1.2 http://hl7.org/fhir/R4/http.html#summary
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from resources import interactions, registry
from resources.interactions import Form, Interaction, Level, Row
from resources.outcomes import BadRequest, NotAllowed, NotFound
from resources.values import light

_ID = re.compile(r"^[A-Za-z0-9\-.]{1,64}$")
_VERSION = re.compile(r"^[0-9]{1,18}$")
_OPERATION = "$[name]"
_VREAD = "_history/[vid]"


@light
@dataclass(frozen=True, slots=True)
class Route:
    """What a request is. `form` is how it was asked for: an update without id, say, is a conditional one."""

    interaction: Interaction
    type: str | None = None
    id: str | None = None
    version: int | None = None
    operation: str | None = None
    form: Form = field(default=Form("", Level.SYSTEM), compare=False, repr=False)
    public: bool = field(default=False, compare=False)
    """Whether it is answered without a token."""


class _Place(NamedTuple):
    """What a path names, before the method is looked at."""

    methods: Mapping[str, tuple[Row, Form]]
    type: str | None = None
    id: str | None = None
    version: int | None = None
    operation: str | None = None


def _paths(level: Level) -> Mapping[str, Mapping[str, tuple[Row, Form]]]:
    found: dict[str, dict[str, tuple[Row, Form]]] = {}
    for row, form in interactions.forms():
        if form.level is level:
            found.setdefault(form.path, {})[form.method] = (row, form)
    return found


# Path below the level → method → what it is. By level and not in one table: the hash of a tuple with an Enum in it
# takes longer than all the rest of a read's routing.
_OF_SYSTEM = _paths(Level.SYSTEM)
_OF_TYPE = _paths(Level.TYPE)
_OF_INSTANCE = _paths(Level.INSTANCE)
_LACKS: Mapping[str, frozenset[Interaction]] = {
    name: lacking
    for name, row in registry.TYPES.items()
    if (lacking := (interactions.of_type(writes=False) | interactions.of_type(writes=True)) - row.interactions)
}
"""Type → the interactions that it does not have: an AuditEvent is written by the server alone."""


def resolve(method: str, segments: Sequence[str]) -> Route:
    """The interaction that `method` on these path segments below the base asks for.

    NotFound (404) where no such path or resource type exists, NotAllowed (405) where the path does not know the method,
    BadRequest (400) where an id breaks the syntax of R4 (datatypes.html#id).
    """
    methods, type_name, logical_id, version, operation = _place(segments)
    found = methods.get("GET" if method == "HEAD" else method)
    if found is None:
        allowed = ", ".join(sorted(methods))
        raise NotAllowed.but(methods, f"{_shown(method)} is not defined here; allowed: {allowed}")
    row, form = found
    if type_name is not None and type_name in _LACKS and row.interaction in _LACKS[type_name]:
        raise NotAllowed.but({"GET"}, f"{type_name} knows no {row.interaction} from outside")
    return Route(row.interaction, type_name, logical_id, version, operation, form, row.public)


def _place(segments: Sequence[str]) -> _Place:
    if not segments or segments[0] not in registry.TYPES:
        return _of_system(segments)
    type_name = segments[0]
    if len(segments) == 1:
        return _Place(_OF_TYPE[""], type_name)
    second = segments[1]
    if second.startswith("$"):
        if len(segments) > 2:
            raise NotFound("No such path", code="not-supported")
        return _Place(_OF_TYPE[_OPERATION], type_name, operation=second[1:])
    if len(segments) == 2 and second in _OF_TYPE:
        return _Place(_OF_TYPE[second], type_name)
    if not _ID.match(second):
        raise BadRequest("A logical id is 1 to 64 of A-Z a-z 0-9 - .", code="value", expression=f"{type_name}.id")
    return _of_instance(type_name, second, segments[2:])


def _of_instance(type_name: str, logical_id: str, tail: Sequence[str]) -> _Place:
    if not tail:
        return _Place(_OF_INSTANCE[""], type_name, logical_id)
    if len(tail) == 2 and tail[0] == "_history":
        if not _VERSION.match(tail[1]):
            raise NotFound("No such version")
        return _Place(_OF_INSTANCE[_VREAD], type_name, logical_id, int(tail[1]))
    if len(tail) == 1 and tail[0].startswith("$"):
        return _Place(_OF_INSTANCE[_OPERATION], type_name, logical_id, operation=tail[0][1:])
    if len(tail) == 1 and tail[0] in _OF_INSTANCE and tail[0] != _VREAD:
        return _Place(_OF_INSTANCE[tail[0]], type_name, logical_id)
    raise NotFound("No such path", code="not-supported")


def _of_system(segments: Sequence[str]) -> _Place:
    if len(segments) == 1 and segments[0].startswith("$"):
        return _Place(_OF_SYSTEM[_OPERATION], operation=segments[0][1:])
    path = "/".join(segments)
    if path not in _OF_SYSTEM:
        raise NotFound(f"{_shown(segments[0])} is not a resource type of R4", code="not-supported")
    return _Place(_OF_SYSTEM[path])


def _shown(text: str) -> str:
    """A name from the URL, repeated only if it is plainly a name."""
    return text if re.fullmatch(r"[A-Za-z]{1,40}", text) else "This"
