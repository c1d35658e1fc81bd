"""The rows of the policies: what was decided for a partner, a site or an exam, by whom and why.

Rows are versions and never altered: a decision is a new row, the newest of its place holds, and one without a value
withdraws what was decided before. `resources.policies` says which policies there are. A process reads the rows that
hold when it first needs one and looks again after 5 seconds; what the process itself decided holds for it at once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, Column, Connection, Integer, Table, Text, insert, select

from resources.outcomes import BadRequest
from resources.policies import EVERYWHERE, POLICIES, Where, resolve
from resources.times import microseconds
from store.access import Access, Interaction, Work
from store.engine.schema import BinaryText, metadata
from store.versions import digests

LOOK_AGAIN_S = 5.0
"""So soon every process knows of a decision."""

policy = Table(
    "policy",
    metadata,
    Column("name", BinaryText, primary_key=True),
    Column("partner", BinaryText, primary_key=True, comment="logical id of an Organization; empty: any"),
    Column("site", BinaryText, primary_key=True, comment="logical id of an Organization or Location; empty: any"),
    Column("exam", BinaryText, primary_key=True, comment="code of an exam; empty: any"),
    Column("version", Integer, primary_key=True, autoincrement=False, comment="from 1 in its place"),
    Column("value", Text, nullable=True, comment="JSON; null: what was decided before is withdrawn"),
    Column("since", BigInteger, nullable=False, comment="µs since 1970"),
    Column("by", Text, nullable=False, comment="client id of who decided"),
    Column("reason", Text, nullable=False),
)

Rows = Mapping[str, list[tuple[Where, Any]]]


@dataclass(frozen=True, slots=True)
class Row:
    """One decision."""

    name: str
    where: Where
    version: int
    value: Any
    """None: withdrawn."""
    since_us: int
    by: str
    reason: str


class Policies:
    """What one process knows of the rows that hold."""

    def __init__(self) -> None:
        self._rows: Rows | None = None
        self._read_at = 0.0

    def value(self, connection: Connection, name: str, where: Where) -> Any:
        """The value of a policy; read-only. Raises KeyError where there is no such policy."""
        rows = self._rows
        if rows is None or time.monotonic() - self._read_at > LOOK_AGAIN_S:
            self._read_at = time.monotonic()
            rows = self._rows = _holding(connection)
        return resolve(name, rows.get(name, ()), where)

    def forget(self) -> None:
        """Read again when next asked."""
        self._rows = None


def value(uow: Work, name: str, where: Where = EVERYWHERE) -> Any:
    """The value of a policy at a place: JSON, not to be altered. Raises KeyError."""
    return uow.policies.value(uow.connection, name, where)


def current(connection: Connection, name: str = "") -> list[Row]:
    """The rows that hold, of one policy or of all."""
    newest: dict[tuple[str, Where], Row] = {}
    for row in _rows(connection, name):
        newest[row.name, row.where] = row
    return [row for row in newest.values() if row.value is not None]


def history(connection: Connection, name: str) -> list[Row]:
    """Every row of a policy, place by place, the oldest first."""
    return list(_rows(connection, name))


def decide(
    uow: Work, name: str, where: Where, value: Any, reason: str, detail: tuple[tuple[str, str], ...] = ()
) -> Row:
    """Write the next row of a place, on record. `value` None: withdraw. Raises BadRequest naming what is wrong."""
    found = POLICIES.get(name)
    if found is None:
        raise BadRequest("there is no such policy: `vigie policy list` shows them", expression="name")
    if not reason.strip():
        raise BadRequest("say why: a decision has a reason", expression="reason")
    fault = "" if value is None else found.form.fault(value)
    if fault:
        raise BadRequest(f"the value of {name} {fault}", expression="value")
    _check_place(uow, where)
    uow.lock(f"policy:{name}")
    place = [row for row in _rows(uow.connection, name) if row.where == where]
    if value is None and (not place or place[-1].value is None):
        raise BadRequest("nothing is decided there that could be withdrawn", expression="value")
    version = len(place) + 1
    text = None if value is None else json.dumps(value, ensure_ascii=False, sort_keys=True)
    made = {
        "name": name, **where._asdict(), "version": version, "value": text, "since": microseconds(uow.now),
        "by": uow.caller.client_id, "reason": reason.strip(),
    }  # fmt: skip
    uow.connection.execute(insert(policy).values(made))
    facts = (("operation", "policy-set"), ("policy", _key(made)), ("row", digests.of_row("policy", made)), *detail)
    owner = where.partner or None
    uow.note(Access(Interaction.ADMIN, "Organization" if owner else None, owner, owner=owner, detail=facts))
    uow.policies.forget()
    return Row(name, where, version, value, made["since"], made["by"], made["reason"])


def _check_place(uow: Work, where: Where) -> None:
    """What a row is for must exist here; of an exam only the form is known."""
    if where.partner and not uow.system.exists("Organization", where.partner):
        raise BadRequest("partner does not exist here: store its Organization first", expression="partner")
    if where.site and not any(uow.system.exists(name, where.site) for name in ("Organization", "Location")):
        raise BadRequest("site does not exist here: store its Organization or Location first", expression="site")
    if not all(char.isalnum() or char in "-._" for char in where.exam) or len(where.exam) > 64:
        raise BadRequest("exam is a code, e.g. 24725-4", expression="exam")


def rows(connection: Connection) -> Iterator[tuple[str, str]]:
    """(``policy/…``, digest) of every row: what the audit log says of them."""
    for row in connection.execute(select(policy)):
        found = row._asdict()
        yield f"policy/{_key(found)}", digests.of_row("policy", found)


def _key(row: Mapping[str, Any]) -> str:
    place = "/".join(row[name] or "-" for name in ("partner", "site", "exam"))
    return f"{row['name']}/{place}/{row['version']}"


def _holding(connection: Connection) -> Rows:
    found: dict[str, list[tuple[Where, Any]]] = {}
    for row in current(connection):
        found.setdefault(row.name, []).append((row.where, row.value))
    return found


def _rows(connection: Connection, name: str = "") -> Iterator[Row]:
    column = policy.c
    statement = select(policy).order_by(column.name, column.partner, column.site, column.exam, column.version)
    for row in connection.execute(statement.where(column.name == name) if name else statement):
        made = None if row.value is None else json.loads(row.value)
        yield Row(row.name, Where(row.partner, row.site, row.exam), row.version, made, row.since, row.by, row.reason)
