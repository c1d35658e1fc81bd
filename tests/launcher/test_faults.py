"""Faults of the environment: one line that says what to do, and a status; never a trace (reliability.md 8).

Every command that opens the deployment × every fault.
"""

from __future__ import annotations

import errno
import os
import re
import resource
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from click.testing import CliRunner

from fhir_server.commands.main import main
from fhir_server.duties import deployment
from fhir_server.server import faults
from fhir_server.server.settings import Settings
from tests.clients.site import ROOT, Site, environment, until
from tests.launcher.commands import ROWS, Place


def nothing(data: Path) -> None:
    pass


def is_a_file(data: Path) -> None:
    data.write_text("not a folder")


def deployed(data: Path) -> Path:
    deployment.upgrade(Settings.load({"data": data}, environ={}))
    with sqlite3.connect(data / "vigie.db") as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return data / "vigie.db"


def no_database(data: Path) -> None:
    deployed(data).write_bytes(b"this is no database file at all\n" * 200)


def corrupt(data: Path) -> None:
    file = deployed(data)
    content = bytearray(file.read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    file.write_bytes(content)


def cut(data: Path) -> None:
    file = deployed(data)
    file.write_bytes(file.read_bytes()[:6000])


def newer(data: Path) -> None:
    with sqlite3.connect(deployed(data)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()


@dataclass(frozen=True)
class Fault:
    prepare: Callable[[Path], None]
    said: str
    """What the line says, in lower case."""
    options: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)


FAULTS = {
    "database unreachable": Fault(nothing, "cannot be reached", ("--database", "postgresql://n@127.0.0.1:1/none")),
    "no such host": Fault(nothing, "cannot be reached", ("--database", "postgresql://n@nowhere.invalid/none")),
    "no database file": Fault(no_database, "no database"),
    "corrupt": Fault(corrupt, "damaged"),
    "cut": Fault(cut, "damaged"),
    "unknown dialect": Fault(nothing, "no other dialect", ("--database", "mysql://localhost/vigie")),
    "no URL": Fault(nothing, "no url", ("--database", "vigie")),
    "password on the command line": Fault(nothing, "holds a password", ("--database", "postgresql://a:b@c/d")),
    "data folder is a file": Fault(is_a_file, "file"),
    "newer schema": Fault(newer, "newer version"),
    "bad number": Fault(nothing, "workers", variables={"VIGIE_WORKERS": "many"}),
    "out of range": Fault(nothing, "token_lifetime_s", variables={"VIGIE_TOKEN_LIFETIME_S": "3600"}),
    "no such zone": Fault(nothing, "report_zone", variables={"VIGIE_REPORT_ZONE": "Europe/Nowhere"}),
    "no setting": Fault(nothing, "vigie_prot", variables={"VIGIE_PROT": "1"}),
    "beyond loopback": Fault(nothing, "tls", variables={"VIGIE_HOST": "0.0.0.0"}),
}
OPENING = sorted(path for path, row in ROWS.items() if row.opens and path not in ("restore", "doctor"))


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("path", OPENING)
def test_a_fault_of_the_environment_is_one_line(
    path: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault, data = FAULTS[name], tmp_path / "data"
    fault.prepare(data)
    for variable, value in fault.variables.items():
        monkeypatch.setenv(variable, value)
    arguments = ROWS[path].arguments(Place(tmp_path, data, "nobody"))
    done = CliRunner().invoke(main, [*arguments, "--data", str(data), *fault.options])
    said = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    if path != "serve" and name in ("database unreachable", "no such host") and not said:
        pytest.fail("nothing was said")
    assert done.exit_code == 1, done.output
    assert len(said) == 1, done.stderr
    assert fault.said in said[0].lower()
    assert "Traceback" not in done.output


@pytest.mark.parametrize("name", FAULTS)
def test_the_doctor_names_the_fault(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked for what is wrong says it, too."""
    fault, data = FAULTS[name], tmp_path / "data"
    fault.prepare(data)
    for variable, value in fault.variables.items():
        monkeypatch.setenv(variable, value)
    done = CliRunner().invoke(main, ["doctor", "--data", str(data), *fault.options])
    assert done.exit_code > 0
    assert fault.said in done.output.lower()
    assert "Traceback" not in done.output


def test_no_command_makes_a_deployment_by_looking_at_one(tmp_path: Path) -> None:
    """`audit verify` on a wrong folder made a database, keys and 222 findings."""
    for path in OPENING:
        if path in ("db upgrade", "platform init", "serve"):
            continue
        data = tmp_path / "wrong"
        done = CliRunner().invoke(
            main, [*ROWS[path].arguments(Place(tmp_path, data, "nobody")), "--data", str(data)]
        )
        assert done.exit_code == 1
        assert "there is no database here yet" in done.stderr
        assert not data.exists()


def test_a_disk_that_is_full_is_one_line(tmp_path: Path) -> None:
    """As far as a test can fill it: a limit on the length of files, which fails the same writes."""
    (tmp_path / "data").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "fhir_server", "db", "upgrade", "--data", str(tmp_path / "data")],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, 65_536)),
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        env=environment(PYTHONPATH=str(ROOT), PYTHONDONTWRITEBYTECODE="1"),  # the limit would cut that of a module too
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "space" in done.stderr


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "x"), "no space left"),
        (OSError(errno.EDQUOT, "x"), "quota"),
        (OSError(errno.EROFS, "x"), "read-only"),
        (OSError(errno.EADDRINUSE, "x"), "in use"),
        (PermissionError(errno.EACCES, "x", "/data/keys"), "/data/keys may not be used"),
        (NotADirectoryError(errno.ENOTDIR, "x", "/data"), "/data is a file"),
    ],
)
def test_errors_of_the_system_are_said_in_words(error: OSError, said: str) -> None:
    assert said in (faults.line_of(error) or "")


def test_what_nobody_foresaw_has_no_line_of_its_own() -> None:
    """Its text may hold somebody's data: the log has class and place."""
    assert faults.line_of(ValueError("DUPONT Jean")) is None
    assert faults.line_of(sqlite3.ProgrammingError("DUPONT Jean")) is None


def test_an_unforeseen_error_leaves_its_trace_in_the_log_without_its_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from fhir_server.duties import doctor as examination

    def broken(*_: object, **__: object) -> int:
        raise ValueError("DUPONT Jean")

    monkeypatch.setattr(examination, "doctor", broken)
    done = CliRunner().invoke(main, ["doctor", "--data", str(tmp_path)])
    logged = capfd.readouterr().err + done.output
    assert done.exit_code == 1
    assert "ValueError" in logged
    assert "DUPONT" not in logged
    assert "Traceback" not in done.output


def test_a_port_in_use_is_one_line(own_site: Site) -> None:
    """HTTP's and DIMSE's."""
    own_site.start()
    for option in ("--port", "--dimse-port"):
        ports = {"--port": "0", "--dimse-port": "0"}
        ports[option] = str(own_site.port if option == "--port" else own_site.dimse_port)
        given = [text for pair in ports.items() for text in pair]
        done = own_site.cli("serve", *given, flags=("--data", str(own_site.data.parent / "other")))
        assert done.returncode == 1
        assert done.stderr.strip() == f"Error: port {ports[option]} is in use on 127.0.0.1: choose another"
    again = own_site.cli("serve")
    assert again.stderr.strip() == "Error: another vigie serves this data folder"


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def sentences(site: Site) -> list[str]:
    """What it said to people, but for a start that took its time."""
    return [line for line in site.tail().splitlines() if not line.startswith(("{", "not ready after"))]


def test_a_child_that_cannot_run_ends_the_service_with_its_reason(own_site: Site) -> None:
    """Lost while it runs: no loop of crashes, one line at the end (reliability.md 7: 103 lines, 76 s)."""
    own_site.start()
    (own_site.data / "keys" / "secret").unlink()
    os.kill(own_site.child("worker"), 9)
    assert own_site.process is not None
    assert own_site.process.wait(30) == 1
    told = "\n".join(sentences(own_site))
    assert re.fullmatch("Error: (worker|web|dimse): the deployment secret is missing .*", told)


def test_a_web_worker_that_cannot_run_ends_the_service_with_its_reason(own_site: Site) -> None:
    """It is replaced by the web server, not by the supervisor: it tells the supervisor all the same."""
    own_site.start()
    until((own_site.data / "checkpoints.txt").exists, "the background process works")
    until(lambda: listens(own_site.dimse_port), "the DICOM process works")
    (own_site.data / "keys" / "secret").write_bytes(b"")
    os.kill(own_site.web_workers()[0], 9)
    assert own_site.process is not None
    assert own_site.process.wait(60) == 1
    assert re.fullmatch("Error: web: the deployment secret .*", "\n".join(sentences(own_site)))


def test_a_slow_start_is_waited_for(own_site: Site) -> None:
    """Children that live are waited for however long they take, and what lacks is said (reliability.md 9)."""
    from fhir_server.commands import serving

    program = (
        "import sys; from fhir_server.commands import serving; from fhir_server.commands.main import main\n"
        "from fhir_server.server import processes\n"
        "serving._REPORT_EVERY_S = 0.5\n"
        "first = processes.waiting_for; began = serving.time.monotonic()\n"
        "late = lambda settings: ['database'] if serving.time.monotonic() - began < 4 else first(settings)\n"
        "processes.waiting_for = late; main(sys.argv[1:])"
    )
    assert serving._REPORT_EVERY_S == 15.0
    command = [sys.executable, "-c", program, "serve", "--data", str(own_site.data), "--dimse-port", "0"]
    with own_site.log.open("wb") as log, own_site.out.open("wb") as out:
        own_site.process = subprocess.Popen(
            [*command, "--port", str(own_site.port)],
            stderr=log, stdout=out, cwd=ROOT, env=environment(PYTHONPATH=str(ROOT)),
        )  # fmt: skip
    deadline = time.monotonic() + 90
    while b"ready" not in own_site.out.read_bytes():
        assert own_site.process.poll() is None, own_site.tail()
        assert time.monotonic() < deadline, own_site.tail()
        time.sleep(0.1)
    assert '"reason":"database"' in own_site.log.read_text()
    assert own_site.stop() == 0
