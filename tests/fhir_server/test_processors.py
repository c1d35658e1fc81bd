"""A worker's loop, Granian's threads and the committer share one processor, the core's threads all (decision 0011)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.fhir_server.served import ROOT

ALLOWED = sorted(os.sched_getaffinity(0))

WORKER = """
import os, sys, threading
from pathlib import Path
from fhir_server.server.front import processors

def elsewhere():
    before.wait()
    processors.roam()
    print("roams", *sorted(os.sched_getaffinity(0)), flush=True)

before = threading.Event()
thread = threading.Thread(target=elsewhere)
thread.start()
print("place", processors.take_place(Path(sys.argv[1]), int(sys.argv[2])), flush=True)
print("all", *sorted({len(os.sched_getaffinity(int(task))) for task in os.listdir("/proc/self/task")}), flush=True)
before.set()
thread.join()
sys.stdin.read()
"""


class Worker:
    """A process that has taken a place, or none."""

    def __init__(self, folder: Path, workers: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(folder), str(workers)],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        lines = [self.process.stdout.readline().strip().partition(" ") for _ in range(3)]
        said = {name: rest for name, _, rest in lines}
        self.place = None if said["place"] == "None" else int(said["place"])
        self.processors_of_each_thread = {int(count) for count in said["all"].split()}
        self.roams = [int(number) for number in said["roams"].split()]

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextmanager
def workers(folder: Path, count: int, of: int) -> Iterator[list[Worker]]:
    made = [Worker(folder, of) for _ in range(count)]
    try:
        yield made
    finally:
        for one in made:
            one.close()


def test_each_worker_takes_a_processor_of_its_own(tmp_path: Path) -> None:
    """sched_setaffinity(2): all threads there are, until one of the core asks to go where there is room."""
    with workers(tmp_path, len(ALLOWED), len(ALLOWED)) as all_of_them:
        assert sorted(one.place for one in all_of_them if one.place is not None) == ALLOWED
        for one in all_of_them:
            assert one.processors_of_each_thread == {1}
            assert one.roams == ALLOWED


def test_a_worker_that_is_killed_leaves_its_place_to_the_next(tmp_path: Path) -> None:
    """unix(7): an abstract name goes with the process. One more than there are places goes where there is room."""
    count = len(ALLOWED)
    with workers(tmp_path, count, count) as all_of_them, closing(Worker(tmp_path, count)) as beyond:
        assert beyond.place is None
        assert beyond.roams == ALLOWED
        all_of_them[-1].close()
        with closing(Worker(tmp_path, count)) as next_one:
            assert next_one.place == all_of_them[-1].place


def test_two_deployments_do_not_know_of_each_other(tmp_path: Path) -> None:
    """Each shares the processors out evenly, so two do."""
    other = tmp_path / "other"
    other.mkdir()
    count = len(ALLOWED)
    with workers(tmp_path, count, count), workers(other, count, count) as theirs:
        assert sorted(one.place for one in theirs if one.place is not None) == ALLOWED


@pytest.mark.parametrize("more", [1, -1])
def test_workers_that_are_not_as_many_take_no_place(tmp_path: Path, more: int) -> None:
    """Where some would share and others not, the kernel knows better. With one processor every number is even."""
    count = len(ALLOWED) + more
    with closing(Worker(tmp_path, max(1, count))) as one:
        if max(1, count) % len(ALLOWED):
            assert one.place is None
            assert one.roams == ALLOWED
        else:
            assert one.place in ALLOWED
