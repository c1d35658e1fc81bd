"""`./vigie ae`: the registry of AE titles, on record, the same again and again, and at once in a running server."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from fhir_server.commands.main import main
from fhir_server.duties import deployment
from fhir_server.server.services import Services
from fhir_server.server.settings import Settings
from store.access import Caller


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    settings = Settings.load({"data": tmp_path / "data"}, environ={}).checked()
    deployment.upgrade(settings)
    made = Services.of(settings)
    with made.store.work(Caller.system("platform")) as uow:
        uow.system.update("Organization", "hopital-a", {"resourceType": "Organization", "name": "A", "id": "hopital-a"})
    yield made
    made.close()


def vigie(services: Services, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["ae", *arguments, "--data", str(services.settings.data)])


def answered(services: Services, *arguments: str) -> Any:
    done = vigie(services, *arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def acts(services: Services) -> list[dict[str, str]]:
    """What the log has of operators' acts on AE titles."""
    services.ledger.catch_up()
    with services.store.work(Caller.system("platform"), write=False) as uow:
        events = [one.json() for one in uow.resources.find("AuditEvent", [])]
    details = [
        {one["type"]: one["valueString"] for entity in event.get("entity", []) for one in entity.get("detail", [])}
        | {"outcome": event["outcome"]}
        for event in events
    ]
    return [one for one in details if one.get("operation", "").startswith("ae-")]


def test_a_title_is_added_listed_disabled_and_enabled(services: Services) -> None:
    """Idempotent: each command twice gives the same; one event each."""
    for _ in range(2):
        added = answered(
            services, "add", "SCANNER", "--organization", "hopital-a", "--address", "192.0.2.7", "--address",
            "10.0.0.0/8", "--fingerprint", ":".join(["ab"] * 32), "--sop-class", "1.2.840.10008.5.1.4.1.1.2",
        )
    assert added == {
        "ae": "SCANNER", "organization": "hopital-a", "addresses": ["192.0.2.7/32", "10.0.0.0/8"],
        "certificates": ["ab" * 32], "sop_classes": ["1.2.840.10008.5.1.4.1.1.2"], "active": True,
    }
    assert answered(services, "list") == [added]
    assert "SCANNER" in vigie(services, "list").stdout
    for command, active in (("disable", False), ("disable", False), ("enable", True)):
        assert answered(services, command, "SCANNER") == added | {"active": active}
        assert answered(services, "list") == [added | {"active": active}]
    answered(services, "disable", "SCANNER")
    again = answered(services, "add", "SCANNER", "--organization", "hopital-a", "--address", "loopback")
    assert again["active"] is False, "what is disabled is enabled by `enable` alone"
    told = [one["operation"] for one in acts(services)]
    assert told.count("ae-add") == 3
    assert told.count("ae-disable") == 3
    assert told.count("ae-enable") == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["add", "SCANNER", "--organization", "nobody", "--address", "loopback"], "organization does not exist"),
        (["add", "SCANNER", "--organization", "hopital-a"], "believed from nowhere"),
        (["add", "SCANNER", "--organization", "hopital-a", "--address", "here"], "address"),
        (["add", "A" * 17, "--organization", "hopital-a", "--address", "loopback"], "1 to 16"),
        (["add", "SCANNER", "--organization", "hopital-a", "--fingerprint", "12"], "64 hexadecimal"),
        (["disable", "NOBODY"], "no such AE title"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_on_record(services: Services, arguments: list[str], told: str) -> None:
    done = vigie(services, *arguments)
    assert done.exit_code == 1
    assert told in done.output
    assert len(done.output.strip().splitlines()) == 1
    (event,) = acts(services)
    assert event["outcome"] != "0"
    assert answered(services, "list") == []


def test_a_certificate_file_gives_its_fingerprint(services: Services, tmp_path: Path) -> None:
    """PEM and DER; openssl's own figure is the same."""
    pem, der = tmp_path / "c.pem", tmp_path / "c.der"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj",
         "/CN=scanner", "-keyout", str(tmp_path / "k.pem"), "-out", str(pem), "-days", "2"],
        check=True, capture_output=True,
    )  # fmt: skip
    subprocess.run(["openssl", "x509", "-in", str(pem), "-outform", "DER", "-out", str(der)], check=True)
    shown = subprocess.run(
        ["openssl", "x509", "-in", str(pem), "-noout", "-fingerprint", "-sha256"], check=True, capture_output=True,
        text=True,
    ).stdout
    for file in (pem, der):
        added = answered(services, "add", "S", "--organization", "hopital-a", "--certificate", str(file))
        assert added["certificates"] == [shown.partition("=")[2].strip().replace(":", "").lower()]
    (tmp_path / "no.pem").write_text("nothing")
    refused = vigie(services, "add", "S", "--organization", "hopital-a", "--certificate", str(tmp_path / "no.pem"))
    assert refused.exit_code == 1
    assert "no certificate" in refused.output


def test_what_is_altered_holds_at_the_next_association(services: Services) -> None:
    """No restart: the running server looks the title up each time."""
    server = services.imaging.scp()
    port = server.start("127.0.0.1", 0)
    entity = AE("SCANNER")
    entity.add_requested_context(Verification)

    def accepted() -> bool:
        association = entity.associate("127.0.0.1", port, ae_title="VIGIE")
        established = bool(association.is_established)
        if established:
            association.release()
        return established

    try:
        assert not accepted()
        answered(services, "add", "SCANNER", "--organization", "hopital-a", "--address", "127.0.0.1")
        assert accepted()
        answered(services, "disable", "SCANNER")
        assert not accepted()
        answered(services, "enable", "SCANNER")
        assert accepted()
        answered(services, "add", "SCANNER", "--organization", "hopital-a", "--address", "192.0.2.7")
        assert not accepted()
    finally:
        server.stop()
