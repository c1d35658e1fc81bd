"""The DIMSE process: C-ECHO and C-STORE on the DICOM upper layer port."""

from __future__ import annotations

import signal

from fhir_server.server import figures, logs, metrics, processes
from fhir_server.server.services import Services
from fhir_server.server.settings import Settings


@processes.told("dimse")
def main() -> None:
    """The process."""
    processes.die_with_parent(signal.SIGTERM)
    logs.configure("dimse")
    told = processes.StopSignals()
    settings = Settings.load().checked()
    services = Services.of(settings, waits=settings.waits)
    server = services.imaging.scp()
    own = figures.begin(settings.data, "dimse", settings.dimse_port)
    metrics.sample(own, services)
    own.sample("vigie_dimse_associations", lambda: {(): float(server.associations)})
    server.start(settings.host, settings.dimse_port)
    told.wait()
    server.stop()
    services.close()


if __name__ == "__main__":
    main()
