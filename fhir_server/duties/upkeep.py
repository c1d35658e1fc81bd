"""What an operator does: upgrade, verify, export, back up, restore, ask what is wrong."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import click
from sqlalchemy import make_url

from fhir_server.server.services import CHECKPOINTS, SPOOL, Services
from fhir_server.server.settings import Settings
from store import migrations
from store.engine.database import open_engine
from store.versions import snapshots

_LOW_DISK_BYTES = 2 * 1024**3


EXPORT_CATCHES_UP_S = 600.0
"""A server that was stopped under load may have left tens of thousands of records to sequence."""


def upgrade(settings: Settings) -> None:
    """Bring the schema to this version's (Alembic); safe to run at every start."""
    settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    migrations.upgrade(settings.database_url)


def audit_verify(settings: Settings, echo: Callable[[str], None] = click.echo) -> int:
    """Verify the audit log against what is stored; 0 if nothing is altered, missing or swapped."""
    services = Services.of(settings)
    try:
        services.ledger.catch_up()
        report = services.verify_audit()
    finally:
        services.close()
    echo("\n".join(report.lines()))
    return 0 if report.ok else 1


def audit_export(settings: Settings, file: Path) -> int:
    """Export the log for the offline verifier (audit/offline.py), with all that was recorded until now."""
    services = Services.of(settings)
    try:
        if not services.ledger.catch_up(EXPORT_CATCHES_UP_S):
            click.echo("what was recorded could not be sequenced in time: try again", err=True)
            return 1
        count = services.export_audit(file)
    finally:
        services.close()
    click.echo(f"{count} records")
    return 0


def backup(settings: Settings, destination: Path) -> int:
    """Database first, then objects: an object is written before the row that names it, so none can be missing."""
    if destination.exists() and any(destination.iterdir()):
        click.echo("the destination is not empty", err=True)
        return 1
    destination.mkdir(parents=True, exist_ok=True, mode=0o700)
    published = settings.data / CHECKPOINTS
    if published.is_file():  # before the database: a log may be longer than its checkpoints, never shorter
        shutil.copy2(published, destination / CHECKPOINTS)
    _copy_spool(settings.data / SPOOL, destination / SPOOL)
    url = make_url(settings.database_url)
    if url.get_backend_name() == "sqlite":
        with (
            closing(sqlite3.connect(f"file:{url.database}?mode=ro", uri=True)) as source,
            closing(sqlite3.connect(destination / "vigie.db")) as copy,
        ):
            source.backup(copy)
    else:
        if not _postgres(["pg_dump", "--format=custom", f"--file={destination / 'vigie.pgdump'}", _libpq(settings)]):
            return 1
    for folder, name in ((settings.objects_folder, "objects"), (settings.data / "keys", "keys")):
        if folder.is_dir():
            shutil.copytree(folder, destination / name, dirs_exist_ok=True)
    click.echo(f"backed up to {destination}")
    return 0


def _copy_spool(source: Path, destination: Path) -> None:
    """Before the database: what is sequenced meanwhile, and its file removed, stands in the copy of the database."""
    if not source.is_dir():
        return
    destination.mkdir(mode=0o700)
    for file in source.glob("*.spool"):
        with suppress(FileNotFoundError):
            shutil.copy2(file, destination / file.name)


def restore(settings: Settings, source: Path) -> int:
    """Lay a backup into an empty data folder, then verify the audit log of what was laid."""
    url = make_url(settings.database_url)
    if url.get_backend_name() == "sqlite":
        target = Path(url.database or "")
        if target.exists():
            click.echo("there is a database already: restore into an empty data folder", err=True)
            return 1
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        shutil.copy2(source / "vigie.db", target)
    elif not _postgres(
        ["pg_restore", "--no-owner", "--exit-on-error", f"--dbname={_libpq(settings)}", str(source / "vigie.pgdump")]
    ):
        return 1
    for folder, name in (
        (settings.objects_folder, "objects"),
        (settings.data / "keys", "keys"),
        (settings.data / SPOOL, SPOOL),
    ):
        if (source / name).is_dir():
            shutil.copytree(source / name, folder, dirs_exist_ok=True)
    if (source / CHECKPOINTS).is_file():
        shutil.copy2(source / CHECKPOINTS, settings.data / CHECKPOINTS)
    database = open_engine(settings.database_url)
    with database.write() as connection:
        snapshots.continue_numbers(connection)
    database.dispose()
    upgrade(settings)
    return audit_verify(settings)


def doctor(settings: Settings) -> int:
    """One line per check; the exit status is the number of what is wrong."""
    wrong = 0
    for name, problem in _examine(settings):
        click.echo(f"{'ok   ' if problem is None else 'WRONG'} {name}{'' if problem is None else ': ' + problem}")
        wrong += problem is not None
    return wrong


def _examine(settings: Settings) -> list[tuple[str, str | None]]:
    found: list[tuple[str, str | None]] = []
    free = shutil.disk_usage(settings.data if settings.data.exists() else Path()).free
    found.append(("disk", None if free > _LOW_DISK_BYTES else f"only {free // 1024**2} MiB free"))
    keys = settings.data / "keys"
    secrets = [path for path in keys.glob("*") if path.suffix != ".pub"] if keys.is_dir() else []
    loose = [key.name for key in secrets if key.stat().st_mode & 0o077]
    found.append(("keys", f"readable by others: {', '.join(loose)}" if loose else None))
    try:
        current, head = migrations.state(settings.database_url)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with it is what is to be told
        found.append(("database", type(error).__name__))
        return found
    found.append(("schema", None if current == head else "not at this version: ./vigie db upgrade"))
    try:
        services = Services.of(settings)
    except Exception as error:  # noqa: BLE001 - it would not start either: that is what is to be told
        found.append(("assembly", type(error).__name__))
        return found
    try:
        for name, check in services.readiness().items():
            try:
                check()
            except Exception as error:  # noqa: BLE001
                found.append((name, type(error).__name__))
            else:
                found.append((name, None))
    finally:
        services.close()
    return found


def _libpq(settings: Settings) -> str:
    return make_url(settings.database_url).set(drivername="postgresql").render_as_string(hide_password=False)


def _postgres(command: list[str]) -> bool:
    try:
        subprocess.run(command, check=True)  # noqa: S603 - PostgreSQL's own tools with our URL
    except (OSError, subprocess.CalledProcessError) as error:
        click.echo(f"{command[0]} failed: {type(error).__name__}", err=True)
        return False
    return True
