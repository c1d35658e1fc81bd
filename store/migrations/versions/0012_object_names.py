"""Which instance names an object: asked before one that none names is removed.

Revision ID: 0012
Revises: 0011
"""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_dicom_instance_digest", "dicom_instance", ["digest"])


def downgrade() -> None:
    op.drop_index("ix_dicom_instance_digest", table_name="dicom_instance")
