"""The web process: Granian with the front before wsgi.py. A dead worker is replaced; all die with the supervisor."""

from __future__ import annotations

from granian import Granian
from granian.constants import HTTPModes, Interfaces, Loops, RuntimeModes
from granian.http import HTTP1Settings
from granian.log import LogLevels

from fhir_server.server import logs, processes
from fhir_server.server.settings import Settings

HEADER_READ_TIMEOUT_MS = 15_000
"""A head has to come within this time; so has the next request of a connection that is kept."""
BUFFER_BYTES = 64 * 1024
"""What is buffered of a connection in either direction (a head that is longer is 431)."""
MAX_CONNECTIONS = 4096
"""Connections of one worker; further ones wait to be accepted."""


@processes.told("web")
def main() -> None:
    """The process."""
    processes.die_with_parent()
    processes.announce_parent()
    logs.configure("web")
    settings = Settings.load().checked()
    Granian(
        "fhir_server.server.front.entry:front",
        address=settings.host,
        port=settings.port,
        interface=Interfaces.RSGI,
        workers=settings.workers,
        loop=Loops.uvloop,
        runtime_mode=RuntimeModes.mt,
        http=HTTPModes.http1,  # nothing needs HTTP/2 in clear
        http1_settings=HTTP1Settings(header_read_timeout=HEADER_READ_TIMEOUT_MS, max_buffer_size=BUFFER_BYTES),
        backpressure=MAX_CONNECTIONS,
        respawn_failed_workers=True,
        respawn_interval=0.5,
        workers_kill_timeout=10,
        log_level=LogLevels.warning,
        log_access=False,
        log_dictconfig=logs.GRANIAN,
        process_name=None,
        websockets=False,
    ).serve()


if __name__ == "__main__":
    main()
