"""A channel is a file and an entry: what implements the port is read, sent by, retried and ended like the rest-hook.

FHIR R4 §2.46.7 http://hl7.org/fhir/R4/subscription.html#channels
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from resources import jsontext
from resources.json import Json
from resources.outcomes import InvalidContent, Issue
from store.unit_of_work import Store
from subscriptions.channels.port import Address, Answer, Notice
from tests.subscriptions.hospital import Hospital
from tests.subscriptions.ward import Ward, subscription
from tests.support import Clock, MemoryTrail, OpenPermit


@dataclass(frozen=True)
class Pigeonhole:
    name: str

    @property
    def origin(self) -> str:
        return f"hole:{self.name}"


@dataclass
class Pigeonholes:
    """A channel that puts notices into pigeonholes: R4's code `message`."""

    code: str = "message"
    notices: list[tuple[str, Notice]] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    closed: bool = False
    faults: int = 0
    """How often it raises before it works."""

    def read(self, channel: Json) -> tuple[Address | None, list[Issue]]:
        name = channel.get("endpoint", "")
        if not name.startswith("hole:"):
            return None, [Issue("error", "value", "No such pigeonhole", ("Subscription.channel.endpoint",))]
        return Pigeonhole(name.removeprefix("hole:")), []

    def refusal(self, address: Address) -> str | None:
        return "the pigeonhole is walled up" if address.origin == "hole:walled" else None

    def send(self, address: Address, notice: Notice, *, timeout_s: float) -> Answer:
        if self.faults:
            self.faults -= 1
            raise RuntimeError
        self.notices.append((address.origin, notice))
        return self.answers.pop(0) if self.answers else Answer(True, "")

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def holes() -> Pigeonholes:
    return Pigeonholes()


@pytest.fixture
def ward(
    store: Store, clock: Clock, permit: OpenPermit, trail: MemoryTrail, hospital: Hospital, holes: Pigeonholes
) -> Iterator[Ward]:
    made = Ward(store, clock, permit, trail, hospital, further_channels=(holes,))
    yield made
    made.close()
    assert holes.closed


def _message(endpoint: str = "hole:a") -> Json:
    made = subscription(endpoint)
    made["channel"]["type"] = "message"
    return made


def test_a_further_channel_is_shaken_hands_with_and_delivered_to(ward: Ward, holes: Pigeonholes) -> None:
    """Backport IG: handshake, then events in order, by whatever channel."""
    made = ward.create(_message())
    ward.turn()
    assert ward.read(made.reference)["status"] == "active"
    report = ward.sign()
    ward.turn()
    (_, handshake), (origin, event) = holes.notices
    assert origin == "hole:a"
    assert _type(handshake) == "handshake"
    assert _type(event) == "event-notification"
    assert report.reference in event.body.decode()
    assert event.secrets
    assert event.content_type == "application/fhir+json"
    assert not ward.hospital.received


def test_what_a_further_channel_does_not_take_is_tried_again(ward: Ward, holes: Pigeonholes) -> None:
    """The retry ladder knows no channel: the same identifier comes again."""
    ward.create(_message())
    ward.turn()
    holes.answers = [Answer(False, "the pigeonhole is full")]
    ward.sign()
    ward.turn()
    ward.pass_time(120, step_s=10)
    first, second = [notice for _, notice in holes.notices[1:]]
    assert first.identifier == second.identifier


def test_a_channel_that_says_gone_ends_the_subscription(ward: Ward, holes: Pigeonholes) -> None:
    """RFC 9110 §15.5.11 says it for HTTP; the port says it for all."""
    made = ward.create(_message())
    ward.turn()
    holes.answers = [Answer(False, "the pigeonhole was taken down", gone=True)]
    ward.sign()
    ward.turn()
    assert ward.read(made.reference)["status"] == "error"


def test_an_address_that_the_channel_does_not_read_is_refused(ward: Ward) -> None:
    """R4 Subscription.channel.endpoint: each channel reads its own."""
    with pytest.raises(InvalidContent) as raised:
        ward.create(_message("https://hospital.example/"))
    assert [issue.expression for issue in raised.value.issues] == [("Subscription.channel.endpoint",)]


def test_a_type_that_no_channel_has_names_those_served(ward: Ward) -> None:
    """R4 subscription-channel-type: what is not served is refused, not ignored."""
    made = _message()
    made["channel"]["type"] = "sms"
    with pytest.raises(InvalidContent) as raised:
        ward.create(made)
    (issue,) = raised.value.issues
    assert issue.expression == ("Subscription.channel.type",)
    assert "message, rest-hook" in issue.diagnostics


def _type(notice: Notice) -> str:
    status = jsontext.parse(notice.body)["entry"][0]["resource"]
    return next(str(part["valueCode"]) for part in status["parameter"] if part["name"] == "type")


def test_a_channel_that_raises_has_failed_and_is_tried_again(ward: Ward, holes: Pigeonholes) -> None:
    """It breaks its contract; its subscriber hears of the event all the same."""
    identifier = ward.create(_message()).id
    ward.turn()
    holes.faults = 2
    ward.sign()
    ward.turn()
    assert [one.result for one in ward.attempts(identifier)][-1] == "failed"
    ward.pass_time(20, step_s=5)
    assert ward.state(identifier).delivered == 1
