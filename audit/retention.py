"""How long records are kept, what a legal hold keeps longer, and the purge that leaves every other proof valid.

A purge empties a record: head, particulars, parts and salts go, with what it is found by. Position, id, leaf and
instants stay, so the tree, every checkpoint and the proofs of all others hold. Which positions were emptied is a record
of the log itself, written in the same transaction: what is empty without one is missing (`audit.offline.Judge`).

What proves something else is never purged: writes (their digests prove the clinical record), acts of administration
(they prove the registry, and what was purged), and what cannot be read.

Durations: CNIL 2021-122 and the three years of EHDS article 9; CSP R. 1112-7 for what is part of the record.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import orjson
from sqlalchemy import Connection, bindparam, delete, func, insert, select, text, update

from audit import finding, forms, months, queries
from audit.forms import FORM_1, Row
from audit.offline import PURGE, spans_text
from audit.patterns import PATTERNS
from audit.tables import audit_hold, audit_index, audit_log, audit_purge
from store.engine.locks import lock

DAY_US = 86_400_000_000
BATCH = 500
"""Records of one transaction."""
LOCK = "audit purge"
EVERYTHING = "*"
"""A hold of this keeps all records."""


class Class(NamedTuple):
    """What is kept how long, at least."""

    days: int
    what: str


CLASSES = {
    "security": Class(3 * 366, "tokens, their revocation and introspection, refusals of strangers"),
    "access": Class(20 * 366, "reads, searches, retrievals, disclosures, operations, with their refusals"),
}
"""docs/audit.md lists them. What is in none of them is not purged."""

_SECURITY = frozenset({"token", "revoke", "introspect"})
_SECURITY_TYPES = frozenset({"110113", "110114"})
_PROVING = frozenset({"admin"})
_PROVING_TYPES = frozenset({"110100"})


class Hold(NamedTuple):
    """A patient's records, or all, are kept until it is released."""

    patient: str
    reason: str
    since: int


class Purged(NamedTuple):
    """What one batch emptied."""

    positions: tuple[int, ...]
    events: int
    held: int
    """Records that were due and are held."""
    last: int
    """Position up to which was looked; 0: there is nothing more."""


def class_of(row: Row) -> str | None:
    """The class of a record; None: it is not purged."""
    try:
        if row.form == FORM_1:
            return _class_of_event(orjson.loads(row.head or ""))
        head, particulars = forms.texts_of(row)
        access = head["access"]
        interaction = access["interaction"]
        proves = "digest" in access or "digests" in particulars or "unread" in particulars
        if proves or interaction in _PROVING or PATTERNS[interaction].action in "CUD":
            return None
        is_strangers = not head.get("caller", {}).get("organization") and "outcome" in access
        return "security" if interaction in _SECURITY or is_strangers else "access"
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _class_of_event(event: dict[str, object]) -> str | None:
    coding = event["type"]
    code = coding["code"] if isinstance(coding, dict) else ""
    if event["action"] in ("C", "U", "D") or code in _PROVING_TYPES:
        return None
    return "security" if code in _SECURITY_TYPES else "access"


def patients_of(row: Row) -> set[str]:
    """References of the patients that a record concerns."""
    if row.form != FORM_1:
        return {part.patient for part in forms.parts_of(row) if part.patient}
    event = orjson.loads(row.head or "{}")
    named = (entity.get("what", {}).get("reference", "") for entity in event.get("entity", ()))
    return {reference for reference in named if reference.startswith("Patient/")}


# --- holds


def hold(connection: Connection, patient: str, reason: str, at: int) -> None:
    """Keep the records of a patient (``Patient/id``), or EVERYTHING."""
    connection.execute(insert(audit_hold).values(patient=patient, reason=reason, since=at, released=None))


def release(connection: Connection, patient: str, at: int) -> int:
    """End the holds of a patient; how many there were."""
    held = audit_hold.c
    statement = update(audit_hold).where(held.patient == patient, held.released.is_(None)).values(released=at)
    return connection.execute(statement).rowcount


def holds(connection: Connection) -> list[Hold]:
    """Those that are in force, oldest first."""
    held = audit_hold.c
    rows = connection.execute(
        select(held.patient, held.reason, held.since).where(held.released.is_(None)).order_by(held.pk)
    )
    return [Hold(*row) for row in rows]


# --- purge


def purge(connection: Connection, name: str, before: int, after: int) -> Purged:
    """Empty the next records of class `name` recorded before `before` (µs), from behind position `after`.

    In the transaction of `connection`; the caller records it there (`record_detail`).
    """
    lock(connection, LOCK)
    kept = {one.patient for one in holds(connection)}
    log = audit_log.c
    due = (
        select(log.seq).where(
            log.recorded < before, log.seq > after, log.head.is_not(None), *months.of_positions(connection, after + 1)
        )
        .order_by(log.seq).limit(BATCH)
    )  # fmt: skip
    rows = list(queries.rows(connection, [int(row[0]) for row in connection.execute(due)]).values())
    if not rows:
        return Purged((), 0, 0, 0)
    of_class = sorted((row for row in rows if class_of(row) == name), key=lambda row: row.seq)
    free = [row for row in of_class if EVERYTHING not in kept and not kept & patients_of(row)]
    events = sum(len(forms.events_of(row)) for row in free)
    if free:
        _forget(connection, free)
        values = {"class": name, "first": free[0].seq, "last": free[-1].seq}
        connection.execute(insert(audit_purge).values({**values, "records": len(free), "events": _counted(free)}))
    return Purged(tuple(row.seq for row in free), events, len(of_class) - len(free), max(row.seq for row in rows))


def give_back(connection: Connection) -> str | None:
    """PostgreSQL: give the room of one month back of which everything was purged; what it was, None where none is left.

    Whoever reads the log meanwhile goes first: raises the driver's error after a second of waiting.
    """
    if connection.dialect.name == "sqlite":
        return None
    lock(connection, LOCK)
    connection.execute(text("SET LOCAL lock_timeout = '1s'"))
    return months.emptied(connection, queries.lead)


def record_detail(name: str, positions: Sequence[int]) -> tuple[tuple[str, str], ...]:
    """What the record of a purge says."""
    return (("operation", PURGE), ("class", name), ("positions", spans_text(positions)))


def events_purged(connection: Connection, upto: int) -> int:
    """How many AuditEvents up to this position are no more."""
    total = select(func.coalesce(func.sum(audit_purge.c.events), 0)).where(audit_purge.c.last <= upto)
    return int(connection.execute(total).scalar_one())


def _counted(rows: Iterable[Row]) -> int:
    """As `through` counts them."""
    return sum(forms.count_of(row) or 0 for row in rows)


_UNFIND = delete(audit_index).where(
    audit_index.c.kind == bindparam("a_kind"), audit_index.c.value == bindparam("a_value"),
    audit_index.c.at == bindparam("an_at"), audit_index.c.seq == bindparam("a_seq"),
)  # fmt: skip


def _forget(connection: Connection, rows: Sequence[Row]) -> None:
    found = [
        {"a_kind": kind, "a_value": value, "an_at": row.recorded, "a_seq": row.seq}
        for row in rows
        for kind, value in finding.keys_of(row)
    ]
    if found:
        connection.execute(_UNFIND, found)
    connection.execute(
        update(audit_log)
        .where(
            audit_log.c.seq.in_([row.seq for row in rows]), *months.of_positions(connection, rows[0].seq, rows[-1].seq)
        )
        .values(head=None, particulars="", parts="", salt=b"")
    )
