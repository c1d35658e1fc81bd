"""One processor for the threads that a read is handed back and forth between, where every worker can have its own.

The event loop, Granian's thread and the committer's take turns with one interpreter, so a second processor never lets
two of them run at once: it only has each wait for the other to be woken elsewhere, with cold caches. On a processor of
their own a read costs a third less. The threads of the core, where long work is done outside the interpreter (decoding,
hashing, the database), go wherever there is room.

Only where the processors can be shared out evenly among the workers; else the kernel knows better. A worker holds its
place by a socket's name, which the kernel frees with the process: the one that replaces it takes it over.

sched_setaffinity(2), unix(7) on abstract names
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path

_TASKS = Path("/proc/self/task")
_allowed: frozenset[int] = frozenset()
"""Where this process may run, if its threads have taken a place."""
_place: socket.socket | None = None


def take_place(folder: Path, workers: int) -> int | None:
    """Take a processor for all threads that run now, and those that they start; its number, None where none is taken.

    `folder`: of the deployment, whose `workers` share the processors. Called once in a worker process.
    """
    global _allowed, _place
    if not hasattr(os, "sched_setaffinity") or not _TASKS.is_dir():
        return None
    allowed = sorted(os.sched_getaffinity(0))
    if workers % len(allowed):
        return None
    held = _hold(folder, workers)
    if held is None:
        return None
    _place, slot = held
    _allowed = frozenset(allowed)
    processor = allowed[slot % len(allowed)]
    for task in _TASKS.iterdir():
        with suppress(OSError):  # a thread that has just ended
            os.sched_setaffinity(int(task.name), {processor})
    return processor


def roam() -> None:
    """Let the thread that calls run on every processor of the process again."""
    if _allowed:
        with suppress(OSError):  # fewer are allowed since: it stays where it is
            os.sched_setaffinity(0, _allowed)


def _hold(folder: Path, slots: int) -> tuple[socket.socket, int] | None:
    """A place among `slots` that no other process of the deployment holds."""
    known = folder.stat()
    for slot in range(slots):
        place = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            place.bind(f"\0vigie-worker-{known.st_dev}-{known.st_ino}-{slot}")
        except OSError:
            place.close()
        else:
            return place, slot
    return None
