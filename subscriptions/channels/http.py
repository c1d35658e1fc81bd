"""One HTTP request to a checked endpoint, and what came of it.

Only 2xx is success; redirects are not followed; no proxy of the environment is obeyed; at most 4 kB of the answer are
read; the whole exchange ends by its deadline. Nothing of the answer's body is kept: it is the partner's text.

RFC 9110 §15.3, §10.2.3
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from datetime import UTC
from email.utils import parsedate_to_datetime

import httpcore2

from resources.times import utc_now
from subscriptions.channels.port import Answer
from subscriptions.endpoints import Endpoint, EndpointPolicy, GuardedBackend, RefusedEndpoint

CONNECT_TIMEOUT_S = 3.0
RESPONSE_MAX_BYTES = 4096
KEEPALIVE_EXPIRY_S = 15.0
"""A kept connection goes to an address that was checked when it was made; a new one is checked anew."""
USER_AGENT = "Vigie-Subscriptions"


class Sender:
    """An HTTP client that connects to checked addresses only. One per process; safe for many threads."""

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
                return _answered(response.status, _retry_after(response.headers))
        except RefusedEndpoint as error:
            return Answer(False, str(error))
        except httpcore2.TimeoutException:
            return Answer(False, "the endpoint did not answer in time")
        except httpcore2.NetworkError as error:
            return Answer(False, f"the endpoint could not be reached ({_kind(error)})")
        except (httpcore2.ProtocolError, httpcore2.UnsupportedProtocol):
            return Answer(False, "the endpoint did not speak HTTP")

    def close(self) -> None:
        """Let go of connections."""
        self._pool.close()


def _answered(status: int, retry_after_s: float | None) -> Answer:
    """Only 2xx is success; 410 says that the subscriber wants no more."""
    return Answer(
        200 <= status < 300, f"the endpoint answered {status}", status, gone=status == 410, retry_after_s=retry_after_s
    )


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
        return max((at - utc_now()).total_seconds(), 0)
    return None
