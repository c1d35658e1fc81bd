"""The web process as it is served, Granian and the front included, on a database of the test's own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from fhir_server.server.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
_READY_WITHIN_S = 60.0


@dataclass
class Answer:
    """One HTTP/1.1 response."""

    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float
    closed: bool = False


@dataclass
class Web:
    """A running web process."""

    settings: Settings
    process: subprocess.Popen[bytes]
    opened: list[socket.socket] = field(default_factory=list)

    @property
    def port(self) -> int:
        return self.settings.port

    def connect(self) -> socket.socket:
        made = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        self.opened.append(made)
        return made

    def send(self, head: str, body: bytes = b"", *, host: bool = True) -> socket.socket:
        """A connection on which a request has begun: `head` is the request line and headers, a line each."""
        lines = [line.strip() for line in head.strip().splitlines()]
        if host:
            lines.insert(1, f"Host: 127.0.0.1:{self.port}")
        made = self.connect()
        made.sendall(("\r\n".join(lines) + "\r\n\r\n").encode() + body)
        return made

    def ask(self, head: str, body: bytes = b"", *, host: bool = True) -> Answer:
        began = time.monotonic()
        with self.send(head, body, host=host) as connection:
            return replace(read(connection), seconds=time.monotonic() - began)

    def get(self, path: str, token: str | None = None, *headers: str) -> Answer:
        lines = [f"GET {path} HTTP/1.1", *headers]
        if token:
            lines.append(f"Authorization: Bearer {token}")
        return self.ask("\n".join(lines))

    def workers(self) -> list[int]:
        """The processes that answer."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(pid) for pid in children]

    def memory(self) -> int:
        """Resident bytes of the workers."""
        pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self.workers())
        return pages * os.sysconf("SC_PAGE_SIZE")


def read(connection: socket.socket, *, head_only: bool = False) -> Answer:
    """The next response; its body by Content-Length or chunks."""
    content = b""
    while b"\r\n\r\n" not in content:
        piece = connection.recv(65536)
        if not piece:
            return Answer(0, {}, content, 0.0, closed=True)
        content += piece
    head, _, rest = content.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    status = int(first.split()[1])
    if status == 100:
        connection_rest = rest
        if connection_rest:
            raise AssertionError("bytes behind 100 Continue")
        return read(connection)
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    if head_only or status in (204, 304):
        return Answer(status, headers, rest, 0.0)
    if headers.get("transfer-encoding") == "chunked":
        return Answer(status, headers, _chunks(connection, rest), 0.0)
    length = int(headers.get("content-length", "0"))
    while len(rest) < length:
        piece = connection.recv(65536)
        if not piece:
            return Answer(status, headers, rest, 0.0, closed=True)
        rest += piece
    return Answer(status, headers, rest, 0.0)


def _chunks(connection: socket.socket, rest: bytes) -> bytes:
    body = b""
    while True:
        while b"\r\n" not in rest:
            rest += _some(connection)
        size, _, rest = rest.partition(b"\r\n")
        wanted = int(size, 16)
        while len(rest) < wanted + 2:
            rest += _some(connection)
        if not wanted:
            return body
        body, rest = body + rest[:wanted], rest[wanted + 2 :]


def _some(connection: socket.socket) -> bytes:
    piece = connection.recv(65536)
    assert piece, "the connection ended in the middle of an answer"
    return piece


def is_closed(connection: socket.socket, within_s: float = 10.0) -> bool:
    """Whether the server closes the connection."""
    connection.settimeout(within_s)
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


@contextlib.contextmanager
def serving(settings: Settings) -> Iterator[Web]:
    """The web process on these settings (their port is replaced by a free one, their bases by it)."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    settings = replace(settings, port=port, base_urls=(f"http://127.0.0.1:{port}",), dimse_port=0)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VIGIE_")}
    log = settings.data / "web.log"
    with log.open("wb") as written:
        process = subprocess.Popen(
            [sys.executable, "-m", "fhir_server.server.web"],
            env={**environment, **settings.environment(), "PYTHONPATH": str(ROOT)},
            stdout=written,
            stderr=written,
            cwd=ROOT,
        )
    web = Web(settings, process)
    try:
        deadline = time.monotonic() + _READY_WITHIN_S
        while True:
            assert process.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < deadline, log.read_text()[-2000:]
            with contextlib.suppress(OSError):
                if web.get("/livez").status == 200:
                    break
            time.sleep(0.05)
        yield web
    finally:
        for connection in web.opened:
            connection.close()
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
