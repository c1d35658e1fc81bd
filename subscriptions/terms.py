"""What a Subscription asks for, as values; and every reason to refuse it, at once. Pure.

Two forms: a topic of the R5 backport (`criteria` is its canonical URL), and R4's own (`criteria` is `Type?search`).

The Backport IG lets a server reject any channel, content level, filter or topic that it does not support, and obliges
it to (SHALL): what is accepted here is honoured, what is not understood is never silently ignored.

Subscriptions R5 Backport 1.1.0, R4 form
http://hl7.org/fhir/uv/subscriptions-backport/STU1.1/StructureDefinition-backport-subscription.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from resources.json import Json
from resources.outcomes import InvalidContent, Issue
from resources.times import parse_instant
from subscriptions import filters, schedule, topics
from subscriptions.channels.port import Address, Channels
from subscriptions.topics import TOPICS, Topic

BACKPORT = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition"
PROFILE = f"{BACKPORT}/backport-subscription"
FILTER = f"{BACKPORT}/backport-filter-criteria"
PAYLOAD_CONTENT = f"{BACKPORT}/backport-payload-content"
HEARTBEAT = f"{BACKPORT}/backport-heartbeat-period"
TIMEOUT = f"{BACKPORT}/backport-timeout"
MAX_COUNT = f"{BACKPORT}/backport-max-count"
CHANNEL_EXTENSIONS = {HEARTBEAT: "valueUnsignedInt", TIMEOUT: "valueUnsignedInt", MAX_COUNT: "valuePositiveInt"}
CROSS_VERSION = "http://hl7.org/fhir/5.0/"
"""Extensions that carry R5 elements into R4: what knows only the backport form must not half understand them."""

CONTENT_LEVELS = ("empty", "id-only", "full-resource")
MIME_TYPE = "application/fhir+json"
HEARTBEAT_MIN_S, HEARTBEAT_MAX_S = 5, 7 * 24 * 3600
MAX_COUNT_DEFAULT, MAX_COUNT_MAX = 1, 100
HEADERS_MAX, HEADER_LENGTH_MAX, FILTERS_MAX = 16, 4096, 10

_PAYLOAD = re.compile(r"application/fhir\+json(\s*;\s*(fhirVersion=4\.0|charset=utf-8))*", re.IGNORECASE)
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FIELD_VALUE = re.compile(r"[\t -~]*")
RESERVED_HEADERS = frozenset(
    {
        "host",
        "connection",
        "cookie",
        "cookie2",
        "expect",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
        "accept-encoding",
    }
)
RESERVED_PREFIXES = ("content-", "proxy-", "webhook-", "sec-")


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms of one accepted Subscription."""

    topic: Topic
    """Published; of R4 criteria: every change of their type (`topics.every`)."""
    filters: tuple[str, ...]
    """Texts of backport-filter-criteria, all of which must hold; or the R4 criteria."""
    channel: str
    """Code of the channel."""
    address: Address
    headers: tuple[tuple[str, str], ...]
    """Name and value (sealed, once stored)."""
    content: str
    """empty, id-only or full-resource. R4 criteria: empty (no payload) or full-resource."""
    mime_type: str
    """channel.payload as the subscriber wrote it: the Content-Type of every notification; empty: no payload."""
    heartbeat_s: int | None
    timeout_s: int
    max_count: int
    end: datetime | None


def read(resource: Json, channels: Channels, now: datetime) -> Terms:
    """The terms of `resource`. Raises InvalidContent with every problem, each with its expression."""
    reader = _Reader(resource, channels, now)
    terms = reader.terms()
    if reader.issues:
        raise InvalidContent(reader.issues[0].diagnostics, issues=reader.issues)
    if terms is None:  # an issue was noted for every element that is missing
        raise InvalidContent("The Subscription is not understood", expression="Subscription")
    return terms


def stored(resource: Json, channels: Channels) -> Terms | None:
    """The terms of a Subscription that was accepted earlier, its headers sealed; None if this deployment serves its
    channel or its endpoint no longer."""
    return _StoredReader(resource, channels, datetime.min.replace(tzinfo=UTC)).terms()


def check_headers(resource: Json) -> None:
    """Raise InvalidContent unless every channel.header may be sent."""
    reader = _Reader(resource, {}, datetime.min.replace(tzinfo=UTC))
    reader.headers()
    if reader.issues:
        raise InvalidContent(reader.issues[0].diagnostics, issues=reader.issues)


def header_fault(text: str) -> str | None:
    """Why a channel.header is refused, or None. RFC 9110 §5; the reserved ones would alter what is sent, or to whom."""
    name, colon, value = text.partition(":")
    if not colon or not _TOKEN.fullmatch(name):
        return "A channel header must be of the form 'Name: value' (RFC 9110 §5.1)"
    if not _FIELD_VALUE.fullmatch(value) or not value.strip() or len(text) > HEADER_LENGTH_MAX:
        return "A channel header's value has characters that a header may not have, is empty or is too long"
    lower = name.lower()
    if lower in RESERVED_HEADERS or lower.startswith(RESERVED_PREFIXES):
        return f"The channel header {name} is set by the server and cannot be given"
    return None


def split_header(text: str) -> tuple[str, str]:
    """Name and value; only the first colon divides them (a value may hold others)."""
    name, _, value = text.partition(":")
    return name, value.strip()


class _Reader:
    """Reads a Subscription, noting every problem."""

    def __init__(self, resource: Json, channels: Channels, now: datetime) -> None:
        self.issues: list[Issue] = []
        self._resource = resource
        self._channels = channels
        self._now = now
        channel = resource.get("channel")
        self._channel: Json = channel if isinstance(channel, dict) else {}
        self._is_plain = filters.criteria_type(resource.get("criteria")) is not None
        """R4's own form."""

    def terms(self) -> Terms | None:
        self._refuse_cross_version()
        topic, texts = self._topic(), self._filters()
        address, headers, end = self._address(), self.headers(), self._end()
        mime_type, content = self._payload()
        heartbeat_s = self._number(HEARTBEAT, HEARTBEAT_MIN_S, HEARTBEAT_MAX_S)
        timeout_s = self._number(TIMEOUT, 0, 2**31 - 1)
        max_count = self._number(MAX_COUNT, 1, 2**31 - 1) or MAX_COUNT_DEFAULT
        if topic is None or address is None:
            return None
        for index, text in enumerate(texts if not self._is_plain else ()):
            self._check_filter(text, index, topic)
        return Terms(
            topic=topic, filters=texts, channel=self._code, address=address, headers=headers, content=content,
            mime_type=mime_type, heartbeat_s=heartbeat_s or None, timeout_s=schedule.timeout_s(timeout_s),
            max_count=min(max_count, MAX_COUNT_MAX), end=end,
        )  # fmt: skip

    def _refuse(self, diagnostics: str, expression: str, code: str = "not-supported") -> None:
        self.issues.append(Issue("error", code, diagnostics, (expression,)))

    def _topic(self) -> Topic | None:
        criteria = self._resource.get("criteria")
        if self._is_plain:
            return self._plain_topic(str(criteria))
        topic = topics.by_url(criteria)
        if topic is None:
            urls = ", ".join(known.url for known in TOPICS)
            self._refuse(
                f"criteria must be a search (Type?search) or the canonical URL of a topic of this server: {urls}",
                "Subscription.criteria",
            )
        return topic

    def _plain_topic(self, criteria: str) -> Topic | None:
        try:
            filters.read_criteria(criteria)
        except InvalidContent as error:
            self.issues += error.issues
            return None
        return topics.every(filters.criteria_type(criteria) or "")

    def _filters(self) -> tuple[str, ...]:
        found: list[str] = [self._resource["criteria"]] if self._is_plain else []
        for index, extension in enumerate(_extensions(self._resource, "_criteria")):
            where = f"Subscription.criteria.extension[{index}]"
            if self._is_plain:
                self._refuse("An extension of R4 criteria is not understood, and might be a filter", where)
            elif extension.get("url") != FILTER:
                self._refuse(
                    f"An extension of criteria that is not {FILTER} is not understood, and might be a filter", where
                )
            elif not isinstance(extension.get("valueString"), str):
                self._refuse("The filter must have a valueString", where, "required")
            else:
                found.append(extension["valueString"])
        if len(found) > FILTERS_MAX:
            self._refuse(f"There may be at most {FILTERS_MAX} filters", "Subscription.criteria", "too-costly")
        return tuple(found)

    def _check_filter(self, text: str, index: int, topic: Topic) -> None:
        try:
            filters.read_filter(text, topic)
        except InvalidContent as error:
            self._refuse(error.diagnostics, f"Subscription.criteria.extension[{index}].value", error.issues[0].code)

    @property
    def _code(self) -> str:
        code = self._channel.get("type")
        return code if isinstance(code, str) else ""

    def _address(self) -> Address | None:
        """What the channel reads as its address."""
        if list(_extensions(self._channel, "_type")):
            self._refuse("Channel types beyond R4's are not served", "Subscription.channel.type.extension")
        channel = self._channels.get(self._code)
        if channel is None:
            served = ", ".join(sorted(self._channels))
            self._refuse(f"The channel types served here are: {served}", "Subscription.channel.type")
            return None
        address, issues = channel.read(self._channel)
        self.issues += issues
        return address

    def _payload(self) -> tuple[str, str]:
        """The Content-Type and the content level. R4 §2.46.7: without channel.payload nothing of the resource is sent;
        a topic needs one."""
        if self._is_plain and self._channel.get("payload") is None:
            return "", "empty"
        mime_type = self._channel.get("payload")
        if not isinstance(mime_type, str):
            self._refuse(f"The payload must be {MIME_TYPE}", "Subscription.channel.payload", "required")
            mime_type = MIME_TYPE
        elif not _PAYLOAD.fullmatch(mime_type):
            self._refuse(f"Only the payload {MIME_TYPE} of FHIR 4.0 is served", "Subscription.channel.payload")
        levels = [e for e in _extensions(self._channel, "_payload") if e.get("url") == PAYLOAD_CONTENT]
        if self._is_plain:
            if levels:
                self._refuse(
                    "The content level is a topic's: R4 criteria have a payload, the resource, or none",
                    "Subscription.channel.payload.extension",
                )
            return mime_type, "full-resource"
        content = levels[0].get("valueCode") if levels else "id-only"
        if len(levels) > 1 or content not in CONTENT_LEVELS:
            self._refuse(
                f"The payload content must be one of {', '.join(CONTENT_LEVELS)}",
                "Subscription.channel.payload.extension",
            )
            content = "id-only"
        return mime_type, content

    def headers(self) -> tuple[tuple[str, str], ...]:
        headers = self._channel.get("header") or []
        if len(headers) > HEADERS_MAX:
            self._refuse(
                f"There may be at most {HEADERS_MAX} channel headers", "Subscription.channel.header", "too-costly"
            )
        found: list[tuple[str, str]] = []
        for index, text in enumerate(headers):
            fault = header_fault(text) if isinstance(text, str) else "A channel header must be a string"
            if fault is not None:
                self._refuse(fault, f"Subscription.channel.header[{index}]", "value")
            else:
                found.append(split_header(text))
        return tuple(found)

    def _number(self, url: str, low: int, high: int) -> int | None:
        found = [
            (index, extension)
            for index, extension in enumerate(_extensions(self._channel))
            if extension.get("url") == url
        ]
        if not found:
            return None
        index, extension = found[0]
        if self._is_plain and url != TIMEOUT:
            self._refuse(f"{url.rpartition('/')[2]} is a topic's", f"Subscription.channel.extension[{index}]")
            return None
        value = extension.get(CHANNEL_EXTENSIONS[url])
        if len(found) > 1 or not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            self._refuse(
                f"{url.rpartition('/')[2]} must be one {CHANNEL_EXTENSIONS[url]} from {low} to {high}",
                f"Subscription.channel.extension[{index}]", "value",
            )  # fmt: skip
            return None
        return value

    def _end(self) -> datetime | None:
        text = self._resource.get("end")
        if not isinstance(text, str):
            return None
        end = parse_instant(text)
        if end is None:
            self._refuse("end is not an instant", "Subscription.end", "value")
        elif end <= self._now:
            self._refuse(
                "end is in the past: the subscription would never deliver", "Subscription.end", "business-rule"
            )
        return end

    def _refuse_cross_version(self) -> None:
        places = (
            (self._resource, None, "Subscription.extension"),
            (self._resource, "_criteria", "Subscription.criteria.extension"),
            (self._channel, None, "Subscription.channel.extension"),
            (self._channel, "_type", "Subscription.channel.type.extension"),
            (self._channel, "_payload", "Subscription.channel.payload.extension"),
            (self._channel, "_endpoint", "Subscription.channel.endpoint.extension"),
        )
        for holder, element, where in places:
            for index, extension in enumerate(_extensions(holder, element)):
                url = str(extension.get("url"))
                if url.startswith(CROSS_VERSION) and not url.endswith(".identifier"):
                    self._refuse(
                        "Extensions that carry R5 elements are not understood: use the backport form",
                        f"{where}[{index}]",
                    )
                elif (
                    element is None
                    and holder is self._channel
                    and url.startswith(BACKPORT)
                    and url not in CHANNEL_EXTENSIONS
                ):
                    self._refuse("This backport extension is not supported on channel", f"{where}[{index}]")


class _StoredReader(_Reader):
    """Takes the headers as they were sealed."""

    def headers(self) -> tuple[tuple[str, str], ...]:
        return tuple(split_header(text) for text in self._channel.get("header") or ())


def _extensions(holder: Json, element: str | None = None) -> Iterator[Json]:
    inside = holder.get(element) if element else holder
    if isinstance(inside, dict):
        for extension in inside.get("extension") or ():
            if isinstance(extension, dict):
                yield extension

