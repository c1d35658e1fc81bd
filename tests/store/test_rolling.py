"""A node of the version before goes on beside a schema that was raised: each migration only adds (docs/operations.md).

Asked of the schema before and after each migration, on both engines: however a migration does it.
`python -m tests.crash.rolling` shows it with two versions that serve, work and are killed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from alembic import command
from sqlalchemy import Connection, inspect, text

from store import migrations
from store.engine.database import Database, open_engine
from tests.conftest import ENGINES

OLDEST = "0008"
"""From this schema on the keys are in the database: nodes with a schema before it cannot be beside others."""
REVISIONS = [revision for revision in reversed(migrations._revisions()) if revision >= OLDEST]

EXCEPTIONS = {
    ("postgresql", "0014", "audit_log: the key (seq) is gone"): "the partitions' column must be in it. Positions are "
    "unique by the tree, which moves by a conditional UPDATE, in the version before as well (decision 0021)",
    ("postgresql", "0014", "audit_log: unique (event_id) is gone"): "what the log has is asked by a SELECT",
    ("postgresql", "0014", "audit_log: unique (seq, logged) is new"): "wider than the key was",
    **{
        ("postgresql", "0014", f"audit_log.{column} has no default any more"): "every version says each column"
        for column in ("form", "logged", "through", "particulars", "parts")
    },
}
"""(engine, migration, what it takes away): why the version before goes on all the same."""

Shape = dict[str, dict[str, Any]]


def shape(connection: Connection) -> Shape:
    """What code that knows a table counts on: its columns, and what rows of it must be."""
    looked = inspect(connection)
    columns, keys = looked.get_multi_columns(), looked.get_multi_pk_constraint()
    uniques, indexes = looked.get_multi_unique_constraints(), looked.get_multi_indexes()
    checks, foreign = looked.get_multi_check_constraints(), looked.get_multi_foreign_keys()
    return {
        table[1]: {
            "columns": {one["name"]: one for one in columns[table]},
            "key": tuple(keys[table]["constrained_columns"]),
            "unique": {tuple(one["column_names"]) for one in uniques[table]}
            | {tuple(one["column_names"]) for one in indexes[table] if one["unique"]},
            "bound": {f"check {one['sqltext']}" for one in checks[table]}
            | {f"foreign key {one['constrained_columns']}" for one in foreign[table]},
        }
        for table in columns
        if table[1] != "alembic_version"
    }  # fmt: skip


def taken_away(before: Shape, after: Shape) -> list[str]:
    """What code of before cannot count on any more."""
    found = []
    for table, old in before.items():
        new = after.get(table)
        if new is None:
            found.append(f"{table} is gone")
            continue
        for name, column in old["columns"].items():
            now = new["columns"].get(name)
            if now is None:
                found.append(f"{table}.{name} is gone")
                continue
            if str(now["type"]) != str(column["type"]):
                found.append(f"{table}.{name} was {column['type']} and is {now['type']}")
            if column["nullable"] and not now["nullable"]:
                found.append(f"{table}.{name} must not be null any more")
            if column.get("default") is not None and now.get("default") is None:
                found.append(f"{table}.{name} has no default any more")
        for name, column in new["columns"].items():
            if name not in old["columns"] and not column["nullable"] and column.get("default") is None:
                found.append(f"{table}.{name} is new, not null, and has no default")
        for kind in ("unique", "bound"):
            found += [f"{table}: {_told(kind, one)} is gone" for one in old[kind] - new[kind] if kind == "unique"]
            found += [f"{table}: {_told(kind, one)} is new" for one in new[kind] - old[kind]]
        if old["key"] != new["key"]:
            found.append(f"{table}: the key ({', '.join(old['key'])}) is gone")
    return sorted(found)


def _told(kind: str, one: Any) -> str:
    return f"unique ({', '.join(one)})" if kind == "unique" else str(one)


@pytest.fixture(scope="module", params=ENGINES)
def raised(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """An empty database at the schema of the oldest version that may be beside."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('rolling')}/db.sqlite"
    else:
        admin = str(request.getfixturevalue("postgresql_url"))
        with psycopg.connect(admin, autocommit=True) as connection:
            connection.execute("DROP DATABASE IF EXISTS rolling WITH (FORCE)")
            connection.execute("CREATE DATABASE rolling")
        url = admin.replace("/postgres?", "/rolling?")
    database = open_engine(url)
    to(database, OLDEST)
    yield database
    database.dispose()


def to(database: Database, revision: str) -> None:
    with database.write() as connection:
        connection.execute(text("SELECT 1"))  # so that Alembic sees that there is a transaction
        config = migrations._config()
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def test_each_migration_only_adds(raised: Database) -> None:
    """What takes something away comes a version later, once no node of the version before can be there."""
    found = set()
    for revision in REVISIONS[1:]:
        with raised.read() as connection:
            before = shape(connection)
        to(raised, revision)
        with raised.read() as connection:
            found |= {(raised.dialect, revision, one) for one in taken_away(before, shape(connection))}
    assert found == {one for one in EXCEPTIONS if one[0] == raised.dialect}


TAKES_AWAY = {
    "DROP TABLE subscription_aside": "subscription_aside is gone",
    "ALTER TABLE subscription_state RENAME TO other": "subscription_state is gone",
    "ALTER TABLE subscription_attempt DROP COLUMN fault": "subscription_attempt.fault is gone",
    "ALTER TABLE subscription_attempt RENAME COLUMN fault TO why": "subscription_attempt.fault is gone",
    "ALTER TABLE subscription_attempt ALTER COLUMN fault SET NOT NULL":
        "subscription_attempt.fault must not be null any more",
    "ALTER TABLE subscription_attempt ALTER COLUMN duration_ms TYPE smallint":
        "subscription_attempt.duration_ms was INTEGER and is SMALLINT",
    "ALTER TABLE subscription_state ALTER COLUMN since_open DROP DEFAULT":
        "subscription_state.since_open has no default any more",
    "ALTER TABLE subscription_attempt ADD COLUMN more text NOT NULL":
        "subscription_attempt.more is new, not null, and has no default",
    "ALTER TABLE subscription_attempt ADD CHECK (duration_ms < 9)":
        "subscription_attempt: check duration_ms < 9 is new",
    "ALTER TABLE subscription_attempt ADD FOREIGN KEY (id) REFERENCES audit_purge":
        "subscription_attempt: foreign key ['id'] is new",
    "CREATE UNIQUE INDEX one ON subscription_attempt (at)": "subscription_attempt: unique (at) is new",
    "DROP INDEX uq_search_parameter_type_code": "search_parameter: unique (type, code) is gone",
    "ALTER TABLE subscription_endpoint DROP CONSTRAINT pk_subscription_endpoint":
        "subscription_endpoint: the key (origin) is gone",
}  # fmt: skip
ADDS = (
    "ALTER TABLE subscription_attempt ADD COLUMN more text",
    "ALTER TABLE subscription_attempt ADD COLUMN more text NOT NULL DEFAULT ''",
    "CREATE TABLE more (pk bigint PRIMARY KEY)",
    "CREATE INDEX more ON subscription_attempt (at, id)",
    "DROP INDEX ix_subscription_attempt_age",
)


def test_what_takes_away_is_named(raised: Database) -> None:
    """The look that the test above trusts sees each way of it; PostgreSQL has them all as one statement."""
    if raised.is_sqlite:
        return
    to(raised, "head")
    for statement, expected in {**TAKES_AWAY, **dict.fromkeys(ADDS)}.items():
        with raised.engine.connect() as connection:
            before = shape(connection)
            connection.execute(text(statement))
            found = taken_away(before, shape(connection))
            connection.rollback()
        assert found == ([expected] if expected else []), statement
