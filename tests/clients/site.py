"""The real service, started as a user does: `./vigie serve --demo` on free ports, with a data folder of its own."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import psycopg
import pytest

from resources.json import Json

ROOT = Path(__file__).resolve().parents[2]
ENGINES = ("sqlite", "postgresql")
_READY_WITHIN_S = 90.0
_TOKEN_USED_FOR_S = 120.0



def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(**more: str) -> dict[str, str]:
    """This process's environment without settings of a server and without the interpreter's own paths."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("VIGIE_", "PYTHON", "PYTEST"))}
    return kept | more


@dataclass
class Site:
    """One running server."""

    data: Path
    database: str = ""
    options: tuple[str, ...] = ()
    port: int = field(default_factory=free_port)
    dimse_port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    _tokens: dict[str, tuple[float, str]] = field(default_factory=dict)

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def fhir(self) -> str:
        return f"{self.base}/fhir"

    @property
    def out(self) -> Path:
        return self.data.parent / f"{self.data.name}.out"

    @property
    def log(self) -> Path:
        return self.data.parent / f"{self.data.name}.log"

    @property
    def where(self) -> tuple[str, ...]:
        """The flags that name the data."""
        return ("--data", str(self.data), *(("--database", self.database) if self.database else ()))

    def start(self) -> Site:
        """Start it and wait until it says `ready`."""
        command = [str(ROOT / "vigie"), "serve", "--demo", "--workers", "2", *self.where, *self.options]
        command += ["--port", str(self.port), "--dimse-port", str(self.dimse_port)]
        with self.out.open("wb") as out, self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=out, stderr=log, stdin=subprocess.DEVNULL, env=environment()
            )
        deadline = time.monotonic() + _READY_WITHIN_S
        while b"ready " not in self.out.read_bytes():
            assert self.process.poll() is None, f"it ended: {self.tail()}"
            assert time.monotonic() < deadline, f"it is not ready in time: {self.tail()}"
            time.sleep(0.05)
        return self

    def stop(self, within_s: float = 30) -> int:
        """SIGTERM, and the exit status."""
        assert self.process is not None
        self.process.terminate()
        try:
            return self.process.wait(within_s)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()

    def cli(self, *arguments: str, flags: tuple[str, ...] | None = None) -> subprocess.CompletedProcess[str]:
        """`./vigie …` on this server's data."""
        command = [str(ROOT / "vigie"), *arguments, *(self.where if flags is None else flags)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment(), check=False)

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        """`./vigie …` on this server's data, under way; its standard output is a pipe, by lines."""
        command = [str(ROOT / "vigie"), *arguments, *self.where]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, text=True,
            env={**environment(), "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip

    def demo(self) -> subprocess.CompletedProcess[str]:
        """`./vigie demo` against it."""
        return self.cli("demo", "--port", str(self.port), "--dimse-port", str(self.dimse_port))

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]

    def described(self, role: str) -> Json:
        """The row of clients.json for a role."""
        listed: list[Json] = json.loads((self.data / "demo" / "clients.json").read_text(encoding="utf-8"))
        return next(one for one in listed if one["role"] == role)

    def token(self, role: str) -> str:
        """A token of the role's client, as `./vigie token` would fetch it."""
        from fhir_server.duties import tokens

        fetched, token = self._tokens.get(role, (0.0, ""))
        if not token or time.monotonic() - fetched > _TOKEN_USED_FOR_S:
            one = self.described(role)
            token = tokens.fetch_token(f"{self.base}/oauth/token", one["client_id"], one["private_key"], one["scope"])
            self._tokens[role] = (time.monotonic(), token)
        return token

    @contextlib.contextmanager
    def http(self, role: str | None = None) -> Iterator[httpx2.Client]:
        """A client below the FHIR base, with the role's token."""
        headers = {"Accept": "application/fhir+json"}
        if role:
            headers["Authorization"] = f"Bearer {self.token(role)}"
        with httpx2.Client(base_url=self.fhir, headers=headers, timeout=60, trust_env=False) as client:
            yield client

    # — its processes —

    def child(self, module: str) -> int:
        """The pid of the child that runs `fhir_server.server.<module>`; KeyError where there is none."""
        assert self.process is not None
        for pid, command in _below(self.process.pid):
            if f"fhir_server.server.{module}" in command:
                return pid
        raise KeyError(module)

    def web_workers(self) -> list[int]:
        """The processes that answer requests."""
        return [pid for pid, command in _below(self.child("web")) if "fhir_server.server.web" in command]

    def family(self) -> list[int]:
        """The supervisor and all that descend from it."""
        assert self.process is not None
        found = [self.process.pid]
        for pid in found:
            found += [child for child, _ in _below(pid)]
        return found


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def _below(pid: int) -> list[tuple[int, list[str]]]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for child in map(int, task.read_text().split()):
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    command = Path(f"/proc/{child}/cmdline").read_bytes().decode().split("\0")
                    found.append((child, command))
    return found


def until(holds: Callable[[], bool], what: str, within_s: float = 30.0) -> None:
    """Wait for something that must come about."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, f"in time: {what}"
        time.sleep(0.05)


# — fixtures; several conftests import them, so what they share lies in the session's stash —

_SITES = pytest.StashKey[dict[str, Site]]()
_numbers = itertools.count()


def new_database(cluster: str) -> str:
    """An empty database in the session's cluster."""
    name = f"served_{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(cluster, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE template1 STRATEGY FILE_COPY')
    return cluster.replace("/postgres?", f"/{name}?")


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def sites(request: pytest.FixtureRequest) -> Iterator[dict[str, Site]]:
    """Engine → the session's server on it, started when first asked for."""
    running = request.session.stash.setdefault(_SITES, {})
    yield running
    for site in running.values():
        if site.process is not None and site.process.poll() is None:
            site.stop()
    running.clear()


@pytest.fixture
def site(
    engine: str, sites: dict[str, Site], tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Site:
    """The server of the session on this engine; tests leave it running, and no test counts what others wrote."""
    if engine not in sites:
        database = "" if engine == "sqlite" else new_database(request.getfixturevalue("postgresql_url"))
        sites[engine] = Site(tmp_path_factory.mktemp(f"site-{engine}") / "data", database).start()
    return sites[engine]


@pytest.fixture
def own_site(tmp_path: Path) -> Iterator[Site]:
    """A server of the test's own on SQLite, to be ended as it likes. It is not started yet."""
    site = Site(tmp_path / "data")
    yield site
    if site.process is not None and site.process.poll() is None:
        family = site.family()
        site.process.kill()
        site.process.wait()
        for pid in family[1:]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
