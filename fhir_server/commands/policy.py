"""`./vigie policy`: what is decided for a partner, a site or an exam."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import click

from fhir_server.commands.options import DATA, options, settings_here

_F = TypeVar("_F", bound=Callable[..., Any])

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def _place(command: _F) -> _F:
    for name, what in (
        ("exam", "Code of the exam, e.g. 24725-4."),
        ("site", "Logical id of the Organization or Location at which the exam is made."),
        ("partner", "Logical id of the Organization that owns the orders."),
    ):
        command = click.option(f"--{name}", default="", metavar="ID" if name != "exam" else "CODE", help=what)(command)
    return command


@click.group()
def policy() -> None:
    """What is decided for a partner, a site or an exam."""


@policy.command("list")
@_json
@options(*DATA)
def list_(as_json: bool, **flags: Any) -> None:
    """Every policy with its default, and the rows that hold."""
    from fhir_server.duties import policies as duties

    found = duties.listed(settings_here(**flags))
    if as_json:
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    for one in found:
        click.echo(f"{one['name']}: {one['meaning']} (default: {json.dumps(one['default'], ensure_ascii=False)})")
        for line in duties.lines(one["rows"]):
            click.echo(f"  {line}")


@policy.command()
@click.argument("name")
@_place
@options(*DATA)
def show(name: str, partner: str, site: str, exam: str, **flags: Any) -> None:
    """The value of policy NAME that holds at a place, as JSON."""
    from fhir_server.duties import policies as duties
    from resources.policies import Where

    value = duties.shown(settings_here(**flags), name, Where(partner, site, exam))
    click.echo(json.dumps(value, ensure_ascii=False))


@policy.command("set")
@click.argument("name")
@click.argument("value")
@_place
@click.option("--reason", required=True, help="Why: kept with the row.")
@options(*DATA)
def set_(name: str, value: str, partner: str, site: str, exam: str, reason: str, **flags: Any) -> None:
    """Decide policy NAME at a place: VALUE is JSON, or a word; `null` withdraws what was decided there."""
    from fhir_server.duties import policies as duties
    from resources.policies import Where

    made = duties.decided(settings_here(**flags), name, value, Where(partner, site, exam), reason)
    click.echo("\n".join(duties.lines([made])))


@policy.command()
@click.argument("name")
@_json
@options(*DATA)
def history(name: str, as_json: bool, **flags: Any) -> None:
    """Every row of policy NAME: what held when, decided by whom and why."""
    from fhir_server.duties import policies as duties

    found = duties.history(settings_here(**flags), name)
    if as_json:
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        click.echo("\n".join(duties.lines(found)), nl=bool(found))
