"""Referential integrity: what a resource refers to on this server is there, and is the caller's to see.

Asked at the end of a unit of work, when all its resources are written, so that circles and any order are fine. Exempt:
contained (``#x``), ``urn:``, absolute references to other servers, and logical ones (identifier only).
A resource that others refer to is not deleted, unless the same transaction removes the references.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from sqlalchemy import Connection, SmallInteger, Text, and_, bindparam, cast, func, select
from sqlalchemy.dialects.postgresql import ARRAY

from resources import references
from resources.json import Json
from resources.outcomes import Conflict, Issue
from resources.registry import type_id
from store.access import Caller
from store.engine.locks import lock, lock_shared
from store.engine.statements import Prepared
from store.versions.audiences import admits_prepared
from store.versions.tables import ANY_REFERENCE, CURRENT, resource_version, sp_reference

RECORDS_OF_THE_PAST = frozenset({"AuditEvent", "Provenance"})
"""Types whose references do not keep their target from being deleted: they tell what was."""

Target = tuple[int, str]


@dataclass(frozen=True, slots=True)
class Mention:
    """Where a resource refers to another of this server."""

    expression: str
    target: Target


def mentions(resource: Json, base_urls: tuple[str, ...]) -> Iterator[Mention]:
    """Every literal reference of `resource` to a resource of this server."""
    for found in references.walk(resource):
        text = found.holder.get(found.key)
        if not isinstance(text, str):
            continue
        reference = references.parse(text, base_urls)
        if reference.type is not None and reference.id is not None:
            yield Mention(found.expression, (type_id(reference.type), reference.id))


_REFERRED = Prepared(
    select(sp_reference.c.version_pk)
    .join(resource_version, resource_version.c.pk == sp_reference.c.version_pk)
    .where(
        sp_reference.c.param_id == ANY_REFERENCE,
        sp_reference.c.target_id == bindparam("target_id"),
        sp_reference.c.target_type_id == bindparam("target_type_id"),
        resource_version.c.valid_to == CURRENT,
        resource_version.c.deleted == 0,
    )
    .limit(1)
)


class Integrity:
    """The references that one unit of work made, and the resources that it deleted."""

    def __init__(self, connection: Connection, caller: Caller, *, lenient: bool) -> None:
        self._connection = connection
        self._caller = caller
        self._lenient = lenient
        self._made: dict[Target, tuple[list[Mention], bool]] = {}
        self._deleted: set[Target] = set()

    def wrote(self, source: Target, found: list[Mention], *, by_server: bool) -> None:
        """`source` was written with these references; it replaces what this unit of work wrote of it before."""
        self._made[source] = (found, by_server)
        self._deleted.discard(source)

    def deleted(self, target: Target) -> None:
        """`target` was deleted: nobody may begin to refer to it meanwhile."""
        self._made.pop(target, None)
        self._deleted.add(target)
        if not self._lenient:
            lock(self._connection, _key(target))

    def check(self) -> None:
        """Raise Conflict where a reference of this unit of work does not resolve, or a deleted resource is in use."""
        if self._lenient:
            return
        for server in (False, True):
            self._check_made(server)
        for target in self._deleted:
            self.check_unreferred(target)

    def check_unreferred(self, target: Target) -> None:
        """Raise Conflict where a current resource refers to `target`."""
        if self._lenient:
            return
        if _REFERRED.first(self._connection, {"target_type_id": target[0], "target_id": target[1]}):
            raise Conflict("The resource is referred to by others and cannot be deleted")

    def _check_made(self, server: bool) -> None:
        wanted: dict[Target, str] = {}
        for found, by_server in self._made.values():
            if by_server is server:
                for mention in found:
                    wanted.setdefault(mention.target, mention.expression)
        written = self._made.keys()
        outside = sorted(target for target in wanted if target not in written)
        if not outside:
            return
        lock_shared(self._connection, map(_key, outside))
        missing = set(outside) - self._present(outside, server)
        if missing:
            issues = [
                Issue("error", "conflict", "The reference does not resolve to a resource on this server", (expression,))
                for target, expression in wanted.items()
                if target in missing
            ]
            raise Conflict("A reference does not resolve", issues=issues)

    def _present(self, targets: list[Target], server: bool) -> set[Target]:
        caller = self._caller
        names = [] if server or caller.is_system else sorted(caller.names("r"))
        seen_by = {f"organization_{number}": name for number, name in enumerate(names)}
        statement = _present(len(names) or None)
        connection = self._connection
        if connection.dialect.name == "postgresql":
            asked = {"type_ids": [target[0] for target in targets], "resource_ids": [target[1] for target in targets]}
            return {(row[0], row[1]) for row in statement.all(connection, asked | seen_by)}
        return {
            target
            for target in targets
            if statement.first(connection, {"type_id": target[0], "resource_id": target[1]} | seen_by)
        }


@cache
def _present(organizations: int | None) -> Prepared:
    """Which targets are there and admit one of so many organisations.

    SQLite is asked for one after the other, which costs no round trip; PostgreSQL for all at once.
    """
    version = resource_version
    there = [version.c.valid_to == CURRENT, version.c.deleted == 0, *admits_prepared(version, organizations)]
    asked = func.unnest(
        cast(bindparam("type_ids"), ARRAY(SmallInteger)), cast(bindparam("resource_ids"), ARRAY(Text))
    ).table_valued("type_id", "resource_id", name="asked").render_derived()
    named = (version.c.type_id == asked.c.type_id, version.c.resource_id == asked.c.resource_id)
    return Prepared(
        select(version.c.type_id, version.c.resource_id).where(
            version.c.type_id == bindparam("type_id"), version.c.resource_id == bindparam("resource_id"), *there
        ),
        postgresql=select(version.c.type_id, version.c.resource_id)
        .select_from(asked)
        .join(version, and_(*named))
        .where(*there),
    )


def _key(target: Target) -> str:
    return f"resource {target[0]}/{target[1]}"
