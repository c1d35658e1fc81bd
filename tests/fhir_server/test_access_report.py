"""`Patient/[id]/$access-report`, and AuditEvents in the French profile TDE."""

from __future__ import annotations

from typing import Any

import pytest

from audit import tde
from resources.json import Json
from tests.fhir_server.conftest import Api


@pytest.fixture
def touched(api: Api) -> Api:
    """A patient of hospital A, read by it and by the platform; another of hospital B."""
    for client, name in ((api.hospital_a, "p-1"), (api.hospital_b, "p-2")):
        assert client.put(f"Patient/{name}", {"resourceType": "Patient", "id": name}).status_code == 201
    assert api.hospital_a.get("Patient/p-1").status_code == 200
    assert api.regulator.get("Patient/p-1").status_code == 200
    assert api.hospital_a.get("Patient?_id=p-1").status_code == 200
    return api


def accesses(report: Json) -> list[dict[str, Any]]:
    """The accesses of a page, each by the names of its parts."""
    assert report["resourceType"] == "Parameters"
    return [
        {part["name"]: next(value for key, value in part.items() if key.startswith("value")) for part in one["part"]}
        for one in report.get("parameter", [])
        if one["name"] == "access"
    ]


def simple(report: Json, name: str) -> Any:
    for one in report.get("parameter", []):
        if one["name"] == name:
            return next(value for key, value in one.items() if key.startswith("value"))
    return None


def test_a_patient_is_told_who_touched_the_record(touched: Api) -> None:
    """GDPR article 15: who, when, what, why, from which organisation; newest first."""
    report = touched.auditor.get("Patient/p-1/$access-report").get_json()
    found = accesses(report)
    assert [one["what"] for one in found] == ["search-type", "read", "read", "update"]
    assert simple(report, "total") == len(found)
    organizations = [one["organization"]["reference"] for one in found]
    assert organizations[1] != organizations[2] == organizations[3]
    for one in found:
        assert one["purpose"] == "TREAT"
        assert one["outcome"] == "0"
        assert one["when"].endswith("Z")
        assert one["event"]["reference"].startswith("AuditEvent/")
    assert found[1]["who"]["reference"].startswith("Practitioner/")
    assert found[1]["role"] == "regulator"
    assert found[2]["resource"] == {"reference": "Patient/p-1/_history/1"}


def test_it_is_told_in_pages(touched: Api) -> None:
    """Each page says where the next one is; none is told twice, and what is recorded meanwhile is not in them."""
    told, url = [], "Patient/p-1/$access-report?_count=3"
    while url:
        report = touched.auditor.get(url).get_json()
        told += [one["event"]["reference"] for one in accesses(report)]
        url = (simple(report, "next") or "").rpartition("/fhir/")[2]
    assert len(told) == len(set(told)) == 4


def test_it_is_told_between_two_instants(touched: Api) -> None:
    for query, count in (("start=2000-01-01", 4), ("end=2000-01-01", 0), ("start=2100-01-01", 0)):
        assert len(accesses(touched.auditor.get(f"Patient/p-1/$access-report?{query}").get_json())) == count


def test_a_report_is_one_access_on_record(touched: Api) -> None:
    """And so in the next report: who asked is told too."""
    for number in (4, 5):
        found = accesses(touched.auditor.get("Patient/p-1/$access-report").get_json())
        assert len(found) == number
    assert (found[0]["what"], found[0]["purpose"]) == ("operation", "HCOMPL")


def test_an_officer_is_told_of_its_own_patients_alone(touched: Api) -> None:
    """Another hospital's patient, and one that there is not, have an empty report."""
    officer = touched.client("officer", "hopital-a", "system/AuditEvent.rs")
    assert len(accesses(officer.get("Patient/p-1/$access-report").get_json())) == 4
    empty = officer.get("Patient/p-2/$access-report")
    assert (empty.status_code, accesses(empty.get_json())) == (200, [])
    none = officer.get("Patient/nobody/$access-report")
    assert none.get_data() == empty.get_data()


def test_without_a_scope_on_events_nothing_is_told(touched: Api) -> None:
    answers = [touched.hospital_a.get(f"Patient/{name}/$access-report") for name in ("p-1", "p-2", "nobody")]
    assert [answer.status_code for answer in answers] == [403, 403, 403]


# — TDE —

_TDE = f"AuditEvent?_profile={tde.PROFILE}"


def test_events_are_served_in_the_profile_tde(touched: Api) -> None:
    """subtype ..1, period.start 1.., agent ..2, agent.who 1.., source.observer a Device."""
    found = touched.auditor.found(f"{_TDE}&date=ge2020-01-01&patient=Patient/p-1&_count=2")
    plain = touched.auditor.found("AuditEvent?date=ge2020-01-01&patient=Patient/p-1")
    assert [event["id"] for event in found] == [event["id"] for event in plain][-len(found) :]
    for event in found:
        assert event["meta"]["profile"] == [tde.PROFILE]
        assert len(event["subtype"]) == 1
        assert event["period"]["start"]
        assert 1 <= len(event["agent"]) <= 2
        assert all(agent["who"] for agent in event["agent"])
        assert event["source"]["observer"]["reference"].startswith("Device/")
    people = [event["agent"][0] for event in found if "Practitioner/" in str(event["agent"][0]["who"])]
    assert people
    assert all(agent["altId"] for agent in people)


def test_in_the_profile_tde_a_date_is_mandatory(touched: Api) -> None:
    """ITI-81 in TDE; plain FHIR needs none for what an index leads to."""
    answer = touched.auditor.get(f"{_TDE}&patient=Patient/p-1")
    assert (answer.status_code, answer.get_json()["issue"][0]["code"]) == (400, "required")
    assert touched.auditor.get("AuditEvent?patient=Patient/p-1").status_code == 200


def test_a_projection_alters_nothing_of_what_it_is_given() -> None:
    event = {
        "resourceType": "AuditEvent", "id": "x", "meta": {"profile": ["balp"]}, "recorded": "2026-01-01T00:00:00.000Z",
        "subtype": [{"code": "read"}, {"code": "derived"}],
        "agent": [{"who": {"identifier": {"value": "c"}}, "requestor": True}, {"who": {"reference": "Device/v"}}],
    }  # fmt: skip
    before = str(event)
    made = tde.project(event)
    assert str(event) == before
    assert made["period"] == {"start": event["recorded"]}
    assert made["agent"][0]["altId"] == "c"
