"""When a study is to be published, and because of whom.

Revision ID: 0020
Revises: 0019
"""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

_COLUMNS = (
    ("due", sa.BigInteger(), None, "when it is to be published, µs since 1970-01-01T00:00Z; null: nothing is to be"),
    ("complete", sa.SmallInteger(), "1", "no more images are waited for"),
    ("step", sa.SmallInteger(), "0", "versions since it was opened"),
    ("paced", sa.BigInteger(), "0", "the last of them, or the opening, µs since 1970-01-01T00:00Z"),
    ("ended", sa.SmallInteger(), "0", "the modality said that it has ended"),
    ("expected_series", sa.Integer(), None, "that exist, where known"),
    ("expected_instances", sa.Integer(), None, "that exist, where known"),
    (
        "cause", sa.Text().with_variant(sa.Text(collation="C"), "postgresql"), "",
        "JSON: who last gave reason to publish it",
    ),
)


def upgrade() -> None:
    for name, kind, default, comment in _COLUMNS:
        op.add_column(
            "dicom_study",
            sa.Column(name, kind, nullable=default is None, server_default=default, comment=comment),
        )
    op.create_index(
        "ix_dicom_study_subject", "dicom_study", ["patient"], sqlite_where=sa.text("patient != ''"),
        postgresql_where=sa.text("patient != ''"),
    )
    op.create_index(
        "ix_dicom_study_due", "dicom_study", ["due"], sqlite_where=sa.text("due IS NOT NULL"),
        postgresql_where=sa.text("due IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_dicom_study_due", table_name="dicom_study")
    op.drop_index("ix_dicom_study_subject", table_name="dicom_study")
    for name, *_ in reversed(_COLUMNS):
        op.drop_column("dicom_study", name)
