"""Images come in, by whatever number of requests: what the hospital, the reader and the viewer see of them, and when.

PS3.18 §10.5 (store), R4 ImagingStudy.status; docs/workflow.md S3, S4, S9; docs/decisions/0023-publication.md.
"""

from __future__ import annotations

import pytest

from dicomweb import phantom
from resources.json import Json
from tests.conftest import ENGINES
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
from tests.security.scene import stow

ONE_ENGINE = pytest.mark.parametrize("engine", ENGINES[:1], indirect=True)


def sent(case: Emergency, number: int) -> None:
    """The scanner's instance of that number, by a request of its own."""
    answer = stow(case.hospital, [phantom.series(case.scan)[number]])
    assert answer.status_code == 200, answer.get_data(as_text=True)


def studies(case: Emergency) -> list[Json]:
    return case.api.platform.found(f"ImagingStudy?basedon={case.order_ref}")


@ONE_ENGINE
def test_the_viewer_sees_an_image_at_once_and_the_reader_gets_the_whole_study(api: Api) -> None:  # noqa: F811
    """QIDO and WADO at the commit; the reading opens once the images are complete."""
    case = Emergency.of(api).accepted()
    case.scanned(slices=3)
    sent(case, 0)
    found = api.viewer.get(f"/dicom-web/studies?AccessionNumber={case.accession}")
    assert [one["00201208"]["Value"] for one in found.get_json(force=True)] == [[1]]
    assert api.viewer.get(f"/dicom-web/studies/{case.scan.study_uid}").status_code == 200
    assert studies(case) == []
    sent(case, 1)
    sent(case, 2)
    api.settled()
    (study,) = studies(case)
    assert (study["status"], study["numberOfInstances"]) == ("available", 3)
    assert study["meta"]["versionId"] == "1", "three requests, one version"
    assert case.task("acquire")["status"] == "completed"
    assert case.task("read")["status"] == "ready"


@ONE_ENGINE
def test_nobody_signs_what_he_cannot_have_seen(api: Api) -> None:  # noqa: F811
    """An image acknowledged a moment ago is published before the report on its study is final."""
    case = Emergency.of(api).drafted()
    assert stow(case.hospital, case.further()).status_code == 200
    told = refusal(put(api.radiologist, case.report, status="final"), 422)
    assert f"ImagingStudy/{case.study()['id']} has images or corrections that are not published yet" in told
    api.settled()
    report = good(api.radiologist.get(f"DiagnosticReport/{case.report['id']}"))
    answer = put(api.radiologist, report, status="final")
    assert "not published yet" not in answer.get_data(as_text=True)


@ONE_ENGINE
def test_a_corrected_birth_date_holds_the_signature_until_the_study_is_judged_anew(api: Api) -> None:  # noqa: F811
    """Identity vigilance: the study's state is set by the commit that alters the traits."""
    case = Emergency.of(api).drafted()
    patient = good(case.hospital.get(case.patient_ref))
    good(put(case.hospital, patient, birthDate="1931-01-01"))
    assert "not published yet" in refusal(put(api.radiologist, case.report, status="final"), 422)
    api.settled()
    answer = put(api.radiologist, case.report, status="final")
    assert answer.status_code == 422
    assert "another patient" in answer.get_data(as_text=True)
