"""What a Subscription may ask for, and who sees what of it.

Backport IG 1.1.0 §"server SHALL reject"; Inferno's reject_* tests (reference/security-subscriptions.md §3.3).
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from resources.json import Json
from resources.outcomes import InvalidContent
from store.access import Caller
from subscriptions import matching, terms
from subscriptions.acceptance import MASKED, SUBSCRIBER, WEBHOOK_SECRET
from subscriptions.signature import SEALED_PREFIX
from tests.subscriptions.ward import EHR, OTHER_EHR, Ward, subscription
from tests.support import caller

URL = "http://127.0.0.1:9/notify"
COLLEAGUE = caller("hospital-a", client_id="another-of-a")
EXTENSION = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition"


def _put(*path: str) -> Callable[[Json, Any], None]:
    def put(resource: Json, value: Any) -> None:
        for name in path[:-1]:
            resource = resource.setdefault(name, {})
        resource[path[-1]] = value

    return put


def _filter(text: str) -> Json:
    return {"extension": [{"url": terms.FILTER, "valueString": text}]}


REFUSED: list[tuple[str, tuple[str, ...], Any, str]] = [
    ("an unknown topic", ("criteria",), "https://vigie.example/SubscriptionTopic/unknown", "Subscription.criteria"),
    ("another channel", ("channel", "type"), "email", "Subscription.channel.type"),
    ("a channel that is none", ("channel", "type"), "zulip", "Subscription.channel.type"),
    ("another payload", ("channel", "payload"), "application/fhir+xml", "Subscription.channel.payload"),
    ("another FHIR version", ("channel", "payload"), "application/fhir+json; fhirVersion=5.0",
     "Subscription.channel.payload"),
    ("another content", ("channel", "_payload"), {"extension": [{"url": terms.PAYLOAD_CONTENT, "valueCode": "all"}]},
     "Subscription.channel.payload.extension"),
    ("a filter on another type", ("_criteria",), _filter("Patient?name=x"),
     "Subscription.criteria.extension[0].value"),
    ("an unknown filter", ("_criteria",), _filter("DiagnosticReport?shoe=1"),
     "Subscription.criteria.extension[0].value"),
    ("a filter that is no search", ("_criteria",), _filter("issued=yesterday"),
     "Subscription.criteria.extension[0].value"),
    ("a filter without value", ("_criteria",), _filter("status"),
     "Subscription.criteria.extension[0].value"),
    ("a chained filter", ("_criteria",), _filter("patient.name=x"),
     "Subscription.criteria.extension[0].value"),
    ("a cross-version extension", ("_criteria",),
     {"extension": [{"url": "http://hl7.org/fhir/5.0/subscriptions-backport/StructureDefinition/backport-filter-criteria",
                     "valueString": "status=final"}]}, "Subscription.criteria.extension[0]"),
    ("an R5 element", ("extension",),
     [{"url": "http://hl7.org/fhir/5.0/StructureDefinition/extension-Subscription.topic", "valueCanonical": "x"}],
     "Subscription.extension[0]"),
    ("an unknown backport extension", ("channel", "extension"), [{"url": f"{EXTENSION}/backport-unknown"}],
     "Subscription.channel.extension[0]"),
    ("a custom channel", ("channel", "_type"), {"extension": [{"url": f"{EXTENSION}/backport-channel-type"}]},
     "Subscription.channel.type.extension"),
    ("a heartbeat of 0 s", ("channel", "extension"), [{"url": terms.HEARTBEAT, "valueUnsignedInt": 0}],
     "Subscription.channel.extension[0]"),
    ("a max-count of 0", ("channel", "extension"), [{"url": terms.MAX_COUNT, "valuePositiveInt": 0}],
     "Subscription.channel.extension[0]"),
    ("an end in the past", ("end",), "2020-12-31T12:00:00Z", "Subscription.end"),
    ("no endpoint", ("channel", "endpoint"), None, "Subscription.channel.endpoint"),
    ("a private endpoint", ("channel", "endpoint"), "https://10.0.0.7/notify", "Subscription.channel.endpoint"),
    ("an http endpoint", ("channel", "endpoint"), "http://hospital.example/notify", "Subscription.channel.endpoint"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "where"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_is_not_supported_is_refused_with_its_place(
    ward: Ward, path: tuple[str, ...], value: Any, where: str
) -> None:
    """Backport: SHALL reject; 422 with the element's expression, and nothing is kept."""
    resource = subscription(URL)
    _put(*path)(resource, value)
    with pytest.raises(InvalidContent) as refused:
        ward.create(resource)
    assert where in [expression for issue in refused.value.issues for expression in issue.expression]


@pytest.mark.parametrize(
    "header",
    [
        "Host: evil.example", "Content-Type: text/plain", "content-length: 3", "Transfer-Encoding: chunked",
        "Connection: close", "Cookie: a=b", "webhook-id: 1", "Webhook-Signature: v1,x", "X: a\r\nY: b", "X: a\nb",
        "X: a\0b",
        "no colon", ": empty name", "X:", "X Y: space in the name", "X: é", "X: " + "a" * 5000,
    ],
)  # fmt: skip
def test_headers_that_would_alter_the_request_are_refused(ward: Ward, header: str) -> None:
    """RFC 9110 §5; smuggling and impersonation by channel.header."""
    with pytest.raises(InvalidContent) as refused:
        ward.create(subscription(URL, headers=["X-Good: yes", header]))
    assert refused.value.issues[0].expression == ("Subscription.channel.header[1]",)


def test_every_problem_is_told_at_once(ward: Ward) -> None:
    """DESIGN §5: every problem is reported, each with its expression."""
    resource = subscription(URL, criteria="x", end="2020-12-31T12:00:00Z")
    resource["channel"]["type"] = "sms"
    with pytest.raises(InvalidContent) as refused:
        ward.create(resource)
    assert len(refused.value.issues) == 3


def test_only_the_server_sets_error(ward: Ward) -> None:
    """R4 Subscription.status: a client asks for requested or off."""
    made = ward.create(subscription(URL))
    with pytest.raises(InvalidContent):
        ward.update(made.id, subscription(URL, status="error"))
    assert ward.update(made.id, subscription(URL, status="active")).json()["status"] == "requested"
    assert ward.update(made.id, subscription(URL, status="off")).json()["status"] == "off"


def test_header_values_are_shown_to_the_subscriber_alone(ward: Ward) -> None:
    """§3.3: returned to the creating client only, masked to everyone else and, where masking is forgotten, sealed."""
    made = ward.create(subscription(URL, headers=["Authorization: Bearer s3cret:x"]))
    reference = made.reference
    assert b"s3cret" not in made.content
    assert made.json()["channel"]["header"][0].startswith(f"Authorization: {SEALED_PREFIX}")
    assert ward.read(reference)["channel"]["header"] == ["Authorization: Bearer s3cret:x"]
    others = [COLLEAGUE, caller("platform"), Caller.system("hospital-a", EHR)]
    for other in others:
        shown = ward.subscriptions.mask(made.json(), other)
        assert shown["channel"]["header"] == [f"Authorization: {MASKED}"]
        assert WEBHOOK_SECRET not in [one["url"] for one in shown.get("extension", ())]
    assert b"s3cret" not in ward.subscriptions.shown(made, COLLEAGUE)
    assert b"s3cret" in ward.subscriptions.shown(made, EHR)


def test_a_masked_header_that_comes_back_keeps_its_value(ward: Ward) -> None:
    """Read, alter, PUT: the subscriber need not repeat its secret; nor does the server's extension pile up."""
    made = ward.create(subscription(URL, headers=["Authorization: Bearer s3cret"]))
    for header in (f"Authorization: {MASKED}", made.json()["channel"]["header"][0]):
        again = deepcopy(ward.read(made.reference))
        again["channel"]["header"] = [header]
        ward.update(made.id, again)
        shown = ward.read(made.reference)
        assert shown["channel"]["header"] == ["Authorization: Bearer s3cret"]
        assert [one["url"] for one in shown["extension"]] == [SUBSCRIBER, WEBHOOK_SECRET]


def test_a_colleague_who_alters_a_subscription_does_not_inherit_its_secrets(ward: Ward) -> None:
    """The client that wrote it last is the subscriber: rights and secrets of the earlier one do not go along."""
    made = ward.create(subscription(URL, headers=["Authorization: Bearer s3cret"]))
    for header in (f"Authorization: {MASKED}", made.json()["channel"]["header"][0]):
        with pytest.raises(InvalidContent, match="hidden"):
            ward.update(made.id, subscription(URL, headers=[header]), COLLEAGUE)
    altered = ward.update(made.id, subscription(URL, headers=["Authorization: Bearer other"]), COLLEAGUE)
    assert ward.subscriptions.mask(altered.json(), EHR)["channel"]["header"] == [f"Authorization: {MASKED}"]
    assert ward.state(made.id).client_id == COLLEAGUE.client_id
    secrets = {
        one["valueString"]
        for version, who in ((made, EHR), (altered, COLLEAGUE))
        for one in ward.subscriptions.mask(version.json(), who)["extension"]
        if one["url"] == WEBHOOK_SECRET
    }
    assert len(secrets) == 2


def test_a_client_cannot_name_another_subscriber(ward: Ward) -> None:
    """The subscriber is who writes, whatever the payload says."""
    forged = [{"url": SUBSCRIBER, "valueString": OTHER_EHR.client_id}]
    made = ward.create(subscription(URL, extension=forged))
    assert made.json()["extension"] == [{"url": SUBSCRIBER, "valueString": EHR.client_id}]
    assert ward.state(made.id).client_id == EHR.client_id


def test_content_defaults_to_id_only_and_timeout_is_clamped(ward: Ward) -> None:
    """Backport §channels: id-only keeps data off the channel; a timeout may not hold a dispatcher for an hour."""
    made = ward.create(subscription(URL, content=None, timeout_s=3600))
    state = ward.state(made.id)
    assert (state.content, state.timeout_s, state.max_count) == ("id-only", 30, 1)


def test_an_organisation_has_a_bounded_number_of_subscriptions(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused with a reason, never silently ignored (a peer ignores those beyond its thousandth)."""
    monkeypatch.setattr(matching, "SUBSCRIPTIONS_MAX", 2)
    first = ward.create(subscription(URL))
    ward.create(subscription(URL))
    with pytest.raises(InvalidContent, match="at most 2"):
        ward.create(subscription(URL))
    ward.update(first.id, subscription(URL))
    ward.create(subscription(URL), OTHER_EHR)
