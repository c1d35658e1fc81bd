"""Which events could not be made into a notification.

Revision ID: 0015
Revises: 0014
"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "subscription_aside",
        sa.Column(
            "subscription_id", sa.Text().with_variant(sa.Text(collation="C"), "postgresql"), nullable=False
        ),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False, comment="of the event"),
        sa.Column("since", sa.BigInteger(), nullable=False, comment="µs since 1970"),
        sa.Column("fault", sa.Text(), nullable=False, comment="class of what composing it raised"),
        sa.PrimaryKeyConstraint("subscription_id", "number", name=op.f("pk_subscription_aside")),
    )


def downgrade() -> None:
    op.drop_table("subscription_aside")
