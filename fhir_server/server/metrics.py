"""/metrics in Prometheus' text format: what all processes of this data folder count, and how the queues stand.

Counters and gauges come from the processes' figures (`figures`), the queues from the database when somebody asks, at
most once in five seconds and never waited for longer than two. Labels come out of tables: nothing personal can be one.

Only this machine is answered, and the networks of VIGIE_METRICS_NETWORKS; to all others the path does not exist.

https://prometheus.io/docs/practices/naming/ https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import ipaddress
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from flask import Blueprint, Response, abort, request
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from fhir_server.server import checks, figures
from fhir_server.server.figures import BUCKETS_S, Durations, Labels, Told
from fhir_server.server.services import Services
from fhir_server.server.timed import Timed
from resources.times import microseconds
from store.access import Waiting

QUEUES_KEPT_S = 5.0


class Family(NamedTuple):
    """One metric: its type, its labels, and what it is."""

    kind: str
    labels: Labels
    what: str


FAMILIES: Mapping[str, Family] = {
    "vigie_http_requests_total": Family("counter", ("route", "status"), "requests answered, by kind and status class"),
    "vigie_http_request_duration_seconds": Family("histogram", ("route",), "until the answer's head was given"),
    "vigie_log_events_total": Family("counter", ("level", "event"), "lines of the log, those of requests apart"),
    "vigie_loop_turns_total": Family("counter", ("loop",), "turns of a background loop"),
    "vigie_loop_failures_total": Family("counter", ("loop",), "turns that ended by an exception"),
    "vigie_loop_items_failed_total": Family("counter", ("loop",), "things that a loop left out because of a fault"),
    "vigie_loop_since_turn_seconds": Family("gauge", ("loop",), "since the loop last ended a turn, or began this one"),
    "vigie_loop_since_success_seconds": Family("gauge", ("loop",), "since the loop's last turn without exception"),
    "vigie_queue_length": Family("gauge", ("queue",), "entries that wait"),
    "vigie_queue_oldest_age_seconds": Family("gauge", ("queue",), "since the oldest entry came; 0: the queue is empty"),
    "vigie_queues_readable": Family("gauge", (), "1: the database answered for the queues; 0: it did not"),
    "vigie_tasks_past_deadline": Family("gauge", ("kind",), "what is past its deadline: tasks, deliveries, messages…"),
    "vigie_tasks_past_deadline_oldest_seconds": Family("gauge", ("kind",), "since the oldest of these deadlines"),
    "vigie_escalations": Family("gauge", ("kind", "level"), "of these, by the level reached; 0: none yet"),
    "vigie_escalations_oldest_seconds": Family("gauge", ("kind", "level"), "since the oldest of their deadlines"),
    "vigie_disk_free_bytes": Family("gauge", ("folder",), "free space where the data and the objects lie"),
    "vigie_disk_size_bytes": Family("gauge", ("folder",), "size of that volume"),
    "vigie_database_connections": Family("gauge", ("process", "pid"), "connections that the process has taken"),
    "vigie_database_connections_limit": Family("gauge", ("process", "pid"), "how many it may take; 0: no limit"),
    "vigie_threads_busy": Family("gauge", ("process", "pid"), "threads that carry out a request"),
    "vigie_requests_waiting": Family("gauge", ("process", "pid"), "requests that wait for a thread"),
    "vigie_dimse_associations": Family("gauge", ("process", "pid"), "open associations"),
    "vigie_dimse_connections_waiting": Family("gauge", ("process", "pid"), "connections without an association yet"),
    "vigie_clock_leap_seconds": Family("gauge", ("process", "pid"), "wall clock less the time that is believed"),
    "vigie_process_resident_memory_bytes": Family("gauge", ("process", "pid"), "resident memory"),
    "vigie_process_open_descriptors": Family("gauge", ("process", "pid"), "open file descriptors"),
    "vigie_process_threads": Family("gauge", ("process", "pid"), "threads"),
    "vigie_process_up_seconds": Family("gauge", ("process", "pid"), "since the process began"),
}
"""Every metric. docs/operations.md lists them."""

_MAKE = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "histogram": HistogramMetricFamily}


class Collector:
    """What is told when somebody asks."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._queues = Timed("metrics-queues", self._read_queues, keep_s=QUEUES_KEPT_S)

    def collect(self) -> Iterator[Metric]:
        """All families that have a value."""
        told = figures.read(self._services.settings.data)
        counts: dict[tuple[str, Labels], float] = {}
        durations: dict[tuple[str, Labels], Durations] = {}
        for one in told:
            figures.add_up(one.content, counts, durations)
        gauges = [*self._gauges(), *_of_processes([one for one in told if one.is_live])]
        families: dict[str, Any] = {}
        for (name, labels), value in counts.items():
            _family(families, name).add_metric(labels, value)
        for (name, labels), timed in durations.items():
            _family(families, name).add_metric(labels, _cumulated(timed.counts), timed.sum_s)
        for name, given, value in gauges:
            _family(families, name).add_metric(given, value)
        yield from families.values()

    def _gauges(self) -> Iterator[tuple[str, Sequence[str], float]]:
        settings = self._services.settings
        for folder, path in (("data", settings.data), ("objects", settings.objects_folder)):
            usage = shutil.disk_usage(path)
            yield "vigie_disk_free_bytes", [folder], usage.free
            yield "vigie_disk_size_bytes", [folder], usage.total
        try:
            queues = self._queues.answer()
        except Exception:  # noqa: BLE001 - the other figures are wanted most when the database is away
            yield "vigie_queues_readable", [], 0
            return
        yield "vigie_queues_readable", [], 1
        now_us = microseconds(self._services.clock())
        for name, waiting in queues.items():
            yield "vigie_queue_length", [name], waiting.count
            if name not in _AGELESS:
                yield "vigie_queue_oldest_age_seconds", [name], checks.age(waiting, now_us)

    def _read_queues(self) -> Mapping[str, Waiting]:
        with self._services.database.read() as connection:
            return self._services.queues(connection)


_AGELESS = frozenset(
    {"subscriptions-in-error", "audit-spool-damaged", "objects-without-rows", "rows-without-objects"}
)


def _family(families: dict[str, Any], name: str) -> Any:
    if name not in families:
        kind, labels, what = FAMILIES[name]
        families[name] = _MAKE[kind](name, what, labels=labels)
    return families[name]


def _cumulated(counts: Sequence[int]) -> list[tuple[str, float]]:
    total, found = 0, []
    for bound, count in zip((*map(str, BUCKETS_S), "+Inf"), counts, strict=True):
        total += count
        found.append((bound, float(total)))
    return found


def _of_processes(running: Iterable[Told]) -> Iterator[tuple[str, Sequence[str], float]]:
    now = time.monotonic()
    loops: dict[str, tuple[float, float]] = {}
    for told in running:
        who = (told.process, str(told.pid))
        yield "vigie_process_up_seconds", who, now - float(told.content["began"])
        for name, labels, value in told.content["gauges"]:
            if name in FAMILIES:
                yield name, who if FAMILIES[name].labels == ("process", "pid") else labels, value
        for name, loop in told.content["loops"].items():
            turn = now - (loop["running_since"] or loop["last_turn"] or loop["began"])
            success = now - (loop["last_success"] or loop["began"])
            before = loops.get(name, (turn, success))
            loops[name] = (min(before[0], turn), min(before[1], success))
    for name, (turn, success) in loops.items():
        yield "vigie_loop_since_turn_seconds", [name], turn
        yield "vigie_loop_since_success_seconds", [name], success


def sample(own: figures.Figures, services: Services) -> None:
    """Have a process tell how its database connections stand, and what its watch of deadlines saw."""
    own.sample("vigie_database_connections", lambda: {(): float(services.database.connections_taken)})
    own.sample("vigie_database_connections_limit", lambda: {(): float(services.database.connections_limit)})

    # Looked at once a second: so an idle process, too, sees a leap, and takes over one that was confirmed.
    own.sample("vigie_clock_leap_seconds", lambda: {(): services.leap_s})

    def late() -> Mapping[Labels, float]:
        return {labels: float(found.count) for labels, found in _of_kinds(services.workflow.late()).items()}

    def oldest() -> Mapping[Labels, float]:
        now_us = microseconds(services.clock())
        return {labels: checks.age(found, now_us) for labels, found in _of_kinds(services.workflow.late()).items()}

    def escalated() -> Mapping[Labels, float]:
        return {(kind, str(level)): float(one.count) for (kind, level), one in services.workflow.late().items()}

    def oldest_escalated() -> Mapping[Labels, float]:
        now_us = microseconds(services.clock())
        found = services.workflow.late()
        return {(kind, str(level)): checks.age(one, now_us) for (kind, level), one in found.items()}

    own.sample("vigie_tasks_past_deadline", late)
    own.sample("vigie_tasks_past_deadline_oldest_seconds", oldest)
    own.sample("vigie_escalations", escalated)
    own.sample("vigie_escalations_oldest_seconds", oldest_escalated)


def _of_kinds(found: Mapping[tuple[str, int], Waiting]) -> dict[Labels, Waiting]:
    """Kind → all that is late of it, whatever its level."""
    summed: dict[Labels, Waiting] = {}
    for (kind, _), one in found.items():
        before = summed.get((kind,), Waiting(0, None))
        ages = [age for age in (before.oldest_us, one.oldest_us) if age is not None]
        summed[kind,] = Waiting(before.count + one.count, min(ages, default=None))
    return summed


def blueprint(services: Services) -> Blueprint:
    """The route; 404 for whoever may not ask."""
    views = Blueprint("metrics", __name__)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector(services))
    networks = tuple(ipaddress.ip_network(network) for network in services.settings.metrics_networks)

    @views.get("/metrics")
    def metrics() -> Response:
        if not may_ask(request.environ, services.settings.trusted_proxies, networks):
            abort(404)
        return Response(generate_latest(registry), content_type=CONTENT_TYPE_PLAIN_0_0_4)

    return views


_FORWARDED = ("HTTP_X_FORWARDED_FOR", "HTTP_FORWARDED", "HTTP_X_REAL_IP", "HTTP_VIA")


def may_ask(
    environ: Mapping[str, Any],
    trusted_proxies: int,
    networks: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network],
) -> bool:
    """Whether whoever asks sits on this machine or in one of the networks.

    What a proxy brought is judged by the client's address as far as the proxies are trusted, else refused: a proxy on
    this machine would otherwise open the door to everybody behind it.
    """
    address = str(environ.get("REMOTE_ADDR") or "")
    if any(environ.get(name) for name in _FORWARDED):
        forwarded = str(environ.get("HTTP_X_FORWARDED_FOR", "")).split(",")
        if not trusted_proxies or len(forwarded) < trusted_proxies:
            return False
        address = forwarded[-trusted_proxies].strip()
    try:
        peer = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(peer, "ipv4_mapped", None)
    peer = mapped or peer
    return peer.is_loopback or any(peer in network for network in networks if network.version == peer.version)
