"""What each process counts, where the others can read it: one small file per process in the data folder.

A request or a loop only counts in memory; once a second a thread writes all of it over the same bytes of a file whose
space was taken at the start, so that a full disk does not blind whoever looks. The lock on the file, held for life,
says that its process lives; what a dead one counted is kept until all have gone (a counter must not fall).

Instants are those of CLOCK_MONOTONIC, which all processes of a host share and no clock step moves.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import threading
import time
import zlib
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import structlog

from fhir_server.server import logs

log = structlog.get_logger("vigie.figures")

FOLDER = "figures"
"""Folder of the data folder."""
BUCKETS_S = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the durations' buckets; above them there is one more."""
FILE_BYTES = 256 * 1024
INTERVAL_S = 1.0
EXHAUSTED_S = 10.0
"""A process that could open nothing for so long ends itself: its supervisor starts another."""
EXIT_EXHAUSTED = 70
MAX_SERIES = 4000
"""Of one process. The label sets are bounded by tables; this is what holds should one not be."""
_HEAD = struct.Struct(">II")
_PAST = "past.json"

Labels = tuple[str, ...]
Sample = Callable[[], Mapping[Labels, float]]


@dataclass(slots=True)
class LoopFigures:
    """A background loop's turns. Instants are monotonic seconds; `running_since` is 0 between turns."""

    interval_s: float
    began: float
    turns: int = 0
    failures: int = 0
    last_turn: float = 0.0
    last_success: float = 0.0
    running_since: float = 0.0

    def start(self) -> None:
        """The loop has begun."""
        self.running_since = time.monotonic()

    def succeeded(self) -> None:
        """A step has ended well."""
        self._ended()
        self.last_success = self.last_turn

    def failed(self) -> None:
        """A step has failed."""
        self._ended()
        self.failures += 1

    def _ended(self) -> None:
        self.turns += 1
        self.last_turn, self.running_since = time.monotonic(), 0.0


@dataclass(slots=True)
class Durations:
    """A histogram: how many fell into each bucket, and their sum in seconds."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_S) + 1))
    sum_s: float = 0.0

    def add(self, seconds: float) -> None:
        """Count one duration in seconds."""
        self.counts[bisect_left(BUCKETS_S, seconds)] += 1
        self.sum_s += seconds


class Figures:
    """The figures of this process."""

    def __init__(self, process: str, dimse_port: int = 0) -> None:
        self.process = process
        self._dimse_port = dimse_port
        self.began = time.monotonic()
        self.counts: dict[tuple[str, Labels], float] = {}
        self.durations: dict[tuple[str, Labels], Durations] = {}
        self.loops: dict[str, LoopFigures] = {}
        self._samples: dict[str, Sample] = {}
        self._lock = threading.Lock()

    def count(self, name: str, labels: Labels = (), by: float = 1) -> None:
        """Add to a counter."""
        with self._lock:
            if (name, labels) in self.counts or len(self.counts) < MAX_SERIES:
                self.counts[name, labels] = self.counts.get((name, labels), 0) + by

    def loop(self, name: str, interval_s: float) -> LoopFigures:
        """The figures of a loop, for whoever turns it."""
        return self.loops.setdefault(name, LoopFigures(interval_s, time.monotonic()))

    def sample(self, name: str, function: Sample) -> None:
        """Ask `function` once a second for the values of a gauge."""
        self._samples[name] = function

    def requests(self, told: Iterable[logs.Request]) -> None:
        """Count answered requests; called by the thread that writes their lines."""
        with self._lock:
            for one in told:
                labels = (one.route, f"{one.status // 100}xx")
                key = ("vigie_http_requests_total", labels)
                if key in self.counts or len(self.counts) < MAX_SERIES:
                    self.counts[key] = self.counts.get(key, 0) + 1
                    timed = ("vigie_http_request_duration_seconds", (one.route,))
                    self.durations.setdefault(timed, Durations()).add(one.ms / 1000)

    def snapshot(self) -> dict[str, Any]:
        """All of it as JSON."""
        gauges = []
        for name, function in list(self._samples.items()):
            with suppress(Exception):  # what cannot be asked is left out: the other figures are still worth having
                gauges += [[name, list(labels), value] for labels, value in function().items()]
        with self._lock:
            counts = [[name, list(labels), value] for (name, labels), value in self.counts.items()]
            durations = [
                [name, list(labels), list(one.counts), one.sum_s] for (name, labels), one in self.durations.items()
            ]
        counts += [["vigie_log_events_total", list(labels), value] for labels, value in list(logs.told.items())]
        for name, loop in list(self.loops.items()):
            counts.append(["vigie_loop_turns_total", [name], loop.turns])
            counts.append(["vigie_loop_failures_total", [name], loop.failures])
        loops = {
            name: {
                "interval_s": loop.interval_s, "began": loop.began, "last_turn": loop.last_turn,
                "last_success": loop.last_success, "running_since": loop.running_since, "failures": loop.failures,
            }
            for name, loop in list(self.loops.items())
        }  # fmt: skip
        return {
            "process": self.process, "pid": os.getpid(), "began": self.began, "written": time.monotonic(),
            "dimse_port": self._dimse_port,
            "counts": counts, "durations": durations, "gauges": gauges, "loops": loops,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Told:
    """What one process wrote last. `is_live`: whether it still runs."""

    is_live: bool
    content: Mapping[str, Any]

    @property
    def process(self) -> str:
        """Which process told: web, worker, dimse."""
        return str(self.content.get("process", ""))

    @property
    def pid(self) -> int:
        """Its number."""
        return int(self.content.get("pid", 0))

    @property
    def dimse_port(self) -> int:
        """Port of its DICOM door; 0: none."""
        return int(self.content.get("dimse_port", 0))


def begin(data: Path, process: str, dimse_port: int = 0) -> Figures:
    """Count for this process from now on, and write it once a second.

    `dimse_port`: of the server that it belongs to, for those who ask without its settings; 0: it has none.
    """
    figures = Figures(process, dimse_port)
    for name, function in _OWN.items():
        figures.sample(name, function)
    logs.on_requests(figures.requests)
    threading.Thread(target=_Writer(data / FOLDER, figures).run, name="figures", daemon=True).start()
    return figures


class _Writer:
    """The thread that writes."""

    def __init__(self, folder: Path, figures: Figures) -> None:
        self._folder = folder
        self._figures = figures
        self._descriptor = -1
        self._could_open_at = time.monotonic()
        self._complained = False

    def run(self) -> None:
        while True:
            try:
                self.write()
                self._complained = False
            except OSError:  # no space, no descriptor: tried again in a second
                if not self._complained:
                    log.exception("the figures cannot be written")
                self._complained = True
            self.end_if_exhausted()
            time.sleep(INTERVAL_S)

    def write(self) -> None:
        if self._descriptor < 0:
            self._descriptor = _created(self._folder, self._figures.process)
        body = orjson.dumps(self._figures.snapshot())
        if len(body) + _HEAD.size <= FILE_BYTES:
            os.pwrite(self._descriptor, _HEAD.pack(len(body), zlib.crc32(body)) + body, 0)

    def end_if_exhausted(self) -> None:
        """A process that can open no file any more accepts no connection and writes no record; it would not heal."""
        now = time.monotonic()
        try:
            os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            if error.errno == errno.EMFILE and now - self._could_open_at > EXHAUSTED_S:
                log.critical("the process can open nothing any more and ends itself", seconds=EXHAUSTED_S)
                logs.flush()
                os._exit(EXIT_EXHAUSTED)
            if error.errno == errno.EMFILE:
                return
        self._could_open_at = now


# — the files —


def read(data: Path) -> list[Told]:
    """What all processes of this data folder have counted; those that have ended included, until all have."""
    folder = data / FOLDER
    if not folder.is_dir():
        return []
    with _locked(folder, fcntl.LOCK_SH):
        found = [_read(path) for path in sorted(folder.glob("*.figures"))]
        with suppress(FileNotFoundError, ValueError):
            found.append(Told(False, orjson.loads((folder / _PAST).read_bytes())))
    return [told for told in found if told is not None]


def live(data: Path, process: str) -> list[Told]:
    """The running processes of one kind."""
    return [told for told in read(data) if told.is_live and told.process == process]


def _created(folder: Path, process: str) -> int:
    """The descriptor of this process's file, locked, its space taken. Raises OSError."""
    folder.mkdir(mode=0o700, exist_ok=True, parents=True)
    path = folder / f"{process}-{os.getpid()}-{time.monotonic_ns()}.figures"
    with _locked(folder, fcntl.LOCK_EX):
        _fold(folder)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            os.posix_fallocate(descriptor, 0, FILE_BYTES)
        except BaseException:
            path.unlink(missing_ok=True)
            os.close(descriptor)
            raise
    return descriptor


def _fold(folder: Path) -> None:
    """Put what dead processes counted together; where nobody lives, begin anew."""
    paths = sorted(folder.glob("*.figures"))
    dead = [path for path in paths if not _is_live(path)]
    if len(dead) == len(paths):
        for path in (*dead, folder / _PAST):
            path.unlink(missing_ok=True)
        return
    if not dead:
        return
    counts: dict[tuple[str, Labels], float] = {}
    durations: dict[tuple[str, Labels], Durations] = {}
    with suppress(FileNotFoundError, ValueError):
        add_up(orjson.loads((folder / _PAST).read_bytes()), counts, durations)
    for path in dead:
        told = _read(path)
        if told is not None:
            add_up(told.content, counts, durations)
    past = {
        "counts": [[name, list(labels), value] for (name, labels), value in counts.items()],
        "durations": [[name, list(labels), one.counts, one.sum_s] for (name, labels), one in durations.items()],
    }
    draft = folder / f"{_PAST}.new"
    try:
        draft.write_bytes(orjson.dumps(past))
        draft.replace(folder / _PAST)
    finally:
        draft.unlink(missing_ok=True)
    for path in dead:
        path.unlink(missing_ok=True)


def add_up(
    content: Mapping[str, Any], counts: dict[tuple[str, Labels], float], durations: dict[tuple[str, Labels], Durations]
) -> None:
    """Add one process's counters and durations to the sums."""
    for name, labels, value in content.get("counts", ()):
        key = (name, tuple(labels))
        counts[key] = counts.get(key, 0) + value
    for name, labels, buckets, sum_s in content.get("durations", ()):
        one = durations.setdefault((name, tuple(labels)), Durations())
        one.counts = [a + b for a, b in zip(one.counts, buckets, strict=True)]
        one.sum_s += sum_s


def _read(path: Path) -> Told | None:
    """A process's file; None where it has not written yet, or is gone."""
    is_live = _is_live(path)
    for _ in range(5):
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        length, checksum = _HEAD.unpack_from(content)
        body = content[_HEAD.size : _HEAD.size + length]
        if length and zlib.crc32(body) == checksum:
            return Told(is_live, orjson.loads(body))
        if not length:
            return None
        time.sleep(0.002)  # it is being written at this moment
    return None


def _is_live(path: Path) -> bool:
    """Whether the process that made the file runs: it holds the lock for life."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


@contextmanager
def _locked(folder: Path, kind: int) -> Iterator[None]:
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, kind)
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # whoever else has the descriptor, by a fork
        os.close(descriptor)


# — what every process knows of itself —


_STATM = Path("/proc/self/statm")


def _memory() -> Mapping[Labels, float]:
    pages = int(_STATM.read_text(encoding="ascii").split()[1])
    return {(): float(pages * os.sysconf("SC_PAGE_SIZE"))}


def _descriptors() -> Mapping[Labels, float]:
    with os.scandir("/proc/self/fd") as open_ones:
        return {(): float(sum(1 for _ in open_ones))}


def _threads() -> Mapping[Labels, float]:
    return {(): float(threading.active_count())}


_OWN: Mapping[str, Sample] = {
    "vigie_process_resident_memory_bytes": _memory,
    "vigie_process_open_descriptors": _descriptors,
    "vigie_process_threads": _threads,
}
