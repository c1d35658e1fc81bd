"""A date without a zone is a day where the people are: the deployment's, or the hospital's own; French identity beside.

R4 §3.1.1.4.5: a date without zone is of the server's local zone, dates are not corrected for zones.
http://hl7.org/fhir/R4/search.html#date
"""

from __future__ import annotations

import pytest

from resources.json import Json
from resources.policies import Where
from store import policies
from store.access import Caller
from tests import builders
from tests.conftest import ENGINES
from tests.fhir_server.conftest import (  # noqa: F401 - fixtures of the assembled server
    Api,
    Client,
    api,
    door,
    engine,
    make_api,
    settings,
    template,
    templates,
)
from tests.journeys.played import good

ONE_ENGINE = pytest.mark.parametrize("engine", ENGINES[:1], indirect=True)


def observed(who: Client, when: str) -> str:
    """Something that happened at that instant, or on that day; its id."""
    body: Json = {"resourceType": "Observation", "status": "final", "code": {"text": "x"}, "effectiveDateTime": when}
    return str(who.create(body)["id"])


def found(who: Client, query: str) -> set[str]:
    return {one["id"] for one in who.found(f"Observation?{query}")}


def reunion(api: Api) -> None:  # noqa: F811
    """Hospital B is on La Réunion."""

    def decide(uow):  # type: ignore[no-untyped-def]
        policies.decide(uow, "zone", Where("hopital-b"), "Indian/Reunion", "Établissement de La Réunion")

    api.services.store.transact(Caller.system("platform"), decide)


def test_an_order_of_the_night_is_on_its_own_day(api: Api) -> None:  # noqa: F811
    """Half past midnight in Paris is the new day, though UTC has the old one; prefixes agree."""
    night = observed(api.hospital_a, "2026-03-02T00:30:00+01:00")
    for query, expected in {
        "date=2026-03-02": True, "date=2026-03-01": False, "date=ge2026-03-02": True, "date=lt2026-03-02": False,
        "date=le2026-03-01": False, "date=gt2026-03-01": True, "date=sa2026-03-01": True, "date=eb2026-03-02": False,
        "date=ne2026-03-02": False, "date=ne2026-03-01": True, "date=ap2026-03-02": True, "date=2026-03": True,
        "date=2026-02": False, "date=2026-03-01,2026-03-02": True, "date=2026-03-02T00:30": True,
        "date=2026-03-01T23:30Z": True, "date=2026-03-02T00:30Z": False, "date=ge2026-03-02&date=lt2026-03-03": True,
    }.items():  # fmt: skip
        assert found(api.hospital_a, query) == ({night} if expected else set()), query


def test_a_stored_day_is_that_day_in_every_zone(api: Api) -> None:  # noqa: F811
    """Dates are not corrected for zones: a birth date, a day, a month are found as they were written."""
    reunion(api)
    for who in (api.hospital_a, api.hospital_b):
        day, month = observed(who, "2026-03-02"), observed(who, "2026-03")
        assert found(who, "date=2026-03-02") == {day}
        assert found(who, "date=2026-03") == {day, month}
        assert found(who, "date=lt2026-03-02") == {month}
        assert found(who, "date=gt2026-03-02") == {month}
        assert found(who, "date=eb2026-03-02") == found(who, "date=sa2026-03-02") == set()
        born = who.create(builders.patient(birthDate="1961-04-12"))["id"]
        for query, expected in {"birthdate=1961-04-12": 1, "birthdate=1961-04-11": 0, "birthdate=lt1961-04-12": 0,
                                "birthdate=ge1961-04-12": 1, "birthdate=1961": 1}.items():  # fmt: skip
            assert [one["id"] for one in who.found(f"Patient?{query}")] == [born] * expected, query


@pytest.mark.parametrize(
    ("day", "inside", "before", "after"),
    [
        (
            "2026-03-29", ("2026-03-29T00:00:00+01:00", "2026-03-29T23:59:59+02:00"),
            "2026-03-28T23:59:59+01:00", "2026-03-30T00:00:00+02:00",
        ),
        (
            "2026-10-25", ("2026-10-25T00:00:00+02:00", "2026-10-25T23:59:59+01:00"),
            "2026-10-24T23:59:59+02:00", "2026-10-26T00:00:00+01:00",
        ),
    ],
)  # fmt: skip
@ONE_ENGINE
def test_the_nights_of_the_clock_change_are_whole_days(
    api: Api, day: str, inside: tuple[str, str], before: str, after: str  # noqa: F811
) -> None:
    """The 29th of March 2026 has 23 hours in Paris, the 25th of October 25: all of them, and no other."""
    within = {observed(api.hospital_a, one) for one in inside}
    earlier, later = observed(api.hospital_a, before), observed(api.hospital_a, after)
    assert found(api.hospital_a, f"date={day}") == within
    assert found(api.hospital_a, f"date=lt{day}") == {earlier}
    assert found(api.hospital_a, f"date=gt{day}") == {later}


@ONE_ENGINE
def test_a_hospital_with_a_zone_of_its_own_has_its_own_days(api: Api) -> None:  # noqa: F811
    """02:00 in Saint-Denis is the day before in Paris (winter): each side has its own days."""
    reunion(api)
    made = observed(api.hospital_b, "2026-01-15T02:00:00+04:00")
    assert found(api.hospital_b, "date=2026-01-15") == {made}
    assert found(api.hospital_b, "date=2026-01-14") == set()
    assert found(api.platform, "date=2026-01-14") == {made}
    assert found(api.platform, "date=2026-01-15") == set()


@ONE_ENGINE
def test_the_zone_is_one_setting(make_api) -> None:  # type: ignore[no-untyped-def]  # noqa: F811
    """`report_zone` is the deployment's zone, for reports and searches."""
    tahiti = make_api(report_zone="Pacific/Tahiti")
    made = observed(tahiti.hospital_a, "2026-03-02T08:00:00Z")
    assert found(tahiti.hospital_a, "date=2026-03-01") == {made}
    assert good(tahiti.hospital_a.get(f"Observation/{made}"))["effectiveDateTime"] == "2026-03-02T08:00:00Z"


@ONE_ENGINE
def test_a_fault_in_a_bundle_is_one_path_from_the_bundle(api: Api) -> None:  # noqa: F811
    """R4 OperationOutcome.issue.expression: a FHIRPath; not one of the entry and another of its resource."""
    wrong = {"system": "urn:oid:1.2.250.1.213.1.4.8", "value": "123456789012244"}
    patient = builders.patient()
    patient["identifier"] = [*patient["identifier"], wrong]
    entry = {"resource": patient, "request": {"method": "POST", "url": "Patient"}}
    answer = api.hospital_a.post("", {"resourceType": "Bundle", "type": "transaction", "entry": [entry]})
    assert answer.status_code == 422
    expressions = [one["expression"] for one in answer.get_json()["issue"]]
    assert ["Bundle.entry[0].resource.identifier[1].value"] in expressions
    assert all(len(one) == 1 for one in expressions)
    body = {"resourceType": "Bundle", "type": "transaction",
            "entry": [{**entry, "request": {"method": "POST", "url": "Nothing"}}]}  # fmt: skip
    (issue,) = api.hospital_a.post("", body).get_json()["issue"]
    assert issue["expression"][0].startswith("Bundle.entry[0]")
