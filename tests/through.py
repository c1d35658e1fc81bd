"""A WSGI application that goes through the front: what Flask's client asks arrives by RSGI, in process.

Not Granian: `tests/fhir_server/served.py` starts that. This is for running a module of HTTP tests through both doors.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from flask import Flask

from fhir_server.server.front.site import front_of

_PIECE = 1000


class Headers(list[tuple[str, str]]):
    """Header fields as RSGI gives them."""

    def items(self) -> list[tuple[str, str]]:
        return list(self)

    def get_all(self, key: str) -> list[str]:
        return [value for name, value in self if name == key]

    def __len__(self) -> int:
        return len({name for name, _ in self})


class Scope:
    proto, http_version, authority = "http", "1.1", None

    def __init__(self, environ: dict[str, Any]) -> None:
        self.client = f"{environ.get('REMOTE_ADDR', '127.0.0.1')}:50000"
        self.server = "127.0.0.1:80"
        self.scheme = environ["wsgi.url_scheme"]
        self.method = environ["REQUEST_METHOD"]
        self.path = environ["PATH_INFO"]
        self.query_string = environ.get("QUERY_STRING", "")
        self.headers = Headers(
            (key.removeprefix("HTTP_").lower().replace("_", "-"), str(value))
            for key, value in environ.items()
            if key.startswith("HTTP_") or (key in ("CONTENT_TYPE", "CONTENT_LENGTH") and value)
        )


class Proto:
    """The body in pieces of a thousand bytes; the answer as a future."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.answer: Future[tuple[int, list[tuple[str, str]], bytes]] = Future()

    async def __call__(self) -> bytes:
        return self._body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._body), _PIECE):
            yield self._body[start : start + _PIECE]
        yield b""

    def response_empty(self, status: int, headers: list[tuple[str, str]]) -> None:
        self.answer.set_result((status, headers, b""))

    def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.answer.set_result((status, headers, body))

    def response_file(self, status: int, headers: list[tuple[str, str]], file: str) -> None:
        def read() -> None:
            self.answer.set_result((status, headers, Path(file).read_bytes()))

        threading.Thread(target=read, daemon=True).start()


class ThroughFront:
    """The application `app`, asked by way of its front. Close it."""

    def __init__(self, app: Flask) -> None:
        self._front = front_of(app)
        self._loop = asyncio.new_event_loop()
        self._loop.run_until_complete(self._front.open())
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        length = int(environ.get("CONTENT_LENGTH") or 0)
        proto = Proto(environ["wsgi.input"].read(length) if length else b"")
        asked = asyncio.run_coroutine_threadsafe(self._front.__rsgi__(Scope(environ), proto), self._loop)
        status, headers, body = proto.answer.result(60)
        asked.result(60)
        start_response(f"{status} -", list(headers))
        return [body]

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._front.close()
        self._loop.close()
