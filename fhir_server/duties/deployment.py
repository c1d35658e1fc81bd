"""A deployment made and opened: schema, keys, modes. What is not there is never made by looking for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import make_url

from audit import intake
from fhir_server.duties import acts, permissions
from fhir_server.server import keys
from fhir_server.server.faults import CannotRun
from fhir_server.server.services import Services
from fhir_server.server.settings import Settings
from store import migrations
from store.engine.database import open_engine
from store.versions import standing


def is_alone(settings: Settings) -> bool:
    """Whether this node is the only one: it has a database of its own (SQLite), or it is the demonstration.

    Such a node is made, and brought to a new version, by being started. With several, a new one must not alter the
    schema under the others, nor take a database that it does not find for a new one: the operator says when.
    """
    return settings.demo or make_url(settings.database_url).get_backend_name() == "sqlite"


def begin(settings: Settings) -> None:
    """What `serve` does with the deployment before anything else. Raises SchemaFault, KeyFault."""
    if is_alone(settings):
        upgrade(settings, begins=True)
        return
    migrations.require_current(settings.database_url)
    settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    check_keys(settings, tells=True)


def init(settings: Settings) -> None:
    """Make a new deployment, schema and keys; one that is there is checked. An act of the operator."""
    permissions.repair(settings)
    upgrade(settings)
    note(settings, "platform-init")


def upgrade(settings: Settings, *, begins: bool = False) -> None:
    """Bring the schema to this version's and make the keys of a new deployment; safe to run at every start.

    `begins`: this version serves from now on, and no earlier one writes here any more. Raises SchemaFault for a schema
    that is newer than this code, KeyFault where a used database lacks a key.
    """
    settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    migrations.upgrade(settings.database_url)
    database = open_engine(settings.database_url)
    try:
        with database.write() as connection:
            standing.settle(connection)
        keys.provide(settings, database)
        intake.adopt(database, settings.data / keys.SPOOL, for_good=begins)
    finally:
        database.dispose()


def upgrade_recorded(settings: Settings) -> None:
    """`upgrade` as an act of the operator."""
    permissions.repair(settings)
    if not is_alone(settings) and migrations.state(settings.database_url)[0] is None:
        raise CannotRun("there is no deployment in this database yet: ./vigie platform init")
    upgrade(settings)
    with opened(settings) as services, acts.recorded(services, "db-upgrade") as act:
        services.baseline().finish()
        act.conclude()


@contextmanager
def opened(settings: Settings) -> Iterator[Services]:
    """The services of a deployment that is there, with its schema and its keys.

    Raises CannotRun, SchemaFault, KeyFault.
    Nothing is made: looking at a folder in which nothing is does not turn it into a deployment.
    """
    require_database(settings)
    migrations.require_current(settings.database_url)
    check_keys(settings)
    services = Services.of(settings)
    try:
        yield services
    finally:
        services.close()


def require_database(settings: Settings) -> None:
    """Raise CannotRun where there is no SQLite file (SQLite would make an empty one) or the data folder is none."""
    if settings.data.exists() and not settings.data.is_dir():
        raise CannotRun(f"the data folder {settings.data} is a file")
    url = make_url(settings.database_url)
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
        raise CannotRun("there is no database here yet: `vigie serve` or `vigie db upgrade` makes one")


def check_keys(settings: Settings, *, tells: bool = False) -> None:
    """Raise KeyFault unless the deployment secret opens the keys that the database is served with.

    `tells`: have the data folder say which key the log is verified with now.
    """
    database = open_engine(settings.database_url)
    try:
        keys.check(settings, database)
        if tells:
            keys.tell(settings, database)
        with database.read() as connection:
            standing.check(connection)
    finally:
        database.dispose()


def public_key(settings: Settings) -> str:
    """What the checkpoints of the log are verified with, as C2SP signed-note writes it."""
    database = open_engine(settings.database_url)
    try:
        return keys.public(settings, database)
    finally:
        database.dispose()


def note(settings: Settings, operation: str, *, failure: str | None = None) -> None:
    """Record an act that is done, or that begins; `failure`: why it was not."""
    with opened(settings) as services, acts.recorded(services, operation) as act:
        act.conclude(failure)
