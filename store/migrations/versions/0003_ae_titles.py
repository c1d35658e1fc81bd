"""AE titles: several addresses, certificates, and the SOP classes that they may store.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("ae_title") as batch_op:
        batch_op.add_column(
            sa.Column(
                "addresses", sa.Text(), server_default="", nullable=False,
                comment="addresses and networks that it comes from, by spaces; empty: none without TLS",
            )
        )
        batch_op.add_column(
            sa.Column(
                "certificates", sa.Text(), server_default="", nullable=False,
                comment="SHA-256 fingerprints of its TLS certificates, by spaces",
            )
        )
        batch_op.add_column(
            sa.Column(
                "sop_classes", sa.Text(), server_default="", nullable=False,
                comment="SOP classes that it may store, by spaces; empty: any storage class",
            )
        )
    op.execute("UPDATE ae_title SET addresses = address")
    with op.batch_alter_table("ae_title") as batch_op:
        batch_op.drop_column("address")


def downgrade() -> None:
    with op.batch_alter_table("ae_title") as batch_op:
        batch_op.add_column(
            sa.Column(
                "address", sa.Text(), server_default="", nullable=False,
                comment="peer address it must come from; empty: any",
            )
        )
    op.execute("UPDATE ae_title SET address = addresses")
    with op.batch_alter_table("ae_title") as batch_op:
        for name in ("sop_classes", "certificates", "addresses"):
            batch_op.drop_column(name)
