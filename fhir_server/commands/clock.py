"""`./vigie clock`: the clock of this host, as far as it is believed."""

from __future__ import annotations

import json
from typing import Any

import click

from fhir_server.commands.options import DATA, options, settings_here


@click.group()
def clock() -> None:
    """The clock of this host, as far as it is believed."""


@clock.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@options(*DATA)
def confirm(*, as_json: bool, **flags: Any) -> None:
    """Say that the clock, which has leapt, is right: it is believed from now on.

    Servers that run on this host take it over within 5 seconds; on other hosts it is confirmed by itself.
    """
    from fhir_server.duties import clock as duty

    done = duty.confirm(settings_here(**flags))
    if as_json:
        click.echo(json.dumps(done))
    else:
        click.echo(f"a leap of {done['seconds']:+.0f} s is confirmed: it is {done['now']}")
