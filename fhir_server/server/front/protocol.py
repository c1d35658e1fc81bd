"""Granian's RSGI as types, and a request's head as a WSGI environment (PEP 3333), checked as RFC 9112 asks.

hyper, below Granian, has refused by then: more than 100 headers or a head that is too long (431), a Content-Length that
is doubled or no number (400). Where Transfer-Encoding comes with a Content-Length it drops the length and closes the
connection after the answer (RFC 9112 §6.1). What it lets through is refused here.

RSGI 1.6 https://github.com/emmett-framework/granian/blob/master/docs/spec/RSGI.md
"""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Protocol

from werkzeug.exceptions import ExpectationFailed, RequestHeaderFieldsTooLarge

from resources.outcomes import BadRequest, NotAllowed

Environ = dict[str, Any]
Headers = list[tuple[str, str]]

_HOST = re.compile(r"(?:[A-Za-z0-9.\-_~%!$&'()*+,;=]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?", re.ASCII)
"""uri-host [ ":" port ] (RFC 9112 §3.2, RFC 3986 §3.2.2)."""


class RequestHeaders(Protocol):
    """Header fields by lower-case name."""

    def items(self) -> Sequence[tuple[str, str]]:
        """All fields in order; a value that is not ASCII is left out."""
        ...

    def __len__(self) -> int:
        """The number of different names."""
        ...


class Scope(Protocol):
    """The head of a request."""

    proto: str
    http_version: str
    client: str
    server: str
    scheme: str
    method: str
    path: str
    """Percent-decoded, a character for each byte, as PATH_INFO."""
    query_string: str
    authority: str | None
    """Host and port of a target in absolute form."""

    @property
    def headers(self) -> RequestHeaders: ...


class HttpProtocol(Protocol):
    """A request's body and the way to its answer."""

    def __call__(self) -> Awaitable[bytes]:
        """The whole body. Raises RSGIProtocolClosed where the client leaves before its end."""
        ...

    def __aiter__(self) -> AsyncIterator[bytes]:
        """The body in pieces as they come, the next only when it is asked for; `bodies` says how it ends."""
        ...

    def response_empty(self, status: int, headers: Headers) -> None: ...

    def response_bytes(self, status: int, headers: Headers, body: bytes) -> None: ...

    def response_file(self, status: int, headers: Headers, file: str) -> None: ...


def environ_of(scope: Scope, basic: Environ) -> Environ:
    """The environment of a request, without its body. Raises Refused where it must not be served."""
    environ = basic.copy()
    method = environ["REQUEST_METHOD"] = scope.method
    environ["PATH_INFO"] = scope.path
    environ["QUERY_STRING"] = scope.query_string
    environ["SERVER_PROTOCOL"] = "HTTP/1.1" if scope.http_version == "1.1" else "HTTP/1.0"
    environ["wsgi.url_scheme"] = scope.scheme
    environ["REMOTE_ADDR"] = scope.client.rpartition(":")[0].strip("[]")
    headers = scope.headers
    size = len(scope.path) + len(scope.query_string)
    for name, value in headers.items():
        size += len(name) + len(value)
        key = _KEYS.get(name) or _key(name)
        if key in environ:
            environ[key] = f"{environ[key]}, {value}"
        else:
            environ[key] = value
    if size > MAX_HEAD_BYTES:
        raise Refused(environ, RequestHeaderFieldsTooLarge())  # RFC 6585 §5
    if len(environ) != len(basic) + _HEAD + len(headers):
        raise Refused(environ, BadRequest("A header field is not ASCII, or two have names that differ by _ and - only"))
    host = environ.get("HTTP_HOST")
    if host is None or "," in host or not _HOST.fullmatch(host):
        # RFC 9112 §3.2: exactly one, and well-formed; HTTP/1.0 knows it not.
        if host is not None or environ["SERVER_PROTOCOL"] != "HTTP/1.0":
            raise Refused(environ, BadRequest("A request has exactly one Host (RFC 9112 §3.2)"))
        environ["HTTP_HOST"] = ""
    if scope.authority is not None:
        environ["HTTP_HOST"] = scope.authority  # absolute form: the target's own host counts (RFC 9112 §3.2.2)
    if environ.get("HTTP_EXPECT", "100-continue").lower() != "100-continue":
        raise Refused(environ, ExpectationFailed())  # RFC 9110 §10.1.1
    if method == "CONNECT":
        raise Refused(environ, NotAllowed.but(("GET",), "This server is no proxy"))
    return environ


class Refused(Exception):
    """A request whose head is refused before anything is done with it."""

    def __init__(self, environ: Environ, fault: Exception) -> None:
        super().__init__()
        self.environ = environ
        self.fault = fault


def basic_environ(port: int, host: str, no_body: object) -> Environ:
    """What is the same in all requests. `no_body`: the input of a request that has none."""
    return {
        "SCRIPT_NAME": "",
        "SERVER_NAME": host,
        "SERVER_PORT": str(port),
        "SERVER_SOFTWARE": "vigie",
        "wsgi.errors": sys.stderr,
        "wsgi.input": no_body,
        "wsgi.input_terminated": True,
        "wsgi.multiprocess": True,
        "wsgi.multithread": True,
        "wsgi.run_once": False,
        "wsgi.version": (1, 0),
    }


MAX_HEAD_BYTES = 32 * 1024
"""Longest target and header fields together."""
_HEAD = 6
"""Keys that `environ_of` adds for the head of any request."""
_KEYS: dict[str, str] = {}
_MAX_KEYS = 500


def _key(name: str) -> str:
    """The key of a header's name, remembered for the names that are usual."""
    key = name.upper().replace("-", "_")
    if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        key = "HTTP_" + key
    if len(_KEYS) < _MAX_KEYS:
        _KEYS[name] = key
    return key


StartResponse = Callable[..., Callable[[bytes], object]]
Application = Callable[[Environ, Any], Any]
