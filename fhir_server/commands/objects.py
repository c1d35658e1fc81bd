"""`./vigie objects`: the object store."""

from __future__ import annotations

import sys
from typing import Any

import click

from fhir_server.commands.options import DATA, options, settings_here


@click.group()
def objects() -> None:
    """The object store."""


@objects.command()
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
@click.option(
    "--older-than", type=click.FloatRange(1), default=24.0, show_default=True, help="Hours; what is younger is left."
)
@click.option("--however-many", is_flag=True, help="Also where there are more than kills leave.")
@options(*DATA)
def collect(*, dry_run: bool, older_than: float, however_many: bool, **flags: Any) -> None:
    """Remove the objects that no row names, beside the running service; the status is 1 where rows have no objects."""
    from fhir_server.duties import objects as duty

    settings = settings_here(**flags)
    sys.exit(duty.collect(settings, dry_run=dry_run, older_than_h=older_than, however_many=however_many))
