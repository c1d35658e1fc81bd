"""create_app: how the server is put together for the web. Read this first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Flask

from fhir_server import errors, health, rest
from fhir_server.services import Services
from fhir_server.settings import Settings
from fhir_server.threshold import Threshold


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
    app.extensions["vigie"] = services
    app.wsgi_app = Threshold(app.wsgi_app, services.settings.bases)  # type: ignore[method-assign]
    return app
