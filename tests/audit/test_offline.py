"""The export, and its verification where there is no server. DESIGN §7

"""

from __future__ import annotations

import gzip
import hmac
import json
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from audit import offline
from audit.checkpoint import Signer
from audit.service import Ledger
from audit.verify import export
from store.engine.database import Database
from tests.audit.logbook import SIZE, fill


@pytest.fixture
def exported(ledger: Ledger, database: Database, signer: Signer, tmp_path: Path) -> Path:
    fill(ledger)
    file = tmp_path / "export.ndjson.gz"
    assert export(database, file, signer.verifier) == SIZE
    assert [p.name for p in tmp_path.glob(".export*")] == []
    return file


def _rewritten(file: Path, change: Callable[[list[dict[str, Any]]], None]) -> Path:
    with gzip.open(file, "rt") as lines:
        content = [json.loads(line) for line in lines]
    change(content)
    forged = file.with_name("forged.ndjson.gz")
    with gzip.open(forged, "wt") as out:
        out.writelines(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n" for line in content)
    return forged


def test_the_offline_verifier_runs_on_its_own(exported: Path, signer: Signer, tmp_path: Path, published: Path):
    """With one file, Python and cryptography; nothing of the server."""
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(offline.__file__, alone / "offline.py")
    run = [sys.executable, "-I", "offline.py", str(exported), "--key", signer.verifier.text()]
    told = subprocess.run([*run, "--checkpoints", str(published)], cwd=alone, capture_output=True, text=True,
                          timeout=60, check=False)
    assert (told.returncode, told.stderr) == (0, "")
    assert "verified" in told.stdout
    assert f"records     {SIZE}" in told.stdout

    def forge(lines: list[dict[str, Any]]) -> None:
        line = lines[_record(lines, 5)]
        line["head"] = line["head"].replace("p-", "q-", 1)

    forged = _rewritten(exported, forge)
    told = subprocess.run([*run[:3], str(forged)], cwd=alone, capture_output=True, text=True, timeout=60, check=False)
    assert told.returncode == 1
    assert "record 5: altered" in told.stdout


def _first(file: Path, signer: Signer) -> tuple[int, str]:
    report = offline.verify_export(file, signer.verifier.text())
    assert report.first is not None
    return report.first.position, report.first.kind


def _record(lines: list[dict[str, Any]], seq: int) -> int:
    return next(n for n, line in enumerate(lines) if line.get("seq") == seq)


def test_tampering_with_an_export_is_found_at_its_position(exported: Path, signer: Signer):
    """Altered, deleted, swapped, renumbered, cut; a checkpoint forged."""
    def altered(lines: list[dict[str, Any]]) -> None:
        line = lines[_record(lines, 8)]
        line["head"] = line["head"].replace("p-8", "p-9")

    def deleted(lines: list[dict[str, Any]]) -> None:
        del lines[_record(lines, 8)]

    def swapped(lines: list[dict[str, Any]]) -> None:
        one, other = lines[_record(lines, 8)], lines[_record(lines, 12)]
        for name in ("id", "head", "salt", "recorded", "logged", "events"):
            one[name], other[name] = other[name], one[name]

    def renumbered(lines: list[dict[str, Any]]) -> None:
        lines[_record(lines, 8)]["seq"] = 80

    def cut(lines: list[dict[str, Any]]) -> None:
        at = _record(lines, 8)
        lines[at:] = [line for line in lines[at:] if "checkpoint" in line] + [{"end": 7}]

    def cut_short(lines: list[dict[str, Any]]) -> None:
        del lines[_record(lines, 8):]

    def forged(lines: list[dict[str, Any]]) -> None:
        at = next(n for n, line in enumerate(lines) if line.get("size") == 10)
        lines[at]["checkpoint"] = lines[at]["checkpoint"].replace("\n10\n", "\n11\n")

    def garbage(lines: list[dict[str, Any]]) -> None:
        lines[_record(lines, 8)]["leaf"] = "zz"

    assert offline.verify_export(exported, signer.verifier.text()).ok
    for change, expected in ((altered, (8, "altered")), (deleted, (8, "missing")), (swapped, (8, "altered")),
                             (renumbered, (8, "missing")), (cut, (8, "truncated")), (forged, (10, "checkpoint")),
                             (garbage, (8, "format"))):
        assert _first(_rewritten(exported, change), signer) == expected, change.__name__
    position, _kind = _first(_rewritten(exported, cut_short), signer)
    assert position <= 8


def test_events_that_are_not_the_records_are_found(exported: Path, signer: Signer):
    """What people read of an export is compared with what is proven: the AuditEvents are made again."""

    def forged(lines: list[dict[str, Any]]) -> None:
        lines[_record(lines, 8)]["events"][0]["outcome"] = "8"

    assert _first(_rewritten(exported, forged), signer) == (8, "altered")
    assert offline.verify_export(_rewritten(exported, forged), signer.verifier.text(), events=False).ok


def test_another_way_to_write_the_same_events_is_read_too(exported: Path, signer: Signer) -> None:
    """RFC 8259: spaces and the order of members mean nothing. What follows an object is no line of an export."""
    with gzip.open(exported, "rt") as lines:
        content = [json.loads(line) for line in lines]

    def report(text: str) -> offline.Report:
        with gzip.open(exported, "wt") as out:
            out.write(text)
        return offline.verify_export(exported, signer.verifier.text())

    assert report("".join(json.dumps(line, sort_keys=True, indent=None) + "\n" for line in content)).ok
    compact = [json.dumps(line, ensure_ascii=False, separators=(",", ":")) for line in content]
    assert report("\n".join(compact) + "\n").ok
    at = _record(content, 5)
    for wrong in (compact[at] + "]", compact[at][:-1], compact[at][:-1] + ',"seq":6}'):
        assert not report("\n".join([*compact[:at], wrong, *compact[at + 1 :]]) + "\n").ok, wrong


def test_the_verifiers_hmac_is_the_one_of_rfc_2104() -> None:
    """For keys shorter than a block, as long, and longer (RFC 2104 §2, §3)."""
    for size in (0, 1, 16, 63, 64, 65, 200):
        key = bytes(range(size))
        assert offline._mac(key, b"message") == hmac.digest(key, b"message", "sha256")


def test_an_export_signed_by_another_key_is_refused(exported: Path, signer: Signer):
    """The key comes from elsewhere; an export's own key shows only that it is whole."""
    other = Signer.generate(signer.name)
    report = offline.verify_export(exported, other.verifier.text())
    assert not report.ok
    own = offline.verify_export(exported)
    assert own.ok
    assert "the export's own" in own.notes[0]


@pytest.mark.parametrize("content", [b"", b"no gzip", gzip.compress(b"{}", mtime=0), gzip.compress(b"[1]\n", mtime=0),
                                     gzip.compress(b'{"format":"vigie-audit-export/1"}', mtime=0)[:-12]])
def test_what_is_no_export_is_refused(tmp_path: Path, content: bytes, signer: Signer):
    file = tmp_path / "x"
    file.write_bytes(content)
    assert not offline.verify_export(file, signer.verifier.text()).ok


def _notes(file: Path) -> list[str]:
    with gzip.open(file, "rt") as lines:
        return [line["checkpoint"] for line in map(json.loads, lines) if "checkpoint" in line]


def test_what_a_trusted_checkpoint_covers_is_not_verified_again(exported: Path, signer: Signer) -> None:
    """That the log continues what it signed is shown by the leaves; what came after it is verified whole."""
    key, trusted = signer.verifier.text(), _notes(exported)[1]  # of ten records

    def report(change: Callable[[list[dict[str, Any]]], None]) -> list[tuple[int, str]]:
        found = offline.verify_export(_rewritten(exported, change), key, trusted=trusted).findings
        return [(one.position, one.kind) for one in found]

    def of(seq: int, **other: str) -> Callable[[list[dict[str, Any]]], None]:
        return lambda lines: lines[_record(lines, seq)].update(other)

    whole = offline.verify_export(exported, key, trusted=trusted)
    assert (whole.findings, whole.records) == ([], SIZE - 10)
    assert report(of(8, head="{}")) == [], "verified before"
    assert report(of(8, leaf="00" * 32))[0] == (10, "root")
    assert report(of(12, head="{}")) == [(12, "altered")]
    assert report(lambda lines: lines.pop(_record(lines, 8)) and None)[0][1] == "format"
    assert report(lambda lines: lines.pop(_record(lines, 12)) and None)[0] == (12, "missing")
    assert (11, "truncated") not in report(of(8, head="{}"))

    def cut(lines: list[dict[str, Any]]) -> None:
        del lines[_record(lines, 8) :]
        lines.append({"end": 7})

    assert report(cut)[-1] == (8, "truncated")


def test_a_trusted_checkpoint_of_another_key_is_refused(exported: Path, signer: Signer) -> None:
    other = Signer.generate(signer.name)
    with pytest.raises(ValueError, match="not signed by this key"):
        offline.verify_export(exported, other.verifier.text(), trusted=_notes(exported)[1])


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_however_many_verify_they_say_the_same(tmp_path: Path, processes: int) -> None:
    """In order of position, whoever examined what; more lines than one takes at a time."""
    from scripts import synthetic_export

    signer = Signer.generate("vigie/platform")
    file = tmp_path / "log.gz"
    synthetic_export.write(5 * offline.CHUNK, file, signer)
    assert offline.verify_export(file, signer.verifier.text(), processes=processes).ok

    def harm(lines: list[dict[str, Any]]) -> None:
        for seq in (3, 2 * offline.CHUNK, 4 * offline.CHUNK + 7):
            lines[_record(lines, seq)]["head"] = "{}"
        lines[_record(lines, 600)]["events"] = []

    report = offline.verify_export(_rewritten(file, harm), signer.verifier.text(), processes=processes)
    assert [one.position for one in report.findings] == [3, 2 * offline.CHUNK, 600, 4 * offline.CHUNK + 7]


def test_memory_does_not_grow_with_the_log(tmp_path: Path) -> None:
    """Of n, 2n and 4n records the same peak."""
    from scripts import synthetic_export

    signer = Signer.generate("vigie/platform")
    peaks = []
    for count in (offline.CHUNK, 500, 1000, 2000):
        file = tmp_path / f"{count}.gz"
        synthetic_export.write(count, file, signer)
        tracemalloc.start()
        assert offline.verify_export(file, signer.verifier.text()).records == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert max(peaks[1:]) < 1.3 * min(peaks[1:]), peaks


def test_bytes_that_are_no_text_any_more_are_an_altered_record(exported: Path, signer: Signer) -> None:
    """And no reason to stop."""
    content = gzip.decompress(exported.read_bytes())
    at = content.index(b"p-8")
    exported.write_bytes(gzip.compress(content[:at] + b"\xf8" + content[at + 1 :]))
    assert _first(exported, signer) == (8, "altered")


def test_what_is_examined_at_once_is_judged_in_order(tmp_path: Path) -> None:
    """Also where more is under way than may wait."""
    from scripts import synthetic_export

    signer = Signer.generate("vigie/platform")
    file = tmp_path / "log.gz"
    synthetic_export.write(9 * offline.CHUNK, file, signer)
    assert offline.verify_export(file, signer.verifier.text(), events=False, processes=2).findings == []


@pytest.mark.parametrize(
    "parts", ['[["Patient/p","a","00"] ]', ' [["Patient/p","a","00"]]', '[["Patient\\u002fp","a","00"]]']
)
def test_the_parts_are_written_in_one_way(parts: str) -> None:
    """Another text of the same parts is not what was logged: the leaf commits to their meaning alone."""
    made = offline.leaf_of(2, 1, "id", bytes(32), 0, 0, "{}", "", '[["Patient/p","a","00"]]')
    assert made is not None
    assert offline.leaf_of(2, 1, "id", bytes(32), 0, 0, "{}", "", parts) is None
