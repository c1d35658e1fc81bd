"""A hospital's endpoint: a real HTTP server on this machine that keeps what it gets, and fails as it is told to."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from resources.json import Json


@dataclass(frozen=True)
class Reply:
    """What the endpoint does with one request."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    stall_s: float = 0
    cut: bool = False
    """Close the connection without an answer."""
    body: bytes = b""
    drip_s: float = 0
    """Send the answer byte by byte, with this pause."""


@dataclass(frozen=True)
class Received:
    """One notification as it arrived."""

    path: str
    headers: dict[str, str]
    raw: bytes
    reply: Reply
    body: Json = field(default_factory=dict)
    method: str = "POST"
    at: float = field(default_factory=time.monotonic)

    @property
    def status(self) -> Json:
        """Parameters of the SubscriptionStatus by name (the first of each)."""
        found: Json = {}
        for parameter in self.body["entry"][0]["resource"]["parameter"]:
            value = next((value for key, value in parameter.items() if key.startswith("value")), parameter.get("part"))
            found.setdefault(parameter["name"], value)
        return found

    @property
    def kind(self) -> str:
        """SubscriptionNotificationType; of what R4 criteria send, `update` or `empty`."""
        if self.method == "PUT":
            return "update"
        return str(self.status["type"]) if self.body else "empty"

    @property
    def events(self) -> list[Json]:
        """Each notification-event as name → value; additional-context as a list."""
        found = []
        for parameter in self.body["entry"][0]["resource"]["parameter"]:
            if parameter["name"] != "notification-event":
                continue
            event: Json = {"additional-context": []}
            for part in parameter["part"]:
                value = next(value for key, value in part.items() if key.startswith("value"))
                if part["name"] == "additional-context":
                    event["additional-context"].append(value["reference"])
                else:
                    event[part["name"]] = value
            found.append(event)
        return found

    @property
    def numbers(self) -> list[int]:
        return [int(event["event-number"]) for event in self.events]


class Hospital:
    """An endpoint. `replies` are used up one a request; after them `always`."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.replies: deque[Reply] = deque()
        self.always = Reply()
        self.in_flight = 0
        self.most_in_flight = 0
        self._lock = threading.Lock()
        hospital = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                hospital._serve(self)

            def do_PUT(self) -> None:
                hospital._serve(self)

            def log_message(self, format: str, *arguments: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/notify"

    def of(self, kind: str) -> list[Received]:
        """What was accepted or not of one kind: handshake, heartbeat, event-notification."""
        return [received for received in self.received if received.kind == kind]

    @property
    def accepted_numbers(self) -> list[int]:
        """Event numbers of the notifications that this endpoint answered with 2xx, as they came."""
        return [
            number
            for received in self.of("event-notification")
            if 200 <= received.reply.status < 300 and not received.reply.cut
            for number in received.numbers
        ]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _serve(self, request: BaseHTTPRequestHandler) -> None:
        raw = request.rfile.read(int(request.headers["Content-Length"]))
        with self._lock:
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            reply = self.replies.popleft() if self.replies else self.always
            body = json.loads(raw) if raw else {}
            headers = {name.lower(): value for name, value in request.headers.items()}
            self.received.append(Received(request.path, headers, raw, reply, body, request.command))
        try:
            self._reply(request, reply)
        finally:
            with self._lock:
                self.in_flight -= 1

    def _reply(self, request: BaseHTTPRequestHandler, reply: Reply) -> None:
        if reply.stall_s:
            time.sleep(reply.stall_s)
        if reply.cut:
            request.close_connection = True
            return
        try:
            self._write(request, reply)
        except OSError:  # the server has given up on us, as it should
            request.close_connection = True

    def _write(self, request: BaseHTTPRequestHandler, reply: Reply) -> None:
        request.send_response(reply.status)
        for name, value in reply.headers:
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(reply.body)))
        request.end_headers()
        if not reply.drip_s:
            request.wfile.write(reply.body)
            return
        for byte in reply.body:
            request.wfile.write(bytes([byte]))
            request.wfile.flush()
            time.sleep(reply.drip_s)


@contextmanager
def open_hospital() -> Iterator[Hospital]:
    """A hospital's endpoint for as long as the block lasts."""
    hospital = Hospital()
    try:
        yield hospital
    finally:
        hospital.close()
