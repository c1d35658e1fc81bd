"""What a database error means: another transaction won, or the database is away."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

import psycopg
from sqlalchemy.exc import DBAPIError, OperationalError

from resources.outcomes import Conflict, FhirError, Unavailable

# serialization_failure, deadlock_detected, unique_violation (two creates of one id). Not lock_not_available: whoever
# has waited for a lock as long as he may (`database.Waits`) is told so, and does not wait as long again.
RETRIED_SQLSTATES = frozenset({"40001", "40P01", "23505"})


class LostRace(Conflict):
    """Another transaction altered the same resource first. `Store.transact` tries again; elsewhere it is a 409."""

    def __init__(self, diagnostics: str = "Another request altered the resource at the same moment; try again") -> None:
        super().__init__(diagnostics, retry_after_s=1)


class Outside(LostRace):
    """Something slow is to be done that nobody else should wait for. `Store.transact` leaves the transaction, does it
    and begins anew; whoever has a transaction of his own is told a 409."""

    def __init__(self, work: Callable[[], None]) -> None:
        """`work` is done without a transaction; what it made, the next attempt must find."""
        super().__init__()
        self.work = work


DRIVER_ERRORS = (DBAPIError, sqlite3.Error, psycopg.Error)


def driver_error(error: BaseException) -> BaseException:
    """The driver's own error, out of SQLAlchemy's wrapping."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        return error.orig
    return error


def is_race(error: BaseException) -> bool:
    """Whether the transaction may succeed when it is tried again."""
    if isinstance(error, LostRace):
        return True
    original = driver_error(error)
    if isinstance(original, psycopg.Error):
        return original.sqlstate in RETRIED_SQLSTATES
    if isinstance(original, sqlite3.IntegrityError):
        return getattr(original, "sqlite_errorcode", 0) == sqlite3.SQLITE_CONSTRAINT_UNIQUE
    return is_locked(error)


def is_locked(error: BaseException) -> bool:
    """SQLite: whether another connection holds what was asked for."""
    original = driver_error(error)
    return isinstance(original, sqlite3.OperationalError) and "locked" in str(original)


def is_away(error: BaseException) -> bool:
    """Whether the database cannot be reached, or cannot write at present."""
    if isinstance(error, DBAPIError) and (isinstance(error, OperationalError) or error.connection_invalidated):
        return True
    return isinstance(driver_error(error), psycopg.OperationalError | sqlite3.OperationalError)


def translated(error: Exception) -> Exception:
    """What a caller can be told of a database error: a race is a 409, a database that is away a 503; else the same."""
    if isinstance(error, FhirError):
        return error
    if is_race(error):
        return LostRace()
    if is_away(error):
        return Unavailable("The database cannot serve the request at present", retry_after_s=5)
    return error
