"""Every fault becomes an answer here, in one place: OperationOutcome, OAuth JSON or plain text, chosen by the path.

A blueprint does not own its 404s, so the path decides. No text of an unknown exception leaves the server: the caller
gets a request id, the log has the rest.
"""

from __future__ import annotations

import structlog
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from auth.guard import REQUEST_ID
from resources import jsontext
from resources.outcomes import FhirError, Issue, Unavailable, outcome
from store.faults import DRIVER_ERRORS, LostRace, is_away, is_race

log = structlog.get_logger("vigie.http")

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


def register(app: Flask) -> None:
    app.register_error_handler(FhirError, of_fault)
    app.register_error_handler(HTTPException, _of_http)
    app.register_error_handler(Exception, _of_unknown)
    for kind in DRIVER_ERRORS:
        app.register_error_handler(kind, _of_database)


def of_fault(error: FhirError) -> Response:
    """The answer to a fault that the caller can be told about."""
    response = _render(error.status, error.issues)
    if error.status == 401:
        challenge = getattr(error, "challenge", None) or 'Bearer realm="vigie"'
        response.headers["WWW-Authenticate"] = challenge
    if error.status == 405:
        response.headers["Allow"] = ", ".join(getattr(error, "allowed", ()))
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(error.retry_after_s)
    version = getattr(error, "version", None)
    if version is not None:
        response.headers["ETag"] = f'W/"{version}"'
    return response


def _of_http(error: HTTPException) -> Response:
    status = error.code or 500
    code = _ISSUE_CODE.get(status, "processing")
    response = _render(status, (Issue("error", code, error.name),))
    allowed = getattr(error, "valid_methods", None)
    if allowed:
        response.headers["Allow"] = ", ".join(sorted(allowed))
    return response


def _of_database(error: Exception) -> Response:
    """The database failed outside a unit of work: where the guard looked for a token, say."""
    if is_race(error):
        return of_fault(LostRace())
    if is_away(error):
        return of_fault(Unavailable("The database cannot serve the request at present", retry_after_s=5))
    return _of_unknown(error)


def _of_unknown(error: Exception) -> Response:
    request_id = request.environ.get(REQUEST_ID, "")
    log.error("unexpected", exc_info=_scrubbed(error), request_id=request_id)
    text = f"The server failed; request id {request_id}"
    return _render(500, (Issue("fatal", "exception", text),))


def _scrubbed(error: Exception) -> Exception:
    """The exception for the log: its class and trace; its own text may hold somebody's data."""
    return RuntimeError(type(error).__name__).with_traceback(error.__traceback__)


def _render(status: int, issues: tuple[Issue, ...]) -> Response:
    if request.path.startswith("/oauth"):
        body = jsontext.dump(
            {"error": "invalid_request" if status < 500 else "server_error", "error_description": issues[0].diagnostics}
        )
        response = Response(body, status, content_type="application/json")
        response.headers["Cache-Control"] = "no-store"
        return response
    if request.path.startswith("/dicom-web"):
        return Response("; ".join(issue.diagnostics for issue in issues) + "\n", status, content_type="text/plain")
    return Response(jsontext.dump(outcome(issues)), status, content_type="application/fhir+json")
