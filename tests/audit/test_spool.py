"""The spool: disclosures on SQLite, durable in a file of each process, moved into the log exactly once (DESIGN §7)."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from audit import frames, queries, sequencer, spool, spool_rows, verify
from audit.checkpoint import create
from audit.frames import Key
from audit.service import Ledger
from resources.outcomes import Unavailable
from store.access import Access, Caller, Interaction
from store.engine.database import Database, open_engine
from store.engine.schema import metadata

AT = datetime(2026, 2, 14, 2, 14, tzinfo=UTC)
ROOT = Path(__file__).parents[2]


@pytest.fixture
def database(tmp_path: Path) -> Any:
    opened = open_engine(f"sqlite:///{tmp_path}/vigie.db")
    with opened.write() as connection:
        metadata.create_all(connection)
    yield opened
    opened.dispose()


@pytest.fixture
def ledger(database: Database, tmp_path: Path) -> Ledger:
    return make(database, tmp_path)


_made: list[Ledger] = []


@pytest.fixture(autouse=True)
def _closed(request: pytest.FixtureRequest) -> Iterator[None]:
    """Also those are closed, once nothing depends on it, that a test takes for killed."""
    if "database" in request.fixturenames:  # which is closed after them, then
        request.getfixturevalue("database")
    yield
    while _made:
        with suppress(OSError):  # a folder that the test took away
            _made.pop().close()


def make(database: Database, folder: Path) -> Ledger:
    signer = create(folder / "key", "vigie/test")
    made = Ledger(
        database, signer, observer="Device/vigie", base_url="http://x/fhir", platform="platform",
        spooled=folder / "spool",
    )  # fmt: skip
    _made.append(made)
    return made


def disclose(ledger: Ledger, name: str) -> None:
    ledger.disclose(Caller(name, "hopital-a"), [Access(Interaction.READ, "Patient", name)], AT)


def logged(database: Database) -> list[str]:
    """The clients of the log's records, in order."""
    with database.read() as connection:
        return [json.loads(row.head or "")["caller"]["client_id"] for row in queries.stored(connection)]


KEY = Key(b"k" * 32)


def written(folder: Path, *names: str) -> tuple[spool.SpoolWriter, Path]:
    """A file that holds a frame for each name; the second is in two records."""
    writer = spool.SpoolWriter(folder, lambda: KEY)
    for number, name in enumerate(names):
        writer.append([(name, number, "{}" * 50)])
    return writer, folder / spool.files(folder)[0]


def taken(folder: Path, states: dict[str, spool.SpoolFile] | None = None) -> list[spool.Taken]:
    return spool.take(folder, KEY, states or {}, 10_000)


def ids(folder: Path) -> list[str]:
    return [row.event_id for one in taken(folder) for row in one.rows]


def state(one: spool.Taken) -> spool.SpoolFile:
    """As the database has a file up to where it was taken."""
    place = one.place
    return spool.SpoolFile(
        one.file, spool.CHAINED, one.header, place.offset, place.records, place.mac, None, is_done=False)


def test_a_frame_comes_back_as_it_was_written(tmp_path: Path) -> None:
    writer = spool.SpoolWriter(tmp_path, lambda: KEY)
    rows = [("id-1", 5, '{"é":1}'), ("id-2", 6, "x" * 100_000)]
    writer.append(rows[:1])
    (first,) = taken(tmp_path)
    writer.append(rows[1:])
    assert [tuple(row) for one in taken(tmp_path) for row in one.rows] == rows
    assert [row.event_id for one in taken(tmp_path, {first.file: state(first)}) for row in one.rows] == ["id-2"]


@pytest.mark.parametrize("kept", [0, 1, 3, 4, 6, 7, 8, 9, 30, 56, 60, 87, 88, 89, 150])
def test_a_torn_frame_ends_its_file_and_hides_nothing_before_it(tmp_path: Path, kept: int) -> None:
    """A writer that dies in the middle of a frame never acknowledged it."""
    writer, path = written(tmp_path, "whole", "torn")
    writer.close()
    first = frames.HEADER_BYTES
    content = path.read_bytes()
    length = frames.length_at(content, first)
    assert length is not None
    end = first + length + kept
    path.write_bytes(content[:end] + bytes(len(content) - end))
    (one,) = taken(tmp_path)
    assert ([row.event_id for row in one.rows], one.gaps) == (["whole"], [])
    assert spool.examine(tmp_path, KEY, path.name, state(one)) == []


def test_what_follows_a_torn_frame_is_no_part_of_it(tmp_path: Path) -> None:
    """A frame that was cut is followed by zeros alone."""
    writer, path = written(tmp_path, "torn")
    writer.close()
    content = path.read_bytes()
    length = frames.length_at(content, frames.HEADER_BYTES)
    assert length is not None
    end = frames.HEADER_BYTES + length
    cut = content[: end - 20] + bytes(20)
    path.write_bytes(cut + content[end:])
    assert spool.examine(tmp_path, KEY, path.name, None) == []
    path.write_bytes(cut + bytes(50) + b"x" + content[end + 51 :])
    assert [gap.kind for gap in spool.examine(tmp_path, KEY, path.name, None)] == ["altered"]


def test_a_frame_of_which_a_sector_is_missing_is_torn(tmp_path: Path) -> None:
    """A disk writes sectors in any order: power that failed in between leaves a hole in what was never acknowledged."""
    writer = spool.SpoolWriter(tmp_path, lambda: KEY)
    writer.append([("one", 1, "x" * 3000)])
    writer.close()
    path = tmp_path / spool.files(tmp_path)[0]
    content = bytearray(path.read_bytes())
    content[1024:1536] = bytes(512)
    path.write_bytes(content)
    assert spool.examine(tmp_path, KEY, path.name, None) == []
    content[1024:1536] = b"y" * 512
    path.write_bytes(content)
    assert [gap.kind for gap in spool.examine(tmp_path, KEY, path.name, None)] == ["altered"]


def test_what_stands_behind_a_damaged_frame_is_read_and_the_gap_is_named(tmp_path: Path) -> None:
    """Corruption is not the end of data (security.md B3)."""
    writer, path = written(tmp_path, "one", "two", "three")
    content = bytearray(path.read_bytes())
    at = content.index(b"two")
    content[at] ^= 1
    path.write_bytes(content)
    (one,) = taken(tmp_path)
    assert [row.event_id for row in one.rows] == ["one", "three"]
    assert [(gap.records, gap.kind, gap.begin < at < gap.end) for gap in one.gaps] == [(1, "altered", True)]
    writer.close()


def test_a_frame_is_not_taken_from_another_file_or_place_or_key(tmp_path: Path) -> None:
    """The MAC covers the file, the offset and the frame before."""
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    (_, mine), (_, other) = (written(folder, "one", "two", "six") for folder in folders)
    content, foreign = bytearray(mine.read_bytes()), other.read_bytes()
    second = content.index(frames.MARK, frames.HEADER_BYTES + 1)
    third = content.index(frames.MARK, second + 1)
    length = third - second
    end = third + length
    mine.write_bytes(content[:second] + content[third:end] + content[second:third] + content[end:])
    assert ids(folders[0]) == ["one"]
    mine.write_bytes(content[:second] + foreign[second:third] + content[third:])
    assert ids(folders[0]) == ["one", "six"]
    mine.write_bytes(content)
    assert spool.take(folders[0], Key(b"another" * 4), {}, 10) == []


def test_a_file_in_use_is_never_removed(tmp_path: Path) -> None:
    """The writer's lock tells that it is alive, also when all that it wrote is in the log."""
    writer, path = written(tmp_path, "one")
    assert not spool.is_dead(tmp_path, path.name)
    assert not spool.remove(tmp_path, path.name, if_empty=False)
    writer.close()
    assert spool.is_dead(tmp_path, path.name)
    assert not spool.remove(tmp_path, path.name, if_empty=True)
    assert spool.remove(tmp_path, path.name, if_empty=False)
    assert spool.files(tmp_path) == []


def test_a_long_file_is_finished_and_another_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "FILE_BYTES", 700)
    writer = spool.SpoolWriter(tmp_path, lambda: KEY)
    for number in range(6):
        writer.append([(f"id-{number}", number, "{}" * 30)])
    assert len(spool.files(tmp_path)) == 2
    assert set(ids(tmp_path)) == {f"id-{number}" for number in range(6)}
    writer.append([("large", 7, "x" * 2000)])
    assert "large" in ids(tmp_path)
    writer.close()
    assert not any(spool.examine(tmp_path, KEY, name, None) for name in spool.files(tmp_path))


def test_what_was_disclosed_is_in_the_log_after_catching_up(ledger: Ledger, database: Database) -> None:
    """An auditor reads what has just been done."""
    for number in range(250):
        disclose(ledger, f"c{number}")
    assert ledger.waiting_in_spool()[0] == 250
    assert ledger.catch_up(30)
    assert ledger.waiting_in_spool() == (0, None)
    assert sorted(logged(database)) == sorted(f"c{number}" for number in range(250))
    signer_key = ledger.sequencer._signer.verifier
    report = verify.verify(database, signer_key, platform="platform", spooled=ledger.waiting_in_spool())
    assert report.ok, report.lines()


def test_verification_tells_of_records_that_nobody_sequences(ledger: Ledger, database: Database) -> None:
    """What waits too long in the spool means that no sequencer runs."""
    disclose(ledger, "c")
    later = datetime.now(UTC).replace(year=2030)
    waiting = ledger.waiting_in_spool()
    report = verify.verify(database, ledger.sequencer._signer.verifier, platform="platform", now=later, spooled=waiting)
    assert not report.ok


def test_each_write_to_the_spool_returns_once_it_is_on_the_disk(ledger: Ledger) -> None:
    """DESIGN §3: durable before the answer leaves. kill -9 would not show it: the page cache outlives a process."""
    disclose(ledger, "x")
    file = ledger._writer._file
    assert file is not None
    assert fcntl.fcntl(file.descriptor, fcntl.F_GETFL) & os.O_DSYNC


def test_where_the_spool_cannot_be_written_nothing_is_acknowledged(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DESIGN §3: if it cannot be written, the answer is 503; the next record goes on in a new file."""
    disclose(ledger, "before")

    def full(descriptor: int, content: bytes, offset: int) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(Unavailable):
        disclose(ledger, "refused")
    monkeypatch.undo()
    disclose(ledger, "after")
    assert ledger.catch_up(30)


def test_two_sequencers_log_each_record_once(database: Database, tmp_path: Path) -> None:
    """The offsets are part of the transaction that extends the log."""
    ledgers = [make(database, tmp_path) for _ in range(3)]
    for number in range(300):
        disclose(ledgers[number % 3], f"c{number}")
    threads = [threading.Thread(target=ledger.catch_up, args=(60,)) for ledger in ledgers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(logged(database)) == sorted(f"c{number}" for number in range(300))


KILLED = """
import sys, threading
from datetime import UTC, datetime
from pathlib import Path
from audit.checkpoint import create
from audit.service import Ledger
from store.access import Access, Caller, Interaction
from store.engine.database import open_engine
folder = Path(sys.argv[1])
ledger = Ledger(open_engine(f"sqlite:///{folder}/vigie.db"), create(folder / "key", "vigie/test"),
                observer="Device/vigie", base_url="http://x/fhir", platform="platform", spooled=folder / "spool")
run, writing = sys.argv[2], threading.Lock()
def work(number):
    for step in range(10**6):
        name = f"r{run}-{number}-{step}"
        ledger.disclose(Caller(name, "o"), [Access(Interaction.READ, "Patient", "1")], datetime.now(UTC))
        with writing:
            print(name, flush=True)
threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(4)]
[t.start() for t in threads]
while True:
    ledger.sequencer.step()
"""


@pytest.mark.parametrize("rounds", [6])
def test_kill_9_loses_no_acknowledged_record_and_doubles_none(
    database: Database, tmp_path: Path, rounds: int, make_dead: Callable[[subprocess.Popen[str]], list[str]]
) -> None:
    """Killed while it discloses and sequences: all that was acknowledged is in the log, once."""
    make(database, tmp_path)  # the key and the folder
    acknowledged: list[str] = []
    for number in range(rounds):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path), str(number)], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        acknowledged += make_dead(process)
    survivor = make(database, tmp_path)
    assert survivor.catch_up(120)
    found = logged(database)
    assert len(found) == len(set(found))
    assert set(acknowledged) <= set(found)
    report = verify.verify(database, survivor.sequencer._signer.verifier, platform="platform")
    assert report.ok, report.lines()
    survivor.sequencer._tidied_at = 0.0
    survivor.sequencer.step()
    assert spool.files(tmp_path / "spool") == []


@pytest.fixture
def make_dead() -> Callable[[subprocess.Popen[str]], list[str]]:
    """Kill the process some time after it began to acknowledge; what it had acknowledged."""

    def kill(process: subprocess.Popen[str]) -> list[str]:
        assert process.stdout is not None
        lines = [process.stdout.readline().strip()]
        time.sleep(0.15)
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().split("\n")
        process.stdout.close()
        process.wait()
        whole = rest[:-1]  # the last line may be cut
        return [line for line in [*lines, *whole] if line]

    return kill


# — a full disk —


@pytest.fixture(params=["limit", "volume"])
def full(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """(folder, function that frees it): a folder in which no file of the spool can be made for want of space.

    A volume of 1 MiB where this process may mount one; else, and beside it, the limit of the kernel on a file's size.
    """
    folder = tmp_path / "full"
    folder.mkdir()
    mounted = request.param == "volume" and mount(folder, "1m")
    if mounted:
        yield folder, lambda: subprocess.run(["mount", "-o", "remount,size=16m", str(folder)], check=True)
        subprocess.run(["umount", str(folder)], check=True)
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
    try:
        yield folder, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def mount(folder: Path, size: str) -> bool:
    """A small volume at `folder`; False where this process may not mount."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    return os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_full_disk_leaves_no_descriptor_and_no_file_behind_and_heals(full: Any) -> None:
    """Each refused request once kept a locked descriptor and an empty file: at 1,024 the process never came back."""
    folder, free = full
    writer = spool.SpoolWriter(folder, lambda: KEY)
    before = descriptors()
    for _ in range(50):
        with pytest.raises(OSError, match=r"\[Errno"):
            writer.append([("id", 1, "{}")])
    assert descriptors() == before
    assert list(folder.iterdir()) == []

    free()
    writer.append([("id", 1, "{}")])
    assert ids(folder) == ["id"]
    writer.close()


def test_a_file_that_cannot_be_made_takes_nothing_of_the_space_that_is_left(tmp_path: Path) -> None:
    """The first failing file once ate the last MiB of the volume, and with it what the database could have used."""
    folder = tmp_path / "volume"
    folder.mkdir()
    if not mount(folder, "2m"):
        return
    try:
        free = os.statvfs(folder).f_bavail
        with pytest.raises(OSError, match="No space"):
            spool.SpoolWriter(folder, lambda: KEY).append([("id", 1, "{}")])
        assert os.statvfs(folder).f_bavail == free
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_the_probe_of_the_spool_leaves_nothing(tmp_path: Path) -> None:
    """Readiness asks whether a record could be made durable; a probe is no file of the spool, and is gone."""
    spool.check_writable(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError):
        spool.check_writable(tmp_path / "absent")


def test_a_spool_that_is_replayed_is_logged_once(ledger: Ledger, database: Database, tmp_path: Path) -> None:
    """A file that was brought back, or that the database has forgotten: its records are known by their ids."""
    for number in range(5):
        disclose(ledger, f"n{number}")
    name = spool.files(tmp_path / "spool")[0]
    kept = (tmp_path / "spool" / name).read_bytes()
    assert ledger.catch_up()
    with database.write() as connection:
        spool_rows.forget(connection, [name])
    again = tmp_path / "spool" / "1-again.spool"
    again.write_bytes(kept)
    disclose(ledger, "after")
    assert ledger.catch_up()
    assert sorted(logged(database)) == [*(["after"]), *(f"n{number}" for number in range(5))]
    with database.read() as connection:
        assert set(spool_rows.states(connection)) == {name, again.name}
    assert ledger.spool_findings() == []


def test_a_burst_of_reads_goes_before_the_log_and_the_log_follows_it(
    ledger: Ledger, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/audit.md "How far behind the log may be": not while it comes, unless much waits; at once when it is over."""
    monkeypatch.setattr(sequencer, "POLL_S", 0.0)
    monkeypatch.setattr(sequencer, "BURST_BYTES", 100)
    monkeypatch.setattr(sequencer, "PASSED_BYTES", 200_000)
    step = ledger.sequencer.paced_step

    def comes(count: int) -> int:
        """A look at the spool after so many records: how many the log has then."""
        for number in range(count):
            access = Access(Interaction.SEARCH_TYPE, "Patient", query="x" * 4000)
            ledger.disclose(Caller(f"c-{number}", "hopital-a"), [access], AT)
        step()
        return len(logged(database))

    step()
    assert [comes(5), comes(5)] == [0, 0], "a burst is on"
    assert comes(0) == 10, "it is over"
    bounds = [comes(10) for _ in range(6)]
    assert bounds[0] == 10
    assert bounds[-1] > 10, "too much waits"
    monkeypatch.setattr(sequencer, "PASSED_BYTES", 10**9)
    assert comes(0) == 70
    monkeypatch.setattr(ledger.sequencer, "_passes_until", time.monotonic())
    assert comes(5) == 75, "it lasts"


def test_the_log_rests_between_batches_only_while_reads_come(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/audit.md "How far behind the log may be": once nobody reads, what waits is logged as fast as it goes."""
    rests: list[float] = []
    monkeypatch.setattr(sequencer, "POLL_S", 0.0)
    monkeypatch.setattr(sequencer, "BURST_BYTES", 1000)
    monkeypatch.setattr(sequencer, "PASSED_BYTES", 0)
    monkeypatch.setattr(sequencer, "time", SimpleNamespace(monotonic=time.monotonic, sleep=rests.append))
    monkeypatch.setattr(ledger.sequencer, "_batch", 10)
    ledger.sequencer.paced_step()
    for number in range(30):
        disclose(ledger, f"c-{number}")
    assert ledger.sequencer.paced_step()
    assert len(rests) == 1, "they came just now"
    assert ledger.sequencer.paced_step()
    assert len(rests) == 1, "none came since"
    monkeypatch.setattr(ledger.sequencer, "_now", lambda: datetime.now(UTC) + timedelta(seconds=60))
    for number in range(30):
        disclose(ledger, f"d-{number}")
    assert ledger.sequencer.paced_step()
    assert len(rests) == 1, "it is far behind"


def test_a_file_that_fills_fast_holds_up_no_other(database: Database, tmp_path: Path) -> None:
    """One a process: the records of each are in the log soon, however many another has."""
    ledgers = [make(database, tmp_path) for _ in range(3)]
    for ledger in ledgers:
        for number in range(6):
            disclose(ledger, f"c-{number}")
    intake = ledgers[0]._intake
    assert intake is not None
    with database.read() as connection:
        taken = [[one.file for one in intake.next(connection, 2)] for _ in range(4)]
    assert len({file for batch in taken[:3] for file in batch}) == 3
    assert taken[3] == taken[0]
