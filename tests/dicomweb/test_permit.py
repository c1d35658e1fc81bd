"""The real permit: SMART scopes, and their search constraints, on images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Request

from auth.policy import Policy
from dicomweb.phantom import Phantom
from dicomweb.service import Imaging
from dicomweb.workers import Workers
from store.access import Caller
from store.objects import ObjectStore
from store.unit_of_work import Store
from tests.counting import watch_trail
from tests.dicomweb.conftest import Service, app_of, identified, stow
from tests.support import PLATFORM, MemoryTrail

SCOPES = {
    "hospital-a": "system/ImagingStudy.cu",
    "reader": "system/ImagingStudy.rs",
    "constrained": "system/ImagingStudy.rs?status=available",
    "elsewhere": "system/ImagingStudy.rs?status=cancelled",
    "nothing": "system/Patient.rs",
}


@pytest.fixture
def service(
    make_store: Callable[..., Store], tmp_path: Path, trail: MemoryTrail, workers: Workers
) -> Iterator[Service]:
    """A service whose callers are of hospital A, each with the scope that its header names."""
    policy = Policy(PLATFORM)
    store = make_store(permit=policy)
    objects = ObjectStore(tmp_path / "objects")
    imaging = Imaging(store, objects, policy, spool=tmp_path, workers=workers)
    store.observers += imaging.observers

    def guard(request: Request) -> Caller:
        name = request.headers["X-Organization"]
        return identified(request, "hospital-a", scopes=frozenset({SCOPES[name]}), client_id=name)

    unused: Any = None
    app = app_of(imaging, store, guard)
    counted = watch_trail(trail, app.wsgi_app)
    app.wsgi_app = counted  # type: ignore[method-assign]
    yield Service(imaging, store, objects, trail, unused, app)
    imaging.ingest.close()
    counted.check()


def test_the_scope_decides_over_storing_searching_and_retrieving(
    service: Service, files: list[bytes], small: Phantom
) -> None:
    """SMART 2.2: c or u stores, s searches, r retrieves; a constraint admits only studies that it matches."""
    study = f"/dicom-web/studies/{small.study_uid}"
    assert stow(service.client("hospital-a"), files).status_code == 200
    service.settled()
    answers = {
        name: [
            stow(service.client(name), files).status_code,
            service.client(name).get("/dicom-web/studies").status_code,
            service.client(name).get(f"{study}/metadata").status_code,
            service.client(name).get(
                f"{study}/series/{small.series_uid}/instances/{small.sop_uid(1)}/frames/1"
            ).status_code,
        ]
        for name in SCOPES
    }

    assert answers == {
        "hospital-a": [200, 403, 403, 403],
        "reader": [403, 200, 200, 200],
        "constrained": [403, 200, 200, 200],
        "elsewhere": [403, 204, 404, 404],
        "nothing": [403, 403, 403, 403],
    }
