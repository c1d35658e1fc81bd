"""What kill -9 cannot show, since the page cache outlives a process: settings, order of fsync, torn files.

security-subscriptions §6.1; DESIGN §4 (WAL, `synchronous=FULL`; objects: write, fsync, rename).
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text

from audit.checkpoint import BadCheckpoint, Signer, create
from audit.offline import split_notes
from audit.service import Ledger
from audit.verify import verify
from fhir_server.duties import deployment
from fhir_server.server.app import create_app
from fhir_server.server.keys import CHECKPOINTS
from fhir_server.server.services import Services
from fhir_server.server.settings import Settings
from store.access import Access, Interaction
from store.engine.database import Database, open_engine
from store.objects import ObjectStore
from tests.audit.logbook import AT
from tests.crash.service import Cluster, free_port
from tests.support import BASE_URL, PLATFORM, caller


def test_every_connection_of_the_server_commits_to_the_disk(tmp_path: Path) -> None:
    """SQLite: those of requests, of the audit committer and of the loops' watchers alike."""
    settings = Settings.load({"data": tmp_path, "port": free_port()}, environ={})
    deployment.upgrade(settings)
    services = Services.of(settings)
    found: list[tuple[str, int]] = []

    @event.listens_for(services.database.engine, "connect")
    def look(connection: Any, _record: Any) -> None:  # after the engine's own preparation
        found.append(
            (
                connection.execute("PRAGMA journal_mode").fetchone()[0],
                connection.execute("PRAGMA synchronous").fetchone()[0],
            )
        )

    browser = create_app(services).test_client()
    for path in ("/fhir/Patient/x", "/dicom-web/studies", "/readyz"):
        browser.get(path, headers={"Authorization": "Bearer nothing"})
    threads = [threading.Thread(target=services.database.wait_for, args=("work", 0)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    services.close()
    assert len(found) >= 4
    assert set(found) == {("wal", 2)}


def test_postgresql_is_not_told_to_commit_to_memory(cluster: Cluster, data_of_the_cluster: Path) -> None:
    """Neither the server's sessions nor the cluster's defaults turn off what makes a commit durable."""
    cluster.start_if_stopped()
    settings = Settings.load({"data": data_of_the_cluster, "database": cluster.url, "port": free_port()}, environ={})
    deployment.upgrade(settings)
    services = Services.of(settings)
    with services.database.write() as connection:
        shown = {
            name: connection.execute(text(f"SHOW {name}")).scalar()
            for name in ("fsync", "synchronous_commit", "full_page_writes")
        }
    services.close()
    assert shown == {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}


def test_a_wal_torn_anywhere_keeps_every_commit_before_the_tear(tmp_path: Path) -> None:
    """A power cut keeps what was synced, the WAL up to some byte: all commits below it are there, and none in part."""
    path = tmp_path / "vigie.sqlite"
    database = open_engine(f"sqlite:///{path}")
    database.create_all()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    wal = path.with_name(path.name + "-wal")
    ends = [0]
    for number in range(40):
        with database.write() as connection:
            for part in ("first", "second"):
                statement = "INSERT INTO store_setting (name, value) VALUES (:name, :value)"
                connection.execute(text(statement), {"name": f"{number}-{part}", "value": "x" * 700 * (number % 5)})
        ends.append(wal.stat().st_size)
    draw = random.Random(20261124)
    for cut in [*ends, *(draw.randrange(ends[-1]) for _ in range(60))]:
        copy = tmp_path / "copy" / path.name
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(path, copy)
        copy.with_name(wal.name).write_bytes(wal.read_bytes()[:cut])
        with closing(sqlite3.connect(copy)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            names = {row[0] for row in connection.execute("SELECT name FROM store_setting WHERE name LIKE '%-%'")}
        durable = sum(end <= cut for end in ends[1:])
        assert names == {f"{number}-{part}" for number in range(durable) for part in ("first", "second")}
        shutil.rmtree(copy.parent)
    database.dispose()


def test_an_object_is_synced_before_it_has_its_name_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a power cut leaves a name without bytes (DESIGN §4: write, fsync, rename)."""
    done: list[str] = []
    sync, rename = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        done.append("fsync " + Path(f"/proc/self/fd/{descriptor}").readlink().parent.name)
        sync(descriptor)

    def renamed(self: Path, target: Path) -> Path:
        done.append("rename")
        return rename(self, target)

    objects = ObjectStore(tmp_path / "objects")
    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    objects.put(b"an instance")
    assert done.index("fsync incoming") < done.index("rename") < len(done) - 1
    assert done[-1].startswith("fsync")


def test_a_published_checkpoint_torn_by_a_power_cut_is_no_alarm(tmp_path: Path) -> None:
    """The published file ends in half a note: every later one is found, and verification passes."""
    database = open_engine(f"sqlite:///{tmp_path}/vigie.sqlite")
    database.create_all()
    signer = create(tmp_path / "key", "vigie.example/audit")
    published = tmp_path / CHECKPOINTS
    for torn in (1, 40, 120):
        _log(database, signer, published)
        whole = published.read_bytes()
        published.write_bytes(whole[:-torn])
        _log(database, signer, published)
    elsewhere = split_notes(published.read_text(encoding="utf-8"))
    assert set(range(6, 19, 6)) <= {size for note in elsewhere if (size := _size(signer, note))}
    report = verify(database, signer.verifier, platform=PLATFORM, elsewhere=elsewhere)
    assert report.ok, report.lines()
    database.dispose()


def _size(signer: Signer, note: str) -> int | None:
    try:
        return signer.verifier.open(note).size
    except BadCheckpoint:
        return None


def _log(database: Database, signer: Signer, published: Path) -> None:
    """Three records more, in the log and published, by a process of its own."""
    ledger = Ledger(
        database, signer, observer="Device/vigie", base_url=BASE_URL, platform=PLATFORM, published=published
    )
    ledger.disclose(caller(), [Access(Interaction.READ, "Patient", f"p-{n}", 1) for n in range(3)], AT)
    ledger.sequencer.step()
    ledger.sequencer.step()
    ledger.close()
