"""`./vigie serve`: the whole service, supervised."""

from __future__ import annotations

import sys
from typing import Any

import click

from fhir_server.commands.options import DATA, options, settings_of


@click.command()
@options("host", "port", *DATA, "dimse_port", "workers", "demo")
def serve(**flags: Any) -> None:
    """Start the whole service, supervised; print `ready http://HOST:PORT` once it can serve."""
    from fhir_server.commands import serving

    sys.exit(serving.serve(settings_of(**flags)))
