"""What the oracle does not cover: includes, system search, long texts, values that databases choke on."""

from __future__ import annotations

import pytest

from resources.search import parse
from store.access import Version
from store.search.execute import SearchPage
from store.unit_of_work import Store
from tests.support import MemoryTrail, caller, patient, service_request

A = caller("hospital-a")


def search(store: Store, type_name: str | None, *text: tuple[str, str]) -> SearchPage:
    with store.work(A, write=False) as uow:
        return uow.resources.search(parse(type_name, list(text)))


def names(versions: list[Version]) -> set[str]:
    return {version.reference for version in versions}


@pytest.fixture
def world(make_store: object) -> Store:
    """Two patients, an order each, tasks in a chain of three on the first."""
    store: Store = make_store()  # type: ignore[operator]
    with store.work(A) as uow:
        uow.resources.update("Organization", "h", {"resourceType": "Organization", "name": "Hôpital"})
        for id in ("p", "q"):
            uow.resources.update("Patient", id, patient(managingOrganization={"reference": "Organization/h"}))
            uow.resources.update("ServiceRequest", f"s-{id}", service_request(f"Patient/{id}"))
        for number in range(4):
            task: dict[str, object] = {
                "resourceType": "Task",
                "status": "requested",
                "intent": "order",
                "focus": {"reference": "ServiceRequest/s-p"},
            }
            if number:
                task["partOf"] = [{"reference": f"Task/t{number - 1}"}]
            uow.resources.update("Task", f"t{number}", task)
    return store


def test_an_include_brings_what_matches_refer_to_once(world: Store) -> None:
    """§3.1.1.5.4: mode include, no duplicates, not in the total."""
    page = search(world, "Task", ("_include", "Task:focus"), ("_total", "accurate"))
    assert names(page.includes) == {"ServiceRequest/s-p"}
    assert page.total == 4
    assert len(page.includes) == 1


def test_a_match_is_never_an_include(world: Store) -> None:
    """§3.1.1.5.4: a resource is one entry of the Bundle."""
    page = search(world, "Task", ("_include", "Task:part-of"))
    assert page.includes == []
    page = search(world, "Task", ("_id", "t3"), ("_include", "Task:part-of"))
    assert names(page.includes) == {"Task/t2"}


def test_iterate_follows_three_times(world: Store) -> None:
    """§3.1.1.5.4 :iterate"""
    page = search(world, "Task", ("_id", "t3"), ("_include:iterate", "Task:part-of"))
    assert names(page.includes) == {"Task/t2", "Task/t1", "Task/t0"}
    page = search(
        world, "Task", ("_id", "t0"), ("_include", "Task:focus"), ("_include:iterate", "ServiceRequest:subject"),
        ("_include:iterate", "Patient:organization"),
    )  # fmt: skip
    assert names(page.includes) == {"ServiceRequest/s-p", "Patient/p", "Organization/h"}


def test_a_revinclude_brings_what_refers_to_matches(world: Store) -> None:
    """§3.1.1.5.4 _revinclude, and `:iterate` from there on."""
    page = search(world, "Patient", ("_id", "p"), ("_revinclude", "ServiceRequest:subject"))
    assert names(page.includes) == {"ServiceRequest/s-p"}
    page = search(
        world, "Patient", ("_id", "p"), ("_revinclude", "ServiceRequest:subject"), ("_revinclude:iterate", "Task:focus")
    )
    assert names(page.includes) == {"ServiceRequest/s-p", *(f"Task/t{n}" for n in range(4))}


def test_the_target_type_of_an_include_is_heeded(world: Store) -> None:
    """§3.1.1.5.4: `source:parameter:type`."""
    wanted = ("_include", "ServiceRequest:subject:Group")
    assert search(world, "ServiceRequest", wanted).includes == []
    wanted = ("_include", "ServiceRequest:subject:Patient")
    assert names(search(world, "ServiceRequest", wanted).includes) == {"Patient/p", "Patient/q"}


def test_wildcards_include_all(world: Store) -> None:
    """§3.1.1.5.4 `*`"""
    page = search(world, "ServiceRequest", ("_id", "s-q"), ("_include", "*"))
    assert names(page.includes) == {"Patient/q"}
    page = search(world, "ServiceRequest", ("_id", "s-p"), ("_include", "ServiceRequest:*"), ("_revinclude", "Task:*"))
    assert names(page.includes) == {"Patient/p", *(f"Task/t{n}" for n in range(4))}


def test_what_was_deleted_is_not_included(world: Store) -> None:
    """§3.1.1.5.4; lenient deployments may have dangling references."""
    world.lenient = True
    with world.work(A) as uow:
        uow.resources.delete("Patient", "p")
    assert search(world, "ServiceRequest", ("_id", "s-p"), ("_include", "ServiceRequest:subject")).includes == []


def test_includes_belong_to_the_snapshot_of_the_page(world: Store) -> None:
    """DESIGN §4: a search is a search at t, its includes too."""
    query = parse("ServiceRequest", [("_count", "1"), ("_include", "ServiceRequest:subject"), ("_sort", "_id")])
    with world.work(A, write=False) as uow:
        first = uow.resources.search(query)
    with world.work(A) as uow:
        uow.resources.update("Patient", "q", patient("Changed"))
    with world.work(A, write=False) as uow:
        second = uow.resources.search(query, token=first.next)
    assert [v.version for v in second.includes] == [1]


def test_the_whole_system_is_searched_by_common_parameters(world: Store) -> None:
    """§3.1.1.1 `GET [base]?_type=…`"""
    assert names(search(world, None, ("_type", "Patient,Organization")).matches) == {
        "Patient/p", "Patient/q", "Organization/h",
    }  # fmt: skip
    assert names(search(world, None, ("_id", "p,t1")).matches) == {"Patient/p", "Task/t1"}


def test_chains_and_reverse_chains_cross_types(world: Store) -> None:
    """§3.1.1.5.2, §3.1.1.5.3"""
    assert names(search(world, "Task", ("focus:ServiceRequest.subject:Patient._id", "p")).matches) == {
        f"Task/t{n}" for n in range(4)
    }
    assert names(search(world, "Patient", ("_has:ServiceRequest:patient:_has:Task:focus:_id", "t2")).matches) == {
        "Patient/p"
    }
    assert search(world, "Patient", ("organization.name", "clinique")).matches == []
    assert names(search(world, "Patient", ("organization.name", "hop")).matches) == {"Patient/p", "Patient/q"}


@pytest.mark.parametrize("length", [255, 256, 257, 5000])
def test_long_texts_are_found_by_all_of_their_characters(store: Store, length: int) -> None:
    """Index entries have a limit, search has none."""
    family = "é" * (length - 1) + "z"
    with store.work(A) as uow:
        uow.resources.update("Patient", "p", patient(family, identifier=[{"system": "s" * 3000, "value": family}]))
    for text in (
        ("family", family),
        ("family", family[: length // 2]),
        ("family:exact", family),
        ("family:contains", "éz"),
        ("identifier", family),
    ):
        assert names(search(store, "Patient", text).matches) == {"Patient/p"}, text[0]
    assert search(store, "Patient", ("family", family + "z")).matches == []
    assert search(store, "Patient", ("family", family[:-1] + "a")).matches == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("family", "a\0b"), ("family", "%_"), ("family", "'; DROP TABLE tx; --"), ("family:contains", "\0"),
        ("identifier", "\0|\0"), ("_id", "\0"), ("birthdate", "9999-12-31"), ("birthdate", "0001-01-01"),
        ("_lastUpdated", "gt9999"), ("_lastUpdated", "0001"), ("organization", "\U0010ffff"), ("_profile", "\0"),
        ("_profile:below", "x" * 4000), ("organization", "http://" + "é" * 4000), ("_tag", "\ud800"),
    ],
)  # fmt: skip
def test_strange_values_find_nothing_and_harm_nothing(store: Store, name: str, value: str) -> None:
    """Bad input gets a 4xx or an empty Bundle, never a 5xx."""
    from resources.outcomes import FhirError

    with store.work(A) as uow:
        uow.resources.update("Patient", "p", patient())
    status = 200
    try:
        assert search(store, "Patient", (name, value)).matches == []
    except FhirError as error:
        status = error.status
    assert status in (200, 400)


def test_a_search_is_recorded_with_the_patients_it_showed(world: Store, trail: MemoryTrail) -> None:
    """BALP PatientQuery: one event per patient found, includes too."""
    trail.clear()
    search(world, "ServiceRequest", ("status", "active"), ("_include", "ServiceRequest:subject"))
    (access,) = trail.disclosed
    assert set(access.patients) == {"Patient/p", "Patient/q"}
    assert access.query == "GET http://localhost:8080/fhir/ServiceRequest?status=active&_include=ServiceRequest%3Asubject&_count=50"


def test_a_parameter_of_our_own_is_searched_as_the_standards_are(world: Store) -> None:
    """resources/own_parameters.py: indexed, chained, sorted by, included and reverse included, `:missing`."""
    study: dict[str, object] = {
        "resourceType": "ImagingStudy", "status": "available", "subject": {"reference": "Patient/p"},
        "identifier": [{"system": "urn:dicom:uid", "value": "urn:oid:1.2.3"}],
    }  # fmt: skip
    report: dict[str, object] = {"resourceType": "DiagnosticReport", "status": "registered", "code": {"text": "CT"}}
    with world.work(A) as uow:
        uow.resources.update("ImagingStudy", "i", study)
        uow.resources.update("DiagnosticReport", "r", {**report, "imagingStudy": [{"reference": "ImagingStudy/i"}]})
        uow.resources.update("DiagnosticReport", "other", report)
    for value in (("imaging-study", "ImagingStudy/i"), ("imaging-study.identifier", "urn:oid:1.2.3")):
        assert names(search(world, "DiagnosticReport", value).matches) == {"DiagnosticReport/r"}
    missing = search(world, "DiagnosticReport", ("imaging-study:missing", "true"))
    assert names(missing.matches) == {"DiagnosticReport/other"}
    page = search(world, "DiagnosticReport", ("_id", "r"), ("_include", "DiagnosticReport:imaging-study"))
    assert names(page.includes) == {"ImagingStudy/i"}
    page = search(world, "ImagingStudy", ("_revinclude", "DiagnosticReport:imaging-study"))
    assert names(page.includes) == {"DiagnosticReport/r"}
    page = search(world, "ImagingStudy", ("_has:DiagnosticReport:imaging-study:status", "registered"))
    assert names(page.matches) == {"ImagingStudy/i"}
