"""pynetdicom's association within limits: what is read is bounded in size and time before it is believed.

pynetdicom 3.0.4 reads as many bytes as a PDU claims (up to 4 GiB), holds command and data sets in memory, waits for
slow senders for ever, and serves every message that it knows. Its parts are subclassed where that happens: the socket
(`_Socket`), the reader of PDUs (`_Reader`), the assembly of messages (`_Messages`) and the dispatch (`Served`).

PS3.8 §9.2 (state machine), §9.3.1 (PDUs); PS3.7 §6.3 (messages), §9.1 (DIMSE-C services).
"""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import structlog
from pynetdicom import AE, evt
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import C_STORE_RQ, DIMSEMessage
from pynetdicom.dimse_primitives import C_CANCEL
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.transport import AddressInformation, AssociationSocket

from dicomweb.dimse.datasets import DataSet
from dicomweb.dimse.limits import PDU_BYTES, PDU_SLACK_BYTES, Limits
from dicomweb.dimse.pdus import HEADER_BYTES, length_of

log = structlog.get_logger("vigie.dimse")

_P_DATA, _NO_DATA_SET = 0x04, 0x0101
_COMMAND, _LAST = 1, 2
"""Bits of a message control header (PS3.8 §E.2)."""
_INVALID_PDU = "Evt19"
_CLOSING = "Sta13"
"""State and event of PS3.8 §9.2.1, as pynetdicom names them."""
_SHORT_PDU_BYTES = 4


class Offered(Protocol):
    """A row of `services` as it is needed here."""

    @property
    def provider(self) -> Any:
        """pynetdicom's implementation of the service class."""
        ...


Offers = Callable[[str, str], Offered | None]
"""(name of the message, abstract syntax of its context) → the service that is offered for it."""


class Served(Association):  # type: ignore[misc]
    """An association with an admitted peer. `ended` is called once, when it is over."""

    def __init__(
        self, ae: AE, sock: socket.socket, request: bytes, *, limits: Limits, spool: Path | None,
        offers: Offers, ended: Callable[[Any], None],
    ) -> None:
        """`request`: the A-ASSOCIATE-RQ PDU, which was read already."""
        super().__init__(ae, MODE_ACCEPTOR)
        self.name = "dimse-association"
        self.offers = offers
        self._when_over = ended
        self.dul = _Reader(self, limits)
        self.dimse = _Messages(self, limits, spool)
        self.acse_timeout = limits.artim_s
        self.network_timeout = limits.network_s
        self.dimse_timeout = limits.network_s
        self.set_socket(_Socket(self, sock, request, limits))
        acceptor = self.acceptor
        acceptor.maximum_length = ae.maximum_pdu_size
        acceptor.ae_title = ae.ae_title
        acceptor.address_info = AddressInformation.from_tuple(sock.getsockname())
        acceptor.implementation_class_uid = ae.implementation_class_uid
        acceptor.implementation_version_name = ae.implementation_version_name
        self.requestor.address_info = AddressInformation.from_tuple(sock.getpeername())

    def _bind_defaults(self) -> None:
        """Without pynetdicom's own log of every PDU."""
        for event in evt._INTERVENTION_EVENTS:
            self.bind(event, evt.get_default_handler(event))

    def run_reactor(self) -> None:
        """Serve until the association is over."""
        try:
            super().run_reactor()
        except Exception:  # the place must be given back, whatever it was
            log.exception("an association ended by a fault")
        finally:
            self.dul.kill_dul()
            self.dul.socket.shut()
            self._when_over(self)

    def offered(self, message: str, context_id: int) -> Offered | None:
        """The service that is offered for a message of this name in this presentation context; None: none is."""
        context = self._accepted_cx.get(context_id)
        return context and self.offers(message, str(context.abstract_syntax))

    def _serve_request(self, msg: Any, context_id: int) -> None:
        """Give a request to the service that the table names for it; what is not offered ends the association."""
        offered = self.offered(f"{type(msg).__name__}_RQ", context_id)
        if offered is None or not msg.is_valid_request:
            log.warning("a message that is not offered ends its association")
            self.abort()
            return
        self.dimse.cancel_req = {}
        self._is_paused = True  # the service may call one of pynetdicom's send methods
        try:
            offered.provider(self).SCP(msg, self._accepted_cx[context_id])
        except Exception:
            log.exception("a DIMSE service failed")
            self.abort()
        self._is_paused = False
        self.dimse.cancel_req = {}


class _Socket(AssociationSocket):  # type: ignore[misc]
    """A connection whose first bytes have been read already."""

    def __init__(self, assoc: Served, sock: socket.socket, held: bytes, limits: Limits) -> None:
        super().__init__(assoc, client_socket=sock)
        self._raw = sock
        self._held = bytearray(held)
        self._limits = limits
        self._is_deaf = False
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    @property
    def ready(self) -> bool:
        """Whether something can be read. By poll: select() knows no descriptor above 1023."""
        if self.socket is None or not self._is_connected or self._is_deaf:
            return False
        if self._held:
            return True
        try:
            ready = bool(self._poll.poll(0))
        except OSError:
            self.event_queue.put("Evt17")
            return False
        return ready or (isinstance(self.socket, ssl.SSLSocket) and bool(self.socket.pending()))

    def header(self) -> bytes:
        """The header of the next PDU, left where it is. Raises OSError."""
        if len(self._held) < HEADER_BYTES:
            self._held += self._received(HEADER_BYTES - len(self._held))
        return bytes(self._held[:HEADER_BYTES])

    def recv(self, nr_bytes: int) -> bytearray:
        """Exactly so many bytes, fewer where the peer closes. Raises TimeoutError where they do not come in time."""
        taken = self._held[:nr_bytes]
        del self._held[:nr_bytes]
        if len(taken) < nr_bytes:
            taken += self._received(nr_bytes - len(taken))
        return taken

    def turn_deaf(self) -> None:
        """Read nothing any more: pynetdicom then closes the connection once it has said why."""
        self._held.clear()
        self._is_deaf = True

    def shut(self) -> None:
        """Close the connection, whoever still has it."""
        with suppress(OSError):
            self._raw.shutdown(socket.SHUT_RDWR)
        with suppress(OSError):
            self._raw.close()

    def _received(self, count: int) -> bytearray:
        buffer = bytearray(count)
        view = memoryview(buffer)
        got, deadline = 0, time.monotonic() + self._limits.pdu_s
        while got < count:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("a PDU did not come in time")
            self._raw.settimeout(left)
            size = self._raw.recv_into(view[got:])
            if not size:
                break
            got += size
        self._raw.settimeout(self._limits.network_s)
        view.release()
        del buffer[got:]
        return buffer

    def _shutdown_socket(self) -> None:
        self.shut()


class _Reader(DULServiceProvider):  # type: ignore[misc]
    """Looks at the length of a PDU before it reads it."""

    def __init__(self, assoc: Served, limits: Limits) -> None:
        super().__init__(assoc)
        self.daemon = True
        self._limits = limits

    def run_reactor(self) -> None:
        """Turn until the association is over. What the state machine does not know ends this association alone."""
        try:
            super().run_reactor()
        except Exception:
            log.exception("the upper layer of an association ended by a fault")

    def _process_recv_primitive(self) -> bool:
        if self.state_machine.current_state == _CLOSING:
            with self.to_provider_queue.mutex:  # answers of before: nobody will read them
                self.to_provider_queue.queue.clear()
        return bool(super()._process_recv_primitive())

    def _read_pdu_data(self) -> None:
        try:
            header = self.socket.header()
        except OSError:
            header = b""
        if len(header) == HEADER_BYTES and not self._is_bounded(header):
            log.warning("a PDU that is too long ends its association")
            self.socket.turn_deaf()
            self.event_queue.put(_INVALID_PDU)
            return
        super()._read_pdu_data()

    def _is_bounded(self, header: bytes) -> bool:
        kind, length = length_of(header)
        if kind == _P_DATA:
            return length <= PDU_BYTES + PDU_SLACK_BYTES
        if kind in (0x01, 0x02):
            return length <= self._limits.request_bytes
        return length <= _SHORT_PDU_BYTES or kind not in (0x03, 0x05, 0x06, 0x07)  # another kind is refused unread


class _Refused(Exception):
    """A message that ends its association."""


class _Messages(DIMSEServiceProvider):  # type: ignore[misc]
    """Puts messages together from their fragments, within limits; instances in files."""

    def __init__(self, assoc: Served, limits: Limits, spool: Path | None) -> None:
        super().__init__(assoc)
        self.message: Any = None
        self._limits = limits
        self._spool = spool
        self._began = 0.0
        self._context_id = 0
        self._command_bytes = self._dataset_bytes = 0
        self._is_instance = False

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Take the fragments of a P-DATA; what is beyond the limits, or not offered, ends the association."""
        try:
            for context_id, data in primitive.presentation_data_value_list:
                self._take(context_id, data)
        except _Refused as error:
            self._refuse(str(error))
        except Exception:
            log.exception("a message could not be read")
            self._refuse("unreadable")

    def _refuse(self, reason: str) -> None:
        log.warning("a message ends its association", reason=reason)
        self.message = None
        self.dul.socket.turn_deaf()
        self.dul.event_queue.put(_INVALID_PDU)

    def _take(self, context_id: int, data: bytes) -> None:
        if self.message is None:
            self.message = DIMSEMessage()
            self._began = time.monotonic()
            self._context_id = context_id
            self._command_bytes = self._dataset_bytes = 0
            self._is_instance = False
        self._count(context_id, data)
        fragment = P_DATA()
        fragment.presentation_data_value_list = [[context_id, data]]
        is_complete = self.message.decode_msg(fragment, self.assoc)
        if data[0] & (_COMMAND | _LAST) == _COMMAND | _LAST:
            self._commanded()
        if is_complete:
            self._complete()

    def _count(self, context_id: int, data: bytes) -> None:
        limits = self._limits
        is_commanded = self.message.context_id is not None
        if context_id != self._context_id or is_commanded == bool(data[0] & _COMMAND):
            raise _Refused("fragment out of order")  # PS3.8 Annex E: of one context, the command set first
        if not is_commanded:
            self._command_bytes += len(data)
            if self._command_bytes > limits.command_bytes:
                raise _Refused("command set")
            return
        self._dataset_bytes += len(data)
        if self._dataset_bytes > (limits.dataset_bytes if self._is_instance else limits.identifier_bytes):
            raise _Refused("data set too long")
        late = time.monotonic() - self._began - limits.dataset_grace_s
        if late > 0 and self._dataset_bytes < (late + limits.dataset_grace_s) * limits.dataset_bytes_per_s:
            raise _Refused("data set too slow")

    def _commanded(self) -> None:
        """The command set is there: it says what the data set is. What will not be served has none received."""
        name = type(self.message).__name__
        if name != "C_CANCEL_RQ" and self.assoc.offered(name, self.message.context_id) is None:
            raise _Refused("not offered")
        if isinstance(self.message, C_STORE_RQ) and self.message.command_set.CommandDataSetType != _NO_DATA_SET:
            self._is_instance = True
            self.message.data_set = DataSet(self._spool)

    def _complete(self) -> None:
        message, self.message = self.message, None
        primitive = message.message_to_primitive()
        if isinstance(primitive, C_CANCEL):
            if len(self.cancel_req) < self._limits.requests:
                self.cancel_req[primitive.MessageIDBeingRespondedTo] = primitive
            return
        if self.msg_queue.qsize() >= self._limits.requests:
            raise _Refused("too many requests at once")
        self.msg_queue.put((message.context_id, primitive))
