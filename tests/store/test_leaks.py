"""Leaks that real servers had, as tests (security-subscriptions L1–L6, L13, L17; DESIGN §6)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resources.outcomes import Conflict, FhirError, Forbidden
from resources.search import parse
from store.access import EVERYONE, Visibility
from store.engine.database import Database
from store.engine.schema import metadata
from store.search.execute import SearchPage
from store.unit_of_work import Store, UnitOfWork
from tests.support import PLATFORM, MemoryTrail, OpenPermit, caller, patient, service_request

A = caller("hospital-a")
B = caller("hospital-b")
P = caller(PLATFORM)

SECRET = "Geheim"


@pytest.fixture
def both(make_store: Callable[..., Store], permit: OpenPermit) -> Store:
    """Hospital A's patient, order and observation, tied to everything of B's that a reference can tie them to."""
    store = make_store(references="lenient")
    with store.work(B) as uow:
        uow.resources.update("Patient", "b", patient(SECRET))
        uow.resources.update("ServiceRequest", "sb", service_request("Patient/b"))
        uow.resources.update("ServiceRequest", "b-of-a", service_request("Patient/a"))
    with store.work(A) as uow:
        uow.resources.update("Patient", "a", patient("Ouvert"))
        uow.resources.update("ServiceRequest", "sa", service_request("Patient/a"))
        uow.resources.update(
            "ServiceRequest", "a-of-b", service_request("Patient/b", basedOn=[{"reference": "ServiceRequest/sb"}])
        )
    return store


def search(store: Store, who: Any, type_name: str | None, *text: tuple[str, str]) -> SearchPage:
    with store.work(who, write=False) as uow:
        return uow.resources.search(parse(type_name, list(text)))


@pytest.mark.parametrize(
    "text",
    [
        [("_include", "ServiceRequest:subject"), ("_include:iterate", "ServiceRequest:based-on")],
        [("_include", "*"), ("_revinclude", "ServiceRequest:based-on")],
        [("_include:iterate", "ServiceRequest:*")],
        [("_total", "accurate"), ("_include", "ServiceRequest:based-on"), ("_revinclude:iterate", "Patient:link")],
    ],
)
def test_includes_never_cross_organisations(both: Store, text: list[tuple[str, str]]) -> None:
    """L1: absent from entries, count and total."""
    page = search(both, A, "ServiceRequest", *text)
    seen = {version.reference for version in [*page.matches, *page.includes]}
    assert seen <= {"ServiceRequest/sa", "ServiceRequest/a-of-b", "Patient/a"}
    assert page.total in (None, 2)
    page = search(both, A, "Patient", ("_revinclude", "ServiceRequest:subject"), ("_include:iterate", "*"))
    assert {version.reference for version in page.includes} == {"ServiceRequest/sa"}


@pytest.mark.parametrize(
    ("type_name", "text"),
    [
        ("Patient", ("_id", "b")), ("Patient", ("_id", "a,b")), ("Patient", ("_lastUpdated", "gt2000")),
        ("Patient", ("family", SECRET)), ("Patient", ("family:missing", "false")), ("Patient", ("gender:not", "x")),
        (None, ("_id", "b")), (None, ("_type", "Patient,ServiceRequest")), ("Patient", ("_sort", "family")),
        ("Patient", ("_tag:missing", "true")), ("Patient", ("_count", "0")), ("Patient", ("_summary", "count")),
        ("Patient", ("_has:ServiceRequest:patient:_id", "sb")),
        ("ServiceRequest", ("subject:Patient.family", SECRET)),
        ("ServiceRequest", ("patient._id", "b")),
        ("ServiceRequest", ("based-on.status", "active")),
        ("ServiceRequest", ("based-on:ServiceRequest.subject:Patient.family", SECRET)),
        ("Patient", ("_has:ServiceRequest:patient:_has:ServiceRequest:based-on:_id", "a-of-b")),
        ("Patient", ("_has:ServiceRequest:patient:_id", "b-of-a")),
    ],
)  # fmt: skip
@pytest.mark.parametrize("dense", [False, True])
def test_no_criterion_reaches_another_organisation(
    both: Store, type_name: str | None, text: tuple[str, str], dense: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L3, L4: match, chain, `_has`, count; by either plan. The platform, which may see all, finds more."""
    if dense:
        monkeypatch.setattr("store.search.planning.FEW", 0)
    page = search(both, A, type_name, text, ("_total", "accurate"))
    allowed = {"Patient/a", "ServiceRequest/sa", "ServiceRequest/a-of-b"}
    assert {version.reference for version in page.matches} <= allowed
    assert (page.total or 0) <= len(allowed)
    for version in page.matches:
        assert SECRET.encode() not in version.content
    if text in [("_id", "b"), ("family", SECRET)] or "." in text[0] or text[0].startswith("_has"):
        assert page.total == 0


def test_a_chain_through_a_type_without_scope_is_refused(both: Store, permit: OpenPermit) -> None:
    """L3: no inference about what one may not search."""
    permit.forbidden.add(("hospital-a", "Patient"))
    for text in (("subject:Patient.family", "x"), ("patient.family", "x")):
        with pytest.raises(Forbidden):
            search(both, A, "ServiceRequest", text)
    permit.forbidden.add(("hospital-a", "ServiceRequest"))
    permit.forbidden.discard(("hospital-a", "Patient"))
    with pytest.raises(Forbidden):
        search(both, A, "Patient", ("_has:ServiceRequest:patient:status", "active"))


def test_an_include_of_a_type_without_scope_is_left_out(both: Store, permit: OpenPermit) -> None:
    """DESIGN §5: silently."""
    permit.forbidden.add(("hospital-a", "Patient"))
    assert search(both, A, "ServiceRequest", ("_include", "ServiceRequest:subject")).includes == []


def test_a_scope_constraint_holds_on_every_path(both: Store, permit: OpenPermit) -> None:
    """SMART v2 `system/ServiceRequest.rs?status=completed`."""
    constraint = parse("ServiceRequest", [("status", "completed")])
    permit.visible["hospital-a", "ServiceRequest"] = Visibility(frozenset({"hospital-a"}), (constraint,))
    assert search(both, A, "ServiceRequest").matches == []
    assert search(both, A, "Patient", ("_revinclude", "ServiceRequest:subject")).includes == []
    assert search(both, A, "Patient", ("_has:ServiceRequest:patient:intent", "order")).matches == []
    for call in ("read", "vread", "history", "delete"):
        with pytest.raises(FhirError) as error, both.work(A) as uow:
            getattr(uow.resources, call)("ServiceRequest", "sa", *([1] if call == "vread" else []))
        assert error.value.status == 404
    with both.work(P) as uow:
        uow.resources.update("ServiceRequest", "sa", service_request("Patient/a", status="completed"))
    permit.visible["hospital-a", "ServiceRequest"] = Visibility(
        frozenset({"hospital-a", PLATFORM}), (parse("ServiceRequest", [("status", "draft")]), constraint)
    )
    assert [v.id for v in search(both, A, "ServiceRequest").matches] == ["sa"]
    with both.work(A, write=False) as uow:
        assert [v.version for v in uow.resources.history("ServiceRequest", "sa").versions] == [2]


def test_nobody_is_nobody(both: Store, permit: OpenPermit) -> None:
    """L6: an empty list of organisations means nothing, never everything."""
    permit.visible["hospital-a", "Patient"] = Visibility(frozenset())
    assert search(both, A, "Patient").matches == []
    with pytest.raises(FhirError) as error, both.work(A, write=False) as uow:
        uow.resources.read("Patient", "a")
    assert error.value.status == 404


def test_conditional_criteria_stay_inside_the_organisation(both: Store) -> None:
    """L5: the same identifier in two organisations is two resources, and neither sees the other's."""
    same = [{"system": "urn:oid:1.2.250.1.213.1.4.8", "value": "199"}]
    query = parse("Patient", [("identifier", "199")])
    for who in (A, B):
        with both.work(who) as uow:
            assert uow.resources.conditional_match("Patient", query) == []
            uow.resources.create("Patient", patient(identifier=same))
    for who in (A, B):
        with both.work(who) as uow:
            assert len(uow.resources.conditional_match("Patient", query)) == 1
    with both.work(P) as uow:
        assert len(uow.resources.conditional_match("Patient", query)) == 2


def test_a_reference_to_anothers_resource_is_as_one_to_nothing(store: Store) -> None:
    """L13, L14: referential integrity is no oracle."""
    with store.work(B) as uow:
        uow.resources.update("Patient", "b", patient(SECRET))
    answers = []
    for target in ("Patient/b", "Patient/none"):
        with pytest.raises(Conflict) as error, store.work(A) as uow:
            uow.resources.create("ServiceRequest", service_request(target))
        answers.append(error.value.issues)
    assert answers[0] == answers[1]


def test_directory_resources_are_everyones_to_see(store: Store) -> None:
    """DESIGN §6: directory types are visible to all partners."""
    with store.work(P) as uow:
        uow.resources.update("Organization", "o", {"resourceType": "Organization", "name": "x"})
    for who in (A, B, P):
        assert [v.id for v in search(store, who, "Organization").matches] == ["o"]


def test_an_old_version_has_the_audience_of_its_time(store: Store, permit: OpenPermit) -> None:
    """DESIGN §6: a report is the hospital's once it is signed, its drafts never."""
    from store.access import Audience

    report = {"resourceType": "DiagnosticReport", "status": "preliminary", "code": {"text": "x"}}
    permit.audiences["DiagnosticReport"] = Audience(PLATFORM, frozenset({PLATFORM}))
    with store.work(P) as uow:
        uow.resources.update("DiagnosticReport", "r", report)
    permit.audiences["DiagnosticReport"] = Audience(PLATFORM, frozenset({PLATFORM, "hospital-a"}))
    with store.work(P) as uow:
        uow.resources.update("DiagnosticReport", "r", report | {"status": "final"})
    with store.work(A, write=False) as uow:
        assert uow.resources.read("DiagnosticReport", "r").version == 2
        assert [v.version for v in uow.resources.history("DiagnosticReport", "r").versions] == [2]
    with pytest.raises(FhirError) as error, store.work(A, write=False) as uow:
        uow.resources.vread("DiagnosticReport", "r", 1)
    assert error.value.status == 404


# L17: whatever two organisations do, no byte of one shows in an answer to the other

TYPES = ("Patient", "ServiceRequest", "Organization", "Task")
IDS = st.sampled_from(["1", "2", "3"])
ORGANIZATIONS = st.sampled_from(["hospital-a", "hospital-b"])


def bodies(type_name: str, target: str, mark: str) -> dict[str, Any]:
    text = [{"system": "urn:mark", "value": mark}]
    if type_name == "Patient":
        return patient(mark, identifier=text, managingOrganization={"reference": f"Organization/{target}"})
    if type_name == "ServiceRequest":
        return service_request(f"Patient/{target}", identifier=text)
    if type_name == "Task":
        focus = {"reference": f"ServiceRequest/{target}"}
        return {"resourceType": "Task", "status": "draft", "intent": "order", "identifier": text, "focus": focus}
    return {"resourceType": "Organization", "name": "directory"}


QUERIES = [
    ("Patient", [("_revinclude", "ServiceRequest:subject"), ("_revinclude:iterate", "Task:focus")]),
    ("Task", [("_include", "Task:focus"), ("_include:iterate", "ServiceRequest:subject"), ("_sort", "identifier")]),
    ("ServiceRequest", [("_include", "*"), ("_revinclude", "Task:focus"), ("_sort", "-authored")]),
    ("Task", [("focus:ServiceRequest.subject:Patient.family", "mark")]),
    ("Patient", [("_has:ServiceRequest:subject:_has:Task:focus:status", "draft")]),
    ("Patient", [("family", "mark"), ("_total", "accurate")]),
    (None, [("_lastUpdated", "gt2000")]),
]

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["write", "write", "delete", "read", "vread", "history", "search", "match"]),
        ORGANIZATIONS,
        st.sampled_from(TYPES),
        IDS,
        IDS,
        st.sampled_from(QUERIES),
    ),
    max_size=25,
)


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(STEPS)
def test_no_sequence_of_calls_shows_one_organisation_to_another(
    make_store: Callable[..., Store], database: Database, trail: MemoryTrail, steps: list[Any]
) -> None:
    """L17: each secret carries its owner's mark; answers are looked through for the other's."""
    with database.write() as connection:
        for table in reversed(metadata.sorted_tables):
            connection.execute(table.delete())
    store = make_store(references="lenient")
    for what, organization, type_name, id, target, (searched, text) in steps:
        other = "mark-hospital-b" if organization == "hospital-a" else "mark-hospital-a"

        versions, total, refusal = [], None, ""
        try:
            with store.work(caller(organization), write=what in ("write", "delete", "match")) as uow:
                versions, total = _call(uow, what, organization, type_name, id, target, searched, text)
        except FhirError as error:
            refusal = str(error)
        assert other not in refusal
        for version in versions:
            assert other.encode() not in version.content
            assert version.owner == organization or version.type == "Organization"
        if total is not None:
            assert total == len([v for v in versions if v.type == searched])


def _call(
    uow: UnitOfWork, what: str, organization: str, type_name: str, id: str, target: str, searched: Any, text: Any
) -> tuple[list[Any], int | None]:
    resources = uow.resources
    if what == "write":
        return [resources.update(type_name, id, bodies(type_name, target, f"mark-{organization}"))], None
    if what == "delete":
        return [resources.delete(type_name, id)], None
    if what == "read":
        return [resources.read(type_name, id)], None
    if what == "vread":
        return [resources.vread(type_name, id, 1)], None
    if what == "history":
        return resources.history(type_name, id).versions, None
    if what == "match":
        return resources.conditional_match(searched or type_name, parse(searched or type_name, [("_id", id)])), None
    page = resources.search(parse(searched, list(text)))
    return [*page.matches, *page.includes], page.total if searched == "Patient" and "family" in text[0] else None


def test_the_platforms_view_is_whole(both: Store) -> None:
    """The predicate admits who is in the audience."""
    assert {v.id for v in search(both, P, "Patient").matches} == {"a", "b"}
    assert EVERYONE == "*"
