"""The emergency as the tests play it: two hospitals, the platform, a regulator and two readers on duty."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from auth.policy import Policy
from resources.json import Json
from resources.task import kind_of
from store.access import Caller, Version
from store.unit_of_work import Store, UnitOfWork
from tests import builders
from tests.support import PLATFORM, caller
from workflow.cases import rank
from workflow.service import Workflow

NIGHT = ("2026-06-01T04:00:00+02:00", "2026-06-01T23:00:00+02:00")


class Scene:
    """Callers, and what they do with plain FHIR writes."""

    def __init__(self, store: Store, workflow: Workflow) -> None:
        self.store = store
        self.workflow = workflow
        self.hospital = caller("hospital-a")
        self.other_hospital = caller("hospital-b")
        self.planner = caller(PLATFORM, role="planner")
        self.regulator = caller(PLATFORM, role="regulator", practitioner="Practitioner/reg", client_id="reg")
        self.reader = caller(PLATFORM, role="radiologist", practitioner="Practitioner/lec1", client_id="lec1")
        self.second_reader = caller(PLATFORM, role="radiologist", practitioner="Practitioner/lec2", client_id="lec2")
        self.off_duty = caller(PLATFORM, role="radiologist", practitioner="Practitioner/off", client_id="off")
        self.ai_vendor = caller(PLATFORM, role="ai-vendor", client_id="ai")
        self.server = Caller.system(PLATFORM)
        self.order = self.patient = ""

    def furnish(self) -> None:
        """Organisations, people, and tonight's gardes."""
        def write(uow: UnitOfWork) -> None:
            for name in (PLATFORM, "hospital-a", "hospital-b"):
                uow.system.create("Organization", builders.organization(name=f"Organisation {name}"), id=name)
            for name in ("reg", "lec1", "lec2", "off"):
                uow.system.create("Practitioner", builders.practitioner(name.upper()), id=name)
                uow.system.create("PractitionerRole", builders.practitioner_role(f"Practitioner/{name}"), id=name)

        self.store.transact(self.server, write)
        self.create(self.planner, builders.garde("PractitionerRole/reg", *NIGHT, function="regulation"))
        self.create(self.planner, builders.garde("PractitionerRole/lec1", *NIGHT))
        self.create(self.planner, builders.garde("Practitioner/lec2", *NIGHT))

    # What a client can do

    def create(self, who: Caller, resource: Json, **more: Any) -> Version:
        return self.store.transact(who, lambda uow: uow.resources.create(resource["resourceType"], resource, **more))

    def update(self, who: Caller, reference: str, *, if_match: int | None = None, **elements: Any) -> Version:
        """What PATCH and PUT do: the current resource with these elements (None: without)."""
        type_name, resource_id = reference.split("/")

        def write(uow: UnitOfWork) -> Version:
            resource = deepcopy(uow.system.read(type_name, resource_id).json())
            for name, value in elements.items():
                if value is None:
                    resource.pop(name, None)
                else:
                    resource[name] = value
            return uow.resources.update(type_name, resource_id, resource, if_match=if_match)

        return self.store.transact(who, write)

    def delete(self, who: Caller, reference: str) -> Version:
        return self.store.transact(who, lambda uow: uow.resources.delete(*reference.split("/")))

    def read(self, reference: str) -> Json:
        with self.store.work(self.server, write=False) as uow:
            return uow.system.read(*reference.split("/")).json()

    def find(self, type_name: str, **parameters: str) -> list[Version]:
        pairs = [(name.replace("_", "-"), value) for name, value in parameters.items()]
        with self.store.work(self.server, write=False) as uow:
            return list(uow.system.each(type_name, pairs))

    # The path

    def tasks(self) -> dict[str, Version]:
        """The order's tasks by kind: of each the one that counts now."""
        return {str(kind_of(one.json())): one for one in sorted(self.find("Task", focus=self.order), key=rank)}

    def task(self, kind: str) -> Json:
        return self.tasks()[kind].json()

    def task_ref(self, kind: str) -> str:
        return self.tasks()[kind].reference

    def status(self, kind: str) -> str:
        return str(self.task(kind)["status"])

    def business(self) -> str | None:
        """Business status of the root task."""
        codings = self.task("order").get("businessStatus", {}).get("coding", [{}])
        return codings[0].get("code")

    def ordered(self, **more: Any) -> str:
        """S0."""
        self.patient = self.create(self.hospital, builders.patient()).reference
        self.order = self.create(self.hospital, builders.service_request(self.patient, **more)).reference
        return self.order

    def regulated(self) -> str:
        """S1."""
        self.ordered()
        self.update(self.regulator, self.task_ref("regulate"), status="in-progress")
        return self.order

    def accepted(self) -> str:
        """S2a."""
        self.regulated()
        chosen = self.create(self.regulator, builders.protocol(self.order, self.patient)).reference
        self.update(self.regulator, self.task_ref("regulate"), status="completed", output=builders.output(chosen))
        return self.order

    def acquired(self) -> str:
        """S4."""
        self.accepted()
        self.study = self.images().reference
        return self.order

    def images(self, **more: Any) -> Version:
        """The DICOM door publishes a study of the order."""
        study = builders.imaging_study(self.order, more.pop("subject", self.patient), **more)
        return self.store.transact(self.server, lambda uow: uow.system.create("ImagingStudy", study))

    def claimed(self) -> str:
        """S7."""
        self.acquired()
        self.update(self.reader, self.task_ref("read"), status="in-progress")
        return self.order

    def drafted(self, **more: Any) -> str:
        """S8."""
        self.claimed()
        draft = builders.diagnostic_report(self.order, self.patient, self.study, **more)
        return self.create(self.reader, draft).reference

    def signed(self, **more: Any) -> str:
        """S9."""
        report = self.drafted(**more)
        self.update(self.reader, report, status="final")
        return report


@pytest.fixture
def permit() -> Policy:
    """The real one: who owns and who sees what is part of the path."""
    return Policy(PLATFORM)


@pytest.fixture
def workflow() -> Workflow:
    return Workflow(platform=PLATFORM)


@pytest.fixture
def scene(make_store: Callable[..., Store], workflow: Workflow) -> Scene:
    furnished = Scene(make_store(observers=workflow.observers), workflow)
    furnished.furnish()
    return furnished
