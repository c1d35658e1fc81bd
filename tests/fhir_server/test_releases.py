"""A deployment that an earlier release left is upgraded, on both engines, with what it held (§5).

`tests/store/released` has a populated deployment of each released schema, made by `scripts/release_fixture.py` and the
code of that release.
"""

from __future__ import annotations

import gzip
import json
import threading
from hashlib import sha256
from typing import Any

import pytest

from fhir_server.duties import deployment, doctor, upkeep
from fhir_server.duties import reindex as duty
from fhir_server.server.processes import ROOT
from fhir_server.server.services import Services
from fhir_server.server.settings import Settings
from resources import search
from store import migrations
from store.access import Caller
from store.engine.database import open_engine
from store.versions import standing
from tests.audit.upgrade import populated

RELEASED = ROOT / "tests" / "store" / "released"
SCHEMAS = sorted(path.name[7:11] for path in RELEASED.glob("schema_*.json.gz"))
SYSTEM = Caller.system("platform")


def left(schema: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(gzip.decompress((RELEASED / f"schema_{schema}.json.gz").read_bytes()))
    return found


@pytest.fixture(params=SCHEMAS)
def old(request: pytest.FixtureRequest, empty: Settings) -> tuple[Settings, dict[str, Any]]:
    """What a release left, and what it was."""
    content = left(request.param)
    empty.data.mkdir(exist_ok=True)
    populated.fill(empty.database_url, request.param, content["tables"])
    folder = empty.data / "keys"
    folder.mkdir(parents=True, mode=0o700)
    for name, key in content["keys"].items():
        (folder / name).write_bytes(bytes.fromhex(key))
        (folder / name).chmod(0o600)
    if content["published"]:
        (empty.data / "checkpoints.txt").write_text(content["published"], encoding="utf-8")
    return empty, content


def rows(content: dict[str, Any], table: str) -> int:
    return len(content["tables"][table]["rows"])


def test_what_it_held_is_there_and_verifies(old: tuple[Settings, dict[str, Any]]) -> None:
    """Keys, log, versions, clients; searches find what they found; the index is brought up and then all is well."""
    settings, content = old
    deployment.upgrade_recorded(settings)
    assert migrations.state(settings.database_url)[0] == migrations._revisions()[0]
    assert upkeep.audit_verify(settings) == 0
    services = Services.of(settings)
    try:
        assert len(services.authority.clients.list()) == rows(content, "oauth_client")
        query = search.parse("Patient", [("family", "Cas")], base_urls=services.fhir_bases)
        found = services.store.look(SYSTEM, lambda uow: uow.resources.search(query))
        assert len(found.matches) == content["patients"] > 0
        assert all(version.json()["name"][0]["family"].startswith("Cas") for version in found.matches)
        with services.database.read() as connection:
            assert set(standing.stale(connection)) == {"DiagnosticReport"}
        done = duty.reindex(settings, (), rate=100_000)
        assert done is not None
        assert done.altered == 0, "imaging-study: none of these reports has one"
        with services.database.read() as connection:
            assert not standing.stale(connection)
    finally:
        services.close()
    wrong = [line for line in doctor.examine(settings) if not line.ok]
    assert {line.name for line in wrong} <= {"modes", "subscription-changes"}, wrong  # no worker ran then


def test_index_rows_of_a_release_are_those_of_today(old: tuple[Settings, dict[str, Any]]) -> None:
    """Where a rule has changed without a new version, this names it: a pass over every type alters nothing."""
    settings, _ = old
    deployment.upgrade(settings)
    types = ("Patient", "Observation", "Organization", "Practitioner", "PractitionerRole")
    done = duty.reindex(settings, types, rate=10**6)
    assert done is not None
    assert done.versions > 20
    assert done.altered == 0


def test_two_upgrades_at_once_are_one(old: tuple[Settings, dict[str, Any]]) -> None:
    """Nodes that are started together wait for each other."""
    settings, _ = old
    failures: list[Exception] = []

    def upgrade() -> None:
        try:
            deployment.upgrade(settings)
        except Exception as error:  # noqa: BLE001 - the test fails by it
            failures.append(error)

    both = [threading.Thread(target=upgrade) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert not failures
    deployment.check_keys(settings)


def test_a_node_on_postgresql_does_not_upgrade_by_starting(old: tuple[Settings, dict[str, Any]]) -> None:
    """It says what to do; on SQLite, where it is alone, to start is to upgrade."""
    settings, _ = old
    before = migrations.state(settings.database_url)[0]
    if settings.database:
        with pytest.raises(migrations.SchemaFault, match="db upgrade"):
            deployment.begin(settings)
        assert migrations.state(settings.database_url)[0] == before
    else:
        deployment.begin(settings)
        assert migrations.state(settings.database_url)[0] != before


def test_an_older_node_refuses_a_newer_schema(old: tuple[Settings, dict[str, Any]]) -> None:
    """Rolling upgrade: what starts anew (`serve`, a command) is refused; what runs goes on, degraded (test_health)."""
    settings, _ = old
    deployment.upgrade(settings)
    database = open_engine(settings.database_url)
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    assert migrations.standing(database) == "newer"
    database.dispose()
    for refused in (deployment.upgrade, deployment.begin):
        with pytest.raises(migrations.SchemaFault, match="newer version"):
            refused(settings)


@pytest.mark.parametrize("line", (RELEASED / "frozen.txt").read_text().splitlines())
def test_a_released_migration_is_never_altered(line: str) -> None:
    """What ran somewhere cannot be run again otherwise: a change is a migration more."""
    digest, name = line.split()
    found = sha256((ROOT / "store" / "migrations" / "versions" / name).read_bytes()).hexdigest()
    assert found == digest, name


def test_migrations_up_to_the_newest_release_are_frozen() -> None:
    frozen = {line.split()[1][:4] for line in (RELEASED / "frozen.txt").read_text().splitlines()}
    released = max(SCHEMAS)
    assert frozen >= {revision for revision in migrations._revisions() if revision <= released}
