"""Reports out, end to end: handshake, events, what Inferno's subscriptions test kit asserts.

Backport IG 1.1.0; reference/security-subscriptions.md §3.2, §3.3.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from resources.outcomes import BadRequest, NotFound, Unavailable
from store.access import Access, Interaction, Loop
from store.engine.keyring import Fixed
from subscriptions.acceptance import WEBHOOK_SECRET
from subscriptions.notifications import STATUS_PROFILE
from subscriptions.signature import Keyring
from subscriptions.topics import ORDER_STATUS, REPORT_SIGNED
from tests.subscriptions.hospital import Hospital, Received, Reply
from tests.subscriptions.ward import EHR, KEY, OTHER_EHR, RADIOLOGIST, Ward, report, subscription
from tests.support import BASE_URL


def check_notification(received: Received, subscription_id: str) -> None:
    """Inferno `notification_conformance`, which every kind of notification has to pass."""
    body = received.body
    assert body["resourceType"] == "Bundle"
    assert body["type"] == "history"
    assert "timestamp" in body
    assert all("request" in entry and "response" in entry for entry in body["entry"])
    assert all("method" in entry["request"] and "status" in entry["response"] for entry in body["entry"])
    first = body["entry"][0]
    assert first["request"]["url"].endswith(f"Subscription/{subscription_id}/$status")
    parameters = first["resource"]
    assert parameters["resourceType"] == "Parameters"
    assert parameters["meta"]["profile"] == [STATUS_PROFILE]
    kinds = {
        "subscription": "valueReference", "topic": "valueCanonical", "status": "valueCode", "type": "valueCode",
        "events-since-subscription-start": "valueString", "notification-event": "part",
    }  # fmt: skip
    assert all(kinds[one["name"]] in one for one in parameters["parameter"])
    assert received.status["subscription"]["reference"].endswith(f"/{subscription_id}")
    parts = {"event-number": "valueString", "timestamp": "valueInstant", "focus": "valueReference",
             "additional-context": "valueReference"}  # fmt: skip
    for parameter in parameters["parameter"]:
        assert all(parts[part["name"]] in part for part in parameter.get("part", ()))


def test_a_created_subscription_is_requested_and_its_channel_is_returned(ward: Ward) -> None:
    """Inferno `notification_delivery`, `creation_response_conformance`: also where the client asked for active."""
    made = ward.create(subscription(ward.hospital.url, status="active", headers=["Authorization: Bearer a:b:c"]))
    shown = ward.subscriptions.mask(made.json(), EHR)
    assert shown["status"] == "requested"
    assert shown["channel"]["type"] == "rest-hook"
    assert shown["channel"]["header"] == ["Authorization: Bearer a:b:c"]


def test_one_handshake_makes_a_subscription_active(ward: Ward) -> None:
    """Inferno `handshake_conformance`: one per rest-hook subscription, with status requested."""
    identifier = ward.subscribe()
    ward.turn()
    (handshake,) = ward.hospital.received
    check_notification(handshake, identifier)
    assert handshake.kind == "handshake"
    assert handshake.status["status"] == "requested"
    assert handshake.status["events-since-subscription-start"] == "0"
    assert handshake.headers["content-type"].startswith("application/fhir+json")


@pytest.mark.parametrize(
    "reply", [Reply(500), Reply(404), Reply(302, (("Location", "http://127.0.0.1/"),)), Reply(cut=True)]
)
def test_a_subscription_whose_handshake_fails_is_in_error(ward: Ward, reply: Reply) -> None:
    """Backport §channels: a handshake that is not accepted with 2xx ends in error; redirects are not followed."""
    ward.hospital.replies.append(reply)
    made = ward.create(subscription(ward.hospital.url))
    ward.turn()
    ward.pass_time(600, 60)
    shown = ward.read(made.reference)
    assert shown["status"] == "error"
    assert shown["error"]
    assert len(ward.hospital.received) == 1


def test_a_signed_report_is_notified_by_id(ward: Ward) -> None:
    """Inferno `notification_conformance`, `id_only_conformance`: each event has a focus, other entries no resource."""
    identifier = ward.subscribe(headers=["Authorization: Bearer a:b", "X-Hospital: CH Exemple"])
    who, order = ward.order()
    signed = ward.sign(who, order)
    ward.turn()
    (received,) = ward.hospital.of("event-notification")
    check_notification(received, identifier)
    assert received.status["status"] == "active"
    assert received.status["topic"] == REPORT_SIGNED
    assert received.status["events-since-subscription-start"] == "1"
    (event,) = received.events
    assert event["event-number"] == "1"
    assert event["focus"]["reference"] == f"{BASE_URL}/{signed.reference}"
    assert set(event["additional-context"]) == {f"{BASE_URL}/{who}", f"{BASE_URL}/{order}"}
    assert [entry.get("resource") for entry in received.body["entry"][1:]] == [None] * 3
    assert {entry["fullUrl"] for entry in received.body["entry"][1:]} == {
        event["focus"]["reference"], *event["additional-context"]
    }  # fmt: skip
    assert received.headers["authorization"] == "Bearer a:b"
    assert received.headers["x-hospital"] == "CH Exemple"


def test_an_empty_notification_tells_only_that_something_happened(ward: Ward) -> None:
    """Inferno `empty_conformance`: no other entries, an event without focus or context, no topic."""
    ward.subscribe(content="empty")
    ward.sign()
    ward.turn()
    (received,) = ward.hospital.of("event-notification")
    assert len(received.body["entry"]) == 1
    (event,) = received.events
    assert set(event) == {"event-number", "timestamp", "additional-context"}
    assert event["additional-context"] == []
    assert "topic" not in received.status


def test_a_full_notification_carries_the_event_s_own_version_digit_for_digit(ward: Ward) -> None:
    """Inferno `full_resource_conformance`; a report amended since is still told as it was when it was signed."""
    ward.subscribe(content="full-resource")
    who, order = ward.order()
    signed = ward.sign(who, order, conclusion="Pas de saignement")
    ward.sequence()
    ward.update(signed.id, report(status="amended", subject=who, based_on=order, conclusion="Saignement"), RADIOLOGIST)
    ward.turn()
    first, second = ward.hospital.of("event-notification")
    focus = {entry["fullUrl"]: entry for entry in first.body["entry"][1:]}[first.events[0]["focus"]["reference"]]
    assert focus["resource"]["conclusion"] == "Pas de saignement"
    assert focus["resource"]["meta"]["versionId"] == "1"
    assert focus["request"] == {"method": "POST", "url": "DiagnosticReport"}
    assert all("resource" in entry for entry in first.body["entry"])
    resources = {f"{e['resource']['resourceType']}/{e['resource']['id']}" for e in first.body["entry"][1:]}
    for event in first.events:
        for reference in (event["focus"]["reference"], *event["additional-context"]):
            assert reference.removeprefix(f"{BASE_URL}/") in resources
    assert [entry["resource"].get("conclusion") for entry in second.body["entry"]][1] == "Saignement"
    assert second.body["entry"][1]["request"] == {"method": "PUT", "url": signed.reference}
    for received, told in zip((first, second), disclosures(ward), strict=True):
        left = {
            f"{one['resource']['resourceType']}/{one['resource']['id']}/_history/{one['resource']['meta']['versionId']}"
            for one in received.body["entry"][1:]
        }
        assert {f"{told.type}/{told.id}/_history/{told.version}", *told.context} == left
        assert told.patients == (who,)


def test_what_is_only_named_is_not_recorded_as_disclosed(ward: Ward) -> None:
    """BALP PrivacyDisclosure is about content that leaves; an id-only notification gives none."""
    ward.subscribe(content="id-only")
    who, order = ward.order()
    ward.sign(who, order)
    ward.turn()
    assert [(told.patients, told.context) for told in disclosures(ward)] == [((), ())]


def disclosures(ward: Ward) -> list[Access]:
    """The records of what events told, in order."""
    return [
        access
        for access in ward.trail.disclosed
        if access.interaction is Interaction.NOTIFY and access.type != "Subscription"
    ]


def test_a_preliminary_report_is_not_told(ward: Ward) -> None:
    """The topic report-signed: nobody outside hears of a report that nobody has signed, or ever signed."""
    ward.subscribe()
    draft = ward.sign(status="preliminary")
    ward.turn()
    ward.update(draft.id, report(status="entered-in-error"), RADIOLOGIST)
    ward.turn()
    assert ward.hospital.of("event-notification") == []


@pytest.mark.parametrize("status", ["amended", "corrected", "appended", "entered-in-error"])
def test_whoever_had_the_report_hears_of_its_revision(ward: Ward, status: str) -> None:
    """DESIGN §10: new versions of a signed report are sent to everyone who received the first."""
    ward.subscribe()
    signed = ward.sign()
    ward.update(signed.id, report(status=status), RADIOLOGIST)
    ward.turn()
    assert ward.hospital.accepted_numbers == [1, 2]


def test_the_hospital_hears_how_its_order_fares(ward: Ward) -> None:
    """The topic order-status: the order's own status, and the root Task's; the steps inside are the platform's."""
    ward.subscribe(topic=ORDER_STATUS)
    _, order = ward.order()
    task = {"resourceType": "Task", "status": "requested", "intent": "order", "focus": {"reference": order}}
    root = ward.create(task, RADIOLOGIST)
    ward.create({**task, "partOf": [{"reference": root.reference}]}, RADIOLOGIST)
    ward.update(root.id, {**task, "status": "accepted"}, RADIOLOGIST)
    ward.update(root.id, {**task, "status": "accepted", "note": [{"text": "x"}]}, RADIOLOGIST)
    ward.update(
        root.id, {**task, "status": "accepted", "businessStatus": {"coding": [{"code": "protocolled"}]}}, RADIOLOGIST
    )
    ward.update(root.id, {**task, "status": "completed"}, RADIOLOGIST)
    ward.turn()
    told = [
        event["focus"]["reference"].removeprefix(f"{BASE_URL}/")
        for r in ward.hospital.of("event-notification")
        for event in r.events
    ]
    assert told == [order, *[root.reference] * 4]


@pytest.mark.parametrize(
    ("filters", "told"),
    [
        (["DiagnosticReport?patient=Patient/p"], True),
        (["DiagnosticReport.patient=Patient/p"], True),
        (["patient=Patient/p"], True),
        (["patient=Patient/other"], False),
        (["DiagnosticReport?status=amended"], False),
        (["status=final,amended", "code=24725-4"], True),
        (["status=final", "code=99999-9"], False),
        (["DiagnosticReport?status=final&code=http://loinc.org|24725-4"], True),
        (["status:not=final"], False),
    ],
)
def test_every_filter_must_hold(ward: Ward, filters: list[str], told: bool) -> None:
    """Backport: filters are joined by AND; the text, the examples and the test kit each use another notation."""
    ward.subscribe(filters=filters)
    ward.sign()
    ward.turn()
    assert len(ward.hospital.of("event-notification")) == int(told)


def test_a_notification_is_signed_as_standard_webhooks_say(ward: Ward) -> None:
    """Standard Webhooks 1.0.0, verified by its own library with the secret that the subscriber was shown."""
    made = ward.create(subscription(ward.hospital.url))
    secret = next(
        one["valueString"]
        for one in ward.subscriptions.mask(made.json(), EHR)["extension"]
        if one["url"] == WEBHOOK_SECRET
    )
    ward.turn()
    ward.sign()
    ward.hospital.replies.append(Reply(503))
    ward.turn()
    ward.pass_time(3)
    refused, accepted = ward.hospital.of("event-notification")
    assert refused.headers["webhook-id"] == accepted.headers["webhook-id"] == f"sub/{made.id}/1-1"
    assert refused.headers["webhook-timestamp"] <= accepted.headers["webhook-timestamp"]
    webhook = Webhook(secret)
    for received in ward.hospital.received:
        _verify(webhook, received.raw, received.headers)
    with pytest.raises(WebhookVerificationError):
        _verify(webhook, accepted.raw.replace(b"active", b"error "), accepted.headers)
    with pytest.raises(WebhookVerificationError):
        _verify(Webhook(Keyring(Fixed(KEY)).secret(made.id, "another client")), accepted.raw, accepted.headers)


def _verify(webhook: Webhook, raw: bytes, headers: dict[str, str]) -> None:
    """The library compares the timestamp with the machine's clock, which is not the test's."""
    at = datetime.fromtimestamp(int(headers["webhook-timestamp"]), UTC)
    expected = webhook.sign(headers["webhook-id"], at, raw.decode())
    if expected not in headers["webhook-signature"].split(" "):
        raise WebhookVerificationError("no matching signature")


def test_events_are_batched_up_to_max_count(ward: Ward) -> None:
    """Backport backport-max-count; one request in flight, numbers in order."""
    identifier = ward.subscribe(max_count=10)
    for _ in range(25):
        ward.sign()
    ward.turn()
    batches = [received.numbers for received in ward.hospital.of("event-notification")]
    assert batches == [list(range(1, 11)), list(range(11, 21)), list(range(21, 26))]
    assert [r.headers["webhook-id"] for r in ward.hospital.of("event-notification")] == [
        f"sub/{identifier}/1-10", f"sub/{identifier}/11-20", f"sub/{identifier}/21-25"
    ]  # fmt: skip
    assert ward.hospital.most_in_flight == 1


def test_a_heartbeat_comes_where_it_was_asked_for(ward: Ward, other_hospital: Hospital) -> None:
    """Inferno `heartbeat_conformance`: at least one if a period is set, none if not; heartbeats are not counted."""
    identifier = ward.subscribe(heartbeat_s=20)
    ward.subscribe(endpoint=other_hospital.url)
    ward.pass_time(60)
    beats = ward.hospital.of("heartbeat")
    assert 2 <= len(beats) <= 4
    check_notification(beats[0], identifier)
    assert beats[0].status["status"] == "active"
    assert {beat.status["events-since-subscription-start"] for beat in beats} == {"0"}
    assert other_hospital.of("heartbeat") == []


def test_status_tells_where_a_subscription_is(ward: Ward) -> None:
    """Inferno `status_invocation`: a searchset with the Parameters of that subscription."""
    identifier = ward.subscribe()
    ward.sign()
    ward.turn()
    answer = ward.operation("status", identifier)
    assert answer["type"] == "searchset"
    (entry,) = answer["entry"]
    values = {one["name"]: one for one in entry["resource"]["parameter"]}
    assert entry["resource"]["meta"]["profile"] == [STATUS_PROFILE]
    assert values["subscription"]["valueReference"]["reference"] == f"{BASE_URL}/Subscription/{identifier}"
    assert values["type"]["valueCode"] == "query-status"
    assert values["status"]["valueCode"] == "active"
    assert values["events-since-subscription-start"]["valueString"] == "1"


def test_status_of_the_type_lists_the_organisation_s_own(ward: Ward, other_hospital: Hospital) -> None:
    """$status at type level, filtered by id and status; another organisation's are as if they were not there."""
    mine, second = ward.subscribe(), ward.subscribe()
    theirs = ward.subscribe(OTHER_EHR, endpoint=other_hospital.url)
    ward.update(second, subscription(ward.hospital.url, status="off"))
    assert ward.operation("status", None)["total"] == 2
    assert ward.operation("status", None, ("status", "off"))["total"] == 1
    assert ward.operation("status", None, ("id", mine), ("id", theirs))["total"] == 1
    with pytest.raises(NotFound):
        ward.operation("status", theirs)


def test_events_recovers_what_was_missed(ward: Ward) -> None:
    """$events with both bounds included, and the content asked for; a history Bundle of type query-event."""
    identifier = ward.subscribe()
    for _ in range(5):
        ward.sign()
    ward.turn()
    answer = ward.operation("events", identifier, ("eventsSinceNumber", "2"), ("eventsUntilNumber", "4"))
    received = Received("", {}, b"", Reply(), answer)
    check_notification(received, identifier)
    assert received.kind == "query-event"
    assert received.numbers == [2, 3, 4]
    full = ward.operation("events", identifier, ("eventsSinceNumber", "5"), ("content", "full-resource"))
    assert full["entry"][1]["resource"]["resourceType"] == "DiagnosticReport"
    assert ward.trail.disclosed[-1].patients == ("Patient/p",)
    for wrong in (("content", "everything"), ("eventsSinceNumber", "-1"), ("eventsSinceNumber", "x")):
        with pytest.raises(BadRequest):
            ward.operation("events", identifier, wrong)


def test_what_happened_before_the_subscription_is_not_told(ward: Ward) -> None:
    """Backport: events since the subscription began, even if the sequencer had not yet looked at the earlier ones."""
    ward.sign()
    made = ward.create(subscription(ward.hospital.url))
    ward.sign()
    ward.turn()
    assert ward.hospital.accepted_numbers == [1]
    assert ward.state(made.id).events == 1


def test_a_subscription_that_is_off_hears_nothing(ward: Ward) -> None:
    """R4 Subscription.status off; turned on again it goes on counting from where it was."""
    identifier = ward.subscribe()
    ward.sign()
    ward.turn()
    ward.update(identifier, subscription(ward.hospital.url, status="off"))
    ward.sign()
    ward.turn()
    ward.update(identifier, subscription(ward.hospital.url))
    ward.turn()
    ward.sign()
    ward.turn()
    assert ward.hospital.accepted_numbers == [1, 2]
    assert len(ward.hospital.of("handshake")) == 2


def test_a_deleted_subscription_hears_nothing(ward: Ward) -> None:
    """R4 §2.46: deleted is ended, also with events waiting."""
    identifier = ward.subscribe()
    ward.sign()
    ward.sequence()
    with ward.store.work(EHR) as uow:
        uow.resources.delete("Subscription", identifier)
    ward.turn()
    assert ward.hospital.of("event-notification") == []


def test_a_subscription_ends_at_its_end(ward: Ward) -> None:
    """R4 Subscription.end: the server turns it off."""
    identifier = ward.subscribe(end="2026-06-01T09:00:00Z")
    ward.clock.advance(hours=1)
    ward.subscriptions.maintain()
    ward.sign()
    ward.turn()
    assert ward.read(f"Subscription/{identifier}")["status"] == "off"
    assert ward.hospital.of("event-notification") == []


def test_each_delivery_is_on_record_before_it_leaves(ward: Ward) -> None:
    """BALP PrivacyDisclosure: with the patients where content leaves, without where only an id does."""
    ward.subscribe(content="full-resource")
    ward.sign()
    ward.turn()
    record = ward.trail.disclosed[-1]
    assert (record.interaction, record.type, record.patients) == ("notify", "DiagnosticReport", ("Patient/p",))
    assert dict(record.detail)["events"] == "1-1"


def test_what_cannot_be_recorded_is_not_sent(ward: Ward) -> None:
    """DESIGN §3: nothing is disclosed unless its record is durable; it goes out once the record can be written."""
    ward.subscribe()
    ward.sign()
    ward.sequence()
    ward.trail.failure = Unavailable("the ledger cannot be written")
    ward.turn()
    ward.pass_time(5)
    assert ward.hospital.of("event-notification") == []
    ward.trail.failure = None
    ward.pass_time(2)
    assert ward.hospital.accepted_numbers == [1]


def test_the_loops_deliver_by_themselves(ward: Ward) -> None:
    """As the background process turns them: each in a thread, woken by commits."""
    ward.subscriptions.close()
    ward.subscriptions = ward.assemble()
    stopping = threading.Event()

    def turn(loop: Loop) -> None:
        while not stopping.is_set():
            if not loop.step():
                ward.store.database.wait_for(loop.wake, min(loop.rest_s, 0.2))

    threads = [threading.Thread(target=turn, args=(loop,)) for loop in ward.subscriptions.loops]
    for thread in threads:
        thread.start()
    made = ward.create(subscription(ward.hospital.url))
    _until(lambda: ward.read(made.reference)["status"] == "active")
    for _ in range(5):
        ward.sign()
    _until(lambda: len(ward.hospital.accepted_numbers) == 5)
    stopping.set()
    for thread in threads:
        thread.join()
    assert ward.hospital.accepted_numbers == [1, 2, 3, 4, 5]


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert holds()
