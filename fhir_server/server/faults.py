"""What is wrong with the environment, in one line: at a command, in a child process, in the log.

A fault of the environment (a database that is away, a full disk, a wrong setting, a missing key) is no error of the
program: whoever operates it gets a line that says what to do, and an exit status. What nobody foresaw leaves its trace
in the log, without the text of the exception, which may hold somebody's data.
"""

from __future__ import annotations

import errno
import sqlite3
from typing import Any

import psycopg

from audit.checkpoint import BadKey
from fhir_server.server.settings import SettingsError
from resources.outcomes import FhirError
from store.engine.faults import driver_error
from store.engine.keyring import KeyFault
from store.migrations import SchemaFault
from store.versions.standing import IndexFault


class CannotRun(Exception):
    """A process or a command cannot do its work here; the text says why, in one line."""


_OS = {
    errno.ENOSPC: "there is no space left on the device",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a file would be longer than this account's limit (ulimit -f)",
    errno.EROFS: "the file system is read-only",
    errno.EADDRINUSE: "the port is in use: choose another",
    errno.EADDRNOTAVAIL: "the address to listen on is none of this machine",
    errno.EMFILE: "too many files are open: raise the limit (ulimit -n)",
    errno.EIO: "the disk fails (input/output error)",
}
_PATHS = {
    errno.ENOTDIR: "is a file where a folder is needed",
    errno.EEXIST: "is a file where a folder is needed",
    errno.EISDIR: "is a folder where a file is needed",
    errno.EACCES: "may not be used by this account",
    errno.EPERM: "may not be used by this account",
    errno.ENOENT: "is not there",
}
_SQLITE = {
    sqlite3.SQLITE_CORRUPT: "the SQLite file is damaged: restore a backup",
    sqlite3.SQLITE_NOTADB: "the SQLite file is no database: restore a backup, or name another data folder",
    sqlite3.SQLITE_FULL: "there is no space left for the SQLite file",
    sqlite3.SQLITE_IOERR: "the SQLite file cannot be read or written: is there space left, is the disk well?",
    sqlite3.SQLITE_CANTOPEN: "the SQLite file cannot be opened: look at its folder",
    sqlite3.SQLITE_READONLY: "the SQLite file is read-only",
    sqlite3.SQLITE_BUSY: "the SQLite file is locked by another program",
    sqlite3.SQLITE_PERM: "the SQLite file may not be used by this account",
}
_AWAY = "the database cannot be reached: is it running, is its URL right (VIGIE_DATABASE)?"
_MISSING_TABLES = "the database lacks tables of this version: ./vigie db upgrade"


def line_of(error: BaseException) -> str | None:
    """The one line for the operator, or None for what nobody foresaw."""
    if isinstance(error, CannotRun | SettingsError | SchemaFault | BadKey | KeyFault | IndexFault):
        return str(error)
    if isinstance(error, FhirError):
        where = next((f" ({place})" for issue in error.issues for place in issue.expression), "")
        return f"{error.diagnostics}{where}"
    if isinstance(error, OSError):
        return _of_system(error)
    original = driver_error(error)
    if isinstance(original, sqlite3.Error):
        return _of_sqlite(original)
    if isinstance(original, psycopg.Error):
        return _of_postgresql(original)
    return None


def is_about_ports(error: OSError) -> bool:
    """Whether an address or port cannot be listened on."""
    return error.errno in (errno.EADDRINUSE, errno.EADDRNOTAVAIL)


def _of_system(error: OSError) -> str | None:
    if error.errno in _OS:
        return _OS[error.errno]
    if error.errno in _PATHS and error.filename is not None:
        return f"{error.filename} {_PATHS[error.errno]}"
    return None


def _of_sqlite(error: sqlite3.Error) -> str | None:
    code: Any = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return None
    if code & 0xFF == sqlite3.SQLITE_ERROR and "no such table" in str(error):
        return _MISSING_TABLES
    return _SQLITE.get(code & 0xFF)


def _of_postgresql(error: psycopg.Error) -> str | None:
    state = error.sqlstate or ""
    if state in ("28P01", "28000"):
        return "the database refuses this user or its password"
    if state == "3D000":
        return "there is no such database on the server: create it first"
    if state == "42P01":
        return _MISSING_TABLES
    if state.startswith("53"):
        return "the database has no room or no connection left"
    if isinstance(error, psycopg.OperationalError):
        return _AWAY
    return None
