"""PostgreSQL: the log's tables by months. Rows are moved as they are; SQLite keeps one table of each.

Meanwhile requests go on, since they only write to the inbox, and whoever reads the log reads it as it was: the tables
are locked against the sequencer alone until the moment in which the new ones, complete, take their place. Both lie on
the disk until then.

Revision ID: 0014
Revises: 0013
"""

from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST = (9999 - 1970) * 12 + 11
_MONTH_OF = (
    "(SELECT (extract(year FROM t) * 12 + extract(month FROM t))::int - 23641 FROM (SELECT TIMESTAMP '1970-01-01'"
    " + greatest(0, least({column}, 253399622400000000)) * INTERVAL '1 microsecond' AS t) AS instant)"
)


def upgrade() -> None:
    op.create_table(
        "audit_month",
        sa.Column("since", sa.BigInteger(), autoincrement=False, nullable=False, comment="begin of the month in µs since 1970"),
        sa.Column("first", sa.BigInteger(), nullable=False, comment="position of the first record that was logged in it"),
        sa.Column("last", sa.BigInteger(), nullable=False, comment="of the last one"),
        sa.Column("earliest", sa.BigInteger(), nullable=False, comment="of `recorded` of these, in µs since 1970"),
        sa.Column("latest", sa.BigInteger(), nullable=False, comment="of `recorded` of these, in µs since 1970"),
        sa.PrimaryKeyConstraint("since", name=op.f("pk_audit_month")),
        comment="PostgreSQL: which partitions hold what (audit.months); SQLite: empty",
    )
    if op.get_bind().dialect.name == "postgresql":
        op.execute("LOCK TABLE audit_log, audit_index IN SHARE MODE")
        months = _note()
        _copy_log(months)
        _copy_index(months)
        _take_place()


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        raise NotImplementedError("restore a backup")
    op.drop_table("audit_month")


def _note() -> list[tuple[int, int, int]]:
    """Fill audit_month; (month, first position, last position) of each."""
    month_of = _MONTH_OF.format(column="logged")
    rows = op.get_bind().execute(sa.text(
        "SELECT month, min(seq), max(seq), min(recorded), max(recorded) FROM (SELECT seq, recorded,"
        f" {month_of} AS month FROM audit_log) AS found GROUP BY month ORDER BY month"  # noqa: S608 - our names
    )).all()  # fmt: skip
    for month, first, last, earliest, latest in rows:
        op.get_bind().execute(
            sa.text("INSERT INTO audit_month VALUES (:since, :first, :last, :earliest, :latest)"),
            {"since": _begin(month), "first": first, "last": last, "earliest": earliest, "latest": latest},
        )
    return [(int(row[0]), int(row[1]), int(row[2])) for row in rows]


def _copy_log(months: list[tuple[int, int, int]]) -> None:
    """Each month into a table of its own, whose indexes are built when it is attached."""
    op.execute("CREATE TABLE audit_log_new (LIKE audit_log INCLUDING COMMENTS) PARTITION BY RANGE (logged)")
    op.execute("CREATE UNIQUE INDEX ix_audit_log_new_seq ON audit_log_new (seq, logged)")
    op.execute("CREATE INDEX ix_audit_log_new_event_id ON audit_log_new (event_id)")
    op.execute("CREATE INDEX ix_audit_log_new_recorded ON audit_log_new (recorded, seq)")
    for month, first, last in months:
        name = _make("audit_log", month)
        op.execute(
            f"INSERT INTO {name} SELECT * FROM audit_log"  # noqa: S608 - our names
            f" WHERE seq BETWEEN {first} AND {last} ORDER BY seq"
        )
        _attach("audit_log", month)
    for month in _ahead(months):
        _make("audit_log", month)
        _attach("audit_log", month)

def _copy_index(months: list[tuple[int, int, int]]) -> None:
    """In one pass, in the order of the key."""
    op.execute("CREATE TABLE audit_index_new (LIKE audit_index INCLUDING COMMENTS) PARTITION BY RANGE (at)")
    op.execute(
        "ALTER TABLE audit_index_new ADD CONSTRAINT pk_audit_index_new PRIMARY KEY (kind, value, at, seq)")
    month_of = _MONTH_OF.format(column="at")
    found = op.get_bind().execute(
        sa.text(f"SELECT DISTINCT {month_of} AS month FROM audit_index ORDER BY 1")  # noqa: S608 - our names
    )
    there = [int(month) for month in found.scalars()]
    for month in sorted({*there, *_ahead(months)}):
        _make("audit_index", month)
        _attach("audit_index", month)
    op.execute("INSERT INTO audit_index_new SELECT * FROM audit_index ORDER BY kind, value, at, seq")
    op.execute("ANALYZE audit_log_new, audit_index_new")


def _take_place() -> None:
    """From here on nobody reads, so nothing more is done than this."""
    op.execute("DROP TABLE audit_log")
    op.execute("DROP TABLE audit_index")
    for table in ("audit_log", "audit_index"):
        op.execute(f"ALTER TABLE {table}_new RENAME TO {table}")
    for column in ("seq", "event_id", "recorded"):
        op.execute(f"ALTER INDEX ix_audit_log_new_{column} RENAME TO ix_audit_log_{column}")
    op.execute("ALTER INDEX pk_audit_index_new RENAME TO pk_audit_index")


def _ahead(months: list[tuple[int, int, int]]) -> list[int]:
    """This month and the next, for the sequencer of the version before, which makes none. Not where there is no log."""
    now = datetime.now(UTC)
    current = (now.year - 1970) * 12 + now.month - 1
    there = {month for month, _first, _last in months}
    return [month for month in (current, current + 1) if there and month not in there]


def _make(table: str, month: int) -> str:
    name = f"{table}_{1970 + month // 12:04d}{month % 12 + 1:02d}"
    op.execute(f"CREATE TABLE {name} (LIKE {table}_new)")
    return name


def _attach(table: str, month: int) -> None:
    name = f"{table}_{1970 + month // 12:04d}{month % 12 + 1:02d}"
    low = "MINVALUE" if month == 0 else str(_begin(month))
    high = "MAXVALUE" if month == _LAST else str(_begin(month + 1))
    op.execute(f"ALTER TABLE {table}_new ATTACH PARTITION {name} FOR VALUES FROM ({low}) TO ({high})")


def _begin(month: int) -> int:
    """The first µs of a month; 0 is that of 1970-01."""
    return (datetime(1970 + month // 12, month % 12 + 1, 1, tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)
