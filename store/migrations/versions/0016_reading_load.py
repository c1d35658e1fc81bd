"""How many open readings each person has, kept as numbers.

Revision ID: 0016
Revises: 0015
"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "reading_load",
        sa.Column(
            "practitioner", sa.Text().with_variant(sa.Text(collation="C"), "postgresql"), nullable=False,
            comment="Practitioner/id; empty: the numbers are counted",
        ),
        sa.Column(
            "readings", sa.Integer(), nullable=False,
            comment="open ones that are proposed to or claimed by this person",
        ),
        sa.PrimaryKeyConstraint("practitioner", name=op.f("pk_reading_load")),
    )


def downgrade() -> None:
    op.drop_table("reading_load")
