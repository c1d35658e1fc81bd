"""The whole server, assembled as in production, on both databases: in process (`api`) and over real HTTP (`live`)."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.serving import make_server
from werkzeug.test import TestResponse

from fhir_server.app import create_app
from fhir_server.clients import ASSERTION_TYPE, assertion
from fhir_server.demo import seed, world
from fhir_server.services import Services
from fhir_server.settings import Settings
from store.access import Caller
from store.engine import Database

Json = dict[str, Any]

HOST = "localhost"
BASE = f"http://{HOST}/fhir"


@dataclass
class Client:
    """One registered client, calling the server in process."""

    flask: FlaskClient
    token: str
    client_id: str

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> TestResponse:
        """Call ``/fhir/{path}``; `body` as FHIR JSON (or bytes as they are)."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        named.setdefault("Authorization", f"Bearer {self.token}")
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        if data is not None:
            named.setdefault("Content-Type", "application/fhir+json")
        url = path if path.startswith("/") else f"/fhir/{path}"
        return self.flask.open(url, method=method, data=data, headers=named)

    def get(self, path: str, **headers: str) -> TestResponse:
        return self.ask("GET", path, **headers)

    def post(self, path: str, body: Any, **headers: str) -> TestResponse:
        return self.ask("POST", path, body, **headers)

    def put(self, path: str, body: Any, **headers: str) -> TestResponse:
        return self.ask("PUT", path, body, **headers)

    def delete(self, path: str, **headers: str) -> TestResponse:
        return self.ask("DELETE", path, **headers)

    def create(self, resource: Json) -> Json:
        """Create, and the resource as stored."""
        answer = self.post(resource["resourceType"], resource)
        assert answer.status_code == 201, answer.get_data(as_text=True)
        made: Json = answer.get_json()
        return made

    def found(self, path: str) -> list[Json]:
        """The matches of a search, all pages."""
        matches = []
        while path:
            answer = self.get(path)
            assert answer.status_code == 200, answer.get_data(as_text=True)
            bundle = answer.get_json()
            matches += [e["resource"] for e in bundle.get("entry", []) if e["search"]["mode"] == "match"]
            following = [link["url"] for link in bundle["link"] if link["relation"] == "next"]
            path = following[0].split("/fhir/")[1] if following else ""
        return matches


@dataclass
class Api:
    """The server and one client of each role of the demonstration's world."""

    services: Services
    app: Flask
    clients: dict[str, Client] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Client:
        try:
            return self.clients[name.replace("_", "-")]
        except KeyError:
            raise AttributeError(name) from None

    def client(self, role: str, organization: str, scope: str, practitioner: str | None = None) -> Client:
        """Register a client and give it a token."""
        made, private = self.services.authority.clients.add(role, organization, scope, role, practitioner)
        assert private is not None
        token_url = f"{self.services.settings.bases[0]}/oauth/token"
        flask = self.app.test_client()
        answer = flask.post(
            "/oauth/token",
            data={
                "grant_type": "client_credentials",
                "scope": made.scope,
                "client_assertion_type": ASSERTION_TYPE,
                "client_assertion": assertion(token_url, made.client_id, private),
            },
        )
        assert answer.status_code == 200, answer.get_data(as_text=True)
        return Client(flask, answer.get_json()["access_token"], made.client_id)


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return Settings.load(
        {
            "data": tmp_path / "data",
            "database": database_url,
            "base_urls": (f"http://{HOST}",),
            "endpoints_on_loopback": True,
        },
        environ={},
    )


@pytest.fixture
def make_api(database: Database, settings: Settings) -> Iterator[Callable[..., Api]]:
    """Assemble the server; keyword arguments replace settings."""
    opened: list[Services] = []

    def make(**changed: Any) -> Api:
        services = Services.of(replace(settings, **changed))
        opened.append(services)
        system = Caller.system(world.PLATFORM)
        services.store.transact(system, seed._lay_directory)
        services.store.transact(system, seed._lay_rota)
        api = Api(services, create_app(services))
        for one in world.CLIENTS:
            api.clients[one.role] = api.client(one.role, one.organization, one.scope, one.practitioner)
        return api

    yield make
    for services in opened:
        services.close()


@pytest.fixture
def api(make_api: Callable[..., Api]) -> Api:
    return make_api()


@dataclass
class Live:
    """The server over real HTTP."""

    api: Api
    base: str

    def token(self, role: str) -> str:
        return self.api.clients[role].token


@pytest.fixture
def live(make_api: Callable[..., Api]) -> Iterator[Live]:
    """The server on a free loopback port."""
    holder: list[Api] = []
    server = make_server("127.0.0.1", 0, lambda environ, start: holder[0].app(environ, start), threaded=True)
    base = f"http://127.0.0.1:{server.server_port}"
    holder.append(make_api(base_urls=(base,)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield Live(holder[0], base)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def shared(*parts: str) -> Path:
    """A folder of the shared test material; the test is skipped where it is absent."""
    folder = Path(__file__).resolve().parents[3].joinpath("shared", *parts)
    if not folder.exists():
        pytest.skip("the shared test material is absent")
    return folder
