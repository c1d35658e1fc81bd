"""`./vigie platform`: the deployment itself, made once, and its keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fhir_server.commands.options import DATA, options, settings_here, settings_of


@click.group()
def platform() -> None:
    """The deployment itself: made once, and its keys."""


@platform.command()
@options(*DATA)
def init(**flags: Any) -> None:
    """Make a new deployment: schema and keys. One that is there is checked, and nothing is made anew."""
    from fhir_server.duties import deployment

    settings = settings_of(**flags)
    deployment.init(settings)
    click.echo(f"the deployment is there; its log is verified with {deployment.public_key(settings)}")


@platform.command()
@options(*DATA)
def keys(**flags: Any) -> None:
    """List the keys: name, number, since when, until when. No key is shown."""
    from fhir_server.duties import keys as duties

    for line in duties.listed(settings_here(**flags)):
        click.echo(line)


@platform.command()
@click.argument("name")
@click.option("--file", "given", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="For report-seal: private key and certificates (PEM) of your own, instead of new ones.")
@options(*DATA)
def rotate(name: str, given: Path | None, **flags: Any) -> None:
    """Put a new key NAME into use (pages, webhooks, sealing, report-seal), or seal all keys under a new deployment
    secret (secret).

    Servers that run use it within 5 seconds. What the key before made stays valid for a time: page tokens an hour,
    webhook signatures 7 days (notifications carry both), sealed channel headers for ever.
    """
    from fhir_server.duties import keys as duties

    click.echo(duties.rotate(settings_here(**flags), name, given))
