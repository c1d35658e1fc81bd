"""create_app: how the server is put together for the web. Read this first."""

from __future__ import annotations

import re
import time
import uuid

import structlog
from flask import Flask, Response, g, request

from fhir_server import errors, health, rest
from fhir_server.origins import Origins
from fhir_server.services import Services
from fhir_server.settings import Settings

log = structlog.get_logger("vigie.http")

_REQUEST_ID = re.compile(r"^[A-Za-z0-9._-]{1,64}$")
_GUARDS = (
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
)


def create_app(services: Services | None = None) -> Flask:
    """The WSGI application, on `services` or on those that the environment describes."""
    services = services or Services.of(Settings.load().checked())
    app = Flask("vigie", static_folder=None)
    app.url_map.merge_slashes = False
    app.register_blueprint(health.blueprint(services))
    app.register_blueprint(rest.blueprint(services))
    app.register_blueprint(services.authority.blueprint())
    app.register_blueprint(services.imaging.blueprint(services.authority.guard))
    errors.register(app)
    app.before_request(_begin)
    app.after_request(_finish)
    app.extensions["vigie"] = services
    app.wsgi_app = Origins(app.wsgi_app, services.settings.bases)  # type: ignore[method-assign]
    return app


def _begin() -> None:
    given = request.headers.get("X-Request-Id", "")
    g.request_id = given if _REQUEST_ID.match(given) else uuid.uuid4().hex
    request.environ["vigie.request_id"] = g.request_id
    g.began = time.perf_counter()


def _finish(response: Response) -> Response:
    response.headers["X-Request-Id"] = g.get("request_id", "")
    for name, value in _GUARDS:
        response.headers.setdefault(name, value)
    # Only the route's template is logged: a path or a query may name a patient.
    log.info(
        "request",
        method=request.method,
        route=str(request.url_rule) if request.url_rule else "none",
        status=response.status_code,
        ms=round((time.perf_counter() - g.get("began", time.perf_counter())) * 1000, 1),
        request_id=g.get("request_id", ""),
    )
    return response
