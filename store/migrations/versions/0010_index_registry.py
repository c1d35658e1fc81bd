"""A registry of the search parameters' numbers, and of the rules that index rows were made by.

The numbers were positions in the standard's file; they are entered by `store.versions.standing.settle`, which refuses
a number with another meaning.

Revision ID: 0010
Revises: 0009
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "search_parameter",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False, comment="param_id of index rows, for ever"),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_search_parameter")),
    )
    op.create_index("uq_search_parameter_type_code", "search_parameter", ["type", "code"], unique=True)
    op.create_table(
        "index_rule",
        sa.Column("type_id", sa.SmallInteger(), autoincrement=False, nullable=False, comment="resources.registry"),
        sa.Column(
            "rule", sa.Integer(), nullable=False, comment="resources.index_rules: what its rows were made by; no row: 1"
        ),
        sa.Column("target", sa.Integer(), nullable=True, comment="what they are being made anew by; null: they are not"),
        sa.Column("through", sa.BigInteger(), nullable=True, comment="versions up to this pk are made anew"),
        sa.PrimaryKeyConstraint("type_id", name=op.f("pk_index_rule")),
    )


def downgrade() -> None:
    op.drop_table("index_rule")
    op.drop_index("uq_search_parameter_type_code", table_name="search_parameter")
    op.drop_table("search_parameter")
