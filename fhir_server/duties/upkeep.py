"""What an operator asks: does the log verify, give it to me, what is wrong here."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import click

from audit.offline import Report
from fhir_server.duties import acts, deployment, permissions
from fhir_server.server import faults
from fhir_server.server.faults import CannotRun
from fhir_server.server.services import Services
from fhir_server.server.settings import Settings
from store import migrations
from store.migrations import SchemaFault

_LOW_DISK_BYTES = 2 * 1024**3

EXPORT_CATCHES_UP_S = 600.0
"""A server that was stopped under load may have left tens of thousands of records to sequence."""

NOT_VERIFIED = "integrity: the audit log does not verify"
"""Recorded reason of a verification that found something."""


def audit_verify(settings: Settings, echo: Callable[[str], None] = click.echo) -> int:
    """Verify the audit log against what is stored; 0 if nothing is altered, missing or swapped."""
    with deployment.opened(settings) as services, acts.recorded(services, "audit-verify") as act:
        report = verified(services)
        act.conclude(None if report.ok else NOT_VERIFIED)
    echo("\n".join(report.lines()))
    return 0 if report.ok else 1


def verified(services: Services) -> Report:
    """The whole log, verified with all that was recorded until now."""
    services.ledger.catch_up()
    return services.verify_audit()


def audit_export(settings: Settings, file: Path) -> int:
    """Export the log for the offline verifier (audit/offline.py), with all that was recorded until now; how many."""
    with deployment.opened(settings) as services, acts.recorded(services, "audit-export") as act:
        if not services.ledger.catch_up(EXPORT_CATCHES_UP_S):
            raise CannotRun("what was recorded could not be sequenced in time: try again")
        draft = file.with_name(f".{file.name}.incomplete")
        try:
            count = services.export_audit(draft)
            act.conclude()  # the log takes its name only once it is on record that it was given out
            draft.replace(file)
        finally:
            draft.unlink(missing_ok=True)
    return count


def doctor(settings: Settings) -> int:
    """One line per check; the exit status is the number of what is wrong."""
    found = _examine(settings)
    wrong = sum(problem is not None for _, problem in found)
    try:
        with deployment.opened(settings) as services, acts.recorded(services, "doctor") as act:
            act.conclude(f"exception: {wrong} checks failed" if wrong else None)
    except Exception as error:  # noqa: BLE001 - a deployment that cannot be opened is what the lines tell about
        if not wrong:
            found.append(("record", _told(error)))
            wrong = 1
    for name, problem in found:
        click.echo(f"{'ok   ' if problem is None else 'WRONG'} {name}{'' if problem is None else ': ' + problem}")
    return wrong


def _examine(settings: Settings) -> list[tuple[str, str | None]]:
    found: list[tuple[str, str | None]] = []
    free = shutil.disk_usage(settings.data if settings.data.exists() else Path()).free
    found.append(("disk", None if free > _LOW_DISK_BYTES else f"only {free // 1024**2} MiB free"))
    loose = permissions.loose(settings)
    names = ", ".join(path.name for path in loose)
    found.append(("modes", f"readable by others: {names}" if loose else None))
    try:
        deployment.require_database(settings)
        migrations.state(settings.database_url)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with it is what is to be told
        found.append(("database", _told(error)))
        return found
    try:
        migrations.require_current(settings.database_url)
    except SchemaFault as error:
        found.append(("schema", str(error)))
        return found
    found.append(("schema", None))
    try:
        deployment.check_keys(settings)
        services = Services.of(settings)
    except Exception as error:  # noqa: BLE001 - it would not start either: that is what is to be told
        found.append(("assembly", _told(error)))
        return found
    try:
        for name, check in services.readiness().items():
            try:
                check()
            except Exception as error:  # noqa: BLE001
                found.append((name, _told(error)))
            else:
                found.append((name, None))
    finally:
        services.close()
    return found


def _told(error: Exception) -> str:
    return faults.line_of(error) or type(error).__name__
