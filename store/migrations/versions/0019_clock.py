"""What is due when, and when each step of a case happened.

Revision ID: 0019
Revises: 0018
"""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    op.create_table(
        "due_item",
        sa.Column("kind", text, nullable=False, comment="row of workflow.escalation.KINDS"),
        sa.Column("subject", text, nullable=False, comment="Type/id of what is watched"),
        sa.Column("case_id", text, nullable=False, comment="logical id of its order; empty: of none"),
        sa.Column("due", sa.BigInteger(), nullable=False, comment="µs since 1970"),
        sa.Column("level", sa.Integer(), nullable=False, comment="of escalation that was reached; 0: none"),
        sa.Column("next_at", sa.BigInteger(), nullable=True, comment="µs since 1970; null: nothing more is done"),
        sa.PrimaryKeyConstraint("kind", "subject", name=op.f("pk_due_item")),
    )
    op.create_index(op.f("ix_due_item_next_at"), "due_item", ["next_at"])
    op.create_index(op.f("ix_due_item_subject"), "due_item", ["subject"])
    op.create_index(op.f("ix_due_item_case_id"), "due_item", ["case_id"])
    op.create_table(
        "milestone",
        sa.Column("case_id", text, nullable=False, comment="logical id of the order"),
        sa.Column("round", sa.Integer(), autoincrement=False, nullable=False, comment="from 1; one more if taken up again"),
        sa.Column("name", text, nullable=False, comment="T0 to T9, Tc"),
        sa.Column("at", sa.BigInteger(), nullable=False, comment="µs since 1970"),
        sa.Column("source", sa.Text(), nullable=False, comment="Type/id of what shows it"),
        sa.PrimaryKeyConstraint("case_id", "round", "name", name=op.f("pk_milestone")),
    )


def downgrade() -> None:
    op.drop_table("milestone")
    op.drop_table("due_item")
