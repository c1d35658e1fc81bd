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
from resources.interactions import Form, Interaction, Level
from resources.outcomes import BadRequest, NotAllowed, NotFound

_ID = re.compile(r"^[A-Za-z0-9\-.]{1,64}$")
_VERSION = re.compile(r"^[0-9]{1,18}$")
_OPERATION = "$[name]"
_VREAD = "_history/[vid]"


@dataclass(frozen=True, slots=True)
class Route:
    """What a request is. `form` is how it was asked for: an update without id, say, is a conditional one."""

    interaction: Interaction
    type: str | None = None
    id: str | None = None
    version: int | None = None
    operation: str | None = None
    form: Form = field(default=Form("", Level.SYSTEM), compare=False, repr=False)

    @property
    def public(self) -> bool:
        """Whether it is answered without a token."""
        return interactions.ROWS[self.interaction].public


class _Place(NamedTuple):
    """What a path names, before the method is looked at."""

    level: Level
    path: str
    type: str | None = None
    id: str | None = None
    version: int | None = None
    operation: str | None = None


def _paths() -> Mapping[tuple[Level, str], Mapping[str, tuple[Interaction, Form]]]:
    found: dict[tuple[Level, str], dict[str, tuple[Interaction, Form]]] = {}
    for row, form in interactions.forms():
        found.setdefault((form.level, form.path), {})[form.method] = (row.interaction, form)
    return found


_PATHS = _paths()
"""(level, path below it) → method → what it is."""
_WORDS = frozenset(key for key in _PATHS if "[" not in key[1])
"""Those that are to be taken by the letter."""


def resolve(method: str, segments: Sequence[str]) -> Route:
    """The interaction that `method` on these path segments below the base asks for.

    NotFound (404) where no such path or resource type exists, NotAllowed (405) where the path does not know the method,
    BadRequest (400) where an id breaks the syntax of R4 (datatypes.html#id).
    """
    place = _place(segments)
    methods = _PATHS[place.level, place.path]
    found = methods.get("GET" if method == "HEAD" else method)
    if found is None:
        allowed = ", ".join(sorted(methods))
        raise NotAllowed.but(methods, f"{_shown(method)} is not defined here; allowed: {allowed}")
    interaction, form = found
    if place.type is not None and not _has(place.type, interaction):
        raise NotAllowed.but({"GET"}, f"{place.type} knows no {interaction} from outside")
    return Route(interaction, place.type, place.id, place.version, place.operation, form)


def _has(type_name: str, interaction: Interaction) -> bool:
    """Whether a type has this interaction: an AuditEvent is written by the server alone."""
    declared = interactions.ROWS[interaction].declared
    return declared is not Level.TYPE or interaction in registry.TYPES[type_name].interactions


def _place(segments: Sequence[str]) -> _Place:
    if not segments or segments[0] not in registry.TYPES:
        return _of_system(segments)
    type_name, *below = segments
    if not below or ((Level.TYPE, below[0]) in _WORDS and len(below) == 1):
        return _Place(Level.TYPE, "/".join(below), type_name)
    if below[0].startswith("$"):
        if len(below) > 1:
            raise NotFound("No such path", code="not-supported")
        return _Place(Level.TYPE, _OPERATION, type_name, operation=below[0][1:])
    logical_id, *tail = below
    if not _ID.match(logical_id):
        raise BadRequest("A logical id is 1 to 64 of A-Z a-z 0-9 - .", code="value", expression=f"{type_name}.id")
    if not tail or ((Level.INSTANCE, tail[0]) in _WORDS and len(tail) == 1):
        return _Place(Level.INSTANCE, "/".join(tail), type_name, logical_id)
    if len(tail) == 2 and tail[0] == "_history":
        if not _VERSION.match(tail[1]):
            raise NotFound("No such version")
        return _Place(Level.INSTANCE, _VREAD, type_name, logical_id, version=int(tail[1]))
    if len(tail) == 1 and tail[0].startswith("$"):
        return _Place(Level.INSTANCE, _OPERATION, type_name, logical_id, operation=tail[0][1:])
    raise NotFound("No such path", code="not-supported")


def _of_system(segments: Sequence[str]) -> _Place:
    if len(segments) == 1 and segments[0].startswith("$"):
        return _Place(Level.SYSTEM, _OPERATION, operation=segments[0][1:])
    path = "/".join(segments)
    if (Level.SYSTEM, path) not in _WORDS:
        raise NotFound(f"{_shown(segments[0])} is not a resource type of R4", code="not-supported")
    return _Place(Level.SYSTEM, path)


def _shown(text: str) -> str:
    """A name from the URL, repeated only if it is plainly a name."""
    return text if re.fullmatch(r"[A-Za-z]{1,40}", text) else "This"
