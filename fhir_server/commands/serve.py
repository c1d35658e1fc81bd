"""`./vigie serve`: upgrade the database, seed the demo if asked, start the processes, say when it is ready."""

from __future__ import annotations

import errno
import fcntl
import socket
import time
from pathlib import Path
from typing import IO

import click
import structlog

from fhir_server.duties import upkeep
from fhir_server.server import logs, processes
from fhir_server.server.processes import Supervisor
from fhir_server.server.settings import Settings

log = structlog.get_logger("vigie.serve")

_TICK_S = 0.1


def serve(settings: Settings) -> int:
    """Run until told to stop (SIGTERM, SIGINT); the exit status."""
    logs.configure("serve", speaks=True)
    settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = _only_one(settings.data / "serve.lock")
    if lock is None:
        click.echo("another vigie serves this data folder", err=True)
        return 1
    with lock:
        taken = _taken(settings)
        if taken:
            click.echo(f"port {taken} is in use on {settings.host}: choose another", err=True)
            return 1
        upkeep.upgrade(settings)
        if settings.demo:
            from fhir_server.demo import seed

            seed.seed(settings)
        supervisor = Supervisor(processes.children(settings))
        supervisor.start()
        try:
            return _watch(supervisor, settings)
        finally:
            supervisor.stop()


def _watch(supervisor: Supervisor, settings: Settings) -> int:
    began = time.monotonic()
    announced = False
    while not supervisor.stopping:
        supervisor.tick()
        if not announced:
            if processes.is_ready(settings):
                click.echo(f"ready {settings.bases[0]}")
                announced = True
            elif time.monotonic() - began > processes.READY_WITHIN_S:
                click.echo("not ready in time; the log above says why", err=True)
                return 1
        time.sleep(_TICK_S)
    return 0


def _taken(settings: Settings) -> int | None:
    """The port that another program holds: its answers must never be taken for ours."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    for port in filter(None, (settings.port, settings.dimse_port)):
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((settings.host, port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    return port
    return None


def _only_one(path: Path) -> IO[str] | None:
    """A lock on the data folder that the kernel lets go of when this process ends."""
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file
