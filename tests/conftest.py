"""Real databases for every test that asks for one: SQLite in a file, PostgreSQL in a cluster of the session's own.

PostgreSQL is left out only where its binaries are absent and `CI` is not set.
"""

from __future__ import annotations

import gc
import os
import pwd
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import psycopg
import pytest

from store.access import Caller
from store.engine.database import Database, open_engine
from store.engine.keyring import Fixed
from store.engine.schema import metadata
from store.unit_of_work import Store
from tests.proven import Proof, is_whole
from tests.support import BASE_URL, PLATFORM, Clock, Ids, MemoryTrail, OpenPermit, caller

QUICK = bool(os.environ.get("VIGIE_TEST_QUICK"))
"""`./vigie test --quick`: SQLite alone, one door, fewer examples of a property, and nothing of `LONG`."""
ENGINES = ("sqlite",) if QUICK else ("sqlite", "postgresql")
LONG = (
    "audit/test_every_byte.py", "audit/test_offline.py", "audit/test_reading.py", "audit/test_spool.py",
    "audit/test_spool_damage.py", "audit/test_tampering.py", "audit/test_upgrade.py",
    "auth/test_assertion_processes.py", "dicomweb/test_budgets.py", "dicomweb/test_clients.py",
    "dicomweb/test_collecting.py", "dicomweb/test_dimse_door.py", "dicomweb/test_hostile.py",
    "dicomweb/test_multipart.py", "dicomweb/test_parameters.py", "fhir_server/test_bad_input.py",
    "fhir_server/test_budgets.py", "fhir_server/test_cors.py", "fhir_server/test_front.py",
    "fhir_server/test_front_parts.py", "fhir_server/test_full_disk.py", "fhir_server/test_health.py",
    "fhir_server/test_keys.py", "fhir_server/test_log_keys.py", "fhir_server/test_metrics.py",
    "fhir_server/test_parameters.py", "fhir_server/test_records.py", "fhir_server/test_repeated.py",
    "fhir_server/test_validate.py", "store/test_races.py", "store/test_reindex.py", "subscriptions/test_crashes.py",
    "subscriptions/test_open_snapshot.py", "subscriptions/test_reliability.py", "workflow/test_races.py",
    "workflow/test_refusals.py", "workflow/test_stateful.py",
)  # fmt: skip
"""What the quick run leaves out: whole servers, kills, limits that are filled to the last, every byte of a file, every
parameter of every route."""
collect_ignore = list(LONG) if QUICK else []
if QUICK:
    hypothesis.settings.register_profile("quick", max_examples=10, deadline=None)
    hypothesis.settings.load_profile("quick")



def pytest_configure(config: pytest.Config) -> None:
    if is_whole(config):
        config.pluginmanager.register(Proof(), "proof")


_OF_WHAT_CLOSES = ("audit", "check-", "doctor-", "image-writer")
"""How the threads are named that end with what they were made for."""


@pytest.fixture(scope="module", autouse=True)
def _threads_end() -> Iterator[None]:
    """What a module has opened is closed at its end: none of its threads goes on, and holds what it was made for."""
    before = set(threading.enumerate())
    yield
    until = time.monotonic() + 10
    while (left := _left(before)) and time.monotonic() < until:
        gc.collect()
        time.sleep(0.05)
    assert not left, f"threads that go on: {sorted(left)}"


def _left(before: set[threading.Thread]) -> list[str]:
    return [one.name for one in threading.enumerate() if one not in before and one.name.startswith(_OF_WHAT_CLOSES)]


def _postgresql_binaries() -> Path | None:
    found = shutil.which("initdb")
    if found and shutil.which("pg_ctl"):
        return Path(found).parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return versions[-1].parent if versions else None


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    """A database of the session's own cluster, reached by a socket in a folder of its own."""
    binaries = _postgresql_binaries()
    if binaries is None:
        if os.environ.get("CI"):
            pytest.fail("PostgreSQL's binaries are absent")
        pytest.skip("PostgreSQL's binaries are absent")
    folder = Path(tempfile.mkdtemp(prefix="vigie-pg-"))
    as_user: dict[str, Any] = {}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        account = pwd.getpwnam("postgres")
        shutil.chown(folder, account.pw_uid, account.pw_gid)
        as_user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}

    def run(program: str, *arguments: str) -> None:
        subprocess.run(
            [binaries / program, *arguments], check=True, cwd=folder, stdout=subprocess.DEVNULL, timeout=120, **as_user
        )

    data = str(folder / "data")
    settings = (
        f"-c listen_addresses='' -c unix_socket_directories={folder} -c max_connections=300"
        " -c shared_buffers=64MB -c deadlock_timeout=100ms -c log_min_messages=fatal"
    )
    try:
        run("initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N")
        run("pg_ctl", "-D", data, "-w", "-o", settings, "-l", str(folder / "log"), "start")
        try:
            yield f"postgresql://postgres@/postgres?host={folder}"
        finally:
            run("pg_ctl", "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def _tables_made() -> set[str]:
    """Names of the tables that the session's PostgreSQL database has."""
    return set()


@pytest.fixture(params=ENGINES)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, once for each engine."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/vigie.sqlite"
    return str(request.getfixturevalue("postgresql_url"))


@pytest.fixture
def database(database_url: str, _tables_made: set[str]) -> Iterator[Database]:
    """An empty database with the tables of every package that the tests have imported."""
    opened = open_engine(database_url)
    if opened.is_sqlite:
        opened.create_all()
    else:
        _empty(opened, database_url, _tables_made)
    yield opened
    opened.dispose()


def _empty(opened: Database, url: str, made: set[str]) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        if set(metadata.tables) - made:
            opened.create_all()
            made |= set(metadata.tables)
        names = [table.name for table in reversed(metadata.sorted_tables)]
        connection.execute("; ".join(f'DELETE FROM "{name}"' for name in names))  # noqa: S608 - names of our own


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ids() -> Ids:
    return Ids()


@pytest.fixture
def permit() -> OpenPermit:
    return OpenPermit()


@pytest.fixture
def trail() -> MemoryTrail:
    return MemoryTrail()


@pytest.fixture
def make_store(
    database: Database, permit: OpenPermit, trail: MemoryTrail, clock: Clock, ids: Ids
) -> Callable[..., Store]:
    """Assemble a store on the test's database; keyword arguments replace the parts."""

    def make(**parts: Any) -> Store:
        chosen: dict[str, Any] = {
            "permit": permit,
            "trail": trail,
            "clock": clock,
            "ids": ids,
            "platform": PLATFORM,
            "base_urls": (BASE_URL,),
            "keys": Fixed(b"a page key of the tests"),
        }
        return Store(database, **(chosen | parts))

    return make


@pytest.fixture
def store(make_store: Callable[..., Store]) -> Store:
    """The store with an open permit and a trail in memory."""
    return make_store()


@pytest.fixture
def as_hospital() -> Callable[..., Caller]:
    """Callers by organisation: ``as_hospital()`` is hospital-a's client, ``as_hospital("hospital-b")`` the other's."""
    return caller


@pytest.fixture
def as_platform() -> Caller:
    """The teleradiology platform's own client."""
    return caller(PLATFORM)
