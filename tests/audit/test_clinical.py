"""The clinical record is proven: each version against the digest in the record of its write. docs/audit.md, Verifying

A digest that is not compared proves nothing, so every case here alters a row behind the server's back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import delete, insert, select, update

from audit import clinical
from audit.baseline import Baseline
from audit.checkpoint import Signer
from audit.service import Ledger
from resources.registry import type_id
from store.access import Access, Caller, Interaction
from store.engine.database import Database
from store.unit_of_work import Store
from store.versions import digests
from store.versions.audiences import audience_id
from store.versions.tables import MAX, audience_member, resource_version
from tests.audit.logbook import AT, alter, judged, logged
from tests.support import PLATFORM, Clock, caller, patient

v = resource_version.c


@pytest.fixture
def filled(make_store: Callable[..., Store], ledger: Ledger) -> Store:
    """A patient with three versions, the last a deletion; another hospital's; an Organization for everybody."""
    store = make_store(trail=ledger)
    with store.work(caller()) as uow:
        uow.resources.create("Patient", patient(), id="p-1")
        uow.resources.create("Organization", {"resourceType": "Organization", "name": "x"}, id="o-1")
    with store.work(caller()) as uow:
        uow.resources.update("Patient", "p-1", {**patient("Durand"), "id": "p-1"})
    with store.work(caller()) as uow:
        uow.resources.delete("Patient", "p-1")
    with store.work(caller("hospital-b")) as uow:
        uow.resources.create("Patient", patient("Zoé"), id="p-2")
    assert ledger.catch_up()
    return store


def told(database: Database, signer: Signer) -> list[tuple[str, str]]:
    report = judged(database, signer)
    return [(one.kind, one.text) for one in report.findings]


def test_what_was_written_verifies(filled: Store, database: Database, signer: Signer) -> None:
    assert judged(database, signer).findings == []
    assert judged(database, signer).notes == []


def test_the_record_of_a_write_says_the_digest_of_its_version(filled: Store, database: Database) -> None:
    """Under the version's own salt, over names; the AuditEvent says nothing of it."""
    with database.read() as connection:
        found = {one.reference: one for one in clinical.versions(connection)}
    said = {
        one.reference: one.digest for row in logged(database)
        for _, one in clinical.said(row.head or "", row.particulars, row.seq)
    }  # fmt: skip
    assert said == {reference: one.digest for reference, one in found.items()}
    assert len(said) == 5
    one = found["Patient/p-2/_history/1"]
    assert (one.owner, one.audience) == (("hospital-b",), ("hospital-b", PLATFORM))
    assert one.salt is not None
    assert len({one.salt for one in found.values()}) == 5
    assert len(one.salt) == digests.SALT_BYTES


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("content", '{"resourceType":"Patient","id":"p-2","name":[{"family":"Other"}]}'),
        ("patients", "p-1"),
        ("deleted", 1),
        ("deleted", 2),
        ("method", "PUT"),
        ("owner_id", audience_id(["hospital-a"])),
        ("audience_id", audience_id(["hospital-a", PLATFORM])),
        ("last_updated", 1),
        ("salt", bytes(16)),
        ("salt", None),
    ],
)
def test_a_version_that_was_altered_is_named(
    filled: Store, database: Database, signer: Signer, column: str, value: object
) -> None:
    """security.md M6: a signed report could be changed in place, or shown to everybody."""
    alter(database, update(resource_version).where(v.resource_id == "p-2").values({column: value}))
    found = told(database, signer)
    assert [kind for kind, _ in found] == ["altered"]
    assert "Patient/p-2/_history/1" in found[0][1]


@pytest.mark.parametrize(
    "values", [{"resource_id": "p-3"}, {"version": 9}, {"type_id": type_id("Group")}, {"type_id": 9999}]
)
def test_a_version_under_another_name_is_named_twice(
    filled: Store, database: Database, signer: Signer, values: dict[str, Any]
) -> None:
    """One that nobody wrote is there, and one that somebody wrote is gone."""
    alter(database, update(resource_version).where(v.resource_id == "p-2").values(values))
    found = told(database, signer)
    assert sorted(kind for kind, _ in found) == ["missing", "unrecorded"]
    assert any("Patient/p-2/_history/1 was written and is gone" in text for _, text in found)


@pytest.mark.parametrize("values", [{"valid_from": MAX - 1}, {"valid_to": 5}, {"tx_id": 1}])
def test_a_version_that_is_shown_at_another_time_is_named(
    filled: Store, database: Database, signer: Signer, values: dict[str, Any]
) -> None:
    """A current version that is hidden by its span: `valid_to` is the transaction of the next version."""
    alter(database, update(resource_version).where(v.resource_id == "p-2").values(values))
    assert any(kind == "altered" and "Patient/p-2/_history/1" in text for kind, text in told(database, signer))


def test_a_version_that_is_shown_again_is_named(filled: Store, database: Database, signer: Signer) -> None:
    alter(database, delete(resource_version).where(v.resource_id == "p-1", v.version == 3))
    alter(database, update(resource_version).where(v.resource_id == "p-1", v.version == 2).values(valid_to=MAX))
    assert told(database, signer) == [("missing", "Patient/p-1/_history/3 was written and is gone")]
    alter(database, update(resource_version).where(v.resource_id == "p-1", v.version == 1).values(valid_to=MAX - 1))
    assert len(told(database, signer)) == 2


def test_an_audience_that_was_widened_is_named(filled: Store, database: Database, signer: Signer) -> None:
    """Each version that it shows, and the audience itself: also one that no version has."""
    number = audience_id(["hospital-b", PLATFORM])
    with database.write() as connection:
        connection.execute(insert(audience_member).values(audience_id=number, organization="*"))
        connection.execute(insert(audience_member).values(audience_id=7, organization="nobody"))
    found = told(database, signer)
    assert ("altered", "Patient/p-2/_history/1 is not what was written") in found
    assert any(f"the audience {number} is not that of *, hospital-b" in text for _, text in found)
    assert any("the audience 7 is not that of nobody" in text for _, text in found)
    assert len(found) == 3


def test_a_version_that_was_put_in_or_taken_out_is_named(filled: Store, database: Database, signer: Signer) -> None:
    with database.write() as connection:
        row = connection.execute(select(resource_version).where(v.resource_id == "p-2")).one()._asdict()
        connection.execute(insert(resource_version).values({**row, "pk": 99_999, "resource_id": "forged"}))
        connection.execute(insert(resource_version).values({**row, "pk": 99_998, "resource_id": "f-2", "salt": None}))
        connection.execute(delete(resource_version).where(v.resource_id == "o-1"))
    assert sorted(told(database, signer)) == [
        ("missing", "Organization/o-1/_history/1 was written and is gone"),
        ("unrecorded", "Patient/f-2/_history/1 was written without an audit record"),
        ("unrecorded", "Patient/forged/_history/1 was written without an audit record"),
    ]


def test_what_waits_to_be_sequenced_is_compared_too(
    filled: Store, database: Database, signer: Signer
) -> None:
    with filled.work(caller()) as uow:
        uow.resources.create("Patient", patient(), id="p-9")
    assert judged(database, signer).findings == []
    alter(database, update(resource_version).where(v.resource_id == "p-9").values(method="PUT"))
    assert [kind for kind, _ in told(database, signer)] == ["altered"]


def test_a_version_that_was_erased_on_legal_grounds_is_told_apart(
    filled: Store, ledger: Ledger, database: Database, signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row and salt are gone; the record of the purge says which versions, by the digests that they had."""
    monkeypatch.setattr(clinical, "BUCKETS", 1)  # so that all are compared where one is wrong
    with database.read() as connection:
        gone = [one for one in clinical.versions(connection) if one.id == "p-1"]
    with database.write() as connection:
        connection.execute(delete(resource_version).where(v.resource_id == "p-1"))
        ledger.append(connection, Caller.system(PLATFORM), [Access(
            Interaction.ADMIN, detail=(("operation", clinical.PURGE),),
            digests=tuple((one.reference, one.digest or "") for one in gone),
        )], AT)  # fmt: skip
    assert ledger.catch_up()
    report = judged(database, signer)
    assert report.findings == []
    assert report.notes == ["3 versions were erased on legal grounds, and are on record so"]
    with database.write() as connection:
        connection.execute(delete(resource_version).where(v.resource_id == "p-2"))
    assert told(database, signer) == [("missing", "Patient/p-2/_history/1 was written and is gone")]


def test_the_digest_is_over_each_field_and_where_it_ends() -> None:
    """Length-prefixed: what one field loses another cannot take over."""
    fields: dict[str, Any] = {
        "type": "Patient", "id": "1", "version": 1, "tx": 2, "at_us": 3, "deleted": False, "method": "PUT",
        "owner": "a", "audience": ["b", "c"], "patients": "p", "content": b"{}",
    }  # fmt: skip
    others: list[dict[str, Any]] = [
        {"type": "Patien", "id": "t1"}, {"id": "2"}, {"version": 12, "tx": 2}, {"version": 1, "tx": 22}, {"at_us": 4},
        {"deleted": True}, {"method": "POST"}, {"owner": "ab"}, {"audience": ["b"]}, {"audience": ["b,c"]},
        {"audience": [], "patients": "b"}, {"patients": ""}, {"content": b""}, {"content": b"{} "},
    ]  # fmt: skip
    own = digests.digest(bytes(16), **fields)
    assert own == digests.digest(bytes(16), **fields | {"audience": ["c", "b"]})
    made = {digests.digest(bytes(16), **fields | other) for other in others}
    for one, other in (
        ({"method": "PUT,a", "owner": "b"}, {"method": "PUT", "owner": "a,b"}),
        ({"type": "Patient", "id": "1,3:1,2"}, {"type": "Patient,1", "id": "3:1,2"}),
    ):
        assert digests.digest(bytes(16), **fields | one) != digests.digest(bytes(16), **fields | other)
    assert len(made | {own, digests.digest(bytes(15) + b"1", **fields)}) == len(others) + 2


# --- versions from before there were digests


def undigest(database: Database) -> None:
    """As the version before left them."""
    alter(database, update(resource_version).values(salt=None))


@pytest.fixture
def old(make_store: Callable[..., Store], make_ledger: Callable[..., Ledger], database: Database) -> Ledger:
    """Ten patients, written by a server that knew no digests."""
    ledger = make_ledger()

    class Before:
        shelf = None
        disclose = staticmethod(ledger.disclose)

        @staticmethod
        def append(connection: Any, who: Caller, accesses: Any, at: Any) -> None:
            ledger.append(connection, who, [replace(one, digest=None) for one in accesses], at)

    store = make_store(trail=Before())
    for number in range(10):
        with store.work(caller()) as uow:
            uow.resources.create("Patient", patient(), id=f"q-{number}")
    undigest(database)
    assert ledger.catch_up()
    return ledger


def baseline(database: Database, ledger: Ledger, batch: int = 3) -> Baseline:
    return Baseline(database, ledger, platform=PLATFORM, clock=Clock(), batch=batch)


def test_versions_of_before_get_their_digests_and_go_on(
    old: Ledger, database: Database, signer: Signer
) -> None:
    """In portions, marked as a baseline; a process that dies in between leaves nothing half done."""
    report = judged(database, signer)
    assert report.findings == []
    assert "10 versions have no digest in the log yet" in report.notes
    assert baseline(database, old).step()
    assert judged(database, signer).findings == []
    assert baseline(database, old).finish() == 3
    assert old.catch_up()
    assert judged(database, signer).findings == []
    assert judged(database, signer).notes == []
    records = [row for row in logged(database) if clinical.BASELINE in row.particulars]
    assert [row.particulars.count("_history/1") for row in records] == [3, 3, 3, 1]
    alter(database, update(resource_version).where(v.resource_id == "q-5").values(content="{}"))
    assert [kind for kind, _ in told(database, signer)] == ["altered"]


def test_a_baseline_is_no_record_of_a_write(old: Ledger, database: Database, signer: Signer) -> None:
    """Whoever puts a row in and waits until it is digested has still no record that it was written."""
    with database.write() as connection:
        row = connection.execute(select(resource_version).where(v.resource_id == "q-1")).one()._asdict()
        connection.execute(insert(resource_version).values({**row, "pk": 99_999, "resource_id": "forged"}))
    assert [kind for kind, _ in told(database, signer)] == ["unrecorded"]
    baseline(database, old).finish()
    assert old.catch_up()
    assert told(database, signer) == [
        ("unrecorded", "Patient/forged/_history/1 was there without an audit record of its write")
    ]


def test_a_version_that_lost_its_salt_gets_no_other(
    filled: Store, ledger: Ledger, database: Database, signer: Signer
) -> None:
    """Else whoever alters a version would have it digested anew."""
    alter(database, update(resource_version).where(v.resource_id == "p-2").values(salt=None, method="PUT"))
    baseline(database, ledger).finish()
    assert ledger.catch_up()
    assert told(database, signer) == [("altered", "Patient/p-2/_history/1 has lost the salt of its digest")]


def test_nothing_to_do_costs_one_look(filled: Store, ledger: Ledger, database: Database) -> None:
    before = len(logged(database))
    assert baseline(database, ledger).finish() == 0
    assert ledger.catch_up()
    assert len(logged(database)) == before
