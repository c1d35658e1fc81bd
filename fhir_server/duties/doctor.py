"""`./vigie doctor`: what is wrong with this deployment, a line per check; the exit status is the number of wrong ones.

It tries what `/readyz` tries, with its own hands, and looks at what a running server cannot tell of itself: keys,
modes, clocks, files of the spool, the register of clients. It runs beside a server or without one, waits for nobody
longer than `LIMIT_S`, and leaves nothing behind but the record that it was asked: no key, no folder, no row.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import TimeoutError as NoAnswer
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path

import click
from sqlalchemy import func, select, text

from audit import intake, published, spool, spool_rows
from audit import queries as audit_queries
from audit.chain import chain
from audit.frames import Key
from audit.spool import ASIDE
from auth.tables import oauth_client
from dicomweb import writes
from fhir_server.duties import acts, deployment, permissions
from fhir_server.server import checks, faults, figures, keys
from fhir_server.server.checks import Finding, Status
from fhir_server.server.keys import SPOOL
from fhir_server.server.services import CLOCK
from fhir_server.server.settings import Settings
from fhir_server.server.timed import Timed
from resources.times import microseconds, utc_now
from store import collecting
from store.access import COUNTED, Waiting
from store.engine.clock import Leap
from store.engine.database import Database, open_engine
from store.engine.keyring import KeyFault
from store.objects import ObjectStore
from store.versions import standing
from store.versions.tables import tx
from subscriptions import leases

LIMIT_S = 10.0
CLOCK_S = 2.0
"""DESIGN §4: wall times lie within two seconds of the clock."""


@dataclass(frozen=True, slots=True)
class Line:
    """One check: what was found, in words; `ok` or not."""

    name: str
    ok: bool
    told: str = ""


def doctor(settings: Settings, *, as_json: bool = False) -> int:
    """Print the lines, and put on record that somebody asked; the number of what is wrong."""
    lines = list(examine(settings))
    if any(line.name == "database" and line.ok for line in lines):
        lines += _recorded(settings, sum(not line.ok for line in lines))
    if as_json:
        click.echo(json.dumps([{"check": line.name, "ok": line.ok, "told": line.told} for line in lines]))
    else:
        for line in lines:
            click.echo(f"{'ok   ' if line.ok else 'WRONG'} {line.name}{': ' + line.told if line.told else ''}")
    return sum(not line.ok for line in lines)


def examine(settings: Settings) -> Iterator[Line]:
    """All checks, in order."""
    if settings.data.is_dir():
        yield _line("disk", lambda: _strict(checks.disk(settings.data)))
        yield _line("modes", lambda: _modes(settings))
    database = open_engine(settings.database_url)
    try:
        first = _line("database", lambda: _database(settings, database))
        yield first
        if not first.ok:
            return
        yield _line("schema", lambda: _strict(checks.schema(database)))
        held = _line("keys", lambda: _keys(settings, database))
        yield held
        if held.ok:  # without them no checkpoint can be told from a forged one
            yield _line("checkpoints", lambda: _checkpoints(settings, database))
        yield _line("clock", lambda: _clock(settings, database))
        yield _line("index", lambda: _index(database))
        yield _line("objects", lambda: _objects(settings.objects_folder))
        yield _line("images", lambda: _compared(database))
        if database.is_sqlite:
            yield _line("spool", lambda: _spool(settings, database))
        yield from _queues(settings, database)
        yield _line("clients", lambda: _clients(database))
        yield _line("worker", lambda: _worker(settings.data))
        yield _line("dimse", lambda: _dimse(settings.data))
    finally:
        database.dispose()


def _recorded(settings: Settings, wrong: int) -> list[Line]:
    """The operator's act in the audit log. What keeps it from being recorded mostly stands in the other lines."""
    try:
        with deployment.opened(settings) as services, acts.recorded(services, "doctor") as act:
            act.conclude(f"exception: {wrong} checks failed" if wrong else None)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with it is what is to be told
        return [] if wrong else [Line("record", False, _told(error))]
    return []


class _Wrong(Exception):
    """What a check says is wrong; the text is ours."""


def _line(name: str, check: Callable[[], str]) -> Line:
    try:
        return Line(name, True, Timed(f"doctor-{name}", check, limit_s=LIMIT_S).answer())
    except _Wrong as wrong:
        return Line(name, False, str(wrong))
    except NoAnswer:
        return Line(name, False, "no answer in time")
    except Exception as error:  # noqa: BLE001 - whatever is wrong with it is what is to be told
        return Line(name, False, _told(error))


def _told(error: Exception) -> str:
    return faults.line_of(error) or type(error).__name__


def _strict(finding: Finding) -> str:
    """A server with a degraded check goes on; whoever asks the doctor wants to know."""
    if finding.status is not Status.OK:
        raise _Wrong(finding.reason)
    return ""


def _database(settings: Settings, database: Database) -> str:
    deployment.require_database(settings)  # to look into a SQLite file that does not exist would make it
    return _strict(checks.database_writes(database))


def _keys(settings: Settings, database: Database) -> str:
    """They are there, and those that the database was served with. They are looked at, never made."""
    keys.check(settings, database)
    return ""


def _checkpoints(settings: Settings, database: Database) -> str:
    """The published file is there, and as new as the log."""
    path = settings.checkpoints_file
    verifier = keys.RingSigner(keys.ring(settings, database), settings).verifier
    with database.read() as connection:
        fault = published.fault(connection, path, published.look(path, chain(connection, verifier)))
    if fault is not None:
        raise _Wrong(fault)
    return ""


def _index(database: Database) -> str:
    """Parameters are numbered as this version numbers them, and the rows are of its rules."""
    with database.read() as connection:
        standing.check(connection)
        stale = sorted(standing.stale(connection))
    if stale:
        raise _Wrong(f"rows of older rules: {', '.join(stale[:5])}: ./vigie reindex")
    return ""


def _modes(settings: Settings) -> str:
    loose = permissions.loose(settings)
    if loose:
        raise _Wrong(f"readable by others: {', '.join(path.name for path in loose)}")
    return ""


def _clock(settings: Settings, database: Database) -> str:
    """This host's clock: against its time since boot, the database's, and the newest instant that was written."""
    _strict(checks.clock(Leap.seen(settings.data / CLOCK).seconds))
    with database.read() as connection:
        now = utc_now()
        if not database.is_sqlite:
            theirs = connection.execute(text("SELECT clock_timestamp()")).scalar_one().astimezone(UTC)
            if abs((theirs - now).total_seconds()) > CLOCK_S:
                raise _Wrong(f"the database's clock differs by {(theirs - now).total_seconds():+.1f} s")
        newest = connection.execute(select(func.max(tx.c.at))).scalar()
    ahead_s = 0.0 if newest is None else (int(newest) - microseconds(now)) / 1_000_000
    if ahead_s > CLOCK_S:
        raise _Wrong(f"the newest entry is {ahead_s:.0f} s ahead of the clock")
    return ""


def _objects(folder: Path) -> str:
    if not folder.is_dir():
        raise _Wrong("the folder of the objects does not exist")
    _strict(checks.disk(folder))
    return _strict(checks.object_put(ObjectStore(folder)))


def _compared(database: Database) -> str:
    """Every row has its object and every object its row, when the whole was last compared."""
    with database.read() as connection:
        last = collecting.last_round(connection)
    if last is None:
        return "objects and rows have not been compared yet: a server does, and ./vigie objects collect"
    wrong = [
        f"{count} {what}"
        for count, what in (
            (last.lost, "rows without objects: ./vigie objects collect --dry-run names them"),
            (last.unnamed, "objects without rows: ./vigie objects collect"),
        )
        if count
    ]
    if wrong:
        raise _Wrong("; ".join(wrong))
    return f"{last.objects} objects"


def _spool(settings: Settings, database: Database) -> str:
    """The files are ours, nobody else's to read, and verify as far as the database knows; a record could be written."""
    folder = settings.data / SPOOL
    if not folder.is_dir():
        raise _Wrong("the folder of the spool does not exist")
    key = _spool_key(settings, database)
    with database.read() as connection:
        gaps = intake.findings(folder, key, connection) if key is not None else []
        unseen = {gap.file for gap in gaps} - {gap.file for gap in spool_rows.gaps(connection)}
        unseen |= {gap.file for gap in spool_rows.gaps(connection, seen=False)}
    names = spool.files(folder)
    strange = [path.name for path in folder.iterdir() if path.suffix not in (".spool", ".probe") and path.name != ASIDE]
    loose = [name for name in names if (folder / name).stat().st_mode & 0o077]
    wrong = [
        f"{len(found)} files {what}"
        for found, what in (
            (unseen, "do not verify: ./vigie audit verify names them"), (strange, "are not the spool's"),
            (loose, "are readable by others"),
        )
        if found
    ]  # fmt: skip
    if wrong:
        raise _Wrong("; ".join(wrong))
    spool.check_writable(folder)
    return f"{len(names)} files"


def _spool_key(settings: Settings, database: Database) -> Key | None:
    """None: no key opens. That stands in a line of its own."""
    with suppress(KeyFault):
        return intake.KeyOf(keys.RingSigner(keys.ring(settings, database), settings))()
    return None


def _queues(settings: Settings, database: Database) -> Iterator[Line]:
    """One line per queue: how many wait, and since when the oldest."""

    def read() -> dict[str, Waiting]:
        now = utc_now()
        with database.read() as connection:
            found = {"audit-inbox": audit_queries.backlog(connection)}
            key = _spool_key(settings, database) if database.is_sqlite else None
            if key is not None and (settings.data / SPOOL).is_dir():
                states = spool_rows.states(connection)
                found["audit-spool"] = Waiting(*spool.backlog(settings.data / SPOOL, key, states, COUNTED))
            return {
                **found,
                **leases.queues(connection, now),
                "studies-unpublished": writes.backlog(connection),
                "versions-to-index": standing.waiting(connection),
            }

    try:
        found = Timed("doctor-queues", read, limit_s=LIMIT_S).answer()
    except Exception as error:  # noqa: BLE001 - whatever is wrong with it is what is to be told
        yield Line("queues", False, "no answer in time" if isinstance(error, NoAnswer) else type(error).__name__)
        return
    now_us = microseconds(utc_now())
    for name, waiting in found.items():
        age_s = checks.age(waiting, now_us)
        told = f"{waiting.count} waiting" + (f", the oldest for {age_s:.0f} s" if waiting.count else "")
        yield Line(name, name not in checks.LAGGING or age_s <= checks.LAG_S, told)


def _clients(database: Database) -> str:
    with database.read() as connection:
        count = int(connection.execute(select(func.count()).select_from(oauth_client)).scalar_one())
    if not count:
        raise _Wrong("no client is registered: ./vigie client add")
    return f"{count} registered"


_NOT_RUNNING = "no server runs here"


def _running(data: Path) -> list[figures.Told]:
    """The processes of a server on this data folder."""
    return [told for told in figures.read(data) if told.is_live]


def _worker(data: Path) -> str:
    return _strict(checks.worker(data)) if _running(data) else _NOT_RUNNING


def _dimse(data: Path) -> str:
    """With the port that the running server has, which the doctor is not told."""
    running = _running(data)
    return _strict(checks.dimse(data, max(told.dimse_port for told in running))) if running else _NOT_RUNNING
