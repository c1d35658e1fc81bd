"""What comes back by itself after a crash, and what a crash leaves behind (DESIGN §11: restart of a crashed child)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pynetdicom import AE
from pynetdicom.sop_class import Verification
from sqlalchemy import select, text

from audit import queries
from fhir_server.duties import deployment
from fhir_server.server import keys, logs, private, processes, running, worker
from fhir_server.server.app import create_app
from fhir_server.server.faults import CannotRun
from fhir_server.server.figures import Figures
from fhir_server.server.processes import Child, Supervisor
from fhir_server.server.services import Services
from fhir_server.server.settings import Settings
from store.access import Access, Caller, Interaction
from store.engine.database import Database, open_engine
from store.versions.tables import store_setting
from tests.crash.service import ROOT, Cluster, free_port


class Killed(BaseException):
    """The process ends here: no handler sees it."""


def until(condition: Callable[[], bool], within_s: float = 30.0) -> bool:
    """Whether `condition` came to hold."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture
def services(cluster: Cluster, data_of_the_cluster: Path) -> Iterator[Services]:
    """The server's parts on the cluster, in this process. One database, so one folder with its keys."""
    cluster.start_if_stopped()
    settings = Settings.load({"data": data_of_the_cluster, "database": cluster.url, "port": free_port()}, environ={})
    deployment.upgrade(settings)
    made = Services.of(settings)
    try:
        yield made
    finally:
        cluster.start_if_stopped()
        made.close()


# — the database is away for a while —


def test_while_the_database_is_away_every_answer_is_503_and_not_500(cluster: Cluster, services: Services) -> None:
    """RFC 9110 §15.6.4, R12: also where the guard looks for the token, before any unit of work."""
    browser = create_app(services).test_client()
    bearer = {"Authorization": "Bearer nothing-that-was-issued"}
    assert browser.get("/fhir/Patient/x", headers=bearer).status_code == 401
    cluster.stop_immediately()
    for path in ("/fhir/Patient/x", "/dicom-web/studies"):
        answer = browser.get(path, headers=bearer)
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) > 0
    cluster.start()
    assert until(lambda: browser.get("/fhir/Patient/x", headers=bearer).status_code == 401)


def test_the_loops_of_the_worker_outlive_the_database(cluster: Cluster, services: Services) -> None:
    """A loop that waits for changes when the connection breaks goes on afterwards: else nothing is sequenced again."""
    logs.configure("worker", speaks=True)
    stopping = threading.Event()
    running = threading.Thread(target=worker.run, args=(services, stopping, Figures("worker")))
    running.start()
    try:
        for _ in range(2):
            _record(services)
            assert until(lambda: _inbox(services.database) == 0)
            time.sleep(0.2)  # all loops wait now
            cluster.stop_immediately()
            time.sleep(0.5)
            cluster.start()
            names = {loop.name for loop in services.loops}
            assert names <= {thread.name for thread in threading.enumerate()}
        assert until(lambda: _recorded(services))
        assert until(lambda: _inbox(services.database) == 0)
    finally:
        stopping.set()
        running.join(20)


def test_a_thread_that_keeps_its_connection_goes_on_after_a_restart(cluster: Cluster) -> None:
    """Nobody's request fails because the database was restarted while nobody asked."""
    database = open_engine(cluster.url)
    for _ in range(2):
        with database.glance() as connection:
            assert connection.execute(text("SELECT 1")).scalar() == 1
        cluster.stop_immediately()
        cluster.start()
    with database.glance() as connection:
        assert connection.execute(text("SELECT 1")).scalar() == 1
    database.dispose()


@pytest.mark.parametrize("kind", ["read", "write"])
def test_a_pooled_connection_is_not_used_after_a_restart(cluster: Cluster, kind: str) -> None:
    """Nor is a pooled one: each web worker answered 503 once."""
    cluster.start_if_stopped()
    database = open_engine(cluster.url)
    for _ in range(2):
        with ExitStack() as together:
            for _ in range(3):
                assert together.enter_context(getattr(database, kind)()).execute(text("SELECT 1")).scalar() == 1
        cluster.stop_immediately()
        cluster.start()
    for _ in range(3):
        with getattr(database, kind)() as connection:
            assert connection.execute(text("SELECT 1")).scalar() == 1
    database.dispose()


def test_an_association_is_refused_for_now_while_the_database_is_away(cluster: Cluster, services: Services) -> None:
    """PS3.8 §9.3.4: rejected-transient, so that the modality tries again; never accepted and then 0124 an image."""
    services.imaging.register_ae("HOPITAL_A", "hopital-a", "loopback")
    server = services.imaging.scp()
    port = server.start("127.0.0.1", 0)
    entity = AE(ae_title="HOPITAL_A")
    entity.add_requested_context(Verification)
    try:
        cluster.stop_immediately()
        refused = entity.associate("127.0.0.1", port, ae_title="VIGIE")
        assert refused.is_rejected
        assert refused.acceptor.primitive.result == 0x02
        cluster.start()
        assert until(lambda: _is_accepted(entity, port))
    finally:
        server.stop()


# — a process is killed at a bad moment —


def test_a_key_whose_making_was_interrupted_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A first use that was killed has used nothing yet."""
    settings = Settings.load({"data": tmp_path}, environ={})

    def killed(size: int) -> bytes:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("secrets.token_bytes", killed)
        with pytest.raises(Killed):
            deployment.upgrade(settings)
    deployment.upgrade(settings)
    database = open_engine(settings.database_url)
    found = keys.ring(settings, database).of("pages")
    deployment.upgrade(settings)
    assert len(found[0].secret) == 32
    assert keys.ring(settings, database).of("pages") == found
    database.dispose()


def test_a_file_of_clients_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "demo" / "clients.json"
    private.write_json(path, [{"client_id": "one"}])

    def killed(descriptor: int) -> None:
        os.ftruncate(descriptor, 9)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", killed)
        with pytest.raises(Killed):
            private.write_json(path, [{"client_id": "two"}])
    assert json.loads(path.read_text()) == [{"client_id": "one"}]
    assert path.stat().st_mode & 0o077 == 0


def test_the_lock_of_a_killed_supervisor_does_not_bar_the_next(tmp_path: Path) -> None:
    """The kernel lets go of the lock, whatever the file says."""
    program = (
        "import sys, time; from pathlib import Path; from fhir_server.server import running\n"
        "kept = running.hold(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    )
    with _python(program, str(tmp_path)) as holder:
        assert _said(holder) == "held"
        assert running.hold(tmp_path) is None
        holder.kill()
    lock = running.hold(tmp_path)
    assert lock is not None
    lock.close()


def test_a_writer_killed_inside_the_gate_bars_nobody_and_leaves_nothing(tmp_path: Path) -> None:
    """SQLite: gate and turn are locks of the kernel; what was not committed is gone, what was is there."""
    url = f"sqlite:///{tmp_path}/vigie.sqlite"
    database = open_engine(url)
    database.create_all()
    entered = threading.Event()

    def write() -> None:
        with database.write():
            entered.set()

    program = (
        "import sys, time; from sqlalchemy import text; from store.engine.database import open_engine\n"
        "database = open_engine(sys.argv[1])\n"
        "insert = \"INSERT INTO store_setting (name, value) VALUES ('{}', 'x')\"\n"
        "with database.write() as connection:\n"
        "    connection.execute(text(insert.format('committed')))\n"
        "with database.write() as connection:\n"
        "    connection.execute(text(insert.format('not committed')))\n"
        "    print('inside', flush=True); time.sleep(60)"
    )
    with _python(program, url) as holder:
        assert _said(holder) == "inside"
        waiting = threading.Thread(target=write, daemon=True)
        waiting.start()
        assert not entered.wait(0.3)
        holder.kill()
        assert entered.wait(5)
        waiting.join()
    with database.read() as connection:
        found = set(connection.execute(select(store_setting.c.name)).scalars())
    assert "committed" in found
    assert "not committed" not in found
    database.dispose()


def test_a_crashed_child_is_restarted_at_once_and_one_that_keeps_crashing_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    lasting = Child("lasting", [sys.executable, "-c", "import time; time.sleep(60)"], {})
    failing = Child("failing", [sys.executable, "-c", "raise SystemExit(1)"], {})
    supervisor = Supervisor([lasting, failing])
    supervisor.start()
    try:
        first = lasting.process
        assert first is not None
        first.kill()
        first.wait()
        supervisor.tick()
        assert lasting.process is not None
        assert lasting.process.pid != first.pid
        assert until(lambda: supervisor.tick() or failing.crashes >= 2, 20)
        assert failing.not_before > time.monotonic()
    finally:
        supervisor.stop()


def test_a_supervisor_rests_until_a_child_ends_or_it_is_told_to_stop() -> None:
    """It is not woken ten times a second to see that nothing has happened."""
    child = Child("child", [sys.executable, "-S", "-c", "import time; time.sleep(60)"], {})
    supervisor = Supervisor([child])
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    supervisor.start()
    try:
        assert child.process is not None
        began = time.monotonic()
        child.process.kill()
        supervisor.rest(60)
        assert until(lambda: supervisor.tick() or child.crashes == 1, 20)
        os.kill(os.getpid(), signal.SIGTERM)
        supervisor.rest(60)
        assert supervisor.stopping
        assert time.monotonic() - began < 50
    finally:
        supervisor.stop()
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_child_that_ends_again_and_again_before_the_server_was_ready_is_no_endless_loop() -> None:
    """It ends with a line that names the child; once the server has answered, a child is restarted for ever."""
    failing = Child("failing", [sys.executable, "-S", "-c", "raise SystemExit(1)"], {})
    supervisor = Supervisor([failing])
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    supervisor.start()
    try:
        with pytest.raises(CannotRun, match="failing: the process ended 5 times in a row"):
            until(lambda: bool(supervisor.tick()), 60)
        supervisor.was_ready = True
        failing.not_before = 0.0
        assert until(lambda: bool(supervisor.tick()) or failing.crashes > 5, 60)
    finally:
        supervisor.stop()
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("fault", ["setting", "away"])
def test_a_child_tells_its_supervisor_why_it_can_never_run(fault: str, tmp_path: Path) -> None:
    """A wrong setting ends it all with the reason; a database that is away may come back."""
    raised = "SettingsError('a is wrong')" if fault == "setting" else "sqlite3.OperationalError('x')"
    program = (
        "import sqlite3; from fhir_server.server import processes\n"
        "from fhir_server.server.settings import SettingsError\n"
        "@processes.told('web')\n"
        "def main():\n"
        f"    raise {raised}\n"
        "main()"
    )
    reading, writing = os.pipe()
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "VIGIE_FAULTS_FD": str(writing), "PYTHONPATH": str(ROOT)},
        pass_fds=(writing,), cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    os.close(writing)
    with os.fdopen(reading) as told:
        said = told.read()
    assert (done.returncode, said) == ((78, "web: a is wrong\n") if fault == "setting" else (1, ""))


def test_a_child_writes_for_its_own_account_alone_whoever_starts_it(tmp_path: Path) -> None:
    """wsgi.py under another server: the umask is ours, not that of its shell."""
    program = "import os; from fhir_server.server import processes\nwith processes.told('web'): print(os.umask(0))"
    done = subprocess.run(
        [sys.executable, "-c", f"import os; os.umask(0o022)\n{program}"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout.split() == [str(0o077)]


def test_a_process_whose_parent_ended_before_it_looked_ends_too() -> None:
    """A web worker whose main is killed while it imports must not live on with the listening socket (prctl(2))."""
    program = (
        "import os, sys, time; from fhir_server.server import processes\n"
        "processes.announce_parent()\n"
        "if os.fork() == 0:\n"
        "    os.read(0, 1)\n"
        "    processes.die_with_parent()\n"
        "    print('alive', flush=True); os._exit(0)\n"
        "print('forked', flush=True); time.sleep(60)"
    )
    with _python(program) as parent:
        assert _said(parent) == "forked"
        parent.kill()
        parent.wait()
        assert parent.stdin is not None
        assert parent.stdout is not None
        parent.stdin.close()  # the child reads the end, and looks who its parent is
        assert parent.stdout.read() == ""


def test_a_child_of_the_supervisor_knows_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    program = f"import os, sys; sys.exit(os.environ['{processes.PARENT}'] != str(os.getppid()))"
    child = Child("child", [sys.executable, "-c", program], {})
    child.start(0.0, 2)
    assert child.process is not None
    assert child.process.wait(20) == 0


def test_what_interrupted_uploads_left_is_removed_by_a_loop(tmp_path: Path) -> None:
    settings = Settings.load({"data": tmp_path}, environ={})
    deployment.upgrade(settings)
    services = Services.of(settings)
    folders = (tmp_path / "objects" / "incoming", tmp_path / "spool")
    for folder in folders:
        (folder / "left").write_bytes(b"half")
        (folder / "going-on").write_bytes(b"half")
        os.utime(folder / "left", (0, time.time() - 2 * 3600))
    next(loop for loop in services.loops if loop.name == "objects").step()
    assert [[one.name for one in folder.iterdir()] for folder in folders] == [["going-on"], ["going-on"]]
    assert "sweep" in {loop.name for loop in services.loops}
    services.close()


def _record(services: Services) -> None:
    services.ledger.disclose(Caller.system("platform"), [Access(Interaction.OPERATION)], datetime.now(UTC))


def _recorded(services: Services) -> bool:
    try:
        _record(services)
    except Exception:  # noqa: BLE001 - the first after the restart may find a connection that is gone
        return False
    return True


def _inbox(database: Database) -> int:
    try:
        with database.read() as connection:
            return queries.waiting(connection)[0]
    except Exception:  # noqa: BLE001 - likewise
        return -1


def _is_accepted(entity: AE, port: int) -> bool:
    association = entity.associate("127.0.0.1", port, ae_title="VIGIE")
    accepted = bool(association.is_established)
    if accepted:
        association.release()
    return accepted


def _said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _python(program: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("name", ["worker", "dimse"])
def test_a_process_that_is_told_to_stop_again_and_again_stops(name: str, tmp_path: Path) -> None:
    """A second signal must not meet the first within a lock: the kernel sends one for each thread of a dead parent."""
    settings = Settings.load({"data": tmp_path / "data", "dimse_port": free_port()}, environ={}).checked()
    deployment.upgrade(settings)
    for _ in range(5):
        process = subprocess.Popen(
            [sys.executable, "-m", f"fhir_server.server.{name}"],
            env={**os.environ, **settings.environment()},
            cwd=ROOT,
            stderr=subprocess.DEVNULL,
        )
        assert until(lambda process=process: _heeds(process.pid, signal.SIGTERM), 20)
        time.sleep(0.3)
        for _ in range(2000):
            process.send_signal(signal.SIGTERM)
        try:
            assert process.wait(15) == 0
        finally:
            process.kill()
            process.wait()


def _heeds(pid: int, number: int) -> bool:
    """Whether the process has a handler for the signal (proc(5), SigCgt)."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1], 16)
    return bool(caught >> (number - 1) & 1)
