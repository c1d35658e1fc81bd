"""Every R4 search parameter, by type, with the number it has for ever.

http://hl7.org/fhir/R4/searchparameter-registry.html
"""

from __future__ import annotations

import hashlib

import pytest

from resources import definitions, own_parameters, registry, search_parameters
from resources.index_rows import Table
from resources.own_parameters import FIRST, OwnParameter
from resources.search_parameters import (
    COMPONENT,
    COMPONENT_STEP,
    alternatives,
    by_id,
    component_id,
    component_parameter,
    parameter,
    parameters,
)


def _all() -> list[tuple[str, str, int]]:
    named = {(p.type, p.code, p.id) for name in (None, *registry.TYPES) for p in parameters(name).values()}
    return sorted(named, key=lambda row: row[2])


def test_the_numbers_never_change() -> None:
    """They are in every index row on disk. R4 4.0.1 is closed: if this fails, an index must be rebuilt."""
    text = "\n".join(f"{number} {type_name} {code}" for type_name, code, number in _all() if number < FIRST)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "630281c38658850f"


@pytest.mark.parametrize(
    ("type_name", "code", "number"),
    [("Account", "identifier", 1), ("Patient", "identifier", 1209), ("ServiceRequest", "status", 1534),
     ("VisionPrescription", "status", 1706)],
)  # fmt: skip
def test_a_number_is_the_position_in_the_sorted_list(type_name: str, code: str, number: int) -> None:
    found = parameter(type_name, code)
    assert found is not None
    assert found.id == number
    assert by_id(number) is found


def test_every_parameter_of_the_standard_is_there() -> None:
    """One for each (base, code) of the 1375 definitions."""
    pairs = {(base, row["code"]) for row in definitions.search_parameters() for base in row["base"]}
    assert {(type_name, code) for type_name, code, number in _all() if number < FIRST} == pairs


@pytest.mark.parametrize(("type_name", "count"), [("ServiceRequest", 25), ("ImagingStudy", 17), ("Patient", 23),
                                                  ("Observation", 38), ("Binary", 0)])
def test_a_type_has_its_own_parameters_and_the_common_ones(type_name: str, count: int) -> None:
    own = [one for one in parameters(type_name).values() if one.type == type_name]
    assert len(own) == count
    assert {"_id", "_lastUpdated", "_profile", "_security", "_source", "_tag"} <= set(parameters(type_name))


def test_imaging_study_has_no_accession_parameter_in_r4() -> None:
    """The accession number is searched by `identifier`; `basedon` has no hyphen (conformance note A2)."""
    assert parameter("ImagingStudy", "accession") is None
    assert parameter("ImagingStudy", "basedon") is not None


def test_the_common_parameters_have_one_number_for_all_types() -> None:
    """So that a search of the whole system needs no list of numbers (§3.1.1.1)."""
    assert parameter("Patient", "_tag") is parameter("Task", "_tag") is parameter(None, "_tag")


@pytest.mark.parametrize("code", ["_text", "_content", "_query"])
def test_parameters_without_expression_are_known_and_not_supported(code: str) -> None:
    found = parameter("Patient", code)
    assert found is not None
    assert not found.supported


def test_every_other_parameter_is_supported_but_near() -> None:
    """`Location.near` is of type special (§3.1.1.5.16)."""
    refused = {(p.type, p.code) for name in registry.TYPES for p in parameters(name).values() if not p.supported}
    assert refused == {("Location", "near"), ("DomainResource", "_text"), ("Resource", "_content"),
                       ("Resource", "_query")}


@pytest.mark.parametrize(
    ("type_name", "code", "targets"),
    [
        ("Observation", "patient", {"Patient"}),
        ("ServiceRequest", "subject", {"Patient", "Group", "Device", "Location"}),
        ("AllergyIntolerance", "patient", {"Patient"}),
        ("ImagingStudy", "basedon", {"CarePlan", "ServiceRequest", "Appointment", "AppointmentResponse", "Task"}),
    ],
)
def test_targets_are_those_that_the_types_own_elements_allow(type_name: str, code: str, targets: set[str]) -> None:
    """A definition shared by many types (`clinical-patient`) lists the targets of all of them."""
    found = parameter(type_name, code)
    assert found is not None
    assert set(found.targets) == targets


def test_components_of_a_composite_have_numbers_of_their_own() -> None:
    """§3.1.1.5.15: the value must hold on the same element, so its rows are kept apart."""
    found = parameter("Observation", "code-value-quantity")
    assert found is not None
    assert [component.kind for component in found.components] == ["token", "quantity"]
    assert component_id(found, 1) == found.id + COMPONENT + COMPONENT_STEP
    assert component_parameter(found, 1).table is Table.QUANTITY
    assert found.row_id == component_id(found, 0)


def test_the_relationship_of_documents_has_its_components_the_right_way_round() -> None:
    """The official file swaps the two expressions of DocumentReference-relationship."""
    found = parameter("DocumentReference", "relationship")
    assert found is not None
    assert [(c.kind, c.expression) for c in found.components] == [("reference", "target"), ("token", "code")]


def test_alternatives_are_not_split_inside_parentheses() -> None:
    assert alternatives("A.b | (A.c | A.d).e") == ("A.b", "(A.c | A.d).e")


OWN_NUMBERS = [
    (50_001, "DiagnosticReport", "imaging-study"),
    (50_002, "Task", "deadline"), (50_003, "Task", "priority-rank"), (50_004, "Task", "owner-hospital"),
    (50_005, "Task", "escalation"), (50_006, "Task", "modality"), (50_007, "Task", "region"),
    (50_008, "ServiceRequest", "priority-rank"), (50_009, "ServiceRequest", "owner-hospital"),
    (50_010, "ServiceRequest", "modality"), (50_011, "ServiceRequest", "region"),
]  # fmt: skip
"""Restated: a number that was given once stands in index rows on disks."""


def test_the_numbers_of_our_own_never_change() -> None:
    assert [(own.number, own.base, own.code) for own in own_parameters.TABLE][: len(OWN_NUMBERS)] == OWN_NUMBERS
    for own in own_parameters.TABLE:
        found = parameter(own.base, own.code)
        assert found is not None
        assert (by_id(own.number), found.supported, found.definition) == (found, True, own.url)


@pytest.mark.parametrize(
    ("number", "base", "code"),
    [(1209, "Patient", "own"), (FIRST - 1, "Patient", "own"), (100_000, "Patient", "own"), (50_001, "Patient", "own"),
     (50_002, "Patient", "gender"), (50_002, "Patient", "_id")],
)  # fmt: skip
def test_a_row_that_takes_what_is_taken_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, number: int, base: str, code: str
) -> None:
    wrong = OwnParameter(number, base, code, "token", f"{base}.active", "https://x.example/p")
    monkeypatch.setattr(own_parameters, "TABLE", (*own_parameters.TABLE, wrong))
    with pytest.raises(ValueError, match=r"number|already"):
        search_parameters._registry.__wrapped__()
