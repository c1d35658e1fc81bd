"""`./vigie`: one command, its subcommands (DESIGN §11). A noun's commands stand in the file of its name."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from fhir_server.commands import (
    ae,
    audit,
    bench,
    client,
    clock,
    demo,
    grant,
    objects,
    operations,
    platform,
    policy,
    serve,
    subscription,
    token,
)
from fhir_server.commands.options import Commands
from fhir_server.server import logs

HERE = Path(__file__).resolve().parents[2]
QUICK = "VIGIE_TEST_QUICK"
"""Environment variable: the tests leave PostgreSQL out and try fewer examples of a property (tests/conftest.py)."""
PACKAGES = ("resources", "store", "auth", "audit", "subscriptions", "workflow", "dicomweb", "fhir_server")
"""Folders of the quick run."""


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.pass_context
def main(context: click.Context) -> None:
    """Vigie, a FHIR R4-native interoperability server for emergency teleradiology."""
    if context.invoked_subcommand != "test":  # pytest has its own
        logs.configure("vigie", speaks=True)


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def test(arguments: tuple[str, ...]) -> None:
    """Run the suite (pytest ARGUMENTS). `--quick`: every package on SQLite, no kills, no whole servers."""
    import pytest

    given = list(arguments)
    if "--quick" in given:
        given.remove("--quick")
        os.environ[QUICK] = "1"
        given = ["-n", "auto", "-q", *given, *(str(HERE / "tests" / name) for name in PACKAGES)]
    sys.exit(pytest.main(["--rootdir", str(HERE), *(given or [str(HERE / "tests")])]))


for command in (
    serve.serve,
    platform.platform,
    policy.policy,
    grant.grant,
    client.client,
    ae.ae,
    clock.clock,
    token.token,
    demo.demo,
    audit.audit,
    operations.db,
    operations.reindex,
    objects.objects,
    subscription.subscription,
    operations.backup,
    operations.restore,
    operations.doctor,
    bench.bench,
    test,
):
    main.add_command(command)
