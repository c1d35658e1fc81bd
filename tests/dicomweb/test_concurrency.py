"""Many doors at once: exact counts, one study, nothing acknowledged that is not there."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor

import pydicom
from sqlalchemy import select

from dicomweb.batches import Batch, Origin
from dicomweb.phantom import Phantom, series
from dicomweb.status import Result
from dicomweb.tables import dicom_instance, dicom_study
from tests.dicomweb.conftest import Service
from tests.support import caller


def test_one_study_over_eight_associations_at_once_is_one_study(service: Service) -> None:
    """reference/dicomweb.md §8.50: one study, exact counts."""
    files = series(Phantom(slices=24, side=8))
    ingest = service.imaging.ingest

    def associate(number: int) -> list[Result]:
        batch = Batch(caller("hospital-a", client_id=f"ae:{number % 2}"), Origin("c-store"))
        results = [ingest.store_instance(data, batch).result for data in files[number::8]]
        ingest.finish(batch)
        return results

    with ThreadPoolExecutor(8) as pool:
        results = [result for found in pool.map(associate, range(8)) for result in found]

    assert results == [Result.STORED] * 24
    with service.store.database.read() as connection:
        (study,) = connection.execute(select(dicom_study)).all()
        stored = connection.execute(select(dicom_instance.c.digest)).scalars().all()
    assert (study.series_count, study.instance_count, len(stored)) == (1, 24, 24)
    assert all(service.objects.exists(digest) for digest in stored)
    (resource,) = service.resources("ImagingStudy")
    assert resource["numberOfInstances"] == 24


def test_of_two_different_objects_under_one_uid_at_once_one_is_kept(service: Service) -> None:
    """Never two copies, never an overwrite: the other sender is told."""
    (data,) = series(Phantom(slices=1, side=8))
    variants = []
    for number in range(8):
        dataset = pydicom.dcmread(io.BytesIO(data))
        dataset.ImageComments = str(number)
        output = io.BytesIO()
        dataset.save_as(output)
        variants.append(output.getvalue())
    ingest = service.imaging.ingest

    def send(number: int) -> Result:
        batch = Batch(caller("hospital-a", client_id=f"ae:{number}"), Origin("c-store"))
        return ingest.store_instance(variants[number], batch).result

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(send, range(8)))

    assert sorted(result.name for result in results) == ["DUPLICATE_DIFFERS"] * 7 + ["STORED"]
    with service.store.database.read() as connection:
        assert len(connection.execute(select(dicom_instance)).all()) == 1


def test_nothing_is_acknowledged_when_the_record_cannot_be_written(service: Service, files: list[bytes]) -> None:
    """DESIGN §3: the images and their record are one commit; the modality is told to send again (0xA700)."""
    from resources.outcomes import Unavailable

    service.trail.failure = Unavailable("The trail cannot be written")
    batch = Batch(caller("hospital-a"), Origin("c-store"))
    try:
        outcome = service.imaging.ingest.store_instance(files[0], batch).result
    except Unavailable:
        outcome = Result.OUT_OF_RESOURCES
    service.trail.failure = None

    assert outcome is Result.OUT_OF_RESOURCES
    with service.store.database.read() as connection:
        assert connection.execute(select(dicom_instance)).all() == []
    assert service.imaging.ingest.store_instance(files[0], batch).result is Result.STORED
