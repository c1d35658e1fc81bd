"""Every statement on what the database knows of the spool: its files, and what did not verify in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, bindparam, delete, func, insert, select, update

from audit.frames import Place
from audit.spool import CHAINED, OLD, Gap, SpoolFile, Taken
from audit.tables import audit_spool, audit_spool_gap
from store.engine.locks import lock
from store.engine.statements import Prepared
from store.versions.tables import store_setting

_file = audit_spool.c
_STATES = Prepared(select(
    _file.file, _file.format, _file.header, _file.consumed, _file.count, _file.chain, _file.head_offset,
    _file.head_count, _file.head_mac, _file.done,
))  # fmt: skip
_HEAD = Prepared(
    update(audit_spool)
    .where(_file.file == bindparam("name"), _file.head_offset < bindparam("offset"))
    .values(head_offset=bindparam("offset"), head_count=bindparam("records"), head_mac=bindparam("mac"))
)
_ADVANCE = Prepared(
    update(audit_spool)
    .where(_file.file == bindparam("name"), _file.consumed == bindparam("before"), _file.done == 0)
    .values(consumed=bindparam("after"), count=bindparam("records"), chain=bindparam("mac"))
)
_ADOPTED = "audit spool: files of before are known"
"""Row of store_setting: from now on a file that is not chained is none of ours."""


def states(connection: Connection) -> dict[str, SpoolFile]:
    """Every file that the database knows, by its name."""
    found = {}
    for name, form, header, consumed, count, chain, offset, records, mac, done in _STATES.all(connection, {}):
        head = Place(int(offset), int(records), bytes(mac)) if offset else None
        found[name] = SpoolFile(
            name, int(form), bytes(header), int(consumed), int(count), bytes(chain), head, bool(done)
        )
    return found


def begin(connection: Connection, name: str, header: bytes, created: int, owner: str) -> None:
    """Register a file."""
    connection.execute(insert(audit_spool).values(_row(name, CHAINED, header=header, created=created, owner=owner)))


def note_heads(connection: Connection, heads: Mapping[str, Place]) -> None:
    """How far files are written. A head never goes back."""
    for name, head in heads.items():
        _HEAD.run(connection, {"name": name, "offset": head.offset, "records": head.records, "mac": head.mac})


def advance(connection: Connection, taken: Taken) -> bool:
    """Remember that a file is in the log up to `taken.place`; False where another sequencer was faster."""
    place, state = taken.place, taken.state
    if state is None:
        if connection.execute(select(_file.file).where(_file.file == taken.file)).first() is not None:
            return False
        row = _row(taken.file, CHAINED, header=taken.header, owner="")
        row |= {"consumed": place.offset, "count": place.records, "chain": place.mac}
        connection.execute(insert(audit_spool).values(row))
        return True
    values = {"name": taken.file, "before": state.consumed, "after": place.offset, "records": place.records,
              "mac": place.mac}
    return _ADVANCE.run(connection, values) == 1


def finish(connection: Connection, name: str) -> None:
    """Nothing more will be read of the file: it is to be removed."""
    connection.execute(update(audit_spool).where(_file.file == name).values(done=1))


def forget(connection: Connection, names: Sequence[str]) -> None:
    """Files that are removed."""
    connection.execute(delete(audit_spool).where(_file.file.in_(names)))


def adopt(connection: Connection, names: Sequence[str], *, for_good: bool) -> None:
    """Register files that a version of before left, until it was done for good: then never again."""
    lock(connection, "audit spool")
    if connection.execute(select(store_setting.c.name).where(store_setting.c.name == _ADOPTED)).first() is not None:
        return
    known = states(connection)
    for name in names:
        if name not in known:
            connection.execute(insert(audit_spool).values(_row(name, OLD)))
    if for_good:
        connection.execute(insert(store_setting).values(name=_ADOPTED, value=str(len(names))))


def _row(name: str, form: int, *, header: bytes = b"", created: int = 0, owner: str = "") -> dict[str, object]:
    return {
        "file": name, "format": form, "header": header, "created": created, "owner": owner, "consumed": 0,
        "count": 0, "chain": b"", "head_offset": 0, "head_count": 0, "head_mac": b"", "done": 0,
    }  # fmt: skip


# --- what did not verify


def add_gaps(connection: Connection, gaps: Sequence[Gap], found: int) -> list[Gap]:
    """Keep what was found at `found` (µs); those that were not known."""
    fresh = []
    gap = audit_spool_gap.c
    for one in gaps:
        same = select(gap.pk).where(gap.file == one.file, gap.begin <= one.begin, gap.end >= one.end)
        if connection.execute(same).first() is None:
            values = {**one._asdict(), "found": found, "seen": None}
            connection.execute(insert(audit_spool_gap).values(values))
            fresh.append(one)
    return fresh


def gaps(connection: Connection, *, seen: bool = True) -> list[Gap]:
    """What did not verify, in the order in which it was found. `seen`: what an operator knows of too."""
    gap = audit_spool_gap.c
    statement = select(gap.file, gap.begin, gap.end, gap.records, gap.kind).order_by(gap.pk)
    if not seen:
        statement = statement.where(gap.seen.is_(None))
    return [Gap(*row) for row in connection.execute(statement)]


def count_unseen(connection: Connection) -> int:
    """How much did not verify that no operator has said is known."""
    counted = select(func.count()).select_from(audit_spool_gap).where(audit_spool_gap.c.seen.is_(None))
    return int(connection.execute(counted).scalar_one())


def acknowledge(connection: Connection, at: int) -> int:
    """All that did not verify until now is known; how much it was."""
    gap = audit_spool_gap.c
    return connection.execute(update(audit_spool_gap).where(gap.seen.is_(None)).values(seen=at)).rowcount
