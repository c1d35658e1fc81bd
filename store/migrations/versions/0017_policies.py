"""What is decided by policy, for partners, sites and exams.

Revision ID: 0017
Revises: 0016
"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    op.create_table(
        "policy",
        sa.Column("name", text, nullable=False),
        sa.Column("partner", text, nullable=False, comment="logical id of an Organization; empty: any"),
        sa.Column("site", text, nullable=False, comment="logical id of an Organization or Location; empty: any"),
        sa.Column("exam", text, nullable=False, comment="code of an exam; empty: any"),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False, comment="from 1 in its place"),
        sa.Column("value", sa.Text(), nullable=True, comment="JSON; null: what was decided before is withdrawn"),
        sa.Column("since", sa.BigInteger(), nullable=False, comment="µs since 1970"),
        sa.Column("by", sa.Text(), nullable=False, comment="client id of who decided"),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", "partner", "site", "exam", "version", name=op.f("pk_policy")),
    )


def downgrade() -> None:
    op.drop_table("policy")
