"""The log as AuditEvents: read by id, searched, listed. Implements `store.access.Shelf`.

`audit_index` names candidates in the order of their instants; each is shown as its AuditEvent, and compared with the
criteria as it is shown. So a search means what R4 says, whatever the index holds. What no index leads to needs a
`date`, and looks at AUDIT_SCAN events at most.

*Who sees what*: the platform's auditors see everything. An officer of another organisation sees the events of its own
patients and those of its own people and programs, and of a record that concerns others' patients too no particulars:
not the query's text, no details. That a 404 hid another organisation's resource it is not told either.

IHE ITI-81; FHIR R4 http://hl7.org/fhir/R4/auditevent.html#search
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Connection, Select, and_, exists, func, literal, or_, select, tuple_, union

from audit import forms, months, queries, retention
from audit.asking import Asked, Keys, asked_of, quick, viewers_of
from audit.forms import FORM_1, Event, Row
from audit.tables import audit_index, audit_log
from resources import indexing, matching
from resources.budgets import AUDIT_SCAN
from resources.criteria import Criterion, Query
from resources.index_rows import IndexRows
from resources.json import Json
from resources.registry import patients_of
from resources.times import of_microseconds
from store.access import Outcome, Shelf, Slice, Version, Visibility

NUMBERS = 2**20
"""A version's key is its record's position times this, and its number in the record."""
CHUNK = 500
"""Candidates of one statement."""
ESTIMATED = 1000
"""Candidates are counted so far to choose by which criterion they are found."""

Check = Callable[[], None]


class Reading(Shelf):
    """AuditEvents of the log."""

    type = "AuditEvent"

    def __init__(self, *, observer: str, platform: str, base_urls: Sequence[str]) -> None:
        """As of the Ledger."""
        self._platform = platform
        self._observer = observer.rpartition("/")[2]
        self._base_urls = tuple(base_urls)
        self._sites: dict[str, dict[str, Any]] = {}

    def end(self, connection: Connection) -> int:
        """The newest record's position: what a search began with, so that its pages stay as they are."""
        return queries.end(connection).seq

    def one(self, connection: Connection, visible: Visibility, id: str) -> Version | None:
        """The AuditEvent with this id; None where there is none that the caller may see."""
        row = queries.by_id(connection, id.partition(".")[0])
        if row is None or row.head is None:
            return None
        viewers = viewers_of(visible, self._platform)
        for event in forms.events_of(row):
            if event.id == id:
                shown = self._shown(connection, row, event, viewers)
                if shown is not None and self._holds(shown, (), visible.constraints):
                    return shown[0]
        return None

    def some(
        self, connection: Connection, visible: Visibility, query: Query, *, upto: int, after: int | None, limit: int,
        check: Check,
    ) -> Slice:
        """At most `limit` matches behind the version with the key `after`."""
        asked = self._asked(connection, visible, query, upto)
        found: list[Version] = []
        for version in self._matches(connection, asked, after, check):
            found.append(version)
            if len(found) > limit:
                return Slice(found[:limit], True)
        return Slice(found, False)

    def count(self, connection: Connection, visible: Visibility, query: Query, *, upto: int, check: Check) -> int:
        """How many match."""
        asked = self._asked(connection, visible, query, upto)
        if asked.viewers is None and not asked.criteria and not asked.constraints:
            through = queries.through(connection, upto)
            return through - retention.events_purged(connection, upto) if through else 0
        return sum(1 for _ in self._matches(connection, asked, None, check))

    def _asked(self, connection: Connection, visible: Visibility, query: Query, upto: int) -> Asked:
        return asked_of(connection, query, visible, upto, platform=self._platform, observer=self._observer)

    # --- candidates

    def _matches(self, connection: Connection, asked: Asked, after: int | None, check: Check) -> Iterator[Version]:
        looked = 0
        for row in self._records(connection, asked, after, check):
            events = forms.events_of(row)
            for event in reversed(events) if asked.descending else events:
                key = row.seq * NUMBERS + event.number
                if after is not None and row.seq == after // NUMBERS and (
                    key >= after if asked.descending else key <= after
                ):
                    continue
                looked += 1
                AUDIT_SCAN.check(looked)
                shown = self._shown(connection, row, event, asked.viewers)
                if shown is not None and self._holds(shown, asked.criteria, asked.constraints):
                    yield shown[0]

    def _records(self, connection: Connection, asked: Asked, after: int | None, check: Check) -> Iterator[Row]:
        """The candidates in order, from the record of `after` on (itself included)."""
        if asked.first > asked.last:
            return
        resume: tuple[int, int] | None = None
        if after is not None:
            seq = after // NUMBERS
            resume = (queries.recorded_at(connection, seq) or 0, seq)
        size = 50
        is_first = True
        driver = self._driver(connection, asked)
        if driver is not None and asked.by_seq:
            yield from self._by_position(connection, asked, driver, resume, check)
            return
        while True:
            check()
            page = self._page(connection, asked, driver, resume, size, inclusive=is_first and after is not None)
            yield from self._rows(connection, [seq for _, seq in page])
            if len(page) < size:
                return
            resume, is_first, size = page[-1], False, CHUNK

    def _by_position(
        self, connection: Connection, asked: Asked, driver: Keys, resume: tuple[int, int] | None, check: Check
    ) -> Iterator[Row]:
        """In the order of positions, which no index has for a value: all candidates, sorted."""
        found = self._page(connection, asked, driver, None, AUDIT_SCAN.value + 1, inclusive=False)
        AUDIT_SCAN.check(len(found))
        seqs = sorted((seq for _, seq in found), reverse=asked.descending)
        if resume is not None:
            seqs = [seq for seq in seqs if (seq <= resume[1] if asked.descending else seq >= resume[1])]
        for start in range(0, len(seqs), CHUNK):
            check()
            yield from self._rows(connection, seqs[start : start + CHUNK])

    def _rows(self, connection: Connection, seqs: Sequence[int]) -> Iterator[Row]:
        found = queries.rows(connection, seqs)
        return (found[seq] for seq in seqs if seq in found and found[seq].head is not None)

    def _driver(self, connection: Connection, asked: Asked) -> Keys | None:
        """The keys that fewest candidates have."""
        if len(asked.keys) < 2:
            return asked.keys[0] if asked.keys else None

        def size(keys: Keys) -> int:
            counted = [
                select(literal(1).label("one"))
                .where(audit_index.c.kind == kind, audit_index.c.value == value, *_between(audit_index.c.at, asked))
                .limit(ESTIMATED)
                .subquery()
                for kind, value in keys
            ]
            return sum(int(connection.execute(select(func.count()).select_from(one)).scalar_one()) for one in counted)

        return min(asked.keys, key=size)

    def _page(
        self, connection: Connection, asked: Asked, driver: Keys | None, resume: tuple[int, int] | None, size: int,
        *, inclusive: bool,
    ) -> list[tuple[int, int]]:
        """(recorded, position) of the next candidates."""
        if driver is None:
            log = audit_log
            statement = select(log.c.recorded, log.c.seq).where(
                *_between(log.c.recorded, asked), log.c.seq >= asked.first, log.c.seq <= asked.last,
                *months.of_instants(connection, asked.earliest, asked.latest, asked.last),
                *months.of_positions(connection, asked.first, asked.last),
            )
            order = [log.c.seq] if asked.by_seq else [log.c.recorded, log.c.seq]
            return self._run(connection, _after(statement, order, asked, resume, size, inclusive))
        others = [keys for keys in asked.keys if keys is not driver]
        branches = []
        for kind, value in driver:
            row = audit_index
            statement = select(row.c.at, row.c.seq).where(
                row.c.kind == kind, row.c.value == value, *_between(row.c.at, asked),
                row.c.seq >= asked.first, row.c.seq <= asked.last, *(_has(row, keys) for keys in others),
            )
            branches.append(_after(statement, [row.c.at, row.c.seq], asked, resume, size, inclusive))
        if len(branches) == 1:
            return self._run(connection, branches[0])
        merged = union(*(select(branch.subquery()) for branch in branches)).subquery()
        columns = [merged.c.at.desc(), merged.c.seq.desc()] if asked.descending else [merged.c.at, merged.c.seq]
        return self._run(connection, select(merged.c.at, merged.c.seq).order_by(*columns).limit(size))

    def _run(self, connection: Connection, statement: Any) -> list[tuple[int, int]]:
        return [(int(at), int(seq)) for at, seq in connection.execute(statement)]

    # --- what is shown

    def _holds(
        self, shown: tuple[Version, Json], criteria: Sequence[Criterion], constraints: Sequence[Query]
    ) -> bool:
        version, event = shown
        rows: list[IndexRows] = []

        def holds(one: Criterion) -> bool:
            plain = quick(one, event)
            if plain is not None:
                return plain
            if not rows:  # some 30 times the price of all the rest
                rows.append(indexing.extract("AuditEvent", event, base_urls=self._base_urls))
            return matching.matches((one,), "AuditEvent", version.id, version.last_updated, rows[0])

        return all(map(holds, criteria)) and (
            not constraints or any(all(map(holds, query.criteria)) for query in constraints)
        )

    def _shown(
        self, connection: Connection, row: Row, event: Event, viewers: frozenset[str] | None
    ) -> tuple[Version, Json] | None:
        """The AuditEvent as `viewers` see it; None where they do not."""
        if row.form == FORM_1:
            if viewers is not None:
                return None  # whose patients they were was not logged
            content = (row.head or "").encode()
            shown: Json = orjson.loads(content)
        else:
            head, particulars = forms.texts_of(row)
            if viewers is not None:
                masked = _masked(row, event, head, particulars, viewers)
                if masked is None:
                    return None
                head, particulars = masked
            shown = forms.project(row, event, head, particulars, self._site(connection, head.get("site", "")))
            content = orjson.dumps(shown)
        version = Version(
            row.seq * NUMBERS + event.number, "AuditEvent", event.id, 1, row.seq, of_microseconds(row.logged), False,
            "POST", self._platform, content, patients_of("AuditEvent", shown, self._base_urls), [shown],
        )
        return version, shown

    def _site(self, connection: Connection, digest: str) -> dict[str, Any]:
        found = self._sites.get(digest)
        if found is None:
            content = queries.site(connection, digest)
            found = forms.site_of(content) if content else {"observer": "", "base_url": "", "platform": ""}
            if content:
                self._sites[digest] = found
        return found


def _masked(
    row: Row, event: Event, head: Json, particulars: Json, viewers: frozenset[str]
) -> tuple[Json, Json] | None:
    """Head and particulars as officers of `viewers` see them; None where the event is none of theirs."""
    is_own = head.get("caller", {}).get("organization") in viewers
    if not is_own and (event.part is None or event.part.owner not in viewers):
        return None
    access = head.get("access", {})
    hides = access.get("outcome") == Outcome.SERIOUS and particulars.get("reason", "").startswith("404")
    if hides:
        head = {**head, "access": {**access, "outcome": Outcome.MINOR.value}}
        particulars = {**particulars, "reason": "404 not-found"}
    if not is_own and any(part.owner not in viewers for part in forms.parts_of(row)):
        particulars = {"reason": particulars["reason"]} if hides else {}
    return head, particulars


def _between(at: ColumnElement[int], asked: Asked) -> list[ColumnElement[bool]]:
    bounds = []
    if asked.earliest is not None:
        bounds.append(at >= asked.earliest)
    if asked.latest is not None:
        bounds.append(at <= asked.latest)
    return bounds


def _after(
    statement: Select[Any], order: Sequence[ColumnElement[int]], asked: Asked, resume: tuple[int, int] | None,
    size: int, inclusive: bool,
) -> Select[Any]:
    if resume is not None:
        mark: Any = tuple_(*order)
        last: Any = tuple_(*(resume[-len(order) :]))
        bound = resume[-len(order)]  # by it alone, too: partitions are not chosen by a comparison of rows
        if asked.descending:
            statement = statement.where(mark <= last if inclusive else mark < last, order[0] <= bound)
        else:
            statement = statement.where(mark >= last if inclusive else mark > last, order[0] >= bound)
    return statement.order_by(*(column.desc() if asked.descending else column for column in order)).limit(size)


def _has(row: Any, keys: Keys) -> ColumnElement[bool]:
    """Whether the record of an index row has one of these keys too."""
    other = audit_index.alias()
    return or_(*(
        exists().where(and_(
            other.c.kind == kind, other.c.value == value, other.c.at == row.c.at, other.c.seq == row.c.seq,
        )).correlate(row)
        for kind, value in keys
    ))  # fmt: skip
