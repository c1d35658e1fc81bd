"""What an operator does with clients: web origins, disabling, last token.

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("oauth_client") as batch_op:
        batch_op.add_column(
            sa.Column(
                "origins", sa.Text(), server_default="", nullable=False, comment="web origins of its pages (CORS), by spaces"
            )
        )
        batch_op.add_column(
            sa.Column("disabled_at", sa.BigInteger(), nullable=True, comment="s since 1970-01-01T00:00Z; null: active")
        )
        batch_op.add_column(sa.Column("disabled_by", sa.Text(), nullable=True, comment="agent and account number; no name"))
        batch_op.add_column(
            sa.Column(
                "last_token",
                sa.BigInteger(),
                nullable=True,
                comment="when it last fetched a token, s since 1970-01-01T00:00Z",
            )
        )


def downgrade() -> None:
    with op.batch_alter_table("oauth_client") as batch_op:
        for name in ("last_token", "disabled_by", "disabled_at", "origins"):
            batch_op.drop_column(name)
