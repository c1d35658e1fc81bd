"""The DIMSE server: listeners, admission, associations and their end, put together.

An association is admitted before pynetdicom sees it: the AE titles of its request are looked up, the peer must be whom
the title is registered for, and there must be a place. A study is published when its association ends, however it ends.

PS3.8 §9.3.4 (A-ASSOCIATE-RJ), PS3.4 Annexes A and B.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from pynetdicom import AE, evt

from dicomweb.ae import ApplicationEntity, Registry
from dicomweb.batches import Batch, Origin
from dicomweb.dimse import services, tls
from dicomweb.dimse.association import Served
from dicomweb.dimse.limits import PDU_BYTES, Claim, Limits, Places
from dicomweb.dimse.listener import Arrival, Listener
from dicomweb.dimse.pdus import Abort, Reject, Titles, titles_of
from dicomweb.dimse.records import Records
from dicomweb.dimse.services import Call, Desk, Service
from dicomweb.dimse.session import Session
from resources.outcomes import FhirError
from store.access import Caller, Recording
from store.engine.faults import DRIVER_ERRORS
from store.unit_of_work import Store

log = structlog.get_logger("vigie.dimse")

ANY = "*"
_RECEIVERS = 4
"""Requests that are looked up at once."""
_ADMITTED = (Reject.LOCAL_LIMIT_EXCEEDED, "no place is left for this AE title, address or organisation")
"""Why an admitted peer may be refused still."""
_NO_LIMIT = 1_000_000
"""pynetdicom counts associations as well, but not whose they are."""


class Scp:
    """A DIMSE server. `start` and `start_tls` return at once; `stop` ends the associations and returns."""

    def __init__(
        self, desk: Desk, store: Store, *, ae_titles: Collection[str] = ("VIGIE",), limits: Limits | None = None,
        spool: Path | None = None,
    ) -> None:
        """`ae_titles`: the called AE titles that are answered to, the first one is ours; `*`: any."""
        self._desk = desk
        self._limits = limits or Limits()
        self._spool = spool
        self._registry = Registry(store)
        self._records = Records(store)
        self._called = frozenset(ae_titles)
        self.places = Places(self._limits)
        self._sessions: dict[Served, Session] = {}
        self._lock = threading.Lock()
        self._pending = 0
        self._receivers = ThreadPoolExecutor(_RECEIVERS, thread_name_prefix="dimse-reception")
        self._listeners: list[Listener] = []
        own = next((title for title in ae_titles if title != ANY), "VIGIE")
        self._ae = AE(ae_title=own)
        self._ae.maximum_pdu_size = PDU_BYTES
        self._ae.maximum_associations = _NO_LIMIT

    def start(self, host: str, port: int) -> int:
        """Listen without TLS; returns the port (a free one where 0 was asked). Raises OSError."""
        return self._listen(host, port, None)

    def start_tls(self, host: str, port: int, context: ssl.SSLContext) -> int:
        """Listen with TLS (`tls.server_context`); returns the port. Raises OSError."""
        return self._listen(host, port, context)

    @property
    def associations(self) -> int:
        """How many associations there are now."""
        return self.places.taken

    @property
    def waiting(self) -> int:
        """How many connections have not been associated."""
        return sum(listener.waiting for listener in self._listeners)

    def stop(self) -> None:
        """Close the ports, end the associations, publish what they stored, record what was only counted."""
        for listener in self._listeners:
            listener.stop()
        self._listeners = []
        self._receivers.shutdown()
        with self._lock:
            associations = list(self._sessions)
        for association in associations:
            if association.is_established:
                association.abort()
        for association in associations:
            association.join(timeout=5)
        with self._lock:
            left = list(self._sessions)
        for association in left:
            self._over(association)
        self._records.close()

    def _listen(self, host: str, port: int, context: ssl.SSLContext | None) -> int:
        # The listener is known to its own callback only once it is made.
        listener = Listener(self._limits, lambda arrival: self._receive(listener, arrival), self._records.silent,
                            context)
        self._listeners.append(listener)
        return listener.start(host, port)

    # Admission

    def _receive(self, listener: Listener, arrival: Arrival) -> bool:
        """In the listener's thread: never waits."""
        with self._lock:
            if self._pending >= self._limits.waiting:
                return False
            self._pending += 1
        try:
            self._receivers.submit(self._admit, listener, arrival)
        except RuntimeError:  # it is being stopped
            return False
        return True

    def _admit(self, listener: Listener, arrival: Arrival) -> None:
        try:
            self._decide(listener, arrival)
        except Exception:
            log.exception("an association could not be admitted")
            listener.dismiss(arrival.sock, arrival.address, Reject.TEMPORARY_CONGESTION.pdu)
        finally:
            with self._lock:
                self._pending -= 1

    def _decide(self, listener: Listener, arrival: Arrival) -> None:
        titles = titles_of(arrival.request)
        if titles is None:
            listener.dismiss(arrival.sock, arrival.address, Abort.INVALID_PDU_PARAMETER.pdu)
            self._records.refused(Titles("", "", False), arrival.address, Reject.PROTOCOL_VERSION, "no AE titles")
            return
        try:
            entity, refusal = self._judged(titles, arrival)
        except (FhirError, *DRIVER_ERRORS):
            log.exception("an association is refused: the database cannot serve")
            entity, refusal = None, (Reject.TEMPORARY_CONGESTION, "the database is not available")
        if entity is not None:
            claim = Claim(entity.title, arrival.address, entity.organization)
            if self.places.take(claim):
                self._accept(arrival, titles, entity, claim)
                return
        self._refuse(listener, arrival, titles, *refusal)

    def _judged(
        self, titles: Titles, arrival: Arrival
    ) -> tuple[ApplicationEntity | None, tuple[Reject, str]]:
        """Who it is, or why it is refused. What a stranger is told does not say which titles are known here."""
        if not titles.speaks_version_1:
            return None, (Reject.PROTOCOL_VERSION, "protocol version")
        entity = self._registry.find(titles.calling)
        certificate = None if arrival.certificate is None else tls.fingerprint(arrival.certificate)
        if entity is None:
            return None, (Reject.CALLING_AE_NOT_RECOGNISED, "the calling AE title is not registered")
        if not entity.is_believed(arrival.address, certificate):
            return None, (Reject.CALLING_AE_NOT_RECOGNISED, _disbelief(entity, certificate))
        if ANY not in self._called and titles.called not in self._called:
            return None, (Reject.CALLED_AE_NOT_RECOGNISED, "the called AE title is none of this server")
        return entity, _ADMITTED

    def _refuse(
        self, listener: Listener, arrival: Arrival, titles: Titles, reject: Reject, reason: str
    ) -> None:
        try:
            self._records.refused(titles, arrival.address, reject, reason)
        except FhirError:
            log.exception("a refused association could not be recorded")
        finally:
            listener.dismiss(arrival.sock, arrival.address, reject.pdu)

    def _accept(self, arrival: Arrival, titles: Titles, entity: ApplicationEntity, claim: Claim) -> None:
        try:
            self._begin(arrival, titles, entity, claim)
        except BaseException:
            self.places.free(claim)
            raise

    def _begin(self, arrival: Arrival, titles: Titles, entity: ApplicationEntity, claim: Claim) -> None:
        recording = Recording()
        caller = Caller(
            f"ae:{entity.title}", entity.organization, services.SCOPES, "modality", address=arrival.address,
            purpose="TREAT", recording=recording,
        )
        origin = Origin("c-store", caller.client_id, arrival.address, titles.calling, titles.called)
        certificate = None if arrival.certificate is None else tls.fingerprint(arrival.certificate)
        session = Session(entity, caller, Batch(caller, origin), claim, recording, certificate)
        association = Served(
            self._ae, arrival.sock, arrival.request, limits=self._limits, spool=self._spool,
            offers=lambda message, uid: services.offered(message, uid, entity), ended=self._over,
        )
        association.bind(evt.EVT_REQUESTED, _negotiate, [entity])
        association.bind(evt.EVT_RELEASED, self._ending, ["released"])
        association.bind(evt.EVT_ABORTED, self._ending, ["aborted"])
        for one in services.SERVICES:
            association.bind(one.event, partial(self._serve, one, session))
        with self._lock:
            self._sessions[association] = session
        try:
            association.start()
        except BaseException:
            with self._lock:
                del self._sessions[association]
            raise

    # In an association's thread

    def _serve(self, service: Service, session: Session, event: Any) -> Any:
        session.served[service.name] += 1
        return service.handler(Call(event, session, self._desk))

    def _ending(self, event: Any, how: str) -> None:
        with self._lock:
            session = self._sessions.get(event.assoc)
        if session is not None:
            session.ending = how
            self._finish(session)

    def _over(self, association: Served) -> None:
        """The association's thread ends: its place is free."""
        with self._lock:
            session = self._sessions.pop(association, None)
        if session is not None:
            self._finish(session)
            self.places.free(session.claim)

    def _finish(self, session: Session) -> None:
        """Publish what an association stored and record it, once. What fails here is found by the loop."""
        if not session.close():
            return
        session.recording.is_recorded = False
        try:
            self._desk.ingest.finish(session.batch)
        except FhirError:
            log.exception("a study could not be published at once: the loop will")
        try:
            self._records.ended(session)
        except FhirError:
            log.exception("an association could not be recorded")


def _negotiate(event: Any, entity: ApplicationEntity) -> None:
    """Support what is proposed and offered: before pynetdicom negotiates (PS3.8 §9.3.3)."""
    proposed = event.assoc.requestor.primitive.presentation_context_definition_list
    event.assoc.acceptor.supported_contexts = services.contexts(
        (str(one.abstract_syntax) for one in proposed), entity
    )


def _disbelief(entity: ApplicationEntity, certificate: str | None) -> str:
    if not entity.active:
        return "the calling AE title is disabled"
    if certificate is not None and certificate not in entity.certificates:
        return "the certificate is not registered for the calling AE title"
    return "the calling AE title is not registered for this address"
