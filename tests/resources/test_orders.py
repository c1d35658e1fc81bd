"""Pure rules of ServiceRequest, Task and DiagnosticReport in the workflow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from resources import codes, diagnostic_report, service_request
from resources import task as tasks
from resources.codes import TaskKind
from resources.json import Json
from resources.outcomes import ForbiddenTransition, Issue
from tests import builders

EXAMPLES = Path(__file__).parents[3] / "shared" / "fhir" / "examples-valid"
PDF = diagnostic_report.PDF_TITLE


@pytest.mark.parametrize(
    ("more", "imaging"),
    [
        ({}, True),
        ({"category": None}, True),  # the LOINC exam code alone says it
        ({"category": None, "code": {"text": "Scanner"}}, False),
        ({"intent": "plan"}, False),
        ({"intent": "filler-order"}, False),
        ({"doNotPerform": True}, False),
        ({"code": {"text": "Radiographie"}}, True),
    ],
)
def test_an_imaging_order_is_known_by_category_or_exam(more: dict[str, object], imaging: bool) -> None:
    """ServiceRequest.category, .code, .intent."""
    assert service_request.is_imaging_order(builders.service_request("Patient/p", **more)) is imaging


@pytest.mark.skipif(not EXAMPLES.exists(), reason="the shared examples are not here")
def test_the_official_examples_meet_the_rules_or_are_left_alone() -> None:
    """R4's own ServiceRequests must be storable."""
    found = sorted(EXAMPLES.glob("ServiceRequest-*.json"))
    assert found
    for path in found:
        order = json.loads(path.read_text())
        assert not service_request.is_imaging_order(order) or service_request.check_order(order) == []


def test_a_partners_policy_names_every_missing_element_at_once() -> None:
    """I-05."""
    order = builders.service_request("Patient/p", reasonCode=None)
    issues = service_request.check_order(order, tuple(service_request.REQUIREMENTS))
    assert {one.expression[0] for one in issues} == {
        "ServiceRequest.requester", "ServiceRequest.reasonCode", "ServiceRequest.supportingInfo",
        "ServiceRequest.bodySite", "ServiceRequest.encounter", "ServiceRequest.identifier",
    }


@pytest.mark.parametrize(
    ("more", "has"),
    [
        ({}, True),
        ({"note": None}, False),
        ({"note": [{"text": "  "}]}, False),
        ({"note": None, "orderDetail": [{"text": "sans injection"}]}, True),
        ({"note": None, "instantiatesCanonical": ["https://x/ActivityDefinition/avc|1"]}, True),
    ],
)
def test_a_protocol_says_how(more: dict[str, object], has: bool) -> None:
    """S2a: a protocol is required if accepted."""
    chosen = builders.protocol("ServiceRequest/o", "Patient/p", **more)
    assert service_request.is_protocol(chosen)
    assert service_request.has_protocol_content(chosen) is has


@pytest.mark.parametrize("kind", TaskKind)
def test_every_kind_of_task_is_recognised_by_its_code(kind: TaskKind) -> None:
    """Task.code."""
    assert tasks.kind_of({"code": tasks.code(kind)}) is kind
    assert codes.DISPLAYS[codes.TELERADIOLOGY_TASK][kind]


def test_a_foreign_fulfill_task_is_not_of_the_workflow() -> None:
    """A plain Task with task-code fulfill is left alone."""
    assert tasks.kind_of({"code": codes.concept(codes.TASK_CODE, "fulfill")}) is None
    assert tasks.kind_of({"code": codes.concept(codes.TELERADIOLOGY_TASK, "unheard-of")}) is None
    assert tasks.kind_of({}) is None


def test_each_changed_fixed_element_is_named() -> None:
    """Every fault at once."""
    before = {"code": 1, "for": 2, "restriction": 3}
    with pytest.raises(ForbiddenTransition) as refused:
        tasks.check_fixed(before, {"code": 2}, regulator=False)
    assert [one.expression for one in refused.value.issues] == [("Task.code",), ("Task.for",), ("Task.restriction",)]
    tasks.check_fixed(before, {"code": 1, "for": 2, "restriction": 4}, regulator=True)


@pytest.mark.parametrize(
    ("reason", "missing"),
    [
        ({"coding": [{"code": "x"}], "text": "y"}, []),
        ({"text": "y"}, ["Task.statusReason.coding"]),
        ({"coding": [{"code": "x"}]}, ["Task.statusReason.text"]),
        ({}, ["Task.statusReason.coding", "Task.statusReason.text"]),
    ],
)
def test_a_refusal_is_coded_and_in_words(reason: dict[str, object], missing: list[str]) -> None:
    """S2b."""
    assert [one.expression[0] for one in tasks.check_refusal({"statusReason": reason})] == missing


def _signable() -> tuple[Json, Json, list[tuple[str, Json | None]]]:
    order = builders.service_request("Patient/p")
    study = builders.imaging_study("ServiceRequest/o", "Patient/p")
    report = builders.diagnostic_report("ServiceRequest/o", "Patient/p", "ImagingStudy/s", status="final")
    return report, order, [("ImagingStudy/s", study)]


def _issues(report: Json, order: Json, studies: list[tuple[str, Json | None]]) -> list[Issue]:
    return [
        *diagnostic_report.signing_issues(report, [order]),
        *diagnostic_report.study_issues(studies, order["subject"]["reference"], ["ServiceRequest/o"]),
    ]


def test_a_complete_report_can_be_signed() -> None:
    """§7.4."""
    report, order, studies = _signable()
    assert _issues(report, order, studies) == []


def test_every_reason_against_a_signature_is_named_at_once() -> None:
    """§7.4: one issue per fault, each with its element."""
    report, order, studies = _signable()
    for name in ("conclusion", "effectiveDateTime", "code"):
        report.pop(name)
    report["subject"] = {"reference": "Patient/q"}
    study = studies[0][1]
    assert study is not None
    study.update(subject={"reference": "Patient/q"}, basedOn=[], identifier=[], status="entered-in-error")
    issues = _issues(report, order, [*studies, ("Media/m", None)])
    found = [one.expression[0].removeprefix("DiagnosticReport.") for one in issues]
    assert found == ["subject", "code", "effective", "conclusion", *["imagingStudy[0]"] * 4, "imagingStudy[1]"]


def test_a_report_without_a_study_is_not_signed() -> None:
    """Illegal: signed without imagingStudy."""
    report, order, _ = _signable()
    [issue] = _issues(report, order, [])
    assert issue.expression == ("DiagnosticReport.imagingStudy",)
