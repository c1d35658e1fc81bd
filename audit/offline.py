#!/usr/bin/env python3
"""Verify an exported audit log away from the server.

    python offline.py EXPORT.ndjson.gz [--key KEY] [--checkpoints FILE]

Needs this file, Python and `cryptography`; nothing of Vigie. It recomputes every leaf and the tree from the events
themselves, checks every checkpoint, and names the first altered, missing or misplaced record. `--key` is the verifier
key (text or file) that you received by another way than the export; `--checkpoints` is a file of checkpoints kept
elsewhere. The hashing repeats `audit.merkle` and `audit.checkpoint` on purpose: who verifies need not trust the server.

RFC 6962 §2.1, https://c2sp.org/tlog-checkpoint, https://c2sp.org/signed-note; the format: docs/audit.md
"""

from __future__ import annotations

import argparse
import gzip
import hmac
import json
import sys
import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

FORMAT = "vigie-audit-export/1"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it was signed. `position` is the first record concerned, counted from 1."""

    position: int
    kind: str
    """altered | missing | misplaced | truncated | root | checkpoint | unsigned | outside | unrecorded | format"""
    text: str


@dataclass(slots=True)
class Report:
    """What a verification found."""

    origin: str
    records: int = 0
    checkpoints: int = 0
    root: bytes = b""
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    @property
    def first(self) -> Finding | None:
        """The finding at the lowest position."""
        return min(self.findings, key=lambda finding: finding.position, default=None)

    def lines(self) -> list[str]:
        """The report for a reader."""
        told = [f"log         {self.origin}", f"records     {self.records}", f"checkpoints {self.checkpoints}",
                f"root        {self.root.hex()}"]
        told += [f"note        {note}" for note in self.notes]
        ordered = sorted(self.findings, key=lambda finding: finding.position)
        told += [f"FOUND       record {f.position}: {f.kind}: {f.text}" for f in ordered[:20]]
        if len(ordered) > 20:
            told.append(f"FOUND       and {len(ordered) - 20} more")
        told.append("verified: nothing is missing, nothing was altered" if self.ok else "NOT VERIFIED")
        return told


class Key:
    """A verifier key of C2SP signed-note, ``name+hash+base64``."""

    def __init__(self, text: str) -> None:
        self.text = text.strip()
        self.name, _, rest = self.text.partition("+")
        identity, _, encoded = rest.partition("+")
        blob = b64decode(encoded, validate=True)
        if len(blob) != 33 or blob[0] != 1 or not self.name:
            raise ValueError("not an Ed25519 verifier key")
        self.key_id = sha256(self.name.encode() + b"\n" + blob).digest()[:4]
        if self.key_id.hex() != identity:
            raise ValueError("the key id does not fit the key")
        self._key = Ed25519PublicKey.from_public_bytes(blob[1:])

    def open(self, note: str) -> tuple[int, bytes]:
        """Size and root of a checkpoint that this key signed. Raises ValueError."""
        text, separator, signatures = note.partition("\n\n")
        lines = text.split("\n")
        if not separator or len(lines) < 3 or lines[0] != self.name:
            raise ValueError("not a checkpoint of this log")
        for line in signatures.splitlines():
            if not line.startswith(f"— {self.name} "):
                continue
            blob = b64decode(line.rpartition(" ")[2], validate=True)
            if blob[:4] != self.key_id:
                continue
            try:
                self._key.verify(blob[4:], (text + "\n").encode())
            except InvalidSignature:
                raise ValueError("the signature does not fit") from None
            return int(lines[1]), b64decode(lines[2], validate=True)
        raise ValueError("not signed by this key")


class Judge:
    """Takes records and checkpoints in order of position and says what is wrong with them."""

    def __init__(self, key: Key, elsewhere: Iterable[str] = ()) -> None:
        """`elsewhere`: notes kept outside the log. A log that was cut or rewritten after them is found by them."""
        self.report = Report(key.name)
        self._key = key
        self._size = 0
        self._nodes: list[bytes] = []
        self._whole = True
        self._signed = 0
        self._ahead: list[int] = []
        self._elsewhere: dict[int, set[str]] = {}
        for note in elsewhere:
            size = note.split("\n")[1:2]
            if size and size[0].isascii() and size[0].isdigit():
                self._elsewhere.setdefault(int(size[0]), set()).add(note)

    def record(self, seq: int, event_id: str, leaf: bytes, salt: bytes, event: bytes | None) -> None:
        """The next record. `event` is the AuditEvent as stored, None where there is none."""
        expected = self._size + 1
        if seq != expected:
            if seq < expected:
                self._found(seq, "misplaced", "its position is taken twice")
                return
            many = f"records {expected} to {seq - 1} are" if seq - 1 > expected else f"record {expected} is"
            self._found(expected, "missing", f"{many} not in the log")
            self._whole = False
        if event is None:
            self._found(seq, "missing", f"AuditEvent/{event_id} is in the log and not in the store")
        elif sha256(b"\x00" + hmac.digest(salt, seq.to_bytes(8, "big") + event, "sha256")).digest() != leaf:
            self._found(seq, *_why(event_id, event))
        self.report.records += 1
        self._append(seq, leaf)
        self._check_elsewhere()

    def checkpoint(self, size: int, note: str) -> None:
        """A checkpoint kept with the log, after the record at position `size`."""
        self.report.checkpoints += 1
        try:
            signed_size, root = self._key.open(note)
        except ValueError as error:
            self._found(size, "checkpoint", f"the checkpoint at {size} is not valid: {error}")
            return
        if signed_size != size:
            self._found(size, "checkpoint", f"the checkpoint kept at {size} says {signed_size}")
        elif size > self._size:
            # Records before it are missing: whether the log goes on is known at the next record.
            self._ahead.append(size)
        else:
            self._judge(size, root, "the checkpoint")

    def finish(self) -> Report:
        """The verdict, once everything was given."""
        beyond = [(size, "a checkpoint") for size in self._ahead]
        beyond += [(size, "a checkpoint kept elsewhere") for size in sorted(self._elsewhere)
                   if size > self._size and any(self._genuine(note) for note in self._elsewhere[size])]
        for size, which in beyond:
            if size > self._size:
                self._found(self._size + 1, "truncated", f"{which} signs {size} records, the log ends at {self._size}")
        if self._whole and self._signed < self._size and not self._explained():
            self._found(self._signed + 1, "unsigned",
                        f"no checkpoint covers records {self._signed + 1} to {self._size}")
        self.report.root = self._root()
        return self.report

    def outside(self, position: int, kind: str, text: str) -> None:
        """Something found by other means."""
        self._found(position, kind, text)

    def _judge(self, size: int, root: bytes, which: str) -> None:
        if size < self._size:
            self._found(size, "checkpoint", f"{which} of {size} stands after record {self._size}")
        elif self._whole and self._root() != root:
            if self._explained():
                self._whole = False
                return
            self._found(self._signed + 1, "root",
                        f"{which} of {size} signs another history; the change lies in records "
                        f"{self._signed + 1} to {size}")
            self._whole = False
        elif self._whole:
            self._signed = size

    def _explained(self) -> bool:
        """Whether something after the last good checkpoint was already found, at a position of its own."""
        return any(finding.position > self._signed for finding in self.report.findings)

    def _check_elsewhere(self) -> None:
        """Compare with the notes kept elsewhere; a signature is only worth checking where a note disagrees."""
        for note in self._elsewhere.get(self._size, ()) if self._whole else ():
            if note.split("\n")[2:3] != [b64encode(self._root()).decode()] and self._genuine(note):
                self._judge(self._size, self._key.open(note)[1], "a checkpoint kept elsewhere")

    def _genuine(self, note: str) -> bool:
        try:
            self._key.open(note)
        except ValueError as error:
            self.report.notes.append(f"a checkpoint kept elsewhere was not used: {error}")
            return False
        return True

    def _append(self, seq: int, leaf: bytes) -> None:
        if self._whole:
            size, node = self._size, leaf
            while size & 1:
                node = sha256(b"\x01" + self._nodes.pop() + node).digest()
                size >>= 1
            self._nodes.append(node)
        self._size = seq

    def _root(self) -> bytes:
        if not self._nodes:
            return sha256(b"").digest()
        root = self._nodes[-1]
        for node in reversed(self._nodes[:-1]):
            root = sha256(b"\x01" + node + root).digest()
        return root

    def _found(self, position: int, kind: str, text: str) -> None:
        self.report.findings.append(Finding(position, kind, text))


def _why(event_id: str, event: bytes) -> tuple[str, str]:
    try:
        own = json.loads(event)["id"]
    except (ValueError, KeyError, TypeError):
        return "altered", "the event cannot be read"
    if own != event_id:
        return "misplaced", f"AuditEvent/{own} stands in the place of AuditEvent/{event_id}"
    return "altered", f"AuditEvent/{event_id} is not what was logged at this position"


def verify_export(path: Path, key_text: str | None = None, elsewhere: Iterable[str] = ()) -> Report:
    """Verify an export file. Without `key_text` the export's own key is used, and the report says so."""
    lines = _lines(path)
    head = next(lines, {})
    if head.get("format") != FORMAT:
        return Report("", findings=[Finding(0, "format", "not an export of an audit log")])
    judge = Judge(Key(key_text or str(head.get("key"))), elsewhere)
    if key_text is None:
        judge.report.notes.append("the key is the export's own: this shows that the export is whole, not who signed it")
    ended = False
    for line in lines:
        try:
            if "event" in line:
                event = line["event"]
                judge.record(line["seq"], line["id"], bytes.fromhex(line["leaf"]), bytes.fromhex(line["salt"]),
                             None if event is None else event.encode())
            elif "checkpoint" in line:
                judge.checkpoint(line["size"], line["checkpoint"])
            elif "end" in line:
                ended = True
            else:
                raise ValueError(line.get("broken", "an unknown line"))
        except (KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
            judge.outside(judge.report.records + 1, "format", f"the export cannot be read here: {error}")
            break
    if not ended:
        judge.outside(judge.report.records + 1, "truncated", "the export breaks off")
    return judge.finish()


def split_notes(text: str) -> list[str]:
    """The signed notes of an append-only file, one after another. One that was torn does not swallow the next: an empty
    line stands only before signatures and after a note."""
    notes: list[str] = []
    block: list[str] = []
    for line in text.splitlines():
        if block and (not block[-1] or block[-1].startswith("— ")) and not line.startswith("— "):
            notes.append("\n".join(block) + "\n")
            block = []
        if block or line:
            block.append(line)
    return [*notes, "\n".join(block) + "\n"] if block else notes


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="\n") as file:
            for line in file:
                value = json.loads(line)
                yield value if isinstance(value, dict) else {"broken": "not an object"}
    except (OSError, EOFError, zlib.error, ValueError) as error:
        yield {"broken": str(error)}


def main(arguments: list[str] | None = None) -> int:
    """The command line; 0 where the export verifies, 1 where it does not, 2 where it cannot be read."""
    parser = argparse.ArgumentParser(description="Verify an exported audit log of Vigie.")
    parser.add_argument("export", type=Path)
    parser.add_argument("--key", help="the verifier key, or a file that holds it")
    parser.add_argument("--checkpoints", type=Path, help="a file of checkpoints kept elsewhere")
    chosen = parser.parse_args(arguments)
    key = chosen.key
    if key and Path(key).is_file():
        key = Path(key).read_text(encoding="utf-8")
    notes = split_notes(chosen.checkpoints.read_text(encoding="utf-8")) if chosen.checkpoints else []
    report = verify_export(chosen.export, key, notes)
    sys.stdout.write("\n".join(report.lines()) + "\n")
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
