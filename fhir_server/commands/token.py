"""`./vigie token`: an access token from the running server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fhir_server.commands.options import DATA, options, settings_here


@click.command()
@click.argument("client_id")
@click.option("--scope", default="", help="Scopes to ask for (default: all that the client may have).")
@click.option("--purpose", default="", help="Purpose of use to ask for, e.g. ETREAT (default: that of its role).")
@click.option(
    "--key",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Private key (JWK), or what `client add` printed. Without it: the key that the data folder has.",
)
@options("host", "port", *DATA)
def token(client_id: str, scope: str, purpose: str, key: Path | None, **flags: Any) -> None:
    """Fetch an access token from the running server by private_key_jwt; print it alone."""
    from fhir_server.duties import tokens

    click.echo(tokens.token(settings_here(**flags), client_id, scope, key, purpose))
