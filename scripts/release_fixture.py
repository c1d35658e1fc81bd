"""Keep a populated deployment of this version's schema as a fixture: tests/store/released/schema_NNNN.json.gz.

Run once when a version is released, by the code of that version; the tests upgrade it by all code that follows.

    python scripts/release_fixture.py OUTPUT_FOLDER

The demonstration's world on SQLite, with some orders, an update, a deletion and searches, its log sequenced, and what
still waits. Rows are kept as JSON, so that the fixture fills either engine.
"""

from __future__ import annotations

import gzip
import json
import sys
import tempfile
from pathlib import Path

from sqlalchemy import MetaData, select

from fhir_server.demo import seed, world
from fhir_server.duties import deployment
from fhir_server.server.services import Services
from fhir_server.server.settings import Settings
from resources import search
from store import migrations
from store.access import Access, Caller, Interaction

ORDERS = 12
BASE = "http://127.0.0.1:8080/fhir"


def main() -> None:
    data = Path(tempfile.mkdtemp()) / "data"
    settings = Settings.load({"data": data}, environ={})
    deployment.upgrade(settings)
    services = Services.of(settings)
    system = Caller.system(world.PLATFORM)
    services.store.transact(system, seed.lay_directory)
    for client in world.CLIENTS:
        services.authority.clients.add(
            client.name, client.organization, client.scope, client.role, client.practitioner
        )
    for number in range(ORDERS):
        services.store.transact(system, lambda uow, n=number: _case(uow, n))
    assert services.ledger.catch_up(60)  # noqa: S101
    reader = Caller("reader", "hospital-a", is_system=True)
    services.ledger.disclose(
        reader, [Access(Interaction.SEARCH_TYPE, "Patient", query="GET /fhir/Patient?family=Cas")], services.clock()
    )
    found = services.store.look(
        system, lambda uow: uow.resources.search(search.parse("Patient", [("family", "Cas")], base_urls=(BASE,)))
    )
    services.close()
    _keep(settings, Path(sys.argv[1]), len(found.matches))


def _case(uow, number: int) -> None:
    """A patient, an observation, and for some an update or a deletion."""
    patient = {
        "resourceType": "Patient",
        "identifier": [{"system": "urn:oid:1.2.250.1.999.1", "value": f"IPP-{number}"}],
        "name": [{"family": f"Cas {number}", "given": ["Zoé"]}],
        "birthDate": f"19{60 + number}-02-03",
    }
    made = uow.resources.create("Patient", patient, id=f"case-{number}")
    uow.resources.create(
        "Observation",
        {
            "resourceType": "Observation", "status": "final", "subject": {"reference": made.reference},
            "code": {"coding": [{"system": "http://loinc.org", "code": "8867-4"}]},
            "valueQuantity": {"value": 60 + number, "system": "http://unitsofmeasure.org", "code": "/min"},
        },
    )  # fmt: skip
    report = {"resourceType": "DiagnosticReport", "status": "final", "code": {"text": "CT"}}
    uow.resources.create("DiagnosticReport", {**report, "subject": {"reference": made.reference}})
    if number % 3 == 0:
        uow.resources.update("Patient", made.id, {**patient, "id": made.id, "gender": "female"})
    if number % 5 == 4:
        gone = uow.resources.create("Practitioner", {"resourceType": "Practitioner", "name": [{"family": "Parti"}]})
        uow.resources.delete("Practitioner", gone.id)


def _keep(settings: Settings, folder: Path, patients: int) -> None:
    from store.engine.database import open_engine

    database = open_engine(settings.database_url)
    metadata = MetaData()
    metadata.reflect(database.engine)
    tables = {}
    with database.read() as connection:
        for table in metadata.sorted_tables:
            if table.name.startswith("sqlite_") or table.name == "alembic_version":
                continue
            rows = [
                [{"hex": value.hex()} if isinstance(value, bytes) else value for value in row]
                for row in connection.execute(select(table))
            ]
            if rows:
                tables[table.name] = {"columns": [column.name for column in table.columns], "rows": rows}
    database.dispose()
    keys = settings.data / "keys"
    published = settings.data / "checkpoints.txt"
    content = {
        "tables": tables,
        "keys": {path.name: path.read_bytes().hex() for path in sorted(keys.iterdir())},
        "published": published.read_text(encoding="utf-8") if published.exists() else "",
        "patients": patients,
    }
    revision = migrations.state(settings.database_url)[0]
    target = folder / f"schema_{revision}.json.gz"
    target.write_bytes(gzip.compress(json.dumps(content, ensure_ascii=False).encode(), mtime=0))
    print(f"{target}: {target.stat().st_size} bytes")


if __name__ == "__main__":
    main()
