"""/livez, /readyz and the doctor test what is promised, wait for nobody, and leave nothing behind (DESIGN §11)."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sqlalchemy import func, insert, select, text

from audit import spool as audit_spool
from audit.tables import audit_inbox
from dicomweb.tables import dicom_study
from fhir_server.duties import clock, deployment, doctor, permissions
from fhir_server.server import checks, figures, health
from fhir_server.server.app import create_app
from fhir_server.server.checks import Status
from fhir_server.server.faults import CannotRun
from fhir_server.server.figures import Figures
from fhir_server.server.services import CLOCK, Services
from fhir_server.server.settings import Settings
from fhir_server.server.timed import Timed
from resources.outcomes import Unavailable
from resources.times import microseconds, utc_now
from store.engine.clock import LOOK_S, BelievedClock
from store.objects import ObjectStore
from store.versions.tables import store_setting
from subscriptions.tables import change_table, state_table
from tests.fhir_server.conftest import Api
from tests.launcher.commands import leap

NOT_WITHIN_S = 5.0
OLD_US = 75 * 1_000_000


def readyz(api: Api) -> tuple[int, dict[str, Any]]:
    answer = api.app.test_client().get("/readyz")
    return answer.status_code, json.loads(answer.get_data())


def worker_file(data: Path, process: str = "worker", **loop: float) -> figures._Writer:
    """A live process's figures, as it would write them; `loop`: how its one loop stands."""
    own = Figures(process)
    one = own.loop("sweep", 1.0)
    one.start()
    one.succeeded()
    for name, value in loop.items():
        setattr(one, name, value)
    writer = figures._Writer(data / figures.FOLDER, own)
    writer.write()
    return writer


@pytest.fixture
def quiet(api: Api) -> None:
    """Nothing waits, and the folder is the server's own."""
    assert api.services.ledger.catch_up(60)
    permissions.repair(api.services.settings)


@pytest.fixture
def background(api: Api, quiet: None) -> Iterator[None]:
    """A worker and a DIMSE process that are well."""
    held = [worker_file(api.services.settings.data, name) for name in ("worker", "dimse")]
    yield
    for writer in held:
        os.close(writer._descriptor)
    shutil.rmtree(api.services.settings.data / figures.FOLDER)


def test_a_web_process_alone_is_degraded(api: Api) -> None:
    """`wsgi.py` under any server: it serves, and says that nobody works in the background."""
    status, body = readyz(api)
    assert status == 200, body
    assert body["status"] == "degraded"
    assert "no worker" in body["reason"]
    assert body["checks"]["database"] == {"status": "ok"}


def test_all_is_tried_and_nothing_remains_of_it(api: Api, background: None) -> None:
    """A write that is rolled back, a new object that is removed, a record that could be made durable."""
    services = api.services

    def remains() -> Any:
        with services.database.read() as connection:
            rows = connection.execute(select(func.count()).select_from(store_setting)).scalar_one()
        objects = sorted(path.name for path in services.settings.objects_folder.rglob("*") if path.is_file())
        spooled = [path.name for path in services.settings.data.glob("audit-spool/*.probe")]
        return rows, objects, spooled

    before = remains()
    status, body = readyz(api)
    assert (status, body["status"]) == (200, "ready"), body
    asked = ["database", "schema", "objects", "audit", "disk", "clock", "queues", "worker", "dimse"]
    assert list(body["checks"]) == asked
    assert remains() == before


def damage_objects(services: Services) -> Callable[[], object]:
    away = services.settings.objects_folder.with_name("away")
    services.settings.objects_folder.rename(away)
    services.settings.objects_folder.mkdir()
    return lambda: (services.settings.objects_folder.rmdir(), away.rename(services.settings.objects_folder))


def damage_audit(services: Services) -> Callable[[], object]:
    if services.database.is_sqlite:
        folder = services.settings.data / "audit-spool"
        folder.rename(folder.with_name("away"))
        return lambda: folder.with_name("away").rename(folder)
    return rename_table(services, "audit_inbox")


def rename_table(services: Services, name: str) -> Callable[[], object]:
    def renamed(before: str, after: str) -> None:
        with services.database.write() as connection:
            connection.execute(text(f'ALTER TABLE "{before}" RENAME TO "{after}"'))

    renamed(name, f"{name}_away")
    return lambda: renamed(f"{name}_away", name)


def damage_schema(services: Services) -> Callable[[], object]:
    with services.database.write() as connection:
        was = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one()
        connection.execute(text("DELETE FROM alembic_version"))

    def repair() -> None:
        with services.database.write() as connection:
            connection.execute(text("INSERT INTO alembic_version VALUES (:was)"), {"was": was})

    return repair


DAMAGES: dict[str, Callable[[Services], Callable[[], object]]] = {
    "objects": damage_objects,
    "audit": damage_audit,
    "schema": damage_schema,
    "database": lambda services: rename_table(services, "store_setting"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_cannot_be_kept_is_not_ready(api: Api, background: None, name: str) -> None:
    """Each promise is tried itself, not something easier (reliability.md 6)."""
    repair = DAMAGES[name](api.services)
    try:
        time.sleep(1.1)  # what was found before is kept for a second
        status, body = readyz(api)
    finally:
        repair()
    assert status == 503, body
    assert body["status"] == "not ready"
    assert body["checks"][name]["status"] == "failed"
    time.sleep(1.1)
    assert readyz(api)[0] == 200


def test_a_newer_schema_is_served_on(api: Api, background: None) -> None:
    """While the other nodes are upgraded; one that is not known cannot be older."""
    with api.services.database.write() as connection:
        was = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one()
        connection.execute(text("UPDATE alembic_version SET version_num = 'of-tomorrow'"))
    try:
        assert checks.schema(api.services.database).status is Status.DEGRADED
    finally:
        with api.services.database.write() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = :was"), {"was": was})


QUEUED: dict[str, Callable[[int], Any]] = {
    "audit-inbox": lambda at: insert(audit_inbox).values(event_id="x", recorded=at, tx_id=0, entry="{}"),
    "subscription-changes": lambda at: insert(change_table).values(
        tx_id=0, resource_type="Task", resource_id="x", version=1, version_pk=0, occurred_at=at),
    "deliveries-due": lambda at: insert(state_table).values(
        subscription_id="x", version_pk=0, organization="x", client_id="x", topic="x", filters="[]", content="empty",
        origin="https://x", timeout_s=5, max_count=1, status="active", since_tx=0, events=1, delivered=0, attempts=0,
        due_at=at),
    "studies-unpublished": lambda at: insert(dicom_study).values(
        owner_id=0, audience_id=0, owner="x", study_instance_uid="1.2.3", attributes=b"", stored=at, updated=at,
        revision=1, published=0),
}  # fmt: skip


@pytest.mark.parametrize("name", [*QUEUED, "audit-spool"])
def test_a_queue_that_is_not_worked_off_is_told_with_its_age(api: Api, background: None, name: str) -> None:
    """One stalled transaction once stopped every notification, and nothing said so (reliability.md 1)."""
    services = api.services
    at = microseconds(utc_now()) - OLD_US
    if name == "audit-spool":
        if not services.database.is_sqlite:
            assert "audit-spool" not in read_queues(services), "PostgreSQL has no spool"
            return
        services.ledger._writer.append([("x", at, "{}")])
        undo: Callable[[], object] = lambda: [p.unlink() for p in services.settings.data.glob("audit-spool/*.spool")]  # noqa: E731
        services.ledger._writer.close()
    else:
        statement = QUEUED[name](at)
        with services.database.write() as connection:
            connection.execute(statement)

        def undo() -> object:
            with services.database.write() as connection:
                return connection.execute(statement.table.delete().where(text(_MINE[name])))

    try:
        time.sleep(1.1)
        status, body = readyz(api)
        told = doctor_lines(services)
    finally:
        undo()
    assert status == 200
    assert body["status"] == "degraded"
    assert f"{name}: the oldest waits for 7" in body["reason"]
    assert not told[name].ok
    assert "the oldest for 7" in told[name].told


_MINE = {
    "audit-inbox": "event_id = 'x'", "subscription-changes": "resource_id = 'x'",
    "deliveries-due": "subscription_id = 'x'", "studies-unpublished": "owner = 'x'",
}  # fmt: skip


def read_queues(services: Services) -> Any:
    with services.database.read() as connection:
        return services.queues(connection)


def doctor_lines(services: Services) -> dict[str, doctor.Line]:
    return {line.name: line for line in doctor.examine(services.settings)}


def test_an_endpoint_that_is_down_does_not_degrade_the_server(api: Api) -> None:
    """A hospital's broken endpoint is the hospital's affair: its breaker is open, nothing is due."""
    at = microseconds(utc_now())
    with api.services.database.write() as connection:
        connection.execute(QUEUED["deliveries-due"](at - OLD_US))
        connection.execute(
            text("INSERT INTO subscription_endpoint VALUES ('https://x', 5, :until)"), {"until": at + 60_000_000}
        )
    try:
        assert read_queues(api.services)["deliveries-due"].count == 0
    finally:
        with api.services.database.write() as connection:
            connection.execute(text("DELETE FROM subscription_endpoint WHERE origin = 'https://x'"))
            connection.execute(text("DELETE FROM subscription_state WHERE subscription_id = 'x'"))


@pytest.mark.parametrize(
    ("loop", "told"),
    [
        ({"last_turn": -100.0}, "sweep is behind: no turn for"),
        ({"running_since": -100.0}, "sweep is behind: no turn for"),
        ({"last_success": -100.0, "failures": 3}, "sweep fails: no success for"),
        ({"last_success": -10.0, "failures": 3}, ""),
    ],
)
def test_a_loop_that_hangs_or_fails_is_told(tmp_path: Path, loop: dict[str, float], told: str) -> None:
    """A thread that hangs raises nothing: the age of its last turn shows it."""
    now = time.monotonic()
    writer = worker_file(tmp_path, **{name: now + value if value < 0 else value for name, value in loop.items()})
    finding = checks.worker(tmp_path)
    os.close(writer._descriptor)
    assert finding.reason.startswith(told)
    assert finding.status is (Status.DEGRADED if told else Status.OK)


def test_a_worker_that_stands_still_or_has_died_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frozen process keeps its lock; a dead one does not."""
    monkeypatch.setattr(checks, "STALE_S", 0.05)
    writer = worker_file(tmp_path)
    time.sleep(0.1)
    assert checks.worker(tmp_path).reason == "the worker stands still"
    os.close(writer._descriptor)
    assert checks.worker(tmp_path).reason == "no worker"


@pytest.fixture
def silent_database() -> Iterator[str]:
    """A database server that accepts connections and never says a word: a hung disk, a partition."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        yield f"postgresql://nobody@127.0.0.1:{listening.getsockname()[1]}/none"


def test_a_silent_database_is_not_waited_for(tmp_path: Path, silent_database: str) -> None:
    """503 within 5 s for everyone who asks, each time; /livez answers meanwhile (reliability.md 3)."""
    settings = Settings.load({"data": tmp_path, "database": silent_database, "port": 1}, environ={})
    app = create_app(Services.of(settings))
    threads = _threads("check-database")
    answers: list[int] = []
    for _ in range(2):
        began = time.monotonic()
        asking = [
            threading.Thread(target=lambda: answers.append(app.test_client().get("/readyz").status_code))
            for _ in range(12)
        ]
        for thread in asking:
            thread.start()
        assert app.test_client().get("/livez").status_code == 200
        assert time.monotonic() - began < NOT_WITHIN_S
        for thread in asking:
            thread.join()
        assert time.monotonic() - began < NOT_WITHIN_S
    assert answers == [503] * 24
    assert _threads("check-database") == threads + 1, "who hangs is not asked again"


def _threads(name: str) -> int:
    return sum(thread.name == name for thread in threading.enumerate())


def test_a_lock_on_the_table_is_no_answer(api: Api, background: None) -> None:
    """The write that is tried passes the gate and the locks like any other."""
    held, go = threading.Event(), threading.Event()

    def hold() -> None:
        with api.services.database.write() as connection:
            if not api.services.database.is_sqlite:
                connection.execute(text("LOCK TABLE store_setting IN ACCESS EXCLUSIVE MODE"))
            held.set()
            go.wait(30)

    holding = threading.Thread(target=hold)
    holding.start()
    held.wait(30)
    try:
        time.sleep(1.1)
        began = time.monotonic()
        status, body = readyz(api)
        assert time.monotonic() - began < NOT_WITHIN_S
    finally:
        go.set()
        holding.join()
    assert status == 503
    assert body["checks"]["database"]["reason"] == "database: no answer in time"


class Free(NamedTuple):
    """What is asked of a volume here."""

    free: int


def test_what_a_check_raises_is_told_by_its_class_alone() -> None:
    """DESIGN §11: whoever asks `/readyz` has no token; the text of an exception may be anybody's data."""

    def broken() -> checks.Finding:
        raise ValueError("KANARIENVOGEL")

    report = health.Examination({"well": lambda: checks.OK, "broken": broken}).report()
    assert (report.status, report.reason) == ("not ready", "broken: ValueError")


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_each_check_that_is_promised_is_asked(api: Api, background: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what it looks at being taken away: the disk of the data or the objects, the worker, either DICOM port."""
    services = api.services
    found = health.checks_of(services)
    assert {found[name]().status for name in ("disk", "worker", "dimse", "queues")} == {Status.OK}
    for low in (services.settings.data, services.settings.objects_folder):
        free = {services.settings.data: checks.LOW_BYTES, services.settings.objects_folder: checks.LOW_BYTES, low: 0}
        with monkeypatch.context() as patch:
            patch.setattr(checks.shutil, "disk_usage", lambda folder, free=free: Free(free[folder]))
            assert found["disk"]().status is Status.FAILED, low
    monkeypatch.setattr(checks, "LAG_S", -1.0)
    assert found["queues"]().status is Status.DEGRADED
    monkeypatch.setattr(checks.figures, "live", lambda data, process: [])
    assert found["worker"]().reason == "no worker"
    for ports, told in (((0, 0), ""), ((11112, 0), "no dimse"), ((0, 2762), "no dimse")):
        settings = replace(services.settings, dimse_port=ports[0], dimse_tls_port=ports[1])
        assert health.checks_of(replace(services, settings=settings))["dimse"]().reason == told, ports


@pytest.mark.parametrize(
    ("free", "status"),
    [
        (checks.FULL_BYTES - 1, Status.FAILED), (checks.FULL_BYTES, Status.DEGRADED),
        (checks.LOW_BYTES - 1, Status.DEGRADED), (checks.LOW_BYTES, Status.OK),
    ],
)
def test_a_disk_is_full_before_nothing_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, status: Status
) -> None:
    """A commit, an image or a record needs some of what is left."""
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda folder: Free(free))
    assert checks.disk(tmp_path).status is status


def test_an_object_that_comes_back_as_another_is_no_object(tmp_path: Path) -> None:
    """What is promised is the bytes, not that something can be read."""

    class Forgetful(ObjectStore):
        def put(self, source: Any) -> str:
            digest = super().put(source)
            self.path(digest).write_bytes(b"something else")
            return digest

    assert checks.object_put(ObjectStore(tmp_path)).status is Status.OK
    assert checks.object_put(Forgetful(tmp_path)).status is Status.FAILED
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_dicom_process_that_stands_still_or_has_died_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where one is asked for; a server without that door needs none."""
    writer = worker_file(tmp_path, "dimse")
    assert checks.dimse(tmp_path, 11112).status is Status.OK
    monkeypatch.setattr(checks, "STALE_S", -1.0)
    assert checks.dimse(tmp_path, 11112).reason == "dimse stands still"
    os.close(writer._descriptor)
    assert checks.dimse(tmp_path, 11112).reason == "no dimse"
    assert checks.dimse(tmp_path, 0).status is Status.OK


def test_who_asks_at_once_is_answered_by_one_question() -> None:
    asked = []

    def slow() -> int:
        asked.append(1)
        time.sleep(0.2)
        return len(asked)

    question = Timed("slow", slow, keep_s=0.5)
    answers: list[int] = []
    threads = [threading.Thread(target=lambda: answers.append(question.answer())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [1] * 8
    time.sleep(0.6)
    assert question.answer() == 2, "and asked anew afterwards"


def test_a_full_volume_is_not_ready(tmp_path: Path) -> None:
    """Neither by what is free, nor by the object that cannot be put; and nothing of it is left."""
    folder = tmp_path / "volume"
    folder.mkdir()
    mounted = os.geteuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, check=False
    ).returncode == 0  # fmt: skip
    assert checks.disk(tmp_path).status is not Status.FAILED
    if not mounted:
        return
    try:
        objects = ObjectStore(folder)
        assert checks.disk(tmp_path, folder).status is Status.FAILED
        assert checks.object_put(objects).status is Status.OK
        (folder / "filling").touch()
        with (folder / "filling").open("ab", buffering=0) as filling, suppress(OSError):
            while filling.write(bytes(4096)):
                pass
        with pytest.raises(OSError, match="No space"):
            checks.object_put(objects)
        assert list((folder / "incoming").iterdir()) == []
        (folder / "filling").unlink()
        assert checks.object_put(objects).status is Status.OK
    finally:
        subprocess.run(["umount", str(folder)], check=True)


# — the doctor —


def test_the_doctor_finds_what_is_wrong_and_writes_nothing(api: Api, quiet: None) -> None:
    """Keys missing, empty or loose; a strange file in the spool; no client. Exit status: how many."""
    settings = api.services.settings
    permissions.repair(settings)
    assert [line for line in doctor.examine(settings) if not line.ok] == []
    key = settings.data / "keys" / "secret"
    content = key.read_bytes()
    key.unlink()
    settings.data.chmod(0o750)
    try:
        lines = doctor_lines(api.services)
        assert "the deployment secret is missing" in lines["keys"].told
        assert lines["modes"].told.startswith(f"readable by others: {settings.data.name}")
        assert not key.exists(), "a doctor makes no key (reliability.md 7)"
        assert doctor.doctor(settings) == 2
        key.touch(mode=0o600)
        assert "the deployment secret is shorter" in doctor_lines(api.services)["keys"].told
    finally:
        key.write_bytes(content)
        settings.data.chmod(0o700)
    if api.services.database.is_sqlite:
        strange = settings.data / "audit-spool" / "notes.txt"
        strange.touch(mode=0o600)
        assert doctor_lines(api.services)["spool"].told == "1 files are not the spool's"
        strange.unlink()


def test_the_doctor_of_an_unused_folder_makes_nothing(tmp_path: Path) -> None:
    settings = Settings.load({"data": tmp_path / "new"}, environ={})
    assert [line.name for line in doctor.examine(settings) if not line.ok] == ["database"]
    assert not settings.data.exists()
    settings.data.mkdir(mode=0o700)
    assert [line.name for line in doctor.examine(settings) if not line.ok] == ["database"]
    assert list(settings.data.iterdir()) == []


def test_the_doctor_tells_a_clock_that_was_ahead(api: Api, quiet: None) -> None:
    """DESIGN §4: order is not time; one of tomorrow in the database harms until it has come (reliability.md 2)."""
    ahead = microseconds(utc_now()) + 3_600_000_000
    with api.services.database.write() as connection:
        connection.execute(text("INSERT INTO tx (tx_id, at) VALUES (-7, :at)"), {"at": ahead})
    try:
        line = doctor_lines(api.services)["clock"]
    finally:
        with api.services.database.write() as connection:
            connection.execute(text("DELETE FROM tx WHERE tx_id = -7"))
    assert not line.ok
    assert "ahead of the clock" in line.told


def test_a_clock_that_leapt_is_told_until_it_is_confirmed(api: Api, quiet: None) -> None:
    """Reliability 2: not believed until confirmed, and told. A second confirmation finds nothing and alters nothing."""
    settings = api.services.settings
    file = settings.data / CLOCK
    BelievedClock(file)
    leap(settings.data, 3600)
    found = health.checks_of(replace(api.services, clock=BelievedClock(file)))["clock"]
    told = "the clock has leapt by +3600 s and is not believed: ./vigie clock confirm, if it is right"
    assert found() == checks.Finding(Status.DEGRADED, told)
    line = doctor_lines(api.services)["clock"]
    assert (line.ok, line.told) == (False, told)
    assert clock.confirm(settings)["seconds"] == pytest.approx(3600, abs=1)
    time.sleep(LOOK_S)
    assert found() == checks.OK
    assert doctor_lines(api.services)["clock"].ok
    kept = file.read_bytes()
    with pytest.raises(CannotRun, match="there is nothing to confirm"):
        clock.confirm(settings)
    assert file.read_bytes() == kept


def test_a_leap_whose_confirmation_cannot_be_recorded_is_not_believed(
    api: Api, quiet: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record comes first."""
    settings = api.services.settings
    file = settings.data / CLOCK
    BelievedClock(file)
    kept = file.read_bytes()
    leap(settings.data, 3600)
    leapt = file.read_bytes()

    def away(*_: Any) -> None:
        raise Unavailable("The audit log cannot be written at present")

    try:
        with monkeypatch.context() as patched:
            patched.setattr("audit.service.Ledger.disclose", away)
            with pytest.raises(Unavailable):
                clock.confirm(settings)
        assert file.read_bytes() == leapt
        assert [path.name for path in settings.data.glob("clock*")] == [CLOCK]
    finally:
        file.write_bytes(kept)


def test_the_doctor_speaks_json(api: Api, quiet: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.doctor(api.services.settings, as_json=True) == 0
    told = json.loads(capsys.readouterr().out)
    assert {"check", "ok", "told"} == set(told[0])
    names = {one["check"] for one in told}
    assert names >= {"database", "schema", "objects", "audit-inbox", "deliveries-due", "worker"}


def test_the_doctor_wants_what_a_server_can_do_without(
    api: Api, quiet: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server with a low disk goes on; whoever asks the doctor is told, of the data's disk and of the objects'."""
    monkeypatch.setattr(checks, "LOW_BYTES", shutil.disk_usage(api.services.settings.data).total * 2)
    lines = doctor_lines(api.services)
    for name in ("disk", "objects"):
        assert not lines[name].ok
        assert "the disk has only" in lines[name].told


def test_the_doctor_holds_the_clocks_together(api: Api, quiet: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """DESIGN §4: wall times lie within two seconds of the clock, the database's included."""
    monkeypatch.setattr(doctor, "utc_now", lambda: utc_now() - timedelta(hours=1))
    line = doctor_lines(api.services)["clock"]
    assert not line.ok
    expected = "the newest entry is" if api.services.database.is_sqlite else "the database's clock differs by +3"
    assert expected in line.told


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_the_doctor_looks_into_the_spool(api: Api, quiet: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that was altered, one that others can read, a folder in which no record can be made."""
    services = api.services
    folder = services.settings.data / "audit-spool"
    api.hospital_a.get("Patient")
    assert services.ledger.catch_up(60)
    api.hospital_a.get("Patient")
    (name,) = audit_spool.files(folder)
    file = folder / name
    assert doctor_lines(services)["spool"].told == "1 files"
    file.chmod(0o640)
    assert doctor_lines(services)["spool"].told == "1 files are readable by others"
    file.chmod(0o600)
    (folder / "1-strange.spool").write_bytes(b"x" * 100)
    (folder / "1-strange.spool").chmod(0o600)
    wrong = "1 files do not verify: ./vigie audit verify names them"
    assert doctor_lines(services)["spool"].told == wrong
    services.ledger.sequencer._tidied_at = 0.0
    assert services.ledger.catch_up(60)
    services.ledger.sequencer.step()
    assert [path.name for path in (folder / "aside").iterdir()] == ["1-strange.spool"]
    assert doctor_lines(services)["spool"].told == wrong
    with services.database.write() as connection:
        assert services.ledger.acknowledge_spool(connection) == 1
    assert doctor_lines(services)["spool"].told == "1 files"

    def full(_: Path) -> None:
        raise OSError(errno.ENOSPC, "x")

    monkeypatch.setattr(audit_spool, "check_writable", full)
    line = doctor_lines(services)["spool"]
    assert (line.ok, "no space left" in line.told) == (False, True)


def test_a_deployment_without_a_client_serves_nobody(tmp_path: Path) -> None:
    settings = Settings.load({"data": tmp_path / "new"}, environ={})
    deployment.upgrade(settings)
    line = next(line for line in doctor.examine(settings) if line.name == "clients")
    assert (line.ok, line.told) == (False, "no client is registered: ./vigie client add")
