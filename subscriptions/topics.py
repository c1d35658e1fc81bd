"""The topics a hospital may subscribe to: one row each. Adding a topic is adding a row to `TOPICS`.

R4 has no SubscriptionTopic resource: a topic is a canonical URL whose meaning the server publishes
(docs/subscriptions.md and the CapabilityStatement extension `capabilitystatement-subscriptiontopic-canonical`).

Subscriptions R5 Backport 1.1.0 §components http://hl7.org/fhir/uv/subscriptions-backport/STU1.1/components.html
R5 SubscriptionTopic http://hl7.org/fhir/R5/subscriptiontopic.html
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from resources import communication, registry
from resources.codes import ESCALATION, has_coding
from resources.json import Json
from resources.lifecycle import REVISED, SIGNED

Trigger = Callable[[Json | None, Json], bool]
"""(the version before, or None where the resource is created; the version after) -> does the topic fire?"""

BASE_URL = "https://vigie.example/SubscriptionTopic"
"""Base of the topics' canonical URLs. A canonical names, it need not resolve; it is the same in every deployment, so
that a partner configures it once."""

ORDER_STATUS = f"{BASE_URL}/order-status"
REPORT_SIGNED = f"{BASE_URL}/report-signed"
REPORT_REVISED = f"{BASE_URL}/report-revised"
QUESTION = f"{BASE_URL}/question"
ANSWER = f"{BASE_URL}/answer"
MESSAGE = f"{BASE_URL}/message"
STUDY_AVAILABLE = f"{BASE_URL}/study-available"
ESCALATED = f"{BASE_URL}/escalation"
CRITICAL = f"{BASE_URL}/critical-result"


@dataclass(frozen=True, slots=True)
class Topic:
    """What may be subscribed to."""

    url: str
    title: str
    description: str
    trigger: Mapping[str, Trigger]
    """Resource type → when a change of it is an event."""
    filters: Mapping[str, frozenset[str]]
    """Resource type → search parameters that a subscription may filter by."""
    context: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Resource type → elements whose references go along as additional-context (R5 notificationShape.include)."""

    @property
    def types(self) -> tuple[str, ...]:
        """Resource types that can trigger it."""
        return tuple(self.trigger)

    def fires(self, before: Json | None, after: Json) -> bool:
        """Whether the change from `before` to `after` is an event of this topic."""
        trigger = self.trigger.get(after.get("resourceType", ""))
        return trigger is not None and trigger(before, after)

    def references(self, resource: Json) -> Iterator[str]:
        """The literal references of `resource` that the notification shape carries along, each once."""
        seen: set[str] = set()
        for element in self.context.get(resource.get("resourceType", ""), ()):
            held = resource.get(element)
            for reference in held if isinstance(held, list) else [held]:
                text = reference.get("reference") if isinstance(reference, dict) else None
                if isinstance(text, str) and text not in seen:
                    seen.add(text)
                    yield text


def _status_changed(before: Json | None, after: Json) -> bool:
    return before is None or before.get("status") != after.get("status")


def _order_progressed(before: Json | None, after: Json) -> bool:
    """A root Task (no partOf) is the order's own progress: received, accepted, refused, in progress, completed."""
    if after.get("partOf"):
        return False
    return _status_changed(before, after) or _codes(before, "businessStatus") != _codes(after, "businessStatus")


def _signed(before: Json | None, after: Json) -> bool:
    """First signed, or altered since: every version of a revised report is an event, as it must reach all who had the
    first."""
    status, earlier = after.get("status"), (before or {}).get("status")
    if status == "entered-in-error":
        return earlier in SIGNED
    return status in SIGNED and (status != earlier or status in REVISED)


def _becomes(category: str) -> Trigger:
    """A Communication gets that category of the dialogue, which it did not have."""

    def fires(before: Json | None, after: Json) -> bool:
        return communication.is_of(after, category) and not communication.is_of(before or {}, category)

    return fires


def _by_clock(code: str) -> Trigger:
    """The clock tells somebody something: a Communication of that category of its own is new."""
    return lambda before, after: before is None and has_coding(after.get("category", []), [(ESCALATION, code)])


def _critical(before: Json | None, after: Json) -> bool:
    """A critical result is announced, said, or reached nobody: the announcement, or a call about it."""
    if has_coding(after.get("category", []), [(ESCALATION, "critical-result")]):
        return _status_changed(before, after)
    return False


def _written_or_received(before: Json | None, after: Json) -> bool:
    """A message about an order is new, or somebody has received it."""
    if not after.get("basedOn"):
        return False
    return before is None or before.get("received") != after.get("received")


def _images_here(before: Json | None, after: Json) -> bool:
    """A study becomes available, or an available one gets more images."""
    if after.get("status") != "available":
        return False
    earlier = before or {}
    if earlier.get("status") != "available":
        return True
    return int(after.get("numberOfInstances", 0)) > int(earlier.get("numberOfInstances", 0))


def _revised(before: Json | None, after: Json) -> bool:
    """A version after the first signature that says otherwise, or that it is withdrawn."""
    return (before or {}).get("status") in SIGNED and _signed(before, after)


def _codes(resource: Json | None, element: str) -> list[tuple[Any, Any]]:
    concept = (resource or {}).get(element) or {}
    return [(coding.get("system"), coding.get("code")) for coding in concept.get("coding") or ()] or (
        [(None, concept["text"])] if "text" in concept else []
    )


_OF_MESSAGES: Mapping[str, frozenset[str]] = {
    "Communication": frozenset(
        {
            "_id",
            "patient",
            "subject",
            "encounter",
            "based-on",
            "identifier",
            "category",
            "status",
            "medium",
            "sender",
            "recipient",
            "sent",
            "received",
        }
    )
}
_WITH_MESSAGES: Mapping[str, tuple[str, ...]] = {"Communication": ("basedOn", "about", "inResponseTo", "subject")}

_OF_REPORTS = frozenset({
    "_id", "patient", "subject", "encounter", "based-on", "identifier", "code", "category", "status", "performer",
    "results-interpreter", "conclusion", "issued", "date",
})  # fmt: skip


TOPICS: tuple[Topic, ...] = (
    Topic(
        url=ORDER_STATUS,
        title="Order status",
        description="A ServiceRequest is created or its status changes, or the root Task (no partOf) of an order"
        " changes its status or businessStatus: received, accepted, refused, in progress, completed, cancelled.",
        trigger={"ServiceRequest": _status_changed, "Task": _order_progressed},
        filters={
            "ServiceRequest": frozenset(
                {
                    "_id",
                    "patient",
                    "subject",
                    "encounter",
                    "based-on",
                    "identifier",
                    "code",
                    "category",
                    "status",
                    "intent",
                    "priority",
                    "requester",
                    "performer",
                    "requisition",
                }
            ),
            "Task": frozenset(
                {
                    "_id",
                    "patient",
                    "subject",
                    "encounter",
                    "based-on",
                    "focus",
                    "identifier",
                    "code",
                    "status",
                    "business-status",
                    "intent",
                    "priority",
                    "owner",
                    "requester",
                }
            ),
        },
        context={"ServiceRequest": ("subject",), "Task": ("focus", "basedOn", "for")},
    ),
    Topic(
        url=REPORT_SIGNED,
        title="Report signed",
        description="A DiagnosticReport reaches the status final, or a signed one becomes amended, corrected,"
        " appended or entered-in-error.",
        trigger={"DiagnosticReport": _signed},
        filters={"DiagnosticReport": _OF_REPORTS},
        context={"DiagnosticReport": ("basedOn", "subject")},
    ),
    Topic(
        url=REPORT_REVISED,
        title="Report revised",
        description="A signed DiagnosticReport becomes amended, corrected or appended (each version), or is withdrawn"
        " (entered-in-error): for whoever acts on a report that he has already.",
        trigger={"DiagnosticReport": _revised},
        filters={"DiagnosticReport": _OF_REPORTS},
        context={"DiagnosticReport": ("basedOn", "subject")},
    ),
    Topic(
        url=QUESTION,
        title="Question",
        description="The platform asks the hospital about an order: a Communication of the category question.",
        trigger={"Communication": _becomes(communication.QUESTION)},
        filters=_OF_MESSAGES,
        context=_WITH_MESSAGES,
    ),
    Topic(
        url=ANSWER,
        title="Answer",
        description="The hospital answers a question about an order: a Communication of the category answer.",
        trigger={"Communication": _becomes(communication.ANSWER)},
        filters=_OF_MESSAGES,
        context=_WITH_MESSAGES,
    ),
    Topic(
        url=MESSAGE,
        title="Message",
        description="A Communication about an order is written, or received.",
        trigger={"Communication": _written_or_received},
        filters=_OF_MESSAGES,
        context=_WITH_MESSAGES,
    ),
    Topic(
        url=ESCALATED,
        title="Escalation",
        description="Something is past its deadline and is raised to somebody: a Communication of the category"
        " escalation, addressed to whom it is for; its topic says the level, reasonCode what is late.",
        trigger={"Communication": _by_clock("escalation")},
        filters=_OF_MESSAGES,
        context=_WITH_MESSAGES,
    ),
    Topic(
        url=CRITICAL,
        title="Critical result",
        description="A critical result is announced to the hospital, also before the signature, or such a Communication"
        " changes its status: a Communication of the category critical-result.",
        trigger={"Communication": _critical},
        filters=_OF_MESSAGES,
        context=_WITH_MESSAGES,
    ),
    Topic(
        url=STUDY_AVAILABLE,
        title="Study available",
        description="An ImagingStudy becomes available, or an available one gets more images.",
        trigger={"ImagingStudy": _images_here},
        filters={
            "ImagingStudy": frozenset(
                {"_id", "patient", "subject", "encounter", "basedon", "identifier", "modality", "status", "started"}
            )
        },
        context={"ImagingStudy": ("basedOn", "subject")},
    ),
)

_BY_URL: Mapping[str, Topic] = {topic.url: topic for topic in TOPICS}

TYPES: frozenset[str] = frozenset(name for topic in TOPICS for name in topic.types)
"""The resource types whose changes go to the outbox whether or not anybody listens."""


def by_url(url: object) -> Topic | None:
    """The topic with this canonical URL."""
    return _BY_URL.get(url) if isinstance(url, str) else None


UNHEARD = frozenset({"AuditEvent", "Subscription"})
"""Types whose changes never go to the outbox: what delivery itself writes would be told for ever."""


@cache
def every(type_name: str) -> Topic | None:
    """What R4 criteria on this type listen to: each version that is created or updated. Its name is the type's, which
    is no URL, so that it is never taken for a published topic."""
    if type_name not in registry.TYPES or type_name in UNHEARD:
        return None
    return Topic(
        url=type_name,
        title=f"Every {type_name}",
        description=f"A {type_name} is created or updated.",
        trigger={type_name: lambda before, after: True},
        filters={},
    )


def is_published(name: str) -> bool:
    """Whether this is a topic's canonical URL rather than the resource type of R4 criteria."""
    return name not in registry.TYPES


@cache
def of_type(type_name: str) -> tuple[Topic, ...]:
    """The topics that a change of this type may fire."""
    published = tuple(topic for topic in TOPICS if type_name in topic.trigger)
    unpublished = every(type_name)
    return published if unpublished is None else (*published, unpublished)
