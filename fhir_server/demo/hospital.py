"""The demonstration hospital's endpoint: a real HTTP receiver of notifications, on a free loopback port."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from resources.json import Json


@dataclass(frozen=True, slots=True)
class Received:
    """One notification as it came."""

    headers: dict[str, str]
    """Names in lower case."""
    body: bytes

    def parameters(self) -> Json:
        """The SubscriptionStatus of the notification, as name → value (the last of each name)."""
        status = json.loads(self.body)["entry"][0]["resource"]
        values: Json = {}
        for parameter in status.get("parameter", []):
            value = next((parameter[key] for key in parameter if key.startswith("value")), parameter.get("part"))
            values[parameter["name"]] = value
        return values

    @property
    def kind(self) -> str:
        """SubscriptionNotificationType: handshake, heartbeat, event-notification."""
        return str(self.parameters().get("type", ""))

    def focus(self) -> str | None:
        """The reference that the (last) event is about."""
        for part in self.parameters().get("notification-event") or []:
            if part["name"] == "focus":
                return str(part["valueReference"]["reference"])
        return None


class Endpoint:
    """Takes notifications and keeps them, in the order of arrival."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self._arrived = threading.Condition()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                endpoint._take(Received({k.lower(): v for k, v in self.headers.items()}, body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/notifications"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def wait_for(self, wanted: Callable[[Received], bool], timeout_s: float) -> Received | None:
        """The first notification that is `wanted`, waiting for it at most `timeout_s`."""
        with self._arrived:
            self._arrived.wait_for(lambda: any(wanted(one) for one in self.received), timeout_s)
            return next((one for one in self.received if wanted(one)), None)

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    def _take(self, notification: Received) -> None:
        with self._arrived:
            self.received.append(notification)
            self._arrived.notify_all()
