"""`./vigie serve --demo` and `./vigie demo`, run as the README says; and what a crash of any process does to them."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import time
from pathlib import Path

import httpx2
import pytest

from tests.clients.site import Site, alive, until

ROLES = {
    "hospital-a",
    "hospital-b",
    "platform",
    "radiologist",
    "regulator",
    "ai-vendor",
    "auditor",
    "viewer",
    "planner",
    "admin",
}


def is_ready(site: Site) -> bool:
    try:
        return httpx2.get(f"{site.base}/readyz", timeout=5, trust_env=False).status_code == 200
    except httpx2.HTTPError:
        return False


def accepts_dicom(site: Site) -> bool:
    try:
        socket.create_connection(("127.0.0.1", site.dimse_port), timeout=5).close()
    except OSError:
        return False
    return True


def test_one_line_on_standard_output_says_where_it_is_ready(site: Site) -> None:
    """DESIGN §11: prints `ready http://HOST:PORT`; whoever waits for that line reads nothing else there."""
    assert site.out.read_text() == f"ready {site.base}\n"


def test_the_clients_are_as_the_design_says(site: Site) -> None:
    """DESIGN §11: a list of {client_id, organization, scope, private_key (JWK), role}, one per role at least."""
    path = site.data / "demo" / "clients.json"
    listed = json.loads(path.read_text(encoding="utf-8"))

    assert {one["role"] for one in listed} == ROLES
    assert all(set(one) == {"client_id", "organization", "scope", "private_key", "role"} for one in listed)
    assert all("d" in one["private_key"] for one in listed)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_demonstration_plays_twice_in_a_row(site: Site) -> None:
    """Issue 2 §10: exits 0; what a first play left does not disturb a second."""
    for _ in range(2):
        played = site.demo()
        assert played.returncode == 0, played.stdout + played.stderr
        assert "all as they must be" in played.stdout
        kept = [Path(line.split()[-1]) for line in played.stdout.splitlines() if f"{site.data}/demo/play-" in line]
        assert {path.suffix: path.read_bytes()[:4] for path in kept if path.suffix != ".txt"} == {
            ".pdf": b"%PDF", ".jpg": b"\xff\xd8\xff\xe0",
        }  # fmt: skip
        (story,) = [path.read_text() for path in kept if path.suffix == ".txt"]
        assert "create" in story
        assert "refused (security)" in story
        assert subscriptions(site) == 0


def subscriptions(site: Site) -> int:
    """How many subscriptions the hospital has."""
    answer = httpx2.get(
        f"{site.base}/fhir/Subscription?_summary=count", headers={"Authorization": f"Bearer {site.token('hospital-a')}"}
    )
    return int(answer.json()["total"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_play_that_is_told_to_stop_takes_its_subscription_back(site: Site, number: signal.Signals) -> None:
    """An endpoint that is gone would be asked for days, and told by alarms."""
    play = site.begin("demo", "--port", str(site.port), "--dimse-port", str(site.dimse_port))
    assert play.stdout is not None
    for line in play.stdout:
        if "active" in line and "handshake received" in line:
            play.send_signal(number)
            break
    assert play.wait(60) != 0
    play.stdout.close()
    assert subscriptions(site) == 0


def test_a_second_server_on_the_same_data_is_refused(site: Site) -> None:
    """DESIGN §4: one supervisor owns a data folder."""
    refused = site.cli("serve", "--port", "0", "--dimse-port", "0")

    assert refused.returncode == 1
    assert "another vigie serves this data folder" in refused.stderr
    assert refused.stdout == ""


def test_the_port_of_another_program_is_told_and_not_waited_for(own_site: Site) -> None:
    """DESIGN §11, operator: it tells what is wrong."""
    with socket.create_server(("127.0.0.1", own_site.port)):
        refused = own_site.cli("serve", "--port", str(own_site.port), "--dimse-port", "0")

    assert refused.returncode == 1
    assert f"port {own_site.port} is in use" in refused.stderr


@pytest.mark.parametrize(
    ("engine", "processes"),
    [
        ("sqlite", ("web",)),
        ("sqlite", ("web worker",)),
        ("sqlite", ("worker",)),
        ("sqlite", ("dimse",)),
        ("sqlite", ("worker", "dimse", "web")),
        ("postgresql", ("web worker",)),
        ("postgresql", ("worker", "dimse", "web")),
    ],
)
def test_a_killed_process_is_back_and_the_demonstration_plays(site: Site, processes: tuple[str, ...]) -> None:
    """Issue 2 §11: restart of a crashed child; with it everything that an emergency needs is back."""
    victims = {name: site.web_workers()[0] if name == "web worker" else site.child(name) for name in processes}
    for victim in victims.values():
        os.kill(victim, signal.SIGKILL)

    for name, victim in victims.items():
        if name == "web worker":
            until(lambda: len(set(site.web_workers()) - {victim}) == 2, "the web worker is replaced")  # noqa: B023
        else:
            until(lambda: _pid(site, name) not in (None, victim), f"{name} is started again")  # noqa: B023
    until(lambda: is_ready(site), "it is ready again")
    until(lambda: accepts_dicom(site), "it takes associations again")
    played = site.demo()
    assert played.returncode == 0, played.stdout + played.stderr


def _pid(site: Site, module: str) -> int | None:
    try:
        return site.child(module)
    except KeyError:
        return None


def test_sigterm_ends_everything_and_the_same_data_serves_again(own_site: Site) -> None:
    """Issue 2 §11: clean shutdown, exit status 0, no process left; `--demo` again on the same data works."""
    own_site.start()
    first = (own_site.data / "demo" / "clients.json").read_bytes()
    family = own_site.family()
    assert len(family) >= 6  # the supervisor, web and its two workers, worker, dimse
    with own_site.http("hospital-a") as http:
        made = http.post("/Patient", json={"resourceType": "Patient", "name": [{"family": "MARTIN"}]}).json()

    began = time.monotonic()
    assert own_site.stop() == 0
    assert time.monotonic() - began < 15
    assert not [pid for pid in family if alive(pid)]
    assert "Traceback" not in own_site.log.read_text()

    own_site.start()
    assert (own_site.data / "demo" / "clients.json").read_bytes() == first
    with own_site.http("hospital-a") as http:
        assert http.get(f"/Patient/{made['id']}").json() == made
    played = own_site.demo()
    assert played.returncode == 0, played.stdout + played.stderr

    family = own_site.family()
    assert own_site.process is not None
    own_site.process.kill()
    own_site.process.wait()
    until(lambda: not [pid for pid in family if alive(pid)], "the children end with their killed supervisor", 15)
    own_site.start()
    assert own_site.cli("audit", "verify").returncode == 0
