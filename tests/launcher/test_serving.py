"""What a running server says of itself to commands, and what they do to it: DESIGN §11."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import time
from pathlib import Path

import httpx2
import pytest
from click.testing import CliRunner

from fhir_server.commands.main import main
from fhir_server.commands.options import settings_here
from fhir_server.duties import backup as backups
from fhir_server.duties import deployment, permissions
from fhir_server.server import private, running
from fhir_server.server.faults import CannotRun
from fhir_server.server.settings import Settings
from resources.json import Json
from tests.clients.site import Site, until

EFFECTIVE_WITHIN_S = 5.0


def registered(site: Site, *more: str) -> Json:
    """A client of the site's hospital A, by the command."""
    done = site.cli(
        "client", "add", "Viewer", "--organization", "hopital-a", "--scope", "system/*.rs", "--role", "viewer", *more
    )
    assert done.returncode == 0, done.stderr
    made: Json = json.loads(done.stdout)
    return made


def key_file(site: Site, made: Json) -> Path:
    file = site.data.parent / f"{made['client_id']}.json"
    file.write_text(json.dumps(made))
    return file


def status(site: Site, token: str, **headers: str) -> httpx2.Response:
    return httpx2.get(
        f"{site.fhir}/Patient", headers={"Authorization": f"Bearer {token}", **headers}, trust_env=False, timeout=30
    )


def test_a_partners_private_key_is_printed_once_and_kept_nowhere(site: Site) -> None:
    """SMART client-confidential-asymmetric: the private key never leaves the client's side (security.md M7)."""
    made = registered(site)
    secret = made["private_key"]["d"].encode()
    holding = [path for path in site.data.rglob("*") if path.is_file() and secret in path.read_bytes()]
    assert holding == []
    assert site.cli("token", made["client_id"]).returncode == 1
    done = site.cli("token", made["client_id"], "--key", str(key_file(site, made)))
    assert done.returncode == 0, done.stderr
    assert status(site, done.stdout.strip()).status_code == 200

    kept = registered(site, "--keep-key")
    file = site.data / "clients" / f"{kept['client_id']}.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert site.cli("token", kept["client_id"]).returncode == 0


def test_the_kill_switch_works_on_a_running_server_within_five_seconds(site: Site) -> None:
    """DESIGN §6; a leaked key is stopped by one command (nights.md C5), and again is the same."""
    made = registered(site)
    key = key_file(site, made)
    token = site.cli("token", made["client_id"], "--key", str(key)).stdout.strip()
    assert status(site, token).status_code == 200  # and every worker remembers it now
    assert status(site, token).status_code == 200
    for _ in range(2):
        done = site.cli("client", "disable", made["client_id"], "--json")
        assert done.returncode == 0, done.stderr
        described = json.loads(done.stdout)
        assert (described["active"], described["disabled_by"]) == (False, f"command-line uid {os.getuid()}")
    time.sleep(EFFECTIVE_WITHIN_S)
    for _ in range(10):
        assert status(site, token).status_code == 401
    assert site.cli("token", made["client_id"], "--key", str(key)).returncode == 1
    assert site.cli("client", "enable", made["client_id"]).returncode == 0
    time.sleep(EFFECTIVE_WITHIN_S)
    assert status(site, token).status_code == 401, "a token of before stays refused"
    again = site.cli("token", made["client_id"], "--key", str(key))
    assert status(site, again.stdout.strip()).status_code == 200


@pytest.mark.parametrize("act", ["revoke-tokens", "scope"])
def test_tokens_end_with_their_revocation_and_with_the_scopes_that_they_have(site: Site, act: str) -> None:
    """Within five seconds, on a running server; the client may fetch new ones."""
    made = registered(site)
    key = key_file(site, made)
    token = site.cli("token", made["client_id"], "--key", str(key)).stdout.strip()
    assert status(site, token).status_code == 200
    arguments = [made["client_id"], *(["system/Observation.rs"] if act == "scope" else [])]
    assert site.cli("client", act, *arguments).returncode == 0
    time.sleep(EFFECTIVE_WITHIN_S)
    assert status(site, token).status_code == 401
    fresh = site.cli("token", made["client_id"], "--key", str(key), "--scope", "system/Observation.rs")
    assert fresh.returncode == 0, fresh.stderr
    assert status(site, fresh.stdout.strip()).status_code == 403  # not a scope on Patient


def test_origins_are_in_force_within_five_seconds(site: Site) -> None:
    """A running server answers the pages of the origin that was just registered."""
    made = registered(site)
    token = site.cli("token", made["client_id"], "--key", str(key_file(site, made))).stdout.strip()
    origin = "https://viewer.hopital-a.example"
    assert "access-control-allow-origin" not in status(site, token, Origin=origin).headers
    assert site.cli("client", "origins", made["client_id"], origin).returncode == 0
    time.sleep(EFFECTIVE_WITHIN_S)
    assert status(site, token, Origin=origin).headers["access-control-allow-origin"] == origin
    preflight = httpx2.options(
        f"{site.fhir}/Patient", trust_env=False,
        headers={"Origin": origin, "Access-Control-Request-Method": "GET"},
    )  # fmt: skip
    assert preflight.headers["access-control-allow-origin"] == origin
    assert site.cli("client", "origins", made["client_id"]).returncode == 0
    time.sleep(EFFECTIVE_WITHIN_S)
    assert "access-control-allow-origin" not in status(site, token, Origin=origin).headers


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--organization", "nobody"], "organization does not exist"),
        (["--practitioner", "Practitioner/nobody"], "practitioner does not exist"),
        (["--practitioner", "Patient/x"], "practitioner does not exist"),
        (["--role", "banane"], "role is one of"),
        (["--role", "radiologist"], "name the Practitioner"),
        (["--scope", "user/*.rs"], "system scopes"),
        (["--scope", "system/Nothing.rs"], "scope"),
        (["--origin", "https://x.example/path"], "origin is scheme"),
        (["--origin", "*"], "origin is scheme"),
        (["--origin", "http://intranet.example"], "origin is scheme"),
        (["--origin", "null"], "origin is scheme"),
    ],
)
def test_a_client_that_refers_to_nothing_is_refused(site: Site, given: list[str], said: str) -> None:
    """Found at registration, in one line, not at 3 a.m. as a 404 (nights.md C5)."""
    before = json.loads(site.cli("client", "list", "--json").stdout)
    usual = {"--organization": "hopital-a", "--scope": "system/*.rs"} | dict(zip(given[::2], given[1::2], strict=True))
    done = site.cli("client", "add", "X", *[text for pair in usual.items() for text in pair])
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert json.loads(site.cli("client", "list", "--json").stdout) == before


def test_commands_find_the_running_server_by_its_data_folder(site: Site) -> None:
    """Ports included, without being told; flags win."""
    said = json.loads((site.data / running.FILE).read_text())
    assert (said["port"], said["dimse_port"]) == (site.port, site.dimse_port)
    assert stat.S_IMODE((site.data / running.FILE).stat().st_mode) == 0o600
    assert ":" not in str(said["database"]).partition("@")[0].removeprefix("postgresql://").removeprefix("sqlite://")
    role = site.described("hospital-a")
    found = site.cli("token", role["client_id"], flags=("--data", str(site.data)))
    assert found.returncode == 0, found.stderr
    wrong = site.cli("token", role["client_id"], "--port", "1", flags=("--data", str(site.data)))
    assert wrong.returncode == 1
    assert "no server answers at http://127.0.0.1:1/" in wrong.stderr
    played = site.cli("demo", flags=("--data", str(site.data)))
    assert played.returncode == 0, played.stdout + played.stderr


def test_a_stale_file_of_a_killed_server_is_not_believed(own_site: Site, tmp_path: Path) -> None:
    """The kernel's lock says who lives."""
    own_site.start()
    assert running.find(own_site.data) is not None
    assert own_site.process is not None
    family = own_site.family()
    own_site.process.send_signal(signal.SIGKILL)
    own_site.process.wait()
    assert (own_site.data / running.FILE).exists()
    assert running.find(own_site.data) is None
    assert settings_here(data=own_site.data).port == 8080
    until(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in family[1:]), "its children are gone")
    own_site.start()
    assert own_site.stop() == 0
    assert not (own_site.data / running.FILE).exists()


def test_a_file_that_is_no_announcement_is_not_believed(tmp_path: Path) -> None:
    held = running.hold(tmp_path)
    assert held is not None
    with held:
        for text in ("", "{", "[]", "{}", '{"pid": 1}'):
            (tmp_path / running.FILE).write_text(text)
            assert running.find(tmp_path) is None


# — files —


def test_everything_that_is_made_is_private_whatever_the_umask(tmp_path: Path) -> None:
    """A data folder that was there already, 0755, and a careless umask (security.md M8)."""
    data = tmp_path / "data"
    data.mkdir(mode=0o755)
    data.chmod(0o755)
    before = os.umask(0o022)
    try:
        done = CliRunner().invoke(main, ["db", "upgrade", "--data", str(data)])
        assert done.exit_code == 0, done.output
        assert os.umask(0o022) == private.UMASK
    finally:
        os.umask(before)
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    loose = [path for path in data.rglob("*") if path.stat().st_mode & 0o077 and path.suffix != ".pub"]
    assert loose == []


def test_a_running_server_and_its_children_write_for_themselves_alone(site: Site) -> None:
    loose = [
        path
        for path in site.data.rglob("*")
        if not path.is_symlink() and path.exists() and path.stat().st_mode & 0o077 and path.suffix != ".pub"
    ]
    assert loose == []
    for pid in site.family():
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        name = Path(f"/proc/{pid}/cmdline").read_bytes()
        if b"fhir_server" in name:
            assert "Umask:\t0077" in lines, name


LOOSE = ("", "vigie.db", "objects", "keys", "keys/secret", "spool", "audit-spool", "serve.lock")


def test_looser_modes_are_found_repaired_and_told(tmp_path: Path) -> None:
    """Each of what holds data, by one line at the start; the doctor names them before."""
    settings = Settings.load({"data": tmp_path / "data"}, environ={})
    assert CliRunner().invoke(main, ["db", "upgrade", "--data", str(settings.data)]).exit_code == 0
    (settings.data / "serve.lock").touch(mode=0o600)
    assert permissions.loose(settings) == []
    for name in LOOSE:
        path = settings.data / name
        path.chmod(0o755 if path.is_dir() else 0o644)
        assert permissions.loose(settings) == [path]
        told = CliRunner().invoke(main, ["doctor", "--data", str(settings.data)])
        assert "wrong modes" in told.output.lower()
        assert path.name in told.output
        repaired = permissions.repair(settings)
        assert repaired == [path]
        assert permissions.loose(settings) == []


def test_what_lies_outside_the_data_folder_is_looked_at_and_what_a_link_leads_to_is_not(tmp_path: Path) -> None:
    """The database and the objects may have folders of their own; a link's target is somebody else's."""
    for name in ("base", "pictures", "data"):
        (tmp_path / name).mkdir(mode=0o700)
    settings = Settings.load(
        {"data": tmp_path / "data", "objects": str(tmp_path / "pictures"),
         "database": f"sqlite:///{tmp_path}/base/vigie.db"}, environ={},
    )
    strange = tmp_path / "strange"
    strange.touch()
    for path in (tmp_path / "base" / "vigie.db", tmp_path / "base" / "vigie.db-wal", tmp_path / "base" / "other"):
        path.touch()
        path.chmod(0o644)
    strange.chmod(0o644)
    (tmp_path / "pictures").chmod(0o755)
    (settings.data / "link").symlink_to(strange)
    assert [path.name for path in permissions.repair(settings)] == ["pictures", "vigie.db", "vigie.db-wal"]
    assert permissions.loose(settings) == []
    assert stat.S_IMODE(strange.stat().st_mode) == stat.S_IMODE((tmp_path / "base" / "other").stat().st_mode) == 0o644


def test_a_private_file_is_private_under_any_umask(tmp_path: Path) -> None:
    """Neither it nor its folder is ever readable by others, not even while it is written."""
    before = os.umask(0)
    try:
        private.write_json(tmp_path / "keys" / "one.json", {"secret": 1})
        private.write_json(tmp_path / "keys" / "one.json", {"secret": 2})
    finally:
        os.umask(before)
    assert json.loads((tmp_path / "keys" / "one.json").read_text()) == {"secret": 2}
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert modes == {"keys": 0o700, "one.json": 0o600}


def test_modes_that_cannot_be_changed_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another account's folder: one line, and no start."""
    settings = Settings.load({"data": tmp_path / "data"}, environ={})
    deployment.upgrade(settings)
    settings.data.chmod(0o755)

    def refused(self: Path, mode: int) -> None:
        raise PermissionError(1, "Operation not permitted", str(self))

    monkeypatch.setattr(Path, "chmod", refused)
    with pytest.raises(CannotRun, match="can be read by other accounts"):
        permissions.repair(settings)
    done = CliRunner().invoke(main, ["serve", "--data", str(settings.data), "--port", "0", "--dimse-port", "0"])
    assert done.exit_code == 1
    assert "can be read by other accounts" in done.stderr


# — the database's password —


FAKE = """#!/bin/sh
printf '%s\\n' "$0" "$@" >>"{out}.argv"
tr '\\0' '\\n' <"/proc/$$/cmdline" >>"{out}.argv"
env >>"{out}.env"
[ -n "$PGPASSFILE" ] && {{ cat "$PGPASSFILE" >"{out}.pass"; stat -c %a "$PGPASSFILE" >"{out}.mode"; }}
exit {status}
"""


@pytest.mark.parametrize(
    "url",
    ["postgresql://u:geh:e\\im@127.0.0.1:1/v", "postgresql://u@127.0.0.1:1/v?password=geh:e\\im"],
    ids=["in the URL", "in its query"],
)
@pytest.mark.parametrize("program", ["pg_dump", "pg_restore"])
def test_the_password_is_on_no_command_line(
    url: str, program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """security.md M8: every account reads /proc/*/cmdline. libpq's PGPASSFILE, mode 0600, gone afterwards."""
    tools = tmp_path / "bin"
    tools.mkdir()
    fake = tools / program
    fake.write_text(FAKE.format(out=tmp_path / "seen", status=1))
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("VIGIE_DATABASE", url)
    from sqlalchemy import make_url

    with pytest.raises(CannotRun, match=f"{program} failed"):
        backups._postgres(program, make_url(url), "--format=custom", backups._without_password(make_url(url)))
    argv, environment = ((tmp_path / f"seen.{end}").read_text() for end in ("argv", "env"))
    assert "postgresql://u@127.0.0.1:1/v" in argv
    assert "geh" not in argv
    assert "geh" not in environment
    assert (tmp_path / "seen.pass").read_text() == "*:*:*:*:geh\\:e\\\\im\n"
    assert (tmp_path / "seen.mode").read_text().strip() == "600"
    used = next(line for line in environment.splitlines() if line.startswith("PGPASSFILE=")).partition("=")[2]
    assert not Path(used).exists()
    shutil.rmtree(tools)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CannotRun, match="not installed"):
        backups._postgres(program, make_url(url))
