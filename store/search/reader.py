"""On whose behalf a search or a history runs: what this room needs of a repository and of its unit of work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Protocol

from sqlalchemy import Connection

from resources.criteria import Chain, Criterion, Has, Query
from resources.outcomes import BadRequest, Forbidden, NotFound
from store.access import Access, Caller, Interaction, Shelf, Version, Visibility
from store.engine.database import Database
from store.engine.statements import Row
from store.search.limits import Deadline
from store.search.pages import PageSeal
from store.search.planning import Estimates
from store.versions.snapshots import Snapshot


class Searchable(Protocol):
    """The store, as far as a search needs it."""

    @property
    def database(self) -> Database: ...
    @property
    def pages(self) -> PageSeal: ...
    @property
    def estimates(self) -> Estimates: ...
    @property
    def base_urls(self) -> tuple[str, ...]: ...

    def shelf(self, type_name: str | None) -> Shelf | None:
        """Where the resources of a type are, if they are no versions of the store."""
        ...


class Transaction(Protocol):
    """A unit of work, as far as a search needs it."""

    @property
    def store(self) -> Searchable: ...
    @property
    def connection(self) -> Connection: ...
    @property
    def now(self) -> datetime: ...
    @property
    def write(self) -> bool: ...
    @property
    def intent(self) -> Access | None: ...
    @property
    def snapshot(self) -> Snapshot: ...
    @property
    def deadline(self) -> Deadline: ...

    def flush(self) -> None:
        """Write buffered index rows, so that a search sees the transaction's own versions."""
        ...


class Reader(Protocol):
    """Who searches: the caller's rights, the transaction, and where the access is noted."""

    @property
    def uow(self) -> Transaction: ...
    @property
    def caller(self) -> Caller: ...
    @property
    def derived(self) -> bool: ...

    def visibility(self, interaction: Interaction, type_name: str) -> Visibility:
        """What the caller may see of a type. Raises Forbidden."""
        ...

    def version(self, row: Row) -> Version:
        """The Version in a row of `store.versions.queries.COLUMNS`."""
        ...

    def note(self, access: Access, versions: Sequence[Version] = ()) -> None:
        """Record an access."""
        ...

    def attempt(
        self,
        interaction: Interaction,
        type_name: str | None = None,
        id: str | None = None,
        version: int | None = None,
        query: str | None = None,
    ) -> None:
        """Remember what is tried, for the record of a failure."""
        ...

    def not_found(self, type_name: str, id: str, version: int | None = None) -> NotFound:
        """The same answer whether the resource is absent or another's."""
        ...


def types_visible(
    reader: Reader, interaction: Interaction, names: Sequence[str]
) -> Iterator[tuple[Visibility, tuple[str, ...]]]:
    """The types of `names` that the caller may see at all, grouped by what it may see of them.

    Types that are kept elsewhere are none of them: no statement on versions finds those.
    """
    groups: dict[Visibility, list[str]] = {}
    for name in names:
        if reader.uow.store.shelf(name) is not None:
            continue
        try:
            visible = reader.visibility(interaction, name)
        except Forbidden:
            continue
        groups.setdefault(visible, []).append(name)
    for visible, found in groups.items():
        yield visible, tuple(found)


def refuse_shelved(reader: Reader, query: Query) -> None:
    """Raise BadRequest where a search would look for what is kept elsewhere among the versions, and miss it."""
    shelf = reader.uow.store.shelf
    named = [name for name in query.types if shelf(name) is not None]
    named += [one.source for one in query.revincludes if one.source is not None and shelf(one.source) is not None]
    named += [name for criterion in query.criteria for name in _passed(criterion) if shelf(name) is not None]
    if named:
        raise BadRequest(
            f"{named[0]}s are kept apart: search {named[0]} by itself", code="not-supported", expression="http._type"
        )


def _passed(criterion: Criterion) -> Iterator[str]:
    """Types that a criterion leads through, where it names them."""
    if isinstance(criterion, Has):
        yield criterion.type
        yield from _passed(criterion.inner)
    elif isinstance(criterion, Chain):
        if len(criterion.alternatives) == 1:
            yield criterion.alternatives[0][0]
        for _, inner in criterion.alternatives:
            yield from _passed(inner)
