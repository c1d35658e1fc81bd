"""References: read, found, rewritten.

FHIR R4 §2.3.0 http://hl7.org/fhir/R4/references.html, §3.1.0.11.2 http://hl7.org/fhir/R4/http.html#trules
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from resources.references import Reference, parse, rewrite, walk

HERE = ("https://vigie.example/fhir", "http://127.0.0.1:8080/fhir/")
URN = "urn:uuid:05efabf0-4be2-4561-91ce-51548425acb9"
EXAMPLES = Path(__file__).resolve().parents[2].parent / "shared" / "fhir" / "examples-valid"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Patient/1", Reference(type="Patient", id="1")),
        ("Patient/a-b.C/_history/3", Reference(type="Patient", id="a-b.C", version="3")),
        ("https://vigie.example/fhir/Patient/1", Reference(type="Patient", id="1")),
        ("http://127.0.0.1:8080/fhir/Patient/1/_history/2", Reference(type="Patient", id="1", version="2")),
        ("https://vigie.example/fhirX/Patient/1",
         Reference(type="Patient", url="https://vigie.example/fhirX/Patient/1")),
        ("https://other.example/fhir/Patient/1", Reference(type="Patient", url="https://other.example/fhir/Patient/1")),
        ("https://other.example/x", Reference(url="https://other.example/x")),
        (URN, Reference(urn=URN)),
        ("urn:oid:1.2.3", Reference(urn="urn:oid:1.2.3")),
        ("#p1", Reference(fragment="p1")),
        ("#", Reference(fragment="")),
        ("Patient?identifier=s|v", Reference(type="Patient", query="identifier=s|v")),
        ("Nonsense/1", Reference(url="Nonsense/1")),
        ("Patient/a_b", Reference(url="Patient/a_b")),
        ("", Reference(url="")),
    ],
)  # fmt: skip
def test_a_reference_is_read_for_what_it_says(text: str, said: Reference) -> None:
    """§2.3.0.1 literal references; absolute ones below our own bases are local."""
    assert parse(text, HERE) == said


def test_only_a_reference_to_this_server_is_local() -> None:
    assert parse("https://vigie.example/fhir/Patient/1", HERE).local == "Patient/1"
    assert parse("https://other.example/fhir/Patient/1", HERE).local is None


def _order() -> dict[str, Any]:
    return {
        "resourceType": "ServiceRequest",
        "id": "1",
        "text": {"status": "generated", "div": f'<div xmlns="http://www.w3.org/1999/xhtml"><a href="{URN}">x</a>'
                                               f"<img src='{URN}'/>{URN}</div>"},
        "contained": [{"resourceType": "Encounter", "id": "e", "subject": {"reference": URN}}],
        "extension": [
            {"url": URN, "valueReference": {"reference": URN}},
            {"url": "http://a.org/x", "valueUri": URN},
            {"url": "http://a.org/y", "valueString": URN},
            {"url": "http://a.org/z", "valueCanonical": URN},
        ],
        "instantiatesCanonical": [URN],
        "instantiatesUri": [URN, "http://a.org/other"],
        "identifier": [{"system": URN, "value": URN}],
        "basedOn": [{"reference": "ServiceRequest/2"}, {"reference": f"{URN}/_history/1"}],
        "subject": {"reference": URN, "display": URN},
        "_intent": {"extension": [{"url": "http://a.org/x", "valueReference": {"reference": URN}}]},
        "note": [{"text": URN}],
    }  # fmt: skip


def test_every_reference_is_found_with_its_place() -> None:
    """Also in contained resources, in extensions, and in the extensions of a primitive."""
    assert [found.expression for found in walk(_order())] == [
        "ServiceRequest.contained[0].subject",
        "ServiceRequest.extension[0].value.ofType(Reference)",
        "ServiceRequest.basedOn[0]",
        "ServiceRequest.basedOn[1]",
        "ServiceRequest.subject",
        "ServiceRequest.intent.extension[0].value.ofType(Reference)",
    ]


def test_what_is_found_can_be_read_in_place() -> None:
    order = _order()
    assert {found.holder[found.key] for found in walk(order)} == {URN, "ServiceRequest/2", f"{URN}/_history/1"}


@pytest.mark.parametrize(
    "resource",
    [
        {"resourceType": "DetectedIssue", "status": "final", "reference": "http://a.org/x"},
        {"resourceType": "Immunization", "education": [{"reference": "http://a.org/x"}]},
        {"resourceType": "Patient", "contact": "not an object", "nonsense": {"reference": "Patient/1"}},
    ],
)
def test_a_uri_called_reference_is_no_reference(resource: dict[str, Any]) -> None:
    """http://hl7.org/fhir/R4/detectedissue-definitions.html#DetectedIssue.reference is a uri."""
    assert list(walk(resource)) == []


def test_references_inside_a_bundle_and_parameters_are_found() -> None:
    patient = {"resourceType": "Patient", "managingOrganization": {"reference": "Organization/1"}}
    bundle = {"resourceType": "Bundle", "entry": [{"resource": patient}]}
    parameters = {"resourceType": "Parameters", "parameter": [{"name": "a", "part": [{"name": "b", "resource": patient},
                                                               {"name": "c", "valueReference": {"reference": "X"}}]}]}
    assert [f.expression for f in walk(bundle)] == ["Bundle.entry[0].resource.managingOrganization"]
    assert [f.expression for f in walk(parameters)] == [
        "Parameters.parameter[0].part[0].resource.managingOrganization",
        "Parameters.parameter[0].part[1].value.ofType(Reference)",
    ]


def test_a_transaction_rewrites_every_link_and_nothing_else() -> None:
    """§3.1.0.11.2: references, uri, url, oid, uuid, and href and src of the narrative; not canonical, not text."""
    order = _order()
    sent = copy.deepcopy(order)
    after = rewrite(order, {URN: "Patient/7"})
    assert order == sent
    assert after["subject"] == {"reference": "Patient/7", "display": URN}
    assert after["contained"][0]["subject"]["reference"] == "Patient/7"
    assert after["extension"] == [
        {"url": "Patient/7", "valueReference": {"reference": "Patient/7"}},
        {"url": "http://a.org/x", "valueUri": "Patient/7"},
        {"url": "http://a.org/y", "valueString": URN},
        {"url": "http://a.org/z", "valueCanonical": URN},
    ]
    assert after["instantiatesCanonical"] == [URN]
    assert after["instantiatesUri"] == ["Patient/7", "http://a.org/other"]
    assert after["identifier"] == [{"system": "Patient/7", "value": URN}]
    assert after["basedOn"] == [{"reference": "ServiceRequest/2"}, {"reference": "Patient/7/_history/1"}]
    assert after["text"]["div"] == (
        f'<div xmlns="http://www.w3.org/1999/xhtml"><a href="Patient/7">x</a><img src=\'Patient/7\'/>{URN}</div>'
    )
    assert after["note"] == [{"text": URN}]
    assert after["_intent"]["extension"][0]["valueReference"]["reference"] == "Patient/7"


def test_a_resource_without_links_of_the_transaction_is_returned_as_it_is() -> None:
    order = _order()
    assert rewrite(order, {"urn:uuid:other": "Patient/7"}) is order


def test_a_conditional_reference_is_replaced_as_any_other() -> None:
    """http://hl7.org/fhir/R4/http.html#trules"""
    text = "Patient?identifier=s|v"
    assert rewrite({"resourceType": "Task", "for": {"reference": text}}, {text: "Patient/1"})["for"] == {
        "reference": "Patient/1"
    }


@pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the shared examples are not on this machine")
def test_no_reference_of_the_official_examples_is_missed() -> None:
    """Counted by the text `"reference": "` in files whose types have no uri of that name."""
    for file in sorted(EXAMPLES.glob("*-*.json")):
        text = file.read_text(encoding="utf-8-sig")
        literal = json.dumps(json.loads(text)).count('"reference": "')
        assert len(list(walk(json.loads(text)))) == literal, file.name
