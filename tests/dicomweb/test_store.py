"""STOW-RS: PS3.18 §10.5, Annex I."""

from __future__ import annotations

from dicomweb.phantom import Phantom
from resources import validation
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
