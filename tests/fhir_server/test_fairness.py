"""One who produces ten thousand entries makes nobody's single one wait behind them, in any queue.

Every queue that is told has a row: what is laid into it, and in how many turns of its loop the single entry, which came
last, is worked off; or the words why its entries have one order, or no producers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import Table, insert, select, update

from audit.service import Ledger
from audit.tables import audit_inbox, audit_log
from dicomweb.batches import Batch, Origin
from dicomweb.phantom import Phantom, series
from dicomweb.tables import dicom_study
from resources.times import microseconds
from store.access import Access, Interaction
from subscriptions.matching import SUBSCRIPTIONS_MAX
from subscriptions.tables import event_table, state_table
from tests.fhir_server.test_loops import Ground
from tests.fhir_server.test_loops import ground as ground  # the fixture
from tests.support import caller

MANY = 10_000


@dataclass(frozen=True)
class Fair:
    """A queue in which producers take turns."""

    lay: Callable[[Ground], None]
    """Many entries of one producer, then one of another."""
    loop: str
    is_done: Callable[[Ground], bool]
    """Whether the one is worked off…"""
    left: Callable[[Ground], int]
    """…and how many of the others are not yet."""
    turns: int = 1


def copies(ground: Ground, table: Table, given: Any, changed: Callable[[int], dict[str, Any]], count: int) -> None:
    """Lay `count` copies of a row, altered."""
    row = {name: value for name, value in given._mapping.items() if name != "pk"}
    with ground.services.database.write() as connection:
        connection.execute(insert(table), [{**row, **changed(number)} for number in range(1, count + 1)])


def subscribed(ground: Ground) -> tuple[str, str]:
    """Two subscriptions, of one organisation, to endpoints of their own; an event of each is delivered."""
    names = ground.subscribe(), ground.subscribe(endpoint=ground.hospital.url.replace("127.0.0.1", "localhost"))
    ground.orders(1)
    ground.deliver()
    return names


def events(ground: Ground) -> None:
    """Ten thousand of one subscription."""
    busy, other = subscribed(ground)
    now, its = microseconds(ground.clock()), state_table.c.subscription_id
    for name, count in ((busy, MANY), (other, 1)):
        (event,) = ground.rows(select(event_table).where(event_table.c.subscription_id == name))
        copies(ground, event_table, event, lambda number: {"number": 1 + number}, count)
        ground.run(update(state_table).where(its == name).values(events=1 + count, due_at=now))
        now += 1
    ground.subscription = other
    ground.clock.advance(seconds=1)


def subscriptions(ground: Ground) -> None:
    """As many as an organisation may have, to one endpoint, each with an event that is due."""
    busy, other = subscribed(ground)
    now, its = microseconds(ground.clock()), state_table.c.subscription_id
    ground.run(update(state_table).where(its.in_([busy, other])).values(events=2, due_at=now))
    ground.run(update(state_table).where(its == other).values(due_at=now + 1))
    states = ground.rows(select(state_table).where(its == busy))
    (event,) = ground.rows(select(event_table).where(event_table.c.subscription_id == busy))
    copies(ground, state_table, states[0], lambda number: {"subscription_id": f"s-{number}"}, SUBSCRIPTIONS_MAX)
    for name in (busy, other):
        copies(ground, event_table, event, lambda _, name=name: {"subscription_id": name, "number": 2}, 1)
    copies(
        ground, event_table, event, lambda number: {"subscription_id": f"s-{number}", "number": 2}, SUBSCRIPTIONS_MAX)
    ground.subscription = other
    ground.clock.advance(seconds=1)


def is_delivered(ground: Ground) -> bool:
    ground.services.subscriptions.dispatcher.drain()
    its = state_table.c.subscription_id == ground.subscription
    return bool(ground.rows(select(state_table.c.delivered).where(its, state_table.c.delivered == 2)))


def undelivered(ground: Ground) -> int:
    return sum(row[0] for row in ground.rows(select(state_table.c.events - state_table.c.delivered)))


def studies(ground: Ground) -> None:
    """A crash left ten thousand of one hospital unpublished."""
    for hospital, uid in ((ground.client.organization, "1.2.3.1"), ("hospital-b", "1.2.3.2")):
        (file,) = series(Phantom(slices=1, side=8, study_instance_uid=uid))
        batch = Batch(caller(hospital), Origin("c-store"))
        assert ground.services.imaging.ingest.store_instance(file, batch).result.is_stored
        ground.clock.advance(seconds=1)
    (study,) = ground.rows(select(dicom_study).where(dicom_study.c.study_instance_uid == "1.2.3.1"))
    uid_of = "2.25.{}".format
    copies(
        ground, dicom_study, study,
        lambda number: {"study_instance_uid": uid_of(number), "imaging_study_id": f"study-{number}"}, MANY)
    ground.clock.advance(minutes=1)


def unpublished(ground: Ground) -> set[str]:
    where = dicom_study.c.published < dicom_study.c.revision
    return {row[0] for row in ground.rows(select(dicom_study.c.study_instance_uid).where(where))}


def spooled(ground: Ground) -> None:
    """Ten thousand writes wait in the inbox, and a read beside them (SQLite)."""
    ledger: Ledger = ground.services.ledger
    assert ledger.catch_up()
    with ground.services.database.write() as connection:
        ledger.append(connection, ground.client, [Access(Interaction.UPDATE, "Patient", "p", 1)], ground.clock())
    (row,) = ground.rows(select(audit_inbox))
    copies(ground, audit_inbox, row, lambda number: {"event_id": f"{number:08d}{row.event_id[8:]}"}, MANY)
    ledger.disclose(ground.client, [Access(Interaction.READ, "Patient", "alone", 1)], ground.clock())


def is_logged(ground: Ground) -> bool:
    return bool(ground.rows(select(audit_log.c.seq).where(audit_log.c.head.contains('"alone"'))))


ONE_ORDER = "one order by design, that in which it was written (decision 0015); what is behind is told by its age"
FOUND = "findings, and no work: an operator sees to them"

ROWS: dict[str, tuple[Fair, ...] | str] = {
    "audit-inbox": f"{ONE_ORDER}; beyond a bound, readers are refused by their share (tests/audit/test_pressure.py)",
    "audit-spool": (Fair(spooled, "audit-sequencer", is_logged, lambda ground: ground.services.ledger.waiting()),),
    "audit-spool-damaged": FOUND,
    "subscription-changes": f"{ONE_ORDER}: per resource and of all, as there is one to number them",
    "deliveries-due": (
        Fair(events, "subscription-dispatcher", is_delivered, undelivered),
        Fair(subscriptions, "subscription-dispatcher", is_delivered, undelivered),
    ),
    "deliveries-failing": "of deliveries-due those that failed: threads of their own, one request for each endpoint",
    "subscriptions-in-error": FOUND,
    "events-set-aside": "nothing waits for them: all are tried once an hour",
    "studies-unpublished": (
        Fair(studies, "imaging-studies", lambda ground: "1.2.3.2" not in unpublished(ground),
             lambda ground: len(unpublished(ground))),
    ),
    "objects-without-rows": FOUND,
    "rows-without-objects": FOUND,
    "versions-to-index": "made anew by an operator's command, in the order of their keys",
}  # fmt: skip
CASES = {
    f"{name} {number}": row
    for name, rows in ROWS.items() if isinstance(rows, tuple)
    for number, row in enumerate(rows)
}  # fmt: skip


def test_every_queue_has_its_row(ground: Ground) -> None:
    """A queue that is added says who waits for whom."""
    with ground.services.database.read() as connection:
        found = set(ground.services.queues(connection))
    spool = {"audit-spool", "audit-spool-damaged"}  # of SQLite
    assert found | spool == set(ROWS)


@pytest.mark.parametrize("name", CASES)
def test_ten_thousand_of_one_hold_up_no_single_one(ground: Ground, name: str) -> None:
    row = CASES[name]
    if name.startswith("audit-spool") and not ground.services.database.is_sqlite:
        return
    row.lay(ground)
    before = row.left(ground)
    assert before >= SUBSCRIPTIONS_MAX
    for _ in range(row.turns):
        ground.loops[row.loop]()
    assert row.is_done(ground)
    assert row.left(ground) > before / 2, "it was no matter of having worked off all"
