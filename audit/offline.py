#!/usr/bin/env python3
"""Verify an exported audit log away from the server.

    python offline.py EXPORT.ndjson.gz [--key KEY] [--checkpoints FILE] [--from CHECKPOINT] [--no-events]

Needs this file, Python and `cryptography`; nothing of Vigie. It recomputes every leaf and the tree from the records
themselves, checks every checkpoint, and names the first altered, missing or misplaced record. `--key` is the verifier
key (text or file) that you received by another way than the export; `--checkpoints` is a file of checkpoints kept
elsewhere. Where `form2.py` and `patterns.py` of the project's folder `audit` lie beside it, it also makes the
AuditEvents of each record again and compares them with those of the export; `--no-events` leaves that out. The hashing
repeats `audit.merkle`, `audit.form2` and `audit.checkpoint` on purpose: who verifies need not trust the server.

RFC 6962 §2.1, https://c2sp.org/tlog-checkpoint, https://c2sp.org/signed-note; the format: docs/audit.md
"""

from __future__ import annotations

import argparse
import gc
import gzip
import hmac
import json
import multiprocessing
import os
import sys
import zlib
from base64 import b64decode, b64encode
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from heapq import heappop, heappush
from importlib import import_module
from itertools import chain, islice
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

_loads: Callable[[Any], Any]
_dumps: Callable[[Any], bytes]
try:  # where it is at hand it takes a third of the time; what it says is the same (RFC 8259)
    _loads, _dumps = (getattr(import_module("orjson"), name) for name in ("loads", "dumps"))
except ImportError:
    _loads = json.loads

    def _dumps(value: Any) -> bytes:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()

FORMAT = "vigie-audit-export/2"
FORMATS = (FORMAT, "vigie-audit-export/1")
"""In the first one a record is `event`, an AuditEvent as form 1 has it."""


KEPT = 1000
"""Findings that are kept one by one: a log that was rewritten has as many as it has records."""
WINDOW = 10_000
"""Checkpoints kept elsewhere that are held at a time."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it was signed. `position` is the first record concerned, counted from 1."""

    position: int
    kind: str
    """altered | missing | misplaced | truncated | root | checkpoint | key | unsigned | outside | unrecorded | format"""
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
    more: int = 0
    """Findings beyond those that are kept."""

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
        if len(ordered) + self.more > 20:
            told.append(f"FOUND       and {len(ordered) + self.more - 20} more")
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
        if not separator or len(lines) < 3 or lines[0] != self.name or not signatures.endswith("\n"):
            raise ValueError("not a checkpoint of this log")
        if not lines[1].isascii() or not lines[1].isdigit() or str(int(lines[1])) != lines[1]:
            raise ValueError("not a checkpoint of this log")
        for line in signatures[:-1].split("\n"):
            if not line.startswith(f"— {self.name} "):
                continue
            blob = _of_base64(line.rpartition(" ")[2])
            if blob[:4] != self.key_id:
                continue
            try:
                self._key.verify(blob[4:], (text + "\n").encode())
            except InvalidSignature:
                raise ValueError("the signature does not fit") from None
            return int(lines[1]), _of_base64(lines[2])
        raise ValueError("not signed by this key")

    @property
    def mark(self) -> str:
        """What the signatures of this key begin with, as far as whole characters go: cheaper than to open a note."""
        return f"\n— {self.name} {b64encode(self.key_id).decode()[:5]}"


def _of_base64(text: str) -> bytes:
    """The bytes; of the ways to write them only the one that there is in RFC 4648 §3.5 (no loose bits at the end)."""
    found = b64decode(text, validate=True)
    if b64encode(found).decode() != text:
        raise ValueError("not the canonical base64")
    return found


class Judge:
    """Takes records and checkpoints in order of position and says what is wrong with them."""

    def __init__(
        self, key: Key, elsewhere: Iterable[str] = (), trusted: str | None = None, keys: Iterable[Key] = ()
    ) -> None:
        """`elsewhere`: notes kept outside the log. A log that was cut or rewritten after them is found by them.

        `trusted`: a checkpoint up to which the log was verified before: of the records that it covers only the leaves
        are given, by `passed`, or the frontier, by `begin`. Raises ValueError where no key of the log signed it.

        `key`: the one that is trusted, any of the log's. `keys`: those of the log in order, as whoever gives the log
        says. They are not trusted: the first is where the chain begins, each further one has to be named by a record,
        and signed for by the one before and by itself; and the chain has to come to the trusted one.
        """
        told = [*keys]
        self.report = Report(key.name)
        self._key = told[0] if told else key
        """In use at this position."""
        self._trusted_key = key
        self._known = {one.text: one for one in (*told, key)}
        self._named: tuple[int, str, str] | None = None
        """A record that says which key follows, and waits for the checkpoint that shows it."""
        self._seen = {self._key.text}
        self.rotations: list[tuple[int, str, str]] = []
        """(position, former key, key) of each that was followed."""
        self._size = 0
        self._nodes: list[bytes] = []
        self._whole = True
        self._signed = 0
        self._ahead: list[int] = []
        self._elsewhere = _InOrder(elsewhere)
        self.trusted, self._trusted_root, self._trusted_note = 0, b"", trusted
        """How many records were verified before."""
        if trusted:
            is_told = key.text in {one.text for one in told}
            signer = next((one for one in self._known.values() if _is_of(one, trusted)), None) if is_told else None
            self.trusted, self._trusted_root = (signer or key).open(trusted)
        self._foreign = self._unused = self._furthest = 0
        self._gone = Marks()
        """Records whose content is gone, and no record after them has said so yet."""
        self._purged = 0
        self._gone_ids: dict[int, str] = {}

    @property
    def position(self) -> int:
        """Of the last record that was given."""
        return self._size

    def begin(self, size: int, nodes: list[bytes]) -> None:
        """The log that is given begins behind the record at position `size`: the frontier of what is before it.

        It leads to the root of the trusted checkpoint, or nothing that follows is proven.
        """
        if len(nodes) != size.bit_count() or any(len(node) != 32 for node in nodes):
            raise ValueError("the frontier does not fit its size")
        self._size, self._nodes = size, list(nodes)
        if self._trusted_note:  # the keys before are not seen: it goes on with the one that signed
            self._key = next((one for one in self._known.values() if _is_of(one, self._trusted_note)), self._key)
            self._seen.add(self._key.text)
        if size != self.trusted:
            self._found(size + 1, "missing", f"the records up to {size} are not given, and no trusted checkpoint says "
                        "what they were" if not self.trusted else f"the log is given from {size + 1} on, and trusted "
                        f"up to {self.trusted}")
        self._check_trusted()

    def passed(self, leaf: bytes) -> None:
        """The leaf of the next record, which the trusted checkpoint covers."""
        self._not_shown()
        self._append(self._size + 1, leaf)
        self._check_trusted()

    def rotated(self, seq: int, former: str, key: str) -> None:
        """The record at `seq`, the last one that was given, says that the verifier key `key` follows `former`."""
        self._named = seq, former, key

    def handed_over(self, size: int, note: str) -> None:
        """A checkpoint of `size` records, which were verified before: of interest where it shows who follows."""
        if self._named is not None and self._named[0] == size:
            self._hand_over(note)

    def _hand_over(self, note: str) -> None:
        """Go on with the key that a record named, if the one in use and that one both signed the log up to there."""
        if self._named is None:
            return
        seq, former, text = self._named
        self._named = None
        try:
            key = Key(text)
            if former != self._key.text:
                raise ValueError("another key is in use")
            if key.name != self._key.name or text in self._seen:
                raise ValueError("it is none that can follow")
            if self._key.open(note) != key.open(note) or key.open(note)[0] != seq:
                raise ValueError("the checkpoint is another")
        except ValueError as error:
            self._found(seq, "key", f"record {seq} names a key that does not follow the one in use: {error}")
            return
        self._key = key
        self._known[text] = key
        self._seen.add(text)
        self.rotations.append((seq, former, text))

    def _not_shown(self) -> None:
        if self._named is not None:
            seq, self._named = self._named[0], None
            self._found(seq, "key", f"record {seq} names a key, and no checkpoint there is signed by the one before it")

    def _check_trusted(self) -> None:
        if self._size == self.trusted and self._whole and self._trusted_note and not _is_of(
            self._key, self._trusted_note
        ):
            self._found(self._size, "key", f"the trusted checkpoint of {self._size} is signed by a key that is not in "
                        "use there")
        if self._size == self.trusted and self._whole:
            if self._root() != self._trusted_root:
                self._found(self._size, "root", f"the trusted checkpoint of {self._size} signs another history")
                self._whole = False
            self._signed = max(self._signed, self._size)

    def record(
        self, seq: int, event_id: str, leaf: bytes, made: bytes | None, *, is_gone: bool = False, own: str | None = None
    ) -> None:
        """The next record. `made`: its leaf hash by what stands in it; None where it cannot be read, or is gone.

        `own`: the id that the content itself names, if it names one.
        """
        self._not_shown()
        expected = self._size + 1
        if seq != expected:
            if seq < expected:
                self._found(seq, "misplaced", "its position is taken twice")
                return
            many = f"records {expected} to {seq - 1} are" if seq - 1 > expected else f"record {expected} is"
            self._found(expected, "missing", f"{many} not in the log")
            self._whole = False
        if is_gone:
            self._gone.add(seq)
            if len(self._gone_ids) < KEPT:
                self._gone_ids[seq] = event_id
        elif made is None:
            self._found(seq, "altered", "the record cannot be read")
        elif own is not None and own != event_id:
            self._found(seq, "misplaced", f"AuditEvent/{own} stands in the place of AuditEvent/{event_id}")
        elif made != leaf:
            self._found(seq, "altered", f"AuditEvent/{event_id} is not what was logged at this position")
        self.report.records += 1
        self._append(seq, leaf)
        self._check_elsewhere()

    def purged(self, seq: int, positions: str) -> None:
        """The record at `seq` says that those at `positions`, before it, were emptied on purpose."""
        for first, last in spans_of(positions):
            self._purged += self._gone.discard(first, min(last, seq - 1))

    def checkpoint(self, size: int, note: str) -> None:
        """A checkpoint kept with the log, after the record at position `size`."""
        self.report.checkpoints += 1
        if self._named is not None and self._named[0] != size:
            self._not_shown()
        try:
            signed_size, root = self._key.open(note)
        except ValueError as error:
            self._not_shown()
            self._not_of_key(size, note, f"the checkpoint at {size}", str(error))
            return
        if self._named is not None:
            self._hand_over(note)
        if signed_size != size:
            self._found(size, "checkpoint", f"the checkpoint kept at {size} says {signed_size}")
        elif size > self._size:
            # Records before it are missing: whether the log goes on is known at the next record.
            self._ahead.append(size)
        else:
            self._judge(size, root, "the checkpoint")

    def finish(self) -> Report:
        """The verdict, once everything was given."""
        self._not_shown()
        self._judge_gone()
        if self._trusted_key.text not in self._seen:
            self._found(self._size + 1, "key", f"the log up to {self._size} does not lead to the key that is trusted: "
                        "none of its records names it")
        beyond = [(size, "a checkpoint") for size in self._ahead]
        beyond += [(size, "a checkpoint kept elsewhere") for size, note in self._elsewhere.rest()
                   if size > self._size and self._is_ahead(size, note)]
        if self.trusted > self._size:
            beyond.append((self.trusted, "the trusted checkpoint"))
        for size, which in sorted(set(beyond)):
            if size > self._size:
                self._found(self._size + 1, "truncated", f"{which} signs {size} records, the log ends at {self._size}")
        if self._whole and self._signed < self._size and not self._explained():
            self._found(self._signed + 1, "unsigned",
                        f"no checkpoint covers records {self._signed + 1} to {self._size}")
        if self._foreign:
            self.report.notes.append(f"{self._foreign} checkpoints kept elsewhere were not used: not of this key")
        if self._unused:
            self.report.notes.append(f"{self._unused} checkpoints kept elsewhere were not used: out of order")
        self.report.root = self._root()
        return self.report

    def _judge_gone(self) -> None:
        for begin, end in self._gone:
            named = f"AuditEvent/{self._gone_ids[begin]}" if begin in self._gone_ids else f"record {begin}"
            many = f" (and {end - begin} behind it)" if end > begin else ""
            self._found(begin, "missing", f"{named} is in the log and its content is gone{many}")
        if self._purged:
            self.report.notes.append(f"{self._purged} records were purged, and are on record so")

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
        return self._furthest > self._signed

    def _check_elsewhere(self) -> None:
        """Compare with the notes kept elsewhere; a signature is only worth checking where a note disagrees."""
        for size, note in self._elsewhere.upto(self._size):
            is_same = note.split("\n")[2:3] == [b64encode(self._root()).decode()]
            if not self._whole or (is_same and self._key.mark in note):
                continue
            if size < max(self._size, self.trusted):
                self._unused += size > self.trusted
            elif self._genuine(size, note):
                self._judge(self._size, self._key.open(note)[1], "a checkpoint kept elsewhere")

    def _genuine(self, size: int, note: str) -> bool:
        """Whether a note kept elsewhere is signed by the key in use."""
        if _is_of(self._key, note):
            return True
        if any(_is_of(one, note) for one in self._known.values()):
            self._not_of_key(size, note, f"a checkpoint kept elsewhere, of {size},", "")
        else:
            self._foreign += 1
        return False

    def _is_ahead(self, size: int, note: str) -> bool:
        """The same of a note that signs more than there is: a key that was to follow may have signed it as well."""
        late = [one for text, one in self._known.items() if text not in self._seen and _is_of(one, note)]
        return bool(late) or self._genuine(size, note)

    def _not_of_key(self, size: int, note: str, which: str, reason: str) -> None:
        """Name a checkpoint that is not signed by the key in use: by another one of the log's, or by none."""
        others = [one for one in self._known.values() if one is not self._key and _is_of(one, note)]
        if others:
            self._found(size, "key", f"{which} is signed by the key {others[0].key_id.hex()}, not in use there")
        else:
            self._found(size, "checkpoint", f"{which} is not valid: {reason}")

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
        self._furthest = max(self._furthest, position)
        if len(self.report.findings) < KEPT:
            self.report.findings.append(Finding(position, kind, text))
        else:
            self.report.more += 1


def _is_of(key: Key, note: str) -> bool:
    """Whether this key signed the note."""
    try:
        key.open(note)
    except ValueError:
        return False
    return True


ROTATION = "audit-rotate-key"
"""Operation of a record that says which key signs from there on."""


def rotated_by(head: str | None, particulars: str) -> tuple[str, str] | None:
    """(former key, key that follows it) of a record that says so; None for every other record."""
    if head is None or f'"{ROTATION}"' not in particulars:
        return None
    try:
        detail, access = dict(json.loads(particulars).get("detail", ())), json.loads(head)["access"]
        if access["interaction"] != "admin" or detail.get("operation") != ROTATION or "key" not in detail:
            return None
        return str(detail["former"]), str(detail["key"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


PURGE = "audit-purge"
"""Operation of a record that says which records were emptied when their time was over."""


class Marks:
    """A set of positions, a bit for each.

    What was purged lies between records that are kept, so that spans would be as many as records, of a hundred bytes.
    """

    BLOCK = 4096

    def __init__(self) -> None:
        self._blocks: dict[int, int] = {}

    def add(self, first: int, last: int | None = None) -> None:
        """Add the positions from `first` to `last`."""
        for block, mask in self._masks(first, first if last is None else last):
            self._blocks[block] = self._blocks.get(block, 0) | mask

    def discard(self, first: int, last: int) -> int:
        """Take the positions from `first` to `last` out; how many were in it. A span may say any numbers: looked at
        are no more blocks than there are."""
        if last // self.BLOCK - first // self.BLOCK < len(self._blocks):
            return self._discard(first, last)
        starts = [block * self.BLOCK for block in self._blocks]
        return sum(self._discard(max(first, start), min(last, start + self.BLOCK - 1)) for start in starts)

    def _discard(self, first: int, last: int) -> int:
        count = 0
        for block, mask in self._masks(first, last):
            bits = self._blocks.pop(block, 0)
            count += (bits & mask).bit_count()
            if bits & ~mask:
                self._blocks[block] = bits & ~mask
        return count

    def _masks(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """(block, its bits) from `first` to `last`; nothing where that is no span."""
        while first <= last:
            block, low = divmod(first, self.BLOCK)
            high = min(last - block * self.BLOCK, self.BLOCK - 1)
            yield block, ((1 << high - low + 1) - 1) << low
            first = (block + 1) * self.BLOCK

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """The spans, in order."""
        begin = end = -1
        for block, bits in sorted(self._blocks.items()):
            at = block * self.BLOCK
            while bits:
                gap = (bits & -bits).bit_length() - 1
                bits >>= gap
                run = (~bits & bits + 1).bit_length() - 1
                bits >>= run
                if at + gap != end + 1 or begin < 0:
                    if begin >= 0:
                        yield begin, end
                    begin = at + gap
                at += gap + run
                end = at - 1
        if begin >= 0:
            yield begin, end


def spans_text(positions: Iterable[int]) -> str:
    """Positions as the record of a purge has them: ``3-7 9``."""
    spans = Marks()
    for position in positions:
        spans.add(position)
    return " ".join(f"{first}-{last}" if last > first else str(first) for first, last in spans)


def spans_of(text: str) -> list[tuple[int, int]]:
    """What `spans_text` wrote. Raises ValueError."""
    found = []
    for one in text.split():
        first, _, last = one.partition("-")
        found.append((int(first), int(last or first)))
    return found


def purged_by(head: str | None, particulars: str) -> str:
    """The positions that a record says were emptied; nothing for every other record."""
    if head is None or f'"{PURGE}"' not in particulars:
        return ""
    try:
        detail = dict(json.loads(particulars).get("detail", ()))
        if json.loads(head)["access"]["interaction"] != "admin" or detail.get("operation") != PURGE:
            return ""
        spans_of(detail["positions"])
        return str(detail["positions"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""


class _InOrder:
    """Notes by the size that they sign, read when they are asked for.

    A file of checkpoints grows without end, so only `WINDOW` of them are held. Processes that append to it pass one
    another by moments; what stands further from its place is not used, and said so.
    """

    def __init__(self, notes: Iterable[str]) -> None:
        self._notes = iter(notes)
        self._heap: list[tuple[int, str]] = []
        self._fill()

    def upto(self, size: int) -> Iterator[tuple[int, str]]:
        """The next ones that sign at most this many records."""
        while self._heap and self._heap[0][0] <= size:
            yield heappop(self._heap)
            self._fill()

    def rest(self) -> Iterator[tuple[int, str]]:
        """The first `KEPT` of all that are left."""
        seen = 0
        while self._heap and seen < KEPT:
            yield heappop(self._heap)
            self._fill()
            seen += 1

    def _fill(self) -> None:
        while len(self._heap) < WINDOW:
            note = next(self._notes, None)
            if note is None:
                return
            size = note.split("\n")[1:2]
            if size and size[0].isascii() and size[0].isdigit() and len(size[0]) < 20:
                heappush(self._heap, (int(size[0]), note))


_INNER, _OUTER = (bytes(byte ^ pad for byte in range(256)) for pad in (0x36, 0x5C))


def _mac(key: bytes, message: bytes) -> bytes:
    """HMAC-SHA-256 (RFC 2104 §2); a third cheaper than the library's, of which a record takes three or four."""
    if len(key) > 64:
        return hmac.digest(key, message, "sha256")
    key = key.ljust(64, b"\0")
    return sha256(key.translate(_OUTER) + sha256(key.translate(_INNER) + message).digest()).digest()


def leaf_of(
    form: int, seq: int, event_id: str, salt: bytes, recorded: int, logged: int, head: str, particulars: str, parts: str
) -> bytes | None:
    """The leaf hash of a record by what stands in it; None where it cannot be read."""
    try:
        if form == 1:
            return sha256(b"\x00" + _mac(salt, seq.to_bytes(8, "big") + head.encode())).digest()
        if form != 2:
            return None
        stamp = f"{seq}\n2\n{event_id}\n{recorded}\n{logged}\n{head}".encode()
        of_head = _mac(salt[:16], stamp)
        of_particulars = _mac(salt[16:], particulars.encode())
        level, listed = [], _loads(parts) if parts else []
        if parts and not _is_canonical(listed, parts):
            return None
        for patient, owner, key in listed:
            if key != key.lower():
                return None  # the same salt, and not what was logged
            text = f"{owner}\n{patient}".encode()
            level.append(_mac(bytes.fromhex(key), text) if patient else bytes.fromhex(key))
    except (ValueError, TypeError, OverflowError, AttributeError):
        return None
    level = [sha256(b"\x00" + one).digest() for one in sorted(level)]
    while len(level) > 1:
        pairs = [sha256(b"\x01" + level[i] + level[i + 1]).digest() for i in range(0, len(level) - 1, 2)]
        level = [*pairs, level[-1]] if len(level) & 1 else pairs
    return sha256(b"\x00" + of_head + of_particulars + (level[0] if level else bytes(32))).digest()


def _is_canonical(listed: list[Any], text: str) -> bool:
    """Whether the text is the one way to write these parts.

    Nearly all are names that need no escape: put together here, which takes a quarter of the time of an encoder. A
    text that is equal to it says what it says in the canonical way; of any other the encoder is asked.
    """
    plain = ",".join([f'["{patient}","{owner}","{salt}"]' for patient, owner, salt in listed])
    return f"[{plain}]" == text or json.dumps(listed, ensure_ascii=False, separators=(",", ":")) == text


def named_in(form: int, head: str) -> str | None:
    """The id that a record of form 1 says of itself."""
    if form != 1:
        return None
    try:
        own = json.loads(head)["id"]
    except (ValueError, KeyError, TypeError):
        return None
    return own if isinstance(own, str) else None


class Projection:
    """Makes the AuditEvents of records again, where the project's own files for that are at hand."""

    def __init__(self) -> None:
        self._sites: dict[str, Any] = {}
        here = Path(__file__).resolve().parent
        self._form2: Any = None
        if (here / "form2.py").is_file() and here.name == "audit":
            sys.path.append(str(here.parent))
            try:
                self._form2 = import_module("audit.form2")
            finally:
                sys.path.remove(str(here.parent))

    @property
    def is_there(self) -> bool:
        """Whether it can."""
        return self._form2 is not None

    def site(self, digest: str, content: str) -> bool:
        """Learn what the server said of itself; False where that is not what its name says."""
        self._sites[digest] = json.loads(content)
        return sha256(content.encode()).hexdigest()[:32] == digest

    def shows(
        self, opening: dict[str, Any], head: dict[str, Any], patient: str | None, site: Any, event: dict[str, Any]
    ) -> bool:
        """Whether this AuditEvent is made of that head, without the particulars, which stay closed."""
        recorded, logged = opening["recorded"], opening["logged"]
        return bool(self._form2.event(event["id"], head, {}, patient, site, recorded, logged) == event)

    def made(self, line: dict[str, Any]) -> list[Any]:
        """The AuditEvents of a record of form 2."""
        head, particulars = _loads(line["head"]), _loads(line["particulars"] or "{}")
        listed = _loads(line["parts"]) if line["parts"] else [[None, "", ""]]
        made = []
        for patient, _, salt in listed:
            if line["parts"] and not patient:
                continue  # erased
            id = self._form2.event_id(line["id"], bytes.fromhex(salt or "") if patient else None, patient or "")
            site = self._sites[head["site"]]
            made.append(self._form2.event(id, head, particulars, patient, site, line["recorded"], line["logged"]))
        return made


def verify_export(
    path: Path,
    key_text: str | None = None,
    elsewhere: Iterable[str] = (),
    *,
    events: bool = True,
    trusted: str | None = None,
    processes: int = 1,
) -> Report:
    """Verify an export file, in constant memory. Without `key_text` the export's own key is used, and it says so.

    `events`: compare the AuditEvents too. `trusted`: a checkpoint up to which the log was verified before: of the
    records that it covers only the leaves are read. `processes`: that share the work; who judges is one.
    """
    lines = _lines(path)
    head = _parsed(next(lines, b""))
    if head.get("format") not in FORMATS:
        return Report("", findings=[Finding(0, "format", "not an export of an audit log")])
    told = head.get("keys") or [str(head.get("key"))]
    judge = Judge(Key(key_text or str(told[0])), elsewhere, trusted, [Key(str(one)) for one in told])
    if key_text is None:
        judge.report.notes.append("the key is the export's own: this shows that the export is whole, not who signed it")
    if judge.trusted:
        judge.report.notes.append(f"verified from record {judge.trusted + 1} on, behind the trusted checkpoint")
    examiner = _Examiner(judge.trusted, events=events)
    if events and not examiner.makes_events:
        judge.report.notes.append("the records were verified; their AuditEvents were not made again (see --help)")
    ended = False
    for result in _examined(lines, examiner, processes):
        if result[0] == "end":
            ended = True
            continue
        told = _take(judge, result)
        if told:
            judge.outside(judge.position + 1, "format", f"the export cannot be read here: {told}")
            break
    if not ended:
        judge.outside(judge.position + 1, "truncated", "the export breaks off")
    return judge.finish()


def _take(judge: Judge, result: tuple[Any, ...]) -> str:
    """Give the judge what was found of a line; why it cannot be taken, or nothing."""
    kind = result[0]
    if kind == "record":
        _, seq, event_id, leaf, fits, own, is_gone, events_fit, purged, rotated = result
        made = None if fits is None else leaf if fits else b""
        judge.record(seq, event_id, leaf, made, is_gone=is_gone, own=own)
        if purged and fits:
            judge.purged(seq, purged)
        if rotated and fits:
            judge.rotated(seq, *rotated)
        if not events_fit:
            judge.outside(seq, "altered", f"the AuditEvents shown of record {event_id} are not those of the record")
    elif kind == "passed":
        if result[1] != judge.position + 1:
            return "a position is not where it belongs"
        judge.passed(result[2])
        if result[3]:
            judge.rotated(result[1], *result[3])
    elif kind == "checkpoint":
        if result[1] > judge.trusted:
            judge.checkpoint(result[1], result[2])
        else:
            judge.handed_over(result[1], result[2])
    elif kind == "begin":
        judge.begin(result[1], result[2])
    elif kind == "site":
        if not result[1]:
            judge.outside(judge.position + 1, "altered", "what the server said of itself is not as named")
    else:
        return str(result[1])
    return ""


_EVENTS = b',"events":'

CHUNK = 250
"""Lines that are examined at a time: some 400 kB."""


class _Examiner:
    """What can be said of a line by itself, in whichever process."""

    def __init__(self, trusted: int, *, events: bool) -> None:
        self._trusted = trusted
        self._projection = Projection() if events else None
        self.makes_events = self._projection is not None and self._projection.is_there

    def __call__(self, lines: list[bytes]) -> list[tuple[Any, ...]]:
        """One result for each line; the last is of kind ``broken`` where a line cannot be read."""
        results: list[tuple[Any, ...]] = []
        for line in lines:
            try:
                results.append(self._of(line))
            except (KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
                results.append(("broken", str(error)))
                break
        return results

    def _of(self, text: bytes) -> tuple[Any, ...]:
        return self._quickly(text) or self._slowly(_parsed(text))

    def _quickly(self, text: bytes) -> tuple[Any, ...] | None:
        """A record of which all fits. None: that is not known yet.

        The AuditEvents are most of a line. They are not parsed and compared, they are written as they should be, and
        the line has to end so. This text stands in no string of JSON (RFC 8259 §7: its quotes would be escaped), and
        what is before it has to be an object when it is closed there: so `events` is its last member.
        """
        begin = text.find(_EVENTS)
        if begin < 0 or not self.makes_events:
            return None
        try:
            line = _loads(text[:begin] + b"}")
            if line["seq"] <= self._trusted:
                return None
            result = self._record(line, text[begin + len(_EVENTS) :])
        except (KeyError, ValueError, TypeError, AttributeError, OverflowError):
            return None
        return result if result[4] is not False and result[7] else None

    def _slowly(self, line: dict[str, Any]) -> tuple[Any, ...]:
        if "leaf" in line:
            if line["seq"] <= self._trusted:
                of_keys = f'"{ROTATION}"' in line.get("particulars", "") and self._record(line)
                rotated = of_keys[-1] if of_keys and of_keys[4] else None
                return "passed", int(line["seq"]), bytes.fromhex(line["leaf"]), rotated
            return self._record(line)
        if "checkpoint" in line:
            return "checkpoint", int(line["size"]), str(line["checkpoint"])
        if "site" in line:
            fits = not self.makes_events or self._projection is None
            if self._projection is not None:
                fits = self._projection.site(line["site"], line["content"])
            return "site", fits
        if "begin" in line:
            return "begin", int(line["begin"]), [bytes.fromhex(node) for node in line["frontier"]]
        if "end" in line:
            return ("end",)
        raise ValueError(line.get("broken", "an unknown line"))

    def _record(self, line: dict[str, Any], shown: bytes | None = None) -> tuple[Any, ...]:
        """A record as the export has it; in the first format it is an AuditEvent. `shown`: the text of its events, and
        what follows; it fits only as this project writes it."""
        if "event" in line:
            bare = {"form": 1, "recorded": 0, "logged": 0, "head": line["event"], "particulars": "", "parts": ""}
            line = {**bare, **line}
        seq, event_id, form, content = line["seq"], line["id"], line["form"], line["head"]
        leaf, salt = bytes.fromhex(line["leaf"]), bytes.fromhex(line["salt"])
        made = None
        if content is not None:
            made = leaf_of(
                form, seq, event_id, salt, line["recorded"], line["logged"], content, line["particulars"], line["parts"]
            )
        own = named_in(form, content) if form == 1 and content is not None else None
        fits = None if made is None else made == leaf
        events_fit = shown is None or shown == b"[]}\n"
        if self.makes_events and self._projection is not None and form == 2 and fits:
            events = self._projection.made(line)
            events_fit = events == line["events"] if shown is None else _dumps(events) + b"}\n" == shown
        purged = purged_by(content, line["particulars"]) if fits else ""
        rotated = rotated_by(content, line["particulars"]) if fits else None
        return "record", int(seq), str(event_id), leaf, fits, own, content is None, events_fit, purged, rotated


def _examined(lines: Iterator[bytes], examiner: _Examiner, processes: int) -> Iterator[tuple[Any, ...]]:
    """The result of each line, in order. What the server said of itself comes before all records."""
    first: list[bytes] = []
    for line in lines:
        if not line.startswith(b'{"site"'):
            first = [line]
            break
        yield from examiner([line])
    chunks = _chunks(chain(first, lines))
    if processes < 2:
        for chunk in chunks:
            yield from examiner(chunk)
        return
    with multiprocessing.Pool(processes, _begin_examiner, (examiner,)) as pool:
        waiting: deque[Any] = deque()
        for chunk in chunks:
            waiting.append(pool.apply_async(_examine, (chunk,)))
            if len(waiting) > 3 * processes:
                yield from waiting.popleft().get()
        while waiting:
            yield from waiting.popleft().get()


_EXAMINER: list[_Examiner] = []


def _begin_examiner(examiner: _Examiner) -> None:
    _rarely_collect()
    _EXAMINER[:] = [examiner]


def _rarely_collect() -> None:
    """Lines are many small objects, none in a circle: to look for circles all the time takes a tenth of it."""
    gc.set_threshold(100_000, 50, 100)


def _examine(chunk: list[bytes]) -> list[tuple[Any, ...]]:
    return _EXAMINER[0](chunk)


def _chunks(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    found = iter(lines)
    while chunk := list(islice(found, CHUNK)):
        yield chunk


PROOF_FORMATS = ("vigie-audit-proof/1", "vigie-audit-consistency/1")


def check_proof(document: dict[str, Any], key_text: str, first_note: str | None = None) -> str:
    """What a proof proves, in words: an AuditEvent in the log, or that one checkpoint continues another.

    `first_note`: the first of the two, where it is not in the proof. `key_text` is any key of the log; how it leads to
    the others is in the proof. Raises ValueError, and says why, where it proves nothing. RFC 9162 §2.1.3.2, §2.1.4.2
    """
    try:
        spans = _key_spans(document, Key(key_text))
        if document.get("format") == PROOF_FORMATS[0]:
            return _check_inclusion(document, spans)
        if document.get("format") == PROOF_FORMATS[1]:
            first, old = _opened_by(spans, first_note or document["first"])
            second, new = _opened_by(spans, document["second"])
            if not _continues(first, old, second, new, [bytes.fromhex(node) for node in document["path"]]):
                raise ValueError("the second checkpoint does not continue the first")
            return f"the log of {second} records continues that of {first}"
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"it cannot be read: {error}") from error
    raise ValueError("not a proof of an audit log")


def _key_spans(document: dict[str, Any], trusted: Key) -> list[tuple[int, Key]]:
    """The keys that the trusted one is tied to, each with the size from which on it signs. Raises ValueError.

    Of each that followed another there is the record that names it, and the checkpoint there, signed by both.
    """
    spans: list[tuple[int, Key]] = []
    for link in document.get("keys", ()):
        seq, named = int(link["position"]), rotated_by(link["head"], link["particulars"])
        if named is None:
            raise ValueError("a record that should name a key names none")
        former, key = map(Key, named)
        if former.name != key.name or (spans and (seq <= spans[-1][0] or former.text != spans[-1][1].text)):
            raise ValueError("a key does not follow the one before it")
        leaf = leaf_of(
            link["form"], seq, link["id"], bytes.fromhex(link["salt"]), link["recorded"], link["logged"], link["head"],
            link["particulars"], "",
        )
        size, root = former.open(link["checkpoint"])
        if leaf is None or size != seq or key.open(link["checkpoint"]) != (size, root):
            raise ValueError("a key is not named by a record that both sign")
        _lead(leaf, seq - 1, size, link["path"], root)
        spans += [(0, former), (seq, key)][bool(spans) :]
    if spans and trusted.text not in {key.text for _, key in spans}:
        raise ValueError("the key is none of those of the log")
    return spans or [(0, trusted)]


def _opened_by(spans: list[tuple[int, Key]], note: str) -> tuple[int, bytes]:
    """Size and root of a checkpoint that a key signed at a size of its own. Raises ValueError."""
    fault, end = ValueError("not signed by this key"), None
    for begin, key in reversed(spans):
        try:
            size, root = key.open(note)
        except ValueError as error:
            fault, end = error, begin
            continue
        if size < begin or (end is not None and size > end):
            raise ValueError(f"signed by a key that is not in use at {size}")
        return size, root
    raise fault


def _lead(node: bytes, index: int, size: int, path: list[str], root: bytes) -> None:
    """Raise ValueError unless the leaf leads to the root (RFC 9162 §2.1.3.2)."""
    last = size - 1
    if not 0 <= index < size:
        raise ValueError("the checkpoint does not cover this position")
    for text in path:
        sibling = bytes.fromhex(text)
        if last == 0:
            raise ValueError("the path is too long")
        if index & 1 or index == last:
            node = sha256(b"\x01" + sibling + node).digest()
            while not index & 1 and index:
                index, last = index >> 1, last >> 1
        else:
            node = sha256(b"\x01" + node + sibling).digest()
        index, last = index >> 1, last >> 1
    if last != 0 or node != root:
        raise ValueError("the record does not lead to the root that is signed")


def _check_inclusion(document: dict[str, Any], spans: list[tuple[int, Key]]) -> str:
    size, root = _opened_by(spans, document["checkpoint"])
    seq, opening, event = int(document["position"]), document["opening"], document["event"]
    _lead(opened(seq, opening), seq - 1, size, document["path"], root)
    if opening["form"] == 1:
        if json.loads(opening["head"]) != event:
            raise ValueError("the AuditEvent is not the one that is proven")
    else:
        _check_event(opening, event, document["site"])
    return f"AuditEvent/{event['id']} is record {seq} of the log of {size}"


def _check_event(opening: dict[str, Any], event: dict[str, Any], site: str) -> None:
    """The head and the patient of the AuditEvent are those of the record. Its particulars are not opened."""
    head = json.loads(opening["head"])
    if sha256(site.encode()).hexdigest()[:32] != head["site"]:
        raise ValueError("what the server said of itself is not what was logged")
    id = opening["record"]
    patient = opening.get("patient")
    if patient:
        salt = bytes.fromhex(opening["part_salt"])
        id += "." + hmac.digest(salt, f"{opening['record']} {patient}".encode(), "sha256")[:8].hex()
    if event.get("id") != id:
        raise ValueError("the AuditEvent is not the one that is proven")
    projection = Projection()
    if projection.is_there and not projection.shows(opening, head, patient, json.loads(site), event):
        raise ValueError("the AuditEvent is not the one that is proven")


def opened(seq: int, opening: dict[str, Any]) -> bytes:
    """The leaf hash that an opening leads to: head and one part in clear, of the rest their commitments."""
    if opening["form"] == 1:
        text = seq.to_bytes(8, "big") + opening["head"].encode()
        return sha256(b"\x00" + hmac.digest(bytes.fromhex(opening["salt"]), text, "sha256")).digest()
    root = bytes(32)
    if "patient" in opening:
        text = f"{opening['owner']}\n{opening['patient']}".encode()
        root = sha256(b"\x00" + hmac.digest(bytes.fromhex(opening["part_salt"]), text, "sha256")).digest()
        for side, node in opening["path"]:
            other = bytes.fromhex(node)
            root = sha256(b"\x01" + (other + root if side == "left" else root + other)).digest()
    stamp = f"{seq}\n2\n{opening['record']}\n{opening['recorded']}\n{opening['logged']}\n{opening['head']}".encode()
    of_head = hmac.digest(bytes.fromhex(opening["salt"]), stamp, "sha256")
    return sha256(b"\x00" + of_head + bytes.fromhex(opening["particulars"]) + root).digest()


def _continues(first: int, first_root: bytes, second: int, second_root: bytes, proof: list[bytes]) -> bool:
    """RFC 9162 §2.1.4.2."""
    if not 0 < first <= second:
        return False
    if first == second:
        return not proof and first_root == second_root
    path = [first_root, *proof] if first & (first - 1) == 0 else list(proof)
    if not path:
        return False
    index, last = first - 1, second - 1
    while index & 1:
        index, last = index >> 1, last >> 1
    old = new = path[0]
    for node in path[1:]:
        if last == 0:
            return False
        if index & 1 or index == last:
            old, new = sha256(b"\x01" + node + old).digest(), sha256(b"\x01" + node + new).digest()
            while not index & 1 and index:
                index, last = index >> 1, last >> 1
        else:
            new = sha256(b"\x01" + new + node).digest()
        index, last = index >> 1, last >> 1
    return last == 0 and old == first_root and new == second_root


def split_notes(text: str) -> list[str]:
    """The signed notes of a text, one after another."""
    return list(notes_in(text.splitlines()))


def notes_of(path: Path) -> Iterator[str]:
    """The signed notes of a file, read as they are asked for."""
    with path.open(encoding="utf-8", errors="replace") as lines:
        yield from notes_in(line.rstrip("\n") for line in lines)


def notes_in(lines: Iterable[str]) -> Iterator[str]:
    """The signed notes of an append-only file. One that was torn does not swallow the next: an empty line stands only
    before signatures and after a note."""
    block: list[str] = []
    for line in lines:
        if block and (not block[-1] or block[-1].startswith("— ")) and not line.startswith("— "):
            yield "\n".join(block) + "\n"
            block = []
        if block or line:
            block.append(line)
    if block:
        yield "\n".join(block) + "\n"


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with gzip.open(path, "rb") as file:
            yield from file
    except (OSError, EOFError, zlib.error, ValueError) as error:
        yield json.dumps({"broken": str(error)}).encode()


def _parsed(line: bytes) -> dict[str, Any]:
    """A line as an object; a byte that is none of UTF-8 is in it as a surrogate (PEP 383), and no leaf fits it."""
    try:
        value = _loads(line)
    except ValueError:
        try:
            value = json.loads(line.decode("utf-8", "surrogateescape"))
        except ValueError as error:
            return {"broken": str(error)}
    return value if isinstance(value, dict) else {"broken": "not an object"}


def main(arguments: list[str] | None = None) -> int:
    """The command line; 0 where the export verifies, 1 where it does not, 2 where it cannot be read."""
    parser = argparse.ArgumentParser(description="Verify an exported audit log of Vigie.")
    parser.add_argument("export", type=Path, help="an export, or with --proof a proof")
    parser.add_argument("--proof", action="store_true", help="check what `audit prove` or `audit consistency` gave")
    parser.add_argument("--key", help="the verifier key, or a file that holds it")
    parser.add_argument("--checkpoints", type=Path, help="a file of checkpoints kept elsewhere")
    parser.add_argument("--no-events", action="store_true", help="do not make the AuditEvents of the records again")
    parser.add_argument("--from", dest="trusted", type=Path, metavar="FILE",
                        help="a checkpoint up to which the log was verified before: verify what came after it; "
                             "with --proof the first of the two")
    parser.add_argument("--processes", type=int, default=min(8, os.cpu_count() or 1),
                        help="processes that share the work (default: one for each core)")
    chosen = parser.parse_args(arguments)
    key = chosen.key
    if key and Path(key).is_file():
        key = Path(key).read_text(encoding="utf-8")
    if chosen.proof:
        return _main_of_proof(chosen.export, key, chosen.trusted)
    _rarely_collect()
    notes = notes_of(chosen.checkpoints) if chosen.checkpoints else ()
    trusted = [*notes_of(chosen.trusted)][-1] if chosen.trusted else None
    report = verify_export(
        chosen.export, key, notes, events=not chosen.no_events, trusted=trusted, processes=chosen.processes
    )
    sys.stdout.write("\n".join(report.lines()) + "\n")
    return 0 if report.ok else 1


def _main_of_proof(path: Path, key: str | None, first: Path | None) -> int:
    if not key:
        sys.stderr.write("--key says whose log it is to be a proof of\n")
        return 2
    try:
        told = check_proof(_parsed(path.read_bytes()), key, [*notes_of(first)][-1] if first else None)
    except ValueError as error:
        sys.stdout.write(f"NOT PROVEN  {error}\n")
        return 1
    sys.stdout.write(f"proven: {told}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
