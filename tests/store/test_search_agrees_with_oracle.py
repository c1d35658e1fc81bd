"""Any search finds what a naive reading of the standard finds (FHIR R4 §3.1.1), by SQL and with every modifier."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resources.search import parse
from store.engine.database import Database
from store.unit_of_work import Store
from store.versions.tables import INDEX_TABLES, resource_version
from tests import oracle, strategies
from tests.support import caller

A = caller("hospital-a")


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[tuple[str, list[tuple[str, str]]]]]:
    """Some resources of different identity, and some searches of them."""
    drawn = draw(st.lists(strategies.resources, min_size=1, max_size=6))
    resources = {(one["resourceType"], one["id"]): one for one in drawn}
    types = draw(st.lists(st.sampled_from(strategies.TYPES), min_size=1, max_size=3))
    return list(resources.values()), [(name, draw(strategies.queries(name))) for name in types]


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(worlds())
def test_a_search_finds_what_the_oracle_finds(
    make_store: Any, database: Database, world: tuple[list[dict[str, Any]], list[Any]]
) -> None:
    """§3.1.1.4 and §3.1.1.5, all parameter types."""
    resources, searches = world
    with database.write() as connection:
        for table in (*INDEX_TABLES, resource_version):
            connection.execute(table.delete())
    store: Store = make_store(references="lenient")
    with store.work(A) as uow:
        for resource in resources:
            uow.resources.update(resource["resourceType"], resource["id"], resource)
    for type_name, parameters in searches:
        with store.work(A, write=False) as uow:
            page = uow.resources.search(parse(type_name, [*parameters, ("_total", "accurate")]))
        found = sorted(version.id for version in page.matches)
        expected = sorted(
            one["id"]
            for one in resources
            if one["resourceType"] == type_name and oracle.finds(one, parameters, resources)
        )
        assert found == expected, (type_name, parameters)
        assert page.total == len(expected)
