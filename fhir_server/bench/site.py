"""The yardstick of an audited read: a bare Flask route that returns the same bytes, under Granian's WSGI.

A server of its own beside the one that is measured, with as many workers and threads.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from flask import Flask, Response
from granian import Granian
from granian.constants import Interfaces
from granian.log import LogLevels

from fhir_server.server import processes
from fhir_server.server.settings import Settings

CONTENT = "bench-bare.json"
"""File of the data folder: the bytes to return."""

bare = Flask("bare", static_folder=None)
_kept: list[bytes] = []


@bare.get("/bare/read")
def read() -> Response:
    """The bare route: the bytes of a read, without anything else."""
    return Response(_body(), content_type="application/fhir+json")


def _body() -> bytes:
    if not _kept:
        _kept.append((Path(os.environ["VIGIE_DATA"]) / CONTENT).read_bytes())
    return _kept[0]


def main() -> None:
    """Serve the bench's own application."""
    processes.die_with_parent()
    settings = Settings.load()
    Granian(
        "fhir_server.bench.site:bare",
        address="127.0.0.1",
        port=int(sys.argv[1]),
        interface=Interfaces.WSGI,
        workers=settings.workers,
        blocking_threads=settings.threads,
        workers_kill_timeout=10,
        log_level=LogLevels.warning,
        websockets=False,
    ).serve()


if __name__ == "__main__":
    main()
