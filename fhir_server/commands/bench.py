"""`./vigie bench`: the benchmarks."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from fhir_server.server.settings import refuse_password


@click.command()
@click.argument("what", type=click.Choice(["quick"]), default="quick")
@click.option("--seconds", type=float, default=4.0, help="Length of each measurement but the bursts of reads.")
@click.option("--sustained", type=float, default=60.0, help="Seconds of reads at a stretch; 0: none.")
@click.option("--resources", type=int, default=10_000, help="Resources in the store before searching.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the raw figures.")
@click.option("--database", help="SQLAlchemy URL (default: a new SQLite file).")
def bench(what: str, seconds: float, sustained: float, resources: int, out: Path | None, database: str | None) -> None:
    """Measure reads, creates, searches, images and deliveries beside a bare Flask route."""
    from fhir_server import bench as benches

    refuse_password(database)
    sys.exit(benches.quick(seconds=seconds, sustained=sustained, resources=resources, out=out, database=database))
