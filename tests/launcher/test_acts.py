"""Operators' acts are on record: who reads or takes everything by the command line leaves an event (IHE ATNA).

security.md M2: `audit export`, `audit verify`, `backup`, `doctor` left none.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from fhir_server.commands.main import main
from fhir_server.duties import acts, ae, clients, deployment, grants
from fhir_server.server.services import Services
from fhir_server.server.settings import Settings
from store.access import Caller
from tests.clients.site import Site
from tests.launcher.commands import ROWS, Place, paths

RECORDED = sorted(path for path, row in ROWS.items() if row.operation is not None and path != "serve")


def run(place: Place, arguments: list[str]) -> Result:
    given = arguments if "--data" in arguments else [*arguments, "--data", str(place.data)]
    return CliRunner().invoke(main, given)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A deployment with a hospital, a client and an AE title."""
    data = tmp_path / "data"
    settings = Settings.load({"data": data}, environ={})
    deployment.upgrade(settings)
    services = Services.of(settings)
    hospital = {"resourceType": "Organization", "id": "hospital", "name": "Hospital"}
    services.store.transact(
        Caller.system("platform"), lambda uow: uow.system.update("Organization", "hospital", hospital)
    )
    services.close()
    made = clients.add(settings, "EHR", "platform", "system/Patient.rs")
    until = {"until": "2099-01-01T00:00:00Z", "reason": "agreement 1"}
    grants.add(settings, f"Client/{made['client_id']}", "Organization/hospital", **until)
    ae.add(settings, "MODALITY", "hospital", addresses=("10.0.0.2",))
    return Place(tmp_path, data, made["client_id"])


def events(data: Path, operation: str) -> list[dict[str, Any]]:
    """The AuditEvents of an operation of the command line."""
    services = Services.of(Settings.load({"data": data}, environ={}))
    try:
        assert services.ledger.catch_up(30)
        found = services.store.look(
            Caller.system("platform"), lambda uow: [one.json() for one in uow.system.each("AuditEvent", [])]
        )
    finally:
        services.close()
    return [one for one in found if ("operation", operation) in facts(one)]


def facts(event: dict[str, Any]) -> set[tuple[str, str]]:
    return {
        (fact["type"], fact["valueString"])
        for entity in event.get("entity", [])
        for fact in entity.get("detail", [])
    }


def test_every_command_is_in_the_table() -> None:
    """A command that is added says what it leaves in the log, or why nothing."""
    assert set(paths()) == set(ROWS)
    assert all(row.operation or row.why for row in ROWS.values())


@pytest.mark.parametrize("path", RECORDED)
def test_an_act_leaves_one_event(place: Place, path: str) -> None:
    """Who (the command line, the account's number), what, and that it succeeded; no name of a person."""
    row = ROWS[path]
    assert row.operation is not None
    if path == "restore":
        assert run(place, ROWS["backup"].arguments(place)).exit_code == 0
    data = place.folder / "restored" if path == "restore" else place.data
    before = [] if path == "restore" else events(data, row.operation)
    done = run(place, row.arguments(place))
    assert done.exit_code == 0, done.output
    found = [event for event in events(data, row.operation) if event not in before]
    assert len(found) == 1
    (event,) = found
    assert event["outcome"] == "0"
    assert ("uid", str(os.getuid())) in facts(event)
    assert {"value": acts.AGENT} in [agent["who"].get("identifier") for agent in event["agent"]]
    assert event["purposeOfEvent"][0]["coding"][0]["code"] == "HSYSADMIN"
    if path.startswith("client") and path not in ("client list", "client add"):
        assert ("client_id", place.client_id) in facts(event)


@pytest.mark.parametrize("path", [path for path in RECORDED if ROWS[path].failing is not None])
def test_an_act_that_fails_leaves_one_event_that_says_so(place: Place, path: str) -> None:
    row = ROWS[path]
    assert row.operation is not None
    assert row.failing is not None
    if path == "restore":
        assert run(place, ROWS["backup"].arguments(place)).exit_code == 0
    before = events(place.data, row.operation)
    done = run(place, row.failing(place))
    assert done.exit_code == 1, done.output
    found = [event for event in events(place.data, row.operation) if event not in before]
    assert len(found) == 1
    assert found[0]["outcome"] == "12"


def test_a_verification_that_finds_something_says_so_in_the_log(place: Place) -> None:
    """The event's outcome is that of the act."""
    assert events(place.data, "client-add")
    with sqlite3.connect(place.data / "vigie.db") as connection:
        connection.execute("UPDATE audit_log SET leaf = zeroblob(32)")
    connection.close()
    assert run(place, ["audit", "verify"]).exit_code == 1
    (event,) = events(place.data, "audit-verify")
    assert event["outcome"] == "12"


def test_what_was_not_recorded_is_not_given_out(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backup or an export takes its place only once its event is durable: where the log cannot be written, none."""
    from audit.service import Ledger
    from resources.outcomes import Unavailable

    def away(*_: Any) -> None:
        raise Unavailable("The audit log cannot be written at present")

    monkeypatch.setattr(Ledger, "disclose", away)
    export, backup = place.folder / "log.gz", place.folder / "backup"
    for arguments in (["audit", "export", str(export)], ["backup", str(backup)], ["client", "list"]):
        done = run(place, arguments)
        assert done.exit_code == 1
        assert "cannot be written" in done.stderr
        assert place.client_id not in done.stdout
    assert not export.exists()
    assert [path.name for path in backup.iterdir()] == [".incomplete"]


def test_a_start_of_the_service_is_on_record(own_site: Site) -> None:
    """One event for each start."""
    own_site.start()
    own_site.stop()
    assert len(events(own_site.data, "serve")) == 1


def test_a_purge_within_the_time_of_a_class_is_refused(place: Place) -> None:
    """What is young is kept, whoever asks; a reason and a name that is no reference stand nowhere in the log."""
    for arguments in (["security", "--before", "2100-01-01"], ["access", "--before", "x"], ["nothing"]):
        done = run(place, ["audit", "purge", *arguments])
        assert done.exit_code == 1, done.output
    assert run(place, ["audit", "hold", "Patient/p-1", "--reason", "affaire Dupont"]).exit_code == 0
    assert "Patient/p-1  affaire Dupont" in run(place, ["audit", "holds"]).output
    assert run(place, ["audit", "hold", "Mme Dupont", "--reason", "x"]).exit_code == 1
    assert "Dupont" not in str([events(place.data, name) for name in ("audit-hold", "audit-holds", "audit-release")])
    assert "1 holds" in run(place, ["audit", "release", "Patient/p-1"]).output
    assert run(place, ["audit", "holds"]).output == ""


def test_a_report_of_accesses_is_a_table(place: Place) -> None:
    """CSV; whom it concerned is on record."""
    assert run(place, ["audit", "hold", "Patient/p-1", "--reason", "x"]).exit_code == 0
    lines = run(place, ["audit", "access-report", "Patient/p-1"]).output.splitlines()
    assert lines[0].startswith("when,who,")
    assert len(lines) == 2
    (event,) = events(place.data, "audit-access-report")
    assert "Patient/p-1" in [entity.get("what", {}).get("reference") for entity in event["entity"]]


def test_every_command_of_the_log_is_among_the_duties() -> None:
    """docs/operations.md names each, or docs/audit.md where it is described."""
    root = Path(__file__).resolve().parents[2]
    told = (root / "docs" / "operations.md").read_text(encoding="utf-8")
    missing = [path for path in ROWS if path.startswith("audit ") and f"./vigie {path}" not in told]
    assert not [path for path in missing if path not in ("audit release", "audit holds")], missing
    assert "`release` at its end; `holds` lists" in told
