"""The limits of requests in flight and a second hold whatever serves; answers are encoded whatever serves."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from typing import Any

import brotli
import pytest
from werkzeug.test import EnvironBuilder

from fhir_server.server.encoding import chosen, encoded
from tests.fhir_server.conftest import BOTH_DOORS, Api

PATIENT = {"resourceType": "Patient", "name": [{"family": "ESSAI" * 400}]}


@BOTH_DOORS
def test_too_many_requests_are_told_in_each_facades_words(make_api: Callable[..., Api]) -> None:
    """RFC 6585 §4; R4 §3.1.0.1.6: an OperationOutcome; PS3.18: text. Each is on record, by its number."""
    api = make_api(client_rate=2)
    client = api.hospital_a
    answers = [client.get("Patient") for _ in range(12)]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    assert answers[0].status_code == 200
    assert int(refused[0].headers["Retry-After"]) >= 1
    assert refused[0].get_json()["issue"][0]["code"] == "throttled"
    images = client.get("/dicom-web/studies")
    assert (images.status_code, images.mimetype) == (429, "text/plain")
    assert api.hospital_b.get("Patient").status_code == 200


@BOTH_DOORS
def test_a_request_is_in_flight_until_its_answer_is_complete(make_api: Callable[..., Api], door: str) -> None:
    """PEP 3333: the server calls `close` when it has sent the answer, or can not."""
    api = make_api(client_in_flight=1)
    token = api.hospital_a.token
    for _ in range(5):  # of lists, of streams, of refusals: nothing is left
        assert api.hospital_a.get("Patient").status_code == 200
        stream = api.hospital_a.get("/dicom-web/studies")
        assert stream.status_code == 204
        stream.close()
        assert api.hospital_a.get("Patient/none").status_code == 404
        assert api.hospital_a.get("Patient?unknown=1").status_code == 400
    if door == "front":
        return
    environ = EnvironBuilder(path="/dicom-web/studies", headers={"Authorization": f"Bearer {token}"}).get_environ()
    answer = api.app.wsgi_app(environ, lambda *_: None)
    assert api.hospital_a.get("Patient").status_code == 429
    answer.close()  # type: ignore[attr-defined]
    assert api.hospital_a.get("Patient").status_code == 200


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("gzip", "gzip"), ("br", "br"), ("gzip, deflate, br", "br"), ("gzip;q=1.0, br;q=0.5", "gzip"), ("*", "br"),
        ("gzip;q=0", None), ("identity", None), ("identity;q=1, br;q=0.5", None), ("deflate", None), ("", None),
        ("*;q=0", None), ("br;q=0, *", "gzip"), ("gzip;q=x", None), ("GZIP", "gzip"),
    ],
)  # fmt: skip
def test_the_coding_is_the_one_that_is_wanted_most(accepted: str, coding: str | None) -> None:
    """RFC 9110 §12.5.3."""
    assert chosen(accepted) == coding


@BOTH_DOORS
def test_json_is_encoded_where_it_is_asked_for(api: Api) -> None:
    """RFC 9110 §8.4, §12.5.5: searches and reads, long and short; not a Range, not what is no JSON."""
    made = api.hospital_a.create(PATIENT)
    for path in (f"Patient/{made['id']}", "Patient?_count=5", "metadata"):
        plain = api.hospital_a.get(path)
        assert "Accept-Encoding" in plain.headers["Vary"]
        unpacked: dict[str, Any] = {"gzip": gzip.decompress, "br": brotli.decompress}
        for coding, decode in unpacked.items():
            packed = api.hospital_a.get(path, Accept_Encoding=coding)
            assert packed.headers["Content-Encoding"] == coding, path
            assert len(packed.data) == int(packed.headers["Content-Length"]) < len(plain.data)
            assert json.loads(decode(packed.data))["resourceType"] == plain.get_json()["resourceType"]
            assert packed.headers.get("ETag") == plain.headers.get("ETag")
    url = f"Patient/{made['id']}"
    assert "Content-Encoding" not in api.hospital_a.get(url, Accept_Encoding="gzip", Range="bytes=0-9").headers
    assert "Content-Encoding" not in api.hospital_a.get("Patient/none", Accept_Encoding="gzip").headers
    head = api.hospital_a.ask("HEAD", url, Accept_Encoding="gzip")
    assert (head.status_code, head.headers["Content-Encoding"], head.data) == (200, "gzip", b"")


@pytest.mark.parametrize(
    ("status", "headers", "is_encoded"),
    [
        ("200 OK", {"Content-Type": "application/fhir+json"}, True),
        ("200 OK", {"content-type": "application/dicom+json; charset=utf-8"}, True),
        ("200 OK", {"Content-Type": "application/dicom"}, False),
        ("200 OK", {}, False),
        ("206 Partial Content", {"Content-Type": "application/fhir+json"}, False),
        ("200 OK", {"Content-Type": "application/fhir+json", "Content-Encoding": "br"}, False),
    ],
)
def test_only_whole_json_is_encoded_and_once(status: str, headers: dict[str, str], is_encoded: bool) -> None:
    """RFC 9110 §8.4 (codings are applied one upon another), §14.4 (a part counts the bytes of what is stored)."""
    environ = EnvironBuilder(headers={"Accept-Encoding": "gzip"}).get_environ()
    told = list(headers.items())
    body = b"".join(encoded(environ, status, told, [b"x" * 5000]))
    assert (dict(told).get("Content-Encoding") == "gzip", body != b"x" * 5000) == (is_encoded, is_encoded)
