"""`./vigie ae`: the AE titles that may store images, and by what they are recognised."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from fhir_server.commands.options import DATA, options, settings_here

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def ae() -> None:
    """The registered AE titles (DICOM modalities and gateways)."""


@ae.command()
@click.argument("title")
@click.option("--organization", required=True, metavar="ID", help="Logical id of the Organization it stores for.")
@click.option(
    "--address", "addresses", multiple=True, metavar="ADDRESS",
    help="Address or network (CIDR) that it comes from, or `loopback`; repeatable. Without TLS one is needed.",
)
@click.option(
    "--certificate", "certificates", multiple=True, help="File of its TLS certificate; repeatable.",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)
@click.option(
    "--fingerprint", "fingerprints", multiple=True, metavar="HEX",
    help="SHA-256 of its TLS certificate, with or without colons; repeatable.",
)
@click.option(
    "--sop-class", "sop_classes", multiple=True, metavar="UID",
    help="SOP class that it may store; repeatable. None: any storage class.",
)
@_json
@options(*DATA)
def add(
    title: str,
    organization: str,
    addresses: tuple[str, ...],
    certificates: tuple[Path, ...],
    fingerprints: tuple[str, ...],
    sop_classes: tuple[str, ...],
    as_json: bool,
    **flags: Any,
) -> None:
    """Register an AE title, or replace what is registered of it; from its next association or instance on."""
    from fhir_server.duties import ae as duties

    described = duties.add(
        settings_here(**flags), title, organization, addresses=addresses, certificates=certificates,
        fingerprints=fingerprints, sop_classes=sop_classes,
    )
    _tell(described, as_json)


@ae.command("list")
@_json
@options(*DATA)
def list_(as_json: bool, **flags: Any) -> None:
    """All AE titles, one a line."""
    from fhir_server.duties import ae as duties

    found = duties.listed(settings_here(**flags))
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for one in found:
        state = "active" if one["active"] else "disabled"
        by = [*one["addresses"], *(f"certificate {print_[:16]}…" for print_ in one["certificates"])]
        click.echo(f"{one['ae']:16}  {state:8}  {one['organization']}  {', '.join(by) or '-'}")


@ae.command()
@click.argument("title")
@_json
@options(*DATA)
def disable(title: str, as_json: bool, **flags: Any) -> None:
    """Refuse an AE title from its next association or instance on."""
    from fhir_server.duties import ae as duties

    _tell(duties.disable(settings_here(**flags), title), as_json)


@ae.command()
@click.argument("title")
@_json
@options(*DATA)
def enable(title: str, as_json: bool, **flags: Any) -> None:
    """Admit a disabled AE title again."""
    from fhir_server.duties import ae as duties

    _tell(duties.enable(settings_here(**flags), title), as_json)


def _tell(described: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(described, indent=2))
        return
    for name, value in described.items():
        shown = ", ".join(value) if isinstance(value, list) else value
        click.echo(f"{name}: {'-' if shown == '' else shown}")
