"""Storage and Verification SCP: the second door of the same ingest.

An AE title belongs to an organisation; an unknown one is refused at the association. The data set is never decoded in
the association's thread: what came is written as it came. The study is published when the association ends, however it
ends.

DICOM PS3.4 Annex A (verification), Annex B (storage); PS3.7 §9.1.1 (C-STORE); PS3.8 §9.3.4 (A-ASSOCIATE-RJ).
"""

from __future__ import annotations

import socket
import threading
from typing import Any

import structlog
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.dsutils import encode_file_meta
from pynetdicom.sop_class import Verification

from dicomweb import part10, writes
from dicomweb.batches import Batch, Origin
from dicomweb.ingest import Ingest
from dicomweb.media_types import COMPRESSED
from dicomweb.part10 import DEFLATED_LE, EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE
from dicomweb.reader import Unreadable
from dicomweb.status import Result, StoredOutcome
from resources.outcomes import FhirError, Forbidden
from store.access import Access, Caller, Interaction
from store.engine.faults import DRIVER_ERRORS
from store.unit_of_work import Store

log = structlog.get_logger("vigie.dimse")

TRANSFER_SYNTAXES = [EXPLICIT_LE, IMPLICIT_LE, *COMPRESSED, DEFLATED_LE, EXPLICIT_BE]
"""Stored as they come, best first."""
SCOPES = frozenset({"system/ImagingStudy.cu"})
"""What an AE title may do: store images, and nothing else."""
PDU_BYTES = 131072
CALLING_AE_NOT_RECOGNISED = (0x01, 0x01, 0x03)
TEMPORARY_CONGESTION = (0x02, 0x03, 0x01)


class Scp:
    """A Storage SCP. `start` returns at once; `stop` ends the associations and returns."""

    def __init__(
        self, ingest: Ingest, store: Store, *, ae_title: str = "VIGIE", max_associations: int = 64,
        network_timeout_s: float = 60.0,
    ) -> None:
        self._ingest = ingest
        self._store = store
        self._batches: dict[Any, Batch] = {}
        self._lock = threading.Lock()
        self._server: Any = None
        ae = AE(ae_title=ae_title)
        ae.maximum_pdu_size = PDU_BYTES
        ae.maximum_associations = max_associations
        ae.network_timeout = network_timeout_s
        ae.dimse_timeout = network_timeout_s
        ae.acse_timeout = 30.0
        ae.add_supported_context(Verification)
        for context in AllStoragePresentationContexts:
            ae.add_supported_context(context.abstract_syntax, TRANSFER_SYNTAXES)
        self._ae = ae

    def start(self, host: str, port: int) -> int:
        """Listen; returns the port (a free one where 0 was asked)."""
        handlers = [
            (evt.EVT_CONN_OPEN, _without_delay),
            (evt.EVT_REQUESTED, self._requested),
            (evt.EVT_C_ECHO, lambda event: 0x0000),
            (evt.EVT_C_STORE, self._store_instance),
            (evt.EVT_RELEASED, self._ended),
            (evt.EVT_ABORTED, self._ended),
            (evt.EVT_CONN_CLOSE, self._ended),
        ]
        self._server = self._ae.start_server((host, port), block=False, evt_handlers=handlers)
        return int(self._server.server_address[1])

    @property
    def associations(self) -> int:
        """How many associations are open."""
        return 0 if self._server is None else len(self._server.active_associations)

    def stop(self) -> None:
        """End the associations, publish what they stored, close the port."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            associations = [one for one in server.active_associations if one.is_established]
            for association in associations:
                association.abort()
            for association in associations:
                association.join(timeout=5)
        for association in list(self._batches):
            self._finish(association)

    # Handlers; pynetdicom calls them in the association's thread

    def _requested(self, event: Any) -> None:
        requestor = event.assoc.requestor
        calling = str(requestor.primitive.calling_ae_title).strip()
        called = str(requestor.primitive.called_ae_title).strip()
        address = str(requestor.address or "")
        try:
            caller = self._caller(calling, address)
        except (FhirError, *DRIVER_ERRORS):
            log.exception("an association is refused: the database cannot serve")
            caller, reason = None, TEMPORARY_CONGESTION
        else:
            reason = CALLING_AE_NOT_RECOGNISED
        if caller is None:
            event.assoc.acse.send_reject(*reason)
            evt.trigger(event.assoc, evt.EVT_REJECTED, {})
            event.assoc.kill()
            return
        origin = Origin("c-store", caller.client_id, address, calling, called)
        with self._lock:
            self._batches[event.assoc] = Batch(caller, origin)

    def _caller(self, calling: str, address: str) -> Caller | None:
        with self._store.database.read() as connection:
            known = writes.ae_of(connection, calling)
        if known is not None and known.active and known.address in {"", address}:
            return Caller(f"ae:{calling}", known.organization, SCOPES, "modality", address=address, purpose="TREAT")
        nobody = Caller(f"ae:{calling}", "", address=address)
        refusal = Forbidden("The calling AE title is not known here")
        self._store.record_failure(nobody, Access(Interaction.DICOM_STORE, "ImagingStudy"), refusal)
        return None

    def _store_instance(self, event: Any) -> int:
        batch = self._batches.get(event.assoc)
        if batch is None:
            return Result.NOT_AUTHORISED.value.dimse
        message = event.request
        uid = str(message.AffectedSOPInstanceUID)
        try:
            part = part10.compose(
                encode_file_meta(event.file_meta),
                message.DataSet.getvalue(),
                sop_class_uid=str(message.AffectedSOPClassUID),
                sop_instance_uid=uid,
                transfer_syntax_uid=str(event.context.transfer_syntax),
            )
            outcome = self._ingest.store_instance(part, batch, sop_instance_uid=uid)
        except Unreadable as error:
            outcome = StoredOutcome(Result.NOT_UNDERSTOOD, reason=str(error))
        except FhirError:
            outcome = StoredOutcome(Result.OUT_OF_RESOURCES, reason="the instance could not be recorded")
        if not outcome.result.is_stored:
            log.warning("an instance is refused", result=outcome.result.name)
        return outcome.result.value.dimse

    def _ended(self, event: Any) -> None:
        self._finish(event.assoc)

    def _finish(self, association: Any) -> None:
        """Publish what an association stored, once. What fails here is found by the loop."""
        with self._lock:
            batch = self._batches.pop(association, None)
        if batch is None:
            return
        try:
            self._ingest.finish(batch)
        except FhirError:
            log.exception("a study could not be published at once: the loop will")


def _without_delay(event: Any) -> None:
    """Small responses leave at once (TCP_NODELAY): else each C-STORE waits for a delayed ACK."""
    sock = event.assoc.dul.socket.socket
    if sock is not None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
