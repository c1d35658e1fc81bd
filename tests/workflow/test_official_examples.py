"""R4's own examples are stored and updated: the workflow minds its own resources only."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from resources import jsontext
from store.unit_of_work import Store, UnitOfWork
from tests.support import PLATFORM, caller
from workflow.service import Workflow

EXAMPLES = Path(__file__).parents[3] / "shared" / "fhir" / "examples-valid"
TYPES = ("Appointment", "DiagnosticReport", "Observation", "Patient", "Provenance", "Schedule", "ServiceRequest",
         "Slot", "Task")


@pytest.mark.skipif(not EXAMPLES.exists(), reason="the shared examples are not here")
@pytest.mark.parametrize("type_name", TYPES)
def test_the_official_examples_are_stored_and_updated(make_store: Callable[..., Store], type_name: str) -> None:
    """As a foreign conformance suite does it: PUT, and PUT again. References lenient, since the set is scattered."""
    store = make_store(observers=Workflow(platform=PLATFORM).observers, references="lenient")
    examples = sorted(EXAMPLES.glob(f"{type_name}-*.json"))
    assert examples
    for path in examples:
        resource = jsontext.parse(path.read_bytes())

        def put(uow: UnitOfWork, resource: dict[str, object] = resource) -> None:
            uow.resources.update(type_name, str(resource["id"]), resource)

        store.transact(caller(), put)
        store.transact(caller(), put)
        with store.work(caller(), write=False) as uow:
            stored = uow.resources.read(type_name, str(resource["id"])).json()
        sent = json.loads(path.read_text())
        assert {name for name in stored if name != "meta"} >= {name for name in sent if name != "meta"}
