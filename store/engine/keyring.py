"""The keys of a deployment: kept in the database, sealed under the deployment's one secret.

A key has a name and a number; the one without an end is in use, those before it open what was made with them. What is
sealed is bound to name and number (AES-256-GCM, RFC 5116), so no row can take another's place. A process reads the keys
when it first needs one, and looks again every few seconds: a rotation reaches all nodes without a restart.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import Protocol

import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import BigInteger, Column, Connection, Integer, LargeBinary, Table, Text, select, update

from resources.outcomes import Unavailable
from resources.times import of_microseconds
from store.engine.database import Database
from store.engine.faults import DRIVER_ERRORS
from store.engine.schema import metadata

log = structlog.get_logger("vigie.keys")

LOOK_AGAIN_S = 5.0
"""So soon every process knows of a rotation."""
_AT_MOST_EVERY_S = 1.0
"""What fits no key (anybody can send that) makes a process look again no more often."""
_NONCE_BYTES = 12

deployment_key = Table(
    "deployment_key",
    metadata,
    Column("name", Text, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False, comment="from 1, one more at each rotation"),
    Column("sealed", LargeBinary, nullable=False, comment="nonce and AES-256-GCM under the deployment secret"),
    Column("made", BigInteger, nullable=False, comment="µs since 1970-01-01T00:00Z"),
    Column("retired", BigInteger, nullable=True, comment="µs since 1970-01-01T00:00Z; null: in use"),
)


class KeyFault(Exception):
    """A key or the secret is missing, damaged, readable by others or another deployment's; the text names it."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key, open."""

    number: int
    secret: bytes
    made: int = 0
    """µs since 1970."""
    retired: int | None = None
    """µs since 1970; None: in use."""

    def serves(self, now: datetime, grace: timedelta) -> bool:
        """Whether it is in use at `now`, or was within `grace` before."""
        return self.retired is None or now - of_microseconds(self.retired) <= grace


class Keys(Protocol):
    """Where the keys of a name come from."""

    def of(self, name: str) -> Sequence[Key]:
        """The keys of `name`, the one in use first. Raises KeyFault."""
        ...

    def look_again(self) -> bool:
        """Whether there are other keys than those that `of` gave."""
        ...


class Fixed:
    """One key under every name, of no database."""

    def __init__(self, secret: bytes) -> None:
        self._keys = (Key(1, secret),)

    def of(self, name: str) -> Sequence[Key]:
        """The one key."""
        return self._keys

    def look_again(self) -> bool:
        """Never."""
        return False


class Safe:
    """Seals under the first of the deployment's secrets; opens what any of them sealed."""

    def __init__(self, secrets: Sequence[bytes]) -> None:
        """`secrets`: more than one only while the secret is being changed."""
        self._ciphers = [AESGCM(blake2b(secret, digest_size=32, person=b"vigie keys").digest()) for secret in secrets]

    def seal(self, name: str, number: int, key: bytes) -> bytes:
        """`key`, to be opened as `name` and `number` alone."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._ciphers[0].encrypt(nonce, key, _bound(name, number))

    def open(self, name: str, number: int, sealed: bytes) -> bytes:
        """What was sealed. Raises KeyFault."""
        for cipher in self._ciphers:
            try:
                return cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], _bound(name, number))
            except (InvalidTag, ValueError):
                continue
        raise KeyFault(
            f"the deployment secret does not open the key {name}: it is another deployment's, or the key is damaged"
        )


def _bound(name: str, number: int) -> bytes:
    return f"vigie key\0{name}\0{number}".encode()


def opened(connection: Connection, safe: Safe) -> dict[str, tuple[Key, ...]]:
    """Every key by its name, the newest first. Raises KeyFault where one does not open."""
    rows = connection.execute(select(deployment_key).order_by(deployment_key.c.name, deployment_key.c.number.desc()))
    found: dict[str, tuple[Key, ...]] = {}
    for row in rows:
        key = Key(row.number, safe.open(row.name, row.number, row.sealed), row.made, row.retired)
        found[row.name] = (*found.get(row.name, ()), key)
    return found


def add(connection: Connection, safe: Safe, name: str, key: bytes, now_us: int) -> int:
    """Put `key` into use as the newest of `name`, which retires the one before; its number."""
    column = deployment_key.c
    last = connection.execute(
        select(column.number).where(column.name == name).order_by(column.number.desc()).limit(1)
    ).scalar()
    number = 1 if last is None else int(last) + 1
    connection.execute(
        update(deployment_key).where(column.name == name, column.retired.is_(None)).values(retired=now_us)
    )
    connection.execute(
        deployment_key.insert().values(
            name=name, number=number, sealed=safe.seal(name, number, key), made=now_us, retired=None
        )
    )
    return number


def seal_again(connection: Connection, safe: Safe) -> int:
    """Seal every key under the first secret of `safe`; how many. Raises KeyFault."""
    count = 0
    for name, keys in opened(connection, safe).items():
        for key in keys:
            connection.execute(
                update(deployment_key)
                .where(deployment_key.c.name == name, deployment_key.c.number == key.number)
                .values(sealed=safe.seal(name, key.number, key.secret))
            )
            count += 1
    return count


class KeyRing:
    """The open keys of one process."""

    def __init__(self, database: Database, safe: Callable[[], Safe]) -> None:
        """`safe`: asked each time that the keys are read. Nothing is read yet."""
        self._database = database
        self._safe = safe
        self._lock = threading.Lock()
        self._keys: Mapping[str, tuple[Key, ...]] | None = None
        self._read_at = 0.0

    @property
    def is_open(self) -> bool:
        """Whether this process has opened the keys."""
        return self._keys is not None

    def of(self, name: str) -> Sequence[Key]:
        """The keys of `name`, the one in use first. Raises KeyFault; what the database raises, at the first time."""
        if self._keys is None:
            self.prove()
        elif time.monotonic() - self._read_at > LOOK_AGAIN_S:
            self._look()
        found = (self._keys or {}).get(name, ())
        if not found or found[0].retired is not None:
            raise KeyFault(f"the key {name} is missing from the database: restore a backup")
        return found

    def prove(self) -> None:
        """Open all keys: only a node of this deployment can. Raises KeyFault, and what the database raises."""
        with self._lock:
            if self._keys is None:
                self._keys = self._read()
                self._read_at = time.monotonic()

    def follow(self, connection: Connection, name: str) -> None:
        """Have `of` give the key that is in use in this transaction. Raises KeyFault."""
        column = deployment_key.c
        number = connection.execute(select(column.number).where(column.name == name, column.retired.is_(None))).scalar()
        found = (self._keys or {}).get(name, ())
        if found and found[0].number == number:
            return
        with self._lock:
            self._keys = opened(connection, self._safe())
            self._read_at = time.monotonic()

    def look_again(self) -> bool:
        """Read the keys unless that was just done; whether they are others than before."""
        if time.monotonic() - self._read_at < _AT_MOST_EVERY_S:
            return False
        before = self._keys
        self._look()
        return self._keys != before

    def _look(self) -> None:
        """Read again. What was opened goes on to serve while that is not possible."""
        if not self._lock.acquire(blocking=False):
            return
        try:
            self._read_at = time.monotonic()
            self._keys = self._read()
        except KeyFault:
            log.exception("the keys can no longer be opened")
        except (Unavailable, *DRIVER_ERRORS):
            log.warning("the keys could not be looked at again")
        finally:
            self._lock.release()

    def _read(self) -> Mapping[str, tuple[Key, ...]]:
        with self._database.read() as connection:
            return opened(connection, self._safe())
