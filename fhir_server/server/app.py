"""create_app: how the server is put together for the web. Read this first."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from flask import Flask, request
from flask.typing import ResponseReturnValue

from fhir_server.edge import errors, wire
from fhir_server.edge.rest import Edge
from fhir_server.server import health, metrics, start_page
from fhir_server.server.cors import Cors
from fhir_server.server.recorder import Recorder
from fhir_server.server.services import Services
from fhir_server.server.settings import Settings
from fhir_server.server.threshold import Threshold
from resources.outcomes import Unavailable
from store.engine.faults import DRIVER_ERRORS


class Application(Flask):
    """Flask, with the FHIR edge beside its URL map: the edge has a router and errors of its own (`wire` says why)."""

    def __init__(self, edge: Edge) -> None:
        super().__init__("vigie", static_folder=None)
        self.url_map.merge_slashes = False
        self._edge = edge

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """There are plain functions only: it need not be asked at each call whether one is a coroutine."""
        return func

    def preprocess_request(self) -> ResponseReturnValue | None:
        # Endpoints are named blueprint.view, and further after a dash where a view has several rules.
        request.environ[wire.ROUTE_KIND] = (request.endpoint or "").rpartition(".")[2].partition("-")[0] or None
        return super().preprocess_request()

    def wsgi_app(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if Edge.serves(environ["PATH_INFO"]):
            return self._edge(environ, start_response)
        return super().wsgi_app(environ, start_response)


def create_app(services: Services | None = None) -> Flask:
    """The WSGI application, on `services` or on those that the environment describes."""
    if services is None:
        settings = Settings.load().checked()
        services = Services.of(settings, waits=settings.waits)
        with suppress(Unavailable, *DRIVER_ERRORS):  # the database is away: the first request asks again
            services.keys.prove()
    services = dataclasses.replace(services, cors=True)  # by the middleware below
    services.ledger.prepare()
    app = Application(Edge(services))
    app.register_blueprint(health.blueprint(services))
    app.register_blueprint(metrics.blueprint(services))
    app.register_blueprint(start_page.blueprint(services.settings))
    app.register_blueprint(services.authority.blueprint())
    app.register_blueprint(services.imaging.blueprint(services.authority.guard))
    errors.register(app)
    app.extensions["vigie"] = services
    app.wsgi_app = Threshold(  # type: ignore[method-assign]
        app.wsgi_app, services.settings.bases,
        recorder=Recorder(services.store, services.authority),
        cors=Cors(services.authority.clients, app.url_map),
        keys=services.keys,
    )  # fmt: skip
    return app
