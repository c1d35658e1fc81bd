"""What the service has acknowledged: kept in the harness's memory, which no kill reaches."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from dataclasses import dataclass, field

from resources.json import Json

Key = tuple[str, str, int]
"""Type, id, version."""


@dataclass(frozen=True, slots=True)
class Image:
    """An instance that was acknowledged."""

    study: str
    series: str
    sop: str
    digest: str
    """SHA-256 of the data set, without preamble and file meta information."""
    door: str


@dataclass(slots=True)
class Promises:
    """Everything below was answered with success, or (`tried`) may or may not have been done."""

    versions: dict[Key, str] = field(default_factory=dict)
    """Version → SHA-256 of the very bytes that were answered."""
    sent: dict[Key, Json] = field(default_factory=dict)
    """Version → what was sent, where the answer had no body (entries of a transaction)."""
    deleted: set[Key] = field(default_factory=set)
    images: dict[str, Image] = field(default_factory=dict)
    """SOP Instance UID → image."""
    requests: set[str] = field(default_factory=set)
    """X-Request-Id of every answered access."""
    events: Counter[str] = field(default_factory=Counter)
    """Type/id → how many acknowledged changes of it are events of the subscribed topic."""
    transactions: dict[str, bool] = field(default_factory=dict)
    """Marker → whether it was acknowledged."""
    keys: dict[str, str] = field(default_factory=dict)
    """Key of a conditional create → the id that was answered first."""
    broken: list[str] = field(default_factory=list)
    """Answers that contradict earlier ones."""
    counts: Counter[str] = field(default_factory=Counter)
    """Operation → how often it was acknowledged."""
    statuses: Counter[str] = field(default_factory=Counter)
    """`operation status` or `operation exception` of all that was not acknowledged."""
    lock: threading.RLock = field(default_factory=threading.RLock)

    def version(self, key: Key, body: bytes) -> None:
        digest = hashlib.sha256(body).hexdigest()
        with self.lock:
            if self.versions.setdefault(key, digest) != digest:
                self.broken.append(f"{key[0]}/{key[1]} version {key[2]} was answered with two contents")

    def done(self, operation: str, request_id: str = "") -> None:
        with self.lock:
            self.counts[operation] += 1
            if request_id:
                self.requests.add(request_id)

    def refused(self, operation: str, status: object, request_id: str = "") -> None:
        """Not a success. An answer below 500 is an access all the same, and must be on record."""
        with self.lock:
            self.statuses[f"{operation} {status}"] += 1
            if request_id:
                self.requests.add(request_id)


def dataset_digest(part10: bytes) -> str:
    """SHA-256 of what follows the file meta information (PS3.10 §7.1)."""
    length = int.from_bytes(part10[140:144], "little")
    return hashlib.sha256(part10[144 + length :]).hexdigest()
