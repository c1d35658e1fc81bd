"""What an operator does from the command line, while the service runs: DESIGN §11."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from pydicom import dcmread

from dicomweb import phantom
from dicomweb.phantom import Phantom
from fhir_server.demo import modality
from tests.clients.site import ROOT, Site, new_database, until


def test_the_log_verifies_while_it_is_written(site: Site) -> None:
    """DESIGN §7: `./vigie audit verify` on-line; exit status 0 and its figures."""
    with site.http("hospital-a") as http:
        http.get("/Patient?name=personne")
    done = site.cli("audit", "verify")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing is missing, nothing was altered" in done.stdout


def test_an_exported_log_verifies_without_the_server_and_names_what_was_altered(site: Site, tmp_path: Path) -> None:
    """DESIGN §7: the offline verifier needs nothing of this project but its one file."""
    file = tmp_path / "log.jsonl"
    done = site.cli("audit", "export", str(file))
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) > 0
    verifier = tmp_path / "elsewhere" / "offline.py"
    verifier.parent.mkdir()
    verifier.write_bytes((ROOT / "audit" / "offline.py").read_bytes())

    def verify() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-I", str(verifier), str(file)], capture_output=True, text=True, timeout=60, check=False
        )

    assert verify().returncode == 0, verify().stdout + verify().stderr
    content = gzip.decompress(file.read_bytes())
    assert content.count(b"hopital-a") > 1
    file.write_bytes(gzip.compress(content.replace(b"hopital-a", b"hopital-c", 1)))
    altered = verify()
    assert altered.returncode != 0
    assert "altered" in altered.stdout + altered.stderr


def test_the_doctor_finds_a_healthy_service_healthy(site: Site) -> None:
    """One line per check; the exit status is the number of what is wrong."""
    done = site.cli("doctor")
    assert done.returncode == 0, done.stdout
    assert "WRONG" not in done.stdout

    key = next(path for path in (site.data / "keys").iterdir() if path.suffix != ".pub")
    mode = key.stat().st_mode
    key.chmod(0o644)
    try:
        told = site.cli("doctor")
    finally:
        key.chmod(mode)
    assert told.returncode == 2, told.stdout + told.stderr  # its mode, and that no server would start with it
    assert f"readable by others: {key.name}" in told.stdout


def test_the_doctor_of_a_database_that_is_not_there_says_so(tmp_path: Path) -> None:
    """The operator's question is answered in words, not by a trace."""
    site = Site(tmp_path / "data", "postgresql://nobody@127.0.0.1:1/none")
    done = site.cli("doctor")

    assert done.returncode == 1
    assert "WRONG database" in done.stdout
    assert "Traceback" not in done.stderr


def test_a_backup_taken_while_serving_restores_into_an_empty_folder(
    site: Site, engine: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """DESIGN §11: consistent while it runs; the restored log verifies; resources, images and clients are there."""
    scan = Phantom(patient_id="SAUVEGARDE", slices=2, side=32)
    files = phantom.series(scan)
    assert modality.send(files, "127.0.0.1", site.dimse_port, "HOPITAL_A") == [0, 0]
    with site.http("hospital-a") as http:
        patient = http.post("/Patient", json={"resourceType": "Patient", "name": [{"family": "SAUVÉ"}]}).json()
        until(
            lambda: "entry" in http.get(f"/ImagingStudy?identifier=urn:oid:{scan.study_uid}").json(),
            "the study is published",
        )
    backup = tmp_path / "backup"
    done = site.cli("backup", str(backup))
    assert done.returncode == 0, done.stderr
    again = site.cli("backup", str(backup))
    assert again.returncode == 1
    assert "not empty" in again.stderr

    database = "" if engine == "sqlite" else new_database(request.getfixturevalue("postgresql_url"))
    other = Site(tmp_path / "restored", database)
    restored = other.cli("restore", str(backup))
    assert restored.returncode == 0, restored.stdout + restored.stderr
    assert "nothing is missing, nothing was altered" in restored.stdout
    onto = other.cli("restore", str(backup))
    assert onto.returncode == 1
    assert "Traceback" not in onto.stderr

    other.start()
    try:
        described = site.described("hospital-a")
        key = tmp_path / "key.json"
        key.write_text(json.dumps(described["private_key"]))
        fetched = other.cli("token", described["client_id"], "--key", str(key), "--port", str(other.port))
        assert fetched.returncode == 0, fetched.stderr
        with other.http() as http:
            http.headers["Authorization"] = f"Bearer {fetched.stdout.strip()}"
            assert http.get(f"/Patient/{patient['id']}").json() == patient
            frame = http.get(
                f"{other.base}/dicom-web/studies/{scan.study_uid}/series/{scan.series_uid}"
                f"/instances/{scan.sop_uid(1)}/frames/1",
                headers={"Accept": 'multipart/related; type="application/octet-stream"'},
            )
        assert frame.status_code == 200
        (tmp_path / "one.dcm").write_bytes(files[0])
        assert dcmread(tmp_path / "one.dcm").PixelData in frame.content
    finally:
        other.stop()
        if database:
            with psycopg.connect(request.getfixturevalue("postgresql_url"), autocommit=True) as connection:
                connection.execute(f'DROP DATABASE "{database.partition("?")[0].rpartition("/")[2]}" WITH (FORCE)')
