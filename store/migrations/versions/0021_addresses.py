"""ImagingStudies of a UID that several hospitals have say whose images their address leads to.

Revision ID: 0021
Revises: 0020
"""

from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "UPDATE dicom_study SET due = 0, revision = revision + 1 WHERE study_instance_uid IN"
        " (SELECT study_instance_uid FROM dicom_study GROUP BY study_instance_uid HAVING count(*) > 1)"
    )


def downgrade() -> None:
    pass
