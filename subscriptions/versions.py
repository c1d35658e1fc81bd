"""Versions of resources as a subscriber may see them: the store's organisation predicate, asked at sequencing and
again at sending.

A deletion has no content and fires no topic. Scope constraints are evaluated by the same matcher as filters.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from sqlalchemy import BigInteger, Connection, bindparam, cast, func, select
from sqlalchemy.dialects.postgresql import ARRAY

from resources import matching
from resources.outcomes import Forbidden
from resources.registry import type_id
from store.access import Caller, Interaction, Permit, Version
from store.engine.statements import Prepared
from store.versions import queries as store_versions
from store.versions.audiences import Audiences, admits_prepared, admitted
from store.versions.tables import CURRENT, resource_version
from subscriptions.filters import Filter

_listed = func.json_each(bindparam("keys")).table_valued("value", name="listed")
_WITH_KEYS = Prepared(
    select(*store_versions.COLUMNS).where(resource_version.c.pk.in_(select(_listed.c.value))),
    postgresql=select(*store_versions.COLUMNS).where(
        resource_version.c.pk == func.any(cast(bindparam("keys"), ARRAY(BigInteger)))
    ),
)
_CURRENT = Prepared(
    select(*store_versions.COLUMNS).where(
        resource_version.c.type_id == bindparam("type_id"),
        resource_version.c.resource_id == bindparam("resource_id"),
        resource_version.c.valid_to == CURRENT,
        resource_version.c.deleted == 0,
    )
)


@cache
def _admitted(size: int | None) -> Prepared:
    """Whether one of so many organisations is in the audience of a version; None: of any."""
    of_one = resource_version.c.pk == bindparam("pk", type_=BigInteger)
    return Prepared(select(resource_version.c.pk).where(of_one, *admits_prepared(resource_version, size)))


class Versions:
    """Reads versions by their pk; what each caller may see of them."""

    def __init__(self, permit: Permit, audiences: Audiences, base_urls: Sequence[str]) -> None:
        self._permit = permit
        self._audiences = audiences
        self._base_urls = tuple(base_urls)

    def get(self, connection: Connection, pks: Iterable[int]) -> dict[int, Version]:
        """The versions with these pks."""
        keys = sorted(set(pks))
        asked = {"keys": store_versions.json_array(keys) if connection.dialect.name == "sqlite" else keys}
        found = [self._version(row, connection) for row in _WITH_KEYS.all(connection, asked)]
        return {version.pk: version for version in found}

    def visible(self, connection: Connection, caller: Caller, version: Version) -> bool:
        """Whether `caller` may read this version today: its scopes, their constraints, its organisation."""
        try:
            visibility = self._permit.visibility(caller, Interaction.READ, version.type)
        except Forbidden:
            return False
        organizations = visibility.organizations
        asked = {"pk": version.pk, **admitted(organizations)}
        if _admitted(None if organizations is None else len(organizations)).first(connection, asked) is None:
            return False
        if not visibility.constraints:
            return True
        return any(self.matches(version, query.criteria) for query in visibility.constraints)

    def current(self, connection: Connection, references: Iterable[str]) -> list[Version]:
        """The current versions of local references (``Type/id``, or below a base URL) that exist."""
        found = []
        for reference in references:
            local = self._local(reference)
            if local is None:
                continue
            row = _CURRENT.first(connection, {"type_id": local[0], "resource_id": local[1]})
            if row is not None:
                found.append(self._version(row, connection))
        return found

    def passes(self, version: Version, filters: Sequence[Filter]) -> bool:
        """Whether a focus satisfies every filter of a subscription."""
        return all(self.matches(version, one.of(version.type)) for one in filters)

    def matches(self, version: Version, criteria: Sequence[Any]) -> bool:
        """Whether one version satisfies search criteria, evaluated in memory."""
        if not criteria:
            return True
        rows = store_versions.extract(version.type, version.json(), self._base_urls)
        return matching.matches(criteria, version.type, version.id, version.last_updated, rows)

    def _version(self, row: Any, connection: Connection) -> Version:
        return store_versions.version_of(tuple(row), connection, self._audiences)

    def _local(self, reference: str) -> tuple[int, str] | None:
        text = reference
        for base in self._base_urls:
            text = text.removeprefix(f"{base}/")
        parts = text.partition("/_history/")[0].split("/")
        if len(parts) != 2 or not all(parts):
            return None
        try:
            return type_id(parts[0]), parts[1]
        except KeyError:
            return None
