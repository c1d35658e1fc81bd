"""A database as an earlier version left it: its schema by the migrations, its rows out of a file of this folder."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alembic import command
from sqlalchemy import MetaData, insert, text

from store import migrations
from store.engine.database import open_engine

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Left:
    """What the earlier version left besides its rows."""

    signer: str
    published: str
    events: dict[str, str]
    """AuditEvents that were served then: id → text."""


def load(url: str, schema: str) -> Left:
    """Bring the empty database at `url` to an earlier schema, and fill it."""
    content = json.loads(gzip.decompress((FOLDER / f"schema_{schema}.json.gz").read_bytes()))
    fill(url, schema, content["tables"])
    versions = content["tables"]["resource_version"]
    events = (dict(zip(versions["columns"], row, strict=True)) for row in versions["rows"])
    served = {row["resource_id"]: row["content"] for row in events if '"resourceType":"AuditEvent"' in row["content"]}
    return Left(content["signer"], content["published"], served)


def fill(url: str, schema: str, tables: dict[str, Any]) -> None:
    """Bring the empty database at `url` to an earlier schema, and put these rows into it."""
    database = open_engine(url)
    try:
        with database.write() as connection:
            connection.execute(text("SELECT 1"))  # so that Alembic sees that there is a transaction
            config = migrations._config()
            config.attributes["connection"] = connection
            command.upgrade(config, schema)
        metadata = MetaData()
        with database.read() as connection:
            metadata.reflect(connection)
        with database.write() as connection:
            for name, held in tables.items():
                rows = [dict(zip(held["columns"], map(_value, row), strict=True)) for row in held["rows"]]
                connection.execute(insert(metadata.tables[name]), rows)
                if not database.is_sqlite and "pk" in held["columns"]:
                    last = max(row["pk"] for row in rows)
                    connection.execute(text(f"SELECT setval(pg_get_serial_sequence('{name}', 'pk'), {last})"))
    finally:
        database.dispose()


def _value(value: Any) -> Any:
    return bytes.fromhex(value["hex"]) if isinstance(value, dict) else value
