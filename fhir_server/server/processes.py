"""Child processes that are restarted when they crash, and that never outlive their parent."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from fhir_server.server.settings import Settings

log = structlog.get_logger("vigie.processes")

PARENT = "VIGIE_PARENT_PID"
"""Environment variable: the process that starts this one, and that it must not outlive."""

_PR_SET_PDEATHSIG = 1
_STANDARD_ERROR = 2
_GRACE_S = 15.0
_LOOK_S = 0.1
READY_WITHIN_S = 60.0
ROOT = Path(__file__).resolve().parents[2]
"""Where the packages and `wsgi.py` lie."""
_CALM_S = 10.0
"""A child that lived this long is restarted at once; one that keeps crashing waits longer and longer."""


def die_with_parent(signal_number: int = signal.SIGKILL) -> None:
    """Have the kernel end this process when its parent ends, however that happens (prctl(2), Linux only).

    The parent may have ended before this is called, in the second that the imports take: `PARENT` says who it was.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal_number))
    expected = os.environ.get(PARENT)
    if expected and os.getppid() != int(expected):
        os.kill(os.getpid(), signal_number)


def begin_worker() -> None:
    """First word of a process that our web server forks: it dies with it, and heeds SIGTERM from now on.

    The handler that it inherits only sets a flag of its parent's: told to stop while it still imports, it would go on
    until it is killed.
    """
    die_with_parent()
    if os.environ.get(PARENT) == str(os.getppid()):
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)


class StopSignals:
    """SIGTERM and SIGINT, from now on: `wait` returns once one has come.

    The handler notes the signal and does nothing else. It runs between any two steps of the main thread, also of its
    own earlier call: `threading.Event.set` in it would wait for ever for the lock that it interrupted itself in.
    """

    def __init__(self) -> None:
        self._told: list[int] = []
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def wait(self) -> None:
        while not self._told:
            time.sleep(_LOOK_S)

    def _note(self, number: int, frame: object) -> None:
        self._told.append(number)


def announce_parent() -> None:
    """Tell the children that this process forks who their parent is."""
    os.environ[PARENT] = str(os.getpid())


@dataclass(slots=True)
class Child:
    """One supervised process."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    crashes: int = 0
    not_before: float = 0.0

    def start(self, now: float) -> None:
        self.process = subprocess.Popen(  # noqa: S603 - our own interpreter with our own module
            self.command,
            env={**os.environ, **self.environment, PARENT: str(os.getpid())},
            stdin=subprocess.DEVNULL,
            stdout=_STANDARD_ERROR,  # on standard output there is the supervisor's `ready`, and nothing else
            start_new_session=False,
        )
        self.started = now
        log.info("a process is started", child=self.name, pid=self.process.pid)


@dataclass(slots=True)
class Supervisor:
    """Keeps its children running until it is told to stop."""

    children: list[Child]
    stopping: bool = False
    _signals: list[int] = field(default_factory=list)

    def start(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        now = time.monotonic()
        for child in self.children:
            child.start(now)

    def tick(self) -> None:
        """Restart what has crashed. To be called a few times a second."""
        now = time.monotonic()
        for child in self.children:
            if self.stopping:
                return
            process = child.process
            if process is not None and process.poll() is not None:
                child.crashes = 1 if now - child.started > _CALM_S else child.crashes + 1
                child.not_before = now + (0.0 if child.crashes == 1 else min(10.0, 0.25 * 2**child.crashes))
                log.error(
                    "a process ended by itself",
                    child=child.name, pid=process.pid, code=process.returncode, count=child.crashes,
                )  # fmt: skip
                child.process = None
            if child.process is None and now >= child.not_before:
                child.start(now)

    def stop(self) -> None:
        """End all children: SIGTERM, and after the grace SIGKILL."""
        self.stopping = True
        alive = [child.process for child in self.children if child.process is not None]
        for process in alive:
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + _GRACE_S
        for process in alive:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _stop(self, number: int, frame: object) -> None:
        self.stopping = True


def module(name: str, *arguments: str) -> list[str]:
    """The command that runs one of our modules."""
    return [sys.executable, "-m", name, *arguments]


def children(settings: Settings, site: str = "wsgi:app") -> list[Child]:
    """The processes of one server. `site` is the WSGI application that the web process serves."""
    root = str(ROOT)
    environment = {**settings.environment(), "PYTHONPATH": root}
    children = [
        Child("web", module("fhir_server.server.web", site), environment),
        Child("worker", module("fhir_server.server.worker"), environment),
    ]
    if settings.dimse_port:
        children.append(Child("dimse", module("fhir_server.server.dimse"), environment))
    return children


def until_ready(settings: Settings, supervisor: Supervisor) -> None:
    """Wait until the server can serve; TimeoutError where it cannot in time."""
    deadline = time.monotonic() + READY_WITHIN_S
    while not is_ready(settings):
        supervisor.tick()
        if time.monotonic() > deadline:
            raise TimeoutError("the server is not ready in time")
        time.sleep(_LOOK_S)


def is_ready(settings: Settings) -> bool:
    """Whether /readyz of the server that these settings describe answers 200."""
    host = settings.host if settings.host not in ("0.0.0.0", "::") else "127.0.0.1"  # noqa: S104 - compared, not bound
    url = f"http://{f'[{host}]' if ':' in host else host}:{settings.port}/readyz"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=2) as answer:  # our own address
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False
