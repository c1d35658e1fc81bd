"""Whether the clinical record is what the log says was written: each version against the digest in its record.

The log is read once, and the versions are read once. Both add up, in as many buckets as `BUCKETS`, what they say of
each version: sums keyed at random, so that nobody can make other rows that have the same. Where the sums of a bucket
differ, what lies in it is read again and compared one by one. So memory is constant, whatever the record holds.
"""

from __future__ import annotations

import re
import secrets
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple

import orjson
from sqlalchemy import ColumnElement, Connection, and_, func, or_, select, true, tuple_

from audit import entry, forms, queries
from audit.finding import Kind, number
from audit.forms import Row
from audit.patterns import PATTERNS
from audit.queries import as_bytes, as_text
from audit.tables import audit_inbox
from resources.registry import type_name
from store.versions import digests
from store.versions.audiences import audience_id
from store.versions.tables import MAX, audience_member, resource_version

BUCKETS = 4096
EXAMINED = 64
"""Buckets that are looked into: what lies in them is held in memory, a version in `BUCKETS / EXAMINED`."""
NAMED = 100
"""Versions that are named."""
BASELINE = "digest-baseline"
"""Operation of the records that say digests of versions from before there were digests."""
PURGE = "purge"
"""Operation of a record that says digests of versions which were erased on legal grounds."""
_CHUNK = 500
_WRITES = frozenset(code for code, pattern in PATTERNS.items() if pattern.action in "CUD")
_WRITE = re.compile(r'"action":"[CUD]"')
"""Of form 1."""
_NAMED = re.compile(r'"what":\{"reference":"([A-Za-z]+/[^/"]+/_history/\d+)"')


class Said(NamedTuple):
    """What a record says of a version."""

    reference: str
    digest: str
    seq: int
    """Position of the record; 0: it waits to be sequenced."""


def said(head: str, particulars: str, seq: int) -> Iterator[tuple[int, Said]]:
    """(1, …) for each digest of a record that was written or found, (-1, …) for each that was erased."""
    if '"digest"' not in head and '"digests"' not in particulars:
        return
    try:
        access = orjson.loads(head)["access"]
        if "digest" in access:
            named = digests.reference(access["type"], access["id"], access["version"])
            yield 1, Said(named, access["digest"], seq)
        if particulars:
            content = orjson.loads(particulars)
            operation = dict(content.get("detail", ())).get("operation")
            if operation in (BASELINE, PURGE):
                for reference, digest in content.get("digests", ()):
                    yield (1 if operation == BASELINE else -1), Said(reference, digest, seq)
    except (ValueError, KeyError, TypeError, AttributeError):
        return  # it cannot be read: that is found by its leaf


def said_unrecorded(head: str, particulars: str) -> list[str]:
    """Versions that had no record of a write when their digests were logged."""
    if '"unrecorded"' not in particulars or BASELINE not in particulars:
        return []
    try:
        content = orjson.loads(particulars)
        if dict(content["detail"]).get("unrecorded") != "yes":
            return []
        return [reference for reference, _ in content.get("digests", ())]
    except (ValueError, KeyError, TypeError):
        return []


class _Names:
    """References that can be asked for: eight bytes each."""

    def __init__(self) -> None:
        self._hashes = array("q")
        self._is_sorted = True

    def add(self, reference: str) -> None:
        self._hashes.append(hash(reference))
        self._is_sorted = False

    def __contains__(self, reference: str) -> bool:
        if not self._is_sorted:
            self._hashes = array("q", sorted(self._hashes))
            self._is_sorted = True
        wanted = hash(reference)
        at = bisect_left(self._hashes, wanted)
        return at < len(self._hashes) and self._hashes[at] == wanted


class Written:
    """What the records of the log say of versions. Asked only while there are versions without a digest."""

    def __init__(self) -> None:
        self.names = _Names()
        """Named by the record of a write."""
        self.digested = _Names()
        """With a digest."""

    def add(self, row: Row) -> None:
        """The next record of the log."""
        for reference in versions_written(row):
            self.names.add(reference)
        if row.form != forms.FORM_1 and row.head is not None:
            for _sign, one in said(row.head, row.particulars, row.seq):
                self.digested.add(one.reference)


@dataclass(slots=True)
class Clinical:
    """Takes the records of the log, then compares."""

    findings: list[tuple[int, str, str]] = field(default_factory=list)
    """(position or 0, kind, text)."""
    erased: int = 0
    """Versions that were erased on legal grounds."""
    undigested: int = 0
    """Versions that have no digest yet."""
    _written: Written | None = None
    _keys: tuple[int, int] = field(default_factory=lambda: (secrets.randbits(61), secrets.randbits(61)))
    _expected: list[int] = field(default_factory=lambda: [0] * BUCKETS)
    _there: list[int] = field(default_factory=lambda: [0] * BUCKETS)

    @staticmethod
    def of(connection: Connection) -> Clinical:
        """For what `connection` sees."""
        return Clinical(_written=Written() if are_undigested(connection) else None)

    def expect(self, row: Row) -> None:
        """The next record of the log."""
        if self._written is not None:
            self._written.add(row)
        if row.form == forms.FORM_1 or row.head is None:
            return
        for sign, one in said(row.head, row.particulars, row.seq):
            self._add(self._expected, one.reference, one.digest, sign)
            self.erased += sign < 0
        for reference in said_unrecorded(row.head, row.particulars):
            self._found(row.seq, "unrecorded", f"{reference} was there without an audit record of its write")

    def compare(self, connection: Connection) -> None:
        """Read the versions, and say in `findings` what is not as it was written."""
        for sign, one in _said_waiting(connection):
            self._add(self._expected, one.reference, one.digest, sign)
        for version in versions(connection):
            if version.digest is not None:
                self._add(self._there, version.reference, version.digest, 1)
                continue
            self.undigested += 1
            is_named = self._written is not None and version.reference in self._written.names
            if not is_named and not is_waiting(connection, version.tx):
                self._found(0, "unrecorded", f"{version.reference} was written without an audit record")
        wrong = {number for number in range(BUCKETS) if self._expected[number] != self._there[number]}
        if wrong:
            self._locate(connection, set(sorted(wrong)[:EXAMINED]))
        for text in wrong_audiences(connection):
            self._found(0, "altered", text)
        for text in wrong_spans(connection):
            self._found(0, "altered", text)

    def _found(self, seq: int, kind: str, text: str) -> None:
        if len(self.findings) < NAMED:
            self.findings.append((seq, kind, text))

    def _bucket(self, reference: str) -> int:
        return hash((self._keys[0], reference)) % BUCKETS

    def _add(self, sums: list[int], reference: str, digest: str, sign: int) -> None:
        sums[self._bucket(reference)] += sign * hash((self._keys[1], reference, digest))

    def _locate(self, connection: Connection, buckets: set[int]) -> None:
        """Compare one by one what lies in these buckets."""
        logged, purged = self._said_of(connection, buckets)
        undigested = set()
        for version in versions(connection):
            if self._bucket(version.reference) not in buckets:
                continue
            if version.digest is None:
                undigested.add(version.reference)
                continue
            own, erased = logged.pop(version.reference, []), purged.pop(version.reference, None)
            if not own:
                self._found(0, "unrecorded", f"{version.reference} was written without an audit record")
            elif any(one.digest != version.digest for one in own):
                self._found(own[0].seq, "altered", f"{version.reference} is not what was written")
            elif erased is not None:
                self._found(erased, "altered", f"{version.reference} was erased, and is there again")
            self._once(own)
        for reference, own in logged.items():
            if reference in undigested:
                self._found(own[0].seq, "altered", f"{reference} has lost the salt of its digest")
            elif reference not in purged:
                self._found(own[0].seq, "missing", f"{reference} was written and is gone")
            self._once(own)

    def _once(self, own: list[Said]) -> None:
        if len(own) > 1:
            self._found(own[1].seq, "altered", f"{own[1].reference} was logged {len(own)} times")

    def _said_of(self, connection: Connection, buckets: set[int]) -> tuple[dict[str, list[Said]], dict[str, int]]:
        """What the log says of the versions in these buckets, and which of them it says were erased."""
        logged: dict[str, list[Said]] = {}
        purged: dict[str, int] = {}
        records = (
            pair for row in queries.stored(connection) if row.form != forms.FORM_1 and row.head is not None
            for pair in said(row.head, row.particulars, row.seq)
        )  # fmt: skip
        for sign, one in chain(records, _said_waiting(connection)):
            if self._bucket(one.reference) not in buckets:
                continue
            if sign > 0:
                logged.setdefault(one.reference, []).append(one)
            else:
                purged[one.reference] = one.seq
        return logged, purged


class Found(NamedTuple):
    """A version as it lies in the table."""

    pk: int
    type_id: int
    id: str
    version: int
    tx: int
    deleted: int
    method: str
    owner: tuple[str, ...]
    audience: tuple[str, ...]
    at_us: int
    patients: str
    content: bytes
    salt: bytes | None

    @property
    def reference(self) -> str:
        """What the log calls it."""
        return digests.reference(kind_of(self.type_id), self.id, self.version)

    @property
    def digest(self) -> str | None:
        """By what stands in the row; None: it has no salt."""
        return None if self.salt is None else self.digest_under(self.salt)

    def digest_under(self, salt: bytes) -> str:
        """The digest that it has with this salt; of a row that no server writes there is none."""
        if self.deleted not in (0, 1):
            return ""
        return digests.digest(
            salt, type=kind_of(self.type_id), id=self.id, version=self.version, tx=self.tx, at_us=self.at_us,
            deleted=self.deleted == 1, method=self.method, owner=",".join(self.owner), audience=self.audience,
            patients=self.patients, content=self.content,
        )


def versions(connection: Connection) -> Iterator[Found]:
    """Every version in the order of the table."""
    after = 0
    while True:
        rows = _rows(connection, resource_version.c.pk > after if after else true(), _CHUNK)
        yield from rows
        if len(rows) < _CHUNK:
            return
        after = rows[-1].pk


def undigested(connection: Connection, after: int, limit: int) -> list[Found]:
    """The next versions behind the one with the key `after` that have no digest."""
    v = resource_version.c
    return _rows(connection, and_(v.salt.is_(None), v.pk > after), limit)


def are_undigested(connection: Connection) -> bool:
    """Whether there are versions from before there were digests."""
    v = resource_version.c
    statement = select(v.pk).where(v.salt.is_(None), v.type_id != queries.AUDIT_EVENT).limit(1)
    return connection.execute(statement).first() is not None


def _rows(connection: Connection, where: ColumnElement[bool], limit: int) -> list[Found]:
    """On SQLite texts as bytes: a damaged one is no text any more, and is to be compared all the same."""
    v = resource_version.c
    columns = (
        v.pk, v.type_id, as_bytes(connection, v.resource_id), v.version, v.tx_id, v.deleted,
        as_bytes(connection, v.method), v.owner_id, v.audience_id, v.last_updated, as_bytes(connection, v.patients),
        as_bytes(connection, v.content), v.salt,
    )  # fmt: skip
    rows = connection.execute(
        select(*columns).where(where, v.type_id != queries.AUDIT_EVENT).order_by(v.pk).limit(limit)
    ).all()
    members = _members(connection, {number for row in rows for number in (row[7], row[8])})
    return [
        Found(
            pk, type_id, as_text(id), version, tx, deleted, as_text(method), members.get(owner, ()),
            members.get(audience, ()), at_us, as_text(patients), _bytes(content),
            None if salt is None else bytes(salt),
        )
        for pk, type_id, id, version, tx, deleted, method, owner, audience, at_us, patients, content, salt in rows
    ]


def _members(connection: Connection, numbers: set[int]) -> dict[int, tuple[str, ...]]:
    """The names in these audiences."""
    found: dict[int, list[str]] = {}
    rows = connection.execute(
        select(audience_member.c.audience_id, as_bytes(connection, audience_member.c.organization))
        .where(audience_member.c.audience_id.in_(numbers))
    )
    for one, organization in rows:
        found.setdefault(one, []).append(as_text(organization))
    return {one: tuple(sorted(names)) for one, names in found.items()}


def kind_of(type_id: int) -> str:
    """The type's name; of a number that is none, the number."""
    try:
        return type_name(type_id)
    except (LookupError, ValueError):
        return f"#{type_id}"


def _bytes(value: Any) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)


def waiting(connection: Connection) -> Iterator[tuple[str, str]]:
    """Head and particulars of what waits in the inbox, as they will be logged."""
    after = -1
    while True:
        rows = connection.execute(
            select(audit_inbox.c.pk, audit_inbox.c.entry)
            .where(audit_inbox.c.pk > after).order_by(audit_inbox.c.pk).limit(_CHUNK)
        ).all()
        for _pk, text in rows:
            record = entry.split(text)
            particulars = orjson.dumps(record.particulars).decode() if record.particulars else ""
            yield orjson.dumps(record.head).decode(), particulars
        if len(rows) < _CHUNK:
            return
        after = rows[-1][0]


def _said_waiting(connection: Connection) -> Iterator[tuple[int, Said]]:
    for head, particulars in waiting(connection):
        yield from said(head, particulars, 0)


def wrong_audiences(connection: Connection) -> Iterator[str]:
    """Audiences whose members are not those that their number says (`store.versions.audiences.audience_id`)."""
    m = audience_member.c
    after: tuple[int, str] | None = None
    number: int | None = None
    members: list[str] = []
    while True:
        statement = select(m.audience_id, m.organization).order_by(m.audience_id, m.organization).limit(_CHUNK)
        if after is not None:
            statement = statement.where(tuple_(m.audience_id, m.organization) > tuple_(*after))
        rows = connection.execute(statement).all()
        for row in rows:
            if row[0] != number:
                if number is not None and audience_id(members) != number:
                    yield _audience_told(number, members)
                number, members = row[0], []
            members.append(row[1])
        if len(rows) < _CHUNK:
            break
        after = tuple(rows[-1])
    if number is not None and audience_id(members) != number:
        yield _audience_told(number, members)


def _audience_told(number: int, members: list[str]) -> str:
    return f"the audience {number} is not that of {', '.join(sorted(members))}"


def wrong_spans(connection: Connection) -> Iterator[str]:
    """Versions that are not shown from their own transaction up to that of the next one."""
    one, after = resource_version.alias("one"), resource_version.alias("after")
    joined = one.outerjoin(after, and_(
        after.c.type_id == one.c.type_id, after.c.resource_id == one.c.resource_id,
        after.c.version == one.c.version + 1,
    ))  # fmt: skip
    rows = connection.execute(
        select(one.c.type_id, one.c.resource_id, one.c.version)
        .select_from(joined)
        .where(
            one.c.type_id != queries.AUDIT_EVENT,
            or_(one.c.valid_from != one.c.tx_id, one.c.valid_to != func.coalesce(after.c.tx_id, MAX)),
        )
        .limit(NAMED)
    )
    for type_id, id, version in rows:
        reference = digests.reference(kind_of(type_id), id, version)
        yield f"{reference} is shown in another span of time than it was current"


def versions_written(row: Row) -> Iterator[str]:
    """``Type/id/_history/n`` of each version that the record of a write names."""
    if row.head is None:
        return
    if row.form == forms.FORM_1:
        if _WRITE.search(row.head):
            yield from _NAMED.findall(row.head)
        return
    try:
        head, particulars = forms.texts_of(row)
        access = head.get("access", {})
        if access.get("interaction") in _WRITES:
            if access.get("version") is not None:
                yield digests.reference(access["type"], access["id"], access["version"])
            yield from particulars.get("context", ())
    except (ValueError, KeyError, TypeError, AttributeError):
        return  # it cannot be read: that is found by its leaf


def is_waiting(connection: Connection, tx: int) -> bool:
    """Whether a record of this transaction waits to be sequenced."""
    statement = select(audit_inbox.c.pk).where(audit_inbox.c.tx_id == tx).limit(1)
    return connection.execute(statement).first() is not None


def is_named(connection: Connection, reference: str) -> bool:
    """Whether the record of a write in the log names this version."""
    id = reference.split("/")[1]
    return any(reference in versions_written(row) for row in queries.about(connection, int(Kind.ENTITY), number(id)))
