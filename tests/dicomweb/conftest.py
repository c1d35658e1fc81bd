"""A whole imaging service on a real database, with a real HTTP server where a client needs one."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
import pytest
from flask import Flask, Request, Response
from flask.testing import FlaskClient
from werkzeug.serving import make_server

from dicomweb.phantom import Phantom, series
from dicomweb.service import Imaging
from dicomweb.workers import Workers
from resources.json import Json
from resources.outcomes import FhirError
from store.access import Caller
from store.objects import ObjectStore
from store.unit_of_work import Store
from tests.support import PLATFORM, MemoryTrail, OpenPermit, caller

PYDICOM_FILES = Path(pydicom.__file__).parent / "data" / "test_files"
SHARED = Path(__file__).resolve().parents[3] / "shared" / "dicom"


@dataclass
class Service:
    imaging: Imaging
    store: Store
    objects: ObjectStore
    trail: MemoryTrail
    permit: OpenPermit
    app: Flask

    def client(self, organization: str = "hospital-a") -> FlaskClient:
        client = self.app.test_client()
        client.environ_base["HTTP_X_ORGANIZATION"] = organization
        return client

    def resource(self, type_name: str, id_: str) -> Json | None:
        """The current version as the server sees it."""
        found = self.resources(type_name)
        return next((one for one in found if one["id"] == id_), None)

    def resources(self, type_name: str) -> list[Json]:
        with self.store.work(Caller.system(PLATFORM), write=False) as uow:
            return [version.json() for version in uow.resources.find(type_name, [])]

    def create(self, resource: Json, organization: str = "hospital-a", id_: str | None = None) -> str:
        with self.store.work(caller(organization)) as uow:
            version = uow.resources.create(resource["resourceType"], resource, id=id_)
        return version.reference

    def update(self, reference: str, resource: Json, organization: str = "hospital-a") -> None:
        type_name, _, id_ = reference.partition("/")
        with self.store.work(caller(organization)) as uow:
            uow.resources.update(type_name, id_, resource)


def guard(request: Request) -> Caller:
    """The tests name the organisation in a header (a real server has `auth.guard`)."""
    return caller(request.headers.get("X-Organization", "hospital-a"), token_ref="token-of-the-test")


def app_of(imaging: Imaging, guarding: Callable[[Request], Caller] = guard) -> Flask:
    app = Flask("images")
    app.register_blueprint(imaging.blueprint(guarding))

    @app.errorhandler(FhirError)
    def told(error: FhirError) -> Response:
        return Response(error.diagnostics, status=error.status, content_type="text/plain")

    return app


@pytest.fixture(scope="session")
def workers() -> Iterator[Workers]:
    """Pixel workers take a second to start: the session shares them."""
    pool = Workers(1)
    yield pool
    pool.close()


@pytest.fixture
def port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def service(
    make_store: Callable[..., Store], tmp_path: Path, trail: MemoryTrail, permit: OpenPermit, port: int,
    workers: Workers,
) -> Service:
    objects = ObjectStore(tmp_path / "objects")
    store = make_store()
    imaging = Imaging(
        store, objects, permit, spool=tmp_path, quiet_s=0.0, workers=workers,
        public_bases=(f"http://127.0.0.1:{port}/dicom-web",),
    )
    store.observers.append(imaging.observer)
    return Service(imaging, store, objects, trail, permit, app_of(imaging))


@pytest.fixture
def address(service: Service, port: int) -> Iterator[str]:
    """URL of the service behind a real HTTP server."""
    server = make_server("127.0.0.1", port, service.app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{port}/dicom-web"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="session")
def small() -> Phantom:
    return Phantom(slices=4, side=32, accession_number="ACC-1", patient_id="IPP-1")


@pytest.fixture(scope="session")
def files(small: Phantom) -> list[bytes]:
    return series(small)


def stow_body(files: list[bytes], boundary: str = "xyz") -> bytes:
    parts = [
        b"--" + boundary.encode() + b"\r\nContent-Type: application/dicom\r\n\r\n" + data + b"\r\n" for data in files
    ]
    return b"".join(parts) + b"--" + boundary.encode() + b"--\r\n"


def stow(client: FlaskClient, files: list[bytes], path: str = "/dicom-web/studies", **more: Any) -> Any:
    return client.post(
        path, data=stow_body(files), content_type='multipart/related; type="application/dicom"; boundary=xyz', **more
    )
