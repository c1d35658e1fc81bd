"""The keys of the deployment, sealed under its secret (they are moved in by whoever has the data folder).

Revision ID: 0008
Revises: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "deployment_key",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False, comment="from 1, one more at each rotation"),
        sa.Column("sealed", sa.LargeBinary(), nullable=False, comment="nonce and AES-256-GCM under the deployment secret"),
        sa.Column("made", sa.BigInteger(), nullable=False, comment="µs since 1970-01-01T00:00Z"),
        sa.Column("retired", sa.BigInteger(), nullable=True, comment="µs since 1970-01-01T00:00Z; null: in use"),
        sa.PrimaryKeyConstraint("name", "number", name=op.f("pk_deployment_key")),
    )


def downgrade() -> None:
    op.drop_table("deployment_key")
