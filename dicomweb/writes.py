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
    Connection,
    Table,
    bindparam,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

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


def series_of(connection: Connection, study_pk: int) -> Sequence[Row]:
    """The series of a study, by UID."""
    return connection.execute(
        select(dicom_series)
        .where(dicom_series.c.study_pk == study_pk)
        .order_by(dicom_series.c.series_instance_uid)
    ).all()


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


def remove_empty(connection: Connection, study_pk: int) -> None:
    """Take back a study row that got no instance."""
    connection.execute(delete(dicom_study).where(dicom_study.c.pk == study_pk, dicom_study.c.representative == ""))


def set_row(connection: Connection, table: Table, pk: int, values: Json) -> None:
    """Alter one row by its pk."""
    connection.execute(update(table).where(table.c.pk == bindparam("row_pk")).values(**values), {"row_pk": pk})


def mark_published(connection: Connection, pk: int, values: Json) -> None:
    """Note what the study's ImagingStudy shows."""
    set_row(connection, dicom_study, pk, values)


_WAITING = (
    select(
        dicom_study.c.owner, dicom_study.c.study_instance_uid, dicom_study.c.updated,
        func.row_number().over(partition_by=dicom_study.c.owner, order_by=dicom_study.c.updated).label("turn"),
    )
    .where(dicom_study.c.published < dicom_study.c.revision, dicom_study.c.updated < bindparam("before"))
    .subquery()
)  # fmt: skip
_UNPUBLISHED = Prepared(
    select(_WAITING.c.owner, _WAITING.c.study_instance_uid)
    .order_by(_WAITING.c.turn, _WAITING.c.updated)
    .limit(bindparam("most"))
)


def unpublished(connection: Connection, *, before: int, limit: int) -> list[tuple[str, str]]:
    """(owner, StudyInstanceUID) of studies newer than their ImagingStudy, quiet since `before` (µs): the oldest of each
    hospital, then the second of each, so that none waits behind all that another has stored."""
    return [(row[0], row[1]) for row in _UNPUBLISHED.all(connection, {"before": before, "most": limit})]


def backlog(connection: Connection) -> Waiting:
    """Studies that are newer than their ImagingStudy, as a queue."""
    waits = dicom_study.c.published < dicom_study.c.revision
    counted = select(dicom_study.c.pk).where(waits).limit(COUNTED).subquery()
    count = connection.execute(select(func.count()).select_from(counted)).scalar_one()
    oldest = select(dicom_study.c.updated).where(waits).order_by(dicom_study.c.updated).limit(1)
    return Waiting(int(count), connection.execute(oldest).scalar())


def studies_of_orders(
    connection: Connection, owner_id: int, accession_numbers: Iterable[str], order_ids: Iterable[str]
) -> list[Row]:
    """Studies that carry one of these accession numbers, or that were joined to one of these orders before."""
    found: dict[int, Row] = {}
    for column, values in (("accession_number", accession_numbers), ("order_id", order_ids)):
        wanted = sorted(set(values) - {""})
        for first in range(0, len(wanted), _AT_ONCE):
            some = dicom_study.c[column].in_(wanted[first : first + _AT_ONCE])
            rows = connection.execute(select(dicom_study).where(dicom_study.c.owner_id == owner_id, some)).all()
            found.update((row.pk, row) for row in rows)
    return list(found.values())


def count_of(connection: Connection, table: Table) -> int:
    """How many rows a table has."""
    return int(connection.execute(select(func.count()).select_from(table)).scalar_one())
