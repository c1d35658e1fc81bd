"""`./vigie demo`: one emergency, played against the running server."""

from __future__ import annotations

import sys
from typing import Any

import click

from fhir_server.commands.options import DATA, options, settings_here


@click.command()
@options("host", "port", "dimse_port", *DATA)
def demo(**flags: Any) -> None:
    """Play one emergency, from order to delivered report, against a running `serve --demo`."""
    from fhir_server.demo import play

    sys.exit(play.main(settings_here(**flags)))
