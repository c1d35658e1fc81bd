"""Accepting a Subscription: what a client may set, what the server sets, what is hidden from whom.

A client asks (`requested`) or ends (`off`); only the server says `active` or `error`. What is over when it is
written (its `end` has passed, its status is off or error) is a document: kept as it is, never delivered.

The client that last wrote a Subscription is its subscriber: deliveries are made with that client's rights, and its
header values open for it alone, so that altering a colleague's endpoint gives nobody the colleague's data.

FHIR R4 Subscription.status http://hl7.org/fhir/R4/valueset-subscription-status.html
Backport IG 1.1.0 §errors, §safety-security
"""

from __future__ import annotations

from datetime import datetime

from resources.json import Json
from resources.outcomes import InvalidContent
from resources.times import parse_instant
from store.access import Caller, Draft, Version, Work
from subscriptions import terms
from subscriptions.channels.port import Channels
from subscriptions.signature import SEALED_PREFIX, Keyring

EXTENSION_BASE = "https://vigie.example/StructureDefinition"
SUBSCRIBER = f"{EXTENSION_BASE}/subscription-client"
"""valueString: the OAuth client that the Subscription belongs to. Set by the server."""
WEBHOOK_SECRET = f"{EXTENSION_BASE}/webhook-secret"
"""valueString: the Standard Webhooks secret (whsec_…). Shown to the subscriber alone, never stored."""
MASKED = "***"
ENDED = ("off", "error")


class Acceptance:
    """Prepares the Subscriptions that clients write, and shows them to those who may see them."""

    def __init__(self, keyring: Keyring, channels: Channels) -> None:
        self._keyring = keyring
        self._channels = channels

    def prepare(self, uow: Work, draft: Draft) -> None:
        """Complete or refuse a Subscription that a client writes (Observer.prepare)."""
        resource = draft.resource
        if draft.type != "Subscription" or resource is None or uow.caller.is_system:
            return
        before = _living(draft.before)
        over = _ends_before(resource, uow.now) and resource.get("status") in ENDED
        if not over:
            resource["status"] = _status(resource.get("status"), before)
            resource.pop("error", None)
        client_id = uow.caller.client_id
        _restore_headers(resource, before, client_id)
        if over or resource["status"] == "off":
            terms.check_headers(resource)
        else:
            terms.read(resource, self._channels, uow.now)
        self._seal(resource, draft.id, client_id)
        _own(resource, client_id)

    def mask(self, resource: Json, caller: Caller) -> Json:
        """`resource` as `caller` may see it. Header values and the webhook secret are for the subscriber alone.

        Pure; any resource but a Subscription is returned as it is. Where this is forgotten the sealed values are shown.
        """
        if resource.get("resourceType") != "Subscription" or "channel" not in resource:
            return resource
        subscriber = subscriber_of(resource)
        mine = subscriber is not None and not caller.is_system and caller.client_id == subscriber
        shown = dict(resource)
        over = is_over(resource)
        if over:
            shown["extension"] = [e for e in resource.get("extension") or () if e.get("url") != SUBSCRIBER]
            if not shown["extension"]:
                del shown["extension"]
        channel = dict(resource["channel"])
        headers = channel.get("header")
        if headers:
            identity = (str(resource.get("id")), subscriber or "") if mine else None
            channel["header"] = [self._shown(text, identity) for text in headers]
        shown["channel"] = channel
        if mine and not over and subscriber is not None and resource.get("id"):
            secret = self._keyring.secret(resource["id"], subscriber)
            shown["extension"] = [*resource.get("extension", ()), {"url": WEBHOOK_SECRET, "valueString": secret}]
        return shown

    def _shown(self, text: str, identity: tuple[str, str] | None) -> str:
        name, value = terms.split_header(text)
        opened = self._keyring.open(value, *identity) if identity and value.startswith(SEALED_PREFIX) else None
        return f"{name}: {MASKED if opened is None else opened}"

    def _seal(self, resource: Json, subscription: str, client_id: str) -> None:
        headers = (resource.get("channel") or {}).get("header")
        if not headers:
            return
        sealed = []
        for text in headers:
            name, value = terms.split_header(text)
            if not value.startswith(SEALED_PREFIX):
                value = self._keyring.seal(value, subscription, client_id)
            sealed.append(f"{name}: {value}")
        resource["channel"] = {**resource["channel"], "header": sealed}


def subscriber_of(resource: Json) -> str | None:
    """The client that a stored Subscription belongs to."""
    for extension in resource.get("extension") or ():
        if extension.get("url") == SUBSCRIBER:
            return str(extension.get("valueString"))
    return None


def is_over(resource: Json) -> bool:
    """Whether a stored Subscription was over when it was written: nothing is ever delivered for it, so it has neither
    subscriber nor secret to show."""
    written = parse_instant(str((resource.get("meta") or {}).get("lastUpdated")))
    return resource.get("status") in ENDED and written is not None and _ends_before(resource, written)


def _ends_before(resource: Json, moment: datetime) -> bool:
    end = parse_instant(str(resource.get("end")))
    return end is not None and end <= moment


def _living(version: Version | None) -> Json | None:
    return None if version is None or version.deleted else version.json()


def _status(asked: object, before: Json | None) -> str:
    """A client asks, for the first time or anew, or ends it; a create that says `error` asks as well."""
    if asked == "off":
        return "off"
    if before is None or asked in ("requested", "active"):
        return "requested"
    raise InvalidContent(
        "A client may set the status requested (the server then makes the handshake) or off; error is the server's",
        expression="Subscription.status",
        code="business-rule",
    )


def _restore_headers(resource: Json, before: Json | None, client_id: str) -> None:
    """Put back the sealed values of headers that the client returned masked, as it read them (read, alter, PUT)."""
    channel = resource.get("channel") or {}
    headers = channel.get("header")
    if not headers:
        return
    earlier = ((before or {}).get("channel") or {}).get("header") or []
    kept = dict(terms.split_header(text) for text in earlier)
    restored = list(headers)
    for index, text in enumerate(headers):
        name, value = terms.split_header(str(text))
        if value != MASKED and not value.startswith(SEALED_PREFIX):
            continue
        if (
            before is None
            or subscriber_of(before) != client_id
            or name not in kept
            or value not in (MASKED, kept[name])
        ):
            raise InvalidContent(
                f"The value of the channel header {name} is hidden and was not given by this client: state it anew",
                expression=f"Subscription.channel.header[{index}]",
                code="value",
            )
        restored[index] = f"{name}: {kept[name]}"
    resource["channel"] = {**channel, "header": restored}


def _own(resource: Json, client_id: str) -> None:
    """Name the subscriber; what a client says about it, or echoes of its secret, are dropped."""
    kept = [e for e in resource.get("extension") or () if e.get("url") not in (SUBSCRIBER, WEBHOOK_SECRET)]
    resource["extension"] = [*kept, {"url": SUBSCRIBER, "valueString": client_id}]
