"""What a channel is (R4 Subscription.channel): it reads an address, sends one notification, and tells what came of it.

A new channel is a file beside this one and an entry in `channels_of` of `subscriptions.service`. It knows neither
leases nor retries nor rights: the dispatcher asks it once per attempt and settles what it answers.

FHIR R4 §2.46.7 http://hl7.org/fhir/R4/subscription.html#channels
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from resources.json import Json
from resources.outcomes import Issue


class Address(Protocol):
    """Where a channel sends to, read and checked."""

    @property
    def origin(self) -> str:
        """What fails together: the lane and the circuit breaker of deliveries, e.g. ``https://host:port``."""
        ...


@dataclass(frozen=True, slots=True)
class Notice:
    """One notification as every channel gets it."""

    identifier: str
    """Stable over repeats, so that a receiver can tell them (Standard Webhooks `webhook-id`)."""
    at: datetime
    secrets: tuple[str, ...]
    """What it is signed with: the subscriber verifies one of the signatures."""
    headers: tuple[tuple[str, str], ...]
    """channel.header, opened."""
    content_type: str
    """Empty where there is no payload."""
    body: bytes
    resource: str | None = None
    """``Type/id`` where the body is the resource itself (R4 criteria with a payload), not a notification Bundle."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What an attempt came to."""

    accepted: bool
    reason: str
    """Why it failed, machine text fit for Subscription.error and the attempt's record."""
    status: int | None = None
    """HTTP status, where there was one."""
    gone: bool = False
    """The subscriber says that it wants no more: not tried again."""
    retry_after_s: float | None = None
    """What the subscriber asked to be left alone for."""


class Channel(Protocol):
    """One way to a subscriber. One object per process; safe for many threads."""

    @property
    def code(self) -> str:
        """Subscription.channel.type (R4 subscription-channel-type)."""
        ...

    def read(self, channel: Json) -> tuple[Address | None, list[Issue]]:
        """The address that a Subscription.channel names; None with every reason why it names none. No I/O."""
        ...

    def refusal(self, address: Address) -> str | None:
        """Why nothing may be sent to `address` as things are now (DNS is asked); None if it may."""
        ...

    def send(self, address: Address, notice: Notice, *, timeout_s: float) -> Answer:
        """Send once and wait for the answer, `timeout_s` seconds at most. Never raises for what the subscriber does."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


Channels = Mapping[str, Channel]
"""By code: those that a deployment serves."""
