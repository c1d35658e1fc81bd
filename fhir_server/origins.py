"""The public bases at the door: whatever Host a client sent, inside there are only configured ones.

Links, `fullUrl` and BulkDataURI are built from the base that the client used, if it is one of ours; an unknown Host (a
proxy's inner name, or an attack) counts as the canonical base, so no link ever leads to a stranger.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import urlsplit

Environ = dict[str, Any]


class Origins:
    """WSGI middleware that puts the request's public base into the environment."""

    def __init__(self, application: Any, bases: Sequence[str]) -> None:
        self._application = application
        parts = [urlsplit(base) for base in bases]
        self._by_host = {part.netloc: part.scheme for part in reversed(parts)}
        self._exact = {(part.scheme, part.netloc) for part in parts}
        self._canonical = (parts[0].scheme, parts[0].netloc)

    def __call__(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        scheme, host = environ.get("wsgi.url_scheme", "http"), environ.get("HTTP_HOST", "")
        if (scheme, host) not in self._exact:
            if host in self._by_host:  # TLS ends in front of us: the scheme inside is not the client's
                scheme = self._by_host[host]
            else:
                scheme, host = self._canonical
            environ["wsgi.url_scheme"], environ["HTTP_HOST"] = scheme, host
        result: Iterable[bytes] = self._application(environ, start_response)
        return result
