"""What a search of the log asks: which rows of the index lead there, between which bounds, and what an event must say.

FHIR R4 http://hl7.org/fhir/R4/auditevent.html#search
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from audit import months, queries
from audit.finding import ACTS, Kind, number
from resources import matching, times
from resources.criteria import Criterion, Leaf, Query, RangeValue, ReferenceValue, TokenValue, Value
from resources.hashing import hash64
from resources.index_rows import DateRow, Table
from resources.json import Json
from resources.outcomes import BadRequest
from resources.registry import type_id, type_name
from store.access import EVERYONE, Outcome, Visibility

_SLACK_US = 1000
"""AuditEvents show milliseconds, tables keep µs."""
_PERSON, _ORGANIZATION = type_id("Practitioner"), type_id("Organization")
_AGENTS = frozenset({_PERSON, _ORGANIZATION})
_OF_ACT = {"type": 0, "subtype": 1, "action": 2}
"""Parameters that ask for some of `finding.ACTS`, by the place of the code in them."""

_NOTHING = (0, 0)
"""A key that no record has."""

Keys = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """A search of the log: what leads to candidates, and between which instants and positions they lie."""

    criteria: tuple[Criterion, ...]
    constraints: tuple[Query, ...]
    """Of the caller's scopes: at least one holds."""
    viewers: frozenset[str] | None
    keys: tuple[Keys, ...]
    """A candidate has one of each."""
    earliest: int | None
    latest: int | None
    """µs."""
    first: int
    last: int
    """Positions."""
    by_seq: bool
    descending: bool


def asked_of(
    connection: Connection, query: Query, visible: Visibility, upto: int, *, platform: str, observer: str
) -> Asked:
    """Raises BadRequest for an order that there is not, and where nothing bounds what would be looked at."""
    viewers = viewers_of(visible, platform)
    keys: list[Keys] = []
    earliest = latest = None
    first, last = 1, upto
    is_bounded, open_ended = False, ""
    for criterion in query.criteria:
        if not isinstance(criterion, Leaf):
            open_ended = open_ended or criterion.name
            continue
        if criterion.table is Table.LAST_UPDATED or (criterion.parameter.code == "date" and not criterion.negated):
            low, high = _instants(criterion)
            is_bounded = is_bounded or low is not None
            if criterion.table is Table.LAST_UPDATED:
                first = max(first, 1 if low is None else position(connection, low, upto) + 1)
                last = min(last, upto if high is None else position(connection, high + 1, upto))
            else:
                earliest = _later(earliest, low)
                latest = high if latest is None or (high is not None and high < latest) else latest
        elif criterion.table is Table.ID:
            ids = [str(getattr(value, "id", "")).partition(".")[0] for value in criterion.values]
            found = [row.seq for row in (queries.by_id(connection, id) for id in ids) if row is not None]
            first, last = max(first, min(found, default=upto + 1)), min(last, max(found, default=0))
            is_bounded = is_bounded or len(ids) == 1
        elif (leading := _leading(criterion, viewers, observer)) is not None:
            keys.append(leading)
        elif not _is_dense(criterion):
            open_ended = open_ended or criterion.name
    if open_ended and not keys and not is_bounded:
        raise BadRequest(
            f"No index leads to {open_ended}: say from which date on, as in date=ge2026-02-14", code="too-costly",
            expression=f"http.{open_ended.partition(':')[0]}",
        )
    if viewers is not None:
        keys.append(tuple((int(Kind.ORGANIZATION), number(name)) for name in sorted(viewers)))
    by_seq, descending = order_of(query)
    return Asked(
        query.criteria, visible.constraints, viewers, tuple(keys), earliest, latest, first, last, by_seq, descending
    )


def viewers_of(visible: Visibility, platform: str) -> frozenset[str] | None:
    """Whose officer the caller is; None: of the platform, or the server itself."""
    organizations = visible.organizations
    if organizations is None or platform in organizations:
        return None
    return organizations - {EVERYONE}


def _leading(leaf: Leaf, viewers: frozenset[str] | None, observer: str) -> Keys | None:
    """(kind, value) of the index rows of which every match has one; None where no index leads there."""
    if leaf.negated:
        return None
    found: list[tuple[int, int]] = []
    for value in leaf.values:
        of_value = _of_value(leaf, value, viewers, observer)
        if not of_value:
            return None
        found += of_value
    return tuple(dict.fromkeys(found)) or (_NOTHING,)


def _of_value(
    leaf: Leaf, value: object, viewers: frozenset[str] | None, observer: str
) -> list[tuple[int, int]]:
    code = leaf.parameter.code
    if isinstance(value, ReferenceValue) and value.id is not None:
        if code in ("patient", "entity"):
            return [(int(Kind.PATIENT), number(value.id)), (int(Kind.ENTITY), number(value.id))]
        is_the_server = value.id == observer and not set(value.type_ids) & _AGENTS
        if code == "agent" and not is_the_server and (not value.type_ids or _AGENTS.issuperset(value.type_ids)):
            return [
                (int(kind), number(value.id))
                for kind, type_number in ((Kind.PERSON, _PERSON), (Kind.ORGANIZATION, _ORGANIZATION))
                if not value.type_ids or type_number in value.type_ids
            ]
    elif isinstance(value, TokenValue) and value.code:
        if leaf.modifier == "identifier":
            if code == "agent":
                return [(int(Kind.CLIENT), number(value.code)), (int(Kind.PERSON), number(value.code))]
            if code == "entity" and value.code.startswith("urn:oid:"):
                return [(int(Kind.ENTITY), number(value.code))]
        elif leaf.modifier:
            return []
        elif code in _OF_ACT:
            place = _OF_ACT[code]
            acts = [one for one in ACTS if one.split("|")[place].casefold() == value.code]
            derived = [(int(Kind.DERIVED), 1)] if value.code == "derived" and code == "subtype" else []
            return derived or [(int(Kind.ACT), number(one)) for one in sorted(acts)] or [_NOTHING]
        elif code == "outcome" and viewers is None and value.code != Outcome.SUCCESS:
            # To an officer some failures are shown as others: the index does not know.
            return [(int(Kind.OUTCOME), number(value.code))]
    return []


def position(connection: Connection, before: int, upto: int) -> int:
    """The last position that was logged before this µs: `logged` never decreases, so it is found by halving."""
    low, high = months.before(connection, before, upto)
    while low < high:
        middle = (low + high + 1) // 2
        logged = queries.logged_at(connection, middle)
        if logged is not None and logged < before:
            low = middle
        else:
            high = middle - 1
    return low


def quick(criterion: Criterion, event: Json) -> bool | None:
    """Whether a plain criterion holds, by the AuditEvent itself; None where only its index rows can tell.

    The same as `resources.matching` (a test compares), without making the rows.
    """
    if not isinstance(criterion, Leaf) or criterion.negated or criterion.modifier == "identifier":
        return None
    values = criterion.values
    match criterion.parameter.code:
        case "date":
            low, high = times.interval(event["recorded"])
            return any(matching.satisfies(DateRow(0, low, high), value) for value in values)
        case "action" | "outcome" as name if _have_codes(values, by_system=False):
            return any(value.code == event[name].casefold() for value in values)  # type: ignore[union-attr]
        case "type" if _have_codes(values, by_system=True):
            return _is_coded([event["type"]], values)
        case "subtype" if _have_codes(values, by_system=True):
            return _is_coded(event["subtype"], values)
        case "patient" | "entity" as name:
            return _refers([entity.get("what", {}) for entity in event.get("entity", ())], values, name == "patient")
        case "agent":
            return _refers([agent.get("who", {}) for agent in event["agent"]], values, False)
    return None


def _have_codes(values: Sequence[Value], *, by_system: bool) -> bool:
    return all(
        isinstance(value, TokenValue) and value.code and (by_system or value.system_id is None) for value in values
    )


def _is_coded(codings: Sequence[Json], values: Sequence[Value]) -> bool:
    return any(
        isinstance(value, TokenValue)
        and coding["code"].casefold() == value.code
        and value.system_id in (None, hash64(coding["system"]))
        for coding in codings
        for value in values
    )


def _refers(whats: Sequence[Json], values: Sequence[Value], only_patients: bool) -> bool | None:
    """Whether one of these References is to one of `values`; all of ours are ``Type/id`` or name a version too."""
    asked = []
    for value in values:
        if not isinstance(value, ReferenceValue) or not value.id or value.version is not None:
            return None
        asked.append((value.id, {type_name(number) for number in value.type_ids}))
    found = [what["reference"].split("/") for what in whats if "/" in what.get("reference", "")]
    return any(
        parts[1] == id and (not types or parts[0] in types) and (not only_patients or parts[0] == "Patient")
        for parts in found
        for id, types in asked
    )


def order_of(query: Query) -> tuple[bool, bool]:
    """(by position, descending). Raises BadRequest for another order than the log's own."""
    if not query.sort:
        return False, True
    key, *more = query.sort
    if more or key.code not in ("date", "_lastUpdated"):
        raise BadRequest(
            "AuditEvents are sorted by date or by _lastUpdated", code="not-supported", expression="http._sort")
    return key.code == "_lastUpdated", key.descending


def _is_dense(leaf: Leaf) -> bool:
    """What nearly every event fulfils: no index leads there, and none is needed."""
    return leaf.parameter.code == "outcome" and not leaf.negated and any(
        isinstance(value, TokenValue) and value.code == Outcome.SUCCESS for value in leaf.values
    )


def _instants(leaf: Leaf) -> tuple[int | None, int | None]:
    """Between which µs every match lies, a little more; None: not bounded."""
    lows: list[int | None] = []
    highs: list[int | None] = []
    for value in leaf.values:
        for bounds in value.alternatives if isinstance(value, RangeValue) else ((),):
            low = [_us(bound.value) for bound in bounds if bound.operator in (">", ">=")]
            high = [_us(bound.value) for bound in bounds if bound.operator in ("<", "<=")]
            lows.append(max(low, default=None))
            highs.append(min(high, default=None))
    earliest = None if None in lows else min((one for one in lows if one is not None), default=None)
    latest = None if None in highs else max((one for one in highs if one is not None), default=None)
    return (
        None if earliest is None else earliest - _SLACK_US,
        None if latest is None else latest + _SLACK_US,
    )


def _us(ticks: float) -> int:
    return (int(ticks) - times.UNIX_EPOCH) // times.MICROSECOND


def _later(one: int | None, other: int | None) -> int | None:
    return max((at for at in (one, other) if at is not None), default=None)
