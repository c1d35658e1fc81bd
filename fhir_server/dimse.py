"""The DIMSE process: C-ECHO and C-STORE on the DICOM upper layer port."""

from __future__ import annotations

import signal
import threading

from fhir_server import logs, processes
from fhir_server.services import Services
from fhir_server.settings import Settings


def main() -> None:
    processes.die_with_parent(signal.SIGTERM)
    logs.configure("dimse")
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    settings = Settings.load().checked()
    services = Services.of(settings)
    server = services.imaging.scp()
    server.start(settings.host, settings.dimse_port)
    stopping.wait()
    server.stop()
    services.close()


if __name__ == "__main__":
    main()
