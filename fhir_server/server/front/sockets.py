"""The kernel's part: a connection whose client takes nothing any more ends by itself.

What Granian has taken of an answer it keeps until the client has read it, for as long as that takes. With
TCP_USER_TIMEOUT the kernel resets a connection whose sent bytes stay unacknowledged, or whose window stays shut, for
longer. Granian makes the sockets and knows no such option, but an accepted connection has it from its listener.

RFC 5482; tcp(7)
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path


def bound_connections(port: int, seconds: float) -> int:
    """Set it on this process's listeners of a port; how many they are."""
    found = 0
    for descriptor in list(_DESCRIPTORS.iterdir()) if _DESCRIPTORS.is_dir() else ():
        try:
            listener = _duplicate(int(descriptor.name))
        except OSError:  # no socket, or already closed
            continue
        with listener:
            if _listens(listener, port):
                listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * seconds))
                found += 1
    return found


def _duplicate(descriptor: int) -> socket.socket:
    """A socket's, which is closed by itself; that of a file would keep whatever lock is just held through it. Raises
    OSError where it is none."""
    if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        raise OSError(errno.ENOTSOCK, "no socket")
    duplicate = os.dup(descriptor)
    try:
        return socket.socket(fileno=duplicate)
    except OSError:  # another has taken the number since
        os.close(duplicate)
        raise


def _listens(listener: socket.socket, port: int) -> bool:
    if listener.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    return bool(listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)) and listener.getsockname()[1] == port


_DESCRIPTORS = Path("/proc/self/fd")
"""Linux; elsewhere there is nothing to bound."""
