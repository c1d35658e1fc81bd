"""Rows of resource_version and of the index tables: read, written, closed.

Everything that puts a version into the database goes through here: the repository, and the audit sequencer, which makes
AuditEvents of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Connection, bindparam, cast, func, insert, or_, select, update
from sqlalchemy.dialects.postgresql import ARRAY

from resources import indexing
from resources.hashing import bounded
from resources.index_rows import IndexRows
from resources.json import Json
from resources.registry import type_name
from resources.times import instant_text, of_microseconds
from store.access import Version
from store.engine.statements import OrderedJoin, Prepared, Row
from store.versions import digests
from store.versions.audiences import Audiences
from store.versions.tables import (
    ANY_REFERENCE,
    CURRENT,
    MAX,
    NORM_LENGTH,
    resource_version,
    sp_date,
    sp_number,
    sp_quantity,
    sp_reference,
    sp_string,
    sp_token,
    sp_uri,
)

COLUMNS = (
    resource_version.c.pk,
    resource_version.c.type_id,
    resource_version.c.resource_id,
    resource_version.c.version,
    resource_version.c.tx_id,
    resource_version.c.last_updated,
    resource_version.c.deleted,
    resource_version.c.method,
    resource_version.c.owner_id,
    resource_version.c.patients,
    resource_version.c.content,
)
"""What `version_of` needs, in its order."""
HEAD = COLUMNS[:-1]
"""Of a page that is still to be chosen: everything but the content."""


def version_of(row: Sequence[Any], connection: Connection, audiences: Audiences) -> Version:
    """The Version in a row that begins with COLUMNS."""
    pk, type_id, resource_id, version, tx, last_updated, deleted, method, owner_id, patients, content = row[:11]
    return Version(
        pk,
        type_name(type_id),
        resource_id,
        version,
        tx,
        of_microseconds(last_updated),
        bool(deleted),
        method,
        audiences.owner(connection, owner_id),
        content.encode(),
        tuple("Patient/" + patient for patient in patients.split()) if patients else (),
    )


_keys = func.json_each(bindparam("keys")).table_valued("value", name="asked")
_numbered = (
    func.unnest(cast(bindparam("keys"), ARRAY(BigInteger)))
    .table_valued("pk", with_ordinality="position", name="asked")
    .render_derived()
)
_size = func.octet_length(resource_version.c.content)
_sized = (
    select(
        _numbered.c.position,
        resource_version.c.content,
        func.sum(_size).over(order_by=_numbered.c.position).label("until"),
    )
    .select_from(_numbered.join(resource_version, resource_version.c.pk == _numbered.c.pk))
    .subquery()
)
_CONTENTS = Prepared(
    # In the order asked for: the keys are read one after the other, and each has one row.
    select(resource_version.c.content)
    .select_from(OrderedJoin(_keys, resource_version))
    .where(resource_version.c.pk == _keys.c.value),
    postgresql=select(_sized.c.content)
    .where(or_(_sized.c.until <= bindparam("most"), _sized.c.position == 1))
    .order_by(_sized.c.position),
)


def contents(connection: Connection, pks: Sequence[int], most_bytes: int, *, at_least_one: bool = True) -> list[str]:
    """The contents of the first of `pks`: as many as are within `most_bytes` together, one in any case if so said.

    What is beyond is not read from the database: a page of resources of 10 MB each takes no more memory than this.
    """
    if not pks or (most_bytes <= 0 and not at_least_one):
        return []
    if connection.dialect.name == "postgresql":
        found = [row[0] for row in _CONTENTS.all(connection, {"keys": list(pks), "most": most_bytes})]
        if found and not at_least_one and len(found[0].encode()) > most_bytes:
            return []
        return found
    texts: list[str] = []
    left = most_bytes
    for (text,) in _CONTENTS.each(connection, {"keys": json_array(pks)}):
        left -= len(text.encode())
        if left < 0 and (texts or not at_least_one):
            break
        texts.append(text)
    return texts


def json_array(numbers: Sequence[int]) -> str:
    """Whole numbers as SQLite's json_each takes them."""
    return f"[{','.join(map(str, numbers))}]"


def stamp(resource: Json, *, id: str, version: int, at: datetime) -> Json:
    """`resource` with id, meta.versionId and meta.lastUpdated set by the server; the rest of meta is kept."""
    meta = {"versionId": str(version), "lastUpdated": instant_text(at)}
    meta.update({key: value for key, value in (resource.get("meta") or {}).items() if key not in meta})
    stamped: Json = {"resourceType": resource["resourceType"], "id": id, "meta": meta}
    stamped.update({key: value for key, value in resource.items() if key not in stamped})
    return stamped


@dataclass(frozen=True, slots=True)
class NewVersion:
    """A row about to be inserted. `patients` are ``Patient/id`` references."""

    type_id: int
    id: str
    version: int
    deleted: bool
    method: str
    owner_id: int
    audience_id: int
    patients: tuple[str, ...]
    content: bytes
    owner: str
    audience: frozenset[str]
    """The names behind the two numbers: what is digested."""
    salt: bytes = field(default_factory=digests.new_salt)

    @property
    def _patients(self) -> str:
        return " ".join([patient.removeprefix("Patient/") for patient in self.patients])

    def digest(self, type_name: str, tx: int, at_us: int) -> str:
        """What the audit record says of it."""
        return digests.digest(
            self.salt, type=type_name, id=self.id, version=self.version, tx=tx, at_us=at_us, deleted=self.deleted,
            method=self.method, owner=self.owner, audience=self.audience, patients=self._patients,
            content=self.content,
        )

    def values(self, tx: int, at_us: int) -> dict[str, Any]:
        """The row to insert."""
        return {
            "type_id": self.type_id,
            "resource_id": self.id,
            "version": self.version,
            "tx_id": tx,
            "valid_from": tx,
            "valid_to": MAX,
            "deleted": int(self.deleted),
            "method": self.method,
            "owner_id": self.owner_id,
            "audience_id": self.audience_id,
            "last_updated": at_us,
            "patients": self._patients,
            "content": self.content.decode(),
            "salt": self.salt,
        }


_INSERTED = [column for column in resource_version.c if column.key != "pk"]
_INSERT = Prepared(
    insert(resource_version).values({column: bindparam(column.key) for column in _INSERTED}).returning(
        resource_version.c.pk
    )
)
_CLOSE = Prepared(
    update(resource_version)
    .where(resource_version.c.pk == bindparam("version_pk"), resource_version.c.valid_to == CURRENT)
    .values(valid_to=bindparam("tx"))
)


def insert_version(connection: Connection, new: NewVersion, tx: int, at_us: int) -> int:
    """Insert one version as the current one and return its pk."""
    row = _INSERT.first(connection, new.values(tx, at_us))
    assert row is not None  # noqa: S101 - RETURNING returns
    return int(row[0])


def close_version(connection: Connection, pk: int, tx: int) -> bool:
    """End the current version `pk` at `tx`; False where another transaction did so first."""
    return _CLOSE.run(connection, {"version_pk": pk, "tx": tx}) == 1


TEXT_LIMIT_BYTES = 2000
"""Longest text in an index entry: PostgreSQL takes 2,704 bytes a row. Longer ones are indexed by their digest."""


def indexable(text: str) -> str:
    """`text` as an index table holds it, for equality: rows and search values both pass here."""
    if len(text) > TEXT_LIMIT_BYTES // 4 and len(text.encode("utf-8", "surrogatepass")) > TEXT_LIMIT_BYTES:
        text = bounded(text, 0)
    return text.replace("\0", "\ufffd") if "\0" in text else text


@dataclass(slots=True)
class IndexBuffer:
    """Index rows of a transaction, inserted by one executemany per table at `flush`."""

    tokens: list[Row] = field(default_factory=list)
    strings: list[Row] = field(default_factory=list)
    dates: list[Row] = field(default_factory=list)
    numbers: list[Row] = field(default_factory=list)
    quantities: list[Row] = field(default_factory=list)
    references: list[Row] = field(default_factory=list)
    uris: list[Row] = field(default_factory=list)

    def add(self, pk: int, rows: IndexRows, targets: Iterable[tuple[int, str]] = ()) -> None:
        """Add the rows of version `pk`. `targets` are all local resources it refers to (type id, id)."""
        self.tokens += [
            (pk, r.param_id, n, r.group_no, r.system_id, indexable(r.code)) for n, r in enumerate(rows.tokens)
        ]
        for n, r in enumerate(rows.strings):
            norm, exact = r.norm.replace("\0", "\ufffd"), r.exact.replace("\0", "\ufffd")
            self.strings.append((pk, r.param_id, n, r.group_no, norm[:NORM_LENGTH], norm[NORM_LENGTH:], exact))
        self.dates += [(pk, r.param_id, n, r.group_no, r.low, r.high) for n, r in enumerate(rows.dates)]
        self.numbers += [(pk, r.param_id, n, r.group_no, r.low, r.high) for n, r in enumerate(rows.numbers)]
        self.quantities += [
            (pk, r.param_id, n, r.group_no, r.system_id, indexable(r.code), r.low, r.high)
            for n, r in enumerate(rows.quantities)
        ]
        self.references += [
            (pk, r.param_id, n, r.group_no, r.target_type_id, r.target_id, r.target_version, indexable(r.url))
            for n, r in enumerate(rows.references)
        ]
        self.references += [
            (pk, ANY_REFERENCE, n, 0, type_id, id_, "", "") for n, (type_id, id_) in enumerate(targets)
        ]
        self.uris += [(pk, r.param_id, n, r.group_no, indexable(r.uri)) for n, r in enumerate(rows.uris)]

    def flush(self, connection: Connection) -> None:
        """Insert what has gathered."""
        if connection.dialect.name == "postgresql":
            driver: Any = connection.connection.driver_connection
            with driver.pipeline():  # one round trip for all tables
                self._insert(connection)
        else:
            self._insert(connection)

    def _insert(self, connection: Connection) -> None:
        for rows, statement in (
            (self.tokens, _INSERT_TOKENS),
            (self.strings, _INSERT_STRINGS),
            (self.dates, _INSERT_DATES),
            (self.numbers, _INSERT_NUMBERS),
            (self.quantities, _INSERT_QUANTITIES),
            (self.references, _INSERT_REFERENCES),
            (self.uris, _INSERT_URIS),
        ):
            if rows:
                statement.many(connection, rows)
                rows.clear()


_INSERT_TOKENS = Prepared(insert(sp_token))
_INSERT_STRINGS = Prepared(insert(sp_string))
_INSERT_DATES = Prepared(insert(sp_date))
_INSERT_NUMBERS = Prepared(insert(sp_number))
_INSERT_QUANTITIES = Prepared(insert(sp_quantity))
_INSERT_REFERENCES = Prepared(insert(sp_reference))
_INSERT_URIS = Prepared(insert(sp_uri))


def extract(type_name: str, resource: Json, base_urls: Sequence[str]) -> IndexRows:
    """The index rows of a resource of this server."""
    return indexing.extract(type_name, resource, base_urls=base_urls)
