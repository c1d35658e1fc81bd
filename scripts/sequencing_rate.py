"""How many records the audit log sequences per second of CPU: `python -m scripts.sequencing_rate [URL] [RECORDS]`.

Reads of one patient each, by a hundred callers, are recorded first; what is measured is the sequencer alone, as the
background turns it. Of PostgreSQL the backends' CPU counts too: that of all its processes on this machine, so an upper
bound. docs/benchmarks/README.md has the figures.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import fhir_server.server.services  # noqa: F401 - every package that owns tables
from audit.checkpoint import create
from audit.service import Ledger
from resources.times import utc_now
from store.access import Access, Caller, Interaction
from store.engine.database import open_engine
from store.engine.ids import random_id

_CALLERS = 100


def main(url: str = "", records: str = "60000") -> None:
    """Measure, and print one line."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        database = open_engine(url or f"sqlite:///{folder}/log.sqlite")
        database.create_all()
        ledger = Ledger(
            database, create(folder / "key", "bench"), observer="Device/vigie", base_url="https://vigie.example/fhir",
            platform="platform", spooled=folder / "spool",
        )  # fmt: skip
        _record(ledger, int(records))
        began, used, theirs = time.monotonic(), time.process_time(), _backends()
        while ledger.sequencer.paced_step():
            pass
        wall, own, theirs = time.monotonic() - began, time.process_time() - used, _backends() - theirs
        theirs = 0.0 if database.is_sqlite else theirs
        count = int(records)
        sys.stdout.write(
            f"{database.dialect}: {count} records, {count / own:.0f}/s of the process's CPU, "
            f"{count / (own + theirs):.0f}/s of all CPU, {count / wall:.0f}/s by the clock\n"
        )
        ledger.close()
        database.dispose()


def _record(ledger: Ledger, count: int) -> None:
    callers = [
        Caller(
            f"client-{n % 20}", f"hospital-{n % 20}", role="hospital", practitioner=f"Practitioner/{n % 50}",
            token_ref=random_id(), address="198.51.100.25", purpose="TREAT",
        )
        for n in range(_CALLERS)
    ]  # fmt: skip
    patients = [f"Patient/{random_id()}" for _ in range(5000)]
    for done in range(0, count, 100):
        who = replace(callers[done // 100 % _CALLERS], request_id=random_id())
        ledger.disclose(who, [
            Access(Interaction.READ, "ServiceRequest", random_id(), 1, (patients[(done + n) % 5000],), "hospital-1")
            for n in range(min(100, count - done))
        ], utc_now())  # fmt: skip


def _backends() -> float:
    """Seconds of CPU of PostgreSQL's processes on this machine."""
    ticks = 0
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and (process / "comm").read_text().startswith("postgres"):
                fields = (process / "stat").read_text().rsplit(")", 1)[1].split()
                ticks += int(fields[11]) + int(fields[12])
        except OSError:
            continue  # it has ended
    return ticks / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main(*sys.argv[1:])
