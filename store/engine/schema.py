"""What every package declares its tables with: one metadata, one naming convention, column types for both engines."""

from __future__ import annotations

from sqlalchemy import BigInteger, Integer, MetaData, Text

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# The order of text is that of its code points on both engines, whatever the locale of the cluster.
BinaryText = Text().with_variant(Text(collation="C"), "postgresql")
# SQLite makes only an INTEGER PRIMARY KEY the row id.
Key = BigInteger().with_variant(Integer, "sqlite")
