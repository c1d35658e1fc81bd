"""Counts the records of every request that a test's server answers, and fails the test where the number is not right.

One access, one record: one AuditEvent, or one per patient whom it concerns (IHE BALP 3:5.7.4.5); one for each entry of
a Bundle; none for a public document, and none for a frame that an earlier record of the same minute covers. What is
counted is what is durable at the end of the test, whatever wrote it; what is expected follows from the request alone.
"""

from __future__ import annotations

import io
import itertools
import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from audit import spool
from audit.tables import audit_inbox, audit_log
from auth.guard import REQUEST_ID
from fhir_server.server.recorder import PUBLIC
from fhir_server.server.services import Services
from resources import references
from resources.json import Json
from store.access import Access, Outcome
from tests.support import MemoryTrail, access_of

_SENDER = ("HTTP_AUTHORIZATION", "HTTP_X_ORGANIZATION", "HTTP_X_CLIENT", "HTTP_X_TOKEN", "REMOTE_ADDR")
_STUDY = re.compile(r"^/dicom-web(?:/owners/[^/]+)?/studies/([0-9.]+)/series/[0-9.]+/instances/[0-9.]+/")


@dataclass(frozen=True)
class Record:
    """One durable record of a request."""

    request_id: str
    access: Access

    @property
    def attempts(self) -> int:
        return int(dict(self.access.detail).get("attempts", "1"))


@dataclass(frozen=True)
class Seen:
    """A request, and how it was answered."""

    method: str
    path: str
    status: int
    request_id: str
    sender: str
    """Credentials and address."""
    preflight: bool
    bundle: Json | None

    def __str__(self) -> str:
        return f"{self.method} {self.path} → {self.status}"


class Counted:
    """WSGI middleware around the whole server."""

    def __init__(self, application: Callable[..., Any], durable: Callable[[], list[Record]]) -> None:
        self._application = application
        self._durable = durable
        self._seen: list[Seen] = []
        self._lock = threading.Lock()
        self._frames: set[tuple[str, str]] = set()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        environ.setdefault(REQUEST_ID, f"counted-{next(_numbers)}")
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        bundle = _bundle(environ) if method == "POST" and path.rstrip("/") == "/fhir" else None
        told: list[Any] = []

        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            told[:] = [int(status[:3]), dict(headers).get("X-Request-Id", environ[REQUEST_ID])]
            return start_response(status, headers, *rest)

        result: Iterable[bytes] = self._application(environ, start)
        sender = " ".join(str(environ.get(name)) for name in _SENDER)
        preflight = method == "OPTIONS" and "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in environ
        with self._lock:
            self._seen.append(Seen(method, path, told[0], told[1], sender, preflight, bundle))
        return result

    def check(self) -> None:
        """Compare what was recorded since the last time with what should have been."""
        with self._lock:
            seen, self._seen = self._seen, []
        if not seen:
            return
        records: dict[str, list[Record]] = {}
        for record in self._durable():
            records.setdefault(record.request_id, []).append(record)
        expected: dict[str, tuple[int, list[Seen]]] = {}
        for one in seen:
            count, told = expected.get(one.request_id, (0, []))
            expected[one.request_id] = (count + self._expected(one, records.get(one.request_id, [])), [*told, one])
        counted_only = sum(record.attempts - 1 for listed in records.values() for record in listed)
        wrong = []
        for request_id, (count, requests) in expected.items():
            found = records.get(request_id, [])
            if accesses(found) == count:
                if len(requests) == 1 and not _truthful(requests[0], found):
                    wrong.append(f"{requests[0]}: {[(record.access.outcome, record.access) for record in found]}")
                continue
            if not found and counted_only > 0 and requests[0].status in (400, 401, 404, 405, 406, 413, 415, 429):
                counted_only -= 1  # one of a flood, which one record tells of by number
                continue
            told = ", ".join(str(request) for request in requests)
            wrong.append(f"{told}: {count} expected, {[record.access for record in found]}")
        assert not wrong, "\n".join(wrong)

    def _expected(self, one: Seen, found: list[Record]) -> int:
        if one.method in ("GET", "HEAD") and (one.path in PUBLIC or one.path.rstrip("/") in PUBLIC):
            return 0
        if one.method == "OPTIONS" and (one.path.rstrip("/") == "/fhir" or (one.preflight and one.status < 400)):
            return 0
        if one.bundle is not None and one.status == 200:
            return _of_bundle(one.bundle)
        if one.path.startswith("/dicom-web"):
            return self._of_images(one, found)
        if one.path.endswith("/$events") and one.status == 200:
            return max(1, accesses(found))
        return 1

    def _of_images(self, one: Seen, found: list[Record]) -> int:
        """One per study: several owners may have one of this UID, and a STOW hold several, and refuse some."""
        study = _STUDY.match(one.path)
        if study is not None and one.status < 400:
            key = (one.sender, study[1])
            if not found and key in self._frames:
                return 0
            if any(("what", "frames") in record.access.detail for record in found):
                self._frames.add(key)
        several = one.status < 400 and (one.method == "POST" or "/studies/" in one.path)
        if not several:
            return 1
        studies = {(record.access.owner, dict(record.access.detail).get("StudyInstanceUID")) for record in found}
        return max(1, len(studies))


_numbers = itertools.count(1)


def accesses(records: list[Record]) -> int:
    """How many accesses these records are of: those of one access differ in the patient alone."""
    patients: dict[Any, Counter[tuple[str, ...]]] = {}
    for record in records:
        one = record.access
        key = (one.interaction, one.type, one.id, one.version, one.owner, one.query, one.detail, one.outcome)
        patients.setdefault(key, Counter())[one.patients] += 1
    return sum(max(counter.values()) for counter in patients.values())


def _truthful(one: Seen, found: list[Record]) -> bool:
    """Whether the outcomes are those of the status: nothing that was refused is told as a success, and the reverse.

    A delete of what is not there, or is another's, is answered as one that was done (R4 §3.1.0.7); the entries of a
    Bundle have statuses of their own; an answer with instances that were refused is a success for the others.
    """
    outcomes = {record.access.outcome for record in found}
    if one.status >= 500:
        return outcomes <= {Outcome.MAJOR}
    if one.status in (401, 403):
        return outcomes <= {Outcome.SERIOUS}
    if one.status >= 400:
        return outcomes <= {Outcome.MINOR, Outcome.SERIOUS}
    lenient = one.method == "DELETE" or one.bundle is not None or one.path.startswith("/dicom-web")
    return lenient or outcomes <= {Outcome.SUCCESS}


class _Ledger:
    """What an assembled server's ledger has made durable since the last time: rolled back is not recorded."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._written: dict[str, str] = {}
        self._read: dict[str, spool.SpoolFile] = {}
        self._rows = services.ledger._rows
        services.ledger._rows = self._noted  # type: ignore[method-assign]

    def _noted(self, *arguments: Any) -> Any:
        made = self._rows(*arguments)
        self._written.update({row.event_id: row.entry for row in made})
        return made

    def __call__(self) -> list[Record]:
        self._services.authority.refusals.flush()
        written, self._written = self._written, {}
        found = self._durable(list(written))
        records = [_record(written[event_id]) for event_id in written if event_id in found]
        return [record for record in records if not record.access.derived]

    def _durable(self, wanted: list[str]) -> set[str]:
        found: set[str] = set()
        with self._services.database.read() as connection:
            for start in range(0, len(wanted), 500):
                some = wanted[start : start + 500]
                for table in (audit_inbox, audit_log):
                    found |= set(connection.scalars(select(table.c.event_id).where(table.c.event_id.in_(some))))
        folder = self._services.ledger._spooled
        if folder is not None:
            for taken in spool.take(folder, self._services.ledger._writer._key(), self._read, 10**9):
                place = taken.place
                self._read[taken.file] = spool.SpoolFile(
                    taken.file, spool.CHAINED, taken.header, place.offset, place.records, place.mac, None, False)
                found.update(row.event_id for row in taken.rows)
        return found


def watch(services: Services, application: Callable[..., Any]) -> Counted:
    """Count the requests of an assembled server."""
    return Counted(application, _Ledger(services))


def watch_trail(trail: MemoryTrail, application: Callable[..., Any]) -> Counted:
    """Count the requests of a part of the server, whose records a `MemoryTrail` keeps."""
    return Counted(
        application,
        lambda: [Record(caller.request_id, access) for caller, access in trail.written() if not access.derived],
    )


def _record(entry: str) -> Record:
    return Record(*access_of(entry))


def _bundle(environ: dict[str, Any]) -> Json | None:
    length = environ.get("CONTENT_LENGTH") or ""
    body = environ["wsgi.input"].read(int(length)) if length.isdigit() else b""
    if length.isdigit():
        environ["wsgi.input"] = io.BytesIO(body)
    try:
        bundle = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return bundle if isinstance(bundle, dict) else None


def _of_bundle(bundle: Json) -> int:
    """One for each entry, and one for each conditional reference of a transaction: it is a search."""
    listed = bundle.get("entry", [])
    searches = 0
    if bundle.get("type") == "transaction":
        for one in listed:
            texts = {
                found.holder["reference"]
                for found in references.walk(one.get("resource") or {})
                if "?" in str(found.holder.get("reference", ""))
            }
            searches += len(texts)
    return max(1, len(listed) + searches)
