"""Keys of a deployment: absent is not first use (no secret has a default, none is silently made anew)."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from fhir_server.commands.main import main
from fhir_server.duties import deployment
from fhir_server.server import keys
from fhir_server.server.keys import KeyFault
from fhir_server.server.services import Services
from fhir_server.server.settings import Settings
from store.engine.database import open_engine
from store.versions.tables import store_setting


def content(settings: Settings) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (settings.data / "keys").iterdir()}


@pytest.fixture
def deployed(tmp_path: Path) -> Settings:
    """A deployment that was made and is not served yet."""
    settings = Settings.load({"data": tmp_path / "data"}, environ={})
    deployment.upgrade(settings)
    return settings


def test_a_new_deployment_has_its_keys_once(deployed: Settings) -> None:
    """Mode 0600, kept by the next start."""
    first = content(deployed)
    assert first.keys() == {*keys.NAMES, f"{keys.SIGNING}.pub"}
    assert len({first[name] for name in keys.SECRETS}) == len(keys.SECRETS)
    for name in keys.NAMES:
        assert stat.S_IMODE((deployed.data / "keys" / name).stat().st_mode) == 0o600
    deployment.upgrade(deployed)
    assert content(deployed) == first


def lost(path: Path) -> None:
    path.unlink()


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:16])


def not_text(path: Path) -> None:
    path.write_bytes(b"\xff" * 31)


def swapped(path: Path) -> None:
    other = Settings.load({"data": path.parents[2] / "other"}, environ={})
    deployment.upgrade(other)
    shutil.copy2(other.data / "keys" / path.name, path)


def readable(path: Path) -> None:
    path.chmod(0o640)


HARM = (lost, emptied, cut, not_text, swapped, readable)
COMMANDS = (
    ("db", "upgrade"),
    ("audit", "verify"),
    ("audit", "export", "log.gz"),
    ("client", "list"),
    ("backup", "copy"),
    ("serve", "--dimse-port", "0", "--port", "0"),
)


@pytest.mark.parametrize("harm", HARM)
@pytest.mark.parametrize("name", keys.NAMES)
def test_a_key_that_is_not_right_is_named_and_never_made_anew(
    deployed: Settings, name: str, harm: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One line, a status, and nothing written: by no command, however it looks at the deployment."""
    monkeypatch.chdir(tmp_path)
    harm(deployed.data / "keys" / name)
    before = content(deployed)
    for command in COMMANDS:
        if harm is readable and command[0] == "serve":
            continue  # it puts the mode right, and says so
        if harm is readable and command[0] == "db":
            continue
        done = CliRunner().invoke(main, [*command, "--data", str(deployed.data)])
        assert done.exit_code == 1, (command, done.output)
        assert name in done.stderr, done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert content(deployed) == before
    assert f"the key {name}" in CliRunner().invoke(main, ["doctor", "--data", str(deployed.data)]).output
    with pytest.raises(KeyFault, match=name):
        keys.check(deployed, open_engine(deployed.database_url))


@pytest.mark.parametrize("name", keys.NAMES)
def test_a_database_of_before_the_digests_needs_all_its_keys(deployed: Settings, name: str) -> None:
    """Used, but without a note of its keys: they are taken over if all are there, and none is made."""
    services = Services.of(deployed)
    services.authority.clients.add("EHR", "hospital", "system/Patient.rs", "")
    services.close()
    database = open_engine(deployed.database_url)
    with database.write() as connection:
        connection.execute(store_setting.delete())
    kept = (deployed.data / "keys" / name).rename(deployed.data / "kept")
    with pytest.raises(KeyFault, match=f"{name} is missing"):
        deployment.upgrade(deployed)
    kept.rename(deployed.data / "keys" / name)
    deployment.upgrade(deployed)
    swapped(deployed.data / "keys" / name)
    with pytest.raises(KeyFault, match="not the one"):
        deployment.upgrade(deployed)


def test_a_second_data_folder_on_a_used_database_must_have_its_keys(tmp_path: Path) -> None:
    """Two nodes with keys of their own gave every second notification a wrong signature."""
    url = f"sqlite:///{tmp_path}/shared.db"
    first = Settings.load({"data": tmp_path / "one", "database": url}, environ={})
    second = Settings.load({"data": tmp_path / "two", "database": url}, environ={})
    deployment.upgrade(first)
    with pytest.raises(KeyFault, match="is missing"):
        deployment.upgrade(second)
    shutil.copytree(first.data / "keys", second.data / "keys")
    deployment.upgrade(second)
