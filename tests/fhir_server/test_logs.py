"""The log of requests: every line is written, whoever wrote it and however it ends (DESIGN §9)."""

from __future__ import annotations

import json
import subprocess
import sys

FORKED = """
import multiprocessing, sys
from fhir_server.server import logs

def worker():
    logs.configure("web")
    for number in range(40):
        logs.request("GET", "fhir", 200, 1.0, f"request-{number}")

logs.configure("web")
logs.request("GET", "fhir", 200, 1.0, "request-of-the-parent")
process = multiprocessing.get_context("fork").Process(target=worker)
process.start()
process.join()
sys.exit(process.exitcode)
"""


def test_a_worker_that_ends_has_written_all_its_request_lines() -> None:
    """A web worker is forked by the server, and leaves without what `atexit` was told in its parent."""
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=60, check=True)
    told = [json.loads(line)["request_id"] for line in done.stderr.splitlines()]
    assert sorted(told) == sorted([f"request-{number}" for number in range(40)] + ["request-of-the-parent"])
