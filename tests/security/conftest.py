"""One world for the whole session and each database: hospital A has lived an emergency, and everybody else attacks it.

Attackers change nothing of A's, so the world is shared; what a test makes is its own.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fhir_server.demo.hospital import Endpoint
from fhir_server.server.app import create_app
from fhir_server.server.services import Services
from fhir_server.server.settings import Settings
from tests.conftest import ENGINES
from tests.counting import Counted, watch
from tests.fhir_server.conftest import (  # noqa: F401 - fixtures of the assembled server
    HOST,
    Api,
    Template,
    _laid,
    _new_database,
    api,
    door,
    engine,
    live,
    make_api,
    settings,
    template,
    templates,
)
from tests.security.scene import World

_worlds: list[Counted] = []


@pytest.fixture(scope="module", autouse=True)
def _threads_end() -> None:
    """Those of the world go on with it, for the whole session."""


@pytest.fixture(autouse=True)
def _counted(request: pytest.FixtureRequest) -> Iterator[None]:
    """At the end of each test every request must have had its records."""
    yield
    if "uncounted" not in request.keywords:
        for counted in _worlds:
            counted.check()


@pytest.fixture(scope="session", params=ENGINES)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Hospital A's emergency, lived to the signed report; once for each database."""
    folder = tmp_path_factory.mktemp(f"security-{request.param}")
    if request.param == "sqlite":
        url = f"sqlite:///{folder}/vigie.db"
    else:
        url = _new_database(request.getfixturevalue("postgresql_url"), "template1")
    laid = _laid(url, folder)
    loaded = Settings.load(
        {"data": folder, "database": url, "base_urls": (f"http://{HOST}",), "endpoints_on_loopback": True}, environ={}
    )
    services = Services.of(loaded)
    receivers = {"a": Endpoint(), "b": Endpoint()}
    try:
        app = create_app(services)
        counted = watch(services, app.wsgi_app)
        app.wsgi_app = counted  # type: ignore[method-assign]
        found = World(Api(services, app, laid.keys), receivers)
        found.live_through()
        _worlds.append(counted)
        yield found
        _worlds.remove(counted)
    finally:
        services.close()
        for receiver in receivers.values():
            receiver.close()
