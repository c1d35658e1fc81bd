"""STOW-RS: PS3.18 §10.5, Annex I."""

from __future__ import annotations

import pytest

from dicomweb.phantom import Phantom
from resources import validation
from resources.outcomes import Unavailable
from tests.dicomweb.conftest import Service, stow


def test_a_stored_series_becomes_one_version_of_an_imaging_study(
    service: Service, files: list[bytes], small: Phantom
) -> None:
    """DESIGN §8: one ImagingStudy version per batch, not per slice."""
    answer = stow(service.client(), files)

    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/dicom+json"
    assert len(answer.get_json(force=True)["00081199"]["Value"]) == 4
    (study,) = service.resources("ImagingStudy")
    assert study["meta"]["versionId"] == "1"
    assert study["numberOfInstances"] == 4
    assert study["identifier"][0] == {"system": "urn:dicom:uid", "value": f"urn:oid:{small.study_uid}"}
    assert validation.validate(study) == []


@pytest.mark.uncounted
def test_what_cannot_be_stored_now_may_be_sent_again_soon(service: Service, files: list[bytes]) -> None:
    """RFC 9110 §10.2.3: a 503 says when to come back; FHIR's does, and so does STOW-RS."""
    service.trail.failure = Unavailable("The trail cannot be written")
    answer = stow(service.client(), files)
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "5"

    service.trail.failure = None
    again = stow(service.client(), files)
    assert again.status_code == 200
    assert "Retry-After" not in again.headers
