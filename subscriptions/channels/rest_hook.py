"""The rest-hook channel: one HTTP request to the subscriber's endpoint.

A topic's notification is a Bundle, POSTed. For R4 criteria it is the resource itself, by an update below the endpoint
(`PUT [endpoint]/Type/id`), or, where no payload is asked for, a POST without a body. Every request is signed.

R4 §2.46.7.1 http://hl7.org/fhir/R4/subscription.html#2.46.7.1; Standard Webhooks 1.0.0
"""

from __future__ import annotations

import ssl

from resources.json import Json
from resources.outcomes import Issue
from subscriptions import signature
from subscriptions.channels.http import Sender
from subscriptions.channels.port import Address, Answer, Notice
from subscriptions.endpoints import Endpoint, EndpointPolicy, RefusedEndpoint

ENDPOINT = "Subscription.channel.endpoint"


class RestHook:
    """Implements `port.Channel`."""

    code = "rest-hook"

    def __init__(self, policy: EndpointPolicy, *, ssl_context: ssl.SSLContext | None = None) -> None:
        """`ssl_context`: for a private CA or a client certificate; certificates are always verified."""
        self._policy = policy
        self._sender = Sender(policy, ssl_context=ssl_context)

    def read(self, channel: Json) -> tuple[Endpoint | None, list[Issue]]:
        """The endpoint, if the policy admits its URL."""
        url = channel.get("endpoint")
        if not isinstance(url, str):
            return None, [Issue("error", "required", "A rest-hook needs an endpoint", (ENDPOINT,))]
        try:
            return self._policy.check(url), []
        except RefusedEndpoint as error:
            return None, [Issue("error", "value", str(error), (ENDPOINT,))]

    def refusal(self, address: Address) -> str | None:
        """Why the endpoint's host may not be connected to, by its addresses of now."""
        endpoint = _endpoint(address)
        try:
            self._policy.resolve(endpoint.host, endpoint.port)
        except RefusedEndpoint as error:
            return str(error)
        return None

    def send(self, address: Address, notice: Notice, *, timeout_s: float) -> Answer:
        """One request."""
        endpoint, method = _endpoint(address), "POST"
        if notice.resource is not None:
            endpoint, method = endpoint.below(notice.resource), "PUT"
        headers = [("Content-Type", notice.content_type)] if notice.content_type else []
        headers += notice.headers
        headers += signature.webhook_headers(notice.secrets, notice.identifier, notice.at, notice.body)
        return self._sender.send(method, endpoint, headers, notice.body, timeout_s=timeout_s)

    def close(self) -> None:
        self._sender.close()


def _endpoint(address: Address) -> Endpoint:
    if not isinstance(address, Endpoint):
        raise TypeError("A rest-hook sends to what it has read itself")
    return address
