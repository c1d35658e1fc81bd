"""`./vigie audit`: the audit log."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from fhir_server.commands.options import DATA, options, settings_here


@click.group()
def audit() -> None:
    """The audit log."""


@audit.command()
@options(*DATA)
def verify(**flags: Any) -> None:
    """Recompute the Merkle log from what is stored; name the first record altered, missing or swapped."""
    from fhir_server.duties import upkeep

    sys.exit(upkeep.audit_verify(settings_here(**flags)))


@audit.command()
@options(*DATA)
def publish(**flags: Any) -> None:
    """Go on publishing checkpoints where the file is missing or older than the log, once you know why."""
    from fhir_server.duties import upkeep

    click.echo(f"published: {upkeep.audit_publish(settings_here(**flags))} records are signed")


@audit.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@options(*DATA)
def export(file: Path, **flags: Any) -> None:
    """Write the log to FILE for verification without this server."""
    from fhir_server.duties import upkeep

    click.echo(f"{upkeep.audit_export(settings_here(**flags), file)} records")


@audit.command("spool-known")
@options(*DATA)
def spool_known(**flags: Any) -> None:
    """Say that what did not verify in the spool is known; doctor and the metric tell no more of it."""
    from fhir_server.duties import upkeep

    click.echo(f"{upkeep.audit_spool_known(settings_here(**flags))} findings are known now")


@audit.command("access-report")
@click.argument("patient")
@click.option("--from", "start", default="", help="Not before this date, as in 2026-02-14.")
@click.option("--to", "end", default="", help="Not after this date.")
@options(*DATA)
def access_report(patient: str, start: str, end: str, **flags: Any) -> None:
    """Who touched the record of PATIENT (Patient/ID, or SYSTEM|VALUE of an IPP or INS): CSV, newest first."""
    from fhir_server.duties import upkeep

    upkeep.access_report(settings_here(**flags), patient, start=start, end=end)
