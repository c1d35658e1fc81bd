"""What must hold after any number of kills: each check names what it misses, and an empty list is the promise kept."""

from __future__ import annotations

import gzip
import hashlib
import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy import make_url, text

from resources.registry import type_name
from store.engine.database import open_engine
from tests.crash.promises import Image, Json, Promises, dataset_digest
from tests.crash.receiver import Notified
from tests.crash.service import Service
from tests.crash.workload import KEY, MARKER, Client

STAMPED = frozenset({"id", "meta", "subject", "basedOn"})
"""Elements of a transaction's resource that the server stamps or rewrites."""


def versions(promises: Promises, client: Client) -> list[str]:
    """Every acknowledged version is there by vread, with the very bytes that were answered."""
    missing = []
    for (kind, id_, number), digest in promises.versions.items():
        answer = client.ask("check vread", "GET", f"/fhir/{kind}/{id_}/_history/{number}")
        if answer is None or hashlib.sha256(answer.content).hexdigest() != digest:
            missing.append(f"{kind}/{id_}/_history/{number}")
    for (kind, id_, number), sent in promises.sent.items():
        answer = client.ask("check vread", "GET", f"/fhir/{kind}/{id_}/_history/{number}")
        if answer is None or not _holds(answer.json(), sent):
            missing.append(f"{kind}/{id_}/_history/{number}")
    return missing


def deletions(promises: Promises, stored: list[Stored]) -> list[str]:
    """What was deleted stays deleted."""
    gone = {(one.kind, one.id, one.version) for one in stored if one.deleted}
    return [f"{kind}/{id_} version {number}" for kind, id_, number in promises.deleted - gone]


def images(promises: Promises, viewer: Client) -> list[str]:
    """Every acknowledged instance is retrieved by WADO-RS, its data set byte for byte as sent."""
    return [image.sop for image in promises.images.values() if _retrieved(viewer, image) != image.digest]


def counted(promises: Promises, stored: list[Stored]) -> list[str]:
    """Every acknowledged instance is counted, and named, in its ImagingStudy."""
    wanted: defaultdict[str, set[str]] = defaultdict(set)
    for image in promises.images.values():
        wanted[image.study].add(image.sop)
    named: dict[str, set[str]] = {}
    for one in stored:
        if one.kind == "ImagingStudy" and one.current:
            study = one.resource
            uids = {i["uid"] for series in study.get("series", []) for i in series.get("instance", [])}
            if study.get("numberOfInstances") == len(uids):
                named[study["identifier"][0]["value"].removeprefix("urn:oid:")] = uids
    return [uid for uid, sops in wanted.items() if not sops <= named.get(uid, set())]


def accesses(promises: Promises, export: Path) -> list[str]:
    """Every answered access, by its X-Request-Id, stands in the exported audit log; so does every study received."""
    ids: set[str] = set()
    studies: set[str] = set()
    for event in _events(export):
        for entity in event.get("entity", []):
            what = entity.get("what", {}).get("identifier", {}).get("value", "")
            ids.add(what)
            if event["subtype"][0]["code"] == "create":
                studies.add(what.removeprefix("urn:oid:"))
    lost = [f"request {one}" for one in promises.requests - ids]
    return lost + [f"study {uid}" for uid in {image.study for image in promises.images.values()} - studies]


def transactions(promises: Promises, stored: list[Stored]) -> list[str]:
    """Of each transaction, answered or not, all three resources are there or none; of an answered one, all."""
    found = Counter(
        identifier["value"]
        for one in stored
        if one.version == 1 and not one.deleted
        for identifier in one.identifiers
        if identifier.get("system") == MARKER
    )
    return [
        f"transaction {marker}: {found[marker]} of 3"
        for marker, answered in promises.transactions.items()
        if found[marker] != 3 and (answered or found[marker])
    ]


def unique(promises: Promises, stored: list[Stored]) -> list[str]:
    """A conditional create that was retried blindly made one resource, and it is the one that was answered."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for one in stored:
        for identifier in one.identifiers:
            if identifier.get("system") == KEY:
                found[identifier["value"]].add(one.id)
    return [
        f"key {key}: {len(found[key])} resources"
        for key, answered in promises.keys.items()
        if len(found[key]) > 1 or (answered and found[key] != {answered})
    ]


def deliveries(promises: Promises, arrived: list[Notified], events: int) -> list[str]:
    """Every event arrived; first arrivals are 1, 2, 3, …; a repeat bears the same webhook-id and focus."""
    problems = []
    first: dict[int, Notified] = {}
    for one in arrived:
        known = first.setdefault(one.number, one)
        if known is one:
            if one.number != len(first):
                problems.append(f"event {one.number} arrived as the {len(first)}th")
        elif known != one:
            problems.append(f"event {one.number} was repeated as another")
    problems += [f"event {number} never arrived" for number in range(1, events + 1) if number not in first]
    focused = Counter(one.focus for one in first.values())
    problems += [
        f"{focus}: {focused[focus]} of {count} changes arrived"
        for focus, count in promises.events.items()
        if focused[focus] < count
    ]
    return problems


def database(service: Service) -> list[str]:
    """SQLite finds its file sound (PRAGMA integrity_check), and is in WAL mode."""
    url = make_url(service.settings.database_url)
    if url.get_backend_name() != "sqlite":
        return []
    with closing(sqlite3.connect(str(url.database))) as connection:
        found = [row[0] for row in connection.execute("PRAGMA integrity_check")]
        found += [row[0] for row in connection.execute("PRAGMA foreign_key_check")]
        mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
    return [line for line in found if line != "ok"] + ([] if mode == "wal" else [f"journal_mode is {mode}"])


def rubbish(service: Service) -> dict[str, int]:
    """Files that interrupted work left behind, by folder."""
    objects = service.settings.objects_folder
    return {
        "objects/incoming": sum(1 for _ in (objects / "incoming").iterdir()),
        "spool": sum(1 for _ in (service.data / "spool").iterdir()),
        "keys": sum(1 for _ in (service.data / "keys").glob(".*")),
    }


class Stored:
    """A version as the database holds it."""

    __slots__ = ("_content", "current", "deleted", "id", "kind", "version")

    def __init__(self, row: Any) -> None:
        self.kind = type_name(row.type_id)
        self.id = str(row.resource_id)
        self.version = int(row.version)
        self.deleted = bool(row.deleted)
        self.current = row.valid_to == 2**63 - 1 and not self.deleted
        self._content = row.content

    @property
    def resource(self) -> Json:
        found: Json = json.loads(self._content) if self._content else {}
        return found

    @property
    def identifiers(self) -> list[Json]:
        found = self.resource.get("identifier", []) if "urn:oid:1.2.250.1.999.77" in (self._content or "") else []
        return found if isinstance(found, list) else [found]


def stored(service: Service) -> list[Stored]:
    """Every version but the AuditEvents, as the database holds it."""
    opened = open_engine(service.settings.database_url)
    try:
        with opened.read() as connection:
            rows = connection.execute(
                text(
                    "SELECT type_id, resource_id, version, deleted, valid_to, content FROM resource_version"
                    " WHERE type_id <> :audit"
                ),
                {"audit": _audit_event()},
            ).all()
    finally:
        opened.dispose()
    return [Stored(row) for row in rows]


def _audit_event() -> int:
    from resources.registry import type_id

    return type_id("AuditEvent")


def _events(export: Path) -> Iterator[Json]:
    with gzip.open(export, "rt", encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            yield from record.get("events", ())


def _holds(stored_: Json, sent: Json) -> bool:
    return all(stored_.get(name) == value for name, value in sent.items() if name not in STAMPED)


def _retrieved(viewer: Client, image: Image) -> str | None:
    answer = viewer.ask(
        "check image", "GET", f"/dicom-web/studies/{image.study}/series/{image.series}/instances/{image.sop}",
        Accept='multipart/related; type="application/dicom"; transfer-syntax=*',
    )  # fmt: skip
    if answer is None:
        return None
    body = answer.content
    boundary = body[: body.index(b"\r\n")]
    start = body.index(b"\r\n\r\n") + 4
    return dataset_digest(body[start : body.rindex(b"\r\n" + boundary)])
