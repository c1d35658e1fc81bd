"""What `./vigie serve` does: data folder, schema, keys, the demo if asked; then processes, watched to the end."""

from __future__ import annotations

import dataclasses
import errno
import socket
import time

import click
import structlog

from fhir_server.duties import deployment, permissions
from fhir_server.server import logs, processes, running
from fhir_server.server.dimse import tls_of
from fhir_server.server.faults import CannotRun
from fhir_server.server.processes import Supervisor
from fhir_server.server.settings import Settings

log = structlog.get_logger("vigie.serve")

_TICK_S = 0.1
"""Between two looks whether the server is ready."""
_REST_S = 10.0
"""Once it is: what a child or a signal does not end."""
_REPORT_EVERY_S = 15.0


def serve(settings: Settings) -> int:
    """Run until told to stop (SIGTERM, SIGINT); the exit status. Raises CannotRun and the faults of the environment."""
    logs.configure("serve", speaks=True)
    settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = running.hold(settings.data)
    if lock is None:
        raise CannotRun("another vigie serves this data folder")
    with lock:
        repaired = permissions.repair(settings)
        if repaired:
            log.warning("what other accounts could read is put right", count=len(repaired))
        settings = _with_ports(settings)
        if settings.dimse_tls_port:
            tls_of(settings)  # told here in one line, not by a child that cannot start
        deployment.begin(settings)
        deployment.note(settings, "serve")
        if settings.demo:
            from fhir_server.demo import seed

            seed.seed(settings)
        running.announce(settings)
        supervisor = Supervisor(processes.children(settings))
        try:
            supervisor.start()
            _watch(supervisor, settings)
        finally:
            supervisor.stop()
            running.withdraw(settings.data)
    return 0


def _watch(supervisor: Supervisor, settings: Settings) -> None:
    """Turn until told to stop. A slow start is waited for: it ends only where a child cannot run (CannotRun)."""
    began = reported = time.monotonic()
    while not supervisor.stopping:
        supervisor.tick()
        if not supervisor.was_ready:
            waiting = processes.waiting_for(settings)
            if not waiting:
                click.echo(f"ready {settings.bases[0]}")
                supervisor.was_ready = True
            elif time.monotonic() - reported >= _REPORT_EVERY_S:
                reported = time.monotonic()
                log.warning("not ready yet", seconds=round(reported - began), reason=", ".join(waiting))
        supervisor.rest(_TICK_S if not supervisor.was_ready else _REST_S)


def _with_ports(settings: Settings) -> Settings:
    """With a free port where 0 was asked for. CannotRun where another program holds one: its answers are not ours."""
    for port in filter(None, (settings.port, settings.dimse_port, settings.dimse_tls_port)):
        with _probe(settings.host) as probe:
            try:
                probe.bind((settings.host, port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise CannotRun(f"port {port} is in use on {settings.host}: choose another") from error
                raise
    if settings.port:
        return settings
    with _probe(settings.host) as probe:
        probe.bind((settings.host, 0))
        return dataclasses.replace(settings, port=probe.getsockname()[1])


def _probe(host: str) -> socket.socket:
    probe = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return probe
