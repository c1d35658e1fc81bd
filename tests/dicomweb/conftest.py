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
from flask import Flask, Request
from flask.testing import FlaskClient
from werkzeug.serving import make_server

from auth.guard import RECORDING, REQUEST_ID
from dicomweb.phantom import Phantom, series
from dicomweb.service import Imaging
from dicomweb.workers import Workers
from fhir_server.edge import errors
from fhir_server.server.recorder import Recorder
from fhir_server.server.threshold import Threshold
from resources.json import Json
from store.access import Access, Caller
from store.objects import ObjectStore
from store.unit_of_work import Store
from tests.counting import watch_trail
from tests.support import PLATFORM, MemoryTrail, OpenPermit, caller, settled

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

    def settled(self) -> None:
        """Have everything published that waits."""
        settled(self.imaging, self.store)

    def resource(self, type_name: str, id_: str) -> Json | None:
        """The current version as the server sees it."""
        found = self.resources(type_name)
        return next((one for one in found if one["id"] == id_), None)

    def resources(self, type_name: str) -> list[Json]:
        """All of a type, as a client sees them who waits until studies are published."""
        if type_name == "ImagingStudy":
            self.settled()
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
    headers = request.headers
    organization = headers.get("X-Organization", "hospital-a")
    return identified(
        request, organization, client_id=headers.get("X-Client", f"client-of-{organization}"),
        token_ref=headers.get("X-Token", "token-of-the-test"), address=request.remote_addr or "",
    )


def identified(request: Request, organization: str, **more: Any) -> Caller:
    """A caller as the guard makes one: the request's record is his."""
    recording = request.environ[RECORDING]
    found = caller(organization, request_id=request.environ[REQUEST_ID], recording=recording, **more)
    recording.caller = found
    return found


class Strangers:
    """Nobody is a stranger to these tests but by his path."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def stranger(self, environ: dict[str, Any]) -> Caller:
        return Caller("", "", request_id=environ[REQUEST_ID])

    def refused(self, caller: Caller, access: Access) -> None:
        self._store.trail.disclose(caller, [access], self._store.now())


def app_of(imaging: Imaging, store: Store, guarding: Callable[[Request], Caller] = guard) -> Flask:
    """The images' routes inside the threshold, as the server has them."""
    app = Flask("images")
    app.register_blueprint(imaging.blueprint(guarding))
    errors.register(app)
    recorder = Recorder(store, Strangers(store))
    app.wsgi_app = Threshold(app.wsgi_app, ["http://localhost"], recorder=recorder)  # type: ignore[method-assign]
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
    workers: Workers, request: pytest.FixtureRequest,
) -> Iterator[Service]:
    """The service; at the end each request must have had its records."""
    objects = ObjectStore(tmp_path / "objects")
    store = make_store()
    imaging = Imaging(
        store, objects, permit, spool=tmp_path, quiet_s=0.0, workers=workers,
        public_bases=(f"http://127.0.0.1:{port}/dicom-web",),
    )
    store.observers += imaging.observers
    app = app_of(imaging, store)
    counted = watch_trail(trail, app.wsgi_app)
    app.wsgi_app = counted  # type: ignore[method-assign]
    yield Service(imaging, store, objects, trail, permit, app)
    imaging.ingest.close()  # not the workers, which are shared
    if "uncounted" not in request.keywords:
        counted.check()


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
