"""The gateway to fhir.resources. docs/decisions/0002-table-driven-validation.md"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from resources import models
from resources.validation import validate
from tests.second_opinion import second_opinion


def test_the_server_builds_its_own_resources() -> None:
    built = models.build(
        "AuditEvent",
        type={"system": "http://terminology.hl7.org/CodeSystem/audit-event-type", "code": "rest"},
        recorded=datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC),
        agent=[{"requestor": True}],
        source={"observer": {"display": "vigie"}},
        outcome=None,
    )
    assert built["resourceType"] == "AuditEvent"
    assert built["recorded"].startswith("2024-01-02T03:04:05")
    assert "outcome" not in built
    assert validate(built) == []


def test_a_mistake_of_the_servers_own_is_not_a_callers_fault() -> None:
    with pytest.raises(ValueError, match="agent"):
        models.build("AuditEvent", agent="a")
    with pytest.raises(ValueError, match="Foo"):
        models.build("Foo")
    with pytest.raises(ValueError, match="Patient"):
        models.build("Patient", contained=[{"resourceType": "Foo"}])


@pytest.mark.parametrize(
    ("resource", "code", "expression"),
    [
        ({"resourceType": "Patient", "foo": 1}, "structure", "Patient.foo"),
        ({"resourceType": "Patient", "name": [{"given": [1]}]}, "structure", "Patient.name[0].given[0]"),
        ({"resourceType": "Patient", "link": [{"other": {"display": "a"}}]}, "required", "Patient.link[0].type"),
        ({"resourceType": "Patient", "deceasedBoolean": True, "deceasedDateTime": "2024"}, "structure", "Patient"),
        ({"resourceType": "Patient", "contained": [{"resourceType": "Foo"}]}, "structure", "Patient"),
        ({"resourceType": "Foo"}, "structure", "Resource.resourceType"),
        ({"resourceType": "MedicinalProduct"}, "structure", "Resource.resourceType"),
        ({}, "structure", "Resource.resourceType"),
    ],
)
def test_a_second_opinion_names_the_place_and_no_value(resource: Any, code: str, expression: str) -> None:
    """A contained resource of unknown type is a bare KeyError in the library; here it is an issue like any other."""
    (issue,) = second_opinion(resource)
    assert (issue.code, issue.expression) == (code, (expression,))
