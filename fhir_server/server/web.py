"""The web process: Granian serving wsgi.py. A worker that dies is replaced; all die with the supervisor."""

from __future__ import annotations

import sys

from granian import Granian
from granian.constants import Interfaces
from granian.log import LogLevels

from fhir_server.server import logs, processes
from fhir_server.server.settings import Settings


@processes.told("web")
def main() -> None:
    processes.die_with_parent()
    processes.announce_parent()
    logs.configure("web")
    settings = Settings.load().checked()
    Granian(
        sys.argv[1] if len(sys.argv) > 1 else "wsgi:app",
        address=settings.host,
        port=settings.port,
        interface=Interfaces.WSGI,
        workers=settings.workers,
        blocking_threads=settings.threads,
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
