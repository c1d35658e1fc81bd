"""Subscriptions in R4's own form: `criteria` is a search, the channel sends the resource or nothing at all.

R4 §2.46 http://hl7.org/fhir/R4/subscription.html
"""

from __future__ import annotations

from copy import deepcopy
from datetime import UTC, datetime
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook

from resources.json import Json
from resources.outcomes import InvalidContent
from store.access import Audience, Outcome
from subscriptions import terms
from subscriptions.acceptance import MASKED, SUBSCRIBER, WEBHOOK_SECRET
from subscriptions.endpoints import EndpointPolicy
from tests.subscriptions.hospital import Hospital, Received, Reply
from tests.subscriptions.ward import (
    EHR,
    OTHER_EHR,
    RADIOLOGIST,
    Ward,
    criteria_subscription,
    report,
    subscription,
)
from tests.support import PLATFORM, patient

URL = "http://127.0.0.1:9/fhir"
GLUCOSE = "http://loinc.org|2345-7"


def observation(code: str = "2345-7", value: str = "5.40", **more: Any) -> Json:
    return {
        "resourceType": "Observation",
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": code}]},
        "valueString": value,
        **more,
    }


def listen(ward: Ward, criteria: str, *, payload: bool = True, **more: Any) -> str:
    """An active subscription of the hospital's."""
    who, endpoint = more.pop("who", EHR), more.pop("endpoint", ward.hospital.url)
    made = ward.create(criteria_subscription(endpoint, criteria, payload=payload, **more), who)
    ward.turn()
    assert ward.read(made.reference, who)["status"] == "active"
    return made.id


@pytest.fixture(autouse=True)
def _hospital_s_observations(ward: Ward) -> None:
    ward.permit.audiences["Observation"] = Audience("hospital-a", frozenset({"hospital-a", PLATFORM}))


def test_the_server_activates_without_a_word_to_the_endpoint(ward: Ward) -> None:
    """R4 Subscription.status: requested by the client, active by the server; the core has no handshake."""
    for asked in ("requested", "active", "error"):
        made = ward.create(criteria_subscription(ward.hospital.url, "Observation?status=final", status=asked))
        assert made.json()["status"] == "requested"
        ward.turn()
        assert ward.read(made.reference)["status"] == "active"
    assert ward.hospital.received == []


def test_a_host_on_a_private_address_is_found_out_before_it_is_active(ward: Ward) -> None:
    """§3.6: the DNS is asked outside the write; who resolves to a private address ends in error."""
    ward.policy = EndpointPolicy(resolver=lambda host, port: ["10.1.2.3"])
    ward.restart()
    made = ward.create(criteria_subscription("https://hospital.example/fhir", "Observation?status=final"))
    ward.turn()
    shown = ward.read(made.reference)
    assert shown["status"] == "error"
    assert "non-public" in shown["error"]


def test_every_version_that_matches_is_sent_by_an_update_below_the_endpoint(ward: Ward) -> None:
    """R4 §2.46.7.1: with a payload PUT [endpoint]/Type/id with the resource; on create and on each update that
    (still) matches, not on one that no longer does, nor on a delete."""
    identifier = listen(ward, f"Observation?code={GLUCOSE}&status=final", headers=["Authorization: Bearer a:b"])
    ward.create(observation("718-7"))
    made = ward.create(observation())
    ward.update(made.id, observation(value="6.10"))
    ward.update(made.id, observation(status="entered-in-error"))
    ward.update(made.id, observation(value="7.00"))
    with ward.store.work(EHR) as uow:
        uow.resources.delete("Observation", made.id)
    ward.turn()
    assert [one.method for one in ward.hospital.received] == ["PUT"] * 3
    assert {one.path for one in ward.hospital.received} == {f"/notify/Observation/{made.id}"}
    assert [one.body["valueString"] for one in ward.hospital.received] == ["5.40", "6.10", "7.00"]
    assert [one.body["meta"]["versionId"] for one in ward.hospital.received] == ["1", "2", "4"]
    assert ward.hospital.received[0].raw == made.content
    for number, received in enumerate(ward.hospital.received, 1):
        assert received.headers["content-type"] == "application/fhir+json"
        assert received.headers["authorization"] == "Bearer a:b"
        assert received.headers["webhook-id"] == f"sub/{identifier}/{number}-{number}"
        _is_signed(ward, identifier, received)
    assert ward.state(identifier).events == ward.state(identifier).delivered == 3


def test_without_a_payload_a_match_is_a_post_without_a_body(ward: Ward) -> None:
    """R4 §2.46.7.1, Subscription.channel.payload: omitted, nothing but the knock."""
    identifier = listen(ward, "Observation?status=final", payload=False, headers=["X-Hospital: A"])
    ward.trail.clear()
    ward.create(observation(subject={"reference": ward.create(patient()).reference}))
    ward.turn()
    (received,) = ward.hospital.received
    assert (received.method, received.path, received.raw) == ("POST", "/notify", b"")
    assert received.headers["content-length"] == "0"
    assert received.headers["x-hospital"] == "A"
    assert "content-type" not in received.headers
    _is_signed(ward, identifier, received)
    (record,) = [access for access in ward.trail.disclosed if access.interaction == "notify"]
    assert record.patients == ()


def _is_signed(ward: Ward, identifier: str, received: Received) -> None:
    secret = next(
        one["valueString"]
        for one in ward.read(f"Subscription/{identifier}")["extension"]
        if one["url"] == WEBHOOK_SECRET
    )
    signed = {name: value for name, value in received.headers.items() if name.startswith("webhook-")}
    # Its verify() asks for the present time, and the ward has a clock of its own.
    at = datetime.fromtimestamp(int(signed["webhook-timestamp"]), UTC)
    expected = Webhook(secret).sign(signed["webhook-id"], at, received.raw.decode())
    assert signed["webhook-signature"] == expected


def test_the_whole_type_may_be_asked_for(ward: Ward) -> None:
    """`Observation` and `Observation?` are searches as well; an endpoint's query stays at the end."""
    for criteria in ("Observation", "Observation?"):
        listen(ward, criteria, endpoint=f"{ward.hospital.url}/?site=1")
    made = ward.create(observation())
    ward.turn()
    assert [one.path for one in ward.hospital.received] == [f"/notify/Observation/{made.id}?site=1"] * 2


REFUSED = [
    ("Encounter.status=finished", "another notation"),
    ("Zebra?stripes=1", "no type"),
    ("Observation?shoe=1", "an unknown parameter"),
    ("Observation?patient.name=x", "a chain"),
    ("Observation?subject:Patient.name=x", "a typed chain"),
    ("Observation?_has:Provenance:target:agent=x", "_has"),
    ("Observation?date=yesterday", "a malformed value"),
    ("Observation?code:shiny=1", "an unknown modifier"),
    ("Observation?_sort=date", "sorting"),
    ("Observation?_count=3", "paging"),
    ("Observation?_include=Observation:subject", "including"),
    ("Observation?_elements=status", "a part of the resource"),
    ("AuditEvent?action=R", "what delivery itself writes"),
    ("Subscription?status=active", "what delivery itself writes, too"),
    ("/Observation?status=final", "a path"),
    ("", "nothing"),
]


@pytest.mark.parametrize("criteria", [row[0] for row in REFUSED], ids=[row[1] for row in REFUSED])
def test_criteria_that_one_version_cannot_be_judged_by_are_refused(ward: Ward, criteria: str) -> None:
    """Never accepted and then silently narrower or wider than asked: 422 at Subscription.criteria, and nothing kept."""
    with pytest.raises(InvalidContent) as refused:
        ward.create(criteria_subscription(URL, criteria))
    assert [issue.expression for issue in refused.value.issues] == [("Subscription.criteria",)]


@pytest.mark.parametrize("channel", ["websocket", "email", "sms", "message"])
def test_other_channels_are_refused(ward: Ward, channel: str) -> None:
    """R4 §2.46.7.2 to §2.46.7.5 are not served, and say so."""
    asked = criteria_subscription(URL, "Observation?status=final")
    asked["channel"]["type"] = channel
    with pytest.raises(InvalidContent) as refused:
        ward.create(asked)
    assert refused.value.issues[0].expression == ("Subscription.channel.type",)


def test_what_belongs_to_a_topic_is_refused_beside_criteria(ward: Ward) -> None:
    """Backport extensions would be ignored here: they are refused, each with its place."""
    asked = criteria_subscription(URL, "Observation?status=final")
    asked["_criteria"] = {"extension": [{"url": terms.FILTER, "valueString": "Observation?code=1"}]}
    asked["channel"]["_payload"] = {"extension": [{"url": terms.PAYLOAD_CONTENT, "valueCode": "id-only"}]}
    asked["channel"]["extension"] = [
        {"url": terms.HEARTBEAT, "valueUnsignedInt": 60}, {"url": terms.MAX_COUNT, "valuePositiveInt": 2},
        {"url": terms.TIMEOUT, "valueUnsignedInt": 5},
    ]  # fmt: skip
    with pytest.raises(InvalidContent) as refused:
        ward.create(asked)
    assert {issue.expression[0] for issue in refused.value.issues} == {
        "Subscription.criteria.extension[0]", "Subscription.channel.payload.extension",
        "Subscription.channel.extension[0]", "Subscription.channel.extension[1]",
    }  # fmt: skip


def test_another_payload_is_refused(ward: Ward) -> None:
    """Only what can be produced is promised."""
    asked = criteria_subscription(URL, "Observation?status=final")
    asked["channel"]["payload"] = "application/fhir+xml"
    with pytest.raises(InvalidContent) as refused:
        ward.create(asked)
    assert refused.value.issues[0].expression == ("Subscription.channel.payload",)


def test_another_hospital_s_resources_are_not_sent(ward: Ward, other_hospital: Hospital) -> None:
    """L15: rights are asked when it is numbered; what may not be seen has no number."""
    theirs = listen(ward, "Observation", who=OTHER_EHR, endpoint=other_hospital.url)
    ward.create(observation())
    ward.turn()
    assert other_hospital.received == []
    assert ward.state(theirs).events == 0


def test_rights_lost_before_sending_suppress_the_resource(ward: Ward) -> None:
    """L15: asked again when it is sent, on record as suppressed."""
    identifier = listen(ward, "Observation")
    ward.create(observation())
    ward.sequence()
    ward.permit.forbidden.add(("hospital-a", "Observation"))
    ward.trail.clear()
    ward.turn()
    assert ward.hospital.received == []
    assert ward.state(identifier).delivered == 1
    (record,) = [access for access in ward.trail.appended if access.interaction == "notify"]
    assert record.outcome is Outcome.SERIOUS


def test_an_endpoint_that_was_down_gets_everything_in_order(ward: Ward) -> None:
    """The same outbox: retries, one at a time, the version that matched even where it is no longer current."""
    listen(ward, "Observation")
    ward.hospital.always = Reply(503)
    made = ward.create(observation(value="1"))
    ward.turn()
    ward.update(made.id, observation(value="2"))
    ward.pass_time(30)
    ward.hospital.always = Reply()
    ward.pass_time(120)
    accepted = [one for one in ward.hospital.received if one.reply.status == 200]
    assert [one.body["valueString"] for one in accepted] == ["1", "2"]
    assert len({one.headers["webhook-id"] for one in ward.hospital.received}) == 2


def test_status_and_events_serve_criteria_too(ward: Ward) -> None:
    """$status and $events fill gaps, whatever form was asked for; there is no topic to name."""
    identifier = listen(ward, "Observation")
    made = ward.create(observation())
    ward.turn()
    status = ward.operation("status", identifier)["entry"][0]["resource"]["parameter"]
    names = {one["name"]: one for one in status}
    assert "topic" not in names
    assert names["events-since-subscription-start"]["valueString"] == "1"
    answer = ward.operation("events", identifier)
    assert [entry["resource"]["id"] for entry in answer["entry"][1:]] == [made.id]


def test_a_published_topic_s_type_may_be_asked_for_by_criteria(ward: Ward) -> None:
    """Both forms side by side, each with its own numbers."""
    topical = ward.subscribe()
    plain = listen(ward, "DiagnosticReport?status=final,amended")
    signed = ward.sign()
    ward.update(signed.id, report(status="amended"), RADIOLOGIST)
    ward.turn()
    kinds = sorted(received.kind for received in ward.hospital.received)
    assert kinds == ["event-notification"] * 2 + ["handshake"] + ["update"] * 2
    assert ward.state(topical).events == ward.state(plain).events == 2


def test_nothing_is_noted_of_types_that_nobody_asks_about(ward: Ward) -> None:
    """A write costs the outbox a row only where somebody may listen."""
    ward.create(observation())
    identifier = listen(ward, "Observation")
    ward.create(observation())
    ward.turn()
    assert ward.state(identifier).events == 1
    ward.update(identifier, criteria_subscription(ward.hospital.url, "Observation", status="off"))
    ward.create(observation())
    ward.turn()
    assert len(ward.hospital.received) == 1


OVER: Json = {"end": "2021-01-01T00:00:00Z", "error": "Socket Error 10060 - can't connect to host"}


@pytest.mark.parametrize("status", ["error", "off"])
def test_a_subscription_that_is_over_is_kept_as_it_is(ward: Ward, status: str) -> None:
    """R4 example `example-error`: history of another system is storable, and nothing is ever sent for it."""
    asked = criteria_subscription(ward.hospital.url, "Observation", headers=["X-Key: s3cret"], **OVER, status=status)
    sent = deepcopy(asked)
    made = ward.create(asked)
    ward.create(observation())
    ward.turn()
    shown = ward.read(made.reference)
    assert {name: value for name, value in shown.items() if name not in ("id", "meta")} == sent
    assert b"s3cret" not in made.content
    other = ward.subscriptions.mask(made.json(), OTHER_EHR)
    assert other["channel"]["header"] == [f"X-Key: {MASKED}"]
    assert "extension" not in other
    assert ward.hospital.received == []
    parameters = ward.operation("status", made.id)["entry"][0]["resource"]["parameter"]
    assert {"name": "status", "valueCode": status} in parameters
    assert len(ward.operation("events", made.id)["entry"]) == 1


def test_a_subscription_that_is_over_can_be_asked_for_anew(ward: Ward) -> None:
    """A new `end` and `requested`: an ordinary subscription, from then on."""
    made = ward.create(criteria_subscription(ward.hospital.url, "Observation", **OVER, status="error"))
    ward.update(made.id, criteria_subscription(ward.hospital.url, "Observation"))
    ward.turn()
    ward.create(observation())
    ward.turn()
    assert [received.kind for received in ward.hospital.received] == ["update"]
    shown = ward.read(made.reference)
    assert [one["url"] for one in shown["extension"]] == [SUBSCRIBER, WEBHOOK_SECRET]


def test_an_active_subscription_written_as_over_is_off(ward: Ward) -> None:
    """The client ends it by its `end`: nothing of what follows is counted."""
    identifier = listen(ward, "Observation")
    ward.update(identifier, criteria_subscription(ward.hospital.url, "Observation", **OVER, status="error"))
    ward.create(observation())
    ward.turn()
    assert ward.hospital.received == []
    assert ward.state(identifier).status == "off"


def test_a_subscription_created_off_stays_off(ward: Ward) -> None:
    """R4: a client submits `requested` or `off`; off is honoured from the first version on."""
    made = ward.create(subscription(ward.hospital.url, status="off"))
    ward.sign()
    ward.turn()
    assert ward.read(made.reference)["status"] == "off"
    assert ward.hospital.received == []
