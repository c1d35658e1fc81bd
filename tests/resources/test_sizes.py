"""What a resource costs to keep, counted before anything is locked."""

from __future__ import annotations

from typing import Any

import pytest

from resources import budgets, indexing, sizes
from resources.outcomes import InvalidContent


@pytest.mark.parametrize(
    ("value", "count"),
    [({}, 1), ({"a": 1}, 2), ({"a": [1, 2, {"b": None}]}, 6), ({"resourceType": "Patient", "name": [{}]}, 4)],
)
def test_every_json_value_counts_once(value: Any, count: int) -> None:
    assert sizes.elements(value) == count


@pytest.mark.parametrize(
    "body",
    [
        {"resourceType": "Patient", "name": [{"given": [f"a{n}" for n in range(300)]}]},
        {"resourceType": "Patient", "identifier": [{"value": f"a{n}", "system": "urn:x"} for n in range(300)]},
        {"resourceType": "Patient", "address": [{"line": [f"a{n}" for n in range(300)], "city": "b"}]},
        {"resourceType": "Patient", "telecom": [{"system": "phone", "value": f"{n}"} for n in range(300)]},
        {
            "resourceType": "Observation",
            "code": {"coding": [{"code": f"a{n}", "display": f"b{n}"} for n in range(300)]},
            "component": [
                {
                    "code": {"coding": [{"code": f"a{n}", "display": f"b{n}"} for n in range(300)]},
                    "valueQuantity": {"value": 1, "unit": "a", "code": "b"},
                }
            ],
            "valueQuantity": {"value": 1, "unit": "a", "code": "b"},
        },
        {
            "resourceType": "ValueSet",
            "useContext": [
                {
                    "code": {"code": "focus"},
                    "valueCodeableConcept": {"coding": [{"code": f"a{n}"} for n in range(300)]},
                }
            ],
        },
        {"resourceType": "List", "entry": [{"item": {"reference": f"Patient/{n}"}} for n in range(300)]},
    ],
    ids=lambda body: str(list(body)[-1]),
)
def test_the_bound_of_rows_holds_for_what_has_most(body: dict[str, Any]) -> None:
    """Rows are extracted before the transaction only where the bound does not rule it out."""
    rows = sizes.row_count(indexing.extract(body["resourceType"], body))
    assert 0 < rows <= sizes.elements(body) * sizes.ROWS_PER_ELEMENT


def test_few_elements_with_many_rows_are_counted_exactly() -> None:
    """A name has three rows for each `given`: 4,000 of them are within the elements and beyond the rows."""
    limit = budgets.RESOURCE_INDEX_ROWS.value
    body = {"resourceType": "Patient", "name": [{"given": [f"a{n}" for n in range(limit // 3 + 1)]}]}
    assert sizes.elements(body) < budgets.RESOURCE_ELEMENTS.value
    with pytest.raises(InvalidContent) as refused:
        sizes.check("Patient", body)
    assert refused.value.issues[0].code == "too-costly"
    assert refused.value.issues[0].expression == ("Patient",)
