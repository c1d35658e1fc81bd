"""Every fault becomes an answer here, in one place: OperationOutcome, OAuth JSON or plain text, chosen by the path.

A blueprint does not own its 404s, so the path decides. No text of an unknown exception leaves the server: the caller
gets a request id, the log has the rest.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from auth.guard import RECORDING, REQUEST_ID
from fhir_server.edge.exchange import Answer
from resources import jsontext
from resources.outcomes import FhirError, Issue, Unavailable, UnsupportedMediaType, outcome
from store.access import Recording
from store.engine.faults import translated

log = structlog.get_logger("vigie.http")

RETRY_AFTER_S = 5
"""What a 503 says where nobody knows better, in seconds."""
_ISSUE_CODE = {
    400: "invalid",
    401: "login",
    403: "forbidden",
    404: "not-found",
    405: "not-supported",
    406: "not-supported",
    408: "timeout",
    413: "too-long",
    414: "too-long",
    415: "not-supported",
    429: "throttled",
    431: "too-long",
    503: "transient",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """What the caller is told, in no facade's words yet."""

    status: int
    issues: tuple[Issue, ...]
    headers: tuple[tuple[str, str], ...] = ()


def fault_of(error: Exception, environ: Mapping[str, Any]) -> Fault:
    """What to tell of `error`, and to record; what nobody foresaw is logged, and told as 500 with the request's id."""
    fault = _fault_of(error, environ.get(REQUEST_ID, ""))
    recording: Recording | None = environ.get(RECORDING)
    if recording is not None:
        recording.failed(None, translated(error), f"{fault.status} {fault.issues[0].code}")
    return fault


_EXHAUSTED = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE})
"""What passes, and is no fault of the request: wherever it is met."""


def _fault_of(error: Exception, request_id: str) -> Fault:
    told = translated(error)  # the database may fail outside a unit of work: where the guard looks for a token, say
    if isinstance(told, FhirError):
        return _of_fhir(told)
    if isinstance(error, HTTPException):
        return _of_http(error)
    if isinstance(error, OSError) and error.errno in _EXHAUSTED:
        log.error("a request found no space or no descriptor", exc_info=error, request_id=request_id)
        return _of_fhir(Unavailable("The server has no space or no descriptor left at present"))
    log.error("a request failed by an exception that nobody foresaw", exc_info=error, request_id=request_id)
    return Fault(500, (Issue("fatal", "exception", f"The server failed; request id {request_id}"),))


def answer_of(error: Exception, environ: Mapping[str, Any]) -> Answer:
    """The answer of the FHIR edge: an OperationOutcome (R4 §3.1.0.1.6)."""
    fault = fault_of(error, environ)
    return Answer(fault.status, jsontext.dump(outcome(fault.issues)), fault.headers)


def wsgi_answer(
    error: Exception, environ: dict[str, Any], start_response: Callable[..., Any]
) -> Iterable[bytes]:
    """The answer outside the facades, in the words of the one that the path names."""
    fault = fault_of(error, environ)
    response = _rendered(fault, environ["PATH_INFO"])
    response.headers.extend(fault.headers)
    return response(environ, start_response)


def register(app: Flask) -> None:
    """Have Flask answer every fault so."""
    app.register_error_handler(Exception, _respond)


def _of_fhir(error: FhirError) -> Fault:
    headers: list[tuple[str, str]] = []
    if error.status == 401:
        headers.append(("WWW-Authenticate", getattr(error, "challenge", None) or 'Bearer realm="vigie"'))
    if error.status == 405:
        headers.append(("Allow", ", ".join(getattr(error, "allowed", ()))))
    if isinstance(error, UnsupportedMediaType) and error.accept_encoding:
        headers.append(("Accept-Encoding", error.accept_encoding))
    retry_after_s = error.retry_after_s
    if retry_after_s is None and error.status == 503:  # RFC 9110 §10.2.3: every "not now" says when
        retry_after_s = RETRY_AFTER_S
    if retry_after_s is not None:
        headers.append(("Retry-After", str(retry_after_s)))
    version = getattr(error, "version", None)
    if version is not None:
        headers.append(("ETag", f'W/"{version}"'))
    return Fault(error.status, tuple(error.issues), tuple(headers))


def _of_http(error: HTTPException) -> Fault:
    status = error.code or 500
    allowed = getattr(error, "valid_methods", None)
    headers = (("Allow", ", ".join(sorted(allowed))),) if allowed else ()
    return Fault(status, (Issue("error", _ISSUE_CODE.get(status, "processing"), error.name),), headers)


def _respond(error: Exception) -> Response:
    fault = fault_of(error, request.environ)
    response = _rendered(fault, request.path)
    response.headers.extend(fault.headers)
    return response


def _rendered(fault: Fault, path: str) -> Response:
    status, issues = fault.status, fault.issues
    if path.startswith("/oauth"):
        body = jsontext.dump(
            {"error": "invalid_request" if status < 500 else "server_error", "error_description": issues[0].diagnostics}
        )
        response = Response(body, status, content_type="application/json")
        response.headers["Cache-Control"] = "no-store"
        return response
    if path.startswith("/dicom-web"):
        return Response("; ".join(issue.diagnostics for issue in issues) + "\n", status, content_type="text/plain")
    return Response(jsontext.dump(outcome(issues)), status, content_type="application/fhir+json")
