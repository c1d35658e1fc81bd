"""The wall clock, as far as it is believed.

A clock that leaps (a bad answer of a time server, a machine that was paused) would put deadlines, retries, tokens and
`meta.lastUpdated` a day ahead and leave them there. So the wall clock is compared with one that nobody sets, the time
since boot: a leap of more than 2 s is not believed until it has lasted, or an operator has confirmed it; meanwhile
time goes on as if there had been none, and it is told. A clock that is slewed, or off by less, is followed.

The processes of a data folder share what they believe in a small file, so that one that starts during a leap does not
take the wrong time for the right one. Whoever sees a leap looks there once a second: what another process has come to
believe, or the operator has put there, is taken over. Another boot begins anew.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import structlog

TOLERANCE_S = 2.0
CONFIRM_S = 300.0
"""A leap that has lasted so long is the time."""
_DRIFT_NS = 500_000_000
"""Of the offset that is kept for other processes."""
LOOK_S = 1.0
"""During a leap the file is read so often."""
_NS = 1_000_000_000
_TOLERANCE_NS = int(TOLERANCE_S * _NS)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

log = structlog.get_logger("vigie.clock")


since_boot_ns = partial(time.clock_gettime_ns, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
"""Time since boot, suspension included, which nobody sets."""


class BelievedClock:
    """`clock()` is now, aware, UTC."""

    def __init__(
        self,
        file: Path | None = None,
        *,
        wall: Callable[[], int] = time.time_ns,
        boot: Callable[[], int] = since_boot_ns,
        confirm_s: float = CONFIRM_S,
    ) -> None:
        """`file`: what processes of one host share. `wall`, `boot`: ns since 1970, and since boot."""
        self._file = file
        self._wall = wall
        self._boot = boot
        self._confirm_ns = int(confirm_s * _NS)
        self._leap: tuple[int, int] | None = None
        """Offset of a leap that is not believed, and when it was seen."""
        self._look_from = 0
        """Time since boot from which on the file is read again."""
        kept = self._kept()
        self._offset = self._wall() - self._boot() if kept is None else kept
        self._shared = kept
        self._from = self._to = 0
        """What is shared is near enough for an offset between these."""
        self._share()
        self.taken_s = 0.0
        """How far the leaps that were taken over have put this clock forward, in all, in seconds."""

    @property
    def leap_s(self) -> float:
        """How far the wall clock is from what is believed, looked at now, in seconds; 0 where it is believed."""
        self()
        leap = self._leap
        return 0.0 if leap is None else (leap[0] - self._offset) / _NS

    def __call__(self) -> datetime:
        boot = self._boot()
        offset = self._wall() - boot
        if -_TOLERANCE_NS <= offset - self._offset <= _TOLERANCE_NS:
            self._leap, self._offset = None, offset
            if not self._from <= offset <= self._to:
                self._share()
        elif self._is_shared(offset, boot):
            log.warning("a leap of the clock was confirmed and is taken over", seconds=self._seconds(offset))
            self._take(offset)
        elif self._has_lasted(offset, boot):
            log.warning("a leap of the clock has lasted and is taken over", seconds=self._seconds(offset))
            self._take(offset)
        return _EPOCH + timedelta(microseconds=(boot + self._offset) // 1000)

    def _seconds(self, offset: int) -> int:
        return round((offset - self._offset) / _NS)

    def _take(self, offset: int) -> None:
        self.taken_s += (offset - self._offset) / _NS
        self._leap, self._offset = None, offset
        self._share()

    def _is_shared(self, offset: int, boot: int) -> bool:
        """Whether the others of this host believe it already."""
        if boot < self._look_from:
            return False
        self._look_from = boot + int(LOOK_S * _NS)
        kept = self._kept()
        if kept is None or abs(offset - kept) > _TOLERANCE_NS:
            return False
        self._shared = kept
        return True

    def _has_lasted(self, offset: int, boot: int) -> bool:
        leap = self._leap
        if leap is None or abs(offset - leap[0]) > TOLERANCE_S * _NS:
            self._leap = offset, boot
            log.error("the clock has leapt and is not believed", seconds=self._seconds(offset))
            return False
        return boot - leap[1] >= self._confirm_ns

    def _kept(self) -> int | None:
        return None if self._file is None else _kept(self._file)

    def _share(self) -> None:
        if self._shared is None or abs(self._shared - self._offset) >= _DRIFT_NS:
            self._shared = self._offset
            self._keep()
        self._from, self._to = self._shared - _DRIFT_NS, self._shared + _DRIFT_NS

    def _keep(self) -> None:
        if self._file is None:
            return
        with suppress(OSError), _keeping(self._file, self._offset):  # a full disk stops no clock
            pass


@dataclass(frozen=True, slots=True)
class Leap:
    """How the wall clock differs from what the processes of a data folder believe; `seconds`: 0 where it does not."""

    seconds: float
    offset_ns: int
    """Of the wall clock, from the time since boot."""

    @staticmethod
    def seen(file: Path, *, wall: Callable[[], int] = time.time_ns, boot: Callable[[], int] = since_boot_ns) -> Leap:
        """Compare with the shared `file`, and alter nothing. Nothing shared since this boot: no leap."""
        offset = wall() - boot()
        kept = _kept(file)
        is_leap = kept is not None and abs(offset - kept) > _TOLERANCE_NS
        return Leap((offset - kept) / _NS if kept is not None and is_leap else 0.0, offset)

    @contextmanager
    def confirming(self, file: Path) -> Iterator[None]:
        """Have the processes of `file` believe it once the block has ended well. Raises OSError, mostly before it."""
        with _keeping(file, self.offset_ns):
            yield


def _kept(file: Path) -> int | None:
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        return int(kept["offset_ns"]) if kept["boot"] == _this_boot() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextmanager
def _keeping(file: Path, offset: int) -> Iterator[None]:
    aside = file.with_name(f"{file.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        aside.write_text(json.dumps({"boot": _this_boot(), "offset_ns": offset}), encoding="utf-8")
        yield
        aside.replace(file)
    finally:
        aside.unlink(missing_ok=True)


def _this_boot() -> str:
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""
