"""QIDO-RS: PS3.18 §8.3.4, §10.6; PS3.4 §C.2.2.2."""

from __future__ import annotations

import io

import pydicom
import pytest

from dicomweb.phantom import Phantom, series
from resources.json import Json
from tests.dicomweb.conftest import Service, stow
from tests.support import PLATFORM

PHANTOMS = {
    "a": Phantom(slices=2, side=8, patient_id="P-1", patient_name="Martín^Zoé", accession_number="A_1",
                 study_date="20260101", study_time="233000"),
    "b": Phantom(slices=1, side=8, patient_id="P-10", patient_name="Yamada^Tarou=山田^太郎=やまだ^たろう",
                 accession_number="AX1", study_date="20260201", study_time="003000", patient_birth_date="19600202"),
    "c": Phantom(slices=1, side=8, patient_id="P-2", patient_name="Dupont^", accession_number="B%2",
                 study_date="20260301", study_time="1200"),
}


@pytest.fixture
def studies(service: Service) -> Service:
    for phantom in PHANTOMS.values():
        assert stow(service.client(), series(phantom)).status_code == 200
    return service


def found(service: Service, query: str, address: str = "/studies") -> list[Json]:
    answer = service.client().get(f"/dicom-web{address}?{query}")
    assert answer.status_code in {200, 204}, answer.data
    return answer.get_json(force=True) if answer.status_code == 200 else []


def names(service: Service, query: str) -> str:
    by_uid = {phantom.study_uid: name for name, phantom in PHANTOMS.items()}
    return "".join(sorted(by_uid[one["0020000D"]["Value"][0]] for one in found(service, query)))


MATCHES = (
    ("", "abc"),
    ("&includefield=00080020", "abc"),  # Weasis begins with an empty parameter
    ("PatientID=P-1", "a"),
    ("00100020=P-1&fuzzymatching=true", "a"),  # OHIF's priors: PatientID stays exact
    ("PatientID=P-1*", "ab"),
    ("PatientID=P-?", "ac"),
    ("PatientID=*", "abc"),
    ("PatientID=", "abc"),
    ("PatientID=p-1", ""),  # case-sensitive but for names
    ("AccessionNumber=A_1", "a"),  # an underscore is no wildcard
    ("AccessionNumber=A_*", "a"),
    ("AccessionNumber=B%252", "c"),  # nor is a per cent sign
    ("PatientName=martin^zoe", "a"),
    ("PatientName=MART*", "a"),
    ("PatientName=*zo?", "a"),
    ("PatientName=Dupont", "c"),
    ("PatientName=山田*", "b"),
    ("PatientName=やまだ^たろう", "b"),
    ("PatientName=zoé&fuzzymatching=true", "a"),
    ("PatientName=taro mada&fuzzymatching=true", ""),
    ("PatientName=taro yama&fuzzymatching=true", "b"),
    ("PatientBirthDate=19600202", "b"),
    ("StudyDate=20260101", "a"),
    ("StudyDate=20260101-20260201", "ab"),
    ("StudyDate=20260201-", "bc"),
    ("StudyDate=-20260201", "ab"),
    ("StudyTime=2300-0100", "ab"),  # over midnight
    ("StudyTime=12", "c"),
    ("StudyTime=1200-1200", "c"),
    ("ModalitiesInStudy=CT,MR", "abc"),
    ("ModalitiesInStudy=MR", ""),
    ("Modality=CT", "abc"),
    ("SOPClassesInStudy=1.2.840.10008.5.1.4.1.1.2", "abc"),
    (f"StudyInstanceUID={PHANTOMS['a'].study_uid},{PHANTOMS['b'].study_uid}", "ab"),
    (f"StudyInstanceUID={PHANTOMS['a'].study_uid}%5C{PHANTOMS['b'].study_uid}", "ab"),
    ("StudyDescription=*sans*", "abc"),
    ("limit=2", "bc"),
    ("limit=2&offset=2", "a"),
    ("limit=2&offset=3", ""),
    ("limit=0", ""),
)


def test_studies_are_matched_as_the_standard_says(studies: Service) -> None:
    """PS3.4 §C.2.2.2.1 to §C.2.2.2.6."""
    assert [(query, names(studies, query)) for query, _ in MATCHES] == list(MATCHES)


REFUSED = (
    "NoSuchKeyword=1", "99990010=1", "PatientWeight=80", "Rows=8", "StudyDate=2020", "StudyDate=20261301",
    "StudyDate=-", "StudyTime=25x", "StudyInstanceUID=../../etc/passwd", "limit=-1", "limit=abc", "offset=1.5",
    "fuzzymatching=maybe", "includefield=NoSuchKeyword", "SeriesDescription=x",
)


def test_what_is_not_understood_is_refused_and_never_matches_all(studies: Service) -> None:
    """PS3.18 §8.3.4: 400."""
    answers = {query: studies.client().get(f"/dicom-web/studies?{query}").status_code for query in REFUSED}

    assert answers == dict.fromkeys(REFUSED, 400)


def test_a_truncated_answer_says_how_many_more_there_are(studies: Service) -> None:
    """PS3.18 §8.3.4.4: Warning 299."""
    answer = studies.client().get("/dicom-web/studies?limit=1")

    assert answer.headers["Warning"] == '299 Vigie "There are 2 additional results that can be requested"'


def test_what_is_always_returned_is_there_even_without_value(studies: Service) -> None:
    """PS3.18 Table 10.6.3-3; F.2.5: empty is {"vr"}."""
    (study,) = found(studies, "PatientID=P-1")

    assert study["00080090"] == {"vr": "PN"}
    assert study["00080201"] == {"vr": "SH"}
    assert study["00201206"] == {"vr": "IS", "Value": [1]}
    assert study["00080061"] == {"vr": "CS", "Value": ["CT"]}
    assert study["00081190"]["Value"][0].endswith(f"/dicom-web/owners/hospital-a/studies/{PHANTOMS['a'].study_uid}")
    assert list(study) == sorted(study)


def test_includefield_adds_attributes_of_the_level(studies: Service) -> None:
    """PS3.18 §8.3.4.3."""
    query = "includefield=00080070&includefield=Manufacturer,SliceThickness"
    (instance,) = found(studies, query, f"/studies/{PHANTOMS['b'].study_uid}/instances")
    assert instance["00180050"]["Value"] == [144]
    assert instance["00080070"]["Value"] == ["Vigie"]
    (everything,) = found(studies, "includefield=all", f"/studies/{PHANTOMS['b'].study_uid}/instances")
    assert "00281050" in everything
    assert everything["7FE00010"]["BulkDataURI"].startswith("http://")


def test_relational_searches_carry_the_levels_above(studies: Service) -> None:
    """PS3.18 §10.6.3.3: study attributes in /series and /instances without a study in the path."""
    rows = found(studies, "PatientID=P-1", "/instances")
    assert [one["00100020"]["Value"] for one in rows] == [["P-1"], ["P-1"]]
    assert [one["00200013"]["Value"] for one in rows] == [[1], [2]]
    assert {one["00201209"]["Value"][0] for one in found(studies, "PatientID=P-1", "/series")} == {2}


def test_results_are_given_in_xml_when_asked(studies: Service) -> None:
    """PS3.18 §8.7.8: multipart/related; type="application/dicom+xml"."""
    asked = {"Accept": 'multipart/related; type="application/dicom+xml"'}
    answer = studies.client().get("/dicom-web/studies?PatientID=P-1", headers=asked)

    assert answer.headers["Content-Type"].startswith('multipart/related; type="application/dicom+xml"; boundary=')
    assert b'<DicomAttribute tag="00100020" vr="LO" keyword="PatientID"><Value number="1">P-1</Value>' in answer.data
    refused = studies.client().get("/dicom-web/studies", headers={"Accept": "image/png"})
    assert refused.status_code == 406


def test_a_query_is_recorded_with_the_patients_found(studies: Service) -> None:
    """IHE BALP: one record per patient is made from what is noted here."""
    studies.client().get("/dicom-web/studies?PatientID=P-1")
    access = studies.trail.disclosed[-1]

    assert access.interaction == "dicom-query"
    assert "PatientID=P-1" in (access.query or "")
    assert dict(access.detail)["results"] == "1"


@pytest.mark.uncounted
def test_nothing_is_answered_when_the_record_cannot_be_written(studies: Service) -> None:
    """DESIGN §3: if the record cannot be written, the answer is 503."""
    from resources.outcomes import Unavailable

    studies.trail.failure = Unavailable("The trail cannot be written")

    for address in ("/studies", f"/studies/{PHANTOMS['a'].study_uid}", f"/studies/{PHANTOMS['a'].study_uid}/metadata"):
        answer = studies.client().get(f"/dicom-web{address}")
        assert answer.status_code == 503
        assert b"P-1" not in answer.data


def test_multi_modality_studies_list_and_match_all(service: Service) -> None:
    """PS3.4 §C.3.4: ModalitiesInStudy matches any value and returns all."""
    (data,) = series(PHANTOMS["b"])
    dataset = pydicom.dcmread(io.BytesIO(data))
    dataset.Modality, dataset.SeriesInstanceUID = "SR", "2.25.5"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "2.25.6"
    output = io.BytesIO()
    dataset.save_as(output)
    stow(service.client(), [data, output.getvalue()])

    (study,) = found(service, "ModalitiesInStudy=SR")
    assert study["00080061"]["Value"] == ["CT", "SR"]
    assert study["00201206"]["Value"] == [2]


def test_the_platform_is_told_whose_each_study_is(studies: Service) -> None:
    """RetrieveURL of a hospital's study, as the platform sees it, says which hospital's it is."""
    rows = studies.client(PLATFORM).get("/dicom-web/studies").get_json(force=True)

    assert all("/dicom-web/owners/hospital-a/studies/" in one["00081190"]["Value"][0] for one in rows)
