"""The spool chained: what the database knows of its files, and what did not verify in them.

Files of before are of format 1; `audit.intake.adopt` registers those that the database does not know yet.

Revision ID: 0009
Revises: 0008
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_COLUMNS = (
    ("format", sa.SmallInteger(), "1", "2: chained; 1: of a version before that"),
    ("header", sa.LargeBinary(), "", "what the file begins with; format 1: empty"),
    ("created", sa.BigInteger(), "0", "µs since 1970-01-01T00:00Z; 0: not known"),
    ("owner", sa.Text(), "", "process and host that write it"),
    ("count", sa.BigInteger(), "0", "records in these"),
    ("chain", sa.LargeBinary(), "", "MAC of the frame that ends there"),
    ("head_offset", sa.BigInteger(), "0", "bytes that its writer has said are written"),
    ("head_count", sa.BigInteger(), "0", "records in these"),
    ("head_mac", sa.LargeBinary(), "", "MAC of the frame that ends there"),
    ("done", sa.SmallInteger(), "0", "1: only to be removed"),
)


def upgrade() -> None:
    with op.batch_alter_table("audit_spool") as batch_op:
        for name, kind, default, comment in _COLUMNS:
            batch_op.add_column(sa.Column(name, kind, server_default=default, nullable=False, comment=comment))
    op.create_table(
        "audit_spool_gap",
        sa.Column("pk", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("file", sa.Text(), nullable=False,
                  comment="name of the file; it lies in the folder aside, if anywhere"),
        sa.Column("begin", sa.BigInteger(), nullable=False, comment="offset from which it does not verify"),
        sa.Column("end", sa.BigInteger(), nullable=False, comment="offset up to which it does not"),
        sa.Column("records", sa.BigInteger(), nullable=True, comment="how many records stood there; null: nobody knows"),
        sa.Column("kind", sa.Text(), nullable=False, comment="altered, truncated, removed, foreign"),
        sa.Column("found", sa.BigInteger(), nullable=False, comment="µs since 1970-01-01T00:00Z"),
        sa.Column("seen", sa.BigInteger(), nullable=True,
                  comment="when an operator said that it is known; null: not yet"),
        sa.PrimaryKeyConstraint("pk", name=op.f("pk_audit_spool_gap")),
    )


def downgrade() -> None:
    op.drop_table("audit_spool_gap")
    with op.batch_alter_table("audit_spool") as batch_op:
        for name, *_ in reversed(_COLUMNS):
            batch_op.drop_column(name)
