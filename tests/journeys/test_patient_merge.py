"""The unknown patient of an emergency is found out to be somebody: two records become one, and everything follows.

R4 Patient.link http://hl7.org/fhir/R4/patient.html#merge; R5 Patient/$merge
"""

from __future__ import annotations

from typing import Any

import pytest

from resources.json import Json
from tests import builders
from tests.fhir_server.conftest import (  # noqa: F401 - fixtures of the assembled server
    Api,
    api,
    door,
    engine,
    make_api,
    settings,
    template,
    templates,
)
from tests.journeys.played import Emergency, good, put, refusal

QUICK = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)


def known(case: Emergency, **more: Any) -> Json:
    """The same person under the number that the hospital has had for long."""
    name = case.patient["name"]
    return case.hospital.create(builders.patient(**{"name": name, **more}))


def merge(case: Emergency, target: Json, **more: Any) -> Any:
    parameters = [
        {"name": "source-patient", "valueReference": {"reference": case.patient_ref}},
        {"name": "target-patient", "valueReference": {"reference": f"Patient/{target['id']}"}},
        *({"name": name, "valueBoolean": value} for name, value in more.items()),
    ]
    return case.hospital.post("Patient/$merge", {"resourceType": "Parameters", "parameter": parameters})


@pytest.mark.parametrize("way", ["operation", "link"])
def test_an_open_case_follows_and_is_read_to_its_end(api: Api, way: str) -> None:  # noqa: F811
    case = Emergency.of(api).drafted()
    api.settled()
    condition = api.hospital_a.create({"resourceType": "Condition", "subject": builders.ref(case.patient_ref)})
    target = known(case)
    new = f"Patient/{target['id']}"
    if way == "operation":
        said = good(merge(case, target))["parameter"][0]["resource"]["issue"][0]["diagnostics"]
        assert "followed" in said
    else:
        good(put(case.hospital, case.patient, link=[{"other": builders.ref(new), "type": "replaced-by"}]))
    api.settled()
    source = good(case.hospital.get(case.patient_ref))
    assert source["active"] is False
    assert source["link"] == [{"other": {"reference": new}, "type": "replaced-by"}]
    kept = good(case.hospital.get(new))
    assert kept["link"] == [{"other": {"reference": case.patient_ref}, "type": "replaces"}]
    assert {one["value"]: one.get("use") for one in kept["identifier"]}[
        case.patient["identifier"][0]["value"]] == "old"
    for kind in ("ServiceRequest", "Task", "ImagingStudy", "DiagnosticReport", "Condition"):
        assert api.platform.found(f"{kind}?patient={target['id']}"), kind
        assert not api.platform.found(f"{kind}?patient={case.patient['id']}"), kind
    assert good(case.hospital.get(f"Condition/{condition['id']}"))["subject"]["reference"] == new
    assert case.task("order")["for"]["reference"] == new
    report = good(api.radiologist.get(f"DiagnosticReport/{case.report['id']}"))
    assert report["subject"]["reference"] == new
    signed = good(put(api.radiologist, report, status="final"))
    assert signed["subject"]["reference"] == new
    assert case.task("order")["status"] == "completed"


@QUICK
def test_a_signed_report_becomes_a_corrected_version_that_says_why(api: Api) -> None:  # noqa: F811
    case = Emergency.of(api).signed()
    api.settled()
    target = known(case)
    good(merge(case, target))
    report = good(case.hospital.get(f"DiagnosticReport/{case.report['id']}"))
    assert report["status"] == "corrected"
    assert report["subject"]["reference"] == f"Patient/{target['id']}"
    assert report["conclusion"] == case.report["conclusion"]
    assert report["presentedForm"] == case.report["presentedForm"]
    was = f"DiagnosticReport/{case.report['id']}/_history/{case.report['meta']['versionId']}"
    before = good(case.hospital.get(was))
    assert before["subject"]["reference"] == case.patient_ref
    said = case.hospital.found(f"Provenance?target=DiagnosticReport/{case.report['id']}")
    assert any("fusionnées" in str(one.get("reason")) for one in said)


@QUICK
def test_a_preview_changes_nothing(api: Api) -> None:  # noqa: F811
    case = Emergency.of(api)
    target = known(case)
    said = good(merge(case, target, preview=True))["parameter"][0]["resource"]["issue"][0]["diagnostics"]
    assert "would follow" in said
    assert good(case.hospital.get(case.patient_ref)) == case.patient
    assert good(case.hospital.get(case.order_ref))["subject"]["reference"] == case.patient_ref


@QUICK
def test_what_is_anothers_is_absent(api: Api) -> None:  # noqa: F811
    """Neither into another hospital's patient, nor from one; by the platform neither."""
    case, other = Emergency.of(api), Emergency.of(api, api.hospital_b)
    refusal(merge(case, other.patient), 404)
    refusal(merge(other, case.patient), 404)
    absent = {"id": "11111111-1111-4111-8111-111111111111"}
    refusal(merge(case, absent), 404)
    link = [{"other": builders.ref(other.patient_ref), "type": "replaced-by"}]
    gone = [{"other": builders.ref(f"Patient/{absent['id']}"), "type": "replaced-by"}]
    answers = [put(case.hospital, case.patient, link=one) for one in (link, gone)]
    assert [one.status_code for one in answers] == [409, 409]
    good(merge(other, known(other)))  # of another's record nobody learns that it was merged either
    merged = [{"other": builders.ref(other.patient_ref), "type": "replaced-by"}]
    refusal(put(case.hospital, case.patient, link=merged), 409)
    case.hospital = api.platform
    refusal(merge(case, other.patient), 404)
    assert good(api.hospital_a.get(case.patient_ref)).get("active") is not False


@QUICK
def test_a_merge_is_made_once_and_not_undone_by_its_link(api: Api) -> None:  # noqa: F811
    case = Emergency.of(api)
    target, third = known(case), known(case)
    refusal(merge(case, case.patient), 422)
    good(merge(case, target))
    source = good(case.hospital.get(case.patient_ref))
    assert "not told apart" in refusal(put(case.hospital, source, link=None), 422)
    assert "not told apart" in refusal(merge(case, third), 422)
    refusal(case.hospital.delete(case.patient_ref), 422)
    other = Emergency.of(api)
    assert "was merged itself" in refusal(merge(other, source), 422)
