"""The outbox is taken in the order of its keys; a subscription knows which transactions were under way.

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_index("ix_subscription_change_order", table_name="subscription_change")
    with op.batch_alter_table("subscription_state") as batch_op:
        batch_op.add_column(
            sa.Column(
                "since_open", sa.Text(), server_default="", nullable=False, comment="…of these, by spaces: then under way"
            )
        )


def downgrade() -> None:
    with op.batch_alter_table("subscription_state") as batch_op:
        batch_op.drop_column("since_open")
    op.create_index("ix_subscription_change_order", "subscription_change", ["tx_id", "id"])
