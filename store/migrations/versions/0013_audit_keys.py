"""Which key signs the log from which record on.

Revision ID: 0013
Revises: 0012
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "audit_key",
        sa.Column(
            "seq",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=False,
            nullable=False,
            comment="record that names the key; it signs from there",
        ),
        sa.Column("former", sa.Text(), nullable=False, comment="verifier key that signed up to there (C2SP signed-note)"),
        sa.Column("key", sa.Text(), nullable=False, comment="verifier key that signs from there on"),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_audit_key")),
    )


def downgrade() -> None:
    op.drop_table("audit_key")
