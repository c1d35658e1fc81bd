"""What a peer may take of the DIMSE process: sizes, times, and places.

PS3.8 leaves all of them to the implementation (§9.1.5 ARTIM timer, §9.3.1 PDU length, Annex D.1 maximum length).
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass

PDU_BYTES = 131072
"""Maximum length received (PS3.8 §D.1): the variable field of a P-DATA-TF PDU."""
PDU_SLACK_BYTES = 12
"""Some senders count the headers of PDU and PDV beside the maximum length."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one server. Sizes in bytes, times in seconds."""

    associations: int = 64
    """At once, in all."""
    per_ae: int = 16
    """Associations of one calling AE title."""
    per_address: int = 32
    """Associations from one address."""
    per_organization: int = 48
    """Associations of one organisation's AE titles."""
    connections: int = 512
    """Connections that have not been associated. Beyond it the oldest are closed: who has just come is let in."""
    connections_per_address: int = 256
    artim_s: float = 5.0
    """Until the association request is complete, the TLS handshake included; and until a refused peer closes."""
    request_bytes: int = 262_144
    """Of an A-ASSOCIATE-RQ PDU: 128 contexts with every transfer syntax there is take about 140 kB."""
    buffered_bytes: int = 16 * 1024 * 1024
    """Of all incomplete association requests together."""
    waiting: int = 128
    """Complete association requests whose sender is being looked up."""
    network_s: float = 60.0
    """Without a word from the peer, or while it does not take what is sent."""
    pdu_s: float = 30.0
    """Until a PDU that has begun is complete."""
    command_bytes: int = 65_536
    """Of a command set (PS3.7 §6.3); the largest are some hundred bytes."""
    identifier_bytes: int = 1024 * 1024
    """Of a data set that is no instance: the keys of a query, an N-CREATE."""
    dataset_bytes: int = 8 * 1024**3
    """Of an instance. It lies in a file while it arrives."""
    dataset_grace_s: float = 60.0
    dataset_bytes_per_s: int = 1024
    """After the grace, an instance must have come at this rate, counted from its beginning."""
    requests: int = 8
    """Messages that a peer sends before it has its answers; asynchronous operations are not negotiated (§D.3.3.3)."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Whose place it is."""

    ae: str
    address: str
    organization: str


class Places:
    """The places of associations: in all, per AE title, per address and per organisation."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._held: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def take(self, claim: Claim) -> bool:
        """Hold a place, if there is one; to be given back by `free`."""
        with self._lock:
            if any(self._held[key] >= most for key, most in self._counts(claim)):
                return False
            self._held.update(key for key, _ in self._counts(claim))
            return True

    def free(self, claim: Claim) -> None:
        """Give a place back."""
        with self._lock:
            for key, _ in self._counts(claim):
                self._held[key] -= 1
                if self._held[key] <= 0:
                    del self._held[key]

    @property
    def taken(self) -> int:
        """Associations now."""
        return self._held["all", ""]

    def _counts(self, claim: Claim) -> tuple[tuple[tuple[str, str], int], ...]:
        limits = self._limits
        return (
            (("all", ""), limits.associations),
            (("ae", claim.ae), limits.per_ae),
            (("address", claim.address), limits.per_address),
            (("organization", claim.organization), limits.per_organization),
        )
