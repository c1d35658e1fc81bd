"""Events → notification Bundle; status → Parameters. Pure.

A notification is a Bundle of type history whose first entry is the SubscriptionStatus as Parameters; every entry has a
request and a response (bdl-3, bdl-4), and parameter names and value types are exactly the R4 profile's.

http://hl7.org/fhir/uv/subscriptions-backport/STU1.1/StructureDefinition-backport-subscription-status-r4.html
http://hl7.org/fhir/uv/subscriptions-backport/STU1.1/StructureDefinition-backport-subscription-notification-r4.html
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from resources.json import Json
from resources.times import instant_text
from subscriptions.terms import BACKPORT

STATUS_PROFILE = f"{BACKPORT}/backport-subscription-status-r4"
UNMADE = "could not be made into a notification; $events tells whether it can be now"
NOTIFICATION_PROFILE = f"{BACKPORT}/backport-subscription-notification-r4"


class Kind(StrEnum):
    """SubscriptionNotificationType."""

    HANDSHAKE = "handshake"
    HEARTBEAT = "heartbeat"
    EVENT = "event-notification"
    QUERY_STATUS = "query-status"
    QUERY_EVENT = "query-event"


@dataclass(frozen=True, slots=True)
class Notified:
    """One version as it goes into a notification."""

    reference: str
    """``Type/id``."""
    version: int
    method: str
    """HTTP method that made the version."""
    last_updated: datetime
    resource: Json | None = None
    """Given for full-resource only."""
    patients: tuple[str, ...] = ()
    """``Patient/id`` of whom it concerns."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a subscription."""

    number: int
    at: datetime
    focus: Notified | None
    """None: it could not be composed. Its number and its time are told."""
    context: tuple[Notified, ...] = ()

    def disclosed_context(self) -> tuple[str, ...]:
        """What leaves in full beside the focus: ``Type/id/_history/n`` of each."""
        return tuple(f"{one.reference}/_history/{one.version}" for one in self.context if one.resource is not None)

    def disclosed_patients(self) -> tuple[str, ...]:
        """The patients of all that leaves in full."""
        whole = [one for one in (self.focus, *self.context) if one is not None and one.resource is not None]
        return tuple(dict.fromkeys(patient for one in whole for patient in one.patients))


@dataclass(frozen=True, slots=True)
class Status:
    """A subscription at the moment of a notification."""

    subscription: str
    """Logical id."""
    topic: str | None
    """Canonical URL; None for R4 criteria."""
    status: str
    events: int
    """Events since the subscription began, whether or not they were delivered."""
    error: str | None = None


def bundle(kind: Kind, status: Status, events: Sequence[Event], *, content: str, base_url: str, at: datetime) -> Json:
    """The notification Bundle. `content` is empty, id-only or full-resource."""
    entries: list[Json] = [_status_entry(kind, status, events, content, base_url)]
    seen: set[tuple[str, int]] = set()
    for event in events if content != "empty" else ():
        for notified in (event.focus, *event.context):
            if notified is not None and (notified.reference, notified.version) not in seen:
                seen.add((notified.reference, notified.version))
                entries.append(_entry(notified, base_url))
    return {
        "resourceType": "Bundle",
        "id": str(uuid.uuid4()),
        "meta": {"profile": [NOTIFICATION_PROFILE]},
        "type": "history",
        "timestamp": instant_text(at),
        "entry": entries,
    }


def status_bundle(statuses: Sequence[Status], *, base_url: str, at: datetime) -> Json:
    """The answer of ``$status``: a searchset with one SubscriptionStatus per subscription."""
    return {
        "resourceType": "Bundle",
        "type": "searchset",
        "timestamp": instant_text(at),
        "total": len(statuses),
        "entry": [
            {
                "fullUrl": f"urn:uuid:{uuid.uuid4()}",
                "resource": parameters(Kind.QUERY_STATUS, status, (), "id-only", base_url),
                "search": {"mode": "match"},
            }
            for status in statuses
        ],
    }


def parameters(kind: Kind, status: Status, events: Sequence[Event], content: str, base_url: str) -> Json:
    """The SubscriptionStatus in its R4 form."""
    found: list[Json] = [
        {"name": "subscription", "valueReference": {"reference": f"{base_url}/Subscription/{status.subscription}"}}
    ]
    # An empty notification tells nothing but that something happened (the IG: SHOULD NOT name the topic).
    if content != "empty" and status.topic is not None:
        found.append({"name": "topic", "valueCanonical": status.topic})
    found += [
        {"name": "status", "valueCode": status.status},
        {"name": "type", "valueCode": str(kind)},
        {"name": "events-since-subscription-start", "valueString": str(status.events)},
    ]
    found += [{"name": "notification-event", "part": _event_parts(event, content, base_url)} for event in events]
    unmade = [f"Event {event.number} {UNMADE}" for event in events if event.focus is None]
    errors = [*unmade] if status.error is None else [status.error, *unmade]
    found += [{"name": "error", "valueCodeableConcept": {"text": error}} for error in errors]
    return {
        "resourceType": "Parameters",
        "id": str(uuid.uuid4()),
        "meta": {"profile": [STATUS_PROFILE]},
        "parameter": found,
    }


def _event_parts(event: Event, content: str, base_url: str) -> list[Json]:
    parts: list[Json] = [
        {"name": "event-number", "valueString": str(event.number)},
        {"name": "timestamp", "valueInstant": instant_text(event.at)},
    ]
    if content == "empty" or event.focus is None:
        return parts
    parts.append({"name": "focus", "valueReference": {"reference": f"{base_url}/{event.focus.reference}"}})
    parts += [
        {"name": "additional-context", "valueReference": {"reference": f"{base_url}/{context.reference}"}}
        for context in event.context
    ]
    return parts


def _status_entry(kind: Kind, status: Status, events: Sequence[Event], content: str, base_url: str) -> Json:
    resource = parameters(kind, status, events, content, base_url)
    return {
        "fullUrl": f"urn:uuid:{resource['id']}",
        "resource": resource,
        "request": {"method": "GET", "url": f"{base_url}/Subscription/{status.subscription}/$status"},
        "response": {"status": "200"},
    }


def _entry(notified: Notified, base_url: str) -> Json:
    created = notified.method == "POST"
    entry: Json = {"fullUrl": f"{base_url}/{notified.reference}"}
    if notified.resource is not None:
        entry["resource"] = notified.resource
    entry["request"] = {
        "method": notified.method,
        "url": notified.reference.partition("/")[0] if created else notified.reference,
    }
    entry["response"] = {
        "status": "201" if created else "200",
        "etag": f'W/"{notified.version}"',
        "lastModified": instant_text(notified.last_updated),
    }
    return entry
