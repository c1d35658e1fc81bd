"""A leap of the clock, while the service runs: told, and confirmed from the command line (reliability.md 2)."""

from __future__ import annotations

import json
import re

import httpx2

from tests.clients.site import Site, until
from tests.launcher.commands import leap


def test_running_processes_take_over_what_was_confirmed(own_site: Site) -> None:
    """Web, worker and DIMSE, idle or not, within five seconds; asked again there is nothing to confirm."""
    assert own_site.cli("platform", "init").returncode == 0
    assert own_site.cli("platform", "keys").returncode == 0
    leap(own_site.data, 3600)
    own_site.start()

    def leaps() -> list[tuple[str, float]]:
        text = httpx2.get(f"{own_site.base}/metrics").text
        found = re.findall(r'^vigie_clock_leap_seconds\{.*process="(\w+)".*\} (\S+)$', text, re.MULTILINE)
        return [(process, float(value)) for process, value in found]

    def told() -> str:
        return str(httpx2.get(f"{own_site.base}/readyz").json().get("reason", ""))

    until(lambda: {process for process, _ in leaps()} == {"web", "worker", "dimse"}, "all tell their clock")
    assert {round(value) for _, value in leaps()} == {3600}
    assert "the clock has leapt by +3600 s" in told()
    done = own_site.cli("clock", "confirm", "--json")
    assert done.returncode == 0, done.stderr
    assert round(json.loads(done.stdout)["seconds"]) == 3600
    until(lambda: not any(value for _, value in leaps()) and "clock" not in told(), "it is believed", 15)
    again = own_site.cli("clock", "confirm")
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr.splitlines() == ["Error: the clock of this host is believed: there is nothing to confirm"]
