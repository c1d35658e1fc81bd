"""The worklist of whoever is on duty: sorted by what is due, by hospital and kind, and the next case in one call.

R4 §12.4 Task http://hl7.org/fhir/R4/task.html; §3.1.1.5.2 _sort, §3.1.1.4 own search parameters
http://hl7.org/fhir/R4/search.html
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from resources.codes import DCM, SNOMED, TELERADIOLOGY_TASK
from resources.json import Json
from store.access import Caller
from tests import builders
from tests.conftest import ENGINES
from tests.fhir_server.conftest import (  # noqa: F401 - fixtures of the assembled server
    Api,
    Client,
    api,
    door,
    engine,
    make_api,
    settings,
    template,
    templates,
)
from tests.journeys.played import Emergency, good, put, refusal
from workflow import context

ONE_ENGINE = pytest.mark.parametrize("engine", ENGINES[:1], indirect=True)
PRIORITIES = ("routine", "stat", "urgent", "asap")
SPECIALTY = {"coding": [{"system": SNOMED, "code": "394914008", "display": "Radiologie"}]}


def ordered(api: Api, hospital: Client | None = None, **more: object) -> str:  # noqa: F811
    """One order, and its reference."""
    who = hospital or api.hospital_a
    patient = who.create(builders.patient())
    return f"ServiceRequest/{who.create(builders.service_request('Patient/' + patient['id'], **more))['id']}"


def worklist(api: Api, query: str, kind: str = "regulate") -> list[Json]:  # noqa: F811
    return api.regulator.found(f"Task?code={TELERADIOLOGY_TASK}|{kind}&{query}")


def focuses(found: list[Json]) -> list[str]:
    return [str(task["focus"]["reference"]) for task in found]


@pytest.mark.parametrize("sort", ["deadline", "priority-rank", "priority"])
def test_a_worklist_is_sorted_by_what_is_due(api: Api, sort: str) -> None:  # noqa: F811
    """§3.1.1.5.2: a regulator's list of requests, the gravest first, page by page; descending the other way."""
    orders = {priority: ordered(api, priority=priority) for priority in PRIORITIES}
    gravest = [orders[one] for one in ("stat", "asap", "urgent", "routine")]
    assert focuses(worklist(api, f"status=requested&_sort={sort}")) == gravest
    assert focuses(worklist(api, f"status=requested&_sort={sort}&_count=1")) == gravest
    assert focuses(worklist(api, f"status=requested&_sort=-{sort}")) == gravest[::-1]


def test_a_worklist_is_asked_by_deadline_rank_hospital_modality_and_region(api: Api) -> None:  # noqa: F811
    head, other = ordered(api), ordered(api, api.hospital_b, priority="routine")
    spine = ordered(api, code={"coding": [{"system": "http://loinc.org", "code": "36399-4"}]}, priority="urgent")
    mr = ordered(api, code={"coding": [{"system": "http://loinc.org", "code": "24590-2"}]}, priority="routine")
    for query, expected in {
        "owner-hospital=Organization/hopital-b": {other},
        "owner-hospital=Organization/hopital-a": {head, spine, mr},
        "owner-hospital:Organization.identifier=990000003": {other},
        f"modality={DCM}|MR": {mr},
        "modality=CT": {head, other, spine},
        f"region={SNOMED}|737561001": {spine},
        "region=774007&priority-rank=le1": {head},
        "priority-rank=3": {other, mr},
        "deadline=gt2100": set(),
        "deadline=lt2100&priority-rank=lt3": {head, spine},
    }.items():
        assert set(focuses(worklist(api, query))) == expected, query
    orders = api.regulator.found("ServiceRequest?owner-hospital=Organization/hopital-b&modality=CT&region=774007")
    assert [f"ServiceRequest/{one['id']}" for one in orders] == [other]
    sorted_orders = api.regulator.found("ServiceRequest?_sort=priority-rank,authored")
    assert [one["priority"] for one in sorted_orders] == ["stat", "urgent", "routine", "routine"]


@ONE_ENGINE
def test_each_task_and_order_says_which_hospital_it_is_from(api: Api) -> None:  # noqa: F811
    """R4 Task.requester, Identifier.assigner: standard elements, for every kind, also after the sender's updates."""
    case = Emergency.of(api).acquired()
    for kind in ("order", "regulate", "acquire", "read"):
        task = case.task(kind)
        assert task["requester"] == {"reference": "Organization/hopital-a"}, kind
        assert {part["valueCoding"]["code"] for part in task["input"] if "valueCoding" in part} == {"CT", "774007"}
    good(put(case.hospital, case.hospital.get(case.order_ref).get_json(), identifier=None))
    order = case.hospital.get(case.order_ref).get_json()
    assert [one["assigner"]["reference"] for one in order["identifier"] if one["system"].endswith("/order")] == [
        "Organization/hopital-a"
    ]
    assert {one["id"] for one in case.hospital.found("Task?owner-hospital=Organization/hopital-a")} == {
        case.task("order")["id"], case.task("acquire")["id"]
    }  # fmt: skip


@ONE_ENGINE
def test_a_task_from_before_says_its_hospital_at_its_next_write(api: Api) -> None:  # noqa: F811
    """What was stored before these elements were written is found by them once it moves."""
    case = Emergency.of(api)
    task = case.task("regulate")
    old = {name: value for name, value in task.items() if name not in ("requester", "input")}
    old["requester"] = {"reference": "Organization/platform"}
    with api.services.store.work(Caller.system(api.services.settings.platform), write=True) as uow, context.acting():
        uow.system.update("Task", task["id"], old)
    assert worklist(api, "owner-hospital=Organization/hopital-a") == []
    good(put(api.regulator, case.task("regulate"), status="in-progress"))
    assert focuses(worklist(api, "owner-hospital=Organization/hopital-a&modality=CT")) == [case.order_ref]


def test_next_claims_the_case_with_the_least_slack(api: Api) -> None:  # noqa: F811
    """One call: the gravest of those that wait, claimed; not what is on hold; then nothing, and it says so."""
    orders = {priority: ordered(api, priority=priority) for priority in PRIORITIES}
    asap = worklist(api, "priority-rank=1")[0]
    hold = {**asap, "status": "on-hold", "statusReason": {"text": "Fonction rénale ?"}}
    good(put(api.regulator, hold))
    taken = []
    for _ in range(3):
        task = good(api.regulator.post("Task/$next?function=regulation", None))
        assert (task["status"], task["owner"]) == ("in-progress", {"reference": "Practitioner/regulateur"})
        taken.append(task["focus"]["reference"])
    assert taken == [orders["stat"], orders["urgent"], orders["routine"]]
    assert good(api.regulator.post("Task/$next", None)) == {"resourceType": "Parameters"}
    assert focuses(worklist(api, "status=in-progress&_sort=deadline")) == taken


@ONE_ENGINE
def test_next_is_for_who_is_on_duty(api: Api) -> None:  # noqa: F811
    ordered(api)
    said = refusal(api.radiologist.post("Task/$next?function=regulation", None), 422)
    assert "on duty for regulation" in said
    assert good(api.radiologist.post("Task/$next", None)) == {"resourceType": "Parameters"}  # reading: none waits
    refusal(api.hospital_a.post("Task/$next", None), 422)
    refusal(api.auditor.post("Task/$next", None), 403)
    assert "POST" in refusal(api.regulator.get("Task/$next"), 400)
    assert "regulation or reading" in refusal(api.regulator.post("Task/$next?function=second-reading", None), 400)
    assert worklist(api, "status=requested")


@ONE_ENGINE
def test_a_readers_subspecialty_weighs_as_much_as_a_quarter_of_an_hour(api: Api) -> None:  # noqa: F811
    """Least slack weighed: at nearly the same deadline the case that asks for the reader's subspecialty comes first."""
    role = good(api.planner.get("PractitionerRole/role-lecteur-neuro"))
    good(put(api.planner, role, specialty=[SPECIALTY]))
    plain, asked = Emergency.of(api).acquired(), Emergency.of(api)
    good(put(asked.hospital, asked.order, performerType=SPECIALTY))
    asked.acquired()
    for case in (plain, asked):
        task = case.task("read")
        good(put(api.regulator, task, owner={"reference": "Practitioner/lecteur-neuro"}))
    task = good(api.radiologist.post("Task/$next?function=reading", None))
    assert task["focus"]["reference"] == asked.order_ref
    assert task["performerType"] == [SPECIALTY]


def test_two_callers_never_get_the_same_case(api: Api) -> None:  # noqa: F811
    """Of many calls at once each gets another case, and one gets nothing."""
    count = 6
    orders = {ordered(api) for _ in range(count)}
    start = threading.Barrier(count + 1)
    token = api.regulator.token

    def claim(_: int) -> Json:
        start.wait(60)
        client = Client(api.app.test_client(), token, api.regulator.client_id)
        return good(client.post("Task/$next?function=regulation", None))

    with ThreadPoolExecutor(count + 1) as pool:
        answers = list(pool.map(claim, range(count + 1)))
    given = [one["focus"]["reference"] for one in answers if one["resourceType"] == "Task"]
    assert sorted(given) == sorted(orders)


@ONE_ENGINE
def test_own_parameters_are_declared(api: Api) -> None:  # noqa: F811
    """CapabilityStatement.rest.resource.searchParam: name, definition and type of each."""
    (rest,) = good(api.regulator.get("metadata"))["rest"]
    listed = {one["type"]: {row["name"]: row for row in one["searchParam"]} for one in rest["resource"]}
    assert {
        name: row["type"] for name, row in listed["Task"].items() if row.get("definition", "").startswith("https://vigie")
    } == {
        "deadline": "date", "priority-rank": "number", "owner-hospital": "reference", "escalation": "token",
        "modality": "token", "region": "token",
    }  # fmt: skip
