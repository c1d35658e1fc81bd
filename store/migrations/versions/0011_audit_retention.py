"""What keeps records of the log longer than their time, and what was purged of it.

Revision ID: 0011
Revises: 0010
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "audit_hold",
        sa.Column("pk", _KEY, nullable=False),
        sa.Column("patient", sa.Text(), nullable=False, comment="reference of the patient whose records are kept; *: all"),
        sa.Column("reason", sa.Text(), nullable=False, comment="what the operator said"),
        sa.Column("since", sa.BigInteger(), nullable=False, comment="µs since 1970-01-01T00:00Z"),
        sa.Column("released", sa.BigInteger(), nullable=True, comment="µs since 1970-01-01T00:00Z; null: in force"),
        sa.PrimaryKeyConstraint("pk", name=op.f("pk_audit_hold")),
    )
    op.create_table(
        "audit_purge",
        sa.Column("pk", _KEY, nullable=False),
        sa.Column("class", sa.Text(), nullable=False, comment="audit.retention.CLASSES"),
        sa.Column("first", sa.BigInteger(), nullable=False, comment="lowest position"),
        sa.Column("last", sa.BigInteger(), nullable=False, comment="highest position"),
        sa.Column("records", sa.BigInteger(), nullable=False, comment="how many were emptied"),
        sa.Column("events", sa.BigInteger(), nullable=False, comment="AuditEvents that they were"),
        sa.PrimaryKeyConstraint("pk", name=op.f("pk_audit_purge")),
    )


def downgrade() -> None:
    op.drop_table("audit_purge")
    op.drop_table("audit_hold")
