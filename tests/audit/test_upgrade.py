"""What was in the log before stays as it was: ids, texts, positions, leaves, and what was published of them.

The fixture is a database of the schema before, filled by the code of then (tests/audit/upgrade).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import func, select, update

import fhir_server.server.services  # noqa: F401 - every package that owns tables
from audit import clinical, forms, offline, queries
from audit.baseline import Baseline
from audit.checkpoint import Signer
from audit.service import Ledger
from audit.tables import audit_log
from audit.verify import export, verify
from resources.outcomes import NotFound
from resources.search import parse
from store import migrations
from store.access import Access, Interaction
from store.engine.database import Database, open_engine
from store.engine.keyring import Fixed
from store.unit_of_work import Store
from store.versions.tables import INDEX_TABLES, resource_version
from tests.audit.logbook import AT, logged
from tests.audit.upgrade.populated import Left, load
from tests.conftest import ENGINES
from tests.support import PLATFORM, OpenPermit, caller


class World:
    """An upgraded database, with the ledger that goes on in it."""

    def __init__(self, url: str, folder: Path) -> None:
        self.left: Left = load(url, "0004")
        migrations.upgrade(url)
        self.database: Database = open_engine(url)
        self.signer = Signer.parse(self.left.signer)
        self.published = folder / "checkpoints.txt"
        self.published.write_text(self.left.published)
        self.ledger = Ledger(
            self.database, self.signer, observer="Device/vigie", base_url="https://vigie.example/fhir",
            platform=PLATFORM, published=self.published,
        )  # fmt: skip
        self.store = Store(
            self.database, permit=OpenPermit(), trail=self.ledger, platform=PLATFORM, keys=Fixed(b"x" * 32),
            base_urls=("https://vigie.example/fhir",),
        )  # fmt: skip

    def findings(self) -> list[offline.Finding]:
        notes = offline.split_notes(self.published.read_text())
        found = verify(self.database, self.signer.verifier, platform=PLATFORM, elsewhere=notes).findings
        return [one for one in found if "wait to be sequenced" not in one.text]  # nobody did, since then

    def found(self, *parameters: tuple[str, str]) -> list[str]:
        with self.store.work(caller(PLATFORM), write=False) as uow:
            return [version.id for version in uow.resources.search(parse("AuditEvent", [*parameters])).matches]


@pytest.fixture(params=ENGINES)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    url = f"sqlite:///{tmp_path}/old.sqlite"
    if request.param == "postgresql":
        admin = str(request.getfixturevalue("postgresql_url"))
        with psycopg.connect(admin, autocommit=True) as connection:
            connection.execute("DROP DATABASE IF EXISTS upgraded WITH (FORCE)")
            connection.execute("CREATE DATABASE upgraded")
        url = admin.replace("/postgres?", "/upgraded?")
    made = World(url, tmp_path)
    yield made
    made.ledger.close()
    made.database.dispose()


def test_tree_ids_and_published_checkpoints_go_on(world: World) -> None:
    """The same leaves under the same checkpoints, before and after new records; C2SP tlog-checkpoint."""
    assert world.findings() == []
    before = len(logged(world.database))
    assert before == len(world.left.events)
    assert {row.form for row in logged(world.database)} == {forms.FORM_1}
    world.ledger.disclose(caller(), [Access(Interaction.READ, "Patient", "p-1", 1, ("Patient/p-1",))], AT)
    assert world.ledger.catch_up()
    assert world.findings() == []
    rows = logged(world.database)
    assert {row.form for row in rows[before:]} == {forms.FORM_2}
    assert [row.seq for row in rows] == list(range(1, len(rows) + 1))
    assert [row.logged for row in rows] == sorted(row.logged for row in rows)


def test_what_waited_is_logged_once(world: World) -> None:
    """Entries of the version before, also what nobody can read."""
    waiting = world.ledger.waiting()
    before = len(logged(world.database))
    assert waiting == 4
    assert world.ledger.catch_up()
    rows = logged(world.database)[before:]
    assert len(rows) == waiting
    assert [len(forms.parts_of(row)) for row in rows] == [1, 1, 1, 0]
    assert "unread" in rows[-1].particulars
    assert world.findings() == []


def test_an_event_is_served_as_it_was(world: World) -> None:
    """Byte for byte, by its id and by its version (R4 §3.1.0.2)."""
    for id, text in world.left.events.items():
        with world.store.work(caller(PLATFORM), write=False) as uow:
            assert uow.resources.read("AuditEvent", id).content.decode() == text
            assert uow.resources.vread("AuditEvent", id, 1).last_updated == datetime.fromisoformat(
                json.loads(text)["meta"]["lastUpdated"]).astimezone(UTC)


@pytest.mark.parametrize(
    "criteria",
    [
        [("patient", "Patient/p-1")], [("agent", "Practitioner/rad-3")], [("agent:identifier", "ehr-b")],
        [("entity", "Task/t-1")], [("action", "C")], [("outcome", "8")], [("subtype", "derived")], [("type", "rest")],
        [("agent", "Organization/hospital-a")], [("entity:identifier", "urn:dicom:uid|urn:oid:1.2.3")],
        [("date", "ge2020"), ("patient", "Patient/p-2")], [("address", "198.51.100.7"), ("date", "ge2020")],
    ],
)  # fmt: skip
def test_an_event_is_found_as_it_was(world: World, criteria: list[tuple[str, str]]) -> None:
    """By every index row that the upgrade made; compared with what the texts themselves say."""
    from resources import indexing, matching

    query = parse("AuditEvent", criteria)
    wanted = {
        id
        for id, text in world.left.events.items()
        if matching.matches(query.criteria, "AuditEvent", id, None, indexing.extract("AuditEvent", json.loads(text)))
    }
    assert wanted
    assert set(world.found(*criteria)) == wanted


def test_events_of_before_are_shown_to_the_platform_alone(world: World) -> None:
    """DESIGN §6: whose patients they were was not logged."""
    with world.store.work(caller("hospital-a"), write=False) as uow:
        assert uow.resources.search(parse("AuditEvent", [("patient", "Patient/p-1")])).matches == []
    for id in world.left.events:
        with pytest.raises(NotFound), world.store.work(caller("hospital-a"), write=False) as uow:
            uow.resources.read("AuditEvent", id)


def test_nothing_is_left_where_it_was(world: World) -> None:
    """Neither versions nor index rows: the clinical tables hold the clinical record alone."""
    with world.database.read() as connection:
        kept = connection.execute(
            select(func.count()).where(resource_version.c.type_id == queries.AUDIT_EVENT)
        ).scalar_one()
        strays = [
            connection.execute(
                select(func.count()).where(table.c.version_pk.not_in(select(resource_version.c.pk)))
            ).scalar_one()
            for table in INDEX_TABLES
        ]
    assert kept == 0
    assert strays == [0] * len(INDEX_TABLES)


def test_an_export_of_both_forms_verifies_elsewhere(world: World, tmp_path: Path) -> None:
    world.ledger.catch_up()
    file = tmp_path / "log.gz"
    count = export(world.database, file, world.signer.verifier)
    report = offline.verify_export(file, world.signer.verifier.text(), offline.split_notes(world.left.published))
    assert report.findings == []
    assert report.records == count == len(world.left.events) + 4


@pytest.mark.parametrize("column", ["logged", "recorded"])
@pytest.mark.parametrize("by_us", [-86_400_000_000, -1000, 1000, 86_400_000_000])
def test_an_instant_beside_a_record_of_before_is_its_own(world: World, column: str, by_us: int) -> None:
    """Its leaf does not cover them, and searches and deadlines of keeping go by them: the record's text says them."""
    row = logged(world.database)[2]
    altered = audit_log.update().where(audit_log.c.seq == row.seq)
    with world.database.write() as connection:
        connection.execute(altered.values({column: getattr(row, column) + by_us}))
    texts = [one.text for one in world.findings() if one.position == row.seq]
    assert "the instants beside the record are not its own" in texts


def test_the_forms_index_says_what_the_upgrade_wrote(world: World) -> None:
    """`audit.finding` and the migration have the rule for form 1 each: they are the same."""
    assert [finding for finding in world.findings() if "found" in finding.text or "hidden" in finding.text] == []


def test_what_was_written_before_is_proven_from_then_on(world: World) -> None:
    """Each version of before gets its digest, marked as a baseline, and is compared by it."""
    clinical_versions = select(func.count()).where(resource_version.c.type_id != queries.AUDIT_EVENT)
    with world.database.read() as connection:
        count = int(connection.execute(clinical_versions).scalar_one())
    assert count
    Baseline(world.database, world.ledger, platform=PLATFORM, clock=lambda: AT, batch=2).finish()
    assert world.ledger.catch_up()
    assert world.findings() == []
    told = [row for row in logged(world.database) if clinical.BASELINE in row.particulars]
    assert sum(row.particulars.count("/_history/") for row in told) == count
    with world.database.write() as connection:
        connection.execute(update(resource_version).values(method="PATCH"))
    assert {one.kind for one in world.findings()} == {"altered"}
    assert len(world.findings()) == count
