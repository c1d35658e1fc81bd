"""One assertion, many processes: it is used once.

SMART 2.2: jti SHALL NOT be seen before; a memory of each process would let a replay through the next one.
"""

from __future__ import annotations

import json
import multiprocessing
from multiprocessing.synchronize import Barrier

from auth.service import Authority
from store.engine.database import Database
from tests.auth.conftest import application
from tests.auth.signing import ORIGIN, Machine
from tests.support import PLATFORM, Clock, MemoryTrail

PROCESSES, ROUNDS = 4, 5


def _replay(url: str, forms: list[dict[str, str]], barrier: Barrier, answers: multiprocessing.Queue[str]) -> None:
    database = Database(url)
    authority = Authority(database, trail=MemoryTrail(), platform=PLATFORM, origins=(ORIGIN,), clock=Clock())
    http = application(authority).test_client()
    statuses = []
    for form in forms:
        barrier.wait(timeout=60)
        statuses.append(http.post("/oauth/token", data=form).status_code)
    answers.put(json.dumps(statuses))
    database.dispose()


def test_an_assertion_sent_to_several_processes_at_once_is_accepted_by_one(
    database: Database, ehr: Machine
) -> None:
    """RFC 7523 §3 item 7, across the shared database."""
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(PROCESSES), context.Queue()
    forms = [ehr.form() for _ in range(ROUNDS)]
    processes = [
        context.Process(target=_replay, args=(database.url, forms, barrier, answers)) for _ in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    rows = [json.loads(answers.get(timeout=120)) for _ in processes]
    for process in processes:
        process.join(timeout=60)
    for statuses in zip(*rows, strict=True):
        assert sorted(statuses) == [200] + [401] * (PROCESSES - 1)
