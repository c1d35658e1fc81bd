"""Which process this is, without a system call: what is kept for one process asks so at each use."""

from __future__ import annotations

import os

_pid = os.getpid()


def pid() -> int:
    """As `os.getpid()`."""
    return _pid


def _forked() -> None:
    global _pid
    _pid = os.getpid()


os.register_at_fork(after_in_child=_forked)
