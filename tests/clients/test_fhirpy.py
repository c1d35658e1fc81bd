"""fhirpy 2.3.1, unmodified, as a hospital's EHR: what it sends beyond plain R4 is met, or refused in words."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest
from fhirpy import AsyncFHIRClient, SyncFHIRClient
from fhirpy.base.exceptions import ForbiddenError, OperationOutcome, ResourceNotFound

from tests.clients.site import Site

SYSTEM = "urn:oid:1.2.250.1.999.7"


@pytest.fixture
def client(site: Site) -> SyncFHIRClient:
    return SyncFHIRClient(site.fhir, authorization=f"Bearer {site.token('hospital-a')}")


@pytest.fixture
def mark() -> str:
    """A word that only this test's resources bear."""
    return uuid.uuid4().hex[:12]


def patient(client: SyncFHIRClient, mark: str, number: int = 0, **more: Any) -> Any:
    values: dict[str, Any] = {
        "identifier": [{"system": SYSTEM, "value": f"{mark}-{number}"}],
        "name": [{"family": f"Lefèvre{mark}", "given": ["Zoé"]}],
        "birthDate": f"19{50 + number}-01-02",
    }
    return client.resource("Patient", **(values | more))


def test_it_creates_updates_refreshes_and_deletes(client: SyncFHIRClient, mark: str) -> None:
    """http.html#create, #update, #delete: save() fills in id and meta; what is deleted answers 410."""
    made = patient(client, mark)
    made.save()
    assert made["meta"]["versionId"] == "1"

    made["gender"] = "female"
    made.save()
    assert made["meta"]["versionId"] == "2"
    seen = client.resource("Patient", id=made.id, meta=made["meta"])
    seen.refresh()  # sends If-None-Match: 2, which is no entity-tag in quotes
    assert seen["meta"]["versionId"] == "2"
    other = client.reference("Patient", made.id).to_resource()
    assert other["gender"] == "female"

    made.delete()
    with pytest.raises(ResourceNotFound, match="deleted"):
        client.get("Patient", made.id)


def test_it_searches(client: SyncFHIRClient, mark: str) -> None:
    """search.html: string, contains, date prefix, sort, elements, count (`_count=0&_totalMethod=count`), first, get."""
    for number in range(3):
        patient(client, mark, number).save()
    found = client.resources("Patient").search(name=f"lefevre{mark}")

    assert found.count() == 3
    assert client.resources("Patient").search(name__contains=mark).count() == 3
    assert found.search(birthdate__ge="1951").count() == 2
    assert [one["birthDate"][:4] for one in found.sort("-birthdate").fetch()] == ["1952", "1951", "1950"]
    assert found.sort("birthdate").first()["birthDate"] == "1950-01-02"
    (narrow,) = found.search(identifier=f"{SYSTEM}|{mark}-1").elements("birthDate").fetch()
    assert narrow["birthDate"] == "1951-01-02"
    assert "name" not in narrow
    with pytest.raises(OperationOutcome, match="colour"):
        client.resources("Patient").search(colour="blue").fetch()


def test_its_pages_are_all_fetched(site: Site, client: SyncFHIRClient, mark: str) -> None:
    """http.html#paging: it refuses a next link whose base is not its own, by whichever of the names it came."""
    for number in range(5):
        patient(client, mark, number).save()
    for base in (site.fhir, site.fhir.replace("127.0.0.1", "localhost")):
        own = SyncFHIRClient(base, authorization=f"Bearer {site.token('hospital-a')}")
        fetched = own.resources("Patient").search(name=f"lefevre{mark}").sort("birthdate").limit(2).fetch_all()
        assert [one["birthDate"][:4] for one in fetched] == ["1950", "1951", "1952", "1953", "1954"]


def test_it_follows_references(client: SyncFHIRClient, mark: str) -> None:
    """search.html#include, #revinclude, #chaining, #has."""
    who = patient(client, mark)
    who.save()
    order = client.resource(
        "ServiceRequest",
        status="active",
        intent="order",
        subject=who.to_reference(),
        code={"text": mark},
        identifier=[{"system": SYSTEM, "value": f"order-{mark}"}],
    )
    order.save()
    orders = client.resources("ServiceRequest")

    included = orders.search(_id=order.id).include("ServiceRequest", "subject").fetch_raw()
    assert [(e["resource"]["resourceType"], e["search"]["mode"]) for e in included["entry"]] == [
        ("ServiceRequest", "match"),
        ("Patient", "include"),
    ]
    reverse = client.resources("Patient").search(_id=who.id).revinclude("ServiceRequest", "subject").fetch_raw()
    assert [e["resource"]["resourceType"] for e in reverse["entry"]] == ["Patient", "ServiceRequest"]
    assert orders.search(subject__Patient__name=f"Lefevre{mark}").first().id == order.id
    assert orders.search(subject=who.to_reference()).count() == 1
    assert client.resources("Patient").has("ServiceRequest", "subject", code__text=mark).first().id == who.id
    assert order["subject"].to_resource().id == who.id
    with pytest.raises(OperationOutcome, match="conflict"):
        who.delete()


def test_get_or_create_makes_one(client: SyncFHIRClient, mark: str) -> None:
    """http.html#ccreate: the criteria come in the URL of a POST; a filter is never ignored, so it is the condition."""
    search = client.resources("Patient").search(identifier=f"{SYSTEM}|{mark}-0")
    first, created = search.get_or_create(patient(client, mark))
    again, created_again = search.get_or_create(patient(client, mark))

    assert (created, created_again) == (True, False)
    assert first.id == again.id
    assert search.count() == 1


def test_it_updates_and_deletes_by_criteria(client: SyncFHIRClient, mark: str) -> None:
    """http.html#cond-update, #3.1.0.7.1: created, then updated; then deleted."""
    search = client.resources("Patient").search(identifier=f"{SYSTEM}|{mark}-0")
    first, created = search.update(patient(client, mark))
    second, created_again = search.update(patient(client, mark, gender="other"))

    assert (created, created_again) == (True, False)
    assert (first.id, second["meta"]["versionId"]) == (second.id, "2")
    search.delete()
    assert search.count() == 0


def test_a_transaction_resolves_its_references(client: SyncFHIRClient, mark: str) -> None:
    """http.html#transaction, #trules: urn:uuid references are rewritten; all or nothing."""
    who, order = f"urn:uuid:{uuid.uuid4()}", f"urn:uuid:{uuid.uuid4()}"
    wanted = client.resource(
        "ServiceRequest", status="active", intent="order", subject={"reference": who}, code={"text": mark}
    )
    bundle = {
        "resourceType": "Bundle",
        "type": "transaction",
        "entry": [
            {"fullUrl": order, "resource": wanted.serialize(), "request": {"method": "POST", "url": "ServiceRequest"}},
            {
                "fullUrl": who,
                "resource": patient(client, mark).serialize(),
                "request": {"method": "POST", "url": "Patient"},
            },
        ],
    }
    answer = client.execute("", data=bundle)
    assert [entry["response"]["status"][:3] for entry in answer["entry"]] == ["201", "201"]
    (stored,) = client.resources("ServiceRequest").search(subject__Patient__name=f"lefevre{mark}").fetch()
    assert stored["subject"].reference.startswith("Patient/")

    bundle["entry"][0]["resource"]["status"] = "perhaps"  # type: ignore[index]
    with pytest.raises(OperationOutcome, match="status"):
        client.execute("", data=bundle)
    assert client.resources("Patient").search(name=f"lefevre{mark}").count() == 1


def test_it_reads_history_and_validates(client: SyncFHIRClient, mark: str) -> None:
    """http.html#history, resource-operation-validate.html."""
    who = patient(client, mark)
    assert who.is_valid()
    assert not patient(client, mark, gender="F").is_valid()
    who.save()
    who["active"] = True
    who.save()

    history = client.execute(f"Patient/{who.id}/_history", method="get")
    assert [entry["resource"]["meta"]["versionId"] for entry in history["entry"]] == ["2", "1"]
    old = client.execute(f"Patient/{who.id}/_history/1", method="get")
    assert "active" not in old


def test_what_it_may_not_do_is_told(site: Site, client: SyncFHIRClient, mark: str) -> None:
    """http.html#Status-Codes: 403 for a type beyond its scope; another hospital's patient is as if absent."""
    who = patient(client, mark)
    who.save()
    with pytest.raises(ForbiddenError):
        client.resources("AuditEvent").fetch()
    other = SyncFHIRClient(site.fhir, authorization=f"Bearer {site.token('hospital-b')}")
    with pytest.raises(ResourceNotFound):
        other.get("Patient", who.id)
    assert other.resources("Patient").search(name=f"lefevre{mark}").count() == 0


def test_the_asynchronous_client_works_at_once(site: Site, mark: str) -> None:
    """Twenty creates at once, then one search."""

    async def play() -> int:
        client = AsyncFHIRClient(site.fhir, authorization=f"Bearer {site.token('hospital-a')}")
        made = [patient(client, mark, number) for number in range(20)]
        await asyncio.gather(*(one.save() for one in made))
        assert len({one.id for one in made}) == 20
        return int(await client.resources("Patient").search(name=f"lefevre{mark}").count())

    assert asyncio.run(play()) == 20
