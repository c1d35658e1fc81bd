"""The real processes seen from outside: what arrives at the pipe, at /readyz and at /metrics (DESIGN §11)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text

from fhir_server.duties import deployment
from fhir_server.server import figures, logs, metrics
from fhir_server.server.settings import Settings
from store.engine.database import open_engine
from tests.clients.site import ROOT, Site, environment, until

CANARY = "KANARIENVOGEL"


def lines(content: str) -> list[dict[str, Any]]:
    """What arrived: JSON objects of our fields, one a line."""
    found = [json.loads(line) for line in content.splitlines()]
    for one in found:
        assert one.keys() <= logs.FIELDS.keys(), one
        assert {"event", "level", "timestamp", "process"} <= one.keys(), one
    return found


def readyz(site: Site) -> dict[str, Any]:
    body: dict[str, Any] = httpx2.get(f"{site.base}/readyz", timeout=10, trust_env=False).json()
    return body


def test_a_server_shows_what_becomes_of_its_processes(own_site: Site) -> None:
    """A worker that is frozen, killed, replaced: /readyz names it, the log tells it, no counter falls."""
    site = own_site.start()
    until(lambda: readyz(site)["status"] == "ready", "all processes run", 60)
    with site.http("hospital-a") as http:
        for _ in range(5):
            assert http.get("/Patient?name=personne").status_code == 200
    page = httpx2.get(f"{site.base}/metrics", timeout=10, trust_env=False)
    assert page.status_code == 200

    def samples(name: str) -> list[tuple[dict[str, str], float]]:
        told = httpx2.get(f"{site.base}/metrics", timeout=10, trust_env=False).text
        return [
            (sample.labels, sample.value)
            for family in text_string_to_metric_families(told)
            for sample in family.samples
            if sample.name == name
        ]

    def searches() -> float:
        wanted = {"route": "fhir/search-type", "status": "2xx"}
        return sum(value for labels, value in samples("vigie_http_requests_total") if labels == wanted)

    until(lambda: searches() == 5, "all are counted, by whichever process")
    families = text_string_to_metric_families(page.text)
    names = {family.name + ("_total" if family.type == "counter" else "") for family in families}
    assert names <= metrics.FAMILIES.keys()
    processes = [labels["process"] for labels, _ in samples("vigie_process_up_seconds")]
    assert sorted(processes) == ["dimse", "web", "web", "worker"]
    assert [value for _, value in samples("vigie_dimse_associations")] == [0.0]
    assert {labels["process"] for labels, _ in samples("vigie_threads_busy")} == {"web"}
    turned = {labels["loop"]: value for labels, value in samples("vigie_loop_since_turn_seconds")}
    assert {"audit-sequencer", "subscription-dispatcher", "escalation"} <= turned.keys()
    assert turned["audit-sequencer"] < 10

    worker = site.child("worker")
    os.kill(worker, signal.SIGSTOP)
    until(lambda: "the worker stands still" in readyz(site).get("reason", ""), "it is seen", 40)
    os.kill(worker, signal.SIGKILL)
    until(lambda: readyz(site)["status"] == "ready", "it is replaced", 60)
    for pid in site.web_workers():
        os.kill(pid, signal.SIGKILL)

    def answers() -> bool:
        try:
            return readyz(site)["status"] == "ready"
        except httpx2.HTTPError:
            return False

    until(answers, "they are replaced", 60)
    until(lambda: searches() == 5, "what the dead had counted still counts")
    assert site.stop() == 0
    told = lines(site.log.read_text())
    (crash,) = [one for one in told if one["event"] == "a process ended by itself"]
    assert (crash["child"], crash["pid"], crash["code"], crash["level"]) == ("worker", worker, -9, "error")
    assert [one for one in told if one["event"] == "request" and one["route"] == "fhir/search-type"]


def test_a_loop_that_fails_is_told_and_disturbs_no_other(tmp_path: Path) -> None:
    """The real worker on a database that lacks a table: one loop fails at each turn, all others go on."""
    settings = Settings.load({"data": tmp_path / "data", "dimse_port": 0}, environ={})
    deployment.upgrade(settings)
    database = open_engine(settings.database_url)
    with database.write() as connection:
        connection.execute(text("ALTER TABLE dicom_study RENAME TO dicom_study_away"))
    database.dispose()
    with (tmp_path / "log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "fhir_server.server.worker"], stderr=log, cwd=ROOT,
            env=environment(**settings.environment(), PYTHONPATH=str(ROOT)),
        )  # fmt: skip

    def loops() -> dict[str, Any]:
        found = figures.live(settings.data, "worker")
        return dict(found[0].content["loops"]) if found else {}

    try:
        until(lambda: loops().get("imaging-studies", {}).get("failures", 0) >= 3, "it fails again and again", 60)
        others = {name: loop for name, loop in loops().items() if name != "imaging-studies"}
        assert not [name for name, loop in others.items() if loop["failures"]]
        assert others["audit-sequencer"]["last_success"]
    finally:
        worker.terminate()
        worker.wait(30)
    failed = [one for one in lines((tmp_path / "log").read_text()) if one["event"] == "a loop failed"]
    assert len(failed) >= 3
    assert failed[0]["loop"] == "imaging-studies"
    assert failed[0]["exception"] == "OperationalError"  # of the driver: the look is a prepared statement
    assert [place for place in failed[0]["trace"] if place.startswith("dicomweb/")]


NIGHT = f"""
import shutil, sys
from pathlib import Path
from auth.guard import REQUEST_ID
from fhir_server.duties import deployment
from fhir_server.edge import errors
from fhir_server.server import logs
from fhir_server.server.services import Services
from fhir_server.server.settings import Settings
from resources.outcomes import Unavailable
from store.access import Access, Caller, Interaction
from tests import builders
from tests.support import Clock
from tests.workflow.conftest import Scene

logs.configure("worker")
settings = Settings.load({{"data": Path(sys.argv[1]), "references": "lenient"}}, environ={{}})
deployment.upgrade(settings)
clock = Clock()
services = Services.of(settings, clock=clock)
scene = Scene(services.store, services.workflow)
named = builders.patient("{CANARY}", identifier=[{{"system": "urn:oid:1.2.3", "value": "{CANARY}"}}])
builders.patient = lambda *_, **__: named
scene.furnish()
scene.accepted()
clock.advance(hours=14)
scene.images()
clock.advance(hours=2)
services.workflow.clock(services.store).step()
errors.fault_of(ValueError("{CANARY}"), {{REQUEST_ID: "request-1"}})
shutil.rmtree(settings.data / "audit-spool")
try:
    seen = Access(Interaction.READ, "Patient", "{CANARY}")
    services.ledger.disclose(Caller("{CANARY}", "hospital-a"), [seen], clock())
except Unavailable:
    print("refused", file=sys.__stdout__)
"""


def test_what_the_night_must_hear_arrives_with_its_fields(tmp_path: Path) -> None:
    """No reader on duty, a late task, a record that cannot be kept: they once came without words (house.md A5)."""
    done = subprocess.run(
        [sys.executable, "-c", NIGHT, str(tmp_path / "data")], capture_output=True, text=True, timeout=120, cwd=ROOT,
        env=environment(PYTHONPATH=str(ROOT)), check=False,
    )  # fmt: skip
    told = {one["event"]: one for one in lines(done.stderr)}
    assert done.stdout == "refused\n", done.stderr
    nobody = told["no reader is on duty"]
    assert nobody["order"].startswith("ServiceRequest/")
    late = told["a deadline is past"]
    assert late["kind"] in {"acquire", "read"}
    assert late["task"]
    assert told["audit records could not be committed"]["exception"] == "FileNotFoundError"
    unforeseen = told["a request failed by an exception that nobody foresaw"]
    assert (unforeseen["exception"], unforeseen["request_id"]) == ("ValueError", "request-1")
    assert CANARY not in done.stderr
