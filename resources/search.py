"""A search's parameters, parsed to a Query.

What a client asks is honoured, refused, or (under `handling=lenient`, unknown parameters alone) reported as ignored;
it is never dropped in silence, since a filter that does not filter shows the wrong patients.

FHIR R4 §3.1.1 http://hl7.org/fhir/R4/search.html
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo

from resources import definitions, registry, times
from resources.budgets import INCLUDES, PAGE_MATCHES, PARAMETERS, SEARCH_VALUES, SORT_KEYS
from resources.criteria import Criterion, Include, Query, SortKey
from resources.own_parameters import BY_RANK, RANK
from resources.search_criteria import UnknownParameter, criterion, empty, may_point_to, value_count
from resources.search_parameters import parameter
from resources.search_values import Reading, place, refuse

__all__ = ["COUNT_DEFAULT", "COUNT_MAX", "HARMLESS", "UNSUPPORTED", "Query", "parse"]

COUNT_DEFAULT = 50
COUNT_MAX = PAGE_MATCHES.value

HARMLESS = frozenset({"_format", "_pretty", "_totalMethod"})
"""Controls that alter no result: `_format` and `_pretty` are the edge's (§3.1.0.1.8), `_totalMethod` is what fhirpy's
count() adds."""

UNSUPPORTED = frozenset({"_filter", "_list", "_text", "_content", "_query", "_containedType"})
"""Parameters of the standard that this server refuses rather than ignores."""


def parse(
    type_name: str | None,
    parameters: Sequence[tuple[str, str]],
    *,
    lenient: bool = False,
    types: Collection[str] | None = None,
    base_urls: Sequence[str] = (),
    zone: tzinfo = UTC,
    now: datetime | None = None,
) -> Query:
    """What `parameters` (decoded name, value pairs in the order sent) ask of `type_name` (None: of the system).

    `types` are those that `_type` may name (all of R4 if None); `zone` is that of dates without one; `now` is what
    `ap` measures from. Raises BadRequest: always for a modifier or a value that cannot be honoured, and for an unknown
    parameter unless `lenient`, when `Query.ignored` has it.
    """
    PARAMETERS.check(len(parameters))
    known = frozenset(registry.TYPES if types is None else types)
    named = _types(parameters, known) if type_name is None else ()
    if len(named) == 1:
        type_name, named = named[0], ()
    reading = Reading(tuple(base_urls), zone, times.ticks(now or times.utc_now()))
    draft = _Draft(type_name, named, reading)
    for name, value in parameters:
        try:
            _take(draft, name, value)
        except UnknownParameter:
            if not lenient:
                raise
            draft.ignored.append((name, value))
    return draft.query()


@dataclass(slots=True)
class _Draft:
    type: str | None
    types: tuple[str, ...]
    reading: Reading
    criteria: list[Criterion] = field(default_factory=list)
    sort: list[SortKey] = field(default_factory=list)
    count: int | None = None
    total: str | None = None
    summary: str | None = None
    elements: list[str] = field(default_factory=list)
    includes: list[Include] = field(default_factory=list)
    ignored: list[tuple[str, str]] = field(default_factory=list)
    processed: list[tuple[str, str]] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    values: int = 0
    """Values of all criteria so far."""

    def query(self) -> Query:
        count = COUNT_DEFAULT if self.count is None else self.count
        if self.count is None:
            self.processed.append(("_count", str(count)))
        counting = count == 0 or self.summary == "count"
        return Query(
            type=self.type,
            criteria=tuple(self.criteria),
            sort=tuple(self.sort),
            count=0 if counting else count,
            total=self.total,
            includes=tuple(one for one in self.includes if not one.reverse),
            revincludes=tuple(one for one in self.includes if one.reverse),
            elements=tuple(dict.fromkeys(self.elements)),
            summary="count" if counting else self.summary,
            types=self.types,
            ignored=tuple(self.ignored),
            processed=tuple(self.processed),
        )


def _take(draft: _Draft, name: str, value: str) -> None:
    """Put one parameter into the draft."""
    if name in HARMLESS:
        return
    control, colon, _ = name.partition(":")
    if control in UNSUPPORTED:
        raise _unknown(name, "is not supported by this server")
    if control in _CONTROLS:
        if colon and control not in ("_include", "_revinclude"):
            raise refuse(name, "takes no modifier", code="not-supported")
        if not value:
            raise empty(name)
        _CONTROLS[control](draft, name, value)
        return
    found = criterion(draft.type, name, value, draft.reading)
    draft.values += value_count(found)
    SEARCH_VALUES.check(draft.values, place(name))
    draft.criteria.append(found)
    draft.processed.append((name, value))


def _unknown(name: str, rule: str) -> UnknownParameter:
    fault = refuse(name, rule, code="not-supported")
    return UnknownParameter(fault.diagnostics, issues=fault.issues)


def _once(draft: _Draft, name: str) -> None:
    if name in draft.seen:
        raise refuse(name, "is given more than once")
    draft.seen.add(name)


# Paging and totals: §3.1.1.5.3 http://hl7.org/fhir/R4/search.html#count, #total


def _count(draft: _Draft, name: str, value: str) -> None:
    _once(draft, name)
    if not (value.isascii() and value.isdigit() and len(value) < 10):
        raise refuse(name, "must be a whole number, 0 or more")
    draft.count = min(int(value), COUNT_MAX)
    draft.processed.append((name, str(draft.count)))


def _one_of(*allowed: str) -> Callable[[_Draft, str, str], None]:
    def take(draft: _Draft, name: str, value: str) -> None:
        _once(draft, name)
        if value not in allowed:
            raise refuse(name, f"must be one of {', '.join(allowed)}")
        if name == "_total":
            draft.total = value
        elif name == "_summary":
            draft.summary = None if value == "false" else value
        draft.processed.append((name, value))

    return take


def element_names(type_name: str | None, name: str, value: str) -> list[str]:
    """`_elements=status,code` or `Patient.name`: base elements (§3.1.1.5.7) of a type, or of any (None).

    UnknownParameter for what is no element of the type, BadRequest for what is no list of elements.
    """
    names = []
    for part in value.split(","):
        if part == "resourceType":  # no element, but in JSON a member that is never left out; fhirpy names it
            names.append("id")
            continue
        owner, dot, element = part.rpartition(".")
        if dot and not (registry.is_type(owner) and owner == (type_name or owner)):
            raise refuse(name, "may only name elements at the root of the resource")
        if not element.isascii() or not element.isalpha():
            raise refuse(name, "must be a list of element names")
        where = owner or type_name
        if where and not any(one.name == element for one in definitions.children(where)):
            raise _unknown(name, f"names no element of {where}")
        names.append(element)
    return names


def _elements(draft: _Draft, name: str, value: str) -> None:
    draft.elements += element_names(draft.type, name, value)
    draft.processed.append((name, value))


def _contained(draft: _Draft, name: str, value: str) -> None:
    """Contained resources are never found by themselves: `false`, the default, is all that can be asked."""
    if value != "false":
        raise refuse(name, "only false is supported", code="not-supported")
    draft.processed.append((name, value))


# Types: §3.1.1.1 http://hl7.org/fhir/R4/search.html#all


def _types(parameters: Sequence[tuple[str, str]], known: frozenset[str]) -> tuple[str, ...]:
    named: dict[str, None] = {}
    for name, value in parameters:
        if name == "_type":
            for part in value.split(","):
                if part not in known:
                    raise refuse(name, "must be a list of resource types", code="not-supported")
                named[part] = None
    return tuple(named)


def _type(draft: _Draft, name: str, value: str) -> None:
    _once(draft, name)
    if draft.type is not None and value != draft.type:
        raise refuse(name, "is for a search of the whole system", code="not-supported")
    draft.processed.append((name, value))


# Sorting: §3.1.1.5.2 http://hl7.org/fhir/R4/search.html#sort


def _sort(draft: _Draft, name: str, value: str) -> None:
    keys: list[SortKey] = []
    parts = value.split(",")
    SORT_KEYS.check(len(parts), place(name))
    for part in parts:
        code = part.removeprefix("-")
        found = parameter(draft.type, code)
        if found is None or not found.supported:
            raise _unknown(name, f"names no search parameter of {draft.type or 'every type'}")
        if found.components:
            raise refuse(name, "cannot sort by a composite parameter", code="not-supported")
        if (draft.type, code) in BY_RANK:
            found = parameter(draft.type, RANK) or found
        keys.append(SortKey(code, found, found.table, found.id, descending=part.startswith("-")))
    draft.sort += keys
    SORT_KEYS.check(len(draft.sort), place(name))
    draft.processed.append((name, value))


# Includes: §3.1.1.5.5 http://hl7.org/fhir/R4/search.html#include


def _include(draft: _Draft, name: str, value: str) -> None:
    control, _, modifier = name.partition(":")
    if modifier not in ("", "iterate"):
        raise refuse(name, "the modifier is not supported", code="not-supported")
    reverse, iterate = control == "_revinclude", modifier == "iterate"
    if value == "*":
        found = Include(value, reverse, iterate, None, (), None)
    else:
        found = _path(draft, name, value, reverse=reverse, iterate=iterate)
    if found not in draft.includes:
        draft.includes.append(found)
    INCLUDES.check(len(draft.includes), place(name))
    draft.processed.append((name, value))


def _path(draft: _Draft, name: str, value: str, *, reverse: bool, iterate: bool) -> Include:
    """`Type:parameter`, `Type:parameter:Target` or `Type:*`."""
    source, *parts = value.split(":")
    code, target = (*parts, "", "")[:2]
    types = (source, target) if target else (source,)
    if len(parts) not in (1, 2) or not all(parts) or not all(map(registry.is_type, types)):
        raise refuse(name, "must be Type:parameter, Type:parameter:Target, Type:* or *")
    if not reverse and not iterate and draft.type not in (None, source):
        raise refuse(name, f"{source} is not what is searched: to follow included resources say {name}:iterate")
    if code == "*":
        return Include(value, reverse, iterate, source, (), target or None)
    found = parameter(source, code)
    if found is None or found.kind != "reference":
        raise _unknown(name, f"names no reference parameter of {source}")
    if target and not may_point_to(found, target):
        raise refuse(name, f"{code} cannot refer to {target}", code="not-supported")
    if reverse and not iterate and draft.type is not None and not may_point_to(found, draft.type):
        raise refuse(name, f"{code} of {source} cannot refer to {draft.type}", code="not-supported")
    return Include(value, reverse, iterate, source, (found.id,), target or None)


_CONTROLS: dict[str, Callable[[_Draft, str, str], None]] = {
    "_count": _count,
    "_total": _one_of("none", "estimate", "accurate"),
    "_summary": _one_of("true", "text", "data", "count", "false"),
    "_elements": _elements,
    "_contained": _contained,
    "_type": _type,
    "_sort": _sort,
    "_include": _include,
    "_revinclude": _include,
}
