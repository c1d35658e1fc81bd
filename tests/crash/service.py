"""The real service as processes that can be killed: `./vigie serve --demo`, and a PostgreSQL cluster of its own.

A process belongs to the service when its environment names the service's data folder, so that one which outlives its
parent is seen too.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import psycopg
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from fhir_server.duties import tokens
from fhir_server.server.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
WORKERS = 2
WHOLE = {"supervisor": 1, "web": 1, "web-worker": WORKERS, "worker": 1, "dimse": 1}
"""Kind → how many processes of it a service that is whole has."""
RECOVERY_S = 90.0
"""Longer than this without an answer is a failure of the run."""


class NotBack(Exception):
    """The service does not answer again."""


class Service:
    """One server on free ports, its data in `folder`: the demonstration, or a further node beside it."""

    def __init__(
        self, folder: Path, database: str = "", *, beside: Service | None = None, ports: int = 0, root: Path = ROOT
    ) -> None:
        """`ports`: of the nodes together, where there are several: each serves under all their bases. `root`: the
        code that it runs."""
        self.data = folder / "data"
        self.root = root
        self.patience_s = RECOVERY_S
        """How long it may take to be back; more where others use the machine too."""
        self.log = folder / "serve.log"
        self._first = beside
        own: dict[str, Any] = {"data": self.data, "database": database, "workers": WORKERS, "threads": 6}
        own |= {"port": free_port(), "dimse_port": free_port()}
        if beside is None:
            own["demo"] = True
        else:
            self.data.mkdir(parents=True, mode=0o700)
            first = beside.settings
            own |= {
                "port": ports, "base_urls": first.base_urls, "endpoints_on_loopback": True,
                "objects": str(first.objects_folder), "secret_file": str(beside.data / "keys" / "secret"),
                "checkpoints": str(first.checkpoints_file),
            }  # fmt: skip
        if beside is None and ports:
            own["base_urls"] = tuple(f"http://127.0.0.1:{port}" for port in (own["port"], ports))
        self.settings = Settings.load(own, environ={})
        self.base = f"http://127.0.0.1:{self.settings.port}"
        self._mark = f"VIGIE_DATA={self.data}".encode()
        self._supervisor: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, **self.settings.environment(), "PYTHONPATH": str(self.root)}

    def start(self) -> None:
        """Start the supervisor; it is not waited for."""
        with self.log.open("ab") as log:
            self._supervisor = subprocess.Popen(
                [sys.executable, "-m", "fhir_server", "serve"],
                env=self.environment,
                cwd=self.root,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def reap(self) -> int | None:
        """The exit status of the supervisor, None while it runs."""
        return None if self._supervisor is None else self._supervisor.poll()

    def processes(self) -> dict[str, list[int]]:
        """Kind → process ids, orphans included."""
        commands: dict[int, list[bytes]] = {}
        parents: dict[int, int] = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if self._mark in (folder / "environ").read_bytes().split(b"\0"):
                    commands[int(folder.name)] = (folder / "cmdline").read_bytes().split(b"\0")
                    parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        found: dict[str, list[int]] = {}
        for pid, parent in parents.items():
            kind = _kind(commands[pid])
            if kind == "web" and _kind(commands.get(parent, [])) == "web":
                kind = "web-worker"  # forked: it bears its parent's command line
            if kind is not None:
                found.setdefault(kind, []).append(pid)
        return found

    def kill(self, kind: str, choose: Callable[[list[int]], int]) -> int:
        """kill -9 one process of this kind, or all at once (`everything`); how many were killed."""
        found = self.processes()
        if kind == "everything":
            victims = [pid for pids in found.values() for pid in pids]
        else:
            victims = [choose(found[kind])] if found.get(kind) else []
        for pid in victims:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self._supervisor is not None and self._supervisor.pid in victims:
            self._supervisor.wait()
        return len(victims)

    def answers(self) -> bool:
        """Whether it can serve: /readyz is 200 and DICOM answers a C-ECHO."""
        try:
            answer = httpx2.get(f"{self.base}/readyz", timeout=2, trust_env=False)
        except (httpx2.HTTPError, OSError):
            return False
        return answer.status_code == 200 and self._echoes()

    def _told(self) -> str:
        """What it says of itself."""
        try:
            return httpx2.get(f"{self.base}/readyz", timeout=5, trust_env=False).text
        except (httpx2.HTTPError, OSError) as error:
            return type(error).__name__

    def is_whole(self) -> bool:
        return {kind: len(pids) for kind, pids in self.processes().items()} == WHOLE

    def until(self, condition: Callable[[], bool], within_s: float = 0.0) -> float:
        """Seconds until `condition` holds. A supervisor that has ended meanwhile is started again, as systemd would."""
        began, within_s = time.monotonic(), within_s or self.patience_s
        while not condition():
            if self.reap() is not None:
                self.start()
            if time.monotonic() - began > within_s:
                raise NotBack(f"after {within_s:.0f} s: {self.processes()}, {self._told()}; log: {self.log}")
            time.sleep(0.05)
        return time.monotonic() - began

    def stop(self) -> None:
        """End it as an operator would, then whatever is left."""
        if self._supervisor is not None and self._supervisor.poll() is None:
            self._supervisor.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._supervisor.wait(30)
        deadline = time.monotonic() + 15
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.1)
        for pids in self.processes().values():
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`./vigie ARGUMENTS` on this service's data."""
        return subprocess.run(
            [sys.executable, "-m", "fhir_server", *arguments],
            env=self.environment, cwd=self.root, capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip

    def client(self, role: str) -> dict[str, Any]:
        settings = (self._first or self).settings
        return next(one for one in tokens.demo_clients(settings) if one["role"] == role)

    def _echoes(self) -> bool:
        if not listens(self.settings.dimse_port):
            return False
        entity = AE(ae_title="HOPITAL_A")
        entity.add_requested_context(Verification)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 3
        association = entity.associate("127.0.0.1", self.settings.dimse_port, ae_title="VIGIE")
        if not association.is_established:
            return False
        status = association.send_c_echo()
        association.release()
        return bool(status) and status.Status == 0


def _tell(pids: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to all; the process of a connection may just have ended."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


class Cluster:
    """PostgreSQL with its own settings for durability, and the three ways in which it dies."""

    def __init__(self, folder: Path, binaries: Path) -> None:
        self._binaries = binaries
        self._folder = Path(tempfile.mkdtemp(prefix="vigie-crash-pg-", dir=folder if len(str(folder)) < 60 else None))
        self._as_user: dict[str, Any] = {}
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            account = pwd.getpwnam("postgres")
            for path in (self._folder, *self._folder.parents):
                if path.stat().st_uid == 0 and Path(tempfile.gettempdir()) in path.parents:
                    path.chmod(path.stat().st_mode | 0o055)
            shutil.chown(self._folder, account.pw_uid, account.pw_gid)
            self._as_user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        self._run("initdb", "-D", str(self._data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N")
        self.start()

    @property
    def url(self) -> str:
        return f"postgresql://postgres@/postgres?host={self._folder}"

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def start(self) -> None:
        """Start, again and again where the last one's processes have not all ended yet."""
        options = (
            f"-c listen_addresses='' -c unix_socket_directories={self._folder} -c max_connections=300"
            " -c shared_buffers=64MB -c deadlock_timeout=200ms -c log_min_messages=fatal"
        )
        deadline = time.monotonic() + 60
        arguments = ("-D", str(self._data), "-w", "-o", options, "-l", str(self._folder / "log"))
        while True:
            try:
                self._run("pg_ctl", *arguments, "start")
            except subprocess.CalledProcessError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
            else:
                return

    def start_if_stopped(self) -> None:
        try:
            self._run("pg_ctl", "-D", str(self._data), "status")
        except subprocess.CalledProcessError:
            self.start()

    def stop_immediately(self) -> None:
        """Abort all server processes without a checkpoint; the next start recovers from the WAL."""
        self._run("pg_ctl", "-D", str(self._data), "-m", "immediate", "-w", "stop")

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Every process of PostgreSQL is stopped (SIGSTOP): it says nothing, and the kernel acknowledges for it."""
        main = int((self._data / "postmaster.pid").read_text().split()[0])
        os.kill(main, signal.SIGSTOP)  # first, so that it makes no more children
        stopped = [main, *(int(pid) for pid in Path(f"/proc/{main}/task/{main}/children").read_text().split())]
        try:
            _tell(stopped, signal.SIGSTOP)
            yield
        finally:
            _tell(stopped, signal.SIGCONT)

    def kill_postmaster(self) -> None:
        os.kill(int((self._data / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)

    def kill_backend(self, choose: Callable[[list[int]], int]) -> int:
        """kill -9 the process of one connection: PostgreSQL then restarts all of them and recovers."""
        with closing(psycopg.connect(self.url, autocommit=True)) as connection:
            rows = connection.execute(
                "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            ).fetchall()
        if not rows:
            return 0
        with suppress(ProcessLookupError):
            os.kill(choose([row[0] for row in rows]), signal.SIGKILL)
        return 1

    def close(self) -> None:
        with suppress(subprocess.CalledProcessError):
            self.stop_immediately()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self._binaries / program, *arguments],
            check=True, cwd=self._folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=120,
            **self._as_user,
        )  # fmt: skip


def _kind(command: list[bytes]) -> str | None:
    words = set(command)
    if b"fhir_server" in words and b"serve" in words:
        return "supervisor"
    return next((kind for kind in ("web", "worker", "dimse") if f"fhir_server.server.{kind}".encode() in words), None)


def listens(port: int) -> bool:
    """Whether a connection is taken: pynetdicom leaves a socket open for each that is refused."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=3):
            return True
    except OSError:
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
