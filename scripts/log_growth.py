"""Whether anything costs more when the audit log is larger: databases that differ in their log alone, asked by turns.

    python -m scripts.log_growth fill FOLDER --records 1000000 [--database URL]     (once for each size)
    python -m scripts.log_growth measure FOLDER FOLDER… [--rounds 12] [--out FILE]

`fill` makes a deployment with 2,000 patients and 4,000 orders, and a log of so many records of the last two years: real
leaves, checkpoints, index rows and (PostgreSQL) months, written by the sequencer's own bulk insert. `measure` prints
for each operation the µs of CPU (this process, and its PostgreSQL backends) and of the clock in each database, and the
ratio to the first one. What an access records is sequenced between the rounds, and measured too.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from sqlalchemy import text

from audit import entry, finding, form2, forms, published, queries
from audit.checkpoint import Checkpoint
from audit.forms import Part, Row
from fhir_server.duties import deployment
from fhir_server.server.keys import RingSigner
from fhir_server.server.services import Services
from fhir_server.server.settings import Settings
from resources.json import Json
from resources.search import parse
from resources.times import microseconds, utc_now
from store.access import Access, Caller, Interaction, SearchPage
from store.unit_of_work import UnitOfWork

PATIENTS, ORDERS = 2000, 4000
SPAN_US = 730 * 86_400_000_000
BATCH = 20_000
TEMPLATES = 20_000
SYSTEM = Caller.system("platform")
HOSPITAL = Caller("ehr", "hospital-a", is_system=True)
AUDITOR = Caller("auditor", "platform", is_system=True)


def patient(number: int) -> Json:
    """A patient of its own."""
    return {
        "resourceType": "Patient",
        "identifier": [{"system": "urn:oid:1.2.250.1.999.1", "value": f"IPP-{number}"}],
        "name": [{"family": f"Mesure {number}", "given": ["Zoé"]}], "birthDate": "1960-02-03",
    }  # fmt: skip


def order(number: int) -> Json:
    """An order, one in twenty active."""
    return {
        "resourceType": "ServiceRequest", "status": "completed" if number % 20 else "active", "intent": "order",
        "subject": {"reference": f"Patient/m-{number % PATIENTS}"}, "code": {"text": "TDM"},
        "authoredOn": f"2026-{1 + number % 12:02d}-{1 + number % 28:02d}T08:00:00Z",
    }  # fmt: skip


# --- the log


class Template(NamedTuple):
    """What records have in common that differ in their instant and their salts."""

    head: str
    particulars: str
    patients: tuple[str, ...]
    keys: list[tuple[int, int]]


def templates() -> list[Template]:
    """Accesses in the mix of a morning, by 50 people and 20 programs, to 20,000 patients."""
    made = []
    for number in range(TEMPLATES):
        named = tuple(f"Patient/p-{(number * 7 + one) % TEMPLATES}" for one in range(1 + number % 3))
        owner, kind = f"hospital-{number % 20}", number % 10
        who = Caller(f"client-{number % 20}", owner, role="hospital", token_ref=f"{number % 997:08x}",
                     address="198.51.100.25", request_id=f"{number:016x}", purpose="TREAT",
                     practitioner=f"Practitioner/rad-{number % 50}" if number % 2 else None)  # fmt: skip
        what = Access(Interaction.READ, "ServiceRequest", f"o-{number}", 3, named[:1], owner)
        if kind in (6, 7):
            what = Access(Interaction.SEARCH_TYPE, "ServiceRequest", patients=named,
                          query=f"GET /fhir/ServiceRequest?patient=p-{number}&status=active&_count=20")  # fmt: skip
        elif kind > 7:
            detail = (("StudyInstanceUID", f"1.2.826.{number}"), ("instances", "120"))
            what = Access(Interaction.DICOM_RETRIEVE, "ImagingStudy", f"s-{number}", None, named[:1], owner,
                          detail=detail)  # fmt: skip
        record = entry.split(entry.written(who, what, utc_now()))
        parts = [Part(one, owner, b"") for one in record.patients]
        made.append(Template(
            orjson.dumps({name: value for name, value in record.head.items() if name != "at"}).decode()[1:],
            orjson.dumps(record.particulars).decode() if record.particulars else "", record.patients,
            sorted(finding.keys(record.head, record.particulars, parts)),
        ))  # fmt: skip
    return made


def fill_log(services: Services, signer: RingSigner, records: int) -> None:
    """Append records until there are so many; what was ended in between goes on."""
    known, made = templates(), random.Random(records)  # noqa: S311 - to spread records
    observer = forms.site_content("Device/vigie", services.fhir_bases[0], "platform")
    begin, step = microseconds(utc_now()) - SPAN_US, SPAN_US // (records + 1)
    with services.database.read() as connection:
        there = queries.end(connection)
    begin, through = (there.logged - step * there.seq if there.seq else begin), there.through
    for first in range(there.seq, records, BATCH):
        rows, found = [], []
        with services.database.write() as connection:
            queries.lead(connection)
            frontier = queries.tree(connection)
            before = frontier.size
            queries.add_site(connection, *observer)
            size = min(BATCH, records - first)
            logged = begin + step * (first + size)
            for number in range(first, first + size):
                at = begin + step * number
                one = known[made.randrange(TEMPLATES)]
                salts = os.urandom(form2.SALT_BYTES * (2 + len(one.patients)))
                own, rest = salts[: 2 * form2.SALT_BYTES], salts[2 * form2.SALT_BYTES :]
                parts = [Part(name, f"hospital-{number % 20}", rest[16 * n : 16 * n + 16])
                         for n, name in enumerate(one.patients)]  # fmt: skip
                head = f'{{"site":"{observer[0]}","at":{at},{one.head}'
                id = _id(at, salts)
                seq = frontier.size + 1
                through += max(1, len(parts))
                leaf = form2.leaf(seq, id, at, logged, own, head.encode(), one.particulars.encode(),
                                  [part.committed for part in parts])  # fmt: skip
                frontier.append(leaf)
                rows.append(Row(seq, id, forms.FORM_2, leaf, own, at, logged, through, head, one.particulars,
                                forms.parts_text(parts)))  # fmt: skip
                found += [(kind, value, at, seq) for kind, value in one.keys]
            found.sort()
            if not queries.append(connection, rows, found, before, frontier):
                raise SystemExit("the log is not where it was")
            note = signer.sign(Checkpoint(signer.name, frontier.size, frontier.root()))
            queries.add_checkpoint(connection, frontier.size, note, logged, 0)
        published.append(services.settings.checkpoints_file, note)
        if first % 200_000 == 0:
            sys.stdout.write(f"{first + size} records\n")
            sys.stdout.flush()


def _id(at: int, random_bytes: bytes) -> str:
    """A UUID of version 7 of this µs."""
    digits = f"{at // 1000:012x}7{random_bytes[:10].hex()[:19]}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _create(type_name: str, made: Callable[[int], Json], prefix: str, first: int, uow: UnitOfWork) -> None:
    for number in range(first, first + 200):
        uow.resources.create(type_name, made(number), id=f"{prefix}-{number}")


def fill(folder: Path, url: str, records: int) -> None:
    """A deployment with this many records in its log."""
    settings = Settings.load({"data": folder, "database": url}, environ={})
    deployment.upgrade(settings)
    services = Services.of(settings)
    if not settings.checkpoints_file.exists():
        published.begin(settings.checkpoints_file)
    began = time.monotonic()
    fill_log(services, RingSigner(services.keys, settings), records)
    for first in range(0, PATIENTS, 200):
        services.store.transact(HOSPITAL, partial(_create, "Patient", patient, "m", first))
    for first in range(0, ORDERS, 200):
        services.store.transact(HOSPITAL, partial(_create, "ServiceRequest", order, "o", first))
    if not services.ledger.catch_up(120):
        raise SystemExit("the log did not catch up")
    if not services.database.is_sqlite:  # there nothing is analysed in operation either
        with services.database.write() as connection:
            connection.execute(text("ANALYZE"))
    (folder / "growth.json").write_text(json.dumps({"url": url, "records": records}))
    sys.stdout.write(f"{records} records and the rest in {time.monotonic() - began:.0f} s\n")
    services.close()


# --- what is asked


def _search(caller: Caller, type_name: str, *parameters: tuple[str, str]) -> Callable[[Services, int], object]:
    def ask(services: Services, number: int) -> object:
        given = [(name, value.format(number)) for name, value in parameters]
        return services.store.look(caller, lambda uow: uow.resources.search(parse(type_name, given)))

    return ask


def _month() -> tuple[str, str]:
    """A month in the middle of the log, as `date` has it."""
    at = utc_now().replace(day=1)
    then = at.replace(year=at.year - 1)
    after = then.replace(month=then.month % 12 + 1, year=then.year + then.month // 12)
    return f"ge{then:%Y-%m-%d}", f"lt{after:%Y-%m-%d}"


_FRESH = count(int(time.time() * 1000))
SINCE, UNTIL = _month()
PAGE = ("_count", "20")
OPERATIONS: dict[str, tuple[int, Callable[[Services, int], object]]] = {
    "read by id": (40, lambda services, number: services.store.look(
        HOSPITAL, lambda uow: uow.resources.read("ServiceRequest", f"o-{number % ORDERS}"))),
    "worklist (active, newest first)": (
        5, _search(HOSPITAL, "ServiceRequest", ("status", "active"), ("_sort", "-authored"), PAGE)),
    "orders of a patient": (10, _search(HOSPITAL, "ServiceRequest", ("patient", "Patient/m-{0}"), PAGE)),
    "patient by identifier": (
        10, _search(HOSPITAL, "Patient", ("identifier", "urn:oid:1.2.250.1.999.1|IPP-{0}"), PAGE)),
    "create a patient": (10, lambda services, number: services.store.transact(
        HOSPITAL, lambda uow: uow.resources.create("Patient", patient(next(_FRESH))))),
    "create an order": (10, lambda services, number: services.store.transact(
        HOSPITAL, lambda uow: uow.resources.create("ServiceRequest", order(number)))),
    "sequence what they recorded (for each record)": (0, lambda services, number: services.ledger.catch_up(60)),
    "audit: of a patient, newest 20": (5, _search(AUDITOR, "AuditEvent", ("patient", "Patient/p-{0}"), PAGE)),
    "audit: of a patient, a month": (
        5, _search(AUDITOR, "AuditEvent", ("patient", "Patient/p-{0}"), ("date", SINCE), ("date", UNTIL), PAGE)),
    "audit: by a person, a month": (
        5, _search(AUDITOR, "AuditEvent", ("agent", "Practitioner/rad-1"), ("date", SINCE), ("date", UNTIL), PAGE)),
    "audit: a month, newest 20": (5, _search(AUDITOR, "AuditEvent", ("date", SINCE), ("date", UNTIL), PAGE)),
    "audit: refused in a month": (
        5, _search(AUDITOR, "AuditEvent", ("outcome", "8"), ("date", SINCE), ("date", UNTIL), PAGE)),
}  # fmt: skip


class Used(NamedTuple):
    """Of one operation in one database."""

    cpu_us: list[float]
    clock_us: list[float]
    found: list[int]
    """Matches of a page."""


def _backends(services: Services) -> float:
    """Seconds of CPU of this database's PostgreSQL backends."""
    if services.database.is_sqlite:
        return 0.0
    with services.database.read() as connection:
        pids = connection.execute(text("SELECT pid FROM pg_stat_activity WHERE datname = current_database()")).scalars()
        return sum(map(_seconds, pids))


def _seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(folders: list[Path], rounds: int) -> dict[str, Any]:
    """The document that is printed."""
    kept = [json.loads((folder / "growth.json").read_text()) for folder in folders]
    servers = [Services.of(Settings.load({"data": folder, "database": one["url"]}, environ={}))
               for folder, one in zip(folders, kept, strict=True)]  # fmt: skip
    used = {name: [Used([], [], []) for _ in servers] for name in OPERATIONS}
    numbers = random.Random(1)  # noqa: S311 - to choose what is asked
    for turn in range(rounds + 1):
        for name, (times, work) in OPERATIONS.items():
            asked = [numbers.randrange(PATIENTS) for _ in range(max(1, times))]
            for at in _by_turns(len(servers), turn):
                services = servers[at]
                waiting = services.ledger.waiting() if not times else len(asked)
                theirs, own = _backends(services), time.process_time()
                clock = time.monotonic()
                answers = [work(services, number) for number in asked]
                clock = time.monotonic() - clock
                cpu = time.process_time() - own + _backends(services) - theirs
                if turn and waiting:  # the first one fills caches
                    used[name][at].cpu_us.append(1e6 * cpu / waiting)
                    used[name][at].clock_us.append(1e6 * clock / waiting)
                    used[name][at].found.extend(len(one.matches) for one in answers if isinstance(one, SearchPage))
    told = {name: _told(of) for name, of in used.items()}
    engine = servers[0].database.dialect
    for services in servers:
        services.close()
    return {
        "what": "operations beside audit logs of several sizes, by turns", "engine": engine, "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0], "records": [one["records"] for one in kept], "rounds": rounds,
        "operations": told,
    }  # fmt: skip


def _by_turns(size: int, turn: int) -> Iterator[int]:
    yield from range(size) if turn % 2 else reversed(range(size))


def _told(of: list[Used]) -> dict[str, Any]:
    cpu = [sum(one.cpu_us) / len(one.cpu_us) for one in of]
    clock = [statistics.median(one.clock_us) for one in of]
    found = {"found": [round(statistics.mean(one.found), 1) for one in of]} if of[0].found else {}
    return found | {
        "cpu_us": [round(one) for one in cpu], "cpu_ratio": [round(one / cpu[0], 2) for one in cpu],
        "median_us": [round(one) for one in clock], "median_ratio": [round(one / clock[0], 2) for one in clock],
    }  # fmt: skip


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("fill", "measure"))
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--database", default="")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.what == "fill":
        fill(given.folders[0], given.database, given.records)
        return
    told = json.dumps(measure(given.folders, given.rounds), indent=1, ensure_ascii=False)
    if given.out:
        given.out.write_text(told + "\n")
    sys.stdout.write(told + "\n")


if __name__ == "__main__":
    main()
