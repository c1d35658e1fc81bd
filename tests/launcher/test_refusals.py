"""What a flood is refused is on record by its number: while the service runs, and when it stops (reference §4.3)."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import httpx2

from auth.refusals import FLUSH_S
from tests.clients.site import Site, until

FLOOD = 60


def refused(site: Site, count: int) -> None:
    with httpx2.Client(timeout=60, trust_env=False) as http:
        for _ in range(count):
            answer = http.get(f"{site.fhir}/Patient", headers={"Authorization": "Bearer " + "x" * 43})
            assert answer.status_code in (401, 429)


def on_record(site: Site, file: Path) -> int:
    """How many refusals for want of a valid token the log accounts for."""
    done = site.cli("audit", "export", str(file))
    assert done.returncode == 0, done.stderr
    total = 0
    for line in gzip.decompress(file.read_bytes()).splitlines():
        record = json.loads(line)
        for event in record.get("events", ()):
            if event.get("outcomeDesc", "").startswith("login:"):
                details = [detail for entity in event["entity"] for detail in entity.get("detail", [])]
                total += next((int(one["valueString"]) for one in details if one["type"] == "attempts"), 1)
    return total


def test_every_refusal_of_a_flood_is_accounted_for(own_site: Site, tmp_path: Path) -> None:
    """Without a further request, within the time of the timer; and what came since the last time, at the stop."""
    own_site.start()
    refused(own_site, FLOOD)
    until(lambda: on_record(own_site, tmp_path / "running") == FLOOD, "the flood is counted", FLUSH_S + 60)
    refused(own_site, FLOOD)
    own_site.stop()
    assert on_record(own_site, tmp_path / "stopped") == 2 * FLOOD
