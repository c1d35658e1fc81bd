"""/metrics: what all processes count, how the queues stand, and nothing of anybody (DESIGN §11)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import event

from fhir_server.server import figures, logs, metrics, threshold
from fhir_server.server.figures import Figures
from resources.times import utc_now
from tests.fhir_server.conftest import Api

ROOT = Path(__file__).resolve().parents[2]
CANARY = "KANARIENVOGEL"

PROCESS = """
import sys, time
from pathlib import Path
from fhir_server.server import figures
own = figures.begin(Path(sys.argv[1]), sys.argv[2])
own.count("vigie_x_total", ("a",), float(sys.argv[3]))
writer = None
time.sleep(1.2)
print("told", flush=True)
sys.stdin.read()
"""


@contextmanager
def process(data: Path, kind: str, count: int) -> Iterator[subprocess.Popen[str]]:
    """A process that counts so much, until the block is left: then it is killed."""
    command = [sys.executable, "-c", PROCESS, str(data), kind, str(count)]
    running = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert running.stdout is not None
        assert running.stdout.readline() == "told\n"
        yield running
    finally:
        running.kill()
        running.communicate()


def total(data: Path) -> float:
    counts: dict[tuple[str, figures.Labels], float] = {}
    for told in figures.read(data):
        figures.add_up(told.content, counts, {})
    return counts.get(("vigie_x_total", ("a",)), 0.0)


def test_processes_are_added_up_and_a_dead_one_still_counts(tmp_path: Path) -> None:
    """A counter must not fall when a worker is replaced (Prometheus takes that for a restart of all)."""
    with process(tmp_path, "web", 3):
        with process(tmp_path, "web", 4):
            assert total(tmp_path) == 7
            assert len(figures.live(tmp_path, "web")) == 2
        assert len(figures.live(tmp_path, "web")) == 1
        assert total(tmp_path) == 7
        with process(tmp_path, "worker", 5):
            assert total(tmp_path) == 12
            assert len(list((tmp_path / "figures").glob("*.figures"))) == 2, "the dead are put together"
            with process(tmp_path, "worker", 6):
                assert total(tmp_path) == 18
        assert total(tmp_path) == 18
    with process(tmp_path, "web", 1):
        assert total(tmp_path) == 1, "nobody was left: a new server begins anew"


def test_a_file_takes_its_space_at_the_start(tmp_path: Path) -> None:
    """On a full disk the figures must still be told: what is written later takes no further space."""
    own = Figures("web")
    writer = figures._Writer(tmp_path / "figures", own)
    writer.write()
    (path,) = (tmp_path / "figures").glob("*.figures")
    assert path.stat().st_size == figures.FILE_BYTES
    assert path.stat().st_mode & 0o077 == 0
    assert (tmp_path / "figures").stat().st_mode & 0o077 == 0
    blocks = path.stat().st_blocks
    for number in range(500):
        own.count("vigie_x_total", (str(number),))
    writer.write()
    assert path.stat().st_blocks == blocks
    assert len(figures.read(tmp_path)[0].content["counts"]) >= 500


def test_the_number_of_series_is_bounded() -> None:
    """Labels come out of tables; should one not, memory and file stay bounded."""
    own = Figures("web")
    told = [logs.Request(utc_now(), "GET", f"fhir/{number}", 200, 1.0, "x") for number in range(figures.MAX_SERIES * 2)]
    own.requests(told)
    assert len(own.counts) == figures.MAX_SERIES
    own.count("vigie_x_total", ("one more",))
    assert len(own.counts) == figures.MAX_SERIES
    own.count("vigie_http_requests_total", ("fhir/0", "2xx"))
    assert own.counts["vigie_http_requests_total", ("fhir/0", "2xx")] == 2, "what is known is counted on"


def test_figures_that_are_too_many_leave_those_of_before(tmp_path: Path) -> None:
    """The file has its space: what does not fit into it is not told, and takes nobody else's."""
    own = Figures("web")
    writer = figures._Writer(tmp_path / "figures", own)
    own.count("vigie_x_total", ("a",), 3)
    writer.write()
    own.counts["vigie_x_total", ("a" * figures.FILE_BYTES,)] = 1
    writer.write()
    (path,) = (tmp_path / "figures").glob("*.figures")
    assert path.stat().st_size == figures.FILE_BYTES
    assert total(tmp_path) == 3


def test_figures_that_are_half_written_are_not_believed(tmp_path: Path) -> None:
    """They are written over the same bytes: a reader may come in the middle of it, or a process die there."""
    own = Figures("web")
    writer = figures._Writer(tmp_path / "figures", own)
    writer.write()
    assert len(figures.read(tmp_path)) == 1
    os.pwrite(writer._descriptor, b"{", 40)
    assert figures.read(tmp_path) == []


def test_a_gauge_that_cannot_be_asked_hides_no_other(tmp_path: Path) -> None:
    """The figures are wanted most when something is broken."""
    own = Figures("web")
    own.sample("vigie_broken", lambda: {(): 1 / 0})
    own.sample("vigie_away", lambda: {(): float(len(list((tmp_path / "away").iterdir())))})
    own.sample("vigie_well", lambda: {(): 7.0})
    assert own.snapshot()["gauges"] == [["vigie_well", [], 7.0]]


EXHAUSTED = """
import os, resource, sys, time
from pathlib import Path
from fhir_server.server import figures, logs
logs.configure("web")
figures.EXHAUSTED_S = 4.0
own = figures.begin(Path(sys.argv[1]), "web")
time.sleep(0.5)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
held = []
try:
    while True:
        held.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
time.sleep(float(sys.argv[2]))
for descriptor in held:
    os.close(descriptor)
time.sleep(2)
"""


@pytest.mark.parametrize(("held_s", "status"), [("30", figures.EXIT_EXHAUSTED), ("1.5", 0)])
def test_a_process_that_can_open_nothing_for_long_ends_itself(tmp_path: Path, held_s: str, status: int) -> None:
    """Every read was 503 for ever, and nobody restarted it (reliability.md 5). One that comes back goes on."""
    command = [sys.executable, "-c", EXHAUSTED, str(tmp_path), held_s]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, check=False)
    assert done.returncode == status, done.stderr
    assert ("the process can open nothing any more and ends itself" in done.stderr) == bool(status)


# — the page —


def page(api: Api, **environ: Any) -> str:
    answer = api.app.test_client().get("/metrics", environ_overrides=environ or {"REMOTE_ADDR": "127.0.0.1"})
    assert answer.status_code == 200
    return answer.get_data(as_text=True)


def test_the_page_holds_the_queues_and_parses(api: Api) -> None:
    """Prometheus' text format; names by its conventions; each metric is one of the table."""
    families = list(text_string_to_metric_families(page(api)))
    names = {family.name + ("_total" if family.type == "counter" else "") for family in families}
    assert names <= metrics.FAMILIES.keys()
    queues = {
        sample.labels["queue"]: sample.value
        for family in families
        if family.name == "vigie_queue_length"
        for sample in family.samples
    }
    wanted = {"audit-inbox", "subscription-changes", "deliveries-due", "studies-unpublished", "subscriptions-in-error",
              "events-set-aside"}
    assert wanted <= queues.keys()
    for name, family in metrics.FAMILIES.items():
        assert re.fullmatch(r"vigie_[a-z_]+", name)
        assert (family.kind == "counter") == name.endswith("_total")
        if family.kind == "histogram":
            assert name.endswith("_seconds")


def test_every_metric_is_described_for_operators() -> None:
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    for name, family in metrics.FAMILIES.items():
        labels = ", ".join(f"`{label}`" for label in family.labels)
        assert f"| `{name}` | {family.kind} | {labels} | {family.what} |" in text, name


def test_requests_are_counted_by_kind_and_never_by_path(api: Api, tmp_path: Path) -> None:
    """The kinds come from the routers' tables; what a client makes up is `none`."""
    own = Figures("web")
    seen: list[logs.Request] = []
    logs._writer_pid, was = 1, logs._writer_pid
    logs._lines.clear()
    logs._writing.acquire()  # another test's writing thread must not take the lines
    try:
        for path in (
            "/fhir/Patient/{}", "/fhir/Patient?name={}", "/{}", "/fhir/{}", "/dicom-web/studies?PatientName={}",
            "/dicom-web/{}", "/oauth/{}",
        ):  # fmt: skip
            api.hospital_a.get(path.format(CANARY))
        api.hospital_a.post("/oauth/token", b"x")
        seen += [logs.Request(*line) for line in logs._lines]
    finally:
        logs._writing.release()
        logs._writer_pid = was
        logs._lines.clear()
    own.requests(seen)
    routes = [one.route for one in seen if one.route != "oauth/token" or one.method == "POST"]
    assert routes[-8:] == [
        "fhir/read", "fhir/search-type", "none", "fhir/none", "dicom-web/search_studies", "dicom-web/nothing",
        "oauth/none", "oauth/token",
    ]  # fmt: skip
    assert own.counts["vigie_http_requests_total", ("fhir/read", "4xx")] == 1
    assert CANARY not in repr(own.snapshot())
    assert all(re.fullmatch(logs.FIELDS["route"][0], route) for route in routes)


def test_a_route_is_named_by_facade_and_kind() -> None:
    assert threshold.route_of("/fhir/Patient/1", "read") == "fhir/read"
    assert threshold.route_of("/readyz", "readyz") == "readyz"
    assert threshold.route_of(f"/{CANARY}/x", None) == "none"
    assert threshold.route_of("", None) == "none"


@pytest.mark.parametrize(
    ("address", "headers", "proxies", "allowed"),
    [
        ("127.0.0.1", {}, 0, True),
        ("::1", {}, 0, True),
        ("::ffff:127.0.0.1", {}, 0, True),
        ("10.1.2.3", {}, 0, True),
        ("10.2.0.1", {}, 0, False),
        ("192.0.2.1", {}, 0, False),
        ("", {}, 0, False),
        ("127.0.0.1", {"X-Forwarded-For": "192.0.2.1"}, 0, False),
        ("127.0.0.1", {"Forwarded": "for=192.0.2.1"}, 0, False),
        ("127.0.0.1", {"X-Forwarded-For": "192.0.2.1"}, 1, False),
        ("127.0.0.1", {"X-Forwarded-For": "127.0.0.1, 192.0.2.1"}, 1, False),
        ("127.0.0.1", {"X-Forwarded-For": "192.0.2.1, 10.1.0.9"}, 1, True),
        ("127.0.0.1", {}, 1, True),
        ("127.0.0.1", {"X-Forwarded-For": "10.1.0.9"}, 2, False),
        ("127.0.0.1", {"X-Forwarded-For": "127.0.0.1"}, 0, False),
        ("192.0.2.1", {"X-Forwarded-For": "127.0.0.1"}, 0, False),
        ("127.0.0.1", {"Via": "1.1 proxy"}, 0, False),
        ("127.0.0.1", {"X-Real-IP": "127.0.0.1"}, 0, False),
        ("127.0.0.1", {"Via": "1.1 proxy"}, 1, False),
    ],
)
def test_only_this_machine_and_the_named_networks_are_answered(
    address: str, headers: dict[str, str], proxies: int, allowed: bool
) -> None:
    """A proxy on this machine must not open the door to everybody behind it."""
    import ipaddress

    environ = {"REMOTE_ADDR": address} | {f"HTTP_{k.upper().replace('-', '_')}": v for k, v in headers.items()}
    assert metrics.may_ask(environ, proxies, (ipaddress.ip_network("10.1.0.0/16"),)) is allowed


def test_the_page_is_there_while_the_database_is_away(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """And says so: the other figures are wanted most then."""
    def away(*_: Any) -> Any:
        raise OSError("KANARIENVOGEL")

    monkeypatch.setattr(type(api.services), "queues", away)
    text = page(api)
    assert "vigie_queues_readable 0.0" in text
    assert "vigie_disk_free_bytes" in text
    assert "vigie_queue_length" not in text


def test_to_others_the_page_does_not_exist(api: Api) -> None:
    """The same answer as for any path that there is not."""
    http = api.app.test_client()
    refused = http.get("/metrics", environ_overrides={"REMOTE_ADDR": "192.0.2.1"})
    absent = http.get("/metricz", environ_overrides={"REMOTE_ADDR": "192.0.2.1"})
    assert refused.status_code == absent.status_code == 404
    assert refused.get_data() == absent.get_data()


def test_the_queues_cost_nothing_of_the_archive(api: Api) -> None:
    """No statement reads a table through that grows with what is done: an index leads, or one row per subscription."""
    if not api.services.database.is_sqlite:
        assert page(api)
        return
    told: list[tuple[str, Any]] = []
    engine = api.services.database.engine

    def note(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        told.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    try:
        with api.services.database.read() as connection:
            api.services.queues(connection)
    finally:
        event.remove(engine, "before_cursor_execute", note)
    plans = []
    with api.services.database.read() as connection:
        for statement, parameters in told:
            rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
            plans += [str(row[3]) for row in rows]
    scans = [plan for plan in plans if plan.startswith("SCAN ")]
    small = ("audit_inbox", "audit_spool", "subscription_change", "subscription_state", "subscription_endpoint",
             "subscription_aside", "anon", "index_rule", "deployment_key")
    assert not [
        scan for scan in scans
        if not scan.removeprefix("SCAN ").startswith((*small, "(subquery")) and "ix_dicom_study_unpublished" not in scan
    ]  # fmt: skip
    assert len(told) >= 8
