"""The one log: a line of JSON per event on standard error, readable lines on a terminal, the same in every process.

All packages say `structlog.get_logger("vigie.…")` and `log.warning("a plain sentence", field=value)`. The sentence is a
literal without data (a test reads the source), the fields and the form of their values stand in `FIELDS`: what is not
listed is left out, what has another form is `withheld`. Of an exception there are its classes and the places in the
code, never its own text, which may quote whatever a client sent.

What is not ours goes the same way, without its words: a library that logs (`library`), a warning, an exception that
nobody caught, and whatever else is written to `sys.stderr` in a process that speaks to nobody.

A line is at most `LINE_BYTES` long and written at once, so that the lines of processes that share a pipe stay whole.
"""

from __future__ import annotations

import io
import logging
import os
import re
import sys
import threading
import time
import traceback
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from datetime import datetime
from multiprocessing.util import Finalize
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import orjson
import structlog

from resources.times import instant_text, utc_now

_ID = r"[A-Za-z0-9\-.]{1,64}"
_WORDS = r"[A-Za-z0-9][A-Za-z0-9 ,'()\-_.:/]{0,95}"
_NUMBER, _FLAG = "number", "flag"

FIELDS: Mapping[str, tuple[str, str]] = {
    "event": (_WORDS, "what happened: a literal of the source"),
    "level": (r"debug|info|warning|error|critical", "how bad it is"),
    "timestamp": (r"[0-9T:.+\-Z]{10,40}", "UTC"),
    "logger": (r"[A-Za-z0-9_.\-]{1,80}", "the part that speaks; vigie.* is ours"),
    "process": (r"[a-z\-]{1,20}", "kind of process: serve, web, worker, dimse, vigie (a command)"),
    "pid": (_NUMBER, "process id"),
    "request_id": (r"[A-Za-z0-9._\-]{1,64}", "id of the request, as in the answer and in the audit record"),
    "method": (r"[A-Z]{1,16}", "HTTP method"),
    "route": (r"[a-z0-9._/\-]{1,60}", "kind of request (facade/interaction), never the path"),
    "status": (_NUMBER, "HTTP status"),
    "ms": (_NUMBER, "milliseconds"),
    "seconds": (_NUMBER, "seconds"),
    "count": (_NUMBER, "how many"),
    "attempt": (_NUMBER, "number of the attempt"),
    "size": (_NUMBER, "bytes"),
    "port": (_NUMBER, "TCP port"),
    "code": (_NUMBER, "exit status of a child; negative: the signal that ended it"),
    "signal": (_NUMBER, "signal"),
    "child": (r"[a-z\-]{1,20}", "kind of a child process"),
    "loop": (r"[a-z \-]{1,40}", "background loop"),
    "exception": (r"[A-Za-z0-9_.]{1,80}(?: < [A-Za-z0-9_.]{1,80}){0,7}", "class of an exception < class of its cause"),
    "trace": ("places", "where it was raised: file:line function, the innermost last"),
    "at": (r"[A-Za-z0-9_./<>\-]{1,120}:\d{1,6}(?: [A-Za-z0-9_<>]{1,60})?", "place in the code: file:line function"),
    "reason": (_WORDS, "machine text out of a closed list; names a rule, never a patient"),
    "result": (r"[A-Z_]{1,40}", "what became of an instance (dicomweb.status.Result)"),
    "kind": (r"[a-z0-9\-]{1,40}", "kind of a task or of a notification"),
    "task": (_ID, "logical id of a Task"),
    "order": (f"ServiceRequest/{_ID}", "reference of a ServiceRequest"),
    "appointment": (f"Appointment/{_ID}", "reference of an Appointment"),
    "subscription": (_ID, "logical id of a Subscription"),
    "audit_event": (_ID, "logical id of an AuditEvent"),
    "study": (_NUMBER, "key of a study's row"),
    "check": (r"[a-z \-]{1,40}", "what is examined (readyz, doctor)"),
    "queue": (r"[a-z\-]{1,40}", "a queue (metrics)"),
}
"""Every field that a line may have: the form of its value, and what it is. docs/operations.md lists them."""

WITHHELD = "withheld"
LINE_BYTES = 4096
"""PIPE_BUF of Linux: a write of no more than this is never mixed with that of another process (pipe(7))."""
_TRACE_LENGTH = 12
_FORMS = {name: re.compile(form) for name, (form, _) in FIELDS.items() if form not in (_NUMBER, _FLAG, "places")}
_PLACE = _FORMS["at"]
_ROOT = Path(__file__).resolve().parents[2]
_PLACES = sorted({str(_ROOT), *sys.path, sys.prefix, sys.base_prefix} - {"", "/"}, key=len, reverse=True)
_REPEATED_S = 10.0
"""A library that repeats itself is told once in so many seconds, with the count."""


class Request(NamedTuple):
    """One request that was answered."""

    at: datetime
    method: str
    route: str
    status: int
    ms: float
    request_id: str


def configure(process: str, *, speaks: bool = False) -> None:
    """Log as `process` (serve, web, worker, dimse, vigie), and have everything else in it come the same way.

    `speaks`: a command, which also writes sentences for people to `sys.stderr`; else what is written there is withheld.
    """
    global _process, _writer_pid, _writing, _telling, _wanted, _is_terminal
    _is_terminal = os.isatty(_STANDARD_ERROR)
    structlog.configure(
        processors=[structlog.processors.add_log_level, _complete, _render],
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING if _is_terminal else logging.INFO),
        logger_factory=_Sink,
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.clear_contextvars()
    if _writer_pid != os.getpid():  # a web worker is forked from a process that logs: its writing thread stayed behind
        _lines.clear()
        _writing, _telling, _wanted = threading.Lock(), threading.Lock(), threading.Event()
        told.clear()
        threading.Thread(target=_flushing, name="log", daemon=True).start()
        # Not `atexit`, of which a process forked by multiprocessing (a web worker) takes no notice.
        Finalize(None, flush, exitpriority=0)
    _process, _writer_pid = process, os.getpid()
    _take_over(speaks)


def _take_over(speaks: bool) -> None:
    """Whatever else speaks in this process."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
    root.addHandler(_Libraries())
    root.setLevel(logging.WARNING)
    warnings.showwarning = _warned
    sys.excepthook = _uncaught
    sys.unraisablehook = _unraisable
    threading.excepthook = _uncaught_in_thread
    if not speaks:
        sys.stderr = sys.stdout = _Withheld()


GRANIAN: dict[str, Any] = {
    "formatters": {},
    "handlers": {},
    "loggers": {name: {"handlers": [], "propagate": True} for name in ("_granian", "granian.access")},
}
"""Granian's logging, by dictConfig: no handlers of its own."""


# — lines of requests: the hot ones —


def request(method: str, route: str, status: int, ms: float, request_id: str) -> None:
    """The line of one request; it is made and written ten times a second, without structlog."""
    if _writer_pid:
        _lines.append((utc_now(), method, route, status, ms, request_id))
        if not _wanted.is_set():
            _wanted.set()


def on_requests(listener: Callable[[Iterable[Request]], None]) -> None:
    """Have `listener` told of the requests too, by the thread that writes their lines."""
    if listener not in _listeners:
        _listeners.append(listener)


def _line(told: Request) -> bytes:
    return orjson.dumps(
        {
            "event": "request",
            "level": "info",
            "timestamp": instant_text(told.at),
            "method": told.method,
            "route": told.route,
            "status": told.status,
            "ms": round(told.ms, 1),
            "request_id": told.request_id,
            "process": _process,
        },
        option=orjson.OPT_APPEND_NEWLINE,
    )


_STANDARD_ERROR = 2
_process = "vigie"
_is_terminal = False
_writer_pid = 0
"""The process whose thread writes the lines; 0: none does."""
_lines: deque[tuple[datetime, str, str, int, float, str]] = deque(maxlen=100_000)
_writing = threading.Lock()
_wanted = threading.Event()
"""There is something for the thread to write."""
_listeners: list[Callable[[Iterable[Request]], None]] = []
_FLUSH_S = 0.1

_telling = threading.Lock()
told: Counter[tuple[str, str]] = Counter()
"""How many lines this process has written by (level, event), those of requests apart. For the metrics."""


def flush() -> None:
    """Write the request lines that wait; once it returns, none is on its way."""
    with _writing:
        waiting = []
        while _lines:
            waiting.append(Request(*_lines.popleft()))
        for listener in _listeners:
            listener(waiting)
        if waiting and not _is_terminal:
            _write([_line(one) for one in waiting])


def _flushing() -> None:
    while True:
        _wanted.wait()
        time.sleep(_FLUSH_S)
        _wanted.clear()
        flush()
        if isinstance(sys.stderr, _Withheld):
            sys.stderr.flush()


def _write(lines: Iterable[bytes]) -> None:
    """Whole lines, in writes that no other process can get between. A log that cannot be written stops nobody."""
    chunk = b""
    for line in lines:
        if chunk and len(chunk) + len(line) > LINE_BYTES:
            _write_out(chunk)
            chunk = b""
        chunk += line
    if chunk:
        _write_out(chunk)


def _write_out(content: bytes) -> None:
    try:
        while content:
            content = content[os.write(_STANDARD_ERROR, content) :]
    except OSError:
        return


# — lines of events —


class _Sink:
    """What structlog hands finished lines to."""

    def __init__(self, name: str = "vigie", *_: object) -> None:
        self.name = name

    def _put(self, line: bytes) -> None:
        _write([line])

    debug = info = warning = error = critical = exception = msg = _put


def _complete(logger: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The event with its time, its place and its exception; of the fields only those that are listed, in their form."""
    given = event.pop("exc_info", None)
    error = _exception(given)
    kept = {name: _in_form(name, value) for name, value in event.items() if name in FIELDS and value is not None}
    if error is not None:
        kept |= scrubbed(error)
    kept["timestamp"] = instant_text(utc_now())
    kept["logger"] = _in_form("logger", getattr(logger, "name", "vigie"))
    kept["process"] = _process
    with _telling:
        told[str(kept.get("level", "info")), str(kept.get("event", ""))] += 1
    return kept


def _render(_: Any, __: str, event: Mapping[str, Any]) -> bytes:
    """One line, and no longer than may be written at once."""
    head = ("event", "level", "timestamp", "process", "logger")
    ordered = {name: event[name] for name in (*head, *event) if name in event}
    if _is_terminal:
        return _readable(ordered).encode()
    line = orjson.dumps(ordered, option=orjson.OPT_APPEND_NEWLINE)
    while len(line) > LINE_BYTES and ordered.get("trace"):
        ordered["trace"] = ordered["trace"][1:]
        line = orjson.dumps(ordered, option=orjson.OPT_APPEND_NEWLINE)
    return line


def _readable(event: Mapping[str, Any]) -> str:
    """For a person at a terminal."""
    apart = ("event", "level", "timestamp", "process", "logger", "trace")
    more = " ".join(f"{name}={value}" for name, value in event.items() if name not in apart)
    where = "".join(f"\n    {place}" for place in event.get("trace", ()))
    at = datetime.fromisoformat(event["timestamp"]).astimezone().strftime("%H:%M:%S")
    line = f"{at} {event.get('level', ''):<8} {event['process']}: {event.get('event')}  {more}"
    return f"{line.rstrip()}{where}\n"


def _in_form(name: str, value: Any) -> Any:
    """The value, or `WITHHELD` where it is not what this field is for."""
    form = FIELDS[name][0]
    if form == "places":
        return [place for place in value if isinstance(place, str) and _PLACE.fullmatch(place)]
    if form in (_NUMBER, _FLAG):
        return value if isinstance(value, int | float) else WITHHELD
    text = str(value)
    return text if _FORMS[name].fullmatch(text) else WITHHELD


def _exception(given: Any) -> BaseException | None:
    if isinstance(given, BaseException):
        return given
    if isinstance(given, tuple):
        return given[1] if isinstance(given[1], BaseException) else None
    return sys.exc_info()[1] if given else None


def scrubbed(error: BaseException) -> dict[str, Any]:
    """An exception for the log: the classes of it and of its causes, and where it was raised. Nothing of its text."""
    classes: list[str] = []
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen and len(classes) < 8:
        seen.add(id(cause))
        classes.append(re.sub(r"[^A-Za-z0-9_.]", "_", type(cause).__name__)[:80])
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return {"exception": " < ".join(classes), "trace": _places(error.__traceback__)}


def _places(trace: TracebackType | None) -> list[str]:
    frames = traceback.extract_tb(trace)[-_TRACE_LENGTH:]
    return [place(frame.filename, frame.lineno or 0, frame.name) for frame in frames]


def place(file: str, line: int, function: str = "") -> str:
    """A place in the code, by a path that tells nothing of the machine."""
    for folder in _PLACES:
        if file.startswith(folder + os.sep):
            file = file[len(folder) + 1 :]
            break
    else:
        file = Path(file).name
    file = re.sub(r"[^A-Za-z0-9_./<>\-]", "_", file)[-120:]
    function = re.sub(r"[^A-Za-z0-9_<>]", "_", function)[:60]
    return f"{file}:{line} {function}".rstrip()


# — what is not ours —

_library_log = structlog.get_logger("library")


class _Repeats:
    """Lets one of equal messages through in `_REPEATED_S`, and counts the others."""

    def __init__(self) -> None:
        self._last: dict[object, tuple[float, int]] = {}
        self._lock = threading.Lock()

    def count(self, key: object) -> int:
        """How many there were since the last one that was told; 0: this one is not told."""
        now = time.monotonic()
        with self._lock:
            at, silent = self._last.get(key, (-_REPEATED_S, 0))
            if now - at < _REPEATED_S:
                self._last[key] = (at, silent + 1)
                return 0
            if len(self._last) > 1000:
                self._last.clear()
            self._last[key] = (now, 0)
            return silent + 1


_repeats = _Repeats()
_LEVELS = {logging.WARNING: "warning", logging.ERROR: "error", logging.CRITICAL: "critical"}


class _Libraries(logging.Handler):
    """Libraries log by `logging`. Their words may quote what they were given: only that they spoke is kept."""

    def emit(self, record: logging.LogRecord) -> None:
        at = place(record.pathname, record.lineno, record.funcName)
        count = _repeats.count((record.name, at))
        if not count:
            return
        level = next((name for number, name in sorted(_LEVELS.items(), reverse=True) if record.levelno >= number), "")
        speak = getattr(structlog.get_logger(record.name), level or "info")
        speak("a library spoke", at=at, count=count, exc_info=record.exc_info)


def _warned(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    at = place(filename, lineno)
    count = _repeats.count((category, at))
    if count:
        _library_log.warning("a library warned", exception=category.__name__, at=at, count=count)


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    _library_log.critical("an exception was not caught", exc_info=error)


def _uncaught_in_thread(given: threading.ExceptHookArgs) -> None:
    if given.exc_type is not SystemExit:
        _library_log.error("a thread ended by an exception", exc_info=given.exc_value)


def _unraisable(given: Any) -> None:
    _library_log.error("an exception could not be raised", exc_info=given.exc_value)


class _Withheld(io.TextIOBase):
    """`sys.stderr` of a process that speaks to nobody: what is written is counted, and withheld.

    An exception that is being handled at that moment (`traceback.print_exc`) is told as any other.
    """

    encoding = "utf-8"

    def __init__(self) -> None:
        self._lines = 0
        self._error: BaseException | None = None

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return _STANDARD_ERROR

    def isatty(self) -> bool:
        return False

    def write(self, text: str) -> int:
        self._lines += text.count("\n")
        self._error = sys.exc_info()[1] or self._error
        if self._lines and self._error is None:
            self.flush()
        _wanted.set()
        return len(text)

    def flush(self) -> None:
        lines, error = self._lines, self._error
        self._lines, self._error = 0, None
        if not lines and error is None:
            return
        count = _repeats.count(("standard error", type(error)))
        if count:
            _library_log.warning("something else was written to standard error", count=lines, exc_info=error)
