"""One item that cannot be worked off holds up none of the others, in any loop of the background process.

Every loop has a row: what its items are and what works on one of them, or the words why no single item can fail in it.
Of four items or more the first and the last are sound; each of the others is poisoned in another way: what works on it
raises an error of the database (a real one: what the transaction did is lost), or a ValueError; or its content is
corrupt. Then the sound ones are worked off, and the poisoned ones are told, counted and kept.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, delete, insert, select, update
from structlog.testing import capture_logs

from audit import finding
from audit.clinical import Found
from audit.tables import audit_inbox, audit_log
from dicomweb.batches import Batch, Origin
from dicomweb.phantom import Phantom, series
from dicomweb.publishing import Publisher
from dicomweb.tables import dicom_series, dicom_study
from fhir_server.server.services import Services
from fhir_server.server.settings import Settings
from store import items
from store.access import Access, Caller, Interaction, Version
from store.collecting import Collector
from store.versions.tables import resource_version, store_setting
from subscriptions import outbox
from subscriptions import service as subscriptions_service
from subscriptions.composition import Composer
from subscriptions.schedule import UNMADE_S
from subscriptions.tables import aside_table, event_table
from subscriptions.topics import ORDER_STATUS
from subscriptions.versions import Versions
from tests import builders
from tests.fhir_server.conftest import Template
from tests.subscriptions.hospital import Hospital, open_hospital
from tests.subscriptions.ward import subscription
from tests.support import Clock
from workflow.escalation import Escalations

STATEMENT = "one statement takes a batch by its age: nothing of a row is read, so none can be at fault"
TOLD = "an item of a loop failed"
KINDS = ("database", "value", "content")


@dataclass
class Ground:
    """The server's parts on a database of their own, at a time that the test tells."""

    services: Services
    clock: Clock
    hospital: Hospital
    client: Caller
    """A hospital's EHR."""
    patch: pytest.MonkeyPatch
    loops: dict[str, Callable[[], bool]] = field(default_factory=dict)
    passed: set[str] = field(default_factory=set)
    """Items whose work ended without a fault."""
    subscription: str = ""

    def poison(self, place: tuple[Any, str], name_of: Callable[..., str], poisons: dict[str, str]) -> None:
        """Have what works on one item raise for these: name → kind."""
        owner, attribute = place
        genuine = getattr(owner, attribute)

        def works(*given: Any, **named: Any) -> Any:
            name = name_of(*given, **named)
            if poisons.get(name) == "value":
                raise ValueError("poisoned")
            if poisons.get(name) == "database":
                self.spoil_transaction([*given, *named.values()])
            done = genuine(*given, **named)
            self.passed.add(name)
            return done

        self.patch.setattr(owner, attribute, works)

    def spoil_transaction(self, given: Sequence[Any]) -> None:
        """An error of the database, in the transaction that the work is given, if any."""
        nothing = insert(store_setting).values(name=None, value=None)
        given = [one if isinstance(one, Connection) else getattr(one, "connection", one) for one in given]
        for connection in given:
            if isinstance(connection, Connection):
                connection.execute(nothing)
        with self.services.database.write() as connection:
            connection.execute(nothing)
        raise AssertionError("the database took it")

    def create(self, *resources: dict[str, Any]) -> list[Version]:
        def write(uow: Any) -> list[Version]:
            return [uow.resources.create(one["resourceType"], one) for one in resources]

        return self.services.store.transact(self.client, write)

    def run(self, statement: Any) -> None:
        with self.services.database.write() as connection:
            connection.execute(statement)

    def rows(self, statement: Any) -> list[Any]:
        with self.services.database.read() as connection:
            return list(connection.execute(statement))

    def subscribe(self, endpoint: str = "", **more: Any) -> str:
        (made,) = self.create(subscription(endpoint or self.hospital.url, topic=ORDER_STATUS, **more))
        self.deliver()
        return made.id

    def orders(self, count: int) -> list[str]:
        (patient,) = self.create(builders.patient())
        order = {"resourceType": "ServiceRequest", "status": "active", "intent": "order", "code": {"text": "ECG"},
                 "subject": {"reference": patient.reference}}  # fmt: skip
        return [made.id for made in self.create(*[order] * count)]

    def deliver(self, seconds: int = 1) -> None:
        for _ in range(seconds):
            for name in ("subscription-sequencer", "subscription-dispatcher"):
                while self.loops[name]():
                    self.services.subscriptions.dispatcher.drain()
            self.clock.advance(seconds=1)


def spoil(ground: Ground, name: str) -> None:
    ground.run(update(resource_version).where(resource_version.c.resource_id == name).values(content="{"))


def of_type(ground: Ground, table: Any, column: Any, *where: Any) -> set[str]:
    return {row[0] for row in ground.rows(select(column).select_from(table).where(*where))}


@dataclass(frozen=True)
class Items:
    """The items of a loop."""

    lay: Callable[[Ground, int], list[str]]
    """Make so many, ready to be worked off; their names."""
    place: tuple[Any, str]
    """What works on one of them, and…"""
    name_of: Callable[..., str]
    """…on which, by its arguments."""
    done: Callable[[Ground], set[str]]
    """Those that were worked off."""
    kept: Callable[[Ground], set[str]]
    """Those that are still there to be worked off, or as what could not be."""
    spoil: Callable[[Ground, str], None] | None = spoil
    """Alter its content; None: it has none that is read."""
    turn: Callable[[Ground], None] | None = None
    """Work off; None: turn the loop until it rests."""
    told: tuple[str, ...] = (TOLD,)
    """Events of the log."""


def changes(ground: Ground, count: int) -> list[str]:
    ground.subscription = ground.subscribe(max_count=9)
    return ground.orders(count)


def events(ground: Ground, count: int) -> list[str]:
    names = changes(ground, count)
    while ground.loops["subscription-sequencer"]():
        pass
    return names


def told_whole(ground: Ground) -> set[str]:
    """What was told with its content, not only by number."""
    focused = (event["focus"]["reference"] for one in ground.hospital.of("event-notification") for event in one.events
               if "focus" in event)  # fmt: skip
    return {reference.partition("/_history")[0].rpartition("/")[2] for reference in focused}


def set_aside(ground: Ground) -> set[str]:
    event, its = event_table.c, aside_table.c
    same = (event.subscription_id == its.subscription_id) & (event.number == its.number)
    return {row[0] for row in ground.rows(select(event.resource_id).join(aside_table, same))}


def ending(ground: Ground, count: int) -> list[str]:
    end = (ground.clock() + timedelta(hours=1)).isoformat()
    names = [ground.subscribe(end=end) for _ in range(count)]
    ground.clock.advance(hours=2)
    return names


def ended(ground: Ground, status: str) -> set[str]:
    return {one.subscription_id for one in states(ground) if (one.status == "off") == (status == "off")}


def states(ground: Ground) -> list[outbox.State]:
    with ground.services.database.read() as connection:
        return outbox.of_organization(connection, ground.client.organization)


def aside(ground: Ground, count: int) -> list[str]:
    """Set aside, and then put right."""
    names = events(ground, count)
    contents = dict(ground.rows(select(resource_version.c.resource_id, resource_version.c.content)))
    for name in names:
        spoil(ground, name)
    ground.deliver(int(sum(UNMADE_S)) + 3)
    assert set_aside(ground) == set(names)
    for name in names:
        its = resource_version.c.resource_id == name
        ground.run(update(resource_version).where(its).values(content=contents[name]))
    return names


def studies(ground: Ground, count: int) -> list[str]:
    names = [f"1.2.826.0.1.3680043.10.999.5.{number}" for number in range(count)]
    batch = Batch(ground.client, Origin("c-store"))
    for name in names:
        (file,) = series(Phantom(slices=1, side=8, study_instance_uid=name))
        assert ground.services.imaging.ingest.store_instance(file, batch).result.is_stored
    ground.clock.advance(minutes=1)
    return names


def spoil_study(ground: Ground, name: str) -> None:
    its = dicom_series.c.study_pk.in_(select(dicom_study.c.pk).where(dicom_study.c.study_instance_uid == name))
    ground.run(update(dicom_series).where(its).values(attributes=zlib.compress(b"{")))


def tasks(ground: Ground, count: int) -> list[str]:
    late = {"period": {"end": (ground.clock() - timedelta(minutes=1)).isoformat()}}

    def write(uow: Any) -> list[str]:
        made = [uow.system.create("Task", builders.workflow_task("read", restriction=late)) for _ in range(count)]
        return [one.id for one in made]

    return ground.services.store.transact(Caller.system(ground.services.settings.platform), write)


def records(ground: Ground, count: int) -> list[str]:
    assert ground.services.ledger.catch_up()
    names = [f"item-{number}" for number in range(count)]
    accesses = [Access(Interaction.READ, "Patient", name, 1) for name in names]
    with ground.services.database.write() as connection:
        ground.services.ledger.append(connection, ground.client, accesses, ground.clock())
    return names


def recorded(ground: Ground, *, unread: bool) -> set[str]:
    texts = [f"{row[0]} {row[1]}" for row in ground.rows(select(audit_log.c.head, audit_log.c.particulars))]
    return {f"item-{n}" for n in range(9) for text in texts if f"item-{n}" in text and ("unread" in text) == unread}


def spoil_record(ground: Ground, name: str) -> None:
    entry = '{"access": {"id": "' + name
    ground.run(update(audit_inbox).where(audit_inbox.c.entry.contains(f'"{name}"')).values(entry=entry))


def undigested(ground: Ground, count: int) -> list[str]:
    """Versions of before there were digests: no record names any."""
    assert ground.services.ledger.catch_up()
    ground.services.baseline().finish()
    made = ground.create(*[builders.patient() for _ in range(count)])
    ground.run(update(resource_version).where(resource_version.c.pk.in_([one.pk for one in made])).values(salt=None))
    ground.run(delete(audit_inbox))
    return [f"Patient/{one.id}/_history/1" for one in made]


def salted(ground: Ground, *, has: bool) -> set[str]:
    salt = resource_version.c.salt
    where = salt.isnot(None) if has else salt.is_(None)
    return {f"Patient/{row[0]}/_history/1" for row in ground.rows(select(resource_version.c.resource_id).where(where))}


def folders_of(ground: Ground) -> list[Path]:
    return [ground.services.settings.data / "spool", ground.services.settings.objects_folder / "incoming"]


def leftovers(ground: Ground, count: int) -> list[str]:
    for folder in folders_of(ground):
        for number in range(count):
            (folder / f"left-{number}").write_bytes(b"")
            os.utime(folder / f"left-{number}", (0, time.time() - 10 * 86400))
    return [f"left-{number}" for number in range(count)]


def spoil_leftover(ground: Ground, name: str) -> None:
    """The system will not remove it: a folder is in its place."""
    for folder in folders_of(ground):
        (folder / name).unlink()
        (folder / name).mkdir()
        os.utime(folder / name, (0, time.time() - 10 * 86400))


def lying(ground: Ground, *, everywhere: bool) -> set[str]:
    found = [{path.name for path in folder.iterdir()} for folder in folders_of(ground)]
    return set.intersection(*found) if everywhere else set.union(*found)


def compared(ground: Ground, count: int) -> list[str]:
    return [ground.services.objects.folders()[number] for number in range(count)]


def spoil_folder(ground: Ground, name: str) -> None:
    place = ground.services.objects.path(name + "0" * 62).parent
    place.rmdir()
    place.write_bytes(b"")


def compare(ground: Ground) -> None:
    for _ in range(6):
        assert not ground.loops["objects-compared"]()


def maintain(ground: Ground) -> None:
    assert not ground.loops["subscription-maintenance"]()


ROWS: dict[str, Items | str] = {
    "audit-sequencer": Items(
        records, (finding, "keys"), lambda head, *_: head.get("access", {}).get("id", ""),
        lambda ground: recorded(ground, unread=False), lambda ground: recorded(ground, unread=True), spoil_record,
        lambda ground: _until_idle(ground, "audit-sequencer", at_least=9),
        told=(TOLD, "an audit entry cannot be read: it is logged as it stands"),
    ),
    "digest-baseline": Items(
        undigested, (Found, "digest_under"), lambda one, _salt: one.reference,
        lambda ground: salted(ground, has=True), lambda ground: salted(ground, has=False), None,
    ),
    "expired tokens": STATEMENT,
    "imaging-studies": Items(
        studies, (Publisher, "publish_row"), lambda _self, _uow, row: row.study_instance_uid,
        lambda ground: of_type(
            ground, dicom_study, dicom_study.c.study_instance_uid, dicom_study.c.published == dicom_study.c.revision),
        lambda ground: of_type(
            ground, dicom_study, dicom_study.c.study_instance_uid, dicom_study.c.published < dicom_study.c.revision),
        spoil_study,
    ),
    # What cannot be judged is passed over: its version is kept, and the subscription is in error.
    "subscription-sequencer": Items(
        changes, (Versions, "visible"), lambda _self, _connection, _caller, version: version.id,
        lambda ground: of_type(ground, event_table, event_table.c.resource_id),
        lambda ground: of_type(ground, resource_version, resource_version.c.resource_id),
    ),
    "subscription-dispatcher": Items(
        events, (Versions, "visible"), lambda _self, _connection, _caller, version: version.id,
        told_whole, set_aside, turn=lambda ground: ground.deliver(int(sum(UNMADE_S)) + 3),
    ),
    "subscription-maintenance": Items(
        ending, (subscriptions_service, "_turn_off"), lambda _uow, subscription_id: subscription_id,
        lambda ground: ended(ground, "off"), lambda ground: ended(ground, "active"), turn=maintain,
    ),
    "subscription-maintenance: set aside": Items(
        aside, (Composer, "can_make"), lambda _self, _state, row: row.resource_id,
        lambda ground: of_type(ground, event_table, event_table.c.resource_id, event_table.c.number > 4),
        set_aside, None, maintain,  # content: tests/subscriptions/test_set_aside.py
    ),
    "escalation": Items(
        tasks, (Escalations, "raise_"), lambda _self, _uow, row: row.subject.removeprefix("Task/"),
        lambda ground: ground.passed,
        lambda ground: of_type(ground, resource_version, resource_version.c.resource_id),
    ),
    "reading-load": STATEMENT,
    "sweep": STATEMENT,
    "statistics": "it takes no items",
    "objects": Items(
        leftovers, (Path, "unlink"), lambda path, **_: path.name,
        lambda ground: {f"left-{number}" for number in range(9)} - lying(ground, everywhere=False),
        lambda ground: lying(ground, everywhere=True), spoil_leftover,
    ),
    "objects-compared": Items(
        compared, (Collector, "look"), lambda _self, folder, *_: folder, lambda ground: ground.passed,
        lambda ground: set(ground.services.objects.folders()), spoil_folder, compare,
    ),
}  # fmt: skip


def _until_idle(ground: Ground, loop: str, *, at_least: int = 1) -> None:
    turns = 0
    while ground.loops[loop]() or turns < at_least:
        turns += 1
        time.sleep(0.02)
        assert turns < 1000, "it does not come to rest"


@pytest.fixture
def ground(settings: Settings, template: Template, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ground]:
    clock = Clock(datetime.now(UTC))
    services = Services.of(settings, clock=clock)
    client = services.authority.caller_of(template.keys["hospital-a"][0])
    assert client is not None
    with open_hospital() as hospital, monkeypatch.context() as patch:
        loops = {loop.name: loop.step for loop in services.loops}
        yield Ground(services, clock, hospital, client, patch, loops)
    services.close()


@contextmanager
def counted() -> Iterator[list[str]]:
    found: list[str] = []
    items.count_with(found.append)
    yield found
    items._counts.clear()


def test_every_loop_has_its_row(ground: Ground) -> None:
    """A loop that is added says what its items are."""
    assert set(ground.loops) == {name.partition(":")[0] for name in ROWS}


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if isinstance(row, Items)])
def test_one_poisoned_item_holds_up_no_other(ground: Ground, name: str) -> None:
    row, loop = ROWS[name], name.partition(":")[0]
    assert isinstance(row, Items)
    kinds = [kind for kind in KINDS if kind != "content" or row.spoil]
    laid = row.lay(ground, len(kinds) + 2)
    sound, poisoned = {laid[0], laid[-1]}, dict(zip(laid[1:-1], kinds, strict=True))
    if row.spoil:
        row.spoil(ground, laid[1 + kinds.index("content")])
    ground.poison(row.place, row.name_of, poisoned)
    with counted() as failed, capture_logs() as told:
        if row.turn:
            row.turn(ground)
        else:
            _until_idle(ground, loop)
    assert row.done(ground) & set(laid) == sound
    assert row.kept(ground) >= set(poisoned)
    lines = [one for one in told if one["event"] in row.told]
    assert {one.get("loop", loop) for one in lines} == {loop}
    assert len(lines) >= len(poisoned)
    assert set(failed) == {loop}
    assert not [one for one in told if one["event"] == "a loop failed"]
