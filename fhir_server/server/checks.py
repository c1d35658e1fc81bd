"""What `/readyz` and `./vigie doctor` examine: each check tries what is promised, and undoes what it tried.

A check returns a `Finding`, or raises: then it has failed. Texts come out of this file and name no data.
"""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from sqlalchemy import insert

from fhir_server.server import figures
from store import migrations
from store.access import Waiting
from store.engine.database import Database
from store.objects import ObjectStore
from store.versions.tables import store_setting

FULL_BYTES = 64 * 1024**2
"""With less free space than this nothing more is promised: a commit, an image or a record may fail."""
LOW_BYTES = 2 * 1024**3
LAG_S = 60.0
"""A queue whose oldest entry is older is told."""
BEHIND_S = 60.0
"""A loop that has not turned for so long, beside twice its interval, is behind; as is a turn that takes so long."""
STALE_S = 15.0
"""A process that has not written its figures for so long stands still."""
LAGGING = (
    "audit-inbox", "audit-spool", "subscription-changes", "deliveries-due", "studies-unpublished", "events-set-aside"
)  # fmt: skip
"""Queues that are worked off at once, or stay empty, when all is well."""


class Status(StrEnum):
    """`degraded`: it serves, and somebody should look. `failed`: it cannot do what it promises."""

    OK = "ok"
    DEGRADED = "degraded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    status: Status = Status.OK
    reason: str = ""
    """A sentence that can stand alone; empty where all is well."""


OK = Finding()
Check = Callable[[], Finding]


class _Undone(Exception):
    """Rolls back what was written only to see whether it can be."""


def database_writes(database: Database) -> Finding:
    """A row of a real table, in a write transaction like any other (gate and locks included), rolled back."""
    with suppress(_Undone), database.write() as connection:
        connection.execute(insert(store_setting).values(name=f"readiness {secrets.token_hex(8)}", value=""))
        raise _Undone
    return OK


def schema(database: Database) -> Finding:
    """The schema is this code's. A newer one may be served on (the other nodes are being upgraded), an older cannot."""
    standing = migrations.standing(database)
    if standing == "older":
        return Finding(Status.FAILED, "the schema is older than this version: ./vigie db upgrade")
    if standing == "newer":
        return Finding(Status.DEGRADED, "the schema is of a newer version than this")
    return OK


def object_put(objects: ObjectStore) -> Finding:
    """A new object, put durably, read and removed."""
    content = secrets.token_bytes(64)
    digest = objects.put(content)
    try:
        with objects.open(digest) as file:
            same = file.read() == content
    finally:
        objects.remove(digest)
    return OK if same else Finding(Status.FAILED, "an object does not come back as it was put")


def disk(*folders: Path) -> Finding:
    """Free space where data and objects lie."""
    free = min(shutil.disk_usage(folder).free for folder in folders)
    if free < FULL_BYTES:
        return Finding(Status.FAILED, f"the disk has only {free // 1024**2} MiB free")
    if free < LOW_BYTES:
        return Finding(Status.DEGRADED, f"the disk has only {free // 1024**2} MiB free")
    return OK


def lag(queues: Mapping[str, Waiting], now_us: int) -> Finding:
    """No queue that is worked off at once has an old entry."""
    late = []
    for name in LAGGING:
        waiting = queues.get(name)
        age_s = age(waiting, now_us) if waiting is not None else 0.0
        if age_s > LAG_S:
            late.append(f"{name}: the oldest waits for {age_s:.0f} s")
    return Finding(Status.DEGRADED, "; ".join(late)) if late else OK


def age(waiting: Waiting, now_us: int) -> float:
    """Seconds since the oldest entry came; 0 for an empty queue."""
    return 0.0 if waiting.oldest_us is None else max(0.0, (now_us - waiting.oldest_us) / 1_000_000)


def worker(data: Path) -> Finding:
    """A background process runs on this host, and each of its loops turns and succeeds."""
    running = figures.live(data, "worker")
    if not running:
        return Finding(Status.DEGRADED, "no worker")
    now = time.monotonic()
    fresh = [told for told in running if now - float(told.content["written"]) <= STALE_S]
    if not fresh:
        return Finding(Status.DEGRADED, "the worker stands still")
    behind = [trouble for told in fresh for trouble in _troubles(told.content["loops"], now)]
    return Finding(Status.DEGRADED, "; ".join(behind)) if behind else OK


def _troubles(loops: Mapping[str, Mapping[str, Any]], now: float) -> list[str]:
    found = []
    for name, loop in loops.items():
        bound_s = BEHIND_S + 2 * loop["interval_s"]
        since = loop["running_since"] or loop["last_turn"] or loop["began"]
        succeeded = loop["last_success"] or loop["began"]
        if now - since > bound_s:
            found.append(f"{name} is behind: no turn for {now - since:.0f} s")
        elif loop["failures"] and now - succeeded > bound_s:
            found.append(f"{name} fails: no success for {now - succeeded:.0f} s")
    return found


def clock(leap_s: float) -> Finding:
    """The wall clock is believed."""
    if not leap_s:
        return OK
    told = f"the clock has leapt by {leap_s:+.0f} s and is not believed: ./vigie clock confirm, if it is right"
    return Finding(Status.DEGRADED, told)


def dimse(data: Path, port: int) -> Finding:
    """The process of the DICOM port runs, where one is asked for."""
    if not port:
        return OK
    running = figures.live(data, "dimse")
    now = time.monotonic()
    if not running:
        return Finding(Status.DEGRADED, "no dimse")
    if all(now - float(told.content["written"]) > STALE_S for told in running):
        return Finding(Status.DEGRADED, "dimse stands still")
    return OK
