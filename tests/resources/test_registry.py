"""The row of each resource type. http://hl7.org/fhir/R4/resourcelist.html"""

from __future__ import annotations

from typing import Any

import pytest

from resources import registry


def test_the_numbers_of_the_types_never_change() -> None:
    """They are in every row of every database: this test is the record of them."""
    assert len(registry.TYPES) == 146
    assert [row.name for row in registry.TYPES.values()] == sorted(registry.TYPES)
    recorded = {"Account": 1, "Patient": 103, "ServiceRequest": 124, "Task": 140, "VisionPrescription": 146}
    assert {name: registry.type_id(name) for name in recorded} == recorded


def test_a_number_gives_its_type_back() -> None:
    assert all(registry.type_name(registry.type_id(name)) == name for name in registry.TYPES)


@pytest.mark.parametrize("name", ["Foo", "Resource", "DomainResource", "patient", "", None, 3, ["Patient"]])
def test_what_is_no_concrete_type_is_not_one(name: Any) -> None:
    """http://hl7.org/fhir/R4/resource.html: Resource and DomainResource are abstract."""
    assert not registry.is_type(name)


def test_nobody_writes_audit_events_through_the_api() -> None:
    """DESIGN §7: searchable by auditors, never writable or deletable by anyone through the API."""
    assert registry.TYPES["AuditEvent"].interactions == registry.READ
    assert registry.TYPES["ServiceRequest"].interactions == registry.READ | registry.WRITE


@pytest.mark.parametrize(
    ("resource", "patients"),
    [
        ({"resourceType": "Patient", "id": "a", "link": [{"other": {"reference": "Patient/b"}}]}, ("a", "b")),
        ({"resourceType": "ServiceRequest", "subject": {"reference": "Patient/a/_history/2"}}, ("a",)),
        ({"resourceType": "ServiceRequest", "subject": {"reference": "Group/a"}}, ()),
        ({"resourceType": "DiagnosticReport", "subject": {"reference": "Patient/a"}, "basedOn": []}, ("a",)),
        ({"resourceType": "ImagingStudy", "subject": {"reference": "https://vigie.example/fhir/Patient/a"}}, ("a",)),
        ({"resourceType": "ImagingStudy", "subject": {"reference": "https://other.example/fhir/Patient/a"}}, ()),
        ({"resourceType": "ImagingStudy", "subject": {"identifier": {"value": "a"}}}, ()),
        ({"resourceType": "Appointment", "participant": [{"actor": {"reference": "Location/1"}},
                                                         {"actor": {"reference": "Patient/a"}}]}, ("a",)),
        ({"resourceType": "Observation", "subject": {"reference": "Patient/a"},
          "performer": [{"reference": "Patient/a"}, {"reference": "Patient/b"}]}, ("a", "b")),
        ({"resourceType": "Task", "for": {"reference": "Patient/a"}}, ("a",)),
        ({"resourceType": "Organization", "id": "a"}, ()),
        ({"resourceType": "ServiceRequest", "subject": ["Patient/a", None, 3]}, ()),
    ],
)  # fmt: skip
def test_a_resource_is_in_the_compartment_of_its_patients(resource: Any, patients: tuple[str, ...]) -> None:
    """http://hl7.org/fhir/R4/compartmentdefinition-patient.html; Task.for besides."""
    found = registry.patients_of(resource["resourceType"], resource, ("https://vigie.example/fhir",))
    assert found == tuple("Patient/" + one for one in patients)
