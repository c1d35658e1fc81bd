"""Cross-origin requests of browsers: which page may call which route, by the web origins of the registered clients.

A *preflight* is answered here, without a token, since browsers send none: it says the methods and headers that the
route really takes, to an origin that some active client has registered, and nothing to any other. It is no access to
anything, so it is neither a login that failed nor recorded.

An *actual answer* names the origin where the client of the token has registered it; where no client is known (a 401,
the token endpoint, what the front refuses itself), where any active client has. There are no cookies, so no credentials
mode; `*` stands on the public documents alone. An answer that differs by origin says `Vary: Origin`.

Fetch https://fetch.spec.whatwg.org/#http-cors-protocol, R4 CapabilityStatement.rest.security.cors
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map

from auth.clients import Client
from auth.guard import CLIENT_ID
from fhir_server.edge import errors, rest
from fhir_server.server.recorder import PUBLIC
from resources.interactions import Body
from resources.outcomes import FhirError
from store.engine.faults import DRIVER_ERRORS

Environ = dict[str, Any]
Headers = list[tuple[str, str]]

MAX_AGE_S = 600
"""How long a browser may keep a preflight; what a token may is asked anew by each request."""
EXPOSED = ", ".join((
    "Allow", "Content-Disposition", "Content-Location", "ETag", "Last-Modified", "Location", "Retry-After", "Warning",
    "WWW-Authenticate", "X-Request-Id",
))  # fmt: skip
"""Headers of an answer that a page may read, beside those that Fetch always shows."""
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
FACADES = ("/fhir", "/dicom-web", "/oauth", "/.well-known")
REFUSING = frozenset({"other", "nothing"})
"""Views that only refuse: a method that the route does not take, a path that is none."""
_ANYWHERE = frozenset({"accept", "authorization", "x-request-id"})
_OF_FHIR = frozenset({"prefer"})


class Registry(Protocol):
    """The registered clients. Implemented by `auth.clients.Clients`."""

    def known(self, client_id: str) -> Client | None: ...

    def origins(self) -> frozenset[str]: ...


class Cors:
    """What the threshold asks about other origins."""

    def __init__(self, clients: Registry, routes: Map) -> None:
        """`routes`: the URL map of what is not FHIR; the routes of FHIR are asked of the edge."""
        self._clients = clients
        self._routes = routes.bind("localhost")

    def complete(self, environ: Environ, headers: Headers) -> None:
        """Add what an actual answer says to browsers."""
        if not is_covered(environ["PATH_INFO"]):
            return
        if any(name.lower() == "access-control-allow-origin" for name, _ in headers):
            return  # a public document: it is the same for every origin
        _share(environ, headers, lambda origin: self._admits(origin, environ.get(CLIENT_ID)))

    def takes(self, path: str) -> dict[str, frozenset[str]]:
        """Method → headers that a route takes with it, in lower case; empty: there is no such route."""
        found = {}
        for method in METHODS:
            taken = _of_fhir(method, path) if rest.Edge.serves(path) else self._of_map(method, path)
            if taken is not None:
                found[method] = taken
        return found

    def preflight(self, environ: Environ) -> tuple[str, Headers, Iterable[bytes]] | None:
        """The answer to a preflight; None where the request is none (Fetch, CORS-preflight request)."""
        if "HTTP_ORIGIN" not in environ or "HTTP_ACCESS_CONTROL_REQUEST_METHOD" not in environ:
            return None
        if environ["REQUEST_METHOD"] != "OPTIONS" or not is_covered(environ["PATH_INFO"]):
            return None
        origin, path = environ["HTTP_ORIGIN"], environ["PATH_INFO"]
        headers: Headers = [("Vary", "Origin")]
        try:
            admitted = origin in self._clients.origins()
        except DRIVER_ERRORS as error:
            told: list[Any] = []
            body = errors.wsgi_answer(error, environ, lambda *given: told.extend(given))
            return told[0], told[1], body
        if admitted or path in PUBLIC:
            takes = self.takes(path)
            asked = takes.get(environ["HTTP_ACCESS_CONTROL_REQUEST_METHOD"])
            if asked is not None:
                headers += (
                    ("Access-Control-Allow-Origin", origin if admitted else "*"),
                    ("Access-Control-Allow-Methods", ", ".join(takes)),
                    ("Access-Control-Allow-Headers", ", ".join(sorted(asked))),
                    ("Access-Control-Max-Age", str(MAX_AGE_S)),
                )
        return "204 No Content", headers, []

    def _admits(self, origin: str, client_id: str | None) -> bool:
        try:
            if client_id is None:
                return origin in self._clients.origins()
            client = self._clients.known(client_id)
        except (FhirError, *DRIVER_ERRORS):
            return False  # the answer is what it is; that it can be read is not known
        return client is not None and client.active and origin in client.origins

    def _of_map(self, method: str, path: str) -> frozenset[str] | None:
        try:
            endpoint, _ = self._routes.match(path, method)
        except HTTPException:
            return None
        if str(endpoint).rpartition(".")[2].partition("-")[0] in REFUSING:
            return None
        return _ANYWHERE | {"content-type"} if method == "POST" else _ANYWHERE


class Refusals:
    """The same for answers that the front gives itself, in the event loop, where nothing may be asked of the database.

    They hold nothing of anybody's, so it is enough that the origin was a client's when it was last looked up.
    """

    def __init__(self, remembered: Callable[[], frozenset[str]]) -> None:
        """`remembered`: web origins of active clients, as last known."""
        self._remembered = remembered

    def preflight(self, environ: Environ) -> None:
        """None of these is answered."""

    def complete(self, environ: Environ, headers: Headers) -> None:
        """Add what an actual answer says to browsers."""
        if is_covered(environ["PATH_INFO"]):
            _share(environ, headers, lambda origin: origin in self._remembered())


def _share(environ: Environ, headers: Headers, admits: Callable[[str], bool]) -> None:
    """Say that the answer differs by origin, and let the page of this one read it."""
    headers.append(("Vary", "Origin"))
    origin = environ.get("HTTP_ORIGIN")
    if origin is not None and admits(origin):
        headers += (("Access-Control-Allow-Origin", origin), ("Access-Control-Expose-Headers", EXPOSED))


def is_covered(path: str) -> bool:
    """Whether pages of other origins have any business at this path."""
    return path.startswith(FACADES)


def _of_fhir(method: str, path: str) -> frozenset[str] | None:
    try:
        route = rest.route_of(method, path)
    except FhirError:
        return None
    headers = _ANYWHERE | _OF_FHIR | route.form.heeds
    if route.form.body is not Body.NONE:
        headers |= {"content-type"}
        if route.type == "Binary":
            headers |= {"x-security-context"}
    return headers
