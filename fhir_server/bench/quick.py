"""`./vigie bench quick`: one run of everything on a server of its own, printed as a table, raw figures as JSON."""

from __future__ import annotations

import json
import os
import platform
import socket
import tempfile
import threading
import time
import uuid
from pathlib import Path

import click

from dicomweb import phantom
from dicomweb.phantom import Phantom
from fhir_server.bench import load
from fhir_server.bench.load import Connection, Measured, request
from fhir_server.bench.site import CONTENT
from fhir_server.demo import seed
from fhir_server.demo.hospital import Endpoint
from fhir_server.duties import deployment, tokens
from fhir_server.server import processes
from fhir_server.server.processes import Child, Supervisor
from fhir_server.server.services import Services
from fhir_server.server.settings import Settings
from resources.codes import LOINC, SNOMED
from resources.json import Json
from resources.times import instant_text, utc_now

_ROUNDS = 5
"""Of the bare route and of reads, by turns: the kernel spreads connections over the workers as it likes (12 to 4 as
well as 8 to 8), which makes one round 20 % faster than the next, and the machine is not the same from minute to minute.
"""
_BURST_S = 2.5
"""Reads are measured as bursts so long, each after the log had everything; what goes on is `sustained`."""
_LOOK_S = 1.0
_READERS = (16, 64)
"""Connections that read at once."""
_CAUGHT_UP_WITHIN_S = 300.0
_QUEUES = ("audit-inbox", "audit-spool", "outbox")
_PATIENTS = 200
_CHUNK = 100
_EVENTS_PER_SECOND = 20


def quick(*, seconds: float, sustained: float, resources: int, out: Path | None, database: str | None) -> int:
    """Measure, print, and write the raw figures to `out`. `sustained`: seconds of reads at a stretch; 0: none."""
    with tempfile.TemporaryDirectory(prefix="vigie-bench-") as folder:
        settings = Settings.load(
            {
                "data": Path(folder),
                "port": _free_port(),
                "dimse_port": _free_port(),
                "demo": True,
                "database": database,
                "client_rate": 1_000_000,  # one client asks for all that the machine can do
                "organization_rate": 1_000_000,
            }
        ).checked()
        deployment.upgrade(settings)
        seed.seed(settings)
        bare_port = _free_port()
        children = processes.children(settings)
        bare = Child("bare", processes.module("fhir_server.bench.site", str(bare_port)), children[0].environment)
        supervisor = Supervisor([*children, bare])
        supervisor.start()
        try:
            processes.until_ready(settings, supervisor)
            figures = _Bench(settings, bare_port, seconds, sustained, resources).run()
        finally:
            supervisor.stop()
    _print(figures)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        path = out / f"quick-{figures['database']}-{utc_now():%Y%m%d-%H%M%S}.json"
        path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        click.echo(f"raw figures: {path}")
    return 0


class _Bench:
    def __init__(
        self, settings: Settings, bare_port: int, seconds: float, sustained_s: float, resources: int
    ) -> None:
        self.settings = settings
        self.bare_port = bare_port
        self.seconds = seconds
        self.sustained_s = sustained_s
        self.kept_up: list[Json] = []
        """What waited for the log while reads went on."""
        self.resources = resources
        self.host = f"127.0.0.1:{settings.port}"
        self.tokens: dict[str, str] = {}
        self.logged: list[Json] = []
        """How many records waited for the audit log after a work, and for how long."""
        self.renew()

    def renew(self) -> None:
        for one in tokens.demo_clients(self.settings):
            if one["role"] in ("hospital-a", "viewer"):
                self.tokens[one["role"]] = tokens.fetch_token(
                    f"{self.settings.bases[0]}/oauth/token", one["client_id"], one["private_key"], one["scope"]
                )

    def run(self) -> Json:
        measured: dict[str, Measured] = {}
        patients = self.fill()
        self.catch_up()
        one = self.ask("GET", f"/fhir/{patients[0]}")
        (self.settings.data / CONTENT).write_bytes(one)
        for connections in _READERS:
            bare, read = measured[_bare(connections)], measured[_read(connections)] = Measured(), Measured()
            for _ in range(_ROUNDS):
                bare.add(
                    load.run(
                        "127.0.0.1",
                        self.bare_port,
                        lambda n: request("GET", "/bare/read", self.host),
                        seconds=_BURST_S,
                        connections=connections,
                    )
                )
                read.add(
                    self.load(
                        lambda n: self.get(f"/fhir/{patients[n % len(patients)]}"),
                        connections=connections, seconds=_BURST_S,
                    )
                )  # fmt: skip
                self.catch_up()
            self.renew()
        if self.sustained_s:
            measured["audited read, sustained, 16"] = self.sustained(patients)
            self.catch_up()
        self.renew()
        measured["search"] = self.load(
            lambda n: self.get(
                f"/fhir/ServiceRequest?patient={patients[n % len(patients)]}&status=active&_sort=-authored&_count=20"
            )
        )
        self.renew()
        measured["create"] = self.load(
            lambda n: self.post("/fhir/ServiceRequest", _plain_order(patients[n % len(patients)], n))
        )
        measured["transaction of 50"] = self.load(
            lambda n: self.post(
                "/fhir", _bundle([_plain_order(patients[(n + i) % len(patients)], i) for i in range(50)])
            ),
            connections=2,
        )
        self.renew()
        stow, frame_url = self.images()
        measured["STOW-RS (10 instances a request)"] = stow
        measured["frame"] = self.load(
            lambda n: request(
                "GET",
                frame_url,
                self.host,
                token=self.tokens["viewer"],
                accept='multipart/related; type="application/octet-stream"; transfer-syntax=*',
            )
        )
        self.renew()
        latencies = self.notifications(patients)
        return self.figures(measured, latencies)

    def figures(self, measured: dict[str, Measured], latencies_s: list[float]) -> Json:
        ordered = sorted(latencies_s)

        def at(percent: float) -> float:
            return (
                round(1000 * ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))], 1) if ordered else -1.0
            )

        return {
            "database": "sqlite" if "sqlite" in self.settings.database_url else "postgresql",
            "at": instant_text(utc_now()),
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "seconds": self.seconds,
            "resources": self.resources,
            "workers": self.settings.workers,
            "threads": self.settings.threads,
            "measured": {name: one.json() for name, one in measured.items()},
            "read_to_bare": {
                str(connections): round(
                    measured[_read(connections)].per_second / (measured[_bare(connections)].per_second or 1), 3
                )
                for connections in _READERS
            },
            "resources_per_second_in_transactions": round(measured["transaction of 50"].per_second * 50, 1),
            "instances_per_second_by_stow": round(measured["STOW-RS (10 instances a request)"].per_second * 10, 1),
            "sustained_s": self.sustained_s,
            "waiting_while_sustained": self.kept_up,
            "audit_log_caught_up": self.logged,
            "notification_ms": {"events": len(ordered), "p50": at(50), "p99": at(99)},
        }

    # — the work —

    def fill(self) -> list[str]:
        """`resources` resources: patients and orders, by transactions."""
        made = json.loads(self.ask("POST", "/fhir", _bundle([_patient(i) for i in range(_PATIENTS)])))
        patients = ["/".join(e["response"]["location"].split("/fhir/")[1].split("/")[:2]) for e in made["entry"]]
        for start in range(0, self.resources - _PATIENTS, _CHUNK):
            self.ask(
                "POST",
                "/fhir",
                _bundle([_plain_order(patients[(start + i) % _PATIENTS], start + i) for i in range(_CHUNK)]),
            )
        return patients

    def sustained(self, patients: list[str]) -> Measured:
        """Reads at a stretch, and second by second what waits for the log meanwhile."""
        over, began = threading.Event(), time.monotonic()

        def watch() -> None:
            services = Services.of(self.settings)
            while not over.wait(_LOOK_S):
                with services.database.read() as connection:
                    queues = services.queues(connection)
                self.kept_up.append({
                    "at_s": round(time.monotonic() - began, 1),
                    **{name: [one.count, _age(one.oldest_us)] for name, one in sorted(queues.items())},
                })  # fmt: skip
            services.close()

        watching = threading.Thread(target=watch, daemon=True)
        watching.start()
        try:
            return self.load(
                lambda n: self.get(f"/fhir/{patients[n % len(patients)]}"), seconds=self.sustained_s
            )  # fmt: skip
        finally:
            over.set()
            watching.join()

    def catch_up(self) -> None:
        """Wait until what was recorded is in the audit log, so that no work is measured beside the last one's rest."""
        services = Services.of(self.settings)
        waited, began = services.ledger.waiting(), time.monotonic()
        while services.ledger.waiting():
            if time.monotonic() - began > _CAUGHT_UP_WITHIN_S:
                raise click.ClickException("the audit log does not catch up")
            time.sleep(0.5)
        self.logged.append({"records": waited, "seconds": round(time.monotonic() - began, 1)})
        services.close()

    def images(self) -> tuple[Measured, str]:
        boundary = "vigiebench"
        kind = f'multipart/related; type="application/dicom"; boundary={boundary}'

        def body(n: int) -> bytes:
            series = phantom.series(Phantom(patient_id=f"B-{n}", slices=10))
            parts = b"".join(
                b"--" + boundary.encode() + b"\r\nContent-Type: application/dicom\r\n\r\n" + one + b"\r\n"
                for one in series
            )
            return parts + b"--" + boundary.encode() + b"--\r\n"

        prepared = [
            request(
                "POST",
                "/dicom-web/studies",
                self.host,
                token=self.tokens["hospital-a"],
                body=body(n),
                content_type=kind,
                accept="application/dicom+json",
            )
            for n in range(max(8, int(self.seconds * 30)))
        ]
        used = iter(prepared)
        taking = threading.Lock()

        def take(n: int) -> bytes:
            with taking:
                return next(used, prepared[-1])

        stow = self.load(take, connections=2)
        found = json.loads(
            self.ask("GET", "/dicom-web/instances?limit=1", accept="application/dicom+json", role="viewer")
        )[0]
        study, series, instance = (found[tag]["Value"][0] for tag in ("0020000D", "0020000E", "00080018"))
        return stow, f"/dicom-web/studies/{study}/series/{series}/instances/{instance}/frames/1"

    def notifications(self, patients: list[str]) -> list[float]:
        """Seconds from the commit's answer to the notification's arrival, for orders at a steady pace."""
        endpoint = Endpoint()
        arrived: dict[str, float] = {}
        seen = 0
        self.ask(
            "POST",
            "/fhir/Subscription",
            {
                "resourceType": "Subscription",
                "status": "requested",
                "reason": "bench",
                "criteria": _topic("order-status"),
                "channel": {"type": "rest-hook", "endpoint": endpoint.url, "payload": "application/fhir+json"},
            },
        )
        endpoint.wait_for(lambda n: n.kind == "handshake", 10)
        time.sleep(1)
        stop = threading.Event()

        def watch() -> None:
            nonlocal seen
            while not stop.is_set():
                for one in endpoint.received[seen:]:
                    seen += 1
                    focus = one.focus()
                    if focus:
                        arrived.setdefault("/".join(focus.split("/")[-2:]), time.perf_counter())
                time.sleep(0.002)

        threading.Thread(target=watch, daemon=True).start()
        committed: dict[str, float] = {}
        for n in range(int(self.seconds * 2 * _EVENTS_PER_SECOND)):
            began = time.perf_counter()
            made = json.loads(self.ask("POST", "/fhir/ServiceRequest", _imaging_order(patients[n % len(patients)])))
            committed[f"ServiceRequest/{made['id']}"] = time.perf_counter()
            time.sleep(max(0.0, 1 / _EVENTS_PER_SECOND - (time.perf_counter() - began)))
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline and not committed.keys() <= arrived.keys():
            time.sleep(0.05)
        stop.set()
        endpoint.close()
        missing = len(committed.keys() - arrived.keys())
        if missing:
            click.echo(f"{missing} of {len(committed)} notifications had not arrived after 15 s", err=True)
        return [max(0.0, arrived[name] - at) for name, at in committed.items() if name in arrived]

    def load(self, make: load.Request, *, connections: int = 16, seconds: float | None = None) -> Measured:
        return load.run(
            "127.0.0.1", self.settings.port, make, seconds=seconds or self.seconds, connections=connections
        )

    def get(self, path: str) -> bytes:
        return request("GET", path, self.host, token=self.tokens["hospital-a"])

    def post(self, path: str, body: Json) -> bytes:
        return request("POST", path, self.host, token=self.tokens["hospital-a"], body=json.dumps(body).encode())

    def ask(
        self, method: str, path: str, body: Json | None = None, *, accept: str = "*/*", role: str = "hospital-a"
    ) -> bytes:
        connection = Connection("127.0.0.1", self.settings.port)
        try:
            status = connection.ask(
                request(
                    method,
                    path,
                    self.host,
                    token=self.tokens[role],
                    accept=accept,
                    body=json.dumps(body).encode() if body is not None else b"",
                )
            )
            if not 200 <= status < 300:
                raise click.ClickException(f"{method} {path.partition('?')[0]} answered {status}")
            return connection.body
        finally:
            connection.close()


def _age(oldest: int | None) -> float:
    return 0.0 if oldest is None else round(time.time() - oldest / 1e6, 1)


def _bare(connections: int) -> str:
    return f"bare Flask route, {connections}"


def _read(connections: int) -> str:
    return f"audited read, {connections}"


def _topic(name: str) -> str:
    from subscriptions.topics import TOPICS

    return next(topic.url for topic in TOPICS if topic.url.endswith(f"/{name}"))


def _patient(n: int) -> Json:
    return {
        "resourceType": "Patient",
        "identifier": [{"system": "urn:oid:1.2.250.1.999.9.1", "value": f"bench-{uuid.uuid4()}"}],
        "name": [{"family": f"BENCH{n}", "given": ["Anne", "Marie"]}],
        "gender": "female",
        "birthDate": f"19{n % 90 + 10}-03-01",
    }


def _plain_order(patient: str, n: int) -> Json:
    """An order outside imaging: a create alone, without the workflow's derived tasks."""
    return {
        "resourceType": "ServiceRequest",
        "status": "active" if n % 3 else "completed",
        "intent": "order",
        "priority": "urgent",
        "identifier": [{"system": "urn:oid:1.2.250.1.999.9.2", "value": str(uuid.uuid4())}],
        "code": {"coding": [{"system": LOINC, "code": "58410-2", "display": "CBC panel"}]},
        "subject": {"reference": patient},
        "authoredOn": f"2026-{n % 12 + 1:02}-{n % 28 + 1:02}T{n % 24:02}:00:00+01:00",
        "reasonCode": [{"text": "bench"}],
        "note": [{"text": "Texte d'une longueur ordinaire pour une demande."}],
    }


def _imaging_order(patient: str) -> Json:
    return {
        **_plain_order(patient, 1),
        "priority": "stat",
        "category": [{"coding": [{"system": SNOMED, "code": "363679005"}]}],
        "code": {"coding": [{"system": LOINC, "code": "24725-4"}]},
    }


def _bundle(resources: list[Json]) -> Json:
    return {
        "resourceType": "Bundle",
        "type": "transaction",
        "entry": [
            {
                "fullUrl": f"urn:uuid:{uuid.uuid4()}",
                "resource": one,
                "request": {"method": "POST", "url": one["resourceType"]},
            }
            for one in resources
        ],
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _print(figures: Json) -> None:
    click.echo(
        f"{figures['database']}, {figures['cores']} cores, {figures['workers']} workers × {figures['threads']} threads,"
        f" {figures['resources']} resources, audit on"
    )
    for name, one in figures["measured"].items():
        click.echo(
            f"  {name:36} {one['per_second']:9.1f}/s   p50 {one['p50_ms']:7.2f} ms   p99 {one['p99_ms']:7.2f} ms"
            f"   {one['statuses']}"
        )
    for connections, ratio in figures["read_to_bare"].items():
        click.echo(f"  audited read / bare, {connections:>3} connections {ratio:9.2f}")
    click.echo(f"  resources/s in transactions          {figures['resources_per_second_in_transactions']:.0f}")
    click.echo(f"  STOW-RS instances/s                  {figures['instances_per_second_by_stow']:.0f}")
    waits = [one.get(name, [0, 0.0]) for one in figures["waiting_while_sustained"] for name in _QUEUES]
    if waits:
        click.echo(
            f"  sustained for {figures['sustained_s']:.0f} s: at most {max(count for count, _ in waits)} waiting"
            f" for the log or for delivery, the oldest for {max(age for _, age in waits)} s"
        )
    for one in figures["audit_log_caught_up"]:
        rate = one["records"] / max(one["seconds"], 0.1)
        click.echo(
            f"  audit log caught up                  {one['records']} records in {one['seconds']} s ({rate:.0f}/s)"
        )
    n = figures["notification_ms"]
    click.echo(f"  notification latency                 p50 {n['p50']} ms   p99 {n['p99']} ms   ({n['events']} events)")
