"""How long an upgrade takes of a deployment of an earlier version, and a reindex of it while clients write.

    python scripts/upgrade_rate.py fill FOLDER [--versions 100000] [--database URL]    (by the earlier code)
    python scripts/upgrade_rate.py measure FOLDER [--database URL]                     (by this code)

`fill` writes versions with their records and has the log sequenced. `measure` prints a JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import threading
import time
from pathlib import Path

from fhir_server.duties import deployment
from fhir_server.server.services import Services
from fhir_server.server.settings import Settings
from store.access import Caller

SYSTEM = Caller.system("platform")
CALLER = Caller("ehr", "hospital-a", is_system=True)
BATCH = 100


def patient(number: int) -> dict[str, object]:
    return {
        "resourceType": "Patient",
        "identifier": [{"system": "urn:oid:1.2.250.1.999.1", "value": f"IPP-{number}"}],
        "name": [{"family": f"Mesure {number}", "given": ["Zoé"]}],
        "birthDate": "1960-02-03",
    }


def observation(number: int) -> dict[str, object]:
    return {
        "resourceType": "Observation", "status": "final", "subject": {"reference": f"Patient/m-{number}"},
        "code": {"coding": [{"system": "http://loinc.org", "code": "8867-4"}]},
        "valueQuantity": {"value": 60 + number % 40, "system": "http://unitsofmeasure.org", "code": "/min"},
    }  # fmt: skip


def fill(settings: Settings, versions: int) -> None:
    deployment.upgrade(settings)
    services = Services.of(settings)

    def write(uow, first: int) -> None:
        for number in range(first, first + BATCH // 2):
            uow.resources.create("Patient", patient(number), id=f"m-{number}")
            uow.resources.create("Observation", observation(number))

    began = time.monotonic()
    for first in range(0, versions // 2, BATCH // 2):
        services.store.transact(SYSTEM, lambda uow, n=first: write(uow, n))
        if first % 5000 == 0:
            print(f"{2 * first} versions, {time.monotonic() - began:.0f} s", flush=True)
            services.ledger.catch_up(120)
    print("sequenced:", services.ledger.catch_up(600), flush=True)
    services.close()


def measure(settings: Settings) -> None:
    from store.reindex import Progress, Reindex
    from store.versions.standing import stale

    began = time.monotonic()
    deployment.upgrade(settings)
    upgrade_s = time.monotonic() - began
    services = Services.of(settings)
    with services.database.read() as connection:
        waiting = sorted(stale(connection))

    latencies: list[float] = []
    failures: list[str] = []
    ended = threading.Event()

    def client(first: int) -> None:
        number = first
        while not ended.is_set():
            number += 1
            at = time.monotonic()
            try:
                services.store.transact(SYSTEM, lambda uow, n=number: uow.resources.create("Patient", patient(n)))
                latencies.append(time.monotonic() - at)
            except Exception as error:  # noqa: BLE001 - it is counted
                failures.append(type(error).__name__)
            ended.wait(0.02)

    def clients_for(work) -> dict[str, float | int]:
        latencies.clear()
        ended.clear()
        threads = [threading.Thread(target=client, args=(10**7 * (n + 1) + int(time.time()),)) for n in range(2)]
        for one in threads:
            one.start()
        work()
        ended.set()
        for one in threads:
            one.join()
        ordered = sorted(latencies)
        return {
            "writes": len(ordered), "p50_ms": round(1000 * statistics.median(ordered), 1),
            "p99_ms": round(1000 * ordered[int(0.99 * len(ordered))], 1), "refused": len(failures),
        }  # fmt: skip

    alone = clients_for(lambda: time.sleep(10))
    spoilt = _spoil(services)
    done: list[Progress] = []
    began = time.monotonic()
    beside = clients_for(
        lambda: done.append(
            Reindex(services.database, ["Patient", "Observation"], base_urls=services.fhir_bases).run(lambda _: None)
        )
    )
    took_s = time.monotonic() - began
    print(json.dumps({
        "what": "upgrade of an earlier deployment; reindex of it while two clients write",
        "engine": services.database.dialect, "cores": os.cpu_count(), "load_average": os.getloadavg()[0],
        "upgrade_s": round(upgrade_s, 1), "stale_after_it": waiting,
        "reindex": {
            "versions": done[0].versions, "altered": done[0].altered, "spoilt": spoilt, "seconds": round(took_s, 1),
            "versions_per_s": round(done[0].versions / took_s),
        },
        "writes_alone": alone, "writes_beside_the_reindex": beside,
    }, indent=1))  # fmt: skip
    services.close()


def _spoil(services: Services) -> int:
    """A third of the versions as if older rules had made their rows."""
    from sqlalchemy import update

    from store.versions.tables import sp_token

    with services.database.write() as connection:
        statement = update(sp_token).where(sp_token.c.version_pk % 3 == 0).values(code="old")
        return connection.execute(statement).rowcount


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("fill", "measure"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--versions", type=int, default=100_000)
    parser.add_argument("--database", default="")
    given = parser.parse_args()
    settings = Settings.load({"data": given.folder, "database": given.database}, environ={})
    if given.what == "fill":
        fill(settings, given.versions)
    else:
        measure(settings)


if __name__ == "__main__":
    main()
