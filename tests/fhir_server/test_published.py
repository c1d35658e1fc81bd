"""What is missing where a log exists is a finding, and stays missing until the operator speaks: security.md M6."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from fhir_server.commands.main import main
from fhir_server.duties import deployment
from fhir_server.server import keys
from fhir_server.server.settings import Settings
from store.engine import keyring
from store.engine.database import open_engine


@pytest.fixture
def deployed(database_url: str, tmp_path: Path) -> Settings:
    if database_url.startswith("sqlite"):
        settings = Settings.load({"data": tmp_path / "data"}, environ={})
    else:
        import psycopg

        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute("DROP DATABASE IF EXISTS looked WITH (FORCE)")
            connection.execute("CREATE DATABASE looked")
        url = database_url.replace("/postgres?", "/looked?")
        settings = Settings.load({"data": tmp_path / "data", "database": url}, environ={})
    deployment.init(settings)
    return settings


def run(settings: Settings, *command: str) -> tuple[int, str]:
    database = ["--database", settings.database] if settings.database else []
    done = CliRunner().invoke(main, [*command, "--data", str(settings.data), *database])
    return done.exit_code, done.output


def test_looking_makes_no_published_file(deployed: Settings) -> None:
    """`verify` and `doctor` name it, the command goes on in it, and both are content."""
    path = deployed.data / keys.CHECKPOINTS
    assert run(deployed, "client", "list")[0] == 0
    assert run(deployed, "audit", "verify")[0] == 0
    path.unlink()
    status, told = run(deployed, "audit", "verify")
    assert status == 1
    assert "published: the published checkpoints (checkpoints.txt) are missing" in told
    assert "WRONG checkpoints: the published checkpoints" in run(deployed, "doctor")[1]
    assert not path.exists()
    assert run(deployed, "audit", "publish")[0] == 0
    assert run(deployed, "audit", "verify")[0] == 0
    assert "ok    checkpoints" in run(deployed, "doctor")[1]


def test_looking_makes_no_key(deployed: Settings) -> None:
    """A log whose signing key is gone is looked at by nobody, and given another by nobody."""
    assert run(deployed, "audit", "verify")[0] == 0
    database = open_engine(deployed.database_url)
    key = keyring.deployment_key
    with database.write() as connection:
        connection.execute(key.delete().where(key.c.name == keys.SIGNING))
    for command in (("audit", "verify"), ("doctor",), ("audit", "publish"), ("audit", "export", "x.gz")):
        assert run(deployed, *command)[0] != 0, command
    with database.read() as connection:
        assert connection.execute(key.select().where(key.c.name == keys.SIGNING)).first() is None
    database.dispose()
