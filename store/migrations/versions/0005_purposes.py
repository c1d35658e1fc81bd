"""The purpose of use that a token was issued for.

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "oauth_token",
        sa.Column("purpose", sa.Text(), comment="purpose of use (v3-ActReason); null: issued before it was kept"),
    )


def downgrade() -> None:
    with op.batch_alter_table("oauth_token") as batch_op:
        batch_op.drop_column("purpose")
