"""The statements that write studies, series, instances and headers, and the reads that they need.

What the rows of a study say does not depend on the order in
which its instances came: its attributes are those of the instance with the least SOP Instance UID.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import (
    ColumnElement,
    Connection,
    CursorResult,
    Select,
    Table,
    and_,
    bindparam,
    case,
    delete,
    func,
    insert,
    or_,
    select,
    union_all,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from dicomweb import pace
from dicomweb.tables import Row, dicom_header, dicom_instance, dicom_series, dicom_study
from resources.json import Json
from store.access import COUNTED, Waiting
from store.engine.statements import Prepared

_AT_ONCE = 500
"""Values of one statement."""


def pack(value: Any) -> bytes:
    """A value as deflated JSON."""
    return zlib.compress(orjson.dumps(value), 6)


def unpack(blob: bytes) -> Any:
    """What `pack` made."""
    return orjson.loads(zlib.decompress(blob))


def insert_or_nothing(connection: Connection, table: Table, values: Sequence[Json]) -> None:
    """Insert the rows whose unique keys are not there yet."""
    dialect: Any = postgresql if connection.dialect.name == "postgresql" else sqlite
    if values:
        connection.execute(dialect.insert(table).on_conflict_do_nothing(), list(values))


def lock_study(connection: Connection, owner_id: int, uid: str) -> Row | None:
    """The study's row, held against other batches of the same study until the commit."""
    found = connection.execute(
        select(dicom_study)
        .where(dicom_study.c.owner_id == owner_id, dicom_study.c.study_instance_uid == uid)
        .with_for_update()
    )
    return found.first()


def study(connection: Connection, owner: str, uid: str) -> Row | None:
    """The study's row as it is now."""
    found = connection.execute(
        select(dicom_study).where(dicom_study.c.study_instance_uid == uid, dicom_study.c.owner == owner)
    )
    return found.first()


def series_of(connection: Connection, study_pk: int) -> Sequence[Row]:
    """The series of a study, by UID."""
    return connection.execute(
        select(dicom_series)
        .where(dicom_series.c.study_pk == study_pk)
        .order_by(dicom_series.c.series_instance_uid)
    ).all()


def moved_series(connection: Connection, owner_id: int, uids: Iterable[str]) -> dict[tuple[str, str], str]:
    """(StudyInstanceUID as sent, SeriesInstanceUID) → StudyInstanceUID of the study that people made of the series."""
    series, study = dicom_series.c, dicom_study.c
    rows = connection.execute(
        select(series.sent_study_uid, series.series_instance_uid, study.study_instance_uid)
        .join_from(dicom_series, dicom_study, study.pk == series.study_pk)
        .where(series.sent_study_uid.in_(sorted(uids)), series.sent_study_uid != "", study.owner_id == owner_id)
    )
    return {(row[0], row[1]): row[2] for row in rows}


def instances_of(connection: Connection, study_pk: int) -> Sequence[Row]:
    """The instances of a study that are shown."""
    return connection.execute(
        select(dicom_instance)
        .where(dicom_instance.c.study_pk == study_pk, dicom_instance.c.rejected == 0)
        .order_by(dicom_instance.c.sop_instance_uid)
    ).all()


@dataclass(frozen=True, slots=True)
class Stored:
    """The digests of a stored instance: of its file in the object store, and of transfer syntax and data set."""

    digest: str
    dataset_digest: str


def stored_digests(connection: Connection, owner_id: int, uids: Iterable[str]) -> dict[str, Stored]:
    """SOP Instance UID → digests of what this owner has stored already."""
    found: dict[str, Stored] = {}
    wanted = list(uids)
    table = dicom_instance.c
    for start in range(0, len(wanted), 500):
        rows = connection.execute(
            select(table.sop_instance_uid, table.digest, table.dataset_digest).where(
                table.owner_id == owner_id, table.sop_instance_uid.in_(wanted[start : start + 500])
            )
        )
        found.update({row[0]: Stored(row[1], row[2]) for row in rows})
    return found


def insert_series(connection: Connection, values: Json) -> int:
    """A new series; its pk."""
    return int(connection.execute(insert(dicom_series).values(**values).returning(dicom_series.c.pk)).scalar_one())


def insert_instances(connection: Connection, rows: Sequence[Json]) -> dict[str, int]:
    """SOP Instance UID → row. A UID that another transaction stored meanwhile is a race: the transaction is retried."""
    table = dicom_instance
    made = connection.execute(insert(table).returning(table.c.pk, table.c.sop_instance_uid), list(rows)).all()
    return {row[1]: row[0] for row in made}


def insert_headers(connection: Connection, headers: Sequence[tuple[int, Json, Json]]) -> None:
    """The headers of new instances."""
    connection.execute(
        insert(dicom_header),
        [{"instance_pk": pk, "metadata": pack(json), "layout": pack(layout)} for pk, json, layout in headers],
    )


def reports_of(
    connection: Connection, study_pk: int, sop_classes: Iterable[str], limit: int
) -> list[tuple[str, Json]]:
    """The structured reports of these classes in a study that are shown: SOP Instance UID and DICOM JSON, by UID."""
    rows = connection.execute(
        select(dicom_instance.c.sop_instance_uid, dicom_header.c.metadata)
        .join(dicom_series, dicom_series.c.pk == dicom_instance.c.series_pk)
        .join(dicom_header, dicom_header.c.instance_pk == dicom_instance.c.pk)
        .where(
            dicom_series.c.study_pk == study_pk,
            dicom_series.c.modality == "SR",
            dicom_instance.c.sop_class_uid.in_(sorted(sop_classes)),
            dicom_instance.c.rejected == 0,
        )
        .order_by(dicom_instance.c.sop_instance_uid)
        .limit(limit)
    )
    return [(row.sop_instance_uid, unpack(row.metadata)) for row in rows]


def remove_empty(connection: Connection, study_pk: int) -> None:
    """Take back a study row that got no instance."""
    connection.execute(delete(dicom_study).where(dicom_study.c.pk == study_pk, dicom_study.c.representative == ""))


def set_row(connection: Connection, table: Table, pk: int, values: Json) -> None:
    """Alter one row by its pk."""
    connection.execute(update(table).where(table.c.pk == bindparam("row_pk")).values(**values), {"row_pk": pk})


def mark_published(connection: Connection, pk: int, values: Json) -> None:
    """Note what the study's ImagingStudy shows."""
    set_row(connection, dicom_study, pk, values)


def _arm(*where: ColumnElement[bool]) -> Select[Any]:
    column = dicom_study.c
    return select(column.owner, column.study_instance_uid, column.updated.label("since")).where(*where)


_COLUMNS = dicom_study.c
_DUE = union_all(  # each arm along an index of what waits
    _arm(_COLUMNS.due <= bindparam("now")),
    _arm(_COLUMNS.due > bindparam("ahead")),
    _arm(_COLUMNS.due.is_(None), _COLUMNS.published < _COLUMNS.revision, _COLUMNS.updated <= bindparam("forgotten")),
).subquery()
_TURNS = select(
    _DUE, func.row_number().over(partition_by=_DUE.c.owner, order_by=_DUE.c.since).label("turn")
).subquery()
_UNPUBLISHED = Prepared(
    select(_TURNS.c.owner, _TURNS.c.study_instance_uid)
    .order_by(_TURNS.c.turn, _TURNS.c.since)
    .limit(bindparam("most"))
)
_NEXT = Prepared(select(_COLUMNS.due).where(_COLUMNS.due > bindparam("now")).order_by(_COLUMNS.due).limit(1))


def unpublished(connection: Connection, *, now_us: int, limit: int) -> list[tuple[str, str]]:
    """(owner, StudyInstanceUID) of studies that are to be published by now: the oldest of each hospital, then the
    second of each, so that none waits behind all that another has stored."""
    asked = {"now": now_us, "ahead": now_us + pace.AHEAD_US, "forgotten": now_us - pace.FORGOTTEN_US, "most": limit}
    return [(row[0], row[1]) for row in _UNPUBLISHED.all(connection, asked)]


def next_due(connection: Connection, *, now_us: int) -> int | None:
    """When the next study is to be published, µs; None: none waits."""
    row = _NEXT.first(connection, {"now": now_us})
    return None if row is None else int(row[0])


def raise_revision(
    connection: Connection, where: ColumnElement[bool], *, cause: str, now_us: int
) -> int:
    """Have the studies that fulfil `where` published again soon; until then nothing that rests on them is signed.
    How many they are."""
    column = dicom_study.c
    soon = case((and_(column.due.is_not(None), column.due < now_us), column.due), else_=now_us)
    values = {"revision": column.revision + 1, "due": soon, "cause": cause}
    done: CursorResult[Any] = connection.execute(
        update(dicom_study).where(where, column.representative != "").values(values)
    )
    return done.rowcount


def waiting_of(
    connection: Connection, owner: str, numbers: Iterable[str], order_id: str, study_ids: Iterable[str]
) -> list[str]:
    """ImagingStudy ids of an order's studies that have what their ImagingStudy does not show yet: those that carry one
    of its accession numbers, were joined to it, or are named."""
    column = dicom_study.c
    concerns = or_(
        and_(column.owner == owner, column.accession_number.in_(sorted(set(numbers) - {""}))),
        column.order_id == order_id,
        column.imaging_study_id.in_(sorted(study_ids)),
    )
    # By what waits, which is little: not by what the order may have.
    asked = select(column.imaging_study_id).where(column.published < column.revision, concerns)
    return [str(one) for one in connection.execute(asked.order_by(column.pk)).scalars()]


def backlog(connection: Connection) -> Waiting:
    """Studies that are newer than their ImagingStudy, as a queue."""
    waits = dicom_study.c.published < dicom_study.c.revision
    counted = select(dicom_study.c.pk).where(waits).limit(COUNTED).subquery()
    count = connection.execute(select(func.count()).select_from(counted)).scalar_one()
    oldest = select(dicom_study.c.updated).where(waits).order_by(dicom_study.c.updated).limit(1)
    return Waiting(int(count), connection.execute(oldest).scalar())


def raise_orders(
    connection: Connection, owner_id: int, accession_numbers: Iterable[str], order_ids: Iterable[str], *, cause: str,
    now_us: int,
) -> int:
    """`raise_revision` of the studies that carry one of these accession numbers, or were joined to one of these orders
    before. A study that is concerned twice is raised twice, which is the same."""
    count = 0
    for column, values in ((dicom_study.c.accession_number, accession_numbers), (dicom_study.c.order_id, order_ids)):
        wanted = sorted(set(values) - {""})
        for first in range(0, len(wanted), _AT_ONCE):
            where = and_(dicom_study.c.owner_id == owner_id, column.in_(wanted[first : first + _AT_ONCE]))
            count += raise_revision(connection, where, cause=cause, now_us=now_us)
    return count


def count_of(connection: Connection, table: Table) -> int:
    """How many rows a table has."""
    return int(connection.execute(select(func.count()).select_from(table)).scalar_one())
