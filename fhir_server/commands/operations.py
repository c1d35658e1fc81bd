"""`./vigie db`, `backup`, `restore`, `doctor`: operations."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from fhir_server.commands.options import DATA, options, settings_here, settings_of


@click.group()
def db() -> None:
    """The database."""


@db.command()
@options(*DATA)
def upgrade(**flags: Any) -> None:
    """Bring the database to this version's schema."""
    from fhir_server.duties import deployment

    deployment.upgrade_recorded(settings_here(**flags))


@click.command()
@click.argument("types", nargs=-1)
@click.option("--rate", type=click.IntRange(1), default=2000, show_default=True, help="Versions a second, at most.")
@options(*DATA)
def reindex(types: tuple[str, ...], rate: int, **flags: Any) -> None:
    """Make the index rows of TYPES anew while the service runs; without TYPES, of those whose rules have changed.

    Interrupted, it goes on from where it was.
    """
    from fhir_server.duties import reindex as duty

    duty.reindex(settings_here(**flags), types, rate=rate)


@click.command()
@click.argument("destination", type=click.Path(path_type=Path))
@options(*DATA)
def backup(destination: Path, **flags: Any) -> None:
    """Copy database, objects and deployment secret to the folder DESTINATION, consistently, while the service runs."""
    from fhir_server.duties import backup as backups

    needs = backups.backup(settings_here(**flags), destination)
    click.echo(f"backed up to {destination}" + (f"; to restore it takes {needs}" if needs else ""))


@click.command()
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path))
@options(*DATA)
def restore(source: Path, **flags: Any) -> None:
    """Lay a backup into an empty data folder and verify it."""
    from fhir_server.duties import backup as backups

    report = backups.restore(settings_of(**flags), source)
    click.echo("\n".join(report.lines()))
    sys.exit(0 if report.ok else 1)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array instead of lines.")
@options(*DATA)
def doctor(*, as_json: bool, **flags: Any) -> None:
    """Say what is wrong with this deployment; the exit status is the number of what is wrong."""
    from fhir_server.duties import doctor as examination

    sys.exit(examination.doctor(settings_here(**flags), as_json=as_json))
