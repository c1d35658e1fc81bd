"""What is done to the spool behind the server's back is named, and costs no record that still verifies.

security.md B3: one flipped bit once dropped twenty acknowledged records, the file was removed, and verification said
that nothing was missing.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit import frames, intake, queries, spool, spool_rows, verify
from audit.checkpoint import create
from audit.service import Ledger
from resources.times import utc_now
from store.access import Access, Caller, Interaction
from store.engine.database import Database, open_engine
from store.engine.schema import metadata

AT = utc_now()
SIZE = 4096
COUNT = 6


class Deployment:
    """A ledger on SQLite whose process has died with records in its spool."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database: Database = open_engine(f"sqlite:///{folder}/vigie.db")
        self.ledgers: list[Ledger] = []

    @property
    def spool(self) -> Path:
        return self.folder / "spool"

    def ledger(self) -> Ledger:
        made = Ledger(
            self.database, create(self.folder / "key", "vigie/test"), observer="Device/vigie",
            base_url="http://x/fhir", platform="platform", spooled=self.spool,
        )  # fmt: skip
        self.ledgers.append(made)
        return made

    def survivor(self) -> Ledger:
        """Another process, after all that waits was sequenced and tidied."""
        made = self.ledger()
        for _ in range(6):
            made.sequencer._tidied_at = 0.0
            made.sequencer.step()
        return made

    def logged(self) -> list[str]:
        """The clients of the log's records, those of the server itself left out."""
        with self.database.read() as connection:
            heads = [json.loads(row.head or "")["caller"]["client_id"] for row in queries.stored(connection)]
        return sorted(name for name in heads if name != "vigie")

    def told(self) -> int:
        """How many records of the log say that part of the spool does not verify."""
        with self.database.read() as connection:
            return sum("audit-spool" in row.particulars for row in queries.stored(connection))

    def report(self, ledger: Ledger) -> list[str]:
        found = verify.verify(
            self.database, ledger.sequencer._signer.verifier, platform="platform",
            spooled=ledger.waiting_in_spool(), damaged=ledger.spool_findings(),
        )  # fmt: skip
        return [finding.text for finding in found.findings if finding.kind == "spool"]

    def file(self) -> Path:
        (name,) = spool.files(self.spool)
        return self.spool / name

    def close(self) -> None:
        for ledger in self.ledgers:
            ledger.close()
        self.database.dispose()


def disclose(ledger: Ledger, *names: str) -> None:
    for name in names:
        ledger.disclose(Caller(name, "hopital-a"), [Access(Interaction.READ, "Patient", name)], AT)


NAMES = [f"c{number}" for number in range(COUNT)]


@contextmanager
def small() -> Iterator[None]:
    """Files of a page, so that examples are quick and every byte of one is tried."""
    was, spool.FILE_BYTES = spool.FILE_BYTES, SIZE
    try:
        yield
    finally:
        spool.FILE_BYTES = was


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Deployment]]:
    made = []

    def deployment(*names: str, noted: bool = True) -> Deployment:
        """With these records in its spool; its process gone. `noted`: it had the time to say how far it came."""
        one = Deployment(tmp_path)
        with one.database.write() as connection:
            metadata.create_all(connection)
        writing = one.ledger()
        disclose(writing, *names)
        if noted:
            writing.close()
        else:
            file = writing._writer._file
            assert file is not None
            os.close(file.descriptor)
            writing._writer._stopped.set()
            writing._writer._dirty.set()
            writing._writer._fresh()
        made.append(one)
        return one

    with small():
        yield deployment
        for one in made:
            one.close()


@pytest.mark.parametrize("noted", [True, False])
def test_untouched_files_verify_and_leave_nothing(make: Callable[..., Deployment], noted: bool) -> None:
    deployment = make(*NAMES, noted=noted)
    survivor = deployment.survivor()
    assert deployment.logged() == NAMES
    assert deployment.report(survivor) == []
    assert spool.files(deployment.spool) == []
    with deployment.database.read() as connection:
        assert spool_rows.states(connection) == {}


def test_a_flipped_bit_costs_its_own_frame_alone_and_is_told_everywhere(make: Callable[..., Deployment]) -> None:
    """The reproduction of B3: before 20, after 0, file removed, verified."""
    deployment = make(*NAMES)
    path = deployment.file()
    content = bytearray(path.read_bytes())
    content[content.index(b'"c0"')] ^= 4
    path.write_bytes(content)
    looking = deployment.ledger()
    assert deployment.report(looking) != []  # verify names it before anybody sequences
    survivor = deployment.survivor()
    assert deployment.logged() == NAMES[1:]
    assert [text for text in deployment.report(survivor) if "altered, 1 records" in text]
    assert deployment.told() == 1
    assert spool.files(deployment.spool) == []
    assert (deployment.spool / spool.ASIDE / path.name).read_bytes() == bytes(content)
    with deployment.database.read() as connection:
        assert survivor.queues(connection)["audit-spool-damaged"].count == 1
    with deployment.database.write() as connection:
        assert survivor.acknowledge_spool(connection) == 1
    with deployment.database.read() as connection:
        assert survivor.queues(connection)["audit-spool-damaged"].count == 0
    assert deployment.report(survivor) != []  # what is known stays true


def test_a_file_set_aside_that_is_gone_is_missed(make: Callable[..., Deployment]) -> None:
    deployment = make(*NAMES)
    path = deployment.file()
    path.write_bytes(path.read_bytes().replace(b'"c0"', b'"x0"'))
    survivor = deployment.survivor()
    before = deployment.report(survivor)
    (deployment.spool / spool.ASIDE / path.name).unlink()
    assert len(deployment.report(survivor)) == len(before) + 1


@pytest.mark.parametrize("noted", [True, False])
@pytest.mark.parametrize("harm", ["removed", "emptied", "zeroed", "renamed"])
def test_a_file_that_is_gone_is_missed(make: Callable[..., Deployment], harm: str, noted: bool) -> None:
    """A registered file, whether its writer had the time to note how far it came or not."""
    deployment = make(*NAMES, noted=noted)
    path = deployment.file()
    if harm == "removed":
        path.unlink()
    elif harm == "emptied":
        path.write_bytes(b"")
    elif harm == "zeroed":
        path.write_bytes(bytes(SIZE))
    else:
        path.rename(path.with_name("other.spool"))
    survivor = deployment.survivor()
    assert deployment.logged() == (NAMES if harm == "renamed" else [])
    found = deployment.report(survivor)
    assert found
    assert deployment.told() >= 1
    if noted and harm != "renamed":
        assert any(f"{COUNT} records" in text for text in found)


def test_a_file_brought_back_from_a_backup_is_cut_off(make: Callable[..., Deployment], tmp_path: Path) -> None:
    """It verifies, and ends before what its process had said."""
    deployment = Deployment(tmp_path)
    with deployment.database.write() as connection:
        metadata.create_all(connection)
    writing = deployment.ledger()
    disclose(writing, *NAMES[:2])
    path = deployment.file()
    backup = path.read_bytes()
    disclose(writing, *NAMES[2:])
    writing.close()
    path.write_bytes(backup)
    survivor = deployment.survivor()
    assert deployment.logged() == NAMES[:2]
    assert [text for text in deployment.report(survivor) if f"truncated, {COUNT - 2} records" in text]
    deployment.close()


def test_a_live_file_is_judged_up_to_its_head(make: Callable[..., Deployment]) -> None:
    """And what its process writes afterwards is read."""
    deployment = make()
    writing = deployment.ledger()
    disclose(writing, *NAMES[:3])
    writing._writer.note()
    path = deployment.file()
    content = path.read_bytes()
    with path.open("r+b") as file:
        file.seek(content.index(b'"c1"') + 1)
        file.write(b"x")
        file.seek(content.index(b'"c2"') - 300)
        file.write(bytes(600))
    survivor = deployment.survivor()
    assert deployment.logged() == ["c0"]
    disclose(writing, *NAMES[3:])
    assert survivor.catch_up(30)
    assert deployment.logged() == ["c0", *NAMES[3:]]
    assert len(deployment.report(survivor)) == 1
    writing.close()
    survivor = deployment.survivor()
    assert spool.set_aside(deployment.spool) == [path.name]


@pytest.mark.parametrize("half", ["first", "last"])
def test_a_frame_that_is_being_written_is_waited_for(make: Callable[..., Deployment], half: str) -> None:
    """Half a frame at the end of a live file is no damage, until its writer is dead: then it never was acknowledged."""
    deployment = make()
    writing = deployment.ledger()
    disclose(writing, "c0", "c1")
    path = deployment.file()
    content = path.read_bytes()
    second = content.index(frames.MARK, frames.HEADER_BYTES + 1)
    with path.open("r+b") as file:
        file.seek(second + (150 if half == "first" else 0))
        file.write(bytes(SIZE - second - 150) if half == "first" else bytes(150))
    reader = deployment.survivor()
    assert deployment.logged() == ["c0"]
    assert deployment.report(reader) == []
    with path.open("r+b") as file:
        file.write(content)
    assert reader.catch_up(30)
    assert deployment.logged() == ["c0", "c1"]


def test_forged_files_are_not_believed(make: Callable[..., Deployment]) -> None:
    """A record rewritten with its CRC, in the format of before, was logged (security.md B3)."""
    deployment = make("c0")
    intake.adopt(deployment.database, deployment.spool)
    (deployment.spool / "1-forged.spool").write_bytes(old_frame("forged", "forger") + bytes(100))
    (deployment.spool / "1-noise.spool").write_bytes(os.urandom(500))
    intake.adopt(deployment.database, deployment.spool)  # at every start
    survivor = deployment.survivor()
    assert deployment.logged() == ["c0"]
    assert len(deployment.report(survivor)) == 2
    assert spool.set_aside(deployment.spool) == ["1-forged.spool", "1-noise.spool"]


def old_frame(event_id: str, client: str) -> bytes:
    """As the version before wrote it: length, CRC-32, record."""
    entry = json.dumps({
        "at": 1_790_000_000_000_000, "caller": {"client_id": client, "organization": "hopital-a"},
        "access": {"interaction": "read", "type": "Patient", "id": "p", "outcome": "0"},
    }).encode()  # fmt: skip
    body = struct.pack(">QB", 1_790_000_000_000_000, len(event_id)) + event_id.encode() + entry
    return struct.pack(">II", len(body), zlib.crc32(body)) + body


def test_an_upgrade_with_records_waiting_loses_none(make: Callable[..., Deployment]) -> None:
    """Files of the version before are read as it wrote them: one begun to be read, one not, one torn at its end."""
    deployment = make()
    deployment.spool.mkdir(exist_ok=True)
    old = [old_frame(f"id-{number}", f"old{number}") for number in range(6)]
    (deployment.spool / "1-a.spool").write_bytes(old[0] + old[1] + bytes(4096))
    (deployment.spool / "1-b.spool").write_bytes(old[2] + old[3] + bytes(4096))
    (deployment.spool / "1-c.spool").write_bytes(old[4] + old[5][:40] + bytes(4096))
    with deployment.database.write() as connection:
        row = spool_rows._row("1-a.spool", spool.OLD) | {"consumed": len(old[0])}
        connection.execute(spool_rows.audit_spool.insert().values(row))
    intake.adopt(deployment.database, deployment.spool, for_good=False)
    (deployment.spool / "1-d.spool").write_bytes(old_frame("id-6", "old6"))  # it went on to serve
    intake.adopt(deployment.database, deployment.spool)
    survivor = deployment.survivor()
    assert deployment.logged() == [*(f"old{number}" for number in range(1, 5)), "old6"]
    assert deployment.report(survivor) == []
    assert spool.files(deployment.spool) == []


def test_a_damaged_file_of_before_is_set_aside(make: Callable[..., Deployment]) -> None:
    deployment = make()
    deployment.spool.mkdir(exist_ok=True)
    old = [old_frame(f"id-{number}", f"old{number}") for number in range(3)]
    content = bytearray(b"".join(old))
    content[len(old[0]) + 20] ^= 1
    (deployment.spool / "1-a.spool").write_bytes(content + bytes(4096))
    intake.adopt(deployment.database, deployment.spool)
    survivor = deployment.survivor()
    assert deployment.logged() == ["old0"]
    assert len(deployment.report(survivor)) == 1
    assert spool.set_aside(deployment.spool) == ["1-a.spool"]


def test_heads_are_noted_off_the_path_and_an_idle_process_writes_nothing(
    make: Callable[..., Deployment], monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment = make()
    monkeypatch.setattr(spool, "HEAD_INTERVAL_S", 0.05)
    noted = []
    writing = deployment.ledger()
    books = writing._writer._books
    assert books is not None
    was = books.heads

    def heads(given: dict[str, frames.Place]) -> None:
        noted.append(threading.current_thread().name)
        was(given)

    monkeypatch.setattr(books, "heads", heads)
    disclose(writing, "c0", "c1")
    until = time.monotonic() + 30
    while time.monotonic() < until:
        with deployment.database.read() as connection:
            (state,) = spool_rows.states(connection).values()
        if state.head is not None and state.head.records == 2:
            break
        time.sleep(0.02)
    file = writing._writer._file
    assert file is not None
    assert state.head == file.place
    count = len(noted)
    time.sleep(0.5)
    assert len(noted) == count <= 2
    assert set(noted) == {"audit-spool"}


def test_a_record_is_acknowledged_only_once_its_file_is_registered(
    make: Callable[..., Deployment], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a file that is removed would not be missed. What was made for it goes again."""
    deployment = make()
    writing = deployment.ledger()
    books = writing._writer._books

    def fails(*_: object) -> None:
        raise OSError("away")

    monkeypatch.setattr(books, "begin", fails)
    with pytest.raises(Exception, match="audit record"):
        disclose(writing, "c0")
    assert spool.files(deployment.spool) == []


def test_the_next_file_is_ready_before_it_is_needed(
    make: Callable[..., Deployment], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To make and register one while readers wait would take as long as the writer before it."""
    deployment = make()
    monkeypatch.setattr(spool, "HEAD_INTERVAL_S", 0.01)
    writing = deployment.ledger()
    disclose(writing, *NAMES)
    until = time.monotonic() + 30
    while writing._writer._spare is None and time.monotonic() < until:
        time.sleep(0.01)
    spare = writing._writer._spare
    assert spare is not None
    disclose(writing, *NAMES)
    assert writing._writer._file is spare
    writing.close()
    deployment.survivor()
    assert deployment.logged() == sorted(NAMES * 2)


# — any harm —


@st.composite
def harms(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """One change of a file's bytes."""
    kind = draw(st.sampled_from(["flip", "remove", "insert", "swap", "overwrite", "zero"]))
    at = draw(st.integers(0, SIZE - 1))
    other = draw(st.integers(0, SIZE - 1))
    size = draw(st.integers(1, 900))
    filling = draw(st.binary(min_size=1, max_size=40))

    def done(content: bytes) -> bytes:
        begin, end = sorted((at, other))
        if kind == "flip":
            return content[:at] + bytes([content[at] ^ (1 << (size % 8))]) + content[at + 1 :]
        if kind == "remove":
            return content[:at] + content[at + size :]
        if kind == "insert":
            return content[:at] + filling + content[at:]
        if kind == "overwrite":
            return (content[:at] + filling + content[at + len(filling) :])[: len(content)]
        if kind == "zero":
            return (content[:at] + bytes(size) + content[at + size :])[: len(content)]
        size_of = min(size, end - begin)
        one, two = content[begin : begin + size_of], content[end : end + size_of]
        return content[:begin] + two + content[begin + size_of : end] + one + content[end + size_of :]

    return done


@pytest.fixture(scope="module")
def died() -> Iterator[Path]:
    """A deployment that died, to be copied for each example: its files, each with some 450 bytes a record."""
    with tempfile.TemporaryDirectory() as folder, small():
        one = Deployment(Path(folder))
        with one.database.write() as connection:
            metadata.create_all(connection)
        writing = one.ledger()
        disclose(writing, *NAMES)
        writing.close()
        one.database.dispose()
        yield Path(folder)


def judged(died: Path, harm: Callable[[bytes], bytes], *, consumed: bool) -> None:
    """What was acknowledged is in the log or named as missing, and any change is named."""
    with tempfile.TemporaryDirectory() as scratch, small():
        folder = Path(scratch) / "copy"
        shutil.copytree(died, folder)
        deployment = Deployment(folder)
        try:
            path = deployment.file()
            if consumed:
                sequencer = deployment.ledger().sequencer
                sequencer._tidied_at = time.monotonic() + 3600
                sequencer.step()
            before = path.read_bytes()
            path.write_bytes(harm(before))
            is_same = path.read_bytes() == before
            survivor = deployment.survivor()
            logged, found = deployment.logged(), deployment.report(survivor)
            assert set(logged) <= set(NAMES)
            assert len(logged) == len(set(logged))
            assert bool(found) != is_same
            if logged != NAMES:
                with deployment.database.read() as connection:
                    gaps = spool_rows.gaps(connection)
                assert sum(gap.records or 0 for gap in gaps) >= COUNT - len(logged)
            if found:
                assert (deployment.spool / spool.ASIDE / path.name).exists()
        finally:
            deployment.close()


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(harm=harms(), consumed=st.booleans())
def test_any_change_of_a_file_is_named_and_drops_nothing_silently(
    died: Path, harm: Callable[[bytes], bytes], consumed: bool
) -> None:
    judged(died, harm, consumed=consumed)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(at=st.integers(0, SIZE - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_is_named_also_where_no_head_was_noted(died: Path, at: int, bit: int) -> None:
    """In the last second of a process that was killed: what was cut ends in zeros, a flipped bit does not."""
    assert flipped(at, bit) == []


def test_no_bit_of_the_last_frame_is_taken_for_a_torn_one(died: Path) -> None:
    """Every one of them: a length that is altered is not a frame that was cut."""
    assert flipped(None, None) == []


def flipped(at: int | None, bit: int | None) -> list[tuple[int, int]]:
    """Which flips of a bit are not named: at this place, or anywhere in the last frame's head and first bytes."""
    unnamed = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        key = frames.Key(b"k" * 32)
        with small():
            writer = spool.SpoolWriter(folder, lambda: key)
            for name in NAMES[:3]:
                writer.append([(name, 1, "{}" * 200)])
            writer.close()
        path = folder / spool.files(folder)[0]
        whole = path.read_bytes()
        last = whole.rindex(frames.MARK)
        places = [at] if at is not None else range(last, last + frames.HEAD_BYTES + 20)
        for place in places:
            for one in range(8) if bit is None else (bit,):
                content = bytearray(whole)
                content[place] ^= 1 << one
                path.write_bytes(content)
                if not spool.examine(folder, key, path.name, None):
                    unnamed.append((place, one))
    return unnamed
