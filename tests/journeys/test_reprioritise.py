"""A priority is said once: order, root Task, open Tasks and deadlines follow whoever alters it; the hospital hears.

R4 ServiceRequest.priority, Task.priority, Task.restriction http://hl7.org/fhir/R4/task-definitions.html
"""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.conftest import ENGINES
from tests.fhir_server.conftest import (  # noqa: F401 - fixtures of the assembled server
    Api,
    api,
    door,
    engine,
    make_api,
    settings,
    template,
    templates,
)
from tests.journeys.played import Emergency, good, put, refusal
from tests.journeys.test_questions import asked, categories, deadline, message, thread
from tests.journeys.test_worklists import focuses, ordered, worklist

pytestmark = pytest.mark.parametrize("engine", ENGINES[:1], indirect=True)


def agree(case: Emergency, priority: str) -> None:
    """Order, root and every open Task say this priority; so does the worklist."""
    assert good(case.hospital.get(case.order_ref))["priority"] == priority
    for task in case.api.platform.found(f"Task?focus={case.order_ref}"):
        if task["status"] not in ("completed", "cancelled"):
            assert task["priority"] == priority, task["code"]


def routine(api: Api) -> Emergency:  # noqa: F811
    case = Emergency.of(api)
    good(put(case.hospital, case.order, priority="routine"))
    return case


def test_a_regulator_raises_the_priority_on_the_order(api: Api) -> None:  # noqa: F811
    """PUT ServiceRequest with another priority by a regulator on duty: deadlines move by the difference of targets."""
    case = routine(api).acquired()
    read, root = case.task("read"), case.task("order")
    order = good(api.regulator.get(case.order_ref))
    good(put(api.regulator, order, priority="stat"))
    agree(case, "stat")
    assert deadline(read) - deadline(case.task("read")) == timedelta(minutes=1440 - 20)
    assert deadline(root) - deadline(case.task("order")) == timedelta(minutes=3120 - 55)
    (told,) = thread(case, case.hospital)
    assert categories(told) == {"reprioritised"}
    assert told["recipient"] == [{"reference": "Organization/hopital-a"}]
    assert "routine → stat" in told["payload"][0]["contentString"]


@pytest.mark.parametrize("kind", ["regulate", "read"])
def test_a_regulator_raises_the_priority_on_a_task(api: Api, kind: str) -> None:  # noqa: F811
    """PUT of one Task: the order and all others follow, the worklist's order changes."""
    case = routine(api)
    if kind == "read":
        case.acquired()
    else:
        urgent = ordered(api, priority="urgent")
        assert focuses(worklist(api, "_sort=priority")) == [urgent, case.order_ref]
    before = case.task(kind)
    after = good(put(api.regulator, before, priority="stat"))
    assert deadline(case.task(kind)) < deadline(before)
    assert after["priority"] == "stat"
    agree(case, "stat")
    assert len(thread(case, case.hospital)) == 1
    if kind == "regulate":
        assert focuses(worklist(api, "_sort=priority")) == [case.order_ref, urgent]
        case.acquired()
        assert deadline(case.task("read")) - deadline(before) < timedelta()
        agree(case, "stat")


def test_a_deadline_that_the_regulator_sets_himself_stays(api: Api) -> None:  # noqa: F811
    case = routine(api).acquired()
    task = case.task("read")
    end = "2030-01-01T00:00:00.000Z"
    good(put(api.regulator, task, priority="asap", restriction={"period": {"end": end}}))
    assert case.task("read")["restriction"]["period"]["end"] == end
    agree(case, "asap")


def test_what_waited_for_the_hospital_stays_counted(api: Api) -> None:  # noqa: F811
    """A new priority while the deadline stops alters what is left, not when the answer is due."""
    case = routine(api)
    asked(case)
    held = case.task("regulate")
    (left,) = [part["valueDuration"]["value"] for part in held["input"] if "valueDuration" in part]
    good(put(api.regulator, good(api.regulator.get(case.order_ref)), priority="urgent"))
    task = case.task("regulate")
    (now_left,) = [part["valueDuration"]["value"] for part in task["input"] if "valueDuration" in part]
    assert left - now_left == (240 - 15) * 60
    assert deadline(task) == deadline(held)
    case.hospital.create(message("71", basedOn=[{"reference": case.order_ref}]))
    agree(case, "urgent")


def test_nobody_else_alters_the_priority_of_anothers_order(api: Api) -> None:  # noqa: F811
    case = routine(api)
    order = good(api.regulator.get(case.order_ref))
    refusal(put(api.platform, order, priority="stat"), 422)  # no regulator
    refusal(put(api.regulator, order, priority="stat", note=[{"text": "et plus"}]), 403)
    refusal(put(api.regulator, order, note=[{"text": "et plus"}]), 403)
    refusal(put(api.hospital_b, order, priority="stat"), 404)
    task = case.task("regulate")
    assert "Only a regulator" in refusal(put(api.platform, task, priority="stat"), 422)
    protocol = api.regulator.create({**_protocol(case), "priority": "routine"})
    refusal(put(case.hospital, protocol, priority="stat"), 403)
    agree(case, "routine")
    assert thread(case, case.hospital) == []


def _protocol(case: Emergency) -> dict[str, object]:
    from tests import builders

    return builders.protocol(case.order_ref, case.patient_ref)


def test_the_hospitals_own_change_still_moves_everything(api: Api) -> None:  # noqa: F811
    case = Emergency.of(api).acquired()
    before = case.task("read")
    good(put(case.hospital, good(case.hospital.get(case.order_ref)), priority="urgent"))
    agree(case, "urgent")
    assert deadline(case.task("read")) - deadline(before) == timedelta(minutes=60 - 20)
    assert thread(case, case.hospital) == []
