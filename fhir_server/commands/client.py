"""`./vigie client`: the registered OAuth2 clients."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from fhir_server.commands.options import DATA, options, settings_here

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def client() -> None:
    """The registered OAuth2 clients."""


@client.command()
@click.argument("name")
@click.option("--organization", required=True, metavar="ID", help="Logical id of the client's Organization.")
@click.option("--scope", required=True, help='SMART v2 scopes, e.g. "system/ServiceRequest.cruds".')
@click.option("--role", default="", help="What the client is in the workflow: hospital, regulator, radiologist…")
@click.option("--practitioner", metavar="Practitioner/ID", help="The person behind the client.")
@click.option(
    "--jwks", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Public keys; none: a new key."
)
@click.option("--origin", "origins", multiple=True, metavar="URL", help="Web origin of its pages (CORS); repeatable.")
@click.option(
    "--keep-key", is_flag=True, help="Keep the new private key in the data folder, for `./vigie token` on this machine."
)
@options(*DATA)
def add(
    name: str,
    organization: str,
    scope: str,
    role: str,
    practitioner: str | None,
    jwks: Path | None,
    origins: tuple[str, ...],
    keep_key: bool,
    **flags: Any,
) -> None:
    """Register a client; print it as JSON. Without --jwks a new private key is made, printed once and kept nowhere."""
    from fhir_server.duties import clients

    made = clients.add(
        settings_here(**flags),
        name,
        organization,
        scope,
        role=role,
        practitioner=practitioner,
        jwks=clients.read_key_set(jwks) if jwks else None,
        origins=origins,
        keep_key=keep_key,
    )
    click.echo(json.dumps(made, indent=2))


@client.command("list")
@_json
@options(*DATA)
def list_(as_json: bool, **flags: Any) -> None:
    """All clients, one a line."""
    from fhir_server.duties import clients

    found = clients.listed(settings_here(**flags))
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for one in found:
        state = "active" if one["active"] else "disabled"
        click.echo(f"{one['client_id']}  {state:8}  {one['organization']}  {one['role'] or '-'}  {one['scope']}")


@client.command()
@click.argument("client_id")
@_json
@options(*DATA)
def show(client_id: str, as_json: bool, **flags: Any) -> None:
    """One client: what it may, since when, and when it last fetched a token."""
    from fhir_server.duties import clients

    _tell(clients.shown(settings_here(**flags), client_id), as_json)


@client.command()
@click.argument("client_id")
@_json
@options(*DATA)
def disable(client_id: str, as_json: bool, **flags: Any) -> None:
    """Take all rights from a client, its tokens and deliveries included, within 5 seconds."""
    from fhir_server.duties import clients

    _tell(clients.disable(settings_here(**flags), client_id), as_json)


@client.command()
@click.argument("client_id")
@_json
@options(*DATA)
def enable(client_id: str, as_json: bool, **flags: Any) -> None:
    """Give a disabled client its rights again. Tokens of before stay refused."""
    from fhir_server.duties import clients

    _tell(clients.enable(settings_here(**flags), client_id), as_json)


@client.command()
@click.argument("client_id")
@click.argument("scopes")
@_json
@options(*DATA)
def scope(client_id: str, scopes: str, as_json: bool, **flags: Any) -> None:
    """Set the scopes of a client; its tokens, which have the former ones, are revoked."""
    from fhir_server.duties import clients

    _tell(clients.set_scope(settings_here(**flags), client_id, scopes), as_json)


@client.command()
@click.argument("client_id")
@click.argument("urls", nargs=-1)
@_json
@options(*DATA)
def origins(client_id: str, urls: tuple[str, ...], as_json: bool, **flags: Any) -> None:
    """Set the web origins whose pages may use the client (CORS); none: no page may."""
    from fhir_server.duties import clients

    _tell(clients.set_origins(settings_here(**flags), client_id, urls), as_json)


@client.command("revoke-tokens")
@click.argument("client_id")
@_json
@options(*DATA)
def revoke_tokens(client_id: str, as_json: bool, **flags: Any) -> None:
    """Revoke all tokens of a client; it may fetch new ones."""
    from fhir_server.duties import clients

    _tell(clients.revoke_tokens(settings_here(**flags), client_id), as_json)


def _tell(described: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(described, indent=2))
        return
    for name, value in described.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else value
        click.echo(f"{name}: {'-' if shown in (None, '') else shown}")
