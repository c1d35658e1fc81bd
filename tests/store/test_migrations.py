"""The migrations make the schema that the code declares (DESIGN §4: Alembic; the same on both engines)."""

from __future__ import annotations

from pathlib import Path
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
