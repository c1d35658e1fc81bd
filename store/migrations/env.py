"""Alembic's way in: runs the revisions on the connection, and in the transaction, that `store.migrations` gives."""

from __future__ import annotations

from alembic import context

from store.engine.schema import metadata

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=metadata,
    render_as_batch=connection.dialect.name == "sqlite",
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
