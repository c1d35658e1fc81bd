"""One thread of messages a case: who asks, who answers, who has read it, and what wakes up.

R4 Communication http://hl7.org/fhir/R4/communication.html, Task.statusReason and Task.restriction
http://hl7.org/fhir/R4/task-definitions.html
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from resources.codes import DIALOGUE, V3_PARTICIPATION_MODE, concept
from resources.json import Json
from resources.times import parse_instant
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
QUESTION = "Créatinine récente ? Allergie à l'iode ?"


def message(text: str | None = "Bonjour", **more: Any) -> Json:
    body: Json = {"resourceType": "Communication", "status": "in-progress"}
    if text is not None:
        body["payload"] = [{"contentString": text}]
    return {**body, **more}


def asked(case: Emergency) -> Json:
    """The regulator holds the order with a question; the Task."""
    task = good(put(case.api.regulator, case.task("regulate"), status="in-progress"))
    return good(put(case.api.regulator, task, status="on-hold", statusReason={"text": QUESTION}))


def thread(case: Emergency, who: Client) -> list[Json]:
    return who.found(f"Communication?based-on={case.order_ref}&_sort=sent")


def categories(message: Json) -> set[str]:
    return {one["code"] for held in message.get("category", []) for one in held["coding"] if one["system"] == DIALOGUE}


def deadline(task: Json) -> datetime:
    found = parse_instant(task["restriction"]["period"]["end"])
    assert found is not None
    return found


def business(task: Json) -> str | None:
    return next((one["code"] for one in task.get("businessStatus", {}).get("coding", [])), None)


def test_a_question_says_what_is_asked(api: Api) -> None:  # noqa: F811
    """A hold without a word is refused, with the element that lacks; nothing is held."""
    case = Emergency.of(api)
    task = good(put(api.regulator, case.task("regulate"), status="in-progress"))
    answer = put(api.regulator, task, status="on-hold")
    assert "what is asked" in refusal(answer, 422)
    assert answer.get_json()["issue"][0]["expression"] == ["Task.statusReason.text"]
    assert case.task("order", case.hospital)["status"] == "received"
    assert thread(case, case.hospital) == []


def test_the_hospital_sees_the_question_and_its_answer_wakes_the_regulator(api: Api) -> None:  # noqa: F811
    """Question on the root Task and as a message that the hospital may read; the answer resumes the Task, flagged."""
    case = Emergency.of(api)
    asked(case)
    root = case.task("order", case.hospital)
    assert (root["status"], business(root), root["statusReason"]["text"]) == ("on-hold", "info-requested", QUESTION)
    (question,) = thread(case, case.hospital)
    assert categories(question) == {"question"}
    assert question["payload"] == [{"contentString": QUESTION}]
    assert question["sender"] == {"reference": "Practitioner/regulateur"}
    assert question["recipient"] == [{"reference": "Organization/hopital-a"}]
    assert question["subject"]["reference"] == case.patient_ref
    assert "received" not in question
    reply = case.hospital.create(
        message("Créatinine 71 µmol/l, pas d'allergie", inResponseTo=[{"reference": f"Communication/{question['id']}"}])
    )
    assert categories(reply) == {"answer"}
    assert reply["recipient"] == [{"reference": "Organization/platform"}]
    assert reply["sender"] == {"reference": "Organization/hopital-a"}
    assert reply["basedOn"] == [{"reference": case.order_ref}]
    task = case.task("regulate")
    assert (task["status"], business(task), task["owner"]["reference"]) == (
        "in-progress", "answered", "Practitioner/regulateur"
    )  # fmt: skip
    root = case.task("order", case.hospital)
    assert (root["status"], business(root), root.get("statusReason")) == ("received", None, None)
    assert [one["id"] for one in thread(case, api.regulator)] == [question["id"], reply["id"]]


def test_a_question_may_be_a_message_in_the_same_transaction(api: Api) -> None:  # noqa: F811
    """The Task and the Communication in one Bundle: one message, marked as the question; its text on the root Task."""
    case = Emergency.of(api)
    task = good(put(api.regulator, case.task("regulate"), status="in-progress"))
    written = message(QUESTION, basedOn=[{"reference": case.order_ref}])
    entries = [
        {"resource": {**task, "status": "on-hold"}, "request": {"method": "PUT", "url": f"Task/{task['id']}"}},
        {"resource": written, "request": {"method": "POST", "url": "Communication"}},
    ]
    good(api.regulator.post("", {"resourceType": "Bundle", "type": "transaction", "entry": entries}))
    (question,) = thread(case, case.hospital)
    assert categories(question) == {"question"}
    assert case.task("order", case.hospital)["statusReason"]["text"] == QUESTION


def test_a_change_of_the_order_is_an_answer_too(api: Api) -> None:  # noqa: F811
    case = Emergency.of(api)
    asked(case)
    order = good(case.hospital.get(case.order_ref))
    unchanged = good(put(case.hospital, order))
    assert case.task("regulate")["status"] == "on-hold"
    good(put(case.hospital, unchanged, note=[{"text": "Créatinine 71 µmol/l"}]))
    assert (case.task("regulate")["status"], business(case.task("regulate"))) == ("in-progress", "answered")


def test_the_deadline_stops_while_the_hospital_is_asked(api: Api) -> None:  # noqa: F811
    """What was left goes on after the answer; meanwhile the deadline is when the answer is due (10 minutes: stat)."""
    case = Emergency.of(api)
    before, whole = deadline(case.task("regulate")), deadline(case.task("order"))
    held = asked(case)
    now = parse_instant(held["meta"]["lastUpdated"])
    assert now is not None
    task = case.task("regulate")
    (left,) = [part["valueDuration"]["value"] for part in task["input"] if "valueDuration" in part]
    assert abs(left - (before - now).total_seconds()) < 2
    assert abs(deadline(task) - (now + timedelta(minutes=10))) < timedelta(seconds=2)
    case.hospital.create(message("71", basedOn=[{"reference": case.order_ref}]))
    task, root = case.task("regulate"), case.task("order")
    then = parse_instant(task["meta"]["lastUpdated"])
    assert then is not None
    assert abs((deadline(task) - then).total_seconds() - left) < 2
    assert not [part for part in [*task["input"], *root["input"]] if "valueDuration" in part]
    assert abs((deadline(root) - whole) - (deadline(task) - before)) < timedelta(seconds=2)


def test_who_asked_and_went_leaves_the_answer_to_whoever_is_on_duty(api: Api) -> None:  # noqa: F811
    case = Emergency.of(api)
    asked(case)
    role = good(api.planner.get("PractitionerRole/role-regulateur"))
    good(put(api.planner, role, active=False))
    case.hospital.create(message("71", basedOn=[{"reference": case.order_ref}]))
    task = case.task("regulate")
    assert (task["status"], business(task), task.get("owner")) == ("requested", "answered", None)
    assert case.task("order", case.hospital)["status"] == "requested"


def test_a_regulator_may_go_on_without_an_answer(api: Api) -> None:  # noqa: F811
    case = Emergency.of(api)
    good(put(api.regulator, asked(case) | case.task("regulate"), status="in-progress"))
    root = case.task("order", case.hospital)
    assert (root["status"], business(root), root.get("statusReason")) == ("received", None, None)
    assert not [part for part in case.task("regulate")["input"] if "valueDuration" in part]


def test_a_message_reaches_the_other_side_and_is_read_once(api: Api) -> None:  # noqa: F811
    """Never 404 for the other party; `received` is set by who reads it, by operation or update, not by its writer."""
    case = Emergency.of(api).signed()
    report = f"DiagnosticReport/{case.report['id']}"
    written = api.radiologist.create(message("Rappelez-moi", about=[{"reference": report}]))
    assert written["basedOn"] == [{"reference": case.order_ref}]
    good(case.hospital.get(f"Communication/{written['id']}"))
    assert "sender" in refusal(put(api.radiologist, written, received="2026-01-01T00:00:00Z"), 422)
    answer = good(case.hospital.post(f"Communication/{written['id']}/$acknowledge", None))
    assert answer["status"] == "completed"
    assert answer["note"][0]["authorReference"] == {"reference": "Organization/hopital-a"}
    assert answer["received"] >= written["sent"]
    again = good(case.hospital.post(f"Communication/{written['id']}/$acknowledge", None))
    assert again["meta"]["versionId"] == answer["meta"]["versionId"]
    assert "not altered" in refusal(put(api.radiologist, answer, payload=[{"contentString": "Tout va bien"}]), 422)


def test_the_other_side_may_only_say_that_it_has_received(api: Api) -> None:  # noqa: F811
    case = Emergency.of(api)
    written = case.hospital.create(message("Patient très agité", about=[{"reference": case.order_ref}]))
    other = [{"contentString": "Patient calme"}]
    refusal(put(api.regulator, written, payload=other), 403)
    refusal(put(api.regulator, written, payload=other, received="2026-06-01T00:00:00Z"), 403)
    refusal(api.regulator.delete(f"Communication/{written['id']}"), 403)
    assert "not deleted" in refusal(case.hospital.delete(f"Communication/{written['id']}"), 422)
    read = good(put(api.regulator, written, received="2100-01-01T00:00:00Z"))
    assert read["received"] < "2100"
    assert read["note"][0]["authorReference"] == {"reference": "Practitioner/regulateur"}
    assert refusal(api.hospital_b.post(f"Communication/{written['id']}/$acknowledge", None), 404)


def test_nobody_writes_in_the_other_sides_name_or_into_another_thread(api: Api) -> None:  # noqa: F811
    case, other = Emergency.of(api), Emergency.of(api)
    said = case.hospital.post(
        "Communication",
        message(basedOn=[{"reference": case.order_ref}], sender={"reference": "Organization/platform"}),
    )
    assert said.get_json()["issue"][0]["expression"] == ["Communication.sender"]
    refusal(said, 422)
    elsewhere = other.hospital.create(message(basedOn=[{"reference": other.order_ref}]))
    crossed = message(
        basedOn=[{"reference": case.order_ref}], inResponseTo=[{"reference": f"Communication/{elsewhere['id']}"}]
    )
    assert "its own order" in refusal(case.hospital.post("Communication", crossed), 422)
    empty = message(None, basedOn=[{"reference": case.order_ref}])
    assert "says something" in refusal(case.hospital.post("Communication", empty), 422)


def test_calls_and_attempts_are_logged(api: Api) -> None:  # noqa: F811
    """medium PHONE: heard at once; a call that reached nobody says why, and is no answer."""
    phone = [concept(V3_PARTICIPATION_MODE, "PHONE")]
    case = Emergency.of(api)
    asked(case)
    based = [{"reference": case.order_ref}]
    attempt = message(None, status="not-done", medium=phone, basedOn=based)
    assert "says why" in refusal(api.regulator.post("Communication", attempt), 422)
    missed = api.regulator.create({**attempt, "statusReason": {"text": "Pas de réponse au poste 4512"}})
    assert "received" not in missed
    back = {**attempt, "statusReason": {"text": "Ligne occupée"}}
    case.hospital.create(back)
    assert case.task("regulate")["status"] == "on-hold"
    called = case.hospital.create(message("Créatinine 71", status="completed", medium=phone, basedOn=based))
    assert called["received"] == called["sent"]
    assert case.task("regulate")["status"] == "in-progress"
    assert len(thread(case, case.hospital)) == 4


def test_a_message_that_is_of_no_order_is_left_alone(api: Api) -> None:  # noqa: F811
    """A Communication of another kind is stored as sent."""
    body: Json = {"resourceType": "Communication", "status": "completed"}
    made = api.hospital_a.create(body)
    assert {name for name in made if name not in ("id", "meta")} == {"resourceType", "status"}
    assert api.hospital_a.delete(f"Communication/{made['id']}").status_code in (200, 204)


def test_questions_answers_and_messages_are_events(api: Api) -> None:  # noqa: F811
    """Topics question, answer, message: each fires once for what it is about."""
    case = Emergency.of(api)
    asked(case)
    (question,) = thread(case, case.hospital)
    reply = case.hospital.create(message("71", basedOn=[{"reference": case.order_ref}]))
    read = good(case.hospital.post(f"Communication/{question['id']}/$acknowledge", None))

    def fired(before: Json | None, after: Json) -> set[str]:
        named = (topics.QUESTION, topics.ANSWER, topics.MESSAGE)
        return {one.url for one in topics.TOPICS if one.url in named and one.fires(before, after)}

    assert fired(None, question) == {topics.QUESTION, topics.MESSAGE}
    assert fired(question, read) == {topics.MESSAGE}
    assert fired(None, reply) == {topics.ANSWER, topics.MESSAGE}
    assert fired(None, builders.patient()) == set()
