"""What the tests of this package work with: the assembled package, and a few sentences about it."""

from __future__ import annotations

from typing import Any

from resources.json import Json
from store.access import Audience, Caller, Version
from store.engine.keyring import Fixed
from store.unit_of_work import Store
from subscriptions import leases, outbox, terms
from subscriptions.endpoints import EndpointPolicy
from subscriptions.leases import Attempt
from subscriptions.outbox import State
from subscriptions.service import Subscriptions, SubscriptionSettings
from subscriptions.topics import REPORT_SIGNED
from tests.subscriptions.hospital import Hospital
from tests.support import BASE_URL, PLATFORM, Clock, MemoryTrail, OpenPermit, caller, patient, service_request

KEY = b"a key for tests, 32 bytes long.."
EHR = caller("hospital-a", client_id="ehr-a")
OTHER_EHR = caller("hospital-b", client_id="ehr-b")
RADIOLOGIST = caller(PLATFORM, client_id="ris")


def subscription(endpoint: str, *, topic: str = REPORT_SIGNED, content: str | None = "id-only", **more: Any) -> Json:
    """A rest-hook Subscription to a topic. `filters`, `headers`, `heartbeat_s`, `timeout_s`, `max_count` by keyword."""
    channel: Json = {"type": "rest-hook", "endpoint": endpoint, "payload": "application/fhir+json"}
    if content is not None:
        channel["_payload"] = {"extension": [{"url": terms.PAYLOAD_CONTENT, "valueCode": content}]}
    extensions = [
        {"url": url, terms.CHANNEL_EXTENSIONS[url]: more.pop(name)}
        for name, url in (
            ("heartbeat_s", terms.HEARTBEAT),
            ("timeout_s", terms.TIMEOUT),
            ("max_count", terms.MAX_COUNT),
        )
        if name in more
    ]
    if extensions:
        channel["extension"] = extensions
    if "headers" in more:
        channel["header"] = more.pop("headers")
    body: Json = {
        "resourceType": "Subscription",
        "status": "requested",
        "reason": "Comptes rendus signés",
        "criteria": topic,
        "channel": channel,
    }
    if "filters" in more:
        body["_criteria"] = {"extension": [{"url": terms.FILTER, "valueString": text} for text in more.pop("filters")]}
    return {**body, **more}


def criteria_subscription(endpoint: str, criteria: str, *, payload: bool = True, **more: Any) -> Json:
    """A Subscription in R4's own form."""
    channel: Json = {"type": "rest-hook", "endpoint": endpoint}
    if payload:
        channel["payload"] = "application/fhir+json"
    if "headers" in more:
        channel["header"] = more.pop("headers")
    return {"resourceType": "Subscription", "status": "requested", "reason": "Surveillance", "criteria": criteria,
            "channel": channel, **more}  # fmt: skip


def report(*, status: str = "final", subject: str = "Patient/p", based_on: str | None = None, **more: Any) -> Json:
    body: Json = {
        "resourceType": "DiagnosticReport",
        "status": status,
        "code": {"coding": [{"system": "http://loinc.org", "code": "24725-4"}]},
        "subject": {"reference": subject},
    }
    if based_on is not None:
        body["basedOn"] = [{"reference": based_on}]
    return {**body, **more}


class Ward:
    """The package on a real store. Time is the test's clock; the endpoint is real."""

    def __init__(
        self, store: Store, clock: Clock, permit: OpenPermit, trail: MemoryTrail, hospital: Hospital, **settings: Any
    ) -> None:
        self.store = store
        self.clock = clock
        self.permit = permit
        self.trail = trail
        self.hospital = hospital
        self.clients: dict[str, Caller] = {one.client_id: one for one in (EHR, OTHER_EHR, RADIOLOGIST)}
        self.policy = settings.pop("policy", EndpointPolicy(allow_insecure_loopback=True))
        self.settings = settings
        self.subscriptions = self.assemble()
        store.observers.append(self.subscriptions.observer)
        permit.audiences = {
            name: Audience("hospital-a", frozenset({"hospital-a", PLATFORM}))
            for name in ("DiagnosticReport", "ServiceRequest", "Task", "Patient")
        }

    def assemble(self, store: Store | None = None) -> Subscriptions:
        """The package as a process that has just started has it."""
        settings = SubscriptionSettings(keys=Fixed(KEY), base_url=BASE_URL, endpoints=self.policy, **self.settings)
        return Subscriptions(store or self.store, self.clients.get, settings, clock=self.clock)

    def restart(self) -> None:
        """As after a crash: a new process, once the dead one's leases have run out."""
        self.subscriptions.close()
        self.store.observers.clear()
        self.subscriptions = self.assemble()
        self.store.observers.append(self.subscriptions.observer)
        self.clock.advance(seconds=60)

    def close(self) -> None:
        self.subscriptions.close()

    # What clients do

    def create(self, resource: Json, who: Caller = EHR, *, id: str | None = None) -> Version:
        with self.store.work(who) as uow:
            return uow.resources.create(resource["resourceType"], resource, id=id)

    def update(self, id: str, resource: Json, who: Caller = EHR) -> Version:
        with self.store.work(who) as uow:
            return uow.resources.update(resource["resourceType"], id, resource)

    def read(self, reference: str, who: Caller = EHR) -> Json:
        type_name, _, identifier = reference.partition("/")
        with self.store.work(who, write=False) as uow:
            version = uow.resources.read(type_name, identifier)
        return dict(self.subscriptions.mask(version.json(), who))

    def operation(self, name: str, id: str | None, *parameters: tuple[str, str], who: Caller = EHR) -> Json:
        with self.store.work(who, write=False) as uow:
            return self.subscriptions.operations[name](uow, id, parameters, BASE_URL)

    def subscribe(self, who: Caller = EHR, *, endpoint: str | None = None, **more: Any) -> str:
        """An active subscription: created, and its handshake accepted."""
        made = self.create(subscription(endpoint or self.hospital.url, **more), who)
        self.turn()
        assert self.read(made.reference, who)["status"] == "active"
        return made.id

    def order(self) -> tuple[str, str]:
        """A patient and an order; returns their references."""
        who = self.create(patient())
        asked = self.create(service_request(who.reference))
        return who.reference, asked.reference

    def sign(self, who: str = "Patient/p", order: str | None = None, **more: Any) -> Version:
        """A signed report. Its patient is made if there is none."""
        if who == "Patient/p":
            self.update("p", patient())
        return self.create(report(subject=who, based_on=order, **more), RADIOLOGIST)

    # What the background process does

    def sequence(self) -> None:
        while self.subscriptions.sequencer.step():
            pass

    def turn(self, rounds: int = 50) -> None:
        """Turn the loops until nothing is due at the present time."""
        for _ in range(rounds):
            self.sequence()
            worked = self.subscriptions.dispatcher.step()
            self.subscriptions.dispatcher.drain()
            if not worked:
                return
        raise AssertionError("the loops do not come to rest")

    def pass_time(self, seconds: float, step_s: float = 1) -> None:
        """Let time pass, turning the loops."""
        left = seconds
        while left > 0:
            self.clock.advance(seconds=min(step_s, left))
            left -= step_s
            self.turn()

    # What there is

    def state(self, id: str) -> State:
        with self.store.database.read() as connection:
            found = outbox.state(connection, id)
        assert found is not None
        return found

    def attempts(self, id: str) -> list[Attempt]:
        """Oldest first."""
        with self.store.database.read() as connection:
            return list(reversed(leases.attempts_of(connection, id)))
