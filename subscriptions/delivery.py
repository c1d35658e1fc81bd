"""One request with one notification to one endpoint, and what came of it.

Only 2xx is success; redirects are not followed; no proxy of the environment is obeyed; at most 4 kB of the answer are
read; the whole exchange ends by its deadline. Nothing of the answer's body is kept: it is the partner's text.

R4 §2.46.7.1 rest-hook http://hl7.org/fhir/R4/subscription.html; Standard Webhooks 1.0.0
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpcore2

from subscriptions.endpoints import Endpoint, EndpointPolicy, GuardedBackend, RefusedEndpoint

CONNECT_TIMEOUT_S = 3.0
RESPONSE_MAX_BYTES = 4096
KEEPALIVE_EXPIRY_S = 15.0
"""A kept connection goes to an address that was checked when it was made; a new one is checked anew."""
USER_AGENT = "Vigie-Subscriptions"


@dataclass(frozen=True, slots=True)
class Answer:
    """What an attempt came to. `status` None: no HTTP answer, `fault` says why."""

    status: int | None
    fault: str | None = None
    retry_after_s: float | None = None

    @property
    def accepted(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    @property
    def gone(self) -> bool:
        """410: the subscriber says that it wants no more."""
        return self.status == 410

    @property
    def reason(self) -> str:
        """For Subscription.error and the attempt's record."""
        return f"the endpoint answered {self.status}" if self.status is not None else self.fault or "no answer"


class Sender:
    """Sends notifications. One per process; safe for many threads."""

    def __init__(self, policy: EndpointPolicy, *, ssl_context: ssl.SSLContext | None = None) -> None:
        """`ssl_context`: for a private CA or a client certificate; certificates are always verified."""
        self._policy = policy
        self._backend = GuardedBackend(policy)
        self._pool = httpcore2.ConnectionPool(
            ssl_context=ssl_context or ssl.create_default_context(),
            max_connections=200,
            max_keepalive_connections=50,
            keepalive_expiry=KEEPALIVE_EXPIRY_S,
            network_backend=self._backend,
        )

    def refusal(self, endpoint: Endpoint) -> str | None:
        """Why the host of `endpoint` may not be connected to, by its addresses of now; None if it may."""
        try:
            self._policy.resolve(endpoint.host, endpoint.port)
        except RefusedEndpoint as error:
            return str(error)
        return None

    def send(
        self, method: str, endpoint: Endpoint, headers: Sequence[tuple[str, str]], body: bytes, *, timeout_s: float
    ) -> Answer:
        """Send `body`; never raises for what the endpoint does."""
        self._backend.start(timeout_s)
        sent = [("Host", _host(endpoint)), ("User-Agent", USER_AGENT), ("Content-Length", str(len(body))), *headers]
        timeouts = {"connect": CONNECT_TIMEOUT_S, "read": timeout_s, "write": timeout_s, "pool": timeout_s}
        try:
            with self._pool.stream(
                method,
                endpoint.url,
                headers=[(name.encode("ascii"), value.encode("ascii")) for name, value in sent],
                content=body,
                extensions={"timeout": timeouts},
            ) as response:
                read = 0
                for chunk in response.iter_stream():
                    read += len(chunk)
                    if read > RESPONSE_MAX_BYTES:
                        break
                return Answer(response.status, retry_after_s=_retry_after(response.headers))
        except RefusedEndpoint as error:
            return Answer(None, str(error))
        except httpcore2.TimeoutException:
            return Answer(None, "the endpoint did not answer in time")
        except httpcore2.NetworkError as error:
            return Answer(None, f"the endpoint could not be reached ({_kind(error)})")
        except (httpcore2.ProtocolError, httpcore2.UnsupportedProtocol):
            return Answer(None, "the endpoint did not speak HTTP")

    def close(self) -> None:
        self._pool.close()


def _kind(error: BaseException) -> str:
    cause = error.__cause__ or error.__context__ or error
    if isinstance(cause, ssl.SSLError):
        return "TLS certificate or handshake"
    return type(error).__name__


def _host(endpoint: Endpoint) -> str:
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    default = 443 if endpoint.scheme == "https" else 80
    return host if endpoint.port == default else f"{host}:{endpoint.port}"


def _retry_after(headers: Sequence[tuple[bytes, bytes]]) -> float | None:
    """RFC 9110 §10.2.3: seconds, or a date."""
    for name, raw in headers:
        if name.lower() != b"retry-after":
            continue
        text = raw.decode("latin-1").strip()
        if text.isdigit() and len(text) < 10:
            return float(text)
        try:
            at = parsedate_to_datetime(text)
        except ValueError:
            return None
        if at.tzinfo is None:
            at = at.replace(tzinfo=UTC)
        return max((at - datetime.now(UTC)).total_seconds(), 0)
    return None
