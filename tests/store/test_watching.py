"""Waiting for commits on SQLite: nothing is asked while nothing happens, and what happens is seen."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from sqlalchemy import text

from store.engine import watching
from store.engine.database import Database, open_engine
from store.engine.watching import Writes


@pytest.fixture
def database(tmp_path: Path) -> Database:
    """A SQLite database that was idle for long."""
    made = open_engine(f"sqlite:///{tmp_path}/test.db")
    made.create_all()
    return made


@pytest.fixture(autouse=True)
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits has waited for long."""
    monkeypatch.setattr(watching, "IDLE_AFTER_S", -1.0)


def write(database: Database) -> None:
    with database.write() as connection:
        connection.execute(text("INSERT INTO store_setting VALUES (hex(randomblob(8)), '')"))


ELSEWHERE = """
import sqlite3, sys, time
time.sleep(0.3)
with sqlite3.connect(sys.argv[1]) as connection:
    connection.execute("INSERT INTO store_setting VALUES ('elsewhere', '')")
"""


def test_nothing_is_asked_while_nothing_is_written(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    version = watching._Watcher._version

    def counted(watcher: watching._Watcher) -> int:
        asked.append(1)
        return version(watcher)

    monkeypatch.setattr(watching._Watcher, "_version", counted)
    assert not database.wait_for("work", 0.5)
    assert len(asked) <= 3, "once when it began, once before and once after the wait"
    database.dispose()


def test_a_commit_of_another_process_is_seen(database: Database, tmp_path: Path) -> None:
    """A minute's timeout shows that nobody waits for its end."""
    database.wait_for("work", 0)
    began = time.monotonic()
    with subprocess.Popen([sys.executable, "-c", ELSEWHERE, str(tmp_path / "test.db")]):
        assert database.wait_for("work", 60)
    assert time.monotonic() - began < 30
    database.dispose()


@pytest.mark.parametrize("why", ["no watch", "the file is gone"])
def test_it_is_seen_where_the_kernel_does_not_tell(
    database: Database, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """inotify(7): no instances left, or the watched file was removed."""
    if why == "no watch":
        monkeypatch.setattr(Writes, "__init__", lambda self, file: setattr(self, "descriptor", -1))
    else:
        other = tmp_path / "other"
        other.touch()
        made = Writes.__init__
        monkeypatch.setattr(Writes, "__init__", lambda self, file: made(self, other))
        database.wait_for("work", 0)
        other.unlink()
    database.wait_for("work", 0)
    timer = threading.Timer(0.2, write, (database,))
    timer.start()
    began = time.monotonic()
    assert database.wait_for("work", 60)
    assert time.monotonic() - began < 30
    timer.join()
    database.dispose()


def test_a_file_that_cannot_be_watched_leaves_nothing_open(tmp_path: Path) -> None:
    writes = Writes(tmp_path / "absent")
    assert writes.descriptor == -1
    writes.close()
