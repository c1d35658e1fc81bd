"""kill -9 of any process at random moments under load, then the reckoning: nothing acknowledged is lost.

    python -m tests.crash.harness --kills 100 --database sqlite|postgresql [--nodes 2] [--seed N] [--patience S]
        [--out FILE]

With two nodes (PostgreSQL) clients take either, and either is killed; each has a data folder of its own.

What kill -9 cannot show: the page cache outlives the process, so a missing fsync goes unnoticed. That is shown by
`test_durability.py` (settings of every connection, torn WAL, order of fsync and rename), not here.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from subscriptions.terms import PAYLOAD_CONTENT
from subscriptions.topics import ORDER_STATUS
from tests.conftest import _postgresql_binaries
from tests.crash import checks
from tests.crash.promises import Json, Promises
from tests.crash.receiver import Receiver
from tests.crash.service import RECOVERY_S, Cluster, NotBack, Service, free_port
from tests.crash.workload import Client, Load

KINDS = ("supervisor", "web", "web-worker", "worker", "dimse", "everything")
POSTGRESQL_KINDS = ("postgresql immediate stop", "postmaster", "backend")
REFUSE_SHARE = 0.02
SETTLED_WITHIN_S = 120.0


@dataclass(slots=True)
class Outcome:
    """What a run did, and what it found."""

    engine: str
    kills: Counter[str] = field(default_factory=Counter)
    answers_s: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Kind → seconds from each kill until the service answered."""
    whole_s: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Kind → seconds from each kill until all processes were there."""
    delivers_s: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Kind → seconds from each kill until the next event arrived at the subscriber."""
    lost: dict[str, list[str]] = field(default_factory=dict)
    """Check → what it misses."""
    rubbish: Counter[str] = field(default_factory=Counter)
    """Files that kills left behind, of all nodes: no data is lost; they are collected after an hour."""
    events: int = 0
    repeated: int = 0
    refused: int = 0
    audit: str = ""
    seconds: float = 0.0

    @property
    def is_clean(self) -> bool:
        return not any(self.lost.values())


class Run:
    """One service, of one node or two, one load, many kills."""

    def __init__(
        self, engine: str, folder: Path, seed: int, say: Callable[[str], None] = print, *, nodes: int = 1,
        patience_s: float = RECOVERY_S,
    ) -> None:  # fmt: skip
        if nodes > 1 and engine != "postgresql":
            raise ValueError("several nodes need PostgreSQL")
        self._say = say
        self._draw = random.Random(seed)
        self.outcome = Outcome(engine)
        self.promises = Promises()
        self.receiver = Receiver(REFUSE_SHARE)
        self.cluster: Cluster | None = None
        if engine == "postgresql":
            binaries = _postgresql_binaries()
            if binaries is None:
                raise RuntimeError("PostgreSQL's binaries are absent")
            self.cluster = Cluster(folder, binaries)
        url, second = self.cluster.url if self.cluster else "", free_port() if nodes > 1 else 0
        self.service = Service(folder, url, ports=second)
        self.nodes = [self.service]
        if nodes > 1:
            self.nodes.append(Service(folder / "second", url, beside=self.service, ports=second))
        for node in self.nodes:
            node.patience_s = patience_s
        self._subscription = ""
        self._moments: list[tuple[str, float]] = []

    def run(self, kills: int, longest_pause_s: float = 2.0, **load: Any) -> Outcome:
        """Start, kill `kills` times under load, settle, check."""
        began = time.monotonic()
        try:
            self.service.start()
            self.service.until(lambda: self.service.answers() and self.service.is_whole())
            for node in self.nodes[1:]:
                node.start()
                node.until(lambda node=node: node.answers() and node.is_whole())  # type: ignore[misc]
            self._subscribe()
            running = Load(self.nodes, self.promises, **load)
            running.start()
            kinds = KINDS + (POSTGRESQL_KINDS if self.cluster else ())
            order = [kinds[n % len(kinds)] for n in range(kills)]
            self._draw.shuffle(order)
            try:
                for number, kind in enumerate(order, start=1):
                    time.sleep(self._draw.uniform(0.05, longest_pause_s))
                    self._kill(number, kind)
                time.sleep(1.0)
            finally:
                running.stop()
            self._settle()
            self._check()
        finally:
            self.close()
        self.outcome.seconds = time.monotonic() - began
        return self.outcome

    def close(self) -> None:
        for node in self.nodes:
            node.stop()
        if self.cluster is not None:
            self.cluster.close()
        self.receiver.close()

    # — killing —

    def _kill(self, number: int, kind: str) -> None:
        began = time.monotonic()
        newest = self.receiver.newest
        self._moments.append((kind, began))
        if kind in POSTGRESQL_KINDS:
            self._kill_database(kind)
            killed = 1
        else:
            killed = self._draw.choice(self.nodes).kill(kind, self._draw.choice)
        self.outcome.kills[kind] += bool(killed)
        for node in self.nodes:
            node.until(node.answers)
        answers_s = time.monotonic() - began
        for node in self.nodes:
            node.until(node.is_whole)
        whole_s = time.monotonic() - began
        if kind in POSTGRESQL_KINDS:  # the worker was not restarted: its loops must go on by themselves
            self.service.until(lambda: self.receiver.newest > newest)
        self.outcome.answers_s[kind].append(answers_s)
        self.outcome.whole_s[kind].append(whole_s)
        self._say(
            f"{number:4} {kind:26} answers {answers_s:5.2f} s  whole {whole_s:5.2f} s   "
            f"{sum(self.promises.counts.values())} acknowledged, {self.receiver.newest} events"
        )

    def _kill_database(self, kind: str) -> None:
        assert self.cluster is not None
        if kind == "backend":
            self.cluster.kill_backend(self._draw.choice)
            return
        if kind == "postmaster":
            self.cluster.kill_postmaster()
        else:
            self.cluster.stop_immediately()
        time.sleep(self._draw.uniform(0.0, 1.0))
        self.cluster.start()

    # — settling —

    def _subscribe(self) -> None:
        client = Client(self.service, "hospital-a", self.promises)
        answer = client.ask(
            "subscribe", "POST", "/fhir/Subscription",
            {
                "resourceType": "Subscription",
                "status": "requested",
                "reason": "essai",
                "criteria": ORDER_STATUS,
                "channel": {
                    "type": "rest-hook",
                    "endpoint": self.receiver.url,
                    "payload": "application/fhir+json",
                    "_payload": {"extension": [{"url": PAYLOAD_CONTENT, "valueCode": "id-only"}]},
                },
            },
            Prefer="return=representation",
        )  # fmt: skip
        if answer is None:
            raise RuntimeError(f"no subscription: {self.promises.statuses}")
        self._subscription = answer.json()["id"]
        self.service.until(lambda: self._status(client)[0] == "active", 30)
        client.close()

    def _status(self, client: Client) -> tuple[str, int]:
        answer = client.ask("status", "GET", f"/fhir/Subscription/{self._subscription}/$status")
        if answer is None:
            return "", -1
        parameters = {one["name"]: one for one in answer.json()["entry"][0]["resource"]["parameter"]}
        return (
            parameters["status"]["valueCode"],
            int(parameters["events-since-subscription-start"]["valueString"]),
        )

    def _settle(self) -> None:
        """Wait until all that was committed is numbered, delivered, published."""
        client = Client(self.service, "hospital-a", self.promises)
        seen = (-1, 0.0)

        def is_quiet() -> bool:
            nonlocal seen
            events = self._status(client)[1]
            if events != seen[0]:
                seen = (events, time.monotonic())
            still_s = time.monotonic() - seen[1]
            return (
                still_s > 2.0
                and self.receiver.newest >= events
                and not checks.counted(self.promises, checks.stored(self.service))
            )

        arrived = -1
        while arrived < self.receiver.newest:  # a backlog is waited for as long as it moves
            arrived = self.receiver.newest
            with suppress(NotBack):  # what has not settled is found, and named, by the checks
                self.service.until(is_quiet, SETTLED_WITHIN_S)
                break
        self.outcome.events = self._status(client)[1]
        client.close()

    def _check(self) -> None:
        promises, outcome = self.promises, self.outcome
        ehr = Client(self.service, "hospital-a", promises)
        platform_client = Client(self.service, "platform", promises)
        viewer = Client(self.service, "viewer", promises)
        stored = checks.stored(self.service)
        outcome.lost["versions"] = checks.versions(promises, platform_client)
        outcome.lost["deletions"] = checks.deletions(promises, stored)
        outcome.lost["images"] = checks.images(promises, viewer)
        outcome.lost["images not counted"] = checks.counted(promises, stored)
        outcome.lost["half transactions"] = checks.transactions(promises, stored)
        outcome.lost["second copies"] = checks.unique(promises, stored)
        outcome.lost["events"] = checks.deliveries(promises, self.receiver.events, outcome.events)
        outcome.lost["contradictions"] = promises.broken
        for node in self.nodes:
            outcome.rubbish.update(checks.rubbish(node))
        for client in (ehr, platform_client, viewer):
            client.close()
        for node in self.nodes:
            node.stop()
        outcome.lost["processes left"] = [
            f"{kind} {pids}" for node in self.nodes for kind, pids in node.processes().items()
        ]
        verified = self.service.command("audit", "verify")
        outcome.audit = verified.stdout.strip()[-2000:]
        outcome.lost["audit"] = [] if verified.returncode == 0 else [outcome.audit or verified.stderr[-2000:]]
        export = self.service.data / "export.gz"
        exported = self.service.command("audit", "export", str(export))
        outcome.lost["export"] = [] if exported.returncode == 0 else [exported.stderr[-2000:]]
        outcome.lost["accesses"] = checks.accesses(promises, export) if export.exists() else ["no export"]
        outcome.lost["database"] = checks.database(self.service)
        for kind, moment in self._moments:
            after = next((at - moment for at in self.receiver.times if at > moment), None)
            if after is not None:
                outcome.delivers_s[kind].append(after)
        outcome.repeated = len(self.receiver.events) - len({one.number for one in self.receiver.events})
        outcome.refused = self.receiver.refused


def figures(run: Run) -> Json:
    """The run as it is kept under docs/benchmarks."""
    outcome, promises = run.outcome, run.promises
    loads = {k: v for k, v in sorted(promises.counts.items()) if not k.startswith("check ")}
    return {
        "what": "kill -9 at random moments under load; lost = acknowledged and not there afterwards",
        "engine": outcome.engine,
        "nodes": len(run.nodes),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load_average_at_end": [round(one, 1) for one in os.getloadavg()],
        "seconds": round(outcome.seconds, 1),
        "kills": sum(outcome.kills.values()),
        "kills_by_victim": dict(sorted(outcome.kills.items())),
        "lost": {name: len(found) for name, found in sorted(outcome.lost.items())},
        "lost_first": {name: found[:20] for name, found in sorted(outcome.lost.items()) if found},
        "acknowledged": {
            "operations": loads,
            "versions": len(promises.versions) + len(promises.sent),
            "images": len(promises.images),
            "images_by_door": dict(Counter(image.door for image in promises.images.values())),
            "accesses": len(promises.requests),
            "transactions": sum(promises.transactions.values()),
            "transactions_without_answer": sum(not one for one in promises.transactions.values()),
            "changes_that_are_events": sum(promises.events.values()),
        },
        "not_acknowledged": dict(sorted(promises.statuses.items())),
        "events": {
            "numbered": outcome.events,
            "arrived": len({one.number for one in run.receiver.events}),
            "repeated": outcome.repeated,
            "refused_on_purpose": outcome.refused,
        },
        "seconds_until_it_answers": _spread(outcome.answers_s),
        "seconds_until_all_processes": _spread(outcome.whole_s),
        "seconds_until_the_next_delivery": _spread(outcome.delivers_s),
        "left_behind": outcome.rubbish,
        "audit_verify": outcome.audit.splitlines(),
    }


def _spread(by_kind: dict[str, list[float]]) -> Json:
    everything = [one for values in by_kind.values() for one in values]

    def of(values: list[float]) -> Json:
        ordered = sorted(values)
        return {"p50": round(ordered[len(ordered) // 2], 2), "max": round(ordered[-1], 2)} if ordered else {}

    return {"all": of(everything), **{kind: of(values) for kind, values in sorted(by_kind.items())}}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--nodes", type=int, choices=(1, 2), default=1)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--pause", type=float, default=2.0, help="Longest pause before a kill, in seconds.")
    parser.add_argument("--ehrs", type=int, default=4, help="Threads of the hospital's EHR.")
    parser.add_argument("--patience", type=float, default=RECOVERY_S, help="Seconds that it may take to be back.")
    parser.add_argument("--keep", action="store_true", help="Keep the data and the logs.")
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(10**6)
    folder = Path(tempfile.mkdtemp(prefix="vigie-crash-"))
    print(f"seed {seed}, {folder}", flush=True)
    run = Run(given.database, folder, seed, say=lambda line: print(line, flush=True), nodes=given.nodes,
              patience_s=given.patience)  # fmt: skip
    outcome = run.run(given.kills, given.pause, ehrs=given.ehrs)
    return conclude({**figures(run), "seed": seed}, folder, given, is_clean=outcome.is_clean)


def conclude(found: dict[str, Any], folder: Path, given: argparse.Namespace, *, is_clean: bool) -> int:
    """Print and keep what a run found; its folder goes if nothing was wrong. The status of the process."""
    text = json.dumps(found, indent=1, ensure_ascii=False)
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(text + "\n", encoding="utf-8")
    print(text)
    if is_clean and not given.keep:
        shutil.rmtree(folder, ignore_errors=True)
    return 0 if is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
