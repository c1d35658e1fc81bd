"""The night in which nobody acts: what the people of the case see when time is over (French reference §5.4, §6.3, §9).

R4 Task.restriction.period http://hl7.org/fhir/R4/task-definitions.html#Task.restriction; RFC 9110 §13.1.1 If-Match
"""

from __future__ import annotations

from datetime import timedelta

import pytest

from resources.codes import ESCALATION, code_of
from resources.json import Json
from resources.times import utc_now
from subscriptions import topics
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

pytestmark = pytest.mark.parametrize("engine", ENGINES[:1], indirect=True)


class Time:
    """The server's time, which the test moves, and its clock, which acts."""

    def __init__(self, api: Api) -> None:  # noqa: F811
        self.ahead = timedelta()
        api.services.store.now = lambda: utc_now() + self.ahead
        self.clock = api.services.workflow.clock(api.services.store)

    def passes(self, minutes: float) -> None:
        self.ahead += timedelta(minutes=minutes)
        while self.clock.step():
            pass


@pytest.fixture
def time(api: Api) -> Time:  # noqa: F811
    return Time(api)


def escalations(who: Client, case: Emergency, kind: str) -> list[Json]:
    """What `who` may see of the escalations of a kind of a case."""
    found = who.found(f"Communication?based-on={case.order_ref}&category={ESCALATION}|escalation")
    mine = [one for one in found if code_of(one["reasonCode"], ESCALATION) == kind]
    return sorted(mine, key=lambda one: str(code_of(one["topic"], ESCALATION)))


def test_an_order_that_nobody_regulates(api: Api, time: Time) -> None:  # noqa: F811
    """Found by the worklist's search, told to the regulators, then to support, and taken with the ETag of before."""
    case = Emergency.of(api)
    task = case.task("regulate")
    time.passes(4)
    assert escalations(api.platform, case, "regulate") == []
    time.passes(300)
    levels = escalations(api.platform, case, "regulate")
    assert [code_of(one["topic"], ESCALATION) for one in levels] == ["level-1", "level-2", "level-3"]
    assert all(topics.by_url(topics.ESCALATED).fires(None, one) for one in levels)  # type: ignore[union-attr]
    assert case.patient["name"][0]["family"] not in str(levels)
    found = api.regulator.found("Task?escalation=level-3")
    assert [one["id"] for one in found] == [task["id"]]
    assert escalations(api.hospital_a, case, "regulate") == [], "what is asked of the regulators is the platform's"
    taken = good(put(api.regulator, task, status="in-progress"))
    assert taken["meta"]["tag"][0]["code"] == "level-3"
    refusal(put(api.regulator, task, status="in-progress"), 412)


def test_images_that_do_not_come(api: Api, time: Time) -> None:  # noqa: F811
    """The hospital is told first, and reads it; the order's own Task carries the flag until the images are here."""
    case = Emergency.of(api).accepted()
    time.passes(24 * 60)
    (first, *_) = escalations(api.hospital_a, case, "acquire")
    assert first["recipient"] == [{"reference": "Organization/hopital-a"}]
    assert api.hospital_b.get(f"Communication/{first['id']}").status_code == 404
    assert case.task("acquire", api.hospital_a)["meta"]["tag"][0]["system"] == ESCALATION


def test_a_report_that_the_hospital_does_not_get(api: Api, time: Time) -> None:  # noqa: F811
    """Without an endpoint that accepts it: support is told; that the hospital opens it settles it."""
    case = Emergency.of(api).signed()
    time.passes(61)
    (first, *_) = escalations(api.platform, case, "delivery")
    assert first["about"] == [{"reference": f"DiagnosticReport/{case.report['id']}"}]
    assert case.task("order")["meta"]["tag"][0]["system"] == ESCALATION
    good(api.hospital_a.get(f"DiagnosticReport/{case.report['id']}"))
    assert "tag" not in case.task("order")["meta"]
    count = len(escalations(api.platform, case, "delivery"))
    time.passes(120)
    assert len(escalations(api.platform, case, "delivery")) == count


def test_a_message_that_nobody_reads(api: Api, time: Time) -> None:  # noqa: F811
    """The hospital's message waits for a receipt; once it is acknowledged nobody is told any more."""
    case = Emergency.of(api)
    message = {
        "resourceType": "Communication", "status": "in-progress", "basedOn": [{"reference": case.order_ref}],
        "payload": [{"contentString": "Le patient est agité"}],
    }  # fmt: skip
    said = api.hospital_a.create(message)
    time.passes(11)
    assert len(escalations(api.platform, case, "unread")) == 1
    good(api.platform.post(f"Communication/{said['id']}/$acknowledge", {"resourceType": "Parameters"}))
    time.passes(60)
    assert len(escalations(api.platform, case, "unread")) == 1


def test_a_console_that_dies(api: Api, time: Time) -> None:  # noqa: F811
    """Heartbeats hold the claim; without them the reading is ready again, with its draft."""
    case = Emergency.of(api).drafted()
    task = case.task("read")
    body: Json = {"resourceType": "Parameters"}
    for _ in range(3):
        time.passes(15)
        beat = good(api.radiologist.post(f"Task/{task['id']}/$heartbeat", body))
        assert beat["parameter"][0]["name"] == "until"
    refusal(api.regulator.post(f"Task/{task['id']}/$heartbeat", body), 422)
    assert api.hospital_a.post(f"Task/{task['id']}/$heartbeat", body).status_code == 404
    time.passes(21)
    given_back = case.task("read")
    assert given_back["status"] == "ready"
    draft = good(api.radiologist.get(f"DiagnosticReport/{case.report['id']}"))
    assert draft["status"] == "preliminary"
    again = good(put(api.radiologist, given_back, status="in-progress"))
    assert again["status"] == "in-progress"
