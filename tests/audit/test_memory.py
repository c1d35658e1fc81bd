"""What reads the whole log holds a piece of it: of n, 2n and 4n records the same peak. DESIGN §7

"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from audit import forms, proofs, queries
from audit.checkpoint import Signer
from audit.offline import Report
from audit.service import Ledger
from audit.verify import export, verify
from store.access import Access, Interaction
from store.engine.database import Database
from tests.audit.logbook import AT
from tests.support import PLATFORM, caller

SIZES = (150, 300, 600)
BATCH = 50


def _peak(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        assert work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_log_is_verified_exported_and_proven_in_memory_that_does_not_grow(
    ledger: Ledger, database: Database, signer: Signer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verified from the beginning, and from a trusted checkpoint on. What is read at a time is less than there is."""
    for name in ("CHUNK", "LEAVES", "INDEX_ROWS"):
        monkeypatch.setattr(queries, name, 40)
    done, trusted = 0, ""
    peaks: dict[str, list[int]] = {}

    def verified(trusted: str | None = None) -> Report:
        report = verify(database, signer.verifier, platform=PLATFORM, trusted=trusted)
        assert report.ok, report.lines()
        return report

    for size in SIZES:
        for first in range(done, size, BATCH):
            ledger.disclose(caller(), [
                Access(Interaction.READ, "Patient", f"p-{number}", 1, (f"Patient/p-{number}",), "hospital-a")
                for number in range(first, first + BATCH)
            ], AT)  # fmt: skip
            assert ledger.catch_up()
            if not first:
                with database.read() as connection:
                    trusted = queries.last_checkpoint(connection) or ""
        done = size
        with database.read() as connection:
            (event,) = forms.events_of(queries.rows(connection, [7])[7])
            works: dict[str, Callable[[], object]] = {
                "verify": verified,
                "verify from a checkpoint": partial(verified, trusted),
                "export": partial(export, database, tmp_path / "log.gz", signer.verifier),
                "inclusion": partial(proofs.inclusion, connection, event.id),
                "consistency": partial(proofs.consistency, connection, signer.verifier, trusted),
            }
            for name, work in works.items():
                peaks.setdefault(name, []).append(_peak(work))
    # The first time caches are filled as well.
    assert {name: kept for name, kept in peaks.items() if kept[2] > 1.5 * kept[1]} == {}
