"""The registry of clients and AE titles is proven by the log: security.md M6, a scope widened by one statement.

Every change is a record with a digest of the row; the last one holds. docs/audit.md, Verifying
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import delete, insert, select, update

from audit import offline, registry
from audit.baseline import Baseline
from audit.checkpoint import Signer
from audit.service import Ledger
from audit.verify import verify
from auth.clients import Clients
from auth.tables import oauth_client
from dicomweb import ae
from dicomweb.tables import ae_title
from fhir_server.server.services import REGISTRIES
from resources.policies import Where
from store import policies
from store.access import Access, Caller, Interaction
from store.engine.database import Database
from store.unit_of_work import Store
from store.versions.tables import store_setting
from tests.audit.logbook import AT, alter
from tests.support import BASE_URL, PLATFORM, Clock

SCOPE = "system/Patient.rs"


class World:
    """A registry with a client and an AE title, each changed since."""

    def __init__(self, database: Database, make_store: Callable[..., Store]) -> None:
        self.database = database
        self.signer = Signer.generate("vigie.example/audit")
        self.ledger = Ledger(
            database, self.signer, observer="Device/vigie", base_url=BASE_URL, platform=PLATFORM,
            checkpoint_interval_s=0,
        )  # fmt: skip
        self.store = make_store(trail=self.ledger)
        self.clients = Clients(database, trail=self.ledger, clock=Clock(), platform=PLATFORM)
        self.titles = ae.Registry(self.store)

    def baseline(self) -> None:
        Baseline(
            self.database, self.ledger, platform=PLATFORM, clock=Clock(), registries=REGISTRIES
        ).finish()

    def register(self) -> None:
        self.clients.add("ehr", "hospital-a", SCOPE, "hospital", client_id="ehr-a")
        self.clients.set_scope("ehr-a", "system/Task.rs")
        self.clients.set_origins("ehr-a", ["https://ehr.example"])
        self.clients.disable("ehr-a")
        self.clients.enable("ehr-a")
        self.clients.enable("ehr-a")
        self.titles.register(ae.checked("CT_A", "hospital-a", addresses=["192.0.2.1"]))
        self.titles.register(ae.checked("CT_A", "hospital-a", addresses=["192.0.2.2"]))
        self.titles.set_active("CT_A", False)
        for value in (7, None):
            self.store.transact(
                Caller.system(PLATFORM), lambda uow, v=value: policies.decide(uow, "deadline-unread", Where(), v, "r")
            )

    def report(self) -> offline.Report:
        self.ledger.catch_up()
        return verify(self.database, self.signer.verifier, platform=PLATFORM, registries=REGISTRIES)

    def told(self) -> list[tuple[str, str]]:
        return [(one.kind, one.text) for one in self.report().findings]


@pytest.fixture
def world(database: Database, make_store: Callable[..., Store]) -> Iterator[World]:
    made = World(database, make_store)
    yield made
    made.ledger.close()


def test_what_was_registered_verifies(world: World) -> None:
    """After each kind of change; a token that was fetched is none."""
    world.baseline()
    world.register()
    assert world.report().findings == []
    assert world.report().notes == []
    alter(world.database, update(oauth_client).values(last_token=7))
    assert world.report().findings == []


@pytest.mark.parametrize(
    "values",
    [
        {"scope": "system/*.cruds"}, {"name": "x"}, {"organization": "hospital-b"}, {"role": "admin"},
        {"practitioner": "Practitioner/1"}, {"jwks": '{"keys":[]}'}, {"jwks_uri": "https://a/b"}, {"active": False},
        {"created": 1}, {"origins": ""}, {"disabled_at": 1}, {"disabled_by": "x"},
    ],
)  # fmt: skip
def test_a_client_that_was_altered_is_named(world: World, values: dict[str, object]) -> None:
    world.baseline()
    world.register()
    alter(world.database, update(oauth_client).values(values))
    assert world.told() == [("altered", "client_id/ehr-a is not registered as it was recorded last")]


@pytest.mark.parametrize(
    "values",
    [{"organization": "hospital-b"}, {"active": 1}, {"addresses": ""}, {"certificates": "ab"}, {"sop_classes": "1.2"}],
)
def test_a_title_that_was_altered_is_named(world: World, values: dict[str, object]) -> None:
    world.baseline()
    world.register()
    alter(world.database, update(ae_title).values(values))
    assert world.told() == [("altered", "ae/CT_A is not registered as it was recorded last")]


@pytest.mark.parametrize("values", [{"value": "70"}, {"since": 1}, {"by": "x"}, {"reason": "x"}])
def test_a_policy_that_was_altered_is_named(world: World, values: dict[str, object]) -> None:
    world.baseline()
    world.register()
    alter(world.database, update(policies.policy).where(policies.policy.c.version == 1).values(values))
    assert world.told() == [("altered", "policy/deadline-unread/-/-/-/1 is not registered as it was recorded last")]


def test_a_row_that_was_put_in_or_taken_out_is_named(world: World) -> None:
    world.baseline()
    world.register()
    with world.database.write() as connection:
        row = connection.execute(select(oauth_client)).one()._asdict()
        connection.execute(insert(oauth_client).values({**row, "client_id": "forged"}))
        connection.execute(delete(ae_title))
    assert sorted(world.told()) == [
        ("missing", "ae/CT_A was registered and is gone"),
        ("unrecorded", "client_id/forged is registered without an audit record"),
    ]


def test_what_was_there_before_is_logged_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever removes the mark, so that an altered row is recorded again, is found by that."""
    with monkeypatch.context() as before:
        before.setattr("auth.clients._row", lambda *_: ("", ""))
        before.setattr("dicomweb.ae._with_row", lambda _connection, note, _title: note)
        world.register()
    report = world.report()
    assert report.findings == []
    assert report.notes == ["2 clients and AE titles have no digest in the log yet"]
    world.baseline()
    world.baseline()
    report = world.report()
    assert (report.findings, report.notes) == ([], [])
    alter(world.database, update(ae_title).values(organization="hospital-b"))
    assert [kind for kind, _ in world.told()] == ["altered"]
    alter(world.database, delete(store_setting).where(store_setting.c.name == "registry-baseline"))
    world.baseline()
    assert ("altered", "ae/CT_A was recorded again as if it had always been so") in world.told()


def test_a_change_while_the_baseline_is_taken_holds(world: World) -> None:
    """Its record may come first: what the baseline read was before it."""
    world.register()
    with world.database.write() as connection:
        world.ledger.append(connection, Caller.system(PLATFORM), [Access(
            Interaction.ADMIN, detail=(("operation", registry.BASELINE),), digests=(("client_id/ehr-a", "0" * 64),)
        )], AT)  # fmt: skip
    assert world.told() == []
