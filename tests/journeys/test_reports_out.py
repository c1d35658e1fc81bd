"""Reports out, through the assembled server and to a real endpoint: order → signature → notification → delivered.

DESIGN §9; reference/french-context.md §7 S9, S10; Backport IG 1.1.0; Standard Webhooks 1.0.0.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook

from dicomweb import phantom
from dicomweb.phantom import Phantom
from resources.codes import TELERADIOLOGY_TASK
from resources.json import Json
from subscriptions.acceptance import WEBHOOK_SECRET
from subscriptions.topics import ORDER_STATUS, REPORT_SIGNED
from tests import builders
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
from tests.subscriptions.hospital import Hospital, Received, Reply, open_hospital
from tests.subscriptions.ward import criteria_subscription, subscription


@dataclass
class Emergency:
    """Hospital A's order, played by plain calls of the clients; the loops of the background process turned between."""

    api: Api
    order: Json = field(default_factory=dict)
    patient: Json = field(default_factory=dict)
    report: Json = field(default_factory=dict)

    def turn(self) -> None:
        """What the background process does, until nothing is due at this moment."""
        subscriptions = self.api.services.subscriptions
        while True:
            worked = subscriptions.sequencer.step()
            worked |= subscriptions.dispatcher.step()
            subscriptions.dispatcher.drain()
            if not worked:
                return

    def until(self, holds: Callable[[], bool], what: str, within_s: float = 60) -> None:
        """Turn the loops, letting real time pass, until it holds."""
        deadline = time.monotonic() + within_s
        while not holds():
            assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
            self.turn()
            time.sleep(0.05)

    def subscribe(self, asked: Json, who: Client | None = None) -> Json:
        """An active Subscription, by default of hospital A."""
        client = who or self.api.hospital_a
        made = client.create(asked)
        self.turn()
        active: Json = client.get(f"Subscription/{made['id']}").get_json()
        assert active["status"] == "active", active
        return active

    def ordered(self) -> None:
        """S0 to S4: the order, its protocol, its images."""
        hospital = self.api.hospital_a
        self.patient = hospital.create(builders.patient())
        self.order = hospital.create(builders.service_request(f"Patient/{self.patient['id']}", authoredOn=None))
        regulator = self.api.regulator
        task = self.put(regulator, {**self.task("regulate"), "status": "in-progress"})
        protocol = regulator.create(builders.protocol(self.order_reference, self.patient_reference))
        output = builders.output(f"ServiceRequest/{protocol['id']}")
        self.put(regulator, {**task, "status": "completed", "output": output})
        accession = next(
            one["value"]
            for one in self.order["identifier"]
            if any(coding.get("code") == "ACSN" for coding in one.get("type", {}).get("coding", ()))
        )
        name = self.patient["name"][0]
        images = phantom.exam(
            Phantom(
                patient_id=self.patient["identifier"][0]["value"],
                patient_name=f"{name['family']}^{name['given'][0]}",
                patient_birth_date=self.patient["birthDate"].replace("-", ""),
                patient_sex="F",
                accession_number=accession,
                slices=1,
                side=16,
            )
        )
        parts = b"".join(b"--xyz\r\nContent-Type: application/dicom\r\n\r\n" + one + b"\r\n" for one in images)
        kind = 'multipart/related; type="application/dicom"; boundary=xyz'
        stored = hospital.ask("POST", "/dicom-web/studies", parts + b"--xyz--\r\n", Content_Type=kind)
        assert stored.status_code == 200, stored.get_data(as_text=True)
        self.api.settled()

    def drafted(self) -> None:
        """S7, S8: claimed, and a draft that has been rewritten once."""
        reader = self.api.radiologist
        self.put(reader, {**self.task("read"), "status": "in-progress"})
        (study,) = reader.found(f"ImagingStudy?basedon={self.order_reference}")
        reference = f"ImagingStudy/{study['id']}"
        self.report = reader.create(builders.diagnostic_report(self.order_reference, self.patient_reference, reference))
        self.revised(conclusion="Brouillon relu.")

    def signed(self) -> None:
        """S9."""
        self.revised(status="final", conclusion="Hématome lenticulaire gauche.")

    def revised(self, **elements: Any) -> None:
        """The report's next version, by the radiologist."""
        self.report = self.put(self.api.radiologist, {**self.report, **elements})

    def put(self, who: Client, resource: Json) -> Json:
        path = f"{resource['resourceType']}/{resource['id']}"
        answer = who.put(path, resource, If_Match=f'W/"{resource["meta"]["versionId"]}"')
        assert answer.status_code == 200, answer.get_data(as_text=True)
        stored: Json = answer.get_json()
        return stored

    def task(self, kind: str, who: Client | None = None) -> Json:
        client = who or self.api.platform
        (found,) = client.found(f"Task?focus={self.order_reference}&code={TELERADIOLOGY_TASK}|{kind}")
        return found

    @property
    def business(self) -> str:
        """Business status of the root Task, as the hospital sees it."""
        task = self.task("order", self.api.hospital_a)
        return str(task.get("businessStatus", {}).get("coding", [{}])[0].get("code"))

    @property
    def order_reference(self) -> str:
        return f"ServiceRequest/{self.order['id']}"

    @property
    def patient_reference(self) -> str:
        return f"Patient/{self.patient['id']}"

    @property
    def report_reference(self) -> str:
        return f"DiagnosticReport/{self.report['id']}"


@pytest.fixture
def emergency(api: Api) -> Emergency:  # noqa: F811 - the fixture
    return Emergency(api)


@pytest.fixture
def hospital() -> Iterator[Hospital]:
    with open_hospital() as opened:
        yield opened


def secret_of(active: Json) -> str:
    return str(next(one["valueString"] for one in active["extension"] if one["url"] == WEBHOOK_SECRET))


def events_of(hospital: Hospital, topic: str) -> list[Received]:
    return [one for one in hospital.of("event-notification") if one.status["topic"] == topic]


def test_a_signed_report_is_notified_and_the_hospital_sees_it_delivered(
    emergency: Emergency, hospital: Hospital
) -> None:
    """S9, S10: nothing of the drafts; one notification by id, signed; the root Task says delivered."""
    active = emergency.subscribe(subscription(hospital.url, headers=["Authorization: Bearer a-token"]))
    emergency.ordered()
    emergency.drafted()
    emergency.turn()
    assert [one.kind for one in hospital.received] == ["handshake"]
    emergency.signed()
    assert emergency.business == "signed"
    emergency.turn()
    (received,) = hospital.of("event-notification")
    (event,) = received.events
    assert event["focus"]["reference"].endswith(f"/fhir/{emergency.report_reference}")
    assert "resource" not in received.body["entry"][1]
    assert received.headers["authorization"] == "Bearer a-token"
    assert Webhook(secret_of(active)).verify(received.raw.decode(), received.headers) == received.body
    assert emergency.business == "delivered"
    assert emergency.api.hospital_a.get(emergency.report_reference).get_json()["status"] == "final"
    for reference in (emergency.order_reference, emergency.report_reference):
        assert emergency.api.hospital_b.get(reference).status_code == 404


def test_full_resource_brings_the_report_and_its_context(emergency: Emergency, hospital: Hospital) -> None:
    """Backport full-resource: the signed version, the order, the patient, each with the subscriber's rights."""
    active = emergency.subscribe(subscription(hospital.url, content="full-resource"))
    emergency.ordered()
    emergency.drafted()
    emergency.signed()
    emergency.turn()
    (received,) = hospital.of("event-notification")
    Webhook(secret_of(active)).verify(received.raw.decode(), received.headers)
    entries = received.body["entry"][1:]
    assert [one["resource"]["resourceType"] for one in entries] == ["DiagnosticReport", "ServiceRequest", "Patient"]
    assert entries[0]["resource"] == emergency.api.hospital_a.get(emergency.report_reference).get_json()
    assert entries[0]["resource"]["presentedForm"][0]["contentType"] == "application/pdf"
    assert emergency.business == "acknowledged"  # the hospital has opened it above


def test_an_endpoint_that_is_down_delays_delivered_and_loses_nothing(emergency: Emergency, hospital: Hospital) -> None:
    """S10: 2xx alone is delivery; the same notification comes again until then."""
    emergency.subscribe(subscription(hospital.url))
    emergency.ordered()
    emergency.drafted()
    hospital.always = Reply(503)
    emergency.signed()
    emergency.until(lambda: len(hospital.of("event-notification")) == 2, "a first retry")
    assert emergency.business == "signed"
    hospital.always = Reply()
    emergency.until(lambda: hospital.accepted_numbers == [1], "delivery after the endpoint came back")
    assert len({one.headers["webhook-id"] for one in hospital.of("event-notification")}) == 1
    assert emergency.business == "delivered"


def test_every_revision_of_a_signed_report_is_an_event(emergency: Emergency, hospital: Hospital) -> None:
    """Amended, appended, then entered in error: who had the first hears of each; delivered once is delivered."""
    emergency.subscribe(subscription(hospital.url, content="full-resource"))
    emergency.ordered()
    emergency.drafted()
    emergency.signed()
    emergency.turn()
    for status in ("amended", "corrected"):
        emergency.revised(status=status, conclusion=f"Conclusion revue ({status}).", extension=builders.because())
        emergency.turn()
    assert emergency.business == "delivered"
    emergency.revised(status="entered-in-error", extension=builders.because("Autre patient", "wrong-patient"))
    emergency.turn()
    told = [one.body["entry"][1]["resource"] for one in hospital.of("event-notification")]
    assert [one["status"] for one in told] == ["final", "amended", "corrected", "entered-in-error"]
    assert hospital.accepted_numbers == [1, 2, 3, 4]
    assert emergency.business == "report-withdrawn"  # that it has been told is no delivery of a report


def test_the_progress_of_the_order_is_told_to_its_end_and_comes_to_rest(
    emergency: Emergency, hospital: Hospital
) -> None:
    """order-status beside report-signed: `delivered` is an event itself, and its delivery causes no other."""
    emergency.subscribe(subscription(hospital.url))
    orders = emergency.subscribe(subscription(hospital.url, topic=ORDER_STATUS, content="full-resource"))
    emergency.ordered()
    emergency.drafted()
    emergency.signed()
    emergency.turn()
    focuses = [one.body["entry"][1]["resource"] for one in events_of(hospital, ORDER_STATUS)]
    tasks = [one for one in focuses if one["resourceType"] == "Task"]
    business = [one.get("businessStatus", {}).get("coding", [{}])[0].get("code") for one in tasks]
    assert [one for one in business if one in ("signed", "delivered")] == ["signed", "delivered"]
    assert business[-1] == "delivered"
    assert len(events_of(hospital, REPORT_SIGNED)) == 1
    before = len(hospital.received)
    emergency.turn()
    assert len(hospital.received) == before
    status = emergency.api.hospital_a.get(f"Subscription/{orders['id']}/$status").get_json()
    counted = {one["name"]: one for one in status["entry"][0]["resource"]["parameter"]}
    assert int(counted["events-since-subscription-start"]["valueString"]) == len(events_of(hospital, ORDER_STATUS))


def test_what_the_platform_tells_itself_is_no_delivery(emergency: Emergency, hospital: Hospital) -> None:
    """S10 is about the hospital's endpoint: the platform's own subscriber does not count."""
    emergency.subscribe(subscription(hospital.url), emergency.api.platform)
    emergency.ordered()
    emergency.drafted()
    emergency.signed()
    emergency.turn()
    assert hospital.accepted_numbers == [1]
    assert emergency.business == "signed"


def test_r4_criteria_bring_the_report_itself(emergency: Emergency, hospital: Hospital) -> None:
    """R4 §2.46.7.1: PUT [endpoint]/DiagnosticReport/id once it is signed, drafts never; delivered all the same."""
    active = emergency.subscribe(criteria_subscription(hospital.url, "DiagnosticReport?status=final,amended"))
    emergency.ordered()
    emergency.drafted()
    emergency.turn()
    assert hospital.received == []
    emergency.signed()
    emergency.turn()
    (received,) = hospital.received
    assert (received.method, received.path) == ("PUT", f"/notify/{emergency.report_reference}")
    assert received.body == emergency.api.hospital_a.get(emergency.report_reference).get_json()
    assert Webhook(secret_of(active)).verify(received.raw.decode(), received.headers) == received.body
    assert emergency.business == "acknowledged"  # the hospital has opened it above


def test_notifications_are_on_record_and_the_log_verifies(emergency: Emergency, hospital: Hospital) -> None:
    """DESIGN §7: each disclosure to the endpoint, and the delivered mark, are AuditEvents of a log that verifies."""
    emergency.subscribe(subscription(hospital.url, content="full-resource"))
    emergency.ordered()
    emergency.drafted()
    emergency.signed()
    emergency.turn()
    emergency.api.services.ledger.catch_up()
    found = emergency.api.auditor.found(f"AuditEvent?patient={emergency.patient_reference}&_count=500")
    assert [one for one in found if "event-notification" in str(one)]
    assert emergency.api.services.verify_audit().ok
