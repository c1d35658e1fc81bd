"""A salt beside each version, under which its digest stands in the audit log.

What is there already gets its salt, and its digest in the log, by the background loop `digest-baseline` or by
`vigie db upgrade`: here nothing is rewritten.

Revision ID: 0007
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "resource_version",
        sa.Column("salt", sa.LargeBinary(), nullable=True,
                  comment="of its digest in the audit log (store.versions.digests); null: none yet"),
    )
    op.create_index(
        "ix_resource_version_unsalted", "resource_version", ["pk"],
        sqlite_where=sa.text("salt IS NULL"), postgresql_where=sa.text("salt IS NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_resource_version_unsalted", table_name="resource_version")
    op.drop_column("resource_version", "salt")
