"""The database, SQLite or PostgreSQL, opened anew by each process.

SQLite: WAL, ``synchronous=FULL`` (a commit is on the disk when it returns), and every write transaction passes the
fair gate before ``BEGIN IMMEDIATE``. PostgreSQL: READ COMMITTED for writes, since what must be exclusive takes a lock
by name; a read transaction sees one snapshot (REPEATABLE READ).
"""

from __future__ import annotations

import select
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from weakref import WeakSet

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.pool import QueuePool

from resources.outcomes import Unavailable
from store.engine import process, wakes
from store.engine.faults import DRIVER_ERRORS, is_locked
from store.engine.gate import PATIENCE_S, WriteGate
from store.engine.schema import metadata
from store.engine.silence import SILENT_S, Silence, Silent
from store.engine.wakes import Wakes
from store.engine.watching import Commits

CLOSE_WITHIN_S = 5.0
POOL_SIZE = 16
POOL_OVERFLOW = 48


@dataclass(frozen=True, slots=True)
class Waits:
    """How long a process waits for its database, in seconds; 0: for ever. Whoever serves requests must not wait long.

    The defaults are for what runs by itself: loops and commands. A database that says nothing at all is found out
    sooner (`store.engine.silence`).
    """

    connect_s: float = 4.0
    """PostgreSQL: for a connection (at least 2)."""
    statement_s: float = 300.0
    """PostgreSQL: for one statement."""
    lock_s: float = 30.0
    """For what another transaction holds: a lock of PostgreSQL, the write gate and the file of SQLite (0: 30 s)."""
    idle_s: float = 60.0
    """PostgreSQL: for the next statement of an open transaction; then the server ends the session."""
    network_s: float = 10.0
    """PostgreSQL: for the acknowledgement of what was sent (TCP_USER_TIMEOUT)."""


MIGRATING = Waits(statement_s=0.0, lock_s=0.0, idle_s=0.0)
"""To build an index takes what it takes, and other processes that upgrade wait for it."""


def open_engine(url: str, waits: Waits | None = None) -> Database:
    """Open ``sqlite:///file`` or ``postgresql://…``. The file's folder must exist; tables are made by `create_all`."""
    return Database(url, waits)


class Database:
    """A database by its URL. Safe to carry over a fork or to pickle: each process opens connections of its own."""

    def __init__(self, url: str, waits: Waits | None = None) -> None:
        self.url = url
        self.waits = waits or Waits()
        parsed = make_url(url)
        if parsed.get_backend_name() == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        elif not parsed.database or parsed.database == ":memory:":
            raise ValueError("SQLite needs a file: several processes share it")
        self.dialect: str = parsed.get_backend_name()
        self._url: URL = parsed
        self._local: _ProcessState | None = None
        self._opening = threading.Lock()

    @property
    def engine(self) -> Engine:
        """SQLAlchemy's engine of this process."""
        return self._state.engine

    @property
    def is_sqlite(self) -> bool:
        """Whether it is SQLite; else it is PostgreSQL."""
        return self.dialect == "sqlite"

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A write transaction: commits on leaving, rolls back on an exception."""
        state = self._state
        if state.gate is None:
            with state.connected(state.writer) as connection:
                wakes.begin(connection)
                with state.silence.watched(connection.connection.driver_connection), connection.begin():
                    yield connection
                state.wakes.tell(wakes.announced(connection))
            return
        with state.gate.passage(), state.transaction("BEGIN IMMEDIATE") as connection:
            yield connection

    def read(self) -> AbstractContextManager[Connection]:
        """A read transaction over one snapshot."""
        state = self._state
        return state.transaction("BEGIN") if state.gate is not None else state.read()

    def glance(self) -> AbstractContextManager[Connection]:
        """For one statement, which is a transaction by itself: none is begun and ended around it.

        On SQLite a select only: what writes passes the gate.
        """
        return self._state.transaction(None)

    def wait_for(self, name: str, timeout_s: float) -> bool:
        """Return True soon after a transaction committed that announced `name` (`store.engine.wakes`), on SQLite after
        any commit; False after `timeout_s`, or after `end_waits`.

        It may return True without a change, and a change made before the call may count: look, then wait.
        """
        state = self._state
        return state.wakes.wait(name, timeout_s) if state.commits is None else state.commits.wait(timeout_s)

    def end_waits(self) -> None:
        """Have whoever waits go on, and nobody wait any more: this process ends."""
        state = self._state
        (state.commits or state.wakes).end()

    def create_all(self) -> None:
        """Make the tables of every package that was imported. Production uses the migrations."""
        with self.write() as connection:
            metadata.create_all(connection)

    @property
    def connections_taken(self) -> int:
        """How many connections this process has taken from its pool (threads keep theirs)."""
        state = self._local
        return 0 if state is None or state.pid != process.pid() else cast(QueuePool, state.engine.pool).checkedout()

    @property
    def connections_limit(self) -> int:
        """How many it may take; 0: no limit."""
        return 0 if self.is_sqlite else POOL_SIZE + POOL_OVERFLOW

    def dispose(self) -> None:
        """Close this process's connections."""
        state, self._local = self._local, None
        if state is not None and state.pid == process.pid():
            state.close()

    @property
    def _state(self) -> _ProcessState:
        state = self._local
        if state is not None and state.pid == process.pid():
            return state
        with self._opening:
            state = self._local
            if state is None or state.pid != process.pid():
                if state is not None:
                    state.abandon()
                state = self._local = _ProcessState(self._url, self.waits)
            return state

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "waits": self.waits}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        self.__init__(kept["url"], kept["waits"])  # type: ignore[misc]


class _ProcessState:
    """What one process has open."""

    def __init__(self, url: URL, waits: Waits) -> None:
        self.pid = process.pid()
        self.gate: WriteGate | None = None
        self.commits: Commits | None = None
        self._kept = threading.local()
        self._open: WeakSet[Connection] = WeakSet()
        """Connections that threads keep; of a thread that has ended, the pool has its own again."""
        self._drivers: WeakSet[psycopg.Connection] = WeakSet()
        """PostgreSQL: all that were made. On its way from a thread that ends to the pool one is in neither."""
        self.busy: set[_Kept] = set()
        """Transactions on connections that threads keep. No other thread may close one of those: the driver crashes."""
        self.is_closed = False
        if url.get_backend_name() == "sqlite":
            file = Path(str(url.database)).absolute()
            self.gate = WriteGate(file.parent, file.name, waits.lock_s or PATIENCE_S)
            self.engine = self.reader = self.writer = self.glancer = _sqlite_engine(url, waits)
            self.commits = Commits(self.engine, file)
        else:
            self.engine = create_engine(
                url,
                pool_size=POOL_SIZE,
                max_overflow=POOL_OVERFLOW,
                pool_use_lifo=True,
                pool_pre_ping=False,
                connect_args={"prepare_threshold": 2, **_libpq_waits(url, waits)},
            )
            event.listen(self.engine, "checkout", _check_out)
            drivers = self._drivers
            event.listen(self.engine, "connect", lambda driver, _record: drivers.add(driver))
            self.writer = self.engine.execution_options(isolation_level="READ COMMITTED")
            self.reader = self.engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            self.glancer = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        self._waits = waits
        self.wakes = Wakes(self._connect_apart)
        self.silence = Silence(self._connect_soon)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """PostgreSQL: a read transaction."""
        with (
            self.connected(self.reader) as connection,
            self.silence.watched(connection.connection.driver_connection),
            connection.begin(),
        ):
            yield connection

    def transaction(self, begin: str | None) -> _Kept:
        """A transaction on a connection that this thread keeps. `begin`: SQLite's word for it; None: there is none."""
        free: list[Connection] | None = getattr(self._kept, "free", None)
        if free is None:
            free = self._kept.free = []
        return _Kept(self, free, begin, None if self.gate is not None else self.silence)

    def connected(self, engine: Engine) -> Connection:
        """PostgreSQL: a connection of the pool. Raises Silent where the database says nothing."""
        with self.silence.connecting():
            return engine.connect()

    def connect(self) -> Connection:
        """A connection for the thread that calls to keep."""
        connection = self.glancer.connect() if self.gate is not None else self.connected(self.glancer)
        self._open.add(connection)
        if self.is_closed:  # meanwhile
            with suppress(*DRIVER_ERRORS):
                connection.invalidate()
                connection.close()
            raise Unavailable("The server is stopping", retry_after_s=2)
        return connection

    def _connect_apart(self, **limits: Any) -> psycopg.Connection:
        """PostgreSQL: a connection in autocommit, outside the pool."""
        arguments = dict(self.engine.dialect.create_connect_args(self.engine.url)[1])
        return psycopg.connect(**arguments | _libpq_waits(self.engine.url, self._waits) | limits, autocommit=True)

    def _connect_soon(self) -> psycopg.Connection:
        """The same, within the time that a silent database is given."""
        return self._connect_apart(connect_timeout=int(SILENT_S))

    def close(self) -> None:
        self.wakes.close()
        self.silence.close()
        if self.commits is not None:
            self.commits.close()
        self.is_closed = True
        deadline = time.monotonic() + CLOSE_WITHIN_S
        while self.busy and time.monotonic() < deadline:
            time.sleep(0.005)
        # What is in use even now is left to its thread, and to the end of the process.
        in_use = {getattr(kept, "connection", None) for kept in list(self.busy)}
        for connection in list(self._open):
            if connection not in in_use:
                with suppress(*DRIVER_ERRORS):
                    connection.close()
        self.engine.dispose()
        for driver in list(self._drivers):
            if driver.info.transaction_status == TransactionStatus.IDLE:
                with suppress(*DRIVER_ERRORS):
                    driver.close()
        if self.gate is not None:
            self.gate.close()

    def abandon(self) -> None:
        """Forget what was inherited over a fork, without touching the parent's connections."""
        self.engine.dispose(close=False)
        if self.gate is not None:
            self.gate.close()


class _Kept:
    """`with` one transaction, said to the driver itself; the connection, in autocommit, stays with its thread.

    A checkout from a pool, its events and SQLAlchemy's own transaction object cost more than the select of a read.
    """

    __slots__ = ("_begin", "_driver", "_free", "_silence", "_state", "connection")
    connection: Connection
    """While it is entered."""

    def __init__(
        self, state: _ProcessState, free: list[Connection], begin: str | None, silence: Silence | None
    ) -> None:
        """`silence`: of PostgreSQL."""
        self._state = state
        self._free = free
        self._begin = begin
        self._silence = silence

    def __enter__(self) -> Connection:
        self._state.busy.add(self)
        try:
            return self._entered()
        except BaseException:
            self._state.busy.discard(self)
            raise

    def _entered(self) -> Connection:
        if self._state.is_closed:
            raise Unavailable("The server is stopping", retry_after_s=2)
        # A second transaction inside the first one of the same thread (reads only) takes another connection.
        self.connection = self._free.pop() if self._free else self._state.connect()
        driver: Any = self.connection.connection.driver_connection
        if self._begin is None and _has_ended(driver):
            self._discard()
            self.connection = self._state.connect()
            driver = self.connection.connection.driver_connection
        self._driver = driver
        if self._silence is not None:
            try:
                self._silence.begin(driver)
            except BaseException:
                self._free.append(self.connection)
                raise
        if self._begin is None:
            return self.connection
        try:
            driver.execute(self._begin)
        except BaseException as error:
            self._discard()
            if is_locked(error):  # SQLite has waited as long as it may: to try again at once would wait as long again
                raise Unavailable("The database is locked by another program", retry_after_s=2) from error
            raise
        return self.connection

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            self._left(kind, error)
        finally:
            self._state.busy.discard(self)

    def _left(self, kind: type[BaseException] | None, error: BaseException | None) -> None:
        if self._silence is not None and self._silence.end(self._driver):
            self._discard()
            if error is not None:
                raise Silent from error
            return
        try:
            if self._begin is not None:
                self._driver.execute("COMMIT" if kind is None else "ROLLBACK")
        except BaseException:
            self._discard()
            if kind is None:
                raise
            return
        if kind is not None and getattr(self._driver, "closed", False):  # psycopg: the server has gone
            self._discard()
            return
        self._free.append(self.connection)

    def _discard(self) -> None:
        """A connection that may be in any state is not used again; closing it rolls back."""
        self.connection.invalidate()
        self.connection.close()


def _check_out(driver: Any, _record: Any, _proxy: Any) -> None:
    """PostgreSQL was restarted while nobody asked: no request is to find that out. Costs no round trip."""
    if _has_ended(driver):
        raise InvalidatePoolError


def _has_ended(driver: Any) -> bool:
    """psycopg: the server has spoken though it was asked nothing, so it has closed the connection, or is about to."""
    if isinstance(driver, sqlite3.Connection):
        return False
    try:
        poll = select.poll()
        poll.register(driver.fileno(), select.POLLIN)
        return bool(poll.poll(0))
    except DRIVER_ERRORS:
        return True


def _libpq_waits(url: URL, waits: Waits) -> dict[str, Any]:
    """Connection parameters (PostgreSQL, libpq: Parameter Key Words; Client Connection Defaults)."""
    limits = {
        "statement_timeout": waits.statement_s,
        "lock_timeout": waits.lock_s,
        "idle_in_transaction_session_timeout": waits.idle_s,
    }
    options = [f"-c {name}={int(1000 * limit)}" for name, limit in limits.items() if limit]
    given = url.query.get("options", "")
    return {
        "connect_timeout": max(2, int(waits.connect_s)),
        "tcp_user_timeout": int(1000 * waits.network_s),
        "keepalives_idle": 30,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "options": " ".join([*options, given if isinstance(given, str) else " ".join(given)]).strip(),
    }


def _sqlite_engine(url: URL, waits: Waits) -> Engine:
    busy_ms = int(1000 * (waits.lock_s or PATIENCE_S))
    engine = create_engine(
        url,
        pool_size=32,
        max_overflow=-1,
        pool_use_lifo=True,
        pool_reset_on_return=None,
        isolation_level="AUTOCOMMIT",  # transactions are begun and ended by `_Kept` alone
        connect_args={
            "timeout": busy_ms / 1000,
            "check_same_thread": False,
            "isolation_level": None,
            "cached_statements": 512,
        },
    )

    @event.listens_for(engine, "connect")
    def prepare(dbapi_connection: Any, _record: Any) -> None:
        cursor = dbapi_connection.cursor()
        try:
            for pragma in (
                "journal_mode=WAL",
                "synchronous=FULL",
                f"busy_timeout={busy_ms}",
                "foreign_keys=ON",
                "cache_size=-65536",
                "temp_store=MEMORY",
            ):
                cursor.execute(f"PRAGMA {pragma}")
        except BaseException:  # the pool does not know it yet
            dbapi_connection.close()
            raise
        cursor.close()

    return engine
