"""Search and history of what is kept elsewhere (`store.access.Shelf`): the same questions, pages and records.

What leads into the store (a chain, an include) is asked of the store, with the caller's rights.

FHIR R4 §3.1.1 http://hl7.org/fhir/R4/search.html, §3.1.0.11 http://hl7.org/fhir/R4/http.html#history
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime

from resources import indexing
from resources import search as search_parameters
from resources.budgets import ANSWER_BYTES, HISTORY_TOTAL, PAGE_MATCHES, RULE_MATCHES
from resources.criteria import Chain, Criterion, Leaf, Query, ReferenceValue, TokenValue
from resources.index_rows import Table
from resources.outcomes import Forbidden
from resources.registry import type_id
from resources.times import instant_text
from store.access import Access, Interaction, SearchPage, Shelf, Slice, Version, Visibility
from store.search import execute
from store.search.history import HistoryPage
from store.search.includes import gather
from store.search.pages import Page
from store.search.reader import Reader, refuse_shelved
from store.versions.snapshots import Snapshot


def page(reader: Reader, shelf: Shelf, query: Query, *, token: str | None = None) -> SearchPage:
    """One page of `query`. Raises BadRequest or Gone for a token that does not fit, Forbidden without a scope."""
    uow = reader.uow
    raw = execute.raw_of(reader, query)
    reader.attempt(Interaction.SEARCH_TYPE, query.type, query=raw)
    refuse_shelved(reader, query)
    subject = f"search {query.type} {query.types} {query.processed}"
    found = uow.store.pages.open(token, reader.caller, subject, uow.now) if token else None
    visible = reader.visibility(Interaction.SEARCH_TYPE, shelf.type)
    with uow.deadline.running(uow.connection, write=uow.write):
        asked = _resolved(reader, query, visible)
        upto = found.snapshot.xmax if found else shelf.end(uow.connection)
        total = found.total if found else None
        counted = query.summary == "count" or query.count == 0
        if total is None and (counted or query.total in ("accurate", "estimate")):
            total = shelf.count(uow.connection, visible, asked, upto=upto, check=uow.deadline.check)
        if counted:
            execute.note(reader, Interaction.SEARCH_TYPE, query, raw, [], total)
            return SearchPage([], [], total, None)
        taken = _taken(reader, shelf, visible, asked, upto, found.last_pk if found else None, query.count)
        matches, more = taken.versions, taken.more
        if total is None and found is None and not more and query.total != "none":
            total = len(matches)
        included = gather(
            reader, query, matches, execute.asked_by(reader), _referred(reader, shelf, query, matches)
        )
    execute.note(reader, Interaction.SEARCH_TYPE, query, raw, [*matches, *included.versions], total)
    following = None
    if more and matches:
        following = uow.store.pages.seal(
            Page(Snapshot(upto), matches[-1].pk, found.issued if found else uow.now, total), reader.caller, subject
        )
    return SearchPage(matches, included.versions, total, following, tuple(included.cuts))


def history(
    reader: Reader,
    shelf: Shelf,
    id: str | None,
    *,
    since: datetime | None,
    at: datetime | None,
    count: int,
    token: str | None,
) -> HistoryPage:
    """One page of what there is, newest first: each has one version. Raises NotFound for an id that there is not."""
    uow = reader.uow
    interaction = Interaction.HISTORY_TYPE if id is None else Interaction.HISTORY_INSTANCE
    reader.attempt(interaction, shelf.type, id)
    subject = f"history {shelf.type}/{id} {since} {at}"
    found = uow.store.pages.open(token, reader.caller, subject, uow.now) if token else None
    visible = reader.visibility(interaction, shelf.type)
    asked = [("_sort", "-_lastUpdated")]
    asked += [("_lastUpdated", f"ge{instant_text(since)}")] if since is not None else []
    asked += [("_lastUpdated", f"le{instant_text(at)}")] if at is not None else []
    asked += [("_id", id)] if id is not None else []
    query = search_parameters.parse(shelf.type, asked, base_urls=uow.store.base_urls)
    count = min(count, PAGE_MATCHES.value)
    with uow.deadline.running(uow.connection, write=uow.write):
        upto = found.snapshot.xmax if found else shelf.end(uow.connection)
        taken = _taken(reader, shelf, visible, query, upto, found.last_pk if found else None, count)
        total = found.total if found else None
        if found is None and (id is not None or upto <= HISTORY_TOTAL.value):
            total = shelf.count(uow.connection, visible, query, upto=upto, check=uow.deadline.check)
    if id is not None and not taken.versions and found is None and count and since is None and at is None:
        raise reader.not_found(shelf.type, id)
    _note(reader, interaction, shelf.type, id, taken.versions)
    following = None
    if taken.more and taken.versions:
        issued = found.issued if found else uow.now
        following = uow.store.pages.seal(
            Page(Snapshot(upto), taken.versions[-1].pk, issued, total), reader.caller, subject
        )
    return HistoryPage(taken.versions, total, following)


def find(reader: Reader, shelf: Shelf, parameters: Sequence[tuple[str, str]]) -> list[Version]:
    """All matches. Not recorded where the server asks for its own rules."""
    query = search_parameters.parse(shelf.type, parameters, base_urls=reader.uow.store.base_urls)
    matches = _all(reader, shelf, query, RULE_MATCHES.value + 1)
    RULE_MATCHES.check(len(matches), shelf.type)
    if not reader.derived:
        raw = execute.raw_of(reader, query)
        execute.note(reader, Interaction.SEARCH_TYPE, query, raw, matches, len(matches))
    return matches


def each(
    reader: Reader, shelf: Shelf, parameters: Sequence[tuple[str, str]], portion: int
) -> Iterator[Version]:
    """All matches, however many, in portions."""
    query = search_parameters.parse(shelf.type, parameters, base_urls=reader.uow.store.base_urls)
    uow, after = reader.uow, None
    visible = reader.visibility(Interaction.SEARCH_TYPE, shelf.type)
    upto = shelf.end(uow.connection)
    while True:
        found = shelf.some(
            uow.connection, visible, query, upto=upto, after=after, limit=portion, check=_unhurried
        )
        yield from found.versions
        if not found.more:
            return
        after = found.versions[-1].pk


def count(reader: Reader, shelf: Shelf, parameters: Sequence[tuple[str, str]]) -> int:
    """How many match."""
    query = search_parameters.parse(shelf.type, parameters, base_urls=reader.uow.store.base_urls)
    uow = reader.uow
    visible = reader.visibility(Interaction.SEARCH_TYPE, shelf.type)
    return shelf.count(uow.connection, visible, query, upto=shelf.end(uow.connection), check=_unhurried)


def _unhurried() -> None:
    """For rules of the server itself: nobody's deadline runs."""


def _all(reader: Reader, shelf: Shelf, query: Query, limit: int) -> list[Version]:
    visible = reader.visibility(Interaction.SEARCH_TYPE, shelf.type)
    connection = reader.uow.connection
    upto = shelf.end(connection)
    with reader.uow.deadline.running(connection, write=reader.uow.write):
        query = _resolved(reader, query, visible)
        return shelf.some(
            connection, visible, query, upto=upto, after=None, limit=limit, check=reader.uow.deadline.check
        ).versions


def _taken(
    reader: Reader, shelf: Shelf, visible: Visibility, query: Query, upto: int, after: int | None, count: int
) -> Slice:
    """The first of what comes next that are within the bytes of an answer; one in any case."""
    uow = reader.uow
    found = shelf.some(
        uow.connection, visible, query, upto=upto, after=after, limit=count, check=uow.deadline.check
    )
    size = 0
    for number, version in enumerate(found.versions):
        size += len(version.content)
        if size > ANSWER_BYTES.value and number:
            return Slice(found.versions[:number], True)
    return found


def _resolved(reader: Reader, query: Query, visible: Visibility) -> Query:
    """The query with each chain replaced by what it leads to."""
    return replace(query, criteria=tuple(_of_chain(reader, one, visible) for one in query.criteria))


def _of_chain(reader: Reader, criterion: Criterion, visible: Visibility) -> Criterion:
    """`visible`: what the caller may see of the shelf."""
    if not isinstance(criterion, Chain):
        return criterion
    values: list[ReferenceValue] = []
    refusal: Forbidden | None = None
    permitted = False
    for type_name, inner in criterion.alternatives:
        try:
            if type_name == "Patient" and _is_identifier(inner):
                ids = _patients(reader, inner, visible)
            else:
                ids = execute.ids(reader, type_name, inner, RULE_MATCHES.value + 1)
        except Forbidden as error:
            refusal = error
            continue
        permitted = True
        RULE_MATCHES.check(len(ids), type_name)
        values += [ReferenceValue((type_id(type_name),), id, None, None) for id in ids]
    if refusal is not None and not permitted:
        raise refusal
    return Leaf(criterion.name, criterion.parameter, "", Table.REFERENCE, criterion.param_id, tuple(values))


def _is_identifier(inner: Criterion) -> bool:
    """Whether it asks for whole identifiers: ``system|value``, and nothing that could be guessed at."""
    return (
        isinstance(inner, Leaf) and inner.parameter.code == "identifier" and not inner.modifier and not inner.negated
        and all(isinstance(value, TokenValue) and value.system_id and value.code for value in inner.values)
    )  # fmt: skip


def _patients(reader: Reader, inner: Criterion, visible: Visibility) -> list[str]:
    """Patients by their IPP or INS, of whom the caller may see the events: no scope on Patient is needed.

    Nothing of them is shown but events that are the caller's to see, found by what the caller has said. A patient
    without events, another organisation's and one that there is not are the same.
    """
    return execute.ids_within(reader, Visibility(visible.organizations), "Patient", inner, RULE_MATCHES.value + 1)


def _referred(
    reader: Reader, shelf: Shelf, query: Query, matches: Sequence[Version]
) -> dict[int, list[tuple[int, str]]]:
    """By parameter: (type, id) of what the matches refer to."""
    found: dict[int, list[tuple[int, str]]] = {}
    for version in matches if query.includes else ():
        for row in indexing.extract(shelf.type, version.json(), base_urls=reader.uow.store.base_urls).references:
            if row.target_type_id and row.target_id:
                found.setdefault(row.param_id, []).append((row.target_type_id, row.target_id))
    return found


def _note(
    reader: Reader, interaction: Interaction, type_name: str, id: str | None, versions: Sequence[Version]
) -> None:
    if reader.derived:
        return
    intent = reader.uow.intent
    reader.note(
        Access(
            interaction,
            type_name,
            id,
            patients=tuple(dict.fromkeys(patient for version in versions for patient in version.patients)),
            owner=versions[0].owner if versions and id is not None else None,
            query=intent.query if intent and intent.interaction is interaction else None,
            detail=(("count", str(len(versions))),),
        )
    )
