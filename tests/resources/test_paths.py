"""The expressions of search parameters over plain JSON.

FHIR R4 §3.1.1.1.4 http://hl7.org/fhir/R4/search.html#expression
"""

from __future__ import annotations

from typing import Any

import pytest

from resources import registry
from resources.paths import PathError, compiled, json_keys, reference_targets, target_type, value_types
from resources.search_parameters import alternatives, component_parameter, parameters

REFUSED: dict[str, str] = {}
"""Expressions that cannot be compiled, with the reason. None is left."""


def test_every_expression_of_the_standard_compiles() -> None:
    """All types, the components of composites included; what does not is listed above with its reason."""
    failed = {}
    for name in registry.TYPES:
        for one in parameters(name).values():
            for path in one.paths:
                try:
                    compiled(path, one.type)
                    for position, part in enumerate(one.components):
                        for inner in alternatives(part.expression):
                            compiled(inner, value_types(path, one.type)[0])
                        component_parameter(one, position)
                except PathError as error:
                    failed[path] = str(error)
    assert failed.keys() == REFUSED.keys()


@pytest.mark.parametrize(
    ("expression", "resource", "values"),
    [
        ("Patient.name.family", {"name": [{"family": "A"}, {"given": ["B"]}, {"family": "C"}]},
         [("string", "A"), ("string", "C")]),
        ("Patient.name.given", {"name": [{"given": ["A", None, "B"]}]}, [("string", "A"), ("string", "B")]),
        ("(Observation.value as Quantity)", {"valueQuantity": {"value": 1}}, [("Quantity", {"value": 1})]),
        ("(Observation.value as Quantity)", {"valueString": "x"}, []),
        ("(Observation.component.value as Quantity)",
         {"component": [{"valueQuantity": {"value": 1}}, {"valueQuantity": {"value": 2}}]},
         [("Quantity", {"value": 1}), ("Quantity", {"value": 2})]),
        ("(Observation.value as CodeableConcept).text", {"valueCodeableConcept": {"text": "t"}}, [("string", "t")]),
        ("Observation.effective", {"effectivePeriod": {"start": "2024"}}, [("Period", {"start": "2024"})]),
        ("Condition.onset.as(Age)", {"onsetAge": {"value": 3}}, [("Age", {"value": 3})]),
        ("(Goal.start as date)", {"startDate": "2024"}, [("date", "2024")]),
        ("Patient.telecom.where(system='email')",
         {"telecom": [{"system": "phone", "value": "1"}, {"system": "email", "value": "e"}]},
         [("ContactPoint", {"system": "email", "value": "e"})]),
        ("Bundle.entry[0].resource", {"entry": [{"resource": {"id": "1"}}, {"resource": {"id": "2"}}]},
         [("Resource", {"id": "1"})]),
        ("Questionnaire.item.code", {"item": [{"code": [{"code": "a"}], "item": [{"code": [{"code": "b"}]}]}]},
         [("Coding", {"code": "a"})]),
        ("Task.for.where(resolve() is Patient)", {"for": {"reference": "Patient/1"}},
         [("Reference", {"reference": "Patient/1"})]),
        ("Task.for.where(resolve() is Patient)", {"for": {"reference": "Group/1"}}, []),
        ("Patient.name.family", {}, []),
    ],
)  # fmt: skip
def test_a_path_finds_values_with_their_data_type(expression: str, resource: dict[str, Any], values: list[Any]) -> None:
    """http://hl7.org/fhir/R4/formats.html#choice, http://hl7.org/fhirpath/N1/"""
    type_name = expression.lstrip("(").partition(".")[0]
    assert compiled(expression, type_name)(resource, resource) == values


@pytest.mark.parametrize(
    ("resource", "dead"),
    [({"deceasedBoolean": True}, True), ({"deceasedBoolean": False}, False), ({"deceasedDateTime": "2024"}, True),
     ({}, False)],
)  # fmt: skip
def test_a_patient_is_dead_by_a_date_as_well(resource: dict[str, Any], dead: bool) -> None:
    """Patient-deceased: `Patient.deceased.exists() and Patient.deceased != false`."""
    expression = "Patient.deceased.exists() and Patient.deceased != false"
    assert compiled(expression, "Patient")(resource, resource) == [("boolean", dead)]


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ({"reference": "Patient/1"}, "Patient"),
        ({"reference": "Patient/1/_history/2"}, "Patient"),
        ({"reference": "https://elsewhere.org/fhir/Patient/1"}, "Patient"),
        ({"reference": "#p"}, "Patient"),
        ({"type": "Patient", "identifier": {"value": "1"}}, "Patient"),
        ({"reference": "urn:uuid:7a9f6ec6-6a2e-4b9e-8f2b-3a9df7b4c7a1", "type": "Patient"}, "Patient"),
        ({"reference": "urn:uuid:7a9f6ec6-6a2e-4b9e-8f2b-3a9df7b4c7a1"}, None),
        ({"display": "x"}, None),
    ],
)
def test_the_type_of_a_target_is_what_the_reference_says(reference: dict[str, Any], name: str | None) -> None:
    """`resolve() is T` cannot fetch in an index; http://hl7.org/fhir/R4/references.html#Reference"""
    resource = {"resourceType": "Task", "contained": [{"resourceType": "Patient", "id": "p"}]}
    assert target_type(reference, resource) == name


@pytest.mark.parametrize(
    "expression",
    ["Patient.nonsense", "Patient.name.where(use in ('a'))", "Patient.name.first()", "Patient.name as HumanName",
     "Patient..name", "Patient.name.", "Observation.value.as(HumanName)", "Patient.name[a]", "as(Patient)"],
)
def test_an_expression_of_an_unknown_shape_is_refused_and_not_guessed(expression: str) -> None:
    with pytest.raises(PathError):
        compiled(expression, expression.partition(".")[0])


def test_the_keys_of_a_choice_name_its_types() -> None:
    """http://hl7.org/fhir/R4/formats.html#choice"""
    keys = json_keys("Observation.component")
    assert keys["valueQuantity"] == "Quantity"
    assert keys["valueDateTime"] == "dateTime"
    assert "value" not in keys
    assert keys["referenceRange"] == "Observation.referenceRange"


def test_the_targets_of_a_path_are_those_of_its_element() -> None:
    """http://hl7.org/fhir/R4/servicerequest-definitions.html#ServiceRequest.subject"""
    assert reference_targets("ServiceRequest.subject.where(resolve() is Patient)", "ServiceRequest") == {"Patient"}
    assert "Group" in reference_targets("ServiceRequest.subject", "ServiceRequest")
