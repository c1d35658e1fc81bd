"""`./vigie grant`: who may see, or act on, what is another's."""

from __future__ import annotations

import json
from typing import Any

import click

from fhir_server.commands.options import DATA, options, settings_here

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def grant() -> None:
    """Who may see, or act on, what belongs to another: delegations, shared cases."""


@grant.command()
@click.argument("subject", metavar="SUBJECT")
@click.argument("object_", metavar="OBJECT")
@click.option("--until", required=True, metavar="INSTANT", help="When it ends, e.g. 2027-01-01T00:00:00+01:00.")
@click.option("--since", metavar="INSTANT", help="When it begins; by default now.")
@click.option("--reason", required=True, help="Why it is given, e.g. the number of an agreement; no personal data.")
@click.option("--source", default="delegation", show_default=True, help="delegation, sharing, transfer, ai-task…")
@click.option("--interactions", default="rs", show_default=True, help="Letters as in a SMART scope, out of cruds.")
@click.option("--alone", is_flag=True, help="The resource alone, not its case or patient.")
@_json
@options(*DATA)
def add(
    subject: str,
    object_: str,
    until: str,
    since: str | None,
    reason: str,
    source: str,
    interactions: str,
    alone: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Let SUBJECT see OBJECT. SUBJECT: Organization/ID, Practitioner/ID or Client/ID; OBJECT: Organization/ID (all that
    this organisation sees), ServiceRequest/ID (the case), Patient/ID, or any other resource."""
    from fhir_server.duties import grants

    made = grants.add(
        settings_here(**flags), subject, object_, until=until, since=since, reason=reason, source=source,
        interactions=interactions, alone=alone,
    )  # fmt: skip
    _tell(made, as_json)


@grant.command()
@click.argument("grant_id", metavar="GRANT")
@_json
@options(*DATA)
def revoke(grant_id: str, as_json: bool, **flags: Any) -> None:
    """Take a grant back; it opens nothing any more within 5 seconds."""
    from fhir_server.duties import grants

    _tell(grants.revoke(settings_here(**flags), grant_id), as_json)


@grant.command("list")
@click.option("--object", "object_", metavar="OBJECT", help="Only the grants on this.")
@_json
@options(*DATA)
def list_(object_: str | None, as_json: bool, **flags: Any) -> None:
    """All grants, one a line, the newest first."""
    from fhir_server.duties import grants

    found = grants.listed(settings_here(**flags), object_)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for one in found:
        click.echo(
            f"{one['grant']}  {one['state']:8}  {one['subject']}  {one['object']}  {one['interactions']}  "
            f"{one['source']}  until {one['until']}  {one['reason']}"
        )


def _tell(described: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(described, indent=2))
        return
    for name, value in described.items():
        click.echo(f"{name}: {value}")
