"""Interactions on instances (FHIR R4 §3.1.0)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from resources.outcomes import Conflict, Gone, NotFound, PreconditionFailed
from store.access import Caller, Interaction, Outcome
from store.unit_of_work import Store
from tests.support import Clock, MemoryTrail, caller, patient, service_request

A = caller("hospital-a")
B = caller("hospital-b")


def test_a_created_resource_is_read_back_as_sent(store: Store) -> None:
    """§3.1.0.8: the server sets id, versionId and lastUpdated, and keeps the rest of meta."""
    with store.work(A) as uow:
        made = uow.resources.create("Patient", patient(meta={"tag": [{"code": "x"}], "versionId": "77"}, id="mine"))
    with store.work(A, write=False) as uow:
        read = uow.resources.read("Patient", made.id)
    assert read == made
    body = read.json()
    assert body["id"] != "mine"
    assert body["meta"] == {
        "versionId": "1",
        "lastUpdated": "2026-06-01T08:00:00.000Z",
        "tag": [{"code": "x"}],
    }
    assert body["name"] == [{"family": "Martin"}]


def test_each_update_is_a_version_and_old_versions_stay(store: Store, clock: Clock) -> None:
    """§3.1.0.2 and §3.1.0.4: also where the content is the same."""
    with store.work(A) as uow:
        made = uow.resources.create("Patient", patient())
    clock.advance(seconds=1)
    with store.work(A) as uow:
        second = uow.resources.update("Patient", made.id, patient("Durand"), if_match=1)
    with store.work(A) as uow:
        third = uow.resources.update("Patient", made.id, patient("Durand"))
    assert [second.version, third.version] == [2, 3]
    with store.work(A, write=False) as uow:
        assert uow.resources.vread("Patient", made.id, 1).json()["name"][0]["family"] == "Martin"
        assert uow.resources.read("Patient", made.id).version == 3
        assert [v.version for v in uow.resources.history("Patient", made.id).versions] == [3, 2, 1]


def test_an_update_of_an_unknown_id_creates_it(store: Store) -> None:
    """§3.1.0.4.1 update as create."""
    with store.work(A) as uow:
        assert uow.resources.update("Patient", "chosen", patient()).version == 1
    with pytest.raises(NotFound), store.work(A) as uow:
        uow.resources.update("Patient", "other", patient(), create=False)


def test_a_stale_if_match_is_refused(store: Store) -> None:
    """§3.1.0.5 http://hl7.org/fhir/R4/http.html#concurrency"""
    with store.work(A) as uow:
        uow.resources.update("Patient", "x", patient())
        uow.resources.update("Patient", "x", patient())
    with pytest.raises(PreconditionFailed), store.work(A) as uow:
        uow.resources.update("Patient", "x", patient(), if_match=1)


def test_what_was_deleted_is_gone_until_it_is_put_again(store: Store) -> None:
    """§3.1.0.7: 410 for the resource, old versions stay readable, a later PUT goes on counting."""
    with store.work(A) as uow:
        uow.resources.update("Patient", "x", patient())
    with store.work(A) as uow:
        deletion = uow.resources.delete("Patient", "x")
    assert deletion.deleted
    with pytest.raises(Gone) as gone, store.work(A, write=False) as uow:
        uow.resources.read("Patient", "x")
    assert gone.value.version == 2
    with pytest.raises(Gone), store.work(A, write=False) as uow:
        uow.resources.vread("Patient", "x", 2)
    with store.work(A) as uow:
        assert uow.resources.vread("Patient", "x", 1).version == 1
        assert uow.resources.delete("Patient", "x").version == 2
        assert uow.resources.update("Patient", "x", patient()).version == 3


@pytest.mark.parametrize("call", ["read", "vread", "update", "delete", "history"])
def test_foreign_and_absent_answer_the_same(store: Store, trail: MemoryTrail, call: str) -> None:
    """DESIGN §6; L13: only the audit record knows the difference."""
    with store.work(A) as uow:
        uow.resources.update("Patient", "a", patient())
    trail.clear()
    calls = {
        "read": lambda r, id: r.read("Patient", id),
        "vread": lambda r, id: r.vread("Patient", id, 1),
        "update": lambda r, id: r.update("Patient", id, patient(), create=False),
        "delete": lambda r, id: r.delete("Patient", id),
        "history": lambda r, id: r.history("Patient", id),
    }
    errors = []
    for id in ("a", "absent"):
        with pytest.raises(NotFound) as error, store.work(B) as uow:
            calls[call](uow.resources, id)
        errors.append(error.value)
    assert errors[0].issues == errors[1].issues
    assert [error.foreign for error in errors] == [True, False]
    assert [access.outcome for access in trail.disclosed] == [Outcome.SERIOUS, Outcome.MINOR]


def test_a_failed_unit_of_work_leaves_nothing_but_its_record(store: Store, trail: MemoryTrail) -> None:
    """DESIGN §3, the spine."""
    with pytest.raises(Conflict), store.work(A) as uow:  # noqa: PT012 - what comes before the fault is the point
        uow.resources.update("Patient", "x", patient())
        raise Conflict("no")
    with store.work(A, write=False) as uow:
        assert not uow.resources.exists("Patient", "x")
    (failed,) = trail.disclosed
    assert (failed.interaction, failed.outcome, failed.id) == (Interaction.UPDATE, Outcome.MINOR, "x")
    assert not trail.appended


def test_a_read_is_recorded_with_its_patient(store: Store, trail: MemoryTrail) -> None:
    """IHE BALP: one event names the patient concerned."""
    with store.work(A) as uow:
        uow.resources.update("Patient", "x", patient())
        uow.resources.update("ServiceRequest", "s", service_request("Patient/x"))
    with store.work(A, write=False) as uow:
        uow.resources.read("ServiceRequest", "s")
    (access,) = trail.disclosed
    assert access.patients == ("Patient/x",)
    assert access.owner == "hospital-a"


def test_the_server_acts_without_permit_but_not_without_record(
    store: Store, trail: MemoryTrail, as_hospital: Callable[..., Caller]
) -> None:
    """uow.system: derived writes are recorded as such."""
    with store.work(as_hospital()) as uow:
        uow.system.update("Patient", "p", patient())
    (access,) = trail.appended
    assert access.derived
    assert access.owner == "platform"
