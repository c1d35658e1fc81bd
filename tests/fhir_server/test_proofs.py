"""Proofs that are given away, checked with the public key alone: docs/audit.md, Proving one event.

RFC 6962 §2.1.1, §2.1.2; C2SP tlog-checkpoint
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from audit import offline, proofs, queries
from audit.checkpoint import Checkpoint
from fhir_server.commands.main import main
from resources.json import Json
from tests.fhir_server.conftest import Api


def patient(id: str) -> Json:
    return {"resourceType": "Patient", "id": id, "name": [{"family": "Martin"}]}


def given(answer: Any) -> Json:
    assert answer.status_code == 200, answer.get_data(as_text=True)
    (parameter,) = answer.get_json()["parameter"]
    found: Json = json.loads(parameter["valueString"])
    return found


def an_event(api: Api) -> str:
    assert api.hospital_a.put("Patient/p-1", patient("p-1")).status_code == 201
    bundle = api.auditor.get("AuditEvent?patient=Patient/p-1&action=U").get_json()
    return str(bundle["entry"][0]["resource"]["id"])


def key_of(api: Api) -> str:
    return api.services.ledger.verifier.text()


def test_an_event_is_proven_to_whoever_has_the_key(api: Api) -> None:
    """By the operation, and again by a copy of one file; what is altered proves nothing."""
    id = an_event(api)
    proof = given(api.auditor.get(f"AuditEvent/{id}/$proof"))
    assert f"AuditEvent/{id} is record" in offline.check_proof(proof, key_of(api))
    assert proof["event"]["id"] == id
    assert proof["event"]["action"] == "U"
    for change in (
        lambda p: p.update(position=p["position"] + 1),
        lambda p: p["event"].update(action="R"),
        lambda p: p["event"].update(id=f"{id}0"),
        lambda p: p.update(site='{"observer":"Device/x","base_url":"x","platform":"x"}'),
        lambda p: p["opening"].update(head=p["opening"]["head"].replace("update", "create")),
        lambda p: p["opening"].update(patient="Patient/p-2"),
        lambda p: p["opening"].update(particulars="00" * 32),
        lambda p: p["path"].pop(),
        lambda p: p["path"].append("00" * 32),
        lambda p: p.update(checkpoint=p["checkpoint"].replace("\n", "\n1", 1)),
        lambda p: p.pop("opening"),
        lambda p: p.update(format="x"),
    ):
        forged = json.loads(json.dumps(proof))
        change(forged)
        with pytest.raises(ValueError, match=r"."):
            offline.check_proof(forged, key_of(api))


def test_a_proof_is_given_to_the_platform_s_auditors_alone(api: Api) -> None:
    """A record's head says what a hospital's officer is told otherwise (a 404 that hid another's resource)."""
    id = an_event(api)
    officer = api.client("rssi", "hopital-a", "system/AuditEvent.rs")
    assert officer.get(f"AuditEvent/{id}").status_code == 200
    assert officer.get(f"AuditEvent/{id}/$proof").status_code == 403
    assert officer.get("AuditEvent/$consistency").status_code == 403
    assert api.hospital_a.get(f"AuditEvent/{id}/$proof").status_code == 403
    assert api.auditor.get("AuditEvent/none/$proof").status_code == 404


def test_a_newer_log_is_shown_to_continue_an_older_one(api: Api) -> None:
    """Whoever kept a checkpoint asks by its size."""
    an_event(api)
    with api.services.database.read() as connection:
        (size, note, _), *_ = queries.checkpoints(connection)
    assert api.hospital_a.put("Patient/p-2", patient("p-2")).status_code == 201
    proof = given(api.auditor.get(f"AuditEvent/$consistency?first={size}"))
    assert f"continues that of {size}" in offline.check_proof(proof, key_of(api), note)
    for change in (lambda p: p["path"].reverse(), lambda p: p["path"].append("00" * 32)):
        forged = json.loads(json.dumps(proof))
        change(forged)
        if forged["path"] != proof["path"]:
            with pytest.raises(ValueError, match="continue"):
                offline.check_proof(forged, key_of(api), note)
    assert api.auditor.get("AuditEvent/$consistency?first=99999999").status_code == 400
    assert api.auditor.get("AuditEvent/$consistency?first=0").status_code == 400
    names = {
        one["name"] for rest in api.auditor.get("metadata").get_json()["rest"] for resource in rest["resource"]
        if resource["type"] == "AuditEvent" for one in resource["operation"]
    }  # fmt: skip
    assert {"proof", "consistency"} <= names


def test_the_commands_prove_and_check(api: Api, tmp_path: Path) -> None:
    """`prove`, `consistency`, `check-proof`; and the one file alone, with nothing of the server."""
    settings, run = api.services.settings, CliRunner().invoke
    here = ["--data", str(settings.data), "--database", settings.database_url]
    id = an_event(api)
    done = run(main, ["audit", "prove", f"AuditEvent/{id}", *here])
    assert done.exit_code == 0, done.output
    file, old = tmp_path / "proof.json", tmp_path / "old"
    file.write_text(done.stdout)
    done = run(main, ["audit", "check-proof", str(file), "--key", key_of(api)])
    assert (done.exit_code, done.stdout.startswith("proven: AuditEvent/")) == (0, True), done.output
    shutil.copy(offline.__file__, tmp_path / "offline.py")
    alone = [sys.executable, "-I", "offline.py", str(file), "--proof", "--key", key_of(api)]
    assert subprocess.run(alone, cwd=tmp_path, timeout=60, check=False).returncode == 0
    file.write_text(done.stdout)
    assert run(main, ["audit", "check-proof", str(file), "--key", key_of(api)]).exit_code == 1
    assert run(main, ["audit", "prove", "none", *here]).exit_code == 1
    with api.services.database.read() as connection:
        (_, note, _), *_ = queries.checkpoints(connection)
    old.write_text(note + "\n")
    done = run(main, ["audit", "consistency", str(old), *here])
    assert done.exit_code == 0, done.output
    file.write_text(done.stdout)
    assert run(main, ["audit", "check-proof", str(file), "--key", key_of(api)]).exit_code == 0
    assert "verified from record" in run(main, ["audit", "verify", "--from", str(old), *here]).output
    old.write_text(note.replace("\n", "\n1", 1) + "\n")
    assert run(main, ["audit", "consistency", str(old), *here]).exit_code == 1
    assert run(main, ["audit", "verify", "--from", str(old), *here]).exit_code == 1


def test_a_log_that_does_not_continue_gives_no_proof(api: Api) -> None:
    """Of a checkpoint of another history there is none, rather than one that fails."""
    an_event(api)
    forged = api.services.ledger._signer.sign(Checkpoint(api.services.ledger.verifier.name, 3, bytes(32)))
    with api.services.database.read() as connection, pytest.raises(proofs.NoProof, match="does not continue"):
        proofs.consistency(connection, api.services.ledger.verifier, forged)


def test_what_the_server_said_of_itself_is_proven_without_the_projection(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its digest in the head, where the project's other files are not at hand."""
    proof = given(api.auditor.get(f"AuditEvent/{an_event(api)}/$proof"))
    monkeypatch.setattr(offline.Projection, "is_there", property(lambda _: False))
    assert offline.check_proof(proof, key_of(api))
    with pytest.raises(ValueError, match="what the server said of itself"):
        offline.check_proof(proof | {"site": proof["site"] + " "}, key_of(api))
