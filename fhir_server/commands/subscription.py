"""`./vigie subscription`: what is delivered to hospitals."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

import click

from fhir_server.commands.options import DATA, options, settings_here


@click.group()
def subscription() -> None:
    """What is delivered to hospitals."""


@subscription.command()
@click.argument("subscription", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@options(*DATA)
def retry(*, subscription: str | None, as_json: bool, **flags: Any) -> None:
    """Try the events that were set aside now, of all subscriptions or of SUBSCRIPTION (its id).

    Once what kept them from being composed is put right; the service does so hourly. The status is 1 where some stay.
    """
    from fhir_server.duties import subscriptions as duty

    done = duty.retry(settings_here(**flags), subscription)
    if as_json:
        click.echo(json.dumps(asdict(done)))
    else:
        click.echo(
            f"{done.told} are told, {done.overtaken} were overtaken by a later event, {done.left} stay set aside"
        )
    sys.exit(1 if done.left else 0)
