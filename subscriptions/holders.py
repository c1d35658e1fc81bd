"""Which process holds a lease, in words by which another on the same machine can tell that it is gone.

A process is its number in its PID namespace of this boot, and when it started: a number that was given to another since
is not it. Of another machine nothing is known, and a lease of such a process is waited for. Linux, proc(5).
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

_PROC = Path("/proc")
_START = 19
"""Place of `starttime` behind the name in /proc/[pid]/stat, proc_pid_stat(5)."""


def mine() -> str:
    """This process. Empty where the system does not tell: then nobody can tell that it is gone."""
    return _of(os.getpid())


def is_gone(holder: str) -> bool:
    """Whether the process is known to have ended."""
    machine, _, rest = holder.partition("-")
    number, _, _ = rest.partition("-")
    if not number.isdigit() or machine != _machine():
        return False
    return _process(int(number)) != holder


@lru_cache(maxsize=8)
def _of(number: int) -> str:
    return _process(number) if _machine() else ""


def _process(number: int) -> str:
    try:
        behind_name = (_PROC / str(number) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    state, started = behind_name[0], behind_name[_START]
    return "" if state in "ZX" else f"{_machine()}-{number}-{started}"


@lru_cache(maxsize=1)
def _machine() -> str:
    """This boot and PID namespace; empty where the system does not tell."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text()[:8]
        return f"{boot}.{(_PROC / 'self/ns/pid').stat().st_ino}"
    except OSError:
        return ""
