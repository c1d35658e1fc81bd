"""What each step of an upgrade takes, and what it locks for how long, of a database with a large log and many images.

    python -m scripts.migration_locks prepare URL --log OTHER [--instances 1000000]
    python -m scripts.migration_locks measure URL

`prepare` makes at URL, which has no tables yet, the schema of 0011 with the log of OTHER (a database that
`scripts.log_growth` filled, of the same engine) and rows of as many instances as asked for. `measure` upgrades it step
by step and prints for each: seconds, and the longest time in which a table that was there was locked against writers,
and against readers (PostgreSQL: seen in `pg_locks` every 10 ms; SQLite has one writer, so all writers wait for a step).
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import sys
import threading
import time
from typing import Any

import psycopg
from sqlalchemy import make_url

import fhir_server.server.services  # noqa: F401 - every package that owns tables
from store import migrations
from store.engine.database import open_engine

BEFORE = "0011"
COPIED = ("audit_log", "audit_index", "audit_tree", "audit_checkpoint", "audit_site")
INSTANCES = {
    "postgresql": (
        "INSERT INTO dicom_instance (series_pk, study_pk, owner_id, audience_id, sop_instance_uid, sop_class_uid,"
        " transfer_syntax_uid, frame_count, digest, dataset_digest, size_bytes, origin, stored)"
        " SELECT n / 200, n / 800, 1, 1, '1.2.826.0.1.' || n, '1.2.840.10008.5.1.4.1.1.2', '1.2.840.10008.1.2.1', 1,"
        " encode(sha256(n::text::bytea), 'hex'), encode(sha256(n::text::bytea), 'hex'), 526000, 'bench', n"
        " FROM generate_series(1, {count}) AS n"
    ),
    "sqlite": (
        "WITH RECURSIVE many(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM many WHERE n < {count})"
        " INSERT INTO dicom_instance (series_pk, study_pk, owner_id, audience_id, sop_instance_uid, sop_class_uid,"
        " transfer_syntax_uid, content_date, content_time, patient_id, frame_count, digest, dataset_digest, size_bytes,"
        " origin, stored) SELECT n / 200, n / 800, 1, 1, '1.2.826.0.1.' || n, '1.2.840.10008.5.1.4.1.1.2',"
        " '1.2.840.10008.1.2.1', '', '', '', 1, hex(randomblob(32)), hex(randomblob(32)), 526000, 'bench', n FROM many"
    ),
}  # fmt: skip


def prepare(url: str, other: str, instances: int) -> None:
    """The database as it was before the steps that are measured."""
    migrations.upgrade(url, to=BEFORE)
    if make_url(url).get_backend_name() == "sqlite":
        _prepare_sqlite(str(make_url(url).database), str(make_url(other).database), instances)
        return
    with psycopg.connect(url, autocommit=True) as target, psycopg.connect(other) as source:
        target.execute("SET session_replication_role = replica")  # the series are not there
        for table in COPIED:
            names = ", ".join(
                name for (name,) in target.execute(
                    "SELECT column_name FROM information_schema.columns WHERE table_name = %s", [table])
            )  # fmt: skip
            with (
                source.cursor().copy(f"COPY (SELECT {names} FROM {table}) TO STDOUT (FORMAT binary)") as read,  # noqa: S608
                target.cursor().copy(f"COPY {table} ({names}) FROM STDIN (FORMAT binary)") as written,
            ):
                for piece in read:
                    written.write(piece)
        target.execute(INSTANCES["postgresql"].format(count=instances))
        target.execute("VACUUM ANALYZE")


def _prepare_sqlite(path: str, other: str, instances: int) -> None:
    connection = sqlite3.connect(path)
    connection.execute("ATTACH ? AS other", [other])
    for table in COPIED:
        names = ", ".join(row[1] for row in connection.execute(f"PRAGMA main.table_info({table})"))
        connection.execute(f"INSERT INTO main.{table} ({names}) SELECT {names} FROM other.{table}")  # noqa: S608
    connection.execute(INSTANCES["sqlite"].format(count=instances))
    connection.commit()
    connection.close()


class Watch:
    """Looks every 10 ms which tables are locked against others."""

    def __init__(self, url: str) -> None:
        self._ended = threading.Event()
        self._held: dict[tuple[str, str], list[float]] = {}
        self._thread: threading.Thread | None = None
        if make_url(url).get_backend_name() != "sqlite":
            self._thread = threading.Thread(target=self._look, args=(url,))
            self._thread.start()

    def _look(self, url: str) -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            there = {row[0] for row in connection.execute("SELECT oid FROM pg_class WHERE relkind IN ('r', 'p')")}
            while not self._ended.wait(0.01):
                now = time.monotonic()
                for oid, name, mode in connection.execute(
                    "SELECT c.oid, c.relname, l.mode FROM pg_locks l JOIN pg_class c ON c.oid = l.relation"
                    " WHERE l.granted AND l.pid <> pg_backend_pid() AND c.relnamespace = 'public'::regnamespace AND"
                    " l.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')"
                ):
                    if oid in there:
                        whom = "readers and writers" if mode == "AccessExclusiveLock" else "writers"
                        self._held.setdefault((name, whom), [now, now])[1] = now

    def end(self) -> dict[str, float]:
        """``table: whom`` → seconds from when it was first seen locked until it was last."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        return {f"{name}: {whom}": round(last - first, 2) for (name, whom), (first, last) in sorted(self._held.items())}


def measure(url: str) -> dict[str, Any]:
    """The document that is printed."""
    database = open_engine(url)
    with database.read() as connection:
        counted = {
            table: int(connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one())  # noqa: S608
            for table in ("audit_log", "audit_index", "dicom_instance")
        }
    database.dispose()
    steps = {}
    current, head = migrations.state(url)
    while current != head:
        following = f"{int(current or 0) + 1:04d}"
        watch, began = Watch(url), time.monotonic()
        migrations.upgrade(url, to=following)
        took = time.monotonic() - began
        steps[following] = {"seconds": round(took, 2), "locked_s": watch.end()}
        current = following
    return {
        "what": "each step of an upgrade, and which tables it locks against whom", "cores": os.cpu_count(),
        "engine": make_url(url).get_backend_name(), "load_average": os.getloadavg()[0], "rows": counted, "steps": steps,
    }  # fmt: skip


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("prepare", "measure"))
    parser.add_argument("url")
    parser.add_argument("--log", default="")
    parser.add_argument("--instances", type=int, default=1_000_000)
    given = parser.parse_args()
    if given.what == "prepare":
        prepare(given.url, given.log, given.instances)
    else:
        sys.stdout.write(json.dumps(measure(given.url), indent=1) + "\n")


if __name__ == "__main__":
    main()
