"""Where a notification may be sent: the endpoint policy, and connections to checked addresses only.

The URL comes from a partner and is hostile until shown otherwise (SSRF). `EndpointPolicy.check` reads the text alone,
so it can run inside a write transaction; `resolve` asks the DNS and is repeated for every new connection, and the
connection is made to the very address that was checked, with the name kept for SNI and certificate: rebinding has
nothing to win.

reference/security-subscriptions.md §3.6; OWASP SSRF prevention; Backport IG §safety-security (http SHOULD be refused).
"""

from __future__ import annotations

import ipaddress
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

import httpcore2

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolver = Callable[[str, int], Sequence[str]]

NOT_PUBLIC: tuple[Network, ...] = tuple(
    ipaddress.ip_network(text)
    for text in (
        # What `is_global` lets pass: multicast, NAT64, 6to4 and its relay, IPv4-compatible, IETF protocol assignments.
        "224.0.0.0/4",
        "ff00::/8",
        "64:ff9b::/96",
        "64:ff9b:1::/48",
        "2002::/16",
        "::/96",
        "192.88.99.0/24",
        "192.0.0.0/24",
        "2001::/32",
    )
)
_VISIBLE = re.compile(r"[!-~]+")
_HOST_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*")
_NUMERIC = re.compile(r"(0x[0-9a-f]*|[0-9]+)(\.(0x[0-9a-f]*|[0-9]+)){0,3}")


class RefusedEndpoint(Exception):
    """The endpoint is not one that this deployment sends to. The text says why, and is fit for the subscriber."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A checked endpoint URL, in parts: nobody parses the text a second time, and differently."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def origin(self) -> str:
        """The lane of this endpoint: scheme, host and port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    def below(self, path: str) -> Endpoint:
        """The resource `path` (``Type/id``) below this endpoint; its query, if any, stays at the end."""
        base, mark, query = self.target.partition("?")
        return replace(self, target=f"{base.rstrip('/')}/{path}{mark}{query}")

    @property
    def url(self) -> httpcore2.URL:
        """The URL for the HTTP client, in parts."""
        default = 443 if self.scheme == "https" else 80
        port = None if self.port == default else self.port
        return httpcore2.URL(scheme=self.scheme, host=self.host, port=port, target=self.target)


def public(address: Address) -> bool:
    """Whether `address` is a public unicast address."""
    mapped = getattr(address, "ipv4_mapped", None)
    if mapped is not None:
        return public(mapped)
    if not address.is_global or address.is_multicast or address.is_unspecified or address.is_reserved:
        return False
    return not any(address in network for network in NOT_PUBLIC if network.version == address.version)


def system_resolver(host: str, port: int) -> Sequence[str]:
    """All addresses of `host`, by the operating system."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


@dataclass(frozen=True, slots=True)
class EndpointPolicy:
    """Which endpoints a deployment sends to. The default: any host with public addresses, https on 443."""

    ports: frozenset[int] = frozenset({443})
    """TCP ports allowed for https."""
    hosts: frozenset[str] | None = None
    """Host names allowed, lower case; None: any."""
    private_networks: tuple[Network, ...] = ()
    """Private ranges of hospitals that are reached by VPN; their addresses may also be written as literals."""
    insecure_hosts: frozenset[str] = frozenset()
    """``host:port`` allowed over plain http (a gateway on the same trusted segment)."""
    allow_insecure_loopback: bool = False
    """Demonstration and tests: http and https to any port of this machine."""
    resolver: Resolver = field(default=system_resolver, compare=False)

    def check(self, url: str) -> Endpoint:
        """The endpoint that `url` names. Raises RefusedEndpoint. Reads the text alone: no DNS."""
        endpoint, literal = _parts(url)
        loopback = self.allow_insecure_loopback and (
            literal.is_loopback if literal is not None else _is_localhost(endpoint.host)
        )
        if loopback:
            return endpoint
        name = f"{endpoint.host}:{endpoint.port}"
        if endpoint.scheme == "http" and name not in self.insecure_hosts:
            raise RefusedEndpoint("the endpoint must be an https URL")
        if endpoint.scheme == "https" and endpoint.port not in self.ports:
            allowed = ", ".join(str(port) for port in sorted(self.ports))
            raise RefusedEndpoint(f"the endpoint's port is not allowed (allowed: {allowed})")
        if self.hosts is not None and endpoint.host not in self.hosts:
            raise RefusedEndpoint("the endpoint's host is not on this deployment's list of partner hosts")
        if literal is not None:
            if not self._permitted(literal):
                if public(literal):
                    raise RefusedEndpoint("the endpoint must name its host; an IP address is not accepted")
                raise RefusedEndpoint("the endpoint is on a private, loopback or otherwise non-public address")
        elif _is_localhost(endpoint.host):
            raise RefusedEndpoint("the endpoint is on a private, loopback or otherwise non-public address")
        return endpoint

    def resolve(self, host: str, port: int) -> list[str]:
        """Addresses to connect to. Raises RefusedEndpoint if any of the host's addresses is not allowed (mixed answers
        are an attack)."""
        try:
            found = list(dict.fromkeys(self.resolver(host, port)))
        except (OSError, UnicodeError) as error:
            raise RefusedEndpoint("the endpoint's host name does not resolve") from error
        if not found:
            raise RefusedEndpoint("the endpoint's host name does not resolve")
        for text in found:
            address = ipaddress.ip_address(text.partition("%")[0])
            loopback = self.allow_insecure_loopback and address.is_loopback
            if not (loopback or public(address) or self._permitted(address)):
                raise RefusedEndpoint(
                    "the endpoint's host resolves to a private, loopback or otherwise non-public address"
                )
        return found

    def _permitted(self, address: Address) -> bool:
        """Whether the address lies in a private range that the deployment lists."""
        mapped = getattr(address, "ipv4_mapped", None) or address
        return any(mapped in network for network in self.private_networks if network.version == mapped.version)


def _parts(url: str) -> tuple[Endpoint, Address | None]:
    """The URL in parts, and the address if the host is one in any notation that an operating system reads."""
    if not _VISIBLE.fullmatch(url) or "\\" in url:
        raise RefusedEndpoint("the endpoint has characters that a URL may not have")
    try:
        parts = urlsplit(url)
        port, host = parts.port, (parts.hostname or "").lower().rstrip(".")
    except ValueError as error:
        raise RefusedEndpoint("the endpoint is not a URL") from error
    if parts.scheme not in ("https", "http"):
        raise RefusedEndpoint("the endpoint must be an https URL")
    if "@" in parts.netloc:
        raise RefusedEndpoint("the endpoint may not carry a user name or password")
    if "#" in url:
        raise RefusedEndpoint("the endpoint may not have a fragment")
    if port == 0:
        raise RefusedEndpoint("the endpoint's port is not allowed")
    literal = _literal(host)
    if literal is None and not _HOST_NAME.fullmatch(host):
        raise RefusedEndpoint("the endpoint's host is not a host name")
    if literal is not None:
        host = str(literal)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Endpoint(parts.scheme, host, port or (443 if parts.scheme == "https" else 80), target), literal


def _literal(host: str) -> Address | None:
    if _NUMERIC.fullmatch(host):
        try:  # 2130706433, 0x7f000001, 0177.1: what inet_aton takes, getaddrinfo takes too
            return ipaddress.IPv4Address(socket.inet_aton(host))
        except OSError as error:
            raise RefusedEndpoint("the endpoint's host is not a host name") from error
    if ":" not in host:
        return None
    try:
        return ipaddress.ip_address(host)
    except ValueError as error:
        raise RefusedEndpoint("the endpoint's host is not an address") from error


def _is_localhost(host: str) -> bool:
    """RFC 6761 §6.3."""
    return host == "localhost" or host.endswith(".localhost")


class GuardedBackend(httpcore2.NetworkBackend):
    """Connects only to addresses the policy allows, and keeps every request within its deadline.

    httpcore's timeouts count per read, so an endpoint that sends one byte a second would hold a dispatcher for ever:
    the deadline, set per request and thread, bounds each of them.
    """

    def __init__(self, policy: EndpointPolicy) -> None:
        self._policy = policy
        self._system = httpcore2.SyncBackend()
        self._local = threading.local()

    def start(self, timeout_s: float) -> None:
        """Give the calling thread's next request `timeout_s` seconds in all."""
        self._local.deadline = time.monotonic() + timeout_s

    def left(self, timeout: float | None) -> float:
        """Seconds left for the calling thread's request, at most `timeout`."""
        left: float = getattr(self._local, "deadline", time.monotonic()) - time.monotonic()
        if left <= 0:
            raise httpcore2.ReadTimeout("the endpoint did not answer in time")
        return left if timeout is None else min(left, timeout)

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        refused: Exception = httpcore2.ConnectError("the endpoint has no address")
        for address in self._policy.resolve(host, port):
            try:
                stream = self._system.connect_tcp(address, port, self.left(timeout), local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                refused = error
                continue
            return _DeadlineStream(stream, self)
        raise refused

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class _DeadlineStream(httpcore2.NetworkStream):
    """A stream whose every operation ends by the request's deadline."""

    def __init__(self, stream: httpcore2.NetworkStream, backend: GuardedBackend) -> None:
        self._stream = stream
        self._backend = backend

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._backend.left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._backend.left(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        stream = self._stream.start_tls(ssl_context, server_hostname, self._backend.left(timeout))
        return _DeadlineStream(stream, self._backend)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
