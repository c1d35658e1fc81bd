"""What the store remembers beside its data, by name: how far a loop has come, what it has found."""

from __future__ import annotations

from sqlalchemy import Connection, select
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from store.versions.tables import store_setting


def kept(connection: Connection, name: str) -> str | None:
    """What was kept under this name."""
    return connection.execute(select(store_setting.c.value).where(store_setting.c.name == name)).scalar()


def keep(connection: Connection, name: str, value: str) -> None:
    """Keep `value` in the place of what was."""
    insert = sqlite_insert if connection.dialect.name == "sqlite" else postgresql_insert
    connection.execute(
        insert(store_setting)
        .values(name=name, value=value)
        .on_conflict_do_update(index_elements=["name"], set_={"value": value})
    )
