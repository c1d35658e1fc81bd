"""A hospital's endpoint that keeps every notification in the order of arrival, and refuses one in a while."""

from __future__ import annotations

import json
import random
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True, slots=True)
class Notified:
    """One event as it arrived."""

    webhook_id: str
    number: int
    focus: str
    """Type/id."""


class Receiver:
    """Answers 200, or 503 for a share of the requests (which then count as not received)."""

    def __init__(self, refuse_share: float = 0.0) -> None:
        self.events: list[Notified] = []
        self.times: list[float] = []
        """When each of them arrived (time.monotonic)."""
        self.refused = 0
        self.handshakes = 0
        self._lock = threading.Lock()
        self._draw = random.Random(7)
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status = receiver._take(self.headers.get("webhook-id", ""), json.loads(body), refuse_share)
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/notifications"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def newest(self) -> int:
        with self._lock:
            return max((event.number for event in self.events), default=0)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _take(self, webhook_id: str, bundle: dict[str, Any], refuse_share: float) -> int:
        parameters = bundle["entry"][0]["resource"]["parameter"]
        kind = next(one["valueCode"] for one in parameters if one["name"] == "type")
        with self._lock:
            if kind == "handshake":
                self.handshakes += 1
                return 200
            if kind == "event-notification" and self._draw.random() < refuse_share:
                self.refused += 1
                return 503
            news = [_event(webhook_id, one) for one in parameters if one["name"] == "notification-event"]
            self.events += news
            self.times += [time.monotonic()] * len(news)
            return 200


def _event(webhook_id: str, parameter: dict[str, Any]) -> Notified:
    parts = {part["name"]: part for part in parameter["part"]}
    focus = "/".join(parts["focus"]["valueReference"]["reference"].split("/")[-2:])
    return Notified(webhook_id, int(parts["event-number"]["valueString"]), focus)
