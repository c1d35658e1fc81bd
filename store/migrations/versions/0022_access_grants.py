"""What one party may see, or do, of another's.

Revision ID: 0022
Revises: 0021
"""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

_BINARY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "access_grant",
        sa.Column("id", _BINARY, nullable=False),
        sa.Column(
            "subject", _BINARY, nullable=False, comment="Organization/id, Practitioner/id or Client/id: who holds"
        ),
        sa.Column("object", _BINARY, nullable=False, comment="Type/id of what it opens"),
        sa.Column("extent", sa.Text(), nullable=False, comment="organization, case, patient or resource"),
        sa.Column("letters", sa.Text(), nullable=False, comment="out of cruds, as in a SMART scope"),
        sa.Column("since", sa.BigInteger(), nullable=False, comment="µs since 1970-01-01T00:00Z, inclusive"),
        sa.Column("until", sa.BigInteger(), nullable=False, comment="µs since 1970-01-01T00:00Z, exclusive"),
        sa.Column("reason", sa.Text(), nullable=False, comment="for people; no personal data"),
        sa.Column("source", sa.Text(), nullable=False, comment="auth.grants.Source"),
        sa.Column("owner", sa.Text(), nullable=False, comment="logical id of the Organization whose data it opens"),
        sa.Column("granted_by", sa.Text(), nullable=False, comment="agent; no name"),
        sa.Column("granted_at", sa.BigInteger(), nullable=False, comment="µs since 1970-01-01T00:00Z"),
        sa.Column("revoked_at", sa.BigInteger(), nullable=True, comment="µs since 1970-01-01T00:00Z; null: it was not"),
        sa.Column("revoked_by", sa.Text(), nullable=True, comment="agent; no name"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_access_grant")),
    )
    op.create_index("ix_access_grant_subject", "access_grant", ["subject", "until"])
    op.create_index("ix_access_grant_object", "access_grant", ["object", "until"])
    op.create_index("ix_access_grant_until", "access_grant", ["until"])


def downgrade() -> None:
    op.drop_table("access_grant")
