"""The log as AuditEvents: found as R4 says, page by page, by whom it concerns, within what an index leads to.

FHIR R4 http://hl7.org/fhir/R4/auditevent.html#search, http://hl7.org/fhir/R4/search.html; IHE ITI-81
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import delete, select

from audit import asking, form2, forms, proofs, queries
from audit.checkpoint import Signer
from audit.finding import ACTS, Kind
from audit.offline import opened
from audit.service import Ledger
from auth.policy import Policy
from resources import indexing, matching
from resources.budgets import AUDIT_SCAN
from resources.criteria import Query
from resources.outcomes import BadRequest, Forbidden, NotFound
from resources.search import parse
from store.access import EVERYONE, Access, Caller, Interaction, Outcome, Version, Visibility
from store.engine.database import Database
from store.unit_of_work import Store
from tests.audit.logbook import AT, logged, rich
from tests.support import PLATFORM, OpenPermit, caller, patient

AUDITOR = caller(PLATFORM, client_id="auditor")
QUERIES: list[list[tuple[str, str]]] = [
    [],
    [("patient", "Patient/p-1")],
    [("patient", "p-2")],
    [("patient:Patient", "p-9")],
    [("patient", "Patient/p-1,Patient/p-3")],
    [("entity", "Patient/p-1")],
    [("entity", "Task/t-1")],
    [("entity", "t-1")],
    [("entity", "ServiceRequest/o-1")],
    [("entity:identifier", "urn:dicom:uid|urn:oid:1.2.3")],
    [("entity:identifier", "r"), ("date", "ge2026")],
    [("agent", "Practitioner/rad-1")],
    [("agent", "Organization/hospital-a")],
    [("agent", "Device/platform"), ("date", "ge2026")],
    [("agent:identifier", "client-of-hospital-a")],
    [("agent:missing", "true"), ("date", "ge2026")],
    [("action", "E")],
    [("action", "R,U")],
    [("action", "D")],
    [("action:not", "R"), ("date", "ge2026")],
    [("type", "rest")],
    [("type", "http://dicom.nema.org/resources/ontology/DCM|110104")],
    [("type", "http://example.org|rest")],
    [("subtype", "derived")],
    [("subtype", "update,derived")],
    [("subtype", "search-type"), ("patient", "Patient/p-1")],
    [("outcome", "0")],
    [("outcome", "8")],
    [("outcome", "0,8")],
    [("outcome:not", "0"), ("date", "ge2026")],
    [("date", "ge2026-01-01"), ("date", "lt2100")],
    [("date", "lt2000-01-01")],
    [("date", "lt2000,ge2020")],
    [("address", "::1"), ("date", "ge2020")],
    [("policy", "urn:ietf:params:oauth:jti:t"), ("date", "ge2020")],
    [("site", "platform"), ("date", "ge2020")],
    [("source", "Device/platform"), ("date", "ge2020")],
    [("entity-role", "24"), ("date", "ge2020")],
    [("entity-type", "2"), ("patient", "Patient/p-2")],
    [("_lastUpdated", "ge2020"), ("action", "R")],
    [("_lastUpdated", "lt2020")],
    [("agent-name", "x"), ("date", "ge2020")],
    [("altid", "x"), ("date", "ge2020")],
]  # fmt: skip


def everything(ledger: Ledger, database: Database) -> list[Version]:
    """All AuditEvents, oldest first, past any criterion."""
    assert ledger.shelf is not None
    found = []
    with database.read() as connection:
        for row in queries.stored(connection):
            for event in forms.events_of(row):
                version = ledger.shelf.one(connection, Visibility(None), event.id)
                assert version is not None
                found.append(version)
    return found


def holds(query: Query, version: Version) -> bool:
    rows = indexing.extract("AuditEvent", version.json())
    return matching.matches(query.criteria, "AuditEvent", version.id, version.last_updated, rows)


def found(store: Store, who: Caller, parameters: list[tuple[str, str]], count: int = 50) -> list[str]:
    """The ids of all pages."""
    query = parse("AuditEvent", [*parameters, ("_count", str(count))])
    ids, token = [], None
    while True:
        with store.work(who, write=False) as uow:
            page = uow.resources.search(query, token=token)
        assert len(page.matches) <= count
        ids += [version.id for version in page.matches]
        token = page.next
        if token is None:
            return ids


@pytest.mark.parametrize("parameters", QUERIES, ids=str)
def test_a_search_finds_what_the_events_say(
    make_store: Callable[..., Store], ledger: Ledger, database: Database, parameters: list[tuple[str, str]]
) -> None:
    """Whatever leads there: the same as comparing every event, in one page or in many, and counted."""
    rich(ledger)
    rich(ledger)
    store = make_store(trail=ledger, clock=lambda: AT)
    query = parse("AuditEvent", parameters)
    wanted = [version.id for version in everything(ledger, database) if holds(query, version)]
    for count in (1, 3, 50):
        got = found(store, AUDITOR, parameters, count)
        assert len(got) == len(set(got)), count
        assert set(got) == set(wanted), count
    with store.work(AUDITOR, write=False) as uow:
        assert uow.resources.search(parse("AuditEvent", [*parameters, ("_summary", "count")])).total == len(wanted)


@pytest.mark.parametrize("sort", ["date", "-date", "_lastUpdated", "-_lastUpdated"])
@pytest.mark.parametrize("parameters", [[], [("patient", "Patient/p-1")]])
def test_pages_follow_the_order_and_show_nothing_newer(
    make_store: Callable[..., Store], ledger: Ledger, database: Database, sort: str, parameters: list[tuple[str, str]]
) -> None:
    """DESIGN §5: pages are stable under writes; what is logged meanwhile is none of them."""
    rich(ledger)
    rich(ledger)
    store = make_store(trail=ledger, clock=lambda: AT)
    query = parse("AuditEvent", [*parameters, ("_sort", sort), ("_count", "2")])
    wanted = [version for version in everything(ledger, database) if holds(query, version)]
    seen: list[Version] = []
    token = None
    for _ in range(len(wanted)):
        with store.work(AUDITOR, write=False) as uow:
            page = uow.resources.search(query, token=token)
        seen += page.matches
        token = page.next
        if token is None:
            break
        rich(ledger)
    assert {version.id for version in seen} == {version.id for version in wanted}
    assert len(seen) == len(wanted)

    def key(version: Version) -> Any:
        return version.last_updated if "_last" in sort else version.json()["recorded"]

    assert [key(version) for version in seen] == sorted(map(key, wanted), reverse=sort.startswith("-"))


def test_another_order_is_refused(make_store: Callable[..., Store], ledger: Ledger) -> None:
    """R4 §3.1.1.5.1: a server may refuse; it does not pretend."""
    store = make_store(trail=ledger)
    for sort in ("type", "-date,_id"):
        with pytest.raises(BadRequest) as refused, store.work(AUDITOR, write=False) as uow:
            uow.resources.search(parse("AuditEvent", [("_sort", sort)]))
        assert refused.value.issues[0].code == "not-supported"


@pytest.mark.parametrize("parameters", QUERIES, ids=str)
def test_the_quick_comparison_is_the_whole_one(
    ledger: Ledger, database: Database, parameters: list[tuple[str, str]]
) -> None:
    """Where it says anything, it says what the index rows say."""
    rich(ledger)
    for version in everything(ledger, database):
        rows = indexing.extract("AuditEvent", version.json())
        for criterion in parse("AuditEvent", parameters).criteria:
            quick = asking.quick(criterion, version.json())
            whole = matching.matches((criterion,), "AuditEvent", version.id, version.last_updated, rows)
            assert quick in (None, whole)


# --- what it may cost


UNINDEXED = ["address", "policy", "site", "entity-role", "agent-name", "altid", "entity-type"]


@pytest.mark.parametrize("parameter", UNINDEXED)
def test_what_no_index_leads_to_needs_a_date(
    make_store: Callable[..., Store], ledger: Ledger, parameter: str
) -> None:
    """too-costly, and why; with a date, or with something that leads there, it is answered."""
    rich(ledger)
    store = make_store(trail=ledger, clock=lambda: AT)
    with pytest.raises(BadRequest) as refused, store.work(AUDITOR, write=False) as uow:
        uow.resources.search(parse("AuditEvent", [(parameter, "x")]))
    assert refused.value.issues[0].code == "too-costly"
    assert "date" in refused.value.issues[0].diagnostics
    for bound in (("date", "ge2026-02-14"), ("_lastUpdated", "ge2026-02-14"), ("patient", "Patient/p-1")):
        assert found(store, AUDITOR, [(parameter, "x"), bound]) == []
    with pytest.raises(BadRequest):
        found(store, AUDITOR, [(parameter, "x"), ("date", "lt2100")])


def test_a_search_looks_at_so_many_events_and_no_more(
    make_store: Callable[..., Store], ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AUDIT_SCAN: beyond it the search is refused, though it has a date."""
    rich(ledger)
    store = make_store(trail=ledger, clock=lambda: AT)
    object.__setattr__(AUDIT_SCAN, "value", 3)
    try:
        with pytest.raises(BadRequest) as refused:
            found(store, AUDITOR, [("address", "nobody"), ("date", "ge2020")])
        assert refused.value.issues[0].code == "too-costly"
        assert len(found(store, AUDITOR, [("patient", "Patient/p-2")])) == 1
    finally:
        object.__setattr__(AUDIT_SCAN, "value", 10_000)


def test_an_index_that_names_too_much_shows_nothing_wrong(
    make_store: Callable[..., Store], ledger: Ledger, database: Database
) -> None:
    """The index only names candidates: a false row of it is no answer."""
    rich(ledger)
    store = make_store(trail=ledger, clock=lambda: AT)
    with database.write() as connection:
        rows = connection.execute(select(queries.audit_index).where(queries.audit_index.c.kind == int(Kind.PATIENT)))
        patients = {row.value for row in rows}
        connection.execute(delete(queries.audit_index).where(queries.audit_index.c.kind == int(Kind.PATIENT)))
        for row in queries.stored(connection):
            connection.execute(
                queries.audit_index.insert(),
                [{"kind": 1, "value": value, "at": row.recorded, "seq": row.seq} for value in patients],
            )
    with store.work(AUDITOR, write=False) as uow:
        page = uow.resources.search(parse("AuditEvent", [("patient", "Patient/p-3")]))
    assert [version.patients for version in page.matches] == [("Patient/p-3",)]


def test_every_act_is_an_act_of_a_pattern() -> None:
    """`finding.ACTS` is what type, subtype and action are searched by: two acts must not share their text."""
    assert len(ACTS) >= 20
    assert all(one.count("|") == 2 for one in ACTS)


# --- who sees what


@pytest.fixture
def hospitals(make_store: Callable[..., Store], ledger: Ledger) -> Store:
    """Two hospitals with a patient each, a search of the platform that found both, and a foreign read."""
    store = make_store(trail=ledger, clock=lambda: AT)
    for name in ("a", "b"):
        with store.work(caller(f"hospital-{name}")) as uow:
            uow.resources.create("Patient", patient(), id=f"p-{name}")
    doctor = caller(PLATFORM, practitioner="Practitioner/rad-3")
    both = ("Patient/p-a", "Patient/p-b")
    ledger.disclose(doctor, [
        Access(Interaction.SEARCH_TYPE, "Patient", patients=both, query="GET /fhir/Patient?_id=p-a,p-b",
               detail=(("note", "p-b"),)),
        Access(Interaction.SEARCH_TYPE, "Patient", patients=both[:1], query="GET /fhir/Patient?_id=p-a"),
        Access(Interaction.READ, "Organization", "o-1", 1),
    ], AT)  # fmt: skip
    with pytest.raises(NotFound), store.work(caller("hospital-b"), write=False) as uow:
        uow.resources.read("Patient", "p-a")
    assert ledger.catch_up()
    return store


def shown(store: Store, who: Caller, *parameters: tuple[str, str]) -> list[dict[str, Any]]:
    with store.work(who, write=False) as uow:
        page = uow.resources.search(parse("AuditEvent", [*parameters, ("_sort", "_lastUpdated")]))
    return [version.json() for version in page.matches]


def _patients(event: dict[str, Any]) -> list[str]:
    return [e["what"]["reference"] for e in event.get("entity", ()) if e.get("role", {}).get("code") == "1"]


def _queries(event: dict[str, Any]) -> list[dict[str, Any]]:
    return [e for e in event.get("entity", ()) if "query" in e]


def test_an_officer_sees_who_touched_its_patients_and_nothing_else(hospitals: Store) -> None:
    """DESIGN §6: foreign and absent are the same; per event, also of one record."""
    events = shown(hospitals, caller("hospital-a"))
    assert [event["subtype"][0]["code"] for event in events] == ["create", "search-type", "search-type"]
    assert {patient for event in events for patient in _patients(event)} == {"Patient/p-a"}
    assert "p-b" not in json.dumps(events)
    for one in (("patient", "Patient/p-b"), ("entity", "Organization/o-1"), ("agent", "Organization/hospital-b")):
        assert shown(hospitals, caller("hospital-a"), one) == []
    with hospitals.work(caller("hospital-a"), write=False) as uow:
        assert uow.resources.search(parse("AuditEvent", [("_total", "accurate")])).total == 3


def test_an_officer_lists_and_counts_its_own_alone(hospitals: Store) -> None:
    """Every way to the events is the same way: history, counts, by id, by what they have in common."""
    with hospitals.work(caller("hospital-a"), write=False) as uow:
        listed = uow.resources.history("AuditEvent", None, since=None, at=None, count=50, token=None)
        assert len(listed.versions) == listed.total == 3
        assert b"p-b" not in b"".join(version.content for version in listed.versions)
        for asked, count in ((("subtype", "search-type"), 2), (("agent", "Practitioner/rad-3"), 2)):
            query = parse("AuditEvent", [asked, ("_summary", "count")])
            assert uow.resources.search(query).total == count


def test_a_querys_text_is_withheld_unless_every_patient_is_theirs(hospitals: Store) -> None:
    """What was asked for tells whom else it was about; so do the details."""
    mixed, own = shown(hospitals, caller("hospital-a"), ("subtype", "search-type"), ("agent", "Practitioner/rad-3"))
    assert _queries(mixed)[0]["description"] == "GET Patient"
    assert "note" not in json.dumps(mixed)
    assert _queries(own)[0]["description"] == "GET /fhir/Patient?_id=p-a"
    whole = shown(hospitals, AUDITOR, ("subtype", "search-type"), ("patient", "Patient/p-b"))
    assert "p-a" in _queries(whole[0])[0]["description"]


def test_a_foreign_resource_is_absent_in_the_record_too(hospitals: Store) -> None:
    """DESIGN §6: what a 404 hid from hospital B its officer does not learn from the log; the platform does."""
    (failed,) = shown(hospitals, caller("hospital-b"), ("entity", "Patient/p-a"))
    assert (failed["outcome"], failed["outcomeDesc"]) == ("4", "404 not-found")
    assert shown(hospitals, caller("hospital-b"), ("outcome", "8"), ("date", "ge2020")) == []
    assert len(shown(hospitals, caller("hospital-b"), ("outcome", "4"), ("date", "ge2020"))) == 1
    (whole,) = shown(hospitals, AUDITOR, ("outcome", "8"))
    assert "another organisation" in whole["outcomeDesc"]


def test_an_event_of_others_is_absent_by_its_id_too(hospitals: Store, ledger: Ledger) -> None:
    """read, vread and history: 404, as for an id that there is not (R4 §3.1.0.2)."""
    everyones = {event["id"]: event for event in shown(hospitals, AUDITOR)}
    mine = {event["id"] for event in shown(hospitals, caller("hospital-a"))}
    assert mine < set(everyones)
    for id in everyones:
        for ask in (
            lambda uow, id=id: uow.resources.read("AuditEvent", id),
            lambda uow, id=id: uow.resources.vread("AuditEvent", id, 1),
            lambda uow, id=id: uow.resources.history("AuditEvent", id).versions[0],
        ):
            if id in mine:
                with hospitals.work(caller("hospital-a"), write=False) as uow:
                    assert ask(uow).id == id
            else:
                with pytest.raises(NotFound), hospitals.work(caller("hospital-a"), write=False) as uow:
                    ask(uow)
    with pytest.raises(NotFound), hospitals.work(AUDITOR, write=False) as uow:
        uow.resources.vread("AuditEvent", next(iter(mine)), 2)


def test_the_constraint_of_a_scope_holds_for_events_as_well(
    hospitals: Store, permit: OpenPermit
) -> None:
    """SMART v2: `system/AuditEvent.rs?subtype=create`."""
    asked = (parse("AuditEvent", [("subtype", "create")]),)
    permit.visible[PLATFORM, "AuditEvent"] = Visibility(frozenset({PLATFORM, EVERYONE}), asked)
    assert {event["subtype"][0]["code"] for event in shown(hospitals, AUDITOR)} == {"create"}
    with hospitals.work(AUDITOR, write=False) as uow:
        assert uow.resources.search(parse("AuditEvent", [("_summary", "count")])).total == 2


# --- ids, proofs, what leads in and out


def test_an_id_tells_nothing_of_the_others_of_its_record(ledger: Ledger, database: Database) -> None:
    """An ordinal would tell how many patients a query found."""
    rich(ledger)
    (row, *_) = logged(database)
    ids = [event.id for event in forms.events_of(row)]
    assert len(set(ids)) == 3
    assert all(id.startswith(row.event_id + ".") and len(id) == 53 for id in ids)
    again = row._replace(parts=forms.parts_text([part._replace(salt=bytes(16)) for part in forms.parts_of(row)]))
    assert not {event.id for event in forms.events_of(again)} & set(ids), "without its salt none can be guessed"


def test_an_id_that_is_no_events_is_absent(ledger: Ledger, database: Database) -> None:
    """The record's own id where it has parts, and a part that there is not."""
    rich(ledger)
    (row, *_) = logged(database)
    assert ledger.shelf is not None
    with database.read() as connection:
        for id in (row.event_id, f"{row.event_id}.0000000000000000", "nothing", ""):
            assert ledger.shelf.one(connection, Visibility(None), id) is None


def test_one_event_is_proven_without_the_others_of_its_record(
    ledger: Ledger, database: Database, signer: Signer
) -> None:
    """The opening holds one patient; another's would lead to another leaf."""
    rich(ledger)
    (row, *_) = logged(database)
    for event in forms.events_of(row):
        with database.read() as connection:
            shown = proofs.inclusion(connection, event.id)
        opening = shown["opening"]
        assert event.part is not None
        others = {f"Patient/p-{n}" for n in (1, 2, 3)} - {event.part.patient}
        assert not any(other in json.dumps(shown) for other in others)
        assert "GET" not in json.dumps(opening), "the query's text is a part of its own"
        assert opened(shown["position"], opening) == row.leaf
        for name, value in (("patient", others.pop()), ("owner", "x"), ("head", "{}"), ("recorded", 1)):
            assert opened(shown["position"], {**opening, name: value}) != row.leaf


def test_a_part_that_is_erased_leaves_the_rest_valid(ledger: Ledger, database: Database, signer: Signer) -> None:
    """DESIGN §7: patient and salt go, the commitment stays: tree, other events and their ids hold."""
    rich(ledger)
    row = logged(database)[0]
    parts = forms.parts_of(row)
    gone = forms.Part("", "", form2.commitment(*parts[1].committed))
    erased = row._replace(parts=forms.parts_text([parts[0], gone, parts[2]]))
    assert forms.leaf_of(erased) == row.leaf
    assert [event.id for event in forms.events_of(erased)] == [
        event.id for event in forms.events_of(row) if event.number != 1]


def test_what_was_logged_stays_as_it_was_when_the_server_is_called_otherwise(
    make_ledger: Callable[..., Ledger], ledger: Ledger, database: Database
) -> None:
    """The projection depends on the record alone: what the server said of itself is part of it."""
    rich(ledger)
    before = [version.content for version in everything(ledger, database)]
    renamed = make_ledger(base_url="https://other.example/fhir", observer="Device/other")
    rich(renamed)
    after = everything(renamed, database)
    assert [version.content for version in after[: len(before)]] == before
    assert b"other.example" in after[-1].content


def test_a_chain_leads_from_the_log_into_the_store(hospitals: Store) -> None:
    """`patient.family=…`, with the caller's rights on Patient."""
    events = shown(hospitals, caller("hospital-a"), ("patient.family", "martin"))
    assert {patient for event in events for patient in _patients(event)} == {"Patient/p-a"}
    assert shown(hospitals, caller("hospital-a"), ("patient.family", "nobody"), ("date", "ge2020")) == []


IPP = "urn:oid:1.2.250.1.71.4.2.7.5|12345"
INS = "urn:oid:1.2.250.1.213.1.4.10"


@pytest.fixture
def identified(hospitals: Store, ledger: Ledger, make_store: Callable[..., Store]) -> Store:
    """A patient of each hospital with the same INS and an IPP of its own; rights by the real policy."""
    for name, ipp in (("a", "12345"), ("b", "999")):
        with hospitals.work(caller(f"hospital-{name}")) as uow:
            identifiers = [
                {"system": IPP.partition("|")[0], "value": ipp}, {"system": INS, "value": "279035121518989"}
            ]
            uow.resources.update("Patient", f"p-{name}", {**patient(), "id": f"p-{name}", "identifier": identifiers})
    assert ledger.catch_up()
    return make_store(trail=ledger, clock=lambda: AT, permit=Policy(PLATFORM))


def officer(organization: str, *scopes: str) -> Caller:
    return caller(organization, scopes=frozenset(scopes or ("system/AuditEvent.rs",)))


@pytest.mark.parametrize("parameter", ["patient.identifier", "entity:Patient.identifier"])
def test_events_are_found_by_a_patients_identifier_without_a_scope_on_patients(
    identified: Store, parameter: str
) -> None:
    """By IPP or INS, as the auditor was given it (R4 §3.1.1.5.4 chained parameters)."""
    of_a = shown(identified, officer(PLATFORM), (parameter, IPP))
    assert {patient for event in of_a for patient in _patients(event)} == {"Patient/p-a"}
    of_both = shown(identified, officer(PLATFORM), (parameter, f"{INS}|279035121518989"))
    assert {patient for event in of_both for patient in _patients(event)} == {"Patient/p-a", "Patient/p-b"}


def test_an_identifier_tells_an_officer_of_its_own_patients_alone(identified: Store, ledger: Ledger) -> None:
    """Another hospital's patient, one that there is not and one without events are the same.

    Also where its own program came upon that patient: it is not told that the identifier is that patient's.
    """
    met = Access(Interaction.READ, "Patient", "p-b", 1, ("Patient/p-b",))
    ledger.disclose(caller("hospital-a"), [met], AT)
    assert ledger.catch_up()
    assert shown(identified, officer("hospital-a"), ("patient", "Patient/p-b"))
    found = shown(identified, officer("hospital-a"), ("patient.identifier", f"{INS}|279035121518989"))
    assert {patient for event in found for patient in _patients(event)} == {"Patient/p-a"}
    for value in (IPP.replace("12345", "999"), IPP.replace("12345", "no")):
        assert shown(identified, officer("hospital-a"), ("patient.identifier", value)) == []


@pytest.mark.parametrize(("name", "value"), [
    ("patient.identifier", "12345"), ("patient.identifier", "|12345"), ("patient.identifier", f"{INS}|"),
    ("patient.identifier:not", IPP), ("patient.identifier", f"{IPP},12345"), ("patient.family", "Martin"),
])
def test_only_whole_identifiers_need_no_scope_on_patients(identified: Store, name: str, value: str) -> None:
    """A name, a number of any system, all numbers of one: who asks so looks for patients, and needs the right to."""
    with pytest.raises(Forbidden):
        shown(identified, officer(PLATFORM), (name, value))


def test_without_a_scope_on_events_an_identifier_tells_nothing(identified: Store) -> None:
    for value in (IPP, IPP.replace("12345", "no")):
        with pytest.raises(Forbidden, match="AuditEvent"):
            shown(identified, officer(PLATFORM, "system/Patient.rs"), ("patient.identifier", value))


def test_a_search_by_identifier_is_on_record(identified: Store, ledger: Ledger, database: Database) -> None:
    """With what was asked for, and whom it concerned."""
    shown(identified, officer(PLATFORM), ("patient.identifier", IPP))
    assert ledger.catch_up()
    last = everything(ledger, database)[-1].json()
    assert (last["subtype"][0]["code"], _patients(last)) == ("search-type", ["Patient/p-a"])


def test_what_an_event_names_is_included(hospitals: Store) -> None:
    """_include=AuditEvent:entity: what the caller may see of it."""
    with hospitals.work(caller("hospital-a"), write=False) as uow:
        page = uow.resources.search(parse("AuditEvent", [
            ("subtype", "create"), ("_include", "AuditEvent:entity"), ("_include", "AuditEvent:patient")]))
    assert [version.reference for version in page.includes] == ["Patient/p-a"]


@pytest.mark.parametrize(
    ("type_name", "parameters"),
    [
        ("Patient", [("_revinclude", "AuditEvent:entity")]),
        ("Patient", [("_has:AuditEvent:patient:action", "R")]),
        (None, [("_type", "AuditEvent,Patient")]),
    ],
)
def test_what_would_look_for_events_among_the_resources_is_refused(
    hospitals: Store, type_name: str | None, parameters: list[tuple[str, str]]
) -> None:
    """They are kept apart: an answer without them would be a false one (DESIGN §5)."""
    with pytest.raises(BadRequest) as refused, hospitals.work(AUDITOR, write=False) as uow:
        uow.resources.search(parse(type_name, parameters))
    assert refused.value.issues[0].code == "not-supported"


def test_history_lists_each_event_once_newest_first(
    make_store: Callable[..., Store], ledger: Ledger, database: Database
) -> None:
    """R4 §3.1.0.11: type and instance; `_since` is a time of logging."""
    rich(ledger)
    store = make_store(trail=ledger, clock=lambda: AT)
    events = everything(ledger, database)
    listed: list[Version] = []
    token = None
    while True:
        with store.work(AUDITOR, write=False) as uow:
            page = uow.resources.history("AuditEvent", count=3, token=token)
        assert page.total == len(events)
        listed += page.versions
        token = page.next
        if token is None:
            break
    assert [version.id for version in listed] == [version.id for version in reversed(events)]
    with store.work(AUDITOR, write=False) as uow:
        last = events[-1].last_updated
        assert uow.resources.history("AuditEvent", since=last + timedelta(seconds=1)).versions == []
        assert uow.resources.history("AuditEvent", events[0].id).total == 1


def test_a_failure_that_succeeded_elsewhere_is_no_success(ledger: Ledger, database: Database) -> None:
    """`outcome` 0 is left out of a record, and shown all the same."""
    ledger.disclose(caller(), [Access(Interaction.READ, "Patient", "p", 1),
                               Access(Interaction.READ, "Patient", "p", outcome=Outcome.MAJOR)], AT)
    assert ledger.catch_up()
    assert [version.json()["outcome"] for version in everything(ledger, database)] == ["0", "12"]
