"""Search: one select for a page, one more for each round of includes, all at one snapshot.

FHIR R4 §3.1.1 http://hl7.org/fhir/R4/search.html
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from sqlalchemy import ColumnElement, FromClause, Select, and_, exists, false, func, or_, select

from resources import search as search_parameters
from resources.budgets import ANSWER_BYTES, RULE_MATCHES
from resources.criteria import Criterion, Query, SortKey
from resources.outcomes import BadRequest, Forbidden
from resources.registry import TYPES, type_id, type_name
from resources.search_parameters import parameter
from store.access import EVERYONE, Access, Interaction, SearchPage, Version, Visibility
from store.engine.locks import lock
from store.engine.statements import OrderedJoin
from store.search.compile import Asked, distinct_keys
from store.search.includes import gather
from store.search.ordering import Order, Walk
from store.search.pages import Page
from store.search.planning import FEW, Plan, choose
from store.search.probes import TABLES
from store.search.reader import Reader, refuse_shelved, types_visible
from store.versions.audiences import audience_id
from store.versions.queries import HEAD, contents
from store.versions.snapshots import Snapshot
from store.versions.tables import resource_version, sp_reference

Clause = ColumnElement[bool]

UNBOUNDED = 2**62
"""More bytes than any page has."""


def page(reader: Reader, query: Query, *, token: str | None = None) -> SearchPage:
    """One page of `query`. Raises BadRequest or Gone for a token that does not fit, Forbidden without a scope."""
    uow = reader.uow
    interaction = Interaction.SEARCH_TYPE if query.type else Interaction.SEARCH_SYSTEM
    raw = raw_of(reader, query)
    reader.attempt(interaction, query.type, query=raw)
    refuse_shelved(reader, query)
    subject = f"search {query.type} {query.types} {query.processed}"
    found = uow.store.pages.open(token, reader.caller, subject, uow.now) if token else None
    uow.flush()
    with uow.deadline.running(uow.connection, write=uow.write):
        return _page(reader, query, interaction, raw, subject, found)


def _page(
    reader: Reader, query: Query, interaction: Interaction, raw: str, subject: str, found: Page | None
) -> SearchPage:
    uow = reader.uow
    running = _Search.of(reader, query, found.snapshot if found else None)
    total = found.total if found else None
    counted = query.summary == "count" or query.count == 0
    if total is None and (counted or query.total in ("accurate", "estimate")):
        total = running.total()
    if counted:
        note(reader, interaction, query, raw, [], total)
        return SearchPage([], [], total, None)
    rows = running.rows(query.count + 1, found.last_pk if found else None)
    matches = running.versions(rows[: query.count], ANSWER_BYTES.value)
    more = len(rows) > len(matches)
    if total is None and found is None and not more and query.total != "none":
        total = len(matches)
    included = gather(reader, query, matches, running.asked)
    note(reader, interaction, query, raw, [*matches, *included.versions], total)
    following = None
    if more and matches:
        snapshot = found.snapshot if found else uow.snapshot
        following = uow.store.pages.seal(
            Page(snapshot, matches[-1].pk, found.issued if found else uow.now, total), reader.caller, subject
        )
    return SearchPage(matches, included.versions, total, following, tuple(included.cuts))


def conditional_match(reader: Reader, type_name: str, criteria: Query) -> list[Version]:
    """At most two matches; whoever asks the same of the same organisation waits until this transaction ends.

    That makes `If-None-Exist` and conditional update safe against one another (§3.1.0.8.1). The lock says nothing
    to other organisations: they have keys of their own.
    """
    uow = reader.uow
    if uow.write:
        asked = sorted(criteria.processed)
        for name in sorted(reader.caller.names("cu") - {EVERYONE}):  # a delegate looks among what others look among
            lock(uow.connection, f"criteria {name} {type_name} {asked}")
    uow.flush()
    running = _Search.of(reader, criteria, None)
    with uow.deadline.running(uow.connection, write=uow.write):
        return running.versions(running.rows(2, None))


def find(reader: Reader, type_name: str, parameters: Sequence[tuple[str, str]]) -> list[Version]:
    """All matches, newest first unless `_sort` says otherwise. Not recorded where the server asks for its own rules."""
    query = search_parameters.parse(type_name, parameters, base_urls=reader.uow.store.base_urls)
    reader.uow.flush()
    running = _Search.of(reader, query, None)
    rows = running.rows(RULE_MATCHES.value + 1, None)
    RULE_MATCHES.check(len(rows), type_name)
    matches = running.versions(rows)
    if not reader.derived:
        note(reader, Interaction.SEARCH_TYPE, query, raw_of(reader, query), matches, len(matches))
    return matches


def each(
    reader: Reader,
    type_name: str,
    parameters: Sequence[tuple[str, str]],
    *,
    owner: str | None = None,
    portion: int = 1000,
) -> Iterator[Version]:
    """All matches, of one owner if given, however many, read in portions. For rules of the server itself."""
    query = search_parameters.parse(type_name, parameters, base_urls=reader.uow.store.base_urls)
    reader.uow.flush()
    running = _Search.of(reader, query, None, owner)
    rows = running.rows(portion, None)
    while rows:
        matches = running.versions(rows, ANSWER_BYTES.value)
        yield from matches
        is_last = len(rows) < portion and len(matches) == len(rows)
        rows = [] if is_last else running.rows(portion, matches[-1].pk)


def count(reader: Reader, type_name: str, parameters: Sequence[tuple[str, str]]) -> int:
    """How many match: what a rule asks that would only count what it loads. Not recorded."""
    query = search_parameters.parse(type_name, parameters, base_urls=reader.uow.store.base_urls)
    reader.uow.flush()
    return _Search.of(reader, query, None).total()


def count_by(reader: Reader, type_name: str, parameters: Sequence[tuple[str, str]], by: str) -> dict[str, int]:
    """How many match for each resource (``Type/id``) that they refer to by the parameter `by`. Not recorded.

    Where every parameter finds many, the first one drives: name the one that finds fewest first.
    """
    query = search_parameters.parse(type_name, parameters, base_urls=reader.uow.store.base_urls)
    reader.uow.flush()
    return _Search.of(reader, query, None).count_by(by)


def ids(reader: Reader, type_name: str, criterion: Criterion, limit: int) -> list[str]:
    """Logical ids of resources that fulfil `criterion` and that the caller may see; at most `limit`. Not recorded.

    Raises Forbidden where no scope covers the type.
    """
    query = Query(type_name, (criterion,))
    return [str(row[2]) for row in _Search.of(reader, query, None).rows(limit, None)]


def ids_within(reader: Reader, visible: Visibility, type_name: str, criterion: Criterion, limit: int) -> list[str]:
    """The same among what is `visible`, whatever scope the caller has on the type."""
    query = Query(type_name, (criterion,))
    search = _Search(reader, query, asked_by(reader), ((visible, (type_name,)),))
    return [str(row[2]) for row in search.rows(limit, None)]


def asked_by(reader: Reader, snapshot: Snapshot | None = None) -> Asked:
    """How criteria are compiled for the caller of `reader`."""
    return Asked(reader.uow.store.database.dialect, snapshot, reader)


def constrained(
    statement: Select[Any], visible: Visibility, reader: Reader
) -> Select[Any]:
    """A select of resource_version, with the predicate and the constraints of the caller's scopes."""
    return statement.where(*asked_by(reader).rights_clauses(resource_version, visible))


def constraint_clauses(version: FromClause, visible: Visibility, reader: Reader) -> list[Clause]:
    """The constraints of the caller's scopes on `version`."""
    return asked_by(reader).constraints(version, visible.constraints)


@dataclass(frozen=True, slots=True)
class _Search:
    """A query ready to run: for whom, when, of which types."""

    reader: Reader
    query: Query
    asked: Asked
    groups: tuple[tuple[Visibility, tuple[str, ...]], ...]
    owner: str | None = None
    """Only what belongs to this organisation."""

    @staticmethod
    def of(reader: Reader, query: Query, snapshot: Snapshot | None, owner: str | None = None) -> _Search:
        _refuse_half_characters(query)
        if query.type is not None:
            visible = reader.visibility(Interaction.SEARCH_TYPE, query.type)
            groups: list[tuple[Visibility, tuple[str, ...]]] = [(visible, (query.type,))]
        else:
            groups = list(types_visible(reader, Interaction.SEARCH_SYSTEM, query.types or tuple(TYPES)))
            if not groups:
                raise Forbidden("No scope covers a search of these types")
        return _Search(reader, query, asked_by(reader, snapshot), tuple(groups), owner)

    @property
    def types(self) -> tuple[str, ...]:
        return tuple(name for _, names in self.groups for name in names)

    def total(self) -> int:
        version = self.asked.alias(resource_version)
        plan = self._plan(FEW)
        source, joined = _driven(version, None if plan.walk else plan.driver)
        counted = select(func.count()).select_from(source).where(*joined, *self._clauses(version))
        return int(self.reader.uow.connection.execute(counted).scalar_one())

    def count_by(self, by: str) -> dict[str, int]:
        """Matches by what they refer to by the parameter `by`."""
        found = parameter(self.query.type, by)
        if found is None or found.kind != "reference":
            raise ValueError(f"{by} is no reference parameter of {self.query.type}")
        version = self.asked.alias(resource_version)
        row = self.asked.alias(sp_reference)
        source, joined = _driven(version, self._plan(FEW).driver)
        counted = (
            select(row.c.target_type_id, row.c.target_id, func.count())
            .select_from(OrderedJoin(source, row))
            .where(
                *joined,
                *self._clauses(version),
                row.c.version_pk == version.c.pk,
                row.c.param_id == found.id,
                row.c.target_id != "",
            )
            .group_by(row.c.target_type_id, row.c.target_id)
        )
        return {f"{type_name(one[0])}/{one[1]}": int(one[2]) for one in self.reader.uow.connection.execute(counted)}

    def rows(self, limit: int, last_pk: int | None) -> list[tuple[Any, ...]]:
        """Rows of HEAD in order, after the version `last_pk` if given."""
        order = Order(self.query.sort, self.asked)
        last = self._last_values(order, last_pk) if last_pk is not None else None
        plan = self._plan(limit)
        walk = Walk.along(order) if plan.walk else None
        if walk is not None:
            if plan.driver is None:
                return self._along(walk, limit, last_pk, last)
            walked = self.reader.uow.deadline.tried(lambda: self._along(walk, limit, last_pk, last))
            if walked is not None:
                return walked
        return self._sorted(order, plan.driver, limit, last_pk, last)

    def _along(self, walk: Walk, limit: int, last_pk: int | None, last: Any) -> list[tuple[Any, ...]]:
        """Along the sort index, and then those without a value."""
        rows = [] if last is not None and last[0] is None else self._walked(walk, limit, last_pk, last)
        if len(rows) < limit and not walk.by_column:
            continuing = last if last is not None and last[0] is None else None
            rows += self._without_value(walk.order, limit - len(rows), last_pk if continuing else None)
        return rows

    def versions(self, rows: Sequence[tuple[Any, ...]], most_bytes: int | None = None) -> list[Version]:
        """The versions of these rows of HEAD; the first ones, but at least one, where they hold more than that."""
        most = UNBOUNDED if most_bytes is None else most_bytes
        texts = contents(self.reader.uow.connection, [row[0] for row in rows], most)
        return [self.reader.version((*row, text)) for row, text in zip(rows, texts, strict=False)]

    def _plan(self, wanted: int) -> Plan:
        organizations = self.groups[0][0].organizations if len(self.groups) == 1 else None
        return choose(
            self.reader.uow.connection,
            self.reader.uow.store.estimates,
            self.asked,
            self.types,
            self.query.criteria,
            organizations,
            wanted,
        )

    def _sorted(
        self, order: Order, driver: Select[tuple[int]] | None, limit: int, last_pk: int | None, last: Any
    ) -> list[tuple[Any, ...]]:
        version = self.asked.alias(resource_version)
        source, joined = _driven(version, driver)
        statement = select(*_columns(version)).select_from(source).where(*joined, *self._clauses(version))
        if last_pk is not None:
            statement = statement.where(order.after(version, last, last_pk))
        return self._run(statement.order_by(*order.order_by(version)).limit(limit))

    def _walked(self, walk: Walk, limit: int, last_pk: int | None, last: Any) -> list[tuple[Any, ...]]:
        version = self.asked.alias(resource_version)
        row = walk.row()
        source: FromClause = version if row is None else OrderedJoin(row, version)
        statement = (
            select(*_columns(version))
            .select_from(source)
            .where(*walk.clauses(version, row), *self._clauses(version))
        )
        if last_pk is not None:
            statement = statement.where(walk.after(version, row, last[0], last_pk))
        return self._run(statement.order_by(*walk.order_by(version, row)).limit(limit))

    def _without_value(self, order: Order, limit: int, last_pk: int | None) -> list[tuple[Any, ...]]:
        """The last ones: versions that have no value to be sorted by."""
        version = self.asked.alias(resource_version)
        (key,) = order.sort
        statement = select(*_columns(version)).where(self._lacks(version, key), *self._clauses(version))
        if last_pk is not None:
            statement = statement.where(version.c.pk < last_pk if order.descending else version.c.pk > last_pk)
        tie = version.c.pk.desc() if order.descending else version.c.pk.asc()
        return self._run(statement.order_by(tie).limit(limit))

    def _last_values(self, order: Order, last_pk: int) -> Any:
        return self.reader.uow.connection.execute(order.last_values(last_pk)).one()

    def _clauses(self, version: FromClause) -> Iterator[Clause]:
        """Everything that a match fulfils."""
        groups = [
            and_(
                version.c.type_id.in_([type_id(name) for name in names])
                if len(names) > 1
                else version.c.type_id == type_id(names[0]),
                *self.asked.rights_clauses(version, visible),
            )
            for visible, names in self.groups
        ]
        yield or_(*groups) if groups else false()
        if self.owner is not None:
            yield version.c.owner_id == audience_id((self.owner,))
        yield from self.asked.alive(version)
        for criterion in self.query.criteria:
            yield self.asked.clause(version, criterion)

    def _lacks(self, version: FromClause, key: SortKey) -> Clause:
        row = self.asked.alias(TABLES[key.table])
        return ~exists().where(row.c.version_pk == version.c.pk, row.c.param_id == key.param_id).correlate(version)

    def _run(self, statement: Select[Any]) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self.reader.uow.connection.execute(statement)]


def _driven(version: FromClause, driver: Select[tuple[int]] | None) -> tuple[FromClause, list[Clause]]:
    if driver is None:
        return version, []
    keys = distinct_keys(driver)
    return OrderedJoin(keys, version), [version.c.pk == keys.c.version_pk]


def _columns(version: FromClause) -> list[ColumnElement[Any]]:
    return [version.c[column.key] for column in HEAD]


def raw_of(reader: Reader, query: Query) -> str:
    """The request as the record has it: as received if the edge said so, else as understood."""
    intent = reader.uow.intent
    if intent is not None and intent.query is not None and intent.interaction is not Interaction.TRANSACTION:
        return intent.query
    base = next(iter(reader.uow.store.base_urls), "")
    return f"GET {base}/{query.type or ''}?{urlencode(query.processed, errors='replace')}"


def _refuse_half_characters(query: Query) -> None:
    """A lone surrogate is no text: no database can compare it."""
    for name, value in query.processed:
        try:
            value.encode()
        except UnicodeEncodeError:
            raise BadRequest(f"The value of {name} holds half a character (a lone surrogate)") from None


def note(
    reader: Reader,
    interaction: Interaction,
    query: Query,
    raw: str,
    versions: list[Version],
    total: int | None,
) -> None:
    """Record a search and whom it found."""
    if reader.derived:
        return
    patients = tuple(dict.fromkeys(patient for version in versions for patient in version.patients))
    detail = [("count", str(len(versions)))]
    if total is not None:
        detail.append(("total", str(total)))
    reader.note(Access(interaction, query.type, patients=patients, query=raw, detail=tuple(detail)), versions)
