"""Connections until they have sent an association request: one thread for all of them, little memory, a short time.

A connection costs no thread, no place and no association before its whole A-ASSOCIATE-RQ has been read. It has the
ARTIM time for that, the TLS handshake included; its length is looked at before anything is read; and where there are
too many, the oldest is closed, so that silent and half-open connections shut nobody out who speaks at once.

PS3.8 §9.1.5 (ARTIM), §9.2.2 (Sta2), §9.3.1 (PDU structure).
"""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import ssl
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto

import structlog

from dicomweb.dimse.limits import Limits
from dicomweb.dimse.pdus import ASSOCIATE_RQ, HEADER_BYTES, Abort, Reject, length_of

log = structlog.get_logger("vigie.dimse")

_BACKLOG = 512
_ACCEPTED_AT_ONCE = 64
_DRAINED_BYTES = 32 * 1024
"""What a refused peer may still send while it takes its refusal."""
_PAUSE_S = 0.1
"""After a shortage of descriptors."""


class Silence(Enum):
    """Why a connection ended before its request was complete."""

    LATE = "no association request in time"
    CROWDED_OUT = "no association request, and too many connections"
    NO_DICOM = "not an association request"
    TOO_LONG = "an association request that is too long"
    NO_TLS = "no TLS handshake, or no certificate that is accepted"


class _Stage(Enum):
    HANDSHAKE = auto()
    REQUEST = auto()
    LEAVING = auto()


@dataclass(slots=True)
class Arrival:
    """A complete association request, and the connection that it came by (blocking again)."""

    sock: socket.socket
    address: str
    request: bytes
    certificate: bytes | None
    """DER; None without TLS."""


@dataclass(slots=True, eq=False)
class _Connection:
    sock: socket.socket
    address: str
    stage: _Stage
    deadline: float
    buffer: bytearray = field(default_factory=bytearray)
    wanted: int = HEADER_BYTES
    drained: int = 0


class Listener:
    """Listens on one port. `receive` is called for each request and returns at once; False: there are too many."""

    def __init__(
        self,
        limits: Limits,
        receive: Callable[[Arrival], bool],
        silent: Callable[[str, Silence], None],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._limits = limits
        self._receive = receive
        self._silent = silent
        self._tls = tls
        self._selector = selectors.DefaultSelector()
        self._connections: OrderedDict[_Connection, None] = OrderedDict()
        """In the order of their deadlines."""
        self._per_address: Counter[str] = Counter()
        self._buffered = 0
        self._leaving: deque[tuple[socket.socket, str]] = deque()
        self._bell, self._rope = socket.socketpair()
        self._stopping = self._is_over = False
        self._accepts_from = 0.0
        self._socket: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, name="dimse-listener", daemon=True)

    def start(self, host: str, port: int) -> int:
        """Listen; returns the port. Raises OSError."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(_BACKLOG)
        listening.setblocking(False)
        self._selector.register(listening, selectors.EVENT_READ)
        self._bell.setblocking(False)
        self._selector.register(self._bell, selectors.EVENT_READ)
        self._thread.start()
        return int(listening.getsockname()[1])

    def stop(self) -> None:
        """Close the port and all connections that are not associated."""
        self._stopping = True
        self._ring()
        self._thread.join()

    def dismiss(self, sock: socket.socket, address: str, pdu: bytes) -> None:
        """Refuse a peer whose request was received: send `pdu`, and close once it has, or in the ARTIM time."""
        with contextlib.suppress(OSError):
            sock.settimeout(1.0)
            sock.sendall(pdu)
        self._leaving.append((sock, address))
        self._ring()
        if self._is_over:
            self._close_leaving()

    @property
    def waiting(self) -> int:
        """Connections that are not associated now."""
        return len(self._connections)

    # In the listener's thread

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._turn()
        finally:
            self._is_over = True
            self._close_leaving()
            for connection in list(self._connections):
                self._close(connection)
            self._selector.close()
            for sock in (self._socket, self._bell, self._rope):
                if sock is not None:
                    sock.close()

    def _turn(self) -> None:
        for key, _ in self._selector.select(self._until_next()):
            if key.fileobj is self._socket:
                self._accept()
            elif key.fileobj is self._bell:
                with contextlib.suppress(BlockingIOError):
                    self._bell.recv(4096)
            elif key.data in self._connections:  # not closed by what went before in this turn
                self._serve(key.data)
        while self._leaving:
            self._let_go(*self._leaving.popleft())
        now = time.monotonic()
        while self._connections:
            oldest = next(iter(self._connections))
            if oldest.deadline > now:
                break
            self._end(oldest, Silence.LATE)

    def _until_next(self) -> float | None:
        if not self._connections:
            return None
        return max(0.0, next(iter(self._connections)).deadline - time.monotonic())

    def _accept(self) -> None:
        if time.monotonic() < self._accepts_from:
            time.sleep(_PAUSE_S)
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                sock, peer = self._socket.accept()  # type: ignore[union-attr]
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._accepts_from = time.monotonic() + _PAUSE_S
                    self._crowd_out(next(iter(self._connections), None))
                    log.warning("no descriptor is left for a connection")
                return
            self._welcome(sock, str(peer[0]))

    def _welcome(self, sock: socket.socket, address: str) -> None:
        stage = _Stage.REQUEST
        try:
            sock.setblocking(False)
            # Small responses leave at once: else each C-STORE waits for a delayed ACK.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
                stage = _Stage.HANDSHAKE
        except OSError:
            sock.close()
            return
        if self._per_address[address] >= self._limits.connections_per_address:
            self._crowd_out(next(one for one in self._connections if one.address == address))
        elif len(self._connections) >= self._limits.connections:
            busiest = self._per_address.most_common(1)[0][0]
            self._crowd_out(next(one for one in self._connections if one.address == busiest))
        self._add(_Connection(sock, address, stage, time.monotonic() + self._limits.artim_s))

    def _add(self, connection: _Connection) -> None:
        self._connections[connection] = None
        self._per_address[connection.address] += 1
        self._selector.register(connection.sock, selectors.EVENT_READ, connection)

    def _serve(self, connection: _Connection) -> None:
        try:
            if connection.stage is _Stage.HANDSHAKE and not self._shake_hands(connection):
                return
            if connection.stage is _Stage.REQUEST:
                self._read(connection)
            else:
                self._drain(connection)
        except (ssl.SSLWantReadError, BlockingIOError):
            self._selector.modify(connection.sock, selectors.EVENT_READ, connection)
        except ssl.SSLWantWriteError:
            self._selector.modify(connection.sock, selectors.EVENT_WRITE, connection)
        except ssl.SSLError:
            self._end(connection, Silence.NO_TLS)
        except OSError:
            self._close(connection)

    def _shake_hands(self, connection: _Connection) -> bool:
        connection.sock.do_handshake()  # type: ignore[attr-defined]
        connection.stage = _Stage.REQUEST
        return True

    def _read(self, connection: _Connection) -> None:
        while connection.wanted:
            piece = connection.sock.recv(min(connection.wanted, 65_536))
            if not piece:
                if connection.buffer:
                    self._end(connection, Silence.NO_DICOM)
                else:  # a probe of the port: nothing was asked
                    self._close(connection)
                return
            connection.buffer += piece
            connection.wanted -= len(piece)
            self._buffered += len(piece)
            if len(connection.buffer) == HEADER_BYTES:
                kind, length = length_of(connection.buffer)
                if kind != ASSOCIATE_RQ:
                    self._abort(connection, Abort.UNRECOGNISED_PDU, Silence.NO_DICOM)
                    return
                if length > self._limits.request_bytes:
                    self._abort(connection, Abort.INVALID_PDU_PARAMETER, Silence.TOO_LONG)
                    return
                connection.wanted = length
            while self._buffered > self._limits.buffered_bytes:
                self._crowd_out(next(one for one in self._connections if one.buffer))
                if connection not in self._connections:
                    return
        self._hand_over(connection)

    def _hand_over(self, connection: _Connection) -> None:
        request = bytes(connection.buffer)
        self._forget(connection)
        sock = connection.sock
        certificate = sock.getpeercert(binary_form=True) if isinstance(sock, ssl.SSLSocket) else None
        sock.settimeout(self._limits.network_s)
        if not self._receive(Arrival(sock, connection.address, request, certificate)):
            sock.setblocking(False)
            with contextlib.suppress(OSError):
                sock.send(Reject.TEMPORARY_CONGESTION.pdu)
            self._let_go(sock, connection.address)

    def _abort(self, connection: _Connection, abort: Abort, why: Silence) -> None:
        with contextlib.suppress(OSError):
            connection.sock.send(abort.pdu)
        self._silent(connection.address, why)
        self._forget(connection)
        self._let_go(connection.sock, connection.address)

    def _let_go(self, sock: socket.socket, address: str) -> None:
        """Wait for the peer to close, so that what was sent reaches it (PS3.8 Sta13)."""
        try:
            sock.setblocking(False)
            if not isinstance(sock, ssl.SSLSocket):
                sock.shutdown(socket.SHUT_WR)
        except OSError:
            sock.close()
            return
        self._add(_Connection(sock, address, _Stage.LEAVING, time.monotonic() + self._limits.artim_s))

    def _drain(self, connection: _Connection) -> None:
        piece = connection.sock.recv(4096)
        connection.drained += len(piece)
        if not piece or connection.drained > _DRAINED_BYTES:
            self._close(connection)

    def _crowd_out(self, connection: _Connection | None) -> None:
        if connection is not None:
            self._end(connection, Silence.CROWDED_OUT)

    def _end(self, connection: _Connection, why: Silence) -> None:
        if connection.stage is not _Stage.LEAVING:
            self._silent(connection.address, why)
        self._close(connection)

    def _close(self, connection: _Connection) -> None:
        self._forget(connection)
        connection.sock.close()

    def _forget(self, connection: _Connection) -> None:
        if connection not in self._connections:
            return
        del self._connections[connection]
        self._buffered -= len(connection.buffer)
        self._per_address[connection.address] -= 1
        if self._per_address[connection.address] <= 0:
            del self._per_address[connection.address]
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(connection.sock)

    def _close_leaving(self) -> None:
        """Close those that came to be dismissed while the listener ended."""
        with contextlib.suppress(IndexError):
            while True:
                self._leaving.popleft()[0].close()

    def _ring(self) -> None:
        with contextlib.suppress(OSError):
            self._rope.send(b"\0")
