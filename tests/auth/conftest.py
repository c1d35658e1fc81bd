"""An authorization server on a real database, in a plain Flask application, and a client that signs for itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask, Response, jsonify, request
from flask.testing import FlaskClient

from auth.keys import new_key
from auth.service import Authority
from auth.throttle import Throttle
from resources.outcomes import FhirError
from store.access import Caller
from store.engine.database import Database
from tests.auth.signing import ORIGIN, OTHER_ORIGIN, Machine
from tests.support import PLATFORM, Clock, MemoryTrail


@pytest.fixture
def authority(database: Database, trail: MemoryTrail, clock: Clock) -> Authority:
    return Authority(
        database,
        trail=trail,
        platform=PLATFORM,
        origins=(ORIGIN, OTHER_ORIGIN),
        clock=clock,
        throttle=Throttle(burst=1000),
    )


@pytest.fixture
def app(authority: Authority) -> Flask:
    return application(authority)


@pytest.fixture
def http(app: Flask) -> Iterator[FlaskClient]:
    with app.test_client() as client:
        yield client


@pytest.fixture
def register(authority: Authority, clock: Clock) -> Callable[..., Machine]:
    """Register a client of an organisation; the Machine can sign for it."""

    def add(organization: str = "hospital-a", scope: str = "system/*.cruds", **more: Any) -> Machine:
        private, public = more.pop("pair", None) or new_key()
        client, _ = authority.clients.add(
            more.pop("name", "EHR"), organization, scope, more.pop("role", "ehr"), jwks={"keys": [public]}, **more
        )
        return Machine(client.client_id, private, clock)

    return add


@pytest.fixture
def ehr(register: Callable[..., Machine]) -> Machine:
    """hospital-a's EHR, which may do everything within its organisation."""
    return register()


def application(authority: Authority) -> Flask:
    """The blueprint, and one resource that tells who is asking."""
    app = Flask("auth-tests")
    app.register_blueprint(authority.blueprint())

    @app.errorhandler(FhirError)
    def fault(error: FhirError) -> Response:
        response = jsonify(error=error.diagnostics)
        response.status_code = error.status
        if challenge := getattr(error, "challenge", None):
            response.headers["WWW-Authenticate"] = challenge
        return response

    @app.get("/fhir/whoami")
    def whoami() -> dict[str, Any]:
        caller: Caller = authority.guard(request)
        return {
            "client_id": caller.client_id,
            "organization": caller.organization,
            "scopes": sorted(caller.scopes),
            "address": caller.address,
            "request_id": caller.request_id,
            "practitioner": caller.practitioner,
        }

    return app
