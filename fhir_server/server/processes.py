"""Child processes that are restarted when they crash, and that never outlive their parent."""

from __future__ import annotations

import ctypes
import json
import math
import os
import select
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from audit.checkpoint import BadKey
from fhir_server.server import faults, private
from fhir_server.server.faults import CannotRun
from fhir_server.server.settings import Settings, SettingsError
from store.engine.keyring import KeyFault
from store.migrations import SchemaFault

log = structlog.get_logger("vigie.processes")

PARENT = "VIGIE_PARENT_PID"
"""Environment variable: the process that starts this one, and that it must not outlive."""

FAULTS = "VIGIE_FAULTS_FD"
"""Environment variable: the file descriptor on which a child tells its supervisor why it cannot run."""

_PR_SET_PDEATHSIG = 1
_STANDARD_ERROR = 2
_GRACE_S = 15.0
_LOOK_S = 0.1
_FUTILE = 5
"""A child that ended so often in a row before the server was ever ready cannot run."""
_CANNOT_RUN_STATUS = 78
"""EX_CONFIG of sysexits.h: starting again would change nothing."""
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


@contextmanager
def told(process: str) -> Iterator[None]:
    """Around a child process: its files are private, and a fault of the environment is one line and a status.

    What cannot get better by starting again (a setting, a key, a port) also ends the supervisor, which says why. A
    database that is away or a full disk may: the supervisor starts the child again, less and less often.
    """
    private.begin()
    try:
        yield
    except Exception as error:
        line = faults.line_of(error)
        if line is None:
            log.error("a process failed", child=process, exc_info=error)
            sys.exit(1)
        log.error("a process cannot run", child=process, exc_info=error)
        if not isinstance(error, CannotRun | SettingsError | BadKey | KeyFault | SchemaFault) and not _is_port(error):
            sys.exit(1)
        with suppress(OSError, ValueError):
            os.write(int(os.environ.get(FAULTS, _STANDARD_ERROR)), f"{process}: {line}\n".encode())
        sys.exit(_CANNOT_RUN_STATUS)


def _is_port(error: Exception) -> bool:
    return isinstance(error, OSError) and faults.is_about_ports(error)


class StopSignals:
    """SIGTERM and SIGINT, from now on: `wait` returns once one has come.

    The handler notes the signal and does nothing else. It runs between any two steps of the main thread, also of its
    own earlier call: `threading.Event.set` in it would wait for ever for the lock that it interrupted itself in.
    """

    def __init__(self) -> None:
        self._told: list[int] = []
        self._wakes, end = os.pipe()
        os.set_blocking(end, False)
        signal.set_wakeup_fd(end, warn_on_full_buffer=False)  # written below the interpreter: no signal is missed
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def wait(self) -> None:
        """Return once a signal has come."""
        while not self._told:
            os.read(self._wakes, 1)
        for number in (signal.SIGTERM, signal.SIGINT):
            # The interpreter gives its handlers back before it ends: a further signal then would kill what stops well.
            signal.signal(number, signal.SIG_IGN)

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

    def start(self, now: float, faults_to: int) -> None:
        """Start it, at `now` of the monotonic clock."""
        self.process = subprocess.Popen(  # noqa: S603 - our own interpreter with our own module
            self.command,
            env={**os.environ, **self.environment, PARENT: str(os.getpid()), FAULTS: str(faults_to)},
            pass_fds=(faults_to,),
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
    was_ready: bool = False
    """To be set once the server has answered: from then on a child that crashes is restarted for ever."""
    _faults: tuple[int, int] = field(default_factory=os.pipe)
    _signals: tuple[int, int] = field(default_factory=os.pipe)
    """Written to by each signal."""

    def start(self) -> None:
        """Start all children, and heed SIGTERM and SIGINT."""
        for end in self._signals:
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._signals[1], warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)  # without a handler it wakes nobody
        now = time.monotonic()
        for child in self.children:
            child.start(now, self._faults[1])

    def tick(self) -> None:
        """Restart what has crashed. To be called again after `rest`. Raises CannotRun where that is futile."""
        now = time.monotonic()
        if select.select([self._faults[0]], [], [], 0)[0]:
            raise CannotRun(os.read(self._faults[0], 4096).decode("utf-8", "replace").splitlines()[0])
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
                if not self.was_ready and child.crashes >= _FUTILE:
                    raise CannotRun(f"{child.name}: the process ended {_FUTILE} times in a row; the log says why")
            if child.process is None and now >= child.not_before:
                child.start(now, self._faults[1])

    def rest(self, longest_s: float) -> None:
        """Return once there is something to do: a child has ended or is to be started, a signal came."""
        due = min((child.not_before for child in self.children if child.process is None), default=math.inf)
        ready, _, _ = select.select(
            [self._faults[0], self._signals[0]], [], [], max(0.0, min(longest_s, due - time.monotonic()))
        )
        if self._signals[0] in ready:
            os.read(self._signals[0], 4096)

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
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for descriptor in (*self._faults, *self._signals):
            with suppress(OSError):
                os.close(descriptor)

    def _stop(self, number: int, frame: object) -> None:
        self.stopping = True


def module(name: str, *arguments: str) -> list[str]:
    """The command that runs one of our modules."""
    return [sys.executable, "-m", name, *arguments]


def children(settings: Settings) -> list[Child]:
    """The processes of one server."""
    root = str(ROOT)
    environment = {**settings.environment(), "PYTHONPATH": root}
    children = [
        Child("web", module("fhir_server.server.web"), environment),
        Child("worker", module("fhir_server.server.worker"), environment),
    ]
    if settings.dimse_port or settings.dimse_tls_port:
        children.append(Child("dimse", module("fhir_server.server.dimse"), environment))
    return children


def until_ready(settings: Settings, supervisor: Supervisor) -> None:
    """Wait until the server can serve, however long that takes. Raises CannotRun where it never will."""
    while not is_ready(settings):
        supervisor.tick()
        supervisor.rest(_LOOK_S)
    supervisor.was_ready = True


def is_ready(settings: Settings) -> bool:
    """Whether /readyz of the server that these settings describe answers 200."""
    return not waiting_for(settings)


def waiting_for(settings: Settings) -> list[str]:
    """What /readyz says is not ready yet; ``web`` where nothing answers there; empty: it can serve."""
    host = settings.host if settings.host not in ("0.0.0.0", "::") else "127.0.0.1"  # noqa: S104 - compared, not bound
    url = f"http://{f'[{host}]' if ':' in host else host}:{settings.port}/readyz"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=2) as answer:  # our own address
            return [] if answer.status == 200 else ["web"]
    except urllib.error.HTTPError as error:
        with error:
            return _unready(error.read(65_536)) or ["web"]
    except (urllib.error.URLError, OSError, ValueError):
        return ["web"]


def _unready(body: bytes) -> list[str]:
    try:
        checks = json.loads(body)["checks"]
        return sorted(name for name, found in checks.items() if found["status"] == "failed")
    except (ValueError, KeyError, TypeError, AttributeError):
        return []
