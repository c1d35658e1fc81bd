"""What an operator asks: does the log verify, give it to me, what is wrong here."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import click

from audit import access_report as access_report_of
from audit import offline, proofs
from audit.offline import Report
from fhir_server.duties import acts, deployment
from fhir_server.server.faults import CannotRun
from fhir_server.server.services import Services
from fhir_server.server.settings import Settings
from resources.json import Json

EXPORT_CATCHES_UP_S = 600.0
"""A server that was stopped under load may have left tens of thousands of records to sequence."""

NOT_VERIFIED = "integrity: the audit log does not verify"
"""Recorded reason of a verification that found something."""


def audit_verify(
    settings: Settings, echo: Callable[[str], None] = click.echo, *, trusted: Path | None = None
) -> int:
    """Verify the audit log against what is stored; 0 if nothing is altered, missing or swapped.

    `trusted`: a file whose last note is a checkpoint up to which it was verified before. Raises CannotRun.
    """
    notes = [*offline.notes_of(trusted)][-1:] if trusted is not None else [None]
    if not notes:
        raise CannotRun("there is no checkpoint in the file")
    with deployment.opened(settings) as services, acts.recorded(services, "audit-verify") as act:
        try:
            report = verified(services, notes[0])
        except ValueError as error:
            raise CannotRun(f"the checkpoint cannot be trusted: {error}") from error
        act.conclude(None if report.ok else NOT_VERIFIED)
    echo("\n".join(report.lines()))
    return 0 if report.ok else 1


def verified(services: Services, trusted: str | None = None) -> Report:
    """The log, verified with all that was recorded until now; behind a trusted checkpoint, if there is one."""
    services.ledger.catch_up()
    return services.verify_audit(trusted)


def audit_publish(settings: Settings) -> int:
    """Say that the published file may be missing, or older than the log: the newest checkpoint goes into it.

    How many records it signs. What it said before is not needed any more, or was kept elsewhere.
    """
    with deployment.opened(settings) as services, acts.recorded(services, "audit-publish") as act:
        act.conclude()
        return services.publish_checkpoint()


def audit_spool_known(settings: Settings) -> int:
    """An operator has looked into what did not verify in the spool; how many findings that is."""
    with deployment.opened(settings) as services, acts.recorded(services, "audit-spool-known") as act:
        services.ledger.catch_up()
        act.conclude()
        with services.database.write() as connection:
            return services.ledger.acknowledge_spool(connection)


def access_report(
    settings: Settings, patient: str, *, start: str = "", end: str = "", echo: Callable[[str], None] = click.echo
) -> int:
    """Print who touched the record of a patient, as CSV; how many accesses. Raises CannotRun, BadRequest.

    `patient`: ``Patient/id``, or ``system|value`` of an identifier. The act is on record before anything is printed.
    """
    name = "patient.identifier" if "|" in patient else "patient"
    if name == "patient" and not patient.startswith("Patient/"):
        raise CannotRun("a patient is given as Patient/ID, or by an identifier as SYSTEM|VALUE")
    asked = [(name, patient), *((("date", f"ge{start}"),) if start else ()), *((("date", f"le{end}"),) if end else ())]
    with deployment.opened(settings) as services, acts.recorded(services, "audit-access-report") as act:
        services.ledger.catch_up(EXPORT_CATCHES_UP_S)
        query = services.parse("AuditEvent", [*asked, ("_count", "500")])
        lines: list[access_report_of.Line] = []
        token: str | None = None
        patients: dict[str, None] = {}
        while True:
            with services.store.work(acts.operator(settings), write=False) as uow:
                page = uow.resources.search(query, token=token)
                uow.note_as_one([])
            for version in page.matches:
                concerned = version.patients[0] if version.patients else ""
                patients[concerned] = None
                lines.append(access_report_of.line(version.json(), concerned))
            token = page.next
            if token is None:
                break
        act.conclude(patients=tuple(filter(None, patients)))
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(access_report_of.Line._fields)
    table.writerows(lines)
    echo(text.getvalue().rstrip())
    return len(lines)


def audit_prove(settings: Settings, event: str) -> Json:
    """The proof that an AuditEvent is in the signed log. Raises CannotRun where there is none."""
    id = event.removeprefix("AuditEvent/")
    with deployment.opened(settings) as services, acts.recorded(services, "audit-prove", ("event", id)) as act:
        services.ledger.catch_up()
        with services.database.read() as connection:
            proof = _proven(lambda: proofs.inclusion(connection, id))
        act.conclude()
        return proof


def audit_consistency(settings: Settings, first: Path, second: Path | None) -> Json:
    """The proof that the last checkpoint of one file is continued by that of another, or by the newest.

    Raises CannotRun.
    """
    notes = [[*offline.notes_of(file)][-1:] for file in (first, second) if file is not None]
    if not all(notes):
        raise CannotRun("there is no checkpoint in the file")
    with deployment.opened(settings) as services, acts.recorded(services, "audit-consistency") as act:
        with services.database.read() as connection:
            proof = _proven(
                lambda: proofs.consistency(connection, services.ledger.verifier, *(one[0] for one in notes))
            )
        act.conclude()
        return proof


def _proven(make: Callable[[], Json]) -> Json:
    try:
        return make()
    except proofs.NoProof as error:
        raise CannotRun(str(error)) from error


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
