"""A flipped bit in any stored byte of the log, of versions and of audiences is named by `verify`.

Every column of every table of the proof is tried; what is outside stands in `OUTSIDE`, with the reason. DESIGN §7,
security.md M6 and R14
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import BigInteger, LargeBinary, Table, Text, and_, bindparam, select, text, update
from sqlalchemy.exc import IntegrityError

from audit.checkpoint import Signer
from audit.service import Ledger
from audit.tables import audit_checkpoint, audit_index, audit_log, audit_site, audit_tree
from store.engine.database import Database
from store.unit_of_work import Store
from store.versions.tables import audience_member, resource_version
from tests.audit.logbook import judged, rich
from tests.support import caller, patient

TABLES = (
    audit_log, audit_index, audit_tree, audit_checkpoint, audit_site, resource_version, audience_member,
)  # fmt: skip
OUTSIDE = {
    ("resource_version", "pk"): "a number of a row: it orders nothing that is shown, and index rows go by it",
}
"""Columns that nothing proves."""


@pytest.fixture
def full(make_store: Callable[..., Store], ledger: Ledger, database: Database, signer: Signer) -> Database:
    """Something in every table: versions of two hospitals, records with all that there can be in one."""
    store = make_store(trail=ledger)
    with store.work(caller()) as uow:
        uow.resources.create("Patient", patient("Zoé"), id="p-1")
        uow.resources.create("Organization", {"resourceType": "Organization", "name": "x"}, id="o-1")
    with store.work(caller()) as uow:
        uow.resources.update("Patient", "p-1", {**patient("Durand"), "id": "p-1"})
    with store.work(caller("hospital-b")) as uow:
        uow.resources.create("Patient", patient(), id="p-2")
    with store.work(caller("hospital-b")) as uow:
        uow.resources.delete("Patient", "p-2")
    rich(ledger)
    assert judged(database, signer).findings == []
    return database


def flipped(value: Any, column: Any, at: int, is_sqlite: bool) -> Any:
    """The value with one bit turned over; None where the engine would not take it for this column."""
    if isinstance(value, int):
        bits = 63 if isinstance(column.type, BigInteger) else 15
        return value ^ 1 << (at % bits)
    if isinstance(column.type, Text):
        raw = bytearray(str(value).encode())
        raw[at // 8 % len(raw)] ^= 1 << at % 8
        if is_sqlite:
            return bytes(raw)
        try:
            found = raw.decode()
        except UnicodeDecodeError:
            return None
        return None if "\0" in found else found
    raw = bytearray(value)
    raw[at // 8 % len(raw)] ^= 1 << at % 8
    return bytes(raw)


def write(database: Database, table: Table, row: dict[str, Any], column: Any, value: Any) -> bool:
    """Write it past the server; False where the database has such a row already."""
    keys = list(table.primary_key)
    where = and_(*(key == row[key.name] for key in keys))
    statement = update(table).where(where).values({column.name: value})
    if isinstance(column.type, Text) and isinstance(value, bytes):  # bytes that are no text, where text lies
        names = " AND ".join(f'"{key.name}" = :{key.name}' for key in keys)
        given = {key.name: row[key.name] for key in keys}
        raw = text(f'UPDATE "{table.name}" SET "{column.name}" = CAST(:raw AS TEXT) WHERE {names}')  # noqa: S608
        with database.write() as connection:
            connection.execute(raw.bindparams(bindparam("raw", type_=LargeBinary)), {"raw": value, **given})
        return True
    try:
        with database.write() as connection:
            connection.execute(statement)
    except IntegrityError:
        return False
    return True


def restore(database: Database, table: Table, before: list[dict[str, Any]]) -> None:
    with database.write() as connection:
        connection.execute(table.delete())
        connection.execute(table.insert(), before)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_a_flipped_bit_is_named(full: Database, signer: Signer, table: Table) -> None:
    with full.read() as connection:
        rows = [dict(row._mapping) for row in connection.execute(select(table))]
    columns = [column for column in table.c if (table.name, column.name) not in OUTSIDE]

    @settings(deadline=None, max_examples=60)
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        row = data.draw(st.sampled_from(rows))
        column = data.draw(st.sampled_from([one for one in columns if row[one.name] not in (None, "", b"")]))
        at = data.draw(st.integers(0, 8 * 400))
        value = flipped(row[column.name], column, at, full.is_sqlite)
        if value is None or value == row[column.name] or not write(full, table, row, column, value):
            return
        try:
            assert judged(full, signer).findings, (table.name, column.name, row[column.name], value)
        finally:
            restore(full, table, rows)

    check()
    assert judged(full, signer).findings == []


def test_every_column_was_filled(full: Database) -> None:
    """A column that is always empty would be tried by nobody."""
    for table in TABLES:
        with full.read() as connection:
            rows = [dict(row._mapping) for row in connection.execute(select(table))]
        empty = {name for name in table.c.keys() if all(row[name] in (None, "", b"") for row in rows)}  # noqa: SIM118
        assert not empty, (table.name, empty)
