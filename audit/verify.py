"""Verification on the server, and the export for verification elsewhere.

Recomputes every leaf from the records as they are stored, the tree, and every checkpoint; and asks what only the
database can tell: that every record is found by what it says and by nothing else, that no AuditEvent stands outside
the log, that every version has a record.
"""

from __future__ import annotations

import gzip
import json
import os
import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from audit import clinical, finding, forms, merkle, months, published, queries
from audit.chain import chain
from audit.checkpoint import Verifier
from audit.finding import Kind
from audit.forms import Row
from audit.offline import FORMAT, Judge, Key, Report, named_in, purged_by, rotated_by
from audit.registry import Registered, Registry
from audit.spool import Gap
from resources.json import Json
from resources.times import instant_text, microseconds, utc_now
from store.engine.database import Database
from store.engine.faults import DRIVER_ERRORS, driver_error

if TYPE_CHECKING:
    from sqlalchemy import Connection

LOCATED = 20
"""Wrong rows of the index that are named."""
OVERDUE_S = 60
"""A record older than this in the inbox means that nobody sequences."""


def verify(
    database: Database,
    verifier: Verifier,
    *,
    platform: str,
    elsewhere: Iterable[str] = (),
    now: datetime | None = None,
    spooled: tuple[int, int | None] = (0, None),
    registries: Sequence[Registered] = (),
    published_to: Path | None = None,
    trusted: str | None = None,
    damaged: Iterable[Gap] = (),
    keys: Sequence[Verifier] = (),
) -> Report:
    """Verify the whole log, and what it proves, in constant memory.

    `elsewhere`: checkpoints kept outside the database; a log cut after them is found so. `spooled`: what waits in the
    spool (`Ledger.waiting_in_spool`). `registries`: the rows whose changes are on record (`audit.registry`).
    `published_to`: the file that checkpoints are copied to; that it is missing or older than the log is found.
    `trusted`: a checkpoint up to which it was verified before. That the log continues what it signed is shown by the
    leaves; records, their index and checkpoints are verified behind it alone, and the clinical record and the
    registry, which go by the whole log, are not compared. Raises ValueError where the key did not sign it.
    `damaged`: what does not verify in the spool (`Ledger.spool_findings`). `verifier` is trusted; `keys`: those that
    the log had in order, as the deployment keeps them; where they are not given, as the log's own table says.
    """
    if not keys:
        with database.read() as connection:
            keys = [one for _, one in chain(connection, verifier).spans]
    judge = Judge(Key(verifier.text()), elsewhere, trusted, [Key(one.text()) for one in keys])
    with database.read() as connection:
        proofs = _Proofs(
            clinical.Clinical.of(connection), Registry(), _Index(judge.trusted), _Months(months.known(connection))
        )
        with _readable(judge, "the log"):
            _log(connection, judge, proofs)
            _keys(connection, judge)
        end = max(judge.report.records + judge.trusted, judge.position) + 1
        report = judge.finish()
        with _readable(judge, "the log's tree and index"):
            _derived(connection, judge, proofs.index, end)
            if trusted is None and not proofs.months.agrees({one.position for one in report.findings}):
                judge.outside(end, "altered", "what is kept of the log's months is not what its records say")
        if trusted is None:
            with _readable(judge, "the clinical record"):
                proofs.clinical.compare(connection)
            with _readable(judge, "the registry"):
                proofs.registry.compare(connection, registries)
            _tell(judge, proofs, end)
        else:
            report.notes.append(
                f"verified from record {judge.trusted + 1} on; clinical record and registry were not compared")
        if published_to is not None:
            seen = published.look(published_to, chain(connection, verifier))
            fault = published.fault(connection, published_to, seen)
            if fault is not None:
                judge.outside(end, "published", fault)
        _waiting(connection, judge, end, now or utc_now(), spooled, damaged)
    return report


@dataclass(frozen=True, slots=True)
class _Proofs:
    """What is compared with the log: each takes every record."""

    clinical: clinical.Clinical
    registry: Registry
    index: _Index
    months: _Months


@contextmanager
def _readable(judge: Judge, what: str) -> Iterator[None]:
    """What is so damaged that the database refuses to read it is a finding, and the rest is verified all the same."""
    try:
        yield
    except DRIVER_ERRORS as error:
        judge.outside(judge.position + 1, "altered", f"{what} cannot be read: {type(driver_error(error)).__name__}")


def _log(connection: Connection, judge: Judge, proofs: _Proofs) -> None:
    """Records and checkpoints, in order."""
    _passed(connection, judge)
    pending = queries.checkpoints(connection, judge.trusted) if judge.trusted else queries.checkpoints(connection)
    checkpoint = next(pending, None)
    through = queries.through(connection, judge.trusted)
    logged = queries.logged_at(connection, judge.trusted) or 0
    for row in queries.stored(connection, judge.trusted):
        while checkpoint is not None and checkpoint[0] < row.seq:
            judge.checkpoint(*checkpoint[:2])
            checkpoint = next(pending, None)
        is_signed = checkpoint is not None and (checkpoint[0], row.form) == (row.seq, forms.FORM_2)
        if is_signed and checkpoint is not None and checkpoint[2] != row.logged:
            judge.outside(row.seq, "checkpoint", f"the checkpoint at {row.seq} was signed at another time")
        judged(judge, row)
        proofs.clinical.expect(row)
        proofs.registry.expect(row)
        proofs.index.expect(row)
        proofs.months.expect(row)
        count = forms.count_of(row)
        if row.head is not None and count is not None and row.through != through + count:
            judge.outside(row.seq, "altered", "the number of AuditEvents up to here is another")
        if row.form == forms.FORM_1 and row.head is not None and not forms.is_dated(row, logged):
            judge.outside(row.seq, "altered", "the instants beside the record are not its own")
        through, logged = row.through, row.logged
    while checkpoint is not None:
        judge.checkpoint(*checkpoint[:2])
        checkpoint = next(pending, None)


def _passed(connection: Connection, judge: Judge) -> None:
    """What was verified before: the leaves, and which key followed which."""
    named = {seq for seq, _, _ in queries.keys(connection) if seq <= judge.trusted} if judge.trusted else set()
    notes = dict(queries.handovers(connection, 0, judge.trusted + 1)) if named else {}
    for leaf in queries.leaves_to(connection, judge.trusted):
        judge.passed(leaf)
        if judge.position in named and (row := queries.rows(connection, [judge.position]).get(judge.position)):
            _follow(judge, row)
            judge.handed_over(row.seq, notes.get(row.seq, ""))


def _follow(judge: Judge, row: Row) -> None:
    """Tell the judge of the key that a record names, if it is what was logged."""
    rotation = rotated_by(row.head, row.particulars)
    if rotation is not None and forms.leaf_of(row) == row.leaf:
        judge.rotated(row.seq, *rotation)


def _keys(connection: Connection, judge: Judge) -> None:
    """The table of the keys says what the records say."""
    said, followed = queries.keys(connection), judge.rotations
    for row in said:
        if row not in followed:
            judge.outside(row[0], "key", f"a key is kept at record {row[0]}, and no record that was followed names it")
    for row in followed:
        if row not in said:
            judge.outside(row[0], "key", f"record {row[0]} names a key, and it is not kept as that")


def _derived(connection: Connection, judge: Judge, index: _Index, end: int) -> None:
    """The kept frontier, what records name, and what they are found by."""
    try:
        tree = queries.tree(connection)
    except ValueError:
        tree = merkle.Frontier(-1, [])
    if (tree.size, tree.root()) != (end - 1, judge.report.root):
        judge.outside(end, "root", "the kept frontier is not that of the log")
    for digest, content in queries.sites(connection):
        if not forms.is_site(digest, content):
            judge.outside(end, "altered", f"what the server said of itself as {digest} is not what was logged")
    for seq, text in index.compare(connection):
        judge.outside(seq, "altered", text)
    for reference in queries.events_outside(connection):
        judge.outside(end, "outside", f"{reference} is not in the log")


def _tell(judge: Judge, proofs: _Proofs, end: int) -> None:
    record, registry = proofs.clinical, proofs.registry
    for seq, kind, text in (*record.findings, *registry.findings):
        judge.outside(seq or end, kind, text)
    for count, told in (
        (record.undigested, "versions have no digest in the log yet"),
        (registry.unproven, "clients and AE titles have no digest in the log yet"),
        (record.erased, "versions were erased on legal grounds, and are on record so"),
    ):
        if count:
            judge.report.notes.append(f"{count} {told}")


def judged(judge: Judge, row: Row) -> None:
    """Give the judge a row of the log."""
    made = forms.leaf_of(row)
    own = named_in(row.form, row.head) if row.form == forms.FORM_1 and row.head is not None else None
    judge.record(row.seq, row.event_id, row.leaf, made, is_gone=row.head is None, own=own)
    if made == row.leaf and (purged := purged_by(row.head, row.particulars)):
        judge.purged(row.seq, purged)
    _follow(judge, row)


class _Index:
    """Whether `audit_index` is what the records say: compared as sets, in constant memory.

    Two sums over all rows, keyed at random, so that nobody can make other rows that have the same sums.
    """

    def __init__(self, after: int = 0) -> None:
        """`after`: only what is found of records behind this position is compared."""
        self._after = after
        self._keys = secrets.randbits(61), secrets.randbits(61)
        self._expected = [0, 0, 0]

    def expect(self, row: Row) -> None:
        """The rows by which this record is found."""
        for kind, value in finding.keys_of(row) if row.head is not None else ():
            self._add(self._expected, (kind, value, row.recorded, row.seq), 1)

    def _add(self, sums: list[int], row: queries.IndexRow, count: int) -> None:
        one, other = self._keys
        sums[0] += count * hash((one, *row))
        sums[1] += count * hash((other, *row))
        sums[2] += count

    def compare(self, connection: Connection) -> Iterator[tuple[int, str]]:
        """(position, what is wrong) of the first rows that are too many or missing; nothing where all is well."""
        there = [0, 0, 0]
        for row in queries.index_rows(connection):
            if row[3] > self._after:
                self._add(there, row, 1)
        if there == self._expected:
            return
        yield from islice(self._located(connection), LOCATED)

    def _located(self, connection: Connection) -> Iterator[tuple[int, str]]:
        for row in queries.stored(connection, self._after):
            for kind, value in sorted(finding.keys_of(row)):
                if not queries.is_indexed(connection, (kind, value, row.recorded, row.seq)):
                    yield row.seq, f"AuditEvent/{row.event_id} is hidden from those who search it by {Kind(kind).name}"
        for kind, value, at, seq in queries.index_rows(connection):
            found = queries.rows(connection, [seq]).get(seq)
            says = found is not None and found.recorded == at and (kind, value) in finding.keys_of(found)
            if not says and seq > self._after:
                yield seq, f"record {seq} is found by what it does not say (kind {kind})"


class _Months:
    """Whether `audit_month` is what the records say, since a search by date trusts it.

    Records behind its last position are not noted yet, and searched without it.
    """

    def __init__(self, kept: Sequence[months.Month]) -> None:
        self._kept = list(kept)
        self._found: list[months.Month] = []

    def expect(self, row: Row) -> None:
        """The month in which this record was logged."""
        if not self._kept or row.seq > self._kept[-1].last:
            return
        months.add(self._found, row)

    def agrees(self, wrong: Collection[int]) -> bool:
        """Once all records were given. A month is not compared that has a record with a finding, of these positions."""
        left_out = [month for month in self._kept if any(month.first <= at <= month.last for at in wrong)]
        kept, found = (
            [one for one in given if not any(one.first <= out.last and out.first <= one.last for out in left_out)]
            for given in (self._kept, self._found)
        )
        return kept == found


def export(database: Database, file: Path, verifier: Verifier) -> int:
    """Write the log for `audit/offline.py`; returns the number of records. The file appears whole or not at all."""
    draft = file.with_name(f".{file.name}.{secrets.token_hex(6)}")
    count = 0
    try:
        with gzip.open(draft, "wt", encoding="utf-8", errors="surrogateescape", newline="\n", compresslevel=3) as out:
            for line in _export_lines(database, verifier):
                count += "leaf" in line
                out.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n")
        with draft.open("rb") as written:
            os.fsync(written.fileno())
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)
    return count


def _waiting(
    connection: Connection, judge: Judge, end: int, now: datetime, spooled: tuple[int, int | None],
    damaged: Iterable[Gap],
) -> None:
    for gap in damaged:
        judge.outside(end, "spool", gap.text())
    count, oldest = queries.waiting(connection)
    count += spooled[0]
    oldest = min((one for one in (oldest, spooled[1]) if one is not None), default=None)
    if not count or oldest is None:
        return
    age_s = (microseconds(now) - oldest) // 1_000_000
    if age_s > OVERDUE_S:
        judge.outside(end, "unsigned", f"{count} records wait to be sequenced, the oldest for {age_s} s")
    else:
        judge.report.notes.append(f"{count} records wait to be sequenced")


def _export_lines(database: Database, verifier: Verifier) -> Iterator[dict[str, object]]:
    with database.read() as connection:
        keys = [one.text() for _, one in chain(connection, verifier).spans]
        yield {"format": FORMAT, "origin": verifier.name, "key": keys[0], "keys": keys,
               "exported": instant_text(utc_now())}
        notes = queries.checkpoints(connection)
        checkpoint = next(notes, None)
        last = 0
        sites = {}
        for digest, content in queries.sites(connection):
            sites[digest] = forms.site_of(content)
            yield {"site": digest, "content": content}
        for row in queries.stored(connection):
            while checkpoint is not None and checkpoint[0] < row.seq:
                yield {"checkpoint": checkpoint[1], "size": checkpoint[0]}
                checkpoint = next(notes, None)
            yield {
                "seq": row.seq, "id": row.event_id, "form": row.form, "leaf": row.leaf.hex(), "salt": row.salt.hex(),
                "recorded": row.recorded, "logged": row.logged, "head": row.head, "particulars": row.particulars,
                "parts": row.parts, "events": _events(row, sites),
            }
            last = row.seq
        while checkpoint is not None:
            yield {"checkpoint": checkpoint[1], "size": checkpoint[0]}
            checkpoint = next(notes, None)
    yield {"end": last}


def _events(row: Row, sites: Mapping[str, Json]) -> list[Json]:
    """The AuditEvents of a record; none of one that was damaged, which the export shows as it stands.

    In form 1 it is one itself.
    """
    if row.head is None or row.form == forms.FORM_1:
        return []
    try:
        head, particulars = forms.texts_of(row)
        site = sites[head["site"]]
        return [forms.project(row, event, head, particulars, site) for event in forms.events_of(row)]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return []
