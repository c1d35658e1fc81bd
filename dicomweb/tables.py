"""The tables of images: studies, series, instances, headers, AE titles.

Each row carries owner and audience like every version of a resource, and (owner, UID) is the key: the same UID from two
hospitals is two studies that know nothing of one another.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy import Row as SqlRow

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
    Column("due", BigInteger, comment="when it is to be published, µs since 1970-01-01T00:00Z; null: nothing is to be"),
    Column("complete", SmallInteger, nullable=False, server_default="1", comment="no more images are waited for"),
    Column("step", SmallInteger, nullable=False, server_default="0", comment="versions since it was opened"),
    Column("paced", BigInteger, nullable=False, server_default="0",
           comment="the last of them, or the opening, µs since 1970-01-01T00:00Z"),
    Column("ended", SmallInteger, nullable=False, server_default="0", comment="the modality said that it has ended"),
    Column("expected_series", Integer, comment="that exist, where known"),
    Column("expected_instances", Integer, comment="that exist, where known"),
    _text("cause", "JSON: who last gave reason to publish it"),
    _text("imaging_study_id"),
    _text("matching", "matched, to-confirm, mismatch or unmatched"),
    _text("order_id", "ServiceRequest that the accession number found"),
    _text("patient", "Patient/id once matched"),
    Column("corrected", LargeBinary, comment="DICOM JSON given in place of what was sent, deflated; null: as sent"),
    Column("rejected", Integer, nullable=False, server_default="0",
           comment="DCM code under which its last instance was rejected"),
    Column("stored", BigInteger, nullable=False, comment="first instance, µs since 1970-01-01T00:00Z"),
    Column("updated", BigInteger, nullable=False, comment="last instance, µs since 1970-01-01T00:00Z"),
    UniqueConstraint("owner_id", "study_instance_uid"),
    Index("ix_dicom_study_uid", "study_instance_uid"),
    Index("ix_dicom_study_date", "audience_id", "study_date", "study_time", "pk"),
    Index("ix_dicom_study_accession", "accession_number", "owner_id"),
    Index("ix_dicom_study_patient", "patient_id", "audience_id"),
    Index("ix_dicom_study_order", "order_id"),
    Index("ix_dicom_study_subject", "patient", sqlite_where=Column("patient") != "",
          postgresql_where=Column("patient") != ""),
    Index("ix_dicom_study_unpublished", "updated", sqlite_where=Column("published") < Column("revision"),
          postgresql_where=Column("published") < Column("revision")),
    Index("ix_dicom_study_due", "due", sqlite_where=Column("due").is_not(None),
          postgresql_where=Column("due").is_not(None)),
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
    _text("sent_study_uid", "StudyInstanceUID that its instances were sent under, where people split the study"),
    Column("rejected", Integer, nullable=False, server_default="0",
           comment="DCM code under which it was rejected, with all that is still to come of it; 0: shown"),
    UniqueConstraint("study_pk", "series_instance_uid"),
    Index("ix_dicom_series_uid", "series_instance_uid"),
    Index("ix_dicom_series_sent", "sent_study_uid", sqlite_where=Column("sent_study_uid") != "",
          postgresql_where=Column("sent_study_uid") != ""),
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
    Column("identity", BigInteger, nullable=False, server_default="0",
           comment="what it says of patient and order: dicom_identity.number; 0: from before that was kept"),
    Column("rejected", Integer, nullable=False, server_default="0", comment="DCM code; 0: it is shown"),
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
    Index("ix_dicom_instance_digest", "digest"),
)

dicom_header = Table(
    "dicom_header",
    metadata,
    Column("instance_pk", BigInteger, primary_key=True, autoincrement=False),
    Column("metadata", LargeBinary, nullable=False, comment="DICOM JSON of the instance, deflated"),
    Column("layout", LargeBinary, nullable=False, comment="JSON: where frames and bulk data lie, deflated"),
)

dicom_identity = Table(
    "dicom_identity",
    metadata,
    Column("study_pk", BigInteger, ForeignKey("dicom_study.pk"), primary_key=True, autoincrement=False),
    Column("number", BigInteger, primary_key=True, autoincrement=False, comment="hash64 of what is said"),
    Column("said", LargeBinary, nullable=False, comment="DICOM JSON of patient and accession number, deflated"),
)

image_decision = Table(
    "image_decision",
    metadata,
    Column("pk", Key, primary_key=True),
    Column("owner_id", BigInteger, nullable=False, comment="hash64 of the owner"),
    Column("study_pk", BigInteger, nullable=False),
    Column("action", Text, nullable=False, comment="confirm, attach, detach, split, reject, restore"),
    _text("order_id", "ServiceRequest that the study was said to answer"),
    _text("patient", "Patient/id that the study was said to be of"),
    Column("identities", Text, nullable=False, server_default="", comment="dicom_identity.number that it covers"),
    Column("code", Integer, nullable=False, server_default="0", comment="DCM code of a rejection"),
    Column("reason", Text, nullable=False, comment="as given"),
    Column("decided_by", Text, nullable=False, comment="client, or Practitioner/id"),
    Column("decided", BigInteger, nullable=False, comment="µs since 1970-01-01T00:00Z"),
    Index("ix_image_decision_study", "study_pk", "pk"),
)

image_link = Table(
    "image_link",
    metadata,
    Column("owner_id", BigInteger, primary_key=True, autoincrement=False, comment="hash64 of the hospital"),
    Column("issuer", BinaryText, primary_key=True, comment="of the PatientID; empty: none was stated"),
    Column("value", BinaryText, primary_key=True, comment="PatientID as it is compared"),
    Column("patient", BinaryText, nullable=False, comment="Patient/id that people said it to be; empty: revoked"),
    Column("decision_pk", BigInteger, nullable=False, comment="image_decision that taught it"),
    Index("ix_image_link_patient", "patient"),
)

image_rejection = Table(
    "image_rejection",
    metadata,
    Column("owner_id", BigInteger, primary_key=True, autoincrement=False, comment="hash64 of the hospital"),
    Column("sop_instance_uid", BinaryText, primary_key=True, comment="rejected before it came"),
    Column("code", Integer, nullable=False, comment="DCM code"),
)

ae_title = Table(
    "ae_title",
    metadata,
    Column("ae", BinaryText, primary_key=True, comment="calling AE title"),
    Column("organization", BinaryText, nullable=False, comment="Organization id that it stores for"),
    Column("active", SmallInteger, nullable=False, server_default="1"),
    Column("addresses", Text, nullable=False, server_default="",
           comment="addresses and networks that it comes from, by spaces; empty: none without TLS"),
    Column("certificates", Text, nullable=False, server_default="",
           comment="SHA-256 fingerprints of its TLS certificates, by spaces"),
    Column("sop_classes", Text, nullable=False, server_default="",
           comment="SOP classes that it may store, by spaces; empty: any storage class"),
)

NAMING = (dicom_instance.c.digest,)
"""The columns that name objects of the object store: an object that none of them names is removed."""
