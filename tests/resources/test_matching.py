"""Criteria over index rows, against a matcher that knows nothing of rows.

FHIR R4 §3.1.1 http://hl7.org/fhir/R4/search.html
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from resources.indexing import extract
from resources.json import Json
from resources.matching import matches
from resources.outcomes import BadRequest
from resources.search import parse
from tests import oracle, strategies


def found(resource: Json, *query: tuple[str, str]) -> bool:
    type_name = resource["resourceType"]
    criteria = parse(type_name, query).criteria
    return matches(criteria, type_name, resource.get("id"), None, extract(type_name, resource))


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_the_index_finds_what_a_naive_reading_of_the_resource_finds(data: st.DataObject) -> None:
    """Every kind of parameter, every modifier and prefix that is supported (§3.1.1.4, §3.1.1.5)."""
    resource = data.draw(strategies.resources, label="resource")
    query = data.draw(strategies.queries(resource["resourceType"]), label="query")
    expected = oracle.finds(resource, query)
    event(f"found: {expected}")
    assert found(resource, *query) == expected


@settings(max_examples=400, deadline=None)
@given(strategies.dated, strategies.date_pairs)
def test_every_prefix_means_what_the_standard_says_of_two_ranges(resource: Json, query: list[tuple[str, str]]) -> None:
    """§3.1.1.4.4: contains, overlaps, above, below, with the implicit ranges of §3.1.1.5.5."""
    assert found(resource, *query) == oracle.finds(resource, query)


@settings(max_examples=400, deadline=None)
@given(strategies.measured, strategies.quantity_pairs)
def test_quantities_and_composites_agree_with_the_oracle(resource: Json, query: list[tuple[str, str]]) -> None:
    """§3.1.1.5.13 (quantity), §3.1.1.5.15 (composite: within one component)."""
    assert found(resource, *query) == oracle.finds(resource, query)


# Properties between searches


days = st.dates(min_value=date(2023, 12, 30), max_value=date(2024, 1, 2))
moments = st.datetimes(min_value=datetime(2023, 12, 30), max_value=datetime(2024, 1, 3), timezones=st.just(UTC))  # noqa: DTZ001


def measured_at(text: str) -> Json:
    return {"resourceType": "Observation", "id": "1", "effectiveDateTime": text}


@given(days, moments, st.sampled_from(["seconds", "milliseconds", "microseconds"]))
def test_a_day_finds_the_instants_from_its_start_until_before_its_end(day: date, at: datetime, digits: str) -> None:
    """§3.1.1.5.5: `date=D` is `ge` its start and `lt` its end."""
    resource = measured_at(at.isoformat(timespec=digits))
    start, end = f"{day}T00:00:00Z", f"{day + timedelta(days=1)}T00:00:00Z"
    assert found(resource, ("date", str(day))) == found(resource, ("date", f"ge{start}"), ("date", f"lt{end}"))


@given(strategies.dated, days)
def test_a_day_finds_what_starts_after_the_day_before_and_ends_before_the_day_after(resource: Json, day: date) -> None:
    """§3.1.1.4.4: to be contained is to be neither before nor after."""
    before, after = day - timedelta(days=1), day + timedelta(days=1)
    assert found(resource, ("date", str(day))) == found(resource, ("date", f"sa{before}"), ("date", f"eb{after}"))


@given(strategies.dated, strategies.some(strategies.DATES))
def test_a_date_is_equal_or_not_equal(resource: Json, text: str) -> None:
    """§3.1.1.4.4 `ne`: the range of the search value does not fully contain the range of the target value."""
    assert found(resource, ("date", text)) != found(resource, ("date", f"ne{text}"))


@given(strategies.resources, st.data())
def test_missing_is_one_of_two(resource: Json, data: st.DataObject) -> None:
    """§3.1.1.4.5 `:missing`"""
    name = data.draw(strategies.queries(resource["resourceType"]))[0][0].partition(":")[0]
    if name != "_id":
        assert found(resource, (f"{name}:missing", "true")) != found(resource, (f"{name}:missing", "false"))


# The standard's own examples


@pytest.mark.parametrize(
    ("target", "query", "expected"),
    [
        # §3.1.1.4.4, the table of prefixes for dates
        ("2013-01-14T00:00:00Z", "2013-01-14", True),
        ("2013-01-14T10:00:00Z", "eq2013-01-14", True),
        ("2013-01-15T00:00:00Z", "eq2013-01-14", False),
        ("2013-01-15T00:00:00Z", "ne2013-01-14", True),
        ("2013-01-14T00:00:00Z", "ne2013-01-14", False),
        ("2013-01-14", "lt2013-01-14T10:00Z", True),
        ("2013-01-14", "gt2013-01-14T10:00Z", True),
        # a month contains a day, and not what reaches beyond it
        ("2026-01-31", "2026-01", True),
        ("2026", "2026-01", False),
        # a zone moves midnight
        ("2024-02-01T00:30:00+01:00", "2024-01-31", True),
        ("2024-02-01T00:30:00+01:00", "2024-02-01", False),
        # an exact instant is a point: what ends or begins at it touches it
        ("2013-01-14", "le2013-01-14T00:00:00.000Z", True),
        ("2013-01-14", "ge2013-01-14T23:59:59.9999999Z", True),
        ("2013-01-14", "gt2013-01-14T23:59:59.9999999Z", False),
        ("2013-01-14", "ge2013-01-15T00:00:00.000Z", False),
    ],
)
def test_a_date_is_compared_as_the_table_of_the_standard_says(target: str, query: str, expected: bool) -> None:
    assert found(measured_at(target), ("date", query)) == expected


@pytest.mark.parametrize(
    ("period", "query", "expected"),
    [
        # "from 21-Jan 2013 onwards" and "before and including 21-Jan 2013", in the table of §3.1.1.4.4
        ({"start": "2013-01-21"}, "ge2013-03-14", True),
        ({"start": "2013-01-21"}, "le2013-03-14", True),
        ({"start": "2013-03-15"}, "sa2013-03-14", True),
        ({"start": "2013-01-21"}, "sa2013-03-14", False),
        ({"end": "2013-01-21"}, "sa2013-03-14", False),
        ({"end": "2013-03-13"}, "eb2013-03-14", True),
        ({"start": "2013-03-15"}, "eb2013-03-14", False),
        ({"start": "2013-01-21"}, "eb2013-03-14", False),
        ({"start": "2025-12-15", "end": "2026-02-15"}, "2026-01", False),
        ({"start": "2025-12-15", "end": "2026-02-15"}, "ap2026-01", True),
        ({"start": "2026-01-02", "end": "2026-01-05"}, "2026-01", True),
        ({"start": "2026-01-02"}, "2026-01", False),
    ],
)
def test_a_period_is_compared_as_the_table_of_the_standard_says(period: Json, query: str, expected: bool) -> None:
    resource = {"resourceType": "Observation", "id": "1", "effectivePeriod": period}
    assert found(resource, ("date", query)) == expected


@pytest.mark.parametrize(
    ("stored", "query", "expected"),
    [
        ("100", "100", True), ("99.6", "100", True), ("100.5", "100", False), ("99.5", "100", True),
        ("100.004", "100.00", True), ("100.005", "100.00", False), ("104", "1e2", True), ("105", "1e2", False),
        ("100", "lt100", False), ("99.99", "lt100", True), ("100", "le100", True), ("100.01", "gt100", True),
        ("100", "ge100", True), ("100", "sa100", False), ("100.1", "sa100", True), ("99.9", "eb100", True),
        ("91", "ap100", True), ("89", "ap100", False), ("100.4", "ne100", False), ("101", "ne100", True),
    ],
)  # fmt: skip
def test_a_number_is_compared_as_the_standard_says(stored: str, query: str, expected: bool) -> None:
    """§3.1.1.5.4, §3.1.1.4.4"""
    resource = {"resourceType": "ChargeItem", "factorOverride": float(stored)}
    assert found(resource, ("factor-override", query)) == expected


@pytest.mark.parametrize(
    ("quantity", "query", "expected"),
    [
        ({"value": 5.4, "system": "http://unitsofmeasure.org", "code": "mg"}, "5.4|http://unitsofmeasure.org|mg", True),
        ({"value": 5.4, "system": "http://unitsofmeasure.org", "code": "mg"}, "5.4|http://unitsofmeasure.org|g", False),
        ({"value": 5.4, "unit": "mg"}, "5.4|http://unitsofmeasure.org|mg", False),
        ({"value": 5.4, "unit": "mg"}, "5.4||mg", True),
        ({"value": 5.4, "code": "mg", "unit": "milligram"}, "5.4||milligram", True),
        ({"value": 5.4, "code": "mg"}, "5.4||MG", False),
        ({"value": 5.4}, "5.4", True),
        ({"value": 5, "comparator": "<"}, "lt10", True),
        ({"value": 5, "comparator": ">"}, "gt100", True),
        ({"value": 5, "comparator": ">"}, "5", False),
    ],
)
def test_a_quantity_is_compared_with_its_unit(quantity: Json, query: str, expected: bool) -> None:
    """§3.1.1.5.13; units of UCUM are case-sensitive."""
    resource = {"resourceType": "Observation", "valueQuantity": quantity}
    assert found(resource, ("value-quantity", query)) == expected


def test_a_composite_holds_within_one_component() -> None:
    """§3.1.1.5.15"""
    resource = {
        "resourceType": "Observation",
        "component": [
            {"code": {"coding": [{"code": "systolic"}]}, "valueQuantity": {"value": 120}},
            {"code": {"coding": [{"code": "diastolic"}]}, "valueQuantity": {"value": 80}},
        ],
    }
    assert found(resource, ("component-code-value-quantity", "diastolic$lt100"))
    assert not found(resource, ("component-code-value-quantity", "systolic$lt100"))
    assert found(resource, ("component-code", "systolic"), ("component-value-quantity", "lt100"))


def test_id_and_last_updated_are_those_of_the_version() -> None:
    at = datetime(2024, 1, 1, 10, 0, 0, 123_000, tzinfo=UTC)
    rows = extract("Patient", {"resourceType": "Patient"})

    def holds(name: str, value: str, id: str | None = "A", when: datetime | None = at) -> bool:
        return matches(parse("Patient", [(name, value)]).criteria, "Patient", id, when, rows)

    assert holds("_id", "b,A")
    assert not holds("_id", "a")
    assert holds("_id:not", "a")
    assert not holds("_id", "A", id=None)
    assert holds("_lastUpdated", "2024-01-01T10:00:00.123Z")
    assert holds("_lastUpdated", "gt2024-01-01T10:00:00.122Z")
    assert not holds("_lastUpdated", "gt2024-01-01T10:00:00.123Z")
    assert not holds("_lastUpdated", "2024", when=None)


@pytest.mark.parametrize("name", ["general-practitioner:Practitioner.name", "_has:Observation:patient:code"])
def test_what_needs_another_resource_is_refused(name: str) -> None:
    """A scope or a filter that cannot be evaluated must not be taken as satisfied."""
    with pytest.raises(BadRequest):
        found({"resourceType": "Patient"}, (name, "x"))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("url", "http://a.org/ValueSet/1", True), ("url", "http://a.org/ValueSet", False),
        ("url:below", "http://a.org/ValueSet", True), ("url:below", "http://a.org/Value", False),
        ("url:below", "http://a.org/ValueSet/1", True), ("url:above", "http://a.org/ValueSet/1/2", True),
        ("url:above", "http://a.org/ValueSet/12", False), ("_profile", "http://p.org/x", True),
        ("_profile", "http://p.org/x|1.0", True), ("_profile", "http://p.org/x|2.0", False),
        ("_profile:below", "http://p.org", True),
    ],
)  # fmt: skip
def test_uris_are_compared_whole_or_by_their_path(name: str, value: str, expected: bool) -> None:
    """§3.1.1.5.15 (uri); a canonical asked without version matches every version."""
    resource = {"resourceType": "ValueSet", "url": "http://a.org/ValueSet/1", "meta": {"profile": ["http://p.org/x|1.0"]}}
    assert found(resource, (name, value)) == expected


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("subject", "1", True), ("subject", "Patient/1", True), ("subject:Patient", "1", True),
        ("subject:Group", "1", False), ("subject", "Group/1", False), ("subject", "Patient/1/_history/2", True),
        ("subject", "Patient/1/_history/3", False), ("subject:identifier", "urn:x|A", True),
        ("subject:identifier", "|A", False), ("patient", "1", True), ("subject:missing", "false", True),
        ("encounter:missing", "true", True), ("requester", "1", False),
        ("requester", "https://other.org/fhir/Practitioner/1", True),
    ],
)  # fmt: skip
def test_references_are_compared_by_id_type_version_url_and_identifier(name: str, value: str, expected: bool) -> None:
    """§3.1.1.5.14: a versioned reference matches a query without version; a foreign one is found by its URL alone."""
    resource = {
        "resourceType": "ServiceRequest",
        "subject": {"reference": "Patient/1/_history/2", "identifier": {"system": "urn:x", "value": "A"}},
        "requester": {"reference": "https://other.org/fhir/Practitioner/1"},
    }
    assert found(resource, (name, value)) == expected
