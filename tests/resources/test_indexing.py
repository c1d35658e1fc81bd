"""A resource's index rows.

FHIR R4 §3.1.1.5 http://hl7.org/fhir/R4/search.html#ptypes
"""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings

from resources import jsontext, registry
from resources.derived_values import DERIVED
from resources.hashing import CODE_LIMIT, hash64
from resources.index_rows import (
    MAX_TICKS,
    DateRow,
    IndexRows,
    NumberRow,
    QuantityRow,
    ReferenceRow,
    StringRow,
    TokenRow,
    UriRow,
)
from resources.indexed_values import CURRENCY, WRITERS
from resources.indexing import extract
from resources.json import Json
from resources.paths import value_types
from resources.search_parameters import (
    IDENTIFIER,
    OF_TYPE,
    TEXT,
    alternatives,
    component_id,
    parameter,
    parameters,
)
from tests import strategies

EXAMPLES = Path(__file__).resolve().parents[2].parent / "shared" / "fhir" / "examples-valid"
LOINC = "http://loinc.org"
UCUM = "http://unitsofmeasure.org"
LARGEST = 1.7976931348623157e308


def number(type_name: str, code: str) -> int:
    found = parameter(type_name, code)
    assert found is not None
    return found.id


def of(rows: list[Any], param_id: int) -> list[Any]:
    return [row for row in rows if row.param_id == param_id]


def observation(**elements: Any) -> IndexRows:
    return extract("Observation", {"resourceType": "Observation", **elements})


# Token: §3.1.1.5.11


def test_a_concept_gives_a_row_for_each_coding_and_its_texts() -> None:
    """§3.1.1.4.5: `:text` searches CodeableConcept.text and Coding.display."""
    rows = observation(code={"coding": [{"system": LOINC, "code": "24725-4", "display": "CT Head"}, {"code": "CT"}],
                             "text": "Scanner du crâne"})
    code = number("Observation", "code")
    assert of(rows.tokens, code) == [TokenRow(code, hash64(LOINC), "24725-4"), TokenRow(code, 0, "ct")]
    assert of(rows.strings, code + TEXT) == [
        StringRow(code + TEXT, "ct head", "CT Head"),
        StringRow(code + TEXT, "scanner du crane", "Scanner du crâne"),
    ]


def test_a_concept_with_text_alone_is_not_missing() -> None:
    """§3.1.1.4.5 `:missing`: the element is there, though no code is."""
    code = number("Observation", "code")
    assert of(observation(code={"text": "x"}).tokens, code) == [TokenRow(code, 0, "")]


def test_an_identifier_is_found_by_system_value_and_type() -> None:
    """§3.1.1.4.5 `:of-type`, `:text` (Identifier.type.text)."""
    kind = {"coding": [{"system": "http://t", "code": "MR"}], "text": "Medical record"}
    own = {"system": "urn:x", "value": "A1", "type": kind}
    rows = extract("Patient", {"resourceType": "Patient", "identifier": [own]})
    identifier = number("Patient", "identifier")
    assert of(rows.tokens, identifier) == [TokenRow(identifier, hash64("urn:x"), "a1")]
    assert of(rows.tokens, identifier + OF_TYPE) == [TokenRow(identifier + OF_TYPE, hash64("http://t|mr"), "a1")]
    assert of(rows.strings, identifier + TEXT) == [StringRow(identifier + TEXT, "medical record", "Medical record")]


def test_codes_booleans_and_contacts_have_no_system() -> None:
    patient = {"resourceType": "Patient", "active": True, "gender": "male",
               "telecom": [{"system": "phone", "value": "0102"}, {"system": "email", "value": "A@b.fr"}]}  # fmt: skip
    rows = extract("Patient", patient)
    for code, expected in (("active", ["true"]), ("gender", ["male"]), ("telecom", ["0102", "a@b.fr"]),
                           ("email", ["a@b.fr"]), ("deceased", ["false"])):
        found = of(rows.tokens, number("Patient", code))
        assert [(row.system_id, row.code) for row in found] == [(0, text) for text in expected], code


def test_a_code_too_long_for_an_index_entry_is_kept_by_its_digest() -> None:
    code = number("Observation", "code")
    (row,) = of(observation(code={"coding": [{"code": "x" * 1000}]}).tokens, code)
    assert len(row.code) <= CODE_LIMIT


# String: §3.1.1.5.9


def test_a_name_gives_a_row_for_each_of_its_parts() -> None:
    own = {"family": "Müller", "given": ["Anne  Marie", None]}
    rows = extract("Patient", {"resourceType": "Patient", "name": [own]})
    name = number("Patient", "name")
    assert of(rows.strings, name) == [StringRow(name, "muller", "Müller"), StringRow(name, "anne marie", "Anne  Marie")]
    assert [row.norm for row in of(rows.strings, number("Patient", "family"))] == ["muller"]


def test_an_address_gives_a_row_for_each_of_its_parts() -> None:
    address = {"line": ["1 rue X"], "city": "Saint-Denis", "postalCode": "97400", "country": "RE", "use": "home"}
    rows = extract("Patient", {"resourceType": "Patient", "address": [address]})
    found = {row.norm for row in of(rows.strings, number("Patient", "address"))}
    assert found == {"1 rue x", "saint-denis", "97400", "re"}
    assert [row.code for row in of(rows.tokens, number("Patient", "address-use"))] == ["home"]


# Date: §3.1.1.5.5


def test_a_date_without_zone_is_indexed_in_the_declared_zone() -> None:
    patient = {"resourceType": "Patient", "birthDate": "2024-07-14"}
    birthdate = number("Patient", "birthdate")
    (utc,) = of(extract("Patient", patient).dates, birthdate)
    (paris,) = of(extract("Patient", patient, zone=ZoneInfo("Europe/Paris")).dates, birthdate)
    assert utc.low - paris.low == 2 * 3600 * 10**7


def test_an_open_period_has_an_open_end() -> None:
    date = number("Observation", "date")
    (row,) = of(observation(effectivePeriod={"start": "2024"}).dates, date)
    assert row.high == MAX_TICKS


def test_a_choice_that_is_no_date_is_not_indexed_as_one() -> None:
    """Immunization.occurrence[x] may be a text."""
    rows = extract("Immunization", {"resourceType": "Immunization", "occurrenceString": "in winter"})
    assert of(rows.dates, number("Immunization", "date")) == []


# Number and quantity: §3.1.1.5.4, §3.1.1.5.13


@pytest.mark.parametrize("value", [0.5, Decimal("0.50"), "0.5"])
def test_a_number_is_indexed_whatever_the_parser_made_of_it(value: Any) -> None:
    rows = extract("ChargeItem", {"resourceType": "ChargeItem", "factorOverride": value})
    factor = number("ChargeItem", "factor-override")
    assert of(rows.numbers, factor) == [NumberRow(factor, 0.5, 0.5)]


def test_the_decimals_of_our_own_parser_are_indexed() -> None:
    resource = jsontext.parse(b'{"resourceType":"Observation","valueQuantity":{"value":5.40,"code":"mg"}}')
    (row,) = of(extract("Observation", resource).quantities, number("Observation", "value-quantity"))
    assert (row.low, row.high, row.code) == (5.4, 5.4, "mg")


def test_a_quantity_is_found_by_code_and_by_human_unit() -> None:
    """`5.4||mg` matches code or unit."""
    rows = observation(valueQuantity={"value": 5.4, "unit": "milligram", "system": UCUM, "code": "mg"})
    value = number("Observation", "value-quantity")
    assert of(rows.quantities, value) == [
        QuantityRow(value, hash64(UCUM), "mg", 5.4, 5.4),
        QuantityRow(value, 0, "milligram", 5.4, 5.4),
    ]


@pytest.mark.parametrize(
    ("comparator", "low", "high"),
    [("<", -LARGEST, 5.0), ("<=", -LARGEST, 5.0), (">", 5.0, LARGEST), (">=", 5.0, LARGEST)],
)
def test_a_comparator_makes_a_quantity_a_range(comparator: str, low: float, high: float) -> None:
    """http://hl7.org/fhir/R4/datatypes-definitions.html#Quantity.comparator"""
    rows = observation(valueQuantity={"value": 5, "comparator": comparator})
    (row,) = of(rows.quantities, number("Observation", "value-quantity"))
    assert (row.low, row.high) == (low, high)


def test_sampled_data_reaches_from_its_least_to_its_greatest_sample() -> None:
    """http://hl7.org/fhir/R4/datatypes.html#SampledData"""
    sampled = {"origin": {"value": 10, "code": "mV"}, "factor": 0.5, "data": "2 -4 E U 8"}
    (row,) = of(observation(valueSampledData=sampled).quantities, number("Observation", "value-quantity"))
    assert (row.code, row.low, row.high) == ("mV", 8.0, 14.0)


def test_money_has_its_currency_as_unit() -> None:
    rows = extract("Invoice", {"resourceType": "Invoice", "totalNet": {"value": 48.35, "currency": "EUR"}})
    (row,) = of(rows.quantities, number("Invoice", "totalnet"))
    assert (row.system_id, row.code, row.low) == (hash64(CURRENCY), "EUR", 48.35)


def test_a_number_beyond_a_double_is_kept_at_its_limit() -> None:
    rows = observation(valueQuantity={"value": Decimal("1E+999")})
    (row,) = of(rows.quantities, number("Observation", "value-quantity"))
    assert row.low == LARGEST


# Reference: §3.1.1.5.14


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ({"reference": "Patient/1"}, ("Patient", "1", "", "")),
        ({"reference": "Patient/1/_history/2"}, ("Patient", "1", "2", "")),
        ({"reference": "https://vigie.example/fhir/Patient/1"}, ("Patient", "1", "", "")),
        ({"reference": "https://other.example/fhir/Patient/1"},
         ("Patient", "", "", "https://other.example/fhir/Patient/1")),
        ({"reference": "urn:uuid:05efabf0-4be2-4561-91ce-51548425acb9"},
         (None, "", "", "urn:uuid:05efabf0-4be2-4561-91ce-51548425acb9")),
        ({"display": "x", "type": "Patient"}, ("Patient", "", "", "")),
    ],
)  # fmt: skip
def test_a_reference_is_local_or_a_url(reference: Json, expected: tuple[str | None, str, str, str]) -> None:
    rows = extract("ServiceRequest", {"resourceType": "ServiceRequest", "subject": reference},
                   base_urls=("https://vigie.example/fhir",))
    subject = number("ServiceRequest", "subject")
    type_id = registry.type_id(expected[0]) if expected[0] else 0
    assert of(rows.references, subject) == [ReferenceRow(subject, type_id, *expected[1:])]


def test_patient_is_the_subject_only_where_it_is_one() -> None:
    """`ServiceRequest.subject.where(resolve() is Patient)`"""
    patient = number("ServiceRequest", "patient")
    for text, count in (("Patient/1", 1), ("Group/1", 0)):
        rows = extract("ServiceRequest", {"resourceType": "ServiceRequest", "subject": {"reference": text}})
        assert len(of(rows.references, patient)) == count


def test_the_identifier_of_a_reference_is_a_token_of_its_own() -> None:
    """§3.1.1.4.5 `:identifier`"""
    logical = {"identifier": {"system": "urn:x", "value": "A"}}
    rows = extract("ServiceRequest", {"resourceType": "ServiceRequest", "subject": logical})
    subject = number("ServiceRequest", "subject")
    assert of(rows.tokens, subject + IDENTIFIER) == [TokenRow(subject + IDENTIFIER, hash64("urn:x"), "a")]
    assert len(of(rows.references, subject)) == 1


def test_the_version_of_a_canonical_is_kept_apart() -> None:
    """http://hl7.org/fhir/R4/references.html#canonical"""
    rows = extract("ServiceRequest", {"resourceType": "ServiceRequest", "instantiatesCanonical": ["http://a.org/p|1.0"]})
    canonical = number("ServiceRequest", "instantiates-canonical")
    assert of(rows.references, canonical) == [ReferenceRow(canonical, 0, "", "1.0", "http://a.org/p")]
    rows = extract("Patient", {"resourceType": "Patient", "meta": {"profile": ["http://a.org/p|1.0"]}})
    profile = number("Patient", "_profile")
    assert of(rows.uris, profile) == [UriRow(profile, "http://a.org/p|1.0"), UriRow(profile, "http://a.org/p")]


def test_a_document_bundle_points_to_nothing_outside_itself() -> None:
    bundle = {"resourceType": "Bundle", "entry": [{"resource": {"resourceType": "Composition", "id": "1"}}]}
    composition = number("Bundle", "composition")
    (row,) = of(extract("Bundle", bundle).references, composition)
    assert (row.target_type_id, row.target_id) == (registry.type_id("Composition"), "")


# Composite: §3.1.1.5.15


def test_components_of_a_composite_are_numbered_by_their_element() -> None:
    composite = parameter("Observation", "combo-code-value-quantity")
    assert composite is not None
    rows = observation(
        code={"coding": [{"code": "bp"}]},
        component=[
            {"code": {"coding": [{"code": "sys"}]}, "valueQuantity": {"value": 120}},
            {"code": {"coding": [{"code": "dia"}]}, "valueQuantity": {"value": 80}},
            {"code": {"coding": [{"code": "none"}]}},
        ],
    )
    codes = [(row.code, row.group_no) for row in of(rows.tokens, component_id(composite, 0))]
    values = [(row.low, row.group_no) for row in of(rows.quantities, component_id(composite, 1))]
    assert codes == [("sys", 2), ("dia", 3)]
    assert values == [(120.0, 2), (80.0, 3)]


def test_a_component_may_stand_outside_the_composites_element() -> None:
    """MolecularSequence-chromosome-variant-coordinate uses `%resource`."""
    composite = parameter("MolecularSequence", "chromosome-variant-coordinate")
    assert composite is not None
    sequence = {"resourceType": "MolecularSequence", "variant": [{"start": 5, "end": 6}],
                "referenceSeq": {"chromosome": {"coding": [{"code": "12"}]}, "windowStart": 1}}  # fmt: skip
    rows = extract("MolecularSequence", sequence)
    assert [row.code for row in of(rows.tokens, component_id(composite, 0))] == ["12"]
    assert [row.low for row in of(rows.numbers, component_id(composite, 2))] == [6.0]


# All of them


def test_every_data_type_that_a_parameter_may_meet_has_a_writer() -> None:
    for name in registry.TYPES:
        for one in parameters(name).values():
            for path in one.paths if one.supported else ():
                for kind in value_types(path, one.type):
                    if one.components:
                        for component in one.components:
                            for inner in alternatives(component.expression):
                                found = () if inner.startswith("%") else value_types(inner, kind)
                                assert set(found) <= WRITERS[component.kind].keys(), (name, one.code)
                    else:
                        assert kind in (DERIVED[one.via] if one.via else WRITERS[one.kind]), (name, one.code)


@settings(max_examples=200, deadline=None)
@given(strategies.resources)
def test_no_row_is_written_twice_and_none_is_id_or_last_updated(resource: Json) -> None:
    rows = extract(resource["resourceType"], resource)
    for table in (rows.tokens, rows.strings, rows.dates, rows.numbers, rows.quantities, rows.references, rows.uris):
        assert len(table) == len(set(table))
    assert not of(rows.tokens, number("Patient", "_id"))
    assert not of(rows.dates, number("Patient", "_lastUpdated"))


def test_an_unusable_value_gives_no_row_and_no_error() -> None:
    """Validation comes before; what slips through must not turn a write into a fault of the server."""
    rows = extract("Patient", {"resourceType": "Patient", "birthDate": "not a date", "gender": 3})
    assert of(rows.dates, number("Patient", "birthdate")) == []
    assert DateRow not in {type(row) for row in rows.dates}


@pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the shared examples are not on this machine")
def test_the_official_examples_are_indexed() -> None:
    count = 0
    for file in sorted(EXAMPLES.glob("*-*.json")):
        resource = json.loads(file.read_text(encoding="utf-8-sig"))
        rows = extract(resource["resourceType"], resource)
        count += sum(map(len, (rows.tokens, rows.strings, rows.dates, rows.quantities, rows.references)))
    assert count > 2500
