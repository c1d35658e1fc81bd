"""The DIMSE process: the services of `dicomweb.dimse.services` on the ports of the DICOM upper layer."""

from __future__ import annotations

import signal
import ssl
from pathlib import Path

from dicomweb.dimse import tls
from dicomweb.dimse.limits import Limits
from fhir_server.server import figures, logs, metrics, processes
from fhir_server.server.services import Services
from fhir_server.server.settings import Settings, SettingsError


@processes.told("dimse")
def main() -> None:
    """The process."""
    processes.die_with_parent(signal.SIGTERM)
    logs.configure("dimse")
    told = processes.StopSignals()
    settings = Settings.load().checked()
    services = Services.of(settings, waits=settings.waits)
    services.keys.prove()
    server = services.imaging.scp(ae_titles=settings.dimse_ae_titles, limits=limits_of(settings))
    own = figures.begin(settings.data, "dimse", settings.dimse_port or settings.dimse_tls_port)
    metrics.sample(own, services)
    own.sample("vigie_dimse_associations", lambda: {(): float(server.associations)})
    own.sample("vigie_dimse_connections_waiting", lambda: {(): float(server.waiting)})
    if settings.dimse_port:
        server.start(settings.host, settings.dimse_port)
    if settings.dimse_tls_port:
        server.start_tls(settings.host, settings.dimse_tls_port, tls_of(settings))
    told.wait()
    server.stop()
    services.close()


def limits_of(settings: Settings) -> Limits:
    """The limits of associations that this deployment has."""
    return Limits(
        associations=settings.dimse_associations,
        per_ae=settings.dimse_associations_per_ae,
        per_address=settings.dimse_associations_per_address,
        artim_s=settings.dimse_artim_s,
    )


def tls_of(settings: Settings) -> ssl.SSLContext:
    """The TLS context of the DIMSE port. Raises SettingsError where its files cannot be used."""
    try:
        return tls.server_context(
            Path(settings.dimse_tls_certificate), Path(settings.dimse_tls_key), Path(settings.dimse_tls_authorities)
        )
    except OSError as error:  # ssl.SSLError too
        raise SettingsError(
            "dimse_tls_certificate, dimse_tls_key or dimse_tls_authorities cannot be used: PEM files, the key without "
            "a passphrase and that of the certificate"
        ) from error


if __name__ == "__main__":
    main()
