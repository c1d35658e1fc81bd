"""fhirclient 4.4.0 (SMART's Python client), unmodified: its R4 models refuse whatever is not strictly so."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from fhirclient import client as smart
from fhirclient.models.bundle import Bundle
from fhirclient.models.humanname import HumanName
from fhirclient.models.patient import Patient
from fhirclient.models.servicerequest import ServiceRequest
from fhirclient.server import FHIRNotFoundException

from fhir_server.duties import tokens
from tests.clients.site import Site


@pytest.fixture
def ehr(site: Site) -> Iterator[Any]:
    """The client, authorised by its own backend-services login (`jwt_token`)."""
    described = site.described("hospital-a")
    token_url = f"{site.base}/oauth/token"
    made = smart.FHIRClient(
        settings={
            "app_id": described["client_id"],
            "api_base": site.fhir,
            "scope": "system/Patient.cruds system/ServiceRequest.cruds system/Task.rs",
            "jwt_token": tokens.assertion(token_url, described["client_id"], described["private_key"]),
        }
    )
    made.wants_patient = False
    assert made.prepare() is False  # reads /metadata, with SMART's security extension; there is no token yet
    made.authorize()
    assert made.ready
    yield made
    made.server.session.close()


def family(mark: str) -> Any:
    return HumanName({"family": f"Garnier{mark}", "given": ["Paul"]})


def test_it_reads_the_capability_statement(ehr: Any) -> None:
    """http.html#capabilities, SMART §conformance: FHIR 4.0.1, a REST server, where tokens are."""
    statement = ehr.server.capabilityStatement

    assert statement.fhirVersion == "4.0.1"
    assert {one.type for one in statement.rest[0].resource} >= {"Patient", "ServiceRequest", "DiagnosticReport"}
    assert any(ext.url.endswith("oauth-uris") for ext in statement.rest[0].security.extension)


def test_it_creates_reads_updates_and_deletes(ehr: Any) -> None:
    """http.html#create, #read, #update, #delete, by models."""
    mark = uuid.uuid4().hex[:12]
    fresh = Patient()
    fresh.name = [family(mark)]
    made = Patient(fresh.create(ehr.server))
    assert made.meta.versionId == "1"

    read = Patient.read(made.id, ehr.server)
    assert read.name[0].family == f"Garnier{mark}"
    read.gender = "male"
    assert Patient(read.update()).meta.versionId == "2"
    assert read.delete() is None
    with pytest.raises(Exception, match="410"):
        Patient.read(made.id, ehr.server)
    with pytest.raises(FHIRNotFoundException):
        Patient.read("absent", ehr.server)


def test_it_follows_every_next_link(ehr: Any) -> None:
    """http.html#paging: perform_resources_iter goes through all pages, with what is included."""
    mark = uuid.uuid4().hex[:12]
    wanted = []
    for _ in range(5):
        who = Patient()
        who.name = [family(mark)]
        order = ServiceRequest(
            {
                "resourceType": "ServiceRequest",
                "status": "active",
                "intent": "order",
                "subject": {"reference": f"Patient/{who.create(ehr.server)['id']}"},
                "code": {"text": mark},
            }
        )
        wanted.append(order.create(ehr.server)["id"])
    search = ServiceRequest.where({"subject:Patient.name": f"garnier{mark}", "_count": "2", "_sort": "_lastUpdated"})
    found = list(search.include("subject").perform_resources_iter(ehr.server))

    assert [one.id for one in found if one.resource_type == "ServiceRequest"] == wanted
    assert len({one.id for one in found if one.resource_type == "Patient"}) == 5


def test_its_transaction_answers_a_bundle_that_it_can_parse(ehr: Any) -> None:
    """http.html#transaction-response."""
    who = f"urn:uuid:{uuid.uuid4()}"
    bundle = Bundle(
        {
            "resourceType": "Bundle",
            "type": "transaction",
            "entry": [
                {
                    "fullUrl": who,
                    "resource": {"resourceType": "Patient", "active": True},
                    "request": {"method": "POST", "url": "Patient"},
                }
            ],
        }
    )
    answer = Bundle(bundle.create(ehr.server))

    assert answer.type == "transaction-response"
    assert answer.entry[0].response.status.startswith("201")
    assert answer.entry[0].response.lastModified.date.timestamp() == pytest.approx(time.time(), abs=3600)
