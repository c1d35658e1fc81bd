"""What the audit log has of associations: exactly one record of each access, and of a flood its number.

- A refused association: one record, with the reason. A flood of them is counted and written by time (`auth.refusals`).
- A connection that never became an association request: counted per network and reason, written by time.
- An accepted association: the studies that it stored are recorded with them (`Ingest.finish`); what it had refused is
  one record; one that stored nothing, and had nothing refused, is one record (C-ECHO, or no request at all).

IHE ATNA ITI-20; DICOM PS3.15 §A.5.3.
"""

from __future__ import annotations

import threading
from collections import Counter
from urllib.parse import quote

import structlog

from auth.refusals import Refusals
from auth.throttle import Throttle, network_of
from dicomweb.dimse.listener import Silence
from dicomweb.dimse.pdus import Reject, Titles
from dicomweb.dimse.session import Session
from dicomweb.status import Result
from resources.outcomes import Unavailable
from store.access import Access, Caller, Interaction, Outcome
from store.unit_of_work import Store

log = structlog.get_logger("vigie.dimse")

FLUSH_S = 30.0
"""What is only counted is on record after this long."""
_MOST = 1000
"""Networks that are counted apart."""
_OPERATION = ("operation", "dimse-association")
_OF_SERVER = {Reject.TEMPORARY_CONGESTION: Outcome.MAJOR, Reject.LOCAL_LIMIT_EXCEEDED: Outcome.MINOR,
              Reject.PROTOCOL_VERSION: Outcome.MINOR}


class Records:
    """The one place where associations are recorded."""

    def __init__(self, store: Store, *, flush_s: float = FLUSH_S) -> None:
        self._store = store
        self._flush_s = flush_s
        self._refusals = Refusals(Throttle(), trail=store.trail, clock=store.now, flush_s=flush_s)
        self._silences: Counter[tuple[str, Silence]] = Counter()
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._is_closed = False

    def refused(self, titles: Titles, address: str, reject: Reject, reason: str) -> None:
        """Record that an association was refused. Raises Unavailable."""
        caller = Caller(f"ae:{titles.calling}", "", address=address)
        access = Access(
            Interaction.OPERATION, query=_request(titles), detail=(_OPERATION,),
            outcome=_OF_SERVER.get(reject, Outcome.SERIOUS), reason=reason,
        )
        self._refusals.note(caller, access)

    def silent(self, address: str, why: Silence) -> None:
        """Count a connection that ended before it had asked for anything. Never waits."""
        key = (network_of(address), why)
        with self._lock:
            if key not in self._silences and len(self._silences) >= _MOST:
                key = ("", why)
            self._silences[key] += 1
            self._arm()

    def _arm(self) -> None:
        if self._timer is None and not self._is_closed:
            self._timer = threading.Timer(self._flush_s, self.flush)
            self._timer.daemon = True
            self._timer.start()

    def ended(self, session: Session) -> None:
        """Record an accepted association that is over. Raises Unavailable."""
        batch, titles = session.batch, Titles(session.batch.origin.called_ae, session.entity.title, True)
        owner = session.entity.organization
        if session.refused:
            codes = " ".join(f"{code:04X}" for code in sorted(session.refused))
            is_ours = set(session.refused) == {Result.OUT_OF_RESOURCES.value.dimse}
            is_security = Result.NOT_AUTHORISED.value.dimse in session.refused
            self._disclose(session.caller, Access(
                Interaction.DICOM_STORE, "ImagingStudy", owner=owner, query=_request(titles),
                detail=(("refused", str(session.refused.total())), ("reasons", codes), ("door", batch.origin.door)),
                outcome=Outcome.MAJOR if is_ours else Outcome.SERIOUS if is_security else Outcome.MINOR,
                reason=f"{codes.split()[0]} instances were refused",
            ))
        elif not (batch.stored or batch.resent):
            served = tuple((name, str(count)) for name, count in sorted(session.served.items()))
            self._disclose(session.caller, Access(
                Interaction.OPERATION, owner=owner, query=_request(titles),
                detail=(_OPERATION, *served, ("ended", session.ending)),
            ))

    def flush(self) -> None:
        """Write down what was only counted; what cannot be written is counted on."""
        with self._lock:
            self._timer = None
            taken, self._silences = self._silences, Counter()
        for (network, why), count in taken.items():
            access = Access(
                Interaction.OPERATION, detail=(_OPERATION, ("attempts", str(count))),
                outcome=Outcome.SERIOUS if why is Silence.NO_TLS else Outcome.MINOR, reason=why.value,
            )
            try:
                self._disclose(Caller("", "", address=network, purpose=""), access)
            except Unavailable:
                log.warning("silent connections could not be recorded", count=count)
                with self._lock:
                    self._silences[network, why] += count
                    self._arm()

    def close(self) -> None:
        """Write down what was counted, and count no more by time."""
        with self._lock:
            self._is_closed = True
            timer = self._timer
        if timer is not None:
            timer.cancel()
        self._refusals.close()
        self.flush()

    def _disclose(self, caller: Caller, access: Access) -> None:
        self._store.trail.disclose(caller, [access], self._store.now())


def _request(titles: Titles) -> str:
    return f"A-ASSOCIATE calling={quote(titles.calling)}&called={quote(titles.called)}"
