"""Structured logs, one JSON object a line on standard error, made of an allow-list of fields.

Nothing personal gets in: no path, query, body, header, name or identifier; the events name routes and counts.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from multiprocessing.util import Finalize
from typing import Any

import orjson
import structlog

_ALLOWED = frozenset(
    {
        "event",
        "level",
        "timestamp",
        "logger",
        "process",
        "method",
        "route",
        "status",
        "ms",
        "request_id",
        "loop",
        "child",
        "pid",
        "code",
        "signal",
        "attempt",
        "count",
        "seconds",
        "exception",
        "error",
        "port",
        "topic",
        "subscription",
        "outcome",
        "url",
        "association",
        "ae",
        "reason",
        "version",
        "size",
    }
)


def configure(process: str) -> None:
    """Log as `process` (web, worker, dimse, serve), and route the libraries' own warnings the same way."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _only_allowed,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.clear_contextvars()
    global _process, _writer_pid, _writing
    if _writer_pid != os.getpid():  # a web worker is forked from a process that logs: its writing thread stayed behind
        _lines.clear()
        _writing = threading.Lock()
        threading.Thread(target=_flushing, name="log", daemon=True).start()
        # Not `atexit`, of which a process forked by multiprocessing (a web worker) takes no notice.
        Finalize(None, flush, exitpriority=0)
    _process, _writer_pid = process, os.getpid()
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format='{"level":"%(levelname)s","logger":"%(name)s"}'
    )
    # The libraries' own messages may quote what they were given (tokens, data sets): only that they spoke is kept.
    for name in ("authlib", "pynetdicom", "pydicom", "httpx2", "httpcore2", "werkzeug", "urllib3"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


_process = "vigie"


def request(method: str, route: str, status: int, ms: float, request_id: str) -> None:
    """The line of one request: the hot one, so it is made and written ten times a second, without structlog."""
    if _writer_pid:
        _lines.append((datetime.now(UTC), method, route, status, ms, request_id))


def _line(at: datetime, method: str, route: str, status: int, ms: float, request_id: str) -> bytes:
    return orjson.dumps(
        {
            "event": "request",
            "level": "info",
            "timestamp": at.isoformat(timespec="milliseconds"),
            "method": method,
            "route": route,
            "status": status,
            "ms": round(ms, 1),
            "request_id": request_id,
            "process": _process,
        },
        option=orjson.OPT_APPEND_NEWLINE,
    )


_writer_pid = 0
"""The process whose thread writes the lines; 0: none does."""
_lines: deque[tuple[datetime, str, str, int, float, str]] = deque(maxlen=100_000)
_writing = threading.Lock()
_FLUSH_S = 0.1


def flush() -> None:
    """Write the request lines that wait; once it returns, none is on its way."""
    with _writing:
        lines = []
        while _lines:
            lines.append(_line(*_lines.popleft()))
        if lines:
            sys.stderr.buffer.write(b"".join(lines))
            sys.stderr.buffer.flush()


def _flushing() -> None:
    while True:
        time.sleep(_FLUSH_S)
        flush()


def _only_allowed(_: Any, __: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    kept = {name: value for name, value in event.items() if name in _ALLOWED}
    kept["process"] = _process
    return kept
