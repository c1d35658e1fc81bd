"""The migrations make the schema that the code declares (DESIGN §4: Alembic; the same on both engines)."""

from __future__ import annotations

from pathlib import Path
from threading import Thread
from typing import Any

import psycopg
import pytest
from sqlalchemy import inspect, text

import fhir_server.server.services  # noqa: F401 - whoever assembles the server has imported every package that owns tables
from store import migrations
from store.engine.database import Database, open_engine
from store.engine.faults import DRIVER_ERRORS
from tests.conftest import ENGINES


@pytest.fixture(params=ENGINES)
def empty_urls(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """Two databases without any table."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/migrated.sqlite", f"sqlite:///{tmp_path}/declared.sqlite"
    url = str(request.getfixturevalue("postgresql_url"))
    with psycopg.connect(url, autocommit=True) as connection:
        for name in ("migrated", "declared"):
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")  # type: ignore[call-overload]
            connection.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload]
    return url.replace("/postgres?", "/migrated?"), url.replace("/postgres?", "/declared?")


def _shape(database: Database) -> dict[str, Any]:
    """Tables with their columns, keys and indexes."""
    looked = inspect(database.engine)
    found: dict[str, Any] = {}
    for table in looked.get_table_names():
        if table == "alembic_version":
            continue
        found[table] = {
            "columns": {c["name"]: (str(c["type"]), c["nullable"]) for c in looked.get_columns(table)},
            "key": looked.get_pk_constraint(table)["constrained_columns"],
            "indexes": {
                str(i["name"]): (i["column_names"], i["unique"], {k: str(v) for k, v in i["dialect_options"].items()})
                for i in looked.get_indexes(table)
            },
        }
    return found


def test_an_upgraded_database_is_as_the_code_declares_it(empty_urls: tuple[str, str]) -> None:
    """Every table, column, key and index."""
    migrated, declared = map(open_engine, empty_urls)
    try:
        migrations.upgrade(empty_urls[0])
        declared.create_all()
        assert _shape(migrated) == _shape(declared)
        current, head = migrations.state(empty_urls[0])
        assert current == head is not None
        migrations.upgrade(empty_urls[0])
    finally:
        migrated.dispose()
        declared.dispose()


def test_what_a_revision_locked_is_free_when_it_is_done(empty_urls: tuple[str, str]) -> None:
    """Each is a transaction of its own: the ones before a failing one stay, and the next upgrade goes on behind them.

    In one transaction 0007's ALTER TABLE, which locks everybody out of all versions, lasted until 0014 had copied the
    log.
    """
    url = empty_urls[0]
    database = open_engine(url)
    try:
        migrations.upgrade(url, to="0006")
        assert migrations.state(url)[0] == "0006"
        with database.write() as connection:
            connection.execute(text("CREATE TABLE audit_month (since BIGINT)"))  # 0014 makes it
        with pytest.raises(DRIVER_ERRORS):
            migrations.upgrade(url)
        assert migrations.state(url)[0] == "0013"
        assert "salt" in {one["name"] for one in inspect(database.engine).get_columns("resource_version")}  # of 0007
        with database.write() as connection:
            connection.execute(text("DROP TABLE audit_month"))
        migrations.upgrade(url)
        assert migrations.standing(database) == "current"
    finally:
        database.dispose()


@pytest.fixture
def half_way(request: pytest.FixtureRequest) -> str:
    """A PostgreSQL database before the revision that alters the table of all versions."""
    url = str(request.getfixturevalue("postgresql_url"))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS half_way WITH (FORCE)")
        connection.execute("CREATE DATABASE half_way")
    url = url.replace("/postgres?", "/half_way?")
    migrations.upgrade(url, "0006")
    return url


def _reads(url: str, within_s: float) -> bool:
    """Whether somebody who looks at the versions now is answered within so long."""
    with psycopg.connect(url, options=f"-c lock_timeout={int(within_s * 1000)}") as reader:
        try:
            reader.execute("SELECT count(*) FROM resource_version")
        except psycopg.errors.LockNotAvailable:
            return False
    return True


def test_a_revision_behind_a_long_reader_keeps_no_other_reader_waiting(half_way: str) -> None:
    """A lock that is waited for stops everybody who comes after it (PostgreSQL 13.3.1): it is asked for by moments."""
    waits = migrations.Patience(lock_s=0.3, between_s=0.5, whole_s=60)
    with psycopg.connect(half_way) as dump:
        dump.execute("SELECT count(*) FROM resource_version")
        upgrade = Thread(target=migrations.upgrade, args=(half_way,), kwargs={"patience": waits})
        upgrade.start()
        try:
            answers = [_reads(half_way, 5) for _ in range(20)]
            assert upgrade.is_alive(), "the reader's lock stops the revision"
        finally:
            dump.rollback()
            upgrade.join(60)
    assert all(answers)
    current, head = migrations.state(half_way)
    assert current == head


def test_an_upgrade_gives_up_and_names_who_is_in_its_way(half_way: str) -> None:
    """Nobody waits for a stranger for ever; the operator is told whose session it is, and nothing is half done."""
    waits = migrations.Patience(lock_s=0.1, between_s=0.1, whole_s=0.5)
    with psycopg.connect(half_way, application_name="somebody's dump") as dump:
        dump.execute("SELECT count(*) FROM resource_version")
        with pytest.raises(migrations.SchemaFault, match=rf"process {dump.info.backend_pid}\b.*half_way"):
            migrations.upgrade(half_way, patience=waits)
    migrations.upgrade(half_way)
    current, head = migrations.state(half_way)
    assert current == head
