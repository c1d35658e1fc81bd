"""/livez and /readyz: is the process alive, and can it serve (database, objects, audit).

What is not ready is named, without anything of what is stored.
"""

from __future__ import annotations

from collections.abc import Callable

from flask import Blueprint, Response

from fhir_server.server.services import Services
from resources import jsontext


def blueprint(services: Services) -> Blueprint:
    views = Blueprint("health", __name__)

    @views.get("/livez")
    def livez() -> Response:
        return Response(b'{"status":"alive"}', content_type="application/json")

    @views.get("/readyz")
    def readyz() -> Response:
        checks = {name: _passes(check) for name, check in services.readiness().items()}
        ready = all(checks.values())
        body = {"status": "ready" if ready else "not ready", "checks": checks}
        return Response(jsontext.dump(body), 200 if ready else 503, content_type="application/json")

    return views


def _passes(check: Callable[[], None]) -> bool:
    try:
        check()
    except Exception:  # noqa: BLE001 - whatever is wrong, the answer is "not ready"
        return False
    return True
