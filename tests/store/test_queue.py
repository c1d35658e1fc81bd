"""Queues and wake-ups: what one leader takes, in which order, and who is told (DESIGN §4)."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, insert, text

from store.engine import queue, wakes
from store.engine.database import Database, open_engine
from store.engine.queue import Floor, Queue, lead
from subscriptions.tables import change_table

KEY = 0x7E57
QUEUE = Queue(change_table)
on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


def insert_changes(connection: Connection, *names: str) -> None:
    connection.execute(insert(change_table), [
        {"tx_id": 1, "resource_type": "Task", "resource_id": name, "version": 1, "version_pk": 1, "occurred_at": 1}
        for name in names
    ])  # fmt: skip


def add(database: Database, *names: str) -> None:
    with database.write() as connection:
        insert_changes(connection, *names)


def take(database: Database, floor: Floor, size: int = 100) -> list[str]:
    with database.write() as connection:
        if not lead(connection, KEY):
            return []
        rows = QUEUE.rows(connection, floor, size)
        assert QUEUE.remove(connection, floor, [row[0] for row in rows])
    return [row[3] for row in rows]


class Seconds:
    """A monotonic clock that passes when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_rows_are_taken_once_in_the_order_in_which_they_came(database: Database) -> None:
    add(database, "a", "b", "c")
    floor = Floor()
    assert take(database, floor, 2) == ["a", "b"]
    add(database, "d")
    assert take(database, floor) == ["c", "d"]
    assert take(database, floor) == []


def test_what_another_took_meanwhile_is_not_taken_twice(database: Database) -> None:
    add(database, "a", "b")
    with database.write() as connection:
        keys = [row[0] for row in QUEUE.rows(connection, Floor(), 100)]
        assert QUEUE.remove(connection, Floor(), keys[:1])
        assert not QUEUE.remove(connection, Floor(), keys)


@on_postgresql
def test_numbers_are_drawn_one_by_one(database: Database) -> None:
    """A session that draws from numbers set aside earlier would tell an update before what it updates."""
    with database.read() as connection:
        asked = "SELECT cache_size FROM pg_sequences WHERE sequencename = 'subscription_change_id_seq'"
        cached = connection.execute(text(asked)).scalar_one()
    assert cached == 1


@on_postgresql
def test_there_is_one_leader_until_its_transaction_ends(database: Database) -> None:
    with database.write() as first:
        assert lead(first, KEY)
        with database.write() as second:
            assert not lead(second, KEY)
            assert lead(second, KEY + 1)
    with database.write() as third:
        assert lead(third, KEY)


@on_postgresql
def test_a_leader_that_stands_still_is_replaced(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frozen or unreachable process holds the lead no longer than its idle limit; it takes nothing afterwards."""
    assert queue.LEADER_IDLE_S <= 5
    monkeypatch.setattr(queue, "LEADER_IDLE_S", 1)
    add(database, "a")
    floor = Floor()
    with pytest.raises(Exception, match=r"terminat|closed|lost"), database.write() as frozen:  # noqa: PT012
        assert lead(frozen, KEY)
        rows = QUEUE.rows(frozen, floor, 10)
        deadline = time.monotonic() + 30
        while take(database, Floor()) != ["a"]:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        QUEUE.remove(frozen, floor, [row[0] for row in rows])


def test_a_floor_leaves_what_is_settled_and_looks_at_all_now_and_then() -> None:
    clock = Seconds()
    floor = Floor(clock)

    def looked() -> int:
        with floor.look() as above:
            return above

    assert looked() == 0, "the first look is a full one"
    floor.gone(7)
    clock.now += 0.5
    assert looked() == 0, "a transaction that drew a lower number may still commit"
    clock.now += queue.SETTLED_S
    looked()
    assert looked() == 7
    clock.now += queue.FULL_LOOK_S
    assert looked() == 0
    assert looked() == 7
    clock.now += queue.FULL_LOOK_S
    with floor.look() as above:
        assert above == 0
        clock.now += 3.0
    clock.now += 3.0 * queue.FULL_LOOK_SHARE - 0.5
    assert looked() == 7, "a full look that takes long comes rarely"
    clock.now += 1
    assert looked() == 0


@on_postgresql
def test_what_becomes_visible_late_is_found_by_the_full_look(database: Database) -> None:
    """Not lost behind the floor, however long its transaction took."""
    clock = Seconds()
    floor = Floor(clock)
    with database.write() as late:
        insert_changes(late, "late")
        add(database, "early")
        assert take(database, floor) == ["early"]
        clock.now += queue.SETTLED_S + queue.FULL_LOOK_S
        assert take(database, floor) == []
        assert floor.key > 0
    assert take(database, floor) == []
    clock.now += queue.FULL_LOOK_S
    assert take(database, floor) == ["late"]


@on_postgresql
def test_what_a_look_found_below_the_floor_is_taken(database: Database) -> None:
    """Who looks with one connection and takes with another asks from the row that was found."""
    clock = Seconds()
    floor = Floor(clock)
    with database.write() as late:
        insert_changes(late, "late")
        add(database, "early")
        take(database, floor)
        clock.now += queue.SETTLED_S + queue.FULL_LOOK_S
        take(database, floor)
    clock.now += queue.FULL_LOOK_S
    with database.write() as connection:
        ((key, *_),) = QUEUE.rows(connection, floor, 1)
        assert key <= floor.key
        assert QUEUE.rows(connection, floor, 1) == []
        assert [row[0] for row in QUEUE.rows(connection, floor, 10, first=key)] == [key]


@on_postgresql
def test_an_empty_look_hides_neither_the_next_row_nor_the_very_first(database: Database) -> None:
    """`last_value` of a sequence that was never drawn from is its first number."""
    for restarted in (True, False):
        clock = Seconds()
        floor = Floor(clock)
        with database.write() as connection:
            if restarted:
                connection.execute(text("ALTER SEQUENCE subscription_change_id_seq RESTART"))
            assert QUEUE.rows(connection, floor, 1) == []
        clock.now += queue.SETTLED_S + 0.1
        with floor.look():
            pass
        add(database, "a")
        clock.now += 0.1
        assert take(database, floor) == ["a"]


@on_postgresql
def test_deleted_rows_behind_an_open_snapshot_are_not_looked_at(database: Database, postgresql_url: str) -> None:
    """A dump keeps every deleted row in table and index; a look steps over them only once in a while."""
    clock = Seconds()
    floor = Floor(clock)
    with psycopg.connect(postgresql_url) as dump:
        dump.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        dump.execute("SELECT count(*) FROM subscription_change")
        for _ in range(5):
            add(database, *(f"r{number}" for number in range(1000)))
            assert len(take(database, floor, 1000)) == 1000
        clock.now += queue.SETTLED_S
        assert take(database, floor) == []
        touched = {above: _pages(database, above) for above in (0, floor.key)}
    assert touched[floor.key] < 20 < touched[0], touched


@on_postgresql
def test_who_never_takes_learns_where_to_look(database: Database) -> None:
    """The second of two workers, whom the first always forestalls."""
    clock = Seconds()
    idle = Floor(clock)
    for _ in range(3):
        add(database, "a", "b")
        take(database, Floor())
        with database.read() as connection:
            assert QUEUE.rows(connection, idle, 1) == []
        clock.now += queue.SETTLED_S
    with idle.look():
        pass
    assert idle.key > 0


def _pages(database: Database, above: int) -> int:
    """Pages that a look above this key touches."""
    with database.read() as connection:
        driver: Any = connection.connection.driver_connection
        sql = QUEUE._rows.sql("postgresql")
        plan = driver.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}", (above, 10)).fetchone()[0][0]["Plan"]
    return int(plan["Shared Hit Blocks"]) + int(plan["Shared Read Blocks"])


# — waking —


@pytest.fixture
def other(database: Database) -> Iterator[Database]:
    """The same database as another process has it."""
    opened = open_engine(database.url)
    yield opened
    opened.dispose()


def announce(database: Database, name: str) -> None:
    with database.write() as connection:
        connection.execute(text("UPDATE store_setting SET value = value"))
        if not database.is_sqlite:
            connection.execute(text("SELECT pg_current_xact_id()"))
        wakes.announce(connection, name)


@on_postgresql
def test_a_commit_wakes_who_waits_for_its_name(database: Database, other: Database) -> None:
    """In its own process and in others; a timeout of a minute shows that nobody polls."""
    for waiting in (database, other):
        assert not waiting.wait_for("work", 0)
        deadline = time.monotonic() + 20
        while not waiting.wait_for("work", 0.2):  # its listener may not have begun yet
            announce(database, "work")
            assert time.monotonic() < deadline
        timer = threading.Timer(0.2, announce, (database, "work"))
        while waiting.wait_for("work", 0.3):
            pass
        timer.start()
        began = time.monotonic()
        assert waiting.wait_for("work", 60)
        assert time.monotonic() - began < 30
        timer.join()
        assert not waiting.wait_for("other work", 0)


def test_whoever_waits_goes_on_when_the_process_ends(database: Database) -> None:
    """SIGTERM is answered at once, however long loops may rest. From then on nobody waits."""
    database.wait_for("work", 0)
    waiting = [threading.Thread(target=database.wait_for, args=("work", 60)) for _ in range(2)]
    began = time.monotonic()
    for thread in waiting:
        thread.start()
    database.end_waits()
    for thread in waiting:
        thread.join(30)
    assert not database.wait_for("work", 60)
    assert time.monotonic() - began < 30


@on_postgresql
def test_what_is_rolled_back_wakes_nobody(database: Database) -> None:
    database.wait_for("work", 0)

    def fail() -> None:
        with database.write() as connection:
            wakes.announce(connection, "work")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with database.write() as connection:
        connection.execute(text("SELECT pg_current_xact_id()"))
    assert not database.wait_for("work", 0.3)


@on_postgresql
def test_many_commits_are_told_together_and_by_no_transaction_of_theirs(
    database: Database, postgresql_url: str
) -> None:
    """NOTIFY in a commit makes the commits of the cluster wait for one another."""
    with psycopg.connect(postgresql_url, autocommit=True) as listening:
        listening.execute(f"LISTEN {wakes.CHANNEL}")
        sessions: set[int] = set()
        began = time.monotonic()
        for _ in range(200):
            with database.write() as connection:
                sessions.add(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())
                wakes.announce(connection, "work")
        lasted_s = time.monotonic() - began
        heard = list(listening.notifies(timeout=1))
    assert 1 <= len(heard) <= lasted_s / wakes.COALESCE_S + 2
    assert {note.payload for note in heard} == {"work"}
    assert not sessions & {note.pid for note in heard}


@on_postgresql
def test_who_waits_looks_anyway_while_nobody_can_be_heard(database: Database, postgresql_url: str) -> None:
    """Waiting ends after its time, and hears again once there is a connection."""
    database.wait_for("work", 0.2)
    with psycopg.connect(postgresql_url, autocommit=True) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            " AND backend_type = 'client backend'"
        )
        database.wait_for("work", 0.2)
        deadline = time.monotonic() + 20
        while not database.wait_for("work", 0.2):
            admin.execute("SELECT pg_notify(%s, 'work')", (wakes.CHANNEL,))
            assert time.monotonic() < deadline


def test_a_connection_that_fails_while_waking_ends_is_closed() -> None:
    """Whoever ends while the database goes away leaves no descriptor behind."""
    made: list[Any] = []

    class Failing:
        closed = False

        def execute(self, *_: object) -> None:
            ending.close_soon()
            raise psycopg.OperationalError("gone")

        def close(self) -> None:
            self.closed = True

    class Ending(wakes.Wakes):
        def close_soon(self) -> None:
            self._closed = True

    def connect() -> Failing:
        made.append(Failing())
        return made[-1]

    ending = Ending(connect)
    ending.wait("anything", 0.2)
    ending.close()
    assert made
    assert all(one.closed for one in made)
