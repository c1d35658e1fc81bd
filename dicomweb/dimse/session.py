"""What is known of one association while it lasts: who it is, what it did, what became of it."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field

from dicomweb import sop_classes
from dicomweb.ae import ApplicationEntity
from dicomweb.batches import Batch
from dicomweb.dimse.limits import Claim
from store.access import Caller, Recording


@dataclass(slots=True)
class Session:
    """One association, from its admission to the record of it."""

    entity: ApplicationEntity
    caller: Caller
    """With a `Recording`: failures of single instances are told by the record of the whole (`records`)."""
    batch: Batch
    claim: Claim
    recording: Recording
    certificate: str | None = None
    """Fingerprint of the peer's TLS certificate; None: it came without TLS."""
    served: Counter[str] = field(default_factory=Counter)
    """Name of the service → how many requests."""
    refused: Counter[int] = field(default_factory=Counter)
    """Status of a refused instance → how often."""
    ending: str = "lost"
    """released, aborted or lost."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _is_closed: bool = False

    def may_store(self, registered: ApplicationEntity | None, sop_class_uid: str) -> bool:
        """Whether what is registered of the title by now still lets this peer store such an instance."""
        return (
            registered is not None
            and registered.organization == self.entity.organization
            and registered.is_believed(self.claim.address, self.certificate)
            and sop_classes.may_store(sop_class_uid, registered.sop_classes)
        )

    def close(self) -> bool:
        """Whether this is the first time: an association ends once, however many tell of it."""
        with self._lock:
            first, self._is_closed = not self._is_closed, True
        return first
