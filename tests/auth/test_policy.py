"""What a caller may see and write: scope × interaction × type × organisation, on a real store.

SMART 2.2 §Scopes, DESIGN §6
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from auth.policy import LETTERS, Policy
from resources.json import Json
from resources.outcomes import Forbidden, NotFound
from store.access import EVERYONE, Caller, Interaction
from store.unit_of_work import Store
from tests.support import PLATFORM, caller, patient, service_request


@pytest.fixture
def store(make_store: Callable[..., Store]) -> Store:
    return make_store(permit=Policy(PLATFORM), references="lenient")


def holding(scope: str, organization: str = "hospital-a") -> Caller:
    return caller(organization, scopes=frozenset(scope.split()))


PERMITTED = {
    Interaction.READ: "r", Interaction.VREAD: "r", Interaction.HISTORY_INSTANCE: "r",
    Interaction.SEARCH_TYPE: "s", Interaction.SEARCH_SYSTEM: "s",
    Interaction.HISTORY_TYPE: "s", Interaction.HISTORY_SYSTEM: "s",
    Interaction.CREATE: "c", Interaction.UPDATE: "u", Interaction.DELETE: "d",
    Interaction.NOTIFY: "r", Interaction.OPERATION: "r",
    Interaction.DICOM_QUERY: "s", Interaction.DICOM_RETRIEVE: "r", Interaction.DICOM_STORE: "cu",
}  # fmt: skip
"""Restated from SMART 2.2, apart from the table in `auth.policy`."""


@pytest.mark.parametrize("interaction", list(Interaction))
@pytest.mark.parametrize("letter", list("cruds"))
def test_each_interaction_needs_its_letter(interaction: Interaction, letter: str) -> None:
    """SMART 2.2: r also vread and instance history, s also type and system history, u also update-as-create."""
    policy = Policy(PLATFORM)
    allowed = letter in PERMITTED.get(interaction, "")
    for scope in (f"system/ImagingStudy.{letter}", f"system/*.{letter}"):
        if allowed:
            visible = policy.visibility(holding(scope), interaction, "ImagingStudy")
            assert visible.organizations == {"hospital-a", EVERYONE}
        else:
            with pytest.raises(Forbidden):
                policy.visibility(holding(scope), interaction, "ImagingStudy")


def test_the_table_of_letters_is_smarts() -> None:
    """A new interaction is allowed to nobody until somebody says which letter it needs."""
    assert dict(LETTERS) == PERMITTED


@pytest.mark.parametrize(
    "scope",
    ["", "user/*.cruds", "patient/*.cruds", "system/Observation.cruds", "system/Patient.cud"],
)
def test_no_scope_no_reading(scope: str) -> None:
    """403 tells of the type and the interaction only: the same for every id."""
    with pytest.raises(Forbidden):
        Policy(PLATFORM).visibility(holding(scope), Interaction.READ, "Patient")


def test_a_client_without_an_organization_can_do_nothing(store: Store) -> None:
    """Reference §2.2 rule 7."""
    nobody = holding("system/*.cruds", "")
    for interaction in Interaction:
        with pytest.raises(Forbidden):
            Policy(PLATFORM).visibility(nobody, interaction, "Patient")
    with pytest.raises(Forbidden), store.work(nobody) as uow:
        uow.resources.create("Patient", patient())


def test_the_server_itself_sees_all() -> None:
    """store.access: None only for the server."""
    visible = Policy(PLATFORM).visibility(Caller.system(PLATFORM), Interaction.READ, "Patient")
    assert visible.organizations is None


def test_constraints_of_several_scopes_are_a_union() -> None:
    """SMART 2.2: one unconstrained scope among them asks for none."""
    policy = Policy(PLATFORM)
    both = holding("system/Task.rs?status=requested system/Task.rs?priority=stat system/Task.c")
    assert len(policy.visibility(both, Interaction.READ, "Task").constraints) == 2
    wide = holding("system/Task.rs?status=requested system/*.r")
    assert policy.visibility(wide, Interaction.READ, "Task").constraints == ()
    assert len(policy.visibility(wide, Interaction.SEARCH_TYPE, "Task").constraints) == 1


# — writing —


def test_writing_needs_the_letter(store: Store) -> None:
    """SMART 2.2: c create, u update and update-as-create, d delete."""
    with store.work(holding("system/Patient.c")) as uow:
        made = uow.resources.create("Patient", patient())
    for scope in ("system/Patient.c", "system/Patient.rs", "system/Patient.d"):
        with pytest.raises(Forbidden), store.work(holding(scope)) as uow:
            uow.resources.update("Patient", made.id, patient("Durand"))
    for scope in ("system/Patient.cru", "system/Patient.s"):
        with pytest.raises(Forbidden), store.work(holding(scope)) as uow:
            uow.resources.delete("Patient", made.id)
    with pytest.raises(Forbidden), store.work(holding("system/Patient.ruds")) as uow:
        uow.resources.create("Patient", patient())
    with store.work(holding("system/Patient.u")) as uow:
        assert uow.resources.update("Patient", made.id, patient("Durand")).version == 2
        assert uow.resources.update("Patient", "chosen", patient()).version == 1
    with store.work(holding("system/Patient.d")) as uow:
        uow.resources.delete("Patient", made.id)


def test_a_create_must_satisfy_a_constrained_scope(store: Store) -> None:
    """Leak L9: nothing is written out of sight of the scope."""
    drafts = holding("system/ServiceRequest.cruds?status=draft")
    with store.work(drafts) as uow:
        uow.resources.create("ServiceRequest", service_request("Patient/p", status="draft"))
    with pytest.raises(Forbidden), store.work(drafts) as uow:
        uow.resources.create("ServiceRequest", service_request("Patient/p", status="active"))


def test_an_update_must_satisfy_a_constrained_scope_before_and_after(store: Store) -> None:
    """Leak L9: `status=active` → draft leaves the scope; the other way enters it. Both are refused."""
    active = holding("system/ServiceRequest.cruds?status=active")
    with store.work(holding("system/*.cruds")) as uow:
        inside = uow.resources.create("ServiceRequest", service_request("Patient/p", status="active"))
        outside = uow.resources.create("ServiceRequest", service_request("Patient/p", status="draft"))
    with store.work(active) as uow:
        uow.resources.update("ServiceRequest", inside.id, service_request("Patient/p", priority="urgent"))
    with pytest.raises(Forbidden), store.work(active) as uow:
        uow.resources.update("ServiceRequest", inside.id, service_request("Patient/p", status="draft"))
    with pytest.raises((Forbidden, NotFound)), store.work(active) as uow:
        uow.resources.update("ServiceRequest", outside.id, service_request("Patient/p", status="active"))
    with pytest.raises((Forbidden, NotFound)), store.work(active) as uow:
        uow.resources.delete("ServiceRequest", outside.id)
    with store.work(active) as uow:
        uow.resources.delete("ServiceRequest", inside.id)


def test_a_constraint_by_reference_holds_for_writes(store: Store) -> None:
    """The constraint is the search itself, also for references and tags."""
    one_patient = holding("system/ServiceRequest.cruds?patient=Patient/p1")
    with store.work(one_patient) as uow:
        uow.resources.create("ServiceRequest", service_request("Patient/p1"))
    with pytest.raises(Forbidden), store.work(one_patient) as uow:
        uow.resources.create("ServiceRequest", service_request("Patient/p2"))


def test_a_hospital_alters_only_what_it_owns(store: Store) -> None:
    """Contract of ownership; foreign and absent are the same 404."""
    with store.work(holding("system/*.cruds")) as uow:
        made = uow.resources.create("Patient", patient())
        role = uow.resources.create("PractitionerRole", {"resourceType": "PractitionerRole"})
    other = holding("system/*.cruds", "hospital-b")
    with pytest.raises(NotFound), store.work(other) as uow:
        uow.resources.update("Patient", made.id, patient("Durand"))
    with pytest.raises(NotFound), store.work(other) as uow:
        uow.resources.delete("Patient", made.id)
    with store.work(other, write=False) as uow:
        uow.resources.read("PractitionerRole", role.id)
    with pytest.raises(Forbidden), store.work(other) as uow:
        uow.resources.update("PractitionerRole", role.id, {"resourceType": "PractitionerRole", "active": False})
    with pytest.raises(Forbidden), store.work(other) as uow:
        uow.resources.delete("PractitionerRole", role.id)


@pytest.mark.parametrize("type_name", ["Patient", "ServiceRequest"])
def test_the_platform_does_not_alter_what_a_hospital_owns(store: Store, type_name: str) -> None:
    """DESIGN §6: a Patient belongs to the hospital that sent it; the server itself may go on with an order."""
    content = patient() if type_name == "Patient" else service_request("Patient/p")
    with store.work(holding("system/*.cruds")) as uow:
        made = uow.resources.create(type_name, content)
    platform = holding("system/*.cruds", PLATFORM)
    with store.work(platform, write=False) as uow:
        assert uow.resources.read(type_name, made.id).owner == "hospital-a"
    with pytest.raises(Forbidden), store.work(platform) as uow:
        uow.resources.update(type_name, made.id, content)
    with pytest.raises(Forbidden), store.work(platform) as uow:
        uow.resources.delete(type_name, made.id)
    with store.work(platform) as uow:
        after = uow.system.update(type_name, made.id, content)
    assert after.owner == "hospital-a"


def test_a_task_is_altered_by_those_that_it_is_shown_to(store: Store) -> None:
    """The acquisition is the hospital's to carry out; who else, and how, the workflow guards."""
    platform = holding("system/*.cruds", PLATFORM)
    with store.work(holding("system/*.cruds")) as uow:
        order = uow.resources.create("ServiceRequest", service_request("Patient/p"))
    root = task(order.reference)
    with store.work(platform) as uow:
        shown = uow.resources.create("Task", root)
        inner = uow.resources.create("Task", {**root, "partOf": [{"reference": shown.reference}]})
    hospital = holding("system/*.cruds")
    with store.work(hospital) as uow:
        after = uow.resources.update("Task", shown.id, {**root, "status": "accepted"})
    assert after.owner == PLATFORM
    with pytest.raises(NotFound), store.work(hospital) as uow:
        uow.resources.update("Task", inner.id, root)
    with pytest.raises(Forbidden), store.work(hospital) as uow:
        uow.resources.delete("Task", shown.id)
    with pytest.raises(NotFound), store.work(holding("system/*.cruds", "hospital-b")) as uow:
        uow.resources.update("Task", shown.id, root)


def test_a_deleted_resource_stays_its_owners(store: Store) -> None:
    """An update that creates anew does not hand the id to whoever saw it last."""
    with store.work(holding("system/*.cruds")) as uow:
        made = uow.resources.create("Observation", {"resourceType": "Observation", "status": "final", "code": {}})
        uow.resources.delete("Observation", made.id)
    with pytest.raises(Forbidden), store.work(holding("system/*.cruds", PLATFORM)) as uow:
        uow.resources.update("Observation", made.id, {"resourceType": "Observation", "status": "final", "code": {}})
    with store.work(holding("system/*.cruds")) as uow:
        again = uow.resources.update(
            "Observation", made.id, {"resourceType": "Observation", "status": "final", "code": {}}
        )
    assert again.owner == "hospital-a"


@pytest.mark.parametrize("organization", ["hospital-a", PLATFORM])
def test_nobody_writes_an_audit_event(store: Store, organization: str) -> None:
    """DESIGN §7: never writable or deletable by anyone through the API."""
    anyone = holding("system/*.cruds", organization)
    event: Json = {"resourceType": "AuditEvent"}
    with pytest.raises(Forbidden), store.work(anyone) as uow:
        uow.resources.create("AuditEvent", event)
    with pytest.raises(Forbidden), store.work(anyone) as uow:
        uow.resources.update("AuditEvent", "e", event)
    with store.work(anyone) as uow:
        made = uow.system.create("AuditEvent", event)
    with pytest.raises((Forbidden, NotFound)), store.work(anyone) as uow:
        uow.resources.delete("AuditEvent", made.id)


def task(order: str, **more: Any) -> Json:
    return {
        "resourceType": "Task",
        "status": "requested",
        "intent": "order",
        "focus": {"reference": order},
        **more,
    }
