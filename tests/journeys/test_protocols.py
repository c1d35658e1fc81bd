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
