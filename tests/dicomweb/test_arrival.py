"""Images that come one by one: what is seen when, what it costs, who caused it, what waits for it (PS3.4 Annex B).

The clock is the test's: an image comes each fifth of a second, and the worker looks whenever something is due.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import pytest
from sqlalchemy import func, select, update

from dicomweb import publishing, writes
from dicomweb.batches import Batch, Origin
from dicomweb.phantom import Phantom, series
from dicomweb.service import Imaging
from dicomweb.tables import dicom_study
from dicomweb.workers import Workers
from resources.json import Json
from resources.registry import type_id
from store.access import Caller, Interaction
from store.objects import ObjectStore
from store.unit_of_work import Store
from store.versions.tables import resource_version, sp_token
from tests.dicomweb.conftest import Service, app_of
from tests.dicomweb.test_publishing import identified, order, tag
from tests.support import PLATFORM, MemoryTrail, OpenPermit, caller

EVERY_S = 0.2
SLICES = int(os.environ.get("VIGIE_TEST_SLICES", "32"))
"""Images of the smallest of the three studies; 500 for the 2,000 slices of a whole body."""
MODALITY = caller("hospital-a", client_id="ae:CT1", address="10.1.2.3", request_id="association-1")


@pytest.fixture
def slow(
    make_store: Callable[..., Store], tmp_path: Path, trail: MemoryTrail, permit: OpenPermit, workers: Workers
) -> Iterator[Service]:
    """A service with the quiet time of a deployment."""
    store = make_store()
    imaging = Imaging(store, ObjectStore(tmp_path / "objects"), permit, spool=tmp_path, workers=workers,
                      public_bases=("http://localhost/dicom-web",))  # fmt: skip
    store.observers.extend(imaging.observers)
    yield Service(imaging, store, ObjectStore(tmp_path / "objects"), trail, permit, app_of(imaging, store))
    imaging.ingest.close()


def store(service: Service, file: bytes, who: Caller = MODALITY) -> None:
    """One image by an association of its own."""
    batch = Batch(who, Origin("c-store", who.client_id))
    assert service.imaging.ingest.store_instance(file, batch).result.is_stored
    service.imaging.ingest.finish(batch)


def pass_s(service: Service, seconds: float) -> None:
    """Let time pass; the worker looks when something is due."""
    (loop,) = service.imaging.loops
    clock: Any = service.store.now
    while loop.step():
        pass
    while loop.rest_s <= seconds:
        rest = loop.rest_s + 1e-6
        clock.advance(seconds=rest)
        seconds -= rest
        while loop.step():
            pass
    clock.advance(seconds=max(0.0, seconds))


def now(service: Service) -> list[Json]:
    """The studies as they are shown at this moment."""
    with service.store.work(Caller.system(PLATFORM), write=False) as uow:
        return [version.json() for version in uow.system.each("ImagingStudy", [])]


def cost(service: Service, uid: str) -> tuple[int, int, int]:
    """Versions, bytes and index rows of a study's ImagingStudy."""
    version = resource_version.c
    with service.store.database.read() as connection:
        study = connection.execute(select(dicom_study).where(dicom_study.c.study_instance_uid == uid)).one()
        its = (version.type_id == type_id("ImagingStudy"), version.resource_id == study.imaging_study_id)
        count, size = connection.execute(select(func.count(), func.sum(func.length(version.content))).where(*its)).one()
        tokens = select(func.count()).select_from(sp_token).where(
            sp_token.c.version_pk.in_(select(version.pk).where(*its))
        )
        return int(count), int(size), int(connection.execute(tokens).scalar_one())


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_what_a_study_costs_grows_with_its_images_and_not_with_their_square(slow: Service) -> None:
    """A request or association each: few versions, linear bytes and index rows."""
    found = []
    for size in (SLICES, 2 * SLICES, 4 * SLICES):
        scan = Phantom(slices=size, side=8, study_instance_uid=f"1.2.826.0.1.3680043.10.999.9.{size}")
        for file in series(scan):
            store(slow, file)
            pass_s(slow, EVERY_S)
        pass_s(slow, 10)
        assert next(one for one in now(slow) if scan.study_uid in str(one))["numberOfInstances"] == size
        found.append(cost(slow, scan.study_uid))
    (_, *least), (_, *middle), (versions, *most) = found
    assert versions <= 30
    for first, second, third in zip(least, middle, most, strict=True):
        assert (third - second) <= 2.3 * (second - first), found


def test_an_image_is_seen_at_its_commit_and_the_study_is_registered_until_it_is_complete(slow: Service) -> None:
    """R4 ImagingStudy.status registered: it exists, and nothing of it is available yet."""
    who = slow.create(identified(gender="other"))
    slow.create(order(who))
    scan = Phantom(slices=3, side=8, accession_number="ACC-1", patient_id="IPP-1")
    files = series(scan)
    store(slow, files[0])
    rows = slow.client().get(f"/dicom-web/studies/{scan.study_uid}/instances").get_json(force=True)
    assert len(rows) == 1
    assert slow.client().get(f"/dicom-web/studies/{scan.study_uid}").status_code == 200
    assert now(slow) == []
    pass_s(slow, 1)
    (study,) = now(slow)
    assert (study["status"], study["numberOfInstances"]) == ("registered", 1)
    assert "instance" not in study["series"][0]
    store(slow, files[1])
    pass_s(slow, 4)
    (study,) = now(slow)
    assert (study["status"], study["numberOfInstances"]) == ("registered", 2)
    pass_s(slow, 2)
    (study,) = now(slow)
    assert (study["status"], len(study["series"][0]["instance"])) == ("available", 2)
    store(slow, files[2])
    pass_s(slow, 1)
    (study,) = now(slow)
    assert (study["status"], study["numberOfInstances"]) == ("registered", 3), "reopened"
    assert len(study["series"][0]["instance"]) == 2, "what was listed stays listed"
    pass_s(slow, 5)
    (study,) = now(slow)
    assert (study["status"], len(study["series"][0]["instance"])) == ("available", 3)


def test_the_modality_that_has_ended_is_believed(slow: Service) -> None:
    """PS3.4 Annex F, MPPS COMPLETED: complete at once, or with the last of the images that it names."""
    scan = Phantom(slices=2, side=8)
    files = series(scan)
    store(slow, files[0])
    pass_s(slow, 1)
    publisher = slow.imaging.publisher

    def end(uow: Any) -> None:
        publisher.ended(uow, "hospital-a", scan.study_uid, series=1, instances=2)

    slow.store.transact(MODALITY, end)
    pass_s(slow, 7)
    assert [one["status"] for one in now(slow)] == ["registered"], "one is missing"
    assert now(slow)[0]["numberOfInstances"] == 2, "as many as there are known to be"
    store(slow, files[1])
    pass_s(slow, 0.5)
    assert [one["status"] for one in now(slow)] == ["available"]


def test_the_record_of_what_the_worker_did_names_who_caused_it(slow: Service) -> None:
    """ATNA: the ImagingStudy is written by the server on behalf of the modality that sent the images."""
    store(slow, series(Phantom(slices=1, side=8))[0])
    before = len(slow.trail.appended)
    pass_s(slow, 1)
    assert [one.derived for one in slow.trail.appended[before:]] == [True, True]
    assert {one.interaction for one in slow.trail.appended[before:]} == {Interaction.UPDATE, Interaction.DICOM_STORE}
    for who in slow.trail.callers[before:]:
        assert (who.client_id, who.address, who.request_id) == ("ae:CT1", "10.1.2.3", "association-1")


def test_a_correction_marks_the_studies_and_rebuilds_none(slow: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of identity traits, and a revocation: what rests on them is not signed meanwhile."""
    who = slow.create(identified(gender="other"))
    what = slow.create(order(who))
    for number in range(5):
        scan = Phantom(slices=1, side=8, accession_number="ACC-1", patient_id="IPP-1",
                       study_instance_uid=f"1.2.826.0.1.3680043.10.999.8.{number}")  # fmt: skip
        store(slow, series(scan)[0])
    pass_s(slow, 10)
    assert {tag(one) for one in now(slow)} == {"matched"}

    def waiting() -> int:
        with slow.store.work(Caller.system(PLATFORM), write=False) as uow:
            version = uow.system.read("ServiceRequest", what.partition("/")[2])
            return len(publishing.unpublished(uow, version, []))

    assert waiting() == 0
    monkeypatch.setattr(publishing.Publisher, "publish_row", None)
    slow.update(who, identified(gender="other", telecom=[{"system": "phone", "value": "0102030405"}]))
    assert waiting() == 0, "that is no trait"
    slow.update(who, {**identified(gender="other"), "birthDate": "1931-02-03"})
    assert waiting() == 5
    monkeypatch.undo()
    pass_s(slow, 1)
    assert (waiting(), {tag(one) for one in now(slow)}) == (0, {"mismatch"})
    slow.update(what, {**order(who), "status": "revoked"})
    assert waiting() == 5
    pass_s(slow, 1)
    assert {tag(one) for one in now(slow)} == {"unmatched"}


def test_of_two_workers_one_publishes(slow: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes second waits for the row, and finds nothing to do."""
    scan = Phantom(slices=1, side=8)
    store(slow, series(scan)[0])
    slow.store.now.advance(seconds=20)  # type: ignore[attr-defined]
    publisher, both = slow.imaging.publisher, Barrier(2)
    found: list[bool] = []
    whole = writes.study

    def study(*given: Any) -> Any:
        row = whole(*given)
        both.wait()
        return row

    monkeypatch.setattr(publishing.writes, "study", study)
    threads = [
        Thread(target=lambda: found.append(publisher.publish(slow.store, "hospital-a", scan.study_uid)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [False, True]
    assert cost(slow, scan.study_uid)[0] == 1


def test_what_a_server_of_an_earlier_version_left_is_found(slow: Service) -> None:
    """It knows nothing of when a study is due."""
    store(slow, series(Phantom(slices=1, side=8))[0])
    with slow.store.database.write() as connection:
        connection.execute(update(dicom_study).values(due=None, complete=1))
    pass_s(slow, 30)
    assert now(slow) == []
    pass_s(slow, 45)
    (loop,) = slow.imaging.loops
    while loop.step():
        pass
    assert [one["status"] for one in now(slow)] == ["available"]
