"""`./vigie audit`: the audit log."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from fhir_server.commands.options import DATA, options, settings_here


@click.group()
def audit() -> None:
    """The audit log."""


_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@audit.command()
@click.option("--from", "trusted", type=_FILE, help="Begin behind the last checkpoint of this file.")
@options(*DATA)
def verify(*, trusted: Path | None, **flags: Any) -> None:
    """Recompute the Merkle log from what is stored; name the first record altered, missing or swapped."""
    from fhir_server.duties import upkeep

    sys.exit(upkeep.audit_verify(settings_here(**flags), trusted=trusted))


@audit.command()
@click.argument("event")
@options(*DATA)
def prove(event: str, **flags: Any) -> None:
    """Print the proof that an AuditEvent (its id) is in the signed log."""
    from fhir_server.duties import upkeep

    click.echo(json.dumps(upkeep.audit_prove(settings_here(**flags), event), ensure_ascii=False))


@audit.command()
@click.argument("first", type=_FILE)
@click.argument("second", type=_FILE, required=False)
@options(*DATA)
def consistency(first: Path, second: Path | None, **flags: Any) -> None:
    """Print the proof that the last checkpoint in FIRST is continued by the one in SECOND, or by the newest."""
    from fhir_server.duties import upkeep

    click.echo(json.dumps(upkeep.audit_consistency(settings_here(**flags), first, second), ensure_ascii=False))


@audit.command("check-proof")
@click.argument("file", type=_FILE)
@click.option("--key", required=True, help="The public key of the log, or a file that holds it.")
@click.option("--from", "first", type=_FILE, help="The first checkpoint, where it is not in the proof.")
def check_proof(file: Path, key: str, first: Path | None) -> None:
    """Check what `prove` or `consistency` printed, or `$proof` answered; needs no deployment."""
    from audit import offline

    sys.exit(offline.main([str(file), "--proof", "--key", key, *(["--from", str(first)] if first else [])]))


@audit.command()
@options(*DATA)
def publish(**flags: Any) -> None:
    """Go on publishing checkpoints where the file is missing or older than the log, once you know why."""
    from fhir_server.duties import upkeep

    click.echo(f"published: {upkeep.audit_publish(settings_here(**flags))} records are signed")


@audit.command("rotate-key")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@options(*DATA)
def rotate_key(*, as_json: bool, **flags: Any) -> None:
    """Have the log signed by a new key from now on; a record that the former key signs names it.

    Servers that run take it up with their next batch. Who trusts the former key is led to the new one by the log.
    """
    from fhir_server.duties import keys

    done = keys.rotate_signing(settings_here(**flags))
    if as_json:
        click.echo(json.dumps(done, indent=2))
    else:
        click.echo(f"from record {done['record']} on the log is signed by {done['key']}")


@audit.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@options(*DATA)
def export(file: Path, **flags: Any) -> None:
    """Write the log to FILE for verification without this server."""
    from fhir_server.duties import upkeep

    click.echo(f"{upkeep.audit_export(settings_here(**flags), file)} records")


@audit.command("spool-known")
@options(*DATA)
def spool_known(**flags: Any) -> None:
    """Say that what did not verify in the spool is known; doctor and the metric tell no more of it."""
    from fhir_server.duties import upkeep

    click.echo(f"{upkeep.audit_spool_known(settings_here(**flags))} findings are known now")


@audit.command("access-report")
@click.argument("patient")
@click.option("--from", "start", default="", help="Not before this date, as in 2026-02-14.")
@click.option("--to", "end", default="", help="Not after this date.")
@options(*DATA)
def access_report(patient: str, start: str, end: str, **flags: Any) -> None:
    """Who touched the record of PATIENT (Patient/ID, or SYSTEM|VALUE of an IPP or INS): CSV, newest first."""
    from fhir_server.duties import upkeep

    upkeep.access_report(settings_here(**flags), patient, start=start, end=end)


@audit.command()
@click.argument("patient")
@click.option("--reason", required=True, help="Why: a case number, no name.")
@options(*DATA)
def hold(patient: str, reason: str, **flags: Any) -> None:
    """Keep the records of PATIENT (Patient/ID, or * for all) until `release`, whatever their time."""
    from fhir_server.duties import retention

    retention.hold(settings_here(**flags), patient, reason)
    click.echo(f"records of {patient} are held")


@audit.command()
@click.argument("patient")
@options(*DATA)
def release(patient: str, **flags: Any) -> None:
    """End the holds of PATIENT."""
    from fhir_server.duties import retention

    click.echo(f"{retention.release(settings_here(**flags), patient)} holds released")


@audit.command()
@options(*DATA)
def holds(**flags: Any) -> None:
    """List what is held: since when, of whom, why."""
    from fhir_server.duties import retention

    for line in retention.listed(settings_here(**flags)):
        click.echo(line)


@audit.command()
@click.argument("kind", metavar="CLASS")
@click.option("--before", default="", help="Only what was recorded before this date, as in 2026-02-14.")
@options(*DATA)
def purge(kind: str, before: str, **flags: Any) -> None:
    """Empty the records of CLASS (security, access) whose time is over; all proofs of others stay valid."""
    from fhir_server.duties import retention

    done = retention.purge(settings_here(**flags), kind, before)
    click.echo(f"{done.records} records purged, {done.held} are held")
