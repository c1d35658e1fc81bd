"""The whole server, assembled as in production, on both databases: in process (`api`) and over real HTTP (`live`)."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.serving import make_server
from werkzeug.test import TestResponse

from fhir_server.demo import seed, world
from fhir_server.duties import deployment
from fhir_server.duties.tokens import ASSERTION_TYPE, assertion
from fhir_server.server.app import create_app
from fhir_server.server.services import Services
from fhir_server.server.settings import Settings
from resources.json import Json
from store.access import Caller
from tests.conftest import ENGINES, QUICK
from tests.counting import Counted, watch
from tests.support import settled
from tests.through import ThroughFront

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
    keys: Mapping[str, tuple[str, Json]]
    clients: dict[str, Client] = field(default_factory=dict)
    counted: Counted | None = None
    """Counts the records of each request."""

    def __getattr__(self, name: str) -> Client:
        role = name.replace("_", "-")
        if role not in self.keys:
            raise AttributeError(name)
        if role not in self.clients:
            self.clients[role] = self._with_token(*self.keys[role])
        return self.clients[role]

    def settled(self) -> None:
        """Have the studies published that wait, as the worker does."""
        settled(self.services.imaging, self.services.store)

    def client(self, role: str, organization: str, scope: str, practitioner: str | None = None) -> Client:
        """Register a further client and give it a token."""
        made, private = self.services.authority.clients.add(role, organization, scope, role, practitioner)
        assert private is not None
        return self._with_token(made.client_id, private)

    def _with_token(self, client_id: str, private: Json, purpose: str = "") -> Client:
        token_url = f"{self.services.settings.bases[0]}/oauth/token"
        flask = self.app.test_client()
        form = {
            "grant_type": "client_credentials",
            "client_assertion_type": ASSERTION_TYPE,
            "client_assertion": assertion(token_url, client_id, private, purpose),
        }
        answer = flask.post("/oauth/token", data=form)
        assert answer.status_code == 200, answer.get_data(as_text=True)
        return Client(flask, answer.get_json()["access_token"], client_id)


@dataclass(frozen=True)
class Template:
    """The demonstration's world, laid once a session and copied for each test."""

    url: str
    data: Path
    keys: Mapping[str, tuple[str, Json]]
    """Role → client id and private key."""


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Template]:
    """Engine → its template, made when first asked for."""
    return {}


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def template(
    engine: str,
    templates: dict[str, Template],
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> Template:
    if engine not in templates:
        folder = tmp_path_factory.mktemp(f"template-{engine}")
        if engine == "sqlite":
            url = f"sqlite:///{folder}/vigie.db"
        else:
            url = _new_database(request.getfixturevalue("postgresql_url"), "template1")
        templates[engine] = _laid(url, folder)
    return templates[engine]


def _laid(url: str, data: Path) -> Template:
    deployment.upgrade(Settings.load({"data": data, "database": url}, environ={}))
    services = Services.of(Settings.load({"data": data, "database": url, "base_urls": (f"http://{HOST}",)}, environ={}))
    system = Caller.system(world.PLATFORM)
    services.store.transact(system, seed.lay_directory)
    services.store.transact(system, seed.lay_rota)
    keys = {}
    for one in world.CLIENTS:
        made, private = services.authority.clients.add(
            one.name, one.organization, one.scope, one.role, one.practitioner
        )
        assert private is not None
        keys[one.role] = (made.client_id, private)
    services.close()
    return Template(url, data, keys)


_numbers = itertools.count()


def _new_database(cluster_url: str, template: str) -> str:
    name = f"vigie_{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(cluster_url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY FILE_COPY')
    return cluster_url.replace("/postgres?", f"/{name}?")


@pytest.fixture
def settings(engine: str, template: Template, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Settings]:
    """Settings of a server of the test's own, on a copy of the template."""
    data = tmp_path / "data"
    if engine == "sqlite":
        shutil.copytree(template.data, data)
        url = f"sqlite:///{data}/vigie.db"
    else:
        data.mkdir()
        shutil.copytree(template.data / "keys", data / "keys")
        cluster = request.getfixturevalue("postgresql_url")
        url = _new_database(cluster, template.url.partition("?")[0].rpartition("/")[2])
    yield Settings.load(
        {
            "data": data, "database": url, "base_urls": (f"http://{HOST}",), "endpoints_on_loopback": True,
            "study_quiet_s": 0,
        },
        environ={},
    )
    if engine != "sqlite":
        with psycopg.connect(cluster, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{url.partition("?")[0].rpartition("/")[2]}" WITH (FORCE)')


@pytest.fixture(params=ENGINES)
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    """A data folder and a database in which nothing is."""
    if request.param == "sqlite":
        yield Settings.load({"data": tmp_path / "data"}, environ={})
        return
    cluster = str(request.getfixturevalue("postgresql_url"))
    url = _new_database(cluster, "template1")
    yield Settings.load({"data": tmp_path / "data", "database": url}, environ={})
    with psycopg.connect(cluster, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{url.partition("?")[0].rpartition("/")[2]}" WITH (FORCE)')  # type: ignore[call-overload]


@pytest.fixture
def door(request: pytest.FixtureRequest) -> str:
    """`wsgi`: the application alone, as under any WSGI server. `front`: by way of the front. See `BOTH_DOORS`."""
    return str(getattr(request, "param", "wsgi"))


BOTH_DOORS = pytest.mark.parametrize("door", ["front"] if QUICK else ["wsgi", "front"], indirect=True)
"""For a module of HTTP tests: the answers and the records are the same whatever serves."""


@pytest.fixture
def make_api(
    settings: Settings, template: Template, request: pytest.FixtureRequest, door: str
) -> Iterator[Callable[..., Api]]:
    """Assemble the server; keyword arguments replace settings. At the end each request must have had its records."""
    opened: list[tuple[Services, Counted]] = []
    fronts: list[ThroughFront] = []

    def make(**changed: Any) -> Api:
        services = Services.of(replace(settings, **changed))
        app = create_app(services)
        if door == "front":
            fronts.append(ThroughFront(app))
            app.wsgi_app = fronts[-1]  # type: ignore[method-assign]
        counted = watch(services, app.wsgi_app)
        app.wsgi_app = counted  # type: ignore[method-assign]
        opened.append((services, counted))
        return Api(services, app, template.keys, counted=counted)

    yield make
    for front in fronts:
        front.close()
    try:
        if "uncounted" not in request.keywords:
            for _, counted in opened:
                counted.check()
    finally:
        for services, _ in opened:
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
        return getattr(self.api, role.replace("-", "_")).token


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
