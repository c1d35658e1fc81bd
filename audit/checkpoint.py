"""Signed checkpoints of the log: C2SP tlog-checkpoint inside a C2SP signed note, Ed25519.

    origin
    tree size
    base64 root hash

    — origin base64(key id ‖ signature)

The private key is made once for a log (`create`), readable by its owner alone, and never has a default.

https://c2sp.org/tlog-checkpoint, https://c2sp.org/signed-note
"""

from __future__ import annotations

import binascii
import hmac
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from store.engine.files import write_private

if TYPE_CHECKING:
    from sqlalchemy import Connection

ED25519 = b"\x01"
_SECRET_PREFIX = "PRIVATE+KEY"  # noqa: S105 - the file's magic word (C2SP/Go note format)


class BadCheckpoint(Exception):
    """Not a checkpoint of this log, or not signed by this key."""


class BadKey(Exception):
    """The key file cannot be used. The text says why."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a log signs: its name, its size, and the Merkle root of that many leaves (C2SP tlog-checkpoint)."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """The three lines that are signed."""
        return f"{self.origin}\n{self.size}\n{b64encode(self.root).decode()}\n"


@dataclass(frozen=True, slots=True)
class Verifier:
    """The public half: who signs (`name`) and the key."""

    name: str
    public: bytes
    """32 bytes, raw."""

    @property
    def key_id(self) -> bytes:
        """The first four bytes of SHA-256 over name and key (C2SP signed-note)."""
        return sha256(self.name.encode() + b"\n" + ED25519 + self.public).digest()[:4]

    def text(self) -> str:
        """The verifier key as C2SP signed-note writes it: ``name+hash+base64``."""
        return f"{self.name}+{self.key_id.hex()}+{b64encode(ED25519 + self.public).decode()}"

    @staticmethod
    def parse(text: str) -> Verifier:
        """A verifier key from its text ``name+id+key``. Raises BadKey."""
        name, _, rest = text.strip().partition("+")
        identity, _, encoded = rest.partition("+")
        key = _decoded(encoded, BadKey)
        if not name or len(key) != 33 or key[:1] != ED25519:
            raise BadKey("not an Ed25519 verifier key")
        verifier = Verifier(name, key[1:])
        if verifier.key_id.hex() != identity:
            raise BadKey("the key id does not fit the key")
        return verifier

    def open(self, note: str) -> Checkpoint:
        """The checkpoint of a note that this key signed. Raises BadCheckpoint."""
        text, separator, signatures = note.partition("\n\n")
        if not separator:
            raise BadCheckpoint("not a signed note")
        text += "\n"
        for line in signatures.splitlines():
            dash, _, rest = line.partition(" ")
            name, _, encoded = rest.partition(" ")
            if dash != "—" or name != self.name:
                continue
            blob = _decoded(encoded, BadCheckpoint)
            if blob[:4] != self.key_id:
                continue
            try:
                Ed25519PublicKey.from_public_bytes(self.public).verify(blob[4:], text.encode())
            except InvalidSignature:
                raise BadCheckpoint("the signature does not fit the checkpoint") from None
            return _parsed(text, self.name)
        raise BadCheckpoint(f"not signed by {self.name}")


class Opening(Protocol):
    """Whoever can tell a genuine checkpoint of a log."""

    @property
    def name(self) -> str:
        """Of the log (origin)."""
        ...

    def open(self, note: str) -> Checkpoint:
        """The checkpoint of a note. Raises BadCheckpoint."""
        ...


@dataclass(frozen=True, slots=True)
class KeyChain:
    """The keys of a log in order, each with the size from which on it signs, the first from 0 on.

    The checkpoint at which a key follows another is signed by both.
    """

    spans: tuple[tuple[int, Verifier], ...]

    @property
    def name(self) -> str:
        """Of the log."""
        return self.spans[0][1].name

    def open(self, note: str) -> Checkpoint:
        """The checkpoint of a note that a key signed at a size that is its own. Raises BadCheckpoint."""
        last: int | None = None
        fault = BadCheckpoint(f"not signed by {self.name}")
        for begin, verifier in reversed(self.spans):
            try:
                found = verifier.open(note)
            except BadCheckpoint as error:
                fault, last = error, begin
                continue
            if found.size < begin or (last is not None and found.size > last):
                raise BadCheckpoint(f"signed by a key that is not in use at {found.size}")
            return found
        raise fault


def handed_over(former: str, note: str) -> str:
    """One note of two of the same checkpoint: with the signatures of both."""
    text, separator, signatures = note.partition("\n\n")
    if not separator or not former.startswith(text + separator):
        raise BadCheckpoint("these are not of one checkpoint")
    return former + signatures


class Signing(Protocol):
    """Whoever signs the checkpoints of a log."""

    @property
    def name(self) -> str:
        """Of the log (origin)."""
        ...

    @property
    def verifier(self) -> Verifier:
        """The public half of the key that is in use."""
        ...

    def sign(self, checkpoint: Checkpoint) -> str:
        """The signed note."""
        ...

    def derived(self, purpose: bytes, *, again: bool = False) -> Sequence[bytes]:
        """Secrets for another purpose: of the key that is in use, then of those before it.

        `again`: look first whether another key came into use.
        """
        ...

    def follow(self, connection: Connection) -> None:
        """Sign from now on with the key that is in use in this transaction."""
        ...


@dataclass(frozen=True, slots=True)
class Signer:
    """The private half."""

    name: str
    key: Ed25519PrivateKey

    @property
    def verifier(self) -> Verifier:
        """The public half."""
        return Verifier(self.name, self.key.public_key().public_bytes_raw())

    def sign(self, checkpoint: Checkpoint) -> str:
        """The signed note."""
        if checkpoint.origin != self.name:
            raise BadCheckpoint("the checkpoint is of another log")
        text = checkpoint.text()
        signature = self.verifier.key_id + self.key.sign(text.encode())
        return f"{text}\n— {self.name} {b64encode(signature).decode()}\n"

    def follow(self, connection: Connection) -> None:
        """As `Signing` says: there is no other key."""

    def derived(self, purpose: bytes, *, again: bool = False) -> Sequence[bytes]:
        """As `Signing` says: 32 bytes."""
        return (hmac.digest(self.key.private_bytes_raw(), purpose, "sha256"),)

    @staticmethod
    def generate(name: str) -> Signer:
        """A new Ed25519 key. Raises BadKey for a name that a note cannot carry."""
        if not name or any(c.isspace() or c == "+" for c in name):
            raise BadKey("an origin has neither spaces nor plus signs")
        return Signer(name, Ed25519PrivateKey.generate())

    def text(self) -> str:
        """The private key as text, for its file."""
        seed = ED25519 + self.key.private_bytes_raw()
        return f"{_SECRET_PREFIX}+{self.name}+{self.verifier.key_id.hex()}+{b64encode(seed).decode()}"

    @staticmethod
    def parse(text: str) -> Signer:
        """What `text` wrote. Raises BadKey."""
        magic, _, rest = text.strip().rpartition(_SECRET_PREFIX + "+")
        name, _, tail = rest.partition("+")
        identity, _, encoded = tail.partition("+")
        seed = _decoded(encoded, BadKey)
        if magic or not name or len(seed) != 33 or seed[:1] != ED25519:
            raise BadKey("not an Ed25519 signer key")
        signer = Signer(name, Ed25519PrivateKey.from_private_bytes(seed[1:]))
        if signer.verifier.key_id.hex() != identity:
            raise BadKey("the key id does not fit the key")
        return signer


def load(path: Path, origin: str) -> Signer:
    """The signer kept in `path`. Raises BadKey where it is missing, damaged, readable by others or of another log."""
    try:
        if path.stat().st_mode & 0o077:
            raise BadKey(f"{path.name} can be read by others: chmod 600 it")
        signer = Signer.parse(path.read_text(encoding="ascii"))
    except FileNotFoundError as error:
        raise BadKey(f"{path.name} is missing") from error
    except UnicodeDecodeError as error:
        raise BadKey("not an Ed25519 signer key") from error
    if signer.name != origin:
        raise BadKey(f"{path.name} belongs to the log {signer.name}, not to {origin}")
    return signer


def create(path: Path, origin: str) -> Signer:
    """The signer of a new log, kept in `path` (0600, beside it ``.pub``); one that is there already is kept.

    Safe between processes. Raises BadKey as `load` does.
    """
    if not path.exists():
        _write(path, Signer.generate(origin))
    return load(path, origin)


def _write(path: Path, signer: Signer) -> None:
    """Whoever comes second keeps the first one's key."""
    if write_private(path, signer.text() + "\n", replace=False):
        path.with_suffix(".pub").write_text(signer.verifier.text() + "\n", encoding="ascii")


def _parsed(text: str, origin: str) -> Checkpoint:
    lines = text.split("\n")
    if len(lines) < 4 or lines[0] != origin or not lines[1].isascii() or not lines[1].isdigit():
        raise BadCheckpoint("not a checkpoint of this log")
    root = _decoded(lines[2], BadCheckpoint)
    if len(root) != 32:
        raise BadCheckpoint("the root is not a SHA-256 hash")
    return Checkpoint(origin, int(lines[1]), root)


def _decoded(text: str, error: type[Exception]) -> bytes:
    try:
        return b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise error("not base64") from None
