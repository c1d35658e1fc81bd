"""Every DICOMweb route with every parameter that it declares, and with some that it does not (PS3.18 §8.3)."""

from __future__ import annotations

import io
import json
import re
from typing import Any, NamedTuple

import pytest
from PIL import Image

from auth.guard import REQUEST_ID
from dicomweb.attributes import KEYS, Attribute, Level, Match, shown
from dicomweb.parameters import DECLARED, Parameter
from dicomweb.phantom import Phantom, series
from tests.dicomweb.conftest import Service, app_of, stow, stow_body

# What is asked here is judged before the database, or does not depend on which one it is.
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
PHANTOM = Phantom(slices=2, side=16, accession_number="ACC-1", patient_id="IPP-1", patient_name="Martín^Zoé")
UIDS = {"owner": "hospital-a", "study": PHANTOM.study_uid, "series": PHANTOM.series_uid,
        "instance": PHANTOM.sop_uid(1), "frames": "1", "bulk": "7FE00010"}  # fmt: skip
SERIES = f"/studies/{PHANTOM.study_uid}/series/{PHANTOM.series_uid}"
INSTANCE = f"{SERIES}/instances/{PHANTOM.sop_uid(1)}"


@pytest.fixture
def images(service: Service) -> Service:
    assert stow(service.client(), series(PHANTOM)).status_code == 200
    return service


class Route(NamedTuple):
    view: str
    method: str
    address: str


def routes(service: Service) -> list[Route]:
    """Every route with a meaning, as the URL map has it."""
    found = []
    for rule in service.app.url_map.iter_rules():
        view = rule.endpoint.removeprefix("dicomweb.").partition("-")[0]
        if view in {"other", "nothing", "static"}:
            continue
        address = re.sub(r"<(?:path:)?(\w+)>", lambda name: UIDS[name[1]], rule.rule)
        found.append(Route(view, "POST" if "POST" in (rule.methods or ()) else "GET", address))
    return found


def ask(service: Service, route: Route, query: list[tuple[str, str]]) -> Any:
    if route.method == "GET":
        return service.client().get(route.address, query_string=query)
    return service.client().post(
        route.address, query_string=query, data=stow_body(series(PHANTOM)),
        content_type='multipart/related; type="application/dicom"; boundary=xyz',
    )  # fmt: skip


VALUES: dict[Match, tuple[str, str | None]] = {
    Match.UID: ("1.2.3", "1.2.x"),
    Match.SOP_CLASSES: ("1.2.3", "1.2.x"),
    Match.TEXT: ("x", None),
    Match.NAME: ("x", None),
    Match.MODALITIES: ("CT", None),
    Match.DATE: ("20260101", "2026"),
    Match.TIME: ("12", "25x"),
    Match.NUMBER: ("1", "x"),
}
"""For each way of matching: a value, and one that is none."""


def names(attribute: Attribute) -> tuple[str, str]:
    return attribute.path, shown(attribute.path)


def declared(view: str) -> list[tuple[str, Parameter]]:
    return [(name, one) for name, one in DECLARED[view].schema.fields.items() if isinstance(one, Parameter)]


def test_every_route_takes_what_it_declares_and_nothing_else(images: Service) -> None:
    """Each parameter with a value of it, with one that is none, twice; and one that nobody declared."""
    walked = routes(images)
    assert {route.view for route in walked} == set(DECLARED)
    assert len(walked) == 2 * 24
    wrong = []
    for route in walked:
        for name, one in declared(route.view):
            valid, invalid = one.metadata["valid"], one.metadata["invalid"]
            cases = [([(name, valid)], {200, 204}), ([(name, invalid)], {400})]
            cases.append(([(name, valid)] * 2, {200, 204} if one.repeats else {400}))
            for query, expected in cases:
                answer = ask(images, route, query)
                named = answer.status_code != 400 or name in answer.get_data(as_text=True)
                if answer.status_code not in expected or not named:
                    wrong.append((route, query, answer.status_code, answer.get_data(as_text=True)[:80]))
        for name in ("colour", "orderby", "window" if route.view != "rendered" else "limit"):
            answer = ask(images, route, [(name, "1")])
            if answer.status_code != 400 or name not in answer.get_data(as_text=True):
                wrong.append((route, name, answer.status_code))
    assert not wrong


def test_every_query_key_is_taken_at_its_level_and_below_and_nowhere_else(images: Service) -> None:
    """PS3.18 Table 10.6.1-5; each by tag and by keyword, once."""
    wrong = []
    for route in routes(images):
        level = DECLARED[route.view].keys
        for attribute in KEYS.values():
            valid, invalid = VALUES[attribute.match]
            is_key = level is not None and attribute.level <= level
            if not is_key and attribute.path == "00080060":  # Modality, for ModalitiesInStudy
                is_key = level is Level.STUDY
            for name in names(attribute):
                expected = {200, 204} if is_key else {400}
                if ask(images, route, [(name, valid)]).status_code not in expected:
                    wrong.append((route, name, valid))
            twice = ask(images, route, list(zip(names(attribute), (valid, valid), strict=True)))
            if twice.status_code != 400:
                wrong.append((route, attribute.path, "twice"))
            if invalid is not None and ask(images, route, [(attribute.path, invalid)]).status_code != 400:
                wrong.append((route, attribute.path, invalid))
    assert not wrong


@pytest.mark.uncounted
def test_nothing_is_read_before_the_caller_is_known(images: Service) -> None:
    """A stranger hears 401, not what the parameters are."""
    from resources.outcomes import Unauthenticated

    def nobody(_: Any) -> Any:
        raise Unauthenticated("No token")

    stranger = app_of(images.imaging, images.store, nobody).test_client()
    for route in routes(images):
        answer = stranger.open(
            route.address + "?colour=x", method=route.method, environ_overrides={REQUEST_ID: f"stranger-{route.view}"}
        )
        assert answer.status_code == 401


def test_too_many_parameters_are_refused(images: Service) -> None:
    query = "&".join(["includefield=PatientName"] * 200)
    assert images.client().get(f"/dicom-web/studies?{query}").status_code == 200
    assert images.client().get(f"/dicom-web/studies?{query}&limit=1").status_code == 400


def test_a_parameter_that_is_no_name_is_not_repeated_to_the_caller(images: Service) -> None:
    answer = images.client().get(f"/dicom-web{INSTANCE}", query_string={"<b>\r\nX: y": "1"})
    assert (answer.status_code, answer.data) == (400, b"A parameter is not defined here\n")


# What real clients send, as recorded and as their sources have it

STUDY = f"/studies/{PHANTOM.study_uid}"
MULTIPART = "multipart/related; type="
CLIENTS: tuple[tuple[str, str, str | None, int], ...] = (
    # OHIF
    ("/studies?limit=101&offset=0&fuzzymatching=true&includefield=00081030%2C00080060%2C00080090%2C00100030",
     "application/dicom+json", None, 200),
    ("/studies?limit=101&offset=0&fuzzymatching=true&includefield=00081030&PatientName=*ZO*&00100020=*1*"
     "&AccessionNumber=*A*&StudyDescription=*&ModalitiesInStudy=CT%2CMR&StudyDate=20000101-20991231",
     "application/dicom+json", None, 200),
    (f"/studies?limit=101&offset=0&fuzzymatching=true&StudyInstanceUID={PHANTOM.study_uid}%5C1.2.3",
     "application/dicom+json", None, 200),
    (f"{STUDY}/series?includefield=00080021%2C00080031%2C0008103E%2C00200011", "application/dicom+json", None, 200),
    ("/studies?00100020=IPP-1&limit=101&offset=0&fuzzymatching=true", "application/dicom+json", None, 200),
    (f"{SERIES}/metadata", "application/dicom+json", None, 200),
    (f"{INSTANCE}/frames/1", f"{MULTIPART}application/octet-stream; transfer-syntax=*", None, 200),
    (INSTANCE, f'{MULTIPART}"application/dicom"', None, 200),
    (f"{INSTANCE}/bulkdata/7FE00010",
     f'{MULTIPART}"application/pdf", {MULTIPART}"application/octet-stream"', None, 200),
    (f"{INSTANCE}/rendered", "image/jpeg", None, 200),
    (f"{SERIES}/instances?limit=1&includefield=00080018", "application/dicom+json", None, 200),
    # Cornerstone
    (f"{INSTANCE}/frames/1?accept=application/octet-stream%3Btransfer-syntax%3D*", "*/*", "bytes=0-65535", 206),
    (f"{INSTANCE}/frames/1/thumbnail", "*/*", None, 200),
    (f"{INSTANCE}/frames/1/rendered", "image/jpeg", None, 200),
    # dicomweb-client for JavaScript and Python
    (f"{INSTANCE}/frames/1", f'{MULTIPART}"image/jphc", {MULTIPART}"application/octet-stream"', None, 200),
    ("/instances?limit=2&offset=0", "application/dicom+json, application/json", None, 200),
    (STUDY, f'{MULTIPART}"application/dicom"; transfer-syntax=1.2.840.10008.1.2.4.80, '
     f'{MULTIPART}"application/dicom"; transfer-syntax=1.2.840.10008.1.2.1', None, 200),
    # Weasis: no Accept, a parameter without name
    ("/studies?&includefield=00080020,00080030,00080050,00080061,00080090,00081030,00100010,00100020,00100021,00100030,"
     "00100040,0020000D,00200010", "", None, 200),
    ("/studies?&includefield=00080020&00100020=IPP-1&00100021=", "", None, 200),
    (f"{STUDY}/series?includefield=0008103E,00080060,0020000E,00200011,00081190", "", None, 200),
    (f"{SERIES}/instances?includefield=00080018,00200013,00081190&offset=0&limit=1000", "", None, 200),
    (f"/series?0020000E={PHANTOM.series_uid}&includefield=00201209", "", None, 200),
    (INSTANCE, f'{MULTIPART}"application/dicom";transfer-syntax=*', None, 200),
    (f"{SERIES}/thumbnail?viewport=256%2C256", "image/jpeg", None, 200),
    (f"{INSTANCE}/rendered?viewport=256%2C256", "image/jpeg", None, 200),
    # dcm4che's wadors
    (f"{INSTANCE}?accept=application/dicom%3Btransfer-syntax%3D*", "*/*", None, 200),
    (f"{STUDY}?accept=multipart/related%3Btype%3D%22application/dicom%22%3Btransfer-syntax%3D*", "*/*", None, 200),
)  # fmt: skip


def test_what_the_known_clients_send_is_taken(images: Service) -> None:
    """None of their requests meets a refusal; what they depend on is in the answer."""
    answers = []
    for address, accept, range_, _ in CLIENTS:
        headers = {"Accept": accept} if accept else {}
        headers |= {"Range": range_} if range_ else {}
        status = images.client().get(f"/dicom-web{address}", headers=headers).status_code
        answers.append((address, accept, status))
    assert answers == [(address, accept, expected) for address, accept, _, expected in CLIENTS]


@pytest.mark.parametrize(
    ("content_type", "accept"),
    [
        ('multipart/related; type="application/dicom"; boundary="xyz"', "*/*"),  # OHIF
        ('multipart/related;type="application/dicom";boundary=xyz', "application/dicom+xml"),  # Weasis
        ("multipart/related; type=application/dicom; boundary=xyz", ""),  # dicomweb-client
        ('multipart/related; type="application/dicom"; boundary="xyz"; charset=utf-8', "application/dicom+json"),
    ],
)
def test_what_the_known_clients_store_is_taken(service: Service, content_type: str, accept: str) -> None:
    answer = service.client().post(
        "/dicom-web/studies", data=stow_body(series(PHANTOM)), content_type=content_type,
        headers={"Accept": accept} if accept else {},
    )  # fmt: skip
    kind = "application/dicom+xml" if "xml" in accept else "application/dicom+json"
    assert (answer.status_code, answer.headers["Content-Type"].partition(";")[0]) == (200, kind)


# What changes nothing is told


def warnings(answer: Any) -> list[str]:
    assert answer.status_code in {200, 204}, answer.data
    return [text.removeprefix("299 Vigie ").strip('"') for text in answer.headers.getlist("Warning")]


TOLD: tuple[tuple[str, list[str]], ...] = (
    (f"{INSTANCE}/rendered?annotation=patient",
     ["The following annotation values are not supported: patient"]),
    (f"{INSTANCE}/rendered?annotation=technique,patient",
     ["The following annotation values are not supported: technique,patient"]),
    (f"{INSTANCE}/rendered?iccprofile=no&quality=50&window=40,80,linear&viewport=8,8", []),
    (f"{INSTANCE}/rendered?quality=50&accept=image/png", ["The quality parameter has no effect on image/png"]),
    ("/studies?fuzzymatching=true&PatientName=zo%C3%A9", []),
    ("/studies?fuzzymatching=true&PatientID=IPP*", []),
    ("/studies?fuzzymatching=true&PatientName=zo*",
     ["The fuzzymatching parameter is not supported with wildcards. Only literal matching has been performed."]),
    ("/studies?includefield=PatientName,StudyDescription", []),
    ("/studies?includefield=AdmissionID,InstitutionName,00091001,PatientName",
     ["The following includefield values are not kept at study level: AdmissionID,InstitutionName,00091001"]),
    (f"{STUDY}/series?includefield=InstitutionName,PatientName,SliceThickness",
     ["The following includefield values are not kept at series level: SliceThickness"]),
    (f"{SERIES}/instances?includefield=AdmissionID,SliceThickness", []),
)  # fmt: skip


def test_what_has_no_effect_is_told_in_a_warning(images: Service) -> None:
    """PS3.18 §8.3.4.2, §8.3.5.1.1; nothing that was asked is ignored without a word."""
    told = [(address, warnings(images.client().get(f"/dicom-web{address}"))) for address, _ in TOLD]
    assert told == list(TOLD)


def one(service: Service, address: str) -> dict[str, Any]:
    found = json.loads(service.client().get(f"/dicom-web{address}").data)
    answer: dict[str, Any] = found[0]
    return answer


def test_includefield_gives_values_and_never_an_empty_one_for_what_is_not_kept(images: Service) -> None:
    """An empty element says "known to be empty" (PS3.18 §F.2.5); what is not kept is not in the answer."""
    study = one(images, "/studies?includefield=AdmissionID,InstitutionName,PatientAge,PatientSize")
    assert not {"00380010", "00080080"} & set(study)
    assert study["00101020"] == {"vr": "DS"}  # kept at this level, and the object has none
    of_series = one(images, f"{STUDY}/series?includefield=PatientName,Manufacturer,StudyDescription,00201208")
    assert of_series["00100010"]["Value"] == [{"Alphabetic": "Martín^Zoé"}]
    assert of_series["00080070"]["Value"] == ["Vigie"]
    assert of_series["00201208"]["Value"] == [2]
    plain = one(images, f"{STUDY}/series")
    assert not {"00100010", "00080070", "00201208"} & set(plain)
    of_instance = one(images, f"{SERIES}/instances?includefield=PatientName,SliceThickness,00201206")
    assert of_instance["00100010"]["Value"] == [{"Alphabetic": "Martín^Zoé"}]
    assert of_instance["00201206"]["Value"] == [1]


def test_metadata_is_reduced_to_what_is_asked(images: Service) -> None:
    """With the UIDs, and under an ETag of its own; ``all`` is everything."""
    client = images.client()
    answer = client.get(f"/dicom-web{SERIES}/metadata?includefield=PatientName&includefield=InstanceNumber")
    for item in json.loads(answer.data):
        assert sorted(item) == ["00080016", "00080018", "00100010", "0020000D", "0020000E", "00200013"]
    whole = client.get(f"/dicom-web{SERIES}/metadata")
    assert whole.headers["ETag"] != answer.headers["ETag"]
    assert client.get(f"/dicom-web{SERIES}/metadata?includefield=all").data == whole.data
    xml = client.get(f"/dicom-web{INSTANCE}/metadata?includefield=PatientName&accept=application/dicom%2Bxml").data
    assert b'tag="00100010"' in xml
    assert b'tag="00280010"' not in xml


# One meaning at a time


def test_one_frame_is_rendered_at_a_time(images: Service) -> None:
    """`/frames/1,1/rendered` was one picture, without a word."""
    for what in ("rendered", "thumbnail"):
        assert images.client().get(f"/dicom-web{INSTANCE}/frames/1,1/{what}").status_code == 400
        assert images.client().get(f"/dicom-web{INSTANCE}/frames/1/{what}").status_code == 200


PICTURES = (
    ('multipart/related;type="image/jpeg"', "image/jpeg"),
    ("multipart/related; type=image/png", "image/png"),
    ('multipart/related; type="video/mp4", multipart/related; type="image/png"', "image/png"),
    ("multipart/related", "image/jpeg"),
)


def test_pictures_come_in_parts_when_parts_are_asked(images: Service) -> None:
    """PS3.18 §8.7.5: multipart/related is not answered by a single part."""
    for what in ("rendered", "thumbnail"):
        for accept, kind in PICTURES:
            answer = images.client().get(f"/dicom-web{INSTANCE}/{what}", headers={"Accept": accept})
            assert answer.status_code == 200
            assert answer.headers["Content-Type"].startswith(f'multipart/related; type="{kind}"; boundary=')
            head, _, rest = answer.data.partition(b"\r\n\r\n")
            assert f"Content-Type: {kind}".encode() in head
            assert Image.open(io.BytesIO(rest[: rest.rindex(b"\r\n--")])).size == (16, 16)
            assert int(answer.headers["Content-Length"]) == len(answer.data)


MEANINGS = (
    ("StudyDate=20260105-20260103", 400),
    ("PatientBirthDate=20000101-19990101", 400),
    ("StudyDate=20260103-20260103", 204),
    ("PatientID=a%5Cb", 204),
    ("PatientID=a%5Cb&multiplevaluematching=false", 400),
    ("StudyInstanceUID=1.2,1.3&multiplevaluematching=false", 204),
    ("limit=1&limit=2", 400),
    ("limit=1&LIMIT=2", 400),
    ("PatientID=a&00100020=b", 400),
)


def test_a_query_has_one_meaning(images: Service) -> None:
    """PS3.4 §C.2.2.2.5 (ranges of dates), PS3.18 §8.3.4.1 (an attribute is not repeated)."""
    answers = [(query, images.client().get(f"/dicom-web/studies?{query}").status_code) for query, _ in MEANINGS]
    assert answers == list(MEANINGS)


# Ranges and codings


RANGES = (("bytes=0-99", 0, 100), ("bytes=100-", 100, None), ("bytes=-20", -20, None), ("bytes=50-99999999", 50, None))


def test_a_range_of_a_single_part_is_a_206(images: Service) -> None:
    """RFC 9110 §14.2, §15.3.7: of bulk data, a frame, an instance; as stored and decoded."""
    for address, kind in (
        (f"{INSTANCE}/bulkdata/7FE00010", "application/octet-stream"),
        (f"{INSTANCE}/frames/1", "application/octet-stream"),
        (INSTANCE, "application/dicom; transfer-syntax=*"),
    ):
        for asked, first, end in RANGES:
            whole = images.client().get(f"/dicom-web{address}", headers={"Accept": kind})
            part = images.client().get(f"/dicom-web{address}", headers={"Accept": kind, "Range": asked})
            assert (whole.status_code, whole.headers["Accept-Ranges"]) == (200, "bytes")
            assert (part.status_code, part.data) == (206, whole.data[first:end])
            start = first % len(whole.data)
            assert part.headers["Content-Range"] == f"bytes {start}-{start + len(part.data) - 1}/{len(whole.data)}"
            assert int(part.headers["Content-Length"]) == len(part.data)


OTHER_RANGES: tuple[tuple[dict[str, str], int], ...] = (
    ({"Range": "bytes=9999999-"}, 416), ({"Range": "bytes=0-1,4-5"}, 200), ({"Range": "lines=1-2"}, 200),
    ({"Range": "bytes=5-1"}, 200), ({"Range": "bytes=0-1", "If-Range": '"x"'}, 200), ({"Range": "bytes=0-1"}, 206),
)  # fmt: skip


def test_other_ranges_are_refused_or_ignored(images: Service) -> None:
    """RFC 9110 §14.2 lets a server ignore them; §15.5.17 says how one is refused."""
    for headers, status in OTHER_RANGES:
        answer = images.client().get(
            f"/dicom-web{INSTANCE}/bulkdata/7FE00010", headers={"Accept": "application/octet-stream", **headers}
        )
        assert (headers, answer.status_code) == (headers, status)
        if status == 416:
            assert answer.headers["Content-Range"] == "bytes */512"


def test_a_compressed_body_is_a_415_that_says_what_is_taken(service: Service) -> None:
    """RFC 9110 §15.5.16."""
    for coding, status in (("gzip", 415), ("identity", 200)):
        answer = service.client().post(
            "/dicom-web/studies", data=stow_body(series(PHANTOM)), headers={"Content-Encoding": coding},
            content_type='multipart/related; type="application/dicom"; boundary=xyz',
        )  # fmt: skip
        assert answer.status_code == status
        assert answer.headers.get("Accept-Encoding") == ("identity" if status == 415 else None)
