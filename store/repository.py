"""Interactions on resources within one unit of work: read, vread, create, update, delete, history, search.

Every statement carries the organisation predicate and the constraints of the caller's scopes, so that what the caller
may not see is as if it were not there. A miss is asked again without them, for the audit record alone.

FHIR R4 §3.1.0 http://hl7.org/fhir/R4/http.html
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Protocol

from sqlalchemy import Connection, Select, bindparam, select

from resources import flags, interactions, jsontext, sizes
from resources.budgets import RESOURCE_INDEX_ROWS
from resources.criteria import Query
from resources.json import Json, copy_json
from resources.outcomes import Gone, NotFound, PreconditionFailed
from resources.registry import patients_of, type_id
from resources.times import microseconds
from store.access import (
    Access,
    Audience,
    Caller,
    Change,
    Draft,
    Interaction,
    Permit,
    SearchPage,
    Version,
    Visibility,
    Work,
)
from store.engine.faults import LostRace
from store.engine.statements import Prepared, Row
from store.search import execute as search
from store.search import history, reader, shelved
from store.search.reader import Searchable
from store.versions import integrity
from store.versions.audiences import Audiences, admits_prepared, admitted, audience_of, audiences_of
from store.versions.queries import (
    COLUMNS,
    IndexBuffer,
    NewVersion,
    close_version,
    extract,
    insert_version,
    stamp,
    version_of,
)
from store.versions.tables import CURRENT, resource_version

EVERYTHING = Visibility(None)
"""What the server itself sees."""

METHODS = {name: interactions.ROWS[name].forms[0].method for name in interactions.of_type(writes=True)}
"""What `Version.method` says: the HTTP method of the interaction that made the version."""


class Keeper(Searchable, Protocol):
    """The store, as far as a repository needs it."""

    @property
    def permit(self) -> Permit: ...
    @property
    def audiences(self) -> Audiences: ...
    @property
    def new_id(self) -> Callable[[], str]: ...


class Transaction(Work, reader.Transaction, Protocol):
    """The unit of work, as far as a repository needs it."""

    attempted: Access | None

    @property
    def store(self) -> Keeper: ...
    @property
    def buffer(self) -> IndexBuffer: ...
    @property
    def integrity(self) -> integrity.Integrity: ...

    def prepare(self, draft: Draft) -> None:
        """Have the observers complete or refuse a draft."""
        ...

    def changed(self, change: Change) -> None:
        """Have the observers told before the commit."""
        ...


class Repository:
    """Resources as one caller sees them."""

    def __init__(self, uow: Transaction, caller: Caller, *, derived: bool = False) -> None:
        """`derived`: the server acts on the caller's behalf, within the same unit of work."""
        self.uow = uow
        self.caller = caller
        self.derived = derived

    # Reading

    def read(self, type_name: str, id: str) -> Version:
        """The current version. Raises NotFound, or Gone where it was deleted (§3.1.0.1)."""
        self.attempt(Interaction.READ, type_name, id)
        version = self._current(type_name, id, self.visibility(Interaction.READ, type_name))
        if version is None:
            raise self.not_found(type_name, id)
        if version.deleted:
            raise Gone(version=version.version)
        self.note_read(Interaction.READ, version)
        return version

    def vread(self, type_name: str, id: str, version: int) -> Version:
        """One version. Raises NotFound, or Gone where that version is the deletion (§3.1.0.2)."""
        self.attempt(Interaction.VREAD, type_name, id, version)
        visible = self.visibility(Interaction.VREAD, type_name)
        found = self._numbered(type_name, id, version, visible)
        if found is None:
            raise self.not_found(type_name, id, version)
        if found.deleted:
            raise Gone(version=found.version)
        self.note_read(Interaction.VREAD, found)
        return found

    def exists(self, type_name: str, id: str) -> bool:
        """Whether there is such a resource that the caller may see. Not an access: nothing is disclosed by it alone."""
        version = self._current(type_name, id, self.visibility(Interaction.READ, type_name))
        return version is not None and not version.deleted

    def history(
        self,
        type_name: str | None,
        id: str | None = None,
        *,
        since: datetime | None = None,
        at: datetime | None = None,
        count: int = 50,
        token: str | None = None,
    ) -> history.HistoryPage:
        """Versions, newest first (§3.1.0.11). `token` continues an earlier page."""
        shelf = self.uow.store.shelf(type_name)
        if shelf is not None:
            return shelved.history(self, shelf, id, since=since, at=at, count=count, token=token)
        return history.page(self, type_name, id, since=since, at=at, count=count, token=token)

    def search(self, query: Query, *, token: str | None = None) -> SearchPage:
        """A page of matches and what they include (§3.1.1). `token` continues an earlier page of the same query."""
        shelf = self.uow.store.shelf(query.type)
        if shelf is not None:
            return shelved.page(self, shelf, query, token=token)
        return search.page(self, query, token=token)

    def conditional_match(self, type_name: str, criteria: Query) -> list[Version]:
        """At most two matches of conditional criteria; none other can be made to match until this transaction ends."""
        return search.conditional_match(self, type_name, criteria)

    def find(self, type_name: str, parameters: Sequence[tuple[str, str]]) -> list[Version]:
        """All matches of a search written as (name, value) pairs, for rules of the server itself."""
        shelf = self.uow.store.shelf(type_name)
        return search.find(self, type_name, parameters) if shelf is None else shelved.find(self, shelf, parameters)

    def count(self, type_name: str, parameters: Sequence[tuple[str, str]]) -> int:
        """How many match such a search, for rules that need no more of them."""
        self._only_rules()
        shelf = self.uow.store.shelf(type_name)
        return search.count(self, type_name, parameters) if shelf is None else shelved.count(self, shelf, parameters)

    def count_by(self, type_name: str, parameters: Sequence[tuple[str, str]], by: str) -> dict[str, int]:
        """How many match for each ``Type/id`` that they refer to by the parameter `by`."""
        self._only_rules()
        return search.count_by(self, type_name, parameters, by)

    def each(
        self,
        type_name: str,
        parameters: Sequence[tuple[str, str]],
        *,
        owner: str | None = None,
        portion: int = 1000,
    ) -> Iterator[Version]:
        """As `find`, however many there are, read in portions. Nothing of it is recorded."""
        self._only_rules()
        shelf = self.uow.store.shelf(type_name)
        if shelf is not None:
            return shelved.each(self, shelf, parameters, portion)
        return search.each(self, type_name, parameters, owner=owner, portion=portion)

    def _only_rules(self) -> None:
        if not self.derived:
            raise RuntimeError("Only rules of the server itself ask so: nothing of it is recorded")

    # Writing

    def create(self, type_name: str, resource: Json, *, id: str | None = None) -> Version:
        """Store a new resource; the server chooses the id unless given (§3.1.0.8). `resource` is not altered."""
        id = id or self.uow.new_id()
        self.attempt(Interaction.CREATE, type_name, id)
        return self._write(Draft(type_name, id, Interaction.CREATE, copy_json(resource), None), None)

    def update(
        self,
        type_name: str,
        id: str,
        resource: Json,
        *,
        if_match: int | None = None,
        create: bool = True,
        interaction: Interaction = Interaction.UPDATE,
    ) -> Version:
        """Store the next version (§3.1.0.4), or the first where there is none and `create`. `resource` is not altered.

        Content that is the same as before makes a version all the same. Raises PreconditionFailed where `if_match` is
        not the current version, NotFound where there is no such resource (or none of the caller's).
        """
        self.attempt(interaction, type_name, id, if_match)
        before = self._current(type_name, id, self.visibility(interaction, type_name))
        if before is None and (not create or if_match is not None or self._is_taken(type_name, id)):
            raise self.not_found(type_name, id)
        if before is not None and before.deleted and not create:
            raise Gone(version=before.version)
        if not self._is_same(before, if_match):
            _check_match(before, if_match)
        alive = before if before is not None and not before.deleted else None
        return self._write(Draft(type_name, id, interaction, copy_json(resource), alive), before)

    def _is_same(self, before: Version | None, if_match: int | None) -> bool:
        """Whether a caller's If-Match names a version since which only the server's flag has changed (a weak ETag)."""
        if self.caller.is_system or before is None or if_match is None or before.type != "Task" or before.deleted:
            return False
        if not before.version - _FLAGGED_AT_MOST <= if_match < before.version:
            return False
        visible = self.visibility(Interaction.UPDATE, before.type)
        older = self._numbered(before.type, before.id, if_match, visible)
        return older is not None and not older.deleted and flags.differs_only_in_flag(older.json(), before.json())

    def delete(self, type_name: str, id: str, *, if_match: int | None = None) -> Version:
        """Store a deletion (§3.1.0.7) and return it; what was deleted already stays as it is.

        Raises NotFound where there is no such resource (or none of the caller's).
        """
        self.attempt(Interaction.DELETE, type_name, id, if_match)
        before = self._current(type_name, id, self.visibility(Interaction.DELETE, type_name))
        if before is None:
            raise self.not_found(type_name, id)
        _check_match(before, if_match)
        if before.deleted:  # nothing is written, but it was asked for and answered: an entry of a transaction too
            self.uow.note(
                Access(
                    Interaction.DELETE, type_name, id, patients=before.patients, owner=before.owner,
                    derived=self.derived,
                )
            )  # fmt: skip
            return before
        return self._write(Draft(type_name, id, Interaction.DELETE, None, before), before)

    def check_delete(self, type_name: str, id: str) -> Version:
        """Raise as `delete` would, and delete nothing; the version that it would delete. What is gone raises Gone."""
        before = self.read(type_name, id)
        draft = Draft(type_name, id, Interaction.DELETE, None, before)
        self.visibility(Interaction.DELETE, type_name)
        self.uow.prepare(draft)
        if not (self.derived or self.caller.is_system):
            self.uow.store.permit.authorise_write(self.uow, self.caller, draft)
        self.uow.integrity.check_unreferred((type_id(type_name), id))
        return before

    # What search and history need

    def visibility(self, interaction: Interaction, type_name: str) -> Visibility:
        """What the caller may see of a type. Raises Forbidden."""
        if self.derived or self.caller.is_system:
            return EVERYTHING
        return self.uow.store.permit.visibility(self.caller, interaction, type_name)

    def version(self, row: Row) -> Version:
        """The Version in a row of COLUMNS."""
        return version_of(row, self.uow.connection, self.uow.store.audiences)

    def note(self, access: Access, versions: Sequence[Version] = ()) -> None:
        """Record an access that showed these versions, with the grants that it took."""
        self.uow.note(self._named(access, versions))

    def note_read(self, interaction: Interaction, version: Version) -> None:
        """Record that the caller saw `version`. What the server looks up for its own rules is not an access."""
        if self.derived:
            return
        self.note(seen(interaction, version), (version,))

    def _named(self, access: Access, versions: Sequence[Version]) -> Access:
        if not self.caller.grants or not versions or self.derived:
            return access
        stored = [version.pk for version in versions if self.uow.store.shelf(version.type) is None]
        audiences = audiences_of(self.uow.connection, stored)
        return replace(access, detail=(*access.detail, *self.caller.under(audiences)))

    def attempt(
        self,
        interaction: Interaction,
        type_name: str | None = None,
        id: str | None = None,
        version: int | None = None,
        query: str | None = None,
    ) -> None:
        """Remember what is tried: it is recorded as failed if the unit of work fails, and no intent was given."""
        if not self.derived and self.uow.intent is None:
            self.uow.attempted = Access(interaction, type_name, id, version, query=query)

    def _current(self, type_name: str, id: str, visible: Visibility) -> Version | None:
        shelf = self.uow.store.shelf(type_name)
        if shelf is not None:
            return shelf.one(self.uow.connection, visible, id)
        return self._one(_read, visible, {"type_id": type_id(type_name), "resource_id": id})

    def _numbered(self, type_name: str, id: str, version: int, visible: Visibility) -> Version | None:
        shelf = self.uow.store.shelf(type_name)
        if shelf is not None:
            found = shelf.one(self.uow.connection, visible, id)
            return found if found is not None and found.version == version else None
        key: dict[str, int | str] = {"type_id": type_id(type_name), "resource_id": id, "version": version}
        return self._one(_vread, visible, key)

    def _one(self, statement: _Statement, visible: Visibility, key: dict[str, int | str]) -> Version | None:
        if visible.constraints:
            self.uow.flush()
            rows = self.uow.connection.execute(
                search.constrained(statement.select, visible, self), key
            ).first()
            return self.version(tuple(rows)) if rows else None
        return _plain(statement, self.uow.connection, self.uow.store.audiences, visible, key)

    def not_found(self, type_name: str, id: str, version: int | None = None) -> NotFound:
        """The same answer, after the same two questions, whether the resource is absent or another's."""
        found = self._current(type_name, id, EVERYTHING)
        if found is not None and version is not None:
            found = self._numbered(type_name, id, version, EVERYTHING)
        return NotFound(foreign=found is not None)

    def _is_taken(self, type_name: str, id: str) -> bool:
        return self._current(type_name, id, EVERYTHING) is not None

    def _write(self, draft: Draft, before: Version | None) -> Version:
        uow = self.uow
        assert uow.tx is not None, "a read-only unit of work"  # noqa: S101 - the caller's mistake, not input
        uow.prepare(draft)
        if not (self.derived or self.caller.is_system):
            uow.store.permit.authorise_write(uow, self.caller, draft)
        version = (before.version if before else 0) + 1
        new = self._new_version(draft, version)
        if before is not None and not close_version(uow.connection, before.pk, uow.tx):
            raise LostRace
        at_us = microseconds(uow.now)
        pk = insert_version(uow.connection, new, uow.tx, at_us)
        after = Version(
            pk,
            draft.type,
            draft.id,
            version,
            uow.tx,
            uow.now,
            new.deleted,
            new.method,
            new.owner,
            new.content,
            new.patients,
            [draft.resource] if draft.resource is not None else [],
        )
        self._index(draft, after)
        uow.changed(Change(draft.interaction, draft.before, after, self.caller, self.derived))
        written = Access(
            draft.interaction,
            draft.type,
            draft.id,
            version,
            patients=new.patients,
            owner=after.owner,
            derived=self.derived,
            digest=new.digest(draft.type, uow.tx, at_us),
        )
        self.note(written, (after,))
        return after

    def _new_version(self, draft: Draft, version: int) -> NewVersion:
        uow = self.uow
        method = METHODS[draft.interaction]
        if draft.resource is None:
            before = draft.before
            assert before is not None  # noqa: S101 - a deletion is of something
            owner_id, audience = _ownership(uow, before.pk)
            return NewVersion(
                type_id(draft.type), draft.id, version, True, method, owner_id, audience, before.patients, b"",
                before.owner, audience_of(uow.connection, before.pk),
            )  # fmt: skip
        belongs: Audience = uow.store.permit.audience(uow, self.caller, draft)
        draft.resource = stamp(draft.resource, id=draft.id, version=version, at=uow.now)
        return NewVersion(
            type_id(draft.type),
            draft.id,
            version,
            False,
            method,
            uow.register_audience(frozenset({belongs.owner})),
            uow.register_audience(belongs.organizations),
            patients_of(draft.type, draft.resource, uow.store.base_urls),
            jsontext.dump(draft.resource),
            belongs.owner,
            belongs.organizations,
        )

    def _index(self, draft: Draft, after: Version) -> None:
        uow = self.uow
        here = (type_id(draft.type), draft.id)
        if draft.resource is None:
            uow.integrity.deleted(here)
            return
        found = list(integrity.mentions(draft.resource, uow.store.base_urls))
        past = draft.type in integrity.RECORDS_OF_THE_PAST
        targets = () if past else dict.fromkeys(mention.target for mention in found)
        rows = extract(draft.type, draft.resource, uow.store.base_urls)
        if not self.derived:  # the edge has counted them before the transaction; this is for every other way in
            RESOURCE_INDEX_ROWS.check(sizes.row_count(rows), draft.type)
        uow.buffer.add(after.pk, rows, targets)
        uow.integrity.wrote(here, found, by_server=self.derived or self.caller.is_system)


_FLAGGED_AT_MOST = 10
"""Versions that an escalation and its end can make in a row."""


def _check_match(before: Version | None, if_match: int | None) -> None:
    if if_match is not None and (before is None or before.version != if_match):
        raise PreconditionFailed("If-Match does not name the current version")


class _Statement:
    """A select of versions by key, prepared for each number of organisations that may see."""

    def __init__(self, statement: Select[tuple[object, ...]]) -> None:
        self.select = statement
        self._prepared: dict[int | None, Prepared] = {}

    def prepared(self, organizations: frozenset[str] | None) -> Prepared:
        size = None if organizations is None else len(organizations)
        found = self._prepared.get(size)
        if found is None:
            found = self._prepared[size] = Prepared(self.select.where(*admits_prepared(resource_version, size)))
        return found


_read = _Statement(
    select(*COLUMNS).where(
        resource_version.c.type_id == bindparam("type_id"),
        resource_version.c.resource_id == bindparam("resource_id"),
        resource_version.c.valid_to == CURRENT,
    )
)
_vread = _Statement(
    select(*COLUMNS).where(
        resource_version.c.type_id == bindparam("type_id"),
        resource_version.c.resource_id == bindparam("resource_id"),
        resource_version.c.version == bindparam("version"),
    )
)


def current(
    connection: Connection, audiences: Audiences, visible: Visibility, type_name: str, id: str
) -> Version | None:
    """The current version of a resource, if the caller may see it. For a visibility without constraints."""
    if visible.constraints:
        raise ValueError("The constraints of a scope are more than this asks")
    return _plain(_read, connection, audiences, visible, {"type_id": type_id(type_name), "resource_id": id})


def _plain(
    statement: _Statement, connection: Connection, audiences: Audiences, visible: Visibility, key: dict[str, int | str]
) -> Version | None:
    """The one version that a statement by key finds, for a visibility without constraints."""
    row = statement.prepared(visible.organizations).first(connection, {**key, **admitted(visible.organizations)})
    return version_of(row, connection, audiences) if row else None


def seen(interaction: Interaction, version: Version) -> Access:
    """That somebody saw a version."""
    return Access(
        interaction, version.type, version.id, version.version, patients=version.patients, owner=version.owner
    )  # fmt: skip


_BELONGS = Prepared(
    select(resource_version.c.owner_id, resource_version.c.audience_id).where(
        resource_version.c.pk == bindparam("version_pk")
    )
)


def _ownership(uow: Transaction, pk: int) -> tuple[int, int]:
    row = _BELONGS.first(uow.connection, {"version_pk": pk})
    assert row is not None  # noqa: S101 - it was just read
    return int(row[0]), int(row[1])
