"""The background process: sequencers, dispatchers, maintenance. Each loop has a thread; each step is one bounded piece.

A step that fails is logged and tried again later: what it would have done stays in the database.
"""

from __future__ import annotations

import signal
import threading

import structlog

from fhir_server.server import figures, logs, metrics, processes
from fhir_server.server.figures import Figures, LoopFigures
from fhir_server.server.services import Services
from fhir_server.server.settings import Settings
from store import items
from store.access import Loop

log = structlog.get_logger("vigie.worker")

_AFTER_FAILURE_S = 1.0


def run(services: Services, stopping: threading.Event, own: Figures) -> None:
    """Run all loops until `stopping` is set. `own`: where their turns are counted."""
    threads = [
        threading.Thread(
            target=_turn, args=(services, loop, stopping, own.loop(loop.name, loop.interval_s)), name=loop.name,
            daemon=True,
        )
        for loop in services.loops
    ]  # fmt: skip
    for thread in threads:
        thread.start()
    stopping.wait()
    services.database.end_waits()
    for thread in threads:
        thread.join(timeout=10)


def _turn(services: Services, loop: Loop, stopping: threading.Event, counted: LoopFigures) -> None:
    """Turn one loop. What a step raises is counted and told, and is nobody else's affair."""
    while not stopping.is_set():
        try:
            counted.start()
            more = loop.step()
            counted.succeeded()
            if more:
                continue
            if loop.wake:
                services.database.wait_for(loop.wake, loop.rest_s)
            else:
                stopping.wait(loop.rest_s)
        except Exception:
            counted.failed()
            log.exception("a loop failed", loop=loop.name)
            stopping.wait(_AFTER_FAILURE_S)


@processes.told("worker")
def main() -> None:
    """The process."""
    processes.die_with_parent(signal.SIGTERM)
    logs.configure("worker")
    told = processes.StopSignals()
    services = Services.of(Settings.load().checked())
    services.keys.prove()
    own = figures.begin(services.settings.data, "worker", services.settings.dimse_port)
    metrics.sample(own, services)
    items.count_with(lambda loop: own.count("vigie_loop_items_failed_total", (loop,)))
    stopping = threading.Event()
    running = threading.Thread(target=run, args=(services, stopping, own), name="loops")
    running.start()
    told.wait()
    stopping.set()
    running.join()
    services.close()


if __name__ == "__main__":
    main()
