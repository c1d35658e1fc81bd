"""Objects without rows are collected, and no upload loses its object to that (DESIGN §4, §8; "nothing leaks").

Everything here is tried with an age of less than nothing (`NOW`), so that the age of an object protects none.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from dicomweb.phantom import Phantom, series
from dicomweb.tables import NAMING
from store.access import Caller, Interaction
from store.collecting import FEW, Collector, Found, Rounds, last_round, queues
from store.engine.schema import metadata
from store.objects import ObjectStore
from tests.dicomweb.conftest import Service, stow
from tests.store.processes import ROOT, store_at
from tests.support import PLATFORM

NOW = -60.0
SERVER = Caller.system(PLATFORM)


@pytest.fixture
def collector(service: Service) -> Collector:
    return Collector(service.store, service.objects, NAMING)


def whole(collector: Collector, objects: ObjectStore, age_s: float = NOW) -> Found:
    found = Found()
    for folder in objects.folders():
        found += collector.look(folder, age_s)
    return found


def age(objects: ObjectStore, *digests: str) -> None:
    """Let two days pass for them."""
    for digest in digests:
        path = objects.path(digest)
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 2 * 86400))


def test_what_has_a_row_stays_and_what_has_none_goes_on_record(
    service: Service, files: list[bytes], collector: Collector
) -> None:
    """Removed with the number and the bytes in the log; what is young, or named, is not."""
    assert stow(service.client(), files).status_code == 200
    left, young = service.objects.put(b"left by a kill"), service.objects.put(b"on its way")
    age(service.objects, left)
    found = whole(collector, service.objects, 86400)
    assert (found.objects, found.unnamed, found.young, found.lost) == (len(files) + 2, [left], 1, [])
    named = [name for folder in service.objects.folders() for name in service.objects.names(folder)]
    removed = collector.remove(SERVER, named)  # whatever it is asked, it asks the rows, and the age
    assert (removed.count, removed.size) == (1, len(b"left by a kill"))
    assert not service.objects.exists(left)
    assert service.objects.exists(young)
    assert whole(collector, service.objects).lost == []
    facts = [dict(one.detail) for one in service.trail.appended if one.interaction is Interaction.ADMIN]
    assert facts == [{"operation": "objects-remove", "removed": "1", "bytes": "14"}]


@pytest.mark.parametrize("name", ["place", "exists"])
def test_an_object_whose_transaction_is_under_way_is_not_removed(
    service: Service, files: list[bytes], collector: Collector, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upload that has placed its object and has not committed, on any node; also onto one that was left there."""
    (left,) = (service.objects.put(data) for data in files[:1]) if name == "exists" else ("",)
    placed, go_on = threading.Event(), threading.Event()
    real = ObjectStore.place

    def slow(objects: ObjectStore, *given: Any) -> None:
        real(objects, *given)
        placed.set()
        assert go_on.wait(60)

    monkeypatch.setattr(ObjectStore, "place", slow)
    answers: list[int] = []
    upload = threading.Thread(target=lambda: answers.append(stow(service.client(), files[:1]).status_code))
    upload.start()
    assert placed.wait(60)
    removed: list[int] = []

    def collect() -> None:
        there = [digest for folder in service.objects.folders() for digest in service.objects.names(folder)]
        assert len(there) == 1
        assert left in ("", *there)
        removed.append(collector.remove(SERVER, there, older_than_s=NOW).count)

    other = threading.Thread(target=collect)
    other.start()
    if not service.store.database.is_sqlite:  # there it waits at the gate until the upload has committed
        other.join(60)
        assert removed == [0]
    go_on.set()
    for thread in (upload, other):
        thread.join(60)
    assert answers == [200]
    assert removed == [0]
    assert whole(collector, service.objects).lost == []


def test_nobody_who_stores_waits_for_the_collector(
    service: Service, files: list[bytes], collector: Collector
) -> None:
    """The lock is only tried: an upload that is frozen inside its transaction costs the other uploads nothing."""
    database = service.store.database
    if database.is_sqlite:
        assert stow(service.client(), files).status_code == 200
        return
    left = service.objects.put(b"left")
    with database.write() as connection:
        service.objects.place(connection, [])
        other = threading.Thread(target=lambda: collector.remove(SERVER, [left], older_than_s=NOW))
        other.start()
        assert stow(service.client(), files).status_code == 200
        other.join(60)
        assert service.objects.exists(left)
    assert collector.remove(SERVER, [left], older_than_s=NOW).count == 1


def test_uploads_and_collectors_at_once_lose_nothing(service: Service, collector: Collector) -> None:
    """Four uploaders of bytes that kills have left there before, beside two collectors that spare no age."""
    stop = threading.Event()
    faults: list[BaseException] = []
    phantoms = [Phantom(slices=3, side=16, patient_id=f"IPP-{number}") for number in range(12)]

    def upload(mine: Sequence[Phantom]) -> None:
        for phantom in mine:
            data = series(phantom)
            for one in data:
                service.objects.put(one)
            assert stow(service.client(), data).status_code == 200

    def collect() -> None:
        while not stop.is_set():
            for folder in service.objects.folders():
                there = service.objects.names(folder)
                if there:
                    collector.remove(SERVER, there, older_than_s=NOW)

    def guarded(work: Callable[..., None], *given: Any) -> None:
        try:
            work(*given)
        except BaseException as error:  # noqa: BLE001 - told below
            faults.append(error)

    uploaders = [threading.Thread(target=guarded, args=(upload, phantoms[n::4])) for n in range(4)]
    collectors = [threading.Thread(target=guarded, args=(collect,)) for _ in range(2)]
    for thread in [*uploaders, *collectors]:
        thread.start()
    for thread in uploaders:
        thread.join(300)
    stop.set()
    for thread in collectors:
        thread.join(300)
    assert not faults
    found = whole(collector, service.objects)
    assert found.lost == []
    collector.remove(SERVER, found.unnamed, older_than_s=NOW)
    assert whole(collector, service.objects) == Found(objects=36)


def test_what_is_put_there_at_this_very_moment_goes_back(tmp_path: Path) -> None:
    """A node of a version that knows no lock: what was old is looked at again once it is out of everybody's reach."""
    objects = ObjectStore(tmp_path / "objects")
    digest = objects.put(b"new")
    assert objects.remove_older(digest, objects.written_at(digest) - 1) is None
    assert objects.exists(digest)
    assert objects.remove_older(digest, objects.written_at(digest) + 1) == 3
    assert objects.remove_older(digest, 0) is None
    assert not [path for path in (tmp_path / "objects").rglob("*") if path.is_file()]


def place_and_die(url: str, folder: str) -> None:
    """In a process of its own: killed between the file and the commit."""
    store, objects = store_at(url), ObjectStore(folder)
    staged = objects.stage(b"left by kill -9")
    with store.work(SERVER) as uow:
        objects.place(uow.connection, [staged])
        os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_kill_leaves_is_collected(service: Service, collector: Collector, files: list[bytes]) -> None:
    """kill -9 between the file and the commit, on a real process; its lock goes with it."""
    assert stow(service.client(), files).status_code == 200
    url, folder = service.store.database.url, str(service.objects.path("0" * 64).parent.parent)
    code = f"from tests.dicomweb import test_collecting as t; t.place_and_die({url!r}, {folder!r})"
    dead = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert dead.returncode == -signal.SIGKILL
    found = whole(collector, service.objects)
    assert len(found.unnamed) == 1
    age(service.objects, *found.unnamed)
    rounds = Rounds(collector, service.objects.folders(), SERVER)
    for _ in service.objects.folders():
        assert not rounds.step()
    assert whole(collector, service.objects) == Found(objects=len(files))
    with service.store.database.read() as connection:
        last = last_round(connection)
        assert last is not None
        assert (last.objects, last.unnamed, last.lost) == (len(files) + 1, 0, 0)


def test_a_folder_that_cannot_be_read_keeps_none_from_being_compared(
    service: Service, collector: Collector, files: list[bytes]
) -> None:
    """The others of the round are looked at; what is remembered is the last whole look."""
    stow(service.client(), files)
    gone = service.objects.path(next(name for one in service.objects.folders() for name in service.objects.names(one)))
    gone.unlink()
    folders = service.objects.folders()
    bad = next(folder for folder in folders if not service.objects.names(folder) and folder != gone.parent.name)
    rounds = Rounds(collector, folders, SERVER)
    place = service.objects.path(bad + "0" * 62).parent
    shutil.rmtree(place, ignore_errors=True)
    place.write_bytes(b"")
    with capture_logs() as told:
        for _ in folders:
            assert not rounds.step()
    assert [one["event"] for one in told] == ["an item of a loop failed", "rows without objects"]
    assert told[0]["loop"] == "objects-compared"
    with service.store.database.read() as connection:
        assert last_round(connection) is None
    place.unlink()
    place.mkdir()
    for _ in folders:
        assert not rounds.step()
    with service.store.database.read() as connection:
        assert last_round(connection) is not None


def test_more_than_kills_leave_is_removed_by_nobody(
    service: Service, collector: Collector, files: list[bytes]
) -> None:
    """A folder of objects beside the database of others, or beside an older one: they are told, and left."""
    assert stow(service.client(), files).status_code == 200
    left = [service.objects.put(b"%d" % number) for number in range(len(files) + 1)]
    age(service.objects, *left)
    rounds = Rounds(collector, service.objects.folders(), SERVER)
    for _ in service.objects.folders():
        rounds.step()
    assert all(map(service.objects.exists, left))
    with service.store.database.read() as connection:
        assert queues(connection)["objects-without-rows"].count == len(left)
    assert Found(objects=10**6, unnamed=[""] * 10**4).are_few
    assert not Found(objects=10**4, unnamed=[""] * (FEW + 1)).are_few


def test_a_row_without_its_object_is_told(service: Service, collector: Collector, files: list[bytes]) -> None:
    """An image that was acknowledged and is not there any more is nothing that is only found by who wants to see it."""
    assert stow(service.client(), files).status_code == 200
    lost = next(name for folder in service.objects.folders() for name in service.objects.names(folder))
    service.objects.remove(lost)
    found = whole(collector, service.objects)
    assert found.lost == [lost]
    collector.remember(found, collector.remove(SERVER, found.unnamed))
    with service.store.database.read() as connection:
        assert queues(connection)["rows-without-objects"].count == 1


def test_every_column_that_names_objects_is_asked_and_has_an_index() -> None:
    """One that is forgotten would have its objects removed."""
    columns = [
        column for table in metadata.tables.values() for column in table.columns
        if "object store" in (column.comment or "")
    ]  # fmt: skip
    assert set(columns) == set(NAMING)
    for column in columns:
        assert any(next(iter(index.columns)) is column for index in column.table.indexes)
