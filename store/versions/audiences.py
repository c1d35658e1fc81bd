"""Owners and audiences as numbers, and the organisation predicate.

An audience is a set of organisation ids; its number is the hash of the sorted set, so that no writer waits for another
to number it. `audience_member` says who is in it. The owner of a version is the audience of one.

The predicate is part of every statement that selects versions (DESIGN §6): foreign and absent rows are the same rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Connection, FromClause, bindparam, exists, false, insert, or_, select
from sqlalchemy.dialects.postgresql import insert as postgresql_insert

from resources.hashing import hash64
from store.engine.statements import Prepared
from store.versions.tables import MAX, audience_member, resource_version

_INSERT = Prepared(
    insert(audience_member).prefix_with("OR IGNORE"),
    postgresql=postgresql_insert(audience_member).on_conflict_do_nothing(),
)
_OWNER = Prepared(
    select(audience_member.c.organization)
    .where(audience_member.c.audience_id == bindparam("owner_id"))
    .limit(1)
)


def audience_id(organizations: Iterable[str]) -> int:
    """The number of this set of organisations."""
    return hash64(",".join(sorted(organizations)))


class Audiences:
    """What one process knows of `audience_member`; rows are only ever added, so what it knows stays true."""

    def __init__(self) -> None:
        self._owners: dict[int, str] = {}
        self._known: set[int] = set()

    def register(self, connection: Connection, organizations: frozenset[str], fresh: set[int]) -> int:
        """The number of this audience, with its rows in the database. `fresh` collects numbers not yet committed."""
        number = audience_id(organizations)
        if number not in self._known and number not in fresh:
            _INSERT.many(connection, [(number, organization) for organization in sorted(organizations)])
            fresh.add(number)
        return number

    def committed(self, fresh: set[int]) -> None:
        """The audiences that were new are there for good."""
        self._known |= fresh

    def owner(self, connection: Connection, owner_id: int) -> str:
        """The organisation with this number."""
        name = self._owners.get(owner_id)
        if name is None:
            row = _OWNER.first(connection, {"owner_id": owner_id})
            name = str(row[0]) if row else ""
            if row:
                self._owners[owner_id] = name
        return name


def admits(version: FromClause, organizations: frozenset[str] | None) -> list[ColumnElement[bool]]:
    """Clauses that hold where the audience of `version` has one of `organizations`; for None none, for none never.

    Written as a probe by the row's own audience: one look-up for a read, no list of the caller's audiences.
    """
    if organizations is None:
        return []
    return _one_of(version, sorted(organizations))


def admits_prepared(version: FromClause, size: int | None) -> list[ColumnElement[bool]]:
    """As `admits`, for a `Prepared` statement: with parameters ``organization_0`` … for `size` organisations."""
    if size is None:
        return []
    return _each(version, [bindparam(f"organization_{number}") for number in range(size)])


@lru_cache(maxsize=4096)
def admitted(organizations: frozenset[str] | None) -> Mapping[str, str]:
    """The parameters of such a statement."""
    return {f"organization_{number}": name for number, name in enumerate(sorted(organizations or ()))}


def _one_of(version: FromClause, organizations: list[Any]) -> list[ColumnElement[bool]]:
    if not organizations:
        return [false()]
    member = audience_member
    return [
        exists()
        .where(member.c.audience_id == version.c.audience_id, member.c.organization.in_(organizations))
        .correlate(version)
    ]


def _each(version: FromClause, organizations: list[Any]) -> list[ColumnElement[bool]]:
    """As `_one_of`, a probe for each: of one version that is quicker than a list, which SQLite makes a table of."""
    if not organizations:
        return [false()]
    return [or_(*(clause for one in organizations for clause in _one_of(version, [one])))]


_AUDIENCE_OF = Prepared(
    select(audience_member.c.organization)
    .join(resource_version, resource_version.c.audience_id == audience_member.c.audience_id)
    .where(resource_version.c.pk == bindparam("pk", type_=BigInteger))
)


def audience_of(connection: Connection, version_pk: int) -> frozenset[str]:
    """The organisations that may see a stored version."""
    return frozenset(row[0] for row in _AUDIENCE_OF.all(connection, {"pk": version_pk}))


def audiences_of(connection: Connection, version_pks: Iterable[int]) -> list[frozenset[str]]:
    """The organisations that may see each of these versions, in no order."""
    version, found = resource_version.c, defaultdict[int, set[str]](set)
    asked = (
        select(version.pk, audience_member.c.organization)
        .join(audience_member, audience_member.c.audience_id == version.audience_id)
        .where(version.pk.in_(list(version_pks)))
    )
    for pk, organization in connection.execute(asked):
        found[pk].add(organization)
    return [frozenset(members) for members in found.values()]


def members_of(connection: Connection, audience_ids: Iterable[int]) -> list[frozenset[str]]:
    """The organisations in each of these audiences, in no order."""
    member, found = audience_member.c, defaultdict[int, set[str]](set)
    asked = select(member.audience_id, member.organization).where(member.audience_id.in_(sorted(set(audience_ids))))
    for number, organization in connection.execute(asked):
        found[number].add(organization)
    return [frozenset(members) for members in found.values()]


def owner_of(connection: Connection, type_id: int, resource_id: str) -> str | None:
    """Who owns a resource, deleted or not; None: there never was one."""
    row = connection.execute(
        select(audience_member.c.organization)
        .join(resource_version, resource_version.c.owner_id == audience_member.c.audience_id)
        .where(
            resource_version.c.type_id == type_id,
            resource_version.c.resource_id == resource_id,
            resource_version.c.valid_to == MAX,
        )
        .limit(1)
    ).first()
    return None if row is None else str(row[0])
