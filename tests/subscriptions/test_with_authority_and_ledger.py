"""The package with the real permit and the real audit log: what the other tests' plain ones might hide."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from audit.checkpoint import create
from audit.service import Ledger
from auth.service import Authority
from store.access import Caller
from store.engine.database import Database
from store.engine.keyring import Fixed
from store.unit_of_work import Store
from subscriptions.endpoints import EndpointPolicy
from subscriptions.service import Subscriptions, SubscriptionSettings
from subscriptions.topics import ORDER_STATUS
from tests.subscriptions.hospital import Hospital
from tests.subscriptions.ward import KEY, report, subscription
from tests.support import BASE_URL, PLATFORM, Clock, patient, service_request


class Service:
    """A deployment of two hospitals and the platform."""

    def __init__(self, database: Database, folder: Path, clock: Clock) -> None:
        signer = create(folder / "key", "vigie.example/audit")
        self.ledger = Ledger(
            database, signer, observer="Device/vigie", base_url=BASE_URL, platform=PLATFORM, clock=clock
        )
        self.authority = Authority(
            database, trail=self.ledger, platform=PLATFORM, origins=("http://localhost:8080",), clock=clock
        )
        self.store = Store(
            database, permit=self.authority.permit, trail=self.ledger, clock=clock, platform=PLATFORM,
            base_urls=(BASE_URL,), keys=Fixed(b"x" * 32),
        )  # fmt: skip
        settings = SubscriptionSettings(Fixed(KEY), BASE_URL, EndpointPolicy(allow_insecure_loopback=True))
        self.subscriptions = Subscriptions(self.store, self.authority.caller_of, settings, clock=clock)
        self.store.observers += [*self.authority.observers, self.subscriptions.observer]
        with self.store.work(Caller.system(PLATFORM)) as uow:
            for name in ("hospital-a", "hospital-b", PLATFORM):
                uow.resources.update("Organization", name, {"resourceType": "Organization", "name": name})

    def client(self, organization: str, scope: str) -> Caller:
        made, _ = self.authority.clients.add(f"client of {organization}", organization, scope, "ehr")
        found = self.authority.caller_of(made.client_id)
        assert found is not None
        return found

    def turn(self) -> None:
        while self.subscriptions.sequencer.step():
            pass
        while self.subscriptions.dispatcher.step():
            self.subscriptions.dispatcher.drain()
            while self.subscriptions.sequencer.step():
                pass


@pytest.fixture
def service(database: Database, tmp_path: Path, clock: Clock) -> Iterator[Service]:
    made = Service(database, tmp_path, clock)
    yield made
    made.subscriptions.close()
    made.ledger.close()


def test_a_report_goes_to_the_hospital_that_asked_and_stops_with_its_client(
    service: Service, hospital: Hospital, other_hospital: Hospital
) -> None:
    """DESIGN §6, §9: once signed, to the requesting hospital alone; nothing after its client is revoked (L15)."""
    ehr = service.client("hospital-a", "system/*.cruds")
    other = service.client("hospital-b", "system/*.cruds")
    ris = service.client(PLATFORM, "system/*.cruds")
    with service.store.work(ehr) as uow:
        who = uow.resources.create("Patient", patient())
        order = uow.resources.create("ServiceRequest", service_request(who.reference))
        uow.resources.create("Subscription", subscription(hospital.url, content="full-resource"))
    with service.store.work(other) as uow:
        uow.resources.create("Subscription", subscription(other_hospital.url, content="full-resource"))
        uow.resources.create("Subscription", subscription(other_hospital.url, topic=ORDER_STATUS))
    service.turn()
    with service.store.work(ris) as uow:
        draft = uow.resources.create(
            "DiagnosticReport", report(status="preliminary", subject=who.reference, based_on=order.reference)
        )
    service.turn()
    assert hospital.of("event-notification") == []
    with service.store.work(ris) as uow:
        uow.resources.update("DiagnosticReport", draft.id, report(subject=who.reference, based_on=order.reference))
    service.turn()
    (received,) = hospital.of("event-notification")
    assert {entry["resource"]["resourceType"] for entry in received.body["entry"][1:]} == {
        "DiagnosticReport", "ServiceRequest", "Patient"
    }  # fmt: skip
    assert {one.kind for one in other_hospital.received} == {"handshake"}
    with service.store.work(ris) as uow:
        uow.resources.update(
            "DiagnosticReport", draft.id, report(status="amended", subject=who.reference, based_on=order.reference)
        )
    while service.subscriptions.sequencer.step():
        pass
    service.authority.clients.disable(ehr.client_id)
    service.turn()
    assert len(hospital.of("event-notification")) == 1
    service.ledger.catch_up()
    events = _notifications(service)
    assert [event["outcome"] for event in events if event["action"]].count("8") == 1
    disclosed = [event for event in events if event["outcome"] == "0" and who.reference in str(event)]
    assert len(disclosed) == 1


def _notifications(service: Service) -> list[dict[str, str]]:
    """AuditEvents that name the subscription's notification of events, as an auditor finds them."""
    with service.store.work(Caller.system(PLATFORM), write=False) as uow:
        found = uow.resources.find("AuditEvent", [("_count", "1000")])
    return [event.json() for event in found if "event-notification" in event.content.decode()]
