"""Criteria over index rows, against a matcher that knows nothing of rows.

FHIR R4 §3.1.1 http://hl7.org/fhir/R4/search.html
"""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from resources.indexing import extract
from resources.matching import matches
from resources.search import parse
from tests import oracle, strategies

Json = dict[str, Any]


def found(resource: Json, *query: tuple[str, str]) -> bool:
    type_name = resource["resourceType"]
    criteria = parse(type_name, query).criteria
    return matches(criteria, type_name, resource.get("id"), None, extract(type_name, resource))


@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_the_index_finds_what_a_naive_reading_of_the_resource_finds(data: st.DataObject) -> None:
    """Every kind of parameter, every modifier and prefix that is supported (§3.1.1.4, §3.1.1.5)."""
    resource = data.draw(strategies.resources, label="resource")
    query = data.draw(strategies.queries(resource["resourceType"]), label="query")
    expected = oracle.finds(resource, query)
    event(f"found: {expected}")
    assert found(resource, *query) == expected


@settings(max_examples=700, deadline=None)
@given(strategies.dated, strategies.date_pairs)
def test_every_prefix_means_what_the_standard_says_of_two_ranges(resource: Json, query: list[tuple[str, str]]) -> None:
    """§3.1.1.4.4: contains, overlaps, above, below, with the implicit ranges of §3.1.1.5.5."""
    assert found(resource, *query) == oracle.finds(resource, query)


@settings(max_examples=700, deadline=None)
@given(strategies.measured, strategies.quantity_pairs)
def test_quantities_and_composites_agree_with_the_oracle(resource: Json, query: list[tuple[str, str]]) -> None:
    """§3.1.1.5.13 (quantity), §3.1.1.5.15 (composite: within one component)."""
    assert found(resource, *query) == oracle.finds(resource, query)
