"""Back up and restore: database (with the sealed keys), objects, deployment secret, spool, published checkpoints.

Nothing takes its place in the destination before the act is on record. No password is given on a command line, which
every account of the machine can read: PostgreSQL's tools have it from a file (libpq's PGPASSFILE, mode 0600).
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from sqlalchemy import make_url
from sqlalchemy.engine import URL

from audit.offline import Report
from audit.spool import ASIDE
from fhir_server.duties import acts, deployment, upkeep
from fhir_server.server.faults import CannotRun
from fhir_server.server.keys import CHECKPOINTS, SPOOL
from fhir_server.server.services import Services
from fhir_server.server.settings import Settings
from store.engine.database import open_engine
from store.versions import snapshots

_INCOMPLETE = ".incomplete"


NEEDS = "needs.txt"
"""File of a backup: what restoring it needs that is not in it."""


def backup(settings: Settings, destination: Path) -> str:
    """Copy everything to the folder `destination`, consistently, while the service runs. Raises CannotRun.

    What restoring it needs beside it, in a sentence: a secret that is mounted is not copied. Empty: nothing.
    """
    with deployment.opened(settings) as services, acts.recorded(services, "backup") as act:
        if destination.exists() and any(destination.iterdir()):
            raise CannotRun("the destination is not empty")
        draft = destination / _INCOMPLETE
        draft.mkdir(parents=True, mode=0o700)
        _copy(services, draft)
        act.conclude()
        for path in draft.iterdir():
            path.rename(destination / path.name)
        draft.rmdir()
    return _needs(settings)


def restore(settings: Settings, source: Path) -> Report:
    """Lay a backup into an empty data folder, then verify the audit log of what was laid. Raises CannotRun.

    The restored log records it. What fails before there is a log can stand in none.
    """
    if (source / _INCOMPLETE).exists():
        raise CannotRun("this backup was interrupted: take another")
    if (source / NEEDS).exists() and not settings.secret_file:
        raise CannotRun(f"this backup needs {(source / NEEDS).read_text(encoding='utf-8').strip()}")
    url = make_url(settings.database_url)
    if url.get_backend_name() == "sqlite":
        target = Path(url.database or "")
        if target.exists():
            refusal = CannotRun("there is a database already: restore into an empty data folder")
            with suppress(Exception):  # it may be of anybody
                deployment.note(settings, "restore", failure=str(refusal))
            raise refusal
        if not (source / "vigie.db").is_file():
            raise CannotRun("there is no vigie.db in the backup: was it taken of another database?")
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        shutil.copy2(source / "vigie.db", target)
    else:
        if not (source / "vigie.pgdump").is_file():
            raise CannotRun("there is no vigie.pgdump in the backup: was it taken of another database?")
        _postgres(
            "pg_restore", url, "--no-owner", "--exit-on-error",
            f"--dbname={_without_password(url)}", str(source / "vigie.pgdump"),
        )  # fmt: skip
    for folder, name in (
        (settings.objects_folder, "objects"),
        (settings.data / "keys", "keys"),
        (settings.data / SPOOL, SPOOL),
    ):
        if (source / name).is_dir():
            shutil.copytree(source / name, folder, dirs_exist_ok=True)
    if (source / CHECKPOINTS).is_file():
        shutil.copy2(source / CHECKPOINTS, settings.checkpoints_file)
    database = open_engine(settings.database_url)
    with database.write() as connection:
        snapshots.continue_numbers(connection)
    database.dispose()
    deployment.upgrade(settings)
    with deployment.opened(settings) as services, acts.recorded(services, "restore") as act:
        report = upkeep.verified(services)
        act.conclude(None if report.ok else upkeep.NOT_VERIFIED)
    return report


def _copy(services: Services, destination: Path) -> None:
    """Database first, then objects: an object is written before the row that names it, so none can be missing."""
    settings = services.settings
    published = settings.checkpoints_file
    if published.is_file():  # before the database: a log may be longer than its checkpoints, never shorter
        shutil.copy2(published, destination / CHECKPOINTS)
    url = make_url(settings.database_url)
    with _spool(settings.data / SPOOL, destination / SPOOL):
        _copy_database(url, destination)
    for folder, name in ((settings.objects_folder, "objects"), (settings.data / "keys", "keys")):
        if folder.is_dir():
            shutil.copytree(folder, destination / name, dirs_exist_ok=True)
    if needs := _needs(settings):
        (destination / NEEDS).write_text(needs + "\n", encoding="utf-8")


def _copy_database(url: URL, destination: Path) -> None:
    if url.get_backend_name() == "sqlite":
        with (
            closing(sqlite3.connect(f"file:{url.database}?mode=ro", uri=True)) as source,
            closing(sqlite3.connect(destination / "vigie.db")) as copy,
        ):
            source.backup(copy)
    else:
        _postgres(
            "pg_dump", url, "--format=custom", f"--file={destination / 'vigie.pgdump'}", _without_password(url)
        )


def _needs(settings: Settings) -> str:
    if not settings.secret_file:
        return ""
    return f"the deployment secret that was mounted as {Path(settings.secret_file).name} (VIGIE_SECRET_FILE)"


@contextmanager
def _spool(source: Path, destination: Path) -> Iterator[None]:
    """Copy the files of the spool as they are behind the database that is copied inside.

    So none is shorter than that copy says. What is sequenced meanwhile, and its file removed, is held open until then.
    """
    if not source.is_dir():
        yield
        return
    destination.mkdir(mode=0o700)
    with ExitStack() as stack:
        held: dict[str, BinaryIO] = {}

        def hold() -> None:
            for path in source.glob("*.spool"):
                if path.name not in held:
                    with suppress(FileNotFoundError):
                        held[path.name] = stack.enter_context(path.open("rb"))

        hold()
        yield
        hold()
        for name, file in held.items():
            with (destination / name).open("wb") as copy:
                (destination / name).chmod(0o600)
                shutil.copyfileobj(file, copy)
    if (source / ASIDE).is_dir():
        shutil.copytree(source / ASIDE, destination / ASIDE)


def _without_password(url: URL) -> str:
    plain = URL.create("postgresql", url.username, None, url.host, url.port, url.database, url.query)
    return plain.difference_update_query(["password"]).render_as_string(hide_password=False)


def _postgres(program: str, url: URL, *arguments: str) -> None:
    """Run one of PostgreSQL's tools on our database; its own message says what is wrong."""
    password = url.password or url.query.get("password")
    with tempfile.TemporaryDirectory(prefix="vigie-") as folder:
        environment = dict(os.environ)
        if password:
            file = Path(folder) / "pgpass"
            escaped = str(password).replace("\\", "\\\\").replace(":", "\\:")
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
                out.write(f"*:*:*:*:{escaped}\n")
            environment["PGPASSFILE"] = str(file)
        environment.pop("VIGIE_DATABASE", None)
        try:
            subprocess.run([program, *arguments], check=True, env=environment)  # noqa: S603 - PostgreSQL's own tools
        except FileNotFoundError as error:
            raise CannotRun(f"{program} is not installed (on Debian: postgresql-client)") from error
        except (OSError, subprocess.CalledProcessError) as error:
            raise CannotRun(f"{program} failed; its message is above") from error
