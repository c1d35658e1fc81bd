"""What the tests run in processes of their own: real ones, spawned, each with its own connections."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resources.outcomes import FhirError
from resources.search import parse
from store.engine.database import open_engine
from store.engine.keyring import Fixed
from store.unit_of_work import Store, UnitOfWork
from tests.support import BASE_URL, PLATFORM, MemoryTrail, OpenPermit, caller, patient

A = caller("hospital-a")
ROOT = Path(__file__).resolve().parents[2]


def store_at(url: str, **parts: Any) -> Store:
    return Store(
        open_engine(url),
        permit=OpenPermit(),
        trail=MemoryTrail(),
        platform=PLATFORM,
        base_urls=(BASE_URL,),
        keys=Fixed(b"a page key of the tests"),
        **parts,
    )


def start(name: str, *arguments: str) -> subprocess.Popen[str]:
    """Run a function of this module in a new process; it begins once it reads a line."""
    return subprocess.Popen(
        [sys.executable, "-c", f"from tests.store import processes; processes.{name}(*{arguments!r})"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def go(processes: Sequence[subprocess.Popen[str]]) -> list[list[str]]:
    """Let all begin at once and return what each printed."""
    for process in processes:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = []
    for process in processes:
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        answers.append(out.split())
    return answers


def _ready() -> None:
    print("ready", flush=True)
    sys.stdin.readline()


def create_conditionally(url: str, times: str) -> None:
    """`times` conditional creates of one and the same patient; prints created or matched for each."""
    store = store_at(url)
    query = parse("Patient", [("identifier", "urn:ins|199")])

    def once(uow: UnitOfWork) -> str:
        found = uow.resources.conditional_match("Patient", query)
        if found:
            return "matched"
        uow.resources.create("Patient", patient(identifier=[{"system": "urn:ins", "value": "199"}]))
        return "created"

    with store.database.read():
        pass
    _ready()
    for _ in range(int(times)):
        print(store.transact(A, once), flush=True)


def claim(url: str, times: str) -> None:
    """`times` updates of version 1 of one patient; prints 200 or the status of the refusal for each."""
    store = store_at(url)
    _ready()
    for _ in range(int(times)):
        try:
            store.transact(A, lambda uow: uow.resources.update("Patient", "x", patient(), if_match=1))
            print(200, flush=True)
        except FhirError as error:
            print(error.status, flush=True)


def write_until_killed(url: str) -> None:
    """Create patients for ever; prints the id of each once its unit of work is left."""
    store = store_at(url)
    _ready()
    while True:
        with store.work(A) as uow:
            made = uow.resources.create("Patient", patient())
        print(made.id, flush=True)


def pass_gate(url: str, times: str) -> None:
    """Pass the write gate `times` times, each for a short time; prints a number of the passage drawn inside."""
    store = store_at(url)
    _ready()
    for _ in range(int(times)):
        with store.work(A) as uow:
            uow.resources.create("Patient", patient())
            print(uow.tx, flush=True)
