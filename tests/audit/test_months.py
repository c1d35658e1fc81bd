"""PostgreSQL keeps the log by months, and answers as SQLite does with one table (docs/audit.md, "By months").

A clock of the tests goes from month to month; the records are sequenced, searched, verified and purged as always.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, LargeBinary, delete, event, select, text, update

import fhir_server.server.services  # noqa: F401 - every package that owns tables
from audit import asking, months, queries, retention
from audit.checkpoint import Signer
from audit.offline import verify_export
from audit.service import Ledger
from audit.tables import audit_index, audit_log, audit_month, audit_purge, audit_tree
from audit.verify import export, verify
from resources.search import parse
from resources.times import microseconds
from store import migrations
from store.access import Access, Caller, Interaction, Visibility
from store.engine.database import Database, open_engine
from store.unit_of_work import Store
from tests.audit.logbook import judged, logged
from tests.audit.upgrade.populated import fill as fill_schema
from tests.conftest import ENGINES
from tests.support import BASE_URL, PLATFORM, Clock, caller

TABLES = "audit_log", "audit_index"


@pytest.fixture(autouse=True)
def _no_partitions(database: Database) -> None:
    """Tests before this one left some."""
    if not database.is_sqlite:
        with database.write() as connection:
            for _table, name, _month in months.partitions(connection):
                connection.execute(text(f"DROP TABLE {name}"))
            leaves = connection.execute(text("SELECT relname FROM pg_class WHERE relname LIKE 'audit_log%_leaves'"))
            for name in leaves.scalars().all():
                connection.execute(text(f"DROP TABLE {name}"))


@pytest.fixture
def clock() -> Clock:
    return Clock(datetime(2026, 1, 15, 8, 0, tzinfo=UTC))


def ids_of(clock: Clock) -> Callable[[], str]:
    """Version 7 UUIDs by the clock of the test."""
    count = iter(range(1, 1_000_000))

    def draw() -> str:
        at = f"{int(clock.now.timestamp() * 1000):012x}"
        return f"{at[:8]}-{at[8:]}-7000-8000-{next(count):012x}"

    return draw


@pytest.fixture
def ledger(make_ledger: Callable[..., Ledger], clock: Clock) -> Ledger:
    return make_ledger(clock=clock, ids=ids_of(clock))


def record(ledger: Ledger, *names: str, interaction: Interaction = Interaction.READ) -> None:
    """Reads of these patients, sequenced in one batch."""
    accesses = [Access(interaction, "Patient", name, 1, (f"Patient/{name}",)) for name in names]
    ledger.disclose(caller(), accesses, ledger._now())
    assert ledger.catch_up()


@pytest.fixture
def quarter(ledger: Ledger, clock: Clock) -> Ledger:
    """Three reads in each of January to April: 1 to 3 in January, and so on; always p-1, p-2 and one of its own."""
    for month in range(1, 5):
        clock.now = datetime(2026, month, 15, 8, 0, tzinfo=UTC)
        record(ledger, "p-1", "p-2", f"only-{month}")
    return ledger


def partitions(database: Database, table: str) -> list[str]:
    with database.read() as connection:
        return [name for of, name, _ in months.partitions(connection) if of == table]


def search(ledger: Ledger, database: Database, *parameters: tuple[str, str], upto: int | None = None) -> list[int]:
    """Positions of what is found, in its order, by pages of 2."""
    assert ledger.shelf is not None
    found: list[int] = []
    after = None
    with database.read() as connection:
        upto = ledger.shelf.end(connection) if upto is None else upto
        while True:
            page = ledger.shelf.some(
                connection, Visibility(None), parse("AuditEvent", [*parameters]),
                upto=upto, after=after, limit=2, check=lambda: None,
            )  # fmt: skip
            found += [version.pk // 2**20 for version in page.versions]
            if not page.more:
                return found
            after = page.versions[-1].pk


@contextmanager
def statements(database: Database) -> Iterator[list[tuple[str, Any]]]:
    """What SQLAlchemy sends meanwhile."""
    seen: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        seen.append((statement, parameters))

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(database.engine, "before_cursor_execute", note)


def touched(database: Database, run: Callable[[], object]) -> set[str]:
    """The partitions of which the plans of what `run` asks look at rows."""
    with statements(database) as seen:
        run()
    found: set[str] = set()
    with database.read() as connection:
        driver: Any = connection.connection.driver_connection
        for statement, parameters in seen:
            if statement.startswith("SELECT") and ("audit_log" in statement or "audit_index" in statement):
                plan = "\n".join(row[0] for row in driver.execute("EXPLAIN " + statement, parameters).fetchall())
                found |= set(re.findall(r"on (audit_(?:log|index)_\d{6})", plan))
    return found


@pytest.mark.parametrize(
    ("parameters", "found"),
    [
        ((), [12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1]),
        ((("_sort", "date"),), list(range(1, 13))),
        ((("_sort", "_lastUpdated"),), list(range(1, 13))),
        ((("patient", "p-1"),), [10, 7, 4, 1]),
        ((("patient", "p-1"), ("_sort", "date")), [1, 4, 7, 10]),
        ((("patient", "p-1"), ("date", "ge2026-02-01"), ("date", "lt2026-04-01")), [7, 4]),
        ((("date", "2026-02"),), [6, 5, 4]),
        ((("date", "ge2026-02-01"), ("date", "lt2026-04-01"), ("_sort", "date")), [4, 5, 6, 7, 8, 9]),
        ((("date", "gt2026-05-01"),), []),
        ((("date", "lt2025-01-01"),), []),
        ((("_lastUpdated", "ge2026-03-01"), ("_lastUpdated", "lt2026-04-01")), [9, 8, 7]),
        ((("patient", "only-3"),), [9]),
        ((("_lastUpdated", "lt2026-01-16"), ("patient", "p-2")), [2]),
    ],
)  # fmt: skip
def test_both_engines_find_the_same(
    quarter: Ledger, database: Database, parameters: tuple[tuple[str, str], ...], found: list[int]
) -> None:
    """By date, by when it was logged, by patient, page by page over the ends of months (R4 AuditEvent search)."""
    assert search(quarter, database, *parameters) == found


def test_each_month_has_its_partitions_and_the_log_verifies(
    quarter: Ledger, database: Database, signer: Signer, tmp_path: Path
) -> None:
    """SQLite keeps one table. What is kept of the months is what their records say."""
    names = [f"2026{month:02d}" for month in (1, 2, 3, 4, 5)]  # the next month is there ahead
    with database.read() as connection:
        kept = months.known(connection)
        assert [queries.logged_at(connection, seq) for seq in (1, 12)] == [row.logged for row in logged(database)[::11]]
    if database.is_sqlite:
        assert kept == []
    else:
        for table in TABLES:
            made = partitions(database, table)
            assert set(made) >= {f"{table}_{name}" for name in names[:4]}, made
        assert [(one.first, one.last) for one in kept] == [(1, 3), (4, 6), (7, 9), (10, 12)]
    assert judged(database, signer).findings == []
    export(database, tmp_path / "log.gz", signer.verifier)
    assert verify_export(tmp_path / "log.gz", signer.verifier.text()).ok


def test_a_search_by_date_looks_at_its_months_alone(quarter: Ledger, database: Database) -> None:
    """EXPLAIN of every statement that it sends."""
    if database.is_sqlite:
        return
    both = {f"{table}_20260{month}" for table in TABLES for month in (2, 3)}
    dated = ("date", "ge2026-02-10"), ("date", "lt2026-03-20")
    assert touched(database, lambda: search(quarter, database, ("patient", "p-1"), *dated)) == both
    by_log = {name for name in both if name.startswith("audit_log")}
    assert touched(database, lambda: search(quarter, database, *dated)) == by_log
    logged_then = ("_lastUpdated", "ge2026-02-10"), ("_lastUpdated", "lt2026-03-01")
    assert touched(database, lambda: search(quarter, database, *logged_then)) <= by_log


def test_a_record_is_read_in_its_month_alone(quarter: Ledger, database: Database) -> None:
    """By its id, by its position, by positions."""
    if database.is_sqlite:
        return
    row = logged(database)[4]
    for ask in (
        lambda connection: queries.by_id(connection, row.event_id),
        lambda connection: queries.rows(connection, [4, 6]),
        lambda connection: queries.logged_at(connection, 5),
        lambda connection: queries.through(connection, 5),
        lambda connection: asking.position(connection, microseconds(datetime(2026, 2, 20, tzinfo=UTC)), 12),
    ):
        def run(ask: Callable[[Any], object] = ask) -> None:
            with database.read() as connection:
                assert ask(connection)

        assert touched(database, run) <= {"audit_log_202602", "audit_log_202603"}, ask
    with database.read() as connection:
        assert queries.by_id(connection, row.event_id) == row
        assert queries.by_id(connection, "not-a-uuid") is None


def test_an_id_that_tells_another_time_is_found_all_the_same(quarter: Ledger, database: Database) -> None:
    """The clock that drew it was wrong, or it is of form 1: every month is asked by its index."""
    other = "0f2a173e-60e0-72df-be9c-e0b1306ed62d"
    with database.write() as connection:
        connection.execute(update(audit_log).where(audit_log.c.seq == 2).values(event_id=other))
    with database.read() as connection:
        found = queries.by_id(connection, other)
    assert found is not None
    assert found.seq == 2


def test_a_clock_that_steps_back_or_leaps_stops_nothing(
    ledger: Ledger, database: Database, signer: Signer, clock: Clock
) -> None:
    """`logged` never decreases; `recorded` is what the clock said. Every record is found by its date."""
    record(ledger, "p-1")  # 1: January 2026
    clock.now = datetime(2025, 11, 3, tzinfo=UTC)
    record(ledger, "p-1")  # 2: recorded in November, logged in January
    clock.now = datetime(2031, 7, 1, tzinfo=UTC)
    record(ledger, "p-1")  # 3
    clock.now = datetime(2026, 2, 1, tzinfo=UTC)
    record(ledger, "p-1")  # 4: recorded in February, logged in July 2031
    clock.now = datetime(1970, 1, 1, 0, 5, tzinfo=UTC)
    record(ledger, "p-1")  # 5: a machine without a clock
    assert [row.seq for row in logged(database)] == [1, 2, 3, 4, 5]
    assert judged(database, signer).findings == []
    for when, found in (
        ("2025-11", [2]), ("2026-01", [1]), ("2026-02", [4]), ("2031-07", [3]), ("1970", [5]), ("ge2026-02-01", [3, 4]),
    ):  # fmt: skip
        assert search(ledger, database, ("date", when)) == found, when
        assert search(ledger, database, ("date", when), ("patient", "p-1")) == found, when


def test_months_begin_and_end_where_the_calendar_says() -> None:
    """Also where an instant is beyond it."""
    at = microseconds(datetime(2028, 2, 29, 23, 59, 59, 999_999, tzinfo=UTC))
    assert months.partition_of("t", months.number_of(at)) == "t_202802"
    assert months.partition_of("t", months.number_of(at + 1)) == "t_202803"
    assert months.begin_of(months.number_of(at + 1)) == at + 1
    assert months.number_of(0) == months.number_of(-(2**63)) == 0
    assert months.number_of(2**63 - 1) == months.LAST == months.number_of(months.begin_of(months.LAST))
    assert months.partition_of("t", months.LAST) == "t_999912"


def test_an_instant_beyond_the_calendar_has_its_place(database: Database) -> None:
    """The first month and the last one are open."""
    with database.write() as connection:
        months.ensure(connection, [], [-(2**63), 2**63 - 1])
        rows = [(1, 1, -(2**63), 1), (1, 1, 2**63 - 1, 2)]
        connection.execute(audit_index.insert(), [dict(zip(audit_index.c.keys(), row, strict=True)) for row in rows])
        assert connection.execute(select(audit_index.c.seq).order_by(audit_index.c.at)).scalars().all() == [1, 2]


def test_an_absent_partition_is_made_with_the_batch_though_a_dump_reads(
    quarter: Ledger, database: Database, clock: Clock
) -> None:
    """Neither waits for the other: no partition is made by a lock that readers would have to leave first."""
    clock.now = datetime(2026, 9, 1, tzinfo=UTC)
    with database.read() as dump:
        for table in (audit_log, audit_index):
            dump.execute(select(table).limit(1)).all()  # holds the tables, and every partition
        record(quarter, "p-9")
        dump.execute(select(audit_log.c.seq)).all()
    assert search(quarter, database, ("patient", "p-9")) == [13]


def test_the_next_month_is_there_before_it_begins(ledger: Ledger, database: Database, clock: Clock) -> None:
    """A turn of the sequencer that finds nothing makes it; so does the first one that finds something."""
    clock.now = datetime(2027, 12, 31, tzinfo=UTC)
    ledger.sequencer.step()
    expected = [] if database.is_sqlite else ["202712", "202801"]
    for table in TABLES:
        assert (partitions(database, table) if expected else []) == [f"{table}_{name}" for name in expected]


def test_two_nodes_make_a_month_together(
    make_ledger: Callable[..., Ledger], clock: Clock, database: Database, signer: Signer
) -> None:
    """Each has a sequencer of its own; positions have no gap, and nobody fails (decision 0005: one leads)."""
    ids = ids_of(clock)
    one, other = (make_ledger(clock=clock, ids=ids, published=None) for _ in range(2))
    for month in (1, 2, 3):
        clock.now = datetime(2026, month, 1, tzinfo=UTC)
        for node in (one, other):
            node.disclose(caller(), [Access(Interaction.READ, "Patient", "p-1", 1, ("Patient/p-1",))], clock.now)
        while one.waiting():
            one.sequencer.step()
            other.sequencer.step()
    assert [row.seq for row in logged(database)] == [1, 2, 3, 4, 5, 6]
    assert judged(database, signer).findings == []


@pytest.fixture
def other(database_url: str, signer: Signer, clock: Clock) -> Iterator[Ledger]:
    """A further node, with connections of its own. Its ids are other ones."""
    opened = open_engine(database_url)
    ids = ids_of(clock)
    made = Ledger(
        opened, signer, observer="Device/platform", base_url=BASE_URL, platform=PLATFORM, clock=clock,
        ids=lambda: ids().replace("-8000-", "-9000-"), checkpoint_interval_s=0,
    )  # fmt: skip
    yield made
    made.close()
    opened.dispose()


@contextmanager
def before(database: Database, beginning: str, act: Callable[[], None]) -> Iterator[list[str]]:
    """Have `act` run once, right before the first statement that begins so; the statement, once it came."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if statement.startswith(beginning) and not seen:
            seen.append(statement)
            act()

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(database.engine, "before_cursor_execute", note)


def read_by(ledger: Ledger, clock: Clock, name: str = "p-1") -> None:
    ledger.disclose(caller(), [Access(Interaction.READ, "Patient", name, 1, (f"Patient/{name}",))], clock.now)


on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@on_postgresql
@pytest.mark.parametrize("step", ["CREATE TABLE {}_202609", "ALTER TABLE {} ATTACH PARTITION {}_202609"])
@pytest.mark.parametrize("table", TABLES)
def test_a_node_that_comes_while_another_makes_the_month_waits_its_turn(
    quarter: Ledger, other: Ledger, database: Database, signer: Signer, clock: Clock, step: str, table: str
) -> None:
    """Two connections: the one has looked, not made it yet, and leads. Nobody fails, none is made twice."""
    clock.now = datetime(2026, 9, 1, tzinfo=UTC)
    for node in (quarter, other):
        read_by(node, clock)

    def meanwhile() -> None:
        assert not other.sequencer.step()
        other.sequencer._keep_house()

    with before(database, step.format(table, table), meanwhile) as seen:
        assert quarter.catch_up()
    assert seen
    read_by(other, clock)
    assert other.catch_up()
    assert [row.seq for row in logged(database)] == list(range(1, 16))
    assert judged(database, signer).findings == []


@on_postgresql
@pytest.mark.parametrize("late", [True, False])
def test_a_record_that_comes_while_its_month_is_given_back_is_found(
    quarter: Ledger, other: Ledger, database: Database, signer: Signer, clock: Clock, late: bool
) -> None:
    """The purge has seen that the month's index is empty, and has not dropped it yet: the other node sequences a record
    of that month. Or it has looked, but the other had the lead: then the month stays."""
    purge(quarter, database, clock, datetime(2026, 1, 31, tzinfo=UTC))
    now, clock.now = clock.now, datetime(2026, 1, 20, tzinfo=UTC)

    def meanwhile() -> None:
        read_by(other, clock, "late")
        assert other.sequencer.step() is False

    if late:
        with before(database, "DROP TABLE audit_index_202601", meanwhile) as seen, database.write() as connection:
            assert retention.give_back(connection) == "audit_index_202601"
        assert seen
        assert search(quarter, database, ("patient", "late")) == [], "not sequenced: it waits"
    else:
        def give_back() -> None:
            with other._database.write() as connection:
                assert retention.give_back(connection) == "audit_log_202601"

        read_by(quarter, clock, "late")
        with before(database, "UPDATE audit_tree", give_back):
            assert quarter.catch_up()
    clock.now = now
    assert other.catch_up()
    (position,) = search(quarter, database, ("patient", "late"))
    assert position == len(logged(database))
    assert judged(database, signer).findings == []


@on_postgresql
def test_two_nodes_race_through_months(
    ledger: Ledger, other: Ledger, database: Database, signer: Signer, clock: Clock
) -> None:
    """Both at once, month after month, as their threads fall: gapless, each record once, nobody fails."""
    failures: list[Exception] = []
    together = threading.Barrier(2, timeout=30)
    starts = [datetime(2027, month, 1, tzinfo=UTC) for month in range(1, 9)]

    def work(node: Ledger, leads: bool) -> None:
        try:
            for start in starts:
                if leads:
                    clock.now = start
                together.wait()
                read_by(node, Clock(start))
                together.wait()
                node.sequencer._house_due = 0.0
                for _ in range(3):
                    node.sequencer.step()
        except Exception as error:  # noqa: BLE001 - the test fails by it
            failures.append(error)
            together.abort()

    threads = [threading.Thread(target=work, args=one) for one in ((ledger, True), (other, False))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert other.catch_up()
    assert [row.seq for row in logged(database)] == list(range(1, 2 * len(starts) + 1))
    assert len({row.event_id for row in logged(database)}) == 2 * len(starts)
    assert judged(database, signer).findings == []


def test_what_the_version_before_sequenced_is_found_and_noted(
    quarter: Ledger, database: Database, signer: Signer, clock: Clock
) -> None:
    """It knows no months: until a node of this version sequences, a search looks behind what is noted as well."""
    if database.is_sqlite:
        return
    with database.write() as connection:
        connection.execute(delete(audit_month).where(audit_month.c.first > 4))
        connection.execute(update(audit_month).where(audit_month.c.first == 4).values(last=5))
    assert search(quarter, database, ("date", "ge2026-02-01")) == [12, 11, 10, 9, 8, 7, 6, 5, 4]
    assert search(quarter, database, ("_lastUpdated", "ge2026-03-01")) == [12, 11, 10, 9, 8, 7]
    assert judged(database, signer).findings == []
    record(quarter, "p-1")
    with database.read() as connection:
        noted = months.known(connection)
    assert [(one.first, one.last) for one in noted] == [(1, 3), (4, 6), (7, 9), (10, 13)]
    assert judged(database, signer).findings == []


@pytest.mark.parametrize("column", audit_month.c.keys())
def test_an_altered_month_is_named(quarter: Ledger, database: Database, signer: Signer, column: str) -> None:
    """A search by date trusts it, so records could be hidden by it."""
    if database.is_sqlite:
        return
    with database.write() as connection:
        altered = update(audit_month).where(audit_month.c.first == 4).values({column: audit_month.c[column] + 1})
        connection.execute(altered)
    (finding,) = judged(database, signer).findings
    assert (finding.kind, finding.text) == ("altered", "what is kept of the log's months is not what its records say")


def purge(ledger: Ledger, database: Database, clock: Clock, before: datetime) -> None:
    """As the duty does."""
    after, done = 0, True
    while done:
        with database.write() as connection:
            found = retention.purge(connection, "access", microseconds(before), after)
            if found.positions:
                access = Access(Interaction.ADMIN, detail=retention.record_detail("access", found.positions))
                ledger.append(connection, Caller.system(PLATFORM), [access], clock.now)
        after, done = found.last, bool(found.last)
    assert ledger.catch_up()


def given_back(database: Database) -> list[str]:
    found = []
    while True:
        with database.write() as connection:
            name = retention.give_back(connection)
        if name is None:
            return found
        found.append(name)


def test_an_emptied_month_goes_away_and_its_leaves_stay(
    quarter: Ledger, database: Database, signer: Signer, clock: Clock, tmp_path: Path
) -> None:
    """Every other proof is valid, here and elsewhere; what the month was found by is dropped whole (CNIL 2021-122)."""
    before = judged(database, signer).root
    leaves = [row.leaf for row in logged(database)]
    purge(quarter, database, clock, datetime(2026, 2, 20, tzinfo=UTC))
    names = given_back(database)
    assert names == ([] if database.is_sqlite else [f"{of}_20260{m}" for of in TABLES[::-1] for m in (1, 2)])
    rows = logged(database)
    assert [row.leaf for row in rows][:12] == leaves
    assert [row.head is None for row in rows] == [True] * 6 + [False] * 7
    report = judged(database, signer)
    assert report.findings == []
    assert before != report.root
    assert "6 records were purged, and are on record so" in report.notes
    export(database, tmp_path / "log.gz", signer.verifier)
    assert verify_export(tmp_path / "log.gz", signer.verifier.text()).ok
    assert search(quarter, database, ("patient", "p-1")) == [10, 7]
    clock.now = datetime(2026, 1, 20, tzinfo=UTC)  # what comes late has a place again
    record(quarter, "late")
    assert search(quarter, database, ("date", "2026-01")) == [14]
    assert given_back(database) == []
    assert judged(database, signer).findings == []


def test_a_month_with_a_record_that_is_kept_stays(quarter: Ledger, database: Database, clock: Clock) -> None:
    """A write of it proves the clinical record; a held patient's reads stay."""
    with database.write() as connection:
        retention.hold(connection, "Patient/only-1", "a claim", 0)
    purge(quarter, database, clock, datetime(2026, 1, 31, tzinfo=UTC))
    assert given_back(database) == []
    assert [row.head is None for row in logged(database)][:4] == [True, True, False, False]


def test_who_reads_the_log_goes_before_the_giving_back(quarter: Ledger, database: Database, clock: Clock) -> None:
    """A dump is not waited for: the next purge gives the room back."""
    if database.is_sqlite:
        return
    purge(quarter, database, clock, datetime(2026, 1, 31, tzinfo=UTC))
    with database.read() as dump:
        dump.execute(select(audit_index).limit(1)).all()
        with pytest.raises(Exception, match="lock timeout"):
            given_back(database)
        record(quarter, "meanwhile")
    assert given_back(database) == ["audit_index_202601", "audit_log_202601"]


# --- an existing log


def _rows(database: Database) -> dict[str, Any]:
    """Rows as the fixtures of earlier schemas keep them."""
    found = {}
    with database.read() as connection:
        for table in (*(queries.audit_checkpoint, queries.audit_site), audit_log, audit_index, audit_tree, audit_purge):
            rows = [
                [{"hex": bytes(value).hex()} if isinstance(column.type, LargeBinary) else value
                 for value, column in zip(row, table.c, strict=True)]
                for row in connection.execute(select(table))
            ]  # fmt: skip
            if rows:
                found[table.name] = {"columns": table.c.keys(), "rows": rows}
    return found


@pytest.mark.parametrize("target", ENGINES)
def test_an_existing_log_is_moved_by_the_migration(
    quarter: Ledger, database: Database, signer: Signer, clock: Clock, target: str, tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    """The schema before, with a log of months, records with a late instant and purged ones: nothing differs."""
    if not database.is_sqlite:
        return  # the schema before is that of SQLite still: it is filled there
    clock.now = datetime(2025, 12, 31, 23, 59, 59, tzinfo=UTC)
    record(quarter, "late")
    purge(quarter, database, clock, datetime(2026, 1, 31, tzinfo=UTC))
    url = f"sqlite:///{tmp_path}/moved.sqlite"
    if target == "postgresql":
        admin = str(request.getfixturevalue("postgresql_url"))
        with psycopg.connect(admin, autocommit=True) as connection:
            connection.execute("DROP DATABASE IF EXISTS moved WITH (FORCE)")
            connection.execute("CREATE DATABASE moved")
        url = admin.replace("/postgres?", "/moved?")
    fill_schema(url, "0013", _rows(database))
    asked: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_more: Any) -> None:
        asked.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        migrations.upgrade(url)
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    if target == "postgresql":
        # Whoever reads the log waits from the first of these on: nothing is copied any more.
        first = next(at for at, statement in enumerate(asked) if statement.startswith("DROP TABLE audit_"))
        behind = takewhile(lambda statement: "alembic_version" not in statement, asked[first:])
        assert {statement.split()[0] for statement in behind} == {"DROP", "ALTER"}
    moved = open_engine(url)
    try:
        assert logged(moved) == logged(database)
        report = verify(moved, signer.verifier, platform=PLATFORM)
        assert report.findings == []
        assert report.root == judged(database, signer).root
        for parameters in ((("date", "2025-12"),), (("patient", "p-1"),), (("date", "ge2026-03-01"),)):
            assert search(quarter, moved, *parameters) == search(quarter, database, *parameters) != []
        if target == "postgresql":
            with moved.read() as connection:
                assert [(one.first, one.last) for one in months.known(connection)] == [(1, 3), (4, 6), (7, 9), (10, 14)]
            now = datetime.now(UTC)
            assert f"audit_log_{now:%Y%m}" in partitions(moved, "audit_log")
            assert "audit_log_202604" in partitions(moved, "audit_log")
            assert "audit_index_202512" in partitions(moved, "audit_index")
        ledger = Ledger(
            moved, signer, observer="Device/platform", base_url="https://vigie.example/fhir", platform=PLATFORM,
            clock=clock,
        )  # fmt: skip
        clock.now = datetime(2026, 4, 20, tzinfo=UTC) + timedelta(days=40)
        record(ledger, "p-1")
        assert verify(moved, signer.verifier, platform=PLATFORM).findings == []
        ledger.close()
    finally:
        moved.dispose()


def test_a_clinical_read_leaves_the_log_alone(make_store: Callable[..., Store], ledger: Ledger) -> None:
    """The inbox is one table on both engines: nobody waits for a partition but the sequencer."""
    store = make_store(trail=ledger)
    with statements(store.database) as seen, store.work(caller(), write=False) as uow:
        uow.resources.search(parse("Patient", [("family", "x")]))
    assert not [statement for statement, _ in seen if "audit_log" in statement or "audit_month" in statement]
