"""Which criterion drives a search: the most selective one, or none, and then the sort index is walked.

Each criterion that an index answers is counted, but only up to a limit: that is enough to tell few from many, and costs
little. Counts are remembered for a short time; an old one makes a search slower at worst, never wrong.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Select, func, literal_column, select

from resources.criteria import Criterion, Leaf
from resources.index_rows import Table
from store.search.compile import Asked

FEW = 2000
"""More candidates than this are never fetched and sorted, if there is an index to walk."""
MANY = 100_000
"""Versions of a type are counted so far."""
REMEMBERED_S = 20.0
_REMEMBERED = 4096


@dataclass(frozen=True, slots=True)
class Candidate:
    """A way to drive."""

    name: Hashable
    select: Select[tuple[int]]


class Estimates:
    """Capped counts by candidate, remembered by one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: OrderedDict[Hashable, tuple[float, int]] = OrderedDict()

    def of(self, connection: Connection, candidates: Sequence[Candidate], limit: int) -> list[int]:
        """How many rows each has, at most `limit`, in one statement for those not remembered."""
        now = time.monotonic()
        with self._lock:
            known = {c.name: self._counts[c.name][1] for c in candidates if self._is_fresh(c.name, now)}
        asked = [candidate for candidate in candidates if candidate.name not in known]
        if asked:
            counts = [
                select(func.count())
                .select_from(candidate.select.limit(literal_column(str(limit))).subquery())
                .scalar_subquery()
                for candidate in asked
            ]
            row = connection.execute(select(*counts)).one()
            known.update(zip((candidate.name for candidate in asked), row, strict=True))
            self._remember({candidate.name: known[candidate.name] for candidate in asked}, now)
        return [known[candidate.name] for candidate in candidates]

    def _remember(self, counts: dict[Hashable, int], now: float) -> None:
        with self._lock:
            for name, count in counts.items():
                self._counts[name] = now, count
                self._counts.move_to_end(name)
            while len(self._counts) > _REMEMBERED:
                self._counts.popitem(last=False)

    def _is_fresh(self, name: Hashable, now: float) -> bool:
        found = self._counts.get(name)
        return found is not None and now - found[0] < REMEMBERED_S


@dataclass(frozen=True, slots=True)
class Plan:
    """What drives, and whether the sort index is to be walked instead."""

    driver: Select[tuple[int]] | None
    walk: bool


def choose(
    connection: Connection,
    estimates: Estimates,
    asked: Asked,
    types: Sequence[str],
    criteria: Sequence[Criterion],
    organizations: frozenset[str] | None,
    wanted: int,
) -> Plan:
    """How to find the first `wanted` of those that fulfil `criteria`.

    Fetching and sorting costs as many steps as there are candidates. A walk along the sort index meets a match every
    (versions of the type / candidates) steps, if they lie everywhere. They may all be old, or fulfil no other
    criterion, and counts are capped: so a walk is a try, which ends after some steps (`limits.Deadline.tried`).
    """
    named = _by_id(criteria)
    if named is not None:
        return Plan(asked.driver(named, types), walk=False)
    names = tuple(types)
    candidates = []
    for criterion in criteria:
        driver = asked.driver(criterion, types)
        if driver is not None:
            candidates.append(Candidate((criterion, names, organizations), driver))
    if organizations is not None:
        candidates.append(Candidate((names, organizations), asked.audience_driver(organizations, types)))
    if not candidates:
        return Plan(None, walk=True)
    counts = estimates.of(connection, candidates, FEW)
    least = min(range(len(candidates)), key=counts.__getitem__)
    few = counts[least]
    if few <= wanted:
        return Plan(candidates[least].select, walk=False)
    if few >= FEW:
        return Plan(candidates[least].select, walk=True)
    (versions,) = estimates.of(connection, [Candidate(names, asked.all_driver(types))], MANY)
    return Plan(candidates[least].select, walk=wanted * versions < few * few)


def _by_id(criteria: Sequence[Criterion]) -> Criterion | None:
    """`_id`: as selective as can be, without asking."""
    for criterion in criteria:
        if isinstance(criterion, Leaf) and criterion.table is Table.ID and not criterion.negated:
            return criterion
    return None
