"""A published file that is missing, or older than the log, is no first use: security.md M6, last rows.

docs/audit.md, Verifying and Operating
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from audit import offline, published, queries
from audit.checkpoint import Signer
from audit.offline import split_notes
from audit.service import Ledger
from audit.verify import verify
from store.engine.database import Database
from tests.audit.logbook import alter, fill
from tests.support import PLATFORM


def told(database: Database, signer: Signer, path: Path) -> list[str]:
    report = verify(
        database, signer.verifier, platform=PLATFORM, published_to=path,
        elsewhere=offline.notes_of(path) if path.exists() else (),
    )  # fmt: skip
    return [f"{one.kind}: {one.text}" for one in report.findings]


def sizes(path: Path, signer: Signer) -> list[int]:
    return [signer.verifier.open(note).size for note in split_notes(path.read_text())]


@pytest.fixture
def path(published: Path) -> Path:
    return published


def test_the_file_is_made_with_the_log(ledger: Ledger, database: Database, signer: Signer, path: Path) -> None:
    """And by nothing else: before the first record it is there."""
    assert told(database, signer, path) == []
    assert not path.exists()
    assert not ledger.sequencer.step()
    assert path.read_bytes() == b""
    fill(ledger, 3)
    assert not ledger.sequencer.step()
    assert sizes(path, signer) == [3]
    assert told(database, signer, path) == []


def test_a_file_that_is_missing_is_named_and_not_made_anew(
    make_ledger: Callable[..., Ledger], database: Database, signer: Signer, path: Path
) -> None:
    """Neither by the process that had it open nor by the next one, whatever is sequenced."""
    first = make_ledger()
    fill(first, 3)
    path.unlink()
    for ledger in (first, make_ledger()):
        fill(ledger, 3)
        ledger.sequencer.step()
        assert not path.exists()
    assert [one[:10] for one in told(database, signer, path)] == ["published:"]
    assert "missing, and the log has 9 records" in told(database, signer, path)[0]
    assert not path.exists()


def test_a_file_that_is_older_than_the_log_is_named_and_left_alone(
    make_ledger: Callable[..., Ledger], database: Database, signer: Signer, path: Path
) -> None:
    """By more than a process that died can have left unpublished."""
    fill(make_ledger(), 3)
    assert told(database, signer, path) == []
    old = path.read_bytes()
    fill(make_ledger(), 20)
    path.write_bytes(old)
    assert told(database, signer, path) == [], "it may be that of a process that died a moment ago"
    log = queries.audit_log
    late = int(datetime.now(UTC).timestamp() + published.BEHIND_S + 5) * 1_000_000
    alter(database, update(log).where(log.c.seq == 23).values(logged=late))
    assert any("end at record 3, the log at 23" in one for one in told(database, signer, path))
    make_ledger().sequencer.step()
    assert path.read_bytes() == old


def test_what_a_process_left_unpublished_the_next_one_publishes(
    make_ledger: Callable[..., Ledger], database: Database, signer: Signer, path: Path
) -> None:
    fill(make_ledger(), 3)
    old = path.read_bytes()
    fill(make_ledger(published=None), 3)
    assert path.read_bytes() == old
    make_ledger().sequencer.step()
    assert sizes(path, signer)[-1] == 6


def test_a_process_publishes_what_another_signed(
    make_ledger: Callable[..., Ledger], database: Database, signer: Signer, path: Path
) -> None:
    """Each node has a file of its own; only one of them sequences."""
    idle = make_ledger(clock=lambda: datetime.now(UTC) + timedelta(0))
    fill(idle, 3)
    fill(make_ledger(published=None), 3)
    idle.sequencer._followed_at = float("-inf")
    idle.sequencer.step()
    assert sizes(path, signer)[-1] == 6


def test_a_file_beside_a_database_without_its_log_is_not_forgotten(
    make_ledger: Callable[..., Ledger], database: Database, signer: Signer, path: Path
) -> None:
    """An older database beside the newer file: nothing is signed (C2SP: never sign an inconsistent checkpoint)."""
    note = signer.sign(published.Checkpoint(signer.name, 5, bytes(32)))
    path.parent.mkdir(parents=True)
    path.write_text(note + "\n")
    assert any(one.startswith("truncated") for one in told(database, signer, path))


def test_a_file_of_any_length_is_read_in_constant_memory(tmp_path: Path, signer: Signer) -> None:
    """A checkpoint a second is thirty million a year: a window of them is held."""
    def notes() -> object:
        for number in range(3 * offline.WINDOW):
            yield f"{signer.name}\n{number ^ 1}\nx\n\n— {signer.name} x\n"

    ordered = offline._InOrder(notes())  # type: ignore[arg-type]
    assert len(ordered._heap) == offline.WINDOW
    assert [size for size, _ in ordered.upto(10**9)] == list(range(3 * offline.WINDOW))
