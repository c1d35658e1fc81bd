"""The tables of images, and the writes into them: studies, series, instances, headers, AE titles.

Each row carries owner and audience like every version of a resource, and (owner, UID) is the key: the same UID from two
hospitals is two studies that know nothing of one another. What the rows of a study say does not depend on the order in
which its instances came: its attributes are those of the instance with the least SOP Instance UID.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import orjson
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    bindparam,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy import Row as SqlRow
from sqlalchemy.dialects import postgresql, sqlite

from resources.json import Json
from store.engine.schema import BinaryText, Key, metadata

Row = SqlRow[Any]
"""A row of these tables, by column name."""


def _text(name: str, comment: str | None = None) -> Column[Any]:
    return Column(name, BinaryText, nullable=False, server_default="", comment=comment)


dicom_study = Table(
    "dicom_study",
    metadata,
    Column("pk", Key, primary_key=True),
    Column("owner_id", BigInteger, nullable=False, comment="hash64 of the owner"),
    Column("audience_id", BigInteger, nullable=False),
    Column("owner", BinaryText, nullable=False, comment="Organization id of the hospital"),
    Column("study_instance_uid", BinaryText, nullable=False),
    _text("representative", "least SOP Instance UID: the attributes are this instance's"),
    _text("study_date", "YYYYMMDD"),
    _text("study_time", "HHMMSS.FFFFFF, as sent"),
    _text("accession_number"),
    _text("referring_physician_name", "=group=group= without case and accents"),
    _text("study_description"),
    _text("patient_name", "=group=group= without case and accents"),
    _text("patient_id"),
    _text("issuer_of_patient_id"),
    _text("patient_birth_date", "YYYYMMDD"),
    _text("patient_sex"),
    _text("study_id"),
    _text("modalities", "of its series, sorted, joined by \\"),
    Column("attributes", LargeBinary, nullable=False, comment="DICOM JSON of patient and study, deflated"),
    Column("series_count", Integer, nullable=False, server_default="0"),
    Column("instance_count", Integer, nullable=False, server_default="0"),
    Column("revision", BigInteger, nullable=False, server_default="0", comment="grows with every batch stored"),
    Column("published", BigInteger, nullable=False, server_default="-1", comment="revision its ImagingStudy shows"),
    _text("imaging_study_id"),
    _text("matching", "matched, unmatched or mismatch"),
    _text("order_id", "ServiceRequest that the accession number found"),
    _text("patient", "Patient/id once matched"),
    Column("stored", BigInteger, nullable=False, comment="first instance, µs since 1970-01-01T00:00Z"),
    Column("updated", BigInteger, nullable=False, comment="last instance, µs since 1970-01-01T00:00Z"),
    UniqueConstraint("owner_id", "study_instance_uid"),
    Index("ix_dicom_study_uid", "study_instance_uid"),
    Index("ix_dicom_study_date", "audience_id", "study_date", "study_time", "pk"),
    Index("ix_dicom_study_accession", "accession_number", "owner_id"),
    Index("ix_dicom_study_patient", "patient_id", "audience_id"),
    Index("ix_dicom_study_order", "order_id"),
    Index("ix_dicom_study_unpublished", "updated", sqlite_where=Column("published") < Column("revision"),
          postgresql_where=Column("published") < Column("revision")),
)

dicom_series = Table(
    "dicom_series",
    metadata,
    Column("pk", Key, primary_key=True),
    Column("study_pk", BigInteger, ForeignKey("dicom_study.pk"), nullable=False),
    Column("audience_id", BigInteger, nullable=False),
    Column("series_instance_uid", BinaryText, nullable=False),
    _text("representative"),
    _text("modality"),
    Column("series_number", Integer),
    _text("series_description"),
    _text("series_date"),
    _text("series_time"),
    _text("station_name"),
    _text("body_part_examined"),
    _text("performed_procedure_step_start_date"),
    _text("performed_procedure_step_start_time"),
    _text("scheduled_procedure_step_id"),
    _text("requested_procedure_id"),
    Column("attributes", LargeBinary, nullable=False, comment="DICOM JSON of the series, deflated"),
    Column("instance_count", Integer, nullable=False, server_default="0"),
    Column("revision", BigInteger, nullable=False, server_default="0", comment="grows with every batch stored"),
    UniqueConstraint("study_pk", "series_instance_uid"),
    Index("ix_dicom_series_uid", "series_instance_uid"),
    Index("ix_dicom_series_modality", "study_pk", "modality"),
)

dicom_instance = Table(
    "dicom_instance",
    metadata,
    Column("pk", Key, primary_key=True),
    Column("series_pk", BigInteger, ForeignKey("dicom_series.pk"), nullable=False),
    Column("study_pk", BigInteger, ForeignKey("dicom_study.pk"), nullable=False),
    Column("owner_id", BigInteger, nullable=False),
    Column("audience_id", BigInteger, nullable=False),
    Column("sop_instance_uid", BinaryText, nullable=False),
    Column("sop_class_uid", BinaryText, nullable=False),
    Column("transfer_syntax_uid", BinaryText, nullable=False),
    Column("instance_number", Integer),
    _text("content_date"),
    _text("content_time"),
    _text("patient_id"),
    Column("frame_count", Integer, nullable=False, comment="frames that can be served; 0: no pixels"),
    Column("digest", Text, nullable=False, comment="of the stored file in the object store"),
    Column("dataset_digest", Text, nullable=False, comment="SHA-256 of transfer syntax and data set"),
    Column("size_bytes", BigInteger, nullable=False),
    Column("origin", Text, nullable=False, comment="JSON: door, client, address, AE titles"),
    Column("stored", BigInteger, nullable=False, comment="µs since 1970-01-01T00:00Z"),
    UniqueConstraint("owner_id", "sop_instance_uid"),
    Index("ix_dicom_instance_uid", "sop_instance_uid"),
    Index("ix_dicom_instance_series", "series_pk", "instance_number", "pk"),
    Index("ix_dicom_instance_study", "study_pk", "pk"),
)

dicom_header = Table(
    "dicom_header",
    metadata,
    Column("instance_pk", BigInteger, primary_key=True, autoincrement=False),
    Column("metadata", LargeBinary, nullable=False, comment="DICOM JSON of the instance, deflated"),
    Column("layout", LargeBinary, nullable=False, comment="JSON: where frames and bulk data lie, deflated"),
)

ae_title = Table(
    "ae_title",
    metadata,
    Column("ae", BinaryText, primary_key=True, comment="calling AE title"),
    Column("organization", BinaryText, nullable=False, comment="Organization id that it stores for"),
    Column("address", Text, nullable=False, server_default="", comment="peer address it must come from; empty: any"),
    Column("active", SmallInteger, nullable=False, server_default="1"),
)


def pack(value: Any) -> bytes:
    return zlib.compress(orjson.dumps(value), 6)


def unpack(blob: bytes) -> Any:
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
    return connection.execute(
        select(dicom_series)
        .where(dicom_series.c.study_pk == study_pk)
        .order_by(dicom_series.c.series_instance_uid)
    ).all()


def instances_of(connection: Connection, study_pk: int) -> Sequence[Row]:
    return connection.execute(
        select(dicom_instance)
        .where(dicom_instance.c.study_pk == study_pk)
        .order_by(dicom_instance.c.sop_instance_uid)
    ).all()


def stored_digests(connection: Connection, owner_id: int, uids: Iterable[str]) -> dict[str, tuple[str, int]]:
    """SOP Instance UID → (data set digest, study row) of what this owner has stored already."""
    found: dict[str, tuple[str, int]] = {}
    wanted = list(uids)
    for start in range(0, len(wanted), 500):
        rows = connection.execute(
            select(dicom_instance.c.sop_instance_uid, dicom_instance.c.dataset_digest, dicom_instance.c.study_pk).where(
                dicom_instance.c.owner_id == owner_id,
                dicom_instance.c.sop_instance_uid.in_(wanted[start : start + 500]),
            )
        )
        found.update({row[0]: (row[1], row[2]) for row in rows})
    return found


def insert_series(connection: Connection, values: Json) -> int:
    return int(connection.execute(insert(dicom_series).values(**values).returning(dicom_series.c.pk)).scalar_one())


def insert_instances(connection: Connection, rows: Sequence[Json]) -> dict[str, int]:
    """SOP Instance UID → row. A UID that another transaction stored meanwhile is a race: the transaction is retried."""
    table = dicom_instance
    made = connection.execute(insert(table).returning(table.c.pk, table.c.sop_instance_uid), list(rows)).all()
    return {row[1]: row[0] for row in made}


def insert_headers(connection: Connection, headers: Sequence[tuple[int, Json, Json]]) -> None:
    connection.execute(
        insert(dicom_header),
        [{"instance_pk": pk, "metadata": pack(json), "layout": pack(layout)} for pk, json, layout in headers],
    )


def remove_empty(connection: Connection, study_pk: int) -> None:
    """Take back a study row that got no instance."""
    connection.execute(delete(dicom_study).where(dicom_study.c.pk == study_pk, dicom_study.c.instance_count == 0))


def set_row(connection: Connection, table: Table, pk: int, values: Json) -> None:
    connection.execute(update(table).where(table.c.pk == bindparam("row_pk")).values(**values), {"row_pk": pk})


def mark_published(connection: Connection, pk: int, values: Json) -> None:
    set_row(connection, dicom_study, pk, values)


def unpublished(connection: Connection, *, before: int, limit: int) -> list[tuple[str, str]]:
    """(owner, StudyInstanceUID) of studies newer than their ImagingStudy, quiet since `before` (µs)."""
    rows = connection.execute(
        select(dicom_study.c.owner, dicom_study.c.study_instance_uid)
        .where(dicom_study.c.published < dicom_study.c.revision, dicom_study.c.updated < before)
        .order_by(dicom_study.c.updated)
        .limit(limit)
    ).all()
    return [(row[0], row[1]) for row in rows]


def studies_of_order(
    connection: Connection, owner_id: int, accession_numbers: Sequence[str], order_id: str
) -> Sequence[Row]:
    """Studies that carry one of these accession numbers, or that were joined to this order before."""
    found = connection.execute(
        select(dicom_study).where(
            dicom_study.c.owner_id == owner_id,
            dicom_study.c.accession_number.in_(list(accession_numbers)),
            dicom_study.c.accession_number != "",
        )
    ).all()
    joined = connection.execute(
        select(dicom_study).where(dicom_study.c.owner_id == owner_id, dicom_study.c.order_id == order_id)
    ).all()
    return list({row.pk: row for row in (*found, *joined)}.values())


def count_of(connection: Connection, table: Table) -> int:
    return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


def patient_ids(connection: Connection, study_pk: int) -> Sequence[Row]:
    """The different PatientIDs among a study's instances: more than one is a mix-up."""
    return connection.execute(
        select(dicom_instance.c.patient_id).where(dicom_instance.c.study_pk == study_pk).distinct()
    ).all()


def ae_of(connection: Connection, ae: str) -> Row | None:
    return connection.execute(select(ae_title).where(ae_title.c.ae == ae)).first()


def bind_ae(connection: Connection, ae: str, organization: str, address: str, *, active: bool) -> None:
    insert_or_nothing(connection, ae_title, [{"ae": ae, "organization": organization}])
    connection.execute(
        update(ae_title)
        .where(ae_title.c.ae == ae)
        .values(organization=organization, address=address, active=int(active))
    )
