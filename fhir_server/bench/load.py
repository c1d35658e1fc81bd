"""A closed-loop load over keep-alive connections, light enough not to be what is measured.

Each connection sends a prepared request, reads the whole answer, and sends the next; plain sockets, no HTTP library.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

Request = Callable[[int], bytes]
"""Number of the request (over all connections) → its bytes."""


@dataclass(slots=True)
class Measured:
    """What a run saw."""

    seconds: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)

    def add(self, other: Measured) -> None:
        """Count another run of the same work too."""
        self.seconds += other.seconds
        self.latencies_s += other.latencies_s
        for status, count in other.statuses.items():
            self.statuses[status] = self.statuses.get(status, 0) + count

    @property
    def per_second(self) -> float:
        """Answers of 2xx per second."""
        good = sum(count for status, count in self.statuses.items() if 200 <= status < 300)
        return good / self.seconds if self.seconds else 0.0

    def percentile_ms(self, percent: float) -> float:
        """The latency that `percent` of the requests did not exceed."""
        ordered = sorted(self.latencies_s)
        return 1000 * ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else 0.0

    def json(self) -> dict[str, object]:
        """For the raw file."""
        return {
            "per_second": round(self.per_second, 1),
            "p50_ms": round(self.percentile_ms(50), 2),
            "p99_ms": round(self.percentile_ms(99), 2),
            "statuses": dict(sorted(self.statuses.items())),
        }


def request(
    method: str,
    path: str,
    host: str,
    *,
    token: str | None = None,
    body: bytes = b"",
    content_type: str = "application/fhir+json",
    accept: str = "*/*",
) -> bytes:
    """One HTTP/1.1 request as bytes."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", f"Accept: {accept}"]
    if token:
        lines.append(f"Authorization: Bearer {token}")
    if body:
        lines += [f"Content-Type: {content_type}", f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def run(host: str, port: int, make: Request, *, seconds: float, connections: int = 8) -> Measured:
    """Load for `seconds` after a short warm-up that is not counted."""
    counter = iter(range(10**9))
    counting = threading.Lock()

    def number() -> int:
        with counting:
            return next(counter)

    results: list[Measured] = []
    begin = time.perf_counter() + min(1.0, seconds / 4)
    end = begin + seconds

    def work() -> None:
        mine = Measured()
        results.append(mine)
        connection = Connection(host, port)
        try:
            while (sent := time.perf_counter()) < end:
                status = connection.ask(make(number()))
                if sent >= begin:
                    mine.latencies_s.append(time.perf_counter() - sent)
                    mine.statuses[status] = mine.statuses.get(status, 0) + 1
        finally:
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = Measured(seconds=time.perf_counter() - begin)
    for one in results:
        total.add(one)
    return total


class Connection:
    """One keep-alive connection."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._socket = self._connect()
        self._buffer = b""
        self.body = b""

    def ask(self, content: bytes) -> int:
        """Send a request; the status of its answer. The body is in `body`."""
        try:
            self._socket.sendall(content)
            return self._answer()
        except OSError:
            self._socket.close()
            self._socket, self._buffer = self._connect(), b""
            self._socket.sendall(content)
            return self._answer()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _connect(self) -> socket.socket:
        made = socket.create_connection(self._address, timeout=60)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made

    def _answer(self) -> int:
        while b"\r\n\r\n" not in self._buffer:
            self._more()
        head, _, rest = self._buffer.partition(b"\r\n\r\n")
        lower = head.lower()
        if b"transfer-encoding: chunked" in lower:
            self._buffer = rest
            self.body = self._chunks()
        else:
            length = 0
            at = lower.find(b"content-length:")
            if at >= 0:
                length = int(lower[at + 15 :].split(b"\r\n", 1)[0])
            self._buffer = rest
            self.body = self._exactly(length)
        return int(head[9:12])

    def _chunks(self) -> bytes:
        pieces: list[bytes] = []
        while True:
            while b"\r\n" not in self._buffer:
                self._more()
            size, _, self._buffer = self._buffer.partition(b"\r\n")
            piece = self._exactly(int(size, 16))
            self._exactly(2)
            if not piece:
                return b"".join(pieces)
            pieces.append(piece)

    def _exactly(self, length: int) -> bytes:
        if len(self._buffer) < length:
            pieces, have = [self._buffer], len(self._buffer)
            while have < length:
                piece = self._socket.recv(min(1 << 20, length - have))
                if not piece:
                    raise OSError("closed")
                pieces.append(piece)
                have += len(piece)
            self._buffer = b"".join(pieces)
        taken, self._buffer = self._buffer[:length], self._buffer[length:]
        return taken

    def _more(self) -> None:
        piece = self._socket.recv(65536)
        if not piece:
            raise OSError("closed")
        self._buffer += piece
