"""The threshold: what every request passes on its way in, and every answer on its way out, whatever serves it.

One middleware for all of it, since each layer of its own costs a read more than what it does there.

*The public base.* Links, `fullUrl` and BulkDataURI are built from the base that the client used, if it is one of ours;
an unknown Host (a proxy's inner name, or an attack) counts as the canonical base, so no link ever leads to a stranger.
*Caches* keep nothing, unless the facade says otherwise.
*The request id* is the client's, or minted; it is in the answer, in the log line and in the audit record.
*The record* of the access is durable before the first byte leaves (`recorder`).
*Other origins* read what `cors` lets them, *content codings* are applied last (`encoding`).
*In flight* is a request from the guard until its answer is complete (`auth.admission`).
*The log line* names the kind of request, never the path: a path or a query may name a patient.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol
from urllib.parse import urlsplit

import structlog

from auth.admission import ADMITTED, Admitted
from auth.guard import REQUEST_ID
from fhir_server.edge import errors
from fhir_server.edge.wire import ROUTE_KIND
from fhir_server.server import encoding, logs
from fhir_server.server.recorder import Recorder
from resources.outcomes import Unavailable
from store.engine.faults import DRIVER_ERRORS
from store.engine.ids import random_digits
from store.engine.keyring import KeyFault

log = structlog.get_logger("vigie.threshold")

Environ = dict[str, Any]
Headers = list[tuple[str, str]]

FACADES = frozenset({"fhir", "dicom-web", "oauth", ".well-known", "livez", "readyz", "metrics"})
_ALONE = frozenset({"livez", "readyz", "metrics"})
"""Facades of one route each."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_CACHE_CONTROL = ("Cache-Control", "no-store")
_GUARDS = (("X-Content-Type-Options", "nosniff"), ("Referrer-Policy", "no-referrer"))


class Sharing(Protocol):
    """What other origins may read. Implemented by `cors`."""

    def preflight(self, environ: Environ, /) -> tuple[str, Headers, Iterable[bytes]] | None: ...

    def complete(self, environ: Environ, headers: Headers, /) -> None: ...


class Belonging(Protocol):
    """The keys of the deployment (`store.engine.keyring.KeyRing`)."""

    def prove(self) -> None:
        """Open them, unless that is done. Raises KeyFault, and what the database raises."""
        ...


class Threshold:
    """WSGI middleware, the outermost part of the application, around all facades."""

    def __init__(
        self,
        application: Any,
        bases: Sequence[str],
        *,
        recorder: Recorder | None = None,
        cors: Sharing | None = None,
        keys: Belonging | None = None,
    ) -> None:
        """`recorder`: None where others see to the record. `keys`: asked until they are open."""
        self._application = application
        self._recorder = recorder
        self._cors = cors
        self._unproven = keys
        parts = [urlsplit(base) for base in bases]
        self._by_host = {part.netloc: part.scheme for part in reversed(parts)}
        self._exact = {(part.scheme, part.netloc) for part in parts}
        self._canonical = (parts[0].scheme, parts[0].netloc)

    def __call__(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        began = time.perf_counter()
        if (environ.get("wsgi.url_scheme"), environ.get("HTTP_HOST")) not in self._exact:
            self._set_base(environ)
        given = environ.get("HTTP_X_REQUEST_ID")
        request_id = given if given and _REQUEST_ID.fullmatch(given) else random_digits()
        environ[REQUEST_ID] = request_id
        try:
            status, headers, result = self._answer(environ)
        except BaseException:
            _release(environ)
            raise
        method = environ["REQUEST_METHOD"]
        headers += (("X-Request-Id", request_id), *_GUARDS)
        if _CACHE_CONTROL not in headers and not any(name.lower() == "cache-control" for name, _ in headers):
            headers.append(_CACHE_CONTROL)
        logs.request(
            method, route_of(environ["PATH_INFO"], environ.get(ROUTE_KIND)), int(status[:3]),
            (time.perf_counter() - began) * 1000, request_id,
        )  # fmt: skip
        start_response(status, headers)
        if type(result) is list:
            _release(environ)
            return result
        return _Complete(result, environ) if ADMITTED in environ else result

    def _answer(self, environ: Environ) -> tuple[str, Headers, Iterable[bytes]]:
        """Ask the application. PEP 3333 lets it start its answer late; none of ours does."""
        if self._unproven is not None and (refused := self._refused(environ)) is not None:
            return refused
        cors, recorder = self._cors, self._recorder
        if cors is not None and (preflight := cors.preflight(environ)) is not None:
            return preflight
        recording = None if recorder is None else recorder.opened(environ)
        told: list[Any] = []

        def hold(*given: Any) -> Callable[[bytes], object]:
            told[:] = given
            return _no_write

        result: Iterable[bytes] = self._application(environ, hold)
        if recorder is not None and recording is not None:
            try:
                recorder.settle(recording, environ, int(told[0][:3]))
            except Unavailable as error:
                getattr(result, "close", lambda: None)()
                result = errors.wsgi_answer(error, environ, hold)
        status, headers = told[0], told[1]
        if cors is not None:
            cors.complete(environ, headers)
        return status, headers, encoding.encoded(environ, status, headers, result)

    def _refused(self, environ: Environ) -> tuple[str, Headers, Iterable[bytes]] | None:
        """Nothing is served until this process has opened the keys: another deployment's node must not answer."""
        if environ["PATH_INFO"].removeprefix("/") in _ALONE:
            return None
        error = Unavailable("This server has not opened the keys of its database", retry_after_s=2)
        try:
            if self._unproven is not None:
                self._unproven.prove()
            self._unproven = None
        except KeyFault:
            log.exception("this node does not belong to its database")
        except (Unavailable, *DRIVER_ERRORS):
            log.warning("the keys are not open yet")
        else:
            return None
        told: list[Any] = []

        def hold(*given: Any) -> Callable[[bytes], object]:
            told[:] = given
            return _no_write

        result = errors.wsgi_answer(error, environ, hold)
        return told[0], told[1], result

    def _set_base(self, environ: Environ) -> None:
        """Another Host than ours."""
        scheme, host = environ.get("wsgi.url_scheme", "http"), environ.get("HTTP_HOST", "")
        if host in self._by_host:  # TLS ends in front of us: the scheme inside is not the client's
            scheme = self._by_host[host]
        else:
            scheme, host = self._canonical
        environ["wsgi.url_scheme"], environ["HTTP_HOST"] = scheme, host


class _Complete:
    """An answer in pieces; when it is complete, or broken off, its request is no longer in flight."""

    def __init__(self, result: Iterable[bytes], environ: Environ) -> None:
        self._result, self._environ = result, environ

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._result)

    def close(self) -> None:
        try:
            getattr(self._result, "close", lambda: None)()
        finally:
            _release(self._environ)


def _release(environ: Environ) -> None:
    admitted: Admitted | None = environ.get(ADMITTED)
    if admitted is not None:
        admitted.release()


def route_of(path: str, kind: str | None) -> str:
    """What the log and the metrics call a request: facade/kind. `kind`: as whoever routed it said; None: nobody did."""
    facade = path.split("/", 2)[1] if "/" in path else ""
    if facade not in FACADES:
        return "none"
    return facade if facade in _ALONE else f"{facade}/{kind or 'none'}"


def _no_write(data: bytes) -> object:
    raise RuntimeError("The facades give their answers as iterables (PEP 3333's write() is not for them)")
