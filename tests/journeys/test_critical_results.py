"""A critical result is closed by what was said, to whom, and heard; what fails or is not done goes up (ACR; S8c, S12).

ACR Practice Parameter for Communication of Diagnostic Imaging Findings: finding, time, radiologist, recipient, time of
receipt, method, read-back. R4 Communication http://hl7.org/fhir/R4/communication.html
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from resources import flags
from resources.codes import CRITICAL_RESULT, ESCALATION, FINDING_TIME, READ_BACK, TELERADIOLOGY_TASK, code_of
from resources.json import Json
from resources.times import instant_text, utc_now
from subscriptions import topics
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

pytestmark = pytest.mark.parametrize("engine", ENGINES[:1], indirect=True)
CRITICAL = [{"coding": [{"system": CRITICAL_RESULT, "code": "1"}]}]


class Night:
    """A reading with a critical finding, and a clock that the test moves."""

    def __init__(self, api: Api) -> None:  # noqa: F811
        self.api = api
        self.case = Emergency.of(api).claimed()
        study = f"ImagingStudy/{self.case.study()['id']}"
        draft = builders.diagnostic_report(
            self.case.order_ref, self.case.patient_ref, study, conclusionCode=CRITICAL
        )
        self.report = api.radiologist.create(draft)
        self.reader = api.services.authority.clients.find(api.radiologist.client_id).practitioner  # type: ignore[union-attr]
        self.ahead = timedelta()
        api.services.store.now = lambda: utc_now() + self.ahead
        self.clock = api.services.workflow.clock(api.services.store)

    def task(self) -> Json:
        return self.case.task("communicate-critical")

    def call(self, **more: Any) -> Json:
        """A call that closes it, unless told otherwise."""
        now = self.now()
        times = {
            "sent": instant_text(now), "received": instant_text(now),
            "extension": [
                {"url": FINDING_TIME, "valueDateTime": instant_text(now - timedelta(minutes=2))},
                {"url": READ_BACK, "valueBoolean": True},
            ],
        }  # fmt: skip
        report = f"DiagnosticReport/{self.report['id']}"
        call = builders.critical_call(
            self.case.patient_ref, report, self.case.order_ref, str(self.reader), **times
        )
        return {name: value for name, value in {**call, **more}.items() if value is not None}

    def now(self) -> datetime:
        return utc_now() + self.ahead

    def wait(self, minutes: float) -> None:
        self.ahead += timedelta(minutes=minutes)
        while self.clock.step():
            pass

    def close(self, call: Json) -> Any:
        said = self.api.radiologist.create(call)
        return put(
            self.api.radiologist, self.task(), status="completed",
            output=builders.output(f"Communication/{said['id']}", "communication"),
        )  # fmt: skip

    def told(self) -> list[tuple[str, list[str]]]:
        """Who was told that the call is not made: (level, recipients)."""
        asked = f"Communication?based-on={self.case.order_ref}&category={ESCALATION}|escalation&_sort=sent"
        found = [one for one in self.api.platform.found(asked)
                 if code_of(one["reasonCode"], ESCALATION) == "communicate-critical"]  # fmt: skip
        levels = [(str(code_of(one["topic"], ESCALATION)), [r["reference"] for r in one["recipient"]]) for one in found]
        return sorted(levels)


@pytest.fixture
def night(api: Api) -> Night:  # noqa: F811
    return Night(api)


def test_a_failed_call_a_second_number_and_a_read_back(night: Night) -> None:
    """The failure is kept with the Task and told to the regulator at once; the call that was heard closes it."""
    assert night.told() == []
    failed = night.call(
        status="not-done", statusReason={"text": "Pas de réponse au premier numéro"}, received=None, recipient=None,
        contained=None, extension=None,
    )  # fmt: skip
    tried = night.api.radiologist.create(failed)
    ((level, people),) = night.told()
    assert level == "level-2"
    assert night.reader not in people
    assert all(one.startswith("Practitioner/") for one in people)
    assert flags.level_of(night.task()) == 2
    assert f"Communication/{tried['id']}" in str(night.task()["output"])
    done = good(night.close(night.call()))
    assert done["status"] == "completed"
    assert len(done["output"]) == 2, "what was tried stays"
    assert flags.level_of(night.task()) == 0
    night.wait(60)
    assert len(night.told()) == 1


def test_nobody_calls(night: Night) -> None:
    """After its minutes the reader, then the regulator, then the platform's support; each once."""
    night.wait(16)
    night.wait(5)
    night.wait(5)
    night.wait(60)
    told = night.told()
    assert [level for level, _ in told] == ["level-1", "level-2", "level-3"]
    assert told[0][1] == [night.reader]
    assert told[2][1] == [f"Organization/{night.api.services.settings.platform}"]


LACKING: dict[str, tuple[Callable[[Night], dict[str, Any]], str]] = {
    "the finding": (lambda night: {"payload": [{"contentReference": {"reference": night.case.patient_ref}}]},
                    "Communication.payload"),
    "when it was made": (lambda night: {"extension": [{"url": READ_BACK, "valueBoolean": True}]},
                         f"Communication.extension('{FINDING_TIME}')"),
    "read-back": (lambda night: {"extension": night.call()["extension"][:1]},
                  f"Communication.extension('{READ_BACK}')"),
    "read back, but not": (
        lambda night: {"extension": [night.call()["extension"][0], {"url": READ_BACK, "valueBoolean": False}]},
        f"Communication.extension('{READ_BACK}')",
    ),
    "a name for who was told": (lambda night: {"recipient": [{"display": "?"}], "contained": None},
                                "Communication.recipient"),
    "a person who was told": (lambda night: {"recipient": [{"reference": "Organization/hopital-a"}], "contained": None},
                              "Communication.recipient"),
    "how to reach who was told": (
        lambda night: {"contained": [{"resourceType": "Practitioner", "id": "urgentiste", "name": [{"text": "?"}]}]},
        "Communication.recipient",
    ),
    "a person who called": (
        lambda night: {"sender": {"reference": f"Organization/{night.api.services.settings.platform}"}},
        "Communication.sender",
    ),
    "when it was heard": (
        lambda night: {"received": instant_text(night.now() - timedelta(hours=1))}, "Communication.received"
    ),
    "how": (lambda night: {"medium": None}, "Communication.medium"),
    "its report": (lambda night: {"about": [{"reference": night.case.order_ref}]}, "Communication.about"),
    "its end": (lambda night: {"status": "in-progress"}, "Communication.status"),
}  # fmt: skip


@pytest.mark.parametrize("lacking", LACKING)
def test_what_lacks_is_named(night: Night, lacking: str) -> None:
    """Each of the facts by its expression, and nothing is closed."""
    changed, expression = LACKING[lacking]
    answer = night.close(night.call(**changed(night)))
    refusal(answer, 422)
    named = [one for issue in answer.get_json()["issue"] for one in issue.get("expression", [])]
    assert named == ["Task.output", expression]
    assert night.task()["status"] == "requested"


def test_a_call_about_another_case_closes_nothing(night: Night) -> None:
    """Evidence is read, not counted: another patient, another order, another report."""
    other = Emergency.of(night.api, hospital=night.api.hospital_a)
    call = night.call(subject=builders.ref(other.patient_ref), basedOn=[builders.ref(other.order_ref)],
                      about=[builders.ref(other.order_ref)])  # fmt: skip
    answer = night.close(call)
    refusal(answer, 422)
    named = {one for issue in answer.get_json()["issue"] for one in issue.get("expression", [])}
    assert named == {"Task.output", "Communication.about", "Communication.subject", "Communication.basedOn"}


def test_who_signs_is_warned_while_nobody_was_called(night: Night) -> None:
    """A Warning header, as for every warning of a signature; none once the result is communicated."""
    signed = put(night.api.radiologist, night.report, status="final")
    good(signed)
    assert "critical result" in " ".join(signed.headers.getlist("Warning"))
    (task,) = night.api.platform.found(
        f"Task?focus={night.case.order_ref}&code={TELERADIOLOGY_TASK}|communicate-critical"
    )
    assert task["status"] == "requested"


def test_no_warning_once_it_is_communicated(night: Night) -> None:
    good(night.close(night.call()))
    milestones = good(night.api.hospital_a.get(f"{night.case.order_ref}/$milestones"))
    assert "'Tc'" in str(milestones)
    signed = put(night.api.radiologist, night.report, status="final")
    good(signed)
    assert "critical result" not in " ".join(signed.headers.getlist("Warning"))


def test_the_hospital_learns_of_it_before_the_signature(night: Night) -> None:
    """Topic critical-result: that there is one, and that it is settled; not what was found, and no other hospital."""
    asked = f"Communication?based-on={night.case.order_ref}&category={ESCALATION}|critical-result"
    (announced,) = night.api.hospital_a.found(asked)
    assert announced["status"] == "in-progress"
    assert announced["recipient"] == [{"reference": "Organization/hopital-a"}]
    assert night.api.hospital_b.get(f"Communication/{announced['id']}").status_code == 404
    topic = topics.by_url(topics.CRITICAL)
    assert topic is not None
    assert topic.fires(None, announced)
    good(night.close(night.call()))
    (settled,) = night.api.hospital_a.found(asked)
    assert settled["status"] == "completed"
    assert topic.fires(announced, settled)
    assert not topic.fires(settled, settled)


def test_a_call_that_reached_nobody_says_why(night: Night) -> None:
    answer = night.api.radiologist.post(
        "Communication", night.call(status="not-done", received=None, recipient=None, contained=None, extension=None)
    )
    assert "says why" in refusal(answer, 422)
    assert night.told() == []
