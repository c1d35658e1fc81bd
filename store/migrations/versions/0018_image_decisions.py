"""What images say of their patient, what people decided about them, what was rejected.

Revision ID: 0018
Revises: 0017
"""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def _text() -> sa.types.TypeEngine:
    return sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.add_column("dicom_study", sa.Column("corrected", sa.LargeBinary(), nullable=True))
    for table in ("dicom_study", "dicom_series", "dicom_instance"):
        op.add_column(table, sa.Column("rejected", sa.Integer(), server_default="0", nullable=False))
    op.add_column("dicom_series", sa.Column("sent_study_uid", _text(), server_default="", nullable=False))
    op.create_index(
        "ix_dicom_series_sent", "dicom_series", ["sent_study_uid"],
        sqlite_where=sa.text("sent_study_uid != ''"), postgresql_where=sa.text("sent_study_uid != ''"),
    )
    op.add_column("dicom_instance", sa.Column("identity", sa.BigInteger(), server_default="0", nullable=False))
    op.create_table(
        "dicom_identity",
        sa.Column("study_pk", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("said", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["study_pk"], ["dicom_study.pk"], name=op.f("fk_dicom_identity_study_pk_dicom_study")
        ),
        sa.PrimaryKeyConstraint("study_pk", "number", name=op.f("pk_dicom_identity")),
    )
    op.create_table(
        "image_decision",
        sa.Column("pk", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("owner_id", sa.BigInteger(), nullable=False),
        sa.Column("study_pk", sa.BigInteger(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("order_id", _text(), server_default="", nullable=False),
        sa.Column("patient", _text(), server_default="", nullable=False),
        sa.Column("identities", sa.Text(), server_default="", nullable=False),
        sa.Column("code", sa.Integer(), server_default="0", nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("decided_by", sa.Text(), nullable=False),
        sa.Column("decided", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("pk", name=op.f("pk_image_decision")),
    )
    op.create_index("ix_image_decision_study", "image_decision", ["study_pk", "pk"])
    op.create_table(
        "image_link",
        sa.Column("owner_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("issuer", _text(), nullable=False),
        sa.Column("value", _text(), nullable=False),
        sa.Column("patient", _text(), nullable=False),
        sa.Column("decision_pk", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("owner_id", "issuer", "value", name=op.f("pk_image_link")),
    )
    op.create_index("ix_image_link_patient", "image_link", ["patient"])
    op.create_table(
        "image_rejection",
        sa.Column("owner_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("sop_instance_uid", _text(), nullable=False),
        sa.Column("code", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("owner_id", "sop_instance_uid", name=op.f("pk_image_rejection")),
    )


def downgrade() -> None:
    for table in ("image_rejection", "image_link", "image_decision", "dicom_identity"):
        op.drop_table(table)
    op.drop_column("dicom_instance", "identity")
    op.drop_index("ix_dicom_series_sent", table_name="dicom_series")
    op.drop_column("dicom_series", "sent_study_uid")
    for table in ("dicom_instance", "dicom_series", "dicom_study"):
        op.drop_column(table, "rejected")
    op.drop_column("dicom_study", "corrected")
