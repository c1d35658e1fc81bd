"""The export, and its verification where there is no server. DESIGN §7

"""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
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
        out.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in content)
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
