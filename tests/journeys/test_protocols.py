"""A protocol is given for one exam, out of a catalogue: another exam, another protocol.

R4 ServiceRequest.instantiatesCanonical, ActivityDefinition http://hl7.org/fhir/R4/activitydefinition.html
"""

from __future__ import annotations

import pytest

from resources.codes import SNOMED
from resources.json import Json
from tests import builders
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
from tests.journeys.test_questions import business, categories, thread

pytestmark = pytest.mark.parametrize("engine", ENGINES[:1], indirect=True)


def loinc(code: str) -> Json:
    return {"coding": [{"system": "http://loinc.org", "code": code}]}


CHEST = loinc("24627-2")


@pytest.mark.parametrize(
    "change",
    [
        {"code": CHEST},
        {"bodySite": [{"coding": [{"system": SNOMED, "code": "7771000"}]}]},
        {"orderDetail": [{"text": "Avec injection"}]},
        {"reasonCode": [{"text": "Suspicion d'embolie pulmonaire"}]},
    ],
)
def test_another_exam_withdraws_the_protocol(api: Api, change: Json) -> None:  # noqa: F811
    """The hospital changes what is to be done after the protocol: revoked, regulated anew, and both are told."""
    case = Emergency.of(api).accepted()
    (given,) = api.regulator.found(f"ServiceRequest?based-on={case.order_ref}")
    good(put(case.hospital, good(case.hospital.get(case.order_ref)), **change))
    protocol = good(case.hospital.get(f"ServiceRequest/{given['id']}"))
    assert protocol["status"] == "revoked"
    root = case.task("order", case.hospital)
    assert (root["status"], business(root), root.get("output")) == ("requested", "order-changed", None)
    assert case.task("acquire")["status"] == "cancelled"
    tasks = api.regulator.found(f"Task?focus={case.order_ref}&code=regulate&_sort=_lastUpdated")
    assert [one["status"] for one in tasks] == ["completed", "requested"]
    (told,) = thread(case, case.hospital)
    assert categories(told) == {"protocol-withdrawn"}
    assert {one["reference"] for one in told["recipient"]} == {"Organization/hopital-a", "Organization/platform"}
    # and again from the start
    task = good(api.regulator.post("Task/$next?function=regulation", None))
    assert task["id"] == tasks[1]["id"]
    anew = api.regulator.create(builders.protocol(case.order_ref, case.patient_ref))
    good(put(api.regulator, task, status="completed", output=builders.output(f"ServiceRequest/{anew['id']}")))
    root = case.task("order", case.hospital)
    assert (root["status"], business(root)) == ("accepted", None)
    acquire = api.platform.found(f"Task?focus={case.order_ref}&code=acquire&_sort=_lastUpdated")
    assert [one["status"] for one in acquire] == ["cancelled", "requested"]


def test_what_is_no_other_exam_leaves_the_protocol(api: Api) -> None:  # noqa: F811
    """A display, a note, a phone number: the protocol holds."""
    case = Emergency.of(api).accepted()
    order = good(case.hospital.get(case.order_ref))
    good(put(case.hospital, order, note=[{"text": "Poste 4512"}], code=loinc("24725-4")))
    assert case.task("order", case.hospital)["status"] == "accepted"
    assert case.task("acquire")["status"] == "requested"
    assert thread(case, case.hospital) == []


def test_a_regulator_who_looks_at_the_order_sees_that_it_changed(api: Api) -> None:  # noqa: F811
    """Before a protocol there is none to withdraw: the Task says so, and a decision on the former text is refused."""
    case = Emergency.of(api)
    task = good(put(api.regulator, case.task("regulate"), status="in-progress"))
    good(put(case.hospital, case.order, code=CHEST))
    assert business(case.task("regulate")) == "order-changed"
    assert put(api.regulator, task, status="requested").status_code == 412


def test_the_exam_is_not_changed_once_its_images_are_complete(api: Api) -> None:  # noqa: F811
    """409, with the way out; a note may still be added."""
    case = Emergency.of(api).acquired()
    order = good(case.hospital.get(case.order_ref))
    assert "Send a new order" in refusal(put(case.hospital, order, code=CHEST), 409)
    good(put(case.hospital, order, note=[{"text": "Poste 4512"}]))
    assert case.task("read")["status"] == "ready"


# The catalogue

STROKE = "https://vigie.example/ActivityDefinition/avc-scanner"
HEAD = "https://vigie.example/ActivityDefinition/crane-sans-injection"


def given(case: Emergency, *canonicals: str, **more: object) -> Json:
    """A protocol that names entries of the catalogue, as the regulator writes it."""
    named = list(canonicals)
    body = builders.protocol(case.order_ref, case.patient_ref, note=None, instantiatesCanonical=named, **more)
    return good(case.api.regulator.post("ServiceRequest", body), 201)


def refused(case: Emergency, *canonicals: str, **more: object) -> str:
    named = list(canonicals)
    body = builders.protocol(case.order_ref, case.patient_ref, note=None, instantiatesCanonical=named, **more)
    answer = case.api.regulator.post("ServiceRequest", body)
    assert answer.get_json()["issue"][0]["expression"] == ["ServiceRequest.instantiatesCanonical[0]"]
    return refusal(answer, 422)


def taken(api: Api) -> Emergency:  # noqa: F811
    case = Emergency.of(api)
    good(put(api.regulator, case.task("regulate"), status="in-progress"))
    return case


def test_the_catalogue_proposes_what_fits_the_order(api: Api) -> None:  # noqa: F811
    """By exam, the order's indication first, with the name at the hospital's scanner."""
    case = taken(api)
    entry = good(api.platform.get("ActivityDefinition/protocole-crane-sans-injection"))
    other = {name: value for name, value in entry.items() if name not in ("useContext", "extension")}
    other |= {"id": "crane-deux", "url": f"{HEAD}-deux", "title": "Autre"}
    good(api.platform.put("ActivityDefinition/crane-deux", other), 201)
    headache = {"coding": [{"system": SNOMED, "code": "25064002"}]}
    good(put(case.hospital, good(case.hospital.get(case.order_ref)), reasonCode=[headache]))
    found = [
        {part["name"]: next(value for name, value in part.items() if name != "name") for part in one["part"]}
        for one in good(api.regulator.get(f"{case.order_ref}/$protocols"))["parameter"]
    ]
    assert [one["definition"] for one in found] == [f"{HEAD}|1.0", f"{HEAD}-deux|1.0"]
    assert [one["for-indication"] for one in found] == [True, False]
    assert (found[0]["scanner"], found[1].get("scanner")) == ("CRANE_SS_IV", None)
    refusal(api.hospital_b.get(f"{case.order_ref}/$protocols"), 404)


def test_a_chosen_protocol_is_pinned_to_its_version_and_named_as_the_scanner_does(api: Api) -> None:  # noqa: F811
    case = taken(api)
    protocol = given(case, HEAD)
    assert protocol["instantiatesCanonical"] == [f"{HEAD}|1.0"]
    assert protocol["orderDetail"] == [{"text": "Protocole du scanner : CRANE_SS_IV"}]
    output = builders.output(f"ServiceRequest/{protocol['id']}")
    good(put(api.regulator, case.task("regulate"), status="completed", output=output))
    assert good(case.hospital.get(f"ServiceRequest/{protocol['id']}"))["instantiatesCanonical"] == [f"{HEAD}|1.0"]


def test_a_new_version_is_given_and_the_old_one_kept(api: Api) -> None:  # noqa: F811
    """What is published is not rewritten: retired, and the next version is another resource; what was given stays."""
    case = taken(api)
    before = given(case, HEAD)
    entry = good(api.platform.get("ActivityDefinition/protocole-crane-sans-injection"))
    assert "next version" in refusal(put(api.platform, entry, description="Autrement"), 422)
    refusal(api.platform.delete("ActivityDefinition/protocole-crane-sans-injection"), 422)
    newer = {**entry, "id": "crane-1.10", "version": "1.10", "description": "Autrement"}
    assert "already" in refusal(api.platform.put("ActivityDefinition/crane-1.10", {**newer, "version": "1.0"}), 409)
    good(api.platform.put("ActivityDefinition/crane-1.10", newer), 201)
    good(api.platform.put("ActivityDefinition/crane-1.9", {**newer, "id": "crane-1.9", "version": "1.9"}), 201)
    assert given(case, HEAD)["instantiatesCanonical"] == [f"{HEAD}|1.10"]
    assert given(case, f"{HEAD}|1.0")["instantiatesCanonical"] == [f"{HEAD}|1.0"]
    good(put(api.platform, entry, status="retired"))
    assert "not in force" in refused(case, f"{HEAD}|1.0")
    assert good(case.hospital.get(f"ServiceRequest/{before['id']}"))["instantiatesCanonical"] == [f"{HEAD}|1.0"]


def test_what_is_unknown_or_for_another_exam_is_refused(api: Api) -> None:  # noqa: F811
    case = taken(api)
    assert "no such protocol" in refused(case, "https://elsewhere.example/protocol|1")
    assert "no such protocol" in refused(case, f"{HEAD}|7")
    assert "another exam" in refused(case, STROKE)
    given(case, STROKE, code=loinc("90352-6"))  # the regulator's order is for another exam: that is his to decide
    draft = {**good(api.platform.get("ActivityDefinition/protocole-crane-sans-injection")), "id": "brouillon"}
    good(api.platform.put("ActivityDefinition/brouillon", {**draft, "url": f"{HEAD}-b", "status": "draft"}), 201)
    assert "not in force" in refused(case, f"{HEAD}-b")


def test_the_catalogue_is_the_platforms(api: Api) -> None:  # noqa: F811
    """A hospital reads it, and keeps definitions of its own beside it: they are no protocols to give."""
    case = taken(api)
    entry = good(api.hospital_a.get("ActivityDefinition/protocole-crane-sans-injection"))
    refusal(put(api.hospital_a, entry, title="Le nôtre"), 403)
    refusal(api.hospital_a.post("ActivityDefinition", {**entry, "url": f"{HEAD}-x"}), 403)
    own = {"resourceType": "ActivityDefinition", "status": "active", "url": "https://a.example/p", "version": "1"}
    good(api.hospital_a.post("ActivityDefinition", own), 201)
    assert "no such protocol" in refused(case, "https://a.example/p")
    incomplete = {name: value for name, value in entry.items() if name not in ("version", "code")}
    assert "has a version" in refusal(api.platform.post("ActivityDefinition", {**incomplete, "url": f"{HEAD}-y"}), 422)
