"""create_app: how the server is put together for the web. Read this first."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable
from typing import Any

from flask import Flask, Response, g, request

from auth.guard import REQUEST_ID
from fhir_server import errors, health, logs, rest
from fhir_server.origins import Origins
from fhir_server.services import Services
from fhir_server.settings import Settings

_REQUEST_ID = re.compile(r"^[A-Za-z0-9._-]{1,64}$")
_GUARDS = (
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
)


class Application(Flask):
    """Flask with plain functions only: it need not ask at each call whether one is a coroutine."""

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        return func


def create_app(services: Services | None = None) -> Flask:
    """The WSGI application, on `services` or on those that the environment describes."""
    services = services or Services.of(Settings.load().checked())
    app = Application("vigie", static_folder=None)
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
    given = request.environ.get("HTTP_X_REQUEST_ID", "")
    request_id = given if given and _REQUEST_ID.match(given) else uuid.uuid4().hex
    g.request_id = request.environ[REQUEST_ID] = request_id
    g.began = time.perf_counter()


def _finish(response: Response) -> Response:
    request_id = g.get("request_id", "")
    response.headers.extend((("X-Request-Id", request_id), *_GUARDS))
    # Only the route's template is logged: a path or a query may name a patient.
    rule = request.url_rule
    began = g.get("began")
    logs.request(
        request.method,
        rule.rule if rule is not None else "none",
        response.status_code,
        (time.perf_counter() - began) * 1000 if began else 0.0,
        request_id,
    )
    return response
